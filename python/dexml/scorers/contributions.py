"""What each feature of a ranker contributes to a score.

The contributions are integrated gradients (Sundararajan et al., 2017) along the straight line from
a start, the average candidate of the text, to the pair. A network of this kind allows them in
closed form: each hidden unit changes with one number alone, ``w . x + b``, so its rise is shared
among the features in proportion to what they add to that number. So nothing is sampled, and the
contributions sum to the difference of the two scores up to rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dexml.scorers.ranker import Network

CLIP = 5.0
"""How far the network lets a feature lie from its mean, in deviations."""
_SMALL = 1e-5
"""Changes of a unit's input below which its slope is that in the middle."""


def standardised(network: Network, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return features (n, F) as the network sees them: in deviations from the mean, 0 for NaN."""
    x = (features.astype(np.float64) - network.mean) / network.deviation
    return np.clip(np.where(np.isnan(x), 0.0, x), -CLIP, CLIP)


def score_at(network: Network, x: NDArray[np.float64]) -> float:
    """Score one standardised vector of features (F,), as `Network.score` does up to rounding."""
    hidden = _gelu(network.weights @ x + network.bias)
    return float((network.linear @ x + (network.output * hidden).sum(axis=1)).mean())


def contributions(
    network: Network, start: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share the difference of two scores among the features.

    Args:
        network: The ranker.
        start: Standardised features (F,) to start from.
        x: Those of the pair, (F,).

    Returns:
        Shape (F,); the sum is ``score_at(x) - score_at(start)``. A feature that is the same in
        both contributes 0.
    """
    step, weights = x - start, network.weights.astype(np.float64)
    before, rise = weights @ start + network.bias, weights @ step  # (M, H)
    small = np.abs(rise) < _SMALL
    change = _gelu(before + rise) - _gelu(before)
    slope = np.where(small, _slope(before + rise / 2), change / np.where(small, 1.0, rise))
    through = np.einsum("mh,mhf->mf", network.output * slope, weights)
    return np.asarray(step * (network.linear + through).mean(axis=0))


def _gelu(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """GELU in the tanh form, as in the core."""
    return np.asarray(0.5 * z * (1 + np.tanh(_bent(z))))


def _slope(z: NDArray[np.float64]) -> NDArray[np.float64]:
    tanh = np.tanh(_bent(z))
    bend = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
    return np.asarray(0.5 * (1 + tanh) + 0.5 * z * (1 - tanh**2) * bend)


def _bent(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
