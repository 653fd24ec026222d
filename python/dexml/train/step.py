"""One training step, exact: embeddings, loss, gradients, update.

The same for both stages, for one process or several. Collectives of a step: the point embeddings,
those of the loss, and one flat all-reduce of all gradients. Gradients are summed, never averaged:
the loss is the mean over the points of all processes already.
Shapes: B points, K candidates, D dimensions, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dexml.encoder import LabelTable
from dexml.losses import Options, Shard
from dexml.losses.shards import VIRTUAL_SHARDS, fold_sum
from dexml.train import processes
from dexml.train.candidates import Candidates, Pairs, Sampler
from dexml.train.objective import objective
from dexml.train.problem import Model
from dexml.train.rows import RowAdamW
from dexml.train.schedule import loss_at, parse_loss
from dexml.train.settings import TrainSettings
from dexml.train.towers import Encode, Plan, Tower, plan, seed_of

_POINTS, _LABELS = 0, 1
"""Sides, as they enter the seed of a micro-batch."""


@dataclass
class Stage:
    """One stage of training: what is encoded how, and what is updated."""

    name: str
    number: int
    """Enters all seeds."""
    model: Model
    settings: TrainSettings
    batch_size: int
    max_tokens: int
    """Of a micro-batch; rows, where features are encoded."""
    keep_tokens: int
    sampler: Sampler
    point_lengths: NDArray[np.int64] | None
    label_lengths: NDArray[np.int64] | None
    encode_points: Encode
    encode_labels: Callable[[NDArray[np.int64], int, LabelTable | None], Tensor]
    """As `Encode`; the table is the part of this step, None where the table is not trained."""
    encode: Callable[[NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.float32]]]
    """Features of the points asked for and of all labels, as the encoder is now."""
    parameters: list[nn.Parameter]
    """What all processes update alike, but for the label table."""
    optimizer: torch.optim.Optimizer | None
    own_table: LabelTable | None
    """This process's part of the label table, updated by `optimizer`: where all labels compete."""
    rows: RowAdamW | None
    """Updates the rows of the table that a step has touched: where labels are drawn."""
    shortlist_name: str = ""
    n_candidates: int = 0
    """Of the last step."""
    checked: bool = False
    flat: Tensor | None = field(default=None, repr=False)
    label_plan: Plan | None = field(default=None, repr=False)


def take_step(
    stage: Stage,
    batch: NDArray[np.int64],
    epoch: int,
    step: int,
    steps: int,
    flags: tuple[float, float] = (0.0, 0.0),
) -> tuple[float, tuple[float, float]]:
    """Take step `step` (from 0) of `steps` with the points `batch`.

    Args:
        stage: The stage.
        batch: Points, of all processes together.
        epoch: Number of the epoch, from 1: the draw of negatives depends on it.
        step: Number of the step in the stage.
        steps: Steps of the stage.
        flags: Two numbers that are added up over the processes beside the gradients.

    Returns:
        The loss (of all processes together) and the sums of the flags.
    """
    loss, tables = gradients(stage, batch, epoch, step, steps)
    flags = _reduce(stage, tables, flags)
    _hold_together(stage)
    if np.isfinite(loss):
        if stage.optimizer is not None:
            stage.optimizer.step()
        if stage.rows is not None and tables is not None:
            stage.rows.step(*tables)
    return loss, flags


def gradients(
    stage: Stage, batch: NDArray[np.int64], epoch: int, step: int, steps: int
) -> tuple[float, tuple[NDArray[np.int64], Tensor, Tensor] | None]:
    """Loss and gradients of a step, the latter in ``.grad`` and not yet added up.

    Returns:
        The loss; and where drawn labels of the table are trained: their ids (K,), and the gradients
        of residuals (K, D) and biases (K,), 0 for those of other processes.
    """
    _settings, model = stage.settings, stage.model
    found = stage.sampler.candidates(batch, epoch)
    stage.n_candidates = len(found.ids)
    points, labels = _towers(stage, batch, found, step)
    table = _table(stage, found, labels.plan)
    first = labels.plan.lo  # not `labels` itself: a cycle would outlive the step, with its tensors
    labels.encode = lambda ids, place: stage.encode_labels(ids, place - first, table)

    dim, like = model.encoder.dim, model.table.residual
    own_BD, own_KD = points.forward(like, dim), labels.forward(like, dim)
    points_BD = own_BD
    if processes.size() > 1:
        points_BD = like.new_zeros(len(batch), dim)
        points_BD[points.plan.lo : points.plan.hi] = own_BD
        processes.add_up(points_BD)
    points_BD, labels_KD = points_BD.requires_grad_(), own_KD.requires_grad_()
    loss = _loss(stage, found, points.plan, labels.plan, points_BD, labels_KD, table, step, steps)
    loss.backward()

    _zero(stage)
    grads = [t.new_zeros(t.shape) if t.grad is None else t.grad for t in (points_BD, labels_KD)]
    grad_BD = grads[0][points.plan.lo : points.plan.hi]
    for run in range(len(points.plan.runs)):
        _into(stage, run)
        labels.backward(run, grads[1], None if stage.checked else own_KD.detach())
        points.backward(run, grad_BD, None if stage.checked else own_BD.detach())
    stage.checked = True
    tables = None
    if stage.rows is not None and table is not None:
        lo, hi = labels.plan.lo, labels.plan.hi
        residual, bias = like.new_zeros(len(found.ids), dim), like.new_zeros(len(found.ids))
        if table.residual.grad is not None:
            residual[lo:hi] = table.residual.grad
        if table.bias.grad is not None:
            bias[lo:hi] = table.bias.grad
        tables = (labels.plan.ids, residual, bias)
    return float(loss.detach()), tables


def _towers(
    stage: Stage, batch: NDArray[np.int64], found: Candidates, step: int
) -> tuple[Tower, Tower]:
    settings = stage.settings
    deterministic = settings.deterministic
    table_trained = stage.own_table is not None or stage.rows is not None
    point_plan = plan(
        batch,
        stage.point_lengths,
        stage.max_tokens,
        deterministic=deterministic,
        even=stage.point_lengths is None,
        packed=settings.packed,
    )
    label_plan = stage.label_plan
    if label_plan is None:
        label_plan = plan(
            found.ids,
            stage.label_lengths,
            stage.max_tokens,
            deterministic=deterministic,
            even=table_trained or stage.label_lengths is None,
            packed=settings.packed,
        )
        if stage.sampler.shares == "all":  # always the same: made once
            stage.label_plan = label_plan
    keep = stage.keep_tokens // len(label_plan.runs)
    seed = (settings.seed, stage.number, step)
    nothing: Any = None
    return (
        Tower(stage.encode_points, point_plan, (*seed, _POINTS), keep),
        Tower(nothing, label_plan, (*seed, _LABELS), keep),
    )


def _table(stage: Stage, found: Candidates, label_plan: Plan) -> LabelTable | None:
    """The rows of the label table that this process trains in this step, with empty gradients."""
    table = stage.own_table
    if table is None and stage.rows is not None:
        table = part(stage.model.table, label_plan.ids[label_plan.lo : label_plan.hi])
    if table is not None and table.residual.requires_grad:
        if table.residual.grad is None:
            table.residual.grad = torch.zeros_like(table.residual)
        else:
            table.residual.grad.zero_()
    return table


def _loss(
    stage: Stage,
    found: Candidates,
    points: Plan,
    labels: Plan,
    points_BD: Tensor,
    labels_KD: Tensor,
    table: LabelTable | None,
    step: int,
    steps: int,
) -> Tensor:
    settings, model = stage.settings, stage.model
    own = labels.ids[labels.lo : labels.hi]
    shape = (len(points.ids), len(labels.ids))
    places = _inverse(points.order), _inverse(labels.order)
    positives = csr(found.positives, *places, shape)
    ignore = None if found.ignore is None else csr(found.ignore, *places, shape)
    bias = model.table.bias.detach()[own] if table is None else table.bias
    if table is not None:
        bias.grad = None
    options: Options = {"check": not stage.checked, "deterministic": settings.deterministic}
    if processes.size() > 1:
        options["shard"] = Shard(labels.lo, labels.hi, len(labels.ids))
    log_weight = found.log_weight
    if log_weight is not None:
        log_weight = log_weight[torch.from_numpy(labels.order[labels.lo : labels.hi])]
        log_weight = log_weight.to(bias)
    loss_part = loss_at(parse_loss(settings.loss), step, steps)
    return objective(
        loss_part,
        model,
        points_BD,
        labels_KD,
        positives,
        ignore,
        bias,
        log_weight,
        settings,
        options,
    )


def csr(
    pairs: Pairs,
    row_places: NDArray[np.int64],
    column_places: NDArray[np.int64],
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Pairs as CSR tensors, rows and columns moved to these places."""
    keys = np.sort(row_places[pairs[0]] * shape[1] + column_places[pairs[1]])
    indptr = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(np.bincount(keys // shape[1], minlength=shape[0]), out=indptr[1:])
    return torch.from_numpy(indptr), torch.from_numpy(keys % shape[1])


def part(table: LabelTable, rows: NDArray[np.int64] | slice) -> LabelTable:
    """The rows of a label table as one of its own; of a slice, in the same memory."""
    where: Any = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(table.bias.device)
    with torch.device(table.bias.device):
        found = LabelTable(table.counts[where], table.residual.shape[1])
    for name in ("residual", "bias"):
        whole, own = getattr(table, name), getattr(found, name)
        own.data = whole.detach()[where]
        own.requires_grad_(whole.requires_grad)
    return found


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


def _zero(stage: Stage) -> None:
    """Empty the flat gradient buffer: one row for each run of micro-batches."""
    if not stage.parameters:
        return
    if stage.flat is None:
        n_runs = VIRTUAL_SHARDS // processes.size() if stage.settings.deterministic else 1
        size = sum(p.numel() for p in stage.parameters)
        stage.flat = stage.parameters[0].new_zeros(n_runs, size)
    stage.flat.zero_()


def _into(stage: Stage, run: int) -> None:
    """Let gradients gather in row `run` of the flat buffer."""
    if stage.flat is not None:
        _views(stage, stage.flat[run])


def _views(stage: Stage, flat: Tensor) -> None:
    start = 0
    for parameter in stage.parameters:
        stop = start + parameter.numel()
        parameter.grad = flat[start:stop].view_as(parameter)
        start = stop


def _reduce(
    stage: Stage,
    tables: tuple[NDArray[np.int64], Tensor, Tensor] | None,
    flags: tuple[float, float],
) -> tuple[float, float]:
    """Add up all gradients over the processes, in one flat all-reduce, and clip them."""
    flat, size = stage.flat, processes.size()
    if size > 1:
        like = stage.model.table.bias
        sent = [torch.tensor(flags, dtype=like.dtype, device=like.device)]
        if tables is not None:
            sent += [tables[1], tables[2]]
        n_runs = 1
        if flat is not None:
            n_runs = len(flat)
            # Each process fills the rows of its own virtual shards.
            whole = flat.new_zeros(
                n_runs * size if stage.settings.deterministic else 1, flat.shape[1]
            )
            at = processes.rank() * n_runs if stage.settings.deterministic else 0
            whole[at : at + n_runs] = flat
            sent.append(whole)
        together = torch.cat([tensor.reshape(-1) for tensor in sent])
        processes.add_up(together)
        received = torch.split(together, [tensor.numel() for tensor in sent])
        flags = (float(received[0][0]), float(received[0][1]))
        if tables is not None:
            tables[1].copy_(received[1].view_as(tables[1]))
            tables[2].copy_(received[2])
        if flat is not None:
            flat = received[-1].view(-1, flat.shape[1])
    if flat is not None:
        total = flat[0] if len(flat) == 1 else fold_sum(flat)
        if stage.settings.clip:
            # In float64: a norm in float32 depends in its last bit on where the numbers lie.
            norm = float(torch.linalg.vector_norm(total, dtype=torch.float64))
            if norm > stage.settings.clip:
                total *= stage.settings.clip / norm
        _views(stage, total)
    return flags


def _hold_together(stage: Stage) -> None:
    """Add the gradient of ``head_penalty x |A - B|^2`` of two heads A and B, once for all."""
    heads = stage.model.encoder.head_parameters()
    if len(heads) < 2 or not stage.settings.head_penalty:
        return
    pull = 2 * stage.settings.head_penalty * (heads[0] - heads[1]).detach()
    for head, sign in zip(heads, (1, -1), strict=True):
        if head.grad is not None:
            head.grad += sign * pull


def batches(rows: NDArray[np.int64], batch_size: int, *seed: int) -> list[NDArray[np.int64]]:
    """The batches of an epoch: all rows once, in an order of this seed; none is empty."""
    shuffled = np.random.default_rng(seed_of(*seed)).permutation(rows)
    return [shuffled[i : i + batch_size] for i in range(0, len(shuffled), batch_size)]
