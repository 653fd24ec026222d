"""Seen and unseen labels of a test part apart: each view ranked by a scorer (`dexml.metrics`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dexml import console, data
from dexml.metrics import View, ViewEvaluator
from dexml.scorers import Queries, Scorer
from dexml.train.outcome import REPORTED, SCORE_BLOCK


def views(
    scorer: Scorer,
    part: data.Part,
    counts: NDArray[np.integer],
    weights: NDArray[np.float64],
    ids: NDArray[np.int32] | None = None,
) -> dict[str, View]:
    """Score the labels of a part in three ways, each ranked alone.

    Args:
        scorer: Ranks the labels.
        part: Texts, truth and filter pairs.
        counts: Number of training points of each label, (L,).
        weights: Inverse propensities, (L,).
        ids: The ranking of all labels if it is there already, (n, k).
    """
    evaluator = ViewEvaluator(counts, REPORTED, inv_propensity=weights)
    has = {name for name, mask in evaluator.masks.items() if mask[part.y.indices].any()}
    for start in range(0, len(part.texts), SCORE_BLOCK):
        rows = slice(start, start + SCORE_BLOCK)
        pairs = None if part.exclude is None else part.exclude[rows]
        queries = Queries(part.texts[rows])
        for name, mask in evaluator.masks.items():
            if name not in has:
                continue
            if name == "all" and ids is not None:
                ranked = ids[rows]
            else:
                only = None if name == "all" else mask
                ranked, _ = scorer.search(queries, evaluator.deepest, exclude=pairs, only=only)
            evaluator.update(part.y[rows], ranked, exclude=pairs, view=name)
    return evaluator.result()


def table(found: Mapping[str, View]) -> str:
    """Format the views as a table, in percent."""
    rows = {f"{name} ({view.n_points} points)": view.metrics for name, view in found.items()}
    return console.table(rows, REPORTED)
