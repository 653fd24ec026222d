"""What a plan is made from, and what it is.

A forward-unit is the forward pass of the encoder over one token. A token that is trained costs 3
(1 forward, 2 backward), and 4 where it is encoded twice (gradient cache: 1 + 1 + 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.integer[Any]]


class Phase(NamedTuple):
    """What a phase does in each stage: ``"heads"`` (frozen features) or ``"encoder"``.

    `candidates`: labels that a step scores, of all processes together; `refreshes`: times that
    hard negatives are searched for all points; `drawn`: candidates are drawn for each step, so that
    its label table is one of rows (of fewer than all labels they always are).
    """

    name: Literal["heads", "encoder"]
    epochs: int
    batch_size: int
    candidates: int
    refreshes: int = 0
    drawn: bool = False


@dataclass(frozen=True)
class PlanInput:
    """All that a plan rests on; lengths in tokens, memory in bytes.

    Attributes:
        point_lengths: Tokens of each training point, shape (N,).
        label_lengths: Tokens of each label, shape (L,).
        n_positives: Positive pairs of the training part.
        n_unseen: Labels without one.
        n_validation: Held-out points among the N; 0: there is no selection.
        phases: In the order in which they run.
        dim: D, dimensions of an embedding.
        width: H, dimensions of a feature.
        n_weights: Numbers in the transformer and the head.
        n_trained: Numbers in what the phase encoder trains of them.
        n_blocks: Blocks of the transformer.
        n_trained_blocks: Those that the phase encoder trains, from the top.
        features_cached: Features by the encoder as loaded are there already.
        lower_cached: Outputs of the other blocks come from a cache.
        residual: The label table has residuals, of D numbers a label.
        refit: After the selection all points are trained on, as many epochs as chosen.
        memory: Training points may vote at search: it is chosen on the validation points.
        scored_points: Points scored at a validation, at most.
        evaluate_every: Epochs between validations.
        micro_tokens: Tokens encoded at a time.
        packed: The phase encoder packs texts of several lengths into a micro-batch.
        keep_tokens: Tokens of a step, on each side and of each process, whose activations are
            kept; all others are encoded twice.
        keep_labels: The same for labels of the phase heads.
        gradient_rows: Sums of gradients that each process keeps apart (deterministic: several).
        world: Processes.
        local: Processes of this machine; 0: all of them.
        device: ``"cpu"`` or ``"cuda"``.
        resident: Bytes of host memory that this process holds before it trains (`resident`):
            libraries, texts, pairs, and the encoder where it lies on the host. 0: not known.
    """

    point_lengths: Lengths
    label_lengths: Lengths
    n_positives: int
    n_unseen: int
    n_validation: int
    phases: Sequence[Phase]
    dim: int
    width: int
    n_weights: int
    n_trained: int
    n_blocks: int
    n_trained_blocks: int
    features_cached: bool = False
    lower_cached: bool = False
    residual: bool = True
    refit: bool = True
    memory: bool = False
    scored_points: int = 20_000
    evaluate_every: int = 1
    micro_tokens: int = 2048
    packed: bool = False
    keep_tokens: int = 16_384
    keep_labels: int = 2**62
    gradient_rows: int = 1
    world: int = 1
    local: int = 0
    device: str = "cpu"
    resident: int = 0


@dataclass(frozen=True)
class Speed:
    """Seconds and bytes on one device, as `dexml.plan.measure` finds them.

    Attributes:
        batch: Seconds of an encoding batch beside its tokens.
        token: Seconds of a token.
        token_pair: Seconds of a token and a token of its text: attention.
        backward: Forward and backward pass together in units of the forward pass.
        heads_step: Seconds of a step of the phase heads beside its labels.
        heads_label: Seconds of one label in such a step, update of its row included.
        score: Seconds of one score of a loss, forward and backward.
        search: Seconds of one comparison of a point with a label, on the device.
        token_bytes: Bytes kept for the backward pass of a token.
        label_bytes: Bytes kept for the backward pass of a label in the phase heads.
        host_search: Seconds of such a comparison on the host, where prior and votes are chosen; 0:
            as on the device.
        update: Seconds of the update of one trained number in the phase encoder.
    """

    batch: float
    token: float
    token_pair: float
    backward: float
    heads_step: float
    heads_label: float
    score: float
    search: float
    token_bytes: float
    label_bytes: float
    update: float = 0.0
    host_search: float = 0.0


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
    """What `plan` finds; `problems` says what does not fit and what to change."""

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


def all_compete(given: PlanInput, phase: Phase) -> bool:
    """Whether every step of a phase scores all labels, each process those of its own."""
    return not phase.drawn and phase.candidates == len(given.label_lengths)


def check(given: PlanInput) -> None:
    """Raise a ``ValueError`` that names a quantity that cannot be."""
    n_points, n_labels = len(given.point_lengths), len(given.label_lengths)
    if not n_points or not n_labels:
        raise ValueError(
            f"plan: {n_points} points and {n_labels} labels; there is nothing to train"
        )
    if not 0 <= given.n_validation < n_points:
        raise ValueError(f"plan: n_validation = {given.n_validation} of {n_points} points")
    for name in ("world", "micro_tokens", "evaluate_every", "n_blocks"):
        if getattr(given, name) < 1:
            raise ValueError(f"plan: {name} = {getattr(given, name)}; expected at least 1")
    if not given.phases:
        raise ValueError("plan: no phase to train")
    for phase in given.phases:
        if phase.batch_size < 1 or not 0 < phase.candidates <= n_labels:
            raise ValueError(
                f"plan: phase {phase.name} has batch_size {phase.batch_size} and "
                f"{phase.candidates} candidates of {n_labels} labels"
            )
