"""What a plan is made from, and what it says.

A forward-unit is the forward pass of the encoder over one token. A token that is trained costs 3
(1 forward, 2 backward), and 4 where it is encoded twice (gradient cache: 1 + 1 + 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dexml.train import TrainSettings
from dexml.train.schedule import StageSchedule
from dexml.train.stages import token_budgets

Lengths = NDArray[np.integer[Any]]


class PlannedStage(NamedTuple):
    """A stage of the training."""

    schedule: StageSchedule
    candidates: int
    """Labels that a step scores, of all processes together."""

    @property
    def name(self) -> str:
        """``heads``, ``encoder`` or ``joint``."""
        return self.schedule.name

    @property
    def drawn(self) -> bool:
        """Whether labels are drawn for each step; else all compete, each process has its own."""
        return self.schedule.negatives != "all"


@dataclass(frozen=True, eq=False)
class PlanInput:
    """All that a plan rests on; lengths in tokens, memory in bytes."""

    settings: TrainSettings
    stages: Sequence[PlannedStage]
    """In the order in which they run."""
    point_lengths: Lengths
    """Tokens of each training point, shape (N,)."""
    label_lengths: Lengths
    """Tokens of each label, shape (L,)."""
    n_positives: int
    n_unseen: int
    """Labels without a training point."""
    n_validation: int
    """Held-out points among the N; 0: there is no selection."""
    dim: int
    """Dimensions of an embedding."""
    width: int
    """Dimensions of a feature."""
    n_weights: int
    """Numbers in the transformer and the head."""
    n_trained: int
    """Of them, what the stages encoder and joint train."""
    n_blocks: int
    """Blocks of the transformer."""
    new_lengths: tuple[Lengths, Lengths] | None = None
    """Tokens of the points and labels whose features by the encoder as it was loaded are not there
    yet; default all."""
    parts: Sequence[int] = ()
    """Points that are fitted again for each part that a ranker asks beside the validation points
    (`dexml.train.inputs.parts_to_ask`)."""
    world: int = 1
    """Processes."""
    local: int = 0
    """Processes of this machine; 0: all of them."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    device_bytes: int = 0
    """Memory of the GPU, which decides whether scores are kept; 0: not known, or a CPU."""
    resident: int = 0
    """Host memory that this process holds before it trains: libraries, texts, pairs, and the
    encoder where it lies on the host. 0: not known."""

    @property
    def token_budgets(self) -> tuple[int, int]:
        """Tokens of a micro-batch, and tokens of a step and side whose activations are kept."""
        return token_budgets(self.settings, torch.device(self.device))

    @property
    def trained_share(self) -> float:
        """Share of the transformer's blocks that a stage trains, from the top."""
        return min(1.0, (self.settings.encoder_layers or self.n_blocks) / self.n_blocks)

    @property
    def tuned(self) -> bool:
        """Whether the transformer is trained at all."""
        return any(stage.schedule.encodes and stage.schedule.epochs for stage in self.stages)

    @property
    def row(self) -> int:
        """Numbers of a label in the table that are trained: its residual, if any, and its bias."""
        return (self.dim if self.settings.residual_lr > 0 else 0) + 1

    @property
    def votes(self) -> bool:
        """Whether training points may vote at search: that is chosen after the selection."""
        return self.settings.memory == "auto"

    @property
    def residual_bytes(self) -> int:
        """Bytes of a number of a label residual."""
        return 2 if self.settings.table == "bf16" else 4

    def check(self) -> None:
        """Raise a ValueError that names a quantity that cannot be."""
        n_points, n_labels = len(self.point_lengths), len(self.label_lengths)
        if not n_points or not n_labels:
            raise ValueError(
                f"plan: {n_points} points and {n_labels} labels; there is nothing to train"
            )
        if not 0 <= self.n_validation < n_points:
            raise ValueError(f"plan: n_validation = {self.n_validation} of {n_points} points")
        for name in ("world", "n_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"plan: {name} = {getattr(self, name)}; expected at least 1")
        for stage in self.stages:
            if not 0 < stage.candidates <= n_labels:
                raise ValueError(
                    f"plan: stage {stage.name} has {stage.candidates} candidates of "
                    f"{n_labels} labels"
                )


@dataclass(frozen=True)
class Speed:
    """Seconds and bytes on one device, as `dexml.plan.measure` finds them."""

    batch: float
    """Seconds of a batch that is encoded, beside its tokens."""
    token: float
    """Seconds of a token."""
    token_pair: float
    """Seconds of a token and a token of its text: attention."""
    search: float
    """Seconds to compare a point with a label, on the device."""
    host_search: float
    """The same on the host, where prior and votes are chosen."""
    heads_step: float = 0.0
    """Seconds of a step on frozen features beside its labels."""
    heads_label: float = 0.0
    """Seconds of one label in such a step, with the update of its row."""
    label_bytes: float = 0.0
    """Bytes kept for the backward pass of a label in such a step."""
    backward: float = 3.0
    """Forward and backward pass of the encoder together, in units of the forward pass."""
    token_bytes: float = 0.0
    """Bytes kept for the backward pass of a token."""
    score: float = 0.0
    """Seconds of one score of the loss where texts are encoded, forward and backward."""
    update: float = 0.0
    """Seconds to update one number where texts are encoded."""


class Machine(NamedTuple):
    """Bytes that may be used: of the host, and of each device (the host's own on a CPU)."""

    host: int
    device: int
    device_name: str = "cpu"


@dataclass(frozen=True)
class Part:
    """A stretch of the work: its size and its time, all processes together."""

    name: str
    steps: int = 0
    tokens_a_step: int = 0
    tokens_an_epoch: int = 0
    scores_a_step: int = 0
    labels_a_step: int = 0
    epochs: int = 0
    seconds_an_epoch: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a training will cost; `problems` says what does not fit and what to change."""

    statistics: dict[str, float]
    parts: list[Part]
    memory: dict[str, dict[str, float]]
    available: dict[str, float]
    seconds: float
    units: dict[str, float]
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, for ``--plan-json``."""
        return asdict(self)
