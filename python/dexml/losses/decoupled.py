"""Decoupled softmax: each positive competes with the negatives only.

Shapes: B points (rows of a batch), L labels, D dimensions, R rows of a chunk, P positives.
"""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.nn.functional import logsigmoid

from dexml.losses.arguments import Options, Reduction, check_per_label
from dexml.losses.batch import Batch
from dexml.losses.gradients import Gradients
from dexml.losses.log_sum_exp import LIVE_TILES, add_gradients, log_sum_exp
from dexml.losses.loss import Loss, eager, evaluate
from dexml.losses.pairs import Csr
from dexml.losses.shards import steady_sigmoid
from dexml.losses.sweep import Sweep


@eager
def decoupled_softmax(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    *,
    ignore: Csr | Any | None = None,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    negative_log_weight: Tensor | None = None,
    weights: Tensor | None = None,
    sample_seed: int | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[Options],
) -> Tensor:
    r"""Cross-entropy of each positive against the negatives only, averaged over the positives.

    The same as, with the positives as a matrix y (B, L) of zeros and ones:

        z = point_emb @ label_emb.T / temperature
        negatives = torch.logsumexp(z.masked_fill(y == 1, -torch.inf), dim=1, keepdim=True)
        terms = torch.logaddexp(z, negatives) - z
        rows = (y * terms).sum(dim=1) / y.sum(dim=1).clamp(min=1)
        loss = rows.mean()

    Optimises the mean over points and their positives of
    ``-log e^{z_p} / (e^{z_p} + sum_neg e^{z_n})``. Unlike in `softmax`, the positives of a point do
    not compete, so an easy one is never pushed down to a hard one, and the least loss is 0. With
    one positive a point the two are equal. Source: DEXML, ICLR 2024 (arXiv 2310.10636).

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`.
        ignore: As for `softmax`.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        negative_log_weight: Optional log of the weight of each label as a negative, shape (L,), a
            constant. With -log of the probability that a label is in a sampled pool, the sum over
            the pool's negatives estimates the sum over all labels.
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
        ValueError: As `softmax`.
    """
    check_per_label(negative_log_weight, label_emb, "negative_log_weight")
    return evaluate(
        _DECOUPLED,
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
        negative_log_weight=None if negative_log_weight is None else negative_log_weight.detach(),
    )


def _rows(batch: Batch, *, negative_log_weight: Tensor | None) -> tuple[Tensor, Gradients]:
    """Row losses (B,) and gradients; N is the log-sum-exp of a row over its negatives."""
    gradients = Gradients(batch)
    masked = batch.masked_blocks(positives=True)
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, masked, negative_log_weight)
        n_R = log_sum_exp(sweep)
        gap_P = n_R[sweep.rows_P] - sweep.z_P  # N - z_p
        r_P = steady_sigmoid(gap_P, sweep.share)
        # softplus(gap) as -logsigmoid(-gap): torch's softplus becomes the identity above 20.
        row_loss[start:stop], r_R = sweep.sum_positives(-sweep.share * logsigmoid(-gap_P), r_P)
        if not gradients.any:
            continue
        pull_P = r_P * sweep.row_weight[sweep.rows_P]
        add_gradients(sweep, gradients, n_R, r_R * sweep.row_weight, pull_P)
    return row_loss, gradients


_DECOUPLED = Loss("decoupled_softmax", _rows, LIVE_TILES, has_kernels=True)
