"""The bilinear model on feature files: written from texts, and fitted and scored as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dexml import data
from dexml.data import FeatureSet
from dexml.metrics import View, ViewEvaluator
from dexml.metrics.views import only_labels
from dexml.text.bilinear import BilinearFeatures, BilinearModel, BilinearSettings, fit_bilinear
from dexml.text.lexical import LexicalIndex, feature_parts, join_rows
from dexml.train.outcome import REPORTED


def features_of(folder: Path, *, stemmer: str | None, max_size: int | None) -> FeatureSet:
    """Make the features of a data set in the LF layout, as `dexml.train.zest` does.

    Args:
        folder: The data set; its test part may be missing.
        stemmer: A Snowball stemmer, or None.
        max_size: Words and pairs of words of points that are kept.
    """
    label_texts = data.load_label_texts(folder)
    train = data.load_part(folder, "trn", len(label_texts))
    data.require_texts(train.features, str(folder), "making features of words")
    seen = np.flatnonzero(np.bincount(train.y.indices, minlength=len(label_texts)))
    words = BilinearFeatures.fit(
        train.texts,
        label_texts,
        seen,
        stemmer=stemmer,
        max_size=max_size,
        parents=data.load_label_parents(folder, len(label_texts)),
    )
    test = None
    if any(data.layout.find(folder, name).exists() for name in ("Y.tst.npz", "tst_X_Y.txt")):
        test = data.load_part(folder, "tst", len(label_texts))
    return FeatureSet(
        [words.point_name(i) for i in range(words.points.n_tokens)],
        [words.label_name(i, label_texts) for i in range(words.n_label_features)],
        words.of_points(train.texts),
        words.of_labels(label_texts, np.arange(len(label_texts))),
        train.y,
        None if test is None else words.of_points(test.texts),
        None if test is None else test.y,
        None if test is None else test.exclude,
    )


@dataclass(frozen=True)
class FeatureRun:
    """What came out of a fit on feature files."""

    model: BilinearModel
    views: dict[str, View]
    """Of the test part, by name; empty without one."""
    ids: NDArray[np.int32]
    """The best labels of the test points, (M, k)."""
    scores: NDArray[np.float32]
    """(M, k)."""


def run_features(
    features: FeatureSet, settings: BilinearSettings, weights: NDArray[np.float64], *, seed: int
) -> FeatureRun:
    """Fit on feature files, and score their test part.

    Args:
        features: Rows are made unit length first.
        settings: How the model is fitted.
        weights: Inverse propensities, (L,).
        seed: Of the order in which the solver visits points.
    """
    y = only_labels(features.y_train, np.ones(features.y_train.shape[1], bool))
    x, z = join_rows([features.x_train]), join_rows([features.z])
    model = fit_bilinear(x, z, y, features.direct, settings, seed=seed)
    k = max(int(name.split("@")[1]) for name in REPORTED)
    if features.x_test is None or features.y_test is None:
        return FeatureRun(model, {}, np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))
    evaluator = ViewEvaluator(
        np.bincount(y.indices, minlength=y.shape[1]), REPORTED, inv_propensity=weights
    )
    index, parts, x = LexicalIndex(z), feature_parts(z, "z"), join_rows([features.x_test])
    hits = {
        name: model.best(x, index, parts, k, exclude=features.exclude_test, only=mask)
        for name, mask in evaluator.masks.items()
    }
    for name, (ids, _) in hits.items():
        evaluator.update(features.y_test, ids, exclude=features.exclude_test, view=name)
    return FeatureRun(model, evaluator.result(), *hits["all"])
