"""Binary cross-entropy of every pair: labels do not compete, one sweep is enough.

Shapes: B points (rows of a batch), L labels, D dimensions, R rows of a chunk, T labels of a tile,
P positives, V virtual shards of this process.
"""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.nn.functional import logsigmoid

from dexml.losses.arguments import Options, Reduction
from dexml.losses.batch import Batch
from dexml.losses.gradients import Gradients
from dexml.losses.loss import Loss, eager, evaluate
from dexml.losses.pairs import Csr
from dexml.losses.shards import steady_sigmoid
from dexml.losses.sweep import Sweep


@eager
def bce(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    *,
    ignore: Csr | Any | None = None,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    log_scale: Tensor | None = None,
    offset: Tensor | None = None,
    weights: Tensor | None = None,
    sample_seed: int | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[Options],
) -> Tensor:
    r"""Binary cross-entropy of every pair of a point and a label.

    The same as, with the positives as a matrix y (B, L) of zeros and ones:

        z = log_scale.exp() * (point_emb @ label_emb.T) / temperature + offset
        zero = torch.zeros_like(z)
        pairs = torch.logaddexp(z, zero) - y * z
        rows = pairs.mean(dim=1)
        loss = rows.mean()

    Optimises each pair for itself: no label competes with another, so unlike in the other losses
    a sigmoid of a score estimates a probability, and shifting all scores of a row changes the loss.
    Over a pool of drawn labels it is the share of positives in such pools. Without the two
    scalars (as 0) this is the published form, which fails for dual encoders (EURLex-4K P@1 0.10;
    DEXML, ICLR 2024); with both of them learned it is the sigmoid loss of SigLIP (arXiv
    2303.15343).

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`.
        ignore: Pairs without a term; the divisor stays B L.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        log_scale: Optional learned scalar, the log of a factor of the dot products.
        offset: Optional learned scalar, added to every score. Start it at the log-odds of a
            positive, less the mean score; from 0, sigmoids stay near one half for long.
        weights: As for `softmax`.
        sample_seed: Must be None: positives that are not drawn would be trained as negatives.
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar in the dtype of the scores: the mean over all B L pairs; a row without positives
        keeps its negative terms. With ``reduction="none"`` the mean over L of each row, shape (B,).

    Raises:
        TypeError: As `softmax`.
        ValueError: As `softmax`, or `sample_seed` is given.
    """
    return evaluate(
        _BCE,
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature=temperature,
        label_bias=label_bias,
        weights=weights,
        sample_seed=sample_seed,
        log_scale=log_scale,
        offset=offset,
        reduction=reduction,
        options=options,
    )


def _rows(batch: Batch) -> tuple[Tensor, Gradients]:
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
        for tile, z_RT in sweep.first():  # the only sweep: z is overwritten below
            negative_VR[batch.tiles[tile][2]] += _softplus_sum(z_RT)
            if not gradients.any:
                continue
            own = positives.block(chunk, tile)
            row = positives.rows[own]
            pull = steady_sigmoid(-sweep.last_z_P)
            if positives.weight is not None:
                pull = pull * positives.weight[own].to(batch.dtype)
            # Masked scores are -inf: ignored pairs get 0, positives their own value below.
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
    """Sum of ln(1 + e^z) over each row; torch's softplus becomes the identity above 20."""
    total: Tensor = z_RT.abs().neg_().exp_().log1p_().sum(dim=1) + z_RT.clamp(min=0).sum(dim=1)
    return total


_BCE = Loss("bce", _rows, live_tiles=4, keeps_scores=False, undrawn="refused")
