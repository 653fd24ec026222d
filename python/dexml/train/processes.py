"""Several processes: which one this is, and the few things that all of them do together.

torchrun starts them (NCCL on CUDA, gloo on a CPU), or a program that has formed a process group
already, such as Ray Train, Lightning or accelerate. With a single process, the functions here do
nothing. All processes call a collective or none does, so never call one inside `first`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from dexml.encoder import torch_device

TIMEOUT = timedelta(minutes=30)
"""Of a collective. A process that dies is noticed at once, one that hangs after this time."""
WAITING = timedelta(days=7)
"""Of waiting for the first process while it works alone: it tokenises texts, caches layers."""
_LOST = re.compile(
    r"Connection closed|Connection reset|Broken pipe|Timed out|timeout|NCCL|remote process|"
    r"gloo|Connection refused|Socket",
    re.IGNORECASE,
)
_BLOCK = 2**26
"""Numbers that are sent at a time if an array does not lie on the device."""
_DYING = 5.0
"""Seconds to wait until a process that is lost counts as dead, so that it can be named."""
_formed_group = False
"""Whether `start` has formed the default group; `end` destroys nothing of a foreign program."""
_waiting: Any = None
"""The group in which the others wait for the first process, on the CPU; None before `start`."""
_pids: list[int] = []
"""Process ids by rank, once they are known."""


def start(device: str) -> torch.device:
    """Join the other processes, if there are some, and say which device is this process's.

    Forms the process group of torchrun, unless one is there already, and a group of its own to
    wait in.

    Raises:
        ValueError: Not a device of this machine.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and device in ("auto", "cuda"):
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            if local >= torch.cuda.device_count():
                raise ValueError(
                    f"process {local} on a machine with {torch.cuda.device_count()} CUDA devices; "
                    "start as many processes as there are devices"
                )
            device = f"cuda:{local}"
    own_device = torch_device(device)
    if own_device.type == "cuda":
        torch.cuda.set_device(own_device)
    global _formed_group, _waiting
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if own_device.type == "cuda" else "gloo", timeout=TIMEOUT)
        _formed_group = True
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        _waiting = dist.new_group(backend="gloo", timeout=WAITING)
    return own_device


def end() -> None:
    """Destroy the groups that `start` has formed, and no others."""
    global _formed_group, _waiting
    if dist.is_available() and dist.is_initialized():
        if _waiting is not None:
            dist.destroy_process_group(_waiting)
        if _formed_group:
            dist.destroy_process_group()
    _formed_group, _waiting = False, None


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes files and messages."""
    return rank() == 0


def add_up(tensor: Tensor) -> None:
    """Sum over all processes, in place. If the others hold zeros, the bits are this one's."""
    if size() > 1:
        dist.all_reduce(tensor)


def own(n: int) -> slice:
    """This process's share of n rows that are cut evenly."""
    return slice(rank() * n // size(), (rank() + 1) * n // size())


def fill(array: NDArray[Any], device: torch.device) -> None:
    """Complete an array in which every process has set its own rows and left the others 0."""
    if size() == 1:
        return
    flat = array.reshape(-1)
    for begin in range(0, len(flat), _BLOCK):
        part = torch.from_numpy(flat[begin : begin + _BLOCK]).to(device)
        dist.all_reduce(part)
        flat[begin : begin + _BLOCK] = part.cpu().numpy()


def agree(values: list[float], device: torch.device) -> list[float]:
    """The values of the first process, on all of them."""
    if size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(tensor, 0)
    agreed: list[float] = tensor.tolist()
    return agreed


def first(work: Callable[[], bool], device: torch.device) -> bool:
    """Let the first process work while the others wait; all get its answer, or fail with it.

    `work` must not call a collective.
    """
    answer, error = False, None
    if is_first():
        try:
            answer = work()
        except Exception as problem:
            error = problem
    if size() > 1:
        where = device if _waiting is None else torch.device("cpu")
        outcome = torch.tensor([float(answer), float(error is not None)], device=where)
        dist.broadcast(outcome, 0, group=_waiting)
        if outcome[1] and error is None:
            raise RuntimeError("process 0 failed; its message says why")
        answer = bool(outcome[0])
    if error is not None:
        raise error
    return answer


@contextmanager
def watched() -> Iterator[None]:
    """If a collective fails because another process is gone, raise an error that says so."""
    try:
        yield
    except (RuntimeError, torch.distributed.DistError) as error:
        if size() == 1 or not _LOST.search(str(error)):
            raise
        gone = _gone()
        whom = f"process {gone[0]}" if len(gone) == 1 else "another process"
        raise RuntimeError(
            f"process {rank()} of {size()} lost {whom} ({str(error).splitlines()[0][:100]}); "
            "resume with --resume"
        ) from None


def introduce(device: torch.device) -> None:
    """Tell the others this process's id, so that they can name one that dies on this machine."""
    if size() > 1:
        ids = np.zeros(size(), np.int64)
        ids[rank()] = os.getpid()
        fill(ids, device)
        _pids[:] = ids.tolist()


def _gone() -> list[int]:
    """Processes that no longer run, as far as this machine can see."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", size())) < size():
        return []
    # The sockets of a process that dies are closed some time before the system says it is dead.
    deadline = time.monotonic() + _DYING
    gone = [number for number, pid in enumerate(_pids) if not _runs(pid)]
    while not gone and time.monotonic() < deadline:
        time.sleep(0.05)
        gone = [number for number, pid in enumerate(_pids) if not _runs(pid)]
    return gone if len(gone) < len(_pids) else []


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
    except OSError:
        return True
