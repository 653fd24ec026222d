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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.files import replacing
from dexml.metrics import Interval, Result
from dexml.report import charts, curves, page, sections
from dexml.report.sections import HEADLINE, Predictions, in_percent

FILE = "report.html"
_SILENT = ("resume", "overwrite", "quiet", "debug")
"""Settings that are no part of the command to repeat a run."""
_LONGEST_VALUE = 400


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
    title: str = "",
) -> Path:
    """Write ``report.html`` into a run directory, beside and renamed.

    Args:
        folder: The run directory.
        settings: The resolved settings, plain values by name.
        defaults: The default of each setting that has one; what differs is shown first.
        log: Lines of ``log.jsonl`` (`dexml.run.folder.read_log`).
        train_counts: Training positives of each label, shape (n_labels,).
        n_train: Training points, validation points among them.
        label_texts: Texts of the labels, by id.
        versions: Versions by name, data hash and the like.
        seconds: Seconds of the whole training.
        result: Test scores; without them the best validation of `log` is shown.
        intervals: Intervals of the metrics (`Result.intervals`).
        resampled: What was resampled for them, in words: ``"points, 1000 resamples"``.
        predictions: Rankings to show groups and examples of; without them there are none.
        title: Heads the page; default: the name of the data set's folder.

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
    name = title or Path(str(settings.get("data_dir", ""))).name or "a data set"
    seed = int(settings.get("seed", 0) or 0)
    html = page.page(
        f"{name}: dexml training report",
        [
            _header(name, settings, log, n_train, len(train_counts), seconds),
            _scores(result, intervals or {}, resampled, spans, select),
            sections.training(spans, select),
            sections.frequency(predictions, train_counts),
            sections.data(train_counts, n_train, test_counts, predictions),
            sections.events(log),
            sections.drawn(predictions, label_texts, seed),
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
    facts = [
        f"{n_train:,} training points",
        f"{n_labels:,} labels",
        str(settings.get("encoder", "")),
    ]
    facts.append(f"trained in {console.duration(seconds)}")
    begun = next(
        (entry["time"] for entry in log if isinstance(entry.get("time"), int | float)), None
    )
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
        said += [
            f"{key.replace('_', ' ')}: {value}"
            for key, value in result.conventions.items()
            if key != "standard_errors"  # said of the intervals
        ]
        if intervals:
            said.append(f"95 % bootstrap intervals over {resampled or 'points'}")
    else:
        chosen = curves.best(spans, select)
        if chosen is None:
            return page.section("Scores", page.paragraph("No test part and no validation part."))
        span, entry = chosen
        metrics, title = entry["validation"], "Validation scores"
        said = [
            "no test part was scored: these are the held-out training points on which the epoch "
            f"was chosen ({span.phase} epoch {entry.get('epoch', '?')} by {select}), so they "
            "flatter a little"
        ]
    tiles = [
        _tile(name, metrics[name], intervals.get(name)) for name in HEADLINE if name in metrics
    ]
    top = max([v for v in metrics.values() if math.isfinite(v)], default=0.0)
    top = max([top, *(i.high for i in intervals.values() if math.isfinite(i.high))]) or 1.0
    rows = []
    for name, value in metrics.items():
        found = intervals.get(name)
        row = [escape(name), in_percent(value)]
        if intervals:
            row += [
                f"{in_percent(found.low)} to {in_percent(found.high)}" if found else charts.NONE,
                _whisker(value, found, top),
            ]
        rows.append(row)
    head = ["", "percent", *(["95 % interval", ""] if intervals else [])]
    return page.section(
        title,
        page.grid("tiles", tiles),
        page.table(head, rows, kind="scores"),
        page.paragraph("; ".join(said)[:1].upper() + "; ".join(said)[1:] + "."),
    )


def _tile(name: str, value: float, interval: Interval | None) -> str:
    half = ""
    if interval is not None and math.isfinite(interval.high - interval.low):
        half = f" <small>± {50 * (interval.high - interval.low):.1f}</small>"
    return (
        f'<div class="card tile"><span class="name">{escape(name)}</span>'
        f"<b>{in_percent(value, 1)}{half}</b>{_whisker(value, interval, 1.0)}</div>"
    )


def _whisker(value: float, interval: Interval | None, top: float) -> str:
    if not math.isfinite(value):
        return ""
    low, high = (interval.low, interval.high) if interval else (value, value)
    if not (math.isfinite(low) and math.isfinite(high)):
        low = high = value
    return charts.whisker(low, value, high, 0.0, top)


def _repeat(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    changed = _changed(settings, defaults)
    rows = [
        [_code(name), _code(value), _code(defaults[name]) if name in defaults else charts.NONE]
        for name, value in changed.items()
    ]
    every = [[_code(name), _code(value)] for name, value in settings.items()]
    return page.section(
        "To repeat it",
        f"<pre>{_cut(command(settings, defaults), 10 * _LONGEST_VALUE)}</pre>",
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
    cut = _cut(str(value), _LONGEST_VALUE)
    return f"<code>{cut}</code>" if cut else '<span class="more">(empty)</span>'


def _cut(words: str, longest: int) -> str:
    return escape(page.printable(words[:longest] + ("…" if len(words) > longest else "")))
