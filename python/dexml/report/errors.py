"""The labels that fail most on the test part, and what stands in their place."""

from __future__ import annotations

from typing import NamedTuple

from dexml.metrics import Confusion, LabelErrors, confusions, label_errors
from dexml.metrics.propensity import label_counts
from dexml.report.inputs import Training

K = 5
"""Labels of a point that are looked at."""
MISSED, FALSE = 12, 8
"""Labels that are listed because they are missed, and because they are given wrongly."""
INSTEAD = 3
"""Wrong labels that are named for a missed one."""


class Failing(NamedTuple):
    """A label that fails, and what stands where it was missed."""

    label: int
    trained: int
    """Training points."""
    positives: int
    predicted: int
    missed: int
    false: int
    precision: float
    recall: float
    instead: list[Confusion]


class Errors(NamedTuple):
    """What the page says of labels that fail."""

    k: int
    missed: list[Failing]
    """Those that are missed most often."""
    false: list[Failing]
    """Those that are given wrongly most often."""
    n_never: int
    """Labels with a test point that are never found."""
    n_tested: int
    """Labels with a test point."""


def find(training: Training) -> Errors | None:
    """Count errors by label; None without a test part or without labels ranked for it."""
    test = training.test
    if test is None or not test.ids.size:
        return None
    k, trained = min(K, test.ids.shape[1]), label_counts(training.y)
    found = label_errors(test.y_true, test.ids, k, exclude=test.exclude)
    worst = found.worst(MISSED)
    instead: dict[int, list[Confusion]] = {}
    for one in confusions(
        test.y_true,
        test.ids,
        k,
        exclude=test.exclude,
        n=MISSED * INSTEAD,
        by="surprise",
        each=INSTEAD,
        of=worst.tolist(),
    ):
        instead.setdefault(one.right, []).append(one)

    def failing(label: int) -> Failing:
        return _failing(found, label, int(trained[label]), instead.get(label, []))

    tested = found.positives > 0
    return Errors(
        k,
        [failing(label) for label in worst.tolist()],
        [failing(label) for label in found.worst(FALSE, by="false").tolist()],
        int((tested & (found.hits == 0)).sum()),
        int(tested.sum()),
    )


def _failing(found: LabelErrors, label: int, trained: int, instead: list[Confusion]) -> Failing:
    return Failing(
        label,
        trained,
        positives=int(found.positives[label]),
        predicted=int(found.predicted[label]),
        missed=int(found.missed[label]),
        false=int(found.false[label]),
        precision=float(found.precision[label]),
        recall=float(found.recall[label]),
        instead=instead,
    )
