"""The probability that a label is right, from its score.

A calibration is fitted on answers to texts that the scorer was not fitted on
(`dexml.train.calibrating`): how often labels with such a score were right. It holds what follows
from that too: the precision and recall to expect above a probability (`Expected`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml.files import write_array
from dexml.run import require
from dexml.sealed import Part, Sealed

SECTION = "calibration"
PREFIX = f"{SECTION}/"
MAX_STEPS = 256
"""Of the isotonic regression behind a curve."""
BEST = 20
"""Scores of a text that its level is taken from."""
COLUMNS = (
    "precision",
    "precision low",
    "precision high",
    "recall",
    "recall low",
    "recall high",
    "labels",
    "labels low",
    "labels high",
)
"""What is expected above a probability; low and high are the ends of 90 % bootstrap intervals, so
that 95 % lie above low."""
_HELD = "held_"
_HELD_TYPES: dict[str, tuple[type, int]] = {
    "held_ids": (np.int32, 2),
    "held_probabilities": (np.float32, 2),
    "held_indptr": (np.int64, 1),
    "held_right": (np.int32, 1),
}
ALL = "all"
OLD = "the run was trained by a dexml without calibration; train it again"


@dataclass(frozen=True, eq=False)
class Curve:
    """A probability that rises with the score: straight between some knots, flat beyond them."""

    scores: NDArray[np.float64]
    """Of the knots, ascending, (n,)."""
    values: NDArray[np.float64]
    """Their probabilities, ascending, (n,)."""

    def __call__(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the probability of each score, of the same shape."""
        values: NDArray[np.float64] = np.interp(scores, self.scores, self.values)
        return values


class Level(NamedTuple):
    """How high the best scores of a text are, to be taken off each score.

    Scores are made to rank the labels of one text. Where all of its best ones are high, a high
    score says less. The level is the same for all labels of a text, so their order stays.
    """

    scale: float = 1.0
    """Width of the log-sum-exp."""
    first: float = 0.0
    """Weight of the best score."""
    peak: float = 0.0
    """Weight of ``scale x logsumexp(best / scale)`` over the `BEST` best scores."""
    mean: float = 0.0
    """Weight of their mean."""

    def of(self, best: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the level of each text from its best scores (n, m), best first; (n, 1)."""
        first, peak, mean = summaries(best, self.scale)
        return self.first * first + self.peak * peak + self.mean * mean


def summaries(best: NDArray[np.floating[Any]], scale: float) -> tuple[NDArray[np.float64], ...]:
    """Return the best score, log-sum-exp and mean of the best scores of texts, each (n, 1).

    Args:
        best: Scores, best first, padded with -inf; the first `BEST` are looked at.
        scale: Width of the log-sum-exp.
    """
    best = best[:, :BEST].astype(np.float64)
    there = np.isfinite(best)
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    first = np.where(there[:, :1], best[:, :1], 0)
    total = np.exp(np.where(there, (best - first) / scale, -np.inf)).sum(axis=1, keepdims=True)
    peak = first + scale * np.log(np.maximum(total, 1))  # the first one alone adds 1
    return first, peak, np.where(there, best, 0).sum(axis=1, keepdims=True) / n


class Expected(NamedTuple):
    """What to expect of answers cut at a probability, on texts like those that were held out.

    G groups of labels, the first of them all labels; T probabilities.
    """

    probabilities: NDArray[np.float64]
    """The cuts, ascending, (T,)."""
    table: NDArray[np.float64]
    """(G, T, len(COLUMNS)): of the labels of a group that have at least this probability. Labels
    is their number a text."""
    missed: NDArray[np.float64]
    """Mean share of the labels of a text that are missed, each unit counted once, (T,)."""


class Held(NamedTuple):
    """The held-out answers themselves: n points, D labels a point.

    Weights of labels are chosen on them (`dexml.favour`).
    """

    ids: NDArray[np.int32]
    """Label ids (n, D), best first, padded with -1."""
    probabilities: NDArray[np.float32]
    """Of the same shape, by curves that were fitted without the point and its group."""
    indptr: NDArray[np.int64]
    """The right labels of point i are ``right[indptr[i]:indptr[i + 1]]``, (n + 1,)."""
    right: NDArray[np.int32]
    """Their ids."""

    def check(self) -> None:
        """Refuse arrays that do not fit together.

        Raises:
            ValueError: They do not.
        """
        n = len(self.ids)
        if self.probabilities.shape != self.ids.shape or len(self.indptr) != n + 1:
            raise ValueError("held-out answers of other sizes")
        bounds = self.indptr[[0, -1]].tolist()
        if bounds != [0, len(self.right)] or (np.diff(self.indptr) < 0).any():
            raise ValueError("held-out labels of other sizes")
        if self.ids.min(initial=-1) < -1 or self.right.min(initial=0) < 0:
            raise ValueError("a held-out label below 0")
        if not ((self.probabilities >= 0) & (self.probabilities <= 1)).all():
            raise ValueError("held-out probabilities outside 0..1")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Probabilities of scores, and what to expect above each."""

    seen: Curve
    """For labels with training points, or for all labels."""
    unseen: Curve | None
    """For labels without training points, where there were enough of them to see."""
    level: Level
    """Is taken off the scores before."""
    expected: Expected
    about: dict[str, Any] = field(default_factory=dict)
    """What it rests on, plain data: points, units, hits, depth, groups, kind."""
    held: Held | None = None
    """What it rests on itself; None in runs of older versions."""

    @property
    def depth(self) -> int:
        """Labels a text that were looked at."""
        return int(self.about["depth"])

    @property
    def units(self) -> int:
        """Groups of points, or points where there are no groups, that it was fitted on."""
        return int(self.about["units"])

    @property
    def groups(self) -> list[str]:
        """Names of the groups of labels in `expected`."""
        return list(self.about["groups"])

    def probabilities(
        self,
        ids: NDArray[np.integer[Any]],
        scores: NDArray[np.floating[Any]],
        counts: NDArray[np.integer[Any]],
        best: NDArray[np.floating[Any]] | None = None,
    ) -> NDArray[np.float32]:
        """Return the probability of each answer.

        Args:
            ids: Label ids (n, k), padded with -1.
            scores: Their scores, of the same shape.
            counts: Training points of each label by its id.
            best: The `BEST` best scores of each text, best first, padded with -inf; None: `scores`
                has as many.

        Returns:
            float32, (n, k); 0 for padding.
        """
        scores = scores - self.level.of(scores if best is None else best)
        values = self.seen(scores)
        if self.unseen is not None and len(counts):
            values = np.where(counts[np.maximum(ids, 0)] == 0, self.unseen(scores), values)
        return np.where(ids < 0, 0, values).astype(np.float32)

    def facts(self) -> dict[str, Any]:
        """Return the section of the manifest of a run."""
        return {SECTION: self.about}

    def parts(self) -> dict[str, Part]:
        """Return the arrays as files of a run."""

        def part(name: str, array: NDArray[Any]) -> Part:
            # Nothing of it changes: while it is the same object, its files are not written again.
            return Part(lambda path: write_array(path, array), ".npy", (self, name))

        return {PREFIX + name: part(name, array) for name, array in self.arrays().items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is kept, by name."""
        arrays: dict[str, NDArray[Any]] = {
            "scores": self.seen.scores,
            "values": self.seen.values,
            "cuts": self.expected.probabilities,
            "expected": self.expected.table,
            "missed": self.expected.missed,
            "level": np.array(self.level),
        }
        if self.unseen is not None:
            arrays |= {"unseen_scores": self.unseen.scores, "unseen_values": self.unseen.values}
        if self.held is not None:
            arrays |= {_HELD + name: array for name, array in self.held._asdict().items()}
        return arrays

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]], about: dict[str, Any]) -> Calibration:
        """Return what `arrays` and `about` describe.

        Raises:
            ValueError: They do not fit together.
        """
        seen = Curve(arrays["scores"], arrays["values"])
        unseen = None
        if "unseen_scores" in arrays:
            unseen = Curve(arrays["unseen_scores"], arrays["unseen_values"])
        expected = Expected(arrays["cuts"], arrays["expected"], arrays["missed"])
        level = Level(*arrays["level"].tolist())
        if not np.isfinite(level).all() or level.scale <= 0:
            raise ValueError("a level that is no number")
        for curve in (seen, *(() if unseen is None else (unseen,))):
            if len(curve.scores) != len(curve.values) or not len(curve.scores):
                raise ValueError("knots without values")
            if (np.diff(curve.scores) <= 0).any() or (np.diff(curve.values) < 0).any():
                raise ValueError("a curve that does not rise")
            if not ((curve.values >= 0) & (curve.values <= 1)).all():
                raise ValueError("probabilities outside 0..1")
        shape = (len(about["groups"]), len(expected.probabilities), len(COLUMNS))
        if expected.table.shape != shape or len(expected.missed) != shape[1] or not shape[1]:
            raise ValueError("tables of other sizes")
        held = None
        if _HELD + "ids" in arrays:
            held = Held(*(arrays[_HELD + name] for name in Held._fields))
            held.check()
        return cls(seen, unseen, level, expected, about, held)


@dataclass(frozen=True, eq=False)
class Missing:
    """No calibration, and why."""

    reason: str

    def facts(self) -> dict[str, Any]:
        """Return the section of the manifest of a run."""
        return {} if self.reason == OLD else {SECTION: {"missing": self.reason}}

    def parts(self) -> dict[str, Part]:
        """Return no files."""
        return {}


def restore(state: Sealed) -> Calibration | Missing:
    """Read the calibration of a run whose bytes were checked.

    Raises:
        ValueError: The parts do not fit together.
    """
    if SECTION not in state.facts:
        return Missing(OLD)
    about = require(state, SECTION, {})
    if "missing" in about:
        return Missing(str(about["missing"]))
    about = require(state, SECTION, {"depth": int, "units": int, "groups": list})
    arrays: dict[str, NDArray[Any]] = {
        name: state.array(PREFIX + name, np.float64, (None,))
        for name in (
            "scores",
            "values",
            "cuts",
            "missed",
            "level",
            "unseen_scores",
            "unseen_values",
        )
        if PREFIX + name in state.parts or not name.startswith("unseen")
    }
    arrays["expected"] = state.array(PREFIX + "expected", np.float64, (None, None, None))
    for name, (dtype, n_dims) in _HELD_TYPES.items():
        if PREFIX + name in state.parts:
            arrays[name] = state.array(PREFIX + name, dtype, (None,) * n_dims)
    try:
        return Calibration.of_arrays(arrays, about)
    except (ValueError, KeyError, TypeError) as error:
        raise state.damaged(f"calibration: {error}") from None
