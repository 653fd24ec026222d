"""Prepares the two stages of a training: heads on frozen features, and the encoder itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dexml.encoder import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, DualEncoder, Tokens, upper_layers
from dexml.train import features, processes
from dexml.train.candidates import Sampler
from dexml.train.gradients import FlatGradients
from dexml.train.problem import Features, Job, Model
from dexml.train.rows import RowAdamW
from dexml.train.schedule import (
    StageSchedule,
    parse_loss,
    parse_stages,
    stage_schedule,
    starts_frozen,
)
from dexml.train.settings import TrainSettings
from dexml.train.step import Stage
from dexml.train.texts import FrozenTexts, TunedTexts, table_rows

FEATURE_ROWS = 65_536
"""Features that go through the heads at a time."""
CENTRED_ON, ENCODED = 4096, 256
"""Points, and labels, that tell the mean score where bce begins; fewer where they are encoded."""
KEPT_VALUES = 2**27
"""Numbers in the embeddings whose graph the stage heads keeps: half a GiB, a few times over."""
KEEP_TOKENS = {"cpu": 16_384, "cuda": 131_072}
"""What `keep_tokens` 0 stands for. MiniLM-L6 in float32 takes about 0.15 MB a token."""


def make(name: str, job: Job) -> Stage:
    """Prepare the stage `name` of a job; the model is as the stages before have left it."""
    schedule = stage_schedule(name, job.settings, job.n_labels)
    return {"heads": heads, "encoder": tuning}[name](job, schedule)


def heads(job: Job, schedule: StageSchedule) -> Stage:
    """On frozen features: head, label residuals and biases (`docs/training.md`).

    Where all labels compete, each process updates its own part of the label table, and the parts
    are put together when the whole is asked for. Where labels are drawn, each process has a whole
    table and updates the drawn rows in the same way; else rows would travel between processes.
    """
    problem, model, settings = job.problem, job.model, job.settings
    encoder, table = model.encoder, model.table
    known = problem.features if starts_frozen(settings) else None
    point_features, label_features = known or features.of_all(
        encoder, (problem.point_tokens, problem.label_tokens), settings
    )
    encoder.transformer.requires_grad_(False)
    parameters = encoder.head_parameters()
    for parameter in parameters:
        parameter.requires_grad_(True)
    rates = {"residual": settings.residual_lr, "bias": settings.bias_lr}
    for name, rate in rates.items():
        getattr(table, name).requires_grad_(rate > 0)
    rates = {name: rate for name, rate in rates.items() if rate > 0}
    if "residual" in rates:
        start = encoder.embed(point_features[job.rows])
        shrink = settings.residual_shrink
        table.start_at_centroids(start, problem.y[job.rows], shrink, unit=encoder.normalize)
    points, labels = _spread(job.rows, CENTRED_ON), _spread(np.arange(job.n_labels), CENTRED_ON)
    _centre_offset(job, schedule, labels, (point_features[points], label_features[labels]))
    groups = [_group(parameters, settings.head_lr, settings.weight_decay)]
    own_table, row_optimizer = None, None
    if schedule.negatives == "all":
        own_table = table_rows(table, processes.own(job.n_labels))
        groups += [_group([getattr(own_table, name)], rate) for name, rate in rates.items()]
    else:
        row_optimizer = RowAdamW(table, (settings.beta1, settings.beta2), settings.eps)
        for name, rate in rates.items():
            row_optimizer.add(name, rate)
    model.train()
    return Stage(
        job=job,
        schedule=schedule,
        sampler=Sampler(problem.y, problem.exclude, job.rows, schedule, settings),
        texts=FrozenTexts(encoder, point_features, label_features),
        max_tokens=FEATURE_ROWS,
        keep_tokens=kept_labels(encoder.dim),
        gradients=FlatGradients(parameters, deterministic=settings.deterministic),
        optimizer=_adamw(groups, model, settings),
        own_table=own_table,
        row_optimizer=row_optimizer,
    )


def tuning(job: Job, schedule: StageSchedule) -> Stage:
    """The transformer, or its upper layers, and the head.

    The label table stays as it is: what it knows about single labels was learned from all texts.
    """
    problem, model, settings = job.problem, job.model, job.settings
    parameters = unfreeze(model.encoder, settings)
    model.table.requires_grad_(False)
    points, labels = _spread(job.rows, ENCODED), _spread(np.arange(job.n_labels), ENCODED)
    tokens = problem.point_tokens.select(points), problem.label_tokens.select(labels)
    _centre_offset(job, schedule, labels, tokens)
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        _group(matrices, settings.encoder_lr, settings.weight_decay),
        _group(vectors, settings.encoder_lr),
    ]
    max_tokens, keep_tokens = token_budgets(settings, model.encoder.device)
    return Stage(
        job=job,
        schedule=schedule,
        sampler=Sampler(problem.y, problem.exclude, job.rows, schedule, settings),
        texts=TunedTexts(job),
        max_tokens=max_tokens,
        keep_tokens=keep_tokens,
        gradients=FlatGradients(parameters, deterministic=settings.deterministic),
        optimizer=_adamw(groups, model, settings),
        own_table=None,
        row_optimizer=None,
    )


def _centre_offset(
    job: Job,
    schedule: StageSchedule,
    labels: NDArray[np.int64],
    sample: Features | tuple[Tokens, Tokens],
) -> None:
    """Let the scores that bce sees begin around the log-odds of a positive: subtract their mean.

    The vectors of many encoders are alike: with cosines around 0.7 and a temperature of 0.06, the
    log-odds alone would still start every probability near 1. Only before the first stage; later
    ones go on with the offset that was learned.

    Args:
        job: The job.
        schedule: The stage that begins.
        labels: Label ids of the sample, (l,).
        sample: Points and these labels, as features or as texts to encode.
    """
    settings, model = job.settings, job.model
    first = parse_stages(settings.stages)[0] == schedule.name
    if not first or not any(part.loss.learns_scale for part in parse_loss(settings.loss)):
        return
    encoder = model.encoder
    points, texts = (
        one
        if isinstance(one, np.ndarray)
        else encoder.encode_features(one, precision=settings.precision)
        for one in sample
    )
    with torch.no_grad():
        rows = torch.from_numpy(labels).to(encoder.device)
        vectors = model.table(encoder, torch.from_numpy(texts).to(encoder.device), rows)
        means = encoder.embed(points).mean(axis=0), vectors.cpu().numpy().mean(axis=0)
        model.offset.sub_(float(means[0] @ means[1]) / settings.temperature)


def _spread(ids: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Take up to `n` of the ids, evenly spread."""
    return ids[np.unique(np.linspace(0, len(ids) - 1, min(n, len(ids))).astype(np.int64))]


def kept_labels(dim: int) -> int:
    """Labels of a step whose graph the stage heads keeps."""
    return KEPT_VALUES // dim


def token_budgets(settings: TrainSettings, device: torch.device) -> tuple[int, int]:
    """Tokens of a micro-batch of the stage encoder, and tokens whose graph a step keeps."""
    on_gpu = device.type == "cuda"
    return (
        settings.micro_tokens or (GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS),
        settings.keep_tokens or KEEP_TOKENS["cuda" if on_gpu else "cpu"],
    )


def tuned_layers(encoder: DualEncoder, settings: TrainSettings) -> set[str]:
    """Names, as in `Model`, of the transformer's parameters that the stage encoder trains."""
    unfreeze(encoder, settings)
    names = {
        f"encoder.transformer.{name}"
        for name, parameter in encoder.transformer.named_parameters()
        if parameter.requires_grad
    }
    encoder.transformer.requires_grad_(False)
    return names


def unfreeze(encoder: DualEncoder, settings: TrainSettings) -> list[nn.Parameter]:
    """Let exactly those parameters require a gradient that the stage encoder trains; list them."""
    transformer = encoder.transformer
    transformer.requires_grad_(False)
    layers = [transformer]
    if settings.encoder_layers:
        layers = upper_layers(transformer, settings.encoder_layers)
    for layer in layers:
        layer.requires_grad_(True)
    if settings.freeze_embeddings:
        transformer.get_input_embeddings().requires_grad_(False)
        if isinstance(getattr(transformer, "embeddings", None), nn.Module):
            transformer.embeddings.requires_grad_(False)
    heads = encoder.head_parameters()
    for parameter in heads:
        parameter.requires_grad_(True)
    return [p for p in transformer.parameters() if p.requires_grad] + heads


def _group(parameters: list[Any], lr: float, weight_decay: float = 0.0) -> dict[str, Any]:
    return {"params": parameters, "lr": lr, "weight_decay": weight_decay}


def _adamw(
    groups: list[dict[str, Any]], model: Model, settings: TrainSettings
) -> torch.optim.AdamW | None:
    """AdamW over the groups and what bce learns; None if there is nothing to learn."""
    learns = settings.scale_lr > 0 and any(
        part.loss.learns_scale for part in parse_loss(settings.loss)
    )
    scalars = [model.log_scale, model.offset]
    for scalar in scalars:
        scalar.requires_grad_(learns)
    if learns:
        groups.append(_group(scalars, settings.scale_lr))
    groups = [group for group in groups if group["params"]]
    if not groups:
        return None
    return torch.optim.AdamW(
        groups, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True
    )
