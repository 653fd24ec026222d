"""The files of a run folder that are not sealed: settings, log, versions.

Every file is written beside its final name and renamed; paths inside are relative, so a run can be
moved. Contents: ``docs/formats.md``.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from numpy.typing import NDArray

from dexml import files
from dexml.files import is_leftover, read_json, replacing, write_bytes, write_json

__all__ = [
    "log",
    "read_config",
    "read_json",
    "read_log",
    "remove",
    "versions",
    "write_array",
    "write_bytes",
    "write_config",
    "write_json",
]

_OWN = (
    "run.json",
    *("config.toml", "log.jsonl", "metrics.json", "report.html"),
    *("encoder", "labels", "dense", "index", "neighbours", "lexical", "tree", "bilinear"),
    *("ranker", "points", "calibration"),
    *("checkpoint", "cache", "tensorboard", "wandb"),
    "versions.json",
)
"""All that a run may hold. The first says that it is finished, the last that it is a run."""
_PACKAGES = (
    *("dexml-xmc", "torch", "transformers", "openvino", "tokenizers"),
    *("numpy", "scipy", "hnswlib"),
)


def remove(folder: Path) -> None:
    """Remove the files of a run, and what was begun of them; nothing else in its folder."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if any(is_leftover(entry.name, name) for name in _OWN):
            files.remove(entry)
    for name in _OWN:  # in this order: what a kill leaves is not a finished run, but still a run
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``."""
    with replacing(path) as beside:
        files.write_array(beside, array)


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the resolved settings as ``config.toml``."""
    write_bytes(folder / "config.toml", tomli_w.dumps(settings).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.toml`` of a run."""
    path = folder / "config.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def log(folder: Path, **fields: Any) -> dict[str, Any]:
    """Append one line to ``log.jsonl``, and return it: the fields and the time (since 1970, s)."""
    line = {"time": round(time.time(), 3), **fields}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read ``log.jsonl``; a last line that a killed job left unfinished is dropped.

    Raises:
        ValueError: Another line is not a JSON object.
    """
    entries = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number}: damaged ({error})") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{path}:{number}: not a JSON object")
        entries.append(entry)
    return entries


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
