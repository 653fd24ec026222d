"""The soft top-k loss over tiles, and the operator itself over a dense matrix.

Shapes: B points, R rows of a chunk, T labels of a tile, P positives of the chunk, V shards of this
process, N entries of a row.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dexml.losses import threshold
from dexml.losses.shards import finite, fold_lse, merge_lse
from dexml.losses.sweep import Batch, Gradients, Sweep
from dexml.losses.threshold import Pass, Threshold

COPIES = 6
"""Tiles of scores alive at a time."""


def thresholded(batch: Batch, k: Tensor, alpha: float) -> tuple[Tensor, Gradients, int]:
    """Row losses (B,), gradients, and the largest number of solver passes of a chunk."""
    gradients = Gradients(batch)
    masked = batch.masked_blocks(positives=False)
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    passes = 0
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, masked)
        n_valid = batch.n_labels - batch.ignored.counts[start:stop]
        k_R = k[start:stop]
        skip = (k_R >= n_valid) | (sweep.n_positives == 0)
        top_R, log_sum_R, lowest_R = _first_sweep(sweep, alpha)
        found = threshold.solve(
            partial(_pass, sweep),
            log_sum=log_sum_R,
            lowest=lowest_R,
            n_valid=n_valid,
            k=k_R,
            skip=skip,
        )
        passes = max(passes, found.passes)
        u_P = alpha * (sweep.z_P - top_R[sweep.rows_P]) + found.t[sweep.rows_P]
        share_P = sweep.share.masked_fill(skip[sweep.rows_P], 0.0)
        miss_P = share_P / (1 + torch.exp(u_P))  # v (1 - s) / n_b; see `competing`
        row_loss[start:stop], miss_R = sweep.sum_positives(-share_P * logsigmoid(u_P), miss_P)
        if not gradients.any:
            continue
        weight_R = alpha * sweep.row_weight
        pull_P = weight_R[sweep.rows_P] * miss_P
        _last_sweep(sweep, gradients, found, weight_R * miss_R, pull_P)
    return row_loss, gradients, passes


def _first_sweep(sweep: Sweep, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum of z; log-sum-exp and minimum of y = alpha (z - max), which tiles are from now on."""
    batch = sweep.batch
    zeros_VR = batch.point_emb.new_zeros(batch.exchange.n_local, sweep.n_rows, dtype=batch.dtype)
    top_VR, sum_VR = torch.full_like(zeros_VR, -torch.inf), zeros_VR.clone()
    low_VR = torch.full_like(zeros_VR, torch.inf)
    for tile, z_RT in sweep.first():
        v = batch.tiles[tile][2]
        low_VR[v] = torch.minimum(low_VR[v], sweep.lowest(tile, z_RT))
        top = z_RT.amax(dim=1)
        y_RT = torch.sub(z_RT, finite(top).unsqueeze(1), out=sweep.spare(z_RT)).mul_(alpha)
        total = y_RT.exp_().sum(dim=1)
        top_VR[v], sum_VR[v] = merge_lse(top_VR[v], sum_VR[v], top, total, alpha)
    every = batch.exchange.gather(torch.stack([top_VR, sum_VR, low_VR], dim=1))
    top_R, sum_R = fold_lse(every[:, 0], every[:, 1], alpha)
    top_R = finite(top_R)
    sweep.shift(top_R.unsqueeze(1), alpha)
    return top_R, sum_R.log(), alpha * (every[:, 2].amin(dim=0) - top_R)


def _pass(sweep: Sweep, t: Tensor, rows: Tensor | None, exact: bool) -> Pass:
    batch = sweep.batch
    found: list[Pass | None] = [None] * batch.exchange.n_local
    for tile, y_RT in sweep.again(rows):
        here = threshold.measure(y_RT, t, exact=exact)
        v = batch.tiles[tile][2]
        before = found[v]
        found[v] = here if before is None else before.plus(here)
    empty = threshold.measure(t.new_zeros(len(t), 0), t, exact=False)
    own = torch.stack([(empty if f is None else f).stacked() for f in found])
    every = [Pass.unstacked(part) for part in batch.exchange.gather(own)]
    total = every[0]
    for part in every[1:]:
        total = total.plus(part)
    return total


def _last_sweep(
    sweep: Sweep, gradients: Gradients, found: Threshold, push_R: Tensor, pull_P: Tensor
) -> None:
    """G = push * w, less the pull on each positive; w = sigmoid(u) sigmoid(-u) / W."""
    positives = sweep.batch.positive_blocks
    first = positives.chunk(sweep.chunk).start
    t_R1, log_slope_R1 = found.t.unsqueeze(1), found.log_slope.unsqueeze(1)
    for tile, y_RT in sweep.again():
        far_RT = torch.add(y_RT, t_R1).abs_()
        damp_RT = torch.sigmoid(far_RT)
        g_RT = far_RT.add_(log_slope_R1).neg_().exp_().mul_(damp_RT).mul_(damp_RT)
        g_RT *= push_R.unsqueeze(1)
        own = positives.block(sweep.chunk, tile)
        place = positives.rows[own], positives.columns[own]
        g_RT[place] -= pull_P[own.start - first : own.stop - first]
        gradients.add(sweep, tile, g_RT)


class Operator(torch.autograd.Function):
    """s and log s of every entry, with the implicit gradient."""

    @staticmethod
    def forward(ctx: Any, x_BN: Tensor, k: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Solve for t; k is (B,)."""
        y_BN = alpha * (x_BN - x_BN.amax(dim=1, keepdim=True))
        n_valid = torch.full_like(k, x_BN.shape[1])
        found = threshold.solve(
            lambda t, rows, exact: threshold.measure(
                y_BN if rows is None else y_BN[rows], t, exact=exact
            ),
            log_sum=torch.logsumexp(y_BN, dim=1),
            lowest=y_BN.amin(dim=1),
            n_valid=n_valid,
            k=k,
            skip=torch.zeros_like(k, dtype=torch.bool),
        )
        u_BN = y_BN.add_(found.t.unsqueeze(1))
        ctx.save_for_backward(u_BN, found.log_slope)
        ctx.alpha = alpha
        return torch.sigmoid(u_BN), logsigmoid(u_BN)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Implicit differentiation: u - (sum u) w for the gradient u at fixed t."""
        u_BN, log_slope = ctx.saved_tensors
        log_bend_BN = logsigmoid(u_BN) + logsigmoid(-u_BN)
        miss_BN = torch.sigmoid(-u_BN)
        g_s, g_log = grad_outputs
        d_BN = ctx.alpha * (g_s * log_bend_BN.exp() + g_log * miss_BN)
        w_BN = torch.exp(log_bend_BN - log_slope.unsqueeze(1))
        return d_BN - d_BN.sum(dim=1, keepdim=True) * w_BN, None, None
