"""Sparse rows that are searched, and matrices with more or other rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from dexml import _rust, data
from dexml.data import Csr, CsrParts
from dexml.scorers.candidates import Candidates
from dexml.scorers.points import widened
from dexml.sealed import Part
from dexml.text.lexical import LexicalIndex, feature_parts


@dataclass(frozen=True, eq=False)
class Searched:
    """Sparse rows and the index over them, which is built with the first search."""

    rows: Csr

    @cached_property
    def index(self) -> LexicalIndex:
        """The index."""
        return LexicalIndex(self.rows)

    def prepare(self) -> None:
        """Build the index now rather than with the first search."""
        _ = self.index

    @cached_property
    def _parts(self) -> CsrParts:
        return feature_parts(self.rows, "rows")

    def scores(self, queries: Csr, pairs: Candidates) -> NDArray[np.float32]:
        """Compute the inner products of candidates with the rows of their labels, (n_pairs,)."""
        parts, n_features = feature_parts(queries, "queries"), self.rows.shape[1]
        return _rust.pair_scores(
            parts, self._parts, n_features, (pairs.indptr, pairs.ids), trusted=True
        )

    def wider(self, n_columns: int) -> Searched:
        """Return the rows with empty columns at the end; nothing is copied."""
        return self if self.rows.shape[1] == n_columns else Searched(widened(self.rows, n_columns))


def longer(matrix: Csr, n_rows: int) -> Csr:
    """Append empty rows up to `n_rows`."""
    more = n_rows - matrix.shape[0]
    if not more:
        return matrix
    indptr = np.concatenate([matrix.indptr, np.full(more, matrix.indptr[-1])])
    return csr_array((matrix.data, matrix.indices, indptr), shape=(n_rows, matrix.shape[1]))


def with_rows(matrix: Csr, n_rows: int, rows: NDArray[np.int64], fresh: Csr) -> Csr:
    """Replace some rows of a matrix, which gets `n_rows` rows."""
    source = np.arange(n_rows)
    source[rows] = n_rows + np.arange(len(rows))
    both = csr_array(vstack([longer(matrix, n_rows), fresh], format="csr"))
    return csr_array(both[source])


def matrix_part(matrix: Csr) -> Part:
    """Make a matrix a file of a run."""
    return Part(lambda path: data.save_scores(path, matrix, compressed=False), ".npz", (matrix,))
