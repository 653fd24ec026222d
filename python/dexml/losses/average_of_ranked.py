"""Average of a range of ranked row losses (AoRR)."""

from __future__ import annotations

import torch
from torch import Tensor


def average_of_ranked(row_losses: Tensor, *, m: int, k: int) -> Tensor:
    """Mean of the row losses that rank m + 1 to k, counted from the highest.

    The same as:

        ranked = torch.sort(row_losses, descending=True).values
        loss = ranked[m:k].mean()

    Optimises neither the m worst rows, which may have wrong labels, nor the easy ones beyond rank
    k. Wraps any loss of this package. Source: AoRR (Hu, Ying, Wang and Lyu, NeurIPS 2020 / JMLR
    2022), published for small label sets only.

    Args:
        row_losses: Shape (B,), from a loss with ``reduction="none"``.
        m: Rows to drop, at least 0.
        k: Last rank that counts, above `m` and at most B.

    Returns:
        Scalar of the same dtype.

    Raises:
        ValueError: `row_losses` has another shape, or not 0 <= m < k <= B.
    """
    if row_losses.ndim != 1 or not 0 <= m < k <= len(row_losses):
        raise ValueError(
            f"m = {m}, k = {k} for losses of shape {tuple(row_losses.shape)}; "
            "expected (B,) and 0 <= m < k <= B"
        )
    return torch.sort(row_losses, descending=True, stable=True).values[m:k].mean()
