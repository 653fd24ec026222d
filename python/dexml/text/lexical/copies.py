"""Texts that are near copies of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.data import Csr
from dexml.text.lexical.search import Hits, LexicalIndex, pair_scores
from dexml.text.lexical.vectorizer import VectorizerSettings, fit_vectorizer

NEIGHBOURS = 10
"""Nearest texts that are looked at."""
LARGEST = 0.02
"""A group with more of the texts than this has grown together step by step: it is no copy."""
PASSED_OVER = 0.8
"""Length of the common words of a text that are passed over at first, as a part of `at_least`.

At 0.5 they are a sixth of a text, measured in squares, and nearly all of the postings.
"""
LOOKED_AT = 50
"""Texts nearest by the other words that are compared in full."""
ROUNDING = 1e-5
"""More than what rounding changes in a cosine of texts in float32."""
BLOCK = 10_000
"""Texts that are looked for at a time."""


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
        settings: How texts become rows, of unit length; default: words and pairs of words.
        num_threads: Threads; the result does not depend on it.

    Returns:
        For each text the position of the first text of its group, (n,).

    Raises:
        ValueError: The rows of `settings` have no unit length.
    """
    from scipy.sparse.csgraph import connected_components  # takes as long to import as numpy

    n = len(texts)
    alone = np.arange(n)
    if n < 2:
        return alone
    if settings is not None and not settings.unit:
        raise ValueError("settings: unit is False; cosines are those of rows of unit length")
    vectorizer = fit_vectorizer(texts, settings, num_threads=num_threads)
    rows = vectorizer.rows(texts, num_threads=num_threads)
    ids, cosines = _nearest(rows, min(NEIGHBOURS + 1, n), at_least, num_threads)
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


def _nearest(rows: Csr, k: int, at_least: float, num_threads: int | None) -> Hits:
    """Find the k nearest rows of each row among those with a cosine of `at_least`.

    Exact, and faster than a search for all. The most common words of a row are left out, as long as
    they have a length of `PASSED_OVER` times `at_least`: they add at most this length to the
    product with another row, whose length is 1. So who reaches `at_least` with all words reaches
    what is left of it without them. Where more rows do than are looked at, all are searched.

    Returns:
        Ids and cosines, (n, k), best first, padded with -1 and -inf.
    """
    index = LexicalIndex(rows, num_threads=num_threads)
    counts = np.bincount(rows.indices, minlength=rows.shape[1])
    found = []
    for first in range(0, rows.shape[0], BLOCK):
        some = rows[first : first + BLOCK]
        rare, length = _without_common(some, counts, PASSED_OVER * at_least)
        least = at_least - length - ROUNDING
        ids, sums = index.search(rare, min(LOOKED_AT, rows.shape[0]), num_threads=num_threads)
        ids[sums < least[:, None]] = -1
        scores = pair_scores(some, rows, ids, num_threads=num_threads)
        best = np.lexsort((ids, -scores))[:, :k]
        ids, scores = (
            np.take_along_axis(ids, best, axis=1),
            np.take_along_axis(scores, best, axis=1),
        )
        unsure = np.flatnonzero(sums[:, -1] >= least)
        ids[unsure], scores[unsure] = index.search(some[unsure], k, num_threads=num_threads)
        found.append((ids, scores))
    all_ids, all_scores = zip(*found, strict=True)
    return np.concatenate(all_ids), np.concatenate(all_scores)


def _without_common(
    rows: Csr, counts: NDArray[np.int64], longest: float
) -> tuple[Csr, NDArray[np.float64]]:
    """Leave out the columns of each row with the largest counts, up to a length.

    Returns:
        The rows without them, and the length of what was left out of each.
    """
    n = rows.shape[0]
    at = np.repeat(np.arange(n), np.diff(rows.indptr))
    squares = rows.data.astype(np.float64) ** 2
    order = np.lexsort((-counts[rows.indices], at))
    sums = np.append(0.0, np.cumsum(squares[order]))
    kept = np.empty(len(at), np.bool_)
    kept[order] = sums[1:] - sums[rows.indptr[:-1]][at] > longest**2
    indptr = np.append(0, np.cumsum(kept))[rows.indptr]
    rare = csr_array((rows.data[kept], rows.indices[kept], indptr), shape=rows.shape)
    return rare, np.sqrt(np.bincount(at[~kept], squares[~kept], n))
