"""Where predictions fail: counts for every label, and which wrong labels stand for which right one.

Counting is done on sparse matrices, so that memory follows from labels, points and the pairs of
labels that are confused at least once, not from the square of the labels: about 30 bytes a label,
50 for each of the k labels of a point, and for `confusions` 8 for each pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust, data, shown
from dexml.data import Csr
from dexml.metrics.evaluator import evaluate

Counts = NDArray[np.int64]
Fractions = NDArray[np.float64]
EXAMPLES = 3
"""Points that are named for a confusion, at most."""
Order = Literal["missed", "false"]
By = Literal["count", "surprise"]


@dataclass(frozen=True, repr=False)
class LabelErrors:
    """What `label_errors` counted, for each of the L labels."""

    k: int
    """Labels of a point that were looked at."""
    n_points: int
    """Number of points."""
    positives: Counts
    """Points that have the label, (L,)."""
    predicted: Counts
    """Points that have it among their first k predicted labels, (L,)."""
    hits: Counts
    """Points that have it in both, (L,)."""

    @property
    def missed(self) -> Counts:
        """Points whose first k labels lack the label that they have, (L,)."""
        return self.positives - self.hits

    @property
    def false(self) -> Counts:
        """Points that are given the label and do not have it, (L,)."""
        return self.predicted - self.hits

    @property
    def precision(self) -> Fractions:
        """Hits / predicted, (L,); NaN for labels that are never predicted."""
        return _share(self.hits, self.predicted)

    @property
    def recall(self) -> Fractions:
        """Hits / positives, (L,); NaN for labels without a positive."""
        return _share(self.hits, self.positives)

    @property
    def f1(self) -> Fractions:
        """Harmonic mean of both, (L,); NaN for labels that are neither predicted nor true."""
        return _share(2 * self.hits, self.positives + self.predicted)

    def worst(self, n: int | None = None, *, by: Order = "missed") -> NDArray[np.int64]:
        """Return the ids of the labels that fail most, the worst first.

        Args:
            n: How many at most; None: all that fail.
            by: ``"missed"``: how often they are missed; ``"false"``: how often they are given and
                not right. Equal counts: the smaller id first.

        Raises:
            ValueError: `by` is neither.
        """
        if by not in ("missed", "false"):
            raise ValueError(f"by = {by!r}; expected 'missed' or 'false'")
        counts = self.missed if by == "missed" else self.false
        order = np.argsort(-counts, kind="stable")[:n]
        return order[counts[order] > 0]

    def _facts(self) -> dict[str, object]:
        return {
            "k": self.k,
            "points": self.n_points,
            "labels": len(self.hits),
            "positives": int(self.positives.sum()),
            "hits": int(self.hits.sum()),
        }

    def __repr__(self) -> str:
        return shown.line("LabelErrors", self._facts())


class Confusion(NamedTuple):
    """A wrong label that stands among the first k where a right one is missing."""

    right: int
    """The label that was missed."""
    wrong: int
    """The label that is not right there."""
    together: int
    """Points where that is so."""
    missed: int
    """Points where `right` was missed, whatever stands there."""
    false: int
    """Points where `wrong` was given and is not right."""
    points: tuple[int, ...]
    """The first of the points, `EXAMPLES` at most."""


def label_errors(
    y_true: Csr,
    y_pred: Csr | NDArray[np.integer[Any]],
    k: int = 5,
    *,
    exclude: Csr | None = None,
) -> LabelErrors:
    """Count for every label how often it is true, predicted, and both.

    Precision, recall and F1 are those whose means over labels are ``macroP@k``, ``macroR@k`` and
    ``macroF@k`` (where 0/0 is 0).

    Args:
        y_true: Relevant labels, shape (n_points, n_labels); values above 0 are positives.
        y_pred: CSR scores or ranked ids, as for `evaluate`.
        k: Labels of a point that are looked at.
        exclude: Pairs to drop from the rankings first; excluded positives count as missed.

    Raises:
        ValueError: As `evaluate`.

    Example:
        >>> y_true = csr_array(np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32))
        >>> found = label_errors(y_true, np.array([[0, 1], [0, 1]]), k=1)
        >>> found.recall.tolist(), found.predicted.tolist(), found.worst().tolist()
        ([1.0, 0.0, 0.0], [2, 0, 0], [1, 2])
    """
    truth, placed = _matrices(y_true, y_pred, k, exclude)
    hits, n_labels = truth.multiply(placed).tocsr(), y_true.shape[1]
    counts = (_columns(matrix, n_labels) for matrix in (truth, placed, hits))
    return LabelErrors(k, y_true.shape[0], *counts)


def confusions(
    y_true: Csr,
    y_pred: Csr | NDArray[np.integer[Any]],
    k: int = 5,
    *,
    exclude: Csr | None = None,
    n: int = 100,
    by: By = "count",
    each: int | None = None,
    of: Sequence[int] | None = None,
) -> list[Confusion]:
    """Find which wrong labels stand where a right label was missed.

    A pair (right, wrong) counts at a point if `right` is a positive that is not among its first k
    labels and `wrong` is among them and no positive.

    Args:
        y_true: Relevant labels, shape (n_points, n_labels); values above 0 are positives.
        y_pred: CSR scores or ranked ids, as for `evaluate`.
        k: Labels of a point that are looked at.
        exclude: Pairs to drop from the rankings first. Excluded positives could not be found, so
            they are not counted as missed here.
        n: Pairs to return at most.
        by: What makes a pair come first: its ``"count"``, or how far that is above what chance
            would give, ``"surprise"``: count x ln(count / (missed x false / n_points)). Frequent
            labels stand beside everything; what surprises says more of single labels.
        each: Pairs to return at most of one missed label; None: as many as there are.
        of: Only pairs whose missed label is one of these.

    Returns:
        The first pairs; equal ones by the ids.

    Raises:
        ValueError: As `evaluate`; an id of `of` is out of range; `by` or `n` is no such value.

    Example:
        >>> y_true = csr_array(np.array([[1, 0, 1], [0, 0, 1]], dtype=np.float32))
        >>> for one in confusions(y_true, np.array([[0], [1]]), k=1):
        ...     print(one)
        Confusion(right=2, wrong=1, together=1, missed=2, false=1, points=(1,))
    """
    if by not in ("count", "surprise"):
        raise ValueError(f"by = {by!r}; expected 'count' or 'surprise'")
    truth, placed = _matrices(y_true, y_pred, k, exclude)
    hits, n_labels = truth.multiply(placed).tocsr(), y_true.shape[1]
    misses, wrong = _without(truth, hits), _without(placed, hits)
    if exclude is not None:
        misses = _without(misses, misses.multiply(_ones(exclude)))
    missed, false = _columns(misses, n_labels), _columns(wrong, n_labels)
    if of is not None:
        ids = np.asarray(list(of), np.int64)
        data.check_ids(ids, n_labels, "of")
        keep = np.zeros(n_labels, np.int32)
        keep[ids] = 1
        misses.data = keep[misses.indices]
        misses.eliminate_zeros()
    by_label = misses.T.tocsr()
    pairs = (by_label @ wrong).tocoo()
    right, other = (part.astype(np.int64) for part in pairs.coords)
    value: NDArray[Any] = pairs.data
    if by == "surprise":
        chance = missed[right] * false[other] / y_true.shape[0]
        value = value * np.log(value / chance)
    some = _largest(value, n) if each is None else np.arange(len(value))
    order = some[np.lexsort((other[some], right[some], -value[some]))]
    if each is not None:
        order = order[_number_of_its_kind(right[order]) < each]
    order = order[:n]
    by_wrong = wrong.T.tocsr()
    return [
        Confusion(a, b, together, int(missed[a]), int(false[b]), _both(by_label, by_wrong, a, b))
        for a, b, together in zip(
            right[order].tolist(), other[order].tolist(), pairs.data[order].tolist(), strict=True
        )
    ]


def _matrices(
    y_true: Csr, y_pred: Csr | NDArray[np.integer[Any]], k: int, exclude: Csr | None
) -> tuple[Csr, Csr]:
    """Return positives and the first k labels as matrices of ones, (n, n_labels) int32."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k = {k!r}; expected a whole number from 1")
    evaluate(y_true, y_pred, [f"P@{k}"], exclude=exclude)  # checks all of them
    n_labels = y_true.shape[1]
    truth = csr_array((y_true.data > 0, y_true.indices, y_true.indptr), shape=y_true.shape)
    truth = truth.astype(np.int32)
    truth.eliminate_zeros()
    truth.sort_indices()
    pairs = data.pair_parts(exclude, y_true.shape, "exclude")
    if isinstance(y_pred, np.ndarray):
        there = y_pred >= 0
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64)
        ranks = np.broadcast_to(-np.arange(y_pred.shape[1], dtype=np.float64), y_pred.shape)
        parts = indptr, y_pred[there].astype(np.int32), ranks[there]
    else:
        parts = data.csr_parts(y_pred, "y_pred")
    ids, _ = _rust.topk_csr(*parts, n_labels, int(k), pairs)
    return truth, data.csr_of_ids(ids, np.ones_like(ids), n_labels)


def _ones(pairs: Csr) -> Csr:
    ones = np.ones(len(pairs.data), np.int32)
    return csr_array((ones, pairs.indices, pairs.indptr), shape=pairs.shape)


def _without(matrix: Csr, less: Csr) -> Csr:
    rest = csr_array(matrix - less)
    rest.eliminate_zeros()
    return rest


def _columns(matrix: Csr, n_labels: int) -> Counts:
    return np.bincount(matrix.indices, minlength=n_labels).astype(np.int64)


def _share(part: Counts, whole: Counts) -> Fractions:
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Fractions = part / whole
    return np.where(whole == 0, np.nan, shares)


def _largest(counts: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Return the positions of the n largest numbers and of all that equal the last of them."""
    if n < 1:
        raise ValueError(f"n = {n}; expected at least 1")
    if len(counts) <= n:
        return np.arange(len(counts))
    least = np.partition(counts, len(counts) - n)[len(counts) - n]
    return np.flatnonzero(counts >= least)


def _number_of_its_kind(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many equal values come before each."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-1))
    number = np.empty(len(values), np.int64)
    number[order] = np.arange(len(values)) - np.repeat(starts, np.diff([*starts, len(values)]))
    return number


def _both(by_label: Csr, by_wrong: Csr, right: int, wrong: int) -> tuple[int, ...]:
    """Return the first points that miss one label and have the other one wrongly."""
    missing, having = (
        matrix.indices[matrix.indptr[label] : matrix.indptr[label + 1]]
        for matrix, label in ((by_label, right), (by_wrong, wrong))
    )
    return tuple(np.intersect1d(missing, having)[:EXAMPLES].tolist())
