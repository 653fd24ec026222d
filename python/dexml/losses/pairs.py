"""Pairs of points and labels in CSR form: checked, sampled, and cut into blocks of scores.

All of it on the host, wherever the scores are: the sizes depend on values, and on a GPU each such
size would make the host wait for all work that is under way. Only the blocks go to the device.

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
    """Pairs sorted by row, then column, each once; on the host."""

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
    name: str,
    *,
    weight: Tensor | None = None,
    check: bool = True,
) -> Pairs:
    """Read CSR pairs, and check them.

    Every entry that a scipy matrix stores is a pair, whatever its value. Tensors of a device come
    to the host, which waits for them.

    Args:
        pairs: ``(indptr, indices)`` or a scipy CSR; the ids of a row may stand in any order.
        shape: (B, L).
        name: The argument's name, for messages.
        weight: A weight of each pair, (P,) in the order of `indices`; sorted along with them.
        check: Read the values too.

    Raises:
        ValueError: Shapes disagree, or (``check=True``) an id is out of range or twice in a row.
    """
    if isinstance(pairs, tuple):
        indptr, indices = _to_host(*pairs)
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
    rows = torch.repeat_interleave(torch.arange(shape[0]), counts, output_size=len(indices))
    keys = rows * shape[1] + indices
    if check and bool((torch.diff(keys) <= 0).any()):  # out of order, or a duplicate
        keys, order = torch.sort(keys)
        twice = torch.diff(keys) == 0
        if bool(twice.any()):
            key = int(keys[1:][twice][0])
            raise ValueError(
                f"{name}: label {key % shape[1]} appears twice in row {key // shape[1]}"
            )
        indices = indices[order]
        weight = None if weight is None else weight[order]
    return Pairs(rows, indices, weight, counts)


def _to_host(indptr: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Bring both to the host as int64, in one copy if they are on one device: one wait."""
    if indptr.device.type != "cpu" and indptr.device == indices.device:
        both = torch.cat([indptr.to(torch.int64), indices.to(torch.int64)]).cpu()
        return both[: len(indptr)], both[len(indptr) :]
    return indptr.to("cpu", torch.int64), indices.to("cpu", torch.int64)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor of the host to a device, without waiting for what is under way there.

    CUDA takes the bytes of pageable memory before the call returns, so the tensor may change or go.
    """
    return tensor.to(device, non_blocking=True)


def read_weights(weights: Tensor | Any, n_pairs: int, *, check: bool) -> Tensor:
    """Read the weights of the positives: (P,) in the order of the CSR indices, above 0."""
    weights = weights.detach() if isinstance(weights, Tensor) else np.asarray(weights)
    weights = torch.as_tensor(weights, device="cpu")
    if weights.shape != (n_pairs,):
        raise ValueError(f"weights: shape {tuple(weights.shape)} for {n_pairs} positives")
    if check and not bool((weights > 0).all()):
        entry = int(torch.argmin((weights > 0).to(torch.int8)))
        raise ValueError(f"weights: {float(weights[entry])} at entry {entry}; expected above 0")
    return weights


def without(pairs: Pairs, other: Pairs, n_labels: int) -> Pairs:
    """Remove the pairs that `other` holds too."""
    keys = pairs.rows * n_labels + pairs.columns
    others = other.rows * n_labels + other.columns
    if not len(keys) or not len(others):
        return pairs
    nearest = torch.searchsorted(others, keys).clamp_(max=len(others) - 1)
    return _select(pairs, others[nearest] != keys)


def merge(a: Pairs, b: Pairs, n_labels: int) -> Pairs:
    """Join two sets that share no pair, sorted. Weights are dropped."""
    rows, columns = torch.cat([a.rows, b.rows]), torch.cat([a.columns, b.columns])
    order = torch.argsort(rows * n_labels + columns)
    return Pairs(rows[order], columns[order], None, a.counts + b.counts)


def draw(pairs: Pairs, seed: int, size: int | Tensor) -> tuple[Pairs, Pairs]:
    """Draw at most `size` pairs of each row without replacement; returns them and the rest.

    Each pair gets a pseudo-random key from (seed, row, label) alone, and the smallest keys of a row
    are drawn: uniformly, and the same on every process that holds the row.
    """
    key = _mix(_mix(_mix(torch.full_like(pairs.rows, seed)) ^ pairs.rows) ^ pairs.columns)
    order = torch.argsort(key)
    order = order[torch.argsort(pairs.rows[order], stable=True)]  # by row, then key
    starts = torch.cumsum(pairs.counts, 0) - pairs.counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - starts[pairs.rows]
    drawn = rank < (size if isinstance(size, int) else size.cpu()[pairs.rows])
    return _select(pairs, drawn), _select(pairs, ~drawn)


def _select(pairs: Pairs, chosen: Tensor) -> Pairs:
    rows = pairs.rows[chosen]
    weight = None if pairs.weight is None else pairs.weight[chosen]
    counts = torch.bincount(rows, minlength=len(pairs.counts))
    return Pairs(rows, pairs.columns[chosen], weight, counts)


def _mix(x: Tensor) -> Tensor:
    """Scramble int64 numbers, as the last step of splitmix64.

    Products wrap. The masks turn torch's arithmetic shifts into logical ones.
    """
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@dataclass(frozen=True)
class Blocks:
    """The pairs of a process, sorted by chunk of rows, tile of labels, row and label."""

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

    def to(self, device: torch.device) -> Blocks:
        """The same on a device."""
        return Blocks(
            moved(self.rows, device),
            moved(self.columns, device),
            moved(self.tiles, device),
            None if self.weight is None else moved(self.weight, device),
            self.cuts,
            self.n_tiles,
        )


def cut(pairs: Pairs, lo: int, tile_starts: list[int], chunk_rows: int, n_chunks: int) -> Blocks:
    """Cut pairs into the blocks of the scores; pairs of other processes are left out.

    Args:
        pairs: Pairs with ids among all labels.
        lo: The first label of this process.
        tile_starts: Starts of the tiles counted from `lo`, and the end of the last one.
        chunk_rows: Rows of a chunk.
        n_chunks: Number of chunks.
    """
    n_tiles = len(tile_starts) - 1
    starts = torch.tensor(tile_starts)
    columns = pairs.columns - lo
    inside = (columns >= 0) & (columns < tile_starts[-1])
    rows, columns = pairs.rows[inside], columns[inside]
    weight = None if pairs.weight is None else pairs.weight[inside]
    tiles = torch.searchsorted(starts, columns, right=True) - 1
    chunks = rows // chunk_rows
    key, order = torch.sort(chunks * n_tiles + tiles, stable=True)
    edges = torch.arange(n_chunks * n_tiles + 1)
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
    """Count what the losses leave out without a word; call it once, where a CSR is built.

    Args:
        positives: Pairs as the losses take them, B rows.
        ignore: Likewise.
        n_labels: Number of labels.
        k: The k of a top-k loss.

    Returns:
        ``rows_without_positives``; ``ignored_positives``, pairs in both sets, which count as
        positives; and with `k` ``rows_beyond_k``, rows with more than k positives, which
        contribute 0 to `topk_hinge`.

    Raises:
        ValueError: An id is out of range or twice in a row, or shapes disagree.
    """
    n_points = len(positives[0]) - 1 if isinstance(positives, tuple) else positives.shape[0]
    shape = (n_points, n_labels)
    wanted = read(positives, shape, "positives")
    result = {"rows_without_positives": int((wanted.counts == 0).sum()), "ignored_positives": 0}
    if ignore is not None:
        masked = read(ignore, shape, "ignore")
        rest = without(masked, wanted, n_labels)
        result["ignored_positives"] = len(masked.rows) - len(rest.rows)
    if k is not None:
        result["rows_beyond_k"] = int((wanted.counts > k).sum())
    return result
