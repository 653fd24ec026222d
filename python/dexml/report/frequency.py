"""Labels by their training frequency, and how well each group of them is found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dexml.data import Csr
from dexml.metrics import Evaluator, GroupResult, LabelGroups, decile_groups
from dexml.metrics.propensity import label_counts
from dexml.report.inputs import Evaluation, Training

BANDS = ((0, 0), (1, 1), (2, 10), (11, 100), (101, 1000), (1001, None))
"""Training positives of a label, first and last: the rows of the table of the tail."""


class Decile(NamedTuple):
    """Labels that share a tenth of the training pairs, and the scores of the group.

    `number` is 1 to 10, or 11 for labels that training never saw. `low` and `high` are the least
    and the largest number of training positives of a label.
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


def by_decile(y_train: Csr, test: Evaluation) -> list[Decile]:
    """Score each tenth, and the unseen labels, with P@1, P@5 and R@100 or the nearest possible k.

    The tenths are those of `dexml.metrics.decile_groups`, but that unseen labels are a group of
    their own, the last. Tenths in which no label begins are left out.

    Args:
        y_train: Labels of the training points, shape (N, L).
        test: Rankings of the test points, at least one label each.
    """
    counts, width = label_counts(y_train), test.ids.shape[1]
    metrics = list(dict.fromkeys(["P@1", f"P@{min(5, width)}", f"R@{min(100, width)}"]))
    tenth = np.full(len(counts), 11)
    if counts.any():
        tenth[counts > 0] = decile_groups(y_train).of_label[counts > 0] + 1
    used, of_label = np.unique(tenth, return_inverse=True)
    groups = LabelGroups([str(number) for number in used], of_label)
    evaluator = Evaluator(len(counts), metrics, label_groups={"deciles": groups})
    evaluator.update(test.y_true, test.ids, exclude=test.exclude)
    found = []
    for i, scores in enumerate(evaluator.result().groups["deciles"].values()):
        own = counts[of_label == i]
        found.append(Decile(int(used[i]), int(own.min()), int(own.max()), scores))
    return found


def sizes(training: Training) -> Sizes:
    """Count labels and pairs, in all and by bands of training frequency."""
    train, test = label_counts(training.y), training.test
    tested = np.zeros_like(train) if test is None else label_counts(test.y_true)
    seen = train[train > 0]
    median = int(np.quantile(seen, 0.5, method="inverted_cdf")) if len(seen) else 0
    bands = []
    for low, high in BANDS:
        inside = (train >= low) & (train <= (train.max(initial=0) if high is None else high))
        span = f"{low:,}" if low == high else f"{low:,}-{high:,}" if high else f"{low:,} or more"
        pairs = (int(counts[inside].sum()) for counts in (train, tested))
        bands.append(Band(span, int(inside.sum()), *pairs))
    return Sizes(len(train), len(seen), int(train.sum()), int(tested.sum()), median, bands)
