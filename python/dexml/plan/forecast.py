"""The plan of a training from its settings: data counted, a pool drawn, this device measured.

What is trained is the same as in `dexml.train.run` and `dexml.train.stages`; nothing is trained
here, and the run directory and its cache are left alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml import console, data
from dexml import plan as planning
from dexml.data import Csr
from dexml.encoder import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, DualEncoder, LabelTable, torch_device
from dexml.encoder.layers import blocks
from dexml.losses.shards import VIRTUAL_SHARDS
from dexml.plan import Phase, Plan, PlanInput
from dexml.plan.measure import measure
from dexml.train import features, stages, step
from dexml.train.candidates import Sampler
from dexml.train.objective import objective
from dexml.train.problem import Model
from dexml.train.run import load_encoder
from dexml.train.schedule import (
    longest,
    parse_loss,
    parse_negatives,
    parse_stages,
    shortlist_due,
)
from dexml.train.settings import TrainSettings

_DRAWS = 3
"""Batches whose pools are drawn, to know how many labels they have."""
_MEASURED_BATCH = 256
"""Points of the scores that are timed, where the phase heads does not say how many."""


def forecast(settings: TrainSettings) -> Plan:
    """Work out what the training of `settings` will cost, on the device of this process.

    Processes are counted by ``WORLD_SIZE`` (and on this machine by ``LOCAL_WORLD_SIZE``), as
    torchrun sets them; no group is formed. Tokens are kept where `settings.cache` says so.

    Raises:
        ValueError: The data set or a setting is wrong; the message names file and line.
        OSError: A file or the encoder cannot be read.
    """
    device = torch_device(settings.device)
    there = planning.machine(str(device))  # before anything lies on the device
    if settings.threads:
        torch.set_num_threads(settings.threads)
    label_texts = data.load_label_texts(settings.data_dir)
    part = data.load_part(settings.data_dir, "trn", len(label_texts))
    encoder = load_encoder(settings).to(device)
    y = (part.y > 0).astype(np.float32)
    cache = Path(settings.cache) if settings.cache else None
    points, labels = (
        encoder.tokenize(texts, n, cache=cache, progress=not settings.quiet)
        for texts, n in (
            (part.texts, settings.point_tokens),
            (label_texts, settings.label_tokens),
        )
    )
    held_out = data.validation_mask(part.groups or part.texts, settings.validation)
    if held_out.all() or y[np.flatnonzero(held_out)].nnz == 0:
        held_out[:] = False
    fitted = np.flatnonzero(~held_out)

    order = parse_stages(settings.stages)
    phases = [phase_of(name, y, part.exclude, fitted, settings) for name in order]
    heads = next((phase for phase in phases if phase.name == "heads"), None)
    tuned = any(phase.name == "encoder" and phase.epochs for phase in phases)
    on_gpu = device.type == "cuda"
    micro_tokens = settings.micro_tokens or (GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS)
    known = [
        features.cached_path(encoder, texts, features.cache_folder(settings))
        for texts in (points, labels)
    ]
    cached = order[0] == "heads" and all(path.exists() for path in known)
    given = PlanInput(
        point_lengths=points.lengths,
        label_lengths=labels.lengths,
        n_positives=int(y.nnz),
        n_unseen=int((np.bincount(y.indices, minlength=y.shape[1]) == 0).sum()),
        n_validation=int(held_out.sum()),
        phases=phases,
        dim=encoder.dim,
        width=encoder.width,
        n_weights=sum(p.numel() for p in encoder.parameters()),
        n_trained=_n_trained(encoder, settings) if tuned else 0,
        n_blocks=len(blocks(encoder.transformer)),
        n_trained_blocks=_n_trained_blocks(encoder, settings),
        features_cached=cached,
        lower_cached=settings.cache_layers,
        residual=settings.residual_lr > 0,
        refit=settings.refit,
        memory=settings.memory == "auto",
        scored_points=settings.validation_points,
        evaluate_every=settings.evaluate_every,
        micro_tokens=micro_tokens,
        packed=settings.packed,
        keep_tokens=settings.keep_tokens or stages.KEEP_TOKENS["cuda" if on_gpu else "cpu"],
        keep_labels=max(stages.KEPT_VALUES // encoder.dim, stages.FEATURE_ROWS),
        gradient_rows=max(1, VIRTUAL_SHARDS // _world()) if settings.deterministic else 1,
        world=_world(),
        local=int(os.environ.get("LOCAL_WORLD_SIZE", _world())),
        device=device.type,
        resident=planning.resident(),
    )
    if not settings.quiet:
        console.say(f"measuring {device}, {torch.get_num_threads()} threads")
    speed = measure(
        encoder,
        points,
        labels,
        batch_size=(
            heads.batch_size
            if heads
            else min(_MEASURED_BATCH, *(phase.batch_size for phase in phases))
        ),
        positives=y.nnz / max(1, y.shape[0]),
        micro_tokens=micro_tokens,
        encodes=tuned,
        residual=settings.residual_lr > 0,
        drawn=heads is not None and heads.drawn,
        precision=settings.precision,
        loss=_Loss(encoder, settings),
        temperature=settings.temperature,
        seed=settings.seed,
    )
    return planning.plan(given, speed, there)


def phase_of(
    name: str, y: Csr, exclude: Csr | None, rows: NDArray[np.int64], settings: TrainSettings
) -> Phase:
    """A stage of the settings in numbers, as `dexml.train.stages` makes it.

    Args:
        name: ``heads`` or ``encoder``.
        y: Positives of all points, shape (N, L).
        exclude: Filter pairs, shape (N, L).
        rows: Points that are trained on, ascending.
        settings: The settings.
    """
    phase: Literal["heads", "encoder"] = "heads" if name == "heads" else "encoder"
    negatives, batch_size = settings.negatives, settings.encoder_batch_size
    per_point, epochs = settings.negatives_per_point, settings.encoder_epochs
    if name == "heads":
        negatives, batch_size = settings.head_negatives, settings.head_batch_size
        per_point, epochs = max(1, round(settings.head_pool / batch_size)), settings.head_epochs
        if negatives == "auto":
            negatives = "all" if y.shape[1] <= stages.ALL_UP_TO else "uniform"
    shares = parse_negatives(negatives)
    if shares == "all":
        return Phase(phase, epochs, batch_size, y.shape[1])
    refreshes = 0
    if "hard" in shares:
        start, every = settings.shortlist_start, settings.shortlist_every
        refreshes = sum(shortlist_due(epoch, start, every) for epoch in range(1, epochs + 1))
    pool = _pool(y, exclude, rows, shares, batch_size, per_point, settings)
    return Phase(phase, epochs, batch_size, pool, refreshes, drawn=True)


def _pool(
    y: Csr,
    exclude: Csr | None,
    rows: NDArray[np.int64],
    shares: dict[str, float],
    batch_size: int,
    per_point: int,
    settings: TrainSettings,
) -> int:
    """Different labels in the pool of a step: the mean of a few that are drawn.

    Hard negatives and those of a graph are not known yet; uniform ones stand for them, which
    repeat less: the pool is no smaller than it will be.
    """
    often = shares.get("frequency", 0.0)
    parts = {"frequency": often, "uniform": sum(shares.values()) - often}
    text = ", ".join(f"{name} {share}" for name, share in parts.items() if share > 1e-9)
    sampler = Sampler(
        y,
        exclude,
        rows,
        text or "in-batch",
        per_point,
        settings.model_copy(update={"weigh_negatives": False}),
    )
    drawn = []
    for epoch in range(1, _DRAWS + 1):
        batch = step.batches(rows, batch_size, settings.seed, epoch)[0]
        drawn.append(len(sampler.candidates(batch, epoch).ids))
    return max(1, round(float(np.mean(drawn))))


class _Loss:
    """The loss that most steps of a stage use, in the form that `measure` takes."""

    def __init__(self, encoder: DualEncoder, settings: TrainSettings) -> None:
        self.part = longest(parse_loss(settings.loss))
        counts = torch.zeros(1, dtype=torch.int64)
        self.model = Model(encoder, LabelTable(counts, encoder.dim).to(encoder.device))
        self.settings = settings

    def __call__(
        self,
        points_BD: Tensor,
        labels_KD: Tensor,
        positives: tuple[Tensor, Tensor],
        *,
        temperature: float,
        label_bias: Tensor | None = None,
    ) -> Tensor:
        """Score as a step does."""
        bias = labels_KD.new_zeros(len(labels_KD)) if label_bias is None else label_bias
        return objective(
            self.part,
            self.model,
            points_BD,
            labels_KD,
            positives,
            ignore=None,
            bias=bias,
            log_weight=None,
            settings=self.settings,
            options={},
        )


def _n_trained(encoder: DualEncoder, settings: TrainSettings) -> int:
    tuned = stages.tuned_layers(encoder, settings)
    found: int = sum(
        parameter.numel()
        for name, parameter in encoder.transformer.named_parameters()
        if f"encoder.transformer.{name}" in tuned
    )
    heads: int = sum(weight.numel() for weight in encoder.head_parameters())
    return found + heads


def _n_trained_blocks(encoder: DualEncoder, settings: TrainSettings) -> int:
    depth = len(blocks(encoder.transformer))
    return min(depth, settings.encoder_layers or depth)


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
