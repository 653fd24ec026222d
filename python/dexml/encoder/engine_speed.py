"""How fast engines are on this machine, by a short measurement; flags of processors say too little.

int8 for instance is multiplied by every x86 processor, and is slower than float32 on many.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from dexml.encoder.engine import Engine
from dexml.text.tokens import Tokens

_ROUNDS = 5
_FASTER = 1.1
"""How many times faster a form must be to count as faster: less is within the noise of a clock."""


def seconds(engines: Sequence[Engine], tokens: Tokens, rounds: int = _ROUNDS) -> list[float]:
    """Return the seconds that each engine takes for some texts, the least of several rounds.

    The engines take turns, so that other work on the machine meets all of them.
    """
    least = [float("inf")] * len(engines)
    for engine in engines:
        engine.features(tokens)  # compiles
    for _ in range(rounds):
        for i, engine in enumerate(engines):
            start = time.perf_counter()
            engine.features(tokens)
            least[i] = min(least[i], time.perf_counter() - start)
    return least


def is_faster(fast: float, slow: float) -> bool:
    """Whether `fast` seconds are clearly less than `slow` seconds."""
    return fast * _FASTER < slow


def sample_tokens(n_tokens: int = 32, n_texts: int = 2) -> Tokens:
    """Made-up texts of a usual length, to time an engine with."""
    ids = np.arange(n_texts * n_tokens, dtype=np.int32) % 7 + 1
    ids += np.repeat(np.arange(n_texts, dtype=np.int32), n_tokens)  # equal texts count once
    return Tokens(ids, np.arange(n_texts + 1, dtype=np.int64) * n_tokens)
