"""The result of an evaluation: scores, counts, and intervals by resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, shown
from dexml.metrics.binned import KINDS, Places
from dexml.metrics.binned import errors as binned_errors
from dexml.metrics.binned import terms as binned_terms
from dexml.metrics.labelgroups import GroupResult

Progress = Callable[[int, int], None]
"""A callback for the number of steps done and the number of all steps."""

STEP = 256
"""Resamples in one call of the core; progress is reported between calls."""


@dataclass(frozen=True)
class Interval:
    """A bootstrap percentile interval and the standard error, as fractions."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""
    standard_error: float
    """Standard deviation of the bootstrap values."""


@dataclass(frozen=True, repr=False)
class Result:
    """The scores of an evaluation, with what they rest on."""

    metrics: dict[str, float]
    """Value of each metric, a fraction."""
    n_points: int
    """Number of points, those without positives included."""
    n_labels: int
    """Number of labels."""
    n_empty: int
    """Points without positives."""
    n_excluded: int
    """Entries dropped from rankings because their pair was excluded."""
    n_excluded_positives: int
    """Positives whose pair was excluded, each a sure miss."""
    conventions: dict[str, str]
    """The options that the scores depend on, such as ``{"empty_rows": "zero"}``."""
    rows: dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]
    """With ``keep_rows``, the value of every point: ``(values, None)``, or numerators and
    denominators for the PS metrics, which are ratios of sums. NaN marks a skipped point."""
    groups: dict[str, dict[str, GroupResult]] = field(default_factory=dict)
    """Scores of label groups, by grouping and group."""
    places: Places | None = None
    """With ``keep_rows``, probabilities and hits of the first labels, for intervals of ECE, ACE and
    kin; None where no such metric is listed."""
    truth: str | None = None
    """With ``keep_rows``, a hash of the positives in order of points: equal for equal truths."""

    def __repr__(self) -> str:
        return shown.line(
            "Result", {**self.metrics, "points": self.n_points, "labels": self.n_labels}
        )

    def _repr_html_(self) -> str:
        rows = {f"{self.n_points:,} points, %": self.metrics}
        for groups in self.groups.values():
            rows |= {name: group.metrics for name, group in groups.items()}
        cells = {
            name: [f"{100 * value:.2f}" for value in metrics.values()]
            for name, metrics in rows.items()
        }
        return shown.grid(list(self.metrics), cells)

    def intervals(
        self,
        groups: Sequence[str] | None = None,
        *,
        seed: int,
        n_resamples: int = 1000,
        confidence: float = 0.95,
        num_threads: int | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Interval]:
        """Compute bootstrap intervals over points, or over groups of points that belong together.

        This needs an evaluator with ``keep_rows=True``. Means over labels are left out. Errors of
        bins (ECE and kin) are never negative, so where they are small, samples of the bootstrap
        have larger ones: their interval is widened to hold the value itself. The bins of ACE stay
        those of all points.

        Args:
            groups: A key for each point; points with the same key are drawn together.
            seed: Seed of the resampling.
            n_resamples: Number of bootstrap samples.
            confidence: Share of the bootstrap values inside the interval (percentile method).
            num_threads: Threads; default all cores. The result does not depend on it.
            progress: Called with the number of resamples done and of all.

        Raises:
            ValueError: There are no values per point, the number of keys is not that of the points,
                or a number is out of range.
        """
        check_resampling(seed, n_resamples)
        binned = [name for name in self.metrics if name.split("@")[0] in KINDS]
        binned = [] if self.places is None else binned
        terms = row_terms(self) if self.rows or not binned else []
        names = [name for name, *_ in terms]
        if self.places is not None:
            terms = [*terms, *binned_terms(self.places, binned)]
        clusters = clusters_of(groups, self.n_points)
        resampler = _rust.Resampler(terms, [], clusters, num_threads=num_threads)
        values = resampled(resampler.bootstrap, seed, n_resamples, progress)
        of_term = {name: row for (name, *_), row in zip(terms, values, strict=True)}
        found = {name: Interval(*_rust.interval(of_term[name], confidence)) for name in names}
        for name, row in binned_errors(binned, of_term).items():
            low, high, error = _rust.interval(np.ascontiguousarray(row), confidence)
            value = self.metrics[name]
            found[name] = Interval(min(low, value), max(high, value), error)
        return {name: found[name] for name in self.metrics if name in found}

    def standard_errors(
        self, groups: Sequence[str] | None = None, *, seed: int, n_resamples: int = 1000
    ) -> dict[str, float]:
        """Compute bootstrap standard errors, with the arguments and errors of `intervals`."""
        intervals = self.intervals(groups, seed=seed, n_resamples=n_resamples)
        return {name: interval.standard_error for name, interval in intervals.items()}

    def as_json(self) -> dict[str, Any]:
        """Return all but `rows`, `places` and `truth`; ``"groups"`` only if there are any."""
        groups = {
            grouping: {name: group.as_json() for name, group in groups.items()}
            for grouping, groups in self.groups.items()
        }
        return {
            "metrics": self.metrics,
            "n_points": self.n_points,
            "n_labels": self.n_labels,
            "n_empty": self.n_empty,
            "n_excluded": self.n_excluded,
            "n_excluded_positives": self.n_excluded_positives,
            "conventions": self.conventions,
            **({"groups": groups} if groups else {}),
        }


Terms = tuple[str, NDArray[np.float64], NDArray[np.float64] | None]


def row_terms(result: Result) -> list[Terms]:
    """Return name, numerators and denominators of the metrics that have a value per point."""
    if not result.rows:
        raise ValueError(
            "resampling needs values per point: Evaluator(..., keep_rows=True), and a metric that "
            "is a mean or a ratio over points"
        )
    return [
        (
            name,
            np.ascontiguousarray(numerators),
            None if denominators is None else np.ascontiguousarray(denominators),
        )
        for name, (numerators, denominators) in result.rows.items()
    ]


def clusters_of(groups: Sequence[str] | None, n_points: int) -> NDArray[np.uint32] | None:
    """Number the keys in order of their first occurrence; None without groups."""
    if groups is None:
        return None
    if len(groups) != n_points:
        raise ValueError(f"groups: {len(groups)} keys for {n_points} points")
    known: dict[Any, int] = {}
    keys = groups.tolist() if isinstance(groups, np.ndarray) else groups
    try:
        numbers = (known.setdefault(key, len(known)) for key in keys)
        return np.fromiter(numbers, np.uint32, n_points)
    except TypeError as error:
        raise ValueError(f"groups: give a string or a number for each point ({error})") from None


def check_resampling(seed: int, n_resamples: int) -> None:
    """Raise ``ValueError`` for a seed or a number of resamples out of range."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in 0..2^64 - 1, not {seed}")
    if n_resamples < 2:
        raise ValueError(f"n_resamples must be at least 2, not {n_resamples}")


def resampled(
    draw: Callable[[int, int, int], NDArray[np.float64]],
    seed: int,
    n_resamples: int,
    progress: Progress | None,
) -> NDArray[np.float64]:
    """Draw all resamples, a few at a time; return values of shape (n_values, n_resamples)."""
    parts = []
    for first in range(0, n_resamples, STEP):
        parts.append(draw(seed, first, min(STEP, n_resamples - first)))
        if progress is not None:
            progress(first + parts[-1].shape[1], n_resamples)
    return np.concatenate(parts, axis=1)
