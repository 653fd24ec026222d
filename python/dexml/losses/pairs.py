"""Pairs of points and labels in CSR form: checked, sampled, and cut into blocks of scores.

Shapes: B points, L labels, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Csr = tuple[Tensor, Tensor]
"""CSR without values: ``indptr`` (B + 1,) and ``indices`` (P,), both int64 or int32."""


class Pairs(NamedTuple):
    """Pairs sorted by row, then column, each once."""

    rows: Tensor
    """int64 (P,)."""
    columns: Tensor
    """int64 (P,), ids among all labels."""
    weight: Tensor | None
    """(P,), None for ones."""
    counts: Tensor
    """Pairs in each row, int64 (B,)."""


def read(
    pairs: Csr | Any,
    shape: tuple[int, int],
    device: torch.device,
    name: str,
    *,
    weight: Tensor | None = None,
    check: bool = True,
) -> Pairs:
    """Bring CSR pairs into order on `device`, checked against `shape`.

    Values stored in a scipy matrix are not read: each stored entry is a pair.
    """
    if isinstance(pairs, tuple):
        indptr, indices = (part.to(torch.int64) for part in pairs)
    else:
        if pairs.shape != shape:
            raise ValueError(f"{name}: shape {pairs.shape}, expected {shape}")
        indptr = torch.from_numpy(np.asarray(pairs.indptr, dtype=np.int64))
        indices = torch.from_numpy(np.asarray(pairs.indices, dtype=np.int64))
    if len(indptr) != shape[0] + 1:
        raise ValueError(f"{name}: indptr of length {len(indptr)} for {shape[0]} points")
    counts = torch.diff(indptr)
    if check:
        if int(indptr[0]) != 0 or int(indptr[-1]) != len(indices) or bool((counts < 0).any()):
            raise ValueError(f"{name}: indptr does not rise from 0 to {len(indices)}")
        outside = (indices < 0) | (indices >= shape[1])
        if bool(outside.any()):
            label = int(indices[outside][0])
            raise ValueError(f"{name}: label {label} out of range (n_labels = {shape[1]})")
    rows = torch.repeat_interleave(
        torch.arange(shape[0], device=counts.device), counts, output_size=len(indices)
    )
    keys = rows * shape[1] + indices
    if check and bool((torch.diff(keys) <= 0).any()):  # out of order, or a pair twice
        keys, order = torch.sort(keys)
        twice = torch.diff(keys) == 0
        if bool(twice.any()):
            key = int(keys[1:][twice][0])
            raise ValueError(
                f"{name}: label {key % shape[1]} stands twice in row {key // shape[1]}"
            )
        indices = indices[order]
        weight = None if weight is None else weight[order.to(weight.device)]
    if weight is not None:
        weight = weight.to(device)
    return Pairs(rows.to(device), indices.to(device), weight, counts.to(device))


def read_weights(weights: Tensor | Any, n_pairs: int, *, check: bool) -> Tensor:
    """Weights of positives: (P,) in the order of the CSR indices, above 0."""
    if not isinstance(weights, Tensor):
        weights = torch.from_numpy(np.asarray(weights))
    if weights.shape != (n_pairs,):
        raise ValueError(f"weights: shape {tuple(weights.shape)} for {n_pairs} positives")
    if check and not bool((weights > 0).all()):
        place = int(torch.argmin((weights > 0).to(torch.int8)))
        raise ValueError(f"weights: {float(weights[place])} at entry {place}; expected above 0")
    return weights.detach()


def without(pairs: Pairs, other: Pairs, n_labels: int) -> Pairs:
    """`pairs` that are not among `other`."""
    keys = pairs.rows * n_labels + pairs.columns
    others = other.rows * n_labels + other.columns
    if not len(keys) or not len(others):
        return pairs
    place = torch.searchsorted(others, keys).clamp_(max=len(others) - 1)
    return _select(pairs, others[place] != keys)


def merge(a: Pairs, b: Pairs, n_labels: int) -> Pairs:
    """Both, in order; they have no pair in common. Weights are left out."""
    rows, columns = torch.cat([a.rows, b.rows]), torch.cat([a.columns, b.columns])
    order = torch.argsort(rows * n_labels + columns)
    return Pairs(rows[order], columns[order], None, a.counts + b.counts)


def draw(pairs: Pairs, seed: int, size: int | Tensor) -> tuple[Pairs, Pairs]:
    """At most `size` pairs of each row, drawn without replacement, and the rest.

    Each pair has a pseudo-random key made from (seed, row, label) alone, and the smallest keys of
    a row are drawn: uniform, and equal on every process that holds the row.
    """
    key = _mix(_mix(_mix(torch.full_like(pairs.rows, seed)) ^ pairs.rows) ^ pairs.columns)
    order = torch.argsort(key)
    order = order[torch.argsort(pairs.rows[order], stable=True)]  # by row, then key
    starts = torch.cumsum(pairs.counts, 0) - pairs.counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts[pairs.rows]
    drawn = rank < (size if isinstance(size, int) else size[pairs.rows])
    return _select(pairs, drawn), _select(pairs, ~drawn)


def _select(pairs: Pairs, chosen: Tensor) -> Pairs:
    rows = pairs.rows[chosen]
    weight = None if pairs.weight is None else pairs.weight[chosen]
    counts = torch.bincount(rows, minlength=len(pairs.counts))
    return Pairs(rows, pairs.columns[chosen], weight, counts)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64, on wrapping int64 (shifts made logical by a mask)."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@dataclass(frozen=True)
class Blocks:
    """Pairs of a shard in block order: chunk of rows, tile of labels, row, label."""

    rows: Tensor
    """Within the chunk."""
    columns: Tensor
    """Within the tile."""
    tiles: Tensor
    """The tile of each pair."""
    weight: Tensor | None
    cuts: list[int]
    """Block (chunk, tile) is pairs ``cuts[b] : cuts[b + 1]`` with b = chunk * n_tiles + tile."""
    n_tiles: int

    def block(self, chunk: int, tile: int) -> slice:
        """Pairs of one block."""
        b = chunk * self.n_tiles + tile
        return slice(self.cuts[b], self.cuts[b + 1])

    def chunk(self, chunk: int) -> slice:
        """Pairs of one chunk of rows."""
        return slice(self.cuts[chunk * self.n_tiles], self.cuts[(chunk + 1) * self.n_tiles])


def cut(pairs: Pairs, lo: int, tile_starts: list[int], chunk_rows: int, n_chunks: int) -> Blocks:
    """Cut pairs at tile starts (counted from label `lo`, the end of the last tile included)."""
    n_tiles = len(tile_starts) - 1
    starts = torch.tensor(tile_starts, device=pairs.rows.device)
    columns = pairs.columns - lo
    inside = (columns >= 0) & (columns < tile_starts[-1])
    rows, columns = pairs.rows[inside], columns[inside]
    weight = None if pairs.weight is None else pairs.weight[inside]
    tiles = torch.searchsorted(starts, columns, right=True) - 1
    chunks = rows // chunk_rows
    key, order = torch.sort(chunks * n_tiles + tiles, stable=True)
    edges = torch.arange(n_chunks * n_tiles + 1, device=key.device)
    return Blocks(
        (rows - chunks * chunk_rows)[order],
        (columns - starts[tiles])[order],
        tiles[order],
        None if weight is None else weight[order],
        torch.searchsorted(key, edges).tolist(),
        n_tiles,
    )


def counts(
    positives: Csr | Any, ignore: Csr | Any | None = None, *, n_labels: int, k: int | None = None
) -> dict[str, int]:
    """What the losses pass over in silence, counted once where a CSR is built.

    Args:
        positives: As the losses take them.
        ignore: Likewise.
        n_labels: Number of labels.
        k: Of the top-k losses.

    Returns:
        ``rows_without_positives``; ``ignored_positives``: pairs in both sets (they count as
        positives); with `k`, ``rows_beyond_k``: more than k positives (0 in `topk_hinge`).
    """
    n_points = len(positives[0]) - 1 if isinstance(positives, tuple) else positives.shape[0]
    shape = (n_points, n_labels)
    wanted = read(positives, shape, torch.device("cpu"), "positives")
    found = {"rows_without_positives": int((wanted.counts == 0).sum()), "ignored_positives": 0}
    if ignore is not None:
        masked = read(ignore, shape, torch.device("cpu"), "ignore")
        rest = without(masked, wanted, n_labels)
        found["ignored_positives"] = len(masked.rows) - len(rest.rows)
    if k is not None:
        found["rows_beyond_k"] = int((wanted.counts > k).sum())
    return found
