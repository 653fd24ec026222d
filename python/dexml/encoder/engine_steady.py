"""Whether the features of a text depend on the batch that it stands in, by a short trial.

A library may choose its kernels by the size of a batch. OpenVINO does so in int8 for encoders that
are narrower than a group of activations, and on processors without VNNI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dexml.text.tokens import Tokens

if TYPE_CHECKING:
    from dexml.encoder.engine import Engine

_TRIALS = ((1, 8), (2, 8), (3, 8), (16, 64))
"""Tokens of a text, and texts: short ones, where few rows are multiplied, and a whole batch."""
_SIZES = (1, 2, 5)
"""Texts of the small batches that are compared with all texts of a length at once."""
_COMPARED = 8
"""Texts of each length that are encoded again in small batches."""


def is_steady(engine: Engine) -> bool:
    """Whether some made-up texts get the same bits in small batches as all at once."""
    generator = np.random.default_rng(0)
    for length, n in _TRIALS:
        ids_NT = generator.integers(1, 9, (n, length)).astype(np.int32)  # every encoder knows them
        ids_NT[:8, 0] = np.arange(1, 9)  # equal texts would be encoded once
        tokens = Tokens(ids_NT.ravel(), np.arange(n + 1, dtype=np.int64) * length)
        together = engine.features(tokens)
        for size in _SIZES:
            for start in range(0, _COMPARED, size):
                rows = np.arange(start, min(start + size, _COMPARED))
                if not np.array_equal(engine.features(tokens.select(rows)), together[rows]):
                    return False
    return True
