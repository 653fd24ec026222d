"""Several processes: who this one is, and the few things that all of them do together.

Started by torchrun (NCCL on CUDA, gloo on a CPU). Alone, every function here does nothing. A
collective is called by all processes or by none: never inside what the first process does alone.
"""

from __future__ import annotations

import os
import re
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
"""Of what all processes compute together. One that dies is noticed at once, one that hangs after
this time."""
WAITING = timedelta(days=7)
"""While the first process works alone, which takes as long as it takes: texts are tokenised,
layers cached, an index is built."""
_LOST = re.compile(
    r"Connection closed|Connection reset|Broken pipe|Timed out|timeout|NCCL|remote process|"
    r"gloo|Connection refused|Socket",
    re.IGNORECASE,
)
_BLOCK = 2**26
"""Numbers sent at a time where an array does not lie on the device."""


def start(device: str) -> torch.device:
    """Join the processes of torchrun, if it started this one; the device of this process.

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
    found = torch_device(device)
    if found.type == "cuda":
        torch.cuda.set_device(found)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        backend = "nccl" if found.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
        global _waiting
        _waiting = dist.new_group(backend="gloo", timeout=WAITING)
    return found


def end() -> None:
    """Leave the group that `start` joined."""
    global _waiting
    _waiting = None
    if "RANK" in os.environ and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def add_up(tensor: Tensor) -> None:
    """Sum over all processes, in place. Where others hold zeros, the sum has this one's bits."""
    if size() > 1:
        dist.all_reduce(tensor)


def own(n: int) -> slice:
    """The share of this process of n rows, cut evenly."""
    return slice(rank() * n // size(), (rank() + 1) * n // size())


def fill(array: NDArray[Any], device: torch.device) -> None:
    """Complete an array of which every process has set its own rows, all others being 0."""
    if size() == 1:
        return
    flat = array.reshape(-1)
    for begin in range(0, len(flat), _BLOCK):
        part = torch.from_numpy(flat[begin : begin + _BLOCK]).to(device)
        dist.all_reduce(part)
        flat[begin : begin + _BLOCK] = part.cpu().numpy()


def agree(values: list[float], device: torch.device) -> list[float]:
    """What the first process says (None travels as NaN elsewhere)."""
    if size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(tensor, 0)
    found: list[float] = tensor.tolist()
    return found


_waiting: Any = None
"""The group in which others wait for the first; None: the usual one."""


def first(work: Callable[[], bool], device: torch.device) -> bool:
    """Let the first process work while the others wait; its answer, or its failure, for all.

    `work` must hold no collective.
    """
    answer, error = False, None
    if is_first():
        try:
            answer = work()
        except Exception as problem:
            error = problem
    if size() > 1:
        place = device if _waiting is None else torch.device("cpu")
        said = torch.tensor([float(answer), float(error is not None)], device=place)
        dist.broadcast(said, 0, group=_waiting)
        if said[1] and error is None:
            raise RuntimeError("process 0 failed; its message says why")
        answer = bool(said[0])
    if error is not None:
        raise error
    return answer


@contextmanager
def watched() -> Iterator[None]:
    """Turn the error of a collective whose other side is gone into one line."""
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


_pids: list[int] = []


def introduce(device: torch.device) -> None:
    """Tell all processes this one's id, so that they can name one that dies (on one machine)."""
    if size() > 1:
        ids = np.zeros(size(), np.int64)
        ids[rank()] = os.getpid()
        fill(ids, device)
        _pids[:] = ids.tolist()


def _gone() -> list[int]:
    """Processes that no longer run, as far as this machine can tell."""
    found: list[int] = []
    if int(os.environ.get("LOCAL_WORLD_SIZE", size())) < size():
        return found
    for number, pid in enumerate(_pids):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    found.append(number)
        except FileNotFoundError:
            found.append(number)
        except OSError:
            continue
    return found if len(found) < len(_pids) else []
