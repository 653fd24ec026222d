"""The folder of tokens and features that several runs may share: bounded, and safe to share.

Entries are named by what they hold, written beside and renamed, and removed with the longest unused
first. Whoever finds an entry gone computes it again.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from dexml import files

_ENTRY = re.compile(
    r"[0-9a-f]{16}\.npy|rows(-[0-9a-f]{16}){2}\.safetensors|layers-[0-9a-f]{16}\.npy|[0-9a-f]{32}"
)
"""Features of lists and of texts, frozen layers, folders of tokens; nothing else is removed."""


def used(entry: Path) -> None:
    """Note that an entry is used now."""
    with suppress(OSError):  # it may be gone, or belong to somebody else
        os.utime(entry)


def bound(folder: Path, gigabytes: float, keep: Path) -> None:
    """Remove entries until those that are left fit, the longest unused first.

    Args:
        folder: The cache.
        gigabytes: What they may take, 10^9 bytes each.
        keep: An entry that stays, whatever its size.
    """
    found = []
    for entry in folder.iterdir():
        if _ENTRY.fullmatch(entry.name):
            with suppress(OSError):  # another process removes too
                found.append((entry.stat().st_mtime, _size(entry), entry))
    total = sum(size for _, size, _ in found)
    for _, size, entry in sorted(found, key=lambda one: one[0]):
        if total <= gigabytes * 1e9:
            break
        if entry != keep:
            with suppress(OSError):  # on Windows: what is open
                files.remove(entry)
            total -= size


def _size(entry: Path) -> int:
    parts = [path for path in entry.rglob("*") if path.is_file()] if entry.is_dir() else [entry]
    return sum(path.stat().st_size for path in parts)
