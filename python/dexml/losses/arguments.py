"""The arguments that all losses share: their types, their checks, and the layout they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from dexml.losses import layout as layouts
from dexml.losses import pairs
from dexml.losses.layout import Layout
from dexml.losses.pairs import Csr, Pairs
from dexml.losses.shards import Exchange, Shard

TRITON_SCORES = 2**22
"""With fewer scores the Triton kernels are not chosen; a guess, see ``docs/gpu.md``."""
Reduction = Literal["mean", "none"]


class Options(TypedDict, total=False):
    """How a loss is computed. No option changes what is computed.

    Attributes:
        scratch_bytes: Memory for scores, beside inputs and gradients; default 64 MiB on a CPU. On
            CUDA 256 MiB, or more where that keeps scores, up to an eighth of the device.
        layout: How scores are cut; by default `dexml.losses.layout.choose` decides.
        shard: The labels of this process, if they are split over several.
        deterministic: Give the same bits for 1, 2, 4 and 8 processes, at the price of 8 x B x D
            numbers of scratch.
        triton: True or False overrules the choice by device and size (softmax losses only).
        check: False leaves out the checks of the values in `positives`, `ignore` and weights, and
            those of the shards, for which the processes talk to each other.
    """

    scratch_bytes: int
    layout: Layout | None
    shard: Shard | None
    deterministic: bool
    triton: bool | None
    check: bool


@dataclass(frozen=True)
class Prepared:
    """Checked arguments, the same for the forward and the backward pass."""

    point_emb: Tensor
    label_emb: Tensor
    label_bias: Tensor | None
    positives: Pairs
    ignored: Pairs
    """Never holds a positive."""
    n_labels: int
    """Over all processes."""
    lo: int
    """The first label of this process."""
    temperature: float
    exchange: Exchange
    layout: Layout
    triton: bool


def prepare(
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    ignore: Csr | Any | None,
    *,
    temperature: float,
    label_bias: Tensor | None,
    weights: Tensor | None,
    options: Options,
    live_tiles: int,
    keeps_scores: bool,
    has_kernels: bool,
) -> Prepared:
    """Check the arguments and choose a layout.

    The last three say what the loss needs, see `dexml.losses.loss.Loss`.

    Raises:
        TypeError: An option is unknown.
        ValueError: Shapes or dtypes disagree, a number is out of its range, or shards do not fit
            together.
        ImportError: ``triton=True`` without Triton.
    """
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
    check_above_zero("temperature", temperature)
    check_per_label(label_bias, label_emb, "label_bias")
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
    wanted = pairs.read(positives, shape, "positives", weight=weights, check=check)
    if ignore is None:
        none = wanted.rows.new_zeros(0)
        ignored = Pairs(none, none, None, torch.zeros_like(wanted.counts))
    else:
        ignored = pairs.read(ignore, shape, "ignore", check=check)
        ignored = pairs.without(ignored, wanted, n_labels)
    if check:
        mine = (*point_emb.shape, len(wanted.rows), len(ignored.rows))
        exchange.check(mine, ("B", "D", "number of positives", "number of ignored pairs"), device)
    triton = has_kernels and _use_triton(options, point_emb, label_emb, exchange)
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
        _layout(options, point_emb, n_labels, n_own, exchange, live_tiles, keeps_scores, triton),
        triton,
    )


def _layout(
    options: Options,
    point_emb: Tensor,
    n_labels: int,
    n_own: int,
    exchange: Exchange,
    live_tiles: int,
    keeps_scores: bool,
    triton: bool,
) -> Layout:
    """The layout asked for, or the one that the rule of `layout.choose` gives."""
    split = options.get("shard") is not None or exchange.deterministic
    may_keep = keeps_scores and not split and not triton  # the kernels never write scores
    if exchange.deterministic:
        # Tiles must be equal everywhere, so they go by a number that does not depend on the
        # process: the mean size of a virtual shard.
        n_own = -(-n_labels // (exchange.n_local * exchange.size))
    itemsize = torch.promote_types(point_emb.dtype, torch.float32).itemsize
    device = point_emb.device
    scratch_bytes = options.get("scratch_bytes")
    if scratch_bytes is None:
        scratch_bytes = layouts.budget(
            len(point_emb),
            n_own,
            itemsize=itemsize,
            device=device.type,
            device_bytes=layouts.device_bytes(device),
            may_keep=may_keep,
        )
    if scratch_bytes < 1:
        raise ValueError(f"scratch_bytes = {scratch_bytes}; expected at least 1")
    chosen = options.get("layout") or layouts.choose(
        len(point_emb),
        n_own,
        itemsize=itemsize,
        copies=live_tiles,
        device=device.type,
        scratch_bytes=scratch_bytes,
        may_keep=may_keep,
    )
    if triton:
        chosen = Layout(chosen.chunk_rows, chosen.tile_labels, keep=False)
    if split and exchange.size > 1 and chosen.keep:
        raise ValueError("layout: scores are not kept where labels are sharded; use keep=False")
    return chosen


def _use_triton(options: Options, point_emb: Tensor, label_emb: Tensor, exchange: Exchange) -> bool:
    """As asked for; by default on CUDA for half precision, where the kernels can use its units."""
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


def check_above_zero(name: str, value: float) -> None:
    """Refuse a number that is not above 0, NaN among them."""
    if not value > 0:
        raise ValueError(f"{name} = {value}; expected a number above 0")


def check_per_label(values: Tensor | None, label_emb: Tensor, name: str) -> None:
    """Check that there is one value for each label of this process.

    Raises:
        ValueError: There is not.
    """
    if values is not None and values.shape != label_emb.shape[:1]:
        raise ValueError(f"{name}: shape {tuple(values.shape)} for {len(label_emb)} labels")


def read_k(k: int | Tensor, n_rows: int, device: torch.device) -> Tensor:
    """The k of each row, int64 (B,), from one number or one for each row.

    Raises:
        ValueError: `k` is not a whole number of at least 1, or a tensor of another shape.
    """
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
