"""Every function that takes a label matrix refuses the same matrices, and says how to mend them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array, csc_array, csr_array, lil_array

from dexml.data import label_matrix, save_labels, save_pairs, save_scores
from dexml.metrics import (
    Evaluator,
    decile_groups,
    evaluate,
    frequency_groups,
    inv_propensity,
    seen_groups,
)
from dexml.sampling import LabelGraph, NegativeSampler, pool_positives, sample_negatives
from dexml.topk import drop_pairs, topk

SHAPE = (4, 3)
IDS = np.array([[0], [1], [2], [0]])
PLAIN = csr_array(np.eye(*SHAPE, dtype=np.float32))
TWICE = csr_array((np.ones(5, np.float32), [0, 0, 1, 2, 0], [0, 2, 3, 4, 5]), shape=SHAPE)


def with_value(value: float) -> csr_array:
    y = PLAIN.copy()
    y.data[1] = value
    return y


def draw(y: Any) -> Any:
    return sample_negatives(y, n_negatives=1, seed=0, epoch=0, rows=[0])


TAKE_TRUTH: dict[str, Callable[[Any], Any]] = {
    "inv_propensity": inv_propensity,
    "frequency_groups": frequency_groups,
    "decile_groups": decile_groups,
    "seen_groups": seen_groups,
    "evaluate": lambda y: evaluate(y, IDS, ["P@1"]),
    "Evaluator": lambda y: Evaluator(3, ["P@1"]).update(y, IDS),
    "random_walk": lambda y: LabelGraph.random_walk(y, seed=0),
    "co_occurrence": LabelGraph.co_occurrence,
    "sample_negatives": draw,
    "NegativeSampler": lambda y: NegativeSampler(y, n_negatives=1),
}
TAKE_PATTERN: dict[str, Callable[[Any], Any]] = {
    "evaluate, predictions": lambda y: evaluate(PLAIN, y, ["P@1"]),
    "evaluate, exclude": lambda y: evaluate(PLAIN, IDS, ["P@1"], exclude=y),
    "sample_negatives, exclude": lambda y: NegativeSampler(PLAIN, n_negatives=1, exclude=y),
    "pool_positives": lambda y: pool_positives(y, np.array([0]), np.array([0, 1])),
    "LabelGraph": LabelGraph,
    "drop_pairs": lambda y: drop_pairs(IDS, y),
}
WRITE: dict[str, Callable[[Path, Any], None]] = {
    "save_labels": save_labels,
    "save_scores": save_scores,
    "save_pairs": save_pairs,
}
CONTENT = [
    (TWICE, "row 0: duplicate label 0"),
    (with_value(np.nan), "row 1: truth value of label 1 must be >= 0, not NaN"),
    (with_value(-1.0), "row 1: truth value of label 1 must be >= 0, not -1"),
]
FORM = [
    (coo_array(np.array([1.0, 0.0, 1.0])), r"one-dimensional; .*csr_array\(\w+\.reshape\(1, -1\)"),
    (csr_array(np.array([1.0, 0.0, 1.0])), r"one-dimensional; .*csr_array\(\w+\.reshape\(1, -1\)"),
    ([[0], [1], [2], [0]], "not list; dexml.data.label_matrix makes one of lists of label ids"),
    (None, "not NoneType"),
]
NOT_CSR = [
    (coo_array(PLAIN), r"not coo_array; csr_array\(\w+\) makes one"),
    (csc_array(PLAIN), r"not csc_array; csr_array\(\w+\) makes one"),
    (lil_array(PLAIN), r"not lil_array; csr_array\(\w+\) makes one"),
]
DENSE = [
    (np.eye(*SHAPE), r"not ndarray; csr_array\(\w+\) makes one"),
    (np.ma.masked_array(np.eye(*SHAPE)), r"csr_array\(\w+\.filled\(0\)\) makes one"),
]


@pytest.mark.parametrize(("y", "message"), [*CONTENT, *FORM, *NOT_CSR, *DENSE])
@pytest.mark.parametrize("function", TAKE_TRUTH.values(), ids=TAKE_TRUTH.keys())
def test_a_bad_label_matrix_is_refused_everywhere(
    function: Callable[[Any], Any], y: Any, message: str
) -> None:
    function(PLAIN)
    with pytest.raises(ValueError, match=rf"^y\w*: .*{message}"):
        function(y)


@pytest.mark.parametrize(("y", "message"), [*FORM[:3], *NOT_CSR])
@pytest.mark.parametrize("function", TAKE_PATTERN.values(), ids=TAKE_PATTERN.keys())
def test_other_matrices_have_the_same_form(
    function: Callable[[Any], Any], y: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function(y)


@pytest.mark.parametrize(("y", "message"), [*FORM, *DENSE])
@pytest.mark.parametrize("write", WRITE.values(), ids=WRITE.keys())
def test_writers_take_sparse_matrices_of_points_and_labels(
    write: Callable[[Path, Any], None], y: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "y.npz", y)
    assert not list(tmp_path.iterdir())


def test_infinite_and_unsorted_truth_counts_as_finite_and_sorted() -> None:
    unsorted = csr_array((np.ones(4, np.float32), [2, 0, 1, 2], [0, 2, 3, 4, 4]), shape=SHAPE)
    tidy = unsorted.copy()
    tidy.sort_indices()
    tidy.data[0] = np.inf
    assert inv_propensity(unsorted).tolist() == inv_propensity(tidy).tolist()
    for y in (unsorted, tidy):
        indptr, positions = pool_positives(y, np.array([0, 2]), np.array([0, 2]))
        assert (indptr.tolist(), positions.tolist()) == ([0, 2, 3], [0, 1, 1])


def test_pool_positives_refuse_a_pair_stored_twice() -> None:
    with pytest.raises(ValueError, match="y: row 0: duplicate label 0"):
        pool_positives(TWICE, np.array([3, 0]), np.array([0, 2]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: evaluate(PLAIN, np.ma.masked_array(IDS), ["P@1"]),
        lambda: topk(np.ma.masked_array(np.eye(3)), 1),
        lambda: drop_pairs(np.ma.masked_array(IDS), PLAIN),
        lambda: NegativeSampler(
            PLAIN, n_negatives=1, sources="shortlist", shortlist=np.ma.masked_array(IDS)
        ),
    ],
)
def test_a_mask_is_never_dropped_in_silence(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"a masked array; give \w+\.filled\("):
        call()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        *CONTENT,
        (coo_array(([1.0, 1.0], ([0, 0], [2, 2])), shape=SHAPE), "y: a pair is stored twice"),
        (csr_array(np.ones(4)), "y: one-dimensional"),
    ],
)
def test_label_matrix_checks_sparse_matrices_too(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_matrix(y, 4, 4)
