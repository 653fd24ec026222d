"""Work in forked processes: killed after some time, or watched."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

STEP = 0.002
"""Seconds between two looks at a process."""


def killed(work: Callable[[], object], after: float, log: Path) -> bool:
    """Run `work` in a forked process that is killed (SIGKILL) after some seconds.

    Returns:
        Whether it went through before.

    Raises:
        RuntimeError: It failed by itself; the message has its traceback.
    """
    child = start(work, log)
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return _went_through(status, log)
        time.sleep(STEP)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
        return False
    return _went_through(status, log)


def outcome(work: Callable[[], object], limit: int, log: Path) -> int:
    """Run `work` in a forked process with a limit of seconds; return its exit code.

    Below 0 is the signal that ended it: SIGALRM beyond the limit.
    """

    def limited() -> None:
        signal.alarm(limit)
        work()

    return os.waitstatus_to_exitcode(os.waitpid(start(limited, log), 0)[1])


def start(work: Callable[[], object], log: Path) -> int:
    """Fork a process that does `work`, with its output in `log`; return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _went_through(status: int, log: Path) -> bool:
    if status != 0:
        raise RuntimeError(f"ended with {status}:\n{log.read_text()[-3000:]}")
    return True
