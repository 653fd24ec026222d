"""The rows of an index at one moment, and how they are searched. A snapshot never changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.index.exact import SPARE, Hits, Only, Space, chosen, longest, ranked
from dexml.index.graph import Graph
from dexml.index.recall import MAX_EF
from dexml.topk import merge

_BLOCK = 1024
"""Queries handed to the graph at a time."""
_WRITE = 8
"""Numbers of a product that take as long as masking a label."""


@dataclass(frozen=True)
class Snapshot:
    """The labels at one moment: row i of everything is label i.

    Attributes:
        vectors: Shape (L, D), float32, removed labels included.
        alive: False for removed labels, shape (L,).
        nodes: The node of the graph that stands for each label, int32, shape (L,); -1 for a label
            without a node, which is compared exactly.
        longest: At least the norm of any vector.
        graph: Proposes labels. It may hold nodes of other moments, which are passed over.
    """

    vectors: NDArray[np.float32]
    alive: NDArray[np.bool_]
    nodes: NDArray[np.int32]
    longest: float
    graph: Graph | None

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Snapshot:
        """Labels 0 to L - 1, all alive, without a graph.

        Raises:
            ValueError: A vector is not finite.
        """
        alive, nodes = np.ones(len(vectors), np.bool_), np.full(len(vectors), -1, np.int32)
        return cls(vectors, alive, nodes, longest(vectors), None)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def n_alive(self) -> int:
        """Labels that were not removed."""
        return int(self.alive.sum())

    @cached_property
    def n_in_graph(self) -> int:
        """Labels with a node."""
        return int((self.nodes >= 0).sum())

    @cached_property
    def pending(self) -> NDArray[np.int64]:
        """Labels without a node."""
        return np.flatnonzero(self.alive & (self.nodes < 0))

    @cached_property
    def space(self) -> Space:
        """What exact search compares: removed labels are masked while they are few."""
        if self.n_alive == len(self):
            return Space(self.vectors, self.longest)
        if 2 * self.n_alive < len(self):
            return Space(self.vectors, self.longest, group=np.flatnonzero(self.alive))
        return Space(self.vectors, self.longest, banned=np.flatnonzero(~self.alive))

    def exact(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exclude: Csr | None = None,
        only: Only | None = None,
        device: str = "cpu",
        progress: bool = False,
        also: tuple[int, Only] | None = None,
    ) -> Hits:
        """Compare all labels, or those of a group; `also`: as in `LabelIndex.search`."""
        space = self.space if only is None else self._space_of(only)
        if also is None:
            return space.search(queries, k, exclude=exclude, device=device, progress=progress)
        beside = only is None and space.group is None and device == "cpu"
        other = self._space_of(also[1], beside=beside)
        if beside and other.banned is not None:
            both = also[0], other.banned
            return space.search(queries, k, exclude=exclude, progress=progress, also=both)
        found = [
            one.search(queries, n, exclude=exclude, device=device, progress=progress)
            for one, n in ((space, k), (other, also[0]))
        ]
        ids, scores = zip(*found, strict=True)
        return np.concatenate(ids, axis=1), np.concatenate(scores, axis=1)

    def _space_of(self, only: Only, *, beside: bool = False) -> Space:
        """What is searched for a group; few labels are gathered, of many the others are masked.

        `beside` a search of all labels, whose products are there: to mask them takes a write for
        each of the others, to gather labels a product of their own.
        """
        inside = np.zeros(len(self), np.bool_)
        inside[chosen(only, len(self))] = True
        inside &= self.alive
        n = int(inside.sum())
        if 2 * n < len(self) and not (beside and n * self.vectors.shape[1] > _WRITE * len(self)):
            return Space(self.vectors, self.longest, group=np.flatnonzero(inside))
        return Space(self.vectors, self.longest, banned=np.flatnonzero(~inside))

    def near(
        self,
        queries: NDArray[np.float32],
        k: int,
        ef: int,
        *,
        exclude: Csr | None = None,
        num_threads: int | None = None,
    ) -> Hits:
        """Let the graph propose labels, and compare all labels without a node.

        Queries for which it proposes too few are searched exactly.
        """
        parts = [
            self._near(
                queries[rows], k, ef, None if exclude is None else exclude[rows], num_threads
            )
            for rows in (slice(i, i + _BLOCK) for i in range(0, max(1, len(queries)), _BLOCK))
        ]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([s for _, s in parts])

    def _near(
        self,
        queries: NDArray[np.float32],
        k: int,
        ef: int,
        exclude: Csr | None,
        num_threads: int | None,
    ) -> Hits:
        extra = 0 if exclude is None else int(np.diff(exclude.indptr).max(initial=0))
        if self.graph is None or k + extra > MAX_EF:
            return self.exact(queries, k, exclude=exclude)
        # Nodes out of use take places among the nearest, so ask for as many more.
        share = len(self.graph) / max(1, self.n_in_graph)
        wide = int(np.ceil(max(ef, k + extra) * share))
        nodes, labels = self.graph.near(queries, wide, num_threads=num_threads)
        # Nodes of other moments stand for labels changed or removed since, or for later ones.
        inside = np.minimum(labels, len(self) - 1)
        current = (nodes >= 0) & (labels == inside) & (self.nodes[inside] == nodes)
        width = k + extra + SPARE
        labels = np.where(current, labels, -1)
        if not current.all():
            labels = np.take_along_axis(labels, (~current).argsort(axis=1, kind="stable"), axis=1)
        ids, scores = ranked(
            queries, self.vectors, labels[:, :width], k, exclude, num_threads=num_threads
        )
        if len(self.pending):
            fresh = Space(self.vectors, self.longest, group=self.pending)
            more = fresh.search(queries, k, exclude=exclude)
            ids, scores = merge([ids, more[0]], [scores, more[1]], k)
        short = np.flatnonzero(ids[:, -1] < 0)
        if len(short):
            rest = None if exclude is None else exclude[short]
            ids[short], scores[short] = self.exact(queries[short], k, exclude=rest)
        return ids, scores
