"""One autograd function for all losses.

The gradients of a mean loss are formed together with it, in the forward pass: they need the same
scores. The backward pass only hands them over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dexml.losses.arguments import Prepared, Reduction
from dexml.losses.batch import Batch, Need
from dexml.losses.gradients import Gradients

RowsAndGradients = tuple[Tensor, Gradients]
"""The losses of the rows, (B,), and the gradients of their weighted sum."""
Compute = Callable[[Batch], RowsAndGradients]


def differentiable(
    prepared: Prepared,
    compute: Compute,
    reduction: Reduction,
    *,
    log_scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """Compute a loss as an autograd node.

    Args:
        prepared: The checked arguments.
        compute: Row losses and gradients of a batch.
        reduction: ``"mean"`` or ``"none"``.
        log_scale: Optional scalar; the scores are multiplied by its exponential.
        offset: Optional scalar, added to the scores.

    Returns:
        Scalar, or (B,) for ``"none"``.

    Raises:
        ValueError: `reduction` is unknown, or a scalar is not one.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction = {reduction!r}; expected 'mean' or 'none'")
    for name, value in (("log_scale", log_scale), ("offset", offset)):
        if value is not None and value.numel() != 1:
            raise ValueError(f"{name}: shape {tuple(value.shape)}; expected a scalar")
    arguments = (prepared.point_emb, prepared.label_emb, prepared.label_bias, log_scale, offset)
    wanted = torch.is_grad_enabled()
    need = Need(*(wanted and a is not None and a.requires_grad for a in arguments))
    loss: Tensor = _Node.apply(prepared, compute, reduction, need, *arguments)
    return loss


class _Node(torch.autograd.Function):
    """Forms the gradients in the forward pass for a mean, in the backward pass otherwise.

    Row losses get their weights only in the backward pass, and they may be any function of the
    losses themselves. A second backward pass through a retained graph forms the gradients again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        prepared: Prepared,
        compute: Compute,
        reduction: Reduction,
        need: Need,
        *arguments: Tensor | None,
    ) -> Tensor:
        points = prepared.point_emb
        n_points = len(points)
        mean = reduction == "mean"
        dtype = torch.promote_types(points.dtype, torch.float32)
        weight = points.new_full((n_points,), 1.0 / max(1, n_points), dtype=dtype)
        rows, gradients = _run(prepared, compute, need if mean else Need(), weight, arguments)
        ctx.save_for_backward(*arguments)
        ctx.again = prepared, compute, need
        ctx.formed = [*gradients] if mean else None
        ctx.weight = weight if mean else None
        return rows.sum() / max(1, n_points) if mean else rows

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad = grad_outputs[0].detach()
        formed, ctx.formed = ctx.formed, None  # handed over, not copied: L x D may be gigabytes
        with torch.no_grad():
            if formed is None:
                prepared, compute, need = ctx.again
                row_weight = grad if ctx.weight is None else grad * ctx.weight
                _, gradients = _run(prepared, compute, need, row_weight, ctx.saved_tensors)
                formed = [*gradients]
            elif grad.is_cuda or grad.item() != 1.0:  # on CUDA, asking would wait for the device
                for g in formed:
                    if g is not None:
                        g *= grad.to(g.dtype)
        if torch.is_grad_enabled():
            formed = [None if g is None else _Once.apply(g.requires_grad_()) for g in formed]
        return (None, None, None, None, *formed)


class _Once(torch.autograd.Function):
    """Passes a gradient on and refuses to be differentiated.

    torch's `once_differentiable` treats the result as a constant if the incoming gradient is one,
    and a second derivative would silently be 0.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        raise RuntimeError("the losses of dexml can be differentiated once, not twice")


def _run(
    prepared: Prepared,
    compute: Compute,
    need: Need,
    row_weight: Tensor,
    arguments: tuple[Tensor | None, ...],
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Row losses, and the gradients of the five arguments in their dtypes and shapes."""
    point_emb, label_emb, label_bias, log_scale, offset = arguments
    assert point_emb is not None
    assert label_emb is not None
    scale: float | Tensor = 1.0 / prepared.temperature
    dtype = row_weight.dtype
    if log_scale is not None:
        scale = scale * log_scale.detach().to(dtype).reshape(()).exp()
    batch = Batch(
        point_emb.detach(),
        label_emb.detach(),
        None if label_bias is None else label_bias.detach().to(dtype),
        scale,
        None if offset is None else offset.detach().to(dtype).reshape(()),
        prepared.positives,
        prepared.ignored,
        prepared.n_labels,
        prepared.lo,
        prepared.exchange,
        prepared.layout,
        need,
        row_weight,
        prepared.triton,
    )
    with torch.no_grad(), torch.autocast(point_emb.device.type, enabled=False):
        rows, gradients = compute(batch)
        return rows, tuple(
            None if g is None or a is None else g.to(a.dtype).reshape(a.shape)
            for g, a in zip(gradients.finish(), arguments, strict=True)
        )
