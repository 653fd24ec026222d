"""Training points that may vote, at one moment: unit vectors, labels, and who is nearest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from dexml import data, topk
from dexml.data import Csr, csr_parts
from dexml.data.parts import canonical
from dexml.files import write_array
from dexml.index import Hits
from dexml.index.exact import Space, check_queries, longest


@dataclass(frozen=True, eq=False)
class Points:
    """Points with unit vectors. They never change: edits return others.

    Attributes:
        base: Vectors of the first points, mapped from the run if it was opened, shape (m, D).
        added: Vectors of the points behind them, shape (N - m, D).
        y: Labels of all points, shape (N, n_labels), all values 1.
    """

    base: NDArray[np.float32]
    added: NDArray[np.float32]
    y: Csr

    def __len__(self) -> int:
        return int(self.y.shape[0])

    @property
    def dim(self) -> int:
        """Dimensions of a point, without the bias."""
        return int(self.base.shape[1])

    @cached_property
    def labels(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Row pointers and ids of `y`, as the core takes them."""
        return csr_parts(self.y, "y")[:2]

    @cached_property
    def _spaces(self) -> list[Space]:
        """What is searched, and how long its vectors are: to measure them takes half a search."""
        return [Space(part, longest(part)) for part in (self.base, self.added)]

    def with_more(self, vectors: NDArray[np.float32], y: Csr) -> Points:
        """Append points; `y` may have more labels than before."""
        n_labels = max(self.y.shape[1], y.shape[1])
        joined = vstack([widened(self.y, n_labels), widened(y, n_labels)], format="csr")
        return replace(self, added=np.concatenate([self.added, vectors]), y=csr_array(joined))

    def without(self, labels: NDArray[np.int64]) -> Points:
        """Take some labels from all points."""
        stays = ~np.isin(self.y.indices, labels)
        indptr = np.concatenate([[0], np.cumsum(stays)])[self.y.indptr]
        kept = csr_array((self.y.data[stays], self.y.indices[stays], indptr), shape=self.y.shape)
        return replace(self, y=kept)

    def write_vectors(self, path: Path) -> int:
        """Write all vectors as one array; return the size that the file must have."""
        return write_array(path, np.concatenate([self.base, self.added]))

    def nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        own: NDArray[np.integer[Any]] | None,
    ) -> Hits:
        """Find the k nearest points of each query, and their cosines (`PointMemory.nearest`)."""
        if queries.ndim != 2 or queries.shape[1] not in (self.dim, self.dim + 1):
            raise ValueError(
                f"queries {queries.shape}; expected {self.dim} dimensions as the points have, or "
                f"{self.dim + 1} with the bias"
            )
        if own is not None and np.shape(own) != (len(queries),):
            raise ValueError(f"own: shape {np.shape(own)} for {len(queries)} queries")
        queries = unit(queries[:, : self.dim], "queries")
        check_queries(queries, self.dim, k)
        parts = []
        for start, space in zip((0, len(self.base)), self._spaces, strict=True):
            if len(space) or not len(self):  # an empty memory answers with padding
                stop = start + len(space)
                without = None if own is None else _own_pairs(np.asarray(own), start, stop)
                ids, cosines = space.search(queries, k, exclude=without)
                parts.append((np.where(ids < 0, -1, ids + np.int32(start)), cosines))
        if len(parts) == 1:
            return parts[0]
        return topk.merge([ids for ids, _ in parts], [cosines for _, cosines in parts], k)


def unit(vectors: NDArray[np.float32], name: str, dim: int | None = None) -> NDArray[np.float32]:
    """Scale vectors to length 1; a zero vector stays as it is.

    Raises:
        ValueError: Not (n, `dim`), or a vector is not finite; the message calls it `name`.
    """
    if vectors.ndim != 2 or (dim is not None and vectors.shape[1] != dim):
        raise ValueError(f"{name}: shape {vectors.shape}, expected (n, {dim or 'D'})")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(f"{name}: row {row} is not finite")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float32)


def positives_of(y: Csr, n_points: int) -> Csr:
    """Keep the entries above 0, as ones.

    Raises:
        ValueError: Not a row for each point.
    """
    indptr, indices, values = data.truth_parts(y, "y")
    if y.shape[0] != n_points:
        raise ValueError(f"y: {y.shape[0]} rows for {n_points} points")
    kept = values > 0
    if not kept.all():
        indices, indptr = indices[kept], np.concatenate([[0], np.cumsum(kept)])[indptr]
    ones = np.ones(len(indices), np.float32)
    return csr_array((ones, indices, indptr), shape=y.shape)


def entries(
    matrix: Csr, ids: NDArray[np.integer[Any]], missing: float = 0.0
) -> NDArray[np.float32]:
    """Look up the columns `ids` (n, m) of each row; `missing` where nothing is stored.

    The columns of a row must ascend. Never dense: a million labels and a block of texts would take
    gigabytes.
    """
    n, width = matrix.shape
    stored = np.repeat(np.arange(n) * width, np.diff(matrix.indptr)) + matrix.indices
    wanted = (np.arange(n) * width)[:, None] + ids
    values = np.full(ids.shape, missing, np.float32)
    if len(stored):
        at = np.minimum(np.searchsorted(stored, wanted), len(stored) - 1)
        hit = (stored[at] == wanted) & (ids >= 0) & (ids < width)
        values[hit] = matrix.data[at[hit]]
    return values


def widened(y: Csr, n_labels: int) -> Csr:
    """Give a matrix another number of columns; nothing is copied."""
    if y.shape[1] == n_labels:
        return y
    if y.shape[0] == 1 and y.has_canonical_format:
        return canonical((1, n_labels), y.indptr, y.indices, y.data)
    return csr_array((y.data, y.indices, y.indptr), shape=(y.shape[0], n_labels))


def _own_pairs(own: NDArray[np.integer[Any]], start: int, stop: int) -> Csr:
    """Pair each query with its own point, as columns of the points start..stop."""
    here = (own >= start) & (own < stop)
    indptr = np.concatenate([[0], np.cumsum(here)])
    columns = (own[here] - start).astype(np.int32)
    return csr_array(
        (np.ones(len(columns), np.float32), columns, indptr), shape=(len(own), stop - start)
    )
