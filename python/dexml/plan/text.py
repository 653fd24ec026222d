"""A plan, laid out for people."""

from __future__ import annotations

import math

from dexml import console
from dexml.plan.quantities import Plan


def as_text(plan: Plan) -> str:
    """Lay a plan out for people."""
    lines = ["data"]
    width = max(len(name) for name in plan.statistics)
    for name, value in plan.statistics.items():
        shown = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
        lines.append(f"  {name.ljust(width)}  {shown:>14}")
    rows = [
        (
            part.name,
            [
                f"{part.epochs or ''}",
                _count(part.steps),
                _count(part.tokens_a_step),
                _count(part.tokens_an_epoch),
                _count(part.scores_a_step),
                _duration(part.seconds_an_epoch),
                _duration(part.seconds),
            ],
        )
        for part in plan.parts
    ]
    heads = ["epochs", "steps", "tok/step", "tok/epoch", "scores/step", "an epoch", "time"]
    lines += ["", console.grid("work", heads, rows)]
    units = ", ".join(f"{stage}: {value:.2f}" for stage, value in plan.units.items() if value)
    if units:
        lines.append(f"forward-units a trained token: {units}")
    lines.append(f"in all about {_duration(plan.seconds) or '0 s'}, without the test part")
    for place, sizes in plan.memory.items():
        lines += ["", f"memory, {place}: {in_bytes(math.fsum(sizes.values()))} at its peak"]
        lines += [f"  {name:<46}{in_bytes(size):>10}" for name, size in sizes.items() if size]
    lines.append("there are: " + ", ".join(f"{k} {in_bytes(v)}" for k, v in plan.available.items()))
    lines += ["", *(f"will not fit: {problem}" for problem in plan.problems)]
    return "\n".join(lines).rstrip()


def in_bytes(size: float) -> str:
    """Write a size in memory for people: ``1.5 GiB``."""
    for unit, letters in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {letters}"
    return f"{size:.0f} B"


def _count(value: float) -> str:
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{value:,.0f}" if value else ""


def _duration(seconds: float) -> str:
    return console.duration(seconds) if seconds else ""
