"""What a forked process must not take over from its parent as it is.

A fork copies the memory of a process, but only the thread that forks. Locks that other threads held
stay locked, and pools of threads wait for threads that are not there: of torch, of OpenVINO. (The
pools of the Rust core belong to the process that made them; OpenBLAS and tokenizers take care of
themselves.)
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_renewals: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_registered = False


def renew_in_child(owner: T, renew: Callable[[T], None]) -> None:
    """Call ``renew(owner)`` in every process that is forked while `owner` lives.

    It is called at once, before the child does anything else, and must neither wait nor raise.

    Args:
        owner: Compared by identity; each has one `renew`, the last one given.
        renew: A function, not a method of `owner`, which would keep it alive.
    """
    global _registered
    _renewals[owner] = renew
    if not _registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_renew)
        _registered = True


def _renew() -> None:
    for owner, renew in list(_renewals.items()):
        renew(owner)


def pin(thing: object) -> None:
    """Keep an object for as long as the process lives, its end included.

    For what waits for its threads when it is destroyed: in a forked process they are not there.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def end_without_destructors() -> None:
    """At the end of this process, run no destructors of its libraries; its exit code stays.

    Some of them wait for threads that are not there, or crash. Python has ended then, and files of
    C are flushed. (Where there is no glibc, nothing is done.)
    """
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if libc is None or not hasattr(libc, "on_exit"):
        return
    libc.on_exit.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    # Called with the exit code, the last one first, and before what was registered earlier.
    for function in (libc._exit, libc.fcloseall):
        libc.on_exit(ctypes.cast(function, ctypes.c_void_p), None)
