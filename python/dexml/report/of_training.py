"""The report of a training that has just ended."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dexml import console
from dexml.report.sections import Predictions
from dexml.report.write import write_report
from dexml.run import folder as rundir
from dexml.train.final import Finished, defaults


def report_training(finished: Finished) -> None:
    """Write ``report.html`` into the run folder of a training."""
    settings, test = finished.settings, finished.test
    log = settings.out / "log.jsonl"
    more: dict[str, Any] = {}
    if test is not None:
        part = test.part
        over = "groups of points" if part.groups else "points"
        more = {
            "result": test.result,
            "intervals": test.result.intervals(part.groups, seed=settings.seed),
            "resampled": f"{over}, 1,000 resamples, seed {settings.seed}",
            "predictions": Predictions(
                "test", part.y, test.ids, part.texts, test.scores, part.exclude
            ),
        }
    path = write_report(
        settings.out,
        settings=settings.model_dump(mode="json"),
        defaults=json.loads(json.dumps(defaults(), default=str)),
        log=rundir.read_log(log) if log.exists() else [],
        train_counts=np.bincount(finished.y.indices, minlength=finished.y.shape[1]),
        n_train=finished.y.shape[0],
        label_texts=finished.label_texts,
        versions={k: str(v) for k, v in rundir.read_json(settings.out / "versions.json").items()},
        seconds=finished.seconds,
        **more,
    )
    if not settings.quiet:
        console.say(f"report: {path}")
