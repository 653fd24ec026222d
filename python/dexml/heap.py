"""Giving memory that was freed back to the system.

The allocator of Linux (glibc) keeps much of what is freed for itself, most of it in pieces that the
next step has no use for. After a step that needed a lot, its process holds several times what is in
use.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any


def give_back() -> None:
    """Give back what is free, all threads' share of it; takes milliseconds.

    Does nothing on systems whose allocator has no such call.
    """
    if sys.platform.startswith("linux") and (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], Any] | None:
    """Return the call of glibc; other allocators of Linux have none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
