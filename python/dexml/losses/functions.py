"""The losses. Equations beside calls, and when to choose which: ``docs/losses.md``.

Shapes: B points (rows of a batch), L labels scored, D dimensions, P positives.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from dexml.losses import competing, independent, pairs, ranked, thresholded
from dexml.losses.call import Options, Prepared, Reduction, eager, per_label, prepare, reduce
from dexml.losses.pairs import Csr


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
    r"""Mean over points and their positives of ``-log e^{z_p} / sum_j e^{z_j}``.

    All labels compete, the other positives too: at the optimum each positive of a point has
    probability 1/n, the loss is ln n, and a positive above that is pushed down. Multi-positive
    InfoNCE; for one positive a point the same as `decoupled_softmax`.

    Args:
        point_emb: Shape (B, D), float64, float32, bfloat16 or float16. Scores and sums are float32
            (float64 for float64), whatever autocast says.
        label_emb: Shape (L, D), on the same device.
        positives: ``(indptr, indices)`` tensors or a scipy CSR, rows = points of the batch,
            columns = rows of `label_emb` (of all shards); unique ids in a row, values not read.
        ignore: Pairs that are neither positives nor negatives; a pair in both is a positive.
        temperature: Divides the dot products.
        label_bias: Optional logit of each label, shape (L,), added after the division.
        weights: Optional factors of the positives' terms, shape (P,) in the order of the CSR, above
            0; the divisor stays the number of positives.
        sample_seed: Draw one positive of each point instead of all (uniform, a function of seed and
            row: give each step its own); the others stay in the denominator.
        reduction: ``"none"`` gives the loss of each row; its gradients cost the scores once more,
            in the backward pass.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar: the mean over all B rows; a row without positives contributes 0. Or (B,).

    Raises:
        ValueError: Shapes disagree, an id is out of range or twice in a row, or a number is out of
            its range.
    """
    prepared = prepare(
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature,
        label_bias,
        options,
        weights=weights,
        copies=competing.COPIES,
        may_use_triton=True,
    )
    if sample_seed is not None:
        drawn, _ = pairs.draw(prepared.positives, sample_seed, 1)
        prepared = prepared._replace(positives=drawn)
    return reduce(prepared, competing.coupled, reduction)


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
    r"""Mean over points and their positives of ``-log e^{z_p} / (e^{z_p} + sum_neg e^{z_n})``.

    Each positive competes with the negatives only, never with the other positives; so an easy
    positive is not pulled down to a hard one, as in the plain softmax (to which this is equal
    for points with one positive). With ``z = point_emb @ label_emb.T / temperature + bias`` and
    N the log-sum-exp of z over the labels that are neither positive nor ignored, a row's loss is
    ``mean_p softplus(N - z_p)``. Source: DEXML, ICLR 2024 (arXiv 2310.10636).

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`.
        ignore: As for `softmax`.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        negative_log_weight: Optional log of the weight with which a label counts among the
            negatives, shape (L,), a constant. With -log of the probability that a label is in a
            sampled pool, the sum over the pool's negatives estimates that over all labels.
        weights: As for `softmax`.
        sample_seed: Draw one positive of each point, the others ignored: unbiased, more variance.
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar: the mean over all B rows; a row without positives contributes 0, and so does one
        without negatives. Or (B,).

    Raises:
        ValueError: As `softmax`.
    """
    per_label(negative_log_weight, label_emb, "negative_log_weight")
    prepared = prepare(
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature,
        label_bias,
        options,
        weights=weights,
        copies=competing.COPIES,
        may_use_triton=True,
    )
    if sample_seed is not None:
        prepared = _drawn(prepared, sample_seed, 1)
    add = None if negative_log_weight is None else negative_log_weight.detach()
    return reduce(prepared, lambda batch: competing.decoupled(batch, add), reduction)


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
    r"""Mean over points and their positives of ``-log s_p``, s the soft indicator of the top k.

    ``s_j = sigmoid(alpha (z_j + t))`` with one threshold t a row such that the s of a row sum to
    k: a positive need only be among the best k, not be the best. Infimum of a row with n
    positives: max(0, ln(n / k)). Source: DEXML, ICLR 2024; operator by T. Ahle.

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`.
        k: Whole number from 1, for all rows or for each, shape (B,). A row with no more labels
            than k contributes 0.
        alpha: Slope; with the temperature, s falls off over a cosine of temperature / alpha.
        ignore: As for `softmax`.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        weights: As for `softmax`.
        sample_seed: Draw min(k, n) positives of each point, the others ignored, as the original
            does (biased).
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar: the mean over all B rows; a row without positives contributes 0. Or (B,).

    Raises:
        ValueError: As `softmax`.
    """
    k_B = _read_k(k, len(point_emb), point_emb.device)
    if not alpha > 0:
        raise ValueError(f"alpha = {alpha}; expected a number above 0")
    prepared = prepare(
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature,
        label_bias,
        options,
        weights=weights,
        copies=thresholded.COPIES,
    )
    if sample_seed is not None:
        prepared = _drawn(prepared, sample_seed, k_B)
    return reduce(prepared, lambda batch: thresholded.thresholded(batch, k_B, alpha)[:2], reduction)


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
    r"""Binary cross-entropy of every pair, ``(1 / (B L)) sum softplus(z) - y z``.

    Labels do not compete. ``z = e^log_scale <x, y> / temperature + label_bias + offset``; without
    the two scalars the published form, which fails for dual encoders (EURLex-4K P@1 0.10), with
    both of them learned the sigmoid loss of SigLIP (arXiv 2303.15343).

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`.
        ignore: Pairs without a term; the divisor stays B L.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        log_scale: Optional learned scalar, the log of a factor of the dot products.
        offset: Optional learned scalar, added to every score (start near -ln L).
        weights: As for `softmax`.
        sample_seed: Only None: positives that are not drawn would be trained as negatives.
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar: the mean over all B L pairs; a row without positives keeps its negative terms. Or
        (B,), the mean over L for each row.

    Raises:
        ValueError: As `softmax`, or `sample_seed` is given.
    """
    if sample_seed is not None:
        raise ValueError(
            "sample_seed: bce would train the positives that are not drawn as negatives; "
            "leave it out, all positives cost no more"
        )
    prepared = prepare(
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature,
        label_bias,
        options,
        weights=weights,
        copies=independent.COPIES,
        may_keep=False,  # one sweep
    )
    return reduce(prepared, independent.independent, reduction, log_scale=log_scale, offset=offset)


@eager
def topk_hinge(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    *,
    k: int = 5,
    ignore: Csr | Any | None = None,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[Options],
) -> Tensor:
    r"""Top-k multi-label hinge (TKML), ``max(0, 1 + z_[k+1] - min_p z_p)``.

    0 as soon as every positive beats the (k+1)-th highest score by 1. Exactly 1 with no gradient
    where the lowest positive is that label itself: start from an encoder that ranks already.
    Source: SoRR, Hu, Ying, Wang and Lyu, NeurIPS 2020 / JMLR 2022.

    Args:
        point_emb: As for `softmax`.
        label_emb: As for `softmax`.
        positives: As for `softmax`; rows with more than k contribute 0 (`counts` tells how many).
        k: Whole number from 1.
        ignore: As for `softmax`.
        temperature: As for `softmax`.
        label_bias: As for `softmax`.
        reduction: As for `softmax`.
        **options: How to compute it, see `Options`.

    Returns:
        Scalar: the mean over all B rows; 0 for a row without positives, with more than k, or with
        fewer than k + 1 labels that are not ignored. Of equal scores the smaller id ranks first.
        Or (B,).

    Raises:
        ValueError: As `softmax`.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k = {k}; expected a whole number of at least 1")
    prepared = prepare(
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature,
        label_bias,
        options,
        copies=ranked.COPIES,
        may_keep=False,  # one sweep
    )
    return reduce(prepared, lambda batch: ranked.ranked(batch, k), reduction)


def soft_topk_operator(x: Tensor, k: int | Tensor, *, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Soft indicator of the k largest entries of a row: ``s_j = sigmoid(alpha (x_j + t))``.

    The scalar t of a row is the one for which its s sum to k. Both outputs are differentiable
    (once), t included. Source: T. Ahle; DEXML, ICLR 2024.

    Args:
        x: Shape (n,) or (B, n), float32 or float64, finite.
        k: Whole number from 1 to n - 1, for all rows or for each, shape (B,).
        alpha: Slope; the larger, the harder.

    Returns:
        s and log s, of the shape of `x`.

    Raises:
        ValueError: `k` or `alpha` is out of its range, or `x` is no matrix or vector.

    Examples:
        >>> s, log_s = soft_topk_operator(torch.tensor([3.0, 1.0, 1.0, 0.0]), 2)
        >>> round(float(s.sum()), 4)
        2.0
    """
    if x.ndim not in (1, 2):
        raise ValueError(f"x: shape {tuple(x.shape)}; expected (n,) or (B, n)")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x: dtype {x.dtype}; expected float32 or float64")
    x_BN = x if x.ndim == 2 else x.unsqueeze(0)
    k_B = _read_k(k, len(x_BN), x.device)
    if bool((k_B >= x_BN.shape[1]).any()):
        raise ValueError(f"k = {int(k_B.max())} of {x_BN.shape[1]} entries; expected fewer")
    if not alpha > 0:
        raise ValueError(f"alpha = {alpha}; expected a number above 0")
    s, log_s = thresholded.Operator.apply(x_BN, k_B, alpha)
    return s.view(x.shape), log_s.view(x.shape)


def _read_k(k: int | Tensor, n_rows: int, device: torch.device) -> Tensor:
    """K of each row, int64 (B,)."""
    if isinstance(k, Tensor):
        if k.shape != (n_rows,):
            raise ValueError(f"k: shape {tuple(k.shape)} for {n_rows} rows")
        if k.dtype.is_floating_point or k.dtype == torch.bool:
            raise ValueError(f"k: dtype {k.dtype}; expected whole numbers")
        k_B = k.to(device=device, dtype=torch.int64)
        if n_rows and int(k_B.min()) < 1:
            raise ValueError(f"k = {int(k_B.min())}; expected a whole number of at least 1")
        return k_B
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k = {k}; expected a whole number of at least 1")
    return torch.full((n_rows,), k, device=device)


def _drawn(prepared: Prepared, seed: int, size: int | Tensor) -> Prepared:
    """A part of the positives, the rest ignored."""
    drawn, rest = pairs.draw(prepared.positives, seed, size)
    ignored = pairs.merge(rest, prepared.ignored, prepared.n_labels)
    return prepared._replace(positives=drawn, ignored=ignored)
