"""What an evaluation gives: the scores, what they rest on, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.metrics.labelgroups import GroupResult


@dataclass(frozen=True)
class Result:
    """Scores with what they rest on.

    `rows` holds values per point where the evaluator kept them: ``(values, None)``, or numerator
    and denominator for the PS metrics, which are ratios of sums. NaN marks a skipped point.
    `groups` holds the scores of label groups, by grouping and group.
    """

    metrics: dict[str, float]
    n_points: int
    n_labels: int
    n_empty: int
    n_excluded: int
    n_excluded_positives: int
    conventions: dict[str, str]
    rows: dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]
    groups: dict[str, dict[str, GroupResult]] = field(default_factory=dict)

    def standard_errors(
        self, groups: Sequence[str] | None = None, *, seed: int, n_resamples: int = 1000
    ) -> dict[str, float]:
        """Bootstrap standard errors over points, or over groups of points that belong together.

        Needs an evaluator with ``keep_rows=True``.

        Args:
            groups: A key a point; points with one key are drawn together.
            seed: Seed of the resampling.
            n_resamples: Number of bootstrap samples.
        """
        if not self.rows:
            raise ValueError("standard errors need Evaluator(..., keep_rows=True)")
        if groups is not None and len(groups) != self.n_points:
            raise ValueError(f"groups: {len(groups)} keys for {self.n_points} points")
        _, group = np.unique(
            np.arange(self.n_points) if groups is None else np.asarray(groups), return_inverse=True
        )
        n_groups = int(group.max()) + 1
        sums = []  # (numerator, denominator) of every metric, summed within groups
        for values, denominator in self.rows.values():
            weight = ~np.isnan(values) if denominator is None else np.nan_to_num(denominator)
            for column in (np.nan_to_num(values), weight):
                sums.append(np.bincount(group, column, n_groups))
        sums_array = np.stack(sums, axis=1)
        generator = np.random.default_rng(seed)
        draws = np.empty((n_resamples, sums_array.shape[1]))
        for i in range(n_resamples):
            drawn = np.bincount(generator.integers(n_groups, size=n_groups), minlength=n_groups)
            draws[i] = drawn @ sums_array
        with np.errstate(invalid="ignore"):
            spread = np.nanstd(draws[:, 0::2] / draws[:, 1::2], axis=0, ddof=1)
        return {name: float(value) for name, value in zip(self.rows, spread, strict=True)}

    def as_json(self) -> dict[str, Any]:
        """Return everything but the rows, for ``metrics.json`` and ``--json``.

        ``"groups"`` is there if there are any.
        """
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
