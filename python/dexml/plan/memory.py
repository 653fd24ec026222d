"""Memory: what a training needs on device and host, what there is, and what will not fit."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from dexml.losses import layout as layouts
from dexml.plan.quantities import Machine, PlanInput, PlannedStage, Speed
from dexml.plan.text import in_bytes
from dexml.train.gradients import n_runs
from dexml.train.rounding import ROWS, UPDATE_BYTES
from dexml.train.schedule import needs_features
from dexml.train.stages import FEATURE_ROWS, holds_label_features, kept_labels

_FLOAT = 4


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


def memory(given: PlanInput, speed: Speed) -> dict[str, dict[str, float]]:
    """Bytes by place and part; on a CPU, all processes of a machine share one memory."""
    here = given.local or given.world
    places = {
        f"{given.device}, {stage.name}": _of_stage(given, speed, stage)
        for stage in given.stages
        if stage.schedule.epochs
    }
    host = {name: here * size for name, size in _of_host(given).items()}
    if given.device != "cpu":
        return places | {"host": host}
    for sizes in places.values():
        if given.resident:  # they are among these already
            del sizes["encoder, weights"]
    return {
        place: {part: here * size for part, size in sizes.items()} | host
        for place, sizes in places.items()
    }


def _of_stage(given: PlanInput, speed: Speed, stage: PlannedStage) -> dict[str, float]:
    """Bytes by part of one process on its device in a stage."""
    sizes = _of_device(given, stage)
    if stage.schedule.trains_table:
        for part, size in _table(given, stage).items():
            sizes[part] = sizes.get(part, 0) + size
    encoded = _encoded if stage.schedule.encodes else _frozen
    return sizes | _shared_vectors(given, stage) | encoded(given, speed, stage)


def _table(given: PlanInput, stage: PlannedStage) -> dict[str, float]:
    """What a label table takes beside its weights while it is trained."""
    n_labels, row = len(given.label_lengths), given.row
    own = math.ceil(stage.candidates / given.world)
    rounded = given.settings.table == "bf16"
    if stage.drawn:  # each process has the moments of all rows, and takes the gradients of all
        gradients = own + stage.candidates * (2 if given.world > 1 else 1)
        more, rows = 8 * n_labels + _FLOAT * own * row, n_labels
    else:  # in the order of the texts, where they are encoded: a copy
        gradients, rows = own, math.ceil(n_labels / given.world)
        more = own * (given.residual_bytes * (row - 1) + _FLOAT) if stage.schedule.encodes else 0
    sizes: dict[str, float] = {
        "label table, weights": more,
        "label table, gradients": _FLOAT * gradients * row,
        "label table, moments": 2 * _FLOAT * rows * (1 if rounded else row),
    }
    if rounded and row > 1:  # a square and a count of each label, and what an update takes
        adaptive = given.settings.table_update == "adaptive"
        sizes["label table, moments"] += 12 * n_labels if adaptive else 0
        sizes["label table, rounding"] = UPDATE_BYTES * min(ROWS, own) * given.dim
    return sizes


def _shared_vectors(given: PlanInput, stage: PlannedStage) -> dict[str, float]:
    """What vectors that labels of a cluster share take, and the cluster of each label."""
    numbers = given.settings.label_clusters * given.dim
    if not numbers:
        return {}
    # Moments, gradients, and the gradient of a micro-batch before it is added to them.
    copies = 1 + (3 + _sums(given) if stage.schedule.trains_table else 0)
    return {"label clusters": _FLOAT * (copies * numbers + len(given.label_lengths))}


def _sums(given: PlanInput) -> int:
    """Gradients of a number that all processes update alike, with those that are sent."""
    sums = n_runs(given.settings.deterministic, given.world)
    if given.world > 1:  # what is sent, and what it is put together from
        sums += 2 * (sums * given.world if sums > 1 else 1)
    return sums


def _frozen(given: PlanInput, speed: Speed, stage: PlannedStage) -> dict[str, float]:
    """What a stage on frozen features takes."""
    own = math.ceil(stage.candidates / given.world)
    kept = min(own, max(kept_labels(given.dim), FEATURE_ROWS))
    activations = _label_embeddings(given, own) + kept * speed.label_bytes
    held = len(given.label_lengths)
    if not holds_label_features(stage.schedule, given.settings):
        held = own if given.device != "cpu" else held  # a CPU has them on the host anyway
    return {
        "label features": _FLOAT * held * given.width,
        "label embeddings, their gradients, activations": activations,
    }


def _encoded(given: PlanInput, speed: Speed, stage: PlannedStage) -> dict[str, float]:
    """What a stage takes that encodes its texts."""
    own = math.ceil(stage.candidates / given.world)
    held = _tokens_held(given, stage) * speed.token_bytes
    return {
        "encoder, gradients": _sums(given) * _FLOAT * given.n_trained,
        "encoder, moments": 2 * _FLOAT * given.n_trained,
        "label embeddings and their gradients": _label_embeddings(given, own),
        "activations": held * given.trained_share,
    }


def _label_embeddings(given: PlanInput, own: int) -> float:
    """Embeddings of `own` labels and their gradients; with those of the texts alone, copied."""
    texts = given.settings.text_weight or given.settings.beat_text
    return 2 * _FLOAT * own * given.dim * (4 if texts else 1)


def _of_device(given: PlanInput, stage: PlannedStage) -> dict[str, float]:
    """Bytes by part of one process on its device, in any stage."""
    batch_size = stage.schedule.batch_size
    own = math.ceil(stage.candidates / given.world)
    n_scores, split = batch_size * own, given.world > 1 or given.settings.deterministic
    scratch = layouts.budget(
        batch_size,
        own,
        itemsize=_FLOAT,
        device=given.device,
        device_bytes=given.device_bytes,
        may_keep=not split,
    )
    kept = not split and 3 * scratch >= 4 * _FLOAT * n_scores
    return {
        "encoder, weights": _FLOAT * given.n_weights,
        "encoder, as loaded, for the next fit": _FLOAT * given.n_weights,
        "label table, weights": len(given.label_lengths)
        * (given.residual_bytes * given.dim + _FLOAT),
        "point embeddings and their gradients": 2 * _FLOAT * batch_size * given.dim,
        f"loss, scores {'kept' if kept else 'formed twice'}": min(scratch, 3 * _FLOAT * n_scores),
    }


def _tokens_held(given: PlanInput, stage: PlannedStage) -> float:
    """Tokens whose activations are in memory, at most: points go backward after the labels."""
    micro, keep = given.token_budgets
    points = stage.schedule.batch_size * float(given.point_lengths.mean()) / given.world
    labels = stage.candidates * float(given.label_lengths.mean()) / given.world
    held_points, held_labels = min(points, keep), min(labels, keep)
    again = min(labels, micro) if held_labels < labels else 0.0
    last = min(points, micro) if held_points < points else 0.0
    return max(held_points + max(held_labels, again), last)


def _of_host(given: PlanInput) -> dict[str, float]:
    """Bytes by part of one process on the host, beside those of its device."""
    n_points, n_labels = len(given.point_lengths), len(given.label_lengths)
    sizes: dict[str, float] = {"pairs": 12 * given.n_positives + 8 * n_points}
    if given.resident:
        sizes = {"loaded already: libraries, texts, pairs": given.resident}
    frozen = any(not stage.schedule.encodes for stage in given.stages)
    if any(needs_features(given.settings, stage.name) for stage in given.stages):
        sizes["point features"] = _FLOAT * n_points * given.width
        if given.settings.residual_lr > 0:
            sizes["point features, a copy for the centroids"] = (
                _FLOAT * n_points * (given.width + given.dim)
            )
        if given.device != "cpu" or not frozen:  # else they are among those of the stage
            sizes["label features, on the host"] = _FLOAT * n_labels * given.width
    sizes["search vectors of the labels"] = _FLOAT * n_labels * (given.dim + 1)
    return sizes


_REMEDIES = {
    "activations": "lower --keep-tokens (and --micro-tokens)",
    "label table": "train on more processes, round the residuals (--table bf16), or leave them "
    "out (--residual-lr 0)",
    "label clusters": "give fewer --label-clusters",
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


def problems(
    given: PlanInput, memory: Mapping[str, Mapping[str, float]], there: Machine
) -> list[str]:
    """One line for each place that has too little memory, with what to change."""
    lines = []
    for place, sizes in memory.items():
        on_host = place == "host" or given.device == "cpu"
        available = there.host if on_host else there.device
        needed = math.fsum(sizes.values())
        if needed > available:
            largest = max(sizes, key=lambda name: sizes[name])
            remedy = next(words for start, words in _REMEDIES.items() if largest.startswith(start))
            lines.append(
                f"{place} needs {in_bytes(needed)} of {in_bytes(available)}, most for {largest} "
                f"({in_bytes(sizes[largest])}): {remedy}"
            )
    return lines
