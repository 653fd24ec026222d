"""The two softmax losses: a log-sum-exp of each row, then one tile of gradients at a time.

Shapes: R rows of a chunk, T labels of a tile, P positives of the chunk, V shards of this process.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dexml.losses.shards import finite, fold_lse, merge_lse
from dexml.losses.sweep import Batch, Gradients, Sweep

COPIES = 2
"""Tiles of scores alive at a time."""


def decoupled(batch: Batch, negative_log_weight: Tensor | None) -> tuple[Tensor, Gradients]:
    """Row losses (B,) and gradients; a positive competes with the negatives only."""
    gradients = Gradients(batch)
    masked = batch.masked_blocks(positives=True)
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, masked, negative_log_weight)
        n_R = log_sum_exp(sweep)
        gap_P = n_R[sweep.rows_P] - sweep.z_P  # N - z_p
        # Not torch.sigmoid: on a CPU its last bit depends on the place, and so on how many
        # positives this process has.
        r_P = sweep.share / (1 + torch.exp(-gap_P))
        row_loss[start:stop], r_R = sweep.sum_positives(-sweep.share * logsigmoid(-gap_P), r_P)
        if not gradients.any:
            continue
        pull_P = r_P * sweep.row_weight[sweep.rows_P]
        push_R1 = (r_R * sweep.row_weight).unsqueeze(1)
        _second_sweep(sweep, gradients, n_R, push_R1, pull_P)
    return row_loss, gradients


def coupled(batch: Batch) -> tuple[Tensor, Gradients]:
    """Row losses (B,) and gradients; all labels compete, positives too."""
    gradients = Gradients(batch)
    masked = batch.masked_blocks(positives=False)
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, masked)
        n_R = log_sum_exp(sweep)
        gap_P = n_R[sweep.rows_P] - sweep.z_P
        row_loss[start:stop], share_R = sweep.sum_positives(sweep.share * gap_P, sweep.share)
        if not gradients.any:
            continue
        pull_P = sweep.share * sweep.row_weight[sweep.rows_P]
        push_R1 = (share_R * sweep.row_weight).unsqueeze(1)
        _second_sweep(sweep, gradients, n_R, push_R1, pull_P)
    return row_loss, gradients


def log_sum_exp(sweep: Sweep) -> Tensor:
    """Log-sum-exp of each row over all labels that are not masked, (R,); -inf if there is none."""
    batch = sweep.batch
    if batch.triton:
        from dexml.losses import kernels  # only where Triton is installed

        return kernels.log_sum_exp(sweep)
    n_local = batch.exchange.n_local
    zeros = batch.point_emb.new_zeros(n_local, sweep.n_rows, dtype=batch.dtype)
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


def _second_sweep(
    sweep: Sweep, gradients: Gradients, n_R: Tensor, push_R1: Tensor, pull_P: Tensor
) -> None:
    """G = push * exp(z - N), less the pull on each positive."""
    positives = sweep.batch.positive_blocks
    first = positives.chunk(sweep.chunk).start
    shift_R1 = finite(n_R).unsqueeze(1)
    for tile, g_RT in _exponentials(sweep, shift_R1, push_R1):
        own = positives.block(sweep.chunk, tile)
        place = positives.rows[own], positives.columns[own]
        g_RT[place] -= pull_P[own.start - first : own.stop - first].to(g_RT.dtype)
        gradients.add(sweep, tile, g_RT)


def _exponentials(sweep: Sweep, shift_R1: Tensor, push_R1: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Tiles of push * exp(z - shift)."""
    if sweep.batch.triton:
        from dexml.losses import kernels

        yield from kernels.gradient_tiles(sweep, shift_R1, push_R1)
        return
    for tile, z_RT in sweep.again():
        yield tile, z_RT.sub_(shift_R1).exp_().mul_(push_R1)
