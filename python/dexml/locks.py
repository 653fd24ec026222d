"""One process at a time changes a run or writes an output; others learn which one it is.

The lock is the system's own, on an open file: it ends with the process that holds it, however that
ends. (The package ``filelock`` would do, but it empties the file that here names the holder.)
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_RETRY = 0.05
"""Seconds between two attempts."""


@contextmanager
def hold(
    path: Path, what: str, doing: str, *, wait: float = 0.0, remove: bool = False
) -> Iterator[None]:
    """Hold the lock file `path` while the block runs.

    Args:
        path: The lock file; made if it is missing.
        what: What is locked, for the message: a run, an output.
        doing: What this process does with it, for the message that others get.
        wait: Seconds to wait for another process to end.
        remove: Remove the lock file at the end; else it stays, empty.

    Raises:
        RuntimeError: Another process holds it; the message names that process.
    """
    deadline = time.monotonic() + wait
    while (file := _locked(path)) is None:
        if time.monotonic() >= deadline:
            raise RuntimeError(f"{what}: in use by {_holder(path)}; try again when it has ended")
        time.sleep(_RETRY)
    try:
        note = {"doing": doing, "process": os.getpid(), "host": socket.gethostname()}
        file.write(json.dumps(note | {"since": time.strftime("%Y-%m-%d %H:%M:%S")}))
        file.flush()
        yield
    finally:
        if remove:  # Before it is free: who has opened it meanwhile will see that it has no name.
            path.unlink(missing_ok=True)
        else:
            file.truncate(0)
        file.close()


def _locked(path: Path) -> IO[str] | None:
    """The lock file, opened and locked; None if another process holds it."""
    # Not "w", which would empty the note of the holder.
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
    if not _try_lock(file):
        file.close()
        return None
    try:
        same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        same = False
    if not same:  # Removed, or made anew, since it was opened: a lock on a file without a name.
        file.close()
        return _locked(path)
    file.truncate(0)
    return file


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[str]) -> bool:
        try:
            # One byte far behind the note, which stays readable.
            file.seek(2**30)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        file.seek(0)
        return True
else:
    import fcntl

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _holder(path: Path) -> str:
    """Who holds the lock, as far as its note says."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        where = "" if note["host"] == socket.gethostname() else f" on {note['host']}"
        return f"{note['doing']} (process {note['process']}{where}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
