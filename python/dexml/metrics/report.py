"""Output of ``python -m dexml.metrics``: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dexml import console
from dexml.metrics.compare import Comparison
from dexml.metrics.labelgroups import GroupResult
from dexml.metrics.result import Interval, Result
from dexml.metrics.views import View

LEVELS = {"***": 0.001, "**": 0.01, "*": 0.05}
LONGEST_NAME = 30


@dataclass(frozen=True)
class Scored:
    """A prediction file with its scores, intervals, comparison and views."""

    name: str
    result: Result
    intervals: dict[str, Interval]
    comparison: dict[str, Comparison]
    views: dict[str, View]


def as_json(scored: Sequence[Scored], other: str | None, resampling: dict[str, Any]) -> str:
    """Return one object for one prediction, and a list under ``results`` for several."""
    objects = [_object(entry, other, resampling) for entry in scored]
    if len(objects) == 1:
        return json.dumps(objects[0], indent=2)
    named = [{"pred": entry.name} | one for entry, one in zip(scored, objects, strict=True)]
    return json.dumps({"results": named}, indent=2)


def _object(entry: Scored, other: str | None, resampling: dict[str, Any]) -> dict[str, Any]:
    out = entry.result.as_json()
    if entry.views:
        out["views"] = {name: view.as_json() for name, view in entry.views.items()}
    if entry.intervals:
        out["intervals"] = {name: _numbers(ends) for name, ends in entry.intervals.items()}
    if other is not None:
        metrics = {name: _numbers(compared) for name, compared in entry.comparison.items()}
        out["comparison"] = {"a": other, "b": entry.name, "metrics": metrics}
    return out | ({"resampling": resampling} if resampling else {})


def _numbers(record: Interval | Comparison) -> dict[str, float | None]:
    """Return the fields by name, with None for NaN, which JSON does not have."""
    return {name: None if math.isnan(value) else value for name, value in asdict(record).items()}


def as_csv(scored: Sequence[Scored], other: str | None) -> str:
    """Return a line for each prediction and metric, with only the columns that were asked for."""
    lines = []
    for entry in scored:
        for metric, value in entry.result.metrics.items():
            line: dict[str, Any] = {"pred": entry.name, "metric": metric, "value": value}
            if entry.intervals:
                interval = entry.intervals.get(metric)
                line |= _cells(interval, "", ("low", "high", "standard_error"))
            if other is not None:
                compared = entry.comparison.get(metric)
                line |= {"other": other} | _cells(compared, "other_", ("a",))
                line |= _cells(compared, "", ("difference",))
                line |= _cells(compared, "difference_", ("low", "high", "standard_error"))
                line |= _cells(compared, "", ("p_value",))
            lines.append(line)
        lines += [*_group_lines(entry), *_view_lines(entry)]
    return _csv(lines)


def _group_lines(entry: Scored) -> list[dict[str, Any]]:
    """Return a line for each label group and metric."""
    return [
        {
            "pred": entry.name,
            "metric": metric,
            "value": None if math.isnan(value) else value,
            "grouping": grouping,
            "group": name,
            "contribution": group.contribution.get(metric),
            "n_labels": group.n_labels,
            "n_points": group.n_points,
            "n_positives": group.n_positives,
        }
        for grouping, groups in entry.result.groups.items()
        for name, group in groups.items()
        for metric, value in group.metrics.items()
    ]


def _view_lines(entry: Scored) -> list[dict[str, Any]]:
    """Return a line for each view and metric."""
    return [
        {
            "pred": entry.name,
            "metric": metric,
            "value": value,
            "view": name,
            "n_labels": view.n_labels,
            "n_points": view.n_points,
            "n_positives": view.n_positives,
            "n_short": view.n_short,
        }
        for name, view in entry.views.items()
        for metric, value in view.metrics.items()
    ]


def _cells(
    record: Interval | Comparison | None, prefix: str, fields: Sequence[str]
) -> dict[str, Any]:
    numbers = {} if record is None else _numbers(record)
    return {(prefix + field).replace("_a", "_value"): numbers.get(field) for field in fields}


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    columns = dict.fromkeys(column for line in lines for column in line)
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue().rstrip("\n")


def as_table(scored: Sequence[Scored], other: str | None) -> str:
    """Return percentages for people.

    One prediction: a table of kinds x k. Several: a table for each kind, with a row for each.
    """
    if len(scored) == 1:
        cells = _by_kind(scored[0].result.metrics, scored[0].intervals)
        columns = sorted({k for of_kind in cells.values() for k in of_kind})
        rows = [(kind, [of_k.get(k, "-") for k in columns]) for kind, of_k in cells.items()]
        parts = [console.grid("percent", [f"@{k}" for k in columns], rows)]
    else:
        parts = _blocks(
            {
                name: _by_kind(entry.result.metrics, entry.intervals)
                for name, entry in zip(short_names([s.name for s in scored]), scored, strict=True)
            }
        )
    for entry in scored:
        if entry.views:
            of_pred = "" if len(scored) == 1 else f" of {short_names([entry.name])[0]}"
            parts.append(f"Views{of_pred}: each ranked and counted alone\n{_views(entry.views)}")
        for grouping, groups in entry.result.groups.items():
            of_pred = "" if len(scored) == 1 else f" of {short_names([entry.name])[0]}"
            first, *more = _groups(groups)
            parts += [f"Label groups{of_pred}: {grouping}\n{first}", *more]
    if other is not None:
        parts += [_comparison(entry, other) for entry in scored]
    return "\n\n".join(parts)


def _by_kind(
    metrics: Mapping[str, float], intervals: Mapping[str, Interval]
) -> dict[str, dict[int, str]]:
    """Return cells in percent, by kind of metric and k."""
    cells: dict[str, dict[int, str]] = {}
    for name, value in metrics.items():
        kind, k = name.split("@")
        cell = "-" if math.isnan(value) else f"{100 * value:.2f}"
        if name in intervals:
            cell += f" ±{100 * intervals[name].standard_error:.2f}"
        cells.setdefault(kind, {})[int(k)] = cell
    return cells


def _blocks(lines: Mapping[str, Mapping[str, Mapping[int, str]]]) -> list[str]:
    """Return a table for each kind of metric, with a row for each of `lines`."""
    parts = []
    for kind in dict.fromkeys(kind for cells in lines.values() for kind in cells):
        columns = sorted({k for cells in lines.values() for k in cells.get(kind, {})})
        rows = [
            (name, [cells.get(kind, {}).get(k, "-") for k in columns])
            for name, cells in lines.items()
        ]
        parts.append(console.grid(f"{kind}, percent", [f"@{k}" for k in columns], rows))
    return parts


def _views(views: Mapping[str, View]) -> str:
    """Return a table of views: sizes and metrics."""
    metrics = list(next(iter(views.values())).metrics)
    rows = []
    for name, view in views.items():
        sizes = (view.n_labels, view.n_points, view.n_positives)
        rows.append((name, [*map(str, sizes), *(f"{100 * view.metrics[m]:.2f}" for m in metrics)]))
    return console.grid("percent", ["labels", "points", "positives", *metrics], rows)


def _groups(groups: Mapping[str, GroupResult]) -> list[str]:
    """Return a table of sizes and shares of P@k, then a table for each kind of metric."""
    shares = list(dict.fromkeys(name for group in groups.values() for name in group.contribution))
    rows = []
    for name, group in groups.items():
        cells = [f"{size}" for size in (group.n_labels, group.n_points, group.n_positives)]
        rows.append((name, cells + [f"{100 * group.contribution[share]:.2f}" for share in shares]))
    heads = ["labels", "points", "positives", *(f"of {share}" for share in shares)]
    blocks = _blocks({name: _by_kind(group.metrics, {}) for name, group in groups.items()})
    return [console.grid("", heads, rows), *blocks]


def _comparison(entry: Scored, other: str) -> str:
    """Return a table of differences, intervals and p-values, with a legend of the marks."""
    rows = []
    for name, c in entry.comparison.items():
        mark = next((mark for mark, level in LEVELS.items() if c.p_value < level), "")
        interval = f"[{100 * c.low:+.2f}, {100 * c.high:+.2f}]"
        numbers = [f"{100 * c.a:.2f}", f"{100 * c.b:.2f}", f"{100 * c.difference:+.2f}"]
        rows.append((name, [*numbers, interval, f"{c.p_value:.4f}", mark.ljust(3)]))
    table = console.grid("percent", ["a", "b", "b - a", "95 % interval", "p", "   "], rows)
    a, b = short_names([other, entry.name])
    many = (
        f"\n{len(rows)} tests at once: by Bonferroni's rule only p < {0.05 / len(rows):.2g} is "
        "significant at 0.05."
        if len(rows) > 1
        else ""
    )
    return f"a = {a}, b = {b}\n{table}\n* p < 0.05, ** p < 0.01, *** p < 0.001{many}"


def footnote(scored: Sequence[Scored], resampling: Mapping[str, Any]) -> str:
    """Return what the scores rest on: points, conventions, resampling. For stderr."""
    first = scored[0].result
    excluded = f"{first.n_excluded} excluded entries, " if len(scored) == 1 else ""
    lines = [
        f"{first.n_points} points ({first.n_empty} without positives), {first.n_labels} labels, "
        f"{excluded}{first.n_excluded_positives} excluded positives; "
        + ", ".join(f"{name}: {value}" for name, value in first.conventions.items())
    ]
    if scored[0].intervals:
        lines.append(
            "±: standard error, bootstrap over {units} ({n_resamples} resamples, seed {seed}); "
            "--csv and --json have the 95 % intervals".format(**resampling)
        )
    if scored[0].comparison:
        lines.append(
            "b - a: paired bootstrap and two-sided sign-flip test over {units} ({n_resamples} "
            "resamples, seed {seed})".format(**resampling)
        )
    resampled = scored[0].intervals or scored[0].comparison
    missing = [name for name in first.metrics if name not in resampled] if resampled else []
    if missing:
        lines.append(f"no interval for {', '.join(missing)}: not a mean over points")
    without = [name for name in scored[0].intervals if name not in scored[0].comparison]
    if scored[0].comparison and without:
        lines.append(f"no test for {', '.join(without)}: not a mean over points")
    return "\n".join(lines)


def short_names(paths: Sequence[str]) -> list[str]:
    """Return file names, or whole paths if names coincide; long ones are cut at the front."""
    names = [Path(path).name or path for path in paths]
    if len(set(names)) < len(names):
        names = list(paths)
    return [n if len(n) <= LONGEST_NAME else "..." + n[3 - LONGEST_NAME :] for n in names]
