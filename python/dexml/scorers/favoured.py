"""Rankings of a run for a metric: which weights its labels have, and the order that follows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, favour
from dexml.favour import BY_PROPENSITY, Favour, Fixed, Rows
from dexml.metrics.propensity import DEFAULT_CONSTANTS
from dexml.scorers.calibration import Calibration

PROPENSITY = "propensity"
"""Section of the manifest: the constants ``a`` and ``b`` that the run was trained with, and
``n_points``."""


def rows_of(ids: NDArray[np.int32], probabilities: NDArray[np.float32]) -> Rows:
    """Return padded answers (n, D) as rows of probabilities."""
    there = ids >= 0
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64)
    return indptr, ids[there], probabilities[there]


def weights_of(
    asked: Favour, counts: NDArray[np.int64], constants: dict[str, Any]
) -> NDArray[np.float64] | None:
    """Return the inverse propensities of labels, where a metric needs them."""
    if asked.kind not in BY_PROPENSITY:
        return None
    a, b = (constants.get(*one) for one in zip("ab", DEFAULT_CONSTANTS, strict=True))
    return _rust.inv_propensity(counts, int(constants["n_points"]), float(a), float(b))


def learned(
    asked: Favour,
    calibration: Calibration,
    counts: NDArray[np.int64],
    constants: dict[str, Any],
) -> Fixed:
    """Learn what labels are worth in a text that is asked alone.

    Args:
        asked: The metric.
        calibration: Of the run; holds its held-out answers.
        counts: Training points of each label.
        constants: The section `PROPENSITY` of the run.

    Raises:
        ValueError: The run does not keep its held-out answers.
    """
    weights, held = weights_of(asked, counts, constants), calibration.held
    if held is not None:
        rows = rows_of(held.ids, held.probabilities)
    elif asked.kind in BY_PROPENSITY and asked.strength == 1:
        empty = np.zeros(0)
        rows = np.zeros(1, np.int64), empty.astype(np.int32), empty.astype(np.float32)
    else:
        raise ValueError(
            f"favour = {asked} needs the held-out answers of the training, which this run of an "
            "older dexml does not keep; train it again, or choose the labels of all texts together "
            "(together=True, --together)"
        )
    right = None if held is None else (held.indptr, held.right)
    return favour.learn(
        asked, rows, counts, int(constants["n_points"]), right=right, inv_propensity=weights
    )


def together(
    asked: Favour,
    rows: Rows,
    counts: NDArray[np.int64],
    constants: dict[str, Any],
) -> NDArray[np.float64]:
    """Return what each answer adds to the metric of all texts asked.

    Arguments: `learned`; `rows` are the candidates of the texts. The same texts, the same gains.
    """
    n_texts = len(rows[0]) - 1
    expected = counts.astype(np.float64) * (n_texts / max(1, int(constants["n_points"])))
    return favour.gains_together(
        asked, rows, expected, weights_of(asked, counts, constants), seed=0
    )


def order(
    ids: NDArray[np.int32], gains: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the order of answers by their gains, and the gains in this order, both (n, D).

    Args:
        ids: Label ids (n, D), padded with -1.
        gains: One for each that is no padding, row after row.
    """
    # float32, as a file of them holds it: whoever ranks that file finds the same order.
    padded = np.full(ids.shape, -np.inf, np.float32)
    padded[ids >= 0] = gains
    best = np.lexsort((ids, -padded), axis=1)
    return best, np.take_along_axis(padded, best, axis=1)
