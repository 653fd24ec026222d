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
from tqdm import tqdm

from dexml import _rust
from dexml.data import Csr, csr_parts, pair_parts
from dexml.index import sealed
from dexml.index.exact import Found
from dexml.index.labels import LabelIndex
from dexml.scorers.points import Points, positives_of, unit, widened
from dexml.scorers.votes import NEIGHBOURS, TEMPERATURE, MemorySettings, mask_of, shares

_BLOCK = 1024
"""Queries mixed between two looks at the clock."""


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
        vectors, y = unit(vectors, "vectors"), positives_of(y, len(vectors))
        self.state = Points(vectors, vectors[:0], y, None)
        self.home = Home()
        self._editing = RLock()

    @classmethod
    def restored(cls, state: Points, settings: MemorySettings) -> PointMemory:
        """A memory of points that have been checked before (`dexml.scorers.memory_files`)."""
        memory = cls.__new__(cls)
        memory.settings, memory.state = settings, state
        memory.home, memory._editing = Home(), RLock()
        return memory

    @property
    def n_points(self) -> int:
        """Points that may vote."""
        return len(self.state)

    @property
    def n_labels(self) -> int:
        """Labels that can have votes; the label vectors of a search may be more."""
        return int(self.state.y.shape[1])

    @property
    def dim(self) -> int:
        """Dimensions of a point, without the bias."""
        return self.state.dim

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
        added, new_y = unit(vectors, "vectors", self.dim), positives_of(y, len(vectors))
        with self._editing:
            old = self.state
            self.state = old.with_more(added, new_y)
        return np.arange(len(old), len(old) + len(added))

    def remove_labels(self, ids: NDArray[np.integer[Any]] | list[int]) -> None:
        """Take the votes of labels away for good; points stay, also without labels.

        Raises:
            ValueError: An id is negative. One beyond `n_labels` has no votes and is passed over.
        """
        gone = np.asarray(ids, np.int64)
        if gone.size and gone.min() < 0:
            raise ValueError(f"label {gone.min()} cannot be removed: ids start at 0")
        with self._editing:
            self.state = self.state.without(gone)

    def keep_labels(self, n_labels: int) -> None:
        """Forget labels from id `n_labels` on; their ids may be given to others."""
        with self._editing:
            if n_labels < self.n_labels:
                self.remove_labels(np.arange(n_labels, self.n_labels))
                self.state = replace(self.state, y=widened(self.state.y, n_labels))

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
        return self.state.nearest(queries, k, own)

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
        mask, b = mask_of(only, n_labels), self.settings.neighbours
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
                    voters, cosines = points.nearest(queries[rows], b, own_rows)
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
