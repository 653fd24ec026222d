"""A run opened from Python: threads, label groups, edits of the labels, odd texts."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from dexml import data
from dexml.index import LabelIndex, exact_search
from dexml.predict import Predictor
from dexml.run.folder import Run


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    return Predictor.open(run_dir, threads=1)


@pytest.fixture
def fresh(predictor: Predictor) -> Predictor:
    """To be edited."""
    index = LabelIndex.build(predictor.vectors, texts=predictor.label_texts, search="exact")
    return Predictor(predictor.run, predictor.encoder, index)


@pytest.fixture(scope="module")
def texts(tiny_data: Path) -> list[str]:
    return data.load_dataset(tiny_data).test_texts


def test_an_answer_names_its_parts(predictor: Predictor, texts: list[str]) -> None:
    found = predictor.predict(texts[:3], k=4)
    ids, scores = found
    assert found.ids is ids
    assert ids.dtype == np.int32
    assert scores.dtype == np.float32
    assert predictor.labels(ids) == [[predictor.label_texts[i] for i in row] for row in ids]


def test_labels_leaves_padding_out(predictor: Predictor) -> None:
    ids = predictor.predict(["game theme"], k=5, only=[3, 9]).ids
    assert (ids[0, 2:] == -1).all()
    assert len(predictor.labels(ids)[0]) == 2


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_many_threads_answer_as_one(run_dir: Path, texts: list[str], search: Any) -> None:
    """Calls of different k and length at once, each bit for bit as it is alone."""
    predictor = Predictor.open(run_dir, search=search, threads=1)
    calls = [(texts[i : i + 1 + i % 7], 1 + i % 20) for i in range(60)]
    alone = [predictor.predict(*call) for call in calls]
    start = threading.Barrier(8)

    def ask(shift: int) -> None:
        start.wait()
        for i in range(len(calls)):
            at = (i + shift * 7) % len(calls)
            found = predictor.predict(*calls[at])
            np.testing.assert_array_equal(found.ids, alone[at].ids)
            np.testing.assert_array_equal(found.scores, alone[at].scores)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(ask, shift) for shift in range(8)]:
            done.result()


def test_threads_that_ask_while_labels_change(fresh: Predictor) -> None:
    """An answer is that of before or after an edit, and a removed label never comes back."""
    text, old_texts = "kernel driver", list(fresh.label_texts)
    stop = threading.Event()
    removed: set[int] = set()

    def ask() -> int:
        count = 0
        while not stop.is_set() or count == 0:
            gone = set(removed)
            ids, scores = fresh.predict([text], 20)
            assert (ids >= 0).all()
            assert len(set(ids[0].tolist())) == 20
            assert not gone & set(ids[0].tolist())
            assert (np.diff(scores[0]) <= 0).all()
            assert all(fresh.labels(ids)[0])
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for round_ in range(10):
                new = fresh.add_labels([f"kernel {round_}", f"driver {round_}"])
                assert new.tolist() == [64 + 2 * round_, 65 + 2 * round_]
                fresh.remove_labels(new[:1])
                removed.add(int(new[0]))
        finally:
            stop.set()
        assert all(done.result() for done in asking)
    assert fresh.label_texts[:64] == old_texts
    assert fresh.n_labels == 84


def test_a_new_label_is_its_text_with_an_unseen_bias(fresh: Predictor, run_dir: Path) -> None:
    encoder, run = fresh.encoder, Run.open(run_dir)
    (new,) = fresh.add_labels(["mail theme c"])
    assert new == 64
    expected = encoder.encode(["mail theme c"], max_tokens=run.info["label_tokens"])[0]
    np.testing.assert_allclose(fresh.vectors[64, :-1], expected, atol=1e-6)
    # Label 5 has no training point (see small.py): it shows the bias of an unseen label.
    assert fresh.vectors[64, -1] == run.load_array("label_emb")[5, -1]
    assert new in fresh.predict(["mail theme c"], 3).ids
    assert fresh.labels(np.array([[64]]))[0] == ["mail theme c"]


def test_an_unseen_label_added_again_ties_with_itself(fresh: Predictor) -> None:
    (new,) = fresh.add_labels([fresh.label_texts[5]])
    np.testing.assert_allclose(fresh.vectors[new], fresh.vectors[5], atol=1e-6)


def test_an_updated_label_keeps_what_training_learned(fresh: Predictor) -> None:
    before = fresh.vectors[[7, 8]].copy()
    fresh.update_labels([7], [fresh.label_texts[7]])
    np.testing.assert_allclose(fresh.vectors[[7, 8]], before, atol=1e-6)
    fresh.update_labels([7], ["mail theme c"])
    assert fresh.label_texts[7] == "mail theme c"
    residual = fresh.run.residual()[7]
    with torch.inference_mode():
        tokens = fresh.encoder.tokenize(["mail theme c"], 64)
        ids = tokens.tensor(np.array([0]), torch.device("cpu"))
        head = fresh.encoder.head(fresh.encoder.features(ids))[0].numpy()
    expected = (head + residual) / np.linalg.norm(head + residual)
    np.testing.assert_allclose(fresh.vectors[7, :-1], expected, atol=1e-6)
    assert fresh.vectors[7, -1] == before[0, -1]
    np.testing.assert_array_equal(fresh.vectors[8], before[1])
    (new,) = fresh.add_labels(["font"])
    fresh.update_labels([new], ["font parser b"])  # it has no residual
    (twin,) = fresh.add_labels(["font parser b"])
    np.testing.assert_array_equal(fresh.vectors[new], fresh.vectors[twin])


def test_removed_labels_leave_every_answer(fresh: Predictor, texts: list[str]) -> None:
    best = fresh.predict(texts, 1).ids[:, 0]
    gone = np.unique(best)[:20]
    fresh.remove_labels(gone)
    ids, _ = fresh.predict(texts, 64)
    assert not np.isin(ids, gone).any()
    assert ((ids >= 0).sum(axis=1) == 44).all()
    assert not np.isin(fresh.predict(texts, 64, only=gone).ids, gone).any()
    with pytest.raises(ValueError, match=f"label {gone[0]} was removed before"):
        fresh.remove_labels(gone[:1])


def test_the_bias_of_unseen_labels_where_there_are_none(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Run.open(run_dir)
    told = {name: value for name, value in opened.info.items() if name != "unseen_bias"}
    run = Run(opened.folder, told)  # as older runs are
    assert run.unseen_bias() == pytest.approx(opened.unseen_bias())  # by the unseen label it has
    served = np.sort(run.load_array("label_emb")[:, -1])
    monkeypatch.setattr(Run, "residual", lambda self: np.ones((64, 16), np.float32))
    assert run.unseen_bias() == pytest.approx(served[:6].mean())
    said = Run(run.folder, run.info | {"unseen_bias": -0.25})
    assert said.unseen_bias() == -0.25


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_a_group_is_answered_as_a_sort_of_its_labels(
    run_dir: Path, predictor: Predictor, texts: list[str], search: Any
) -> None:
    asked = Predictor.open(run_dir, search=search, threads=1)
    group = np.sort(np.random.default_rng(0).choice(64, 15, replace=False))
    pairs = csr_array((np.random.default_rng(1).random((len(texts), 64)) < 0.2).astype(np.float32))
    ids, scores = asked.predict(texts, 20, only=group, exclude=pairs)
    every = exact_search(predictor._encode(texts, 64, None), predictor.vectors, 64, exclude=pairs)
    for row in range(len(texts)):
        kept = np.isin(every[0][row], group)
        n = int(kept.sum())
        np.testing.assert_array_equal(ids[row, :n], every[0][row][kept])
        np.testing.assert_allclose(scores[row, :n], every[1][row][kept], atol=1e-6)
        assert (ids[row, n:] == -1).all()
    mask = np.isin(np.arange(64), group)
    np.testing.assert_array_equal(asked.predict(texts, 20, only=mask, exclude=pairs).ids, ids)
    same = asked.predict(texts, 20, only=set(group.tolist()), exclude=pairs).ids
    np.testing.assert_array_equal(same, ids)
    assert (asked.predict(texts, 3, only=[]).ids == -1).all()


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ([64], r"only: label 64 out of range \(n_labels = 64\)"),
        ([-1], "only: label -1 out of range"),
        (np.ones(63, bool), r"only: a mask of shape \(63,\) for 64 labels"),
        ([0.5], "only: holds 0.5 of type float; expected label ids"),
    ],
)
def test_a_wrong_group_is_refused(predictor: Predictor, only: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(["x"], only=only)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("one text", TypeError, r"texts is a single string; give a list, \[text\]"),
        (b"bytes", TypeError, "texts is a single string"),
        (None, TypeError, "texts is None"),
        (["a", None], TypeError, r"texts\[1\] is NoneType; expected a string"),
        ([3], TypeError, r"texts\[0\] is int"),
        (["a", "b\ud800"], ValueError, r"texts\[1\]: not valid Unicode at character 1 \('\\ud800'"),
    ],
)
def test_what_is_no_text_is_named(
    predictor: Predictor, given: Any, error: type[Exception], message: str
) -> None:
    for call in (predictor.predict, predictor.add_labels):
        with pytest.raises(error, match=message):
            call(given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["a", ""], ValueError, r"texts\[1\]: empty; a label has a text"),
        ([" \t\u2003"], ValueError, r"texts\[0\]: empty"),
        (["a", "b\nc"], ValueError, r"texts\[1\]: holds a line break; a label is one line"),
        (["a", None], TypeError, r"texts\[1\] is NoneType; expected a string"),
        ("a", (TypeError, ValueError), "single string|one string"),
        (["a\ud800"], ValueError, r"texts\[0\]: not valid Unicode at character 1"),
    ],
)
def test_what_is_no_label_is_refused_as_the_command_does(
    fresh: Predictor, given: Any, error: Any, message: str
) -> None:
    vectors = np.ones((len(given), 17), np.float32)
    ids = list(range(len(given)))
    for call in (
        lambda: fresh.add_labels(given),
        lambda: fresh.update_labels(ids, given),
        lambda: fresh.index.add_labels(given, vectors),
        lambda: fresh.index.update_labels(ids, given, vectors),
    ):
        with pytest.raises(error, match=message):
            call()
    assert fresh.index.manifest.edits == 0


def test_texts_of_labels_are_stripped_as_the_command_does(fresh: Predictor) -> None:
    fresh.add_labels(["  mail theme\n"])
    fresh.update_labels([3], ["game theme \t"])
    assert (fresh.label_texts[64], fresh.label_texts[3]) == ("mail theme", "game theme")


def test_odd_texts_are_answered(predictor: Predictor) -> None:
    odd = ["", " ", "\0", "日本語 😀", "kernel " * 200_000, "x" * 300_000, "a\nb"]
    ids, scores = predictor.predict(odd, 4)
    assert (ids >= 0).all()
    assert np.isfinite(scores).all()
    cut = predictor.predict(["kernel " * 1000], 4)
    np.testing.assert_array_equal(ids[4], cut.ids[0])
    assert predictor.predict([], 4).ids.shape == (0, 4)
    assert predictor.predict(iter(["kernel"]), 4).ids.shape == (1, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.predict(["x"], 0), ValueError, "k = 0; expected at least 1"),
        (lambda p: p.predict(["x"], 1.5), TypeError, "k is float; expected a whole number"),
        (lambda p: p.predict(["x"], "3"), TypeError, "k is str; expected a whole number"),
        (lambda p: p.predict(5), TypeError, "texts is int; give a list of strings"),
        (lambda p: p.predict({"x"}), TypeError, "texts is set; give a list of strings"),
        (
            lambda p: p.predict(["x"], exclude=[[1]]),
            TypeError,
            r"exclude is list; give csr_array, shape \(1, 64\)",
        ),
        (lambda p: p.labels([1, 2]), ValueError, r"ids: shape \(2,\); expected \(n, k\)"),
        (lambda p: p.labels([[1, 64]]), ValueError, "ids: label 64 out of range"),
        (lambda p: p.open(p.run.folder, threads=0), ValueError, "threads = 0; expected at least"),
        (lambda p: p.update_labels([1, 2], ["x"]), ValueError, "2 ids and 1 texts"),
        (lambda p: p.update_labels([64], ["x"]), ValueError, "ids: label 64 out of range"),
        (lambda p: p.remove_labels([-1]), ValueError, "ids: label -1 out of range"),
        (lambda p: p.remove_labels(["a"]), ValueError, "expected label ids"),
        (lambda p: p.open(p.run.folder, search="fast"), ValueError, "search = 'fast'"),
        (
            lambda p: p.open(p.run.folder, precision="int8"),
            ValueError,
            "precision = 'int8'",
        ),
    ],
)
def test_wrong_arguments(fresh: Predictor, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(fresh)


def test_progress_counts_every_text(predictor: Predictor, texts: list[str]) -> None:
    told: list[int] = []
    predictor.predict(texts, 2, told=told.append)
    assert sum(told) == len(texts)


def test_a_memory_has_the_last_word(predictor: Predictor, texts: list[str]) -> None:
    class Memory:
        def mix(
            self,
            queries: Any,
            found: Any,
            label_vectors: Any,
            k: int,
            *,
            exclude: Any = None,
            only: Any = None,
        ) -> Any:
            assert queries.shape == (2, 17)
            assert (queries[:, -1] == 1).all()
            assert label_vectors is predictor.vectors
            assert exclude is only is None
            return found[0][:, ::-1], found[1][:, ::-1]

    memory: Any = Memory()
    mixed = Predictor(predictor.run, predictor.encoder, predictor.index, memory=memory)
    np.testing.assert_array_equal(
        mixed.predict(texts[:2], 5).ids, predictor.predict(texts[:2], 5).ids[:, ::-1]
    )


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_label_vectors_are_mapped_and_not_loaded(run_dir: Path, search: Any) -> None:
    vectors = Predictor.open(run_dir, search=search).vectors
    assert not vectors.flags.writeable
    held: Any = vectors
    while not isinstance(held, np.memmap):
        held = held.base
        assert held is not None


def test_bfloat16_is_near_float32(run_dir: Path, predictor: Predictor, texts: list[str]) -> None:
    half = Predictor.open(run_dir, precision="bfloat16", threads=1)
    _, scores = half.predict(texts, 64)
    _, exact = predictor.predict(texts, 64)
    assert half.precision == "bfloat16"
    assert predictor.precision == "float32"
    assert not np.array_equal(scores, exact)
    np.testing.assert_allclose(scores[:, 0], exact[:, 0], atol=0.05)
