"""Evaluation in blocks of rows; the Rust core computes the sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, data, shown
from dexml.data import Csr
from dexml.metrics.binned import KINDS, Places
from dexml.metrics.fingerprint import TruthFingerprint
from dexml.metrics.labelgroups import GroupResult, LabelGroups
from dexml.metrics.result import Result
from dexml.metrics.swapped import warn_if_swapped

DEFAULT_METRICS = ("P@1", "P@3", "P@5")
BLOCK_ROWS = 65_536
"""Rows that go to the core in one call. Between calls, Python can answer Ctrl-C."""

# Conventions that are printed with the results.
_TIES = {"smaller": "smaller id first", "larger": "larger id first"}
_LABEL_WISE = {
    "Coverage": ("coverage", "labels hit at least once / all labels"),
    "macroP": ("macro", "mean over all labels, 0/0 = 0"),
    "macroR": ("macro", "mean over all labels, 0/0 = 0"),
    "macroF": ("macro", "mean over all labels, 0/0 = 0"),
}
_SET = ("set", "the first k predicted labels, 0/0 = 0")
_PROBABILITIES = ("probabilities", "of the first k predicted labels, each label counted once")
_AT_ITS_K = {
    "AP": ("AP, RP", "over min(k, positives)"),
    "RP": ("AP, RP", "over min(k, positives)"),
    **dict.fromkeys(("microP", "microR", "microF", "sampleP", "sampleR", "sampleF"), _SET),
    **dict.fromkeys(("Hamming", "Exact"), _SET),
    **dict.fromkeys(("Brier", "NLL"), _PROBABILITIES),
    **dict.fromkeys(KINDS, (_PROBABILITIES[0], f"{_PROBABILITIES[1]}; 10 bins")),
}


def evaluate(
    y_true: Csr,
    y_pred: Csr | NDArray[np.integer[Any]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    inv_propensity: NDArray[np.float64] | None = None,
    exclude: Csr | None = None,
    empty_rows: Literal["zero", "skip"] = "zero",
    psndcg: Literal["xclib", "matlab"] = "xclib",
    ties: Literal["smaller", "larger"] = "smaller",
    num_threads: int | None = None,
) -> dict[str, float]:
    """Score predictions against the truth, averaged over all points.

    A point without positives counts as 0. Ties in `y_pred` go to the smaller label id.

    Args:
        y_true: Relevant labels, shape (n_points, n_labels); values above 0 are positives.
        y_pred: CSR scores of the same shape (only stored entries are ranked), or ranked ids of
            shape (n_points, k), int32 or int64, padded with -1 at the end of a row. The array may
            be mapped from a file (``np.load(..., mmap_mode="r")``), because it is read in blocks.
        metrics: Names such as ``"nDCG@5"``: P, nDCG, R, MRR, Success, AP, RP, PSP, PSnDCG, PSR;
            means over labels: Coverage, macroP, macroR, macroF; of the first k labels as a set:
            microP, microR, microF, sampleP, sampleR, sampleF, Hamming, Exact; where `y_pred` holds
            probabilities: ECE, ECEover, ECEunder, ACE, Brier, NLL. In any case, and under other
            common names (``"recall@5"``, ``"hit@1"``, ``"MAP@10"``, ``"micro-f1@100"``).
        inv_propensity: Weights for the PS metrics, shape (n_labels,); see `inv_propensity`.
        exclude: Pairs to drop from the rankings before they are cut to k, same shape as `y_true`.
        empty_rows: ``"zero"`` counts points without positives as 0, ``"skip"`` leaves them out.
        psndcg: Convention of PSnDCG: ``"xclib"`` as pyxclib, ``"matlab"`` as the Matlab scripts.
        ties: Which of two labels with equal scores ranks first: the ``"smaller"`` or the
            ``"larger"`` id. Ranked ids have no ties.
        num_threads: Threads; default all cores. The result does not depend on it.

    Returns:
        A fraction for each name, in the order of `metrics`.

    Raises:
        ValueError: Shapes disagree, a name is unknown, a PS metric lacks its weights, a metric of
            probabilities gets ids or scores outside 0..1, or a row has duplicate labels, labels
            out of range or NaN scores.

    Warns:
        SwappedWarning: `y_true` looks like predictions and `y_pred` like truth. Other tools take
            them in the other order.

    Examples:
        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> y_true = csr_array(np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32))
        >>> evaluate(y_true, np.array([[0, 1], [0, 1]]), ["P@1", "P@2", "R@2"])
        {'P@1': 0.5, 'P@2': 0.5, 'R@2': 0.75}
    """
    data.expect_csr(y_true, "y_true")
    evaluator = Evaluator(
        y_true.shape[1],
        metrics,
        inv_propensity=inv_propensity,
        empty_rows=empty_rows,
        psndcg=psndcg,
        ties=ties,
        num_threads=num_threads,
    )
    warn_if_swapped(y_true, y_pred)
    evaluator._update(y_true, y_pred, exclude)
    found = evaluator.result().metrics
    return dict(zip(metrics, (found[name] for name in evaluator._metrics), strict=True))


class Evaluator:
    """Evaluate in blocks: call `update` for each block of points, then `result`.

    The result is bit-equal for any number of threads, any cut into blocks and any order of merges.

    Args:
        n_labels: Number of labels.
        metrics: Names such as ``"nDCG@5"``, as for `evaluate`.
        inv_propensity: Weights for the PS metrics, shape (n_labels,).
        empty_rows: ``"zero"`` or ``"skip"``, as for `evaluate`.
        psndcg: ``"xclib"`` or ``"matlab"``, as for `evaluate`.
        ties: ``"smaller"`` or ``"larger"``, as for `evaluate`.
        label_groups: Groupings by name. Every group of them is scored as well (`GroupResult`).
            Builders: `frequency_groups`, `decile_groups`, `seen_groups`; `LabelGroups` takes any
            other grouping.
        keep_rows: Also keep the value of every point, at most 16 bytes for each point and metric.
            Means over labels have no such values; for errors of bins (ECE, ACE) the probabilities
            of the first k labels are kept, 9 bytes each.
        num_threads: Threads; default all cores.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> y_true = csr_array(np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32))
        >>> halves = LabelGroups(["first", "rest"], [0, 1, 1])
        >>> evaluator = Evaluator(3, ["P@1", "R@2"], label_groups={"half": halves})
        >>> evaluator.update(y_true, np.array([[0, 1], [0, 1]]))
        >>> evaluator.result().groups["half"]["rest"].metrics
        {'P@1': 0.0, 'R@2': 0.5}
    """

    def __init__(
        self,
        n_labels: int,
        metrics: Sequence[str] = DEFAULT_METRICS,
        *,
        inv_propensity: NDArray[np.float64] | None = None,
        empty_rows: Literal["zero", "skip"] = "zero",
        psndcg: Literal["xclib", "matlab"] = "xclib",
        ties: Literal["smaller", "larger"] = "smaller",
        label_groups: Mapping[str, LabelGroups] | None = None,
        keep_rows: bool = False,
        num_threads: int | None = None,
    ) -> None:
        if isinstance(metrics, str):
            raise ValueError(f"metrics: give a list of names such as ['{metrics}'], not a string")
        if inv_propensity is not None:
            inv_propensity = np.ascontiguousarray(inv_propensity, dtype=np.float64)
        parsed = _rust.parse_metrics(list(metrics))
        self._metrics = [f"{kind}@{k}" for kind, k in parsed]
        without_rows = {*_LABEL_WISE, *KINDS}
        self._without_rows = {f"{kind}@{k}" for kind, k in parsed if kind in without_rows}
        deepest = max((k for kind, k in parsed if kind in KINDS), default=0)
        self._deepest = deepest if keep_rows else 0
        self._places: list[Places] = []
        self._cuts_of_p = [k for kind, k in parsed if kind == "P"]
        self._n_labels = n_labels
        self._groups = dict(label_groups or {})
        for name, groups in self._groups.items():
            if not isinstance(groups, LabelGroups):
                raise ValueError(
                    f"label_groups: '{name}' is a {type(groups).__name__}; give LabelGroups"
                )
        self._keep_rows = keep_rows
        self._num_threads = num_threads
        self._truth = TruthFingerprint()
        self._core = _rust.Evaluator(
            n_labels,
            self._metrics,
            inv_propensity=inv_propensity,
            empty_rows=empty_rows,
            psndcg=psndcg,
            ties=ties,
            label_groups=[(n, len(g.names), g.of_label) for n, g in self._groups.items()],
            keep_rows=keep_rows,
            num_threads=num_threads,
        )
        self._conventions = {"empty_rows": empty_rows, "psndcg": psndcg, "ties": _TIES[ties]}
        for kind, _ in parsed:
            if told := (_LABEL_WISE | _AT_ITS_K).get(kind):
                self._conventions[told[0]] = told[1]

    def update(
        self,
        y_true: Csr,
        y_pred: Csr | NDArray[np.integer[Any]],
        *,
        exclude: Csr | None = None,
    ) -> None:
        """Add points. The arrays are not changed.

        After an error, the blocks before the faulty one stay counted. Rows in error messages count
        from the first point that the evaluator ever got, earlier updates and merges included.

        Args:
            y_true: Relevant labels, shape (n_points, n_labels), as for `evaluate`.
            y_pred: CSR scores or ranked ids, as for `evaluate`.
            exclude: Pairs to drop from the rankings first, same shape as `y_true`.

        Raises:
            ValueError: Shapes or dtypes do not fit, or a row has duplicate labels, labels out of
                range or NaN scores.

        Warns:
            SwappedWarning: As for `evaluate`.
        """
        warn_if_swapped(y_true, y_pred)
        self._update(y_true, y_pred, exclude)

    def _update(
        self, y_true: Csr, y_pred: Csr | NDArray[np.integer[Any]], exclude: Csr | None
    ) -> None:
        truth = _csr(y_true, "y_true")
        if y_true.shape[1] != self._n_labels:
            raise ValueError(
                f"y_true: {y_true.shape[1]} labels, but the evaluator has {self._n_labels}"
            )
        n_points = y_true.shape[0]
        pairs = None if exclude is None else _csr(exclude, "exclude")
        if pairs is not None and pairs.shape != truth.shape:
            raise ValueError(f"exclude: shape {pairs.shape}, but y_true has {truth.shape}")
        if isinstance(y_pred, np.ma.MaskedArray):  # the mask would be lost
            raise ValueError("y_pred: a masked array; give y_pred.filled(-1), padded with -1")
        ids = y_pred if isinstance(y_pred, np.ndarray) else None
        scores = None if isinstance(y_pred, np.ndarray) else _csr(y_pred, "y_pred")
        expected = y_true.shape if ids is None else (n_points, "k")
        if y_pred.ndim != 2 or y_pred.shape[0] != n_points or (scores and y_pred.shape != expected):
            raise ValueError(f"y_pred: shape {y_pred.shape}, expected {expected} as in y_true")
        if ids is not None and ids.dtype not in (np.int32, np.int64):
            raise ValueError(
                f"y_pred: ids of dtype {ids.dtype}; give int32 or int64 ids, or CSR scores"
            )
        for start in range(0, n_points, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, n_points))
            block = data.truth_parts(truth.window(rows), "y_true")
            dropped = None
            if pairs is not None:
                dropped = data.csr_parts(pairs.window(rows), "exclude")[:2]
            if scores is not None:
                parts = data.csr_parts(scores.window(rows), "y_pred")
                self._core.update_csr(block, parts, dropped)
                if self._deepest:
                    self._places.append(self._block_places(block, parts, dropped))
            elif ids is not None:
                self._core.update_ids(block, np.ascontiguousarray(ids[rows]), dropped)
            if self._keep_rows:
                self._truth.add(*block)

    def _block_places(
        self,
        y_true: data.CsrParts,
        y_pred: data.CsrParts,
        exclude: tuple[NDArray[np.int64], NDArray[np.int32]] | None,
    ) -> Places:
        return Places.of(
            y_true,
            y_pred,
            exclude,
            self._n_labels,
            self._deepest,
            larger_first=self._conventions["ties"] == _TIES["larger"],
            skip_empty=self._conventions["empty_rows"] == "skip",
        )

    def _facts(self) -> dict[str, object]:
        return {
            "labels": self._n_labels,
            "metrics": ", ".join(self._metrics),
            "points": self._core.n_rows,
        }

    def __repr__(self) -> str:
        return shown.line("Evaluator", self._facts())

    def _repr_html_(self) -> str:
        return shown.html("Evaluator", self._facts())

    def merge(self, other: Evaluator) -> None:
        """Add the points of `other`, an evaluator with the same labels, metrics and options.

        Raises:
            TypeError: `other` is not an evaluator.
            ValueError: The evaluators differ.
        """
        if not isinstance(other, Evaluator):
            raise TypeError(f"other: expected an Evaluator, not {type(other).__name__}")
        for name in (name for name in self._groups if name in other._groups):
            names = zip_longest(self._groups[name].names, other._groups[name].names)
            for i, (mine, theirs) in enumerate(names):
                if mine != theirs:
                    raise ValueError(
                        f"cannot merge evaluators of different label groups: group {i} of "
                        f"'{name}' is {mine!r} in one and {theirs!r} in the other"
                    )
        joined = copy(other._truth)  # a copy, because `other` may be this evaluator
        self._core.merge(other._core)
        self._truth.join(joined)
        self._places = [*self._places, *other._places]

    def __getstate__(self) -> dict[str, Any]:
        """Return plain data, for ``copy`` and for the pickles that multiprocessing sends."""
        return vars(self) | {"_core": self._core.to_bytes(), "_truth": copy(self._truth)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._core = _rust.Evaluator.from_bytes(state["_core"], self._num_threads)

    def result(self) -> Result:
        """Return the scores of all points so far.

        Raises:
            ValueError: No point is left to average over, or a PS metric has the denominator 0.
        """
        core = self._core
        kept = [name for name in self._metrics if name not in self._without_rows]
        groups = {
            grouping: {name: self._group(i, j) for j, name in enumerate(groups.names)}
            for i, (grouping, groups) in enumerate(self._groups.items())
        }
        return Result(
            metrics={name: core.value(name) for name in self._metrics},
            n_points=core.n_rows,
            n_labels=self._n_labels,
            n_empty=core.n_empty,
            n_excluded=core.n_excluded,
            n_excluded_positives=core.n_excluded_positives,
            conventions=dict(self._conventions),
            rows={name: core.row_values(name) for name in kept} if self._keep_rows else {},
            groups=groups,
            places=Places.joined(self._places) if self._places else None,
            truth=self._truth.hex() if self._keep_rows else None,
        )

    def _group(self, grouping: int, group: int) -> GroupResult:
        core = self._core
        n_labels, n_points, n_positives = core.group_counts(grouping, group)
        values = core.group_values(grouping, group, self._metrics)
        return GroupResult(
            metrics=dict(zip(self._metrics, values, strict=True)),
            contribution={f"P@{k}": core.contribution(grouping, group, k) for k in self._cuts_of_p},
            n_labels=n_labels,
            n_points=n_points,
            n_positives=n_positives,
        )


class _CsrRows(NamedTuple):
    """A CSR matrix, or rows of it, as views, so that only a block is converted at a time."""

    shape: tuple[int, int]
    indptr: NDArray[np.integer[Any]]
    indices: NDArray[np.integer[Any]]
    data: NDArray[Any]
    format: str = "csr"

    def window(self, rows: slice) -> Csr:
        indptr = self.indptr[rows.start : rows.stop + 1]
        first, last = int(indptr[0]), int(indptr[-1])
        if first < 0:  # not shifted, which would hide the fault: the core then names the row
            unshifted: Any = self._replace(
                indptr=indptr, shape=(rows.stop - rows.start, self.shape[1])
            )
            return unshifted
        entries = slice(first, max(first, last))
        shape = (rows.stop - rows.start, self.shape[1])
        shifted = indptr.astype(np.int64) - first
        window: Any = _CsrRows(shape, shifted, self.indices[entries], self.data[entries])
        return window


def _csr(y: Csr, name: str) -> _CsrRows:
    data.expect_csr(y, name)
    return _CsrRows(y.shape, y.indptr, y.indices, y.data)
