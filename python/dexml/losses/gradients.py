"""Sums of the gradients of a call, from tiles of dloss/dz.

Shapes: B points, L labels of this process, D dimensions, R rows of a chunk, T labels of a tile,
P pairs, V virtual shards of this process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexml.losses.batch import Batch
from dexml.losses.sweep import Sweep


class Gradients:
    """Gradients of points, labels, biases, scale and offset; only those that are wanted.

    What sums over labels (points, offset) has one buffer for each virtual shard of this process,
    so that `finish` can add them in the order of the labels. What belongs to a label is complete
    in the process that holds the label.
    """

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
        """Add what a tile of dloss/dz gives to each gradient."""
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
                # Into a tensor of its own: `out` starts where the process count puts it.
                out += g_RT.T @ sweep.x_RD
            else:
                out.addmm_(g_RT.T, sweep.x_RD)

    def add_pairs(self, rows: Tensor, columns: Tensor, shard: Tensor, g: Tensor) -> None:
        """Add single entries of dloss/dz.

        Args:
            rows: Rows of the batch, (P,).
            columns: Labels, counted from the first of this process, (P,).
            shard: The virtual shard of each label, counted likewise, (P,).
            g: The entries, (P,).
        """
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
        """Gradients of point_emb, label_emb, label_bias, log_scale and offset, over all shards."""
        batch, need = self.batch, self.batch.need
        d_point = d_log_scale = d_offset = None
        if self.point is not None:
            d_point = batch.exchange.sum_large(self.point).mul_(batch.scale)
            if need.scale:
                # scale * <x, y> is linear in x, so d/d(log scale) = sum over x of x * d/dx (Euler):
                # no sum over pairs is needed.
                d_log_scale = (d_point * batch.point_emb).sum()
            d_point = d_point.to(batch.point_emb.dtype) if need.point else None
        if self.offset is not None:
            d_offset = batch.exchange.sum(self.offset)
        d_label = None if self.label is None else self.label.to(batch.label_emb.dtype)
        return d_point, d_label, self.bias, d_log_scale, d_offset
