"""All labels, seen ones alone and unseen ones alone: who is ranked, and whose truth counts.

In a view, candidates and truth are both restricted to its labels, as in generalised zero-shot
evaluation (GZXML). That is not the score of a label group (`seen_groups`), where the truth alone is
restricted, and labels of all groups compete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust, data
from dexml.data import Csr
from dexml.metrics.evaluator import DEFAULT_METRICS, Evaluator
from dexml.metrics.propensity import label_counts
from dexml.metrics.swapped import warn_if_swapped

VIEWS = ("all", "seen", "unseen")
Ranked = TypeVar("Ranked", Csr, NDArray[np.integer[Any]])


@dataclass(frozen=True)
class View:
    """Scores of one view."""

    metrics: dict[str, float]
    """Means over the points with a positive in the view."""
    n_labels: int
    """Labels of the view."""
    n_points: int
    """Points with a positive in the view."""
    n_positives: int
    """Those positives."""
    n_short: int
    """Points of these whose prediction holds fewer labels of the view than the largest k, and not
    all of them: if the prediction was cut to its best labels, others of the view may come next,
    and the metrics are too low. A prediction that holds whatever its model can find is complete."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def views(
    y_true: Csr,
    y_pred: Csr | NDArray[np.integer[Any]],
    y_train: Csr,
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    inv_propensity: NDArray[np.float64] | None = None,
    exclude: Csr | None = None,
    num_threads: int | None = None,
) -> dict[str, View]:
    """Score all labels, labels with training points alone, and labels without any alone.

    One ranking of all labels is enough if it is deep: it must hold k labels of each view, which a
    ranking that was cut to its best k mostly does not. Where it holds fewer, `View.n_short` counts
    the points. Rankings of a view's labels alone: `ViewEvaluator`.

    Args:
        y_true: Relevant labels, shape (n_points, n_labels), as for `evaluate`.
        y_pred: CSR scores of the same shape, or ranked ids (n_points, k), padded with -1.
        y_train: Training matrix, shape (n_train, n_labels): a label with a positive is seen.
        metrics: Names such as ``"nDCG@5"``, as for `evaluate`.
        inv_propensity: Weights for the PS metrics, shape (n_labels,).
        exclude: Pairs to drop from the rankings first, same shape as `y_true`.
        num_threads: Threads; default all cores.

    Returns:
        By name, in the order of `VIEWS`; a view without a positive is left out.

    Raises:
        ValueError: As for `evaluate`, or `y_train` has another number of labels.

    Warns:
        SwappedWarning: As for `evaluate`.

    Examples:
        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> y_train = csr_array(np.array([[1, 1, 0]], dtype=np.float32))
        >>> y_true = csr_array(np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32))
        >>> found = views(y_true, np.array([[1, 2, 0], [1, 0, 2]]), y_train, ["P@1"])
        >>> {name: (view.metrics["P@1"], view.n_points) for name, view in found.items()}
        {'all': (0.5, 2), 'seen': (0.5, 2), 'unseen': (1.0, 1)}
    """
    evaluator = ViewEvaluator(
        label_counts(y_train), metrics, inv_propensity=inv_propensity, num_threads=num_threads
    )
    warn_if_swapped(y_true, y_pred)
    evaluator._update(y_true, y_pred, exclude, VIEWS)
    return evaluator.result()


class ViewEvaluator:
    """Scores views in blocks: call `update` for each block of points, then `result`.

    Args:
        counts: Number of training points of each label, shape (n_labels,).
        metrics: Names such as ``"nDCG@5"``, as for `evaluate`.
        inv_propensity: Weights for the PS metrics, shape (n_labels,).
        ties: As for `evaluate`.
        num_threads: Threads; default all cores.
    """

    def __init__(
        self,
        counts: NDArray[np.integer[Any]],
        metrics: Sequence[str] = DEFAULT_METRICS,
        *,
        inv_propensity: NDArray[np.float64] | None = None,
        ties: Literal["smaller", "larger"] = "smaller",
        num_threads: int | None = None,
    ) -> None:
        counts = np.asarray(counts)
        self.masks = {"all": np.ones(len(counts), bool), "seen": counts > 0, "unseen": counts == 0}
        """Labels of each view, shape (n_labels,)."""
        self._evaluators = {
            name: Evaluator(
                len(counts),
                metrics,
                inv_propensity=inv_propensity,
                empty_rows="skip",
                ties=ties,
                num_threads=num_threads,
            )
            for name in VIEWS
        }
        self.deepest = max((k for _, k in _rust.parse_metrics(list(metrics))), default=1)
        """The largest k."""
        self._sizes = {name: np.zeros(3, np.int64) for name in VIEWS}

    def update(
        self,
        y_true: Csr,
        y_pred: Csr | NDArray[np.integer[Any]],
        *,
        exclude: Csr | None = None,
        view: str | None = None,
    ) -> None:
        """Add points.

        Args:
            y_true: Relevant labels of all views, shape (n_points, n_labels), as for `evaluate`.
            y_pred: CSR scores or ranked ids, as for `evaluate`.
            exclude: Pairs to drop from the rankings first, same shape as `y_true`.
            view: `y_pred` ranks the labels of this view alone and counts for it alone. Default: it
                ranks all labels, and counts for all views.

        Raises:
            ValueError: As for `Evaluator.update`.

        Warns:
            SwappedWarning: As for `evaluate`.
        """
        warn_if_swapped(y_true, y_pred)
        self._update(y_true, y_pred, exclude, VIEWS if view is None else [view])

    def _update(
        self,
        y_true: Csr,
        y_pred: Csr | NDArray[np.integer[Any]],
        exclude: Csr | None,
        names: Sequence[str],
    ) -> None:
        for name in names:
            mask = self.masks[name]
            truth = only_labels(y_true, mask)
            ranked = y_pred if name == "all" else _ranked_of(y_pred, mask)
            self._evaluators[name].update(truth, ranked, exclude=exclude)
            positives = np.diff(truth.indptr)
            held, wanted = _lengths(ranked), np.full(len(positives), int(mask.sum()))
            if exclude is not None:
                dropped = only_labels(exclude, mask, "exclude")
                wanted -= np.diff(dropped.indptr)
                held -= _common(ranked, dropped)
            short = (positives > 0) & (held < np.minimum(self.deepest, wanted))
            self._sizes[name] += [(positives > 0).sum(), positives.sum(), short.sum()]

    def result(self) -> dict[str, View]:
        """Return the scores of the views that have a positive, in the order of `VIEWS`."""
        return {
            name: View(
                self._evaluators[name].result().metrics,
                int(self.masks[name].sum()),
                *map(int, self._sizes[name]),
            )
            for name in VIEWS
            if self._sizes[name][0]
        }


def only_labels(y: Csr, mask: NDArray[np.bool_], name: str = "y_true") -> Csr:
    """Return the pairs above 0 whose label is in the mask (n_labels,), as 1; the shape stays.

    Raises:
        ValueError: `y` is no CSR matrix of as many labels.
    """
    data.expect_csr(y, name)
    if y.shape[1] != len(mask):
        raise ValueError(f"{name}: {y.shape[1]} labels, but there are counts of {len(mask)}")
    kept = _kept(y, mask[y.indices] & (y.data > 0))
    return csr_array((np.ones(kept.nnz, np.float32), kept.indices, kept.indptr), shape=y.shape)


def _ranked_of(y_pred: Ranked, mask: NDArray[np.bool_]) -> Ranked:
    """Return the labels of a ranking that are in the mask, in their order.

    Ids out of range stay, so that the evaluator names them.
    """
    if not isinstance(y_pred, np.ndarray):
        return _kept(y_pred, mask[y_pred.indices])
    if y_pred.ndim != 2 or not np.issubdtype(y_pred.dtype, np.integer):
        return y_pred  # the evaluator refuses it
    kept = (y_pred < -1) | (y_pred >= len(mask))
    kept |= mask[np.where(kept, 0, y_pred)] & (y_pred >= 0)
    order = np.argsort(~kept, axis=1, kind="stable")
    ids: Ranked = np.take_along_axis(np.where(kept, y_pred, -1), order, axis=1)
    return ids


def _kept(y: Csr, entries: NDArray[np.bool_]) -> Csr:
    indptr = np.concatenate([[0], np.cumsum(entries)])[y.indptr]
    return csr_array((y.data[entries], y.indices[entries], indptr), shape=y.shape)


def _lengths(ranked: Csr | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return how many labels each point has."""
    if isinstance(ranked, np.ndarray):
        return np.asarray((ranked >= 0).sum(axis=1), np.int64)
    return np.asarray(np.diff(ranked.indptr), np.int64)


def _common(ranked: Csr | NDArray[np.integer[Any]], pairs: Csr) -> NDArray[np.int64]:
    """Return how many labels of each point are among some pairs."""
    if isinstance(ranked, np.ndarray):
        lengths = _lengths(ranked)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        ids = ranked[ranked >= 0]
        ranked = csr_array((np.ones(len(ids), np.float32), ids, indptr), shape=pairs.shape)
    there = csr_array((np.ones(ranked.nnz), ranked.indices, ranked.indptr), shape=ranked.shape)
    both = there.multiply(csr_array((pairs.data > 0, pairs.indices, pairs.indptr), pairs.shape))
    return np.asarray(np.diff(csr_array(both).indptr), np.int64)


def short_note(found: Mapping[str, View], k: int) -> str | None:
    """Say which views a prediction may be too shallow for; None if it is deep enough for all."""
    short = [
        f"{view.n_short} of {view.n_points} points of view {name}"
        for name, view in found.items()
        if view.n_short and name != "all"
    ]
    if not short:
        return None
    return (
        f"fewer than {k} labels of the view are predicted for {', '.join(short)}: if the "
        "predictions were cut to the best labels, these views come out too low; predict deeper "
        "(-k), or rank the view's labels alone (dexml.predict --only)"
    )
