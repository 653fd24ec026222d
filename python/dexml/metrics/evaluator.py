"""Streaming evaluation over row blocks; the sums are made in Rust."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, data
from dexml.data import Csr
from dexml.metrics.result import Result

DEFAULT_METRICS = ("P@1", "P@3", "P@5")
BLOCK_ROWS = 65_536
"""Rows handed to the core in one call; between calls Ctrl-C is answered."""


def evaluate(
    y_true: Csr,
    y_pred: Csr | NDArray[np.integer[Any]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    inv_propensity: NDArray[np.float64] | None = None,
    exclude: Csr | None = None,
    empty_rows: Literal["zero", "skip"] = "zero",
    psndcg: Literal["xclib", "matlab"] = "xclib",
    num_threads: int | None = None,
) -> dict[str, float]:
    """Score predictions against the truth, averaged over all points.

    A point without positives counts as 0. Ties in `y_pred` go to the smaller label id.

    Args:
        y_true: Relevant labels, shape (n_points, n_labels); values above 0 are positives.
        y_pred: CSR scores of the same shape (only stored entries are ranked), or ranked ids of
            shape (n_points, k), int32 or int64, padded with -1 at the end of a row.
        metrics: Names such as ``"nDCG@5"``: P, nDCG, R, MRR, PSP, PSnDCG, PSR.
        inv_propensity: Weights for the PS metrics, shape (n_labels,).
        exclude: Pairs to drop from the rankings before they are cut to k, same shape as `y_true`.
        empty_rows: ``"skip"`` leaves points without positives out of the average.
        psndcg: Convention of PSnDCG: as pyxclib or as the Matlab scripts.
        num_threads: Threads; default all cores. The result does not depend on it.

    Returns:
        A fraction for each name, in the order of `metrics`.

    Raises:
        ValueError: Shapes disagree, a name is unknown, a PS metric lacks its weights, a row has
            duplicate or out-of-range labels or NaN scores.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> y_true = csr_array(np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32))
        >>> evaluate(y_true, np.array([[0, 1], [0, 1]]), ["P@1", "P@2", "R@2"])
        {'P@1': 0.5, 'P@2': 0.5, 'R@2': 0.75}
    """
    evaluator = Evaluator(
        y_true.shape[1],
        metrics,
        inv_propensity=inv_propensity,
        empty_rows=empty_rows,
        psndcg=psndcg,
        num_threads=num_threads,
    )
    evaluator.update(y_true, y_pred, exclude=exclude)
    return evaluator.result().metrics


class Evaluator:
    """Streaming evaluation: `update` with block after block of points, then `result`.

    Args:
        n_labels: Number of labels.
        metrics: Names such as ``"nDCG@5"``.
        inv_propensity: Weights for the PS metrics, shape (n_labels,).
        empty_rows: ``"zero"`` or ``"skip"``.
        psndcg: ``"xclib"`` or ``"matlab"``.
        keep_rows: Keep the value of every point too (16 bytes a point and metric at most).
        num_threads: Threads; default all cores. The result is bit-equal for any number.
    """

    def __init__(
        self,
        n_labels: int,
        metrics: Sequence[str] = DEFAULT_METRICS,
        *,
        inv_propensity: NDArray[np.float64] | None = None,
        empty_rows: Literal["zero", "skip"] = "zero",
        psndcg: Literal["xclib", "matlab"] = "xclib",
        keep_rows: bool = False,
        num_threads: int | None = None,
    ) -> None:
        if isinstance(metrics, str):
            raise ValueError(f"metrics: give a list of names such as ['{metrics}'], not a string")
        if inv_propensity is not None:
            inv_propensity = np.ascontiguousarray(inv_propensity, dtype=np.float64)
        self._metrics = [f"{kind}@{k}" for kind, k in _rust.parse_metrics(list(metrics))]
        self._n_labels = n_labels
        self._keep_rows = keep_rows
        self._conventions = {"empty_rows": empty_rows, "psndcg": psndcg, "ties": "smaller id first"}
        self._core = _rust.Evaluator(
            n_labels,
            self._metrics,
            inv_propensity=inv_propensity,
            empty_rows=empty_rows,
            psndcg=psndcg,
            keep_rows=keep_rows,
            num_threads=num_threads,
        )

    def update(
        self,
        y_true: Csr,
        y_pred: Csr | NDArray[np.integer[Any]],
        *,
        exclude: Csr | None = None,
    ) -> None:
        """Add points. Arguments and errors as for :func:`evaluate`; arrays are never changed.

        An error in one row block leaves the points before that block counted.
        """
        indptr, indices, values = data.truth_parts(y_true, "y_true")
        if y_true.shape[1] != self._n_labels:
            raise ValueError(
                f"y_true: {y_true.shape[1]} labels, but the evaluator has {self._n_labels}"
            )
        n_points = y_true.shape[0]
        pairs = data.pair_parts(exclude, y_true.shape, "exclude")
        ids = y_pred if isinstance(y_pred, np.ndarray) else None
        scores = None if isinstance(y_pred, np.ndarray) else data.csr_parts(y_pred, "y_pred")
        expected = y_true.shape if ids is None else (n_points, "k")
        if y_pred.ndim != 2 or y_pred.shape[0] != n_points or (scores and y_pred.shape != expected):
            raise ValueError(f"y_pred: shape {y_pred.shape}, expected {expected} as in y_true")
        if ids is not None and ids.dtype not in (np.int32, np.int64):
            raise ValueError(
                f"y_pred: ids of dtype {ids.dtype}; give int32 or int64 ids, or CSR scores"
            )
        for start in range(0, n_points, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, n_points)
            window = slice(start, stop + 1)
            truth = (indptr[window], indices, values)
            block_pairs = None if pairs is None else (pairs[0][window], pairs[1])
            if scores is not None:
                self._core.update_csr(truth, (scores[0][window], *scores[1:]), block_pairs)
            elif ids is not None:
                block = np.ascontiguousarray(ids[start:stop])
                self._core.update_ids(truth, block, block_pairs)

    def merge(self, other: Evaluator) -> None:
        """Add the points of `other`, an evaluator of the same labels, metrics and options."""
        self._core.merge(other._core)

    def result(self) -> Result:
        """Return the scores so far.

        Raises:
            ValueError: No point is left to average over, or a PS metric has the denominator 0.
        """
        core = self._core
        return Result(
            metrics={name: core.value(name) for name in self._metrics},
            n_points=core.n_rows,
            n_labels=self._n_labels,
            n_empty=core.n_empty,
            n_excluded=core.n_excluded,
            n_excluded_positives=core.n_excluded_positives,
            conventions=dict(self._conventions),
            rows={n: core.row_values(n) for n in self._metrics} if self._keep_rows else {},
        )
