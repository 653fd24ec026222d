"""How objects look in a session and in a notebook: one line, and a small table in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

LONGEST = 100
"""Characters of a value in one line."""


def line(name: str, facts: Mapping[str, object]) -> str:
    """Return ``Name(key=value, ...)`` on one line; long values are cut."""
    return f"{name}({', '.join(f'{key}={_short(value)}' for key, value in facts.items())})"


def html(name: str, facts: Mapping[str, object]) -> str:
    """Return the same as a table of two columns."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(key.replace('_', ' '))}</th>"
        f"<td style='text-align:right'>{escape(_short(value))}</td></tr>"
        for key, value in facts.items()
    )
    return f"<table><caption>{escape(name)}</caption>{rows}</table>"


def grid(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Return a table in HTML with a head and a name for each row."""
    head = "".join(f"<th>{escape(column)}</th>" for column in ("", *columns))
    body = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        + "".join(f"<td style='text-align:right'>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows.items()
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
