"""From the arguments of a loss to its value: checks, layout, and one autograd function for all."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, cast

import torch
from torch import Tensor

from dexml.losses import layout as layouts
from dexml.losses import pairs
from dexml.losses.layout import Layout
from dexml.losses.pairs import Csr, Pairs
from dexml.losses.shards import Exchange, Shard
from dexml.losses.sweep import Batch, Gradients, Need

TRITON_SCORES = 2**22
"""Fewer scores are left to the library. Not yet measured."""
Reduction = Literal["mean", "none"]
RowsAndGradients = tuple[Tensor, Gradients]


Function = TypeVar("Function", bound=Callable[..., Any])


def eager(function: Function) -> Function:
    """Leave a function out of `torch.compile`: its sizes depend on the data; one graph break."""
    return cast("Function", torch.compiler.disable(function))


class Options(TypedDict, total=False):
    """How a loss is computed; none of it changes what is computed.

    Attributes:
        scratch_bytes: Memory for scores, beside inputs and gradients; default 64 MiB.
        layout: How scores are cut, instead of the rule in `dexml.losses.layout.choose`.
        shard: The labels of this process where they are split over several.
        deterministic: Bit-equal loss and gradients for 1, 2, 4 and 8 processes, at the price of
            8 x B x D numbers of scratch.
        triton: True or False instead of the choice by device and size (softmax losses only).
        check: False leaves out the checks of the values in `positives`, `ignore` and weights
            (which wait for the device if the tensors are there), and of the shards.
    """

    scratch_bytes: int
    layout: Layout | None
    shard: Shard | None
    deterministic: bool
    triton: bool | None
    check: bool


class Prepared(NamedTuple):
    """Checked arguments, the same for forward and backward."""

    point_emb: Tensor
    label_emb: Tensor
    label_bias: Tensor | None
    positives: Pairs
    ignored: Pairs
    n_labels: int
    lo: int
    temperature: float
    exchange: Exchange
    layout: Layout
    triton: bool


def prepare(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    ignore: Csr | Any | None,
    temperature: float,
    label_bias: Tensor | None,
    options: Options,
    *,
    weights: Tensor | None = None,
    copies: int,
    may_keep: bool = True,
    may_use_triton: bool = False,
) -> Prepared:
    """Check the arguments that all losses share, and choose a layout."""
    unknown = set(options) - Options.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"unknown argument {min(unknown)!r}; options are {', '.join(Options.__annotations__)}"
        )
    if point_emb.ndim != 2 or label_emb.ndim != 2 or point_emb.shape[1] != label_emb.shape[1]:
        raise ValueError(
            f"embeddings of shapes {tuple(point_emb.shape)} and {tuple(label_emb.shape)}; "
            "expected (B, D) and (L, D)"
        )
    dtype = torch.promote_types(point_emb.dtype, label_emb.dtype)
    if not dtype.is_floating_point:
        raise ValueError(f"embeddings of dtype {dtype}; expected a floating-point one")
    point_emb, label_emb = point_emb.to(dtype), label_emb.to(dtype)
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}; expected a number above 0")
    per_label(label_bias, label_emb, "label_bias")
    check = options.get("check", True)
    shard = options.get("shard")
    n_own = len(label_emb)
    n_labels, lo = (n_own, 0) if shard is None else (shard.n_labels, shard.lo)
    if shard is not None and not (shard.lo >= 0 and shard.hi <= n_labels):
        raise ValueError(f"shard: labels {shard.lo}..{shard.hi} of {n_labels}")
    if shard is not None and shard.hi - shard.lo != n_own:
        raise ValueError(f"shard: labels {shard.lo}..{shard.hi}, but label_emb has {n_own} rows")
    exchange = Exchange(shard, n_own, deterministic=options.get("deterministic", False))
    shape, device = (len(point_emb), n_labels), point_emb.device
    if weights is not None:
        n_pairs = len(positives[1] if isinstance(positives, tuple) else positives.indices)
        weights = pairs.read_weights(weights, n_pairs, check=check)
    wanted = pairs.read(positives, shape, device, "positives", weight=weights, check=check)
    if ignore is None:
        none = wanted.rows.new_zeros(0)
        ignored = Pairs(none, none, None, torch.zeros_like(wanted.counts))
    else:
        ignored = pairs.read(ignore, shape, device, "ignore", check=check)
        ignored = pairs.without(ignored, wanted, n_labels)
    if check:
        mine = (*point_emb.shape, len(wanted.rows), len(ignored.rows))
        exchange.check(mine, ("B", "D", "number of positives", "number of ignored pairs"), device)
    split = shard is not None or exchange.deterministic
    scratch_bytes = options.get("scratch_bytes", layouts.SCRATCH_BYTES)
    if scratch_bytes < 1:
        raise ValueError(f"scratch_bytes = {scratch_bytes}; expected at least 1")
    chosen = options.get("layout") or layouts.choose(
        len(point_emb),
        # A number that all processes know, so that they cut alike in the deterministic mode.
        -(-n_labels // (exchange.n_local * exchange.size)) if exchange.deterministic else n_own,
        itemsize=torch.promote_types(dtype, torch.float32).itemsize,
        copies=copies,
        device=device.type,
        scratch_bytes=scratch_bytes,
        may_keep=may_keep and not split,
    )
    triton = may_use_triton and _use_triton(options, point_emb, label_emb, exchange)
    if triton:
        chosen = Layout(chosen.chunk_rows, chosen.tile_labels, keep=False)
    if split and exchange.size > 1 and chosen.keep:
        raise ValueError("layout: scores are not kept where labels are sharded; use keep=False")
    return Prepared(
        point_emb,
        label_emb,
        label_bias,
        wanted,
        ignored,
        n_labels,
        lo,
        temperature,
        exchange,
        chosen,
        triton,
    )


def _use_triton(options: Options, point_emb: Tensor, label_emb: Tensor, exchange: Exchange) -> bool:
    """As asked for; otherwise on CUDA for half precision, where the kernels can use its units."""
    asked = options.get("triton")
    installed = find_spec("triton") is not None
    possible = exchange.n_local == 1 and point_emb.dtype != torch.float64
    if asked is None:
        large = len(point_emb) * len(label_emb) >= TRITON_SCORES
        half = point_emb.dtype in (torch.float16, torch.bfloat16)
        return installed and possible and large and half and point_emb.is_cuda
    if asked and not installed:
        raise ImportError("triton=True needs Triton, which comes with PyTorch for CUDA")
    if asked and not possible:
        raise ValueError("triton=True: not for float64, nor with deterministic=True")
    return asked


def per_label(values: Tensor | None, label_emb: Tensor, name: str) -> None:
    """Check that there is one value for each label."""
    if values is not None and values.shape != label_emb.shape[:1]:
        raise ValueError(f"{name}: shape {tuple(values.shape)} for {len(label_emb)} labels")


def reduce(
    prepared: Prepared,
    compute: Callable[[Batch], RowsAndGradients],
    reduction: Reduction,
    *,
    log_scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """The loss as an autograd node: its mean over rows, or the loss of each row."""
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction = {reduction!r}; expected 'mean' or 'none'")
    for name, value in (("log_scale", log_scale), ("offset", offset)):
        if value is not None and value.numel() != 1:
            raise ValueError(f"{name}: shape {tuple(value.shape)}; expected a scalar")
    arguments = (prepared.point_emb, prepared.label_emb, prepared.label_bias, log_scale, offset)
    wanted = torch.is_grad_enabled()
    need = Need(*(wanted and a is not None and a.requires_grad for a in arguments))
    loss: Tensor = _Loss.apply(prepared, compute, reduction, need, *arguments)
    return loss


class _Loss(torch.autograd.Function):
    """Gradients are formed with the loss where it is a mean, in the backward pass otherwise.

    A second backward pass through a retained graph forms them once more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        prepared: Prepared,
        compute: Callable[[Batch], RowsAndGradients],
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
            elif grad.is_cuda or grad.item() != 1.0:
                for g in formed:
                    if g is not None:
                        g *= grad.to(g.dtype)
        if torch.is_grad_enabled():
            formed = [None if g is None else _Once.apply(g.requires_grad_()) for g in formed]
        return (None, None, None, None, *formed)


class _Once(torch.autograd.Function):
    """Passes a gradient on and refuses to be differentiated.

    torch's `once_differentiable` would let a constant through where the incoming gradient is one.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        raise RuntimeError("the losses of dexml can be differentiated once, not twice")


def _run(
    prepared: Prepared,
    compute: Callable[[Batch], RowsAndGradients],
    need: Need,
    row_weight: Tensor,
    arguments: tuple[Tensor | None, ...],
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
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
