"""An index as the parts of a sealed folder, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dexml.files import write_array
from dexml.index.exact import longest
from dexml.index.facts import IndexFacts
from dexml.index.graph import Graph
from dexml.index.snapshot import Snapshot
from dexml.index.verify import verify_graph
from dexml.sealed import Format, Part, Sealed, array_part

FORMAT = Format(
    "manifest.json", "an index", 3, "build the index again", "build the index again", whole=True
)


def as_parts(
    now: Snapshot, queries: NDArray[np.float32], facts: IndexFacts, prefix: str = ""
) -> dict[str, Part]:
    """The parts of an index, by their roles: `prefix` and what they hold."""
    parts = {
        "vectors": array_part(now.vectors),
        "alive": array_part(now.alive),
        "queries": array_part(queries),
    }
    graph = now.graph
    if graph is not None:
        size = len(graph)  # a graph only grows
        parts["graph"] = Part(
            lambda path: _save_graph(graph, path, facts, size), ".hnsw", (graph, size)
        )
        parts["nodes"] = Part(
            lambda path: write_array(path, _node_table(now, graph, size)), ".npy", (now.nodes, size)
        )
    return {prefix + role: part for role, part in parts.items()}


def read_parts(
    state: Sealed, facts: IndexFacts, prefix: str = ""
) -> tuple[Snapshot, NDArray[np.float32]]:
    """Open the parts of a folder whose bytes were checked; also the queries of the recall.

    The vectors are mapped into memory.

    Raises:
        ValueError: What they hold does not fit together.
    """
    n, dim = facts.n_labels, facts.dim
    vectors = state.array(f"{prefix}vectors", np.float32, (n, dim), mmap_mode="r")
    alive = state.array(f"{prefix}alive", np.bool_, (n,))
    queries = state.array(f"{prefix}queries", np.float32, (None, dim))
    if int(alive.sum()) != facts.n_alive:
        raise state.damaged(f"{int(alive.sum())} labels, not {facts.n_alive}")
    nodes, graph = np.full(n, -1, np.int32), None
    if f"{prefix}graph" in state.parts:
        if facts.kind != "hnsw":
            raise state.damaged("an exact index with a graph")
        node_table = state.array(f"{prefix}nodes", np.int32, (None, 2))
        labels, current = np.ascontiguousarray(node_table[:, 0]), node_table[:, 1] == 1
        if len(labels) and (labels.min() < 0 or labels.max() >= n):
            raise state.damaged("a node of a label that does not exist")
        positions = np.flatnonzero(current).astype(np.int32)
        nodes[labels[current]] = positions
        if (nodes[labels[current]] != positions).any() or not alive[labels[current]].all():
            raise state.damaged("two nodes of a label, or one of a removed label")
        graph = Graph.load(state.path(f"{prefix}graph"), labels, dim=dim, m=facts.m)
    return Snapshot(vectors, alive, nodes, longest(vectors), graph), queries


def _save_graph(graph: Graph, path: Path, facts: IndexFacts, n_nodes: int) -> None:
    """Write a graph and look at it again: hnswlib does not notice a full disk."""
    graph.save(path)
    try:
        verify_graph(path, n_nodes=n_nodes, dim=facts.dim, m=facts.m)
    except ValueError as error:
        if len(graph) > n_nodes:  # copies of an index share its graph
            raise RuntimeError("a copy of the index was edited meanwhile; save again") from None
        raise OSError(f"{path}: the graph was not written as a whole ({error})") from None


def _node_table(now: Snapshot, graph: Graph, n_nodes: int) -> NDArray[np.int32]:
    """For each node its label, and 1 if it still stands for it."""
    table = np.zeros((n_nodes, 2), np.int32)
    # A copy of the index may have put labels of its own into the graph. Their nodes stand for
    # nothing here; a reader wants the id of a label there, whichever.
    table[:, 0] = np.minimum(graph.labels[:n_nodes], len(now) - 1)
    table[now.nodes[now.nodes >= 0], 1] = 1
    return table
