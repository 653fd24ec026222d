"""Settings that are little languages: stages, losses in turn, sources of negatives, rates.

Knows numbers and names only, no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dexml.console import did_you_mean

STAGES = ("heads", "encoder")
SOURCES = {
    "hard": "shortlist",
    "graph": "graph",
    "frequency": "frequency",
    "uniform": "uniform",
}
"""Sources of negatives by the name in a setting, and what `dexml.sampling` calls them."""
Negatives = Literal["all"] | dict[str, float]
"""All labels, or sources with their shares; none is in-batch."""


@dataclass(frozen=True)
class Loss:
    """A loss that the trainer offers."""

    name: str
    """In the setting; a loss that takes k is written with it, as in ``soft-top-5``."""
    function: str
    """In `dexml.losses`. A name, because settings are read where torch is not installed."""
    takes: tuple[str, ...] = ()
    """Its arguments beyond those that all losses take. The trainer has ``k``, ``alpha``,
    ``log_scale``, ``offset``, and ``negative_log_weight``, with which drawn negatives count
    1/probability and so stand for all labels."""
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
)
"""All of them. A new loss is a file in `dexml.losses` and a line here."""
LOSS_EXAMPLES = tuple(loss.example for loss in LOSSES)


class LossPart(NamedTuple):
    """A loss and the share of a stage's steps after which it is used."""

    start: float
    loss: Loss
    k: int | None
    """None for a loss that does not take it."""


def parse_stages(text: str) -> tuple[str, ...]:
    """Read ``"heads"``, ``"encoder,heads"``: each stage at most once, in the order to run.

    Raises:
        ValueError: An unknown name, a stage twice, or none.
    """
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in STAGES:
            raise ValueError(
                f"unknown stage '{name}' (known: {', '.join(STAGES)}){did_you_mean(name, STAGES)}"
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


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at `step`: linear rise over the warm-up, then linear to 0."""
    rise = max(1, round(warmup * steps))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def shortlist_due(epoch: int, start: int, every: int) -> bool:
    """Whether the shortlist is made anew before `epoch` (from 1).

    The first time right after `start` epochs, whatever `every` is.
    """
    return epoch > start and (epoch - start - 1) % every == 0
