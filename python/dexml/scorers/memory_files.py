"""A memory of training points as a folder: vectors, labels, and a manifest that seals them.

As in the folder of an index (`dexml.index.sealed`), files are named by their content and the
renaming of the manifest puts them into force together.
"""

from __future__ import annotations

import json
import os
import re
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from dexml import data
from dexml.files import digest_of, remove, seal_of, spelled
from dexml.index import sealed
from dexml.index.labels import LabelIndex
from dexml.index.sealed import MANIFEST
from dexml.scorers.memory import PointMemory
from dexml.scorers.points import Points, positives_of
from dexml.scorers.votes import MemorySettings

FORMAT_VERSION = 2
POINTS, LABELS, GRAPH = "points", "labels", "graph"
"""What the folder holds; the third is the folder of an index over the points, and optional."""
_OURS = re.compile(
    r"\.?(\.\d+\.)?(points(-[0-9a-f]{16})?\.npy|labels(-[0-9a-f]{16})?\.npz|graph(-[0-9a-f]{16})?)"
    r"(\.\d+\.\d+\.tmp)?"
)
_AGAIN = "train again, or remove the folder to do without it"


def save_memory(
    memory: PointMemory, folder: Path, *, encoder: str = "", points: Points | None = None
) -> None:
    """Write a memory as a folder. A kill at any moment leaves the old one whole, or the new one.

    Args:
        memory: The memory.
        folder: Made if it is not there. A memory that is there is replaced, if this one was not
            loaded from it or saved to it before.
        encoder: Fingerprint of what made the vectors.
        points: The points to write, an earlier `state` of the memory; default: those of now.

    Raises:
        FileExistsError: The folder holds something that is not a memory.
        RuntimeError: Another process has saved to it since this memory was loaded or saved.
    """
    home, settings = memory.home, memory.settings
    with home.lock:
        state = memory.state if points is None else points

        def content() -> dict[str, Any]:
            stored = state.added  # behind the points that the graph holds
            if state.graph is None:
                stored = np.concatenate([state.base, state.added])
            files = {
                POINTS: sealed.put(folder, f"{POINTS}-{{}}.npy", lambda to: np.save(to, stored)),
                LABELS: sealed.put(
                    folder, f"{LABELS}-{{}}.npz", lambda to: data.save_labels(to, state.y)
                ),
            }
            if state.graph is not None:
                files[GRAPH] = _put_graph(state.graph, folder)
            return {
                "format_version": FORMAT_VERSION,
                "kind": "votes",
                "weight": settings.weight,
                "neighbours": settings.neighbours,
                "temperature": settings.temperature,
                "n_points": state.y.shape[0],
                "dim": memory.dim,
                "encoder": encoder,
                "files": files,
            }

        made = sealed.commit(
            folder, home.digest_in(folder), content, ours=_OURS, what="a memory of points"
        )
        home.folder, home.digest = folder.resolve(), made["digest"]
        home.state, home.settings = state, settings


def load_memory(folder: Path, *, encoder: str | None = None) -> PointMemory:
    """Open a folder of `save_memory`; every byte is checked first, and vectors stay on disk.

    Args:
        folder: The folder.
        encoder: Fingerprint that it must carry, if given.

    Raises:
        FileNotFoundError: No memory there.
        ValueError: Damaged, of a newer version, or made by another encoder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no memory there (no {MANIFEST}); {_AGAIN}")
    for attempt in range(sealed.ATTEMPTS):
        digest = sealed.digest_there(path)
        try:
            return _load(folder, encoder)
        except ValueError:  # or a save came between?
            if attempt == sealed.ATTEMPTS - 1 or sealed.digest_there(path) == digest:
                raise
    raise AssertionError  # the loop returns or raises


def _load(folder: Path, encoder: str | None) -> PointMemory:
    path = folder / MANIFEST
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        if content["format_version"] != FORMAT_VERSION:
            raise NotImplementedError(content["format_version"])
        if content["digest"] != digest_of(content) or text != spelled(content):
            raise ValueError("the manifest is not what was written")
        files = content["files"]
        for role in (POINTS, LABELS):
            if seal_of(folder / files[role]["name"])["sha256"] != files[role]["sha256"]:
                raise ValueError(f"{files[role]['name']} is not the file that was saved")
        graph = _load_graph(folder, files[GRAPH]) if GRAPH in files else None
        stored = np.load(folder / files[POINTS]["name"], mmap_mode="r", allow_pickle=False)
        y = data.load_labels(folder / files[LABELS]["name"])
        base, added = (stored, stored[:0]) if graph is None else (graph.vectors, stored)
        n_points, dim = content["n_points"], content["dim"]
        shapes = (*base.shape[1:], *added.shape[1:], len(base) + len(added), y.shape[0])
        if stored.dtype != np.float32 or shapes != (dim, dim, n_points, n_points):
            raise ValueError("points, labels and manifest do not fit together")
        settings = MemorySettings(content["weight"], content["neighbours"], content["temperature"])
    except NotImplementedError as error:
        raise ValueError(
            f"{path}: format {error}, but this dexml reads {FORMAT_VERSION}; {_AGAIN}"
        ) from None
    except FileNotFoundError as error:
        missing = Path(error.filename or path).name
        raise ValueError(
            f"{folder}: damaged memory of training points ({missing} is not there); {_AGAIN}"
        ) from None
    except (KeyError, TypeError, AttributeError, EOFError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder}: damaged memory of training points ({error}); {_AGAIN}"
        ) from None
    if encoder is not None and content["encoder"] != encoder:
        raise ValueError(f"{folder}: made by another encoder; {_AGAIN}")
    memory = PointMemory.restored(Points(base, added, positives_of(y, n_points), graph), settings)
    home = memory.home
    home.folder, home.digest = folder.resolve(), content["digest"]
    home.state, home.settings = memory.state, settings
    return memory


def _put_graph(graph: LabelIndex, folder: Path) -> dict[str, Any]:
    """Write the index over the points as a folder under the name of its content."""
    seal = _graph_seal(graph)
    if graph.manifest.digest and _is_graph(folder, seal):
        return seal
    beside = folder / f".{os.getpid()}.{GRAPH}"
    remove(beside)  # left by a process that was killed
    try:
        saved = copy(graph)  # the original does not take this for its place
        saved.save(beside)
        seal = _graph_seal(saved)
        if not _is_graph(folder, seal):
            remove(folder / seal["name"])
            os.replace(beside, folder / seal["name"])
    finally:
        remove(beside)
    return seal


def _graph_seal(graph: LabelIndex) -> dict[str, Any]:
    digest = graph.manifest.digest
    return {"name": f"{GRAPH}-{digest[:16]}", "digest": digest}


def _is_graph(folder: Path, seal: dict[str, Any]) -> bool:
    """Whether the graph is there already, whole."""
    try:
        return sealed.read(folder / str(seal["name"])).digest == str(seal["digest"])
    except (ValueError, OSError):
        return False


def _load_graph(folder: Path, seal: dict[str, Any]) -> LabelIndex:
    graph = LabelIndex.load(folder / seal["name"])
    if seal["digest"] != graph.manifest.digest:
        raise ValueError(f"{seal['name']} is not the graph that was saved")
    return graph
