"""Texts that are near copies, which a training holds out together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dexml.data import save_dataset
from dexml.text.lexical import (
    LexicalIndex,
    VectorizerSettings,
    copies,
    fit_vectorizer,
    near_copies,
)
from dexml.train.inputs import copies_as_groups, load_data
from small import train_settings


def twin(texts: list[str], at_least: float) -> NDArray[np.int64]:
    """Groups by all cosines, for fewer than 11 texts: join until nothing changes."""
    rows = fit_vectorizer(texts).rows(texts).toarray()
    near = rows @ rows.T >= at_least
    first = np.arange(len(texts))
    for _ in texts:
        for i, row in enumerate(near):
            first[i] = min([first[i], *first[row]])
            first[row] = np.minimum(first[row], first[i])
    return first


words = st.lists(
    st.sampled_from(["kernel", "driver", "printer", "music", "player", "mail"]), max_size=5
)


@given(st.lists(words.map(" ".join), min_size=2, max_size=10), st.sampled_from([0.31, 0.52, 0.83]))
def test_groups_are_those_of_all_cosines(texts: list[str], at_least: float) -> None:
    np.testing.assert_array_equal(near_copies(texts, at_least=at_least), twin(texts, at_least))


@pytest.mark.parametrize(("looked_at", "block"), [(11, 10_000), (50, 10_000), (50, 97)])
@pytest.mark.parametrize("at_least", [0.3, 0.5, 0.9])
def test_nearest_of_many_are_those_of_a_full_search(
    at_least: float, looked_at: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Common and rare words, sources of few packages, and one of more than are looked at."""
    monkeypatch.setattr(copies, "LOOKED_AT", looked_at)
    monkeypatch.setattr(copies, "BLOCK", block)
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(500)]
    common = 1 / np.arange(1, 501)
    drawn = [rng.choice(words, 20, p=common / common.sum()) for _ in range(120)]
    sources = [0] * 100 + [i % 120 for i in range(400)]
    texts = [
        " ".join([*drawn[i][: rng.integers(8, 21)], f"v{n % 7}"]) for n, i in enumerate(sources)
    ]
    rows = fit_vectorizer([*texts, "alone in the world", ""]).rows([*texts, "alone", ""])
    ids, scores = copies._nearest(rows, 11, at_least, None)
    expected, cosines = LexicalIndex(rows).search(rows, 11)
    near = cosines >= at_least
    assert 50 < near.sum() < near.size - 50
    np.testing.assert_array_equal(ids[near], expected[near])
    np.testing.assert_array_equal(scores[near], cosines[near])
    assert (scores[~near] < at_least).all()


def test_texts_without_words_have_no_copies() -> None:
    assert near_copies(["", "", "!"]).tolist() == [0, 1, 2]
    assert near_copies([]).tolist() == []
    assert near_copies(["kernel"]).tolist() == [0]


def test_cosines_need_rows_of_unit_length() -> None:
    with pytest.raises(ValueError, match="unit is False"):
        near_copies(["kernel", "driver"], settings=VectorizerSettings(unit=False))


def test_threads_change_nothing() -> None:
    texts = [f"package {i // 3} of the kernel version {i}" for i in range(300)]
    one, two = (near_copies(texts, num_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_a_chain_through_all_texts_is_no_group() -> None:
    """Each text shares half of its words with the next one."""
    texts = [f"a{i} a{i + 1} a{i + 2}" for i in range(200)]
    assert near_copies(texts, at_least=0.3).tolist() == list(range(200))


def rng_texts(n: int) -> list[str]:
    """Sources of three packages each, whose texts differ in a word."""
    words = [f"w{i}" for i in range(300)]
    rng = np.random.default_rng(0)
    sources = [" ".join(rng.choice(words, 12)) for _ in range(n // 3)]
    return [f"{text} {kind}" for text in sources for kind in ("library", "headers", "tools")]


def test_near_copies_are_held_out_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = rng_texts(300)
    save_dataset(tmp_path / "d", ["one", "two"], train=(texts, [[i % 2] for i in range(300)]))
    settings = train_settings(tmp_path / "d", Path("none"), tmp_path / "run", quiet=False)
    given = load_data(settings)
    assert "300 points in 100 groups of near copies" in capsys.readouterr().err
    held = given.held_out.reshape(100, 3)
    assert (held.all(axis=1) == held.any(axis=1)).all()
    assert 0 < held.sum() < 150
    apart = load_data(settings.model_copy(update={"groups": "file"}))
    assert apart.part.groups is None
    held = apart.held_out.reshape(100, 3)
    assert (held.all(axis=1) != held.any(axis=1)).any()


def test_groups_of_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    texts, y = rng_texts(300), [[i % 2] for i in range(300)]
    save_dataset(tmp_path / "d", ["one", "two"], train=(texts, y))
    names = [f"g{i % 50}" for i in range(300)]
    (tmp_path / "d" / "raw" / "trn_groups.txt").write_text("\n".join(names) + "\n")
    given = load_data(train_settings(tmp_path / "d", Path("none"), tmp_path / "run"))
    assert given.part.groups == names


def test_a_few_copies_are_left_apart() -> None:
    texts = [f"w{i} v{i} u{i}" for i in range(100)]
    assert copies_as_groups([*texts, texts[0] + " more"]) is None
    assert copies_as_groups(texts[:1]) is None
