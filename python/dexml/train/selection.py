"""Scores of validation and test points, by exact search."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.data import Csr
from dexml.encoder import DualEncoder, with_bias_dimension
from dexml.index import Hits, exact_search
from dexml.metrics import Evaluator, LabelGroups, Result
from dexml.scorers import PointMemory
from dexml.train import processes
from dexml.train.outcome import REPORTED
from dexml.train.problem import Features, Model, Problem
from dexml.train.settings import TrainSettings

SCORE_BLOCK = 16_384
"""Points ranked and evaluated at a time."""


def validate(
    problem: Problem,
    model: Model,
    encoded: Features,
    rows: NDArray[np.int64],
    settings: TrainSettings,
) -> dict[str, float]:
    """Scores of the points `rows` against all labels, by exact search on all processes."""
    points, labels = encoded
    metrics = list(dict.fromkeys([*REPORTED, settings.select]))
    temperature = model.served_temperature(settings.temperature)
    result, _, _ = score(
        model.encoder,
        points,
        model.table.vectors(model.encoder, labels, temperature),
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
    label_groups: Mapping[str, LabelGroups] | None = None,
    memory: PointMemory | None = None,
    progress: bool = False,
    shared: bool = False,
) -> tuple[Result, NDArray[np.int32], NDArray[np.float32]]:
    """Rank all labels for every point by exact search and evaluate, with values per point.

    With a `memory`, training points vote. With `shared`, the processes share the search; all of
    them must call this.

    Returns:
        The result, and ids and scores (n, k) of the rankings.
    """
    k = max(int(name.split("@")[1]) for name in metrics)
    evaluator = Evaluator(
        y_true.shape[1],
        metrics,
        inv_propensity=inv_propensity,
        label_groups=label_groups,
        keep_rows=True,
    )
    n = len(point_features)
    ids, scores = np.zeros((n, k), np.int32), np.zeros((n, k), np.float32)
    for start in console.bar(
        range(0, n, SCORE_BLOCK), desc="scoring", unit="block", disable=not progress
    ):
        rows = slice(start, start + SCORE_BLOCK)
        pairs = None if exclude is None else exclude[rows]
        ids[rows], scores[rows] = search(
            encoder, point_features[rows], label_vectors, k, pairs, memory, shared=shared
        )
        evaluator.update(y_true[rows], ids[rows], exclude=pairs)
    return evaluator.result(), ids, scores


def search(
    encoder: DualEncoder,
    point_features: NDArray[np.float32],
    label_vectors: NDArray[np.float32],
    k: int,
    exclude: Csr | None,
    memory: PointMemory | None = None,
    *,
    shared: bool,
) -> Hits:
    """The best k labels of each point."""
    mine = processes.own(len(point_features)) if shared else slice(0, len(point_features))
    ids = np.zeros((len(point_features), k), np.int32)
    scores = np.zeros((len(point_features), k), np.float32)
    queries = with_bias_dimension(encoder.embed(point_features[mine]))
    pairs = None if exclude is None else exclude[mine]
    if len(queries):
        device = encoder.device.type
        found = exact_search(queries, label_vectors, k, exclude=pairs, device=device)
        if memory is not None:
            found = memory.mix(queries, found, label_vectors, k, exclude=pairs)
        ids[mine], scores[mine] = found
    if shared:
        processes.fill(ids, encoder.device)
        processes.fill(scores, encoder.device)
    return ids, scores
