"""Memory: what a training needs of device and host, what there is, and what will not fit."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from dexml.plan.quantities import Machine, Phase, PlanInput, Speed, all_compete
from dexml.plan.text import in_bytes

LOSS_SCRATCH = 64 * 2**20
"""Bytes of scores that a loss holds beside its inputs (`dexml.losses.Options`)."""
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


def memory(given: PlanInput, speed: Speed) -> dict[str, dict[str, float]]:
    """Bytes by place and part; a CPU and its processes have one memory."""
    phases = [phase for phase in given.phases if phase.epochs]
    here = given.local or given.world
    found = {f"{given.device}, {p.name}": _of_device(given, speed, p) for p in phases}
    host = {name: here * size for name, size in _of_host(given).items()}
    if given.device != "cpu":
        return found | {"host": host}
    for sizes in found.values():
        if given.resident:  # they are among these already
            del sizes["encoder, weights"]
    return {
        name: {part: here * size for part, size in sizes.items()} | host
        for name, sizes in found.items()
    }


def _of_device(given: PlanInput, speed: Speed, phase: Phase) -> dict[str, float]:
    """Bytes by part of one process on its device, while the phase runs."""
    n_labels, dim = len(given.label_lengths), given.dim
    own = math.ceil(phase.candidates / given.world)
    row = (dim if given.residual else 0) + 1
    found: dict[str, float] = {
        "encoder, weights": _FLOAT * given.n_weights,
        "encoder, as loaded, for the next stage": _FLOAT * given.n_weights,
        "label table, weights": _FLOAT * n_labels * (dim + 1),
    }
    if phase.name == "heads":
        found["label features"] = _FLOAT * n_labels * given.width
        if all_compete(given, phase):
            rows, gradients = math.ceil(n_labels / given.world), own
        else:  # each process has the moments of all rows, and takes the gradients of all drawn
            rows = n_labels
            gradients = own + phase.candidates * (2 if given.world > 1 else 1)
            found["label table, weights"] += 8 * n_labels + _FLOAT * own * row
        found["label table, gradients"] = _FLOAT * gradients * row
        found["label table, moments"] = 2 * _FLOAT * rows * row
        found["label embeddings, their gradients, activations"] = (
            2 * _FLOAT * own * dim + min(own, given.keep_labels) * speed.label_bytes
        )
    else:
        sums = given.gradient_rows
        if given.world > 1:  # what is sent, and what it is put together from
            sums += 2 * (sums * given.world if sums > 1 else 1)
        found["encoder, gradients"] = sums * _FLOAT * given.n_trained
        found["encoder, moments"] = 2 * _FLOAT * given.n_trained
        found["label embeddings and their gradients"] = 2 * _FLOAT * own * dim
        share = given.n_trained_blocks / given.n_blocks
        found["activations"] = _tokens_held(given, phase) * speed.token_bytes * share
    found["point embeddings and their gradients"] = 2 * _FLOAT * phase.batch_size * dim
    found["loss, scratch"] = min(LOSS_SCRATCH, 3 * _FLOAT * phase.batch_size * own)
    return found


def _tokens_held(given: PlanInput, phase: Phase) -> float:
    """Tokens whose activations are in memory, at most: points go backward after the labels."""
    points, labels = (
        n * float(lengths.mean()) / given.world
        for n, lengths in (
            (phase.batch_size, given.point_lengths),
            (phase.candidates, given.label_lengths),
        )
    )
    kept_points, kept_labels = (min(n, given.keep_tokens) for n in (points, labels))
    again = min(labels, given.micro_tokens) if kept_labels < labels else 0.0
    last = min(points, given.micro_tokens) if kept_points < points else 0.0
    return max(kept_points + max(kept_labels, again), last)


def _of_host(given: PlanInput) -> dict[str, float]:
    """Bytes by part of one process on the host, beside those of its device."""
    n_points, n_labels = len(given.point_lengths), len(given.label_lengths)
    found: dict[str, float] = {"pairs": 12 * given.n_positives + 8 * n_points}
    if given.resident:
        found = {"loaded already: libraries, texts, pairs": given.resident}
    if any(phase.name == "heads" for phase in given.phases):
        found["point features"] = _FLOAT * n_points * given.width
        if given.residual:
            found["point features, a copy for the centroids"] = (
                _FLOAT * n_points * (given.width + given.dim)
            )
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


def problems(
    given: PlanInput, memory: Mapping[str, Mapping[str, float]], there: Machine
) -> list[str]:
    """One line for each place whose memory will not do, with what to change."""
    found = []
    for place, sizes in memory.items():
        on_host = place == "host" or given.device == "cpu"
        room = there.host if on_host else there.device
        needed = math.fsum(sizes.values())
        if needed > room:
            largest = max(sizes, key=lambda name: sizes[name])
            remedy = next(words for start, words in _REMEDIES.items() if largest.startswith(start))
            found.append(
                f"{place} needs {in_bytes(needed)} of {in_bytes(room)}, most for {largest} "
                f"({in_bytes(sizes[largest])}): {remedy}"
            )
    return found
