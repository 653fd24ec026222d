"""The checked input of a loss, cut into chunks of rows and tiles of labels.

Shapes: B points, L labels of this process, D dimensions, T labels of a tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from dexml.losses import pairs
from dexml.losses.layout import Layout
from dexml.losses.pairs import Blocks, Pairs
from dexml.losses.shards import Exchange


class Need(NamedTuple):
    """Which gradients are wanted."""

    point: bool = False
    label: bool = False
    bias: bool = False
    scale: bool = False
    offset: bool = False


@dataclass(frozen=True)
class Batch:
    """What the scores are made of: z = scale * point_emb @ label_emb.T + label_bias + offset."""

    point_emb: Tensor
    label_emb: Tensor
    label_bias: Tensor | None
    scale: float | Tensor
    offset: Tensor | None
    positives: Pairs
    ignored: Pairs
    """Never holds a positive."""
    n_labels: int
    """Over all processes."""
    lo: int
    """The first label of this process."""
    exchange: Exchange
    layout: Layout
    need: Need
    row_weight: Tensor
    """The factor of each row's loss in the result, (B,): 1 / B for a mean."""
    triton: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of scores and sums: float32, or float64 for float64 embeddings."""
        return torch.promote_types(self.point_emb.dtype, torch.float32)

    @property
    def half_products(self) -> bool:
        """Whether products take half-precision operands and give float32: on CUDA only."""
        return self.point_emb.is_cuda and self.point_emb.dtype != self.dtype

    @cached_property
    def tiles(self) -> list[tuple[int, int, int]]:
        """(start, stop, shard) of each tile.

        No tile crosses the border of a virtual shard. Otherwise the sums inside a tile would
        depend on how many processes share the labels.
        """
        width, cuts = self.layout.tile_labels, self.exchange.cuts
        return [
            (start, min(start + width, cuts[v + 1]), v)
            for v in range(self.exchange.n_local)
            for start in range(cuts[v], cuts[v + 1], width)
        ]

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """(start, stop) of each chunk of rows."""
        n, step = len(self.point_emb), self.layout.chunk_rows
        return [(start, min(start + step, n)) for start in range(0, n, step)]

    @cached_property
    def tile_starts(self) -> Tensor:
        """The first label of each tile, int64, counted from the first label of this process."""
        return self._on_device(start for start, _, _ in self.tiles)

    @cached_property
    def tile_shards(self) -> Tensor:
        """The virtual shard of each tile, int64."""
        return self._on_device(v for _, _, v in self.tiles)

    @cached_property
    def n_positives(self) -> Tensor:
        """Positives of each row, of all processes, int64 (B,)."""
        return pairs.moved(self.positives.counts, self.point_emb.device)

    @cached_property
    def n_ignored(self) -> Tensor:
        """Ignored pairs of each row, of all processes, int64 (B,)."""
        return pairs.moved(self.ignored.counts, self.point_emb.device)

    @cached_property
    def infinity(self) -> Tensor:
        """Infinity on the device: a Python number that is written by an index makes CUDA wait."""
        return self.point_emb.new_full((), torch.inf, dtype=self.dtype)

    @cached_property
    def minus_infinity(self) -> Tensor:
        """Likewise."""
        return -self.infinity

    def blocks(self, chosen: Pairs) -> Blocks:
        """Cut pairs at the same places as the scores."""
        starts = [start for start, _, _ in self.tiles] + [len(self.label_emb)]
        cut = pairs.cut(chosen, self.lo, starts, self.layout.chunk_rows, len(self.chunks))
        return cut.to(self.point_emb.device)

    @cached_property
    def positive_blocks(self) -> Blocks:
        """The positives among the labels of this process."""
        return self.blocks(self.positives)

    def masked_blocks(self, *, positives: bool) -> Blocks:
        """The pairs that no sum may see: ignored ones, and with ``positives=True`` those too."""
        if not positives:
            return self.blocks(self.ignored)
        if not len(self.ignored.rows):
            return self.positive_blocks
        return self.blocks(pairs.merge(self.positives, self.ignored, self.n_labels))

    def _on_device(self, numbers: Iterable[int]) -> Tensor:
        return pairs.moved(torch.tensor([*numbers], dtype=torch.int64), self.point_emb.device)

    def operand(self, emb: Tensor) -> Tensor:
        """Convert embeddings to the dtype in which products take them."""
        return emb if self.half_products else emb.to(self.dtype)

    def labels(self, tile: int) -> Tensor:
        """Embeddings of a tile, (T, D)."""
        start, stop, _ = self.tiles[tile]
        y_TD = self.operand(self.label_emb[start:stop])
        # A slice starts at an address that depends on the process count, and the library may pick
        # another product routine, with other last bits, for another alignment. A copy is aligned.
        return y_TD.clone() if self.exchange.deterministic else y_TD
