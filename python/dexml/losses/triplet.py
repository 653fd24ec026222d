"""Triplet hinge: each positive above the negatives by a margin, the hard negatives first.

Shapes: B points (rows of a batch), L labels, D dimensions, R rows of a chunk, T labels of a tile,
P positives, M positives of a row at most, V virtual shards of this process.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from dexml.losses.arguments import Options, Reduction, check_above_zero
from dexml.losses.batch import Batch
from dexml.losses.gradients import Gradients
from dexml.losses.loss import Loss, eager, evaluate
from dexml.losses.pairs import Csr, moved
from dexml.losses.sweep import Sweep


@eager
def triplet(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    *,
    margin: float = 2.0,
    ignore: Csr | Any | None = None,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    weights: Tensor | None = None,
    sample_seed: int | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[Options],
) -> Tensor:
    r"""Hinge of each positive against the negatives that come nearer to it than a margin.

    The same as, with the positives as a matrix y (B, L) of zeros and ones:

        z = point_emb @ label_emb.T / temperature
        gap = 2.0 + z.unsqueeze(1) - z.unsqueeze(2)
        near = (gap > 0) & (y == 0).unsqueeze(1)
        n = torch.where(near, z.unsqueeze(1), torch.finfo(z.dtype).min)
        terms = (torch.softmax(n, dim=2).detach() * gap * near).sum(dim=2)
        rows = (y * terms).sum(dim=1) / y.sum(dim=1).clamp(min=1)
        loss = rows.mean()

    Optimises, for each positive p, the mean of ``max(0, z_n - z_p + margin)`` over the negatives n
    where it is not 0, weighted by the softmax of their scores; the weights are constants. Unlike in
    `decoupled_softmax`, a positive that beats every negative by the margin is left alone, and so
    are the negatives. Source: NGAME (WSDM 2023) and PRIME (NAACL 2025), there over the hardest
    negatives of a pool. PRIME's margin for dot products s, ``clip(|s_p - s_n|, 0.1, 0.3)`` without
    a gradient of its own, has the gradient of the margin 0.1, which is 0.1 / temperature here: it
    is larger than ``s_p - s_n`` exactly where 0.1 is.

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`.
        margin: By how much a positive is to beat a negative, in z; above 0.
        ignore: As for `softmax`.
        temperature: As for `softmax`; the lower, the more the hardest negatives count.
        label_bias: As for `softmax`.
        weights: As for `softmax`.
        sample_seed: Use one positive of each point and ignore the others: the same mean, with more
            variance.
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar in the dtype of the scores: the mean over all B rows, of which those without
        positives or without negatives contribute 0. With ``reduction="none"`` the losses of the
        rows, shape (B,).

    Raises:
        TypeError: As `softmax`.
        ValueError: As `softmax`, or `margin` is not above 0.
    """
    check_above_zero("margin", margin)
    return evaluate(
        _TRIPLET,
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature=temperature,
        label_bias=label_bias,
        weights=weights,
        sample_seed=sample_seed,
        reduction=reduction,
        options=options,
        margin=margin,
    )


def _rows(batch: Batch, *, margin: float) -> tuple[Tensor, Gradients]:
    """Row losses (B,) and gradients.

    A negative comes too near to the lowest c positives of its row, c from a binary search. So sums
    over the negatives of each positive, and over the positives of each negative, are running sums
    over the positives in the order of their scores, and no triplet is ever formed.
    """
    gradients = Gradients(batch)
    masked, positives = batch.masked_blocks(positives=True), batch.positive_blocks
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    n_most = int(batch.positives.counts.max()) if len(batch.positives.counts) else 0
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, masked)
        top_R1 = _highest(sweep).unsqueeze(1)
        slot_P = _slots(sweep)
        z_RM = _by_row(sweep, slot_P, sweep.z_P, n_most, torch.inf)
        z_RM, order_RM = torch.sort(z_RM, dim=1, stable=True)
        share_RM = _by_row(sweep, slot_P, sweep.share, n_most, 0.0).gather(1, order_RM)

        # Sums over the negatives that come too near to exactly the lowest c positives.
        n_local = batch.exchange.n_local
        sums_2VRC = z_RM.new_zeros(2, n_local, sweep.n_rows, n_most + 1)
        for tile, z_RT in sweep.again():
            c_RT = torch.searchsorted(z_RM, z_RT + margin)
            e_RT = torch.exp(z_RT - top_R1)
            v = batch.tiles[tile][2]
            sums_2VRC[0, v].scatter_add_(1, c_RT, e_RT)
            # What is near to none, masked scores among it, falls into place 0, which is not read.
            sums_2VRC[1, v].scatter_add_(1, c_RT, e_RT * (z_RT - top_R1))
        sums_2RC = batch.exchange.sum(sums_2VRC.transpose(0, 1).contiguous())
        total_RM, product_RM = sums_2RC.flip(2).cumsum(2).flip(2)[:, :, 1:]
        near_RM = total_RM > 0
        total_RM = total_RM.masked_fill(~near_RM, 1.0)
        gap_RM = product_RM / total_RM + top_R1 + margin - z_RM
        row_loss[start:stop] = (share_RM * gap_RM).masked_fill(~near_RM, 0.0).sum(dim=1)
        if not gradients.any:
            continue

        pull_RM = share_RM * near_RM * sweep.row_weight.unsqueeze(1)
        push_RC = torch.cat(
            [pull_RM.new_zeros(sweep.n_rows, 1), (pull_RM / total_RM).cumsum(1)], dim=1
        )
        own_RM = torch.empty_like(pull_RM).scatter_(1, order_RM, pull_RM)
        pull_P = own_RM[sweep.rows_P, slot_P]
        first = positives.chunk(chunk).start
        for tile, z_RT in sweep.again():
            c_RT = torch.searchsorted(z_RM, z_RT + margin)
            g_RT = torch.exp(z_RT - top_R1).mul_(push_RC.gather(1, c_RT))
            own = positives.block(chunk, tile)
            pull = pull_P[own.start - first : own.stop - first]
            g_RT[positives.rows[own], positives.columns[own]] = -pull
            gradients.add(sweep, tile, g_RT)
    return row_loss, gradients


def _highest(sweep: Sweep) -> Tensor:
    """The highest score of the negatives of each row, (R,); 0 if there are none."""
    batch = sweep.batch
    top_VR = sweep.x_RD.new_full(
        (batch.exchange.n_local, sweep.n_rows), -torch.inf, dtype=batch.dtype
    )
    for tile, z_RT in sweep.first():
        v = batch.tiles[tile][2]
        top_VR[v] = torch.maximum(top_VR[v], z_RT.amax(dim=1))
    top_R = batch.exchange.gather(top_VR).amax(dim=0)
    return top_R.masked_fill(top_R == -torch.inf, 0.0)


def _slots(sweep: Sweep) -> Tensor:
    """The place of each own positive among all positives of its row, (P,)."""
    batch = sweep.batch
    own = batch.positive_blocks.chunk(sweep.chunk)
    tiles = batch.positive_blocks.tiles[own]
    label_P = batch.lo + batch.tile_starts[tiles] + batch.positive_blocks.columns[own]
    every = batch.positives
    starts = torch.cumsum(every.counts, 0) - every.counts
    keys = moved(every.rows * batch.n_labels + every.columns, label_P.device)
    row_P = sweep.rows_P + sweep.start
    at = torch.searchsorted(keys, row_P * batch.n_labels + label_P)
    return at - moved(starts, label_P.device)[row_P]


def _by_row(sweep: Sweep, slot_P: Tensor, values_P: Tensor, n_most: int, rest: float) -> Tensor:
    """Values of the positives of all shards, a row each, (R, M); `rest` where there is none."""
    batch = sweep.batch
    own_RM = values_P.new_full((sweep.n_rows, n_most), -torch.inf)
    own_RM[sweep.rows_P, slot_P] = values_P
    # Each place is filled by one process.
    every_RM = batch.exchange.gather(own_RM.expand(batch.exchange.n_local, -1, -1)).amax(dim=0)
    place_M = torch.arange(n_most, device=own_RM.device)
    return every_RM.masked_fill(place_M >= sweep.n_positives.unsqueeze(1), rest)


_TRIPLET = Loss("triplet", _rows, live_tiles=7)
