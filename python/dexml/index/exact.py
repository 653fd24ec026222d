"""Exact search: every label vector compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dexml import _rust
from dexml.data import Csr, pair_parts

EXACT_UP_TO, EXACT_TEST_UP_TO = 50_000, 131_072
"""Labels up to which exact search is the default, for texts and for the test points: up to there
it is about as fast, and certain (measured with D = 384 on one thread)."""
_SCORE_BLOCK = 2**25
"""Scores (128 MiB) of one block of exact search."""

Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""``ids`` and ``scores``, both (n, k), best first, padded with -1 and -inf."""


def exact_search(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    *,
    exclude: Csr | None = None,
    progress: bool = False,
) -> Found:
    """Find the k vectors with the largest inner products, all of them compared.

    Args:
        queries: Shape (n, D), float32.
        vectors: Shape (L, D), float32.
        k: Labels a query; rows are padded when fewer are left.
        exclude: Pairs (query, label) to leave out, shape (n, L); k labels remain.
        progress: Show a bar.

    Returns:
        ``ids`` int32 and ``scores`` float32, (n, k); equal scores: the smaller id first.
    """
    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"queries {queries.shape} and vectors {vectors.shape} do not fit")
    if k < 1:
        raise ValueError(f"k = {k}; expected at least 1")
    pairs = pair_parts(exclude, (len(queries), len(vectors)), "exclude")
    ids = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = max(1, min(1024, _SCORE_BLOCK // max(1, len(vectors))))
    with tqdm(total=len(queries), desc="search", unit="point", disable=not progress) as bar:
        for start in range(0, len(queries), rows):
            stop = min(start + rows, len(queries))
            block = queries[start:stop] @ vectors.T
            window = None if pairs is None else (pairs[0][start : stop + 1], pairs[1])
            ids[start:stop], scores[start:stop] = _rust.topk_dense(block, k, window)
            bar.update(stop - start)
    return ids, scores
