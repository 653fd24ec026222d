"""The labels that are ranked for each text: the union of what several members propose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import Csr


@dataclass(frozen=True)
class Candidates:
    """Pairs of a text and a label, text by text, labels ascending.

    Text i has the labels ``ids[indptr[i]:indptr[i + 1]]``. Functions here take and give one number
    a pair, in the order of `ids`.
    """

    indptr: NDArray[np.int64]
    """Shape (n + 1,)."""
    ids: NDArray[np.int32]
    """Label ids, shape (n_pairs,)."""
    n_labels: int

    @classmethod
    def union(cls, proposals: Sequence[NDArray[np.int32]], n_labels: int) -> Candidates:
        """Collect the labels of proposals, each (n, width) padded with -1, once for each text."""
        ids = np.sort(np.concatenate(proposals, axis=1), axis=1)
        kept = ids >= 0
        kept[:, 1:] &= ids[:, 1:] != ids[:, :-1]
        indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
        return cls(indptr, ids[kept], n_labels)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_texts(self) -> int:
        """Number of texts."""
        return len(self.indptr) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Labels of each text, (n,)."""
        return np.diff(self.indptr)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The text of each pair."""
        return np.repeat(np.arange(self.n_texts), self.lengths)

    @cached_property
    def matrix(self) -> Csr:
        """The pairs as the entries of a matrix, (n, n_labels), all 1."""
        ones = np.ones(len(self.ids), np.float32)
        return csr_array((ones, self.ids, self.indptr), shape=(self.n_texts, self.n_labels))

    @cached_property
    def padded(self) -> NDArray[np.int32]:
        """The labels of each text as a row, padded with -1, shape (n, longest)."""
        lengths = self.lengths
        ids = np.full((self.n_texts, int(lengths.max(initial=0))), -1, np.int32)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = self.ids
        return ids

    def flat(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take numbers that are laid out as `padded`, one for each pair."""
        return values[self.padded >= 0]

    def select(self, texts: NDArray[np.int64]) -> tuple[Candidates, NDArray[np.int64]]:
        """Return the pairs of some texts, and their positions among all pairs."""
        lengths = self.lengths[texts]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        shift = np.repeat(self.indptr[texts] - indptr[:-1], lengths)
        pairs = np.arange(indptr[-1]) + shift
        return Candidates(indptr.astype(np.int64), self.ids[pairs], self.n_labels), pairs

    def values_of(self, matrix: Csr, missing: float = 0.0) -> NDArray[np.float32]:
        """Look up the pairs in a sparse matrix (n, n_labels or fewer).

        Where nothing is stored, a pair gets `missing`.

        The columns of its rows must ascend.
        """
        values = np.full(len(self.ids), missing, np.float32)
        if self.n_texts == 1:
            entries, wanted = matrix.indices, self.ids
        else:
            width = max(self.n_labels, int(matrix.shape[1]))
            entries = np.repeat(np.arange(self.n_texts), np.diff(matrix.indptr)) * width
            entries += matrix.indices
            wanted = self.rows * width + self.ids
        if len(entries):
            position = np.minimum(np.searchsorted(entries, wanted), len(entries) - 1)
            there = entries[position] == wanted
            values[there] = matrix.data[position[there]]
        return values

    def ranks(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``-ln(1 + rank)`` of each score in its text, from rank 0; ties: the smaller id.

        Negative, so that it rises with the score as all evidence does.
        """
        ranks = _rust.ranks_in_rows(self.indptr, np.ascontiguousarray(scores))
        return self._by_rank[ranks]

    @cached_property
    def _by_rank(self) -> NDArray[np.float32]:
        return -np.log1p(np.arange(self.lengths.max(initial=0))).astype(np.float32)

    def largest(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return for each pair the largest score of its text."""
        best = np.zeros(self.n_texts, np.float32)
        if self.n_texts == 1 and len(scores):
            return np.full(len(scores), scores.max(), np.float32)
        there = self.lengths > 0
        if len(scores):
            best[there] = np.maximum.reduceat(scores, self.indptr[:-1][there])
        return best[self.rows]
