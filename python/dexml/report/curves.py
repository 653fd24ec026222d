"""What ``log.jsonl`` says of a training: curves, the chosen epoch, times, and events."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dexml.report.charts import Point, Series

FIT, STAGE = "fit", "stage"
"""Fields of a line that say which of the two fits it belongs to, and which of its stages."""
COMPARED = "encoding in "
"""Begins the events of comparing forms of the encoder, which `dexml.report.beside` sums up."""
_NOT_CURVES = ("event", "time", "epoch", "step", "steps")

Entry = Mapping[str, Any]


class Validation(NamedTuple):
    """Scores after an epoch, on the points held out; `step` counts from the start of the fit."""

    stage: str
    epoch: int
    step: int
    metrics: Mapping[str, float]


class Span(NamedTuple):
    """One stage of one fit: its steps are `start` + 1 to `start` + `steps` of that fit."""

    fit: str
    stage: str
    start: int
    steps: int
    epochs: int
    seconds: float
    validations: Sequence[Validation]
    entries: Sequence[Entry]
    """Lines of the log by rising step."""


def spans(log: Iterable[Entry]) -> list[Span]:
    """Put the lines of the log in order: fit by fit, stage by stage, step by step.

    A resumed run repeats steps: the later line of a step counts.
    """
    by_stage: dict[tuple[str, str], dict[tuple[int, int], Entry]] = {}
    for entry in log:
        if "event" not in entry and isinstance(entry.get("step"), int):
            key = (str(entry.get(FIT, "")), str(entry.get(STAGE, "")))
            by_stage.setdefault(key, {})[entry["step"], _epoch(entry)] = entry
    found: list[Span] = []
    for (fit, stage), of_step in by_stage.items():
        start = max((span.start + span.steps for span in found if span.fit == fit), default=0)
        entries = [of_step[position] for position in sorted(of_step)]
        validations = [
            Validation(stage, _epoch(entry), start + entry["step"], entry["validation"])
            for entry in entries
            if entry.get("validation")
        ]
        steps, epochs = entries[-1]["step"], max(map(_epoch, entries))
        seconds = _seconds(entries)
        found.append(Span(fit, stage, start, steps, epochs, seconds, validations, entries))
    return found


def curve(found: Sequence[Span], field: str) -> list[Series]:
    """One line a stage for a number of the log, such as ``"loss"``; x: steps of the fit."""
    several = len({span.stage for span in found}) > 1
    series = []
    for span in found:
        points = [
            Point(
                span.start + entry["step"],
                entry[field],
                f"{span.stage}, epoch {_epoch(entry)}: {field} {entry[field]:.4g}",
            )
            for entry in span.entries
            if _is_number(entry.get(field))
        ]
        series.append(Series(f"{span.fit}: {span.stage}" if several else span.fit, points))
    return [one for one in series if one.points]


def validation(found: Sequence[Span], metrics: Sequence[str]) -> list[Series]:
    """One line a metric, for the metrics that were measured."""
    every = [validation for span in found for validation in span.validations]
    series = []
    for name in metrics:
        points = [
            Point(
                one.step,
                one.metrics[name],
                f"{one.stage}, epoch {one.epoch}: {name} {100 * one.metrics[name]:.2f} %",
            )
            for one in every
            if _is_number(one.metrics.get(name))
        ]
        series.append(Series(name, points))
    return [one for one in series if one.points]


def best(found: Iterable[Span], metric: str) -> Validation | None:
    """The validation with the largest `metric`, the first of equals: that epoch was kept."""
    every = [one for span in found for one in span.validations]
    known = [one for one in every if _is_number(one.metrics.get(metric))]
    return max(known, key=lambda one: one.metrics[metric], default=None)


def best_point(found: Iterable[Span], metric: str) -> Point | None:
    """The kept epoch as a point on the curve of `metric`."""
    kept = best(found, metric)
    if kept is None:
        return None
    value = kept.metrics[metric]
    title = f"kept: epoch {kept.epoch}"
    return Point(kept.step, value, title)


def events(log: Iterable[Entry]) -> dict[str, dict[str, list[float]]]:
    """Numbers of the event lines (label graph, shortlist, ...): event -> field -> values."""
    found: dict[str, dict[str, list[float]]] = {}
    for entry in log:
        if "event" in entry and not str(entry["event"]).startswith(COMPARED):
            fields = found.setdefault(str(entry["event"]), {})
            for name, value in entry.items():
                if name not in _NOT_CURVES and _is_number(value):
                    fields.setdefault(name, []).append(float(value))
    return {event: fields for event, fields in found.items() if fields}


def begun(log: Iterable[Entry]) -> str:
    """Date and time of the first line of the log, or nothing if it has none."""
    first = next((entry["time"] for entry in log if _is_number(entry.get("time"))), 0)
    return time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(first)) if 0 < first < 1e11 else ""


def _epoch(entry: Entry) -> int:
    return int(entry.get("epoch") or 0)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _seconds(entries: Sequence[Entry]) -> float:
    """Time spent: the clock of a stage starts again when the run is resumed."""
    total = last = 0.0
    for entry in entries:
        now = float(entry.get("seconds") or 0.0)
        total += now - last if now >= last else now
        last = now
    return total
