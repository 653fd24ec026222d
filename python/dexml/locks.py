"""One process at a time changes a run or writes an output; the others learn which one it is.

The lock is the operating system's own, on an open file: it ends with the process that holds it,
however that process ends. (The package ``filelock`` empties the file that here names the holder.)
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_RETRY = 0.05
"""Seconds between two attempts."""


@contextmanager
def hold(
    path: Path, what: str, doing: str, *, wait: float = 0.0, remove: bool = False
) -> Iterator[None]:
    """Hold the lock file `path` while the block runs.

    Two threads of one process exclude each other as two processes do. A process that is forked
    inside the block does not hold the lock, but if the holder is killed, it stays locked until
    the forked process ends as well.

    Args:
        path: The lock file; created if it is missing.
        what: What is locked, for the message: a run, an output.
        doing: What this process does with it, for the message that others get.
        wait: Seconds to wait for another process to end.
        remove: Remove the lock file at the end; otherwise it stays, empty.

    Raises:
        RuntimeError: Another process holds it; the message names that process.
        OSError: The lock file cannot be created, or the file system has no locks.
    """
    deadline = time.monotonic() + wait
    while (handle := _locked(path)) is None:
        if time.monotonic() >= deadline:
            raise RuntimeError(f"{what}: in use by {_holder(path)}; try again when it has ended")
        time.sleep(_RETRY)
    owner = os.getpid()
    try:
        _write_note(handle, doing)
        yield
    finally:
        # A forked process that leaves the block must not free the lock of its parent.
        if os.getpid() == owner:
            _free(handle, path, remove=remove)
        else:
            os.close(handle)


def _locked(path: Path) -> int | None:
    """A handle of the lock file, locked; None if another process holds it."""
    while True:
        # Without O_TRUNC, which would erase the note of the holder.
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _try_lock(handle, path):
                os.close(handle)
                return None
            # The file may have been removed or replaced since it was opened. Then the lock is on
            # a file without a name, which nobody else will ever see.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _free(handle: int, path: Path, *, remove: bool) -> None:
    """Unlock, and remove or empty the file."""
    with suppress(OSError):
        if remove and os.name != "nt":  # while it is locked: see the comment in `_locked`
            path.unlink(missing_ok=True)
        else:
            os.ftruncate(handle, 0)
    # Closing would not do: a process forked meanwhile has the handle too.
    with suppress(OSError):
        _unlock(handle)
    os.close(handle)
    if remove and os.name == "nt":  # Windows does not remove open files, not even of others.
        with suppress(OSError):
            path.unlink(missing_ok=True)


if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30
    """The locked byte: far behind the note, which others can then read."""

    def _try_lock(handle: int, path: Path) -> bool:
        os.lseek(handle, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(handle: int, path: Path) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(path)) from None
        return True

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


def _write_note(handle: int, doing: str) -> None:
    """Say in the lock file who holds it. A full disk is not a reason to fail here."""
    note = {"doing": doing, "process": os.getpid(), "host": socket.gethostname()}
    text = json.dumps(note | {"since": time.strftime("%Y-%m-%d %H:%M:%S")})
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, text.encode())


def _holder(path: Path) -> str:
    """Who holds the lock, as far as its note says."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        where = "" if note["host"] == socket.gethostname() else f" on {note['host']}"
        return f"process {note['process']}{where} ({note['doing']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
