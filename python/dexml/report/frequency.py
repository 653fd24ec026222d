"""Labels by their training frequency, and how well each group of them is found."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml.metrics import Evaluator, GroupResult, LabelGroups
from dexml.report.inputs import Evaluation, Training

Counts = NDArray[np.integer[Any]]
BANDS = ((0, 0), (1, 1), (2, 10), (11, 100), (101, 1000), (1001, None))
"""Training positives of a label, first and last: the rows of the table of the tail."""


class Decile(NamedTuple):
    """Labels that share a tenth of the training pairs, and the scores of the group.

    `low` and `high`: the least and the largest number of training positives; 0 if never seen.
    """

    number: int
    low: int
    high: int
    scores: GroupResult

    @property
    def unseen(self) -> bool:
        """Whether training saw none of the labels."""
        return self.high == 0

    @property
    def span(self) -> str:
        """Training positives of its labels: ``12-57``, ``3`` or ``unseen``."""
        if self.unseen:
            return "unseen"
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}-{self.high:,}"


class Band(NamedTuple):
    """Labels with a number of training positives in a given range, and their pairs."""

    span: str
    n_labels: int
    train_pairs: int
    test_pairs: int


class Sizes(NamedTuple):
    """Sizes of a data set; `median`: training points of a seen label."""

    n_labels: int
    n_seen: int
    train_pairs: int
    test_pairs: int
    median: int
    tail: list[Band]


def shares(counts: Counts, n: int = 10) -> NDArray[np.int64]:
    """Assign each label to one of `n` equal shares of the training pairs.

    Labels are sorted by falling count, equal ones by id, and a label belongs to the share in which
    its first pair lies: as `dexml.metrics.decile_groups` (the division of the plots in DECAF and
    NGAME), but that labels without a pair are a group of their own.

    Args:
        counts: Training positives of each label, shape (L,).
        n: Number of shares.

    Returns:
        A number for each label, shape (L,): 0 to `n` - 1, or `n` for a label without a pair.
    """
    counts = np.asarray(counts, np.int64)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    share = np.empty(len(counts), np.int64)
    share[order] = np.minimum(before * n // max(1, int(counts.sum())), n - 1)
    share[counts == 0] = n
    return share


def by_decile(test: Evaluation, counts: Counts) -> list[Decile]:
    """Score each tenth, and the unseen labels, with P@1, P@5 and R@100 or the nearest possible k.

    Tenths in which no label begins are left out.

    Args:
        test: Rankings of the test points.
        counts: Training positives of each label, shape (L,).
    """
    width = test.ids.shape[1]
    metrics = list(dict.fromkeys(["P@1", f"P@{min(5, width)}", f"R@{min(100, width)}"]))
    used, of_label = np.unique(shares(counts), return_inverse=True)
    groups = LabelGroups([str(share + 1) for share in used], of_label)
    evaluator = Evaluator(len(counts), metrics, label_groups={"deciles": groups})
    evaluator.update(test.y_true, test.ids, exclude=test.exclude)
    found = []
    for i, scores in enumerate(evaluator.result().groups["deciles"].values()):
        own = counts[of_label == i]
        found.append(Decile(int(used[i]) + 1, int(own.min()), int(own.max()), scores))
    return found


def sizes(training: Training) -> Sizes:
    """Count labels and pairs, in all and by bands of training frequency."""
    train, test = training.label_counts, training.test
    tested = np.zeros_like(train) if test is None else test.label_counts
    seen = train[train > 0]
    median = int(np.quantile(seen, 0.5, method="inverted_cdf")) if len(seen) else 0
    bands = []
    for low, high in BANDS:
        inside = (train >= low) & (train <= (train.max(initial=0) if high is None else high))
        span = f"{low:,}" if low == high else f"{low:,}-{high:,}" if high else f"{low:,} or more"
        pairs = (int(counts[inside].sum()) for counts in (train, tested))
        bands.append(Band(span, int(inside.sum()), *pairs))
    return Sizes(len(train), len(seen), int(train.sum()), int(tested.sum()), median, bands)
