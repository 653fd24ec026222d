"""A few predictions to look at: points whose first label is right, and points where it is wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dexml.data import Csr
from dexml.report.inputs import Evaluation

PER_KIND = 6
"""Points whose first label is right, and points where it is wrong, at most."""
SHOWN, MISSED = 8, 6
"""Ranked labels and missed labels shown of a point, at most."""


class Ranked(NamedTuple):
    """A label that was ranked high, and whether it is one of the point's true labels."""

    label: int
    score: float
    true: bool


class Missed(NamedTuple):
    """A true label further down; `rank` counts from 1, None if it was not ranked at all."""

    label: int
    rank: int | None


class Example(NamedTuple):
    """A point with its first labels and the true ones that are not among these."""

    point: int
    ranked: list[Ranked]
    missed: list[Missed]
    n_missed: int
    n_true: int


def choose(
    test: Evaluation, *, seed: int, n: int = PER_KIND
) -> tuple[list[Example], list[Example]]:
    """Draw points whose first label is right and points where it is wrong, `n` of each.

    They are drawn by chance alone, not because they look good, from the points that have a true
    label and a ranked one; they come in the order of the points.

    Returns:
        The right ones and the wrong ones.
    """
    true = test.y_true > 0
    if test.exclude is not None:
        true = true > (test.exclude != 0)  # true, and not excluded
    true.eliminate_zeros()
    n_points, n_labels = true.shape
    rows = np.repeat(np.arange(n_points), np.diff(true.indptr))
    first = np.asarray(test.ids[:, 0], np.int64) if test.ids.shape[1] else np.full(n_points, -1)
    right = np.isin(np.arange(n_points) * n_labels + first, rows * n_labels + true.indices)
    usable = (first >= 0) & (np.diff(true.indptr) > 0)
    generator = np.random.default_rng(seed)
    kinds = []
    for wanted in (right, ~right):
        points = np.flatnonzero(wanted & usable)
        drawn = generator.choice(points, min(n, len(points)), replace=False)
        kinds.append([_example(test, true, int(point)) for point in np.sort(drawn)])
    return kinds[0], kinds[1]


def _example(test: Evaluation, y_true: Csr, point: int) -> Example:
    true = set(y_true.indices[y_true.indptr[point] : y_true.indptr[point + 1]].tolist())
    order = [int(label) for label in test.ids[point] if label >= 0]
    shown = order[:SHOWN]
    ranked = [
        Ranked(label, float(score), label in true)
        for label, score in zip(shown, test.scores[point], strict=False)
    ]
    rank = {label: position for position, label in enumerate(order, start=1)}
    missed = sorted(true - set(shown), key=lambda label: (rank.get(label, len(order) + 1), label))
    first = [Missed(label, rank.get(label)) for label in missed[:MISSED]]
    return Example(point, ranked, first, len(missed), len(true))
