"""Curves from scores to probabilities: the level of a text, steps of an isotonic regression.

What they are fitted on and what is said of them: `dexml.train.calibrating`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from dexml.scorers.calibration import BEST, MAX_STEPS, Curve, Level, summaries

FEW_HITS = 200
"""Hits below which two numbers are fitted (a logistic curve), and no steps."""
STEP_PAIRS = 20
"""Answers that a step rests on at least."""


def fit_level(scores: NDArray[np.floating[Any]], hits: NDArray[np.bool_]) -> Level:
    """Find what of the scores is the level of their text: a logistic regression of the hits.

    Args:
        scores: (n, D), best first, padded with -inf.
        hits: Which are right, (n, D).
    """
    best, right = scores[:, :BEST].astype(np.float64), hits[:, :BEST]
    there = np.isfinite(best)
    if right.sum() < FEW_HITS or there.sum() < 2:
        return Level()
    spread = np.nanmean(np.nanstd(np.where(there, best, np.nan)[there.any(axis=1)], axis=1))
    scale = float(spread) or 1.0
    rows = np.nonzero(there)[0]
    level = [summary[rows, 0] for summary in summaries(best, scale)]
    own, *weights, _ = _logistic_weights(np.stack([best[there], *level], axis=1), right[there])
    return Level(scale, *(-weight / own for weight in weights)) if own > 0 else Level(scale)


def _logistic_weights(
    features: NDArray[np.float64], hits: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Fit a logistic regression, the first weight at least 0; return weights and offset."""
    width = features.std(axis=0)
    width[width == 0] = 1
    x = np.concatenate([(features - features.mean(axis=0)) / width, np.ones((len(hits), 1))], 1)
    n, n_hits = len(hits), int(hits.sum())
    # Platt's targets, which keep the curve from becoming a wall.
    target = np.where(hits, (n_hits + 1) / (n_hits + 2), 1 / (n - n_hits + 2))
    penalty = np.append(np.ones(features.shape[1]), 0)

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = x @ w
        value = (np.logaddexp(0, logit) - target * logit).sum() + (penalty * w**2).sum() / 2
        return float(value), x.T @ (expit(logit) - target) + penalty * w

    start = np.zeros(x.shape[1])
    start[-1] = np.log((n_hits + 1) / (n - n_hits + 1))
    bounds = [(0.0, None)] + [(None, None)] * (x.shape[1] - 1)
    w: NDArray[np.float64] = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return np.append(w[:-1] / width, w[-1] - (w[:-1] * features.mean(axis=0) / width).sum())


class Step(NamedTuple):
    """A step of an isotonic regression."""

    low: float
    """The smallest score in it."""
    mean: float
    """The mean score."""
    high: float
    """The largest score."""
    value: float
    """The share of hits."""


def fit_curve(scores: NDArray[np.floating[Any]], hits: NDArray[np.bool_]) -> Curve:
    """Fit a probability that rises with the score.

    The curve goes through the steps of `isotonic_steps` at their mean score. Within a step it rises
    a little, by half of the way to the nearer neighbour on both sides: equal probabilities could
    not be cut. With few hits it is a logistic curve (Platt, 1999).

    Args:
        scores: (n,), finite; at least one.
        hits: Which are right, (n,).
    """
    if hits.sum() < FEW_HITS:
        return _logistic(scores, hits)
    steps = isotonic_steps(scores, hits)
    values = np.array([0.0, *(step.value for step in steps), 1.0])
    room = np.minimum(values[1:-1] - values[:-2], values[2:] - values[1:-1]) / 2
    knots: list[tuple[float, float]] = []
    for step, spread in zip(steps, room.tolist(), strict=True):
        if step.low < step.mean < step.high:
            knots += [(step.low, step.value - spread), (step.mean, step.value)]
            knots.append((step.high, step.value + spread))
        else:
            knots.append((step.mean, step.value))
    return Curve(*np.array(knots).T)


def isotonic_steps(scores: NDArray[np.floating[Any]], hits: NDArray[np.bool_]) -> list[Step]:
    """Return the steps of the isotonic regression of the hits on the score, at most `MAX_STEPS`.

    Steps that rest on few answers are joined with the nearest one, then the most similar ones
    until they are few enough. A step without a hit, or without a miss, is not taken for sure:
    half a hit or miss is added.
    """
    values, at = np.unique(scores.astype(np.float64), return_inverse=True)
    pairs = np.bincount(at).astype(np.float64)
    right = np.bincount(at, hits)
    starts = isotonic_regression(right / pairs, weights=pairs).blocks[:-1]
    low, high = values[starts], values[np.append(starts[1:], len(values)) - 1]
    total = np.add.reduceat(values * pairs, starts)
    pairs, right = np.add.reduceat(pairs, starts), np.add.reduceat(right, starts)
    while len(pairs) > 1:
        a, b = pairs[:-1], pairs[1:]
        gap = right[1:] / b - right[:-1] / a
        cost = a * b / (a + b) * gap**2
        small = np.minimum(a, b) < STEP_PAIRS
        if small.any():
            i = int(np.argmin(np.where(small, cost, np.inf)))
        elif len(pairs) > MAX_STEPS:
            i = int(np.argmin(cost))
        else:
            break
        low, high = np.delete(low, i + 1), np.delete(high, i)
        for sums in (pairs, right, total):
            sums[i] += sums[i + 1]
        pairs, right, total = (np.delete(sums, i + 1) for sums in (pairs, right, total))
    share = np.clip(right / pairs, 0.5 / (pairs + 1), 1 - 0.5 / (pairs + 1))
    columns = low, total / pairs, high, np.maximum.accumulate(share)
    return [Step(*row) for row in np.stack(columns, axis=1).tolist()]


def _logistic(scores: NDArray[np.floating[Any]], hits: NDArray[np.bool_]) -> Curve:
    """Fit a rising logistic curve, kept as straight pieces."""
    x = scores.astype(np.float64)
    slope, offset = _logistic_weights(x[:, None], hits)
    knots = np.linspace(x.min(), x.max(), MAX_STEPS) if np.ptp(x) > 0 else x[:1]
    return Curve(knots, np.maximum.accumulate(expit(slope * knots + offset)))
