"""What a training will cost, before it begins: steps, tokens, time, memory, what will not fit.

Arithmetic only: quantities in (`PlanInput`), speeds as measured here (`dexml.train.measure`), a
plan out. Nothing is trained and no file is written.
Units: a forward-unit is the forward pass of the encoder over one token. A token that is trained
costs 3 (1 forward, 2 backward), and 4 where it is encoded twice (gradient cache: 1 + 1 + 2).
"""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import console

SHARES = (0.5, 0.9, 0.99)
"""Percentiles of the token lengths that are shown."""
LOSS_SCRATCH = 64 * 2**20
"""Bytes of scores that a loss holds beside its inputs (`dexml.losses.Options`)."""
PRIOR_SEARCHES, PRIOR_POINTS = 9, 4000
"""Searches that choose the prior, and their points at most."""
_FLOAT = 4

Lengths = NDArray[np.integer[Any]]


class Phase(NamedTuple):
    """What a phase does in each stage: ``"heads"`` (frozen features) or ``"encoder"``.

    `candidates`: labels that a step scores, of all processes together; `refreshes`: times that
    hard negatives are searched for all points.
    """

    name: Literal["heads", "encoder"]
    epochs: int
    batch_size: int
    candidates: int
    refreshes: int = 0


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
        lower_cached: Outputs of the other blocks come from a cache.
        residual: The label table has residuals, of D numbers a label.
        refit: After the selection all points are trained on, as many epochs as chosen.
        scored_points: Points scored at a validation, at most.
        evaluate_every: Epochs between validations.
        micro_tokens: Tokens encoded at a time.
        keep_tokens: Tokens of a step whose activations are kept; all others are encoded twice.
        world: Processes.
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
    lower_cached: bool = False
    residual: bool = True
    refit: bool = True
    scored_points: int = 20_000
    evaluate_every: int = 1
    micro_tokens: int = 2048
    keep_tokens: int = 16_384
    world: int = 1
    device: str = "cpu"
    resident: int = 0


@dataclass(frozen=True)
class Speed:
    """Seconds and bytes on one device, as `dexml.train.measure` finds them.

    Attributes:
        batch: Seconds of an encoding batch beside its tokens.
        token: Seconds of a token.
        token_pair: Seconds of a token and a token of its text: attention.
        backward: Forward and backward pass together in units of the forward pass.
        heads_step: Seconds of a step of the phase heads beside its labels.
        heads_label: Seconds of one label in such a step, update of its row included.
        score: Seconds of one score of a loss, forward and backward.
        search: Seconds of one comparison of a point with a label.
        token_bytes: Bytes kept for the backward pass of a token.
        label_bytes: Bytes kept for the backward pass of a label in the phase heads.
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
        """Return plain values, for ``--json``."""
        return asdict(self)


def plan(given: PlanInput, speed: Speed, machine: Machine) -> Plan:
    """Work out what a training costs.

    Epochs of the refit are those of the settings: the selection may choose fewer, so the time is
    an upper estimate. The test part is not looked at; scoring it is not in the time.

    Args:
        given: Quantities.
        speed: As measured on one device.
        machine: What there is.

    Raises:
        ValueError: A quantity that cannot be; the message names it.
    """
    _check(given)
    stages = [("all points", len(given.point_lengths), 0)]
    if given.n_validation:
        fitted = len(given.point_lengths) - given.n_validation
        stages = [("selection", fitted, given.n_validation), *stages][: 2 if given.refit else 1]
    parts: list[Part] = []
    units: dict[str, float] = {}
    if any(phase.name == "heads" for phase in given.phases):
        parts.append(_feature_pass(given, speed))
    for stage, n_points, n_validation in stages:
        for phase in given.phases:
            work, unit = (_heads if phase.name == "heads" else _encoder)(given, speed, phase)
            units[phase.name] = unit
            parts.append(_stage(given, speed, phase, stage, n_points, n_validation, work))
        if n_validation and phase.epochs:
            searched = min(PRIOR_POINTS, n_validation) * PRIOR_SEARCHES
            seconds = searched * len(given.label_lengths) * speed.search / given.world
            parts.append(Part(f"{stage}: prior", seconds=seconds))
    memory = {f"{given.device}, {p.name}": _device_memory(given, speed, p) for p in given.phases}
    host = _host_memory(given)
    if given.device == "cpu":  # one memory for all processes
        for sizes in memory.values():
            if given.resident:  # they are among these already
                del sizes["encoder, weights"]
        memory = {
            name: {part: given.world * size for part, size in parts_.items()} | host
            for name, parts_ in memory.items()
        }
    else:
        memory["host"] = host
    return Plan(
        statistics=_statistics(given),
        parts=parts,
        memory=memory,
        available={"host": machine.host, machine.device_name: machine.device},
        seconds=math.fsum(part.seconds for part in parts),
        units=units,
        problems=_problems(given, memory, machine),
    )


def candidates(
    negatives: Literal["all", "in-batch", "drawn"],
    *,
    n_labels: int,
    batch_size: int,
    positives: float,
    per_point: int = 0,
) -> int:
    """Labels that a step scores, at most: repeated ones are not taken off.

    Args:
        negatives: All labels; the positives of the batch alone; or these and drawn ones.
        n_labels: Number of labels.
        batch_size: Points of a step.
        positives: Positives of a point that are taken, mean.
        per_point: Negatives drawn for each point.
    """
    if negatives == "all":
        return n_labels
    drawn = per_point if negatives == "drawn" else 0
    return max(1, min(n_labels, round(batch_size * (positives + drawn))))


def expected_batches(lengths: Lengths, n: float, max_tokens: int) -> float:
    """Batches of one exact length that `n` texts drawn from `lengths` make, in the mean.

    A length that occurs makes one batch at least, and one for every `max_tokens`.
    """
    values, counts = np.unique(lengths, return_counts=True)
    share = counts / max(1, counts.sum())
    full = n * share / np.maximum(1, max_tokens // np.maximum(1, values))
    return float(np.maximum(-np.expm1(n * np.log1p(-np.minimum(share, 1 - 1e-12))), full).sum())


def machine(device: str = "cpu") -> Machine:
    """Say how much memory there is: of the host (and its control group), and free on the GPU."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup") / name
        try:
            host = min(host, int(path.read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    if not device.startswith("cuda"):
        return Machine(host, host)
    import torch

    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return Machine(host, free, f"{device} ({torch.cuda.get_device_name(device)})")


def resident() -> int:
    """Bytes of memory that this process holds now (where the system does not tell: at most)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    return pages * os.sysconf("SC_PAGE_SIZE")


def as_text(found: Plan) -> str:
    """Lay a plan out for people."""
    lines = ["data"]
    width = max(len(name) for name in found.statistics)
    for name, value in found.statistics.items():
        shown = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
        lines.append(f"  {name.ljust(width)}  {shown:>14}")
    rows = [
        (
            part.name,
            [
                f"{part.epochs or ''}",
                _count(part.steps),
                _count(part.tokens_a_step),
                _count(part.tokens_an_epoch),
                _count(part.scores_a_step),
                _duration(part.seconds_an_epoch),
                _duration(part.seconds),
            ],
        )
        for part in found.parts
    ]
    heads = ["epochs", "steps", "tok/step", "tok/epoch", "scores/step", "an epoch", "time"]
    lines += ["", console.grid("work", heads, rows)]
    units = ", ".join(f"{phase}: {value:.2f}" for phase, value in found.units.items() if value)
    if units:
        lines.append(f"forward-units a trained token: {units}")
    lines.append(f"in all about {_duration(found.seconds) or '0 s'}, without the test part")
    for place, sizes in found.memory.items():
        lines += ["", f"memory, {place}: {_bytes(math.fsum(sizes.values()))} at its peak"]
        lines += [f"  {name:<46}{_bytes(size):>10}" for name, size in sizes.items() if size]
    lines.append("there are: " + ", ".join(f"{k} {_bytes(v)}" for k, v in found.available.items()))
    lines += ["", *(f"will not fit: {problem}" for problem in found.problems)]
    return "\n".join(lines).rstrip()


def _check(given: PlanInput) -> None:
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


def _statistics(given: PlanInput) -> dict[str, float]:
    n_points, n_labels = len(given.point_lengths), len(given.label_lengths)
    found: dict[str, float] = {
        "training points": n_points,
        "of them held out for validation": given.n_validation,
        "labels": n_labels,
        "labels without a training point": given.n_unseen,
        "positives of a point, mean": given.n_positives / n_points,
    }
    for name, lengths in (("point", given.point_lengths), ("label", given.label_lengths)):
        for share in SHARES:
            at = int(np.quantile(lengths, share, method="inverted_cdf"))
            found[f"tokens of a {name}, {share:.0%}"] = at
        found[f"tokens of a {name}, most"] = int(lengths.max())
        found[f"tokens of all {name}s"] = int(lengths.sum())
    return found


def _encode(speed: Speed, lengths: Lengths, n: float, max_tokens: int) -> float:
    """Seconds of a forward pass over `n` texts drawn from `lengths`."""
    values = lengths.astype(np.float64)
    mean, square = float(values.mean()), float((values**2).mean())
    per_text = mean * speed.token + square * speed.token_pair
    return n * per_text + expected_batches(lengths, n, max_tokens) * speed.batch


def _feature_pass(given: PlanInput, speed: Speed) -> Part:
    seconds = sum(
        _encode(speed, lengths, len(lengths), given.micro_tokens)
        for lengths in (given.point_lengths, given.label_lengths)
    )
    tokens = int(given.point_lengths.sum() + given.label_lengths.sum())
    return Part("features", tokens_an_epoch=tokens, seconds=seconds / given.world)


class _Work(NamedTuple):
    """A step: its tokens and seconds (of one process); seconds to encode before a search."""

    tokens: int
    seconds: float
    encodes: bool


def _heads(given: PlanInput, speed: Speed, phase: Phase) -> tuple[_Work, float]:
    """A step on frozen features: nothing is encoded."""
    seconds = speed.heads_step + phase.candidates / given.world * speed.heads_label
    return _Work(0, seconds, False), 0.0


def _encoder(given: PlanInput, speed: Speed, phase: Phase) -> tuple[_Work, float]:
    """A step that encodes its points and its candidates, and trains the upper blocks."""
    share = given.n_trained_blocks / given.n_blocks
    forward = share if given.lower_cached else 1.0
    points = phase.batch_size * float(given.point_lengths.mean())
    labels = phase.candidates * float(given.label_lengths.mean())
    tokens = (points + labels) / given.world
    twice = max(0.0, 1 - given.keep_tokens / tokens) if tokens else 0.0
    units = forward * (1 + twice) + (speed.backward - 1) * share
    encoded = sum(
        _encode(speed, lengths, n / given.world, given.micro_tokens)
        for lengths, n in (
            (given.point_lengths, phase.batch_size),
            (given.label_lengths, phase.candidates),
        )
    )
    scores = phase.batch_size * phase.candidates / given.world
    return _Work(round(points + labels), encoded * units + scores * speed.score, True), units


def _stage(
    given: PlanInput,
    speed: Speed,
    phase: Phase,
    stage: str,
    n_points: int,
    n_validation: int,
    work: _Work,
) -> Part:
    n_labels = len(given.label_lengths)
    steps = math.ceil(n_points / phase.batch_size)
    share = min(1.0, n_points / phase.batch_size / steps)  # the last batch is smaller
    an_epoch = steps * work.seconds * (share if work.encodes else 1.0)
    seconds = phase.epochs * an_epoch

    def look(n: int) -> float:
        """Search all labels for `n` points, both encoded as the encoder is by then."""
        found = n * n_labels * speed.search
        if work.encodes:
            found += _encode(speed, given.point_lengths, n, given.micro_tokens)
            found += _encode(speed, given.label_lengths, n_labels, given.micro_tokens)
        return found / given.world

    if n_validation:
        validations = math.ceil(phase.epochs / given.evaluate_every)
        seconds += validations * look(min(n_validation, given.scored_points))
    seconds += phase.refreshes * look(n_points)
    return Part(
        name=f"{stage}: {phase.name}",
        steps=phase.epochs * steps,
        tokens_a_step=work.tokens,
        tokens_an_epoch=round(steps * work.tokens * share),
        scores_a_step=phase.batch_size * phase.candidates,
        labels_a_step=phase.candidates,
        epochs=phase.epochs,
        seconds_an_epoch=an_epoch,
        seconds=seconds,
    )


def _device_memory(given: PlanInput, speed: Speed, phase: Phase) -> dict[str, float]:
    """Bytes by part of one process on its device, while the phase runs."""
    n_labels, dim = len(given.label_lengths), given.dim
    own = math.ceil(phase.candidates / given.world)
    row = (dim if given.residual else 0) + 1
    found: dict[str, float] = {"encoder, weights": _FLOAT * given.n_weights}
    if phase.name == "heads":
        whole = phase.candidates == n_labels
        kept = math.ceil(n_labels / given.world) if whole else n_labels
        found["label features"] = _FLOAT * n_labels * given.width
        found["label table, weights"] = _FLOAT * (n_labels + (kept if whole else 0)) * row
        found["label table, gradients"] = _FLOAT * own * row
        found["label table, moments"] = 2 * _FLOAT * kept * row
        found["label embeddings, their gradients, activations"] = (
            2 * _FLOAT * own * dim + own * speed.label_bytes
        )
    else:
        tokens = phase.batch_size * float(given.point_lengths.mean())
        tokens = (tokens + phase.candidates * float(given.label_lengths.mean())) / given.world
        found["encoder, gradients"] = _FLOAT * given.n_trained
        found["encoder, moments"] = 2 * _FLOAT * given.n_trained
        found["label table, weights"] = _FLOAT * n_labels * row
        found["label embeddings and their gradients"] = 2 * _FLOAT * own * dim
        share = given.n_trained_blocks / given.n_blocks
        held = min(tokens, max(given.keep_tokens, given.micro_tokens)) * speed.token_bytes
        found["activations"] = held * share
    found["point embeddings and their gradients"] = 2 * _FLOAT * phase.batch_size * dim
    found["loss, scratch"] = min(LOSS_SCRATCH, 3 * _FLOAT * phase.batch_size * own)
    return found


def _host_memory(given: PlanInput) -> dict[str, float]:
    n_points, n_labels = len(given.point_lengths), len(given.label_lengths)
    found: dict[str, float] = {"pairs": 12 * given.n_positives + 8 * n_points}
    if given.resident:
        found = {"loaded already: libraries, texts, pairs": given.world * given.resident}
    if any(phase.name == "heads" for phase in given.phases):
        found["point features"] = _FLOAT * n_points * given.width
        if given.device != "cpu":
            found["label features, before they move"] = _FLOAT * n_labels * given.width
    found["search vectors of the labels"] = _FLOAT * n_labels * (given.dim + 1)
    return found


_REMEDIES = {
    "activations": "lower --keep-tokens (and --micro-tokens)",
    "label table": "train on more processes, or leave the residuals out (--residual-lr 0)",
    "label features": "use a narrower encoder, or the stage encoder alone",
    "label embeddings": "train on more processes, or draw negatives in place of all labels",
    "point features": "train on fewer points, or the stage encoder alone",
    "encoder": "use a smaller encoder, or train fewer of its layers",
    "loss": "lower the batch size",
    "point embeddings": "lower the batch size",
    "search vectors": "use a narrower encoder",
    "pairs": "train on fewer points",
    "loaded": "run fewer processes on this machine, or train on fewer points",
}


def _problems(
    given: PlanInput, memory: Mapping[str, Mapping[str, float]], there: Machine
) -> list[str]:
    found = []
    for place, sizes in memory.items():
        on_host = place == "host" or given.device == "cpu"
        room = there.host if on_host else there.device
        needed = math.fsum(sizes.values())
        if needed > room:
            largest = max(sizes, key=lambda name: sizes[name])
            remedy = next(words for start, words in _REMEDIES.items() if largest.startswith(start))
            found.append(
                f"{place} needs {_bytes(needed)} of {_bytes(room)}, most for {largest} "
                f"({_bytes(sizes[largest])}): {remedy}"
            )
    return found


def _bytes(size: float) -> str:
    for unit, letters in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {letters}"
    return f"{size:.0f} B"


def _count(value: float) -> str:
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{value:,.0f}" if value else ""


def _duration(seconds: float) -> str:
    return console.duration(seconds) if seconds else ""
