"""Check a graph file of hnswlib 0.8 before hnswlib reads it.

hnswlib believes its files: counts, offsets and links become pointers. A hash says that a file is
the one that was written, not that its writer meant well; so everything that becomes a pointer is
checked here, in numpy and Python alone. Layout: a header, for each node a record (links of the
lowest level, vector, number), then for each node the links of its higher levels.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<6QiI3QdQ")
_BLOCK = 65_536
_MAX_LEVEL = 64


def verify_graph(path: Path, *, n_nodes: int, dim: int, m: int) -> None:
    """Check that a file is a graph of nodes 0 to n_nodes - 1, and that every link leads to one.

    Args:
        path: The file.
        n_nodes: Nodes it must hold.
        dim: Dimensions of its vectors.
        m: Links of a node in the higher levels; twice as many in the lowest.

    Raises:
        ValueError: Anything else; the message says what.
    """
    size = path.stat().st_size
    record = 4 + 8 * m + 4 * dim + 8
    with path.open("rb") as file:
        raw = file.read(_HEADER.size)
        if len(raw) < _HEADER.size or n_nodes < 1:
            raise _damaged(path, f"{size} bytes")
        found = dict(zip(_NAMES, _HEADER.unpack(raw), strict=True))
        expected = {
            "lowest level": 0,
            "nodes": n_nodes,
            "bytes a node": record,
            "place of numbers": record - 8,
            "place of vectors": 4 + 8 * m,
            "links": m,
            "links in the lowest level": 2 * m,
            "M": m,
        }
        for name, value in expected.items():
            if found[name] != value:
                raise _damaged(path, f"{name}: {found[name]}, not {value}")
        if found["capacity"] < n_nodes or not 0 <= found["levels"] <= _MAX_LEVEL:
            raise _damaged(path, f"capacity {found['capacity']}, {found['levels']} levels")
        if found["entry"] >= n_nodes or not found["factor"] >= 0:
            raise _damaged(path, f"entry at node {found['entry']}")
        if size < _HEADER.size + n_nodes * (record + 4):
            raise _damaged(path, f"{size} bytes for {n_nodes} nodes")
        numbers = np.empty(n_nodes, np.uint64)
        for start in range(0, n_nodes, _BLOCK):
            n = min(_BLOCK, n_nodes - start)
            rows = np.frombuffer(file.read(n * record), np.uint8).reshape(n, record)
            numbers[start : start + n] = rows[:, -8:].copy().view("<u8")[:, 0]
            if rows[:, 2:4].any():
                raise _damaged(path, "flags; dexml sets none")
            _check_links(path, rows[:, : 4 + 8 * m], 2 * m, n_nodes)
        if not np.array_equal(np.sort(numbers), np.arange(n_nodes, dtype=np.uint64)):
            raise _damaged(path, "its nodes are not numbered from 0")
        levels, links = _read_levels(path, file.read(), n_nodes, m)
    if levels.max() > found["levels"] or levels[found["entry"]] != found["levels"]:
        raise _damaged(path, "levels")
    for level, rows in enumerate(links, start=1):
        ids = _check_links(path, rows, m, n_nodes)
        if (levels[ids] < level).any():
            raise _damaged(path, f"a link of level {level} leads to a node below it")


_NAMES = (
    *("lowest level", "capacity", "nodes", "bytes a node", "place of numbers", "place of vectors"),
    *("levels", "entry", "links", "links in the lowest level", "M", "factor", "ef_construction"),
)


def _check_links(
    path: Path, rows: NDArray[np.uint8], most: int, n_nodes: int
) -> NDArray[np.uint32]:
    """Check link lists: a count (2 bytes, 2 of flags), then up to `most` nodes; return these."""
    counts = rows[:, :2].copy().view("<u2")[:, 0]
    if (counts > most).any():
        raise _damaged(path, f"a node with {counts.max()} links")
    nodes = rows[:, 4:].copy().view("<u4")
    used: NDArray[np.uint32] = nodes[np.arange(most) < counts[:, None]]
    if len(used) and used.max() >= n_nodes:
        raise _damaged(path, f"a link to node {used.max()} of {n_nodes}")
    return used


def _read_levels(
    path: Path, rest: bytes, n_nodes: int, m: int
) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    """Read the higher levels: how many each node has, and the link lists of each level."""
    width = 4 + 4 * m
    levels = np.zeros(n_nodes, np.int64)
    starts: list[list[int]] = []
    place = 0
    for node in range(n_nodes):
        if place + 4 > len(rest):
            raise _damaged(path, "it ends early")
        length = int.from_bytes(rest[place : place + 4], "little")
        place += 4
        if length == 0:
            continue
        level, over = divmod(length, width)
        if over or level > _MAX_LEVEL or place + length > len(rest):
            raise _damaged(path, f"node {node} with {length} bytes of higher levels")
        levels[node] = level
        while len(starts) < level:
            starts.append([])
        for i in range(level):
            starts[i].append(place + i * width)
        place += length
    if place != len(rest):
        raise _damaged(path, f"{len(rest) - place} bytes too many")
    raw = np.frombuffer(rest, np.uint8)
    return levels, [raw[np.array(s)[:, None] + np.arange(width)] for s in starts]


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path}: damaged ({what}); build the index again")
