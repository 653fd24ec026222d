"""Soft top-k: each positive need only be among the best k.

Shapes: B points (rows of a batch), L labels, D dimensions, R rows of a chunk, T labels of a tile,
P positives, V virtual shards of this process.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dexml.losses import threshold
from dexml.losses.arguments import Options, Reduction, read_k
from dexml.losses.batch import Batch
from dexml.losses.gradients import Gradients
from dexml.losses.loss import Loss, eager, evaluate
from dexml.losses.pairs import Csr
from dexml.losses.shards import finite, fold_lse, merge_lse, steady_sigmoid
from dexml.losses.sweep import Sweep
from dexml.losses.threshold import Pass, Threshold


@eager
def soft_topk(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    *,
    k: int | Tensor = 5,
    alpha: float = 2.0,
    ignore: Csr | Any | None = None,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    weights: Tensor | None = None,
    sample_seed: int | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[Options],
) -> Tensor:
    r"""Cross-entropy of each positive against a soft indicator of the top k of its row.

    The same as, with the positives as a matrix y (B, L) of zeros and ones:

        z = point_emb @ label_emb.T / temperature
        s, log_s = soft_topk_operator(z, k, alpha=alpha)
        rows = -(y * log_s).sum(dim=1) / y.sum(dim=1).clamp(min=1)
        loss = rows.mean()

    Optimises the mean over points and their positives of ``-log s_p``, where
    ``s_j = sigmoid(alpha (z_j + t))`` with the threshold t of the row that makes the s sum to k. A
    positive need only be among the best k, while the softmaxes want it to be the best. The least
    loss of a row with n positives is max(0, ln(n / k)): with n above k the positives compete for
    the k seats. Source: DEXML, ICLR 2024 (arXiv 2310.10636); operator by T. Ahle.

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`.
        k: Whole number of at least 1, for all rows or for each, shape (B,). A row with at most k
            labels contributes 0.
        alpha: Slope; s falls off over a difference of temperature / alpha in the dot product.
        ignore: As for `softmax`.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        weights: As for `softmax`.
        sample_seed: Use min(k, n) positives of each point and ignore the others, as the original
            does (biased).
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar in the dtype of the scores: the mean over all B rows, of which those without
        positives contribute 0. With ``reduction="none"`` the losses of the rows, shape (B,).

    Raises:
        TypeError: As `softmax`.
        ValueError: As `softmax`.
    """
    k_B = read_k(k, len(point_emb), point_emb.device)
    if not alpha > 0:
        raise ValueError(f"alpha = {alpha}; expected a number above 0")
    return evaluate(
        _SOFT_TOPK,
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature=temperature,
        label_bias=label_bias,
        weights=weights,
        sample_seed=sample_seed,
        sample_size=k_B,
        reduction=reduction,
        options=options,
        k=k_B,
        alpha=alpha,
    )


def _rows(batch: Batch, *, k: Tensor, alpha: float) -> tuple[Tensor, Gradients]:
    """Row losses (B,) and gradients; k is (B,)."""
    gradients = Gradients(batch)
    masked = batch.masked_blocks(positives=False)
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, masked)
        n_valid = batch.n_labels - batch.n_ignored[start:stop]
        k_R = k[start:stop]
        skip = (k_R >= n_valid) | (sweep.n_positives == 0)
        top_R, log_sum_R, lowest_R = _first_sweep(sweep, alpha)
        solution = threshold.solve(
            partial(_pass, sweep),
            log_sum=log_sum_R,
            lowest=lowest_R,
            n_valid=n_valid,
            k=k_R,
            skip=skip,
        )
        # z_P was read before the tiles were shifted and scaled.
        u_P = alpha * (sweep.z_P - top_R[sweep.rows_P]) + solution.t[sweep.rows_P]
        share_P = sweep.share.masked_fill(skip[sweep.rows_P], 0.0)
        miss_P = steady_sigmoid(-u_P, share_P)  # v (1 - s) / n_b
        row_loss[start:stop], miss_R = sweep.sum_positives(-share_P * logsigmoid(u_P), miss_P)
        if not gradients.any:
            continue
        weight_R = alpha * sweep.row_weight
        pull_P = weight_R[sweep.rows_P] * miss_P
        _last_sweep(sweep, gradients, solution, weight_R * miss_R, pull_P)
    return row_loss, gradients


def _first_sweep(sweep: Sweep, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum of z; log-sum-exp and minimum of y = alpha (z - max). Later sweeps give y."""
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
    """A pass of the solver over all tiles, folded over all shards in the order of the labels.

    All processes fold the same numbers and so take the same steps: none leaves the solver early.
    """
    batch = sweep.batch
    by_shard: list[Pass | None] = [None] * batch.exchange.n_local
    for tile, y_RT in sweep.again(rows):
        here = threshold.measure(y_RT, t, exact=exact)
        v = batch.tiles[tile][2]
        before = by_shard[v]
        by_shard[v] = here if before is None else before.plus(here)
    empty = threshold.measure(t.new_zeros(len(t), 0), t, exact=False)  # of a shard without labels
    own = torch.stack([(empty if part is None else part).stacked() for part in by_shard])
    every = [Pass.unstacked(part) for part in batch.exchange.gather(own)]
    total = every[0]
    for part in every[1:]:
        total = total.plus(part)
    return total


def _last_sweep(
    sweep: Sweep, gradients: Gradients, solution: Threshold, push_R: Tensor, pull_P: Tensor
) -> None:
    """Add dloss/dz = push * w, less the pull on each positive; w = sigmoid(u) sigmoid(-u) / W."""
    positives = sweep.batch.positive_blocks
    first = positives.chunk(sweep.chunk).start
    t_R1, log_slope_R1 = solution.t.unsqueeze(1), solution.log_slope.unsqueeze(1)
    for tile, y_RT in sweep.again():
        # sigmoid(u) sigmoid(-u) = e^-|u| sigmoid(|u|)^2; W is divided out inside the exponential,
        # because both may underflow where their ratio does not.
        far_RT = torch.add(y_RT, t_R1).abs_()
        damp_RT = torch.sigmoid(far_RT)
        g_RT = far_RT.add_(log_slope_R1).neg_().exp_().mul_(damp_RT).mul_(damp_RT)
        g_RT *= push_R.unsqueeze(1)
        own = positives.block(sweep.chunk, tile)
        pair = positives.rows[own], positives.columns[own]
        g_RT[pair] -= pull_P[own.start - first : own.stop - first]
        gradients.add(sweep, tile, g_RT)


_SOFT_TOPK = Loss("soft_topk", _rows, live_tiles=6)
