"""Labels split over processes, and sums that do not depend on how they are split.

Each process sends a few numbers a row about its own labels. All processes receive everything and
fold it in the order of the labels, so all hold the same bits. In the deterministic mode the labels
are always cut into `VIRTUAL_SHARDS` parts, and a process holds several of them: then the parts, and
with them every rounding, are the same for 1, 2, 4 and 8 processes.

The backward pass of a mean loss needs no collective: its gradients are formed with the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

VIRTUAL_SHARDS = 8
"""Parts that the deterministic mode forms its sums in, whatever the process count."""


@dataclass(frozen=True)
class Shard:
    """The labels of this process: the half-open range `lo` to `hi` of `n_labels`.

    Every process passes all B points and the CSR of all B rows, in the same order, and its own rows
    of the label matrix. Shards may be uneven; together they hold each label once, in rank order.
    """

    lo: int
    hi: int
    n_labels: int
    group: dist.ProcessGroup | None = None
    """None: the default group, or one process if `torch.distributed` is not initialised."""

    @classmethod
    def even(cls, n_labels: int, group: dist.ProcessGroup | None = None) -> Shard:
        """Cut the labels evenly: rank r of P processes gets r L / P to (r + 1) L / P."""
        size, rank = _size(group), _rank(group)
        return cls(rank * n_labels // size, (rank + 1) * n_labels // size, n_labels, group)


def _size(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def _rank(group: dist.ProcessGroup | None) -> int:
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


class Exchange:
    """Gathers and folds the partial results of shards.

    A process has one shard; in the deterministic mode its part of the `VIRTUAL_SHARDS`.

    Attributes:
        cuts: Where the shards of this process begin and end, counted from its first label.
        n_local: Number of shards of this process.
    """

    def __init__(self, shard: Shard | None, n_labels: int, *, deterministic: bool) -> None:
        self.deterministic = deterministic
        self.shard = shard
        self.size = 1 if shard is None else _size(shard.group)
        if not deterministic:
            self.cuts = [0, n_labels]
            self.n_local = 1
            return
        if VIRTUAL_SHARDS % self.size:
            raise ValueError(
                f"deterministic=True with {self.size} processes; "
                f"expected a divisor of {VIRTUAL_SHARDS}"
            )
        self.n_local = VIRTUAL_SHARDS // self.size
        total = n_labels if shard is None else shard.n_labels
        first = 0 if shard is None else _rank(shard.group) * self.n_local
        cuts = [v * total // VIRTUAL_SHARDS for v in range(first, first + self.n_local + 1)]
        if shard is not None and (shard.lo, shard.hi) != (cuts[0], cuts[-1]):
            raise ValueError(
                f"deterministic=True: shard {shard.lo}..{shard.hi}, expected {cuts[0]}..{cuts[-1]} "
                "(Shard.even gives it)"
            )
        self.cuts = [c - cuts[0] for c in cuts]

    def gather(self, partial: Tensor) -> Tensor:
        """Join (n_local, ...) of all processes to (n_shards, ...), in the order of the labels."""
        if self.size == 1:
            return partial
        assert self.shard is not None
        parts = [torch.empty_like(partial) for _ in range(self.size)]
        dist.all_gather(parts, partial.contiguous(), group=self.shard.group)
        return torch.cat(parts)

    def sum(self, partial: Tensor) -> Tensor:
        """Add up all shards, (n_local, ...) to (...), in the order of the labels."""
        return fold_sum(self.gather(partial))

    def sum_large(self, partial: Tensor) -> Tensor:
        """Do the same for matrices.

        Unless deterministic, this is the library's all-reduce: it moves less than a gather, but
        adds in an order of its own.
        """
        if self.deterministic:
            return self.sum(partial)
        total = partial[0]
        if self.size > 1:
            assert self.shard is not None
            dist.all_reduce(total, group=self.shard.group)
        return total

    def check(self, mine: Sequence[int], names: Sequence[str], device: torch.device) -> None:
        """Check that the shards cover the labels once, in rank order.

        Args:
            mine: Numbers that must be equal on all processes.
            names: Their names, for the message.
            device: Where collectives run.

        Raises:
            ValueError: They do not, or a number differs.
        """
        if self.size == 1 or self.shard is None:
            return
        shard = self.shard
        own = torch.tensor([[shard.lo, shard.hi, shard.n_labels, *mine]], device=device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own, group=shard.group)
        by_rank = torch.cat(parts).tolist()
        edges = [0] + [row[1] for row in by_rank]
        if [row[0] for row in by_rank] != edges[:-1] or edges[-1] != shard.n_labels:
            ranges = [f"{row[0]}..{row[1]}" for row in by_rank]
            raise ValueError(
                f"shards {', '.join(ranges)} do not cover 0..{shard.n_labels} in rank order"
            )
        for column, name in enumerate(("n_labels", *names), start=2):
            values = [row[column] for row in by_rank]
            if len(set(values)) > 1:
                raise ValueError(f"{name} differs between processes: {values}")


def fold_sum(parts: Tensor) -> Tensor:
    """Sum over dimension 0, index by index; `torch.sum` may add in any order."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def fold_lse(top: Tensor, total: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Fold (maximum, sum of exp(scale (z - maximum))) over dimension 0, index by index."""
    m, s = top[0], total[0]
    for top_v, total_v in zip(top[1:], total[1:], strict=True):
        m, s = merge_lse(m, s, top_v, total_v, scale)
    return m, s


def merge_lse(
    m: Tensor, s: Tensor, top: Tensor, total: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Join two (maximum, scaled sum) pairs; an empty part has maximum -inf and sum 0."""
    new = torch.maximum(m, top)
    shift = finite(new)
    return new, s * torch.exp(scale * (m - shift)) + total * torch.exp(scale * (top - shift))


def finite(m: Tensor) -> Tensor:
    """Put 0 in the place of -inf, so that exp(-inf - m) is 0 and not NaN."""
    return m.masked_fill(m == -torch.inf, 0.0)


def steady_sigmoid(x: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """``factor * sigmoid(x)``, with bits that depend on each x alone.

    On a CPU the last bit of `torch.sigmoid` depends on whether an element falls into a vector
    register or into the remainder: on its position, and so on how many positives a process has.
    """
    return factor / (1 + torch.exp(-x))
