"""Charts as inline SVG, drawn with the standard library: no script, no font, no network.

Colours are the classes ``c0`` to ``c5`` of the page around them, so that a page can be light or
dark. Every mark carries its exact value as a ``<title>``, which browsers show under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 440, 250
"""Units of a chart: about the pixels it gets on a telephone, so that letters stay readable."""
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 14, 34
COLOURS = 6
NONE = "\u2013"
"""Stands for a number that there is not."""
MAX_POINTS = 300
"""Points of a line, at most; longer series are averaged in equal runs."""


class Series(NamedTuple):
    """A line of a chart: points (x, y) with rising x, and what stands under the pointer there."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    titles: Sequence[str] = ()


class Mark(NamedTuple):
    """A point that is pointed out, with its words; `colour` is that of its series."""

    x: float
    y: float
    words: str
    colour: int = 0


class Bar(NamedTuple):
    """A bar: the words under it (one a line), its height (NaN: none), the words at the pointer."""

    words: Sequence[str]
    value: float
    title: str


def number(value: float) -> str:
    """Write a number for an axis: ``0.05``, ``1,200``, ``3.4M``."""
    size = abs(value)
    if size >= 10_000:
        for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if size >= unit:
                return f"{value / unit:.3g}{letter}"
    if size and size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


def percent(value: float) -> str:
    """Write a fraction for an axis in percent, without the sign."""
    return f"{100 * value:.4g}"


def lines(
    series: Sequence[Series],
    *,
    label: str,
    x_name: str = "",
    y_name: str = "",
    x_text: Callable[[float], str] = number,
    y_text: Callable[[float], str] = number,
    marks: Sequence[Mark] = (),
    from_zero: bool = False,
    log: bool = False,
) -> str:
    """Draw lines over a common x.

    Args:
        series: The lines; points that are not finite are left out.
        label: What the chart shows, for those who do not see it.
        x_name: Name of the x axis.
        y_name: Name of the y axis, at its upper end.
        x_text: Writes a value of the x axis.
        y_text: Writes a value of the y axis.
        marks: Points with words beside them.
        from_zero: Let the y axis begin at 0.
        log: Both axes logarithmic, for values above 0.

    Returns:
        An ``<svg>`` element, or nothing where no point is finite.
    """
    kept = [_thin(_finite(one, log)) for one in series]
    xs = [x for one in kept for x in one.x]
    ys = [y for one in kept for y in one.y]
    if not xs:
        return ""
    x_of, x_ticks = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log=log, loose=False)
    low = 0.0 if from_zero and not log else min(ys)
    y_of, y_ticks = _axis(low, max(ys), HEIGHT - BOTTOM, TOP, log=log, loose=True)
    parts = _grid(x_of, x_ticks, y_of, y_ticks, x_text, y_text, x_name, y_name)
    for i, one in enumerate(kept):
        colour = f"c{i % COLOURS}"
        places = [f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(one.x, one.y, strict=True)]
        if len(places) > 1:
            parts.append(f'<polyline class="line {colour}" points="{" ".join(places)}"/>')
        if len(places) <= 60:
            titles = one.titles or [""] * len(one.x)
            for x, y, title in zip(one.x, one.y, titles, strict=True):
                words = title or f"{one.name}: {y_text(y)} at {x_text(x)}"
                parts.append(
                    f'<circle class="dot {colour}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.6">'
                    f"<title>{escape(words)}</title></circle>"
                )
    for mark in marks:
        parts += _mark(mark, x_of(mark.x), y_of(mark.y))
    return _svg(label, parts)


def bars(
    values: Sequence[Bar],
    *,
    label: str,
    y_name: str = "",
    y_text: Callable[[float], str] = percent,
    value_text: Callable[[float], str] = percent,
    colour: int = 0,
    odd_last: bool = False,
) -> str:
    """Draw bars from 0, each with its value above it.

    Args:
        values: The bars, from left to right.
        label: What the chart shows, for those who do not see it.
        y_name: Name of the y axis, at its upper end.
        y_text: Writes a value of the y axis.
        value_text: Writes the value of a bar.
        colour: Number of the colour.
        odd_last: Set the last bar apart: it is of another kind.

    Returns:
        An ``<svg>`` element, or nothing where there is no bar.
    """
    if not values:
        return ""
    top = max((bar.value for bar in values if math.isfinite(bar.value)), default=0.0)
    y_of, ticks = _axis(0.0, top or 1.0, HEIGHT - BOTTOM - 12, TOP + 8, log=False, loose=True)
    parts = _grid(None, [], y_of, ticks, number, y_text, "", y_name)
    gap = 10.0 if odd_last and len(values) > 1 else 0.0
    step = (WIDTH - RIGHT - LEFT - 6 - gap) / len(values)
    for i, bar in enumerate(values):
        last = odd_last and i == len(values) - 1
        x = LEFT + 6 + i * step + (gap if last else 0)
        middle, y0 = x + step / 2, y_of(0.0)
        shown = math.isfinite(bar.value)
        y = y_of(bar.value) if shown else y0
        value = value_text(bar.value) if shown else NONE
        kind = f"bar c{COLOURS - 1 if last else colour % COLOURS}"
        parts.append(
            f'<g><title>{escape(bar.title)}</title><rect class="{kind}" x="{x + 0.12 * step:.1f}" '
            f'y="{y:.1f}" width="{0.76 * step:.1f}" height="{max(0.0, y0 - y):.1f}" rx="1.5"/>'
            + _text(middle, y - 4, value, "value middle")
            + "".join(
                _text(middle, HEIGHT - BOTTOM + 2 + 12 * j, words, "tick middle")
                for j, words in enumerate(bar.words)
            )
            + "</g>"
        )
    return _svg(label, parts)


def whisker(low: float, value: float, high: float, left: float, right: float) -> str:
    """Draw one value in [left, right] with its interval, as a small picture for a table cell."""
    span = (right - left) or 1.0

    def x_of(number: float) -> float:
        return 4 + 232 * min(1.0, max(0.0, (number - left) / span))

    words = f"{percent(round(value, 4))} in [{percent(round(low, 4))}, {percent(round(high, 4))}]"
    return (
        '<svg class="whisker" viewBox="0 0 240 14" role="img">'
        f"<title>{escape(words)}</title>"
        '<path class="rail" d="M4 7H236"/>'
        f'<path class="reach c0" d="M{x_of(low):.1f} 7H{x_of(high):.1f}"/>'
        f'<circle class="dot c0" cx="{x_of(value):.1f}" cy="7" r="3.2"/></svg>'
    )


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About `n` round numbers from at most `low` to at least `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    raw = (high - low) / n
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _axis(
    low: float, high: float, start: float, end: float, *, log: bool, loose: bool
) -> tuple[Callable[[float], float], list[float]]:
    """Places of values between `start` and `end`, and the ticks; loose: the ends are ticks."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        every = max(1, (last - first) // 5)
        found = [10.0**i for i in range(first, last + 1, every)]
        a, b = float(first), float(last)
    else:
        found = ticks(low, high)
        if not loose and high > low:
            found = [t for t in found if low <= t <= high]
            a, b = low, high
        else:
            a, b = found[0], found[-1]
    scale = (end - start) / (b - a)

    def place(value: float) -> float:
        return start + scale * ((math.log10(value) if log else value) - a)

    return place, found


def _grid(
    x_of: Callable[[float], float] | None,
    x_ticks: Sequence[float],
    y_of: Callable[[float], float],
    y_ticks: Sequence[float],
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_name: str,
    y_name: str,
) -> list[str]:
    parts = []
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y + 3.5, y_text(tick), "tick end"))
    for tick in x_ticks if x_of else ():
        x = x_of(tick)  # type: ignore[misc]
        parts.append(_text(x, HEIGHT - BOTTOM + 15, x_text(tick), "tick middle"))
    if x_name:
        parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, x_name, "tick end"))
    if y_name:
        parts.append(_text(2, 9, y_name, "tick"))
    return parts


def _mark(mark: Mark, x: float, y: float) -> list[str]:
    """A ring, a line down to the axis, and words on the side that has room."""
    right = x > WIDTH / 2
    up = y > TOP + 22
    return [
        f'<path class="mark" d="M{x:.1f} {y:.1f}V{HEIGHT - BOTTOM}"/>',
        f'<circle class="ring c{mark.colour % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
        _text(
            x + (-9 if right else 9),
            y + (-9 if up else 18),
            mark.words,
            "note end" if right else "note",
        ),
    ]


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _svg(label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _finite(series: Series, positive: bool) -> Series:
    kept = [
        i
        for i, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if math.isfinite(x) and math.isfinite(y) and (not positive or min(x, y) > 0)
    ]
    titles = [series.titles[i] for i in kept] if series.titles else []
    return Series(series.name, [series.x[i] for i in kept], [series.y[i] for i in kept], titles)


def _thin(series: Series) -> Series:
    """Average runs of points where there are too many; the last point keeps its x."""
    n = len(series.x)
    if n <= MAX_POINTS:
        return series
    size = math.ceil(n / MAX_POINTS)
    starts = range(0, n, size)
    return Series(
        series.name,
        [series.x[min(n, s + size) - 1] for s in starts],
        [math.fsum(series.y[s : s + size]) / len(series.y[s : s + size]) for s in starts],
    )
