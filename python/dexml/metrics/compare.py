"""Compare two systems: paired bootstrap and sign-flip randomisation test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.metrics.result import (
    Progress,
    Result,
    check_resampling,
    clusters_of,
    resampled,
    row_terms,
)


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems on the same points. All values are fractions."""

    a: float
    """Value of the first system."""
    b: float
    """Value of the second system."""
    difference: float
    """`b` - `a`: positive if the second system is better."""
    low: float
    """Lower end of the interval of the difference."""
    high: float
    """Upper end of the interval of the difference."""
    standard_error: float
    """Standard error of the difference."""
    p_value: float
    """Two-sided p-value of the sign-flip test."""


def compare(
    a: Result,
    b: Result,
    *,
    groups: Sequence[str] | None = None,
    seed: int,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Comparison]:
    """Compare two results on the same points, metric by metric.

    The interval is the percentile interval of b - a in bootstrap samples that both systems share.
    The p-value is two-sided. It comes from swapping the values of the two systems in each point
    (or group) with probability 1/2: ``(1 + n_as_far) / (1 + n_resamples)``. Formulas:
    ``docs/statistics.md``.

    Args:
        a: Result of the system to compare with, from an evaluator with ``keep_rows=True``.
        b: Result of the system in question, with the same metrics and conventions.
        groups: A key for each point; points with the same key are drawn, and swapped, together.
        seed: Seed of the resampling.
        n_resamples: Number of bootstrap samples, and of random swaps.
        confidence: Share of the bootstrap values inside the interval.
        num_threads: Threads; default all cores. The result does not depend on it.
        progress: Called with the number of resamples done and of all.

    Returns:
        A comparison for each metric that has a value per point, in the order of `a`.

    Raises:
        ValueError: The results are of different data, metrics or conventions, or have no values
            per point; the number of keys is not that of the points; or a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> from dexml.metrics import Evaluator
        >>> y_true = csr_array(np.eye(4, dtype=np.float32))
        >>> def scored(ids):
        ...     evaluator = Evaluator(4, ["P@1"], keep_rows=True)
        ...     evaluator.update(y_true, np.array(ids)[:, None])
        ...     return evaluator.result()
        >>> c = compare(scored([0, 0, 0, 0]), scored([0, 1, 2, 0]), seed=0)["P@1"]
        >>> c.a, c.b, c.difference
        (0.25, 0.75, 0.5)
        >>> 0.4 < c.p_value < 0.6
        True
    """
    check_resampling(seed, n_resamples)
    _check_same_data(a, b)
    resampler = _rust.Resampler(
        row_terms(a), row_terms(b), clusters_of(groups, a.n_points), num_threads=num_threads
    )

    def stage(number: int) -> Progress | None:
        """Return the callback for one of the two kinds of resampling."""
        if progress is None:
            return None
        return lambda done, all_: progress(number * all_ + done, 2 * all_)

    values = resampled(resampler.bootstrap, seed, n_resamples, stage(0))
    flips = resampled(resampler.sign_flips, seed, n_resamples, stage(1))
    differences = values[len(a.rows) :] - values[: len(a.rows)]
    comparisons = {}
    for i, (name, (value, tolerance)) in enumerate(
        zip(a.rows, resampler.differences(), strict=True)
    ):
        low, high, standard_error = _rust.interval(differences[i], confidence)
        comparisons[name] = Comparison(
            a=a.metrics[name],
            b=b.metrics[name],
            difference=b.metrics[name] - a.metrics[name],
            low=low,
            high=high,
            standard_error=standard_error,
            p_value=_rust.p_value(value, tolerance, flips[i]),
        )
    return comparisons


def _check_same_data(a: Result, b: Result) -> None:
    """Raise ``ValueError`` if the results cannot be of the same truth and conventions."""
    for name, what in (
        ("n_points", "points"),
        ("n_labels", "labels"),
        ("n_empty", "points without positives"),
        ("n_excluded_positives", "excluded positives"),
    ):
        first, second = getattr(a, name), getattr(b, name)
        if first != second:
            raise ValueError(f"results of different data: {first} and {second} {what}")
    if None not in (a.truth, b.truth) and a.truth != b.truth:
        raise ValueError("results of different data: the positives of the points are not the same")
    for name in sorted(a.conventions.keys() & b.conventions.keys()):
        if a.conventions[name] != b.conventions[name]:
            raise ValueError(
                f"results of different conventions: {name} is '{a.conventions[name]}' and "
                f"'{b.conventions[name]}'"
            )
    if list(a.rows) != list(b.rows):
        raise ValueError(
            f"results of different metrics per point: {', '.join(a.rows) or 'none'} and "
            f"{', '.join(b.rows) or 'none'}"
        )
    for name in a.rows:
        for first, second in zip(a.rows[name], b.rows[name], strict=True):
            _check_same_rows(name, first, second)


def _check_same_rows(
    name: str, first: NDArray[np.float64] | None, second: NDArray[np.float64] | None
) -> None:
    """Raise ``ValueError`` if the skipped rows differ; the core checks the denominators."""
    if first is None or second is None:
        if first is not second:
            raise ValueError(f"results of different kinds: {name} is a ratio in one of them")
        return
    differs = np.isnan(first) != np.isnan(second)
    if differs.any():
        raise ValueError(
            f"results of different data: {name} skips row {int(np.argmax(differs))} in one of them"
        )
