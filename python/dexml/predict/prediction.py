"""The answer of a predictor, and what is left of it: fewer columns, a cut, sure texts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dexml.scorers.calibration import Calibration, Missing
from dexml.scorers.thresholds import Threshold, share


class _Hits(NamedTuple):
    ids: NDArray[np.int32]
    """Label ids, shape (n, k), best first, padded with -1."""
    scores: NDArray[np.float32]
    """Their scores, shape (n, k), padded with -inf."""


class Prediction(_Hits):
    """The best labels of each text: a pair ``ids, scores``, and probabilities beside it."""

    probabilities: NDArray[np.float32] | None
    """How likely each label is right, shape (n, k), padded with 0. None where the run has no
    probabilities (`Predictor.probabilities_note` says why)."""
    gains: NDArray[np.float32] | None
    """With `favour`: what each label adds to the metric, shape (n, k), best first, padded with
    -inf; else None."""
    uncertainty: NDArray[np.float32] | None = None
    """With ``uncertainty=True``: how likely the first label is wrong, before any cut, (n,)."""
    nearest: NDArray[np.float32] | None = None
    """With ``uncertainty=True`` or `min_nearest`: cosine of the nearest training point, (n,), by
    words where the run has them, else by embeddings. None where no training points vote."""
    abstained: NDArray[np.bool_] | None = None
    """With `abstain_below` or `min_nearest`: True for texts that got no labels for it, (n,)."""

    def __new__(
        cls,
        ids: NDArray[np.int32],
        scores: NDArray[np.float32],
        probabilities: NDArray[np.float32] | None = None,
        gains: NDArray[np.float32] | None = None,
    ) -> Self:
        """Make a prediction of its arrays."""
        self = super().__new__(cls, ids, scores)
        self.probabilities = probabilities
        self.gains = gains
        return self

    def taken(self, at: NDArray[np.int64], gains: NDArray[np.float32]) -> Prediction:
        """Return the labels in the order of the positions `at`, (n, k), with their gains."""
        p = self.probabilities
        return Prediction(
            np.take_along_axis(self.ids, at, axis=1),
            np.take_along_axis(self.scores, at, axis=1),
            None if p is None else np.take_along_axis(p, at, axis=1),
            gains,
        )

    def narrowed(self, k: int) -> Prediction:
        """Keep the first k columns alone, as arrays of their own."""
        beside = (self.probabilities, self.gains)
        return Prediction(
            self.ids[:, :k].copy(),
            self.scores[:, :k].copy(),
            *(None if part is None else part[:, :k].copy() for part in beside),
        )

    def cut(self, by: Threshold, counts: NDArray[np.int64], *, narrow: bool) -> Prediction:
        """Leave out what lies below a threshold, and move the rest together.

        Args:
            by: The threshold.
            counts: Training points of each label.
            narrow: Drop the columns that are padding in every row, but not the first.
        """
        ids, scores = self
        probabilities = self.probabilities
        assert probabilities is not None
        kept = by.keeps(ids, probabilities, counts)
        order = np.argsort(~kept, axis=1, kind="stable")
        there = np.take_along_axis(kept, order, axis=1)
        width = max(1, int(kept.sum(axis=1).max(initial=0))) if narrow else ids.shape[1]

        def moved(values: NDArray[Any], padding: float) -> NDArray[Any]:
            shifted = np.where(there, np.take_along_axis(values, order, axis=1), padding)
            return shifted[:, :width].astype(values.dtype)

        gains = None if self.gains is None else moved(self.gains, -np.inf)
        return Prediction(moved(ids, -1), moved(scores, -np.inf), moved(probabilities, 0), gains)


class Unsure(NamedTuple):
    """What is asked of uncertainty."""

    folder: Path
    """Of the run, for messages."""
    say: bool
    below: float | None
    min_nearest: float | None

    def check(self, calibration: Calibration | Missing) -> None:
        """Refuse what the run cannot say, before anything is computed.

        Raises:
            ValueError: It has no probabilities, or a bound is not above 0 and at most 1.
        """
        if isinstance(calibration, Missing) and (self.say or self.below is not None):
            name = "uncertainty" if self.below is None else "abstain_below"
            raise ValueError(
                f"{self.folder}: {name} needs probabilities, and the run has none "
                f"({calibration.reason})"
            )
        if self.below is not None:
            share("abstain_below", self.below)
        if self.min_nearest is not None:
            share("min_nearest", self.min_nearest)

    @property
    def needs_nearest(self) -> bool:
        """Whether the nearest training point is asked for."""
        return self.say or self.min_nearest is not None

    def applied(
        self,
        found: Prediction,
        wrong: NDArray[np.float32] | None,
        near: NDArray[np.float32] | None,
    ) -> Prediction:
        """Return a prediction with what is asked; texts that are too unsure lose their labels.

        Args:
            found: The prediction.
            wrong: How likely the first label of each text is wrong, (n,).
            near: Cosine of the nearest training point of each text, (n,).
        """
        found.nearest, found.uncertainty = near, wrong if self.say else None
        if self.min_nearest is not None and near is None:
            raise ValueError(f"{self.folder}: min_nearest needs training points that vote")
        if self.below is None and self.min_nearest is None:
            return found
        abstained = np.zeros(len(found.ids), np.bool_)
        if self.below is not None and wrong is not None:
            abstained |= 1 - wrong < np.float32(self.below)
        if self.min_nearest is not None and near is not None:
            abstained |= near < np.float32(self.min_nearest)
        found.abstained = abstained
        found.ids[abstained], found.scores[abstained] = -1, -np.inf
        if found.probabilities is not None:
            found.probabilities[abstained] = 0
        if found.gains is not None:
            found.gains[abstained] = -np.inf
        return found
