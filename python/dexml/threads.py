"""How many threads the Rust core uses in calls that name no number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from dexml import _rust

MAX_THREADS = 1024
"""More are refused by the core."""


@contextmanager
def core_threads(num_threads: int | None) -> Iterator[None]:
    """Let calls of the core use this many threads, where they have no number of their own.

    It holds for the thread that enters, until it leaves: another Python thread keeps its own
    number, whatever it is doing meanwhile. Answers do not depend on it. Do not use it around a
    ``yield`` or an ``await``: the caller would go on with this number.

    Args:
        num_threads: From 1 to 1024; None leaves the number as it is, at first that of the cores.

    Raises:
        ValueError: `num_threads` is out of range.
    """
    if num_threads is None:
        yield
        return
    before = _rust.set_default_threads(num_threads)
    try:
        yield
    finally:
        _rust.set_default_threads(before)


def at_once(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do some things at the same time, each in a thread that is like this one to the core.

    In a thread that may use one thread of the core, they are done one after the other.

    Args:
        tasks: What to do.

    Returns:
        What each of them returned. If some raise, it is the error of the first of these, after all
        that have begun.
    """
    n = _rust.default_threads()
    if n == 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(n, "", _rust.set_default_threads, (n,)) as pool:
        return [done.result() for done in [pool.submit(task) for task in tasks]]
