"""The sections of ``report.html``: training, label frequency, data, events, examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.data import Csr
from dexml.metrics import GroupResult
from dexml.report import charts, curves, deciles, examples, page
from dexml.report.charts import Bar, Series, percent
from dexml.report.examples import Example

HEADLINE = ("P@1", "nDCG@5", "PSP@5", "R@100")
"""Metrics shown large, and as validation curves, where they were measured."""


class Predictions(NamedTuple):
    """The rankings that groups and examples are made of: test points, or validation points.

    Shapes: `y_true` and `exclude` (n_points, n_labels); `ids` and `scores` (n_points, k), best
    first, -1 where there is none; may be mapped from files. `texts`: one a point.
    """

    part: str
    y_true: Csr
    ids: NDArray[np.int32]
    texts: Sequence[str]
    scores: NDArray[np.float32] | None = None
    exclude: Csr | None = None


def training(spans: Sequence[curves.Span], select: str) -> str:
    """Curves of loss, validation and learning rate, and a line a phase."""
    if not spans:
        return ""
    parts = []
    loss = curves.curve(spans, "loss")
    caption = "Mean of a step or an epoch, over the points that are trained on."
    parts.append(_curve("Training loss", loss, "step", caption))
    names = list(dict.fromkeys([select, *HEADLINE]))
    shown = curves.validation(spans, names)
    place = next((i for i, one in enumerate(shown) if one.name == select), 0)
    marks = curves.chosen_mark(spans, select, place)
    parts.append(
        page.figure(
            "Validation, percent",
            charts.lines(
                shown, label="validation scores by step", x_name="step", y_text=percent, marks=marks
            ),
            "Points held out of the training part; none of them is a test point.",
            [one.name for one in shown],
        )
    )
    for field, title in (
        ("lr", "Learning rate"),
        ("tokens_per_second", "Tokens a second"),
        ("points_per_second", "Points a second"),
    ):
        parts.append(_curve(title, curves.curve(spans, field), "step", "", from_zero=True))
    rows = []
    for span in spans:
        steps = span.stop - span.start
        losses = [entry["loss"] for entry in span.entries if "loss" in entry]
        best = curves.best([span], select)
        rows.append(
            [
                *(escape(word) for word in (span.stage, span.phase)),
                f"{span.epochs:,}",
                f"{steps:,}",
                console.duration(span.seconds) if span.seconds else charts.NONE,
                f"{steps / span.seconds:,.1f}" if span.seconds else charts.NONE,
                f"{losses[-1]:.4g}" if losses else charts.NONE,
                in_percent(best[1]["validation"][select]) if best else charts.NONE,
            ]
        )
    head = ["fit", "stage", "epochs", "steps", "time", "steps a second", "last loss"]
    best_name = f"best {select}"
    return page.section(
        "Training",
        page.grid("charts", parts),
        page.table([*head, best_name], rows, words=2),
    )


def _curve(
    title: str, series: Sequence[Series], x_name: str, caption: str, *, from_zero: bool = False
) -> str:
    names = [one.name for one in series]
    svg = charts.lines(series, label=title, x_name=x_name, from_zero=from_zero)
    return page.figure(title, svg, caption, names)


def frequency(predictions: Predictions | None, train_counts: NDArray[np.integer[Any]]) -> str:
    """How well labels are found by how often training saw them."""
    if predictions is None or not predictions.ids.size:
        return ""
    part = predictions.part
    groups = deciles.by_decile(
        predictions.y_true, predictions.ids, train_counts, predictions.exclude
    )
    precise = [name for name in next(iter(groups.values())).metrics if name.startswith("P@")]
    recall = next(name for name in next(iter(groups.values())).metrics if name.startswith("R@"))
    odd = deciles.UNSEEN in groups and len(groups) > 1
    figures = [
        _bars(
            f"Part of {name}, percentage points",
            {group: found.contribution[name] for group, found in groups.items()},
            groups,
            f"Hits of labels of this group in the first {name[2:]}: the bars add up to {name}.",
            colour=0,
            odd=odd,
        )
        for name in precise
    ]
    found_of = {group: found.metrics[recall] for group, found in groups.items()}
    words = (
        f"Share of a point's true labels of this group among its first {recall[2:]}, mean over the "
        "points that have one."
    )
    figures.append(_bars(f"{recall} within the group, percent", found_of, groups, words, 2, odd))
    sizes = {group: float(found.n_positives) for group, found in groups.items()}
    figures.append(
        _bars(
            f"True pairs of the {part} points",
            sizes,
            groups,
            f"What there was to be found: pairs of a {part} point and a true label of this group.",
            colour=4,
            odd=odd,
            value_text=_compact,
            y_text=_compact,
        )
    )
    rows = [
        [
            escape(name),
            *(f"{size:,}" for size in (found.n_labels, found.n_positives, found.n_points)),
            *(in_percent(found.contribution[metric]) for metric in precise),
            *(in_percent(found.metrics[metric]) for metric in (*precise, recall)),
        ]
        for name, found in groups.items()
    ]
    head = ["training points of a label", "labels", f"{part} pairs", f"{part} points"]
    head += [f"part of {metric}" for metric in precise]
    head += [f"{metric} within" for metric in (*precise, recall)]
    return page.section(
        "By label frequency",
        page.paragraph(
            "Seen labels ranked by their number of training points and cut in ten groups of equal "
            f"numbers of training pairs, as the field does: few frequent labels on the left, many "
            "rare ones on the right (a group in which no label begins is left out). Labels that "
            "training never saw are a group of their own. Under each bar: training points of a "
            f"label, and how many labels (l.). Scores are those of the {part} points."
        ),
        page.grid("charts", figures),
        page.fold("The same as a table, percent", page.table(head, rows)),
    )


def _bars(
    title: str,
    values: Mapping[str, float],
    groups: Mapping[str, GroupResult],
    caption: str,
    colour: int = 0,
    odd: bool = False,
    value_text: Callable[[float], str] = lambda value: in_percent(value, 1),
    y_text: Callable[[float], str] = percent,
) -> str:
    made = []
    for name, value in values.items():
        found = groups[name]
        low, _, high = name.split(": ")[-1].partition("-")
        lines = [_compact(float(low)) if low.isdigit() else low]
        if high:
            lines = [lines[0] + charts.NONE, _compact(float(high))]
        lines += [""] * (2 - len(lines))
        words = (
            f"labels with {name.split(': ')[-1]} training points: {value_text(value)}; "
            f"{found.n_labels:,} labels, {found.n_positives:,} true pairs in "
            f"{found.n_points:,} points"
        )
        made.append(Bar([*lines, f"{_compact(found.n_labels)} l."], value, words))
    svg = charts.bars(
        made, label=title, y_text=y_text, value_text=value_text, colour=colour, odd_last=odd
    )
    return page.figure(title, svg, caption)


def data(
    train_counts: NDArray[np.integer[Any]],
    n_train: int,
    test_counts: NDArray[np.integer[Any]] | None,
    predictions: Predictions | None,
) -> str:
    """Sizes of the data set, and its tail."""
    n_labels, pairs = len(train_counts), int(train_counts.sum())
    seen = int((train_counts > 0).sum())
    facts = [
        ["training points", f"{n_train:,}"],
        ["labels", f"{n_labels:,}"],
        ["labels seen in training", f"{seen:,} ({_share(seen, n_labels)})"],
        ["training pairs", f"{pairs:,}"],
        ["positives of a training point, mean", f"{pairs / max(1, n_train):.2f}"],
        ["training points of a seen label, mean", f"{pairs / max(1, seen):.2f}"],
        ["training points of a seen label, median", f"{_median(train_counts):,}"],
    ]
    part = predictions.part if predictions is not None else ""
    if predictions is not None and test_counts is not None:
        tested = int(test_counts.sum())
        n_points = predictions.y_true.shape[0]
        facts += [
            [f"{part} points", f"{n_points:,}"],
            [f"positives of a {part} point, mean", f"{tested / max(1, n_points):.2f}"],
        ]
    rows = []
    for name, labels, train_pairs, test_pairs in deciles.tail(train_counts, test_counts):
        row = [name, f"{labels:,}", _share(labels, n_labels), f"{train_pairs:,}"]
        row.append(_share(train_pairs, pairs))
        if test_counts is not None and test_pairs is not None:
            row += [f"{test_pairs:,}", _share(test_pairs, int(test_counts.sum()))]
        rows.append(row)
    head = ["training points of a label", "labels", "", "training pairs", ""]
    head += [f"{part} pairs", ""] if test_counts is not None else []
    return page.section(
        "Data",
        page.grid(
            "charts",
            [
                f'<div class="card"><h3>Sizes</h3>{page.table(["", ""], facts)}</div>',
                _rank_chart(train_counts),
            ],
        ),
        page.table(head, rows, caption="The tail: labels by their number of training points"),
    )


def _rank_chart(train_counts: NDArray[np.integer[Any]]) -> str:
    """Training points of a label against its rank, both logarithmic."""
    ordered = np.sort(train_counts[train_counts > 0])[::-1]
    if len(ordered) < 2:
        return ""
    ranks = np.unique(np.geomspace(1, len(ordered), 120).round().astype(np.int64))
    values = [float(ordered[rank - 1]) for rank in ranks]
    series = Series("labels", [float(rank) for rank in ranks], values)
    svg = charts.lines(
        [series],
        label="training points of a label by its rank",
        x_name="rank of the label",
        log=True,
    )
    caption = "Seen labels, the most frequent first; both axes are logarithmic."
    return page.figure("Training points of a label", svg, caption)


def events(log: Sequence[Mapping[str, Any]]) -> str:
    """Numbers of the event lines: label graph, shortlist, whatever else the log tells."""
    parts = []
    for event, fields in curves.events(log).items():
        rows = [
            [
                escape(name),
                *(charts.number(v) for v in (values[0], min(values), max(values), values[-1])),
            ]
            for name, values in fields.items()
        ]
        n = max(len(values) for values in fields.values())
        title = f"{event} ({n:,} time{'s' if n > 1 else ''})"
        if n == 1:
            parts.append(
                page.table(["", "value"], [[row[0], row[-1]] for row in rows], caption=title)
            )
        else:
            head = ["", "first", "least", "most", "last"]
            parts.append(page.table(head, rows, caption=title))
    return page.section("Events of the training", *parts)


def drawn(predictions: Predictions | None, label_texts: Sequence[str], seed: int) -> str:
    """Examples of right and wrong predictions, drawn by `seed`."""
    if predictions is None:
        return ""
    part = predictions.part
    _, y_true, ids, texts, scores, exclude = predictions
    right, wrong = examples.choose(y_true, ids, scores, exclude, seed=seed)
    parts = []
    for found, kind, title in (
        (right, "right", "First label right"),
        (wrong, "wrong", "First label wrong"),
    ):
        boxes = [_example(one, texts, label_texts, kind) for one in found]
        if boxes:
            parts += [f"<h3>{title}</h3>", page.grid("examples", boxes)]
    if not parts:
        return ""
    return page.section(
        "Examples",
        page.paragraph(
            f"Drawn by chance (seed {seed}) from the {part} points: {len(right)} whose first label "
            f"is right, {len(wrong)} whose first label is wrong. ✓ is a true label, ✗ is not known "
            "to be true."
        ),
        *parts,
    )


def _example(example: Example, texts: Sequence[str], label_texts: Sequence[str], kind: str) -> str:
    items = []
    for label, score, true in example.ranked:
        shown = "" if score is None else f"{score:.3f}"
        kind_of, sign = ("yes", "✓") if true else ("no", "✗")
        items.append(_item(kind_of, sign, label_texts[label], shown))
    missed = ""
    if example.missed:
        rows = [
            _item("no", charts.NONE, label_texts[label], f"rank {rank}" if rank else "not ranked")
            for label, rank in example.missed
        ]
        more = example.n_missed - len(example.missed)
        if more:
            rows.append(f'<li><span></span><span class="more">and {more:,} more</span></li>')
        missed = f"<h4>True labels further down</h4><ol>{''.join(rows)}</ol>"
    hits = sum(true for *_, true in example.ranked)
    return (
        f'<div class="card example {kind}"><span class="soft">point {example.point:,} · {hits} of '
        f"{example.n_true:,} true labels in the first {len(example.ranked)}</span>"
        f'<p class="words">{page.text(texts[example.point])}</p>'
        f"<ol>{''.join(items)}</ol>{missed}</div>"
    )


def _item(kind: str, sign: str, words: str, aside: str) -> str:
    return (
        f'<li class="{kind}"><span class="sign">{sign}</span>'
        f'<span>{page.text(words, 120)}</span><span class="score">{aside}</span></li>'
    )


def in_percent(value: float, digits: int = 2) -> str:
    """Write a fraction in percent, without the sign."""
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else charts.NONE


def _compact(value: float) -> str:
    """Write a count in little room: ``950``, ``1.5k``, ``12k``, ``3.4M``."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.{1 if value < 9.95 * unit else 0}f}{letter}"
    return f"{value:.0f}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else charts.NONE


def _median(train_counts: NDArray[np.integer[Any]]) -> int:
    seen = train_counts[train_counts > 0]
    return int(np.quantile(seen, 0.5, method="inverted_cdf")) if len(seen) else 0
