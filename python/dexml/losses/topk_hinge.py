"""Top-k hinge: the (k+1)-th score of a row against its lowest positive.

Shapes: B points (rows of a batch), L labels, D dimensions, R rows of a chunk, T labels of a tile,
K = k + 1, P positives, V virtual shards of this process.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from dexml.losses.arguments import Options, Reduction
from dexml.losses.batch import Batch
from dexml.losses.gradients import Gradients
from dexml.losses.loss import Loss, eager, evaluate
from dexml.losses.pairs import Csr, moved
from dexml.losses.sweep import Sweep


@eager
def topk_hinge(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    *,
    k: int = 5,
    ignore: Csr | Any | None = None,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[Options],
) -> Tensor:
    r"""Hinge between the lowest positive of a point and its (k+1)-th highest score.

    The same as, with the positives as a matrix y (B, L) of zeros and ones:

        z = point_emb @ label_emb.T / temperature
        rival = torch.sort(z, dim=1, descending=True, stable=True).values[:, k]
        lowest = z.masked_fill(y == 0, torch.inf).amin(dim=1)
        n = y.sum(dim=1)
        rows = torch.clamp(1 + rival - lowest, min=0) * (0 < n) * (n <= k)
        loss = rows.mean()

    Optimises ``max(0, 1 + z_[k+1] - min_p z_p)``: 0 as soon as every positive beats the (k+1)-th
    highest score by 1, whatever their order; the hard counterpart of `soft_topk`. It is exactly 1,
    with no gradient, if the lowest positive is the (k+1)-th label itself, so start from an encoder
    that already ranks. Source: TKML in SoRR (Hu, Ying, Wang and Lyu, NeurIPS 2020 / JMLR 2022).

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`. Rows with more than k contribute 0; `counts` counts them.
        k: Whole number of at least 1.
        ignore: As for `softmax`.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar in the dtype of the scores: the mean over all B rows, of which those without
        positives, with more than k, or with fewer than k + 1 labels that are not ignored contribute
        0. Of equal scores the smaller id ranks first. With ``reduction="none"`` the losses of the
        rows, shape (B,).

    Raises:
        TypeError: As `softmax`.
        ValueError: As `softmax`.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k = {k}; expected a whole number of at least 1")
    return evaluate(
        _TOPK_HINGE,
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature=temperature,
        label_bias=label_bias,
        reduction=reduction,
        options=options,
        k=k,
    )


def _rows(batch: Batch, *, k: int) -> tuple[Tensor, Gradients]:
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
        # Two entries of dloss/dz a row, so no tile of gradients. Each process adds the entries of
        # its own labels, each into the buffer of the virtual shard that the label belongs to.
        rows = torch.nonzero(counted & (rival_id_R != lowest_id_R)).squeeze(1)
        weight = sweep.row_weight[rows]
        for ids, sign in ((rival_id_R, 1.0), (lowest_id_R, -1.0)):
            row, column, pull = rows, ids[rows] - batch.lo, sign * weight
            if batch.exchange.size > 1:  # a mask becomes a size: the host waits for a GPU
                inside = (column >= 0) & (column < len(batch.label_emb))
                row, column, pull = row[inside], column[inside], pull[inside]
            cuts = moved(torch.tensor(batch.exchange.cuts[1:]), column.device)
            shard = torch.searchsorted(cuts, column, right=True)
            gradients.add_pairs(start + row, column, shard, pull)
    return row_loss, gradients


def _rival(sweep: Sweep, k: int) -> tuple[Tensor, Tensor]:
    """The (k+1)-th highest score of each row and its label; -inf if fewer labels are left."""
    batch, n_top = sweep.batch, k + 1
    # Unfilled entries hold -inf and an id beyond all labels.
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
    """The n best by score, of equal scores those with the smaller ids."""
    id_RK, order = torch.sort(id_RK, dim=1)
    value_RK, by_value = torch.sort(value_RK.gather(1, order), dim=1, descending=True, stable=True)
    return value_RK[:, :n], id_RK.gather(1, by_value)[:, :n]


def _top(z_RT: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n best of a tile, of equal scores those with the smaller ids.

    torch.topk is fast but free to keep any of several equal scores. So rows in which scores equal
    to the n-th were left out are sorted instead.
    """
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
    label_P = batch.lo + batch.tile_starts[tiles] + batch.positive_blocks.columns[own]
    z_P, rows_P = sweep.z_P, sweep.rows_P
    low_R = z_P.new_full((sweep.n_rows,), torch.inf)
    low_R = low_R.scatter_reduce(0, rows_P, z_P, "amin")
    low_R = batch.exchange.gather(low_R.expand(batch.exchange.n_local, -1)).amin(dim=0)
    mine = label_P.masked_fill(z_P != low_R[rows_P], batch.n_labels)
    id_R = torch.full_like(low_R, batch.n_labels, dtype=torch.int64)
    id_R = id_R.scatter_reduce(0, rows_P, mine, "amin")
    return low_R, batch.exchange.gather(id_R.expand(batch.exchange.n_local, -1)).amin(dim=0)


_TOPK_HINGE = Loss("topk_hinge", _rows, live_tiles=3, keeps_scores=False)
