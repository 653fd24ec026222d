"""A training by two processes, each with a pretended device, against one process on the host.

    torchrun --nproc-per-node 2 two.py FOLDER

gloo carries what NCCL would. The rules of NCCL hold: tensors of the device, contiguous, of a type
that it knows; in the group that waits on the host, tensors of the host.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist

import small
from pretended_cuda import device
from pretended_cuda.cases import Place

_TYPES = {torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.uint8}
_on_host: list[Any] = []


def pretend_nccl() -> None:
    """Let gloo carry the collectives of NCCL, and check what they are given."""
    there: Any = dist
    start, group_of = dist.init_process_group, there.new_group

    def init(backend: str, **more: Any) -> None:
        assert backend == "nccl", backend
        start("gloo", **more)

    def new_group(*, backend: str, **more: Any) -> Any:
        group = group_of(backend="gloo", **more)
        if backend == "gloo":
            _on_host.append(group)
        return group

    there.init_process_group, there.new_group = init, new_group
    for name in ("all_reduce", "broadcast", "all_gather"):
        setattr(there, name, _carried(name, getattr(dist, name)))


def _carried(name: str, collective: Callable[..., Any]) -> Callable[..., None]:
    def carry(*arguments: Any, group: Any = None, **more: Any) -> None:
        tensors = [t for a in arguments for t in (a if isinstance(a, list) else [a])]
        tensors = [t for t in tensors if isinstance(t, torch.Tensor)]
        if any(group is one for one in _on_host):
            assert not any(t.is_cuda for t in tensors), f"{name}: a tensor of the device for gloo"
            collective(*arguments, group=group, **more)
            return
        for t in tensors:
            assert t.is_cuda, f"{name}: a tensor of the host for NCCL"
            assert t.is_contiguous(), f"{name}: a strided tensor for NCCL"
            assert t.dtype in _TYPES, f"{name}: {t.dtype} for NCCL"
        copies = {id(t): t.cpu() for t in tensors}

        def of_host(a: Any) -> Any:
            return [copies[id(t)] for t in a] if isinstance(a, list) else copies.get(id(a), a)

        collective(*map(of_host, arguments), group=group, **more)
        for t in tensors:
            t.copy_(copies[id(t)])

    return carry


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    os.environ["LOCAL_RANK"] = "0"  # there is one device, for both
    device.start()
    pretend_nccl()
    place = Place.make(folder, real=False)
    changes: dict[str, Any] = {
        "stages": "encoder,heads", "negatives": "hard 0.5, uniform 0.5", "head_negatives": "all",
        "loss": "decoupled, soft-top-3 from 0.5",
    }  # fmt: skip
    # Its folder must be known to both.
    place.train("cuda", **changes, out=folder / "two", cache=str(folder / "cache-two"))
    if os.environ["RANK"] == "0":
        os.environ["WORLD_SIZE"] = "1"
        del os.environ["RANK"]
        one = place.train("cuda", **changes)
        others = small.weights(folder / "two")
        for name, tensor in small.weights(one).items():
            gap = float((tensor - others[name]).norm() / (tensor.norm() + 1e-9))
            assert gap <= 1e-5, f"{name}: weights differ by {gap:.1e}"
        print("two processes agree with one")


if __name__ == "__main__":
    main()
