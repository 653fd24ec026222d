"""A label table in bfloat16: updates without moments, rounded at random without bias.

A bfloat16 has 8 significant bits, so most updates of a step are smaller than half of the last one,
and rounding to the nearest would lose them. Rounded at random, up with the chance that lies in the
bits that are cut off, they arrive in the mean. The random bits are a function of (seed, label,
dimension) alone: the same for any number of processes, on any device.

Source: the label heads of Renee (MLSys 2023) and ELMO (ICML 2025); maths only.
Shapes: L labels, K labels of a step, D dimensions.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from dexml.train.rows import catch_up

ROWS = 16_384
"""Rows that are updated at a time."""
UPDATE_BYTES = 32
"""What temporary arrays take for each number of these rows."""
_WORD = 4
"""Random numbers of 16 bits in one of 64."""


class RoundedRows:
    """Updates the residuals of a bfloat16 label table, by rows, without weight decay.

    ``sgd``: w - lr g. ``adaptive``: w - lr g / (sqrt(v) + eps) with one v a label, the moving mean
    of the mean squared gradient of its row (corrected for its start by the row's own count), as in
    a row-wise AdamW without a mean of gradients; rows that few steps update move further
    (`rows.catch_up`). Each update is formed in float32 and rounded at random. Memory: 12 bytes a
    label, none with ``sgd``.
    """

    def __init__(
        self, n_labels: int, kind: Literal["adaptive", "sgd"], beta: float, eps: float, like: Tensor
    ) -> None:
        self.kind, self.beta, self.eps = kind, beta, eps
        n = n_labels if kind == "adaptive" else 0
        self.squares = torch.zeros(n, dtype=torch.float32, device=like.device)
        self.counts = torch.zeros(n, dtype=torch.int64, device=like.device)
        self.param_groups: list[dict[str, Any]] = []

    def add(self, name: str, lr: float) -> None:
        """Train ``residual`` at this peak rate."""
        self.param_groups.append({"name": name, "lr": lr})

    @torch.no_grad()
    def step(
        self, values: Tensor, at: Tensor, labels: Tensor, grad: Tensor, *, seed: int, steps: int
    ) -> None:
        """Update rows of `values` in place.

        Args:
            values: Residuals, bfloat16, shape (n, D): of all labels, or those of this process.
            at: Rows to update, each once, shape (K,).
            labels: The label of each of them, shape (K,).
            grad: Their gradients, float32, shape (K, D).
            seed: Of the step.
            steps: How many steps there have been, with this one; with ``adaptive``, rows that few
                of them have updated move further (`rows.catch_up`).
        """
        for group in self.param_groups:
            for start in range(0, len(at), ROWS):
                some = slice(start, start + ROWS)
                move = grad[some] * group["lr"]
                if self.kind == "adaptive":
                    move /= self._scale(labels[some], grad[some]).unsqueeze(1)
                    counts = self.counts[labels[some]]
                    move *= catch_up(counts, steps, (0.0, self.beta)).unsqueeze(1)
                rows = at[some]
                after = values[rows].float() - move
                bits = random_bits(labels[some], after.shape[1], seed)
                values[rows] = to_bfloat16(after, bits)

    def _scale(self, labels: Tensor, grad: Tensor) -> Tensor:
        """Root of the moving mean of squares of each row, (K,)."""
        self.counts[labels] += 1
        square = self.squares[labels].lerp(grad.square().mean(dim=1), 1 - self.beta)
        self.squares[labels] = square
        return (square / (1 - self.beta ** self.counts[labels].to(square.dtype))).sqrt() + self.eps


def to_bfloat16(values: Tensor, bits: Tensor) -> Tensor:
    """Round float32 to bfloat16: add 16 random bits to the pattern, then cut the lower 16 off.

    The mean over all `bits` is the value itself. Values that bfloat16 has, infinities and NaN stay
    as they are.

    Args:
        values: float32, any shape.
        bits: Integers from 0 to 65,535 that are equally likely, same shape, int32.
    """
    pattern = values.contiguous().view(torch.int32)
    rounded = ((pattern + bits) & -65_536).view(torch.float32)
    # The pattern of a NaN could run over; that of an infinity has nothing to cut off.
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def random_bits(labels: Tensor, dim: int, seed: int) -> Tensor:
    """16 random bits for each number of some rows: a hash of (seed, label, dimension).

    Args:
        labels: Which rows, int64, shape (K,).
        dim: D.
        seed: Of the step, below 2^63.

    Returns:
        Integers from 0 to 65,535, int32, shape (K, D).
    """
    n_words = -(-dim // _WORD)
    word = torch.arange(n_words, device=labels.device)
    mixed = _mixed(labels.unsqueeze(1) * n_words + word + _mixed(labels.new_full((), seed)))
    bits = mixed.view(torch.int16).view(len(labels), -1)[:, :dim]
    return bits.to(torch.int32) & 0xFFFF


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64; int64 that wraps around."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, n: int) -> Tensor:
    """Shift right by n bits, zeros from the left; torch keeps the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def _signed(number: int) -> int:
    """The same 64 bits as a signed number."""
    return number - (1 << 64) if number >= 1 << 63 else number
