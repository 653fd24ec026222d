"""Files with a flipped bit: whatever is sealed is refused, and data is never read as other data."""

import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from dexml import data
from dexml.predict import open_run
from dexml.sampling import LabelGraph

REGIONS = 64
"""Regions that a file is cut into; each gets one flipped bit, at a random place."""


def regions(size: int, rng: random.Random) -> list[int]:
    """A random place in each region of a file."""
    cuts = [size * i // REGIONS for i in range(REGIONS + 1)]
    return [rng.randrange(a, b) for a, b in pairwise(cuts) if a < b]


def flipped(path: Path, place: int, rng: random.Random) -> None:
    """Flip one bit of a file, in place."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << rng.randrange(8))]))


def sealed(
    folder: Path, files: list[Path], read: Callable[[], object], rng: random.Random
) -> dict[str, Any]:
    """Flip each region of each file of a folder, one at a time, and count what is refused."""
    tried, missed = 0, list[str]()
    for path in files:
        whole = path.read_bytes()
        for place in regions(len(whole), rng):
            flipped(path, place, rng)
            tried += 1
            try:
                read()
                missed.append(f"{path.relative_to(folder)}:{place}")
            except ValueError:
                pass
            path.write_bytes(whole)
    read()
    return {"files": len(files), "flips": tried, "refused": tried - len(missed), "missed": missed}


def run(source: Path, rng: random.Random, scratch: Path) -> dict[str, Any]:
    """All parts of a run, and its manifest."""
    folder = scratch / "flipped"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    state = open_run(folder).run.state
    names = {str(part["name"]) for part in state.parts.values()}
    files = [folder / name for name in sorted(names)] + [folder / "run.json"]
    files = [path for path in files if path.stat().st_size]
    return sealed(folder, files, lambda: open_run(folder), rng)


def checkpoints(run: Path, rng: random.Random, scratch: Path) -> dict[str, Any]:
    """The last checkpoint of a training."""
    from dexml.train.checkpoint import listed, read_progress

    folder = scratch / "checkpoint"
    folder.mkdir()
    (source,) = listed(next(iter(sorted((run / "checkpoint").glob("*/")))))[:1]
    path = folder / source.name
    shutil.copyfile(source, path)
    return sealed(folder, [path], lambda: read_progress(path, check=True), rng)


def matrices(rng: random.Random, scratch: Path) -> dict[str, Any]:
    """Data in files with sums of their own: refused, or read as it was."""
    y = csr_array(np.random.default_rng(0).random((200, 300), np.float32).round(1) * 2 - 1)
    y.data = np.abs(y.data)
    y.eliminate_zeros()
    readers: dict[str, Callable[[Path], Any]] = {
        "y.npz": lambda path: data.load_labels(path).toarray(),
        "y.txt.gz": lambda path: data.load_labels(path).toarray(),
        "y.txt.zst": lambda path: data.load_labels(path).toarray(),
        "graph.npz": lambda path: LabelGraph.load(path).neighbours.toarray(),
    }
    square = csr_array(y[:, :200])
    tried, refused, other = 0, 0, list[str]()
    for name, read in readers.items():
        path = scratch / name
        LabelGraph(square).save(path) if name == "graph.npz" else data.save_labels(path, y)
        whole, right = path.read_bytes(), read(path)
        for place in regions(len(whole), rng) + regions(len(whole), rng):
            flipped(path, place, rng)
            tried += 1
            try:
                if not np.array_equal(read(path), right):
                    other.append(f"{name}:{place}")
            except ValueError:
                refused += 1
            path.write_bytes(whole)
    same = tried - refused - len(other)
    return {"files": len(readers), "flips": tried, "refused": refused, "same": same, "other": other}
