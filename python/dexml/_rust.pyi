"""The Rust core on numpy arrays.

Arrays are C-contiguous: `indptr` int64, `indices` int32, `data` float32, and nothing is converted.
A matrix is passed as `(indptr, indices, data)`, where `indptr` may be a window of a larger one. Bad
content, shapes and ranges raise `ValueError`, wrong element types `TypeError`.
"""

from collections.abc import Sequence
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Evaluator",
    "NegativeSampler",
    "check_csr",
    "co_occurrence",
    "inv_propensity",
    "label_counts",
    "load_labels",
    "load_pairs",
    "merge_topk",
    "parse_metrics",
    "random_walk",
    "save_labels",
    "topk_csr",
    "topk_dense",
]

_Pattern: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32]]
_Truth: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
_Scores: TypeAlias = tuple[
    NDArray[np.int64], NDArray[np.int32], NDArray[np.float32] | NDArray[np.float64]
]
_Ranking: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32]]

def load_labels(
    path: str, *, missing_value: float | None = None, num_threads: int | None = None
) -> tuple[tuple[int, int], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Read label text: shape, indptr, indices, data. Ctrl-C is heard."""

def load_pairs(
    path: str, n_rows: int, n_labels: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """Read filter pairs: indptr, indices, number of repeated pairs merged."""

def save_labels(
    path: str,
    n_labels: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32],
) -> None:
    """Write label text beside the file, then replace it."""

def check_csr(
    name: str,
    n_rows: int,
    n_labels: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32],
) -> _Ranking | None:
    """Check a matrix with the rules of the text loader; sorted indices and data if unsorted."""

def label_counts(
    n_labels: int, indices: NDArray[np.int32], data: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Count the values > 0 of each label."""

def inv_propensity(
    counts: NDArray[np.int64], n_points: int, a: float, b: float
) -> NDArray[np.float64]:
    """Weigh each label by `1 + C (count + b) ** -a`."""

def topk_csr(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32] | NDArray[np.float64],
    n_labels: int,
    k: int,
    exclude: _Pattern | None = None,
    *,
    num_threads: int | None = None,
) -> _Ranking:
    """Rank the stored entries of each row: ids and scores (n, k), padded with -1 and -inf."""

def topk_dense(
    scores: NDArray[np.float32],
    k: int,
    exclude: _Pattern | None = None,
    *,
    first_label: int = 0,
    num_threads: int | None = None,
) -> _Ranking:
    """Rank dense rows whose first column is `first_label`; `exclude` holds global label ids."""

def merge_topk(
    ids: Sequence[NDArray[np.int32]],
    scores: Sequence[NDArray[np.float32]],
    k: int,
    *,
    num_threads: int | None = None,
) -> _Ranking:
    """Merge the rankings of label shards, (n, width) each, over disjoint labels, row by row."""

def random_walk(
    y_train: _Truth,
    n_labels: int,
    *,
    n_steps: int,
    restart: float,
    top: int,
    min_count: int,
    keep_self: bool,
    seed: int,
    max_point_labels: int | None = None,
    max_label_points: int | None = None,
    num_threads: int | None = None,
) -> _Truth:
    """Walk from each label: visits as a CSR matrix of labels by labels. Ctrl-C is heard."""

def co_occurrence(
    y_train: _Truth,
    n_labels: int,
    *,
    normalise: str,
    top: int,
    min_count: int,
    keep_self: bool,
    max_point_labels: int | None = None,
    max_label_points: int | None = None,
    num_threads: int | None = None,
) -> _Truth:
    """Count common points: weights as a CSR matrix of labels by labels. Ctrl-C is heard."""

@final
class NegativeSampler:
    """Draws negatives for points of `y`; everything is prepared once and owned."""

    def __new__(
        cls,
        y: _Truth,
        n_labels: int,
        n_negatives: int,
        sources: Sequence[tuple[str, float]],
        *,
        alpha: float,
        smoothing: float,
        exclude: _Pattern | None = None,
        candidates: NDArray[np.bool_] | None = None,
        graph: _Truth | None = None,
        even_edges: bool = False,
        shortlist_rows: _Pattern | None = None,
        shortlist_ids: NDArray[np.int32] | None = None,
        num_threads: int | None = None,
    ) -> NegativeSampler: ...
    def draw(self, rows: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int32]:
        """Draw negatives of points, shape (n, n_negatives), padded with -1."""

    @property
    def mixture(self) -> list[tuple[str, int]]:
        """How many negatives of a row come from each source, in the order of a row."""

def parse_metrics(names: Sequence[str]) -> list[tuple[str, int]]:
    """Split metric names into kind and k."""

@final
class Evaluator:
    """Sums of every kind of metric at every k up to the largest of `metrics`.

    The result is the same to the last bit for any number of threads and any cut into updates.
    Threads share an update by blocks of 4,096 rows, so large updates use them best. A failing
    update leaves the evaluator as it was; rows in its message count from the start of the stream.
    """

    def __new__(
        cls,
        n_labels: int,
        metrics: Sequence[str],
        *,
        inv_propensity: NDArray[np.float64] | None = None,
        empty_rows: str = "zero",
        psndcg: str = "xclib",
        keep_rows: bool = False,
        num_threads: int | None = None,
    ) -> Evaluator: ...
    def update_csr(self, y_true: _Truth, y_pred: _Scores, exclude: _Pattern | None = None) -> None:
        """Add points with scored labels; every stored entry is ranked."""

    def update_ids(
        self,
        y_true: _Truth,
        ids: NDArray[np.int32] | NDArray[np.int64],
        exclude: _Pattern | None = None,
    ) -> None:
        """Add points with ranked labels, shape (n, width), padded with -1."""

    def merge(self, other: Evaluator) -> None:
        """Add the rows of another evaluator with the same settings."""

    def value(self, metric: str) -> float:
        """Return any kind of metric at any k up to the largest of the list."""

    def row_values(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return a metric of the list for each row: `(values, None)`, or numerator and denominator.

        Rows that `empty_rows="skip"` leaves out are NaN.
        """

    @property
    def n_rows(self) -> int:
        """Rows so far."""

    @property
    def n_empty(self) -> int:
        """Rows without positives."""

    @property
    def n_excluded(self) -> int:
        """Entries dropped from rankings."""

    @property
    def n_excluded_positives(self) -> int:
        """Positives that were excluded, each a sure miss."""
