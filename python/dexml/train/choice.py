"""What is chosen on the validation points after the selection: epochs, prior and votes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dexml import console
from dexml.encoder import with_bias_dimension
from dexml.run import folder as rundir
from dexml.train import engine, evidence, features, memory, processes
from dexml.train.checkpoint import Progress
from dexml.train.inputs import DataSet
from dexml.train.problem import Job


def choose(
    job: Job, given: DataSet, progress: Progress, path: Path, chosen_engine: engine.Chosen
) -> None:
    """Choose the prior, how points vote, and the ranker; the first process writes it to `path`.

    Args:
        job: The selection; its model is at its best epoch.
        given: The data set.
        progress: The progress at the best epoch.
        path: The JSON file.
        chosen_engine: What encodes texts; what its form costs is measured here.
    """
    problem, model, settings = job.problem, job.model, job.settings
    groups = given.part.groups
    model.eval()
    few = job.validation_rows[: memory.MAX_POINTS]
    voting = settings.memory == "auto"
    voters = job.rows if voting else job.rows[:0]
    point_features, label_features = features.current(job, np.concatenate([few, voters]))

    def work() -> bool:
        encoder, table = model.encoder, model.table
        temperature = model.served_temperature(settings.temperature)
        embedded = encoder.embed(point_features)
        choice = memory.choose_memory(
            memory.Validation(
                queries=with_bias_dimension(embedded[: len(few)]),
                y_true=problem.y[few],
                label_vectors=table.vectors(encoder, label_features, temperature),
                prior_bias=temperature * np.log1p(table.counts.cpu().numpy()).astype(np.float32),
                points=embedded[len(few) :],
                y=problem.y[voters],
                inv_propensity=problem.inv_propensity,
                exclude=None if problem.exclude is None else problem.exclude[few],
                groups=None if groups is None else [groups[i] for i in few],
            ),
            settings.select,
            seed=settings.seed,
            weights=memory.WEIGHTS if voting else (),
            progress=not settings.quiet,
        )
        ranker: dict[str, Any] = {"used": False}
        if settings.ranker == "auto" and voting and problem.y[few].nnz:
            embedded_set = evidence.Embedded(
                table.vectors(encoder, label_features, temperature, choice.prior),
                embedded[len(few) :],
                job.rows,
                evidence.votes_of(choice.memory),
            )
            ranker = evidence.choose_ranker(
                given,
                embedded_set,
                few,
                with_bias_dimension(embedded[: len(few)]),
                problem.inv_propensity,
                settings,
                path.with_name(evidence.FILE),
            )
        scores = {settings.select: progress.best, "ranker": ranker}
        if (loss := engine.trained_loss(chosen_engine, model, given, settings)) is not None:
            scores["engine"] = loss
        chosen = {"epochs": progress.chosen, "prior": choice.prior, "memory": choice.memory}
        rundir.write_json(path, chosen | scores)
        if not settings.quiet:
            console.say(f"selected: epochs {progress.chosen}; {memory.summary(choice)}")
        return True

    processes.first(work, model.encoder.device)
