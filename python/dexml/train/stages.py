"""The two stages: heads on frozen features, and the encoder itself.

Shapes: N points, L labels, B texts of a micro-batch, H features, D dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dexml.encoder import (
    CPU_BATCH_TOKENS,
    GPU_BATCH_TOKENS,
    DualEncoder,
    LabelTable,
    Tokens,
    upper_layers,
)
from dexml.train import features, processes
from dexml.train.candidates import Sampler
from dexml.train.frozen import cached_layers
from dexml.train.problem import Model, Problem
from dexml.train.rows import RowAdamW
from dexml.train.schedule import parse_loss
from dexml.train.settings import TrainSettings
from dexml.train.step import Stage, part

ALL_UP_TO = 32_768
"""Labels that all compete in the stage heads, as `head_negatives` auto; of more, some are drawn."""
FEATURE_ROWS = 65_536
"""Features that go through the heads at a time."""
KEPT_VALUES = 2**27
"""Numbers of embeddings whose graph is kept there: half a GiB, a few times over."""
KEEP_TOKENS = {"cpu": 16_384, "cuda": 131_072}
"""As `keep_tokens` 0. MiniLM-L6 in float32 takes about 0.15 MB a token."""


def make(
    name: str,
    problem: Problem,
    model: Model,
    rows: NDArray[np.int64],
    settings: TrainSettings,
) -> Stage:
    """Prepare the stage `name` for the training points `rows`; the model is at its start."""
    return {"heads": heads, "encoder": tuning}[name](problem, model, rows, settings)


def heads(
    problem: Problem, model: Model, rows: NDArray[np.int64], settings: TrainSettings
) -> Stage:
    """Frozen features: head, label residuals and biases (`docs/training.md`).

    Where all labels compete, each process updates its own part of the table, and the parts are put
    together when somebody asks for the whole. Where labels are drawn, each process updates the
    drawn rows of a whole table alike: rows would have to travel between processes otherwise.
    """
    encoder, table = model.encoder, model.table
    first = settings.stages.split(",")[0].strip() == "heads"
    found = problem.features if first else None
    point_features, label_features = found or features.of_all(
        encoder, (problem.point_tokens, problem.label_tokens), settings
    )
    encoder.transformer.requires_grad_(False)
    parameters = encoder.head_parameters()
    for parameter in parameters:
        parameter.requires_grad_(True)
    table.residual.requires_grad_(settings.residual_lr > 0)
    table.bias.requires_grad_(settings.bias_lr > 0)
    if settings.residual_lr > 0:
        start = encoder.embed(point_features[rows])
        shrink = settings.residual_shrink
        table.start_at_centroids(start, problem.y[rows], shrink, unit=encoder.normalize)
    device = encoder.device
    labels_LH = torch.from_numpy(label_features).to(device)

    def encode_points(ids: NDArray[np.int64], place: int) -> Tensor:
        embedded: Tensor = encoder(torch.from_numpy(point_features[ids]).to(device), side="point")
        return embedded

    def encode_labels(ids: NDArray[np.int64], place: int, own: LabelTable | None) -> Tensor:
        assert own is not None
        some = slice(place, place + len(ids))
        chunk = own if len(ids) == len(own.bias) else part(own, some)
        if own.residual.grad is not None:
            chunk.residual.grad = own.residual.grad[some]
        whole = len(ids) == len(labels_LH)
        vectors: Tensor = chunk(
            encoder, labels_LH if whole else labels_LH[torch.from_numpy(ids).to(device)]
        )
        return vectors

    negatives, batch_size = settings.head_negatives, settings.head_batch_size
    if negatives == "auto":
        negatives = "all" if len(table.bias) <= ALL_UP_TO else "uniform"
    per_point = max(1, round(settings.head_pool / batch_size))
    sampler = Sampler(problem.y, problem.exclude, rows, negatives, per_point, settings)
    decay = settings.weight_decay
    groups = [{"params": parameters, "lr": settings.head_lr, "weight_decay": decay}]
    own_table, row_wise = None, None
    rates = {"residual": settings.residual_lr, "bias": settings.bias_lr}
    if sampler.shares == "all":
        own_table = part(table, processes.own(len(table.bias)))
        for name, rate in rates.items():
            if rate > 0:
                groups.append({"params": [getattr(own_table, name)], "lr": rate, "weight_decay": 0})
    else:
        row_wise = RowAdamW(table, (settings.beta1, settings.beta2), settings.eps)
        for name, rate in rates.items():
            if rate > 0:
                row_wise.add(name, rate)
    model.train()
    return Stage(
        name="heads",
        number=0,
        model=model,
        settings=settings,
        batch_size=settings.head_batch_size,
        max_tokens=FEATURE_ROWS,
        keep_tokens=KEPT_VALUES // encoder.dim,
        sampler=sampler,
        point_lengths=None,
        label_lengths=None,
        encode_points=encode_points,
        encode_labels=encode_labels,
        encode=lambda wanted: (point_features[wanted], label_features),
        parameters=parameters,
        optimizer=_adamw(groups, model, settings),
        own_table=own_table,
        rows=row_wise,
    )


def tuning(
    problem: Problem, model: Model, rows: NDArray[np.int64], settings: TrainSettings
) -> Stage:
    """The transformer, or its upper layers, and the head.

    The label table stays as it is: what it knows of single labels was learned against all of them.
    """
    encoder, table = model.encoder, model.table
    parameters = _unfreeze(encoder, settings)
    table.requires_grad_(False)
    device = encoder.device
    points = _reader(encoder, problem.point_tokens, "point", settings)
    labels = _reader(encoder, problem.label_tokens, "label", settings)

    def encode_points(ids: NDArray[np.int64], place: int) -> Tensor:
        embedded: Tensor = encoder(points(ids), side="point")
        return embedded

    def encode_labels(ids: NDArray[np.int64], place: int, own: LabelTable | None) -> Tensor:
        vectors: Tensor = table(encoder, labels(ids), torch.from_numpy(ids).to(device))
        return vectors

    groups = []
    for decay, matrices in ((settings.weight_decay, True), (0.0, False)):
        chosen = [p for p in parameters if (p.ndim > 1) == matrices]
        groups.append({"params": chosen, "lr": settings.encoder_lr, "weight_decay": decay})
    on_gpu = device.type == "cuda"
    keep = settings.keep_tokens or KEEP_TOKENS["cuda" if on_gpu else "cpu"]
    budget = settings.micro_tokens or (GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS)
    return Stage(
        name="encoder",
        number=1,
        model=model,
        settings=settings,
        batch_size=settings.encoder_batch_size,
        max_tokens=budget,
        keep_tokens=keep,
        sampler=Sampler(
            *(problem.y, problem.exclude, rows, settings.negatives),
            *(settings.negatives_per_point, settings),
        ),
        point_lengths=np.diff(problem.point_tokens.offsets),
        label_lengths=np.diff(problem.label_tokens.offsets),
        encode_points=encode_points,
        encode_labels=encode_labels,
        encode=lambda wanted: features.current(problem, model, wanted, settings),
        parameters=parameters,
        optimizer=_adamw(groups, model, settings),
        own_table=None,
        rows=None,
    )


def tuned_layers(encoder: DualEncoder, settings: TrainSettings) -> set[str]:
    """Names, as of `Model`, of the transformer's parameters that the stage encoder trains."""
    _unfreeze(encoder, settings)
    found = {
        f"encoder.transformer.{name}"
        for name, parameter in encoder.transformer.named_parameters()
        if parameter.requires_grad
    }
    encoder.transformer.requires_grad_(False)
    return found


def _unfreeze(encoder: DualEncoder, settings: TrainSettings) -> list[nn.Parameter]:
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


def _reader(
    encoder: DualEncoder, tokens: Tokens, side: str, settings: TrainSettings
) -> Callable[[NDArray[np.int64]], Tensor]:
    """Features (B, H) with gradient of texts of one length, or packed ones of any lengths."""
    device = encoder.device
    on = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    run: Any = encoder.features
    n = settings.encoder_layers
    if settings.cache_layers:
        folder = features.cache_folder(settings)
        get = cached_layers(encoder, tokens, n, folder, desc=side, progress=not settings.quiet)
        run = functools.partial(_upper, encoder, n)
    else:
        resident = tokens.to(device)

        def get(ids: NDArray[np.int64]) -> Tensor:
            return resident.tensor(ids, device)

    if settings.compile:
        run = torch.compile(run, dynamic=True)

    def read(ids: NDArray[np.int64]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=on):
            if settings.packed:
                return encoder.features_packed(*resident.packed(ids, device))
            found: Tensor = run(get(ids))
        return found

    return read


def _upper(encoder: Any, n: int, hidden: Tensor) -> Tensor:
    found: Tensor = encoder.upper(hidden, n)
    return found


def _adamw(
    groups: list[dict[str, Any]], model: Model, settings: TrainSettings
) -> torch.optim.AdamW | None:
    learns = settings.scale_lr > 0 and any(
        part.loss.learns_scale for part in parse_loss(settings.loss)
    )
    scalars = [model.log_scale, model.offset]
    for scalar in scalars:
        scalar.requires_grad_(learns)
    if learns:
        groups.append({"params": scalars, "lr": settings.scale_lr, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    if not groups:
        return None
    return torch.optim.AdamW(
        groups, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True
    )
