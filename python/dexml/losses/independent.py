"""Binary cross-entropy: one sweep, no numbers of a row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dexml.losses.sweep import Batch, Gradients, Sweep

COPIES = 4
"""Tiles of scores alive at a time."""


def independent(batch: Batch) -> tuple[Tensor, Gradients]:
    """Row losses (B,), each divided by the number of all labels, and gradients."""
    gradients = Gradients(batch)
    masked = batch.masked_blocks(positives=True)
    positives = batch.positive_blocks
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, masked)
        weight_R1 = (sweep.row_weight / batch.n_labels).unsqueeze(1)
        n_local = batch.exchange.n_local
        negative_VR = row_loss.new_zeros(n_local, sweep.n_rows)
        for tile, z_RT in sweep.first():  # not needed again
            negative_VR[batch.tiles[tile][2]] += _softplus_sum(z_RT)
            if not gradients.any:
                continue
            own = positives.block(chunk, tile)
            row = positives.rows[own]
            pull = 1 / (1 + torch.exp(sweep.last_z_P))  # not torch.sigmoid: see `competing`
            if positives.weight is not None:
                pull = pull * positives.weight[own]
            g_RT = z_RT.sigmoid_().mul_(weight_R1)
            g_RT[row, positives.columns[own]] = -pull * weight_R1[row, 0]
            gradients.add(sweep, tile, g_RT)
        term_P = -logsigmoid(sweep.z_P)
        if sweep.weight_P is not None:
            term_P = term_P * sweep.weight_P
        negative_R = batch.exchange.sum(negative_VR)
        row_loss[start:stop] = (negative_R + sweep.sum_positives(term_P)[0]) / batch.n_labels
    return row_loss, gradients


def _softplus_sum(z_RT: Tensor) -> Tensor:
    """Sum of ln(1 + e^z) over each row, without the cut-off of torch's softplus."""
    total: Tensor = z_RT.abs().neg_().exp_().log1p_().sum(dim=1) + z_RT.clamp(min=0).sum(dim=1)
    return total
