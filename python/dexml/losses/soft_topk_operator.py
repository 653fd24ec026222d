"""The soft top-k operator over a dense matrix.

Shapes: B rows, N entries of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dexml.losses import threshold
from dexml.losses.arguments import read_k


def soft_topk_operator(x: Tensor, k: int | Tensor, *, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Soft indicator of the k largest entries of each row.

    The same as, for a matrix x:

        lo = -x.amax(dim=1, keepdim=True) - 50 / alpha
        hi = -x.amin(dim=1, keepdim=True) + 50 / alpha
        for _ in range(100):
            t = (lo + hi) / 2
            high = torch.sigmoid(alpha * (x + t)).sum(dim=1, keepdim=True) > k
            lo, hi = torch.where(high, lo, t), torch.where(high, t, hi)
        s, log_s = torch.sigmoid(alpha * (x + t)), F.logsigmoid(alpha * (x + t))

    Finds the scalar t of a row for which ``s_j = sigmoid(alpha (x_j + t))`` sum to k. Both outputs
    can be differentiated once, the dependence of t on x included (implicit function theorem; the
    lines above would treat t as a constant). With the exponential in place of the sigmoid, s would
    be k times the softmax; for large alpha it is the hard top-k indicator. `soft_topk` is the loss
    made of it. Source: T. Ahle; DEXML, ICLR 2024 (arXiv 2310.10636).

    Args:
        x: Shape (N,) or (B, N), float32 or float64, finite.
        k: Whole number from 1 to N - 1, for all rows or for each, shape (B,).
        alpha: Slope; the larger, the harder.

    Returns:
        s and log s, each of the shape and dtype of `x`.

    Raises:
        ValueError: `k` or `alpha` is out of its range, or `x` has another shape or dtype.

    Examples:
        >>> s, log_s = soft_topk_operator(torch.tensor([3.0, 1.0, 1.0, 0.0]), 2)
        >>> round(float(s.sum()), 4)
        2.0
    """
    if x.ndim not in (1, 2):
        raise ValueError(f"x: shape {tuple(x.shape)}; expected (n,) or (B, n)")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x: dtype {x.dtype}; expected float32 or float64")
    x_BN = x if x.ndim == 2 else x.unsqueeze(0)
    k_B = read_k(k, len(x_BN), x.device)
    if bool((k_B >= x_BN.shape[1]).any()):
        raise ValueError(f"k = {int(k_B.max())} of {x_BN.shape[1]} entries; expected fewer")
    if not alpha > 0:
        raise ValueError(f"alpha = {alpha}; expected a number above 0")
    s, log_s = _Operator.apply(x_BN, k_B, alpha)
    return s.view(x.shape), log_s.view(x.shape)


class _Operator(torch.autograd.Function):
    """s and log s of every entry, with the implicit gradient."""

    @staticmethod
    def forward(ctx: Any, x_BN: Tensor, k: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        y_BN = alpha * (x_BN - x_BN.amax(dim=1, keepdim=True))
        n_valid = torch.full_like(k, x_BN.shape[1])
        solution = threshold.solve(
            lambda t, rows, exact: threshold.measure(
                y_BN if rows is None else y_BN[rows], t, exact=exact
            ),
            log_sum=torch.logsumexp(y_BN, dim=1),
            lowest=y_BN.amin(dim=1),
            n_valid=n_valid,
            k=k,
            skip=torch.zeros_like(k, dtype=torch.bool),
        )
        u_BN = y_BN.add_(solution.t.unsqueeze(1))
        ctx.save_for_backward(u_BN, solution.log_slope)
        ctx.alpha = alpha
        return torch.sigmoid(u_BN), logsigmoid(u_BN)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Give d - (sum d) w, where d is the gradient at a fixed t and w = -dt/dx."""
        u_BN, log_slope = ctx.saved_tensors
        log_bend_BN = logsigmoid(u_BN) + logsigmoid(-u_BN)
        miss_BN = torch.sigmoid(-u_BN)
        g_s, g_log = grad_outputs
        d_BN = ctx.alpha * (g_s * log_bend_BN.exp() + g_log * miss_BN)
        # w in log space: numerator and denominator may both underflow.
        w_BN = torch.exp(log_bend_BN - log_slope.unsqueeze(1))
        return d_BN - d_BN.sum(dim=1, keepdim=True) * w_BN, None, None
