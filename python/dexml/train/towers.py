"""Embeddings of many texts in little memory, with their exact gradient (a gradient cache).

Texts are put in order of (token length, id) and cut into micro-batches of one exact length, or
packed ones: no padding, no mask. Order and cuts are a function of the texts alone, whatever number
of processes shares them, and each micro-batch has a seed of its own, set before it is encoded. So
dropout is the same when it is encoded a second time, on any process, and nothing of a random state
is kept.

First pass: embeddings only, but for as many tokens as fit (`keep_tokens`) with their graph. The
loss then gives the gradient of each embedding. Second pass: micro-batches without a graph are
encoded once more, and each is driven backward. Micro-batches go backward one after the other in
one order, so that the gradient has the same bits however many were kept.

Source: Gao et al., *Scaling deep contrastive learning batch size under memory limited setup*, 2021.
Shapes: K texts, M micro-batches, D dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml.losses.shards import VIRTUAL_SHARDS
from dexml.train import processes

Encode = Callable[[NDArray[np.int64], int], Tensor]
"""Embeddings (n, D) of the texts `ids`, the first of which stands at this place of the order."""


class Plan(NamedTuple):
    """Texts in their order, cut, and shared out."""

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
        """The first place of this process."""
        return int(self.cuts[self.runs[0][0]])

    @property
    def hi(self) -> int:
        """The place behind its last."""
        return int(self.cuts[self.runs[-1][1]])


def plan(
    ids: NDArray[np.int64],
    lengths: NDArray[np.int64] | None,
    max_tokens: int,
    *,
    deterministic: bool = False,
    even: bool = False,
    packed: bool = False,
) -> Plan:
    """Order, cut and share out the texts `ids`.

    Args:
        ids: Texts, shape (K,).
        lengths: Tokens of every text of the data set; None: ids keep their order, each counts 1.
        max_tokens: Tokens of a micro-batch, at least one text.
        deterministic: Cut at the borders of `VIRTUAL_SHARDS` equal parts too, and give each
            process whole parts: sums over them do not depend on the number of processes.
        even: Give each process the same number of texts instead of tokens.
        packed: A micro-batch may hold texts of several lengths.
    """
    n, size, rank = len(ids), processes.size(), processes.rank()
    order = np.arange(n) if lengths is None else np.lexsort((ids, lengths[ids]))
    ids = ids[order]
    each = np.ones(n, np.int64) if lengths is None else lengths[ids]
    parts = VIRTUAL_SHARDS if deterministic else size if even else 1
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
    """Where micro-batches begin among the texts from `first` to `last`, each as full as it can be.

    Args:
        before: Tokens before each text, (K + 1,).
        first: A text.
        last: The text behind the last one.
        max_tokens: Tokens of a micro-batch, at least one text.
    """
    found = []
    while first < last:
        found.append(first)
        full = int(np.searchsorted(before, before[first] + max_tokens, side="right")) - 1
        first = max(first + 1, full)
    return found


@dataclass
class Tower:
    """Texts of one side on their way to embeddings and back."""

    encode: Encode
    plan: Plan
    seed: tuple[int, ...]
    """Of the step and side; micro-batch m is encoded under ``(*seed, m)``."""
    keep_tokens: int
    """Tokens whose graph is kept, in each run."""

    def forward(self, like: Tensor, dim: int) -> Tensor:
        """Embeddings of this process's texts, shape (hi - lo, D), without a graph.

        Args:
            like: A tensor of the wanted dtype and device.
            dim: D.
        """
        self._kept: dict[int, Tensor] = {}
        lo, hi = self.plan.lo, self.plan.hi
        out: Tensor | None = None
        for first, last in self.plan.runs:
            kept = 0
            for m in range(first, last):
                kept += int(self.plan.tokens[m])
                with torch.set_grad_enabled(kept <= self.keep_tokens):
                    emb = self._encode(m)
                if kept <= self.keep_tokens:
                    self._kept[m] = emb
                a, b = int(self.plan.cuts[m]) - lo, int(self.plan.cuts[m + 1]) - lo
                if (a, b) == (0, hi - lo):
                    return emb.detach()
                out = like.new_empty(hi - lo, dim) if out is None else out
                out[a:b] = emb.detach()
        return like.new_empty(hi - lo, dim) if out is None else out

    def backward(self, run: int, grad: Tensor, replayed: Tensor | None = None) -> None:
        """Drive the gradient (hi - lo, D) of the embeddings back, of one run of micro-batches.

        Args:
            run: Number of the run.
            grad: Gradient of all embeddings of this process.
            replayed: The embeddings of `forward`, to compare what is encoded again with.

        Raises:
            RuntimeError: It differs: dropout was not replayed.
        """
        lo = self.plan.lo
        for m in range(*self.plan.runs[run]):
            a, b = int(self.plan.cuts[m]) - lo, int(self.plan.cuts[m + 1]) - lo
            emb = self._kept.pop(m, None)
            if emb is None:
                with torch.enable_grad():
                    emb = self._encode(m)
                if replayed is not None and not torch.allclose(
                    emb.detach(), replayed[a:b], rtol=1e-2, atol=1e-2
                ):
                    raise RuntimeError(
                        "the encoder gives other embeddings when it encodes a text again, so the "
                        "gradient would be wrong; leave --compile out, or give more --keep-tokens"
                    )
            if emb.requires_grad:
                torch.autograd.backward(emb, grad[a:b])

    def _encode(self, m: int) -> Tensor:
        a, b = int(self.plan.cuts[m]), int(self.plan.cuts[m + 1])
        torch.manual_seed(seed_of(*self.seed, m))
        return self.encode(self.plan.ids[a:b], a)


def seed_of(*numbers: int) -> int:
    """A seed of its own for each tuple of numbers, below 2^63."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
