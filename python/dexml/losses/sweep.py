"""The scores of a chunk of rows, tile by tile. Every loss is a few sweeps over them.

Shapes: D dimensions, R rows of a chunk, T labels of a tile, P positives of the chunk among the
labels of this process, V virtual shards of this process.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dexml.losses.batch import Batch
from dexml.losses.pairs import Blocks


class Sweep:
    """Scores of one chunk of rows; masked pairs are -inf.

    Call `first` once, then `again` as often as needed. If the layout keeps scores, `again` gives
    the tensors that `first` gave: then write into them only after the last use (`spare` knows).
    """

    def __init__(self, batch: Batch, chunk: int, masked: Blocks, add: Tensor | None = None) -> None:
        """Take the rows of a chunk.

        Args:
            batch: The input of the loss.
            chunk: Number of the chunk.
            masked: Pairs that no sum may see.
            add: Added to the scores of each label after the positives were read, (L,).
        """
        self.batch, self.chunk, self.masked = batch, chunk, masked
        self.start, self.stop = batch.chunks[chunk]
        self.n_rows = self.stop - self.start
        x_RD = batch.operand(batch.point_emb[self.start : self.stop])
        # The scale goes into the points once, instead of into every tile of scores. Half-precision
        # points would lose bits by it, so there it does go into the scores.
        self.x_RD = x_RD if batch.half_products else x_RD * batch.scale
        self.n_positives = batch.n_positives[self.start : self.stop]
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
        """The factor of each positive's term in its row's loss, (P,): weight / n_b."""
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
        """Minimum of each row over the scores of a tile that are not masked; inf if all are."""
        out = self.masked.block(self.chunk, tile)
        pair = self.masked.rows[out], self.masked.columns[out]
        z_RT[pair] = self.batch.infinity
        lowest = z_RT.amin(dim=1)
        z_RT[pair] = self.batch.minus_infinity
        return lowest

    def score_positives(self, scale: float | Tensor) -> None:
        """Score the positives by products of their own, where no tile of scores is formed."""
        batch = self.batch
        own = batch.positive_blocks.chunk(self.chunk)
        tiles = batch.positive_blocks.tiles[own]
        column = batch.tile_starts[tiles] + batch.positive_blocks.columns[own]
        parts = []
        for rows, columns in zip(self.rows_P.split(2**14), column.split(2**14), strict=True):
            x_PD = self.x_RD[rows].to(batch.dtype)
            y_PD = batch.label_emb[columns].to(batch.dtype)
            parts.append((x_PD * y_PD).sum(dim=1) * scale)
            if batch.label_bias is not None:
                parts[-1] += batch.label_bias[columns]
        self._positive = parts

    def first(self) -> Iterator[tuple[int, Tensor]]:
        """Form the tiles of scores (R, T) for the first time; yields (number, scores)."""
        batch, positives = self.batch, self.batch.positive_blocks
        for tile in range(len(batch.tiles)):
            z_RT = self._product(tile, self.x_RD)
            # Read before the mask, which may hide the positives themselves.
            own = positives.block(self.chunk, tile)
            self._positive.append(z_RT[positives.rows[own], positives.columns[own]])
            self._mask(tile, z_RT)
            if batch.layout.keep:
                self._kept.append(z_RT)
            yield tile, z_RT

    def again(self, rows: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Give the same tiles once more, on request those of a few `rows` of the chunk only."""
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
        """A tensor like `z_RT` to write to: `z_RT` itself unless it is kept for a later sweep."""
        return torch.empty_like(z_RT) if self._kept else z_RT

    def shift(self, shift_R1: Tensor, factor: float) -> None:
        """Make (z - shift) * factor of all tiles that `again` gives from now on."""
        self._affine = shift_R1, factor
        for z_RT in self._kept:
            z_RT.sub_(shift_R1).mul_(factor)

    def sum_positives(self, *values_P: Tensor) -> Tensor:
        """Sums over the positives of each row, of all shards: (len(values), R).

        Each virtual shard sums its own positives in the order of their ids, then the shards are
        folded in order. One sum over all positives of a process would group the terms differently
        for each process count, and so round differently.
        """
        batch = self.batch
        n_local = batch.exchange.n_local
        own = batch.positive_blocks.chunk(self.chunk)
        slot = self.rows_P
        if n_local > 1:
            slot = slot + batch.tile_shards[batch.positive_blocks.tiles[own]] * self.n_rows
        partial = [
            values.new_zeros(n_local * self.n_rows).index_add_(0, slot, values)
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
            # Where each row of the chunk stands among `rows`; -1 if it is not there.
            position = torch.full((self.n_rows,), -1, device=rows.device)
            position[rows] = torch.arange(len(rows), device=rows.device)
            row = position[row]
            row, column = row[row >= 0], column[row >= 0]
        z_RT[row, column] = self.batch.minus_infinity
