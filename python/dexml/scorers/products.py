"""Which pairs of a word of a text and a word of a label made a bilinear score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dexml.scorers.bilinear import BilinearScorer
from dexml.scorers.queries import Queries


class Product(NamedTuple):
    """One term ``w x z`` of a score."""

    word: str
    """Word or pair of words of the text."""
    label_word: str
    """Word or pair of words of the label, or ``__label__ID__TEXT`` for the label itself."""
    part: float
    """What it adds to the fitted score."""


def products(
    scorer: BilinearScorer, queries: Queries, label: int, label_texts: Sequence[str]
) -> list[Product]:
    """Take the fitted score of a label for one text apart.

    Args:
        scorer: The bilinear scorer.
        queries: One text.
        label: Its id.
        label_texts: Of all labels.

    Returns:
        The terms, the largest first by absolute value; with the bias they sum to the fitted score.
    """
    words = scorer.vocabulary
    x = words.of_points(queries.texts)
    rows = scorer.labels.rows
    begin, end = rows.indptr[label], rows.indptr[label + 1]
    own, values = rows.indices[begin:end], rows.data[begin:end].astype(np.float64)
    weights = scorer.model.refined_rows(x.indices)
    found = []
    for row, (column, value) in enumerate(zip(x.indices.tolist(), x.data.tolist(), strict=True)):
        first, last = weights.indptr[row], weights.indptr[row + 1]
        _, at, other = np.intersect1d(weights.indices[first:last], own, return_indices=True)
        parts = weights.data[first:last][at].astype(np.float64) * value * values[other]
        found += [
            Product(words.point_name(column), words.label_name(int(own[i]), label_texts), part)
            for i, part in zip(other, parts.tolist(), strict=True)
            if part
        ]
    return sorted(found, key=lambda one: (-abs(one.part), one.word, one.label_word))
