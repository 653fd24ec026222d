"""A snapshot of the labels as the files of an index folder, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dexml.index import sealed
from dexml.index.exact import longest
from dexml.index.graph import Graph
from dexml.index.sealed import Manifest
from dexml.index.snapshot import Snapshot


def writers(
    now: Snapshot, queries: NDArray[np.float32]
) -> dict[str, Callable[[Path], None] | None]:
    """Say for each role how its file is written."""
    found: dict[str, Callable[[Path], None] | None] = {
        "vectors": lambda path: np.save(path, now.vectors),
        "alive": lambda path: np.save(path, now.alive),
        "queries": lambda path: np.save(path, queries),
    }
    if now.texts is not None:
        text = "".join(f"{t}\n" for t in now.texts)
        found["labels"] = lambda path: _write_text(path, text)
    graph = now.graph
    if graph is not None:
        found["graph"] = graph.save
        found["nodes"] = lambda path: np.save(path, _node_table(now, graph))
    return found


def read_snapshot(folder: Path, manifest: Manifest) -> tuple[Snapshot, NDArray[np.float32]]:
    """Open the files that `sealed.read` has checked; also the queries of the recall.

    Raises:
        ValueError: What they hold does not fit together.
    """
    n, dim = manifest.n_labels, manifest.dim
    vectors = _array(folder, manifest, "vectors", np.float32, (n, dim), mmap_mode="r")
    alive = _array(folder, manifest, "alive", np.bool_, (n,))
    queries = _array(folder, manifest, "queries", np.float32, (None, dim))
    texts = None
    if "labels" in manifest.files:
        path = sealed.path_of(folder, manifest, "labels")
        texts = path.read_bytes().decode("utf-8").split("\n")[:-1]
        if len(texts) != n:
            raise _damaged(path, f"{len(texts)} lines for {n} labels")
    if int(alive.sum()) != manifest.n_alive:
        raise _damaged(folder, f"{int(alive.sum())} labels, not {manifest.n_alive}")
    nodes, graph = np.full(n, -1, np.int32), None
    if "graph" in manifest.files:
        of_node = _array(folder, manifest, "nodes", np.int32, (None, 2))
        labels, current = np.ascontiguousarray(of_node[:, 0]), of_node[:, 1] == 1
        if len(labels) and (labels.min() < 0 or labels.max() >= n):
            raise _damaged(folder, "a node stands for no label")
        places = np.flatnonzero(current).astype(np.int32)
        nodes[labels[current]] = places
        if (nodes[labels[current]] != places).any() or not alive[labels[current]].all():
            raise _damaged(folder, "two nodes stand for a label, or one for a removed label")
        path = sealed.path_of(folder, manifest, "graph")
        graph = Graph.load(path, labels, dim=dim, m=manifest.m)
    return Snapshot(vectors, alive, nodes, texts, longest(vectors), graph), queries


def _array(
    folder: Path,
    manifest: Manifest,
    role: str,
    dtype: type,
    shape: tuple[int | None, ...],
    *,
    mmap_mode: Literal["r"] | None = None,
) -> NDArray[Any]:
    """Open an array of the index, and check that it is what the manifest speaks of."""
    path = sealed.path_of(folder, manifest, role)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise _damaged(path, str(error)) from None
    fits = len(array.shape) == len(shape) and all(
        b in (a, None) for a, b in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise _damaged(path, f"{array.dtype} of shape {array.shape}")
    return array if mmap_mode is None else np.asarray(array)


def _node_table(now: Snapshot, graph: Graph) -> NDArray[np.int32]:
    """For each node its label, and 1 if it stands for it still."""
    table = np.zeros((len(graph), 2), np.int32)
    table[:, 0] = graph.labels[: len(graph)]
    table[now.nodes[now.nodes >= 0], 1] = 1
    return table


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path}: damaged ({what}); build the index again")
