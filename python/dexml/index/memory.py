"""Memory of the training points: the nearest of them vote for their labels.

The score of a label becomes ``score + weight x votes``, where each of the nearest training points
gives its share of one vote to all of its labels. Figures and choices: ``docs/memory.md``. Knows
numpy, scipy and the Rust core (and hnswlib where a graph is asked for), and nothing of torch.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from tqdm import tqdm

from dexml import _rust, data, topk
from dexml.data import Csr, csr_parts, pair_parts
from dexml.index import sealed
from dexml.index.exact import Found, exact_search
from dexml.index.labels import LabelIndex

NEIGHBOURS, TEMPERATURE = 50, 0.2
"""Voters of a query, and the temperature of their shares (``docs/memory.md``)."""
_BLOCK = 1024
"""Queries mixed between two looks at the clock."""


@dataclass(frozen=True)
class Points:
    """Unit vectors and labels; those of `base` come first. Replaced as a whole, never changed."""

    base: NDArray[np.float32]
    added: NDArray[np.float32]
    y: Csr
    graph: LabelIndex | None
    """Over `base`."""


@dataclass
class Home:
    """The folder that a memory was loaded from or saved to; one for all copies of the memory."""

    lock: Lock = field(default_factory=Lock)
    """Of who saves."""
    folder: Path | None = None
    digest: str = ""
    """Of the manifest there."""
    state: Points | None = None
    settings: MemorySettings | None = None
    """What is there."""

    def digest_in(self, folder: Path) -> str:
        """The digest that the manifest must have there; ``""``: any."""
        return self.digest if folder.resolve() == self.folder else ""

    def has(self, folder: Path, points: Points, settings: MemorySettings) -> bool:
        """Whether these points with these settings are what was loaded from there or saved."""
        return self.digest_in(folder) != "" and points is self.state and settings == self.settings

    def is_in(self, folder: Path) -> bool:
        """Whether what was loaded or saved is there still."""
        return sealed.digest_there(folder / sealed.MANIFEST) == self.digest_in(folder) != ""

    def check(self, folder: Path) -> None:
        """Refuse a folder that another process has saved to since."""
        sealed.check_unchanged(folder, self.digest_in(folder))


class PointMemory:
    """Training points that vote for their labels.

    Points are found by the cosine of their embeddings, without the bias dimension of a search
    vector: it is the same for all points and says nothing of them. Searches may run in other
    threads while points are added or labels removed; each of them sees all of a change or none.
    Those who change it wait for each other.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        y: Csr,
        *,
        weight: float,
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
    ) -> None:
        """Keep unit copies of the vectors, and the positives of `y`.

        Args:
            vectors: Point embeddings, shape (N, D), float32, without a bias dimension.
            y: Their labels, shape (N, L); entries above 0 are positives.
            weight: What a whole vote adds to a score, finite and >= 0.
            neighbours: Points that vote on a query.
            temperature: Shares of the vote are ``softmax(cosine / temperature)``.

        Raises:
            ValueError: Shapes disagree, a vector is not finite, or a number is out of range.
        """
        self.settings = MemorySettings(weight, neighbours, temperature)
        vectors, y = _unit(vectors, "vectors"), positives_of(y, len(vectors))
        self.state = Points(vectors, vectors[:0], y, None)
        self.home = Home()
        self._editing = RLock()

    @classmethod
    def restored(cls, state: Points, settings: MemorySettings) -> PointMemory:
        """A memory of points that have been checked before (`dexml.index.memory_files`)."""
        memory = cls.__new__(cls)
        memory.settings, memory.state = settings, state
        memory.home, memory._editing = Home(), RLock()
        return memory

    @property
    def n_points(self) -> int:
        """Points that may vote."""
        return int(self.state.y.shape[0])

    @property
    def n_labels(self) -> int:
        """Labels that can have votes; the label vectors of a search may be more."""
        return int(self.state.y.shape[1])

    @property
    def dim(self) -> int:
        """Dimensions of a point, without the bias."""
        return int(self.state.base.shape[1])

    def note(self) -> str:
        """Say who votes, in a few words."""
        made, by = self.settings, "" if self.state.graph is None else " found by HNSW"
        return (
            f"votes of {self.n_points} training points, weight {made.weight:g} "
            f"({made.neighbours} a text{by}, temperature {made.temperature:g})"
        )

    def add_points(self, vectors: NDArray[np.float32], y: Csr) -> NDArray[np.int64]:
        """Append points; rows as in the constructor. `y` may have more labels than before.

        Returns:
            Row ids of the new points, for `own`.
        """
        added, new_y = _unit(vectors, "vectors", self.dim), positives_of(y, len(vectors))
        with self._editing:
            old = self.state
            n_labels = max(old.y.shape[1], new_y.shape[1])
            joined = vstack([_widened(old.y, n_labels), _widened(new_y, n_labels)], format="csr")
            self.state = replace(old, added=np.concatenate([old.added, added]), y=csr_array(joined))
        return np.arange(old.y.shape[0], old.y.shape[0] + len(added))

    def remove_labels(self, ids: NDArray[np.integer[Any]] | list[int]) -> None:
        """Take the votes of labels away for good; points stay, also without labels.

        Raises:
            ValueError: An id is negative. One beyond `n_labels` has no votes and is passed over.
        """
        gone = np.asarray(ids, np.int64)
        if gone.size and gone.min() < 0:
            raise ValueError(f"label {gone.min()} cannot be removed: ids start at 0")
        with self._editing:
            y = self.state.y
            stays = ~np.isin(y.indices, gone)
            indptr = np.concatenate([[0], np.cumsum(stays)])[y.indptr]
            kept = csr_array((y.data[stays], y.indices[stays], indptr), shape=y.shape)
            self.state = replace(self.state, y=kept)

    def keep_labels(self, n_labels: int) -> None:
        """Forget labels from id `n_labels` on; their ids may be given to others."""
        with self._editing:
            if n_labels < self.n_labels:
                self.remove_labels(np.arange(n_labels, self.n_labels))
                self.state = replace(self.state, y=_widened(self.state.y, n_labels))

    def build_graph(self, *, seed: int, progress: bool = False, **options: Any) -> None:
        """Search the points by an HNSW graph from now on: approximate, for many points.

        Points added later are compared one by one until the graph is built again.

        Args:
            seed: Seed of the graph's levels.
            progress: Show a bar.
            options: Further arguments of `LabelIndex.build`, such as ``m`` or ``recall``.
        """
        with self._editing:
            points = self.state
            vectors = np.concatenate([points.base, points.added])
            if not len(vectors):
                raise ValueError("no points to build a graph over")
            k = min(self.settings.neighbours, len(vectors))
            graph = LabelIndex.build(
                vectors, queries=vectors[:1000], k=k, seed=seed, progress=progress, **options
            )
            self.state = replace(points, base=graph.vectors, added=vectors[:0], graph=graph)

    def nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        own: NDArray[np.integer[Any]] | None = None,
    ) -> Found:
        """Find the k nearest points of each query, and their cosines.

        Args:
            queries: Shape (n, D), or (n, D + 1) with the bias dimension, which is left out.
            k: Points a query; rows are padded when there are fewer.
            own: For each query the row of the point that it is, or -1: this one is left out.

        Returns:
            ``ids`` int32 and ``cosines`` float32, (n, k), padded with -1 and -inf.
        """
        return self._nearest(self.state, queries, k, own)

    def _nearest(
        self,
        points: Points,
        queries: NDArray[np.float32],
        k: int,
        own: NDArray[np.integer[Any]] | None,
    ) -> Found:
        if queries.ndim != 2 or queries.shape[1] not in (self.dim, self.dim + 1):
            raise ValueError(
                f"queries {queries.shape}; expected {self.dim} dimensions as the points have, or "
                f"{self.dim + 1} with the bias"
            )
        if own is not None and np.shape(own) != (len(queries),):
            raise ValueError(f"own: shape {np.shape(own)} for {len(queries)} queries")
        queries = _unit(queries[:, : self.dim], "queries")
        n_base, n_points = len(points.base), points.y.shape[0]
        parts = []
        for start, stop in ((0, n_base), (n_base, n_points)):
            if start == stop and n_points:
                continue
            without = None if own is None else _own_pairs(np.asarray(own), start, stop)
            if start == 0 and points.graph is not None:
                ids, cosines = points.graph.search(queries, k, exclude=without)
            else:
                vectors = points.added if start else points.base
                ids, cosines = exact_search(queries, vectors, k, exclude=without)
            parts.append((np.where(ids < 0, -1, ids + np.int32(start)), cosines))
        if len(parts) == 1:
            return parts[0]
        return topk.merge([ids for ids, _ in parts], [cosines for _, cosines in parts], k)

    def with_settings(self, weight: float, neighbours: int, temperature: float) -> PointMemory:
        """The same points with other settings; nothing is copied."""
        other = copy(self)
        other.settings = MemorySettings(weight, neighbours, temperature)
        return other

    def mix(
        self,
        queries: NDArray[np.float32],
        found: Found,
        label_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[Any] | None = None,
        own: NDArray[np.integer[Any]] | None = None,
        near: Found | None = None,
        progress: bool = False,
        num_threads: int | None = None,
    ) -> Found:
        """Rank by ``score + weight x votes``: as if all labels were scored, but sparsely.

        Args:
            queries: Search vectors of the points in question, shape (n, D + 1) or, in a search
                without biases, (n, D).
            found: The best labels by score alone, ``ids`` and ``scores``, at least k columns, found
                with the same `exclude` and `only`. Their scores are taken as they are.
            label_vectors: Vectors of all labels, same dimensions as the queries: they score the
                labels that have votes but are not in `found`.
            k: Labels a query.
            exclude: Pairs (query, label) to leave out, shape (n, L).
            only: Labels that may be found: a bool mask (L,), or their ids. It must leave out what
                was removed from the index, unless `remove_labels` was told.
            own: For each query the row of the training point that it is, or -1; a point never
                votes for itself.
            near: What `nearest` found for these queries, at least `neighbours` columns, where
                it is known already; `own` has no effect then.
            progress: Show a bar.
            num_threads: Threads; default all cores. The result does not depend on it.

        Returns:
            ``ids`` int32 and ``scores`` float32, (n, k); equal scores: the smaller id first.
            With weight 0, `found` itself, cut to k.

        Raises:
            ValueError: Shapes disagree, or `found` is too narrow.
        """
        points = self.state
        ids, scores = np.ascontiguousarray(found[0]), np.ascontiguousarray(found[1])
        n, n_labels = len(queries), len(label_vectors)
        if ids.shape != scores.shape or ids.ndim != 2 or len(ids) != n:
            raise ValueError(f"found: shapes {ids.shape} and {scores.shape} for {n} queries")
        if points.y.shape[1] > n_labels:
            raise ValueError(
                f"label_vectors: {n_labels} labels, but points of the memory have "
                f"{points.y.shape[1]}"
            )
        pairs = pair_parts(exclude, (n, n_labels), "exclude")
        if self.settings.weight == 0 and ids.shape[1] >= k:
            return ids[:, :k], scores[:, :k]
        mask, b = _mask(only, n_labels), self.settings.neighbours
        if near is not None and (near[0].shape != near[1].shape or len(near[0]) != n):
            raise ValueError(f"near: shapes {near[0].shape} and {near[1].shape} for {n} queries")
        labels = csr_parts(points.y, "y")[:2]
        label_vectors = np.ascontiguousarray(label_vectors, np.float32)
        out = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
        with tqdm(total=n, desc="votes", unit="point", disable=not progress) as bar:
            for start in range(0, n, _BLOCK):
                rows = slice(start, min(start + _BLOCK, n))
                if near is None:
                    own_rows = None if own is None else own[rows]
                    voters, cosines = self._nearest(points, queries[rows], b, own_rows)
                else:
                    voters = np.ascontiguousarray(near[0][rows, :b])
                    cosines = near[1][rows, :b]
                out[0][rows], out[1][rows] = _rust.mix_votes(
                    np.ascontiguousarray(queries[rows], np.float32),
                    label_vectors,
                    (voters, shares(cosines, self.settings.temperature)),
                    labels,
                    (ids[rows], scores[rows]),
                    k,
                    weight=self.settings.weight,
                    exclude=None if pairs is None else (pairs[0][start : rows.stop + 1], pairs[1]),
                    only=mask,
                    num_threads=num_threads,
                )
                bar.update(rows.stop - start)
        return out


@dataclass(frozen=True)
class MemorySettings:
    """How points vote; checked when made."""

    weight: float
    neighbours: int
    temperature: float

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("weight", 0 <= self.weight < np.inf, "finite and at least 0"),
            ("neighbours", self.neighbours >= 1, "at least 1"),
            ("temperature", 0 < self.temperature < np.inf, "finite and above 0"),
        ):
            if not good:
                raise ValueError(f"{name} = {getattr(self, name)}; it must be {rule}")


def shares(cosines: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Softmax over each row of cosines, best first and padded with -inf; padding gets 0."""
    if not cosines.shape[1]:
        return cosines
    best = np.where(np.isfinite(cosines[:, :1]), cosines[:, :1], 0).astype(np.float64)
    grown = np.exp((cosines - best) / temperature)
    total = grown.sum(axis=1, keepdims=True)
    return np.asarray(grown / np.where(total > 0, total, 1), np.float32)


def centroid_labels(
    label_vectors: NDArray[np.float32], vectors: NDArray[np.float32], y: Csr, share: float
) -> NDArray[np.float32]:
    """Move label vectors towards the mean of their training points: votes without a cost.

    PEFA-XS: ``z <- share x z + (1 - share) x mean``, then back to the length of z. Labels without a
    point, and biases, stay as they are. Measured to gain nothing where residuals were trained
    (``docs/memory.md``).

    Args:
        label_vectors: Shape (L, D) or, with biases, (L, D + 1).
        vectors: Point embeddings, shape (N, D).
        y: Their labels, shape (N, L); entries above 0 are positives.
        share: What is kept of a label's own vector, in 0..1.

    Returns:
        New label vectors.
    """
    dim = vectors.shape[1]
    if label_vectors.shape[1] not in (dim, dim + 1) or len(label_vectors) != y.shape[1]:
        raise ValueError(
            f"label_vectors {label_vectors.shape}, vectors {vectors.shape} and y {y.shape} do not "
            "fit"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}; it must be in 0..1")
    positives = positives_of(y, len(vectors))
    counts = np.bincount(positives.indices, minlength=y.shape[1])
    seen = counts > 0
    means = (positives.T @ vectors)[seen] / counts[seen, None]
    old = label_vectors[seen, :dim]
    moved = share * old + (1 - share) * means
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    new = label_vectors.copy()
    scale = np.linalg.norm(old, axis=1, keepdims=True) / np.where(length > 0, length, 1)
    new[seen, :dim] = np.where(length > 0, moved * scale, old)
    return new


def _unit(vectors: NDArray[np.float32], name: str, dim: int | None = None) -> NDArray[np.float32]:
    if vectors.ndim != 2 or (dim is not None and vectors.shape[1] != dim):
        raise ValueError(f"{name}: shape {vectors.shape}, expected (n, {dim or 'D'})")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(f"{name}: row {row} is not finite")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float32)


def positives_of(y: Csr, n_points: int) -> Csr:
    """Keep the entries above 0, as ones."""
    indptr, indices, values = data.truth_parts(y, "y")
    if y.shape[0] != n_points:
        raise ValueError(f"y: {y.shape[0]} rows for {n_points} points")
    kept = values > 0
    if not kept.all():
        indices, indptr = indices[kept], np.concatenate([[0], np.cumsum(kept)])[indptr]
    ones = np.ones(len(indices), np.float32)
    return csr_array((ones, indices, indptr), shape=y.shape)


def _widened(y: Csr, n_labels: int) -> Csr:
    return csr_array((y.data, y.indices, y.indptr), shape=(y.shape[0], n_labels))


def _own_pairs(own: NDArray[np.integer[Any]], start: int, stop: int) -> Csr:
    """Pairs (query, its own row - start) of the points start..stop."""
    here = (own >= start) & (own < stop)
    indptr = np.concatenate([[0], np.cumsum(here)])
    columns = (own[here] - start).astype(np.int32)
    return csr_array(
        (np.ones(len(columns), np.float32), columns, indptr), shape=(len(own), stop - start)
    )


def _mask(only: NDArray[Any] | None, n_labels: int) -> NDArray[np.bool_] | None:
    if only is None:
        return None
    only = np.asarray(only)
    if only.dtype == np.bool_:
        if only.shape != (n_labels,):
            raise ValueError(f"only: shape {only.shape}, expected ({n_labels},)")
        return np.ascontiguousarray(only)
    if only.size and not (only.min() >= 0 and only.max() < n_labels):
        raise ValueError(f"only: a label id lies outside 0..{n_labels - 1}")
    mask = np.zeros(n_labels, np.bool_)
    mask[only.astype(np.int64)] = True
    return mask
