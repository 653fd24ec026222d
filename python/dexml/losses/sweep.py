"""Scores, tile by tile, and the gradients formed from them. Every loss is a few sweeps of these.

Shapes: B points, L labels of this process, D dimensions, R rows of a chunk, T labels of a tile,
P positives of the chunk in tiles of this process, V shards of this process.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """The checked input of a loss: z = scale * point_emb @ label_emb.T + label_bias + offset."""

    point_emb: Tensor
    label_emb: Tensor
    label_bias: Tensor | None
    scale: float | Tensor
    offset: Tensor | None
    positives: Pairs
    ignored: Pairs
    """Without the positives."""
    n_labels: int
    """Of all shards."""
    lo: int
    exchange: Exchange
    layout: Layout
    need: Need
    row_weight: Tensor
    """What a row's loss counts in the result, (B,): 1 / B for a mean."""
    triton: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of scores and sums."""
        return torch.promote_types(self.point_emb.dtype, torch.float32)

    @property
    def half_products(self) -> bool:
        """Half-precision operands with float32 results: on CUDA only."""
        return self.point_emb.is_cuda and self.point_emb.dtype != self.dtype

    @cached_property
    def tiles(self) -> list[tuple[int, int, int]]:
        """(start, stop, shard): tiles begin anew at each shard."""
        width, cuts = self.layout.tile_labels, self.exchange.cuts
        return [
            (start, min(start + width, cuts[v + 1]), v)
            for v in range(self.exchange.n_local)
            for start in range(cuts[v], cuts[v + 1], width)
        ]

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """(start, stop) of the chunks of rows."""
        n, step = len(self.point_emb), self.layout.chunk_rows
        return [(start, min(start + step, n)) for start in range(0, n, step)]

    def blocks(self, chosen: Pairs) -> Blocks:
        """Pairs cut as the scores are."""
        starts = [start for start, _, _ in self.tiles] + [len(self.label_emb)]
        return pairs.cut(chosen, self.lo, starts, self.layout.chunk_rows, len(self.chunks))

    @cached_property
    def positive_blocks(self) -> Blocks:
        """Positives among the labels of this process."""
        return self.blocks(self.positives)

    def masked_blocks(self, *, positives: bool) -> Blocks:
        """Pairs that are left out: the ignored, and the positives too if asked for."""
        if not positives:
            return self.blocks(self.ignored)
        if not len(self.ignored.rows):
            return self.positive_blocks
        return self.blocks(pairs.merge(self.positives, self.ignored, self.n_labels))

    def operand(self, emb: Tensor) -> Tensor:
        """Embeddings as the products take them."""
        return emb if self.half_products else emb.to(self.dtype)

    def labels(self, tile: int) -> Tensor:
        """Embeddings of a tile, (T, D).

        In the deterministic mode a copy: a product may depend on where its operand begins.
        """
        start, stop, _ = self.tiles[tile]
        y_TD = self.operand(self.label_emb[start:stop])
        return y_TD.clone() if self.exchange.deterministic else y_TD


class Sweep:
    """Scores of one chunk of rows; masked pairs are -inf."""

    def __init__(self, batch: Batch, chunk: int, masked: Blocks, add: Tensor | None = None) -> None:
        self.batch, self.chunk, self.masked = batch, chunk, masked
        self.start, self.stop = batch.chunks[chunk]
        self.n_rows = self.stop - self.start
        x_RD = batch.operand(batch.point_emb[self.start : self.stop])
        self.x_RD = x_RD if batch.half_products else x_RD * batch.scale
        self.n_positives = batch.positives.counts[self.start : self.stop]
        own = batch.positive_blocks.chunk(chunk)
        self.rows_P = batch.positive_blocks.rows[own]
        weight = batch.positive_blocks.weight
        self.weight_P = None if weight is None else weight[own].to(batch.dtype)
        self.row_weight = batch.row_weight[self.start : self.stop].to(batch.dtype)
        self.add = add
        self._kept: list[Tensor] = []
        self._affine: tuple[Tensor, float] | None = None
        self._positive: list[Tensor] = []

    @property
    def share(self) -> Tensor:
        """What the term of each positive counts in its row's loss, (P,): weight / n_b."""
        share = 1.0 / self.n_positives.clamp(min=1).to(self.batch.dtype)
        return share[self.rows_P] if self.weight_P is None else share[self.rows_P] * self.weight_P

    @property
    def z_P(self) -> Tensor:
        """Scores of the positives, known after the first sweep."""
        return torch.cat(self._positive) if self._positive else self.x_RD.new_zeros(0)

    @property
    def last_z_P(self) -> Tensor:
        """Scores of the positives in the tile that `first` gave last."""
        return self._positive[-1]

    def lowest(self, tile: int, z_RT: Tensor) -> Tensor:
        """Minimum of each row over the scores of a tile that are not masked; inf without any."""
        out = self.masked.block(self.chunk, tile)
        place = self.masked.rows[out], self.masked.columns[out]
        z_RT[place] = torch.inf
        lowest = z_RT.amin(dim=1)
        z_RT[place] = -torch.inf
        return lowest

    def score_positives(self, scale: float | Tensor) -> None:
        """Scores of the positives by their own products, where no tile of scores is formed."""
        batch = self.batch
        own = batch.positive_blocks.chunk(self.chunk)
        starts = torch.tensor(
            [t[0] for t in batch.tiles], dtype=torch.int64, device=self.rows_P.device
        )
        column = starts[batch.positive_blocks.tiles[own]] + batch.positive_blocks.columns[own]
        parts = []
        for rows, columns in zip(self.rows_P.split(2**14), column.split(2**14), strict=True):
            x_PD = self.x_RD[rows].to(batch.dtype)
            y_PD = batch.label_emb[columns].to(batch.dtype)
            parts.append((x_PD * y_PD).sum(dim=1) * scale)
            if batch.label_bias is not None:
                parts[-1] += batch.label_bias[columns]
        self._positive = parts

    def first(self) -> Iterator[tuple[int, Tensor]]:
        """Tiles of scores (R, T), each with its number, for the first time."""
        batch, positives = self.batch, self.batch.positive_blocks
        for tile in range(len(batch.tiles)):
            z_RT = self._product(tile, self.x_RD)
            own = positives.block(self.chunk, tile)
            self._positive.append(z_RT[positives.rows[own], positives.columns[own]])
            self._mask(tile, z_RT)
            if batch.layout.keep:
                self._kept.append(z_RT)
            yield tile, z_RT

    def again(self, rows: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """The same tiles once more, of some rows if asked for."""
        for tile in range(len(self.batch.tiles)):
            if self._kept:
                z_RT = self._kept[tile]
                yield tile, (z_RT if rows is None else z_RT[rows])
                continue
            z_RT = self._product(tile, self.x_RD if rows is None else self.x_RD[rows])
            self._mask(tile, z_RT, rows)
            if self._affine is not None:
                shift, factor = self._affine
                z_RT.sub_(shift if rows is None else shift[rows]).mul_(factor)
            yield tile, z_RT

    def spare(self, z_RT: Tensor) -> Tensor:
        """A tensor like `z_RT` to write to: itself if it is not needed again."""
        return torch.empty_like(z_RT) if self._kept else z_RT

    def shift(self, shift_R1: Tensor, factor: float) -> None:
        """From now on tiles are (z - shift) * factor."""
        self._affine = shift_R1, factor
        for z_RT in self._kept:
            z_RT.sub_(shift_R1).mul_(factor)

    def sum_positives(self, *values_P: Tensor) -> Tensor:
        """Sums over the positives of each row, of all shards: (len(values), R)."""
        batch = self.batch
        n_local = batch.exchange.n_local
        own = batch.positive_blocks.chunk(self.chunk)
        place = self.rows_P
        if n_local > 1:
            shard_of = torch.tensor(
                [v for _, _, v in batch.tiles], dtype=torch.int64, device=place.device
            )
            place = place + shard_of[batch.positive_blocks.tiles[own]] * self.n_rows
        partial = [
            values.new_zeros(n_local * self.n_rows).index_add_(0, place, values)
            for values in values_P
        ]
        stacked = torch.stack([p.view(n_local, self.n_rows) for p in partial], dim=1)
        total: Tensor = batch.exchange.sum(stacked)
        return total

    def _product(self, tile: int, x_RD: Tensor) -> Tensor:
        batch = self.batch
        y_TD = batch.labels(tile)
        if batch.half_products:
            z_RT = torch.mm(x_RD, y_TD.T, out_dtype=batch.dtype).mul_(batch.scale)
        else:
            z_RT = x_RD @ y_TD.T
        start, stop, _ = batch.tiles[tile]
        if batch.label_bias is not None:
            z_RT += batch.label_bias[start:stop]
        if batch.offset is not None:
            z_RT += batch.offset
        return z_RT

    def _mask(self, tile: int, z_RT: Tensor, rows: Tensor | None = None) -> None:
        if self.add is not None:
            start, stop, _ = self.batch.tiles[tile]
            z_RT += self.add[start:stop]
        out = self.masked.block(self.chunk, tile)
        if out.start == out.stop:
            return
        row, column = self.masked.rows[out], self.masked.columns[out]
        if rows is not None:
            place = torch.full((self.n_rows,), -1, device=rows.device)
            place[rows] = torch.arange(len(rows), device=rows.device)
            row = place[row]
            row, column = row[row >= 0], column[row >= 0]
        z_RT[row, column] = -torch.inf


class Gradients:
    """Sums of the gradients of a call, from tiles of dloss/dz."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        n_local, need = batch.exchange.n_local, batch.need
        x, y = batch.point_emb, batch.label_emb
        self.any = any(need)
        self.point = (
            x.new_zeros((n_local, *x.shape), dtype=batch.dtype)
            if need.point or need.scale
            else None
        )
        # With one chunk of rows each tile is written once, so no wider sum is needed.
        dtype = y.dtype if len(batch.chunks) == 1 else batch.dtype
        self.label = torch.zeros_like(y, dtype=dtype) if need.label else None
        self.bias = y.new_zeros(len(y), dtype=batch.dtype) if need.bias else None
        self.offset = y.new_zeros(n_local, dtype=batch.dtype) if need.offset else None

    def add(self, sweep: Sweep, tile: int, g_RT: Tensor) -> None:
        """Add the products of a tile of dloss/dz."""
        batch = self.batch
        start, stop, v = batch.tiles[tile]
        if self.bias is not None:
            self.bias[start:stop] += g_RT.sum(dim=0, dtype=batch.dtype)
        if self.offset is not None:
            self.offset[v] += g_RT.sum(dtype=batch.dtype)
        wide = batch.half_products
        if wide:
            g_RT = g_RT.to(batch.point_emb.dtype)
        if self.point is not None:
            rows = self.point[v, sweep.start : sweep.stop]
            if wide:
                rows += torch.mm(g_RT, batch.labels(tile), out_dtype=batch.dtype)
            else:
                rows.addmm_(g_RT, batch.labels(tile))
        if self.label is not None:
            out = self.label[start:stop]
            if wide:
                out += torch.mm(g_RT.T, sweep.x_RD, out_dtype=batch.dtype).mul_(batch.scale)
            elif batch.exchange.deterministic or out.dtype != batch.dtype:
                out += g_RT.T @ sweep.x_RD
            else:
                out.addmm_(g_RT.T, sweep.x_RD)

    def add_pairs(self, rows: Tensor, columns: Tensor, shard: Tensor, g: Tensor) -> None:
        """Add single entries of dloss/dz: global rows, columns of this process."""
        batch = self.batch
        x_PD = batch.point_emb[rows].to(batch.dtype) * batch.scale
        y_PD = batch.label_emb[columns].to(batch.dtype)
        if self.point is not None:
            flat = self.point.view(-1, self.point.shape[-1])
            flat.index_add_(0, shard * len(batch.point_emb) + rows, g.unsqueeze(1) * y_PD)
        if self.label is not None:
            self.label.index_add_(0, columns, (g.unsqueeze(1) * x_PD).to(self.label.dtype))
        if self.bias is not None:
            self.bias.index_add_(0, columns, g)

    def finish(self) -> tuple[Tensor | None, ...]:
        """Gradients by point_emb, label_emb, label_bias, log scale and offset, in their dtypes."""
        batch, need = self.batch, self.batch.need
        d_point = d_log_scale = d_offset = None
        if self.point is not None:
            d_point = batch.exchange.sum_large(self.point).mul_(batch.scale)
            if need.scale:  # z - offset - bias is linear in the points: Euler's identity
                d_log_scale = (d_point * batch.point_emb).sum()
            d_point = d_point.to(batch.point_emb.dtype) if need.point else None
        if self.offset is not None:
            d_offset = batch.exchange.sum(self.offset)
        d_label = None if self.label is None else self.label.to(batch.label_emb.dtype)
        return d_point, d_label, self.bias, d_log_scale, d_offset
