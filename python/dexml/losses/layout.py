"""How the B x L scores are cut, so that they are never alive together."""

from __future__ import annotations

from dataclasses import dataclass

SCRATCH_BYTES = 64 * 2**20
"""Default memory budget of a call, beside inputs and their gradients."""
KEEP_ROWS = {"cpu": 64, "cuda": 256}
"""Scores are kept between sweeps if a chunk has this many rows: the label gradient is read and
written once a chunk, so that thinner chunks lose more than the second score product costs."""
TILE_SCORES = {"cpu": 2**18, "cuda": 2**24}
"""Scores of a tile: on a CPU a tile and its temporaries stay in the cache."""
MIN_TILE = 512
"""Labels of a tile at least; where all rows do not fit, rows are cut too."""


@dataclass(frozen=True)
class Layout:
    """Chunks of rows, tiles of labels within them, scores kept between sweeps or formed anew.

    `keep` is the row-chunk layout (three products of B x L x D, scratch rows x L), otherwise the
    label-tile layout (four, scratch rows x tile; one more for each pass of the soft top-k solver).
    """

    chunk_rows: int
    tile_labels: int
    keep: bool


def choose(
    n_points: int,
    n_labels: int,
    *,
    itemsize: int,
    copies: int,
    device: str,
    scratch_bytes: int = SCRATCH_BYTES,
    may_keep: bool = True,
) -> Layout:
    """The stated rule: row chunks if enough rows of all labels fit the budget, else label tiles.

    Three quarters of the budget hold kept scores, one quarter the `copies` of a tile that a loss
    works on; without kept scores all of it is for tiles.

    Args:
        n_points: B.
        n_labels: L of this process.
        itemsize: Bytes of a score.
        copies: Tiles alive at a time.
        device: ``"cpu"`` or ``"cuda"``.
        scratch_bytes: The budget.
        may_keep: False where labels are sharded (a chunk would cost an exchange).
    """
    n_points, n_labels = max(1, n_points), max(1, n_labels)
    budget = max(1, scratch_bytes // itemsize)  # in scores
    tile_scores = TILE_SCORES.get(device, TILE_SCORES["cuda"])
    rows = 3 * budget // 4 // n_labels
    if may_keep and rows >= min(n_points, KEEP_ROWS.get(device, KEEP_ROWS["cuda"])):
        chunk = _even(n_points, rows)
        tile = min(tile_scores, budget // 4 // copies) // chunk
        if tile:
            return Layout(chunk, _even(n_labels, tile), keep=True)
    chunk = _even(n_points, max(1, budget // copies // min(MIN_TILE, n_labels)))
    tile = min(max(tile_scores, chunk * MIN_TILE), budget // copies) // chunk
    return Layout(chunk, max(1, min(n_labels, tile)), keep=False)


def _even(n: int, at_most: int) -> int:
    """Size of the parts when n is cut into as few parts as possible, all of about one size."""
    return -(-n // -(-n // min(n, at_most)))
