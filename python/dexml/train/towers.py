"""Embeddings of many texts in little memory, with their exact gradient (a gradient cache).

Texts are sorted by (token length, id) and cut into micro-batches: of one exact length each, or
packed. There is no padding and no mask. Order and cuts depend on the texts alone, not on the number
of processes that share them, and each micro-batch has its own seed, set before it is encoded. So
dropout is the same when a micro-batch is encoded a second time, on any process, and no random state
has to be kept.

First pass: embeddings without a graph, but for as many tokens as fit (`keep_tokens`) with one. The
loss then gives the gradient of each embedding. Second pass: micro-batches without a graph are
encoded again, and each is driven backward. They go backward one after the other in a fixed order,
so that the gradient has the same bits however many graphs were kept.

Source: Gao et al., *Scaling deep contrastive learning batch size under memory limited setup*, 2021.
Shapes: K texts, M micro-batches, D dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml.losses.shards import VIRTUAL_SHARDS
from dexml.train import processes

Encode = Callable[[NDArray[np.int64], int], Tensor]
"""Embeddings (n, D) of the texts `ids`; the first one is at this position among the process's."""


class Plan(NamedTuple):
    """Texts in their order, cut into micro-batches and shared out over the processes."""

    ids: NDArray[np.int64]
    """(K,), in the order in which they are encoded."""
    order: NDArray[np.int64]
    """(K,): ``ids = asked[order]``."""
    cuts: NDArray[np.int64]
    """(M + 1,): micro-batch m is ``ids[cuts[m]:cuts[m + 1]]``."""
    tokens: NDArray[np.int64]
    """(M,): tokens of each micro-batch."""
    runs: list[tuple[int, int]]
    """Micro-batches of this process: one run, or one for each of its virtual shards."""

    @property
    def lo(self) -> int:
        """Position of this process's first text."""
        return int(self.cuts[self.runs[0][0]])

    @property
    def hi(self) -> int:
        """Position behind this process's last text."""
        return int(self.cuts[self.runs[-1][1]])

    @property
    def own(self) -> NDArray[np.int64]:
        """The texts of this process."""
        return self.ids[self.lo : self.hi]


def plan(
    ids: NDArray[np.int64],
    lengths: NDArray[np.int64] | None,
    max_tokens: int,
    *,
    deterministic: bool = False,
    packed: bool = False,
) -> Plan:
    """Order, cut and share out the texts `ids`.

    Args:
        ids: Texts, shape (K,).
        lengths: Tokens of every text of the data set; each process gets about as many tokens.
            None: ids keep their order, each counts 1, and each process gets as many texts.
        max_tokens: Tokens of a micro-batch; it has at least one text.
        deterministic: Cut at the borders of `VIRTUAL_SHARDS` equal parts too, and give each
            process whole parts: then sums over them do not depend on the number of processes.
        packed: A micro-batch may hold texts of several lengths.
    """
    n, size, rank = len(ids), processes.size(), processes.rank()
    order = np.arange(n) if lengths is None else np.lexsort((ids, lengths[ids]))
    ids = ids[order]
    each = np.ones(n, np.int64) if lengths is None else lengths[ids]
    parts = VIRTUAL_SHARDS if deterministic else size if lengths is None else 1
    borders = np.arange(parts + 1) * n // parts
    longer = np.flatnonzero(np.diff(each)) + 1
    edges = np.unique(np.concatenate([[0, n], borders, longer[: 0 if packed else None]]))
    before = np.concatenate([[0], np.cumsum(each)])
    starts = [_starts(before, int(a), int(b), max_tokens) for a, b in itertools.pairwise(edges)]
    cuts = np.array([*itertools.chain(*starts), n], np.int64)
    total = before[cuts]
    if parts > 1 or size == 1:
        local = parts // size
        marks = np.searchsorted(cuts, borders[rank * local : (rank + 1) * local + 1])
    else:
        shares = np.array([rank, rank + 1]) * total[-1] / size
        marks = np.searchsorted(total, shares)
    runs = [(int(a), int(b)) for a, b in itertools.pairwise(marks)]
    return Plan(ids, order, cuts, np.diff(total), runs)


def _starts(before: NDArray[np.int64], first: int, last: int, max_tokens: int) -> list[int]:
    """Where micro-batches begin among the texts `first` to `last` - 1, each as full as possible.

    `before` holds the tokens before each text, (K + 1,).
    """
    starts = []
    while first < last:
        starts.append(first)
        full = int(np.searchsorted(before, before[first] + max_tokens, side="right")) - 1
        first = max(first + 1, full)
    return starts


@dataclass
class Tower:
    """Texts of one side on their way to embeddings and back."""

    encode: Encode
    plan: Plan
    seed: tuple[int, ...]
    """Of the step and side; micro-batch m is encoded under ``(*seed, m)``."""
    keep_tokens: int
    """Tokens whose graph is kept, in each run."""
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def forward(self, like: Tensor, dim: int) -> Tensor:
        """Embeddings of this process's texts, shape (hi - lo, D), without a graph.

        Args:
            like: A tensor of the wanted dtype and device.
            dim: D.
        """
        lo, hi = self.plan.lo, self.plan.hi
        out: Tensor | None = None
        for first, last in self.plan.runs:
            tokens = 0
            for m in range(first, last):
                tokens += int(self.plan.tokens[m])
                keep = tokens <= self.keep_tokens
                with torch.set_grad_enabled(keep):
                    emb = self._encode(m)
                if keep:
                    self._kept[m] = emb
                a, b = self._positions(m)
                if (a, b) == (0, hi - lo):  # one micro-batch is all there is: no copy
                    return emb.detach()
                out = like.new_empty(hi - lo, dim) if out is None else out
                out[a:b] = emb.detach()
        return like.new_empty(hi - lo, dim) if out is None else out

    def backward(self, run: int, grad: Tensor, expected: Tensor | None = None) -> None:
        """Drive the gradient (hi - lo, D) of the embeddings back through one run.

        Args:
            run: Number of the run.
            grad: Gradient of all embeddings of this process.
            expected: What `forward` returned; texts that are encoded again are compared with it.

        Raises:
            RuntimeError: They differ, so dropout was not replayed.
        """
        for m in range(*self.plan.runs[run]):
            a, b = self._positions(m)
            emb = self._kept.pop(m, None)
            if emb is None:
                with torch.enable_grad():
                    emb = self._encode(m)
                if expected is not None and not torch.allclose(
                    emb.detach(), expected[a:b], rtol=1e-2, atol=1e-2
                ):
                    raise RuntimeError(
                        "the encoder gives other embeddings when it encodes a text again, so the "
                        "gradient would be wrong; leave --compile out, or give more --keep-tokens"
                    )
            if emb.requires_grad:
                torch.autograd.backward(emb, grad[a:b])

    def _encode(self, m: int) -> Tensor:
        torch.manual_seed(seed_of(*self.seed, m))
        ids = self.plan.ids[self.plan.cuts[m] : self.plan.cuts[m + 1]]
        return self.encode(ids, self._positions(m)[0])

    def _positions(self, m: int) -> tuple[int, int]:
        """Where micro-batch m begins and ends among the texts of this process."""
        lo = self.plan.lo
        return int(self.plan.cuts[m]) - lo, int(self.plan.cuts[m + 1]) - lo


def seed_of(*numbers: int) -> int:
    """A seed of its own for each tuple of numbers, below 2^63."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
