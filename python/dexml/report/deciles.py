"""Labels by their training frequency, and how well each group of them is found."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.metrics import Evaluator, GroupResult, LabelGroups

UNSEEN = "unseen"
BANDS = ((0, 0), (1, 1), (2, 10), (11, 100), (101, 1000), (1001, None))
"""Training positives of a label, first and last: the rows of the table of the tail."""


def frequency_deciles(train_counts: NDArray[np.integer[Any]], n: int = 10) -> LabelGroups:
    """Group the seen labels so that each group has an equal share of the training pairs.

    Labels are sorted by falling frequency, equal ones by id, and a label belongs to the share in
    which its first pair lies: as `dexml.metrics.decile_groups` (the division of the plots in
    DECAF and NGAME), but labels without a training pair are a group of their own, the last.
    Shares in which no label begins are left out.

    Args:
        train_counts: Training positives of each label, shape (L,).
        n: Number of shares.

    Returns:
        Groups named by their training counts, such as ``"12-57"``; the last is ``"unseen"``, if
        there is such a label. A name that would stand twice has its share before it.
    """
    counts = np.asarray(train_counts, np.int64)
    total = int(counts.sum())
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    share = np.empty(len(counts), np.int64)
    share[order] = np.minimum(before * n // max(1, total), n - 1)
    share[counts == 0] = n
    used, of_label = np.unique(share, return_inverse=True)
    names: list[str] = []
    for i, number in enumerate(used):
        own = counts[of_label == i]
        low, high = int(own.min()), int(own.max())
        name = f"{low}" if low == high else f"{low}-{high}"
        name = UNSEEN if number == n else name
        names.append(f"{number + 1}/{n}: {name}" if name in names else name)
    return LabelGroups(names, of_label)


def by_decile(
    y_true: Csr,
    ids: NDArray[np.int32],
    train_counts: NDArray[np.integer[Any]],
    exclude: Csr | None = None,
) -> dict[str, GroupResult]:
    """Score each frequency group with P@1, P@5 and R@100, or what the width of `ids` allows.

    Args:
        y_true: Relevant labels, shape (n_points, n_labels).
        ids: Ranked label ids, shape (n_points, k), padded with -1.
        train_counts: Training positives of each label, shape (n_labels,).
        exclude: Pairs left out before ranking, same shape as `y_true`.
    """
    width = ids.shape[1]
    metrics = list(dict.fromkeys(["P@1", f"P@{min(5, width)}", f"R@{min(100, width)}"]))
    groups = frequency_deciles(train_counts)
    evaluator = Evaluator(y_true.shape[1], metrics, label_groups={"deciles": groups})
    evaluator.update(y_true, ids, exclude=exclude)
    return evaluator.result().groups["deciles"]


def tail(
    train_counts: NDArray[np.integer[Any]], test_counts: NDArray[np.integer[Any]] | None
) -> list[tuple[str, int, int, int | None]]:
    """Labels, training pairs and test pairs of each band of training frequency.

    Returns:
        A row a band: its name, its labels, their training positives, their test positives.
    """
    rows = []
    for low, high in BANDS:
        inside = train_counts >= low
        if high is not None:
            inside &= train_counts <= high
        name = (
            f"{low:,} or more" if high is None else f"{low:,}" if low == high else f"{low}-{high:,}"
        )
        tested = None if test_counts is None else int(test_counts[inside].sum())
        rows.append((name, int(inside.sum()), int(train_counts[inside].sum()), tested))
    return rows
