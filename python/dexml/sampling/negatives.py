"""Draw negatives for points: labels that are neither positive nor excluded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.data import Csr, csr_parts, expect_csr, label_parts, pair_parts
from dexml.sampling.graph import LabelGraph, graph_parts

SOURCES = ("shortlist", "graph", "frequency", "uniform")
"""Sources of negatives, in the order in which a row draws from them."""


class NegativeSampler:
    """Draws negatives for points of a training matrix, batch after batch.

    The constructor takes the arguments and raises the errors of `sample_negatives`. It prepares and
    copies all it needs (about 4 bytes for each positive, excluded pair and shortlisted label, 12
    for each edge of the graph), so the time of a draw does not depend on the size of the matrix.
    """

    def __init__(
        self,
        y: Csr,
        *,
        n_negatives: int,
        sources: str | Mapping[str, float] = "uniform",
        exclude: Csr | None = None,
        graph: LabelGraph | Csr | None = None,
        graph_weights: Literal["edge", "uniform"] = "edge",
        shortlist: Csr | NDArray[np.integer[Any]] | None = None,
        alpha: float = 0.75,
        smoothing: float = 0.0,
        candidates: NDArray[np.bool_] | Literal["seen"] | None = None,
        num_threads: int | None = None,
    ) -> None:
        shares = {sources: 1.0} if isinstance(sources, str) else dict(sources)
        for name in shares:
            if name not in SOURCES:
                close = get_close_matches(str(name), SOURCES, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"unknown source {name!r} (known: {', '.join(SOURCES)}){hint}")
        if graph_weights not in ("edge", "uniform"):
            raise ValueError(f"graph_weights must be 'edge' or 'uniform', not {graph_weights!r}")
        parts = label_parts(y, "y")
        n_points, n_labels = y.shape
        listed, ids = _shortlists(shortlist if "shortlist" in shares else None, n_points, n_labels)
        edges = graph_parts(graph, n_labels) if graph is not None and "graph" in shares else None
        self._core = _rust.NegativeSampler(
            parts,
            n_labels,
            n_negatives,
            [(name, float(share)) for name, share in shares.items()],
            alpha=alpha,
            smoothing=smoothing,
            exclude=pair_parts(exclude, y.shape, "exclude"),
            candidates=_mask(candidates, parts[1], parts[2], n_labels),
            graph=edges,
            even_edges=graph_weights == "uniform",
            shortlist_rows=listed,
            shortlist_ids=ids,
            num_threads=num_threads,
        )
        self.mixture: dict[str, int] = dict(self._core.mixture)
        """How many negatives of a row come from each source, in the order of a row."""

    def draw(
        self, rows: NDArray[np.integer[Any]] | Sequence[int], *, seed: int, epoch: int
    ) -> NDArray[np.int32]:
        """Draw the negatives of points.

        Args:
            rows: Points, shape (n,), in any order.
            seed: Seed of the run.
            epoch: Epoch. The negatives of a point depend only on (seed, epoch, point).

        Returns:
            Label ids, shape (n, n_negatives), int32, in the order of the draw, padded with -1.

        Raises:
            ValueError: `rows` is not a list of points, or a point, seed or epoch is out of range.
        """
        points = np.asarray(rows)
        if points.ndim != 1 or (points.size and not np.issubdtype(points.dtype, np.integer)):
            raise ValueError(f"rows: {points.dtype}, shape {points.shape}; expected a list of ints")
        for name, value in (("seed", seed), ("epoch", epoch)):
            if not 0 <= value < 2**64:
                raise ValueError(f"{name} must be in 0..2^64 - 1, not {value}")
        return self._core.draw(np.ascontiguousarray(points, np.int64), seed=seed, epoch=epoch)


def sample_negatives(
    y: Csr,
    *,
    n_negatives: int,
    seed: int,
    epoch: int,
    rows: NDArray[np.integer[Any]] | Sequence[int],
    sources: str | Mapping[str, float] = "uniform",
    exclude: Csr | None = None,
    graph: LabelGraph | Csr | None = None,
    graph_weights: Literal["edge", "uniform"] = "edge",
    shortlist: Csr | NDArray[np.integer[Any]] | None = None,
    alpha: float = 0.75,
    smoothing: float = 0.0,
    candidates: NDArray[np.bool_] | Literal["seen"] | None = None,
    num_threads: int | None = None,
) -> NDArray[np.int32]:
    """Draw negatives for points: distinct labels, never a positive, never an excluded pair.

    Each source gives its share of a row, drawn without replacement: one label after the other, each
    in proportion to its weight among those left. A source with fewer labels gives all it has, and
    the rest is drawn uniformly from the labels still left. A point with fewer labels left than
    `n_negatives` gets all of them.

    Each call takes a pass over `y` to prepare. To draw for batch after batch, keep a
    `NegativeSampler`.

    Args:
        y: Training matrix, shape (n_points, n_labels); values above 0 are positives.
        n_negatives: Negatives a point.
        seed: Seed of the run.
        epoch: Epoch. The negatives of a point depend only on (seed, epoch, point), for any number
            of threads and any cut into batches.
        rows: Points to draw for, shape (n,), in any order.
        sources: A name, or names with shares, such as ``{"uniform": 0.5, "graph": 0.5}``.
            ``"uniform"``: all labels alike. ``"frequency"``: label l, with n_l positives, by
            ``(n_l + smoothing) ** alpha``. ``"graph"``: neighbours of the point's positives.
            ``"shortlist"``: labels given for the point. Shares become counts by the largest
            remainder; of equal remainders, the source named first gets the label.
        exclude: Pairs that are never drawn, same shape as `y`.
        graph: Neighbours of labels, for the source ``"graph"``: a label weighs the sum of all edges
            that lead to it from positives of the point.
        graph_weights: ``"edge"``, or ``"uniform"`` to count each edge as 1.
        shortlist: Labels for each point, for the source ``"shortlist"``: a CSR matrix of the shape
            of `y`, or ids of shape (n_points, k), padded with -1 at the end of a row.
        alpha: Power of the frequency; 0 draws all seen labels alike.
        smoothing: Added to each frequency. At 0, labels without positives are never drawn.
        candidates: Labels that may be drawn: a mask of shape (n_labels,), or ``"seen"`` for those
            with a positive in `y`. Default all labels.
        num_threads: Threads; default all cores.

    Returns:
        Label ids, shape (len(rows), n_negatives), int32, padded with -1: first those of the
        shortlist, then of graph, frequency and uniform, then the uniform rest.

    Raises:
        ValueError: A source is unknown or lacks what it draws from, shares do not add up to more
            than 0, shapes disagree, a row or an id is out of range, a shortlist has a label twice,
            or an edge has a bad weight.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> y = csr_array(np.array([[1, 0, 0, 0], [0, 1, 1, 0]], np.float32))
        >>> ids = sample_negatives(y, n_negatives=3, seed=0, epoch=1, rows=np.arange(2))
        >>> np.sort(ids).tolist()
        [[1, 2, 3], [-1, 0, 3]]
    """
    sampler = NegativeSampler(
        y,
        n_negatives=n_negatives,
        sources=sources,
        exclude=exclude,
        graph=graph,
        graph_weights=graph_weights,
        shortlist=shortlist,
        alpha=alpha,
        smoothing=smoothing,
        candidates=candidates,
        num_threads=num_threads,
    )
    return sampler.draw(rows, seed=seed, epoch=epoch)


def _mask(
    candidates: NDArray[np.bool_] | Literal["seen"] | None,
    labels: NDArray[np.int32],
    values: NDArray[np.float32],
    n_labels: int,
) -> NDArray[np.bool_] | None:
    if candidates is None:
        return None
    if isinstance(candidates, str):
        if candidates != "seen":
            raise ValueError(f"candidates must be a mask or 'seen', not {candidates!r}")
        return _rust.label_counts(n_labels, labels, values) > 0
    if np.asarray(candidates).dtype != np.bool_ or np.ndim(candidates) != 1:
        raise ValueError("candidates: expected a mask of booleans, one for each label")
    return np.ascontiguousarray(candidates)


def _shortlists(
    shortlist: Csr | NDArray[np.integer[Any]] | None, n_points: int, n_labels: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int32]] | None, NDArray[np.int32] | None]:
    if shortlist is None:
        return None, None
    if isinstance(shortlist, np.ma.MaskedArray):  # the mask would be lost
        raise ValueError("shortlist: a masked array; give shortlist.filled(-1), padded with -1")
    if not isinstance(shortlist, np.ndarray):
        expect_csr(shortlist, "shortlist")
        if shortlist.shape != (n_points, n_labels):
            raise ValueError(
                f"shortlist: shape {shortlist.shape}, expected {(n_points, n_labels)} as in y"
            )
        indptr, indices, _ = csr_parts(shortlist, "shortlist")
        return (indptr, indices), None
    if shortlist.ndim != 2 or len(shortlist) != n_points:
        raise ValueError(f"shortlist: shape {shortlist.shape}, expected ({n_points}, k) as in y")
    if shortlist.dtype not in (np.int32, np.int64):
        raise ValueError(f"shortlist: ids of dtype {shortlist.dtype}; give int32 or int64")
    narrow = np.ascontiguousarray(shortlist, np.int32)
    if shortlist.dtype == np.int64 and (narrow != shortlist).any():
        raise ValueError(f"shortlist: an id lies outside 0..{n_labels - 1}")
    return None, narrow
