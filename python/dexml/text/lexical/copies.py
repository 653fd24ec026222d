"""Texts that are near copies of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.text.lexical.search import LexicalIndex
from dexml.text.lexical.vectorizer import VectorizerSettings, fit_vectorizer

NEIGHBOURS = 10
"""Nearest texts that are looked at."""
LARGEST = 0.02
"""A group with more of the texts than this has grown together step by step: it is no copy."""


def near_copies(
    texts: Sequence[str],
    *,
    at_least: float = 0.5,
    settings: VectorizerSettings | None = None,
    num_threads: int | None = None,
) -> NDArray[np.int64]:
    """Number groups of texts that say nearly the same.

    Two texts are near copies if the cosine of their tf-idf rows is `at_least` this, and one is
    among the 10 nearest texts of the other. Copies of copies are in one group. Where a group would
    hold more than 2 % of the texts (and more than 10), only larger cosines count, in steps of 0.1;
    at 1 and more, no text has a copy.

    Args:
        texts: n texts.
        at_least: The least cosine, in (0, 1].
        settings: How texts become rows; default: words and pairs of words.
        num_threads: Threads; the result does not depend on it.

    Returns:
        For each text the position of the first text of its group, (n,).
    """
    from scipy.sparse.csgraph import connected_components  # takes as long to import as numpy

    n = len(texts)
    alone = np.arange(n)
    if n < 2:
        return alone
    vectorizer = fit_vectorizer(texts, settings, num_threads=num_threads)
    rows = vectorizer.rows(texts, num_threads=num_threads)
    index = LexicalIndex(rows, num_threads=num_threads)
    ids, cosines = index.search(rows, min(NEIGHBOURS + 1, n), num_threads=num_threads)
    least = at_least
    while least < 1:
        from_, at = np.nonzero((ids >= 0) & (cosines >= least))
        near = csr_array((np.ones(len(from_), np.int8), (from_, ids[from_, at])), shape=(n, n))
        _, group = connected_components(near, directed=False)
        if np.bincount(group).max() <= max(LARGEST * n, NEIGHBOURS):
            _, first = np.unique(group, return_index=True)
            return np.asarray(first[group], np.int64)
        least += 0.1
    return alone
