"""Sparse rows: put side by side, averaged by label, searched, scored in pairs; votes of points.

Results do not depend on the number of threads. An index takes 8 bytes for each value of its rows; a
search takes 8 bytes a thread for each row of the index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import Csr, CsrParts, csr_parts, pair_parts, truth_parts
from dexml.data.parts import canonical, joined

Hits: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32]]
Pattern: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32]]
Also: TypeAlias = tuple[int, NDArray[np.bool_]]
"""A second ranking of the same scores: how many rows, of those of a mask (n_rows,)."""
_QUERIES_PER_CALL = 4096
"""Ctrl-C is answered between calls."""


def join_rows(
    parts: Sequence[Csr],
    weights: Sequence[float] | None = None,
    *,
    unit: bool = True,
    num_threads: int | None = None,
) -> Csr:
    """Put rows side by side, each matrix times its weight, and make the rows unit length again.

    Args:
        parts: Matrices with N rows each.
        weights: A factor for each of them; default all 1.
        unit: Whether to divide each row by its Euclidean length; empty rows stay empty.
        num_threads: Threads; default all cores.

    Returns:
        Shape (N, all columns), float32.

    Raises:
        ValueError: Numbers of rows or of weights disagree, or a value is not finite.
    """
    weights = [1.0] * len(parts) if weights is None else list(weights)
    arrays = [feature_parts(part, f"parts[{at}]") for at, part in enumerate(parts)]
    widths = [part.shape[1] for part in parts]
    rows = _rust.join_rows(arrays, widths, weights, unit=unit, num_threads=num_threads)
    return canonical((parts[0].shape[0], sum(widths)), *rows)


def label_centroids(
    rows: Csr, y: Csr, *, max_terms: int = 1024, num_threads: int | None = None
) -> Csr:
    """Average the rows of each label's points.

    Args:
        rows: Rows of the points, shape (N, n_features).
        y: Their labels, shape (N, n_labels); values above 0 are positives.
        max_terms: Keep so many of the largest weights of a label, after the division.
        num_threads: Threads; default all cores.

    Returns:
        Shape (n_labels, n_features), float32, of unit length before the cut; an empty row for a
        label without points.

    Raises:
        ValueError: Shapes disagree, or a value is not finite.
    """
    n_features, n_labels = rows.shape[1], y.shape[1]
    parts = _rust.label_centroids(
        feature_parts(rows, "rows"),
        n_features,
        truth_parts(y, "y"),
        n_labels,
        max_terms,
        num_threads=num_threads,
    )
    return canonical((n_labels, n_features), *parts)


class LexicalIndex:
    """Rows to be searched: the exact top k by inner product.

    The rows are copied, by column: 8 bytes for each value other than 0. Stored zeros do not count.
    The index also holds on to the rows that it was given, and reads them; they must not be changed.
    """

    def __init__(self, rows: Csr, *, num_threads: int | None = None) -> None:
        """Index rows, shape (n_rows, n_features), float32. Values must be finite."""
        parts = feature_parts(rows, "rows")
        self._rows: CsrParts | None = parts
        self._index = _rust.InvertedIndex(parts, rows.shape[1], num_threads=num_threads)

    @classmethod
    def of_blocks(cls, blocks: list[Csr], *, num_threads: int | None = None) -> LexicalIndex:
        """Index rows that come in blocks, which are taken out of the list one by one.

        Rows and index together need not fit into memory: a block is freed as soon as it is indexed,
        unless somebody else knows it. (The allocator of Linux keeps what is freed of small blocks;
        let a block have ten million values or more.) The index then has no rows to read, and so no
        short cut for columns that most rows have: a search finds the same, and takes longer.

        Args:
            blocks: At least one matrix, each (n, n_features); empty afterwards.
            num_threads: Threads; default all cores.

        Raises:
            ValueError: There is no block, the columns differ, or a value is not finite.
        """
        widths = {block.shape[1] for block in blocks}
        if len(widths) != 1:
            raise ValueError(f"blocks: {sorted(widths)} columns; expected one number")
        parts = [feature_parts(block, f"blocks[{at}]") for at, block in enumerate(blocks)]
        blocks.clear()
        made = cls.__new__(cls)
        made._rows = None
        made._index = _rust.InvertedIndex.of_blocks(parts, widths.pop(), num_threads=num_threads)
        return made

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of features."""
        return self._index.shape

    @property
    def core(self) -> _rust.InvertedIndex:
        """The index of the Rust core."""
        return self._index

    def search_product(
        self,
        left: Csr,
        right: Csr,
        k: int,
        *,
        only: NDArray[np.bool_] | None = None,
        num_threads: int | None = None,
    ) -> Hits:
        """Find the k rows of largest inner product with each row of ``left @ right``.

        As `search` with these rows, which are not made: faster where they are long.

        Args:
            left: Shape (N, m).
            right: Shape (m, n_features).
            k: Rows a query.
            only: Whether each row may be found, shape (n_rows,).
            num_threads: Threads; default all cores.
        """
        if left.shape[1] != right.shape[0]:
            raise ValueError(f"left: {left.shape[1]} columns, right: {right.shape[0]} rows")
        indptr, indices, data = feature_parts(left, "left")
        parts = feature_parts(right, "right")
        found = []
        for first in range(0, max(left.shape[0], 1), _QUERIES_PER_CALL):
            window = (indptr[first : first + _QUERIES_PER_CALL + 1], indices, data)
            found.append(
                self._index.search_product(
                    window, left.shape[1], parts, k, only=only, num_threads=num_threads
                )
            )
        ids, scores = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(scores)

    def search(
        self,
        queries: Csr,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        also: Also | None = None,
        num_threads: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Find the k rows of largest inner product with each query, equal ones by the smaller row.

        A row that has no term in common with the query is never returned.

        Args:
            queries: Shape (N, n_features).
            k: Rows a query.
            exclude: Pairs to leave out, shape (N, n_rows).
            only: Whether each row may be found, shape (n_rows,).
            also: A second ranking: its number of rows, and which rows may be found instead of
                `only`.
            num_threads: Threads; default all cores.

        Returns:
            ``ids`` int32 and ``scores`` float32, both (N, k), best first, padded with -1 and -inf;
            with `also` as many columns more behind them, in the same way.

        Raises:
            ValueError: Shapes disagree, `k` is below 1, or a value is not finite.
        """
        only = None if only is None else np.ascontiguousarray(only)

        def of(rows: slice, window: CsrParts, exclude: Pattern | None) -> Hits:
            return self._index.search(
                window,
                k,
                exclude=exclude,
                only=only,
                also=also,
                rows=self._rows,
                num_threads=num_threads,
            )

        return self._windows(queries, exclude, of)

    def search_both(
        self,
        queries: Csr,
        k: int,
        k_below: int,
        n_columns: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        votes: Csr | None = None,
        weight: float = 0.0,
        num_threads: int | None = None,
    ) -> tuple[Hits, Hits]:
        """Search twice at the cost of once: by all columns, and by those below `n_columns` alone.

        With `votes`, the first search ranks by the inner product plus the weighted votes. Without
        a term in common, a row with votes above 0 is found too.

        Args:
            queries: Shape (N, n_features).
            k: Rows a query of the first search.
            k_below: Rows a query of the second search.
            n_columns: Columns of the second search.
            exclude: As in `search`, as the rest.
            only: As in `search`.
            votes: Votes for the rows, shape (N, n_rows).
            weight: What a whole vote is worth.
            num_threads: Threads; default all cores.

        Returns:
            What `search` returns for all columns, and for the first of them.
        """
        only = None if only is None else np.ascontiguousarray(only)
        if votes is not None and votes.shape != (queries.shape[0], self.shape[0]):
            shape = (queries.shape[0], self.shape[0])
            raise ValueError(f"votes: shape {votes.shape}, expected {shape}")
        cast = None if votes is None else feature_parts(votes, "votes")

        def of(rows: slice, window: CsrParts, exclude: Pattern | None) -> Hits:
            return self._index.search_both(
                window,
                (k, k_below),
                n_columns,
                exclude=exclude,
                only=only,
                voted=None if cast is None else ((cast[0][rows], *cast[1:]), weight),
                num_threads=num_threads,
            )

        ids, scores = self._windows(queries, exclude, of)
        return (ids[:, :k], scores[:, :k]), (ids[:, k:], scores[:, k:])

    def _windows(
        self,
        queries: Csr,
        exclude: Csr | None,
        of: Callable[[slice, CsrParts, Pattern | None], Hits],
    ) -> Hits:
        n_queries = queries.shape[0]
        if queries.shape[1] != self.shape[1]:
            raise ValueError(f"queries: {queries.shape[1]} features, expected {self.shape[1]}")
        indptr, indices, data = feature_parts(queries, "queries")
        pairs = pair_parts(exclude, (n_queries, self.shape[0]), "exclude")
        found = []
        for first in range(0, max(n_queries, 1), _QUERIES_PER_CALL):
            window = slice(first, first + _QUERIES_PER_CALL + 1)
            some = None if pairs is None else (pairs[0][window], pairs[1])
            found.append(of(window, (indptr[window], indices, data), some))
        if len(found) == 1:
            return found[0]
        ids, scores = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(scores)


@overload
def pair_scores(
    queries: Csr, rows: Csr, pairs: NDArray[np.int32], *, num_threads: int | None = None
) -> NDArray[np.float32]: ...
@overload
def pair_scores(queries: Csr, rows: Csr, pairs: Csr, *, num_threads: int | None = None) -> Csr: ...
def pair_scores(
    queries: Csr,
    rows: Csr,
    pairs: Csr | NDArray[np.int32],
    *,
    num_threads: int | None = None,
) -> Csr | NDArray[np.float32]:
    """Compute the inner products of given pairs; 0 where nothing is in common.

    A score is bit for bit the one that `LexicalIndex.search` gives. Of `rows`, only those that a
    pair names are looked at.

    Args:
        queries: Shape (N, n_features).
        rows: Shape (n_rows, n_features).
        pairs: The stored entries of a matrix (N, n_rows), or ids (N, k) padded with -1.
        num_threads: Threads; default all cores.

    Returns:
        A matrix with the entries of `pairs`; or float32 (N, k), -inf where there is no id.

    Raises:
        ValueError: Shapes disagree, an id is out of range, or a value is not finite.
    """
    shape, n_features = (queries.shape[0], rows.shape[0]), rows.shape[1]
    if queries.shape[1] != n_features:
        raise ValueError(f"queries: {queries.shape[1]} features, expected {n_features}")
    given = None
    if isinstance(pairs, np.ndarray):
        if pairs.ndim != 2 or len(pairs) != shape[0]:
            raise ValueError(f"pairs: shape {pairs.shape}, expected ({shape[0]}, k)")
        given = pairs != -1
        indptr = np.concatenate([[0], np.cumsum(given.sum(axis=1))]).astype(np.int64)
        indices = pairs[given].astype(np.int32, casting="same_kind")
    else:
        if pairs.shape != shape:
            raise ValueError(f"pairs: shape {pairs.shape}, expected {shape}")
        indptr, indices, _ = csr_parts(pairs, "pairs")
    scores = _rust.pair_scores(
        feature_parts(queries, "queries"),
        feature_parts(rows, "rows"),
        n_features,
        (indptr, indices),
        num_threads=num_threads,
    )
    if given is None:
        return joined(shape, indptr, indices, scores)
    dense = np.full(given.shape, -np.inf, np.float32)
    dense[given] = scores
    return dense


def vote_shares(cosines: NDArray[np.float32], *, power: float = 3.0) -> NDArray[np.float32]:
    """Share one vote among neighbours: ``cosine ** power``, divided by the sum over all of them.

    Args:
        cosines: Shape (N, b); 0 or less: no vote.
        power: How much more the nearest count.

    Returns:
        Same shape, float32; each row sums to 1, or to 0 if nobody votes.
    """
    votes = np.maximum(cosines, 0).astype(np.float64) ** power
    total = votes.sum(axis=1, keepdims=True)
    shares = np.divide(votes, total, out=np.zeros_like(votes), where=total != 0)
    return np.asarray(shares, np.float32)


def neighbour_votes(
    ids: NDArray[np.int32],
    cosines: NDArray[np.float32],
    y: Csr,
    *,
    power: float = 3.0,
    num_threads: int | None = None,
) -> Csr:
    """Let the nearest points of each query vote for their labels.

    The votes of a query's neighbours are ``cosine ** power``, 0 for negative cosines, divided by
    their sum; a label's votes are the sum over the neighbours that have it. For the best labels
    only, rank the result with `dexml.topk.topk`.

    Args:
        ids: The nearest points, shape (N, b), padded with -1.
        cosines: Their cosines, shape (N, b).
        y: Labels of all points, shape (n_points, n_labels); values above 0 are positives.
        power: How much more the nearest count.
        num_threads: Threads; default all cores.

    Returns:
        Shape (N, n_labels), float32; labels without votes are not stored.

    Raises:
        ValueError: Shapes disagree, a point is out of range, or a cosine is not finite.
    """
    votes = vote_shares(np.where(ids == -1, np.float32(0), cosines), power=power)
    indptr, indices, data = truth_parts(y, "y")
    if not (data > 0).all():
        positives = csr_array(y > 0)
        indptr, indices, _ = csr_parts(positives, "y")
    sums = _rust.vote_sums(
        np.ascontiguousarray(ids),
        votes,
        (indptr, indices),
        y.shape[1],
        num_threads=num_threads,
    )
    return canonical((len(ids), y.shape[1]), *sums)


def feature_parts(rows: Csr, name: str) -> CsrParts:
    """Take rows apart for the core: float32, each row sorted without duplicates.

    Args:
        rows: Shape (N, n_features).
        name: What error messages call them.
    """
    parts = csr_parts(rows, name)
    if not rows.has_canonical_format:
        sorted_rows: Any = rows.copy()
        sorted_rows.sum_duplicates()
        parts = csr_parts(sorted_rows, name)
    indptr, indices, data = parts
    if data.dtype == np.float32:
        return parts
    with np.errstate(over="ignore"):  # an infinite value is refused later, with its place
        return indptr, indices, data.astype(np.float32, copy=False)
