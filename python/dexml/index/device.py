"""Exact search by a device of torch: matrix products and top-k there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml import console
from dexml.data import Csr, csr_parts

if TYPE_CHECKING:
    from dexml.index.exact import Space

_VECTORS = 2**28
"""Numbers (1 GiB) of the label vectors that lie on the device at a time."""
_SCORES = 2**27
"""Scores (512 MiB) of one matrix product."""
_SPARE = 8


def search_on(
    device: str,
    space: Space,
    queries: NDArray[np.float32],
    k: int,
    exclude: Csr | None,
    *,
    progress: bool,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
    """As `Space.search`; also says for which rows the result is proven (`Space.settled`).

    Each label vector travels to the device once. Products are true float32 (no TF32), and the
    scores of candidates are computed afresh in float64 and rounded, as rankings need; so they may
    differ from those of the CPU in the last bit.
    """
    target = torch.device(device)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return _search(target, space, queries, k, exclude, progress=progress)
    finally:
        torch.set_float32_matmul_precision(precision)


def _search(
    device: torch.device,
    space: Space,
    queries: NDArray[np.float32],
    k: int,
    exclude: Csr | None,
    *,
    progress: bool,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
    n, dim = queries.shape
    ids = np.full((n, k), -1, np.int32)
    scores = np.full((n, k), -np.inf, np.float32)
    unseen = np.full(n, -np.inf, np.float32)
    columns = max(1, _VECTORS // max(1, dim))
    rows = max(1, min(4096, _SCORES // min(columns, len(space))))
    pairs = None if exclude is None else csr_parts(exclude, "exclude")[:2]
    total = n * -(-len(space) // columns)
    with console.bar(total=total, desc="search", unit="point", disable=not progress) as bar:
        for first, block in space.blocks(columns):
            vectors = torch.from_numpy(np.array(block)).to(device)
            banned = space.banned_in(first, len(block))
            hidden = None if banned is None else torch.from_numpy(banned).to(device)
            for start in range(0, n, rows):
                part = slice(start, min(start + rows, n))
                query = torch.from_numpy(queries[part]).to(device)
                products = query @ vectors.T
                if hidden is not None:
                    products[:, hidden] = -torch.inf
                if pairs is not None:
                    row, column = _within(pairs, part, first, len(block))
                    at = torch.from_numpy(row).to(device), torch.from_numpy(column).to(device)
                    products[at] = -torch.inf
                width = min(k + _SPARE, len(block))
                near, places = products.topk(width, dim=1)
                if width < len(block):
                    unseen[part] = np.maximum(unseen[part], near[:, -1].cpu().numpy())
                fresh = _afresh(query, vectors, places).masked_fill(near.isneginf(), -torch.inf)
                known = space.labels((places + first).to(torch.int32).cpu().numpy())
                best = _best(
                    torch.cat([torch.from_numpy(ids[part]).to(device), _to(known, device)], 1),
                    torch.cat([torch.from_numpy(scores[part]).to(device), fresh], 1),
                    k,
                )
                ids[part], scores[part] = best[0].cpu().numpy(), best[1].cpu().numpy()
                bar.update(len(query))
    return ids, scores, space.settled(queries, scores[:, -1], unseen)


def _to(ids: NDArray[np.int32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(ids)).to(device)


def _afresh(query: Tensor, vectors: Tensor, places: Tensor) -> Tensor:
    """Scores (B, width) of the vectors at `places`, each pair by itself."""
    out = torch.empty(places.shape, device=query.device)
    step = max(1, 2**24 // max(1, places.shape[1] * query.shape[1]))
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        gathered = vectors[places[part]].double()
        out[part] = (gathered * query[part].double().unsqueeze(1)).sum(dim=2).float()
    return out + 0.0


def _best(ids: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Keep the k best; equal scores: the smaller id first (torch.topk promises no order)."""
    by_id = ids.argsort(dim=1)
    ids, scores = ids.gather(1, by_id), scores.gather(1, by_id)
    by_score = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    ids, scores = ids.gather(1, by_score), scores.gather(1, by_score)
    return ids.masked_fill(scores.isneginf(), -1), scores


def _within(
    pairs: tuple[NDArray[np.int64], NDArray[np.int32]], part: slice, first: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the pairs of some rows that fall into a block of labels."""
    window = pairs[0][part.start : part.stop + 1]
    labels = pairs[1][window[0] : window[-1]].astype(np.int64) - first
    row = np.repeat(np.arange(len(window) - 1), np.diff(window))
    inside = (labels >= 0) & (labels < width)
    return row[inside], labels[inside]
