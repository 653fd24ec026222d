"""Texts of the training points that vote: to say which ones they are, never to score.

A run keeps them packed. They are read when somebody asks for the first one, so they cost nothing
where nobody asks why.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.run.run import require
from dexml.sealed import Part, Sealed
from dexml.sealed.state import digest_in

SECTION = "points"
ROLE = f"{SECTION}/texts"
FEATURES = "features"
"""The section of the manifest that a run has whose points are rows of features, not texts."""


class _Lines:
    """Texts, one a line, as bytes that are made or read with the first use."""

    def __init__(self, n: int, make: Callable[[], bytes]) -> None:
        """Remember how `n` lines are made."""
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    @cached_property
    def content(self) -> bytes:
        """All lines."""
        return self._make()

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.frombuffer(self.content, np.uint8) == ord("\n"))

    def line(self, row: int) -> str:
        """Return one of the texts."""
        begin = int(self._ends[row - 1]) + 1 if row else 0
        return self.content[begin : int(self._ends[row])].decode("utf-8")


@dataclass(frozen=True, eq=False, repr=False)
class PointTexts:
    """Texts of points by their row. They never change: edits return others.

    A line break in a text counts as a blank.
    """

    first: _Lines
    added: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"PointTexts(points={len(self.first) + len(self.added):,})"

    @classmethod
    def of(cls, texts: Sequence[str]) -> PointTexts:
        """Keep the texts of the points that a training lets vote."""
        return cls(_Lines(len(texts), lambda: _encoded(texts)))

    def __len__(self) -> int:
        return len(self.first) + len(self.added)

    def text(self, row: int) -> str:
        """Return the text of a point.

        Raises:
            ValueError: The file of the run is damaged.
            RuntimeError: The run was changed by another process since it was opened.
        """
        n = len(self.first)
        return self.first.line(row) if row < n else self.added[row - n]

    def with_more(self, texts: Sequence[str]) -> PointTexts:
        """Append the texts of points."""
        return PointTexts(self.first, (*self.added, *map(_one_line, texts)))

    def facts(self) -> dict[str, Any]:
        """Return the section of the manifest of a run."""
        return {SECTION: {"n_texts": len(self)}}

    def parts(self) -> dict[str, Part]:
        """Return the texts as a file of a run: gzip, one a line."""
        return {ROLE: Part(self._write, ".gz", (self.first, self.added))}

    def _write(self, path: Path) -> int:
        content = self.first.content + _encoded(self.added)
        return path.write_bytes(gzip.compress(content, mtime=0))  # no time: the same bytes again

    @classmethod
    def restore(cls, state: Sealed) -> PointTexts | None:
        """Open the texts of a run, reading nothing yet; None if it keeps none.

        Raises:
            ValueError: The manifest is damaged.
        """
        if SECTION not in state.facts:
            return None
        n = require(state, SECTION, {"n_texts": int})["n_texts"]
        if ROLE not in state.parts:
            raise state.damaged(f"no {ROLE}")
        return cls(_Lines(n, lambda: _read(state, n)))


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def _encoded(texts: Sequence[str]) -> bytes:
    return "".join(f"{_one_line(text)}\n" for text in texts).encode()


def _read(state: Sealed, n: int) -> bytes:
    try:
        # Checked again: it may have been changed since the run was opened.
        path = state.check(ROLE)
        content = _rust.load_bytes(str(path))
        content.decode("utf-8")
    except (ValueError, FileNotFoundError) as error:
        if digest_in(state.folder, state.format) != state.digest:
            raise RuntimeError(
                f"{state.folder}: changed by another process since it was opened; open it again"
            ) from None
        if isinstance(error, UnicodeDecodeError):
            raise state.damaged(str(error), path) from None
        raise
    if content.count(b"\n") != n or not content.endswith(b"\n" if n else b""):
        raise state.damaged(f"{content.count(10)} lines for {n} points", path)
    return content
