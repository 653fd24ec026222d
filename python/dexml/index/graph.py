"""An HNSW graph of hnswlib: it proposes labels; who uses it checks them and scores them.

hnswlib does not allow a search while a node is added, so a lock lets either many searches or one
change pass. Its `ef` is shared by all threads, so a search asks for `ef` neighbours instead, which
is the same computation, and takes the first of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.forks import renew_in_child
from dexml.index.verify import verify_graph

_CHUNK = 64
"""Nodes added before waiting searches get their turn."""


class Graph:
    """Nodes, numbered in the order they came, each with the vector of a label.

    A label that changed has several nodes; which of them counts is known to the index alone.
    """

    def __init__(self, graph: Any, labels: NDArray[np.int32]) -> None:
        """Wrap a graph of hnswlib; `labels`: the label of each node."""
        self.labels = labels
        self._graph = graph
        self._renew()
        renew_in_child(self, Graph._renew)

    def _renew(self) -> None:
        self._lock = _Lock()

    @classmethod
    def empty(cls, dim: int, capacity: int, *, m: int, ef_construction: int, seed: int) -> Graph:
        """Make a graph without nodes."""
        graph = _new(dim)
        graph.init_index(max(1, capacity), M=m, ef_construction=ef_construction, random_seed=seed)
        return cls(graph, np.zeros(0, np.int32))

    def __len__(self) -> int:
        return int(self._graph.get_current_count())

    def insert(
        self,
        labels: NDArray[np.int32],
        vectors: NDArray[np.float32],
        *,
        num_threads: int = 1,
        progress: bool = False,
    ) -> NDArray[np.int32]:
        """Add a node for each label.

        Args:
            labels: Label ids, int32.
            vectors: Vectors of all labels, shape (L, D).
            num_threads: With more than one, the graph is another each time.
            progress: Show a bar.

        Returns:
            The new nodes.
        """
        first = len(self)
        nodes = np.arange(first, first + len(labels), dtype=np.int32)
        self.labels = np.concatenate([self.labels[:first], labels])
        with console.bar(
            total=len(labels), desc="index", unit="label", disable=not progress
        ) as bar:
            chunk = _CHUNK * num_threads**2  # threads are started anew for each chunk
            for start in range(0, len(labels), chunk):
                part = slice(start, start + chunk)
                with self._lock.writing():
                    after = len(self) + len(nodes[part])
                    if after > self._graph.get_max_elements():
                        self._graph.resize_index(after * 9 // 8)
                    block = np.ascontiguousarray(vectors[labels[part]])
                    self._graph.add_items(block, nodes[part], num_threads=num_threads)
                bar.update(len(nodes[part]))
        return nodes

    def near(
        self, queries: NDArray[np.float32], width: int, *, num_threads: int | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Find about `width` nearest nodes of each query.

        Returns:
            Nodes and their labels, (n, width), nearest first; -1 in rows where the graph reaches
            fewer than `width` nodes.
        """
        with self._lock.reading():
            width = min(width, len(self))
            if width < 1 or len(queries) == 0:
                none = np.zeros((len(queries), 0), np.int32)
                return none, none
            nodes = self._near(queries, width, -1 if num_threads is None else num_threads)
            labels = np.where(nodes < 0, -1, self.labels[nodes])
        return nodes, labels

    def _near(
        self, queries: NDArray[np.float32], width: int, num_threads: int
    ) -> NDArray[np.int32]:
        try:
            nodes, _ = self._graph.knn_query(queries, k=width, num_threads=num_threads)
        except RuntimeError:  # for some query, fewer than `width` nodes were reached
            if len(queries) == 1:
                return np.full((1, width), -1, np.int32)
            half = len(queries) // 2
            parts = (
                self._near(queries[:half], width, num_threads),
                self._near(queries[half:], width, num_threads),
            )
            return np.concatenate(parts)
        return np.asarray(nodes).astype(np.int32)

    def save(self, path: Path) -> None:
        """Write hnswlib's own format."""
        with self._lock.reading():
            self._graph.save_index(str(path))

    @classmethod
    def load(cls, path: Path, labels: NDArray[np.int32], *, dim: int, m: int) -> Graph:
        """Open a saved graph, after everything in it was checked that hnswlib trusts.

        Args:
            path: Written by `save`.
            labels: The label of each node.
            dim: Dimensions of the vectors.
            m: Links of a node.

        Raises:
            ValueError: Not a graph of these nodes; the message says what is wrong.
        """
        verify_graph(path, n_nodes=len(labels), dim=dim, m=m)
        graph = _new(dim)
        graph.load_index(str(path), max_elements=len(labels))
        return cls(graph, labels)


def _new(dim: int) -> Any:
    """A graph of hnswlib, which nothing else here needs."""
    console.require("train", "hnswlib")
    import hnswlib

    return hnswlib.Index(space="ip", dim=dim)


class _Lock:
    """Many readers or one writer; a waiting writer goes before new readers."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._turn:
            self._turn.wait_for(lambda: not self._writing and not self._waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._turn:
            self._waiting += 1
            try:
                self._turn.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._turn:
                self._writing = False
                self._turn.notify_all()
