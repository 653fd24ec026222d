"""Groups of labels that are scored separately, such as head, torso and tail."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dexml import shown
from dexml.data import Csr
from dexml.metrics.propensity import label_counts

FREQUENCIES = ("head", "torso", "tail", "unseen")
"""Labels by their training points: more than 100, 11 to 100, 1 to 10, none."""


@dataclass(frozen=True, eq=False, repr=False)
class LabelGroups:
    """A grouping of labels, for ``Evaluator(label_groups={"name": LabelGroups(...)})``.

    Args:
        names: A name for each group.
        of_label: Group of each label as a position in `names`, -1 for none; shape (n_labels,).

    Raises:
        ValueError: A name occurs twice, or `of_label` is not a vector of integers in range.

    Examples:
        >>> LabelGroups(["books", "music"], [0, 0, 1, -1]).names
        ('books', 'music')
    """

    names: tuple[str, ...]
    """Name of each group."""
    of_label: NDArray[np.int32]
    """Group of each label, shape (n_labels,), read-only; -1 for none."""

    def __init__(self, names: Any, of_label: ArrayLike) -> None:
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ValueError("label groups: names must be a list of strings")
        names = tuple(names)
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"label groups: the name '{twice[0]}' occurs twice")
        groups = np.asarray(of_label)
        if groups.ndim != 1 or not (groups.size == 0 or np.issubdtype(groups.dtype, np.integer)):
            raise ValueError(
                f"label groups: of_label has shape {groups.shape} and dtype {groups.dtype}; "
                "give an integer for each label"
            )
        wrong = np.flatnonzero((groups < -1) | (groups >= len(names)))
        if len(wrong):
            raise ValueError(
                f"label groups: group {groups[wrong[0]]} of label {wrong[0]} out of range "
                f"({len(names)} groups; -1 for none)"
            )
        groups = groups.astype(np.int32)  # a copy, so that the caller cannot change it
        groups.flags.writeable = False
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "of_label", groups)

    def __repr__(self) -> str:
        facts = {"labels": len(self.of_label), "groups": ", ".join(self.names)}
        return shown.line("LabelGroups", facts)

    def __reduce__(self) -> tuple[Callable[..., LabelGroups], tuple[Any, ...]]:
        """Pickle the arguments, so that loading checks them and makes the array read-only."""
        return LabelGroups, (self.names, self.of_label)


@dataclass(frozen=True)
class GroupResult:
    """Scores of one group of labels."""

    metrics: dict[str, float]
    """Metrics of the truth restricted to the group, over the points with a positive in it (NaN if
    there are none). Means over labels are over the labels of the group and over all points."""
    contribution: dict[str, float]
    """Part of P@k (over all labels) that is hits of this group."""
    n_labels: int
    """Labels in the group."""
    n_points: int
    """Points with a positive in the group."""
    n_positives: int
    """Those positives."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values, with None for NaN, which JSON does not have."""
        scores = {name: None if math.isnan(x) else x for name, x in self.metrics.items()}
        return {
            "metrics": scores,
            "contribution": self.contribution,
            "n_labels": self.n_labels,
            "n_points": self.n_points,
            "n_positives": self.n_positives,
        }


def frequency_of(counts: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the position in `FREQUENCIES` of labels with these numbers of training points."""
    return np.where(counts > 100, 0, np.where(counts > 10, 1, np.where(counts > 0, 2, 3)))


def frequency_groups(y_train: Csr, *, tail_max: int = 10, torso_max: int = 100) -> LabelGroups:
    """Group labels into head, torso and tail by their number of training positives.

    Args:
        y_train: Training matrix, shape (n_train, n_labels).
        tail_max: A tail label has at most this many training positives, or none.
        torso_max: A torso label has more, up to this many; a head label has more still.

    Raises:
        ValueError: ``0 <= tail_max < torso_max`` does not hold, or `y_train` is refused as by
            `inv_propensity`.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> y = csr_array(np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0]], dtype=np.float32))
        >>> groups = frequency_groups(y, tail_max=1, torso_max=2)
        >>> groups.names
        ('head (> 2)', 'torso (2-2)', 'tail (<= 1)')
        >>> groups.of_label.tolist()
        [0, 2, 2]
    """
    if not 0 <= tail_max < torso_max:
        raise ValueError(f"tail_max = {tail_max} and torso_max = {torso_max}: 0 <= tail < torso")
    counts = label_counts(y_train)
    names = (
        f"head (> {torso_max})",
        f"torso ({tail_max + 1}-{torso_max})",
        f"tail (<= {tail_max})",
    )
    return LabelGroups(names, np.where(counts > torso_max, 0, np.where(counts > tail_max, 1, 2)))


def decile_groups(y_train: Csr, n: int = 10) -> LabelGroups:
    """Group labels so that each group has an equal share of the training pairs.

    Labels are sorted by falling training frequency, equal ones by id. A label belongs to the share
    in which its first pair lies. So the first group holds a few frequent labels, and the last one
    very many rare ones, unseen labels included. The per-decile plots in the papers of the benchmark
    (DECAF, NGAME) divide labels in this way. After a label with more pairs than a share, groups
    are empty.

    Args:
        y_train: Training matrix, shape (n_train, n_labels).
        n: Number of groups.

    Raises:
        ValueError: `n` is below 1, there are no training pairs, or `y_train` is refused as by
            `inv_propensity`.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    counts = label_counts(y_train)
    total = int(counts.sum())
    if total == 0:
        raise ValueError("y_train: no positive, so there are no shares of them")
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    of_label = np.empty(len(counts), np.int64)
    of_label[order] = np.minimum(before * n // total, n - 1)
    names = []
    for group in range(n):
        own = counts[of_label == group]
        span = f"{own.min()}-{own.max()}" if len(own) else "no label"
        names.append(f"{group + 1}/{n} ({span})")
    return LabelGroups(names, of_label)


def seen_groups(y_train: Csr, *, few_max: int = 3) -> LabelGroups:
    """Group labels into unseen, few-shot (up to `few_max` training positives) and many-shot.

    Args:
        y_train: Training matrix, shape (n_train, n_labels).
        few_max: Most training positives of a few-shot label.

    Raises:
        ValueError: `few_max` is below 1, or `y_train` is refused as by `inv_propensity`.
    """
    if few_max < 1:
        raise ValueError(f"few_max must be at least 1, not {few_max}")
    counts = label_counts(y_train)
    names = ("unseen (0)", f"few-shot (1-{few_max})", f"many-shot (> {few_max})")
    return LabelGroups(names, np.where(counts == 0, 0, np.where(counts <= few_max, 1, 2)))
