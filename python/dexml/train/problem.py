"""What is trained on, and what is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dexml.data import Csr
from dexml.encoder import DualEncoder, LabelTable, Tokens

Features = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of points (N, H) and of labels (L, H)."""


@dataclass(frozen=True)
class Problem:
    """The training part, tokenised once. N points, L labels."""

    y: Csr
    """(N, L); stored entries are positives."""
    exclude: Csr | None
    """Filter pairs, (N, L): neither positives nor negatives."""
    point_tokens: Tokens
    label_tokens: Tokens
    inv_propensity: NDArray[np.float64]
    features: Features | None = None
    """By the encoder as it was loaded; None where the first stage trains it."""


class Model(nn.Module):
    """What is trained: the shared encoder, the label table, and what bce learns."""

    def __init__(self, encoder: DualEncoder, table: LabelTable) -> None:
        super().__init__()
        self.encoder = encoder
        self.table = table
        device = table.bias.device
        self.log_scale = nn.Parameter(torch.zeros((), device=device))
        self.offset = nn.Parameter(torch.zeros((), device=device))
        self.trained_layers: set[str] = set()
        """Parameters of the transformer, by their names here, that some stage of the run trains."""

    def served_temperature(self, temperature: float) -> float:
        """The temperature with which a bias is served: bce's scale is part of it."""
        return temperature / float(self.log_scale.detach().exp())
