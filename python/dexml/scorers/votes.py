"""How points vote: their shares, and votes that are put into the label vectors beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.scorers.points import positives_of

NEIGHBOURS, TEMPERATURE = 50, 0.2
"""Voters of a query, and the temperature of their shares (``docs/memory.md``)."""


@dataclass(frozen=True)
class MemorySettings:
    """How points vote; checked when made."""

    weight: float
    neighbours: int
    temperature: float

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("weight", 0 <= self.weight < np.inf, "finite and at least 0"),
            ("neighbours", self.neighbours >= 1, "at least 1"),
            ("temperature", 0 < self.temperature < np.inf, "finite and above 0"),
        ):
            if not good:
                raise ValueError(f"{name} = {getattr(self, name)}; it must be {rule}")


def shares(cosines: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Softmax over each row of cosines, best first and padded with -inf; padding gets 0."""
    if not cosines.shape[1]:
        return cosines
    best = np.where(np.isfinite(cosines[:, :1]), cosines[:, :1], 0).astype(np.float64)
    grown = np.exp((cosines - best) / temperature)
    total = grown.sum(axis=1, keepdims=True)
    return np.asarray(grown / np.where(total > 0, total, 1), np.float32)


def centroid_labels(
    label_vectors: NDArray[np.float32], vectors: NDArray[np.float32], y: Csr, share: float
) -> NDArray[np.float32]:
    """Move label vectors towards the mean of their training points: votes without a cost.

    PEFA-XS: ``z <- share x z + (1 - share) x mean``, then back to the length of z. Labels without a
    point, and biases, stay as they are. Measured to gain nothing where residuals were trained
    (``docs/memory.md``).

    Args:
        label_vectors: Shape (L, D) or, with biases, (L, D + 1).
        vectors: Point embeddings, shape (N, D).
        y: Their labels, shape (N, L); entries above 0 are positives.
        share: What is kept of a label's own vector, in 0..1.

    Returns:
        New label vectors.
    """
    dim = vectors.shape[1]
    if label_vectors.shape[1] not in (dim, dim + 1) or len(label_vectors) != y.shape[1]:
        raise ValueError(
            f"label_vectors {label_vectors.shape}, vectors {vectors.shape} and y {y.shape} do not "
            "fit"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}; it must be in 0..1")
    positives = positives_of(y, len(vectors))
    counts = np.bincount(positives.indices, minlength=y.shape[1])
    seen = counts > 0
    means = (positives.T @ vectors)[seen] / counts[seen, None]
    old = label_vectors[seen, :dim]
    moved = share * old + (1 - share) * means
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    new = label_vectors.copy()
    scale = np.linalg.norm(old, axis=1, keepdims=True) / np.where(length > 0, length, 1)
    new[seen, :dim] = np.where(length > 0, moved * scale, old)
    return new


def mask_of(only: NDArray[Any] | None, n_labels: int) -> NDArray[np.bool_] | None:
    """Labels that may be found, ids or a mask, as a mask; None: all."""
    if only is None:
        return None
    only = np.asarray(only)
    if only.dtype == np.bool_:
        if only.shape != (n_labels,):
            raise ValueError(f"only: shape {only.shape}, expected ({n_labels},)")
        return np.ascontiguousarray(only)
    if only.size and not (only.min() >= 0 and only.max() < n_labels):
        raise ValueError(f"only: a label id lies outside 0..{n_labels - 1}")
    mask = np.zeros(n_labels, np.bool_)
    mask[only.astype(np.int64)] = True
    return mask
