"""How the B x L scores are cut, so that they never exist all at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

SCRATCH_BYTES = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}
"""Default memory for scores in a call, beside the inputs and their gradients; more: `budget`."""
KEEP_SHARE = 8
"""On CUDA, scores may take one part in so many of the device's memory to be kept. Forming a score
of 768 dimensions again in float32 costs some 20 ps of an H200, keeping it in memory 2 ps."""
KEEP_ROWS = {"cpu": 64, "cuda": 256}
"""Scores are kept between sweeps if a chunk has at least this many rows. Each chunk reads and
writes the whole label gradient: with thinner chunks that costs more than forming scores twice."""
TILE_SCORES = {"cpu": 2**18, "cuda": 2**24}
"""Scores of a tile at most. On a CPU a tile and its temporaries then stay in the cache."""
MIN_TILE = 512
"""Labels of a tile at least. If all rows do not fit beside each other, rows are cut too."""


@dataclass(frozen=True)
class Layout:
    """How scores are cut: chunks of rows, tiles of labels, and whether scores are kept.

    With `keep` the scores of a chunk stay until its last sweep: three products of B x L x D and
    chunk x L scores in memory. Without it every sweep forms them again: four products (the solver
    of soft top-k adds one a pass) and chunk x tile scores.
    """

    chunk_rows: int
    tile_labels: int
    keep: bool


def budget(
    n_points: int,
    n_labels: int,
    *,
    itemsize: int,
    device: str,
    device_bytes: int = 0,
    may_keep: bool = True,
) -> int:
    """Bytes for scores, where the caller does not say: on CUDA enough to keep them, if they fit.

    The rule goes by the memory that a device has, not by what is free: layouts, and with them the
    last bits of a result, must not depend on what else is going on.

    Args:
        n_points: B.
        n_labels: L of this process.
        itemsize: Bytes of a score.
        device: ``"cpu"`` or ``"cuda"``.
        device_bytes: Memory of the device; 0: not known, nothing more is taken.
        may_keep: As for `choose`.
    """
    least = SCRATCH_BYTES.get(device, SCRATCH_BYTES["cpu"])
    if not may_keep:
        return least
    all_scores = -(-4 * itemsize * n_points * n_labels // 3)  # three quarters of a budget are kept
    return max(least, min(all_scores, device_bytes // KEEP_SHARE))


@cache
def device_bytes(device: torch.device) -> int:
    """Memory of a CUDA device in bytes; 0 for other devices."""
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else 0


def choose(
    n_points: int,
    n_labels: int,
    *,
    itemsize: int,
    copies: int,
    device: str,
    scratch_bytes: int,
    may_keep: bool = True,
) -> Layout:
    """Choose a layout: keep scores if enough rows of all labels fit into a budget.

    Three quarters of the budget then hold kept scores, one quarter the `copies` of a tile that a
    loss works on. Without kept scores the whole budget is for tiles.

    Args:
        n_points: B.
        n_labels: L of this process.
        itemsize: Bytes of a score.
        copies: Tiles that exist at the same time.
        device: ``"cpu"`` or ``"cuda"``.
        scratch_bytes: The budget.
        may_keep: False if labels are sharded, since each chunk would cost an exchange.
    """
    n_points, n_labels = max(1, n_points), max(1, n_labels)
    room = max(1, scratch_bytes // itemsize)  # in scores
    tile_scores = TILE_SCORES.get(device, TILE_SCORES["cuda"])
    rows = 3 * room // 4 // n_labels
    if may_keep and rows >= min(n_points, KEEP_ROWS.get(device, KEEP_ROWS["cuda"])):
        chunk = _even(n_points, rows)
        tile = min(tile_scores, room // 4 // copies) // chunk
        if tile:
            return Layout(chunk, _even(n_labels, tile), keep=True)
    chunk = _even(n_points, max(1, room // copies // min(MIN_TILE, n_labels)))
    tile = min(max(tile_scores, chunk * MIN_TILE), room // copies) // chunk
    return Layout(chunk, max(1, min(n_labels, tile)), keep=False)


def _even(n: int, at_most: int) -> int:
    """Cut n into as few parts as possible, of about equal size; returns the size."""
    return -(-n // -(-n // min(n, at_most)))
