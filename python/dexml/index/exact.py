"""Exact search: every label vector compared, with scores that do not depend on how.

Matrix products propose candidates; their scores are then computed afresh, pair by pair, and rank
them. So a pair has the same score, to the bit, in every block, shard, thread and kind of search,
labels with equal vectors tie (the smaller id first), and the result is proven: see `_settled`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console
from dexml.data import Csr, csr_parts
from dexml.topk import merge

_SCORE_BLOCK = 2**25
"""Scores (128 MiB) of one matrix product."""
_ROWS = 1024
"""Queries of one matrix product."""
_GATHER = 2**22
"""Numbers (16 MiB) gathered at a time to compute scores afresh."""
SPARE = 8
"""Candidates fetched beyond k, so that rounding seldom leaves a row unsettled."""

Hits = tuple[NDArray[np.int32], NDArray[np.float32]]
"""``ids`` and ``scores``, both (n, k), best first, padded with -1 and -inf."""
Only = NDArray[np.bool_] | NDArray[np.integer[Any]]
"""A group of labels: a mask over all of them, or their ids."""


def exact_search(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    *,
    exclude: Csr | None = None,
    only: Only | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Hits:
    """Find the k vectors with the largest inner products, all of them compared.

    Memory beside inputs and result stays below about 400 MB, whatever the number of labels.

    Args:
        queries: Shape (n, D), float32, any norm.
        vectors: Shape (L, D), float32, any norm; may be memory-mapped.
        k: Labels a query; rows are padded when fewer are left.
        exclude: Pairs (query, label) to leave out, shape (n, L); k labels remain.
        only: Search these labels alone: a mask of shape (L,), or ids in any order.
        device: ``cpu``, or ``cuda``: float32 products there (needs torch).
        progress: Show a bar.

    Returns:
        ``ids`` int32 and ``scores`` float32, (n, k); equal scores: the smaller id first. On a CPU
        the same for any number of threads.

    Raises:
        ValueError: Shapes disagree, `k` is below 1, a value is not finite, an id out of range.

    Examples:
        >>> vectors = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
        >>> exact_search(np.array([[2, 1]], np.float32), vectors, 2)[0].tolist()
        [[2, 0]]
        >>> exact_search(np.array([[2, 1]], np.float32), vectors, 2, only=np.array([0, 1]))[0]
        array([[0, 1]], dtype=int32)
    """
    check_queries(queries, vectors.shape[-1] if vectors.ndim == 2 else -1, k, vectors.shape)
    if exclude is not None and exclude.shape != (len(queries), len(vectors)):
        shape = (len(queries), len(vectors))
        raise ValueError(f"exclude: shape {exclude.shape}, but queries and vectors have {shape}")
    group = None if only is None else chosen(only, len(vectors))
    space = Space(np.asarray(vectors), longest(vectors), group)
    return space.search(queries, k, exclude=exclude, device=device, progress=progress)


def exact_shard(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    first_label: int,
    *,
    exclude: Csr | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Hits:
    """Search one shard of the labels, for a process of its own; `dexml.topk.merge` joins shards.

    The joined result is that of `exact_search` over all labels, bit for bit.

    Args:
        queries: Shape (n, D), float32.
        vectors: The shard: rows `first_label`, `first_label` + 1, ... of all label vectors.
        k: Labels a query.
        first_label: Id of the shard's first label.
        exclude: Pairs (query, label) in ids of **all** labels, shape (n, L).
        device: As in `exact_search`.
        progress: Show a bar.

    Returns:
        As `exact_search`, in ids of all labels.

    Raises:
        ValueError: As `exact_search`; or the shard does not lie within the columns of `exclude`.
    """
    end = first_label + len(vectors)
    if first_label < 0 or end > np.iinfo(np.int32).max:
        raise ValueError(f"first_label = {first_label}; ids must lie in 0..2^31 - 2")
    if exclude is not None:
        if exclude.shape[0] != len(queries) or exclude.shape[1] < end:
            raise ValueError(
                f"exclude: shape {exclude.shape}, but there are {len(queries)} queries and the "
                f"shard ends at label {end}"
            )
        exclude = exclude[:, first_label:end]
    ids, scores = exact_search(
        queries, vectors, k, exclude=exclude, device=device, progress=progress
    )
    ids[ids >= 0] += np.int32(first_label)
    return ids, scores


@dataclass(frozen=True)
class Space:
    """What is searched: vectors, the longest of them, and which of them count.

    At most one of `group` (sorted ids of those that count) and `banned` (of those that do not)
    is given; `banned` costs nothing while it is short.
    """

    vectors: NDArray[np.float32]
    longest: float
    group: NDArray[np.int64] | None = None
    banned: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.vectors) if self.group is None else len(self.group)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exclude: Csr | None = None,
        device: str = "cpu",
        progress: bool = False,
        also: tuple[int, NDArray[np.int64]] | None = None,
    ) -> Hits:
        """As `exact_search`, of checked arguments.

        `also`, for a CPU and without a `group`: a second ranking of the same products, of so many
        labels and with more labels `banned`; its columns come behind those of the first.
        """
        rankings = [(slice(k), k, self)]
        if also is not None:
            other = replace(self, banned=also[1])
            rankings.append((slice(k, k + also[0]), also[0], other))
        ids = np.full((len(queries), rankings[-1][0].stop), -1, np.int32)
        scores = np.full(ids.shape, -np.inf, np.float32)
        if exclude is not None and self.group is not None:
            exclude = exclude[:, self.group]
        left = np.arange(len(queries))
        if device != "cpu" and len(self):
            from dexml.index.device import search_on

            ids, scores, sure = search_on(device, self, queries, k, exclude, progress=progress)
            left, progress = left[~sure], False  # seldom any
        # One room for all products: a fresh one for each block costs as much as its page faults.
        at_once = min(len(left), _ROWS)
        room = np.empty(max(at_once, min(_SCORE_BLOCK, at_once * len(self))), np.float32)
        with console.bar(total=len(left), desc="search", unit="point", disable=not progress) as bar:
            for start in range(0, len(left), _ROWS):
                rows = left[start : start + _ROWS]
                bar.update(len(rows))
                spread = 1
                while len(rows) and len(self):
                    some, sure = queries[rows], np.ones(len(rows), np.bool_)
                    wanted = [(spread * (n + SPARE), space) for _, n, space in rankings]
                    found = self._candidates(some, wanted, _rows(exclude, rows), room)
                    for (part, n, _), (near, unseen) in zip(rankings, found, strict=True):
                        best = ranked(some, self.vectors, near, n)
                        ids[rows, part], scores[rows, part] = best
                        sure &= self.settled(some, best[1][:, -1], unseen)
                    rows = rows[~sure]
                    spread *= 4
        return ids, scores

    def settled(
        self, queries: NDArray[np.float32], last: NDArray[np.float32], unseen: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Say for which rows nothing that was not fetched can be among the k best.

        Two float32 inner products of D numbers, summed in any order, differ by at most
        2 D 2^-24 |q| |v| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).

        Args:
            queries: Shape (n, D).
            last: The k-th score, computed afresh.
            unseen: The largest product that was not fetched; -inf if all were.
        """
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        slack = 2.1 * (queries.shape[1] + 2) * 2.0**-24 * norms * self.longest
        return np.asarray(np.isneginf(unseen) | (last > unseen + slack))

    def blocks(self, columns: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the place of the first vector of each block of `columns`, and the block."""
        for first in range(0, len(self), columns):
            if self.group is None:
                yield first, self.vectors[first : first + columns]
            else:
                yield first, self.vectors[self.group[first : first + columns]]

    def banned_in(self, first: int, n: int) -> NDArray[np.int64] | None:
        """Columns of the block of n vectors from `first` that do not count."""
        if self.banned is None:
            return None
        a, b = np.searchsorted(self.banned, [first, first + n])
        return self.banned[a:b] - first

    def labels(self, places: NDArray[np.int32]) -> NDArray[np.int32]:
        """Turn places in the group, padded with -1, into label ids."""
        if self.group is None:
            return places
        return np.where(places < 0, -1, self.group[places]).astype(np.int32)

    def _candidates(
        self,
        queries: NDArray[np.float32],
        wanted: list[tuple[int, Space]],
        exclude: Csr | None,
        room: NDArray[np.float32],
    ) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Fetch the best by matrix products, and the last of these as a bound.

        So many each time as `wanted` says, without the labels that are banned there. `room` holds
        the products of a block.
        """
        pairs = None if exclude is None else csr_parts(exclude, "exclude")[:2]
        near: list[Hits | None] = [None] * len(wanted)
        for first, block in self.blocks(max(1, len(room) // len(queries))):
            products = room[: len(queries) * len(block)].reshape(len(queries), len(block))
            np.matmul(queries, block.T, out=products)
            for at, (width, space) in enumerate(wanted):
                banned = space.banned_in(first, len(block))
                if banned is not None:
                    products[:, banned] = -np.inf
                part = _rust.topk_dense(products, min(width, len(block)), pairs, first_label=first)
                if (known := near[at]) is not None:
                    best = min(width, len(self))
                    part = merge([known[0], part[0]], [known[1], part[1]], best)
                near[at] = part
        return [
            self._fetched(hits, width)
            for hits, (width, _) in zip(near, wanted, strict=True)
            if hits
        ]

    def _fetched(self, near: Hits, width: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return labels, and the largest product that was not fetched at most; -inf if all were."""
        places, products = near
        places[np.isneginf(products)] = -1
        if width < len(self):
            return self.labels(places), products[:, -1]
        return self.labels(places), np.full(len(places), -np.inf, np.float32)


def ranked(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    candidates: NDArray[np.int32],
    k: int,
    exclude: Csr | None = None,
    *,
    num_threads: int | None = None,
) -> Hits:
    """Compute the scores of candidates pair by pair, and keep the k best.

    Args:
        queries: Shape (n, D).
        vectors: Shape (L, D).
        candidates: Label ids, shape (n, width), none twice in a row; -1 is passed over.
        k: Labels a query.
        exclude: Pairs to leave out.
        num_threads: Threads of the ranking.
    """
    known = candidates >= 0
    values = pair_scores(queries, vectors, candidates)
    pairs = None if exclude is None else csr_parts(exclude, "exclude")[:2]
    starts = np.zeros(len(queries) + 1, np.int64)
    np.cumsum(known.sum(axis=1), out=starts[1:])
    whole = starts[-1] == known.size
    return _rust.topk_csr(
        starts,
        candidates.ravel() if whole else candidates[known],
        values.ravel() if whole else values[known],
        len(vectors),
        k,
        pairs,
        num_threads=num_threads,
    )


def pair_scores(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], ids: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Scores (n, width) of the labels `ids` (n, width), each pair by itself; -1: no meaning."""
    values = np.empty(ids.shape, np.float32)
    columns = max(1, _GATHER // max(1, queries.shape[1]))
    rows = max(1, columns // max(1, ids.shape[1]))
    for row in range(0, len(queries), rows):
        for column in range(0, ids.shape[1], columns):
            part = slice(row, row + rows), slice(column, column + columns)
            gathered = vectors[ids[part]]  # of -1: the last vector, which does not count
            np.vecdot(queries[part[0], None], gathered, out=values[part])
    values += np.float32(0)  # -0 would rank below 0
    return values


def longest(vectors: NDArray[np.float32]) -> float:
    """Return the largest norm of the vectors, in blocks.

    Raises:
        ValueError: A vector is not finite; the message says which.
    """
    largest = 0.0
    for start in range(0, len(vectors), 8192):
        block = vectors[start : start + 8192]
        squares = np.vecdot(block, block)
        if not np.isfinite(squares).all():
            bad = ~np.isfinite(squares)
            row = start + int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"vectors: row {row} holds NaN, infinity or values too large to square"
            )
        largest = max(largest, float(squares.max(initial=0.0)))
    return float(np.sqrt(largest))


def chosen(only: Only, n_labels: int) -> NDArray[np.int64]:
    """Return the sorted ids of a group given as a mask or as ids.

    Raises:
        ValueError: A mask of another length; an id that is no label.
    """
    given: NDArray[Any] = np.asarray(only)
    if given.shape == (0,):
        if given.dtype == np.bool_ and n_labels:
            raise ValueError(f"only: a mask of 0 for {n_labels} labels")
        return np.zeros(0, np.int64)
    if given.ndim != 1 or given.dtype.kind not in "biu":
        raise ValueError(
            f"only: {given.dtype} of shape {given.shape}; give a mask of {n_labels} labels, or ids"
        )
    if given.dtype == np.bool_:
        if len(given) != n_labels:
            raise ValueError(f"only: a mask of {len(given)} for {n_labels} labels")
        return np.flatnonzero(given)
    ids = np.unique(given)
    for bad in ids[(ids < 0) | (ids >= n_labels)][:1]:
        raise ValueError(f"only: label {bad} lies outside 0..{n_labels - 1}")
    return ids.astype(np.int64)


def check_queries(
    queries: NDArray[np.float32], dim: int, k: int, shape: tuple[int, ...] | None = None
) -> None:
    """Refuse queries of another shape or dtype, or that are not finite, and a k below 1."""
    if queries.ndim != 2 or queries.shape[1] != dim:
        if shape is not None:
            raise ValueError(f"queries {queries.shape} and vectors {shape} do not fit")
        raise ValueError(f"queries {queries.shape}; the index has {dim} dimensions")
    if queries.dtype != np.float32:
        raise ValueError(f"queries: {queries.dtype}; expected float32")
    if k < 1:
        raise ValueError(f"k = {k}; expected at least 1")
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise ValueError(f"queries: row {int(np.flatnonzero(~finite)[0])} is not finite")


def _rows(exclude: Csr | None, rows: NDArray[np.int64]) -> Csr | None:
    if exclude is None:
        return None
    if len(rows) == rows[-1] - rows[0] + 1:
        return exclude[rows[0] : rows[-1] + 1]
    return exclude[rows]
