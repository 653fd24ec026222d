"""A training from its data set to its run directory, start to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dexml import console
from dexml.encoder import DualEncoder, with_bias_dimension
from dexml.losses.shards import VIRTUAL_SHARDS
from dexml.metrics import Result, inv_propensity, propensity_constants
from dexml.run import folder as rundir
from dexml.scorers import PointMemory
from dexml.train import choice, features, final, fit, processes, track
from dexml.train.advice import advising
from dexml.train.folder import begin_log, encoder_fingerprint, end_log, fingerprint, open_folder
from dexml.train.inputs import DataSet, load_data, load_encoder
from dexml.train.problem import Job, Model, Problem
from dexml.train.schedule import SELECTION, fits, stage_schedules, starts_frozen, with_epochs
from dexml.train.settings import TrainSettings

QUERIES = 1000
"""Points that are kept to measure the recall of an index with."""


def train(
    settings: TrainSettings, conclude: Callable[[final.Finished], None] | None = None
) -> Result | None:
    """Train, save the run folder, and score the test part if the data set has one.

    Under torchrun, all processes call this; the first one writes, and scores the test part.

    Args:
        settings: The settings.
        conclude: Called by the first process before the run counts as finished; writes a report.

    Returns:
        The test scores with values per point, or None without a test part.

    Raises:
        FileExistsError: The run directory has a run and neither resume nor overwrite is set.
        ValueError: The data set or a setting is wrong; the message names file and line.
        KeyboardInterrupt: A signal came; the run can be resumed.
        RuntimeError: The loss is not finite, memory ran out, or another process is gone.
        OSError: The disk is full, or a file cannot be read.
    """
    with advising(settings.out):
        device = processes.start(settings.device)
        try:
            if not processes.is_first():
                settings = settings.model_copy(update={"quiet": True})
            if settings.deterministic and VIRTUAL_SHARDS % processes.size():
                raise ValueError(
                    f"--deterministic with {processes.size()} processes; "
                    f"expected a divisor of {VIRTUAL_SHARDS}"
                )
            processes.introduce(device)
            return _train(settings, device, conclude)
        finally:
            processes.end()


def _train(
    settings: TrainSettings,
    device: torch.device,
    conclude: Callable[[final.Finished], None] | None,
) -> Result | None:
    started = time.perf_counter()
    given = load_data(settings)
    propensity = _propensity(settings)
    weights = inv_propensity(given.part.y, **propensity)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoder = load_encoder(settings).to(device)

    # Only now that everything the settings name is there, the run directory is touched.
    marks = fingerprint(given.label_texts, given.part), encoder_fingerprint(encoder)
    if processes.first(lambda: open_folder(settings, *marks), device):
        if processes.is_first():
            console.say(f"{settings.out}: this run has finished already; nothing to do")
        return None
    before = begin_log(settings) if processes.is_first() else 0.0
    torch.manual_seed(settings.seed)

    tokens = (
        features.tokenize(encoder, given.part.texts, settings.point_tokens, settings),
        features.tokenize(encoder, given.label_texts, settings.label_tokens, settings),
    )
    frozen = features.of_all(encoder, tokens, settings) if starts_frozen(settings) else None
    problem = Problem(given.y, given.part.exclude, *tokens, weights, frozen)
    _announce(given, device, settings)
    with _tracker(settings) as tracker:
        job, selected = _fit(problem, encoder, given, settings, tracker)

    # All processes encode what is searched later; then the first one goes on alone.
    queries = np.flatnonzero(given.held_out if given.held_out.any() else ~given.held_out)[:QUERIES]
    votes = selected["memory"]["kind"] == "votes"
    wanted = np.concatenate([queries, job.rows]) if votes else queries
    point_features, label_features = features.current(job, wanted)
    temperature = job.model.served_temperature(settings.temperature)
    if not processes.is_first():
        return None
    embedded = encoder.embed(point_features)
    memory = None
    if votes:
        how = {name: selected["memory"][name] for name in ("weight", "neighbours", "temperature")}
        memory = PointMemory.of(embedded[len(queries) :], problem.y[job.rows], **how)
    saved = final.Saved(
        job.model,
        job.model.table.vectors(encoder, label_features, temperature, selected["prior"]),
        memory,
        with_bias_dimension(embedded[: len(queries)]),
        given.label_texts,
        problem.y,
    )
    final.save(settings, saved, selected, temperature)
    seconds = before + time.perf_counter() - started
    finished = final.score_test(settings, saved, weights, propensity, seconds)
    if conclude is not None:
        conclude(finished)
    end_log(settings)
    return None if finished.test is None else finished.test.result


def _fit(
    problem: Problem,
    encoder: DualEncoder,
    given: DataSet,
    settings: TrainSettings,
    tracker: track.Track,
) -> tuple[Job, dict[str, Any]]:
    """Select on the held-out points; then train on all points in the same way.

    Returns:
        The last job, its model trained; and what was selected: ``epochs`` of each stage, ``prior``
        and ``memory``.
    """
    initial = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    epochs = {stage.name: stage.epochs for stage in stage_schedules(settings, problem.y.shape[1])}
    selected: dict[str, Any] = {"epochs": epochs, "prior": 0.0, "memory": {"kind": "none"}}
    for name in fits(selects=bool(given.held_out.any()), refit=settings.refit):
        encoder.load_state_dict(initial)
        if name == SELECTION:
            model = Model.untrained(encoder, problem.y[given.fitted])
            job = Job(problem, model, given.fitted, settings, name, given.scored)
            path = settings.out / "checkpoint" / "selection.json"
            if not (path.exists() and settings.refit):  # else a resumed run has selected already
                progress = fit.fit(job, tracker)
                choice.choose(job, given.part.groups, progress, path)
            selected = rundir.read_json(path)
        else:
            model = Model.untrained(encoder, problem.y)
            rows = np.arange(len(given.held_out))
            job = Job(problem, model, rows, with_epochs(settings, selected["epochs"]), name)
            fit.fit(job, tracker)
    job.model.eval()
    return job, selected


def _propensity(settings: TrainSettings) -> dict[str, float]:
    a, b = settings.propensity_a, settings.propensity_b
    if settings.propensity:
        a, b = propensity_constants(settings.propensity)
    return {"a": a, "b": b}


def _announce(given: DataSet, device: torch.device, settings: TrainSettings) -> None:
    """Say what is trained on, on the first process."""
    n_held_out = int(given.held_out.sum())
    if not n_held_out and processes.is_first():
        console.say("note: no validation part; the last epoch is kept")
    if settings.quiet:
        return
    n_points, n_labels = given.y.shape
    size = processes.size()
    console.say(
        f"{n_points - n_held_out} training and {n_held_out} validation points, {n_labels} labels, "
        f"{given.y.nnz / max(1, n_points):.1f} a point; {device.type}, "
        f"{torch.get_num_threads()} threads" + (f", {size} processes" if size > 1 else "")
    )


@contextmanager
def _tracker(settings: TrainSettings) -> Iterator[track.Track]:
    """Pass the log on to what the settings name, on the first process."""
    if not processes.is_first():
        yield lambda line: None
        return
    with track.trackers(
        settings.out,
        tensorboard=settings.tensorboard,
        wandb=settings.wandb,
        wandb_mode=settings.wandb_mode,
        config=settings.model_dump(mode="json"),
    ) as tracker:
        yield tracker
