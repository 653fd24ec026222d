"""Outputs of frozen lower layers, computed once and read from disk at every step.

Shapes: B texts of one length T, H hidden dimensions, S tokens of all texts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from dexml import console
from dexml.encoder import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, DualEncoder, Tokens
from dexml.files import read_array, replacing
from dexml.train import processes


class CachedLayers:
    """Hidden states of texts below the last `n` blocks, without dropout.

    They take 4 S H bytes on disk, in `folder`, under a hash of texts, weights and `n`.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        tokens: Tokens,
        n: int,
        folder: Path,
        *,
        desc: str,
        progress: bool,
    ) -> None:
        """Compute the states if they are not there yet: the first process does, others wait."""
        path = folder / f"layers-{_key(encoder, tokens, n)}.npy"

        def compute() -> bool:
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                _write(path, encoder, tokens, n, desc=desc, progress=progress)
            return True

        processes.first(compute, encoder.device)
        self.stored = read_array(path, mmap_mode="r")
        self.tokens, self.device = tokens, encoder.device

    def states(self, ids: NDArray[np.int64]) -> Tensor:
        """Read the states (B, T, H) of texts of one length, to the encoder's device."""
        states = torch.from_numpy(self.stored[_positions(self.tokens, ids)])
        return states.to(self.device, non_blocking=True)


def _write(
    path: Path, encoder: DualEncoder, tokens: Tokens, n: int, *, desc: str, progress: bool
) -> None:
    was_training = encoder.training
    encoder.eval()
    device = encoder.device
    budget = CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
    shape = (int(tokens.offsets[-1]), int(encoder.transformer.config.hidden_size))
    desc = f"{desc}, frozen layers"
    with (
        replacing(path) as beside,
        console.bar(total=len(tokens), desc=desc, unit="text", disable=not progress) as bar,
    ):
        out = open_memmap(beside, "w+", np.float32, shape)
        for rows in tokens.batches(budget):
            with torch.inference_mode():
                states = encoder.lower(tokens.tensor(rows, device), n)
            out[_positions(tokens, rows)] = states.float().cpu().numpy()
            bar.update(len(rows))
        out.flush()
        del out  # closes the file before it is renamed
    encoder.train(was_training)


def _positions(tokens: Tokens, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the tokens of texts of one length, (B, T)."""
    starts = tokens.offsets[rows]
    length = int(tokens.offsets[rows[0] + 1] - starts[0])
    positions: NDArray[np.int64] = starts[:, None] + np.arange(length)
    return positions


def _key(encoder: DualEncoder, tokens: Tokens, n: int) -> str:
    digest = hashlib.sha256(f"{n}".encode())
    digest.update(tokens.ids.tobytes() + tokens.offsets.tobytes())
    for tensor in encoder.transformer.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
