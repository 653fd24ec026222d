"""The border between Python and Rust: golden cases, errors, threads, forks, stubs."""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference
from dexml import _rust

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden.json").read_text())
THREADS = [1, 2, 7]

Csr = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


def csr(rows: list[dict[int, float]]) -> Csr:
    """Entries in the order of each dict."""
    indptr = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    indices = np.array([label for row in rows for label in row], np.int32)
    data = np.array([value for row in rows for value in row.values()], np.float32)
    return indptr, indices, data


def padded(rankings: list[list[int]], width: int) -> NDArray[np.int32]:
    ids = np.full((len(rankings), width), -1, np.int32)
    for row, ranking in zip(ids, rankings, strict=True):
        row[: len(ranking)] = ranking
    return ids


def weights() -> NDArray[np.float64]:
    counts = np.array(GOLDEN["train_counts"], np.int64)
    return _rust.inv_propensity(counts, GOLDEN["n_train"], GOLDEN["a"], GOLDEN["b"])


Y_TRUE = csr([{0: 1, 3: 1, 5: 1}, {1: 1}, {0: 1, 2: 1, 4: 1, 5: 1, 6: 1, 7: 1}, {1: 1, 6: 1}])
IDS = padded([[5, 1, 0, 2, 3], [0, 1, 2, 3, 4], [7, 0, 1, 3, 2], [0, 2, 3, 4, 6]], 5)


def golden_inputs(case: dict[str, Any]) -> tuple[Csr, Csr, list[list[int]], Any]:
    y_true = csr([dict(row) for row in case["truth"]])
    if "rankings" in case:
        scores = [{label: -float(r) for r, label in enumerate(row)} for row in case["rankings"]]
    else:
        scores = [dict(row) for row in case["scores"]]
    pairs: list[dict[int, float]] = [{} for _ in scores]
    for row, label in case["exclude"]:
        pairs[row][label] = 1.0
    exclude = csr(pairs)[:2] if case["exclude"] else None
    return y_true, csr(scores), [reference.rank(row) for row in scores], exclude


@pytest.mark.parametrize("num_threads", THREADS)
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
@pytest.mark.parametrize("psndcg", ["xclib", "matlab"])
def test_golden_cases(case: dict[str, Any], psndcg: str, num_threads: int) -> None:
    y_true, scores, rankings, exclude = golden_inputs(case)
    ids = padded(rankings, GOLDEN["k"])
    expected = case["expected" if psndcg == "xclib" else "expected_matlab"]

    def evaluator() -> _rust.Evaluator:
        return _rust.Evaluator(
            GOLDEN["n_labels"],
            ["P@5", *expected],
            inv_propensity=weights(),
            empty_rows=case["empty_rows"],
            psndcg=psndcg,
            num_threads=num_threads,
        )

    evaluators = [evaluator() for _ in range(4)]
    evaluators[0].update_ids(y_true, ids, exclude)
    evaluators[1].update_ids(y_true, ids.astype(np.int64), exclude)
    evaluators[2].update_csr(y_true, scores, exclude)
    evaluators[3].update_csr(y_true, (*scores[:2], scores[2].astype(np.float64)), exclude)
    for name, value in expected.items():
        for filled in evaluators:
            assert filled.value(name) == pytest.approx(value, abs=GOLDEN["tolerance"]), name


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_the_twin_meets_the_golden_cases(case: dict[str, Any]) -> None:
    _, _, rankings, _ = golden_inputs(case)
    excluded = {(row, label) for row, label in case["exclude"]}
    rankings = [
        [label for label in ranking if (row, label) not in excluded]
        for row, ranking in enumerate(rankings)
    ]
    y_true = [dict(row) for row in case["truth"]]
    for psndcg, expected in (("xclib", case["expected"]), ("matlab", case["expected_matlab"])):
        values = reference.evaluate(
            y_true, rankings, list(expected), list(weights()), case["empty_rows"], psndcg
        )
        assert values == pytest.approx(expected, abs=GOLDEN["tolerance"])


@pytest.mark.parametrize("entry", GOLDEN["inv_propensity"])
def test_golden_inverse_propensities(entry: dict[str, Any]) -> None:
    counts = np.array(GOLDEN["train_counts"], np.int64)
    q = _rust.inv_propensity(counts, GOLDEN["n_train"], entry["a"], entry["b"])
    assert q == pytest.approx(entry["expected"], abs=GOLDEN["tolerance"])
    twin = reference.inv_propensity(
        GOLDEN["train_counts"], GOLDEN["n_train"], entry["a"], entry["b"]
    )
    assert twin == pytest.approx(entry["expected"], abs=GOLDEN["tolerance"])


SCORES = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, float("inf")])


@st.composite
def scored_rows(draw: st.DrawFn) -> tuple[int, list[dict[int, float]]]:
    n_labels = draw(st.sampled_from([1, 2, 9, 70]))
    row = st.dictionaries(st.integers(0, n_labels - 1), SCORES, max_size=9)
    return n_labels, draw(st.lists(row, max_size=6))


@given(scored_rows(), st.integers(1, 11), st.booleans())
def test_topk_equals_its_twin(
    generated: tuple[int, list[dict[int, float]]], k: int, double: bool
) -> None:
    n_labels, rows = generated
    exclude = [set(list(row)[::3]) for row in rows]
    indptr, indices, data = csr(rows)
    pairs = csr([dict.fromkeys(labels, 1.0) for labels in exclude])[:2]
    scores = data.astype(np.float64) if double else data
    ids, best = _rust.topk_csr(indptr, indices, scores, n_labels, k, pairs)
    rankings = [reference.rank(*pair)[:k] for pair in zip(rows, exclude, strict=True)]
    assert ids.tolist() == padded(rankings, k).tolist()
    for row, ranking, found in zip(rows, rankings, best, strict=True):
        expected = [row[label] for label in ranking] + [-np.inf] * (k - len(ranking))
        assert found.tolist() == expected


def test_double_scores_are_not_rounded() -> None:
    indptr, indices, _ = csr([{0: 1, 1: 1}])
    ids, _ = _rust.topk_csr(indptr, indices, np.array([1.0, 1.0 + 1e-12]), 2, 2)
    assert ids.tolist() == [[1, 0]]


def test_dense_topk_by_blocks() -> None:
    scores = np.random.default_rng(0).integers(0, 50, (7, 1000)).astype(np.float32)
    exclude = csr([{int(row.argmax()): 1.0, 999: 1.0} for row in scores])[:2]
    ids, best = _rust.topk_dense(scores, 20, exclude)
    for row, (label, last) in enumerate(exclude[1].reshape(-1, 2)):
        twin = reference.rank(dict(enumerate(scores[row].tolist())), {int(label), int(last)})
        assert ids[row].tolist() == twin[:20]
    cut = 300
    left = _rust.topk_dense(np.ascontiguousarray(scores[:, :cut]), 20, exclude)
    right = _rust.topk_dense(
        np.ascontiguousarray(scores[:, cut:]), 20, exclude, first_label=cut, num_threads=1
    )
    merged = _rust.merge_topk([left[0], right[0]], [left[1], right[1]], 20)
    np.testing.assert_array_equal(merged[0], ids)
    np.testing.assert_array_equal(merged[1], best)


def test_windows_of_indptr_are_rows() -> None:
    whole, parts = (_rust.Evaluator(8, ["nDCG@5"], keep_rows=True) for _ in range(2))
    whole.update_ids(Y_TRUE, IDS)
    indptr, indices, data = Y_TRUE
    for start, end in [(0, 1), (1, 1), (1, 4)]:
        parts.update_ids((indptr[start : end + 1], indices, data), IDS[start:end])
    assert parts.value("nDCG@3") == whole.value("nDCG@3")
    assert parts.n_rows == 4
    np.testing.assert_array_equal(parts.row_values("nDCG@5")[0], whole.row_values("nDCG@5")[0])


def test_row_values_average_to_the_metric() -> None:
    y_true = csr([{0: 1, 3: 1}, {}, {7: 1}])
    metrics = ["P@2", "PSP@2"]
    skip, zero = (
        _rust.Evaluator(8, metrics, inv_propensity=weights(), empty_rows=rule, keep_rows=True)
        for rule in ("skip", "zero")
    )
    for evaluator in (skip, zero):
        evaluator.update_ids(y_true, IDS[:3])
        assert (evaluator.n_rows, evaluator.n_empty) == (3, 1)
        for metric in metrics:
            values, ideal = evaluator.row_values(metric)
            value = np.nanmean(values) if ideal is None else np.nansum(values) / np.nansum(ideal)
            assert evaluator.value(metric) == pytest.approx(value)
    assert np.isnan(skip.row_values("P@2")[0]).tolist() == [False, True, False]
    assert zero.row_values("P@2")[0].tolist() == [0.0, 0.0, 0.5]


def test_counts_of_exclusions() -> None:
    evaluator = _rust.Evaluator(8, ["P@1"])
    exclude = csr([{5: 1, 7: 1}, {}, {}, {0: 1, 1: 1}])[:2]
    evaluator.update_ids(Y_TRUE, IDS, exclude)
    assert (evaluator.n_excluded, evaluator.n_excluded_positives) == (2, 2)


def test_merge() -> None:
    first, second = _rust.Evaluator(8, ["P@5"]), _rust.Evaluator(8, ["P@5"])
    first.update_ids(Y_TRUE, IDS)
    second.update_ids(Y_TRUE, IDS)
    second.merge(first)
    second.merge(second)
    assert second.n_rows == 16
    assert second.value("P@5") == pytest.approx(0.4)
    with pytest.raises(ValueError, match="differ in n_labels"):
        second.merge(_rust.Evaluator(9, ["P@5"]))


def test_files_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "Y.txt"
    _rust.save_labels(str(path), 8, *Y_TRUE)
    assert path.read_text().startswith("4 8\n0:1.0 3:1.0 5:1.0\n1:1.0\n")
    for num_threads in THREADS:
        loaded, repairs = _rust.load_labels(str(path), num_threads=num_threads)
        shape, indptr, indices, data = loaded
        assert repairs is None
        assert shape == (4, 8)
        arrays: list[NDArray[Any]] = [indptr, indices, data]
        originals: list[NDArray[Any]] = [*Y_TRUE]
        for found, expected in zip(arrays, originals, strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    path.write_text("1 9\n3 4\n")
    assert _rust.load_labels(str(path), missing_value=1.0)[0][3].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"Y\.txt:2: missing ':value' after label 3"):
        _rust.load_labels(str(path))
    path.write_text("1 2\n0 1\n1 2\n")
    indptr, indices, n_repeated = _rust.load_pairs(str(path), 2, 3)
    assert (indptr.tolist(), indices.tolist(), n_repeated) == ([0, 1, 2], [1, 2], 1)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    missing = str(tmp_path / "none" / "Y.txt")
    for call in (
        lambda: _rust.load_labels(missing),
        lambda: _rust.load_pairs(missing, 1, 1),
        lambda: _rust.save_labels(missing, 8, *Y_TRUE),
    ):
        with pytest.raises(FileNotFoundError, match="No such file") as raised:
            call()
        assert raised.value.filename == missing
    with pytest.raises(IsADirectoryError):
        _rust.load_labels(str(tmp_path))


def test_check_csr() -> None:
    indptr, indices, data = csr([{3: 1.0, 1: 2.0}, {0: 0.0}])
    assert _rust.check_csr("y", 2, 8, indptr, np.array([1, 3, 0], np.int32), data) is None
    found = _rust.check_csr("y", 2, 8, indptr, indices, data)
    assert found is not None
    assert (found[0].tolist(), found[1].tolist()) == ([1, 3, 0], [2.0, 1.0, 0.0])
    assert indices.tolist() == [3, 1, 0]
    with pytest.raises(ValueError, match=r"Y\.npz: 2 rows, expected 3"):
        _rust.check_csr("Y.npz", 3, 8, indptr, indices, data)
    with pytest.raises(ValueError, match=r"y: row 0: label 3 out of range \(n_labels = 3\)"):
        _rust.check_csr("y", 2, 3, indptr, indices, data)
    with pytest.raises(ValueError, match="y: row 0: duplicate label 3"):
        _rust.check_csr("y", 2, 8, indptr, np.array([3, 3, 0], np.int32), data)
    with pytest.raises(ValueError, match=r"y: row 1: value is not finite \(label 0\)"):
        _rust.check_csr("y", 2, 8, indptr, indices, np.array([1, 1, np.nan], np.float32))


def test_label_counts_and_metric_names() -> None:
    counts = _rust.label_counts(8, Y_TRUE[1], Y_TRUE[2])
    assert counts.tolist() == [2, 2, 1, 1, 1, 2, 2, 1]
    assert _rust.parse_metrics(["nDCG@5", "PSP@100"]) == [("nDCG", 5), ("PSP", 100)]


PATTERN = Y_TRUE[:2]
DENSE = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e: _rust.parse_metrics(["nDGC@5"]),
            r"unknown metric 'nDGC@5'; did you mean 'nDCG@5'\? \(known: P@k, nDCG@k",
        ),
        (lambda e: _rust.parse_metrics(["P@0"]), r"k must be in 1\.\.=65536 in metric 'P@0'"),
        (lambda e: e.value("P@6"), "P@6 is beyond the largest k = 5"),
        (lambda e: e.value("PSP@1"), "PSP@1 needs inv_propensity"),
        (lambda e: e.value("P@1"), "no rows left to average"),
        (lambda e: e.value("nDCG@1"), "nDCG@1 is not summed by this evaluator"),
        (lambda e: e.row_values("Coverage@5"), "Coverage@5 is a mean over labels"),
        (lambda e: e.group_values(0, 0, ["P@1"]), "group must be one of label_groups, not 0, 0"),
        (lambda e: e.row_values("P@5"), "row values of P@5 were not kept"),
        (lambda e: e.update_ids(Y_TRUE, IDS[:3]), "y_pred: 15 labels, expected 20"),
        (lambda e: e.update_ids(Y_TRUE, IDS[:, :4].copy()), "4 columns, fewer than the largest k"),
        (lambda e: e.update_ids(Y_TRUE, IDS.repeat(2, 1)), "y_pred: row 0: duplicate label 5"),
        (lambda e: e.update_ids(Y_TRUE, IDS + 1), r"y_pred: row 2: label 8 out of range"),
        (lambda e: e.update_ids(Y_TRUE, IDS - 1), "y_pred: row 0: label -1|after padding"),
        (lambda e: e.update_csr(Y_TRUE, csr([{}])), "y_pred: 1 rows, expected 4"),
        (lambda e: e.update_ids(Y_TRUE, IDS, csr([{}])[:2]), "exclude: 1 rows, expected 4"),
        (lambda e: e.update_ids(csr([{2: -1.0}]), IDS[:1]), "truth value of label 2 must be >= 0"),
        (lambda e: e.update_ids(csr([{8: 1.0}]), IDS[:1]), "y_true: row 0: label 8 out of range"),
        (lambda e: e.update_ids(Y_TRUE, IDS.T), "y_pred must be C-contiguous"),
        (lambda e: e.update_ids(Y_TRUE, IDS[0]), "y_pred must be 2-d, not 1-d"),
        (lambda e: _rust.Evaluator(8, []), "metrics must name at least one"),
        (lambda e: _rust.Evaluator(-1, ["P@1"]), "n_labels must not be negative, not -1"),
        (
            lambda e: _rust.Evaluator(8, ["P@1"], empty_rows="x"),
            "must be 'zero' or 'skip', not 'x'",
        ),
        (lambda e: _rust.Evaluator(8, ["P@1"], psndcg="x"), "must be 'xclib' or 'matlab', not 'x'"),
        (
            lambda e: _rust.Evaluator(8, ["P@1"], ties="x"),
            "must be 'smaller' or 'larger', not 'x'",
        ),
        (
            lambda e: _rust.Evaluator(8, ["P@1"], label_groups=[("f", 1, np.ones(8, np.int32))]),
            r"label_groups 'f': group 1 of label 0 out of range \(n_groups = 1",
        ),
        (
            lambda e: _rust.Evaluator(8, ["P@1"], num_threads=0),
            r"num_threads must be in 1\.\.=1024",
        ),
        (lambda e: _rust.Evaluator(8, ["PSP@1"]), "PSP@1 needs inv_propensity"),
        (
            lambda e: _rust.Evaluator(8, ["P@1"], inv_propensity=np.ones(7)),
            "inv_propensity: 7 weights, expected 8",
        ),
        (lambda e: _rust.topk_dense(DENSE, 0), "k must be at least 1, not 0"),
        (lambda e: _rust.topk_dense(DENSE, -1), "k must not be negative, not -1"),
        (lambda e: _rust.topk_dense(DENSE * np.nan, 1), "scores: row 0: score of label 0 is NaN"),
        (lambda e: _rust.topk_dense(DENSE[:, ::2], 1), "scores must be C-contiguous"),
        (lambda e: _rust.topk_dense(DENSE, 1, PATTERN), "exclude: 4 rows, expected 2"),
        (
            lambda e: _rust.inv_propensity(np.ones(2, np.int64), 2, 0.5, 1.5),
            "n_points must be at l",
        ),
        (lambda e: _rust.label_counts(2, *Y_TRUE[1:]), "label 3 out of range"),
        (
            lambda e: _rust.topk_csr(Y_TRUE[0][::2], *Y_TRUE[1:], 8, 1),
            "indptr must be C-contiguous",
        ),
    ],
)
def test_value_errors(call: Any, message: str) -> None:
    evaluator = _rust.Evaluator(8, ["P@5"])
    with pytest.raises(ValueError, match=message):
        call(evaluator)
    assert evaluator.n_rows == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e: e.update_ids(Y_TRUE, IDS.astype(np.float64)),
            "y_pred must be int32, not float64",
        ),
        (lambda e: e.update_ids(Y_TRUE, IDS.tolist()), "y_pred must be a numpy array, not list"),
        (
            lambda e: e.update_ids((Y_TRUE[0].astype(np.int32), *Y_TRUE[1:]), IDS),
            "y_true indptr must be int64, not int32",
        ),
        (
            lambda e: e.update_csr(Y_TRUE, (*PATTERN, Y_TRUE[2].astype(np.float16))),
            "y_pred data must be float32, not float16",
        ),
        (lambda e: _rust.topk_dense(DENSE.astype(">f4"), 1), "scores must be float32, not >f4"),
    ],
)
def test_type_errors(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(_rust.Evaluator(8, ["P@5"]))


def test_rows_in_errors_count_from_the_start_of_the_stream() -> None:
    evaluator = _rust.Evaluator(8, ["P@5"])
    evaluator.update_ids(Y_TRUE, IDS)
    ids = IDS.copy()
    ids[2, 1] = ids[2, 0]
    with pytest.raises(ValueError, match="y_pred: row 6: duplicate label 7"):
        evaluator.update_ids(Y_TRUE, ids)
    assert evaluator.n_rows == 4


def test_arrays_are_left_alone() -> None:
    scores = csr([{5: 0.1, 2: 0.7, 0: 0.3}] * 4)
    arrays: list[NDArray[Any]] = [*Y_TRUE, IDS, *scores]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    evaluator = _rust.Evaluator(8, ["P@5"])
    evaluator.update_ids(Y_TRUE, IDS, PATTERN)
    evaluator.update_csr(Y_TRUE, scores, PATTERN)
    _rust.topk_csr(*scores, 8, 2, PATTERN)
    for array, copy in zip(arrays, copies, strict=True):
        array.flags.writeable = True
        np.testing.assert_array_equal(array, copy)


def test_misaligned_arrays_are_refused() -> None:
    raw = np.zeros(4 * 6 + 1, np.uint8)[1:].view(np.float32).reshape(2, 3)
    with pytest.raises(ValueError, match="scores must be C-contiguous and aligned"):
        _rust.topk_dense(raw, 1)


def stream(n_rows: int) -> tuple[Csr, NDArray[np.int32]]:
    rng = np.random.default_rng(0)
    ids = rng.permuted(np.tile(np.arange(50, dtype=np.int32), (n_rows, 1)), axis=1)
    indptr = np.arange(0, 3 * n_rows + 1, 3)
    truth = rng.permuted(np.tile(np.arange(50, dtype=np.int32), (n_rows, 1)), axis=1)[:, :3]
    return (indptr, truth.ravel(), np.ones(3 * n_rows, np.float32)), ids


def evaluate(y_true: Csr, ids: NDArray[np.int32], num_threads: int | None) -> float:
    evaluator = _rust.Evaluator(50, ["nDCG@9"], num_threads=num_threads)
    evaluator.update_ids(y_true, ids)
    return evaluator.value("nDCG@9")


def test_bits_do_not_depend_on_threads_or_cuts() -> None:
    y_true, ids = stream(10_000)
    values = {evaluate(y_true, ids, num_threads) for num_threads in (*THREADS, None)}
    cut = _rust.Evaluator(50, ["nDCG@9"])
    for start in range(0, 10_000, 999):
        end = min(start + 999, 10_000)
        cut.update_ids((y_true[0][start : end + 1], *y_true[1:]), ids[start:end])
    assert values == {cut.value("nDCG@9")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.timeout(60)
def test_a_forked_child_computes_the_same() -> None:
    y_true, ids = stream(9_000)
    expected = evaluate(y_true, ids, 2)  # the pool now has threads that the child lacks
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        sender.send([evaluate(y_true, ids, 2), evaluate(y_true, ids, None)])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads, from Python 3.12
        process = context.Process(target=child)
        process.start()
    assert receiver.poll(30), "the child hangs"
    assert receiver.recv() == [expected, expected]
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.timeout(60)
def test_many_threads_share_pools_and_an_evaluator() -> None:
    y_true, ids = stream(2_000)
    expected = evaluate(y_true, ids, 1)
    groups = [("parity", 2, (np.arange(50) % 2).astype(np.int32))]
    names = ["P@9", "macroF@9"]
    shared = _rust.Evaluator(50, names, label_groups=groups, num_threads=2)
    start = threading.Barrier(8)

    def work(thread: int) -> list[float]:
        start.wait()
        values = []
        for round_ in range(10):
            values.append(evaluate(y_true, ids, 1 + (thread + round_) % 3))
            shared.update_ids(y_true, ids)
            shared.merge(_rust.Evaluator(50, names, label_groups=groups))
            assert len(shared.group_values(0, thread % 2, names)) == 2
            _rust.topk_dense(DENSE, 1, num_threads=1 + thread % 2)
            gc.collect(0)
        return values

    with ThreadPoolExecutor(8) as executor:
        for values in executor.map(work, range(8)):
            assert values == [expected] * 10
    assert shared.n_rows == 8 * 10 * 2_000
    once = _rust.Evaluator(50, names, label_groups=groups)
    once.update_ids(y_true, ids)
    for group in (0, 1):
        assert shared.group_values(0, group, names) == once.group_values(0, group, names)
        assert shared.group_counts(0, group)[1] == 80 * once.group_counts(0, group)[1]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
@pytest.mark.timeout(60)
def test_ctrl_c_stops_the_parser(tmp_path: Path) -> None:
    path = tmp_path / "Y.txt"
    n_rows = 4_000_000
    path.write_bytes(b"%d 9\n" % n_rows + b"1:1.0000000000000000001 2:1e-5\n" * n_rows)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.06)
        with pytest.raises(KeyboardInterrupt):
            _rust.load_labels(str(path), num_threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_stubs_match_the_module() -> None:
    pytest.importorskip("mypy", reason="needs mypy")
    command = [sys.executable, "-m", "mypy.stubtest", "dexml._rust"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
