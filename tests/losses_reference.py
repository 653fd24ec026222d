"""The losses written as their definitions, row by row over dense scores; slow and obvious.

``z`` is (B, L) in float64, ``positives`` and ``ignore`` are boolean (B, L), ``weights`` (B, L).
Each function gives the losses of the rows, (B,).
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Mask = NDArray[np.bool_]


def _rows(z: Tensor, positives: Mask, ignore: Mask | None, weights: Tensor | None):  # type: ignore[no-untyped-def]
    """Scores of positives, their weights, and scores of negatives, for each row."""
    for b in range(len(z)):
        own = torch.from_numpy(positives[b])
        out = own if ignore is None else own | torch.from_numpy(ignore[b])
        v = torch.ones_like(z[b]) if weights is None else weights[b]
        yield z[b][own], v[own], z[b][~out]


def softmax(
    z: Tensor, positives: Mask, ignore: Mask | None = None, weights: Tensor | None = None
) -> Tensor:
    losses = []
    for wanted, v, negatives in _rows(z, positives, ignore, weights):
        every = torch.logsumexp(torch.cat([wanted, negatives]), 0)
        losses.append((v * (every - wanted)).mean() if len(wanted) else z.sum() * 0)
    return torch.stack(losses)


def decoupled_softmax(
    z: Tensor, positives: Mask, ignore: Mask | None = None, weights: Tensor | None = None
) -> Tensor:
    losses = []
    for wanted, v, negatives in _rows(z, positives, ignore, weights):
        terms = [
            factor * (torch.logsumexp(torch.cat([p[None], negatives]), 0) - p)
            for p, factor in zip(wanted, v, strict=True)
        ]
        losses.append(torch.stack(terms).mean() if terms else z.sum() * 0)
    return torch.stack(losses)


def bce(
    z: Tensor, positives: Mask, ignore: Mask | None = None, weights: Tensor | None = None
) -> Tensor:
    losses = []
    zero = torch.zeros((), dtype=z.dtype)
    for wanted, v, negatives in _rows(z, positives, ignore, weights):
        terms = v * torch.logaddexp(zero, -wanted)
        losses.append((terms.sum() + torch.logaddexp(zero, negatives).sum()) / z.shape[1])
    return torch.stack(losses)


def bisect(x: Tensor, k: int, alpha: float) -> Tensor:
    """The t with sum_j sigmoid(alpha (x_j + t)) = k, as near as float64 comes.

    The two sides of the balance sum_{u<0} sigmoid(u) + m = k + sum_{u>=0} sigmoid(-u) are compared
    as logarithms where m = k, so that plateaus are no obstacle.
    """

    def too_high(t: float) -> bool:
        u = alpha * (x + t)
        count = int((u >= 0).sum())
        below = torch.logsumexp(torch.nn.functional.logsigmoid(u[u < 0]), 0)
        above = torch.logsumexp(torch.nn.functional.logsigmoid(-u[u >= 0]), 0)
        if count == k:
            return bool(below > above)
        return bool(count - k + below.exp() - above.exp() > 0)

    x = x.detach()
    margin = 100 / alpha
    lo, hi = -float(x.max()) - margin, -float(x.min()) + margin
    for _ in range(60 if len(x) > 10_000 else 100):
        middle = (lo + hi) / 2
        lo, hi = (lo, middle) if too_high(middle) else (middle, hi)
    return torch.tensor((lo + hi) / 2, dtype=x.dtype)


def soft_topk(
    z: Tensor,
    positives: Mask,
    ignore: Mask | None = None,
    weights: Tensor | None = None,
    *,
    k: int = 5,
    alpha: float = 2.0,
) -> Tensor:
    losses = []
    for wanted, v, negatives in _rows(z, positives, ignore, weights):
        x = torch.cat([wanted, negatives])
        if not len(wanted) or k >= len(x):
            losses.append(z.sum() * 0)
            continue
        t = bisect(x.detach(), k, alpha)
        # t does not move here, but autograd sees dt/dx = -w (implicit function theorem).
        u = alpha * (x.detach() + t)
        log_slope = torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
        t = t - (torch.softmax(log_slope, 0) * (x - x.detach())).sum()
        losses.append(-(v * torch.nn.functional.logsigmoid(alpha * (wanted + t))).mean())
    return torch.stack(losses)


def topk_hinge(z: Tensor, positives: Mask, ignore: Mask | None = None, *, k: int = 5) -> Tensor:
    losses = []
    for wanted, _, negatives in _rows(z, positives, ignore, None):
        every = torch.cat([wanted, negatives])
        if not 0 < len(wanted) <= k or len(every) <= k:
            losses.append(z.sum() * 0)
            continue
        rival = torch.sort(every, descending=True).values[k]
        losses.append(torch.clamp(1 + rival - wanted.min(), min=0))
    return torch.stack(losses)


def triplet(
    z: Tensor,
    positives: Mask,
    ignore: Mask | None = None,
    weights: Tensor | None = None,
    *,
    margin: float = 2.0,
) -> Tensor:
    losses = []
    for wanted, v, negatives in _rows(z, positives, ignore, weights):
        terms = [z.sum() * 0]
        for p, factor in zip(wanted, v, strict=True):
            near = negatives[negatives - p + margin > 0]
            share = torch.softmax(near.detach(), 0)
            terms.append(factor * (share * (near - p + margin)).sum())
        losses.append(torch.stack(terms).sum() / max(1, len(wanted)))
    return torch.stack(losses)


def positive_hinge(
    z: Tensor,
    positives: Mask,
    ignore: Mask | None = None,
    weights: Tensor | None = None,
    *,
    margin: float = 2.0,
) -> Tensor:
    losses = []
    for wanted, v, _ in _rows(z, positives, ignore, weights):
        terms = v * torch.clamp(margin - wanted, min=0)
        losses.append(terms.mean() if len(terms) else z.sum() * 0)
    return torch.stack(losses)


def infimum(n: int, k: int) -> float:
    """Of a row of the soft top-k loss with n positives."""
    return max(0.0, math.log(n / k))
