"""``run.json``: what a finished run says of itself, and the sums of the files it speaks for.

Size and SHA-256 of each file that a later stage reads are written with the run; `dexml.run.folder`
checks a file against them before it reads it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dexml.files import digest_of, replacing, seal_of, spelled

FORMAT_VERSION = 2
_NUMBER = int | float
_INFO: dict[str, Any] = {
    "format_version": int,
    "data": str,
    "n_labels": int,
    "dim": int,
    "point_tokens": int,
    "label_tokens": int,
    "temperature": _NUMBER,
    "prior": _NUMBER,
    "fingerprint": str,
    "files": dict,
    "digest": str,
}
"""What ``run.json`` must hold."""
_MAY: dict[str, Any] = {
    "unseen_bias": _NUMBER,
    "memory": dict,
    "log_scale": _NUMBER,
    "offset": _NUMBER,
}
"""What it may hold."""
TABLE = "labels.safetensors"
READ = ("labels.txt", "label_emb.npy", "query_emb.npy", TABLE)
"""What later stages read beside ``encoder/``, and ``run.json`` seals."""
_FREE = "encoder/README.md"
"""The model card: for people, who may write in it."""
AGAIN = "copy the whole run again, or train again"


def check_info(path: Path, info: dict[str, Any]) -> None:
    """Refuse a ``run.json`` that cannot be used, naming the field."""
    version = info.get("format_version")
    if type(version) is not int:
        raise ValueError(f"{path}: damaged (no proper 'format_version'); train again")
    if version > FORMAT_VERSION:
        raise ValueError(f"{path}: format {version} is newer than this dexml's; update dexml")
    if version < FORMAT_VERSION:
        raise ValueError(f"{path}: format {version} of an older dexml; train again")
    for key, kind in (_INFO | {k: v for k, v in _MAY.items() if k in info}).items():
        value: Any = info.get(key)
        good = isinstance(value, kind) and not isinstance(value, bool)
        if not good or (kind is _NUMBER and not math.isfinite(value)):
            raise ValueError(f"{path}: damaged (no proper '{key}'); train again")
    for key in ("n_labels", "dim", "point_tokens", "label_tokens"):
        if info[key] < (key != "n_labels"):
            raise ValueError(f"{path}: damaged ({key} = {info[key]}); train again")
    for seal in info["files"].values():
        if not isinstance(seal, dict) or seal.keys() != {"bytes", "sha256"}:
            raise ValueError(f"{path}: damaged (no proper 'files'); train again")
    if info["digest"] != digest_of(info):
        raise ValueError(f"{path}: damaged (its digest is another); {AGAIN}")


def seals(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file of a run that a later stage reads, by its name in the run."""
    return {name: seal_of(folder / name) for name in (*READ, *encoder_files(folder))}


def write_info(
    folder: Path, info: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Write ``run.json``, which says that the run is whole.

    Args:
        folder: The run.
        info: What it says; version, `files` and digest are added.
        files: What `seals` found; default: it is asked.

    Raises:
        ValueError: A field is missing or of another type.
    """
    files = seals(folder) if files is None else files
    content = {**info, "format_version": FORMAT_VERSION, "files": files}
    content["digest"] = digest_of(content)
    path = folder / "run.json"
    check_info(path, content)
    with replacing(path) as beside:
        beside.write_text(spelled(content), encoding="utf-8")


def encoder_files(folder: Path) -> list[str]:
    """The files of the encoder, the model card and hidden ones aside."""
    found = (path.relative_to(folder) for path in folder.glob("encoder/**/*") if path.is_file())
    names = (p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))
    return sorted(name for name in names if name != _FREE)


def fingerprint(files: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the weight files among the `seals` of a run: the encoder's, the label table."""
    weights = [name for name in files if name.startswith("encoder/") or name == TABLE]
    digest = hashlib.sha256()
    for name in sorted(weights, key=lambda name: name.split("/")):
        if name.endswith(".safetensors"):
            digest.update(name.encode() + bytes.fromhex(files[name]["sha256"]))
    return digest.hexdigest()
