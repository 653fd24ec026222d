"""A memory of training points as a folder: vectors, labels, and a manifest that seals them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dexml import data
from dexml.files import replacing
from dexml.index import sealed
from dexml.index.labels import LabelIndex
from dexml.index.memory import MemorySettings, PointMemory, Points, positives_of

FORMAT_VERSION = 1
POINTS, LABELS, GRAPH, MANIFEST = "points.npy", "point_labels.npz", "points", "manifest.json"
"""What the folder holds; the third is the folder of an index over the points, and optional."""


def save_memory(memory: PointMemory, folder: Path, *, encoder: str = "") -> None:
    """Write a memory as a folder, beside `folder` and renamed.

    Args:
        memory: The memory.
        folder: Replaced if it is there.
        encoder: Fingerprint of what made the vectors.
    """
    points = memory.state
    with replacing(folder) as beside:
        beside.mkdir()
        stored = points.added  # behind the points that the graph holds
        if points.graph is not None:
            points.graph.save(beside / GRAPH)
        else:
            stored = np.concatenate([points.base, points.added])
        np.save(beside / POINTS, stored)
        data.save_labels(beside / LABELS, points.y)
        content: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "kind": "votes",
            "weight": memory.settings.weight,
            "neighbours": memory.settings.neighbours,
            "temperature": memory.settings.temperature,
            "n_points": memory.n_points,
            "dim": memory.dim,
            "graph": points.graph is not None,
            "encoder": encoder,
            "files": {name: sealed.sha256_of(beside / name) for name in (POINTS, LABELS)},
        }
        content["digest"] = sealed.digest_of(content)
        (beside / MANIFEST).write_bytes(sealed.spelled(content).encode())


def load_memory(folder: Path, *, encoder: str | None = None) -> PointMemory:
    """Open a folder of `save_memory`; every byte is checked first, and vectors stay on disk.

    Args:
        folder: The folder.
        encoder: Fingerprint that it must carry, if given.

    Raises:
        ValueError: Damaged, of a newer version, or made by another encoder.
    """
    path = folder / MANIFEST
    again = "train again, or remove the folder to do without it"
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        if content["format_version"] > FORMAT_VERSION:
            raise NotImplementedError
        if content["digest"] != sealed.digest_of(content) or text != sealed.spelled(content):
            raise ValueError("the manifest is not what was written")
        for name in (POINTS, LABELS):
            if content["files"][name] != sealed.sha256_of(folder / name):
                raise ValueError(f"{name} is not the file that was saved")
        graph = LabelIndex.load(folder / GRAPH) if content["graph"] else None
        stored = np.load(folder / POINTS, mmap_mode="r", allow_pickle=False)
        y = data.load_labels(folder / LABELS)
        base, added = (stored, stored[:0]) if graph is None else (graph.vectors, stored)
        n_points, dim = content["n_points"], content["dim"]
        shapes = (*base.shape[1:], *added.shape[1:], len(base) + len(added), y.shape[0])
        if stored.dtype != np.float32 or shapes != (dim, dim, n_points, n_points):
            raise ValueError("points, labels and manifest do not fit together")
        settings = MemorySettings(content["weight"], content["neighbours"], content["temperature"])
    except NotImplementedError:
        raise ValueError(f"{path}: a format newer than {FORMAT_VERSION}; update dexml") from None
    except (KeyError, TypeError, AttributeError, EOFError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder}: damaged memory of training points ({error}); {again}"
        ) from None
    if encoder is not None and content["encoder"] != encoder:
        raise ValueError(f"{folder}: made by another encoder; {again}")
    return PointMemory.restored(Points(base, added, positives_of(y, n_points), graph), settings)
