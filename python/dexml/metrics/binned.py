"""Intervals of calibration errors, which are no means over points but sums of absolute values.

An error of bins is ``sum_b |hits_b - probabilities_b| / labels``. Each bin's difference is a sum
over points, so a resample of points gives all of them, and with them the error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, data

Floats = NDArray[np.float64]
Terms = tuple[str, Floats, Floats | None]
KINDS = ("ECE", "ECEover", "ECEunder", "ACE")
BINS, CELLS = 10, 1000
"""As in the core: bins are made of whole cells, or of parts of them."""


class Places(NamedTuple):
    """The first labels of n points."""

    p: Floats
    """Their probabilities, (n, k), NaN where there is none or the point is skipped."""
    hits: NDArray[np.bool_]
    """(n, k)."""

    @classmethod
    def of(
        cls,
        y_true: data.CsrParts,
        y_pred: data.CsrParts,
        exclude: tuple[NDArray[np.int64], NDArray[np.int32]] | None,
        n_labels: int,
        k: int,
        *,
        larger_first: bool,
        skip_empty: bool,
    ) -> Places:
        """Rank as the evaluator does, which has checked the arrays."""
        indptr, indices, values = y_pred
        if larger_first:  # ties go to the smaller id, so ids are turned around
            indices = (n_labels - 1 - indices).astype(np.int32)
            if exclude is not None:
                exclude = exclude[0], (n_labels - 1 - exclude[1]).astype(np.int32)
        ids, _ = _rust.topk_csr(indptr, indices, values, n_labels, k, exclude)
        n = len(ids)
        wanted = np.arange(n)[:, None] * n_labels + ids
        keys = _rows(indptr) * n_labels + indices
        order = np.argsort(keys, kind="stable")
        at = np.searchsorted(keys, wanted, sorter=order)
        there = ids >= 0
        p = np.full(ids.shape, np.nan)
        p[there] = values[order[at[there]]]
        positive = y_true[2] > 0
        labels = y_true[1][positive].astype(np.int64)
        true = _rows(y_true[0])[positive]
        labels = n_labels - 1 - labels if larger_first else labels
        hits = np.isin(wanted, true * n_labels + labels) & there
        if skip_empty:
            p[np.bincount(true, minlength=n) == 0] = np.nan
        return cls(p, hits)

    @classmethod
    def joined(cls, parts: list[Places]) -> Places:
        """Put blocks of points together."""
        return cls(np.concatenate([p for p, _ in parts]), np.concatenate([h for _, h in parts]))


def _rows(indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def terms(places: Places, names: list[str]) -> list[Terms]:
    """Return what is resampled for some errors: labels and differences of the bins of each point.

    Args:
        places: The first labels of the points.
        names: Metrics such as ``"ECE@5"``.
    """
    found: dict[str, Floats] = {}
    for name in names:
        kind, k = _parsed(name)
        p, hits = places.p[:, :k], places.hits[:, :k]
        there = np.isfinite(p)
        rows, columns = np.nonzero(there)
        cell = cells_of(p[rows, columns])
        found[f"labels@{k}"] = there.sum(axis=1).astype(np.float64)
        shares = _equal_masses(cell) if kind == "ACE" else _equal_widths()
        less = hits[rows, columns] - p[rows, columns]
        for b in range(BINS):
            part = np.bincount(rows, less * shares[cell, b], minlength=len(p))
            found[f"{_bins_of(kind)}@{k}#{b}"] = part.astype(np.float64)
    return [(name, np.ascontiguousarray(values), None) for name, values in found.items()]


def errors(names: list[str], of_term: dict[str, Any]) -> dict[str, Floats]:
    """Return the errors of each resample from the means of the terms.

    Args:
        names: Metrics such as ``"ECE@5"``.
        of_term: Values of each term of `terms`, (n_resamples,).
    """
    found = {}
    for name in names:
        kind, k = _parsed(name)
        less = np.stack([of_term[f"{_bins_of(kind)}@{k}#{b}"] for b in range(BINS)])
        if kind == "ECEover":
            less = np.maximum(-less, 0)
        elif kind == "ECEunder":
            less = np.maximum(less, 0)
        found[name] = np.abs(less).sum(axis=0) / of_term[f"labels@{k}"]
    return found


def cells_of(p: Floats) -> NDArray[np.int64]:
    """Return the cell of each probability, from 0."""
    return np.minimum((p * CELLS).astype(np.int64), CELLS - 1)


def _parsed(name: str) -> tuple[str, int]:
    kind, k = name.split("@")
    return kind, int(k)


def _bins_of(kind: str) -> str:
    return "ACE" if kind == "ACE" else "ECE"


def _equal_widths() -> Floats:
    """Return the share of each bin in each cell, (CELLS, BINS): bins of equal width."""
    return np.repeat(np.eye(BINS), CELLS // BINS, axis=0)


def _equal_masses(cell: NDArray[np.int64]) -> Floats:
    """Return the share of each bin in each cell: bins of equal numbers of labels.

    They are those of all points, and stay in a resample.
    """
    counts = np.bincount(cell, minlength=CELLS).astype(np.float64)
    end = np.cumsum(counts)
    start, room = end - counts, counts.sum() / BINS
    low, high = np.arange(BINS) * room, np.arange(1, BINS + 1) * room
    high[-1] = end[-1]
    part = np.minimum(end[:, None], high) - np.maximum(start[:, None], low)
    shares: Floats = np.maximum(part, 0) / np.maximum(counts, 1)[:, None]
    return shares
