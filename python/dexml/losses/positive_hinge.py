"""Positive hinge: each positive above a margin; no other label takes part.

Shapes: B points (rows of a batch), L labels, D dimensions, P positives.
"""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from dexml.losses.arguments import Options, Reduction, check_above_zero
from dexml.losses.batch import Batch
from dexml.losses.gradients import Gradients
from dexml.losses.loss import Loss, eager, evaluate
from dexml.losses.pairs import Csr
from dexml.losses.sweep import Sweep


@eager
def positive_hinge(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    *,
    margin: float = 2.0,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[Options],
) -> Tensor:
    r"""Hinge that lifts the score of each positive above a margin.

    The same as, with the positives as a matrix y (B, L) of zeros and ones:

        z = point_emb @ label_emb.T / temperature
        terms = torch.clamp(2.0 - z, min=0)
        rows = (y * terms).sum(dim=1) / y.sum(dim=1).clamp(min=1)
        loss = rows.mean()

    Optimises ``max(0, margin - z_p)``, averaged over the positives. As a loss of its
    own it would lift every label, so it is a term beside another: with ``label_emb = v - t`` for
    two vectors v and t of each label, it asks that v beats t by the margin on the label's own
    points. Source: the term of PRIME (NAACL 2025) with which a label beats its text.

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`.
        margin: What a score is to reach, in z; above 0.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        weights: As for `softmax`.
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar in the dtype of the scores: the mean over all B rows, of which those without
        positives contribute 0. With ``reduction="none"`` the losses of the rows, shape (B,).

    Raises:
        TypeError: As `softmax`.
        ValueError: As `softmax`, or `margin` is not above 0.
    """
    check_above_zero("margin", margin)
    return evaluate(
        _POSITIVE_HINGE,
        point_emb,
        label_emb,
        positives,
        None,
        temperature=temperature,
        label_bias=label_bias,
        weights=weights,
        reduction=reduction,
        options=options,
        margin=margin,
    )


def _rows(batch: Batch, *, margin: float) -> tuple[Tensor, Gradients]:
    """Row losses (B,) and gradients; only pairs are scored."""
    gradients = Gradients(batch)
    row_loss = batch.point_emb.new_zeros(len(batch.point_emb), dtype=batch.dtype)
    for chunk, (start, stop) in enumerate(batch.chunks):
        sweep = Sweep(batch, chunk, batch.positive_blocks)
        # The points of a sweep hold the scale already, unless they are in half precision.
        sweep.score_positives(batch.scale if batch.half_products else 1.0)
        gap_P = margin - sweep.z_P
        share_P = sweep.share * (gap_P > 0)
        row_loss[start:stop] = sweep.sum_positives(share_P * gap_P)[0]
        if not gradients.any:
            continue
        own = batch.positive_blocks.chunk(chunk)
        tiles = batch.positive_blocks.tiles[own]
        columns = batch.tile_starts[tiles] + batch.positive_blocks.columns[own]
        pull_P = -share_P * sweep.row_weight[sweep.rows_P]
        gradients.add_pairs(start + sweep.rows_P, columns, batch.tile_shards[tiles], pull_P)
    return row_loss, gradients


_POSITIVE_HINGE = Loss("positive_hinge", _rows, live_tiles=1, keeps_scores=False)
