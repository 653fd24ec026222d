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

    Files and folders alike. When the block fails, `path` is as it was and nothing is left. The
    name beside keeps the suffix, which some writers insist on.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} is not there")
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    old = path.with_name(f".{os.getpid()}.old.{path.name}")
    try:
        yield beside
        if beside.is_file():
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
        if path.is_dir():  # A folder cannot be renamed over one that holds files.
            os.rename(path, old)
        os.replace(beside, path)
    finally:
        for rest in (beside, old):
            if rest.is_dir():
                shutil.rmtree(rest, ignore_errors=True)
            else:
                rest.unlink(missing_ok=True)
