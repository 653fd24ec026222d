"""Softmax over all labels: the other positives of a point compete too.

Shapes: B points (rows of a batch), L labels, D dimensions, R rows of a chunk, P positives.
"""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from dexml.losses.arguments import Options, Reduction
from dexml.losses.batch import Batch
from dexml.losses.gradients import Gradients
from dexml.losses.log_sum_exp import LIVE_TILES, add_gradients, log_sum_exp
from dexml.losses.loss import Loss, eager, evaluate
from dexml.losses.pairs import Csr
from dexml.losses.sweep import Sweep


@eager
def softmax(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    *,
    ignore: Csr | Any | None = None,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    weights: Tensor | None = None,
    sample_seed: int | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[Options],
) -> Tensor:
    r"""Cross-entropy of a softmax over all labels, averaged over the positives of each point.

    The same as, with the positives as a matrix y (B, L) of zeros and ones:

        z = point_emb @ label_emb.T / temperature
        terms = -torch.log_softmax(z, dim=1)
        n = y.sum(dim=1).clamp(min=1)
        rows = (y * terms).sum(dim=1) / n
        loss = rows.mean()

    Optimises the mean over points and their positives of ``-log e^{z_p} / sum_j e^{z_j}``. All
    labels compete, and so do the positives of a point with each other: at the optimum each of n
    positives has probability 1/n, the loss of the point is ln n, and a positive above 1/n is pushed
    down. `decoupled_softmax` removes that; with one positive a point the two are equal. Source:
    multi-positive InfoNCE (van den Oord, Li and Vinyals, arXiv 1807.03748).

    Args:
        point_emb: Shape (B, D), float64, float32, bfloat16 or float16. Scores and sums are float32
            (float64 for float64), whatever autocast says.
        label_emb: Shape (L, D), on the same device.
        positives: ``(indptr, indices)`` tensors or a scipy CSR. Rows are the points of the batch,
            columns the rows of `label_emb` (of all shards). An id may stand in a row once; stored
            values are not read.
        ignore: Pairs that are neither positives nor negatives; a pair in both is a positive.
        temperature: Divides the dot products.
        label_bias: Optional logit of each label, shape (L,), added after the division.
        weights: Optional factors of the positives' terms, above 0, shape (P,) in the order of the
            CSR. The divisor stays the number of positives.
        sample_seed: Use one positive of each point instead of all, drawn uniformly from seed and
            row (give each step its own seed); the others stay in the denominator.
        reduction: ``"none"`` returns the loss of each row. Its backward pass forms the scores once
            more.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar in the dtype of the scores: the mean over all B rows, of which those without
        positives contribute 0. With ``reduction="none"`` the losses of the rows, shape (B,).

    Raises:
        TypeError: An option is unknown.
        ValueError: Shapes disagree, an id is out of range or twice in a row, or a number is out of
            its range.
    """
    return evaluate(
        _SOFTMAX,
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
    )


def _rows(batch: Batch) -> tuple[Tensor, Gradients]:
    """Row losses (B,) and gradients."""
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
        add_gradients(sweep, gradients, n_R, share_R * sweep.row_weight, pull_P)
    return row_loss, gradients


_SOFTMAX = Loss("softmax", _rows, LIVE_TILES, has_kernels=True, undrawn="rivals")
