"""Gradients of a step: in one tensor, so that a single all-reduce adds them up over the processes.

Shapes: R runs of micro-batches, P numbers in the parameters, K drawn labels, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dexml.losses.shards import VIRTUAL_SHARDS, fold_sum
from dexml.train import processes


class RowGradients(NamedTuple):
    """Gradients of drawn rows of the label table; 0 in the rows of other processes."""

    ids: NDArray[np.int64]
    """(K,)."""
    residual: Tensor
    """(K, D)."""
    bias: Tensor
    """(K,)."""


def n_runs(deterministic: bool, n_processes: int) -> int:
    """Sums of gradients that a process keeps apart: with `deterministic`, one a virtual shard."""
    return max(1, VIRTUAL_SHARDS // n_processes) if deterministic else 1


class FlatGradients:
    """The gradients of some parameters, as views into one tensor (R, P)."""

    def __init__(self, parameters: list[nn.Parameter], *, deterministic: bool) -> None:
        self.parameters, self.deterministic = parameters, deterministic
        self.flat: Tensor | None = None
        if parameters:
            runs = n_runs(deterministic, processes.size())
            self.flat = parameters[0].new_zeros(runs, sum(p.numel() for p in parameters))

    def zero(self) -> None:
        """Start a step."""
        if self.flat is not None:
            self.flat.zero_()

    def gather_in(self, run: int) -> None:
        """Let the backward pass add to the gradients of this run."""
        if self.flat is not None:
            self._view(self.flat[run])

    def sum_up(
        self, rows: RowGradients | None, flags: tuple[float, float], like: Tensor
    ) -> tuple[float, float]:
        """Sum all runs of all processes into ``.grad``, and `rows` in place.

        Args:
            rows: Gradients of the label table, if labels are drawn.
            flags: Two numbers that are summed over the processes too.
            like: A tensor of the wanted dtype and device.

        Returns:
            The sums of the flags.
        """
        flat = self.flat
        if processes.size() > 1:
            flat, flags = self._all_reduce(rows, flags, like)
        if flat is not None:
            self.total = flat[0] if len(flat) == 1 else fold_sum(flat)
            self._view(self.total)
        return flags

    def clip(self, norm: float) -> None:
        """Scale the sums down to this norm if theirs is larger."""
        if not self.parameters:
            return
        # In float64: a norm in float32 depends in its last bit on where the numbers lie.
        actual = float(torch.linalg.vector_norm(self.total, dtype=torch.float64))
        if actual > norm:
            self.total *= norm / actual

    def _all_reduce(
        self, rows: RowGradients | None, flags: tuple[float, float], like: Tensor
    ) -> tuple[Tensor | None, tuple[float, float]]:
        sent = [torch.tensor(flags, dtype=like.dtype, device=like.device)]
        if rows is not None:
            sent += [rows.residual, rows.bias]
        flat = self.flat
        if flat is not None:
            whole = flat
            if self.deterministic:  # each process fills the rows of its own virtual shards
                first = processes.rank() * len(flat)
                whole = flat.new_zeros(len(flat) * processes.size(), flat.shape[1])
                whole[first : first + len(flat)] = flat
            sent.append(whole)
        together = torch.cat([tensor.reshape(-1) for tensor in sent])
        processes.add_up(together)
        received = torch.split(together, [tensor.numel() for tensor in sent])
        if rows is not None:
            rows.residual.copy_(received[1].view_as(rows.residual))
            rows.bias.copy_(received[2])
        if flat is not None:
            flat = received[-1].view(-1, flat.shape[1])
        return flat, (float(received[0][0]), float(received[0][1]))

    def _view(self, row: Tensor) -> None:
        start = 0
        for parameter in self.parameters:
            stop = start + parameter.numel()
            parameter.grad = row[start:stop].view_as(parameter)
            start = stop
