"""Losses over label sets, exact and without a points x labels matrix. Knows torch only.

Shapes: B points (rows of a batch), L labels scored, D dimensions, R rows of a chunk.
Equations and their sources: ``docs/losses.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

SCRATCH_BYTES = 64 * 2**20
"""Scores alive at any time; more rows at once would save little time and cost memory."""
MIN_CHUNK_ROWS = 64
"""Each chunk reads and writes the label gradient once, so very thin chunks are slow."""

Pairs = tuple[Tensor, Tensor]
"""CSR without values: ``indptr`` (B + 1,) and ``indices`` (nnz,), both int64 or int32."""


def decoupled_softmax(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Pairs | Any,
    *,
    ignore: Pairs | Any | None = None,
    temperature: float = 0.05,
    label_bias: Tensor | None = None,
    negative_log_weight: Tensor | None = None,
) -> Tensor:
    r"""Mean over points and their positives of ``-log e^{z_p} / (e^{z_p} + sum_neg e^{z_n})``.

    Each positive competes with the negatives only, never with the other positives; so an easy
    positive is not pulled down to a hard one, as in the plain softmax (to which this is equal
    for points with one positive). With ``z = point_emb @ label_emb.T / temperature + bias`` and
    N the log-sum-exp of z over the labels that are neither positive nor ignored, a row's loss is
    ``mean_p softplus(N - z_p)``. Source: DEXML, ICLR 2024 (arXiv 2310.10636).

    Loss and gradients are formed together in chunks of rows: scratch is the larger of 64 MiB and
    64 x L scores, whatever B.

    Args:
        point_emb: Shape (B, D). Half-precision embeddings are scored in float32.
        label_emb: Shape (L, D), on the same device.
        positives: ``(indptr, indices)`` tensors or a scipy CSR, rows = points of the batch,
            columns = rows of `label_emb`; unique ids in a row.
        ignore: Pairs that are neither positives nor negatives; a pair in both is a positive.
        temperature: Divides the dot products.
        label_bias: Optional logit of each label, shape (L,), added after the division.
        negative_log_weight: Optional log of the weight with which a label counts among the
            negatives, shape (L,), a constant. With -log of the probability that a label is in a
            sampled pool, the sum over the pool's negatives estimates that over all labels.

    Returns:
        Scalar: the mean over all B rows; a row without positives contributes 0, and so does one
        without negatives.

    Raises:
        ValueError: Shapes disagree, an id is out of range or twice in a row, or the temperature
            is not above 0.
    """
    if point_emb.ndim != 2 or label_emb.ndim != 2 or point_emb.shape[1] != label_emb.shape[1]:
        raise ValueError(
            f"embeddings of shapes {tuple(point_emb.shape)} and {tuple(label_emb.shape)}; "
            "expected (B, D) and (L, D)"
        )
    if point_emb.dtype in (torch.float16, torch.bfloat16):
        point_emb = point_emb.float()
    label_emb = label_emb.to(point_emb.dtype)
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}; expected a number above 0")
    if label_bias is not None and label_bias.shape != label_emb.shape[:1]:
        raise ValueError(f"label_bias: shape {tuple(label_bias.shape)} for {len(label_emb)} labels")
    if negative_log_weight is not None and negative_log_weight.shape != label_emb.shape[:1]:
        shape_found = tuple(negative_log_weight.shape)
        raise ValueError(f"negative_log_weight: shape {shape_found} for {len(label_emb)} labels")
    shape = (len(point_emb), len(label_emb))
    rows, columns = _coordinates(positives, shape, point_emb.device, "positives")
    if ignore is None:
        masked_rows, masked_columns = rows, columns
    else:
        ignore_rows, ignore_columns = _coordinates(ignore, shape, point_emb.device, "ignore")
        masked_rows = torch.cat([rows, ignore_rows])
        masked_columns = torch.cat([columns, ignore_columns])
        order = torch.argsort(masked_rows, stable=True)
        masked_rows, masked_columns = masked_rows[order], masked_columns[order]
    loss: Tensor = _DecoupledSoftmax.apply(
        point_emb,
        label_emb,
        label_bias,
        negative_log_weight,
        (rows, columns),
        (masked_rows, masked_columns),
        temperature,
    )
    return loss


class _DecoupledSoftmax(torch.autograd.Function):
    """Forward forms the gradients as well, so scores are computed once and never kept."""

    @staticmethod
    def forward(
        ctx: Any,
        point_emb: Tensor,
        label_emb: Tensor,
        label_bias: Tensor | None,
        negative_log_weight: Tensor | None,
        positives: Pairs,
        masked: Pairs,
        temperature: float,
    ) -> Tensor:
        n_points, n_labels = len(point_emb), len(label_emb)
        rows, columns = positives
        masked_rows, masked_columns = masked
        n_positives = torch.bincount(rows, minlength=n_points)
        share = 1.0 / n_positives.clamp(min=1).to(point_emb.dtype)  # weight of each positive (B,)
        need_point, need_label, need_bias = ctx.needs_input_grad[:3]
        d_point = torch.zeros_like(point_emb) if need_point else None
        d_label = torch.zeros_like(label_emb) if need_label else None
        d_bias = torch.zeros_like(label_bias) if need_bias and label_bias is not None else None
        chunk = SCRATCH_BYTES // max(1, n_labels * point_emb.element_size())
        chunk = max(MIN_CHUNK_ROWS, chunk)
        starts = torch.arange(0, n_points + chunk, chunk, device=rows.device).clamp(max=n_points)
        positive_cuts = torch.searchsorted(rows, starts).tolist()
        masked_cuts = torch.searchsorted(masked_rows, starts).tolist()
        total = point_emb.new_zeros(())
        for i, start in enumerate(range(0, n_points, chunk)):
            stop = min(start + chunk, n_points)
            mine = slice(positive_cuts[i], positive_cuts[i + 1])
            row, column = rows[mine] - start, columns[mine]
            out = slice(masked_cuts[i], masked_cuts[i + 1])
            x_RD = point_emb[start:stop]
            z_RL = (x_RD / temperature) @ label_emb.T
            if label_bias is not None:
                z_RL += label_bias
            z_positive = z_RL[row, column]
            if negative_log_weight is not None:
                z_RL += negative_log_weight
            z_RL[masked_rows[out] - start, masked_columns[out]] = -torch.inf
            # In place: z becomes exp(z - max), then the gradient with respect to z.
            top_R = z_RL.amax(dim=1, keepdim=True)
            top_R = torch.where(top_R.isinf(), torch.zeros_like(top_R), top_R)  # no negatives left
            sum_R = z_RL.sub_(top_R).exp_().sum(dim=1, keepdim=True)
            gap = (top_R + sum_R.log()).squeeze(1)[row] - z_positive  # N - z_p
            weight = share[start:stop][row]
            total -= (weight * torch.nn.functional.logsigmoid(-gap)).sum()
            if not (need_point or need_label or need_bias):
                continue
            pull = weight * torch.sigmoid(gap) / n_points
            push_R = torch.zeros_like(sum_R).squeeze(1).index_add_(0, row, pull)
            z_RL *= push_R.unsqueeze(1) / sum_R.clamp(min=torch.finfo(sum_R.dtype).tiny)
            z_RL[row, column] = -pull
            if d_point is not None:
                d_point[start:stop] = z_RL @ label_emb
            if d_label is not None:
                d_label.addmm_(z_RL.T, x_RD)
            if d_bias is not None:
                d_bias += z_RL.sum(dim=0)
        if d_point is not None:
            d_point /= temperature
        if d_label is not None:
            d_label /= temperature
        ctx.save_for_backward(d_point, d_label, d_bias)
        return total / max(1, n_points)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grads = [None if g is None else grad_outputs[0] * g for g in ctx.saved_tensors]
        return (*grads, None, None, None, None)


def _coordinates(
    pairs: Pairs | Any, shape: tuple[int, int], device: torch.device, name: str
) -> tuple[Tensor, Tensor]:
    """Turn CSR pairs into row and column ids on `device`, checked against `shape`."""
    if isinstance(pairs, tuple):
        indptr, indices = pairs
    else:
        if pairs.shape != shape:
            raise ValueError(f"{name}: shape {pairs.shape}, expected {shape}")
        indptr = torch.from_numpy(np.asarray(pairs.indptr, dtype=np.int64))
        indices = torch.from_numpy(np.asarray(pairs.indices, dtype=np.int64))
    if len(indptr) != shape[0] + 1:
        raise ValueError(f"{name}: indptr of length {len(indptr)} for {shape[0]} points")
    counts = torch.diff(indptr)
    if int(indptr[0]) != 0 or int(indptr[-1]) != len(indices) or bool((counts < 0).any()):
        raise ValueError(f"{name}: indptr does not rise from 0 to {len(indices)}")
    outside = indices[(indices < 0) | (indices >= shape[1])]
    if len(outside):
        raise ValueError(f"{name}: label {int(outside[0])} out of range (n_labels = {shape[1]})")
    rows = torch.repeat_interleave(torch.arange(shape[0], device=counts.device), counts)
    keys = rows * shape[1] + indices
    if len(torch.unique(keys)) != len(keys):
        raise ValueError(f"{name}: a label stands twice in a row")
    return rows.to(device), indices.to(device=device, dtype=torch.int64)
