"""Seen and unseen labels apart: who is ranked, and whose truth counts (generalised zero-shot)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import console, data
from dexml.data import Csr
from dexml.metrics import Evaluator
from dexml.scorers import Queries, Scorer
from dexml.train.outcome import REPORTED, SCORE_BLOCK


class View(NamedTuple):
    """Scores of one view; points without a positive in it are left out of the means."""

    metrics: dict[str, float]
    n_points: int
    n_positives: int

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return self._asdict()


def views(
    scorer: Scorer, part: data.Part, counts: NDArray[np.integer], weights: NDArray[np.float64]
) -> dict[str, View]:
    """Score the labels of a part in three ways.

    ``all``: all labels are ranked and count. ``seen`` and ``unseen``: only labels with, or without,
    training points are ranked and count. A view without a positive is left out.

    Args:
        scorer: Ranks the labels.
        part: Texts, truth and filter pairs.
        counts: Number of training points of each label, (L,).
        weights: Inverse propensities, (L,).
    """
    masks = {"all": np.ones(len(counts), bool), "seen": counts > 0, "unseen": counts == 0}
    return {
        name: _view(scorer, part, None if mask.all() else mask, weights)
        for name, mask in masks.items()
        if only_labels(part.y, mask).nnz
    }


def _view(
    scorer: Scorer, part: data.Part, mask: NDArray[np.bool_] | None, weights: NDArray[np.float64]
) -> View:
    y = only_labels(part.y, np.ones(part.y.shape[1], bool) if mask is None else mask)
    k = max(int(name.split("@")[1]) for name in REPORTED)
    evaluator = Evaluator(y.shape[1], REPORTED, inv_propensity=weights, empty_rows="skip")
    for start in range(0, len(part.texts), SCORE_BLOCK):
        rows = slice(start, start + SCORE_BLOCK)
        pairs = None if part.exclude is None else part.exclude[rows]
        ids, _ = scorer.search(Queries(part.texts[rows]), k, exclude=pairs, only=mask)
        evaluator.update(y[rows], ids, exclude=pairs)
    positives = np.diff(y.indptr)
    return View(evaluator.result().metrics, int((positives > 0).sum()), int(positives.sum()))


def only_labels(y: Csr, mask: NDArray[np.bool_]) -> Csr:
    """Return the positives whose label is in the mask; the shape stays."""
    kept = mask[y.indices] & (y.data > 0)
    indptr = np.concatenate([[0], np.cumsum(kept)])[y.indptr]
    return csr_array((y.data[kept], y.indices[kept], indptr), shape=y.shape)


def table(found: Mapping[str, View]) -> str:
    """Format the views as a table, in percent."""
    rows = {f"{name} ({view.n_points} points)": view.metrics for name, view in found.items()}
    return console.table(rows, REPORTED)
