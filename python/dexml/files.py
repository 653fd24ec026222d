"""Writing files so that a name never stands for half a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
            _remove(old)  # Left by a crash; `path` is there, so it is not needed.
            _swap(beside, path, old)
        else:
            os.replace(beside, path)
    finally:
        _remove(beside)


def _swap(beside: Path, path: Path, old: Path) -> None:
    """Put `beside` in the place of the folder `path`, which goes only after that."""
    try:
        os.rename(path, old)
        os.replace(beside, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
