"""The charts of the page: how training went, who is found by label frequency, the long tail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dexml.data import Csr
from dexml.metrics.propensity import label_counts
from dexml.report import charts, curves
from dexml.report.charts import Bar, Figure, Point, Series
from dexml.report.frequency import Decile

HEADLINE = ("P@1", "nDCG@5", "PSP@5", "R@100")
"""Metrics shown large, and as validation curves, where they were measured."""
NONE = "\u2013"
"""Stands for a number that there is not."""


def in_percent(value: float, digits: int = 2) -> str:
    """Write a fraction in percent, without the sign."""
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else NONE


def training(spans: Sequence[curves.Span], select: str) -> list[Figure | None]:
    """Draw loss, validation and learning rate; `select` is the metric that chose the epoch."""
    return [
        charts.lines(
            "Training loss",
            curves.curve(spans, "loss"),
            x_name="step",
            caption="Mean over an epoch, or the loss of one step, on the points trained on.",
        ),
        charts.lines(
            "Validation, percent",
            curves.validation(spans, list(dict.fromkeys([select, *HEADLINE]))),
            x_name="step",
            y_text=charts.percent,
            caption="On training points that were held out; none of them is a test point.",
            mark=curves.best_point(spans, select),
        ),
        charts.lines("Learning rate", curves.curve(spans, "lr"), x_name="step", from_zero=True),
    ]


def by_decile(deciles: Sequence[Decile]) -> list[Figure]:
    """Draw what each group of labels adds to P@k, how well it is found, and how large it is."""
    scores = deciles[0].scores
    (recall,) = (name for name in scores.metrics if name.startswith("R@"))
    figures = [
        charts.bars(
            f"Part of {name}, percentage points",
            _bars(deciles, [one.scores.contribution[name] for one in deciles], _short_percent),
            caption=f"Hits in the first {name[2:]} that are labels of the group: the bars add up "
            f"to {name}.",
        )
        for name in scores.contribution
    ]
    figures.append(
        charts.bars(
            f"{recall} within the group, percent",
            _bars(deciles, [one.scores.metrics[recall] for one in deciles], _short_percent),
            caption="Share of a point's true labels in the group that are among its first "
            f"{recall[2:]}: mean over the points that have one.",
            colour=2,
        )
    )
    figures.append(
        charts.bars(
            "True pairs of the test points",
            _bars(deciles, [float(one.scores.n_positives) for one in deciles], _compact),
            y_text=_compact,
            caption="What there was to find: pairs of a test point and a true label of the group.",
            colour=4,
        )
    )
    return figures


def label_ranks(y_train: Csr) -> Figure | None:
    """Draw the training points of a label against its rank, both axes logarithmic."""
    counts = label_counts(y_train)
    ordered = np.sort(counts[counts > 0])[::-1]
    if len(ordered) < 2:
        return None
    ranks = np.unique(np.geomspace(1, len(ordered), 120).round().astype(np.int64))
    points = [Point(float(rank), float(ordered[rank - 1])) for rank in ranks]
    return charts.lines(
        "Training points of a label",
        [Series("", points)],
        x_name="rank of the label",
        caption="Seen labels, the most frequent first; both axes are logarithmic.",
        log=True,
    )


def _bars(
    deciles: Sequence[Decile], values: Sequence[float], text: Callable[[float], str]
) -> list[Bar]:
    bars = []
    for one, value in zip(deciles, values, strict=True):
        under = "unseen" if one.unseen else _compact(one.low)
        if one.low < one.high:
            under += "+"
        above = text(value) if math.isfinite(value) else NONE
        whose = "unseen labels" if one.unseen else f"labels with {one.span} training points"
        title = (
            f"{whose}: {above}; {one.scores.n_labels:,} labels, "
            f"{one.scores.n_positives:,} true pairs in {one.scores.n_points:,} points"
        )
        odd = one.unseen and len(deciles) > 1
        bars.append(Bar(under, value, above, title, odd))
    return bars


def _short_percent(value: float) -> str:
    return in_percent(value, 1).replace("100.0", "100")


def _compact(value: float) -> str:
    """Write a count in little room: ``950``, ``1.5k``, ``12k``, ``3.4M``."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.{1 if value < 9.95 * unit else 0}f}{letter}"
    return f"{value:.0f}"
