"""One process or thread holds a lock; the others learn which."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dexml import locks

HOLDER = """
import sys, time
from pathlib import Path
from dexml import locks
with locks.hold(Path(sys.argv[1]), "RUN", "python -m dexml.train"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def is_free(path: Path) -> bool:
    try:
        with locks.hold(path, "RUN", "trying"):
            return True
    except RuntimeError:
        return False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_the_holder_is_named(path: Path) -> None:
    with (
        another_process(path) as holder,
        pytest.raises(RuntimeError) as error,
        locks.hold(path, "RUN", "python -m dexml.index --add"),
    ):
        pass
    assert str(error.value).startswith(
        f"RUN: in use by process {holder.pid} (python -m dexml.train, since 20"
    )
    assert str(error.value).endswith("); try again when it has ended")
    assert is_free(path)


def test_a_lock_is_free_when_its_holder_was_killed(path: Path) -> None:
    with another_process(path) as holder:
        assert not is_free(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert path.read_text() != ""  # its note, which means nothing now
        with locks.hold(path, "RUN", "trying"):
            assert json.loads(path.read_text())["process"] == os.getpid()


def test_two_threads_exclude_each_other(path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with locks.hold(path, "RUN", "working", wait=60):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_it_waits_as_long_as_it_is_told(path: Path) -> None:
    with another_process(path) as holder:
        started = time.monotonic()
        with pytest.raises(RuntimeError, match="in use"), locks.hold(path, "RUN", "x", wait=0.3):
            pass
        assert 0.3 <= time.monotonic() - started < 5
        threading.Timer(0.3, holder.kill).start()
        with locks.hold(path, "RUN", "x", wait=60):
            assert not is_free(path)


@pytest.mark.parametrize("remove", [False, True])
def test_the_file_is_empty_or_gone_at_the_end(path: Path, remove: bool) -> None:
    for _ in range(2):
        with locks.hold(path, "RUN", "x", remove=remove):
            assert json.loads(path.read_text())["doing"] == "x"
        assert path.exists() != remove
    assert remove or path.read_text() == ""
    with pytest.raises(KeyError), locks.hold(path, "RUN", "x", remove=remove):
        raise KeyError
    assert path.exists() != remove
    assert is_free(path)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_while_somebody_waits(path: Path, replaced: bool) -> None:
    """The waiting one must not take the lock of a file that nobody else can see."""
    entered = []

    def wait() -> None:
        with locks.hold(path, "RUN", "waiting", wait=60):
            entered.append(os.stat(path).st_ino)
            assert not is_free(path)

    with locks.hold(path, "RUN", "x"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        path.unlink()
        if replaced:
            path.write_text("")
        thread.join(0.0)
    thread.join()
    assert entered == [os.stat(path).st_ino]


def test_many_with_remove_never_hold_it_together(path: Path) -> None:
    inside, seen = [], []

    def work() -> None:
        for _ in range(30):
            with locks.hold(path, "OUT", "x", wait=60, remove=True):
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    original = locks._RETRY
    locks._RETRY = 0.0001
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        locks._RETRY = original
    assert seen == [1] * 180
    assert not path.exists()


@pytest.mark.parametrize(
    "note",
    [b"", b"{", b"\xff", b"[]", b"3", b'{"process": 3}', None],
    ids=["empty", "cut", "binary", "list", "number", "half", "unreadable"],
)
def test_a_note_that_says_nothing_is_another_process(
    path: Path, note: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise PermissionError("not for you")

    with locks.hold(path, "RUN", "x"):
        if note is None:
            monkeypatch.setattr(Path, "read_text", fail)
        else:
            path.write_bytes(note)
        with pytest.raises(RuntimeError, match="RUN: in use by another process; try again"):
            locks.hold(path, "RUN", "y").__enter__()


def test_the_host_is_named_if_it_is_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_process(path) as holder:
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        with pytest.raises(RuntimeError, match=rf"process {holder.pid} on .* \(python -m dexml"):
            locks.hold(path, "RUN", "y").__enter__()


def test_a_full_disk_does_not_matter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with (
        locks.hold(path, "RUN", "x"),
        pytest.raises(RuntimeError, match="in use by another process"),
    ):
        locks.hold(path, "RUN", "y").__enter__()
    assert is_free(path)


def test_a_file_system_without_locks_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(OSError, match=r"cannot be locked \(Function not") as error:
        locks.hold(path, "RUN", "x").__enter__()
    assert error.value.filename == str(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        locks.hold(tmp_path / "no" / ".lock", "RUN", "x").__enter__()


@pytest.mark.parametrize("remove", [False, True])
def test_a_fork_neither_frees_the_lock_nor_keeps_it(path: Path, remove: bool) -> None:
    stop, go_on = os.pipe()
    with locks.hold(path, "RUN", "x", remove=remove):
        worker = os.fork()
        if worker == 0:
            os.close(go_on)
            os.read(stop, 1)  # ends with the parent at the latest
            os._exit(0)
    assert is_free(path)  # though the worker has inherited the open file
    os.close(go_on)
    os.waitpid(worker, 0)

    child = -1
    try:
        with locks.hold(path, "RUN", "x", remove=remove):
            child = os.fork()
            if child == 0:
                sys.exit()  # leaves the block of the parent
            os.waitpid(child, 0)
            assert not is_free(path)
            assert json.loads(path.read_text())["process"] == os.getpid()
    finally:
        if child == 0:
            os._exit(0)
    os.close(stop)
