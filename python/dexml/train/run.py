"""A training from its data set to its run directory, start to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dexml import console
from dexml.encoder import DualEncoder, with_bias_dimension
from dexml.losses.shards import VIRTUAL_SHARDS
from dexml.metrics import Result, inv_propensity
from dexml.run import PointTexts
from dexml.run import folder as rundir
from dexml.scorers import PointMemory
from dexml.scorers.calibration import Calibration, Missing
from dexml.train import (
    calibrating,
    choice,
    engine,
    evidence,
    features,
    final,
    fit,
    processes,
    track,
)
from dexml.train.advice import advising
from dexml.train.folder import (
    begin_log,
    encoder_fingerprint,
    end_log,
    fingerprint,
    hold_folder,
    open_folder,
)
from dexml.train.inputs import DataSet, load_data
from dexml.train.outcome import Finished, propensity_of
from dexml.train.problem import Job, Model, Problem, load_encoder
from dexml.train.schedule import SELECTION, fits, stage_schedules, starts_frozen, with_epochs
from dexml.train.settings import TrainSettings

QUERIES = 1000
"""Points that are kept to measure the recall of an index with."""


def train_encoder(
    settings: TrainSettings, conclude: Callable[[Finished], None] | None = None
) -> Result | None:
    """Train with an encoder: `dexml.train.train`."""
    with advising(settings.out), ExitStack() as held:
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
            return _train(settings, device, conclude, held)
        finally:
            processes.end()


def _train(
    settings: TrainSettings,
    device: torch.device,
    conclude: Callable[[Finished], None] | None,
    held: ExitStack,
) -> Result | None:
    """Train; `held` gets the lock of the run folder, which the first process keeps to the end."""
    started = time.perf_counter()
    given = load_data(settings)
    propensity = propensity_of(settings)
    weights = inv_propensity(given.part.y, **propensity)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoder = load_encoder(settings).to(device)

    # Only now that everything the settings name is there, the run directory is touched.
    marks = fingerprint(given.label_texts, given.part, given.parents), encoder_fingerprint(encoder)

    def opened() -> bool:
        held.enter_context(hold_folder(settings.out))
        return open_folder(settings, *marks)

    if processes.first(opened, device):
        if processes.is_first():
            console.say(f"{settings.out}: this run has finished already; nothing to do")
        return None
    before = begin_log(settings) if processes.is_first() else 0.0
    torch.manual_seed(settings.seed)

    tokens = (
        features.tokenize(encoder, given.part.texts, settings.point_tokens, settings, side="point"),
        features.tokenize(
            encoder, given.label_texts, settings.label_tokens, settings, side="label"
        ),
    )
    chosen = engine.choose(encoder, given, tokens, settings)
    frozen = features.of_all(encoder, tokens, settings) if starts_frozen(settings) else None
    problem = Problem(given.y, given.part.exclude, *tokens, weights, frozen)
    _announce(given, device, settings)
    with _tracker(settings) as tracker:
        job, selected = _fit(problem, encoder, given, settings, tracker, chosen)

    # All processes encode what is searched later; then the first one goes on alone.
    queries = np.flatnonzero(given.held_out if given.held_out.any() else ~given.held_out)[:QUERIES]
    ranks = selected["ranker"]["used"]
    votes = ranks or selected["memory"]["kind"] == "votes"
    wanted = np.concatenate([queries, job.rows]) if votes else queries
    point_features, label_features = features.current(job, wanted)
    temperature = job.model.served_temperature(settings.temperature)
    if not processes.is_first():
        return None
    embedded = encoder.embed(point_features)
    vectors = job.model.table.vectors(encoder, label_features, temperature, selected["prior"])
    memory, ranker = None, None
    if votes:
        how, points = evidence.votes_of(selected["memory"]), embedded[len(queries) :]
        memory = PointMemory.of(points, problem.y[job.rows], **how)
        if ranks:
            everything = evidence.Embedded(vectors, points, job.rows, how)
            ranker = evidence.final_ranker(given, everything, settings)
    texts = None
    if votes and settings.keep_texts:
        texts = PointTexts.of([given.part.texts[i] for i in job.rows])
    saved = final.Saved(
        job.model,
        vectors,
        memory,
        with_bias_dimension(embedded[: len(queries)]),
        given.label_texts,
        problem.y,
        ranker,
        texts,
        _calibration(given, settings),
        label_features,
    )
    final.save(settings, saved, selected, temperature, chosen)
    seconds = before + time.perf_counter() - started
    finished = final.score_test(settings, saved, weights, propensity, seconds)
    if conclude is not None:
        conclude(finished)
    end_log(settings)
    return None if finished.test is None else finished.test.result


def _calibration(given: DataSet, settings: TrainSettings) -> Calibration | Missing:
    """Return what the selection fitted."""
    if not given.held_out.any():
        return Missing(calibrating.NO_VALIDATION)
    return calibrating.kept(settings.out / "checkpoint" / calibrating.FILE)


def _fit(
    problem: Problem,
    encoder: DualEncoder,
    given: DataSet,
    settings: TrainSettings,
    tracker: track.Track,
    chosen: engine.Chosen,
) -> tuple[Job, dict[str, Any]]:
    """Select on the held-out points; then train on all points in the same way.

    Returns:
        The last job, its model trained; and what was selected: ``epochs`` of each stage, ``prior``
        ``memory`` and ``ranker``.
    """
    initial = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    epochs = {stage.name: stage.epochs for stage in stage_schedules(settings, problem.y.shape[1])}
    selected: dict[str, Any] = {"epochs": epochs, "prior": 0.0, "memory": {"kind": "none"}}
    selected["ranker"] = {"used": False}

    def start(rows: NDArray[np.int64], settings: TrainSettings, name: str) -> Job:
        encoder.load_state_dict(initial)
        held_out = given.scored if name == SELECTION else given.scored[:0]
        exclude = None if problem.exclude is None else problem.exclude[rows]
        kind = settings.table, settings.label_clusters
        model = Model.untrained(encoder, problem.y[rows], exclude, *kind)
        return Job(problem, model, rows, settings, name, held_out)

    for name in fits(selects=bool(given.held_out.any()), refit=settings.refit):
        if name == SELECTION:
            job = start(given.fitted, settings, name)
            path = settings.out / "checkpoint" / "selection.json"
            if not (path.exists() and settings.refit):  # else a resumed run has selected already
                progress = fit.fit(job, tracker)
                engine.note_trained_loss(chosen, job.model, given, settings)
                choice.choose(job, given, progress, path, start, tracker)
                if not settings.refit and choice.asks_parts(settings):
                    job = start(given.fitted, settings, name)
                    fit.fit(job, tracker)  # goes back to the end of the selection
            selected = rundir.read_json(path)
        else:
            rows = np.arange(len(given.held_out))
            job = start(rows, with_epochs(settings, selected["epochs"]), name)
            fit.fit(job, tracker)
    job.model.eval()
    return job, selected


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
