"""What is trained on, what is trained, and the two together: a job."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dexml.data import Csr
from dexml.encoder import DualEncoder, LabelTable, Tokens, upper_layers
from dexml.encoder.attention import check_packable
from dexml.train.schedule import ALL_POINTS, trains_table
from dexml.train.settings import TrainSettings

Features = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of points (N, H) and of labels (L, H)."""


@dataclass(frozen=True, eq=False)
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
    """What is trained: the shared encoder, the label table, and the scalars that bce learns."""

    def __init__(self, encoder: DualEncoder, table: LabelTable) -> None:
        super().__init__()
        self.encoder = encoder
        self.table = table
        device = table.bias.device
        self.log_scale = nn.Parameter(torch.zeros((), device=device))
        self.offset = nn.Parameter(torch.zeros((), device=device))
        self.trained_layers: set[str] = set()
        """Names (in this module) of the transformer's parameters that some stage trains."""

    @classmethod
    def untrained(
        cls,
        encoder: DualEncoder,
        y: Csr,
        exclude: Csr | None = None,
        table: Literal["float32", "bf16"] = "float32",
        label_clusters: int = 0,
    ) -> Model:
        """The encoder as it is, with an empty label table that counts the positives of `y`.

        The offset of bce starts at the log-odds of a positive: of the `n` pairs without filter
        pairs, `p` are positives, and the offset is ln(p / (n - p)). From 0 it would have to learn
        that nearly all pairs are negatives, and in a short training it does not get there. The
        first stage takes the mean score out of it (`dexml.train.stages`).

        Args:
            encoder: The encoder.
            y: Positives of the points that are trained on, shape (n, L).
            exclude: Their filter pairs, none of them a positive, shape (n, L).
            table: Numbers of the label residuals.
            label_clusters: Clusters of labels that share a vector; 0: none do.
        """
        dtype = torch.bfloat16 if table == "bf16" else torch.float32
        counts = torch.from_numpy(np.bincount(y.indices[y.data > 0], minlength=y.shape[1]))
        empty = LabelTable(counts, encoder.dim, dtype, label_clusters)
        model = cls(encoder, empty.to(encoder.device))
        n = y.shape[0] * y.shape[1] - (0 if exclude is None else exclude.nnz)
        with torch.no_grad():
            model.offset.fill_(log_odds(int(counts.sum()), n))
        return model

    def served_temperature(self, temperature: float) -> float:
        """The temperature with which a bias is served: bce's scale is part of it."""
        return temperature / float(self.log_scale.detach().exp())


def log_odds(n_positives: int, n: int) -> float:
    """Return the log-odds of a positive among `n` pairs; finite if all or none are positive."""
    return math.log(max(n_positives, 0.5) / max(n - n_positives, 0.5))


@dataclass(frozen=True, eq=False)
class Job:
    """One fit: the model, the points that it is trained on, and how."""

    problem: Problem
    model: Model
    """At its start; training changes it in place."""
    rows: NDArray[np.int64]
    """Points to train on, ascending."""
    settings: TrainSettings
    name: str = ALL_POINTS
    """In the log, beside the progress, and of the folder that keeps the checkpoints."""
    validation_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Points to select the best epoch on; none: the last epoch is the best."""

    @property
    def folder(self) -> Path:
        """Where the checkpoints are kept."""
        return self.settings.out / "checkpoint" / self.name

    @property
    def n_labels(self) -> int:
        """L."""
        return int(self.problem.y.shape[1])


def load_encoder(settings: TrainSettings) -> DualEncoder:
    """Load the encoder; its folder says pooling, norm, head and prompts unless a setting does.

    Raises:
        ValueError: It has fewer layers than are to be trained, or cannot be packed.
    """
    more: dict[str, Any] = {}
    if settings.pooling != "auto":
        more["pooling"] = settings.pooling
    if settings.normalize != "auto":
        more["normalize"] = settings.normalize == "yes"
    if settings.head != "auto":
        more["head"] = settings.head
    elif trains_table(settings.stages):
        more["head"] = "shared"
    for name in ("point_prompt", "label_prompt"):
        if (prompt := getattr(settings, name)) != "auto":
            more[name] = prompt
    encoder = DualEncoder.load(settings.encoder, **more)
    if settings.encoder_layers:
        upper_layers(encoder.transformer, settings.encoder_layers)
    if settings.packed:
        check_packable(encoder.transformer)
    return encoder
