"""One training step, exact: embeddings, loss, gradients, update.

The same for all stages, for one process or several. The collectives of a step: the point
embeddings, those of the loss, and a single all-reduce of all gradients. Gradients are summed, not
averaged, because the loss is already the mean over the points of all processes.
Shapes: B points, K candidates, D dimensions, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dexml.encoder import LabelTable
from dexml.losses import Options, Shard
from dexml.losses.pairs import moved
from dexml.train import processes
from dexml.train.candidates import Candidates, Pairs, Sampler
from dexml.train.gradients import FlatGradients, RowGradients
from dexml.train.objective import beats_text, objective
from dexml.train.problem import Job, Model
from dexml.train.rounding import RoundedRows
from dexml.train.rows import RowAdamW
from dexml.train.schedule import StageSchedule, loss_at, parse_loss
from dexml.train.settings import TrainSettings
from dexml.train.texts import Texts, TrainedRows, table_rows
from dexml.train.towers import Plan, Tower, plan, seed_of

_POINTS, _LABELS, _ROUNDING = 0, 1, 2
"""Sides, as they enter the seed of a micro-batch; and what enters that of rounding."""


@dataclass
class Scratch:
    """What the steps of a stage leave for the next one; it is no part of a checkpoint."""

    checked: bool = False
    """Whether a step has compared what it encoded twice, and checked what goes into the loss."""
    n_candidates: int = 0
    """Of the last step."""
    gradient: Tensor | None = None
    """Of the residuals in bfloat16 that this process trains, where all labels compete."""


@dataclass(frozen=True)
class Stage:
    """One stage of a job, ready to take steps: what is encoded, what competes, what is updated."""

    job: Job
    schedule: StageSchedule
    sampler: Sampler
    texts: Texts
    label_plan: Plan | None
    """Of all labels, where all compete: the same in every step."""
    max_tokens: int
    """Of a micro-batch; texts, where they have no lengths."""
    keep_tokens: int
    """Tokens of a step, on each side, whose graph is kept."""
    gradients: FlatGradients
    """Of everything that all processes update alike: all but residuals and biases of labels."""
    optimizer: torch.optim.Optimizer | None
    own_table: LabelTable | None
    """Where all labels compete: this process's part of the label table, updated by `optimizer`."""
    own_rows: slice | NDArray[np.int64]
    """The labels of that part, in its order. A slice: it shares the memory of the whole table."""
    row_optimizer: RowAdamW | None
    """Where labels are drawn: updates the rows of the label table that a step has drawn."""
    rounded: RoundedRows | None
    """Where residuals are bfloat16: updates them, in place of the other two."""
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def name(self) -> str:
        """``heads``, ``encoder`` or ``joint``."""
        return self.schedule.name

    @property
    def model(self) -> Model:
        """What is trained."""
        return self.job.model

    @property
    def settings(self) -> TrainSettings:
        """The settings of the run."""
        return self.job.settings

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What all processes update alike."""
        return self.gradients.parameters


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
        epoch: Number of the epoch, from 1; the draw of negatives depends on it.
        step: Number of the step in the stage.
        steps: Steps of the stage.
        flags: Two numbers that are summed over the processes along with the gradients.

    Returns:
        The loss (of all processes together) and the sums of the flags.
    """
    settings, model = stage.settings, stage.model
    loss, rows = gradients(stage, batch, epoch, step, steps)
    flags = stage.gradients.sum_up(rows, flags, like=model.table.bias)
    if settings.clip:
        stage.gradients.clip(settings.clip)
    _pull_heads_together(model.encoder.head_parameters(), settings.head_penalty)
    if np.isfinite(loss):
        if stage.optimizer is not None:
            stage.optimizer.step()
        if stage.row_optimizer is not None and rows is not None:
            stage.row_optimizer.step(*rows, steps=step + 1)
        if stage.rounded is not None:
            _update_rounded(stage, stage.rounded, rows, step)
    return loss, flags


def _update_rounded(
    stage: Stage, rounded: RoundedRows, rows: RowGradients | None, step: int
) -> None:
    """Update the residuals that a step has moved, with random bits of that step."""
    seed = seed_of(stage.settings.seed, stage.schedule.number, step, _ROUNDING)
    device = stage.model.table.bias.device
    if rows is not None:
        ids = moved(torch.from_numpy(rows.ids), device)
        residual = stage.model.table.residual
        rounded.step(residual, ids, ids, rows.residual, seed=seed, steps=step + 1)
    elif stage.own_table is not None and stage.scratch.gradient is not None:
        ids, own = torch.arange(stage.job.n_labels, device=device), stage.own_rows
        labels = ids[own] if isinstance(own, slice) else moved(torch.from_numpy(own), device)
        values = stage.own_table.residual
        gradient, at = stage.scratch.gradient, ids[: len(labels)]
        rounded.step(values, at, labels, gradient, seed=seed, steps=step + 1)


def gradients(
    stage: Stage, batch: NDArray[np.int64], epoch: int, step: int, steps: int
) -> tuple[float, RowGradients | None]:
    """Loss and gradients of a step; the gradients lie in ``.grad``, not yet summed up.

    Returns:
        The loss, and where drawn labels of the table are trained, the gradients of their rows.
    """
    model, scratch = stage.model, stage.scratch
    candidates = stage.sampler.candidates(batch, epoch)
    scratch.n_candidates = len(candidates.ids)
    settings = stage.settings
    point_plan = cut(batch, stage.texts.point_lengths, stage.max_tokens, settings)
    label_plan = stage.label_plan
    if label_plan is None:
        label_plan = cut(candidates.ids, stage.texts.label_lengths, stage.max_tokens, settings)
    trained = _trained_rows(stage, label_plan.own)
    keep = stage.keep_tokens // len(label_plan.runs)
    seed = (settings.seed, stage.schedule.number, step)
    points = Tower(stage.texts.points, point_plan, (*seed, _POINTS), keep)
    # Then the vector of each label's text stands beside its own.
    alone = settings.text_weight > 0 or _beats_text(stage)
    encode = partial(stage.texts.labels, trained, alone=alone)
    labels = Tower(encode, label_plan, (*seed, _LABELS), keep)

    dim, like = model.encoder.dim, model.table.bias
    own_BD, own_KD = points.forward(like, dim), labels.forward(like, dim * (1 + alone))
    points_BD = own_BD
    if processes.size() > 1:
        points_BD = like.new_zeros(len(batch), dim)
        points_BD[point_plan.lo : point_plan.hi] = own_BD
        processes.add_up(points_BD)
    points_BD = points_BD.requires_grad_()
    both_KD = [part.contiguous().requires_grad_() for part in own_KD.split(dim, dim=1)]
    table = None if trained is None else trained.table
    loss = _loss(stage, candidates, point_plan, label_plan, points_BD, both_KD, table, step, steps)
    loss.backward()

    stage.gradients.zero()
    grad_BD, *grads_KD = (
        t.new_zeros(t.shape) if t.grad is None else t.grad for t in (points_BD, *both_KD)
    )
    grad_KD = torch.cat(grads_KD, dim=1) if alone else grads_KD[0]
    grad_BD = grad_BD[point_plan.lo : point_plan.hi]
    for run in range(len(point_plan.runs)):
        stage.gradients.gather_in(run)
        labels.backward(run, grad_KD, None if scratch.checked else own_KD.detach())
        points.backward(run, grad_BD, None if scratch.checked else own_BD.detach())
    scratch.checked = True
    rows = None
    if stage.row_optimizer is not None and trained is not None:
        rows = _row_gradients(trained, label_plan, dim)
    return float(loss.detach()), rows


def batches(
    rows: NDArray[np.int64],
    batch_size: int,
    *seed: int,
    clusters: NDArray[np.int64] | None = None,
) -> list[NDArray[np.int64]]:
    """The batches of an epoch: all rows once, in an order of this seed; none is empty.

    With `clusters`, (len(rows),), a batch takes whole clusters, drawn at random, one after the
    other; the last one may go on in the next batch. The order inside a cluster is drawn too.
    """
    order = np.random.default_rng(seed_of(*seed)).permutation(len(rows))
    if clusters is not None:
        shuffled_clusters = np.random.default_rng(seed_of(*seed, 1)).permutation(
            int(clusters.max(initial=0)) + 1
        )
        order = order[np.argsort(shuffled_clusters[clusters[order]], kind="stable")]
    shuffled = rows[order]
    return [shuffled[i : i + batch_size] for i in range(0, len(shuffled), batch_size)]


def cut(
    ids: NDArray[np.int64],
    lengths: NDArray[np.int64] | None,
    max_tokens: int,
    settings: TrainSettings,
) -> Plan:
    """Cut texts into micro-batches and share them out, as the settings say (`towers.plan`)."""
    return plan(
        ids,
        lengths,
        max_tokens,
        deterministic=settings.deterministic,
        packed=settings.packed,
    )


def _trained_rows(stage: Stage, own: NDArray[np.int64]) -> TrainedRows | None:
    """The rows of the label table that this process trains in this step, with empty gradients."""
    table = stage.own_table
    if table is None and stage.row_optimizer is not None:
        table = table_rows(stage.model.table, own, wide=True)
    if table is None or not table.residual.requires_grad:
        return None if table is None else TrainedRows(table, None)
    rounded = table.residual.dtype == torch.bfloat16
    gradient = stage.scratch.gradient if rounded else table.residual.grad
    if gradient is None:
        gradient = torch.zeros_like(table.residual.detach(), dtype=table.bias.dtype)
    gradient.zero_()
    if rounded:
        stage.scratch.gradient = gradient
    else:
        table.residual.grad = gradient
    return TrainedRows(table, gradient)


def _row_gradients(trained: TrainedRows, labels: Plan, dim: int) -> RowGradients:
    """The gradients of this process's rows among those of all drawn labels."""
    k, table = len(labels.ids), trained.table
    residual, bias = table.bias.new_zeros(k, dim), table.bias.new_zeros(k)
    if trained.gradient is not None:
        residual[labels.lo : labels.hi] = trained.gradient
    if table.bias.grad is not None:
        bias[labels.lo : labels.hi] = table.bias.grad
    return RowGradients(labels.ids, residual, bias)


def _loss(
    stage: Stage,
    candidates: Candidates,
    points: Plan,
    labels: Plan,
    points_BD: Tensor,
    both_KD: list[Tensor],
    table: LabelTable | None,
    step: int,
    steps: int,
) -> Tensor:
    """The loss of a step; with `text_weight` that of two views, with `beat_text` plus a term.

    With the weight w: ``w L(points, texts) + (1 - w) L(points, labels)``, where the labels have
    their vectors and biases, and the texts stand for them alone, with biases of 0. So the encoder
    learns what the table does not tell it. Source: UniDEC, WWW 2025 (arXiv 2405.03714).
    """
    settings, model = stage.settings, stage.model
    shape = (len(points.ids), len(labels.ids))
    positions = _inverse(points.order), _inverse(labels.order)
    positives = csr(candidates.positives, *positions, shape)
    ignore = None if candidates.ignore is None else csr(candidates.ignore, *positions, shape)
    if table is None:
        rows = moved(torch.from_numpy(labels.own), model.table.bias.device)
        bias = model.table.bias.detach()[rows]
    else:
        bias = table.bias
    if table is not None:
        bias.grad = None
    options: Options = {
        "check": not stage.scratch.checked,
        "deterministic": settings.deterministic,
    }
    if processes.size() > 1:
        options["shard"] = Shard(labels.lo, labels.hi, len(labels.ids))
    log_weight = candidates.log_weight
    if log_weight is not None:
        log_weight = log_weight[torch.from_numpy(labels.order[labels.lo : labels.hi])]
        log_weight = log_weight.to(bias, non_blocking=True)
    loss_part = loss_at(parse_loss(settings.loss), step, steps)

    def of(labels_KD: Tensor, bias: Tensor) -> Tensor:
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

    own_KD, *text_KD = both_KD
    loss, weight = of(own_KD, bias), settings.text_weight
    if weight:
        loss = (1 - weight) * loss + weight * of(text_KD[0], torch.zeros_like(bias))
    if _beats_text(stage):
        pair = own_KD, text_KD[0]
        term = beats_text(loss_part, model, points_BD, *pair, positives, settings, options)
        loss = loss + settings.beat_text * term
    return loss


def _beats_text(stage: Stage) -> bool:
    """Whether labels are to beat their texts: only where they learn more than these."""
    return stage.settings.beat_text > 0 and stage.schedule.trains_table


def csr(
    pairs: Pairs,
    row_positions: NDArray[np.int64],
    column_positions: NDArray[np.int64],
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Pairs as CSR tensors, with rows and columns moved to these positions."""
    keys = np.sort(row_positions[pairs[0]] * shape[1] + column_positions[pairs[1]])
    indptr = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(np.bincount(keys // shape[1], minlength=shape[0]), out=indptr[1:])
    return torch.from_numpy(indptr), torch.from_numpy(keys % shape[1])


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order))
    return positions


def _pull_heads_together(heads: list[nn.Parameter], penalty: float) -> None:
    """Add the gradient of ``penalty x |A - B|^2`` of two heads A and B.

    After the sum over the processes, so that it counts once.
    """
    if len(heads) < 2 or not penalty:
        return
    pull = 2 * penalty * (heads[0] - heads[1]).detach()
    for head, sign in zip(heads, (1, -1), strict=True):
        if head.grad is not None:
            head.grad += sign * pull
