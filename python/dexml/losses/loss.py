"""What a loss tells the machinery that all losses share, and the one path through it.

A new loss is a file with a row function, a `Loss` and a public function, a name in
``dexml/losses/__init__.py``, and a line in the table of `dexml.train.schedule` if the trainer is to
offer it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from dexml.losses import pairs
from dexml.losses.arguments import Options, Prepared, Reduction, prepare
from dexml.losses.autograd import RowsAndGradients, differentiable
from dexml.losses.pairs import Csr

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Loss:
    """One loss, as `evaluate` needs to know it."""

    name: str
    """The public function, for messages."""
    rows: Callable[..., RowsAndGradients]
    """Takes a `Batch` and the loss's own keyword arguments."""
    live_tiles: int
    """Tiles of scores that exist at the same time, for the memory budget."""
    keeps_scores: bool = True
    """Whether scores are worth keeping: the loss sweeps over them more than once."""
    has_kernels: bool = False
    """Whether there are Triton kernels."""
    undrawn: Literal["ignored", "rivals", "refused"] = "ignored"
    """What becomes of positives that `sample_seed` does not draw: they are ignored, they stay in
    the denominator, or there is no sampling because the loss would train them as negatives."""


def eager(function: Function) -> Function:
    """Keep `torch.compile` out of a function whose sizes depend on the data: one graph break."""
    return cast("Function", torch.compiler.disable(function))


def evaluate(
    loss: Loss,
    point_emb: Tensor,
    label_emb: Tensor,
    positives: Csr | Any,
    ignore: Csr | Any | None,
    *,
    temperature: float,
    label_bias: Tensor | None,
    weights: Tensor | None = None,
    sample_seed: int | None = None,
    sample_size: int | Tensor = 1,
    log_scale: Tensor | None = None,
    offset: Tensor | None = None,
    reduction: Reduction,
    options: Options,
    **own: Any,
) -> Tensor:
    """Check the arguments, choose a layout and compute a loss.

    Args:
        loss: The loss.
        point_emb: As for `dexml.losses.softmax`, and so are the other shared arguments.
        label_emb: Likewise.
        positives: Likewise.
        ignore: Likewise.
        temperature: Likewise.
        label_bias: Likewise.
        weights: Likewise.
        sample_seed: Likewise.
        sample_size: Positives to draw of each point, for all points or for each, (B,).
        log_scale: As for `dexml.losses.bce`.
        offset: Likewise.
        reduction: As for `dexml.losses.softmax`.
        options: How to compute it.
        **own: What this loss alone takes, passed to its row function.
    """
    if sample_seed is not None and loss.undrawn == "refused":
        raise ValueError(
            f"sample_seed: {loss.name} would train the positives that are not drawn as negatives; "
            "leave it out, all positives cost no more"
        )
    prepared = prepare(
        point_emb,
        label_emb,
        positives,
        ignore,
        temperature=temperature,
        label_bias=label_bias,
        weights=weights,
        options=options,
        live_tiles=loss.live_tiles,
        keeps_scores=loss.keeps_scores,
        has_kernels=loss.has_kernels,
    )
    if sample_seed is not None:
        prepared = _draw(prepared, loss, sample_seed, sample_size)
    compute = partial(loss.rows, **own)
    return differentiable(prepared, compute, reduction, log_scale=log_scale, offset=offset)


def _draw(prepared: Prepared, loss: Loss, seed: int, size: int | Tensor) -> Prepared:
    """Keep a part of the positives."""
    drawn, rest = pairs.draw(prepared.positives, seed, size)
    if loss.undrawn == "rivals":
        return replace(prepared, positives=drawn)
    ignored = pairs.merge(rest, prepared.ignored, prepared.n_labels)
    return replace(prepared, positives=drawn, ignored=ignored)
