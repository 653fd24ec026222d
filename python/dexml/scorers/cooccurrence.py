"""Labels that go together: the labels of a text's best labels are proposed as well."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from dexml import _rust
from dexml.data import Csr, CsrParts, csr_parts
from dexml.data.parts import canonical
from dexml.index import Hits
from dexml.scorers.points import positives_of, widened

BEST = 20
"""Labels of a text whose companions are looked at."""
LONGEST = 256
"""Points with more labels than this say nothing about pairs of labels: they would fill memory."""
TEMPERATURE = 0.06


@dataclass(frozen=True, eq=False)
class Cooccurrence:
    """The labels of all points, and which of them come together; computed with the first use.

    Attributes:
        y: Labels of the points, shape (N, n_labels); stored entries are positives.
    """

    y: Csr

    @cached_property
    def companions(self) -> Csr:
        """How often each label comes with another: `companions`."""
        return companions(self.y)

    @cached_property
    def parts(self) -> CsrParts:
        """The arrays of `companions`, as the core takes them."""
        return csr_parts(self.companions, "companions")

    def counts(self, n_labels: int) -> NDArray[np.int64]:
        """Count the points of each label, shape (n_labels,); labels that `y` lacks have none."""
        return np.bincount(self.y.indices, minlength=n_labels)

    def with_points(self, y: Csr) -> Cooccurrence:
        """Append points with the labels `y`, which may have more columns than before."""
        n_labels = max(self.y.shape[1], y.shape[1])
        more = widened(positives_of(y, y.shape[0]), n_labels)
        return Cooccurrence(csr_array(vstack([widened(self.y, n_labels), more], format="csr")))


def companions(y: Csr) -> Csr:
    """Count how often labels come together: row m holds P(l given m) x n_m / (n_m + 2).

    Args:
        y: Labels of the training points, shape (N, L); stored entries are positives.

    Returns:
        Shape (L, L), float32, without the diagonal; n_m is the number of points of label m.
    """
    n_labels = y.shape[1]
    indptr, indices, _ = csr_parts(y, "y")
    counts = np.bincount(indices, minlength=n_labels)
    parts = _rust.co_occurrence(
        (indptr, indices, np.ones(len(indices), np.float32)),
        n_labels,
        top=max(n_labels, 1),
        normalise="count",
        min_count=1,
        keep_self=False,
        max_point_labels=LONGEST,
        max_label_points=None,
    )
    together = canonical((n_labels, n_labels), *parts)
    rows = np.repeat(counts + 2.0, np.diff(together.indptr))
    together.data = (together.data / rows).astype(np.float32)  # = P(l given m) x n_m / (n_m + 2)
    return together


def companion_scores(hits: Hits, matrix: Csr | CsrParts, n_labels: int) -> Csr:
    """Score the companions of each text's best labels, shape (n, n_labels).

    A label's score is the sum over the best labels m of ``sqrt(softmax(score / temperature))``
    times its entry in row m of `companions`.

    Args:
        hits: The best labels of each text, ids and scores, at least `BEST` columns.
        matrix: Of `companions`, or its arrays.
        n_labels: Columns of the result, at least those of `matrix`.
    """
    ids, scores = hits[0][:, :BEST], hits[1][:, :BEST].astype(np.float64)
    parts = matrix if isinstance(matrix, tuple) else csr_parts(matrix, "companions")
    known = (ids >= 0) & (ids < len(parts[0]) - 1)
    first = np.where(known.any(axis=1), np.where(known, scores, -np.inf).max(axis=1), 0.0)
    grown = np.where(known, np.exp((scores - first[:, None]) / TEMPERATURE), 0.0)
    total = grown.sum(axis=1, keepdims=True)
    shares = np.sqrt(grown / np.where(total > 0, total, 1.0))
    mixed = _rust.mix_rows(np.where(known, ids, np.int32(-1)), shares, parts, n_labels)
    return canonical((len(ids), n_labels), *mixed)


def top_of(
    scores: Csr, k: int, exclude: Csr | None, only: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    """Find the k labels of each row with the largest positive scores, padded with -1."""
    kept = scores.data > 0
    if only is not None:
        kept &= only[scores.indices]
    indptr = np.concatenate([[0], np.cumsum(kept)])[scores.indptr].astype(np.int64)
    pairs = None if exclude is None else csr_parts(exclude, "exclude")[:2]
    indices = scores.indices[kept].astype(np.int32)
    values = scores.data[kept].astype(np.float32)
    return _rust.topk_csr(indptr, indices, values, int(scores.shape[1]), k, pairs)[0]
