"""`evaluate` takes the truth first; other tools take it second."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

from dexml.metrics import Evaluator, SwappedWarning, evaluate

RNG = np.random.default_rng(0)
TRUTH = csr_array(random_array((50, 30), density=0.1, rng=RNG) > 0, dtype=np.float32)
GRADED = TRUTH * np.float32(2.5)
SCORES = csr_array(random_array((50, 30), density=0.4, rng=RNG, dtype=np.float32))
RANKED = np.argsort(-SCORES.toarray(), axis=1)[:, :5]


def blockwise(y_true: Any, y_pred: Any) -> None:
    Evaluator(30, ["P@1"]).update(y_true, y_pred)


CALLS = [lambda y_true, y_pred: evaluate(y_true, y_pred, ["P@1"]), blockwise]


@pytest.mark.parametrize("call", CALLS, ids=["evaluate", "Evaluator.update"])
def test_arguments_in_the_wrong_order_are_noticed(call: Callable[[Any, Any], None]) -> None:
    with pytest.warns(SwappedWarning, match="y_pred only 0 and 1: were y_true and y_pred swapped"):
        call(SCORES, TRUTH)
    with pytest.warns(SwappedWarning, match=rf"more entries \({SCORES.nnz}\) than y_pred \("):
        call(SCORES, GRADED)


def test_the_warning_names_the_line_of_the_caller_and_can_be_an_error() -> None:
    for call in (evaluate, Evaluator(30, ["P@1"]).update):
        with pytest.warns(SwappedWarning) as warned:
            call(SCORES, TRUTH)
        assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", SwappedWarning)
        with pytest.raises(SwappedWarning):
            evaluate(SCORES, TRUTH)


@pytest.mark.parametrize("call", CALLS, ids=["evaluate", "Evaluator.update"])
@pytest.mark.parametrize(
    ("y_true", "y_pred"),
    [
        (TRUTH, SCORES),
        (GRADED, SCORES),
        (GRADED, RANKED),
        (TRUTH, TRUTH),
        (TRUTH, csr_array((50, 30))),
    ],
    ids=["scores", "graded truth", "ranked ids", "0/1 scores", "no scores"],
)
def test_the_right_order_says_nothing(
    call: Callable[[Any, Any], None], y_true: Any, y_pred: Any
) -> None:
    call(y_true, y_pred)  # the tests make errors of warnings


def test_ranked_ids_as_truth_are_refused() -> None:
    with pytest.raises(ValueError, match="y_true: expected a scipy CSR array, not ndarray"):
        evaluate(RANKED, TRUTH)
