"""`dexml.metrics` through its Python face: golden cases, slow twin, streaming, errors."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

import reference
from dexml import metrics
from dexml.metrics import Evaluator, evaluate

KINDS = ("P", "nDCG", "R", "MRR", "Success", "PSP", "PSnDCG", "PSR")
EVERY = [f"{kind}@{k}" for kind in KINDS for k in (1, 2, 5)]
LABEL_WISE = [f"{kind}@{k}" for kind in ("Coverage", "macroP", "macroR", "macroF") for k in (1, 3)]
A = {
    "truth": [[0, 3, 5], [1], [0, 2, 4, 5, 6, 7], [1, 6]],
    "ids": [[5, 1, 0, 2, 3], [0, 1, 2, 3, 4], [7, 0, 1, 3, 2], [0, 2, 3, 4, 6]],
}


PARTS = ("indptr", "indices", "data")


def truth_of(rows: list[list[int]], n_labels: int = 8) -> csr_array:
    y = np.zeros((len(rows), n_labels), np.float32)
    for row, labels in enumerate(rows):
        y[row, labels] = 1
    return csr_array(y)


def weights() -> np.ndarray:
    counts = [9, 6, 4, 3, 2, 1, 1, 0]
    y_train = np.zeros((12, 8), np.float32)
    for label, count in enumerate(counts):
        y_train[:count, label] = 1
    return metrics.inv_propensity(csr_array(y_train))


def test_case_a() -> None:
    found = evaluate(truth_of(A["truth"]), np.array(A["ids"]), EVERY, inv_propensity=weights())
    assert found["nDCG@5"] == pytest.approx(0.6094847239, abs=1e-9)
    assert found["PSP@5"] == pytest.approx(0.7000607670, abs=1e-9)
    assert found["PSnDCG@5"] == pytest.approx(0.6044058051, abs=1e-9)
    assert found["MRR@5"] == pytest.approx(0.675, abs=1e-9)
    assert list(found) == EVERY


def test_propensities() -> None:
    expected = [1.6743914295, 1.8114886727, 1.9624245168, 2.0747297584, 2.2340385663]
    assert weights()[:5].tolist() == pytest.approx(expected, abs=1e-9)
    assert metrics.propensity_constants("LF-AmazonTitles-131K") == (0.6, 2.6)
    with pytest.raises(ValueError, match="did you mean 'AmazonCat-13K'"):
        metrics.propensity_constants("AmazonCat13K")
    with pytest.raises(ValueError, match="3"):
        metrics.inv_propensity(csr_array(np.eye(2, dtype=np.float32)))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth, scores (NaN: not stored) with many ties, exclusions and weights."""
    n_labels, n_points = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = (n_points, n_labels)
    y = (generator.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))).astype(np.float32)
    scores = generator.integers(-2, 3, shape).astype(np.float64)
    scores[generator.random(shape) < 0.3] = np.nan
    exclude = generator.random(shape) < draw(st.sampled_from([0.0, 0.3]))
    return y, scores, exclude, 1 + generator.random(n_labels)


def as_csr(dense: np.ndarray, stored: np.ndarray) -> csr_array:
    indptr = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    return csr_array((dense[stored], np.nonzero(stored)[1], indptr), shape=dense.shape)


@settings(max_examples=150)
@given(
    case=cases(),
    psndcg=st.sampled_from(["xclib", "matlab"]),
    ties=st.sampled_from(["smaller", "larger"]),
    skip=st.booleans(),
)
def test_equals_the_slow_twin(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    psndcg: Any,
    ties: Any,
    skip: bool,
) -> None:
    y, scores, exclude, q = case
    empty_rows: Any = "skip" if skip else "zero"
    truth = [{int(i): 1.0 for i in np.flatnonzero(row)} for row in y]
    rankings = [
        reference.rank(
            {i: s for i, s in enumerate(row) if not np.isnan(s)}, set(np.flatnonzero(out)), ties
        )
        for row, out in zip(scores, exclude, strict=True)
    ]
    names = EVERY if y.any() else [n for n in EVERY if not n.startswith("PS")]
    arguments = {"inv_propensity": q, "empty_rows": empty_rows, "psndcg": psndcg, "ties": ties}
    y_true, y_pred = csr_array(y), as_csr(scores, ~np.isnan(scores))
    pairs = as_csr(np.ones_like(scores), exclude)
    if skip and not y.any():
        with pytest.raises(ValueError, match="no "):
            evaluate(y_true, y_pred, names, exclude=pairs, **arguments)
        return
    expected = reference.evaluate(truth, rankings, names, q.tolist(), empty_rows, psndcg)
    actual = evaluate(y_true, y_pred, names, exclude=pairs, **arguments)
    for name in names:
        assert actual[name] == pytest.approx(expected[name], abs=1e-12), name
    actual = evaluate(y_true, y_pred, LABEL_WISE, exclude=pairs, **arguments)
    for name in LABEL_WISE:
        twin = reference.label_wise(name, truth, rankings, range(y.shape[1]))
        assert actual[name] == pytest.approx(twin, abs=1e-12), name


@settings(max_examples=60)
@given(case=cases(), seed=st.integers(0, 99), skip=st.booleans())
def test_a_group_is_an_evaluation_of_the_truth_restricted_to_it(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], seed: int, skip: bool
) -> None:
    y, scores, exclude, q = case
    n_labels = y.shape[1]
    groups = np.random.default_rng(seed).integers(-1, 3, n_labels)
    evaluator = Evaluator(
        n_labels,
        EVERY + LABEL_WISE,
        inv_propensity=q,
        empty_rows="skip" if skip else "zero",
        label_groups={
            "any": metrics.LabelGroups(["a", "b", "c"], groups),
            "halves": metrics.LabelGroups(["even", "odd"], np.arange(n_labels) % 2),
        },
    )
    y[0, 0] = 1
    y_pred, pairs = as_csr(scores, ~np.isnan(scores)), as_csr(np.ones_like(scores), exclude)
    evaluator.update(csr_array(y), y_pred, exclude=pairs)
    result = evaluator.result()
    for i, group in enumerate(result.groups["any"].values()):
        inside = groups == i
        restricted = np.where(inside, y, 0).astype(np.float32)
        assert group.n_labels == inside.sum()
        assert group.n_points == restricted.any(axis=1).sum()
        assert group.n_positives == restricted.sum()
        if not restricted.any():
            assert all(np.isnan(group.metrics[name]) for name in EVERY)
            continue
        twin = evaluate(
            csr_array(restricted),
            y_pred,
            EVERY,
            inv_propensity=q,
            exclude=pairs,
            empty_rows="skip",
        )
        assert {name: group.metrics[name] for name in EVERY} == twin
        truth = [{int(j): 1.0 for j in np.flatnonzero(row)} for row in y]
        rankings = [
            reference.rank(
                {j: s for j, s in enumerate(row) if not np.isnan(s)}, set(np.flatnonzero(out))
            )
            for row, out in zip(scores, exclude, strict=True)
        ]
        for name in LABEL_WISE:
            mean = reference.label_wise(name, truth, rankings, np.flatnonzero(inside))
            assert group.metrics[name] == pytest.approx(mean, abs=1e-12), name
    for name in ("P@1", "P@2", "P@5"):
        parts = [group.contribution[name] for group in result.groups["halves"].values()]
        assert sum(parts) == pytest.approx(result.metrics[name], abs=1e-12)


def test_case_f_as_pyxclib_ranks_it() -> None:
    shape = (4, 8)
    stored = truth_of(A["ids"]).astype(bool).toarray()
    y_pred = as_csr(np.ones(shape), stored)
    names = [f"P@{k}" for k in range(1, 6)]
    larger = evaluate(truth_of(A["truth"]), y_pred, names, ties="larger")
    assert list(larger.values()) == pytest.approx([0.75, 0.5, 0.4166666667, 0.375, 0.4])
    smaller = evaluate(truth_of(A["truth"]), y_pred, names)
    assert list(smaller.values()) == pytest.approx([0.5, 0.375, 0.3333333333, 0.3125, 0.4])


def test_perfect_predictions_score_exactly_one() -> None:
    y, _, q = big()
    y = y[np.diff(y.indptr) > 0]
    ranked = csr_array((q[y.indices], y.indices, y.indptr), shape=y.shape)
    names = [
        f"{kind}@{k}"
        for kind in ("nDCG", "MRR", "Success", "PSP", "PSR", "PSnDCG")
        for k in range(1, 41)
    ]
    assert set(evaluate(y, ranked, names, inv_propensity=q).values()) == {1.0}
    assert evaluate(y, ranked, ["P@1", "R@40"], inv_propensity=q) == {"P@1": 1.0, "R@40": 1.0}
    means = evaluate(y, ranked, ["Coverage@40", "macroR@40", "macroP@40", "macroF@40"])
    assert set(means.values()) == {1.0}


def test_groups_by_training_frequency() -> None:
    y_train = np.zeros((200, 7), np.float32)
    for label, count in enumerate([150, 100, 11, 10, 3, 1, 0]):
        y_train[:count, label] = 1
    y = csr_array(y_train)
    groups = metrics.frequency_groups(y)
    assert groups.names == ("head (> 100)", "torso (11-100)", "tail (<= 10)")
    assert groups.of_label.tolist() == [0, 1, 1, 2, 2, 2, 2]
    seen = metrics.seen_groups(y)
    assert seen.names == ("unseen (0)", "few-shot (1-3)", "many-shot (> 3)")
    assert seen.of_label.tolist() == [2, 2, 2, 2, 1, 1, 0]
    halves = metrics.decile_groups(y, n=2)
    assert halves.names == ("1/2 (150-150)", "2/2 (0-100)")  # of 275 pairs, 150 in one label
    thirds = metrics.decile_groups(y, n=3)
    assert thirds.names == ("1/3 (150-150)", "2/3 (100-100)", "3/3 (0-11)")
    flat = metrics.decile_groups(csr_array(np.ones((5, 20), np.float32)))
    assert flat.of_label.tolist() == np.repeat(np.arange(10), 2).tolist()
    lone = metrics.decile_groups(csr_array(np.ones((5, 1), np.float32)), n=2)
    assert lone.names == ("1/2 (5-5)", "2/2 (no label)")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: metrics.frequency_groups(y, tail_max=5, torso_max=5), "tail_max = 5"),
        (lambda y: metrics.decile_groups(y, n=0), "n must be at least 1, not 0"),
        (lambda y: metrics.decile_groups(y * 0), "y_train: no positive"),
        (lambda y: metrics.seen_groups(y, few_max=0), "few_max must be at least 1, not 0"),
        (lambda y: metrics.LabelGroups("ab", [0, 1]), "names must be a list of strings"),
        (lambda y: metrics.LabelGroups(["a", "a"], [0]), "the name 'a' occurs twice"),
        (lambda y: metrics.LabelGroups(["a"], [0, 1]), r"group 1 of label 1 out of range \(1 gr"),
        (lambda y: metrics.LabelGroups(["a"], [-2]), "group -2 of label 0 out of range"),
        (lambda y: metrics.LabelGroups(["a"], [0.5]), "dtype float64; give an integer"),
        (lambda y: metrics.LabelGroups(["a"], [[0]]), r"shape \(1, 1\)"),
        (
            lambda y: Evaluator(3, ["P@1"], label_groups={"f": metrics.LabelGroups(["a"], [0])}),
            "label_groups 'f': 1 labels, expected 3",
        ),
        (lambda y: Evaluator(3, ["P@1"], label_groups={"f": [0, 0, 0]}), "'f' is a list"),  # type: ignore[dict-item]
        (lambda y: Evaluator(3, ["P@1"], ties="last"), "ties must be 'smaller' or 'larger'"),  # type: ignore[arg-type]
    ],
)
def test_errors_of_groups(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(csr_array(np.eye(3, dtype=np.float32)))


def test_many_groups_are_checked_at_once() -> None:
    names = [f"group {i}" for i in range(300_000)]
    assert metrics.LabelGroups(names, np.arange(300_000)).names == tuple(names)


def test_groups_are_read_only_after_pickling() -> None:
    groups = pickle.loads(pickle.dumps(metrics.LabelGroups(["a", "b"], [0, -1, 1])))
    assert groups.names == ("a", "b")
    assert groups.of_label.tolist() == [0, -1, 1]
    with pytest.raises(ValueError, match="read-only"):
        groups.of_label[0] = 1


def test_merge_refuses_other_groups_and_other_things() -> None:
    def evaluator(*names: str, of_label: Any = (0, 0)) -> Evaluator:
        return Evaluator(2, ["P@1"], label_groups={"shop": metrics.LabelGroups(names, of_label)})

    first = evaluator("books", "music")
    first.merge(evaluator("books", "music"))
    for other, message in (
        (evaluator("books", "toys"), "group 1 of 'shop' is 'music' in one and 'toys' in the other"),
        (evaluator("books"), "group 1 of 'shop' is 'music' in one and None in the other"),
        (evaluator("books", "music", of_label=[0, 1]), "differ in label_groups"),
        (Evaluator(2, ["P@1"]), "differ in label_groups"),
    ):
        with pytest.raises(ValueError, match=message):
            first.merge(other)
    with pytest.raises(TypeError, match="other: expected an Evaluator, not int"):
        first.merge(3)  # type: ignore[arg-type]


def test_rows_in_messages_count_from_the_first_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dexml.metrics.evaluator.BLOCK_ROWS", 2)
    y, ids = csr_array(np.eye(8, dtype=np.float32)), np.tile([[0, 1]], (8, 1))
    ids[5, 1] = 0
    evaluators = Evaluator(8, ["P@1"]), Evaluator(8, ["P@1"])
    for evaluator, start in zip(evaluators, (0, 3), strict=True):
        evaluator.update(y[:start], ids[:start])
        with pytest.raises(ValueError, match="row 5: duplicate label 0"):
            evaluator.update(y[start:], ids[start:])


def test_groups_stream_merge_and_print() -> None:
    y, ids, q = big()
    names = ["P@1", "PSP@3", "macroF@5", "Coverage@5"]
    groups = {
        "frequency": metrics.frequency_groups(y, tail_max=890, torso_max=920),
        "one": metrics.LabelGroups(["empty", "first"], [1] + [-1] * 39),
    }

    def fresh(threads: int, keep_rows: bool = False) -> Evaluator:
        return Evaluator(
            40,
            names,
            inv_propensity=q,
            label_groups=groups,
            keep_rows=keep_rows,
            num_threads=threads,
        )

    whole = fresh(1)
    whole.update(y, ids)
    expected = whole.result().as_json()
    parts = [fresh(2), fresh(7)]
    parts[0].update(y[4000:], ids[4000:])
    for start in range(0, 4000, 999):
        rows = slice(start, min(start + 999, 4000))
        parts[1].update(y[rows], ids[rows])
    parts[1].merge(parts[0])
    assert parts[1].result().as_json() == expected
    assert expected["groups"]["one"]["empty"]["metrics"]["P@1"] is None
    json.dumps(expected, allow_nan=False)
    assert expected["conventions"] == {
        "empty_rows": "zero",
        "psndcg": "xclib",
        "ties": "smaller id first",
        "macro": "mean over all labels, 0/0 = 0",
        "coverage": "labels hit at least once / all labels",
    }
    bad = ids.copy()
    bad[-1, 0] = 40
    with pytest.raises(ValueError, match="y_pred: row 18001: label 40 out of range"):
        whole.update(y, bad)
    assert whole.result().as_json() == expected
    kept = fresh(1, keep_rows=True)
    kept.update(y, ids)
    assert list(kept.result().rows) == ["P@1", "PSP@3"]


def big(seed: int = 0) -> tuple[csr_array, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = csr_array((generator.random((9001, 40)) < 0.1).astype(np.float32))
    ids = np.argsort(generator.random((9001, 40)), axis=1)[:, :5].astype(np.int64)
    return y, ids, 1 + generator.random(40)


def test_bit_equal_for_threads_blocks_and_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    y, ids, q = big()
    expected = evaluate(y, ids, EVERY, inv_propensity=q, num_threads=1)
    for threads in (2, 7):
        assert evaluate(y, ids, EVERY, inv_propensity=q, num_threads=threads) == expected
    evaluator = Evaluator(40, EVERY, inv_propensity=q)
    for start, stop in ((0, 1), (1, 5000), (5000, 5000), (5000, 9001)):
        evaluator.update(y[start:stop], ids[start:stop])
    assert evaluator.result().metrics == expected
    monkeypatch.setattr("dexml.metrics.evaluator.BLOCK_ROWS", 1000)
    assert evaluate(y, ids, EVERY, inv_propensity=q) == expected


def test_merge_adds_the_points_of_the_other() -> None:
    y, ids, q = big()
    parts = []
    for rows in (slice(0, 4000), slice(4000, None)):
        parts.append(Evaluator(40, EVERY, inv_propensity=q))
        parts[-1].update(y[rows], ids[rows])
    parts[0].merge(parts[1])
    expected = evaluate(y, ids, EVERY, inv_propensity=q)
    assert parts[0].result().metrics == expected
    assert parts[0].result().n_points == 9001


def test_rows_average_to_the_result() -> None:
    y, ids, q = big()
    evaluator = Evaluator(40, EVERY, inv_propensity=q, keep_rows=True)
    evaluator.update(y, ids)
    result = evaluator.result()
    for name, (values, denominator) in result.rows.items():
        total = len(values) if denominator is None else denominator.sum()
        assert values.sum() / total == pytest.approx(result.metrics[name], abs=1e-12)


def test_memory_mapped_ids_int64_indices_and_read_only_arrays(tmp_path: Path) -> None:
    y, ids, q = big()
    np.save(tmp_path / "ids.npy", ids.astype(np.int32))
    np.save(tmp_path / "columns.npy", np.asfortranarray(ids))
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    columns = np.load(tmp_path / "columns.npy", mmap_mode="r")
    wide = csr_array(y.shape, dtype=np.float64)
    wide.indptr, wide.indices = y.indptr.astype(np.int64), y.indices.astype(np.int64)
    wide.data = y.data.astype(np.float64)
    exclude = y[::-1].astype(bool)
    arrays = [ids, q, *(getattr(m, n) for m in (y, wide, exclude) for n in PARTS)]
    before = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    expected = evaluate(y, ids, EVERY, inv_propensity=q, exclude=exclude)
    for y_true, y_pred in ((y, mapped), (y, columns), (wide, ids), (wide, mapped)):
        found = evaluate(y_true, y_pred, EVERY, inv_propensity=q, exclude=exclude)
        assert found == expected
    assert evaluate(y, wide, ["P@5"]) == evaluate(y, y, ["P@5"])
    assert [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays] == before


def test_blocks_of_int64_indices_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dexml.metrics.evaluator.BLOCK_ROWS", 2)
    y = truth_of(A["truth"])
    bad = y.copy()
    bad.indices = bad.indices.astype(np.int64)
    bad.indices[-1] = 2**40
    for y_true, y_pred, name in ((y, bad, "y_pred"), (bad, y, "y_true")):
        with pytest.raises(ValueError, match=rf"{name}: a label id lies outside 0\.\.7"):
            evaluate(y_true, y_pred, ["P@1"])
    with pytest.raises(ValueError, match="exclude: expected a scipy CSR array, not csc_array"):
        evaluate(y, y, ["P@1"], exclude=csr_array(y).tocsc())


@pytest.mark.parametrize(
    ("y_pred", "names", "extra", "message"),
    [
        (np.array([[5, 5, 0, 2, 3]] * 4), ["P@1"], {}, "row 0: duplicate label 5"),
        (np.array([[8, 1, 0, 2, 3]] * 4), ["P@1"], {}, "row 0: label 8 out of range"),
        (np.array([[-1, 1, 0, 2, 3]] * 4), ["P@1"], {}, "row 0"),
        (np.array(A["ids"]), ["P@6"], {}, "5"),
        (np.array(A["ids"])[:3], ["P@1"], {}, r"y_pred: shape \(3, 5\), expected \(4, 'k'\)"),
        (np.array(A["ids"], float), ["P@1"], {}, "y_pred: ids of dtype float64"),
        (np.array(A["ids"]), ["P@0"], {}, "P@0"),
        (np.array(A["ids"]), ["Q@1"], {}, "Q"),
        (np.array(A["ids"]), "P@1", {}, "give a list of names"),
        (np.array(A["ids"]), ["PSP@1"], {}, "PSP"),
        (np.array(A["ids"]), ["PSP@1"], {"inv_propensity": np.ones(7)}, "7"),
        (csr_array(np.full((4, 8), np.nan)), ["P@1"], {}, "row 0"),
        (csr_array(np.ones((4, 9))), ["P@1"], {}, r"y_pred: shape \(4, 9\), expected \(4, 8\)"),
        (
            np.array(A["ids"]),
            ["P@1"],
            {"exclude": csr_array(np.eye(3))},
            r"exclude: shape \(3, 3\)",
        ),
        (np.array(A["ids"]), ["P@1"], {"empty_rows": "drop"}, "drop"),
        (csr_array(np.eye(4, 8) * 1j), ["P@1"], {}, "y_pred: values of dtype complex128; give re"),
    ],
)
def test_errors_say_what_is_wrong(
    y_pred: Any, names: Any, extra: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(truth_of(A["truth"]), y_pred, names, **extra)


def test_imports_with_numpy_and_scipy_only() -> None:
    """The base install: every other package is blocked."""
    program = """
import sys
allowed = {"numpy", "scipy", "dexml", *sys.stdlib_module_names}
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in allowed and not top.startswith("_"):
            raise ImportError(f"blocked: {name}")
sys.meta_path.insert(0, Block())
import dexml.metrics, dexml.data, dexml.sampling, dexml.demo.hpo
try:
    import dexml.train
except ImportError as error:
    assert "pip install 'dexml-xmc[light]'" in str(error), error
print(sorted({"torch", "hnswlib", "pydantic", "tqdm"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_examples_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for example in re.findall(r"```python\n(.*?)```", page, flags=re.S):
        exec(example, {})
    assert "{'P@1': 0.0, 'R@2': 0.5} {'P@1': 0.0} 2" in capsys.readouterr().out


def test_runs_as_a_module_without_a_warning() -> None:
    command = [sys.executable, "-W", "error", "-m", "dexml.metrics", "--help"]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_a_negative_first_row_pointer_is_named() -> None:
    y = csr_array(np.eye(4, dtype=np.float32))
    bad = y.copy()
    bad.indptr = np.array([-5, *y.indptr[1:]])
    for name, y_true, y_pred in (("y_true", bad, y), ("y_pred", y, bad)):
        message = f"{name}: row 0: indptr decreases or points outside the 4 stored entries"
        with pytest.raises(ValueError, match=message):
            evaluate(y_true, y_pred, ["P@1"])
