"""``report.html`` of a run: one page that needs nothing but itself, for people.

Everything on it comes in as an argument: no clock, no file and no chance of its own, so equal
input gives equal bytes. Its size does not grow with the data: curves are averaged to a few hundred
points, texts are cut, lists are short.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.data import Csr
from dexml.files import replacing
from dexml.metrics import GroupResult, Interval, Result
from dexml.train import charts, curves, deciles, examples, page
from dexml.train.charts import Bar, Series, percent
from dexml.train.examples import Example

FILE = "report.html"
HEADLINE = ("P@1", "nDCG@5", "PSP@5", "R@100")
"""Metrics shown large, and as validation curves, where they were measured."""
_SILENT = ("resume", "overwrite", "quiet", "debug")
"""Settings that are no part of the command to repeat a run."""
_LONGEST_VALUE = 400


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


def write_report(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    train_counts: NDArray[np.integer[Any]],
    n_train: int,
    label_texts: Sequence[str],
    versions: Mapping[str, str],
    seconds: float,
    result: Result | None = None,
    intervals: Mapping[str, Interval] | None = None,
    resampled: str = "",
    predictions: Predictions | None = None,
) -> Path:
    """Write ``report.html`` into a run directory, beside and renamed.

    Args:
        folder: The run directory.
        settings: The resolved settings, plain values by name.
        defaults: The default of each setting that has one; what differs is shown first.
        log: Lines of ``log.jsonl`` (`dexml.train.curves.read_log`).
        train_counts: Training positives of each label, shape (n_labels,).
        n_train: Training points, validation points among them.
        label_texts: Texts of the labels, by id.
        versions: Versions by name, data hash and the like.
        seconds: Seconds of the whole training.
        result: Test scores; without them the best validation of `log` is shown.
        intervals: Intervals of the metrics (`Result.intervals`).
        resampled: What was resampled for them, in words: ``"points, 1000 resamples"``.
        predictions: Rankings to show groups and examples of; without them there are none.

    Returns:
        The path of the page.

    Raises:
        ValueError: Sizes of the arguments disagree.
    """
    _check(train_counts, label_texts, predictions)
    spans = curves.spans(log)
    select = str(settings.get("select", "nDCG@5"))
    test_counts = None
    if predictions is not None:
        y = predictions.y_true
        test_counts = np.bincount(y.indices[y.data > 0], minlength=y.shape[1])
    name = Path(str(settings.get("data_dir", ""))).name or "a data set"
    seed = int(settings.get("seed", 0) or 0)
    html = page.page(
        f"{name}: dexml training report",
        [
            _header(name, settings, log, n_train, len(train_counts), seconds),
            _scores(result, intervals or {}, resampled, spans, select),
            _training(spans, select),
            _frequency(predictions, train_counts),
            _data(train_counts, n_train, test_counts, predictions),
            _events(log),
            _examples(predictions, label_texts, seed),
            _repeat(settings, defaults, versions),
        ],
    )
    path = folder / FILE
    with replacing(path) as beside:
        beside.write_bytes(html.encode("utf-8", "backslashreplace"))
    return path


def command(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The command that repeats a run: data, ``--out``, and the settings that differ."""
    parts = ["python", "-m", "dexml.train", str(settings.get("data_dir", "DATA_DIR"))]
    parts += ["--out", str(settings.get("out", "RUN"))]
    for name, value in _changed(settings, defaults).items():
        option = name.replace("_", "-")
        if name in ("data_dir", "out", *_SILENT) or value is None:
            continue
        if isinstance(value, bool):
            parts.append(f"--{option}" if value else f"--no-{option}")
        else:
            parts += [f"--{option}", str(value)]
    return shlex.join(parts)


def _check(
    train_counts: NDArray[np.integer[Any]],
    label_texts: Sequence[str],
    predictions: Predictions | None,
) -> None:
    n_labels = len(train_counts)
    if len(label_texts) != n_labels:
        raise ValueError(f"report: {len(label_texts)} label texts for {n_labels} label counts")
    if predictions is None:
        return
    _, y_true, ids, texts, scores, exclude = predictions
    if y_true.shape[1] != n_labels:
        raise ValueError(f"report: y_true has {y_true.shape[1]} labels, train_counts {n_labels}")
    if ids.ndim != 2 or len(ids) != y_true.shape[0] or len(texts) != len(ids):
        raise ValueError(
            f"report: ids of shape {ids.shape} and {len(texts)} texts for {y_true.shape[0]} points"
        )
    if scores is not None and scores.shape != ids.shape:
        raise ValueError(f"report: scores of shape {scores.shape}, but ids {ids.shape}")
    if exclude is not None and exclude.shape != y_true.shape:
        raise ValueError(f"report: exclude of shape {exclude.shape}, but y_true {y_true.shape}")


def _header(
    name: str,
    settings: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    n_train: int,
    n_labels: int,
    seconds: float,
) -> str:
    facts = [f"{n_train:,} training points", f"{n_labels:,} labels", str(settings.get("encoder", ""))]
    facts.append(f"trained in {console.duration(seconds)}")
    begun = next((entry["time"] for entry in log if isinstance(entry.get("time"), int | float)), None)
    if begun is not None and 0 < begun < 1e11:
        facts.append(time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(begun)))
    return (
        '<header>\n<p class="eyebrow">dexml training report</p>\n'
        f"<h1>{page.text(name)}</h1>\n"
        f'<p class="soft">{" · ".join(page.text(fact) for fact in facts if fact)}</p>\n</header>'
    )


def _scores(
    result: Result | None,
    intervals: Mapping[str, Interval],
    resampled: str,
    spans: Sequence[curves.Span],
    select: str,
) -> str:
    if result is not None:
        metrics: Mapping[str, float] = result.metrics
        title, said = "Test scores", [f"{result.n_points:,} test points"]
        if result.n_empty:
            said.append(f"{result.n_empty:,} of them without a true label")
        if result.n_excluded:
            said.append(f"{result.n_excluded:,} filter pairs left out of the rankings")
        words = {"propensity": "propensities with", "standard_errors": ""}
        kept = {k: v for k, v in result.conventions.items() if not (resampled and k in words)}
        said += [f"{key.replace('_', ' ')}: {value}" for key, value in kept.items()]
        if "propensity" in result.conventions and resampled:
            said.append(f"propensity: {result.conventions['propensity']}")
        if intervals:
            said.append(f"95 % bootstrap intervals over {resampled or 'points'}")
    else:
        chosen = curves.best(spans, select)
        if chosen is None:
            return page.section("Scores", page.paragraph("No test part and no validation part."))
        span, entry = chosen
        metrics, title = entry["validation"], "Validation scores"
        said = [
            "no test part was scored: these are the held-out training points on which the epoch was "
            f"chosen ({span.phase} epoch {entry.get('epoch', '?')} by {select}), so they flatter a "
            "little"
        ]
    tiles = [_tile(name, metrics[name], intervals.get(name)) for name in HEADLINE if name in metrics]
    top = max([v for v in metrics.values() if math.isfinite(v)], default=0.0)
    top = max([top, *(i.high for i in intervals.values() if math.isfinite(i.high))]) or 1.0
    rows = []
    for name, value in metrics.items():
        found = intervals.get(name)
        row = [escape(name), _percent(value)]
        if intervals:
            row += [
                f"{_percent(found.low)} to {_percent(found.high)}" if found else "–",
                _whisker(value, found, top),
            ]
        rows.append(row)
    head = ["", "percent", *(["95 % interval", ""] if intervals else [])]
    return page.section(
        title,
        page.grid("tiles", tiles),
        page.table(head, rows),
        page.paragraph("; ".join(said)[:1].upper() + "; ".join(said)[1:] + "."),
    )


def _tile(name: str, value: float, interval: Interval | None) -> str:
    half = ""
    if interval is not None and math.isfinite(interval.high - interval.low):
        half = f" <small>± {50 * (interval.high - interval.low):.1f}</small>"
    return (
        f'<div class="card tile"><span class="name">{escape(name)}</span><b>{_percent(value, 1)}{half}'
        f"</b>{_whisker(value, interval, 1.0)}</div>"
    )


def _whisker(value: float, interval: Interval | None, top: float) -> str:
    if not math.isfinite(value):
        return ""
    low, high = (interval.low, interval.high) if interval else (value, value)
    if not (math.isfinite(low) and math.isfinite(high)):
        low = high = value
    return charts.whisker(low, value, high, 0.0, top)


def _training(spans: Sequence[curves.Span], select: str) -> str:
    if not spans:
        return ""
    parts = []
    loss = curves.curve(spans, "loss")
    phases = list(dict.fromkeys(span.phase for span in spans))
    borders = "; ".join(
        f"{span.stage}: {span.phase} from step {span.start + 1:,}" for span in spans if span.start
    )
    caption = f"Mean loss of the training points, phases {' and '.join(phases)}."
    parts.append(_curve("Training loss", loss, "step", caption + (f" {borders}." if borders else "")))
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
                *(escape(page.printable(word)) for word in (span.stage, span.phase)),
                f"{span.epochs:,}",
                f"{steps:,}",
                console.duration(span.seconds) if span.seconds else "–",
                f"{steps / span.seconds:,.1f}" if span.seconds else "–",
                f"{losses[-1]:.4g}" if losses else "–",
                _percent(best[1]["validation"][select]) if best else "–",
            ]
        )
    head = ["stage", "phase", "epochs", "steps", "time", "steps a second", "last loss"]
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


def _frequency(predictions: Predictions | None, train_counts: NDArray[np.integer[Any]]) -> str:
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
    rows = [
        [
            escape(name),
            *(f"{size:,}" for size in (found.n_labels, found.n_positives, found.n_points)),
            *(_percent(found.contribution[metric]) for metric in precise),
            *(_percent(found.metrics[metric]) for metric in (*precise, recall)),
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
            f"label, and how many labels. Scores are those of the {part} points."
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
) -> str:
    made = []
    for name, value in values.items():
        found = groups[name]
        low, _, high = name.split(": ")[-1].partition("-")
        lines = [charts.number(float(low)) if low.isdigit() else low]
        if high:
            lines[0] += "–"
            lines.append(charts.number(float(high)))
        lines += [""] * (2 - len(lines))
        words = (
            f"labels with {name.split(': ')[-1]} training points: {_percent(value)}; "
            f"{found.n_labels:,} labels, {found.n_positives:,} true pairs in {found.n_points:,} points"
        )
        made.append(Bar([*lines, f"({charts.number(found.n_labels)})"], value, words))
    svg = charts.bars(made, label=title, colour=colour, odd_last=odd)
    return page.figure(title, svg, caption)


def _data(
    train_counts: NDArray[np.integer[Any]],
    n_train: int,
    test_counts: NDArray[np.integer[Any]] | None,
    predictions: Predictions | None,
) -> str:
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
        [series], label="training points of a label by its rank", x_name="rank of the label", log=True
    )
    caption = "Seen labels, the most frequent first; both axes are logarithmic."
    return page.figure("Training points of a label", svg, caption)


def _events(log: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for event, fields in curves.events(log).items():
        rows = [
            [
                escape(page.printable(name)),
                *(charts.number(v) for v in (values[0], min(values), max(values), values[-1])),
            ]
            for name, values in fields.items()
        ]
        n = max(len(values) for values in fields.values())
        title = f"{page.printable(event)} ({n:,} time{'s' if n > 1 else ''})"
        if n == 1:
            parts.append(page.table(["", "value"], [[row[0], row[-1]] for row in rows], caption=title))
        else:
            head = ["", "first", "least", "most", "last"]
            parts.append(page.table(head, rows, caption=title))
    return page.section("Events of the training", *parts)


def _examples(predictions: Predictions | None, label_texts: Sequence[str], seed: int) -> str:
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
            f"Drawn by chance (seed {seed}) from the {part} points: {len(right)} whose first label is "
            f"right, {len(wrong)} whose first label is wrong. ✓ is a true label, ✗ is not known to be "
            "true."
        ),
        *parts,
    )


def _example(
    example: Example, texts: Sequence[str], label_texts: Sequence[str], kind: str
) -> str:
    items = []
    for label, score, true in example.ranked:
        shown = "" if score is None else f"{score:.3f}"
        kind_of, sign = ("yes", "✓") if true else ("no", "✗")
        items.append(_item(kind_of, sign, label_texts[label], shown))
    missed = ""
    if example.missed:
        rows = [
            _item("no", "–", label_texts[label], f"rank {rank}" if rank else "not ranked")
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


def _repeat(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    changed = _changed(settings, defaults)
    rows = [
        [_code(name), _code(value), _code(defaults[name]) if name in defaults else "–"]
        for name, value in changed.items()
    ]
    every = [[_code(name), _code(value)] for name, value in settings.items()]
    return page.section(
        "To repeat it",
        f"<pre>{escape(page.printable(command(settings, defaults)))}</pre>",
        page.table(["setting that is not the default", "value", "default"], rows, words=3),
        page.fold(f"All {len(every)} settings", page.table(["setting", "value"], every, words=2)),
        page.fold(
            "Versions",
            page.table(["", ""], [[_code(k), _code(v)] for k, v in versions.items()], words=2),
        ),
    )


def _changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in settings.items()
        if name not in defaults or defaults[name] != value
    }


def _code(value: Any) -> str:
    words = page.printable(str(value))
    cut = words if len(words) <= _LONGEST_VALUE else words[:_LONGEST_VALUE] + "…"
    return f"<code>{escape(cut)}</code>" if cut else '<span class="more">(empty)</span>'


def _percent(value: float, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else "–"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _median(train_counts: NDArray[np.integer[Any]]) -> int:
    seen = train_counts[train_counts > 0]
    return int(np.quantile(seen, 0.5, method="inverted_cdf")) if len(seen) else 0
