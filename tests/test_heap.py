"""Memory that was freed goes back to the system."""

import os
import sys

import numpy as np
import pytest

from dexml import heap


def resident() -> int:
    """Memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such call")
def test_pieces_between_others_go_back() -> None:
    pieces = [np.ones(10_000, np.uint8) for _ in range(10_000)]
    kept = pieces[::100]  # nothing at the end of the heap is free as a whole
    full = resident()
    del pieces
    heap.give_back()
    assert full - resident() > 50e6
    assert all(piece.all() for piece in kept)


def test_other_systems_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("ctypes.CDLL", None)  # is not called
    heap.give_back()
