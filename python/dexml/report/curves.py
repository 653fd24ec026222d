"""What ``log.jsonl`` says of a training: curves, the chosen epochs, times, and events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dexml.report.charts import Mark, Series, percent
from dexml.report.page import printable

Entry = Mapping[str, Any]


class Span(NamedTuple):
    """One phase of one stage: its steps lie at `start` + 1 to `stop` of the stage."""

    stage: str
    phase: str
    start: int
    stop: int
    epochs: int
    seconds: float
    entries: list[Entry]


def spans(log: Iterable[Entry]) -> list[Span]:
    """Put the lines of training in order: stage by stage, phase by phase, step by step.

    A resumed run repeats steps: the later line of a step counts.
    """
    by_phase: dict[tuple[str, str], dict[tuple[int, int], Entry]] = {}
    for entry in log:
        if "event" in entry or not isinstance(entry.get("step"), int):
            continue
        key = (printable(str(entry.get("fit", ""))), printable(str(entry.get("stage", ""))))
        place = (entry["step"], int(entry.get("epoch") or 0))
        of_phase = by_phase.setdefault(key, {})
        of_phase[place] = {**of_phase.get(place, {}), **entry}
    found: list[Span] = []
    for (stage, phase), entries in by_phase.items():
        start = max((span.stop for span in found if span.stage == stage), default=0)
        ordered = [entries[place] for place in sorted(entries)]
        stop = start + int(ordered[-1]["step"])
        epochs = max(int(entry.get("epoch") or 0) for entry in ordered)
        found.append(Span(stage, phase, start, stop, epochs, _seconds(ordered), ordered))
    return found


def curve(found: Sequence[Span], field: str) -> list[Series]:
    """One line a stage for a number of the log, such as ``"loss"``; x: steps of the stage.

    Phases are lines of their own where there are several: their losses do not compare.
    """
    lines: dict[str, list[tuple[float, float, str]]] = {}
    several = len({span.phase for span in found}) > 1
    for span in found:
        whole = f"{span.stage}: {span.phase}" if several else span.stage
        for entry in span.entries:
            for name, value in _numbers(entry.get(field)):
                words = f"{span.phase}, epoch {entry.get('epoch', '?')}: {field} {value:.4g}"
                line = f"{whole}, {name}" if name else whole
                lines.setdefault(line, []).append((span.start + entry["step"], value, words))
    return [_series(name, points) for name, points in lines.items()]


def validation(found: Sequence[Span], metrics: Sequence[str]) -> list[Series]:
    """One line a metric of the validations, in the stages that have some."""
    lines: dict[str, list[tuple[float, float, str]]] = {name: [] for name in metrics}
    for span in found:
        for entry in span.entries:
            for name in metrics:
                value = (entry.get("validation") or {}).get(name)
                if value is not None:
                    epoch = entry.get("epoch", "?")
                    words = f"{span.phase}, epoch {epoch}: {name} {100 * value:.2f} %"
                    lines[name].append((span.start + entry["step"], float(value), words))
    return [_series(name, points) for name, points in lines.items() if points]


def best(found: Sequence[Span], metric: str) -> tuple[Span, Entry] | None:
    """The validation with the largest `metric`, the first of equals: the chosen epoch."""
    chosen: tuple[Span, Entry] | None = None
    top = -math.inf
    for span in found:
        for entry in span.entries:
            value = (entry.get("validation") or {}).get(metric)
            if value is not None and value > top:
                chosen, top = (span, entry), value
    return chosen


def chosen_mark(found: Sequence[Span], metric: str, colour: int) -> list[Mark]:
    """Point out the chosen epoch on the line of `metric`."""
    chosen = best(found, metric)
    if chosen is None:
        return []
    span, entry = chosen
    value = entry["validation"][metric]
    words = (
        f"kept: {span.phase} epoch {entry.get('epoch', '?')}, {metric} {percent(round(value, 3))}"
    )
    return [Mark(span.start + entry["step"], value, words, colour)]


def events(log: Iterable[Entry]) -> dict[str, dict[str, list[float]]]:
    """Numbers of the event lines (label graph, shortlist, ...): event -> field -> values in order.

    Fields of objects inside an event get the names of both, joined by a blank.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for entry in log:
        if "event" not in entry:
            continue
        fields = found.setdefault(printable(str(entry["event"])), {})
        for name, value in entry.items():
            if name in ("event", "time", "epoch", "step", "steps"):
                continue
            for inner, number in _numbers(value):
                fields.setdefault(printable(f"{name} {inner}".strip()), []).append(number)
    return {event: fields for event, fields in found.items() if fields}


def _series(name: str, points: Sequence[tuple[float, float, str]]) -> Series:
    points = sorted(points, key=lambda point: point[0])
    xs, ys, words = zip(*points, strict=True)
    return Series(name, xs, ys, words)


def _numbers(value: Any) -> list[tuple[str, float]]:
    """Name and value of a number (no name), or of the numbers in an object."""
    if isinstance(value, Mapping):
        return [
            (f"{name} {inner}".strip(), number)
            for name, one in value.items()
            for inner, number in _numbers(one)
        ]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    return [("", float(value))]


def _seconds(entries: Sequence[Entry]) -> float:
    """Time spent: the clock of a phase starts again when the run is resumed."""
    total = last = 0.0
    for entry in entries:
        now = float(entry.get("seconds") or 0.0)
        total += now - last if now >= last else now
        last = now
    return total
