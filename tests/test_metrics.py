"""`dexml.metrics` through its Python face: golden cases, slow twin, streaming, errors."""

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

KINDS = ("P", "nDCG", "R", "MRR", "PSP", "PSnDCG", "PSR")
EVERY = [f"{kind}@{k}" for kind in KINDS for k in (1, 2, 5)]
A = {
    "truth": [[0, 3, 5], [1], [0, 2, 4, 5, 6, 7], [1, 6]],
    "ids": [[5, 1, 0, 2, 3], [0, 1, 2, 3, 4], [7, 0, 1, 3, 2], [0, 2, 3, 4, 6]],
}


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


@settings(max_examples=150, deadline=None)
@given(case=cases(), psndcg=st.sampled_from(["xclib", "matlab"]), skip=st.booleans())
def test_equals_the_slow_twin(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], psndcg: Any, skip: bool
) -> None:
    y, scores, exclude, q = case
    empty_rows: Any = "skip" if skip else "zero"
    truth = [{int(i): 1.0 for i in np.flatnonzero(row)} for row in y]
    rankings = [
        reference.rank(
            {i: s for i, s in enumerate(row) if not np.isnan(s)}, set(np.flatnonzero(out))
        )
        for row, out in zip(scores, exclude, strict=True)
    ]
    names = EVERY if y.any() else [n for n in EVERY if not n.startswith("PS")]
    arguments = {"inv_propensity": q, "empty_rows": empty_rows, "psndcg": psndcg}
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
    assert parts[0].result().metrics == pytest.approx(expected, abs=1e-13)
    assert parts[0].result().n_points == 9001


def test_rows_average_to_the_result() -> None:
    y, ids, q = big()
    evaluator = Evaluator(40, EVERY, inv_propensity=q, keep_rows=True)
    evaluator.update(y, ids)
    result = evaluator.result()
    for name, (values, denominator) in result.rows.items():
        total = len(values) if denominator is None else denominator.sum()
        assert values.sum() / total == pytest.approx(result.metrics[name], abs=1e-12)


def test_int32_memory_mapped_ids_and_callers_arrays(tmp_path: Path) -> None:
    y, ids, q = big()
    np.save(tmp_path / "ids.npy", ids.astype(np.int32))
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    before = (y.indptr.copy(), y.indices.copy(), y.data.copy())
    assert evaluate(y, mapped, EVERY, inv_propensity=q) == evaluate(y, ids, EVERY, inv_propensity=q)
    for old, new in zip(before, (y.indptr, y.indices, y.data), strict=True):
        np.testing.assert_array_equal(old, new)


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
import dexml.metrics, dexml.data, dexml.sampling, dexml.hpo
try:
    import dexml.train
except ImportError as error:
    assert "pip install 'dexml-xmc[train]'" in str(error), error
print(sorted({"torch", "hnswlib", "pydantic", "tqdm"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
