"""Files and folders that are written beside their name and renamed, so that each is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2**24
"""Bytes of an array that are written at a time."""
_BESIDE = re.compile(r"(?:\.[0-9a-f]{16}\.(?:new|old)\.)+(.*)", re.DOTALL)
_SYSTEM = re.compile(r"\..*|Thumbs\.db|[Dd]esktop\.ini|__MACOSX|@eaDir|System Volume Information")
"""Names that systems and editors leave in folders by themselves: hidden files above all."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; at the end, rename it to `path`.

    Works for files and folders. If the block fails, or writes nothing, `path` stays as it was and
    nothing is left behind. The temporary name is unique across threads and machines, and keeps the
    suffix of `path`, on which some writers insist. What was written gets the permissions that the
    umask gives to new files, whatever the writer did.

    Raises:
        FileNotFoundError: The folder of `path` is missing, or the block wrote nothing.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    beside, old = beside_name(path), beside_name(path, "old")
    try:
        yield beside
        if not beside.exists():
            raise FileNotFoundError(f"{path}: nothing was written")
        follow_umask(beside)
        sync_all(beside)
        if path.is_dir():  # A folder cannot be renamed over one that holds files.
            _swap(beside, path, old)
        else:
            os.replace(beside, path)
    finally:
        remove(beside)


def beside_name(path: Path, kind: str = "new") -> Path:
    """A hidden name in the folder of `path` that nobody else uses, with the suffix of `path`."""
    return path.with_name(f".{secrets.token_hex(8)}.{kind}.{path.name}")


def is_leftover(name: str, stem: str = "") -> bool:
    """Whether a killed process left this name beside a file whose name begins with `stem`."""
    match = _BESIDE.fullmatch(name)
    return match is not None and match[1].startswith(stem)


def is_foreign(name: str) -> bool:
    """Whether a name is neither hidden nor one that systems leave in folders by themselves."""
    return not _SYSTEM.fullmatch(name)


def _swap(beside: Path, path: Path, old: Path) -> None:
    """Put `beside` in the place of the folder `path`, which is removed only after that."""
    try:
        os.rename(path, old)
        os.replace(beside, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def follow_umask(path: Path) -> None:
    """Give a new file, or all files in a new folder, the permissions of any other new file.

    Some writers (safetensors) make files that only their owner can read.
    """
    if os.name == "nt":
        return
    probe = beside_name(path)  # The umask itself cannot be read without changing it for a moment.
    handle = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
        probe.unlink()
    for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if entry.is_file() and not entry.is_symlink():
            entry.chmod(mode)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside `path` and rename it, so that `path` is whole at any moment."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as indented JSON, beside and renamed."""
    write_bytes(path, spelled(content).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: Damaged, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None
    except RecursionError:
        raise ValueError(f"{path}: damaged (nested too deeply)") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def write_array(path: Path, array: NDArray[Any]) -> int:
    """Write an array as ``.npy``, in place, and return the bytes that the file must have.

    `numpy.save` hands the array to C, where an error at the end of the file goes unnoticed; here
    every write is checked.
    """
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        size = file.tell() + array.nbytes
        content = array.reshape(-1).view(np.uint8)
        for start in range(0, array.nbytes, _CHUNK):
            file.write(content[start : start + _CHUNK].data)
    return size


def write_text(path: Path, text: str) -> int:
    """Write a text as UTF-8, in place, and return the bytes that the file must have."""
    return path.write_bytes(text.encode())


def seal_of(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` (in hexadecimal) of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def is_sealed(path: Path, seal: Mapping[str, Any]) -> bool:
    """Whether a file has the ``bytes`` and ``sha256`` of a seal; the size is looked at first."""
    if path.stat().st_size != seal["bytes"]:
        return False
    return bool(seal_of(path)["sha256"] == seal["sha256"])


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object without its ``digest``, in one spelling."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def spelled(content: Mapping[str, Any]) -> str:
    """The one spelling of a JSON file of ours: no byte of it may differ."""
    return json.dumps(content, indent=2) + "\n"


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot do it for folders.
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_all(path: Path) -> None:
    """Wait until the disk has a file, or a folder with everything in it."""
    if path.is_dir():
        for entry in path.rglob("*"):
            sync(entry)
    sync(path)
