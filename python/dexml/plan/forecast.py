"""The plan of a training from its settings: data counted, a pool drawn, this device measured.

It asks the trainer what will happen; nothing is trained, and the run directory and its cache are
left alone.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dexml import console
from dexml.data import Csr
from dexml.encoder import DualEncoder, Side, torch_device
from dexml.encoder.layers import blocks
from dexml.losses.layout import device_bytes
from dexml.plan.measure import measure
from dexml.plan.memory import machine, resident
from dexml.plan.quantities import Plan, PlanInput, PlannedStage
from dexml.plan.work import plan
from dexml.train import TrainSettings, engine, features, stages, step
from dexml.train.candidates import Sampler
from dexml.train.choice import asks_parts
from dexml.train.inputs import load_data, parts_to_ask
from dexml.train.problem import load_encoder
from dexml.train.schedule import StageSchedule, stage_schedules, starts_frozen

_DRAWS = 3
"""Batches whose pools are drawn, to know how many labels they have."""


def forecast(settings: TrainSettings) -> Plan:
    """Work out what the training of `settings` will cost, on the device of this process.

    Raises:
        ValueError: The data set or a setting is wrong; the message names file and line.
        OSError: A file or the encoder cannot be read.
    """
    device = torch_device(settings.device)
    there = machine(str(device))  # before anything lies on the device
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoder = load_encoder(settings).to(device)
    encoder.engine = engine.expected(encoder, settings, _n_processes())
    given = count(settings, encoder)
    if not settings.quiet:
        console.say(f"measuring {device}, {torch.get_num_threads()} threads")
    speed = measure(
        encoder,
        np.concatenate([given.point_lengths, given.label_lengths]),
        len(given.label_lengths),
        settings,
        [stage.schedule for stage in given.stages if stage.schedule.epochs],
        positives=given.n_positives / len(given.point_lengths),
    )
    return plan(given, speed, there)


def count(settings: TrainSettings, encoder: DualEncoder) -> PlanInput:
    """Read the data set and count what a plan rests on.

    Processes are counted by ``WORLD_SIZE`` (and on this machine by ``LOCAL_WORLD_SIZE``), as
    torchrun sets them; no group is formed. Tokens are cached where `settings.cache` says so.
    """
    given = load_data(settings)
    cache = Path(settings.cache) if settings.cache else None  # not in the run directory
    sides: tuple[tuple[list[str], int, Side], ...] = (
        (given.part.texts, settings.point_tokens, "point"),
        (given.label_texts, settings.label_tokens, "label"),
    )
    points, labels = (
        encoder.tokenize(texts, n, side=side, cache=cache, progress=not settings.quiet)
        for texts, n, side in sides
    )
    n_labels = given.y.shape[1]
    planned = [
        planned_stage(schedule, given.y, given.part.exclude, given.fitted, settings)
        for schedule in stage_schedules(settings, n_labels)
    ]
    folder = features.cache_folder(settings)
    world = _n_processes()
    shared_out = 1 if settings.deterministic else world
    new = [
        texts.lengths[features.unknown(encoder, texts, folder, settings.precision, shared_out)]
        for texts in (points, labels)
    ]
    ranks = given.held_out.any() and asks_parts(settings)
    parts = parts_to_ask(given)[1:] if ranks else []
    return PlanInput(
        settings=settings,
        stages=planned,
        point_lengths=points.lengths,
        label_lengths=labels.lengths,
        n_positives=int(given.y.nnz),
        n_unseen=int((np.bincount(given.y.indices, minlength=n_labels) == 0).sum()),
        n_validation=int(given.held_out.sum()),
        dim=encoder.dim,
        width=encoder.width,
        n_weights=sum(p.numel() for p in encoder.parameters()),
        n_trained=sum(p.numel() for p in stages.unfreeze(encoder, settings)),
        n_blocks=len(blocks(encoder.transformer)),
        new_lengths=(new[0], new[1]) if starts_frozen(settings) else None,
        parts=[len(part.fitted) for part in parts],
        world=world,
        local=int(os.environ.get("LOCAL_WORLD_SIZE", world)),
        device=encoder.device.type,
        device_bytes=device_bytes(encoder.device),
        resident=resident(),
    )


def planned_stage(
    schedule: StageSchedule,
    y: Csr,
    exclude: Csr | None,
    rows: NDArray[np.int64],
    settings: TrainSettings,
) -> PlannedStage:
    """A stage with the labels of its steps: all, or the mean of a few pools that are drawn.

    Hard negatives and those of a graph are not known yet; uniform ones stand for them. These
    repeat less, so that the pool is no smaller than it will be.

    Args:
        schedule: The stage.
        y: Positives of all points, shape (N, L).
        exclude: Filter pairs, shape (N, L).
        rows: Points that are trained on, ascending.
        settings: The settings.
    """
    if schedule.negatives == "all":
        return PlannedStage(schedule, y.shape[1])
    often = schedule.negatives.get("frequency", 0.0)
    mixture = {"frequency": often, "uniform": sum(schedule.negatives.values()) - often}
    known = replace(schedule, negatives={k: v for k, v in mixture.items() if v > 1e-9})
    unweighted = settings.model_copy(update={"weigh_negatives": False})
    sampler = Sampler(y, exclude, rows, known, unweighted)
    sizes = []
    for epoch in range(1, _DRAWS + 1):
        batch = step.batches(rows, schedule.batch_size, settings.seed, epoch)[0]
        sizes.append(len(sampler.candidates(batch, epoch).ids))
    return PlannedStage(schedule, max(1, round(float(np.mean(sizes)))))


def _n_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
