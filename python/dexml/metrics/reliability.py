"""How far probabilities can be trusted: the reliability curve, and precision against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, data
from dexml.data import Csr
from dexml.metrics.binned import BINS, CELLS, cells_of
from dexml.metrics.result import Interval, check_resampling, clusters_of

CURVE = 100
"""Shares of the points that a risk-coverage curve is read at, at most."""


class Bin(NamedTuple):
    """Predicted labels whose probabilities lie between two bounds."""

    low: float
    """Lower bound, in the bin."""
    high: float
    """Upper bound, in the next bin."""
    labels: int
    """Predicted labels in it."""
    probability: float
    """Their mean probability; NaN without labels."""
    precision: float
    """The share of them that is right; NaN without labels."""
    interval: Interval
    """Of the precision; NaN without labels."""


@dataclass(frozen=True)
class Reliability:
    """What `reliability` found."""

    bins: list[Bin]
    """Ten bins of equal width."""
    ece: float
    """Expected calibration error: ``ECE@k`` of `dexml.metrics.evaluate`."""
    ece_interval: Interval
    """Bootstrap interval. An error of bins is never negative: where it is small, samples of the
    bootstrap have larger ones. So it is widened to hold the value itself."""
    coverage: NDArray[np.float64]
    """Shares of the points that are answered, the surest first."""
    risk: NDArray[np.float64]
    """The share of these whose first label is wrong."""

    @property
    def area(self) -> float:
        """Area under the risk-coverage curve: smaller is better."""
        return float(np.trapezoid(self.risk, self.coverage) / np.ptp(self.coverage))


def reliability(
    y_true: Csr,
    probabilities: Csr,
    k: int = 5,
    *,
    exclude: Csr | None = None,
    groups: Sequence[str] | None = None,
    seed: int,
    n_resamples: int = 1000,
) -> Reliability:
    """Compare the probabilities of the first k predicted labels with what is right.

    Args:
        y_true: Relevant labels, shape (n_points, n_labels); values above 0 are positives.
        probabilities: Of the predicted labels, CSR of the same shape; ranked as scores are.
        k: Labels of a point that are looked at.
        exclude: Pairs to drop first.
        groups: A key for each point; points with the same key are drawn together.
        seed: Of the bootstrap.
        n_resamples: Number of bootstrap samples.

    Raises:
        ValueError: Shapes disagree, a value is outside 0..1, there is nothing predicted, or a
            number is out of range.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> y_true = csr_array(np.array([[1, 0, 0]], dtype=np.float32))
        >>> found = reliability(y_true, csr_array(np.array([[0.95, 0.85, 0.35]])), 3, seed=0)
        >>> round(found.ece, 6), [b.labels for b in found.bins]
        (0.416667, [0, 0, 0, 1, 0, 0, 0, 0, 1, 1])
    """
    check_resampling(seed, n_resamples)
    data.expect_csr(y_true, "y_true")
    data.expect_csr(probabilities, "probabilities")
    if y_true.shape != probabilities.shape:
        raise ValueError(
            f"probabilities: shape {probabilities.shape}, but y_true has {y_true.shape}"
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    values = probabilities.data
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("probabilities: a value outside 0..1")
    n_labels = y_true.shape[1]
    pairs = None
    if exclude is not None:
        if exclude.shape != y_true.shape:
            raise ValueError(f"exclude: shape {exclude.shape}, but y_true has {y_true.shape}")
        pairs = data.csr_parts(exclude, "exclude")[:2]
    indptr, indices, scores = data.csr_parts(probabilities, "probabilities")
    ids, p = _rust.topk_csr(indptr, indices, scores.astype(np.float32), n_labels, k, pairs)
    there = ids >= 0
    if not there.any():
        raise ValueError("probabilities: no predicted label")
    hits = data.hits_of(y_true, ids)
    clusters = clusters_of(groups, len(ids))
    unit = np.arange(len(ids)) if clusters is None else clusters.astype(np.int64)
    sums = _bin_sums(p, hits, there, unit)
    rng = np.random.default_rng(seed)
    n_units = len(sums)
    draws = rng.multinomial(n_units, np.full(n_units, 1 / n_units), n_resamples)
    sampled = np.tensordot(draws.astype(np.float64), sums, axes=1)
    total = sums.sum(axis=0)
    order = np.argsort(-np.where(there[:, 0], p[:, 0], 0), kind="stable")
    wrong = np.cumsum(~hits[order, 0]) / np.arange(1, len(ids) + 1)
    at = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), CURVE)).round().astype(np.int64))
    with np.errstate(invalid="ignore", divide="ignore"):
        means, precision = total[:, 2] / total[:, 0], total[:, 1] / total[:, 0]
        spread = sampled[:, :, 1] / sampled[:, :, 0]
    bins = [
        Bin(b / BINS, (b + 1) / BINS, int(total[b, 0]), float(means[b]), float(precision[b]), own)
        for b in range(BINS)
        for own in [_interval(spread[:, b])]
    ]
    ece, spread_of_it = float(_error(total)), _interval(_error(sampled))
    ends = min(spread_of_it.low, ece), max(spread_of_it.high, ece)
    interval = Interval(*ends, spread_of_it.standard_error)
    return Reliability(bins, ece, interval, (at + 1) / len(ids), wrong[at])


def _bin_sums(
    p: NDArray[np.float32],
    hits: NDArray[np.bool_],
    there: NDArray[np.bool_],
    unit: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return labels, hits and probabilities of each unit and bin, (units, BINS, 3)."""
    rows, columns = np.nonzero(there)
    values = p[rows, columns].astype(np.float64)
    number = cells_of(values) // (CELLS // BINS)
    n_units = int(unit.max()) + 1
    at = unit[rows] * BINS + number
    parts = [None, hits[rows, columns].astype(np.float64), values]
    sums = [np.bincount(at, part, minlength=n_units * BINS) for part in parts]
    return np.stack(sums, axis=1).reshape(n_units, BINS, 3).astype(np.float64)


def _error(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the calibration error of sums (..., BINS, 3)."""
    errors = np.abs(sums[..., 1] - sums[..., 2]).sum(axis=-1)
    error: NDArray[np.float64] = errors / sums[..., 0].sum(axis=-1)
    return error


def _interval(values: NDArray[np.float64]) -> Interval:
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high), float(values.std()))
