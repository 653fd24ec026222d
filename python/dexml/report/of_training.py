"""The report of a training that has just ended."""

from __future__ import annotations

import json

from dexml import console
from dexml.report import beside
from dexml.report.inputs import Evaluation, Training
from dexml.report.page import write_report
from dexml.run import folder as rundir
from dexml.scorers.calibration import Calibration
from dexml.train.outcome import Finished, Scored, defaults


def report_training(finished: Finished) -> None:
    """Write ``report.html`` into the run folder of a training."""
    settings = finished.settings
    log = settings.out / "log.jsonl"
    training = Training(
        settings=settings.model_dump(mode="json"),
        defaults=json.loads(json.dumps(defaults(), default=str)),
        log=rundir.read_log(log) if log.exists() else [],
        y=finished.y,
        label_texts=finished.label_texts,
        versions={k: str(v) for k, v in rundir.read_json(settings.out / "versions.json").items()},
        seconds=finished.seconds,
        chosen=beside.chosen(settings.out),
        rows=beside.rows(finished),
        test=None if finished.test is None else _evaluation(finished, finished.test),
        calibration=_calibration(finished),
        counts=finished.counts,
    )
    path = write_report(settings.out, training)
    if not settings.quiet:
        console.say(f"report: {path}")


def _calibration(finished: Finished) -> Calibration | None:
    found = finished.calibration
    return found if isinstance(found, Calibration) and finished.counts is not None else None


def _evaluation(finished: Finished, scored: Scored) -> Evaluation:
    part, seed, probabilities = scored.part, finished.settings.seed, None
    if (calibration := _calibration(finished)) is not None and finished.counts is not None:
        probabilities = calibration.probabilities(scored.ids, scored.scores, finished.counts)
    over = "groups of points" if part.groups else "points"
    return Evaluation(
        result=scored.result,
        intervals=scored.result.intervals(part.groups, seed=seed),
        resampled=f"{over}, 1,000 resamples, seed {seed}",
        y_true=part.y,
        ids=scored.ids,
        scores=scored.scores,
        texts=part.texts,
        exclude=part.exclude,
        groups=part.groups,
        probabilities=probabilities,
    )
