"""Edits of an index: from the rows of one moment to those of the next, nothing changed in place."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.forks import renew_in_child
from dexml.index.exact import longest
from dexml.index.snapshot import Snapshot


class Buffer:
    """Spare rows behind the vectors, so that adding labels seldom copies all of them."""

    def __init__(self, dim: int) -> None:
        """Start without spare rows; `dim` columns."""
        self._rows = np.zeros((0, dim), np.float32)
        self._used = 0
        self._renew()
        renew_in_child(self, Buffer._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def appended(
        self, vectors: NDArray[np.float32], more: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Append rows in the spare ones behind `vectors`, or in a new buffer an eighth larger.

        Rows that another copy of the index has appended meanwhile are never written over.
        """
        n = len(vectors) + len(more)
        with self._lock:
            spare = vectors.base is self._rows and len(vectors) == self._used
            if not spare or n > len(self._rows):
                self._rows = np.empty((n + n // 8, self._rows.shape[1]), np.float32)
                self._rows[: len(vectors)] = vectors
            self._rows[len(vectors) : n] = more
            self._used = n
            return self._rows[:n]


def added(now: Snapshot, vectors: NDArray[np.float32], buffer: Buffer) -> Snapshot:
    """Append labels; they get the next ids."""
    n = len(vectors)
    if len(now) + n > np.iinfo(np.int32).max:
        raise ValueError(f"{len(now) + n} labels; ids are int32")
    norm = longest(vectors)
    return replace(
        now,
        vectors=buffer.appended(now.vectors, vectors),
        alive=np.concatenate([now.alive, np.ones(n, np.bool_)]),
        nodes=np.concatenate([now.nodes, np.full(n, -1, np.int32)]),
        longest=max(now.longest, norm),
    )


def removed(now: Snapshot, rows: NDArray[np.int64]) -> Snapshot:
    """Leave labels out of every search; their ids and vectors stay where they are."""
    alive, nodes = now.alive.copy(), now.nodes.copy()
    alive[rows], nodes[rows] = False, -1
    return replace(now, alive=alive, nodes=nodes)


def updated(now: Snapshot, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> Snapshot:
    """Give labels other vectors."""
    if len(vectors) != len(rows):
        raise ValueError(f"vectors: {len(vectors)} rows for {len(rows)} ids")
    norm = longest(vectors)
    all_vectors, nodes = np.array(now.vectors), now.nodes.copy()
    all_vectors[rows], nodes[rows] = vectors, -1
    return replace(now, vectors=all_vectors, nodes=nodes, longest=max(now.longest, norm))


def check_vectors(vectors: NDArray[np.float32], dim: int | None) -> NDArray[np.float32]:
    """Refuse vectors of another shape or dtype."""
    if vectors.ndim != 2 or vectors.shape[1] < 1 or vectors.dtype != np.float32:
        raise ValueError(f"vectors: {vectors.dtype} of shape {vectors.shape}; give (n, D) float32")
    if dim is not None and vectors.shape[1] != dim:
        raise ValueError(f"vectors: {vectors.shape[1]} dimensions; the index has {dim}")
    return np.ascontiguousarray(vectors)


def check_rows(
    ids: Sequence[int] | NDArray[np.integer[Any]], alive: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return label ids as rows, if each is the id of a label and none is there twice.

    Args:
        ids: Label ids.
        alive: False for removed labels, shape (n_labels,).

    Raises:
        ValueError: Not ids; an id out of range, of a removed label, or repeated.
    """
    rows = np.asarray(ids)
    if rows.size == 0:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"ids: {rows.dtype} of shape {rows.shape}; give label ids")
    for bad in rows[(rows < 0) | (rows >= len(alive))]:
        raise ValueError(f"ids: label {bad} lies outside 0..{len(alive) - 1}")
    for bad in rows[~alive[rows]]:
        raise ValueError(f"ids: label {bad} was removed before")
    if len(np.unique(rows)) != len(rows):
        raise ValueError("ids: a label is given twice")
    return rows.astype(np.int64)
