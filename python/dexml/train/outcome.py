"""What comes out of a training, light or not: test scores, and what a report needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import console, data
from dexml.data import Csr
from dexml.files import write_json
from dexml.metrics import (
    Evaluator,
    GroupResult,
    LabelGroups,
    Result,
    propensity_constants,
    seen_groups,
)
from dexml.scorers import Queries, Scorer
from dexml.scorers.calibration import Calibration, Missing
from dexml.train.settings import TrainSettings

REPORTED = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@10", "R@100")
"""Metrics of ``metrics.json`` and of the tables."""
UNSEEN = "R@100 of unseen labels"
"""What is reported of labels without training points: R@100 of the truth restricted to them, mean
over the points that have one."""
TEST = "test, percent"
"""The row of the model that is served."""
SCORE_BLOCK = 4096
"""Test points ranked and evaluated at a time."""


class Scored(NamedTuple):
    """The test part and how the model ranks it; k labels a point."""

    result: Result
    part: data.Part
    ids: NDArray[np.int32]
    """Shape (n, k)."""
    scores: NDArray[np.float32]
    """Shape (n, k)."""


class Finished(NamedTuple):
    """A training that has ended, for whoever reports on it."""

    settings: TrainSettings
    label_texts: list[str]
    """As people read them."""
    y: Csr
    """Of all training points, (N, L)."""
    seconds: float
    test: Scored | None = None
    calibration: Calibration | Missing | None = None
    """What the scores of the run mean; None where nothing is known of it."""
    counts: NDArray[np.int64] | None = None
    """Training points of each label that the scorer knows, (L,)."""


def propensity_of(settings: TrainSettings) -> dict[str, float]:
    """Return the constants A and B, by their names in `dexml.metrics.inv_propensity`."""
    a, b = settings.propensity_a, settings.propensity_b
    if settings.propensity:
        a, b = propensity_constants(settings.propensity)
    return {"a": a, "b": b}


def by_seen(y: Csr) -> dict[str, LabelGroups]:
    """Group labels by their number of training points, for `unseen_of` to look at.

    Args:
        y: Labels of the training points, (N, L).
    """
    return {"seen": seen_groups(y)}


def unseen_of(result: Result) -> GroupResult | None:
    """Return the scores on labels without training points; None if no point has such a label."""
    group = result.groups.get("seen", {}).get("unseen (0)")
    return group if group is not None and group.n_positives else None


def write_scores(
    settings: TrainSettings,
    result: Result,
    part: data.Part,
    propensity: Mapping[str, float],
    seconds: float,
    others: Mapping[str, Result],
) -> None:
    """Write ``metrics.json`` of a run, and show a table.

    Args:
        settings: The settings.
        result: The test scores, with values per point and groups (`by_seen`); their conventions
            are completed.
        part: The test part.
        propensity: Of `propensity_of`.
        seconds: Time of the training.
        others: Scores of simpler models on the same part, by the name of their row.
    """
    errors = result.standard_errors(part.groups, seed=settings.seed)
    over = "groups" if part.groups else "points"
    result.conventions["propensity"] = f"A = {propensity['a']}, B = {propensity['b']}"
    result.conventions["standard_errors"] = f"bootstrap over {over}, 1000 resamples"
    scores = result.as_json() | {"standard_errors": errors, "training_seconds": round(seconds, 1)}
    all_of_them = {"metrics": result} | {n.replace(" ", "_"): one for n, one in others.items()}
    scores |= {name: one.metrics for name, one in all_of_them.items()}
    if (unseen := unseen_of(result)) is not None:
        scores[UNSEEN] = {"points": unseen.n_points, "pairs": unseen.n_positives}
        scores[UNSEEN] |= {name: _with_unseen(one)[UNSEEN] for name, one in all_of_them.items()}
    write_json(settings.out / "metrics.json", scores)
    if not settings.quiet:
        rows = {name: _with_unseen(one) for name, one in ({TEST: result} | dict(others)).items()}
        columns = [*REPORTED, *([] if unseen is None else [UNSEEN])]
        console.say(console.table(rows, columns, {TEST: errors}))
        console.say(f"±: standard error, bootstrap over {over}")


def _with_unseen(result: Result) -> dict[str, float]:
    """Return the metrics, and R@100 of unseen labels beside them."""
    unseen = unseen_of(result)
    return result.metrics | ({} if unseen is None else {UNSEEN: unseen.metrics["R@100"]})


def changed(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that differ from their defaults, as plain values."""
    given, usual = settings.model_dump(mode="json"), defaults()
    hidden = {"data_dir", "out", "encoder", "resume", "overwrite", "quiet", "debug"}
    hidden |= {"cache", "cache_gigabytes"}
    return {k: v for k, v in given.items() if k not in hidden and usual.get(k, None) != v}


def defaults() -> dict[str, Any]:
    """Return the default of each setting that has one."""
    fields = TrainSettings.model_fields.items()
    return {name: field.default for name, field in fields if not field.is_required()}


def load_test_part(settings: TrainSettings, n_labels: int) -> data.Part | None:
    """Load the test part, if there is one with a positive that filter pairs leave."""
    try:
        part = data.load_part(settings.data_dir, "tst", n_labels)
    except FileNotFoundError as error:
        if not settings.quiet:
            console.say(f"note: no test scores ({error})")
        return None
    taken, n = part.filtered()
    if taken == n:
        why = f"filter pairs take all {n} positives of" if n else "no positive in"
        if not settings.quiet:
            console.say(f"note: no test scores ({why} the test part of {settings.data_dir})")
        return None
    if taken and not settings.quiet:
        console.say(
            f"note: filter pairs take {taken} of the {n} positives of the test part; these count "
            "as missed"
        )
    return part


def evaluate_scorer(
    scorer: Scorer,
    texts: list[str],
    y_true: Csr,
    exclude: Csr | None,
    weights: NDArray[np.float64],
    on_progress: Callable[[int], object],
    label_groups: Mapping[str, LabelGroups] | None = None,
) -> tuple[Result, NDArray[np.int32], NDArray[np.float32]]:
    """Rank and evaluate all points, with values per point; return ids and scores (n, k) too."""
    k = max(int(name.split("@")[1]) for name in REPORTED)
    evaluator = Evaluator(
        y_true.shape[1],
        REPORTED,
        inv_propensity=weights,
        label_groups=label_groups,
        keep_rows=True,
    )
    ids = np.full((len(texts), k), -1, np.int32)
    scores = np.full((len(texts), k), -np.inf, np.float32)
    for start in range(0, len(texts), SCORE_BLOCK):
        rows = slice(start, start + SCORE_BLOCK)
        pairs = None if exclude is None else exclude[rows]
        ids[rows], scores[rows] = scorer.search(Queries(texts[rows]), k, exclude=pairs)
        evaluator.update(y_true[rows], ids[rows], exclude=pairs)
        on_progress(len(texts[rows]))
    return evaluator.result(), ids, scores
