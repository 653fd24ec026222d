"""Processes that are killed at random moments, and what a later one finds."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dexml.commands.index import main as index_main
from dexml.commands.predict import main as predict_main
from dexml.commands.train import main as train_main
from dexml.predict import Predictor
from faults.forked import killed, start

BEYOND = 1.3
"""Kills come evenly within so many times the length of the unbroken work: some come too late."""


def parts_of(run: Path) -> dict[str, str]:
    """SHA-256 of each part of a run, by its role: all weights, vectors, texts and settings."""
    parts = json.loads((run / "run.json").read_text())["parts"]
    return {role: part["sha256"] for role, part in parts.items()}


def until_done(
    work: Callable[[], object],
    seconds: float,
    rng: random.Random,
    log: Path,
    check: Callable[[], object],
) -> int:
    """Start `work` again and again, each killed at random, until one goes through.

    Args:
        work: What is begun or gone on with.
        seconds: It takes without a kill.
        rng: Draws the moments.
        log: Its output.
        check: Called after each kill.

    Returns:
        The number of kills.
    """
    kills = 0
    while not killed(work, rng.uniform(0, BEYOND * seconds), log):
        kills += 1
        check()
    return kills


def repeated(
    name: str,
    n: int,
    unbroken: Callable[[], object],
    once: Callable[[float], int],
    is_equal: Callable[[], bool],
    log: Path,
) -> dict[str, Any]:
    """Repeat ``once(seconds)`` until it has counted `n` kills; say how many ends were unequal."""
    begun = time.monotonic()
    assert killed(unbroken, 1e9, log)
    seconds = time.monotonic() - begun
    kills = ends = unequal = 0
    while kills < n:
        kills += once(seconds)
        ends += 1
        unequal += not is_equal()
        print(f"{name}: {kills} kills, {ends} ends, {unequal} unequal", flush=True)
    return {"kills": kills, "ends": ends, "unequal": unequal, "seconds": round(seconds, 1)}


def train(
    name: str, data: Path, more: list[str], n: int, rng: random.Random, scratch: Path
) -> dict[str, Any]:
    """Kill trainings, go on with --resume, and compare the run with an unbroken one."""
    whole, out, log = scratch / f"{name}-whole", scratch / f"{name}-killed", scratch / "log"

    def training(run: Path) -> Callable[[], object]:
        return lambda: train_main([str(data), "--out", str(run), "--resume", "--quiet", *more])

    def once(seconds: float) -> int:
        shutil.rmtree(out, ignore_errors=True)
        return until_done(training(out), seconds, rng, log, lambda: None)

    return repeated(name, n, training(whole), once, lambda: parts_of(out) == parts_of(whole), log)


def index(run: Path, n: int, rng: random.Random, scratch: Path) -> dict[str, Any]:
    """Kill ``dexml.index``; after each kill the run answers as before, or as after."""
    whole, out, log = scratch / "index-whole", scratch / "index-killed", scratch / "log"
    shutil.copytree(run, whole)
    texts = ["kernel driver", "music player a b"]
    before = Predictor.open(run, search="exact").predict(texts, 5)

    def indexing(folder: Path) -> Callable[[], object]:
        return lambda: index_main([str(folder), "--search", "hnsw", "--quiet"])

    def check() -> None:
        found = Predictor.open(out, search="exact").predict(texts, 5)
        np.testing.assert_array_equal(found.ids, before.ids)

    def once(seconds: float) -> int:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(run, out)
        return until_done(indexing(out), seconds, rng, log, check)

    return repeated(
        "index", n, indexing(whole), once, lambda: parts_of(out) == parts_of(whole), log
    )


def predict(run: Path, n: int, rng: random.Random, scratch: Path) -> dict[str, Any]:
    """Kill ``dexml.predict --out``, go on with --resume, and compare the bytes."""
    texts, whole, out = (scratch / name for name in ("texts.txt", "whole.jsonl", "out.jsonl"))
    words = ["kernel", "printer", "music", "network", "driver", "library", "editor", *"abcd"]
    lines = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(20_000)]
    texts.write_text("".join(f"{line}\n" for line in lines))

    def predicting(path: Path) -> Callable[[], object]:
        more = ["--out", str(path), "--resume", "--block", "64", "--quiet"]
        return lambda: predict_main([str(run), str(texts), *more])

    def once(seconds: float) -> int:
        out.unlink(missing_ok=True)
        check = lambda: None if not out.exists() else _same(out, whole)  # noqa: E731
        return until_done(predicting(out), seconds, rng, scratch / "log", check)

    def is_equal() -> bool:
        return out.read_bytes() == whole.read_bytes()

    return repeated("predict", n, predicting(whole), once, is_equal, scratch / "log")


def _same(a: Path, b: Path) -> None:
    """The output appears when it is complete, or not at all."""
    assert a.read_bytes() == b.read_bytes()


def save(run: Path, n: int, rng: random.Random, scratch: Path) -> dict[str, Any]:
    """Kill a process that adds a label and saves, again and again: what it saved is there."""
    out, lost, half = scratch / "edited", 0, 0
    shutil.copytree(run, out)
    first = Predictor.open(out).n_labels
    for kill in range(n):
        reading, writing = os.pipe()

        def edit(writing: int = writing) -> None:
            predictor = Predictor.open(out)
            while True:
                number = predictor.n_labels
                predictor.add_labels([f"added {number}"])
                predictor.save()
                os.write(writing, number.to_bytes(4, "little"))

        child = start(edit, scratch / "log")
        os.close(writing)
        os.read(reading, 4)  # the first save is done: from now on at any moment
        time.sleep(rng.uniform(0, 0.5))
        os.kill(child, 9)
        os.waitpid(child, 0)
        said = b""
        while more := os.read(reading, 2**16):
            said += more
        os.close(reading)
        texts = Predictor.open(out).label_texts
        last = int.from_bytes(said[-4:], "little") if said else -1
        lost += len(texts) <= last
        half += texts[first:] != [f"added {number}" for number in range(first, len(texts))]
        if kill % 20 == 19:
            print(f"save: {kill + 1} kills, {len(texts) - first} saves, {lost} lost", flush=True)
    return {"kills": n, "saves": len(texts) - first, "lost": lost, "half": half}
