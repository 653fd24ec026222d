"""The course of a training: which fits it has, their stages, epochs and steps, from the settings.

Reads the settings that are little languages (stages, losses in turn, sources of negatives) too.
Only numbers and names, no torch: `dexml.plan` forecasts a training from the same functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from dexml.console import did_you_mean

if TYPE_CHECKING:
    from dexml.train.settings import TrainSettings


class StageKind(NamedTuple):
    """What a stage encodes and what it updates, beside the head: two choices."""

    encodes: bool
    """The texts of each step go through the transformer, which learns; else through the head
    alone, from features of the transformer as it is."""
    trains_table: bool
    """Residuals and biases of the labels learn; else they stay as they are."""


STAGES = {
    "heads": StageKind(encodes=False, trains_table=True),
    "encoder": StageKind(encodes=True, trains_table=False),
    "joint": StageKind(encodes=True, trains_table=True),
}
"""The order is that of the numbers in seeds and checkpoints."""
_EPOCHS = {"heads": "head_epochs", "encoder": "encoder_epochs", "joint": "joint_epochs"}
SELECTION, ALL_POINTS = "selection", "all points"
"""The two fits of a training."""
ALL_UP_TO = 32_768
"""With more labels than this, ``--head-negatives auto`` draws some instead of scoring all."""
SHORTLIST = 100
"""Labels a point that hard negatives are drawn from, where they do not stand for all labels."""
SOURCES = {
    "hard": "shortlist",
    "graph": "graph",
    "frequency": "frequency",
    "uniform": "uniform",
}
"""Sources of negatives by their name in a setting, and what `dexml.sampling` calls them."""
Negatives = Literal["all"] | dict[str, float]
"""All labels, or sources with their shares; no sources: in-batch."""


@dataclass(frozen=True)
class Loss:
    """A loss that the trainer offers."""

    name: str
    """In the setting; a loss that takes k is written with it, as in ``soft-top-5``."""
    function: str
    """In `dexml.losses`. A name, because settings are read where torch is not installed."""
    takes: tuple[str, ...] = ()
    """Its arguments beyond those that all losses take. The trainer has ``k``, ``alpha``,
    ``margin``, ``log_scale``, ``offset``, and ``negative_log_weight``, with which drawn negatives
    count 1/probability and so stand for all labels."""
    all_positives: bool = False
    """Whether it would train positives that are not drawn as negatives."""

    @property
    def takes_k(self) -> bool:
        """Whether its name needs a k."""
        return "k" in self.takes

    @property
    def learns_scale(self) -> bool:
        """Whether it learns the scale and the offset of the scores."""
        return "log_scale" in self.takes

    @property
    def example(self) -> str:
        """How to write it."""
        return f"{self.name}-5" if self.takes_k else self.name


LOSSES = (
    Loss("decoupled", "decoupled_softmax", takes=("negative_log_weight",)),
    Loss("softmax", "softmax"),
    Loss("soft-top", "soft_topk", takes=("k", "alpha")),
    Loss("bce", "bce", takes=("log_scale", "offset"), all_positives=True),
    Loss("topk-hinge", "topk_hinge", takes=("k",)),
    Loss("triplet", "triplet", takes=("margin",)),
)
"""All of them. A new loss is a file in `dexml.losses` and a line here."""
LOSS_EXAMPLES = tuple(loss.example for loss in LOSSES)


class LossPart(NamedTuple):
    """A loss and the share of a stage's steps after which it is used."""

    start: float
    loss: Loss
    k: int | None
    """None for a loss that does not take it."""


@dataclass(frozen=True)
class StageSchedule:
    """What the settings say about one stage, in numbers."""

    name: str
    """One of `STAGES`."""
    epochs: int
    batch_size: int
    negatives: Negatives
    per_point: int
    """Negatives that are drawn for each point of a step, unless all labels compete."""
    evaluate_every: int = 1
    shortlist_start: int = 0
    shortlist_every: int = 1
    clustered: bool = False
    """Whether the points of a step are clusters of near ones."""

    @property
    def encodes(self) -> bool:
        """Whether the texts of each step are encoded by a transformer that learns."""
        return STAGES[self.name].encodes

    @property
    def trains_table(self) -> bool:
        """Whether residuals and biases of the labels learn."""
        return STAGES[self.name].trains_table

    @property
    def number(self) -> int:
        """Enters the seeds of the stage and the names of its checkpoints."""
        return list(STAGES).index(self.name)

    def n_batches(self, n_points: int) -> int:
        """Steps of an epoch over this many points; the last may have fewer than `batch_size`."""
        return math.ceil(n_points / self.batch_size)

    def validates_after(self, epoch: int) -> bool:
        """Whether the model is validated after `epoch` (from 1); the last one always is."""
        return epoch % self.evaluate_every == 0 or epoch == self.epochs

    @property
    def mines(self) -> bool:
        """Whether some negatives are hard ones."""
        return self.negatives != "all" and "hard" in self.negatives

    def mines_before(self, epoch: int) -> bool:
        """Whether hard negatives are searched before `epoch` (from 1)."""
        return self.mines and self._renews_before(epoch)

    def clusters_before(self, epoch: int) -> bool:
        """Whether points are put into clusters before `epoch` (from 1)."""
        return self.clustered and self._renews_before(epoch)

    def _renews_before(self, epoch: int) -> bool:
        """First right after `shortlist_start` epochs, whatever `shortlist_every` is."""
        done = epoch - 1 - self.shortlist_start
        return done >= 0 and done % self.shortlist_every == 0


def fits(*, selects: bool, refit: bool) -> tuple[str, ...]:
    """Name the fits of a training, in order: to select on held-out points, then on all points."""
    if not selects:
        return (ALL_POINTS,)
    return (SELECTION, ALL_POINTS) if refit else (SELECTION,)


def stage_schedule(name: str, settings: TrainSettings, n_labels: int) -> StageSchedule:
    """Work out the schedule of the stage `name`, whether or not `settings.stages` names it."""
    epochs: int = getattr(settings, _EPOCHS[name])
    if STAGES[name].encodes:
        sizes = {"encoder": settings.encoder_batch_size, "joint": settings.joint_batch_size}
        batch_size, per_point = sizes[name], settings.negatives_per_point
        negatives = parse_negatives(settings.negatives)
    else:
        batch_size = settings.head_batch_size
        per_point = max(1, round(settings.head_pool / batch_size))
        drawn = settings.head_negatives
        if drawn == "auto":
            drawn = "all" if n_labels <= ALL_UP_TO else "uniform"
        negatives = parse_negatives(drawn)
    return StageSchedule(
        name,
        epochs,
        batch_size,
        negatives,
        per_point,
        evaluate_every=settings.evaluate_every,
        shortlist_start=settings.shortlist_start,
        shortlist_every=settings.shortlist_every,
        clustered=settings.batches == "clusters",
    )


def stage_schedules(settings: TrainSettings, n_labels: int) -> list[StageSchedule]:
    """Schedules of the stages that the settings name, in the order in which they run."""
    return [stage_schedule(name, settings, n_labels) for name in parse_stages(settings.stages)]


def with_epochs(settings: TrainSettings, epochs: Mapping[str, int]) -> TrainSettings:
    """The same settings, with these epochs of each stage; stages that are not named get none."""
    changes = {field: epochs.get(name, 0) for name, field in _EPOCHS.items()}
    return settings.model_copy(update=changes)


def starts_frozen(settings: TrainSettings) -> bool:
    """Whether the first stage needs features of all texts by the encoder as it was loaded."""
    return needs_features(settings, parse_stages(settings.stages)[0])


def needs_features(settings: TrainSettings, name: str) -> bool:
    """Whether a stage begins with features of all texts: to train on, or for centroids."""
    return not STAGES[name].encodes or starts_table(settings, name)


def starts_table(settings: TrainSettings, name: str) -> bool:
    """Whether residuals start here, at centroids, and labels are put into clusters.

    That is in the first stage that trains the table.
    """
    training = [
        stage
        for stage in parse_stages(settings.stages)
        if STAGES[stage].trains_table and getattr(settings, _EPOCHS[stage])
    ]
    starts = settings.residual_lr > 0 or settings.label_clusters > 0
    return starts and training[:1] == [name]


def trains_table(stages: str) -> bool:
    """Whether some of the stages trains what labels learn beyond their texts."""
    return any(STAGES[name].trains_table for name in parse_stages(stages))


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at `step`: rises linearly over the warm-up, then falls to 0."""
    rise = max(1, round(warmup * steps))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def parse_stages(text: str) -> tuple[str, ...]:
    """Read ``"heads"``, ``"encoder,heads"``: each stage at most once, in the order to run.

    Raises:
        ValueError: An unknown name, a stage twice, or none.
    """
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in STAGES:
            raise ValueError(
                f"unknown stage '{name}' (known: {', '.join(STAGES)})"
                f"{did_you_mean(name, tuple(STAGES))}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"'{text}' names a stage twice")
    return names


def parse_loss(text: str) -> tuple[LossPart, ...]:
    """Read ``"decoupled, soft-top-5 from 0.7"``: losses in turn, each with its start.

    Raises:
        ValueError: An unknown loss, a k that is missing or too much, starts that do not rise.
    """
    parts = [_parse_part(entry.strip()) for entry in text.split(",")]
    starts = [part.start for part in parts]
    if starts[0] != 0:
        raise ValueError(f"'{text}': the first loss is used from the start")
    if starts != sorted(set(starts)) or starts[-1] >= 1:
        raise ValueError(f"'{text}': later losses need 'from SHARE', rising and below 1")
    return tuple(parts)


def _parse_part(entry: str) -> LossPart:
    """Read ``"soft-top-5 from 0.7"``."""
    match = re.fullmatch(r"([a-z-]+?)(?:-(\d+))?(?:\s+from\s+([0-9.]+))?", entry)
    if match is None:
        raise ValueError(f"'{entry}' is not a loss; write it as 'soft-top-5 from 0.7'")
    name, k, start = match[1], match[2], match[3]
    loss = next((loss for loss in LOSSES if loss.name == name), None)
    if loss is None:
        raise ValueError(
            f"unknown loss '{name}' (known: {', '.join(LOSS_EXAMPLES)})"
            f"{did_you_mean(name, LOSS_EXAMPLES)}"
        )
    if loss.takes_k != (k is not None) or k == "0":
        raise ValueError(f"'{entry}': expected '{loss.example}'")
    try:
        return LossPart(float(start or 0), loss, None if k is None else int(k))
    except ValueError:
        raise ValueError(f"'{entry}': {start} is not a share of the steps") from None


def loss_at(parts: tuple[LossPart, ...], step: int, steps: int) -> LossPart:
    """The loss of step `step` (from 0) of `steps`."""
    return [part for part in parts if step >= part.start * steps][-1]


def longest(parts: tuple[LossPart, ...]) -> LossPart:
    """The loss of the most steps; of equally many, the first."""
    ends = [part.start for part in parts[1:]] + [1.0]
    return max(zip(parts, ends, strict=True), key=lambda pair: pair[1] - pair[0].start)[0]


def parse_negatives(text: str) -> Negatives:
    """Read ``"all"``, ``"in-batch"``, or sources with shares: ``"hard 0.5, uniform 0.5"``.

    Raises:
        ValueError: An unknown source, one twice, or shares that do not add up to 1.
    """
    if text.strip() == "all":
        return "all"
    if text.strip() == "in-batch":
        return {}
    shares: dict[str, float] = {}
    for entry in text.split(","):
        words = entry.split()
        name = words[0] if words else ""
        if name not in SOURCES:
            known = ("all", "in-batch", *SOURCES)
            raise ValueError(
                f"unknown negatives '{name}' (known: {', '.join(known)}){did_you_mean(name, known)}"
            )
        try:
            share = float(words[1]) if len(words) == 2 else 1.0 if len(words) == 1 else -1.0
        except ValueError:
            share = -1.0
        if not 0 < share <= 1 or name in shares:
            raise ValueError(f"'{entry.strip()}': expected '{name} SHARE', each source once")
        shares[name] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"'{text}': the shares add up to {sum(shares.values()):g}, not 1")
    return shares
