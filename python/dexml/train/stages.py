"""Prepares the stages of a training: what each encodes, and what it updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dexml.encoder import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, DualEncoder, upper_layers
from dexml.train import clusters, features
from dexml.train.candidates import Sampler
from dexml.train.gradients import FlatGradients
from dexml.train.problem import Features, Job, Model
from dexml.train.rounding import RoundedRows
from dexml.train.rows import RowAdamW
from dexml.train.schedule import (
    StageSchedule,
    needs_features,
    parse_loss,
    parse_stages,
    stage_schedule,
    starts_table,
)
from dexml.train.settings import TrainSettings
from dexml.train.step import Stage, cut
from dexml.train.texts import FrozenTexts, Texts, TunedTexts, table_rows

FEATURE_ROWS = 65_536
"""Features that go through the heads at a time."""
CENTRED_ON, ENCODED = 4096, 256
"""Points, and labels, that tell the mean score where bce begins; fewer where they are encoded."""
KEPT_VALUES = 2**27
"""Numbers in the embeddings of features whose graph a step keeps: half a GiB, a few times over."""
KEEP_TOKENS = {"cpu": 16_384, "cuda": 131_072}
"""What `keep_tokens` 0 stands for. MiniLM-L6 in float32 takes about 0.15 MB a token."""


def make(name: str, job: Job) -> Stage:
    """Prepare the stage `name` of a job; the model is as the stages before have left it.

    What a stage encodes (features of a transformer that stays as it is, or texts) and what it
    updates (the label table or not) are two choices, see `STAGES`. The head always learns.

    Where all labels compete, each process updates its own part of the label table, and the parts
    are put together when the whole is asked for. Where labels are drawn, each process has a whole
    table and updates the drawn rows in the same way; else rows would travel between processes.
    """
    problem, model, settings = job.problem, job.model, job.settings
    schedule = stage_schedule(name, settings, job.n_labels)
    known = None
    if needs_features(settings, name):
        known = problem.features if parse_stages(settings.stages)[0] == name else None
        known = known or features.of_all(
            model.encoder, (problem.point_tokens, problem.label_tokens), settings
        )
    rates = _table_rates(job, schedule, known)
    shared = _shared_vectors(job, schedule, known)
    _centre_offset(job, schedule, known)
    texts: Texts
    if schedule.encodes:
        parameters = unfreeze(model.encoder, settings)
        texts = TunedTexts(job)
        max_tokens, keep_tokens = token_budgets(settings, model.encoder.device)
    else:
        assert known is not None
        parameters = freeze(model.encoder)
        texts = FrozenTexts(model, known, resident=holds_label_features(schedule, settings))
        max_tokens, keep_tokens = FEATURE_ROWS, kept_labels(model.encoder.dim)
    lr = {"heads": settings.head_lr, "encoder": settings.encoder_lr, "joint": settings.joint_lr}
    groups = [
        _group([p for p in parameters if p.ndim > 1], lr[name], settings.weight_decay),
        _group([p for p in parameters if p.ndim <= 1], lr[name]),
        _group(shared, settings.label_cluster_lr),
    ]
    label_plan, own_table, row_optimizer, rounded = None, None, None, None
    if settings.table == "bf16" and "residual" in rates:
        update, like = settings.table_update, model.table.bias
        rounded = RoundedRows(job.n_labels, update, settings.beta2, settings.eps, like)
        rounded.add("residual", rates.pop("residual"))
    own_rows: slice | NDArray[np.int64] = slice(0)
    if schedule.negatives == "all":
        everything = np.arange(job.n_labels)
        label_plan = cut(everything, texts.label_lengths, max_tokens, settings)
        if schedule.trains_table:
            own_rows = slice(label_plan.lo, label_plan.hi)
            if texts.label_lengths is not None:  # in the order of their lengths
                own_rows = label_plan.own
            own_table = table_rows(model.table, own_rows)
            groups += [_group([getattr(own_table, part)], rate) for part, rate in rates.items()]
    elif schedule.trains_table:
        row_optimizer = RowAdamW(model.table, (settings.beta1, settings.beta2), settings.eps)
        for part, rate in rates.items():
            row_optimizer.add(part, rate)
    model.train()
    return Stage(
        job=job,
        schedule=schedule,
        sampler=Sampler(problem.y, problem.exclude, job.rows, schedule, settings),
        texts=texts,
        label_plan=label_plan,
        max_tokens=max_tokens,
        keep_tokens=keep_tokens,
        gradients=FlatGradients(parameters + shared, deterministic=settings.deterministic),
        optimizer=_adamw(groups, model, settings),
        own_table=own_table,
        own_rows=own_rows,
        row_optimizer=row_optimizer,
        rounded=rounded,
    )


def _table_rates(job: Job, schedule: StageSchedule, known: Features | None) -> dict[str, float]:
    """Peak rates of the parts of the label table that this stage trains, by name.

    In the first such stage the residuals start at centroids of the features `known`.
    """
    settings, table, encoder = job.settings, job.model.table, job.model.encoder
    rates = {"residual": settings.residual_lr, "bias": settings.bias_lr}
    rates = {name: rate for name, rate in rates.items() if rate > 0 and schedule.trains_table}
    for name in ("residual", "bias"):
        getattr(table, name).requires_grad_(name in rates)
    if starts_table(settings, schedule.name) and settings.residual_lr > 0:
        assert known is not None
        start = encoder.embed(known[0][job.rows])
        shrink = settings.residual_shrink
        table.start_at_centroids(start, job.problem.y[job.rows], shrink, unit=encoder.normalize)
    return rates


def _shared_vectors(
    job: Job, schedule: StageSchedule, known: Features | None
) -> list[nn.Parameter]:
    """The vectors that labels of a cluster share, if there are any and this stage trains them.

    In the first such stage labels are put into clusters by their features `known`.
    """
    shared = job.model.table.shared
    if shared is None:
        return []
    shared.requires_grad_(schedule.trains_table)
    if starts_table(job.settings, schedule.name):
        assert known is not None
        clusters.put_labels(job, known[1])
    return [shared] if schedule.trains_table else []


def _centre_offset(job: Job, schedule: StageSchedule, known: Features | None) -> None:
    """Let the scores that bce sees begin around the log-odds of a positive: subtract their mean.

    The vectors of many encoders are alike: with cosines around 0.7 and a temperature of 0.06, the
    log-odds alone would still start every probability near 1. Only before the first stage; later
    ones go on with the offset that was learned.

    Args:
        job: The job.
        schedule: The stage that begins.
        known: Features of all points and labels; None: a smaller sample of them is encoded.
    """
    problem, model, settings = job.problem, job.model, job.settings
    first = parse_stages(settings.stages)[0] == schedule.name
    if not first or not any(part.loss.learns_scale for part in parse_loss(settings.loss)):
        return
    encoder = model.encoder
    n = CENTRED_ON if known else ENCODED
    points, labels = _spread(job.rows, n), _spread(np.arange(job.n_labels), n)
    if known:
        sample = known[0][points], known[1][labels]
    else:
        tokens = problem.point_tokens.select(points), problem.label_tokens.select(labels)
        a, b = (encoder.encode_features(one, precision=settings.precision) for one in tokens)
        sample = a, b
    with torch.no_grad():
        rows = torch.from_numpy(labels).to(encoder.device)
        vectors = model.table(encoder, torch.from_numpy(sample[1]).to(encoder.device), rows)
        means = encoder.embed(sample[0]).mean(axis=0), vectors.cpu().numpy().mean(axis=0)
        model.offset.sub_(float(means[0] @ means[1]) / settings.temperature)


def _spread(ids: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Take up to `n` of the ids, evenly spread."""
    return ids[np.unique(np.linspace(0, len(ids) - 1, min(n, len(ids))).astype(np.int64))]


def holds_label_features(schedule: StageSchedule, settings: TrainSettings) -> bool:
    """Whether the device holds the features of all labels in a stage on frozen features.

    A table in bfloat16 is for label sets whose features would take more than the table.
    """
    return settings.table == "float32" or schedule.negatives == "all"


def kept_labels(dim: int) -> int:
    """Labels of a step on frozen features whose graph is kept."""
    return KEPT_VALUES // dim


def token_budgets(settings: TrainSettings, device: torch.device) -> tuple[int, int]:
    """Tokens of a micro-batch that is trained, and tokens whose graph a step keeps."""
    on_gpu = device.type == "cuda"
    return (
        settings.micro_tokens or (GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS),
        settings.keep_tokens or KEEP_TOKENS["cuda" if on_gpu else "cpu"],
    )


def tuned_layers(encoder: DualEncoder, settings: TrainSettings) -> set[str]:
    """Names, as in `Model`, of the transformer's parameters that a stage trains."""
    unfreeze(encoder, settings)
    names = {
        f"encoder.transformer.{name}"
        for name, parameter in encoder.transformer.named_parameters()
        if parameter.requires_grad
    }
    encoder.transformer.requires_grad_(False)
    return names


def freeze(encoder: DualEncoder) -> list[nn.Parameter]:
    """Let only the head require a gradient; list its parameters."""
    encoder.transformer.requires_grad_(False)
    parameters = encoder.head_parameters()
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def unfreeze(encoder: DualEncoder, settings: TrainSettings) -> list[nn.Parameter]:
    """Let exactly the parameters that encoder and joint train require a gradient; list them."""
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
