"""The labels of each row that are best for a metric, from probabilities.

The most probable labels are best for P@k. Others are best for PSP@k, where a rare label counts
more, and for means over labels (macroP, macroR, macroF, Coverage), where a second right answer of a
label counts less than its first. `rank_for` chooses the labels of all rows together; `learn` and
`Fixed` choose those of a row without regard to the other rows asked. Needs only numpy and scipy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import Csr, csr_parts
from dexml.metrics import evaluate

BY_PROBABILITY = ("P", "nDCG", "R")
BY_PROPENSITY = ("PSP", "PSnDCG", "PSR")
TOGETHER = {"macroP": "precision", "macroF": "f", "Coverage": "coverage"}
"""What the rows of a label are worth together (``_rust.favour``)."""
KINDS = (*BY_PROBABILITY, *BY_PROPENSITY, "macroP", "macroR", "macroF", "Coverage")
MAX_PASSES = 50
SHARED = 0.5
"""How much of what is learned of a label is the mean of labels with as many training points.
Chosen on held-out answers of HPO and DebTags, from 0 to 1 by quarters."""
RECALL_IN_PRECISION = 0.3
"""`learn` takes F with this weight of recall for macroP: with precision alone, a label would be
given once and never again. Chosen as `SHARED` was."""

POWERS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Powers of the weights for macroR to choose from on held-out rows: probabilities of rare labels
are less exact, and the full weights pick their errors."""
LEVELS = (0.5, 0.7, 0.85, 0.95, 1.0)
"""The same for macroP, macroF and Coverage: shares of the metric beside P@k."""

Rows = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
"""Probabilities of some labels of n rows: indptr (n + 1,), label ids, values."""


class Favour(NamedTuple):
    """A metric that a ranking is made for."""

    kind: str
    """One of `KINDS`."""
    k: int
    strength: float = 1.0
    """From near 0, nearly the most probable labels, to 1, the metric alone."""

    def __str__(self) -> str:
        part = "" if self.strength == 1 else f" at {self.strength:g}"
        return f"{self.kind}@{self.k}{part}"


def parse(metric: str, strength: float = 1.0) -> Favour:
    """Read the name of a metric that a ranking is asked for.

    Args:
        metric: Such as ``macroF@5``; other spellings as in `dexml.metrics.evaluate`.
        strength: Above 0, at most 1.

    Raises:
        TypeError: `metric` is not a string, or `strength` not a number.
        ValueError: The metric is unknown (the message has the nearest name), there is no ranking
            for it, or `strength` is out of range.
    """
    if not isinstance(metric, str):
        raise TypeError(f"favour is {type(metric).__name__}; expected a metric, as 'macroF@5'")
    if isinstance(strength, bool) or not isinstance(strength, int | float | np.number):
        raise TypeError(f"strength is {type(strength).__name__}; expected a number")
    if not 0 < strength <= 1:
        raise ValueError(f"strength = {strength:g}; expected above 0, and at most 1")
    known = ", ".join(f"{kind}@k" for kind in KINDS)
    try:
        ((kind, k),) = _rust.parse_metrics([metric])
    except ValueError as error:
        told = str(error).split(" (known:")[0]
        raise ValueError(f"favour: {told}; expected one of {known}") from None
    if kind not in KINDS:
        raise ValueError(f"favour: no ranking is made for {kind}@{k}; expected one of {known}")
    return Favour(kind, k, float(strength))


class Worth(NamedTuple):
    """What labels are worth: ``linear`` for each hit, and ``scale x together`` for all rows.

    The formulas stand in ``rust/xmc-core/src/favour.rs``.
    """

    together: str
    scale: float
    linear: NDArray[np.float64]
    """(n_labels,)."""
    offsets: NDArray[np.float64]
    """(n_labels,)."""

    def mixed(self, scale: float, plain: float) -> Worth:
        """Return this times `scale`, and `plain` for every hit beside it."""
        return self._replace(scale=scale * self.scale, linear=scale * self.linear + plain)


class Climbed(NamedTuple):
    """Labels of rows that are best together; n entries, L labels."""

    gains: NDArray[np.float64]
    """What each entry adds to the utility, (n,): the k largest of a row are its labels."""
    sums: NDArray[np.float64]
    """What the rows that are given a label add up to, (L,)."""
    given: NDArray[np.float64]
    """How many these are, (L,)."""
    utility: float
    passes: int


def climb(rows: Rows, k: int, worth: Worth, *, seed: int) -> Climbed:
    """Choose k labels for each row so that all rows together are worth much.

    Raises:
        ValueError: A value is no probability, a row has a label twice, an id is out of range.
    """
    together, scale, linear, offsets = worth
    return Climbed(
        *_rust.favour(
            rows,
            len(linear),
            k,
            together,
            scale=scale,
            linear=linear,
            offsets=offsets,
            seed=seed,
            max_passes=MAX_PASSES,
        )
    )


def rank_for(
    probabilities: Csr,
    metric: str,
    *,
    seed: int,
    k: int | None = None,
    strength: float = 1.0,
    inv_propensity: NDArray[np.float64] | None = None,
    expected: NDArray[np.floating[Any]] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rank the labels of all rows together, so that a metric of these rows is largest.

    Args:
        probabilities: How likely each label is right, shape (n, n_labels); labels that are not
            stored are never chosen. They have to be calibrated: a metric of all rows weighs a label
            of one row against that of another.
        metric: ``PSP@5``, ``macroP@5``, ``macroR@5``, ``macroF@5``, ``Coverage@5`` or one of the
            others in `KINDS`.
        seed: Of the order in which rows are visited.
        k: Labels a row; default that of the metric. Those beyond it follow by what they would add.
        strength: 1: the metric alone. Below: the utility is ``strength`` parts of the metric and
            ``1 - strength`` parts of P@k, each as a share of what it can reach.
        inv_propensity: For PSP, PSnDCG and PSR: the weight of each label, (n_labels,).
        expected: Right labels to expect among the rows, (n_labels,), for instance their training
            count times n over the training points. macroR and macroF take it where it is more than
            `probabilities` add up to: the positives that are no candidates count too.

    Returns:
        ``ids`` int32 and ``gains`` float32, (n, k), best first, padded with -1 and -inf. Gains are
        what each label adds to the utility.

    Raises:
        TypeError, ValueError: As `parse`; shapes disagree, weights are missing, a value is not
            between 0 and 1, a row has a label twice.

    Example:
        >>> from scipy.sparse import csr_array
        >>> p = csr_array(np.array([[0.9, 0.3], [0.8, 0.2]], np.float32))
        >>> rank_for(p, "P@1", seed=0)[0].tolist()
        [[0], [0]]
        >>> rank_for(p, "coverage@1", seed=0)[0].tolist()
        [[1], [0]]
    """
    asked = parse(metric, strength)
    n_labels = int(probabilities.shape[1])
    indptr, indices, values = csr_parts(probabilities, "probabilities")
    rows: Rows = (indptr, indices, values.astype(np.float32, copy=False))
    most = np.zeros(n_labels) if expected is None else _of_labels("expected", expected, n_labels)
    gains = gains_together(asked, rows, most, inv_propensity, seed=seed)
    k = asked.k if k is None else k
    return _rust.topk_csr(indptr, indices, gains.astype(np.float32), n_labels, k)


def gains_together(
    asked: Favour,
    rows: Rows,
    expected: NDArray[np.float64],
    inv_propensity: NDArray[np.float64] | None,
    *,
    seed: int,
) -> NDArray[np.float64]:
    """Return what each entry adds to the metric of all rows: `rank_for`."""
    beside = np.maximum(_beside(rows, len(expected)), expected)
    worth = _worth(asked.kind, beside, _weights(asked, inv_propensity, len(expected)))
    if asked.strength < 1:
        worth = _mixed(worth, _most(worth, rows, asked.k, seed=seed), asked.strength)
    return climb(rows, asked.k, worth, seed=seed).gains


@dataclass(frozen=True, eq=False)
class Fixed:
    """What a label is worth in a row, whatever other rows are asked."""

    worth: Worth
    sums: NDArray[np.float64]
    """(L,): as in `Climbed`, but of a usual label of its frequency in part."""
    given: NDArray[np.float64]
    """(L,)."""

    def gains(self, rows: Rows) -> NDArray[np.float64]:
        """Return what each entry adds to what labels have."""
        together, scale, linear, offsets = self.worth
        return _rust.gains_given(
            rows,
            len(linear),
            together,
            scale=scale,
            linear=linear,
            offsets=offsets,
            sums=self.sums,
            given=self.given,
        )


def learn(
    asked: Favour,
    rows: Rows,
    counts: NDArray[np.integer[Any]],
    n_points: int,
    *,
    right: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
    inv_propensity: NDArray[np.float64] | None = None,
) -> Fixed:
    """Learn from held-out rows what labels are worth in a row that is asked alone.

    The labels of the held-out rows are chosen together; a new row is then answered as one more of
    them. A label has few held-out rows, so half of what is known of it is the mean of all labels
    with as many training points.

    Args:
        asked: The metric.
        rows: Calibrated probabilities of held-out rows.
        counts: Training points of each label, (L,).
        n_points: Training points.
        right: The right labels of the held-out rows: indptr and label ids. With them the weights
            for macroR get a power, and the other means over labels a share of P@k, that is best on
            halves of the rows; without them the full weights are taken.
        inv_propensity: As in `rank_for`.

    Raises:
        ValueError: As `rank_for`.
    """
    weights = _weights(asked, inv_propensity, len(counts))
    options = POWERS if asked.kind == "macroR" else LEVELS if asked.kind in TOGETHER else (1.0,)
    best = options[-1]
    if right is not None and len(options) > 1 and len(rows[0]) > 2:
        # Learned from one half and judged by the right labels of the other.
        truths = [_pick(*right, half) for half in (0, 1)]
        halves = [(*_pick(*rows[:2], half), _pick(rows[0], rows[2], half)[1]) for half in (0, 1)]
        learners = [_Learner(asked, half, counts, n_points, weights) for half in halves]
        scores = [
            sum(
                _measured(asked, halves[1 - i], learners[i].fixed(option), truths[1 - i])
                for i in (0, 1)
            )
            for option in options
        ]
        best = options[int(np.argmax(scores))]
    return _Learner(asked, rows, counts, n_points, weights).fixed(best, asked.strength)


class _Learner:
    """What is learned from some rows, for any of the options."""

    def __init__(
        self,
        asked: Favour,
        rows: Rows,
        counts: NDArray[np.integer[Any]],
        n_points: int,
        weights: NDArray[np.float64] | None,
    ) -> None:
        n_labels, n_rows = len(counts), len(rows[0]) - 1
        self.asked, self.rows = asked, rows
        self.bucket = np.floor(2 * np.log2(1 + counts.astype(np.float64))).astype(np.int64)
        beside = _shared(_beside(rows, n_labels), self.bucket)
        beside = np.maximum(beside, counts * (n_rows / max(1, n_points)))
        kind = asked.kind
        if kind == "macroP":
            kind, beside = "macroF", RECALL_IN_PRECISION * beside
        self.worth = _worth(kind, beside, weights)
        self.most = _most(self.worth, rows, asked.k, seed=0)

    def fixed(self, option: float, strength: float = 1.0) -> Fixed:
        """Return the weights at a power or level, mixed with P@k."""
        worth, most = self.worth, self.most
        if self.asked.kind == "macroR":
            worth = worth._replace(linear=worth.linear**option)
            most = _most(worth, self.rows, self.asked.k, seed=0)
        else:
            strength *= option
        worth = _mixed(worth, most, strength)
        found = climb(self.rows, self.asked.k, worth, seed=0)
        return Fixed(worth, _shared(found.sums, self.bucket), _shared(found.given, self.bucket))


def _pick(
    indptr: NDArray[np.int64], values: NDArray[Any], half: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return every second row, from row `half` on."""
    lengths = np.diff(indptr)
    mine = np.arange(len(lengths)) % 2 == half
    starts = np.concatenate([[0], np.cumsum(lengths[mine])]).astype(np.int64)
    return starts, values[np.repeat(mine, lengths)]


def _measured(
    asked: Favour, rows: Rows, fixed: Fixed, right: tuple[NDArray[np.int64], NDArray[np.int32]]
) -> float:
    """Return a label-wise metric of rows whose right labels are known."""
    n_labels = len(fixed.sums)
    gains = fixed.gains(rows).astype(np.float32)
    top = _rust.topk_csr(rows[0], rows[1], gains, n_labels, asked.k)[0]
    indptr, labels = right
    shape = (len(indptr) - 1, n_labels)
    y_true = csr_array((np.ones(len(labels), np.float32), labels, indptr), shape=shape)
    metric = f"{asked.kind}@{asked.k}"
    return evaluate(y_true, top, [metric])[metric]


def _shared(values: NDArray[np.float64], bucket: NDArray[np.int64]) -> NDArray[np.float64]:
    """Move the value of each label towards the mean of its bucket."""
    mean = np.bincount(bucket, values) / np.maximum(np.bincount(bucket), 1)
    moved: NDArray[np.float64] = (1 - SHARED) * values + SHARED * mean[bucket]
    return moved


def _beside(rows: Rows, n_labels: int) -> NDArray[np.float64]:
    """Return how many other right rows of a label to expect, given a right one, (n_labels,).

    All that its probabilities add up to, less the mean of those of right rows.
    """
    _, ids, p = rows
    if len(ids) and not 0 <= ids.min() <= ids.max() < n_labels:
        raise ValueError(f"a label id outside 0..{n_labels}")
    p = p.astype(np.float64)
    total = np.bincount(ids, p, minlength=n_labels)
    squares = np.bincount(ids, p**2, minlength=n_labels)
    own = np.divide(squares, total, out=np.zeros(n_labels), where=total > 0)
    return np.maximum(total - own, 0)


def _worth(kind: str, beside: NDArray[np.float64], weights: NDArray[np.float64] | None) -> Worth:
    """Return what a metric alone is worth.

    Args:
        kind: Of the metric.
        beside: Right rows of a label to expect beside a right one, (L,).
        weights: Inverse propensities, where it needs them.
    """
    none = np.zeros(len(beside))
    if kind in TOGETHER:
        return Worth(TOGETHER[kind], 1.0, none, 1 + beside)
    linear = np.ones(len(beside))
    if weights is not None:
        linear = weights
    if kind == "macroR":
        # E[1 / (1 + other right rows)], their number a Poisson variable.
        few = beside < 1e-6
        linear = np.where(few, 1.0, -np.expm1(-beside) / np.where(few, 1.0, beside))
    return Worth("nothing", 0.0, linear, none)


def _most(worth: Worth, rows: Rows, k: int, *, seed: int) -> tuple[float, float]:
    """Return what a metric alone and P@k alone can reach."""
    plain = Worth("nothing", 0.0, np.ones_like(worth.linear), worth.offsets)
    metric, precision = (climb(rows, k, one, seed=seed).utility for one in (worth, plain))
    return metric or 1.0, precision or 1.0


def _mixed(worth: Worth, most: tuple[float, float], strength: float) -> Worth:
    """Mix in P@k, both as a share of what they reach alone."""
    if strength == 1:
        return worth
    return worth.mixed(strength / most[0], (1 - strength) / most[1])


def _weights(
    asked: Favour, inv_propensity: NDArray[np.float64] | None, n_labels: int
) -> NDArray[np.float64] | None:
    if asked.kind not in BY_PROPENSITY:
        return None
    if inv_propensity is None:
        raise ValueError(f"{asked.kind} needs inv_propensity, the weight of each label")
    return _of_labels("inv_propensity", inv_propensity, n_labels)


def _of_labels(name: str, values: NDArray[Any], n_labels: int) -> NDArray[np.float64]:
    if np.shape(values) != (n_labels,):
        raise ValueError(f"{name}: shape {np.shape(values)}; expected ({n_labels},)")
    return np.ascontiguousarray(values, np.float64)
