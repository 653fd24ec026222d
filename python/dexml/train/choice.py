"""What is chosen after the selection: epochs, prior and votes, and the ranker."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.encoder import with_bias_dimension
from dexml.run import folder as rundir
from dexml.scorers.calibration import Calibration, Missing
from dexml.train import calibrating, evidence, features, fit, memory, processes
from dexml.train.asked import Asked, Evidence
from dexml.train.checkpoint import Progress
from dexml.train.inputs import DataSet, parts_to_ask
from dexml.train.problem import Features, Job
from dexml.train.schedule import parse_stages, with_epochs
from dexml.train.settings import TrainSettings
from dexml.train.track import Track
from dexml.train.words import tried

StartJob = Callable[[NDArray[np.int64], TrainSettings, str], Job]
"""Makes a job of points, settings and a name, with an untrained model."""


def choose(
    job: Job, given: DataSet, progress: Progress, path: Path, start: StartJob, track: Track
) -> None:
    """Choose prior, votes and ranker; the first process writes them to `path`.

    A ranker with few validation points learns from parts of the fitted points too, each asked of
    a model that is trained on the others (`parts_to_ask`). So the encoder's head may be that of
    another model afterwards.

    Args:
        job: The selection; its model is at its best epoch.
        given: The data set.
        progress: The progress at the best epoch.
        path: The JSON file.
        start: Makes the job of a part.
        track: Gets the log of the parts.
    """
    settings, device = job.settings, job.model.encoder.device
    choice = _Choice(given, settings, job.problem.inv_propensity)
    first, *more = parts_to_ask(given)
    embedded = _features(job, first.asked)
    processes.first(lambda: choice.choose_votes(job, progress, first.asked, embedded), device)
    ranked = ranks(settings) and given.y[first.asked].nnz > 0
    if not ranked:
        processes.first(lambda: choice.write(path, progress, None), device)
        return
    if not settings.quiet:
        console.say(f"fitting {tried(settings, given)} for the ranker to learn from ...")
    processes.first(lambda: choice.ask(job, first.asked, embedded), device)
    if not asks_parts(settings):
        more = []
    names = [f"part {number}" for number in range(1, len(more) + 1)]
    for name, part in zip(names, more, strict=True):
        again = start(part.fitted, with_epochs(settings, progress.chosen), name)
        fit.fit(again, track)
        embedded = _features(again, part.asked)
        processes.first(lambda: choice.ask(again, part.asked, embedded), device)  # noqa: B023
    rows = np.concatenate([part.asked for part in (first, *more)])
    processes.first(lambda: choice.write(path, progress, rows), device)
    if processes.is_first():
        for name in names:  # a killed choice goes on from these
            shutil.rmtree(path.with_name(name), ignore_errors=True)


def ranks(settings: TrainSettings) -> bool:
    """Whether a ranker is tried; votes are part of what it ranks."""
    return settings.ranker == "auto" and settings.memory == "auto"


def asks_parts(settings: TrainSettings) -> bool:
    """Whether parts of the fitted points are asked too: a transformer is not trained so often."""
    return ranks(settings) and parse_stages(settings.stages) == ("heads",)


def _features(job: Job, asked: NDArray[np.int64]) -> Features:
    """Return features of the points `asked`, of the points that vote, and of all labels."""
    job.model.eval()
    voters = job.rows if job.settings.memory == "auto" else job.rows[:0]
    return features.current(job, np.concatenate([asked, voters]))


@dataclass
class _Choice:
    """What is chosen so far; the first process has it. Each step returns True when it is done."""

    given: DataSet
    settings: TrainSettings
    weights: NDArray[np.float64]
    """Inverse propensities, (L,)."""
    prior: float = 0.0
    votes: dict[str, Any] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    answers: calibrating.Answers | None = None
    """Of what is served without a ranker, where none is tried."""

    def choose_votes(
        self, job: Job, progress: Progress, asked: NDArray[np.int64], embedded: Features
    ) -> bool:
        """Choose prior and votes by the validation points `asked`."""
        problem, model, settings = job.problem, job.model, self.settings
        voting = settings.memory == "auto"
        groups = self.given.part.groups
        temperature = model.served_temperature(settings.temperature)
        points = model.encoder.embed(embedded[0])
        counts = np.log1p(model.table.counts.cpu().numpy()).astype(np.float32)
        validation = memory.Validation(
            queries=with_bias_dimension(points[: len(asked)]),
            y_true=problem.y[asked],
            label_vectors=model.table.vectors(model.encoder, embedded[1], temperature),
            prior_bias=temperature * counts,
            points=points[len(asked) :],
            y=problem.y[job.rows if voting else job.rows[:0]],
            inv_propensity=self.weights,
            exclude=None if problem.exclude is None else problem.exclude[asked],
            groups=None if groups is None else [groups[i] for i in asked],
        )
        choice = memory.choose_memory(
            validation,
            settings.select,
            seed=settings.seed,
            weights=memory.WEIGHTS if voting else (),
            progress=not settings.quiet,
        )
        self.prior, self.votes = choice.prior, choice.memory
        if not ranks(settings) and problem.y[asked].nnz:
            ids, scores = memory.answers(validation, choice, calibrating.DEPTH)
            n_points = model.table.counts.cpu().numpy()
            self.answers = calibrating.Answers.of_hits(
                ids,
                scores,
                np.where(ids < 0, 0, n_points[np.maximum(ids, 0)]),
                Asked.of(self.given, asked, self.weights),
                n_points,
            )
        if not settings.quiet:
            epochs = ", ".join(f"{name} {n}" for name, n in progress.chosen.items()) or "none"
            where = f"{min(len(asked), memory.MAX_POINTS)} validation points"
            console.say(f"selected on {where}: epochs {epochs}; {memory.summary(choice)}")
        return True

    def ask(self, job: Job, asked: NDArray[np.int64], embedded: Features) -> bool:
        """Collect what the members say of the points `asked`, which `job` was not trained on."""
        model = job.model
        points = model.encoder.embed(embedded[0])
        temperature = model.served_temperature(self.settings.temperature)
        members = evidence.Embedded(
            model.table.vectors(model.encoder, embedded[1], temperature, self.prior),
            points[len(asked) :],
            job.rows,
            evidence.votes_of(self.votes),
        )
        vectors = with_bias_dimension(points[: len(asked)])
        found = evidence.gather(self.given, members, asked, vectors, self.weights, self.settings)
        self.evidence.append(found)
        return True

    def write(self, path: Path, progress: Progress, rows: NDArray[np.int64] | None) -> bool:
        """Train and judge the ranker on the points `rows`, if any; write what was chosen."""
        settings = self.settings
        ranker: dict[str, Any] = {"used": False}
        calibration: Calibration | Missing = Missing(calibrating.NO_VALIDATION)
        if rows is not None:
            everything = Evidence.joined(self.evidence)
            file = path.with_name(evidence.FILE)
            choice = evidence.choose_ranker(
                self.given, rows, everything, self.weights, settings, file
            )
            ranker = choice.facts
            asked = Asked.of(self.given, rows, self.weights)
            calibration = calibrating.calibrate(
                everything, asked, choice, self.given, seed=settings.seed
            )
        elif self.answers is not None:
            calibration = calibrating.fit(self.answers, seed=settings.seed)
        calibrating.keep(calibration, path.with_name(calibrating.FILE))
        if not settings.quiet:
            console.say(calibrating.summary(calibration))
        chosen = {"epochs": progress.chosen, "prior": self.prior, "memory": self.votes}
        rundir.write_json(path, chosen | {settings.select: progress.best, "ranker": ranker})
        return True
