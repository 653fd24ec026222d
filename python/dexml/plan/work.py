"""The work of a training in its order: steps, tokens, and the time that they take."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dexml.plan.quantities import (
    Lengths,
    Machine,
    Part,
    Phase,
    Plan,
    PlanInput,
    Speed,
    all_compete,
    check,
)
from dexml.plan.room import memory, problems

SHARES = (0.5, 0.9, 0.99)
"""Percentiles of the token lengths that are shown."""
PRIOR_SEARCHES, PRIOR_POINTS = 9, 4000
"""Searches that choose the prior, and their points at most."""
QUERIES = 1000
"""Points whose embeddings are kept for measuring an index."""


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
    check(given)
    n_points = len(given.point_lengths)
    stages = [("all points", n_points, 0)]
    if given.n_validation:
        fitted = n_points - given.n_validation
        stages = [("selection", fitted, given.n_validation), *stages][: 2 if given.refit else 1]
    tuned = any(phase.name == "encoder" and phase.epochs for phase in given.phases)
    parts: list[Part] = []
    units: dict[str, float] = {}
    if given.phases[0].name == "heads" and not given.features_cached:
        parts.append(_feature_pass(given, speed, "features"))
    if tuned and given.lower_cached:
        frozen = 1 - given.n_trained_blocks / given.n_blocks
        parts.append(_feature_pass(given, speed, "frozen layers", frozen))
    for stage, n_fitted, n_validation in stages:
        for number, phase in enumerate(given.phases):
            if not phase.epochs:
                continue
            if number and phase.name == "heads":  # on features of the encoder that was trained
                parts.append(_feature_pass(given, speed, f"{stage}: features"))
            if phase.name == "encoder":
                units[phase.name] = _units(given, speed, phase)
            parts.append(_stage(given, speed, phase, stage, n_fitted, n_validation))
        if n_validation:
            parts.append(_choice(given, speed, stage, n_fitted, tuned))
    if tuned:
        n = n_points if given.memory else min(QUERIES, given.n_validation or n_points)
        seconds = _look(given, speed, n, search=False)
        parts.append(Part("vectors to search", seconds=seconds))
    needed = memory(given, speed)
    return Plan(
        statistics=_statistics(given),
        parts=parts,
        memory=needed,
        available={"host": machine.host, machine.device_name: machine.device},
        seconds=math.fsum(part.seconds for part in parts),
        units=units,
        problems=problems(given, needed, machine),
    )


def _feature_pass(given: PlanInput, speed: Speed, name: str, share: float = 1.0) -> Part:
    """All texts through this share of the encoder, once."""
    seconds = share * sum(
        _encode(speed, lengths, len(lengths), given.micro_tokens)
        for lengths in (given.point_lengths, given.label_lengths)
    )
    tokens = int(given.point_lengths.sum() + given.label_lengths.sum())
    return Part(name, tokens_an_epoch=tokens, seconds=seconds / given.world)


def _look(
    given: PlanInput, speed: Speed, n: int, *, encode: bool = True, search: bool = True
) -> float:
    """Seconds to encode `n` points and all labels, and to search all labels for these points."""
    n_labels = len(given.label_lengths)
    found = n * n_labels * speed.search if search else 0.0
    if encode:
        found += _encode(speed, given.point_lengths, n, given.micro_tokens)
        found += _encode(speed, given.label_lengths, n_labels, given.micro_tokens)
    return found / given.world


def _choice(given: PlanInput, speed: Speed, stage: str, n_fitted: int, tuned: bool) -> Part:
    """The choice of the prior, and of the votes of the points, by one process on the host.

    Each prior takes a search, and the votes a search of the points. What the settings of the votes
    take beside that is not counted.
    """
    n = min(PRIOR_POINTS, given.n_validation, given.scored_points)
    compared = PRIOR_SEARCHES * len(given.label_lengths) + (n_fitted if given.memory else 0)
    seconds = n * compared * (speed.host_search or speed.search)
    if tuned:
        seconds += _look(given, speed, n, search=False)
        if given.memory:
            seconds += _encode(speed, given.point_lengths, n_fitted, given.micro_tokens)
    return Part(f"{stage}: prior", seconds=seconds)


class _Work(NamedTuple):
    """A step: its tokens, of all processes together, and its seconds."""

    tokens: float
    seconds: float


def _work(given: PlanInput, speed: Speed, phase: Phase, n_points: int) -> _Work:
    """A step with `n_points` points; the last of an epoch has fewer, and draws fewer labels."""
    candidates = float(phase.candidates)
    if not all_compete(given, phase):
        candidates *= n_points / phase.batch_size
    if phase.name == "heads":  # nothing is encoded
        return _Work(0, speed.heads_step + candidates / given.world * speed.heads_label)
    sides = ((given.point_lengths, n_points), (given.label_lengths, candidates))
    tokens = sum(n * float(lengths.mean()) for lengths, n in sides)
    encoded = sum(
        _encode(speed, lengths, n / given.world, given.micro_tokens, packed=given.packed)
        for lengths, n in sides
    )
    scores = n_points * candidates / given.world
    seconds = encoded * _units(given, speed, phase) + scores * speed.score
    return _Work(tokens, seconds + given.n_trained * speed.update)


def _units(given: PlanInput, speed: Speed, phase: Phase) -> float:
    """Forward-units of a token of the phase encoder, which trains the upper blocks."""
    share = given.n_trained_blocks / given.n_blocks
    forward = share if given.lower_cached else 1.0
    sides = [
        phase.batch_size * float(given.point_lengths.mean()) / given.world,
        phase.candidates * float(given.label_lengths.mean()) / given.world,
    ]
    kept = sum(min(tokens, given.keep_tokens) for tokens in sides)
    twice = 1 - kept / sum(sides) if sum(sides) else 0.0
    return forward * (1 + twice) + (speed.backward - 1) * share


def _stage(
    given: PlanInput,
    speed: Speed,
    phase: Phase,
    stage: str,
    n_fitted: int,
    n_validation: int,
) -> Part:
    whole, rest = divmod(n_fitted, phase.batch_size)
    full = _work(given, speed, phase, min(phase.batch_size, n_fitted))
    last = _work(given, speed, phase, rest) if rest else _Work(0, 0.0)
    an_epoch = whole * full.seconds + last.seconds
    seconds = phase.epochs * an_epoch
    encode = phase.name == "encoder"
    if n_validation:
        validations = math.ceil(phase.epochs / given.evaluate_every)
        n = min(n_validation, given.scored_points)
        seconds += validations * _look(given, speed, n, encode=encode)
    seconds += phase.refreshes * _look(given, speed, n_fitted, encode=encode)
    return Part(
        name=f"{stage}: {phase.name}",
        steps=phase.epochs * (whole + (rest > 0)),
        tokens_a_step=round(full.tokens),
        tokens_an_epoch=round(whole * full.tokens + last.tokens),
        scores_a_step=min(phase.batch_size, n_fitted) * phase.candidates,
        labels_a_step=phase.candidates,
        epochs=phase.epochs,
        seconds_an_epoch=an_epoch,
        seconds=seconds,
    )


def _encode(
    speed: Speed, lengths: Lengths, n: float, max_tokens: int, *, packed: bool = False
) -> float:
    """Seconds of a forward pass over `n` texts drawn from `lengths`."""
    values = lengths.astype(np.float64)
    mean, square = float(values.mean()), float((values**2).mean())
    per_text = mean * speed.token + square * speed.token_pair
    batches = max(1.0, n * mean / max_tokens)
    if not packed:
        batches = expected_batches(lengths, n, max_tokens)
    return n * per_text + batches * speed.batch


def expected_batches(lengths: Lengths, n: float, max_tokens: int) -> float:
    """Batches of one exact length that `n` texts drawn from `lengths` make, in the mean.

    A length that occurs makes one batch at least, and one for every `max_tokens`.
    """
    values, counts = np.unique(lengths, return_counts=True)
    share = counts / max(1, counts.sum())
    full = n * share / np.maximum(1, max_tokens // np.maximum(1, values))
    return float(np.maximum(-np.expm1(n * np.log1p(-np.minimum(share, 1 - 1e-12))), full).sum())


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
