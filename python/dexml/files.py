"""Files: written so that a name never stands for half of one, and sums to know them again by."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; at the end it takes the place of `path`.

    Files and folders alike. When the block fails, or writes nothing, `path` is as it was and
    nothing is left. The name beside keeps the suffix, which some writers insist on.

    Raises:
        FileNotFoundError: The folder of `path` is missing, or the block wrote nothing.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} is not there")
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    old = path.with_name(f".{os.getpid()}.old.{path.name}")
    try:
        yield beside
        if not beside.exists():
            raise FileNotFoundError(f"{path}: nothing was written")
        if beside.is_file():
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
        if path.is_dir():  # A folder cannot be renamed over one that holds files.
            remove(old)  # Left by a crash; `path` is there, so it is not needed.
            _swap(beside, path, old)
        else:
            os.replace(beside, path)
    finally:
        remove(beside)


def _swap(beside: Path, path: Path, old: Path) -> None:
    """Put `beside` in the place of the folder `path`, which goes only after that."""
    try:
        os.rename(path, old)
        os.replace(beside, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def seal_of(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` (in hexadecimal) of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def is_sealed(path: Path, seal: Mapping[str, Any]) -> bool:
    """Whether a file has the ``bytes`` and ``sha256`` of a seal; the size is asked first."""
    if path.stat().st_size != seal["bytes"]:
        return False
    return bool(seal_of(path)["sha256"] == seal["sha256"])


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object without its ``digest``, in one spelling."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def spelled(content: Mapping[str, Any]) -> str:
    """The one spelling of a manifest: no byte of the file may differ."""
    return json.dumps(content, indent=2) + "\n"


def synced(path: Path) -> None:
    """Let the disk have a file, or the names in a folder, before going on."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process save to a folder at a time, where the system can (a kill frees the lock)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
