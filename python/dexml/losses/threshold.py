"""The threshold of soft top-k: for each row the t with sum_j sigmoid(y_j + t) = k.

Rows come shifted and scaled, y = alpha * (x - max x): without the shift float32 could not resolve t
for large scores. The solver takes Newton steps on ln sum sigmoid - ln k, inside a bracket that is
valid for any scores, and bisects where a step would leave the bracket. If exactly k scores lie
above the threshold, that function is flat and cancels; then the steps go by the balance of what the
k scores above miss and what the scores below add.

Shapes: R rows, A rows that are not solved yet, T scores of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MAX_PASSES = 60
TINY = 1e-30
"""Smaller sums are formed again with their largest term factored out: scores of 1e4 underflow."""


class Side(NamedTuple):
    """Sums over the scores on one side of the threshold, each as exp(-near) * sum.

    `total` is the sum of sigmoid(-|u|), `slope` that of sigmoid(u) sigmoid(-u).
    """

    near: Tensor
    total: Tensor
    slope: Tensor

    @property
    def log(self) -> Tensor:
        """The logarithm of the first sum."""
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
    """What one pass over the scores yields at t, seven numbers a row; u = y + t."""

    above: Side
    """Where u >= 0: the sum of 1 - sigmoid(u), so that nothing cancels."""
    below: Side
    """Where u < 0: the sum of sigmoid(u)."""
    n_above: Tensor
    """The number of u >= 0."""

    @property
    def log_slope(self) -> Tensor:
        """The logarithm of W = sum_j sigmoid(u_j) sigmoid(-u_j)."""
        above = self.above.slope.log() - self.above.near
        return torch.logaddexp(above, self.below.slope.log() - self.below.near)

    def excess(self, k: Tensor) -> Tensor:
        """A number with the sign of sum_j sigmoid(u_j) - k."""
        difference = self.n_above - k + (self.below.value - self.above.value)
        # With n_above = k both sides may be too small for anything but their logarithms.
        return torch.where(self.n_above == k, self.below.log - self.above.log, difference)

    def stacked(self) -> Tensor:
        """Stack the numbers to one tensor (7, R)."""
        return torch.stack([*self.above, *self.below, self.n_above])

    @classmethod
    def unstacked(cls, numbers: Tensor) -> Pass:
        """Undo `stacked`."""
        return cls(Side(*numbers[:3]), Side(*numbers[3:6]), numbers[6])

    def plus(self, other: Pass) -> Pass:
        """Join this with a pass over other scores of the same rows."""
        return Pass(
            _merge(self.above, other.above),
            _merge(self.below, other.below),
            self.n_above + other.n_above,
        )


def _merge(a: Side, b: Side) -> Side:
    # An empty side has near = inf and sums of 0; two of them must not give inf - inf.
    near = torch.minimum(a.near, b.near)
    shift = near.masked_fill(near == torch.inf, 0.0)
    p, q = torch.exp(shift - a.near), torch.exp(shift - b.near)
    return Side(near, a.total * p + b.total * q, a.slope * p + b.slope * q)


def measure(y_AT: Tensor, t_A: Tensor, *, exact: bool) -> Pass:
    """Measure a tile at t; scores of -inf contribute nothing.

    With ``exact=False`` nothing is factored out of the sums, which is faster, and enough unless
    they underflow.
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
"""``evaluate(t_A, rows, exact)``: a pass over all scores of `rows` (None: of all rows)."""


class Threshold(NamedTuple):
    """The solution of `solve`."""

    t: Tensor
    """(R,), for the shifted and scaled scores."""
    log_slope: Tensor
    """ln W, (R,)."""
    passes: int
    """Passes over the scores, at most `MAX_PASSES`."""


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
        evaluate: Makes a pass over the scores.
        log_sum: Log-sum-exp of y, (R,).
        lowest: Minimum of y over the scores that are not masked, (R,).
        n_valid: Number of scores that are not masked, (R,).
        k: The sums to reach, (R,), below `n_valid` in rows that are not skipped.
        skip: Rows to leave out, (R,); their result means nothing.
    """
    k = k.to(log_sum.dtype)
    tolerance = 1e-12 if log_sum.dtype == torch.float64 else 1e-6
    k_safe = torch.where(skip, torch.ones_like(k), k)
    rest = torch.where(skip, torch.ones_like(k), n_valid.to(k.dtype) - k)
    level = k_safe.log() - rest.log()  # logit(k / n)
    # All scores at the maximum 0 would need t = level, all at `lowest` t = level - lowest. The
    # second lower bound holds because sigmoid(u) < e^u.
    lo = torch.maximum(level, k_safe.log() - log_sum)
    hi = torch.maximum(level - lowest, lo)
    t = lo.clone()
    log_slope = torch.zeros_like(t)
    active = torch.nonzero(~skip).squeeze(1)
    passes = 0
    while len(active) and passes < MAX_PASSES:
        passes += 1
        # Copying the scores of the unsolved rows pays if they are the smaller part.
        subset = active if 2 * len(active) <= len(t) else None
        some = t if subset is None else t[subset]
        here = evaluate(some, subset, False)
        if bool(_underflow(here, k_safe if subset is None else k_safe[subset], active, subset)):
            here = evaluate(some, subset, True)
        if subset is None:
            here = Pass.unstacked(here.stacked()[:, active])
        now, wanted = t[active], k_safe[active]
        excess = here.excess(wanted)
        lower = torch.where(excess <= 0, now, lo[active])
        upper = torch.where(excess >= 0, now, hi[active])
        lo[active], hi[active] = lower, upper
        log_slope[active] = here.log_slope
        step = _newton(here, wanted)
        new = now + step
        # A small step ends a row, never a small residual: where k scores stand clear of the rest
        # the residual is tiny on a whole plateau, and t arbitrary.
        small = (step.abs() <= tolerance) | (new == now)
        middle = lower + (upper - lower) / 2
        closed = (middle <= lower) | (middle >= upper)  # no float lies strictly between
        new = torch.where((new > lower) & (new < upper), new, middle)
        done = small | ((new - now).abs() <= tolerance) | closed
        # A solved row keeps the t of its last pass, to which its `log_slope` belongs.
        t[active] = torch.where(done, now, new)
        active = active[~done]
    return Threshold(t, log_slope, passes)


def _newton(here: Pass, k: Tensor) -> Tensor:
    """The Newton step on ln sum sigmoid - ln k; if n_above = k, on ln below - ln above."""
    above, below = here.above, here.below
    balance = (above.log - below.log) / (below.slope / below.total + above.slope / above.total)
    total = here.n_above + (below.value - above.value)
    step = (k.log() - total.log()) * total / (above.slope_value + below.slope_value)
    return torch.where(here.n_above == k, balance, step)


def _underflow(here: Pass, k: Tensor, active: Tensor, subset: Tensor | None) -> Tensor:
    """Whether a sum that the step needs has nearly vanished in some unsolved row."""
    flat = here.above.slope + here.below.slope < TINY
    balanced = (here.n_above == k) & (torch.minimum(here.above.total, here.below.total) < TINY)
    bad = flat | balanced
    return (bad if subset is not None else bad[active]).any()
