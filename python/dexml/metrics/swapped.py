"""Notice truth and predictions that were given in the wrong order."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr


class SwappedWarning(UserWarning):
    """``y_true`` looks like predictions and ``y_pred`` like truth; the scores would be wrong.

    ``warnings.simplefilter("error", SwappedWarning)`` makes an error of it.
    """


def warn_if_swapped(y_true: Csr, y_pred: Csr | NDArray[Any]) -> None:
    """Warn, in the name of the caller's caller, if `y_true` and `y_pred` look swapped.

    Truth with values other than 0 and 1 is fine by itself (those above 0 are positives). Together
    with predictions that are only 0 and 1, or with fewer entries than the truth has, it is odd.
    """
    truth, scores = getattr(y_true, "data", None), getattr(y_pred, "data", None)
    if not (isinstance(truth, np.ndarray) and isinstance(scores, np.ndarray)):
        return  # ranked ids, which cannot be truth
    odd = truth[(truth != 0) & (truth != 1)]
    if not len(odd):
        return
    if len(scores) and ((scores == 0) | (scores == 1)).all():
        what = "y_pred only 0 and 1"
    elif len(truth) > len(scores):
        what = f"and more entries ({len(truth)}) than y_pred ({len(scores)})"
    else:
        return
    warnings.warn(
        f"y_true holds values other than 0 and 1 ({odd[0]:g}, say), {what}: were y_true and "
        "y_pred swapped? The truth comes first; its values above 0 count as positives",
        SwappedWarning,
        stacklevel=3,
    )
