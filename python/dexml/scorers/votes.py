"""How training points vote: settings and shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS, TEMPERATURE = 50, 0.2
"""Defaults: voters of a query, and the temperature of their shares (``docs/memory.md``)."""


class Voters(NamedTuple):
    """The training points that vote on n texts, the nearest first."""

    ids: NDArray[np.int32]
    """Their rows, (n, voters), padded with -1."""
    cosines: NDArray[np.float32]
    shares: NDArray[np.float32]
    """Of one vote; each row sums to 1 if anybody votes, padding has 0."""


@dataclass(frozen=True)
class VoteSettings:
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
    """Share one vote among the voters of a query: softmax of ``cosine / temperature``.

    Args:
        cosines: Shape (n, voters), best first, padded with -inf.
        temperature: Of the softmax, above 0.

    Returns:
        Same shape, float32; each row sums to 1, padding gets 0.
    """
    if not cosines.shape[1]:
        return cosines
    best = np.where(np.isfinite(cosines[:, :1]), cosines[:, :1], 0).astype(np.float64)
    grown = np.exp((cosines - best) / temperature)
    total = grown.sum(axis=1, keepdims=True)
    return np.asarray(grown / np.where(total > 0, total, 1), np.float32)


def mask_of(only: NDArray[Any] | None, n_labels: int) -> NDArray[np.bool_] | None:
    """Return the labels that may be found, given as ids or as a mask, as a mask; None: all.

    Raises:
        ValueError: A mask of another shape, or an id out of range.
    """
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
