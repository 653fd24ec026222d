"""Scores of validation points, by exact search, and what is chosen by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dexml.data import Csr
from dexml.index import exact_search
from dexml.metrics import Evaluator, Result
from dexml.model import DualEncoder, with_bias_dimension
from dexml.train import processes
from dexml.train.problem import Features, Model, Problem
from dexml.train.settings import TrainSettings

REPORTED = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@10", "R@100")
"""Metrics of ``metrics.json`` and of the tables."""
PRIORS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
PRIOR_POINTS = 4000
"""Validation points that the prior is chosen on, at most: each value takes a full search."""
SCORE_BLOCK = 16_384
"""Points ranked and evaluated at a time."""


def choose_prior(
    problem: Problem,
    model: Model,
    encoded: Features,
    validation_rows: NDArray[np.int64],
    settings: TrainSettings,
) -> float:
    """Choose how much label frequency adds to the bias, by the validation points.

    The loss weighs rare and frequent positives alike, which serves PSP@k; how much more a
    frequent label should be believed depends on the data set. Ties go to the smaller prior.

    Args:
        problem: The training part.
        model: The selected model.
        encoded: Features of the validation points and of all labels.
        validation_rows: The first `PRIOR_POINTS` of them are scored.
        settings: The settings of the run.
    """
    model.eval()
    rows = validation_rows[:PRIOR_POINTS]
    few = encoded[0][: len(rows)], encoded[1]
    scores = [
        validate(problem, model, few, rows, settings, prior)[settings.select] for prior in PRIORS
    ]
    return PRIORS[int(np.argmax(scores))]


def validate(
    problem: Problem,
    model: Model,
    encoded: Features,
    rows: NDArray[np.int64],
    settings: TrainSettings,
    prior: float = 0.0,
) -> dict[str, float]:
    """Scores of the points `rows` against all labels, by exact search on all processes."""
    points, labels = encoded
    metrics = list(dict.fromkeys([*REPORTED, settings.select]))
    temperature = model.served_temperature(settings.temperature)
    result = score(
        model.encoder,
        points,
        model.table.vectors(model.encoder, labels, temperature, prior),
        problem.y[rows],
        None if problem.exclude is None else problem.exclude[rows],
        problem.inv_propensity,
        metrics,
        shared=True,
    )
    names = sorted(result.metrics)
    agreed = processes.agree([result.metrics[name] for name in names], model.encoder.device)
    return dict(zip(names, agreed, strict=True)) if processes.size() > 1 else result.metrics


def score(
    encoder: DualEncoder,
    point_features: NDArray[np.float32],
    label_vectors: NDArray[np.float32],
    y_true: Csr,
    exclude: Csr | None,
    inv_propensity: NDArray[np.float64],
    metrics: list[str] | tuple[str, ...] = REPORTED,
    *,
    progress: bool = False,
    shared: bool = False,
) -> Result:
    """Rank all labels for every point by exact search and evaluate, with values per point.

    With `shared`, the processes share the search; all of them must call this.
    """
    k = max(int(name.split("@")[1]) for name in metrics)
    evaluator = Evaluator(y_true.shape[1], metrics, inv_propensity=inv_propensity, keep_rows=True)
    starts = range(0, len(point_features), SCORE_BLOCK)
    for start in tqdm(starts, desc="scoring", unit="block", disable=not progress):
        rows = slice(start, start + SCORE_BLOCK)
        pairs = None if exclude is None else exclude[rows]
        ids = search(encoder, point_features[rows], label_vectors, k, pairs, shared=shared)
        evaluator.update(y_true[rows], ids, exclude=pairs)
    return evaluator.result()


def search(
    encoder: DualEncoder,
    point_features: NDArray[np.float32],
    label_vectors: NDArray[np.float32],
    k: int,
    exclude: Csr | None,
    *,
    shared: bool,
) -> NDArray[np.int32]:
    """The best k labels of each point, shape (n, k), int32, padded with -1."""
    mine = processes.own(len(point_features)) if shared else slice(0, len(point_features))
    ids = np.zeros((len(point_features), k), np.int32)
    queries = with_bias_dimension(encoder.embed(point_features[mine]))
    pairs = None if exclude is None else exclude[mine]
    if len(queries):
        ids[mine], _ = exact_search(queries, label_vectors, k, exclude=pairs)
    if shared:
        processes.fill(ids, encoder.device)
    return ids
