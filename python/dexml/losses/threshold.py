"""The threshold of soft top-k: for each row the t with sum_j sigmoid(y_j + t) = k.

Rows are shifted so that their maximum is 0 and multiplied by the slope: y = slope * (x - max x).
Safeguarded Newton on the logarithm of the sum, from a bracket that is valid for any scores.

Shapes: R rows, A rows still unsolved, T scores of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MAX_PASSES = 60
TINY = 1e-30
"""Sums below this are formed again with their largest term taken out (scores of 1e4 underflow)."""


class Side(NamedTuple):
    """sum over one side of sigmoid(-|u|) and of sigmoid(u) sigmoid(-u), as exp(-near) * sum."""

    near: Tensor
    total: Tensor
    slope: Tensor

    @property
    def log(self) -> Tensor:
        """Of the first sum."""
        return self.total.log() - self.near

    @property
    def value(self) -> Tensor:
        """The first sum, which may underflow."""
        return self.total * torch.exp(-self.near)

    @property
    def slope_value(self) -> Tensor:
        """The second sum, which may underflow."""
        return self.slope * torch.exp(-self.near)


class Pass(NamedTuple):
    """What one pass over the scores tells of t; u = y + t. Seven numbers a row."""

    above: Side
    """u >= 0: the sum is that of 1 - sigmoid(u)."""
    below: Side
    """u < 0."""
    n_above: Tensor
    """Of u >= 0."""

    @property
    def log_slope(self) -> Tensor:
        """Ln W = ln sum_j sigmoid(u_j) sigmoid(-u_j)."""
        above = self.above.slope.log() - self.above.near
        return torch.logaddexp(above, self.below.slope.log() - self.below.near)

    def excess(self, k: Tensor) -> Tensor:
        """Has the sign of sum_j sigmoid(u_j) - k."""
        difference = self.n_above - k + (self.below.value - self.above.value)
        # Both sides may be too small for anything but their logarithms.
        return torch.where(self.n_above == k, self.below.log - self.above.log, difference)

    def stacked(self) -> Tensor:
        """As one tensor (7, R)."""
        return torch.stack([*self.above, *self.below, self.n_above])

    @classmethod
    def unstacked(cls, numbers: Tensor) -> Pass:
        """The inverse."""
        return cls(Side(*numbers[:3]), Side(*numbers[3:6]), numbers[6])

    def plus(self, other: Pass) -> Pass:
        """Over the scores of both."""
        return Pass(
            _merge(self.above, other.above),
            _merge(self.below, other.below),
            self.n_above + other.n_above,
        )


def _merge(a: Side, b: Side) -> Side:
    near = torch.minimum(a.near, b.near)
    shift = near.masked_fill(near == torch.inf, 0.0)
    p, q = torch.exp(shift - a.near), torch.exp(shift - b.near)
    return Side(near, a.total * p + b.total * q, a.slope * p + b.slope * q)


def measure(y_AT: Tensor, t_A: Tensor, *, exact: bool) -> Pass:
    """One pass over a tile; -inf scores count nowhere.

    With ``exact=False`` nothing is taken out of the sums, which is faster and enough unless they
    underflow.
    """
    u_AT = y_AT + t_A.unsqueeze(1)
    above_AT = u_AT >= 0
    count = above_AT.sum(dim=1).to(u_AT.dtype)
    if exact:
        far_AT = u_AT.abs_()
        inf = torch.inf
        near_above = far_AT.masked_fill(~above_AT, inf).amin(dim=1)
        near_below = far_AT.masked_fill(above_AT, inf).amin(dim=1)
        shift_AT = torch.where(above_AT, near_above.unsqueeze(1), near_below.unsqueeze(1))
        shift_AT.masked_fill_(shift_AT == inf, 0.0)
        shift_AT -= far_AT
        bend_AT = far_AT.sigmoid_()  # 1 / (1 + e^-|u|)
        small_AT = shift_AT.exp_().mul_(bend_AT)
        bend_AT *= small_AT
    else:
        near_above = near_below = torch.zeros_like(t_A)
        small_AT = u_AT.abs_().neg_().exp_()
        bend_AT = (small_AT + 1.0).reciprocal_()
        small_AT *= bend_AT
        bend_AT *= small_AT
    chosen_AT = above_AT.to(u_AT.dtype)
    above = Side(near_above, _dot(small_AT, chosen_AT), _dot(bend_AT, chosen_AT))
    chosen_AT.neg_().add_(1.0)
    below = Side(near_below, _dot(small_AT, chosen_AT), _dot(bend_AT, chosen_AT))
    return Pass(above, below, count)


def _dot(a_AT: Tensor, b_AT: Tensor) -> Tensor:
    dot: Tensor = torch.linalg.vecdot(a_AT, b_AT)
    return dot


Evaluate = Callable[[Tensor, Tensor | None, bool], Pass]
"""``evaluate(t_A, rows, exact)``: a pass over all scores of the rows (None: of all)."""


class Threshold(NamedTuple):
    """The solution."""

    t: Tensor
    """(R,), of the shifted and scaled scores."""
    log_slope: Tensor
    """ln W, (R,)."""
    passes: int
    """Over the scores, at most 60."""


def solve(
    evaluate: Evaluate,
    *,
    log_sum: Tensor,
    lowest: Tensor,
    n_valid: Tensor,
    k: Tensor,
    skip: Tensor,
) -> Threshold:
    """Find t for every row that is not skipped.

    Args:
        evaluate: A pass over the scores.
        log_sum: Log-sum-exp of y, (R,).
        lowest: Minimum of y over the scores that count, (R,).
        n_valid: Number of scores that count, (R,).
        k: Wanted sums, (R,), below `n_valid` in rows that are not skipped.
        skip: Rows to leave out, (R,); their result means nothing.
    """
    k = k.to(log_sum.dtype)
    tolerance = 1e-12 if log_sum.dtype == torch.float64 else 1e-6
    k_safe = torch.where(skip, torch.ones_like(k), k)
    rest = torch.where(skip, torch.ones_like(k), n_valid.to(k.dtype) - k)
    level = k_safe.log() - rest.log()  # logit(k / n)
    # sigmoid(u) < e^u, hence the second bound.
    lo = torch.maximum(level, k_safe.log() - log_sum)
    hi = torch.maximum(level - lowest, lo)
    t = lo.clone()
    log_slope = torch.zeros_like(t)
    active = torch.nonzero(~skip).squeeze(1)
    passes = 0
    while len(active) and passes < MAX_PASSES:
        passes += 1
        # Few rows are worth a copy of their scores, most rows are not.
        subset = active if 2 * len(active) <= len(t) else None
        some = t if subset is None else t[subset]
        found = evaluate(some, subset, False)
        if bool(_underflow(found, k_safe if subset is None else k_safe[subset], active, subset)):
            found = evaluate(some, subset, True)
        if subset is None:
            found = Pass.unstacked(found.stacked()[:, active])
        now, wanted = t[active], k_safe[active]
        excess = found.excess(wanted)
        lower = torch.where(excess <= 0, now, lo[active])
        upper = torch.where(excess >= 0, now, hi[active])
        lo[active], hi[active] = lower, upper
        log_slope[active] = found.log_slope
        step = _newton(found, wanted)
        new = now + step
        small = (step.abs() <= tolerance) | (new == now)
        middle = lower + (upper - lower) / 2
        closed = (middle <= lower) | (middle >= upper)
        new = torch.where((new > lower) & (new < upper), new, middle)
        done = small | ((new - now).abs() <= tolerance) | closed
        t[active] = torch.where(done, now, new)
        active = active[~done]
    return Threshold(t, log_slope, passes)


def _newton(found: Pass, k: Tensor) -> Tensor:
    """The step on ln sum sigmoid - ln k, or on ln A - ln C where both sides balance at k."""
    above, below = found.above, found.below
    balance = (above.log - below.log) / (below.slope / below.total + above.slope / above.total)
    total = found.n_above + (below.value - above.value)
    step = (k.log() - total.log()) * total / (above.slope_value + below.slope_value)
    return torch.where(found.n_above == k, balance, step)


def _underflow(found: Pass, k: Tensor, active: Tensor, subset: Tensor | None) -> Tensor:
    """Whether a sum that is needed has (nearly) vanished in some unsolved row."""
    flat = found.above.slope + found.below.slope < TINY
    balanced = (found.n_above == k) & (torch.minimum(found.above.total, found.below.total) < TINY)
    bad = flat | balanced
    return (bad if subset is not None else bad[active]).any()
