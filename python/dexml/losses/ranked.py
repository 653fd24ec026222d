"""Top-k hinge: the (k+1)-th score of a row against its lowest positive.

Shapes: B points, R rows of a chunk, T labels of a tile, K = k + 1, P positives of the chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexml.losses.sweep import Batch, Gradients, Sweep

COPIES = 3
"""Tiles of scores alive at a time."""


def ranked(batch: Batch, k: int) -> tuple[Tensor, Gradients]:
    """Row losses (B,) and gradients."""
    gradients = Gradients(batch)
    masked = batch.masked_blocks(positives=False)
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, masked)
        rival_R, rival_id_R = _rival(sweep, k)
        lowest_R, lowest_id_R = _lowest_positive(sweep)
        counted = (sweep.n_positives > 0) & (sweep.n_positives <= k) & (rival_R > -torch.inf)
        margin_R = 1 + rival_R - lowest_R
        counted &= margin_R > 0
        row_loss[start:stop] = margin_R.masked_fill(~counted, 0.0)
        if not gradients.any:
            continue
        rows = torch.nonzero(counted & (rival_id_R != lowest_id_R)).squeeze(1)
        weight = sweep.row_weight[rows]
        for ids, sign in ((rival_id_R, 1.0), (lowest_id_R, -1.0)):
            column = ids[rows] - batch.lo
            inside = (column >= 0) & (column < len(batch.label_emb))
            column = column[inside]
            cuts = torch.tensor(batch.exchange.cuts[1:], device=column.device)
            shard = torch.searchsorted(cuts, column, right=True)
            gradients.add_pairs(start + rows[inside], column, shard, sign * weight[inside])
    return row_loss, gradients


def _rival(sweep: Sweep, k: int) -> tuple[Tensor, Tensor]:
    """The (k+1)-th highest score of each row and its label; -inf where fewer labels are left."""
    batch, n_top = sweep.batch, k + 1
    # Unfilled places hold -inf and an id beyond all labels.
    n_local = batch.exchange.n_local
    value_VRK = batch.point_emb.new_full(
        (n_local, sweep.n_rows, n_top), -torch.inf, dtype=batch.dtype
    )
    id_VRK = torch.full_like(value_VRK, batch.n_labels, dtype=torch.int64)
    for tile, z_RT in sweep.first():
        start, _, v = batch.tiles[tile]
        value, column = _top(z_RT, n_top)
        value_VRK[v], id_VRK[v] = _best(
            torch.cat([value_VRK[v], value], dim=1),
            torch.cat([id_VRK[v], column + start + batch.lo], dim=1),
            n_top,
        )
    values, ids = batch.exchange.gather(value_VRK), batch.exchange.gather(id_VRK)
    value, label = _best(torch.cat([*values], dim=1), torch.cat([*ids], dim=1), n_top)
    return value[:, k], label[:, k]


def _best(value_RK: Tensor, id_RK: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n best by score, then by smaller id."""
    id_RK, order = torch.sort(id_RK, dim=1)
    value_RK, by_value = torch.sort(value_RK.gather(1, order), dim=1, descending=True, stable=True)
    return value_RK[:, :n], id_RK.gather(1, by_value)[:, :n]


def _top(z_RT: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n best of a tile; which of several equal ones torch.topk keeps is left open by it."""
    if z_RT.shape[1] <= n:
        return z_RT, torch.arange(z_RT.shape[1], device=z_RT.device).expand(z_RT.shape)
    value, column = torch.topk(z_RT, n, dim=1)
    last = value[:, -1:]
    tied = ((z_RT >= last).sum(dim=1) > n) & (last[:, 0] > -torch.inf)
    if bool(tied.any()):
        rows = torch.nonzero(tied).squeeze(1)
        order = torch.sort(z_RT[rows], dim=1, descending=True, stable=True)
        value[rows], column[rows] = order.values[:, :n], order.indices[:, :n]
    return value, column


def _lowest_positive(sweep: Sweep) -> tuple[Tensor, Tensor]:
    """The lowest score among the positives of each row, and the smallest label that has it."""
    batch = sweep.batch
    own = batch.positive_blocks.chunk(sweep.chunk)
    tiles = batch.positive_blocks.tiles[own]
    starts = torch.tensor(
        [start for start, _, _ in batch.tiles], dtype=torch.int64, device=tiles.device
    )
    label_P = batch.lo + starts[tiles] + batch.positive_blocks.columns[own]
    z_P, rows_P = sweep.z_P, sweep.rows_P
    low_R = z_P.new_full((sweep.n_rows,), torch.inf)
    low_R = low_R.scatter_reduce(0, rows_P, z_P, "amin")
    low_R = batch.exchange.gather(low_R.expand(batch.exchange.n_local, -1)).amin(dim=0)
    mine = label_P.masked_fill(z_P != low_R[rows_P], batch.n_labels)
    id_R = torch.full_like(low_R, batch.n_labels, dtype=torch.int64)
    id_R = id_R.scatter_reduce(0, rows_P, mine, "amin")
    return low_R, batch.exchange.gather(id_R.expand(batch.exchange.n_local, -1)).amin(dim=0)


def average_of_ranked(row_losses: Tensor, *, m: int, k: int) -> Tensor:
    """Mean of the row losses that rank m + 1 to k from the highest (AoRR): scalar.

    Drops the m worst rows (wrong labels) and the easy ones beyond k. Source: Hu, Ying, Wang and
    Lyu, NeurIPS 2020 / JMLR 2022, published on small label sets only.

    Args:
        row_losses: Shape (B,), of any loss of this package with ``reduction="none"``.
        m: Rows to drop, at least 0.
        k: Last rank that counts, above `m` and at most B.

    Raises:
        ValueError: Not 0 <= m < k <= B.
    """
    if row_losses.ndim != 1 or not 0 <= m < k <= len(row_losses):
        raise ValueError(
            f"m = {m}, k = {k} for losses of shape {tuple(row_losses.shape)}; "
            "expected (B,) and 0 <= m < k <= B"
        )
    return torch.sort(row_losses, descending=True, stable=True).values[m:k].mean()
