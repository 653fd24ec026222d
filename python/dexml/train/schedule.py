"""Settings that are little languages: stages, losses in turn, sources of negatives, rates.

Knows numbers and names only, no torch.
"""

from __future__ import annotations

import re
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
_PLAIN = ("decoupled", "softmax", "bce")
_WITH_K = ("soft-top", "topk-hinge")
Negatives = Literal["all"] | dict[str, float]
"""All labels, or sources with their shares; none is in-batch."""


class LossPart(NamedTuple):
    """A loss and the share of a stage's steps after which it is used."""

    start: float
    name: str
    k: int


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
    parts = []
    for entry in text.split(","):
        found = re.fullmatch(r"\s*([a-z-]+?)(?:-(\d+))?(?:\s+from\s+([0-9.]+))?\s*", entry)
        if found is None:
            raise ValueError(f"'{entry.strip()}' is no loss; write it as 'soft-top-5 from 0.7'")
        name, k, start = found[1], found[2], found[3]
        if name not in (*_PLAIN, *_WITH_K):
            known = (*_PLAIN, *(f"{n}-5" for n in _WITH_K))
            raise ValueError(
                f"unknown loss '{name}' (known: {', '.join(known)}){did_you_mean(name, known)}"
            )
        if (name in _WITH_K) != (k is not None) or k == "0":
            wanted = f"'{name}-5'" if name in _WITH_K else f"'{name}'"
            raise ValueError(f"'{entry.strip()}': expected {wanted}")
        try:
            parts.append(LossPart(float(start or 0), name, int(k or 0)))
        except ValueError:
            raise ValueError(f"'{entry.strip()}': {start} is no share of the steps") from None
    starts = [part.start for part in parts]
    if starts[0] != 0:
        raise ValueError(f"'{text}': the first loss is used from the start")
    if starts != sorted(set(starts)) or starts[-1] >= 1:
        raise ValueError(f"'{text}': later losses need 'from SHARE', rising and below 1")
    return tuple(parts)


def loss_at(parts: tuple[LossPart, ...], step: int, steps: int) -> LossPart:
    """The loss of step `step` (from 0) of `steps`."""
    return [part for part in parts if step >= part.start * steps][-1]


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
