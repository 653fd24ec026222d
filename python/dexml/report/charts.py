"""Charts as inline SVG: no script, no font, no network.

Colours are the classes ``c0`` to ``c5`` of the style sheet, so that a page can be light or dark.
Points and bars carry their exact value as a ``<title>``, which browsers show under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup, escape

from dexml.report.text import printable

WIDTH, HEIGHT = 440, 250
"""Units of a chart: about the pixels it gets on a phone, so that letters stay readable."""
LEFT, RIGHT, TOP, BOTTOM = 50, 18, 14, 34
"""Margins; the right one has room for half a tick label."""
COLOURS = 6
ODD = COLOURS - 1
"""The colour of a bar that is of another kind than the rest."""
MAX_POINTS = 300
"""Points of a line, at most; longer series are averaged in equal runs."""
MAX_DOTS = 60
"""Points that still get a dot each."""


class Point(NamedTuple):
    """A point of a line, and what the pointer shows there."""

    x: float
    y: float
    title: str = ""


class Series(NamedTuple):
    """A line of a chart; x rises from point to point."""

    name: str
    points: Sequence[Point]


class Reach(NamedTuple):
    """An upright line from one value to another, for instance an interval."""

    x: float
    low: float
    high: float


class Bar(NamedTuple):
    """A bar with what is written under it, and its value (NaN: no bar) written above it."""

    under: str
    value: float
    above: str
    title: str
    odd: bool = False
    """Of another kind: set apart and in another colour."""


class Figure(NamedTuple):
    """A chart with its title, the names of its colours, and a caption."""

    title: str
    svg: Markup
    caption: str = ""
    legend: Sequence[str] = ()


def number(value: float) -> str:
    """Write a number for an axis: ``0.05``, ``2.5e-4``, ``1,200``, ``3.4M``."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= max(unit, 10_000):
            return f"{value / unit:.3g}{letter}"
    if 0 < size <= 1e-3:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


def percent(value: float) -> str:
    """Write a fraction for an axis in percent, without the sign."""
    return f"{100 * value:.4g}"


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    y_text: Callable[[float], str] = number,
    caption: str = "",
    mark: Point | None = None,
    from_zero: bool = False,
    log: bool = False,
    reaches: Sequence[Reach] = (),
    x_text: Callable[[float], str] = number,
) -> Figure | None:
    """Draw lines over a common x.

    Args:
        title: Heads the figure, and says what it shows to those who do not see it.
        series: The lines; points that are not finite are left out.
        x_name: Name of the x axis.
        y_text: Writes a value of the y axis.
        caption: Stands below the figure.
        mark: A point of the first line to point out, its title written beside it.
        from_zero: Let the y axis begin at 0.
        log: Make both axes logarithmic and leave out values that are not above 0.
        reaches: Intervals of the first line.
        x_text: Writes a value of the x axis.

    Returns:
        The figure, or None if no point is left.
    """
    kept = [_averaged([point for point in one.points if _fits(point, log)]) for one in series]
    every = [point for points in kept for point in points]
    if not every:
        return None
    axis = _log_axis if log else _axis
    xs, ys = [point.x for point in every], [point.y for point in every]
    ys += [end for one in reaches for end in (one.low, one.high)]
    x = axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, tight=True)
    y = axis(0.0 if from_zero else min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = _rows(y, y_text)
    parts += [_text(x.at(t), HEIGHT - BOTTOM + 15, x_text(t), "tick middle") for t in x.ticks]
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, x_name, "tick end"))
    for one in reaches:
        way = f"M{x.at(one.x):.1f} {y.at(one.low):.1f}V{y.at(one.high):.1f}"
        parts.append(f'<path class="reach c0" d="{way}"/>')
    for i, points in enumerate(kept):
        parts += _line(points, x, y, f"c{i % COLOURS}")
    if mark is not None:
        parts += _mark(mark, x.at(mark.x), y.at(mark.y))
    return Figure(title, _svg(title, parts), caption, [one.name for one in series if one.name])


def bars(
    title: str,
    values: Sequence[Bar],
    *,
    y_text: Callable[[float], str] = percent,
    caption: str = "",
    colour: int = 0,
) -> Figure:
    """Draw bars up from 0.

    Args:
        title: Heads the figure, and says what it shows to those who do not see it.
        values: The bars, from left to right.
        y_text: Writes a value of the y axis.
        caption: Stands below the figure.
        colour: Colour of the bars that are not odd.
    """
    top = max((bar.value for bar in values if math.isfinite(bar.value)), default=0.0)
    y = _axis(0.0, top or 1.0, HEIGHT - BOTTOM, TOP + 8)
    parts = _rows(y, y_text)
    gap = 10.0 if any(bar.odd for bar in values) else 0.0
    step = (WIDTH - RIGHT - LEFT - 6 - gap) / max(1, len(values))
    for i, bar in enumerate(values):
        left = LEFT + 6 + i * step + (gap if bar.odd else 0)
        high = y.at(bar.value if math.isfinite(bar.value) else 0.0)
        inside = [
            _titled(bar.title),
            f'<rect class="bar c{ODD if bar.odd else colour}" x="{left + 0.12 * step:.1f}" '
            f'y="{high:.1f}" width="{0.76 * step:.1f}" height="{y.at(0.0) - high:.1f}" rx="1.5"/>',
            _text(left + step / 2, high - 4, bar.above, "value middle"),
            _text(left + step / 2, HEIGHT - BOTTOM + 14, bar.under, "tick middle"),
        ]
        parts.append(f"<g>{''.join(inside)}</g>")
    return Figure(title, _svg(title, parts), caption)


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About `n` round numbers from at most `low` to at least `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    raw = (high - low) / n
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Axis:
    """Lays values `low` to `high` out from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]
    log: bool = False

    def at(self, value: float) -> float:
        """Position of a value."""
        value = math.log10(value) if self.log else value
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def _axis(low: float, high: float, start: float, end: float, *, tight: bool = False) -> _Axis:
    """An axis from tick to tick, or, if tight, from the least to the largest value."""
    found = ticks(low, high)
    if tight and high > low:
        return _Axis(low, high, start, end, [tick for tick in found if low <= tick <= high])
    return _Axis(found[0], found[-1], start, end, found)


def _log_axis(low: float, high: float, start: float, end: float, *, tight: bool = False) -> _Axis:
    """An axis from one power of ten to another; none is tight."""
    first = math.floor(math.log10(low))
    last = max(math.ceil(math.log10(high)), first + 1)
    powers = [10.0**i for i in range(first, last + 1, max(1, (last - first) // 5))]
    return _Axis(first, last, start, end, powers, log=True)


def _fits(point: Point, log: bool) -> bool:
    finite = math.isfinite(point.x) and math.isfinite(point.y)
    return finite and (not log or min(point.x, point.y) > 0)


def _averaged(points: Sequence[Point]) -> Sequence[Point]:
    """Average runs of points where there are too many; each run keeps its last x."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return points
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(run[-1].x, math.fsum(point.y for point in run) / len(run)) for run in runs]


def _rows(y: _Axis, y_text: Callable[[float], str]) -> list[str]:
    """Lines across the chart, one a tick of the y axis."""
    parts = []
    for tick in y.ticks:
        at = y.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, at + 3.5, y_text(tick), "tick end"))
    return parts


def _line(points: Sequence[Point], x: _Axis, y: _Axis, colour: str) -> list[str]:
    at = [(f"{x.at(point.x):.1f}", f"{y.at(point.y):.1f}") for point in points]
    parts = []
    if len(at) > 1:
        path = " ".join(f"{a},{b}" for a, b in at)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
    if len(at) <= MAX_DOTS:
        for (a, b), point in zip(at, points, strict=True):
            dot = f'<circle class="dot {colour}" cx="{a}" cy="{b}" r="2.6">'
            parts.append(f"{dot}{_titled(point.title)}</circle>")
    return parts


def _mark(mark: Point, x: float, y: float) -> list[str]:
    """A ring, a line down to the axis, and the title on the side that has room."""
    on_left, above = x > WIDTH / 2, y > TOP + 22
    kind = "note end" if on_left else "note"
    return [
        f'<path class="mark" d="M{x:.1f} {y:.1f}V{HEIGHT - BOTTOM}"/>',
        f'<circle class="ring c0" cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
        _text(x + (-9 if on_left else 9), y + (-9 if above else 18), mark.title, kind),
    ]


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(printable(text))}</text>'


def _titled(title: str) -> str:
    return f"<title>{escape(printable(title))}</title>" if title else ""


def _svg(title: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(printable(title))}">{"".join(parts)}</svg>'
    )
