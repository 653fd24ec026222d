"""What the two softmaxes share: a log-sum-exp of each row, then one tile of gradients at a time.

Shapes: R rows of a chunk, T labels of a tile, P positives of the chunk, V virtual shards of this
process.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dexml.losses.gradients import Gradients
from dexml.losses.shards import finite, fold_lse, merge_lse
from dexml.losses.sweep import Sweep

LIVE_TILES = 2
"""Tiles of scores that exist at the same time."""


def log_sum_exp(sweep: Sweep) -> Tensor:
    """Log-sum-exp of each row over the labels that are not masked, (R,); -inf without any."""
    batch = sweep.batch
    if batch.triton:
        from dexml.losses import triton_softmax  # only where Triton is installed

        return triton_softmax.log_sum_exp(sweep)
    n_local = batch.exchange.n_local
    zeros = batch.point_emb.new_zeros(n_local, sweep.n_rows, dtype=batch.dtype)
    # A running maximum and a sum scaled by it, for each virtual shard of its own: one pair over all
    # of them would round differently for each process count.
    top_VR, sum_VR = torch.full_like(zeros, -torch.inf), zeros
    for tile, z_RT in sweep.first():
        v = batch.tiles[tile][2]
        top = z_RT.amax(dim=1)
        shifted = torch.sub(z_RT, finite(top).unsqueeze(1), out=sweep.spare(z_RT))
        total = shifted.exp_().sum(dim=1)
        top_VR[v], sum_VR[v] = merge_lse(top_VR[v], sum_VR[v], top, total)
    every = batch.exchange.gather(torch.stack([top_VR, sum_VR], dim=1))
    top_R, sum_R = fold_lse(every[:, 0], every[:, 1])
    return finite(top_R) + sum_R.log()


def add_gradients(
    sweep: Sweep, gradients: Gradients, n_R: Tensor, push_R: Tensor, pull_P: Tensor
) -> None:
    """Add dloss/dz = push * exp(z - n), less the pull on each positive."""
    positives = sweep.batch.positive_blocks
    first = positives.chunk(sweep.chunk).start
    shift_R1, push_R1 = finite(n_R).unsqueeze(1), push_R.unsqueeze(1)
    for tile, g_RT in _exponentials(sweep, shift_R1, push_R1):
        own = positives.block(sweep.chunk, tile)
        pair = positives.rows[own], positives.columns[own]
        g_RT[pair] -= pull_P[own.start - first : own.stop - first].to(g_RT.dtype)
        gradients.add(sweep, tile, g_RT)


def _exponentials(sweep: Sweep, shift_R1: Tensor, push_R1: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Tiles of push * exp(z - shift)."""
    if sweep.batch.triton:
        from dexml.losses import triton_softmax

        yield from triton_softmax.gradient_tiles(sweep, shift_R1, push_R1)
        return
    for tile, z_RT in sweep.again():
        yield tile, z_RT.sub_(shift_R1).exp_().mul_(push_R1)
