"""Triton kernels of the two softmax losses, which never write scores to memory.

One forms the log-sum-exp of each row, the other a tile of gradients in the dtype of the embeddings.
The two products with the gradient stay with the library. The kernels are correct under Triton's
interpreter on a CPU (``TRITON_INTERPRET=1``, set before the first import). What waits for a GPU:
``docs/gpu.md``.

Shapes: R rows of a chunk, T labels of a tile, D dimensions, P positives, M masked pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from dexml.losses.shards import finite, fold_lse
from dexml.losses.sweep import Sweep


class Block(NamedTuple):
    """What one program works on, and how it is compiled."""

    rows: int
    labels: int
    dims: int
    """Dimensions at a time."""
    warps: int
    stages: int


BLOCKS = {
    "half": Block(128, 128, 64, 8, 3),
    "float32": Block(64, 64, 32, 4, 2),
    "interpreter": Block(16, 32, 16, 4, 1),
}
"""By what is multiplied. Compiled for sm_80, sm_90 and sm_100 without a GPU
(``tests/kernels_compiled.py``), ``half`` is the largest block of these that spills no registers on
any of them: 64 flop for each byte that it loads (64 x 128: 43; 128 x 256 spills). float32 has no
matrix units; its smaller block spills nowhere either (64 x 128 x 64 spilled 5,760 bytes a thread on
sm_80). Small for the interpreter, so that tests have many programs."""
SPLITS = 64
"""Parts of the labels that the first kernel handles side by side; they are folded in order."""


@triton.jit  # type: ignore[untyped-decorator]
def _scores(  # type: ignore[no-untyped-def]
    x, y, add, row, column, n_rows, n_labels, dim, scale, HAS_ADD, BM, BN, BD: tl.constexpr
):
    """One block of z, -inf beyond the last label."""
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, dim, BD):
        d = start + tl.arange(0, BD)
        x_part = tl.load(
            x + row[:, None] * dim + d[None, :],
            mask=(row[:, None] < n_rows) & (d[None, :] < dim),
            other=0.0,
        )
        y_part = tl.load(
            y + column[:, None] * dim + d[None, :],
            mask=(column[:, None] < n_labels) & (d[None, :] < dim),
            other=0.0,
        )
        acc += tl.dot(x_part, tl.trans(y_part), input_precision="ieee")
    z = acc * scale
    if HAS_ADD:
        z += tl.load(add + column, mask=column < n_labels, other=0.0)[None, :]
    return tl.where(column[None, :] < n_labels, z, float("-inf"))


@triton.jit  # type: ignore[untyped-decorator]
def _lse_kernel(  # type: ignore[no-untyped-def]
    x,
    y,
    add,
    masked_row,
    masked_column,
    cuts,
    top_out,
    sum_out,
    n_rows,
    n_labels,
    dim,
    scale,
    blocks_a_split,
    n_blocks,
    HAS_ADD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Maximum and scaled sum of a block of rows, over the labels of one split."""
    row_block = tl.program_id(0)
    split = tl.program_id(1)
    row = row_block.to(tl.int64) * BM + tl.arange(0, BM)
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    first = split * blocks_a_split
    for block in range(first, tl.minimum(first + blocks_a_split, n_blocks)):
        column = block * BN + tl.arange(0, BN).to(tl.int64)
        z = _scores(x, y, add, row, column, n_rows, n_labels, dim, scale, HAS_ADD, BM, BN, BD)
        # Masked pairs are sorted by block, so a block visits only its own: almost always none.
        key = row_block * n_blocks + block
        for i in range(tl.load(cuts + key), tl.load(cuts + key + 1)):
            out_row = tl.load(masked_row + i)
            out_column = tl.load(masked_column + i)
            hit = (row[:, None] == out_row) & (column[None, :] == out_column)
            z = tl.where(hit, float("-inf"), z)
        new = tl.maximum(top, tl.max(z, axis=1))
        shift = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(z - shift[:, None]), axis=1)
        top = new
    tl.store(top_out + split * n_rows + row, top, mask=row < n_rows)
    tl.store(sum_out + split * n_rows + row, total, mask=row < n_rows)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    x,
    y,
    add,
    shift,
    push,
    out,
    n_rows,
    n_labels,
    dim,
    scale,
    HAS_ADD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Push * exp(z - shift) of one block."""
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    column = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    z = _scores(x, y, add, row, column, n_rows, n_labels, dim, scale, HAS_ADD, BM, BN, BD)
    n = tl.load(shift + row, mask=row < n_rows, other=0.0)
    p = tl.load(push + row, mask=row < n_rows, other=0.0)
    g = p[:, None] * tl.exp(z - n[:, None])
    inside = (row[:, None] < n_rows) & (column[None, :] < n_labels)
    tl.store(
        out + row[:, None] * n_labels + column[None, :], g.to(out.dtype.element_ty), mask=inside
    )


def log_sum_exp(sweep: Sweep) -> Tensor:
    """Log-sum-exp of each row over the labels that are not masked, (R,).

    Scores the positives too, since no tile of scores is there to read them from.
    """
    batch = sweep.batch
    x_RD, y_LD = sweep.x_RD.contiguous(), batch.operand(batch.label_emb).contiguous()
    scale = _scale(sweep)
    n_labels, dim = y_LD.shape
    block = _block(x_RD)
    n_blocks = triton.cdiv(n_labels, block.labels)
    row, column, cuts = _masked_index(sweep, block.rows, block.labels, n_blocks)
    splits = min(SPLITS, n_blocks)
    a_split = triton.cdiv(n_blocks, splits)
    top = x_RD.new_full((splits, sweep.n_rows), -torch.inf, dtype=torch.float32)
    total = torch.zeros_like(top)
    add = _added(sweep)
    _lse_kernel[(triton.cdiv(sweep.n_rows, block.rows), splits)](
        x_RD,
        y_LD,
        top if add is None else add,
        row,
        column,
        cuts,
        top,
        total,
        sweep.n_rows,
        n_labels,
        dim,
        scale,
        a_split,
        n_blocks,
        HAS_ADD=add is not None,
        **_compiled(block),
    )
    sweep.score_positives(scale)
    top_R, sum_R = fold_lse(top, total)
    every = batch.exchange.gather(torch.stack([top_R, sum_R]).unsqueeze(0))
    top_R, sum_R = fold_lse(every[:, 0], every[:, 1])
    return finite(top_R) + sum_R.log()


def gradient_tiles(sweep: Sweep, shift_R1: Tensor, push_R1: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Form tiles of push * exp(z - shift), 0 where masked, in the dtype of the embeddings."""
    batch = sweep.batch
    x_RD, add, scale = sweep.x_RD.contiguous(), _added(sweep), _scale(sweep)
    block = _block(x_RD)
    shift_R, push_R = shift_R1.squeeze(1).contiguous(), push_R1.squeeze(1).contiguous()
    zero = x_RD.new_zeros(())
    for tile, (start, stop, _) in enumerate(batch.tiles):
        y_TD = batch.labels(tile).contiguous()
        n_labels, dim = y_TD.shape
        g_RT = x_RD.new_empty((sweep.n_rows, n_labels))
        grid = triton.cdiv(sweep.n_rows, block.rows), triton.cdiv(n_labels, block.labels)
        _gradient_kernel[grid](
            x_RD,
            y_TD,
            shift_R if add is None else add[start:stop].contiguous(),
            shift_R,
            push_R,
            g_RT,
            sweep.n_rows,
            n_labels,
            dim,
            scale,
            HAS_ADD=add is not None,
            **_compiled(block),
        )
        out = sweep.masked.block(sweep.chunk, tile)
        g_RT[sweep.masked.rows[out], sweep.masked.columns[out]] = zero
        yield tile, g_RT


def _block(x_RD: Tensor) -> Block:
    if triton.knobs.runtime.interpret:
        return BLOCKS["interpreter"]
    return BLOCKS["float32" if x_RD.dtype == torch.float32 else "half"]


def _compiled(block: Block) -> dict[str, int]:
    """The block as arguments of a launch."""
    sizes = {"BM": block.rows, "BN": block.labels, "BD": block.dims}
    return sizes | {"num_warps": block.warps, "num_stages": block.stages}


def _scale(sweep: Sweep) -> Any:
    """The factor of the products: full-precision points are scaled already."""
    return sweep.batch.scale if sweep.batch.half_products else 1.0


def _added(sweep: Sweep) -> Tensor | None:
    """The sum of bias and log weight of each label, float32 (L,)."""
    parts = [p for p in (sweep.batch.label_bias, sweep.add) if p is not None]
    if not parts:
        return None
    return torch.stack([p.float() for p in parts]).sum(dim=0)


def _masked_index(
    sweep: Sweep, block_rows: int, block_labels: int, n_blocks: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the masked pairs, sorted by kernel block, and where each block begins."""
    batch, masked = sweep.batch, sweep.masked
    own = masked.chunk(sweep.chunk)
    device = masked.rows.device
    row, column = masked.rows[own], masked.columns[own] + batch.tile_starts[masked.tiles[own]]
    key = row // block_rows * n_blocks + column // block_labels
    key, order = torch.sort(key)
    n_keys = triton.cdiv(sweep.n_rows, block_rows) * n_blocks
    cuts = torch.searchsorted(key, torch.arange(n_keys + 1, device=device), out_int32=True)
    if not len(order):  # the kernel needs a valid pointer even if it never reads it
        return row.new_zeros(1), row.new_zeros(1), cuts
    return row[order], column[order], cuts
