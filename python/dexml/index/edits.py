"""Edits of the labels: from those of one moment to those of the next, nothing changed in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.index.exact import longest
from dexml.index.snapshot import Snapshot


class Room:
    """Rows behind the vectors that no search sees yet: adding copies seldom."""

    def __init__(self, dim: int) -> None:
        """Start without any; `dim` columns."""
        self._rows = np.zeros((0, dim), np.float32)

    def appended(
        self, vectors: NDArray[np.float32], more: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Append rows in the room behind `vectors`, or in a new one an eighth larger."""
        n = len(vectors) + len(more)
        if vectors.base is not self._rows or n > len(self._rows):
            self._rows = np.empty((n + n // 8, self._rows.shape[1]), np.float32)
            self._rows[: len(vectors)] = vectors
        self._rows[len(vectors) : n] = more
        return self._rows[:n]


def added(
    now: Snapshot, texts: Sequence[str] | None, vectors: NDArray[np.float32], room: Room
) -> Snapshot:
    """Append labels; they get the next ids."""
    _same_texts(now, texts)
    n = len(vectors)
    if len(now) + n > np.iinfo(np.int32).max:
        raise ValueError(f"{len(now) + n} labels; ids are int32")
    norm = longest(vectors)
    return replace(
        now,
        vectors=room.appended(now.vectors, vectors),
        alive=np.concatenate([now.alive, np.ones(n, np.bool_)]),
        nodes=np.concatenate([now.nodes, np.full(n, -1, np.int32)]),
        texts=None if texts is None else [*(now.texts or []), *texts],
        longest=max(now.longest, norm),
    )


def removed(now: Snapshot, rows: NDArray[np.int64]) -> Snapshot:
    """Leave labels out of every search; their ids and vectors stay where they are."""
    alive, nodes = now.alive.copy(), now.nodes.copy()
    alive[rows], nodes[rows] = False, -1
    return replace(now, alive=alive, nodes=nodes)


def updated(
    now: Snapshot,
    rows: NDArray[np.int64],
    texts: Sequence[str] | None,
    vectors: NDArray[np.float32],
) -> Snapshot:
    """Give labels other texts and vectors."""
    _same_texts(now, texts)
    if len(vectors) != len(rows):
        raise ValueError(f"vectors: {len(vectors)} rows for {len(rows)} ids")
    norm = longest(vectors)
    all_vectors, nodes = np.array(now.vectors), now.nodes.copy()
    all_vectors[rows], nodes[rows] = vectors, -1
    all_texts = None if now.texts is None else list(now.texts)
    if all_texts is not None:
        for row, text in zip(rows.tolist(), texts or [], strict=True):
            all_texts[row] = text
    return replace(
        now, vectors=all_vectors, nodes=nodes, texts=all_texts, longest=max(now.longest, norm)
    )


def checked(
    vectors: NDArray[np.float32],
    dim: int | None,
    texts: Sequence[str] | None,
    *,
    blank: bool = False,
) -> NDArray[np.float32]:
    """Refuse vectors of another shape or dtype, and texts that are not one line for each."""
    if vectors.ndim != 2 or vectors.shape[1] < 1 or vectors.dtype != np.float32:
        raise ValueError(f"vectors: {vectors.dtype} of shape {vectors.shape}; give (n, D) float32")
    if dim is not None and vectors.shape[1] != dim:
        raise ValueError(f"vectors: {vectors.shape[1]} dimensions; the index has {dim}")
    if texts is not None:
        check_texts(texts, blank=blank)
        if len(texts) != len(vectors):
            raise ValueError(f"texts: {len(texts)} for {len(vectors)} vectors")
    return np.ascontiguousarray(vectors)


def check_texts(texts: Sequence[str], *, blank: bool = False) -> None:
    """Refuse texts of labels that cannot be a line of a file, or say nothing.

    Args:
        texts: Texts of labels.
        blank: Take empty ones: a data set may hold such labels.

    Raises:
        TypeError: One that is no string.
        ValueError: One string in place of a list, a line break, an empty text.
    """
    if isinstance(texts, str):
        raise ValueError("texts: one string; give a list of them")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] is {type(text).__name__}; expected a string")
        if "\n" in text:
            raise ValueError(f"texts[{i}]: holds a line break; a label is one line")
        if not blank and not text.strip():
            raise ValueError(f"texts[{i}]: empty; a label has a text")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"texts[{i}]: not valid Unicode at character {error.start} "
                f"({text[error.start]!r}, {error.reason})"
            ) from None


def rows_of(now: Snapshot, ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return label ids as rows, if each is a label and stands once."""
    rows = np.asarray(ids)
    if rows.size == 0:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"ids: {rows.dtype} of shape {rows.shape}; give label ids")
    for bad in rows[(rows < 0) | (rows >= len(now))]:
        raise ValueError(f"ids: label {bad} lies outside 0..{len(now) - 1}")
    for bad in rows[~now.alive[rows]]:
        raise ValueError(f"ids: label {bad} was removed before")
    if len(np.unique(rows)) != len(rows):
        raise ValueError("ids: a label stands twice")
    return rows.astype(np.int64)


def _same_texts(now: Snapshot, texts: Sequence[str] | None) -> None:
    if len(now) and (texts is None) != (now.texts is None):
        has = "no texts" if now.texts is None else "texts"
        raise ValueError(f"texts: this index has {has}; give {has} here too")
