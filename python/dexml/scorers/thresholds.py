"""Where to cut answers, so that they have the precision or the recall that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml.metrics.labelgroups import FREQUENCIES, frequency_of
from dexml.scorers.calibration import ALL, COLUMNS, Calibration


class Estimate(NamedTuple):
    """A value to expect, with the ends of its 90 % bootstrap interval: 95 % lie above `low`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Threshold:
    """A cut at a probability, and what to expect of the answers above it.

    The estimates are those of held-out training points; None where nothing is known.
    """

    min_probability: float
    """Labels of at least this probability are kept."""
    precision: Estimate | None = None
    """Share of the kept labels that are right."""
    recall: Estimate | None = None
    """Share of the right labels that are kept."""
    labels: Estimate | None = None
    """Kept labels a text."""
    by_frequency: Mapping[str, float] = field(default_factory=dict)
    """Cuts of single frequency groups, which go before `min_probability`."""

    def __str__(self) -> str:
        text = f"probability >= {self.min_probability:.4g}"
        cuts = ", ".join(f"{name} {cut:.4g}" for name, cut in self.by_frequency.items())
        text += f" ({cuts})" if cuts else ""
        if self.precision is None or self.recall is None or self.labels is None:
            return text
        precision, recall, labels = self.precision, self.recall, self.labels
        return (
            f"{text}; expected: precision {_percent(precision)}, recall {_percent(recall)}, "
            f"{labels.value:.2f} labels a text ({labels.low:.2f} to {labels.high:.2f})"
        )

    def keeps(
        self,
        ids: NDArray[np.integer[Any]],
        probabilities: NDArray[np.float32],
        counts: NDArray[np.integer[Any]],
    ) -> NDArray[np.bool_]:
        """Return which answers are kept.

        Args:
            ids: Label ids, padded with -1.
            probabilities: Of the same shape.
            counts: Training points of each label by its id.
        """
        cut: Any = np.float32(self.min_probability)
        if self.by_frequency and len(counts):
            cuts = [self.by_frequency.get(name, self.min_probability) for name in FREQUENCIES]
            cut = np.array(cuts, np.float32)[frequency_of(counts[np.maximum(ids, 0)])]
        kept: NDArray[np.bool_] = (probabilities >= cut) & (ids >= 0)
        return kept


def _percent(estimate: Estimate) -> str:
    value, low, high = (100 * number for number in estimate)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def share(name: str, value: float) -> float:
    """Check a share that a caller asks for.

    Raises:
        TypeError: Not a number.
        ValueError: Not above 0 and at most 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} is {type(value).__name__}; expected a number")
    if not 0 < value <= 1:
        raise ValueError(f"{name} = {value:g}; expected a share above 0, and at most 1")
    return float(value)


def at_probability(calibration: Calibration, p: float) -> Threshold:
    """Cut at a probability."""
    p = share("min_probability", p)
    cuts = calibration.expected.probabilities
    at = int(np.searchsorted(cuts, p))
    return Threshold(p) if at == len(cuts) else _threshold(calibration, at, p)


def at_precision(
    calibration: Calibration, precision: float, *, by_frequency: bool = False
) -> Threshold:
    """Cut at the smallest probability above which precision is surely reached.

    The lower end of its interval must reach it on the held-out points.

    Args:
        calibration: The calibration.
        precision: Share of the kept labels that are to be right.
        by_frequency: Find a cut for each frequency group that had enough hits; other labels get
            the cut of all.

    Raises:
        ValueError: It cannot be reached; the message says what can.
    """
    precision = share("min_precision", precision)
    groups = calibration.groups
    at = _first(calibration, 0, precision)
    if at is None:
        best = np.nanmax(calibration.expected.table[0, :, COLUMNS.index("precision low")])
        raise ValueError(
            f"min_precision = {precision:g} cannot be reached for sure; the best that can: "
            f"{np.floor(1000 * max(0.0, float(best))) / 1000:g} (lower 95 % bound on "
            f"{calibration.about['points']} held-out points)"
        )
    cut = _threshold(calibration, at)
    if not by_frequency:
        return cut
    cuts = {}
    for number, name in enumerate(groups):
        if name == ALL:
            continue
        own = _first(calibration, number, precision)
        # Where no cut of the group is sure, none of its labels is kept.
        cuts[name] = 2.0 if own is None else float(calibration.expected.probabilities[own])
    return Threshold(cut.min_probability, by_frequency=cuts)


def at_recall(calibration: Calibration, recall: float) -> Threshold:
    """Cut where a text's kept labels contain this share of its right ones on average.

    Conformal risk control (Angelopoulos et al., 2208.02814): the largest cut t with
    ``(n R(t) + 1) / (n + 1) <= 1 - recall``, R(t) the mean share that n held-out units miss.

    Raises:
        ValueError: The candidates do not contain that many; the message says what they do.
    """
    recall = share("min_recall", recall)
    n, missed = calibration.units, calibration.expected.missed
    bound = (n * missed + 1) / (n + 1)
    fits = np.flatnonzero(bound <= 1 - recall + 1e-12)
    if not len(fits):
        best = np.floor(1000 * (1 - bound.min())) / 1000
        raise ValueError(
            f"min_recall = {recall:g} cannot be guaranteed: the {calibration.depth} best labels of "
            f"a text contain fewer; the largest that can: {best:g}"
            if best > 0
            else f"min_recall = {recall:g} cannot be guaranteed, nor can less"
        )
    return _threshold(calibration, int(fits[-1]))


def _first(calibration: Calibration, group: int, precision: float) -> int | None:
    low = calibration.expected.table[group, :, COLUMNS.index("precision low")]
    fits = np.flatnonzero(low >= precision)
    return int(fits[0]) if len(fits) else None


def _threshold(calibration: Calibration, at: int, p: float | None = None) -> Threshold:
    row = calibration.expected.table[0, at].tolist()
    precision, recall, labels = (Estimate(*row[i : i + 3]) for i in range(0, len(row), 3))
    cut = float(calibration.expected.probabilities[at])
    return Threshold(cut if p is None else p, precision, recall, labels)
