"""P@k, nDCG@k, PSP@k and their kin over sparse label matrices, exact and multithreaded.

Needs numpy and scipy only. Formulas and conventions: ``docs/metrics.md``. On the command line::

    python -m dexml.metrics PRED TRUTH [--train Y] [--filter PAIRS] [--metrics P@1,nDCG@5,PSP@5]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console, data
from dexml.data import Csr

DEFAULT_METRICS = ("P@1", "P@3", "P@5")
BLOCK_ROWS = 65_536
"""Rows handed to the core in one call; between calls Ctrl-C is answered."""

_AMAZON, _WIKIPEDIA, DEFAULT_CONSTANTS = (0.6, 2.6), (0.5, 0.4), (0.55, 1.5)
PROPENSITY_CONSTANTS = {
    "WikiLSHTC-325K": _WIKIPEDIA,
    "Wikipedia-500K": _WIKIPEDIA,
    "LF-Wikipedia-500K": _WIKIPEDIA,
    "LF-WikiTitles-500K": _WIKIPEDIA,
    "Amazon-670K": _AMAZON,
    "Amazon-3M": _AMAZON,
    "LF-Amazon-131K": _AMAZON,
    "LF-AmazonTitles-131K": _AMAZON,
    "LF-AmazonTitles-1.3M": _AMAZON,
    "AmazonCat-13K": DEFAULT_CONSTANTS,
    "Wiki10-31K": DEFAULT_CONSTANTS,
    "LF-WikiSeeAlso-320K": DEFAULT_CONSTANTS,
    "LF-WikiSeeAlsoTitles-320K": DEFAULT_CONSTANTS,
    "EURLex": DEFAULT_CONSTANTS,
    "EURLex-4K": DEFAULT_CONSTANTS,
    "DebTags": DEFAULT_CONSTANTS,
    "LF-DebianRelated": DEFAULT_CONSTANTS,
    "LF-WordNetRelated-117K": DEFAULT_CONSTANTS,
}
"""(A, B) of the inverse propensity by the benchmark's name."""


def inv_propensity(y_train: Csr, *, a: float = 0.55, b: float = 1.5) -> NDArray[np.float64]:
    """Inverse propensity of every label: ``1 + C (n_l + B)^(-A)``, ``C = (ln N - 1)(B + 1)^A``.

    Args:
        y_train: Training matrix, shape (N, n_labels); n_l counts its values above 0.
        a: Constant A of the data set, see `PROPENSITY_CONSTANTS`.
        b: Constant B.

    Returns:
        float64 weights, shape (n_labels,). Source: Jain et al., KDD 2016.

    Raises:
        ValueError: Fewer than 3 training points, or constants that are not finite.
    """
    _, indices, values = data.truth_parts(y_train, "y_train")
    counts = _rust.label_counts(y_train.shape[1], indices, values)
    return _rust.inv_propensity(counts, y_train.shape[0], a, b)


def evaluate(
    y_true: Csr,
    y_pred: Csr | NDArray[np.integer[Any]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    inv_propensity: NDArray[np.float64] | None = None,
    exclude: Csr | None = None,
    empty_rows: Literal["zero", "skip"] = "zero",
    psndcg: Literal["xclib", "matlab"] = "xclib",
    num_threads: int | None = None,
) -> dict[str, float]:
    """Score predictions against the truth, averaged over all points.

    A point without positives counts as 0. Ties in `y_pred` go to the smaller label id.

    Args:
        y_true: Relevant labels, shape (n_points, n_labels); values above 0 are positives.
        y_pred: CSR scores of the same shape (only stored entries are ranked), or ranked ids of
            shape (n_points, k), int32 or int64, padded with -1 at the end of a row.
        metrics: Names such as ``"nDCG@5"``: P, nDCG, R, MRR, PSP, PSnDCG, PSR.
        inv_propensity: Weights for the PS metrics, shape (n_labels,).
        exclude: Pairs to drop from the rankings before they are cut to k, same shape as `y_true`.
        empty_rows: ``"skip"`` leaves points without positives out of the average.
        psndcg: Convention of PSnDCG: as pyxclib or as the Matlab scripts.
        num_threads: Threads; default all cores. The result does not depend on it.

    Returns:
        A fraction for each name, in the order of `metrics`.

    Raises:
        ValueError: Shapes disagree, a name is unknown, a PS metric lacks its weights, a row has
            duplicate or out-of-range labels or NaN scores.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> y_true = csr_array(np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32))
        >>> evaluate(y_true, np.array([[0, 1], [0, 1]]), ["P@1", "P@2", "R@2"])
        {'P@1': 0.5, 'P@2': 0.5, 'R@2': 0.75}
    """
    evaluator = Evaluator(
        y_true.shape[1],
        metrics,
        inv_propensity=inv_propensity,
        empty_rows=empty_rows,
        psndcg=psndcg,
        num_threads=num_threads,
    )
    evaluator.update(y_true, y_pred, exclude=exclude)
    return evaluator.result().metrics


@dataclass(frozen=True)
class Result:
    """Scores with what they rest on.

    `rows` holds values per point where the evaluator kept them: ``(values, None)``, or numerator
    and denominator for the PS metrics, which are ratios of sums. NaN marks a skipped point.
    """

    metrics: dict[str, float]
    n_points: int
    n_labels: int
    n_empty: int
    n_excluded: int
    n_excluded_positives: int
    conventions: dict[str, str]
    rows: dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]

    def standard_errors(
        self, groups: Sequence[str] | None = None, *, seed: int, n_resamples: int = 1000
    ) -> dict[str, float]:
        """Bootstrap standard errors over points, or over groups of points that belong together.

        Needs an evaluator with ``keep_rows=True``.

        Args:
            groups: A key a point; points with one key are drawn together.
            seed: Seed of the resampling.
            n_resamples: Number of bootstrap samples.
        """
        if not self.rows:
            raise ValueError("standard errors need Evaluator(..., keep_rows=True)")
        if groups is not None and len(groups) != self.n_points:
            raise ValueError(f"groups: {len(groups)} keys for {self.n_points} points")
        _, group = np.unique(
            np.arange(self.n_points) if groups is None else np.asarray(groups), return_inverse=True
        )
        n_groups = int(group.max()) + 1
        sums = []  # (numerator, denominator) of every metric, summed within groups
        for values, denominator in self.rows.values():
            weight = ~np.isnan(values) if denominator is None else np.nan_to_num(denominator)
            for column in (np.nan_to_num(values), weight):
                sums.append(np.bincount(group, column, n_groups))
        sums_array = np.stack(sums, axis=1)
        generator = np.random.default_rng(seed)
        draws = np.empty((n_resamples, sums_array.shape[1]))
        for i in range(n_resamples):
            drawn = np.bincount(generator.integers(n_groups, size=n_groups), minlength=n_groups)
            draws[i] = drawn @ sums_array
        with np.errstate(invalid="ignore"):
            spread = np.nanstd(draws[:, 0::2] / draws[:, 1::2], axis=0, ddof=1)
        return {name: float(value) for name, value in zip(self.rows, spread, strict=True)}

    def as_json(self) -> dict[str, Any]:
        """Return everything but the rows, for ``metrics.json`` and ``--json``."""
        return {
            "metrics": self.metrics,
            "n_points": self.n_points,
            "n_labels": self.n_labels,
            "n_empty": self.n_empty,
            "n_excluded": self.n_excluded,
            "n_excluded_positives": self.n_excluded_positives,
            "conventions": self.conventions,
        }


class Evaluator:
    """Streaming evaluation: `update` with block after block of points, then `result`.

    Args:
        n_labels: Number of labels.
        metrics: Names such as ``"nDCG@5"``.
        inv_propensity: Weights for the PS metrics, shape (n_labels,).
        empty_rows: ``"zero"`` or ``"skip"``.
        psndcg: ``"xclib"`` or ``"matlab"``.
        keep_rows: Keep the value of every point too (16 bytes a point and metric at most).
        num_threads: Threads; default all cores. The result is bit-equal for any number.
    """

    def __init__(
        self,
        n_labels: int,
        metrics: Sequence[str] = DEFAULT_METRICS,
        *,
        inv_propensity: NDArray[np.float64] | None = None,
        empty_rows: Literal["zero", "skip"] = "zero",
        psndcg: Literal["xclib", "matlab"] = "xclib",
        keep_rows: bool = False,
        num_threads: int | None = None,
    ) -> None:
        if isinstance(metrics, str):
            raise ValueError(f"metrics: give a list of names such as ['{metrics}'], not a string")
        if inv_propensity is not None:
            inv_propensity = np.ascontiguousarray(inv_propensity, dtype=np.float64)
        self._metrics = [f"{kind}@{k}" for kind, k in _rust.parse_metrics(list(metrics))]
        self._n_labels = n_labels
        self._keep_rows = keep_rows
        self._conventions = {"empty_rows": empty_rows, "psndcg": psndcg, "ties": "smaller id first"}
        self._core = _rust.Evaluator(
            n_labels,
            self._metrics,
            inv_propensity=inv_propensity,
            empty_rows=empty_rows,
            psndcg=psndcg,
            keep_rows=keep_rows,
            num_threads=num_threads,
        )

    def update(
        self,
        y_true: Csr,
        y_pred: Csr | NDArray[np.integer[Any]],
        *,
        exclude: Csr | None = None,
    ) -> None:
        """Add points. Arguments and errors as for :func:`evaluate`; arrays are never changed.

        An error in one row block leaves the points before that block counted.
        """
        indptr, indices, values = data.truth_parts(y_true, "y_true")
        if y_true.shape[1] != self._n_labels:
            raise ValueError(
                f"y_true: {y_true.shape[1]} labels, but the evaluator has {self._n_labels}"
            )
        n_points = y_true.shape[0]
        pairs = data.pair_parts(exclude, y_true.shape, "exclude")
        ids = y_pred if isinstance(y_pred, np.ndarray) else None
        scores = None if isinstance(y_pred, np.ndarray) else data.csr_parts(y_pred, "y_pred")
        expected = y_true.shape if ids is None else (n_points, "k")
        if y_pred.ndim != 2 or y_pred.shape[0] != n_points or (scores and y_pred.shape != expected):
            raise ValueError(f"y_pred: shape {y_pred.shape}, expected {expected} as in y_true")
        if ids is not None and ids.dtype not in (np.int32, np.int64):
            raise ValueError(
                f"y_pred: ids of dtype {ids.dtype}; give int32 or int64 ids, or CSR scores"
            )
        for start in range(0, n_points, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, n_points)
            window = slice(start, stop + 1)
            truth = (indptr[window], indices, values)
            block_pairs = None if pairs is None else (pairs[0][window], pairs[1])
            if scores is not None:
                self._core.update_csr(truth, (scores[0][window], *scores[1:]), block_pairs)
            elif ids is not None:
                block = np.ascontiguousarray(ids[start:stop])
                self._core.update_ids(truth, block, block_pairs)

    def merge(self, other: Evaluator) -> None:
        """Add the points of `other`, an evaluator of the same labels, metrics and options."""
        self._core.merge(other._core)

    def result(self) -> Result:
        """Return the scores so far.

        Raises:
            ValueError: No point is left to average over, or a PS metric has the denominator 0.
        """
        core = self._core
        return Result(
            metrics={name: core.value(name) for name in self._metrics},
            n_points=core.n_rows,
            n_labels=self._n_labels,
            n_empty=core.n_empty,
            n_excluded=core.n_excluded,
            n_excluded_positives=core.n_excluded_positives,
            conventions=dict(self._conventions),
            rows={n: core.row_values(n) for n in self._metrics} if self._keep_rows else {},
        )


def propensity_constants(name: str) -> tuple[float, float]:
    """Return (A, B) of a benchmark by its exact name; an unknown name is a ``ValueError``."""
    if name not in PROPENSITY_CONSTANTS:
        hint = console.did_you_mean(name, list(PROPENSITY_CONSTANTS))
        raise ValueError(f"no propensity constants for '{name}'{hint}; or give --a and --b")
    return PROPENSITY_CONSTANTS[name]
