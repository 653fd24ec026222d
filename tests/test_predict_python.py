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
from dexml.index import exact_search
from dexml.predict import Opened, Predictor, open_run
from dexml.run import Run
from dexml.scorers import Queries
from dexml.scorers.dense import read_residual, trained_vectors


@pytest.fixture(scope="module")
def opened(run_dir: Path) -> Opened:
    return open_run(run_dir, search="exact", threads=1)


@pytest.fixture(scope="module")
def predictor(opened: Opened) -> Predictor:
    """Never edited."""
    return Predictor(opened)


@pytest.fixture
def fresh(opened: Opened) -> Predictor:
    """To be edited; it shares the encoder with `predictor`, whose edits it never sees."""
    return Predictor(opened)


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
    encoder, tokens = fresh.dense.embedder.encoder, fresh.dense.settings["label_tokens"]
    (new,) = fresh.add_labels(["mail theme c"])
    assert new == 64
    expected = encoder.encode(["mail theme c"], max_tokens=tokens)[0]
    vectors = fresh.dense.index.vectors
    np.testing.assert_allclose(vectors[64, :-1], expected, atol=1e-6)
    # Label 5 has no training point (see small.py): it shows the bias of an unseen label.
    trained = trained_vectors(Run.open(run_dir).state)
    assert vectors[64, -1] == trained[5, -1] == np.float32(fresh.dense.settings["unseen_bias"])
    assert new in fresh.predict(["mail theme c"], 3).ids
    assert fresh.labels(np.array([[64]]))[0] == ["mail theme c"]


def test_an_unseen_label_added_again_ties_with_itself(fresh: Predictor) -> None:
    (new,) = fresh.add_labels([fresh.label_texts[5]])
    vectors = fresh.dense.index.vectors
    np.testing.assert_allclose(vectors[new], vectors[5], atol=1e-6)


def test_an_updated_label_keeps_what_training_learned(fresh: Predictor) -> None:
    encoder, run = fresh.dense.embedder.encoder, fresh.run
    before = fresh.dense.index.vectors[[7, 8]]
    fresh.update_labels([7], [fresh.label_texts[7]])
    np.testing.assert_allclose(fresh.dense.index.vectors[[7, 8]], before, atol=1e-6)
    fresh.update_labels([7], ["mail theme c"])
    assert fresh.label_texts[7] == "mail theme c"
    residual = read_residual(run.state, 64, 16)[7]
    with torch.inference_mode():
        tokens = encoder.tokenize(["mail theme c"], 64)
        ids = tokens.tensor(np.array([0]), torch.device("cpu"))
        head = encoder.head(encoder.features(ids))[0].numpy()
    expected = (head + residual) / np.linalg.norm(head + residual)
    after = fresh.dense.index.vectors[[7, 8]]
    np.testing.assert_allclose(after[0, :-1], expected, atol=1e-6)
    assert after[0, -1] == before[0, -1]
    np.testing.assert_array_equal(after[1], before[1])
    (new,) = fresh.add_labels(["font"])
    fresh.update_labels([new], ["font parser b"])  # it has no residual
    (twin,) = fresh.add_labels(["font parser b"])
    vectors = fresh.dense.index.vectors
    np.testing.assert_array_equal(vectors[new], vectors[twin])


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


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_a_group_is_answered_as_a_sort_of_its_labels(
    run_dir: Path, predictor: Predictor, texts: list[str], search: Any
) -> None:
    asked = Predictor.open(run_dir, search=search, threads=1)
    group = np.sort(np.random.default_rng(0).choice(64, 15, replace=False))
    pairs = csr_array((np.random.default_rng(1).random((len(texts), 64)) < 0.2).astype(np.float32))
    ids, scores = asked.predict(texts, 20, only=group, exclude=pairs)
    dense = predictor.dense
    every = exact_search(dense.vectors(Queries(texts)), dense.index.vectors, 64, exclude=pairs)
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
        ({"a": "b"}, TypeError, r"texts is dict; give a list of strings"),
        (np.array([["a", "b"]]), TypeError, r"texts is ndarray, a table; give one column"),
        (["a", "b\ud800"], ValueError, r"texts\[1\]: not valid Unicode at character 1 \('\\ud800'"),
    ],
)
def test_anything_but_texts_is_refused(
    predictor: Predictor, given: Any, error: type[Exception], message: str
) -> None:
    for call in (predictor.predict, predictor.add_labels):
        with pytest.raises(error, match=message):
            call(given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["a", ""], ValueError, r"texts\[1\]: empty; a label needs a text"),
        ([" \t\u2003"], ValueError, r"texts\[0\]: empty"),
        (["a", "b\nc"], ValueError, r"texts\[1\]: holds a line break; a label is one line"),
        (["a", None], TypeError, r"texts\[1\] is NoneType; expected a string"),
        ("a", (TypeError, ValueError), "single string|one string"),
        (["a\ud800"], ValueError, r"texts\[0\]: not valid Unicode at character 1"),
    ],
)
def test_label_texts_are_checked_as_the_command_does(
    fresh: Predictor, given: Any, error: Any, message: str
) -> None:
    ids = np.arange(len(given))
    for call in (
        lambda: fresh.add_labels(given),
        lambda: fresh.update_labels(ids, given),
        lambda: fresh.label_set.added(given),
        lambda: fresh.label_set.updated(ids, given),
    ):
        with pytest.raises(error, match=message):
            call()
    assert fresh.label_set.edits == 0


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
        (
            lambda p: p.predict(["x"], exclude=csr_array((2, 64))),
            ValueError,
            r"exclude: shape \(2, 64\), but texts and labels have \(1, 64\)",
        ),
        (lambda p: p.labels([1, 2]), ValueError, r"ids: shape \(2,\); expected \(n, k\)"),
        (lambda p: p.labels([[1, 64]]), ValueError, r"ids\[0\]: label 64 out of range"),
        (lambda p: p.open(p.run.folder, threads=0), ValueError, "threads = 0; expected at least"),
        (lambda p: p.update_labels([1, 2], ["x"]), ValueError, "2 ids and 1 texts"),
        (lambda p: p.update_labels([64], ["x"]), ValueError, "ids: label 64 out of range"),
        (lambda p: p.remove_labels([-1]), ValueError, "ids: label -1 out of range"),
        (lambda p: p.remove_labels(["a"]), ValueError, "expected label ids"),
        (lambda p: p.remove_labels([1, None]), ValueError, r"ids: holds None .*\(position 1\)"),
        (lambda p: p.remove_labels(None), ValueError, "ids: holds None of type NoneType"),
        (lambda p: p.remove_labels([1, 2**64]), ValueError, "label 18446744073709551616 out of"),
        (lambda p: p.remove_labels([1, 2**63]), ValueError, "label 9223372036854775808 out of"),
        (lambda p: p.remove_labels([[1], [2, 3]]), ValueError, "ids: rows of different lengths"),
        (lambda p: p.remove_labels([[1, 2]]), ValueError, "ids: 2 dimensions"),
        (lambda p: p.remove_labels(np.ma.masked_array([1, 2])), ValueError, "ids: a masked array"),
        (lambda p: p.remove_labels([1.0]), ValueError, "ids: holds 1.0 of type float"),
        (lambda p: p.update_labels([None], ["x"]), ValueError, "ids: holds None"),
        (lambda p: p.update_labels([2**64], ["x"]), ValueError, "label 18446744073709551616 out"),
        (lambda p: p.update_labels([1], {"x": "y"}), TypeError, "texts is dict; give a list"),
        (lambda p: p.labels([[1, None]]), ValueError, r"ids\[0\]: holds None"),
        (lambda p: p.labels([[1], [2, 3]]), ValueError, "ids: rows of different lengths"),
        (lambda p: p.labels([[1, -2]]), ValueError, r"ids\[0\]: label -2 out of range"),
        (lambda p: p.predict(["x"], only=[1, None]), ValueError, "only: holds None"),
        (lambda p: p.predict(["x"], only=[2**64]), ValueError, "only: label 184467"),
        (lambda p: p.predict(["x"], only=[[1], [2, 3]]), ValueError, "only: rows of different"),
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


def test_more_labels_than_there_are_take_no_memory(predictor: Predictor) -> None:
    ids, scores = predictor.predict(["kernel", "mail"], 10**9)
    assert ids.shape == scores.shape == (2, 1000)
    np.testing.assert_array_equal(ids[:, :64], predictor.predict(["kernel", "mail"], 64).ids)
    assert (ids[:, 64:] == -1).all()
    assert predictor.predict(["kernel"], 100).ids.shape == (1, 100)  # as R@100 wants it
    assert len(predictor.explain_best("kernel", 10**9)) == 64


def test_progress_counts_every_text(predictor: Predictor, texts: list[str]) -> None:
    counts: list[int] = []
    predictor.predict(texts, 2, on_progress=counts.append)
    assert sum(counts) == len(texts)


def test_progress_counts_every_label_that_is_encoded(fresh: Predictor) -> None:
    counts: list[int] = []
    fresh.add_labels(["kernel", "mail"], on_progress=counts.append)
    fresh.update_labels([3, 5, 7], ["kernel", "mail", "font"], on_progress=counts.append)
    assert sum(counts) == 5


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_label_vectors_are_mapped_and_not_loaded(run_dir: Path, search: Any) -> None:
    vectors = Predictor.open(run_dir, search=search).dense.index.vectors
    assert not vectors.flags.writeable
    held: Any = vectors
    while not isinstance(held, np.memmap):
        held = held.base
        assert held is not None


def test_bfloat16_is_near_float32(run_dir: Path, predictor: Predictor, texts: list[str]) -> None:
    half = Predictor.open(run_dir, precision="bfloat16", threads=1)
    _, scores = half.predict(texts, 64)
    _, exact = predictor.predict(texts, 64)
    assert half.dense.embedder.precision == "bfloat16"
    assert predictor.dense.embedder.precision == "float32"
    assert not np.array_equal(scores, exact)
    np.testing.assert_allclose(scores[:, 0], exact[:, 0], atol=0.05)
