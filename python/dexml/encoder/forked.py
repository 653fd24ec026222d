"""How torch computes in a process that was forked from one with an encoder."""

from __future__ import annotations

import os

import torch

from dexml import console

_loaded = False
_inherited = False


def watch() -> None:
    """Note that an encoder is loaded here: forked processes have to be careful from now on."""
    global _loaded
    if not _loaded and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_inherit)
    _loaded = True


def _inherit() -> None:
    global _inherited
    _inherited = True


def settle(device: torch.device) -> None:
    """Make it safe to compute; in a forked process, before anything is computed.

    The threads of torch (GNU OpenMP) do not survive a fork, and a computation that wants several
    waits for them for ever. So torch computes with one thread there, as in the workers of its own
    ``DataLoader``, and a note says so.

    Raises:
        RuntimeError: The encoder is on a GPU, which no forked process can use.
    """
    global _inherited
    if not _inherited:
        return
    if device.type != "cpu":
        raise RuntimeError(
            f"this process was forked after the encoder was loaded to {device}, which it cannot "
            "use; open the run in each process after the fork, or start processes by spawn"
        )
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        console.say(
            "note: forked after an encoder was loaded, so torch computes with 1 thread here; for "
            "more, open the run after the fork"
        )
    _inherited = False
