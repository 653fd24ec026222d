"""The work of a training in its order: steps, tokens, and the time that they take."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dexml.plan.memory import memory, problems
from dexml.plan.quantities import Lengths, Machine, Part, Plan, PlanInput, PlannedStage, Speed
from dexml.train.memory import MAX_POINTS, PRIORS
from dexml.train.run import QUERIES
from dexml.train.schedule import SELECTION, fits, needs_features, starts_frozen

SHARES = (0.5, 0.9, 0.99)
"""Percentiles of the token lengths that are shown."""


def plan(given: PlanInput, speed: Speed, machine: Machine) -> Plan:
    """Work out what a training costs.

    The selection may choose fewer epochs than the settings allow, so the time of what follows is
    an upper estimate. Scoring the test part is not in the time.

    Args:
        given: Quantities.
        speed: As measured on one device.
        machine: What there is.

    Raises:
        ValueError: A quantity that cannot be; the message names it.
    """
    given.check()
    settings, n_points = given.settings, len(given.point_lengths)
    parts: list[Part] = []
    units: dict[str, float] = {}
    if starts_frozen(settings):
        first = _feature_pass(given, speed, "features", new=given.new_lengths)
        parts += [first] if first.tokens_an_epoch else []
    if given.tuned and settings.cache_layers:
        parts.append(_feature_pass(given, speed, "frozen layers", 1 - given.trained_share))
    for fit in fits(selects=given.n_validation > 0, refit=settings.refit):
        n_held_out = given.n_validation if fit == SELECTION else 0
        for number, stage in enumerate(given.stages):
            if not stage.schedule.epochs:
                continue
            if number and needs_features(settings, stage.name):  # of the trained encoder
                parts.append(_feature_pass(given, speed, f"{fit}: features"))
            if stage.schedule.encodes:
                units[stage.name] = _units(given, speed, stage)
            parts.append(_stage(given, speed, stage, fit, n_points - n_held_out))
        if n_held_out:
            parts.append(_choice(given, speed, fit, n_points - n_held_out))
            for number, n_fitted in enumerate(given.parts, 1):
                (heads,) = given.stages
                parts.append(_stage(given, speed, heads, f"part {number}", n_fitted))
    if given.tuned:
        n = n_points if given.votes else min(QUERIES, given.n_validation or n_points)
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


def _feature_pass(
    given: PlanInput,
    speed: Speed,
    name: str,
    share: float = 1.0,
    new: tuple[Lengths, Lengths] | None = None,
) -> Part:
    """All texts, or the new ones, through this share of the encoder, once."""
    sides = (given.point_lengths, given.label_lengths) if new is None else new
    some = [lengths for lengths in sides if len(lengths)]
    seconds = share * sum(_encode(given, speed, lengths, len(lengths)) for lengths in some)
    tokens = int(sum(lengths.sum() for lengths in sides))
    return Part(name, tokens_an_epoch=tokens, seconds=seconds / given.world)


def _look(
    given: PlanInput, speed: Speed, n: int, *, encode: bool = True, search: bool = True
) -> float:
    """Seconds to encode `n` points and all labels, and to search all labels for these points."""
    n_labels = len(given.label_lengths)
    seconds = n * n_labels * speed.search if search else 0.0
    if encode:
        seconds += _encode(given, speed, given.point_lengths, n)
        seconds += _encode(given, speed, given.label_lengths, n_labels)
    return seconds / given.world


def _choice(given: PlanInput, speed: Speed, fit: str, n_fitted: int) -> Part:
    """The choice of prior and votes by one process on the host.

    A search of all labels for each prior, and one of the points. What the settings of the votes
    take beside that is not counted.
    """
    n = min(MAX_POINTS, given.n_validation, given.settings.validation_points)
    compared = len(PRIORS) * len(given.label_lengths) + (n_fitted if given.votes else 0)
    seconds = n * compared * speed.host_search
    if given.tuned:
        seconds += _look(given, speed, n, search=False)
        if given.votes:
            seconds += _encode(given, speed, given.point_lengths, n_fitted)
    return Part(f"{fit}: prior", seconds=seconds)


class _Work(NamedTuple):
    """A step: its tokens, of all processes together, and its seconds."""

    tokens: float
    seconds: float


def _work(given: PlanInput, speed: Speed, stage: PlannedStage, n_points: int) -> _Work:
    """A step with `n_points` points; the last of an epoch has fewer, and draws fewer labels."""
    candidates = float(stage.candidates)
    if stage.drawn:
        candidates *= n_points / stage.schedule.batch_size
    if not stage.schedule.encodes:
        return _Work(0, speed.heads_step + candidates / given.world * speed.heads_label)
    sides = ((given.point_lengths, n_points), (given.label_lengths, candidates))
    tokens = sum(n * float(lengths.mean()) for lengths, n in sides)
    packed = given.settings.packed
    encoded = sum(
        _encode(given, speed, lengths, n / given.world, packed=packed) for lengths, n in sides
    )
    scores = n_points * candidates / given.world * (2 if given.settings.text_weight else 1)
    seconds = encoded * _units(given, speed, stage) + scores * speed.score
    updated = float(given.n_trained)
    if stage.schedule.trains_table:  # of drawn labels, every process updates all rows
        updated += given.row * candidates / (1 if stage.drawn else given.world)
    return _Work(tokens, seconds + updated * speed.update)


def _units(given: PlanInput, speed: Speed, stage: PlannedStage) -> float:
    """Forward-units of a token that is encoded by a transformer whose upper blocks learn."""
    share = given.trained_share
    forward = share if given.settings.cache_layers else 1.0
    _, keep_tokens = given.token_budgets
    sides = [
        stage.schedule.batch_size * float(given.point_lengths.mean()) / given.world,
        stage.candidates * float(given.label_lengths.mean()) / given.world,
    ]
    twice = 1 - sum(min(tokens, keep_tokens) for tokens in sides) / sum(sides)
    return forward * (1 + twice) + (speed.backward - 1) * share


def _stage(given: PlanInput, speed: Speed, stage: PlannedStage, fit: str, n_fitted: int) -> Part:
    schedule, epochs = stage.schedule, range(1, stage.schedule.epochs + 1)
    whole, rest = divmod(n_fitted, schedule.batch_size)
    full = _work(given, speed, stage, min(schedule.batch_size, n_fitted))
    last = _work(given, speed, stage, rest) if rest else _Work(0, 0.0)
    an_epoch = whole * full.seconds + last.seconds
    seconds = len(epochs) * an_epoch
    encode = schedule.encodes
    if fit == SELECTION:
        n = min(given.n_validation, given.settings.validation_points)
        validations = sum(schedule.validates_after(epoch) for epoch in epochs)
        seconds += validations * _look(given, speed, n, encode=encode)
    for epoch in epochs:
        mines, clusters = schedule.mines_before(epoch), schedule.clusters_before(epoch)
        if mines or clusters:  # the clusters themselves take little beside the texts
            seconds += _look(given, speed, n_fitted, encode=encode, search=mines)
    return Part(
        name=f"{fit}: {stage.name}",
        steps=len(epochs) * schedule.n_batches(n_fitted),
        tokens_a_step=round(full.tokens),
        tokens_an_epoch=round(whole * full.tokens + last.tokens),
        scores_a_step=min(schedule.batch_size, n_fitted) * stage.candidates,
        labels_a_step=stage.candidates,
        epochs=len(epochs),
        seconds_an_epoch=an_epoch,
        seconds=seconds,
    )


def _encode(
    given: PlanInput, speed: Speed, lengths: Lengths, n: float, *, packed: bool = False
) -> float:
    """Seconds of a forward pass over `n` texts drawn from `lengths`."""
    max_tokens, _ = given.token_budgets
    values = lengths.astype(np.float64)
    mean, square = float(values.mean()), float((values**2).mean())
    per_text = mean * speed.token + square * speed.token_pair
    batches = max(1.0, n * mean / max_tokens)
    if not packed:
        batches = expected_batches(lengths, n, max_tokens)
    return n * per_text + batches * speed.batch


def expected_batches(lengths: Lengths, n: float, max_tokens: int) -> float:
    """Batches of one exact length that `n` texts drawn from `lengths` make, in the mean.

    A length that occurs makes at least one batch, and one for every `max_tokens`.
    """
    values, counts = np.unique(lengths, return_counts=True)
    share = counts / max(1, counts.sum())
    full = n * share / np.maximum(1, max_tokens // np.maximum(1, values))
    return float(np.maximum(-np.expm1(n * np.log1p(-np.minimum(share, 1 - 1e-12))), full).sum())


def _statistics(given: PlanInput) -> dict[str, float]:
    n_points, n_labels = len(given.point_lengths), len(given.label_lengths)
    statistics: dict[str, float] = {
        "training points": n_points,
        "of them held out for validation": given.n_validation,
        "labels": n_labels,
        "labels without a training point": given.n_unseen,
        "positives of a point, mean": given.n_positives / n_points,
    }
    for name, lengths in (("point", given.point_lengths), ("label", given.label_lengths)):
        for share in SHARES:
            at = int(np.quantile(lengths, share, method="inverted_cdf"))
            statistics[f"tokens of a {name}, {share:.0%}"] = at
        statistics[f"tokens of a {name}, most"] = int(lengths.max())
        statistics[f"tokens of all {name}s"] = int(lengths.sum())
    return statistics
