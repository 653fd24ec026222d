"""The labels at one moment, and how they are searched. Nothing in it changes any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.index.exact import SPARE, Found, Only, Space, chosen, longest, ranked
from dexml.index.graph import Graph
from dexml.index.recall import MAX_EF
from dexml.topk import merge

_BLOCK = 1024
"""Queries handed to the graph at a time."""


@dataclass(frozen=True)
class Snapshot:
    """The labels at one moment: row i of everything is label i.

    Attributes:
        vectors: Shape (L, D), float32, removed labels included.
        alive: False for removed labels, shape (L,).
        nodes: The node of the graph that stands for each label, int32, shape (L,); -1: none,
            and the label is compared exactly.
        texts: Texts of the labels, if they are known.
        longest: At least the norm of any vector.
        graph: Proposes labels; it may hold nodes of other moments.
    """

    vectors: NDArray[np.float32]
    alive: NDArray[np.bool_]
    nodes: NDArray[np.int32]
    texts: list[str] | None
    longest: float
    graph: Graph | None

    @classmethod
    def of(cls, vectors: NDArray[np.float32], texts: Sequence[str] | None) -> Snapshot:
        """Labels 0 to L - 1, not in a graph.

        Raises:
            ValueError: A vector is not finite.
        """
        alive, nodes = np.ones(len(vectors), np.bool_), np.full(len(vectors), -1, np.int32)
        listed = None if texts is None else list(texts)
        return cls(vectors, alive, nodes, listed, longest(vectors), None)

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
        """Labels that a node stands for."""
        return int((self.nodes >= 0).sum())

    @cached_property
    def pending(self) -> NDArray[np.int64]:
        """Labels that no node stands for."""
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
    ) -> Found:
        """Compare all labels, or those of a group."""
        space = self.space
        if only is not None:
            inside = np.zeros(len(self), np.bool_)
            inside[chosen(only, len(self))] = True
            inside &= self.alive
            if 2 * int(inside.sum()) < len(self):
                space = Space(self.vectors, self.longest, group=np.flatnonzero(inside))
            else:
                space = Space(self.vectors, self.longest, banned=np.flatnonzero(~inside))
        return space.search(queries, k, exclude=exclude, device=device, progress=progress)

    def near(
        self,
        queries: NDArray[np.float32],
        k: int,
        ef: int,
        *,
        exclude: Csr | None = None,
        num_threads: int | None = None,
    ) -> Found:
        """Let the graph propose labels; those without a node are all compared.

        Rows for which it proposes too few are searched exactly.
        """
        found = [
            self._near(
                queries[rows], k, ef, None if exclude is None else exclude[rows], num_threads
            )
            for rows in (slice(i, i + _BLOCK) for i in range(0, max(1, len(queries)), _BLOCK))
        ]
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def _near(
        self,
        queries: NDArray[np.float32],
        k: int,
        ef: int,
        exclude: Csr | None,
        num_threads: int | None,
    ) -> Found:
        extra = 0 if exclude is None else int(np.diff(exclude.indptr).max(initial=0))
        if self.graph is None or k + extra > MAX_EF:
            return self.exact(queries, k, exclude=exclude)
        # As many more as there are nodes out of use.
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
