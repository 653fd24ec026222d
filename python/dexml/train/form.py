"""What a form of an encoder costs: validation points look for their labels in it and in float32.

Shapes: n validation points, l labels of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.encoder import DualEncoder, Tokens, with_bias_dimension
from dexml.encoder.engine import Engine
from dexml.index import exact_search
from dexml.metrics import Evaluator, Result, compare
from dexml.train.inputs import DataSet
from dexml.train.problem import Features, Model

METRICS = ("P@1", "R@100")
MARGIN = 0.005
"""A form may cost this much at most, with the lower end of the 95 % interval."""
MIN_POINTS = 600
"""Fewer points prove nothing: a loss of `MARGIN` may not show in 3 / `MARGIN` of them."""
MAX_POINTS, MAX_TOKENS = 2000, 60_000
"""Points that are compared, at most, and tokens of them; of labels as many tokens."""
RESAMPLES = 500
Encode = Callable[[Engine, Tokens], NDArray[np.float32]]
"""Features of texts by an engine."""


@dataclass(frozen=True)
class Sample:
    """Points and labels that are encoded in float32 and in another form.

    Attributes:
        points: Rows of the training part, (n,).
        held_out: Whether each is a validation point, (n,).
        labels: Label ids, ascending, (l,): those of the points, and others.
        tokens: Of both.
        whole: Features of both, in float32.
    """

    points: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    labels: NDArray[np.int64]
    tokens: tuple[Tokens, Tokens]
    whole: Features

    @classmethod
    def take(
        cls,
        whole: Engine,
        given: DataSet,
        tokens: tuple[Tokens, Tokens],
        encode: Encode | None = None,
    ) -> Sample:
        """Take validation points, others where these are few, and labels.

        Before anything is trained, all points say the same of a form.

        Args:
            whole: Encodes in float32.
            given: The data set.
            tokens: Of its training points and its labels.
            encode: Encodes texts by an engine; default without a cache.
        """
        generator = np.random.default_rng(0)
        has_labels = np.diff(given.y.indptr) > 0
        scored = given.scored[has_labels[given.scored]]
        rest = np.setdiff1d(np.flatnonzero(has_labels), scored)
        rows = np.concatenate([generator.permutation(scored), generator.permutation(rest)])
        points = _within(tokens[0], rows[:MAX_POINTS])
        own = np.unique(given.y[points].indices).astype(np.int64)
        others = np.setdiff1d(np.arange(len(given.label_texts)), own)
        more = np.concatenate([own, generator.permutation(others)])
        labels = np.union1d(own, _within(tokens[1], more))
        few = tokens[0].select(points), tokens[1].select(labels)
        return cls(points, np.isin(points, scored), labels, few, encoded(whole, few, encode))

    def only_held_out(self, features: Features) -> tuple[Sample, Features]:
        """The validation points of the sample, and their features in a form; labels stay."""
        rows = np.flatnonzero(self.held_out)
        sample = Sample(
            self.points[rows],
            self.held_out[rows],
            self.labels,
            (self.tokens[0].select(rows), self.tokens[1]),
            (self.whole[0][rows], self.whole[1]),
        )
        return sample, (features[0][rows], features[1])


def encoded(
    engine: Engine, tokens: tuple[Tokens, Tokens], encode: Encode | None = None
) -> Features:
    """Features of points and labels; arguments as of `Sample.take`."""
    points, labels = (
        engine.features(side) if encode is None else encode(engine, side) for side in tokens
    )
    return points, labels


def loss(
    encoder: DualEncoder, sample: Sample, features: Features, given: DataSet, seed: int
) -> dict[str, Any]:
    """Compare a form with float32 by the texts alone, before anything is trained.

    Args:
        encoder: The encoder, for its heads.
        sample: The sample.
        features: Of the sample, in the form.
        given: The data set.
        seed: Seed of the resampling.

    Returns:
        For each metric its value in ``float32`` and in the ``form``, and the ``difference`` with
        its 95 % interval from ``low`` to ``high``; the least ``cosine`` of two vectors of one text;
        and the numbers of ``points`` and ``labels``.
    """
    whole, other = (
        _scored(encoder.embed(points), encoder.embed(labels, "label"), given, sample)
        for points, labels in (sample.whole, features)
    )
    return {"cosine": _least_cosine(sample.whole, features)} | _compared(
        whole, other, given, sample, seed
    )


def trained_loss(
    model: Model, sample: Sample, features: Features, given: DataSet, temperature: float, seed: int
) -> dict[str, Any]:
    """Compare a form with float32 by a trained model, on validation points if there are any.

    Arguments as in `loss`.
    """
    if sample.held_out.any():
        sample, features = sample.only_held_out(features)
    results = []
    for points, labels in (sample.whole, features):
        everything = np.zeros((len(given.label_texts), labels.shape[1]), np.float32)
        everything[sample.labels] = labels
        vectors = model.table.vectors(model.encoder, everything, temperature)[sample.labels]
        queries = with_bias_dimension(model.encoder.embed(points))
        results.append(_scored(queries, vectors, given, sample))
    return _compared(results[0], results[1], given, sample, seed)


def passes(row: Mapping[str, Any]) -> bool:
    """Whether the intervals of a form say that it costs nothing, or next to nothing."""
    if row["points"] < MIN_POINTS:
        return False
    found = [row[name] for name in METRICS]
    return all(one["high"] >= 0 and one["low"] >= -MARGIN for one in found)


def _within(tokens: Tokens, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first rows that have `MAX_TOKENS` tokens together, in ascending order."""
    return np.sort(rows[np.cumsum(tokens.lengths[rows]) <= MAX_TOKENS])


def _scored(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], given: DataSet, sample: Sample
) -> Result:
    """Rank the labels of the sample for its points, by the dot product."""
    exclude = given.part.exclude
    pairs = None if exclude is None else Csr(exclude[sample.points][:, sample.labels])
    k = max(int(name.split("@")[1]) for name in METRICS)
    ids, _ = exact_search(queries, np.ascontiguousarray(vectors), k, exclude=pairs)
    evaluator = Evaluator(len(vectors), METRICS, keep_rows=True)
    evaluator.update(Csr(given.y[sample.points][:, sample.labels]), ids, exclude=pairs)
    return evaluator.result()


def _compared(
    whole: Result, other: Result, given: DataSet, sample: Sample, seed: int
) -> dict[str, Any]:
    keys = given.part.groups
    groups = None if keys is None else [keys[i] for i in sample.points]
    found = compare(whole, other, groups=groups, seed=seed, n_resamples=RESAMPLES)
    rows: dict[str, Any] = {
        name: {
            "float32": found[name].a,
            "form": found[name].b,
            "difference": found[name].difference,
            "low": found[name].low,
            "high": found[name].high,
        }
        for name in METRICS
    }
    return rows | {"points": len(sample.points), "labels": len(sample.labels)}


def _least_cosine(whole: Features, other: Features) -> float:
    least = 1.0
    for a, b in zip(whole, other, strict=True):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        least = min(least, float(((a * b).sum(axis=1) / np.maximum(norms, 1e-12)).min(initial=1)))
    return round(least, 6)
