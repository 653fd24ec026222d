"""A pretended CUDA device, for machines without a GPU: `start()`, and ``cuda`` is host memory.

It needs a CUDA build of PyTorch and g++. Tensors really are on ``cuda:0`` for Python: autocast and
autograd take the ways of CUDA, ``.numpy()`` is refused, and so is mixing them with host tensors.
So it finds tensors on the wrong device, operators without a CUDA kernel, and waits of the host. It
cannot show the numbers of CUDA kernels, their time, or what goes wrong because they run later.

There is no way back: start it in a process of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("device.cpp")
BUILT = Path(__file__).parents[2] / "target" / "pretended-cuda"
"""Where the compiled library is kept; beside what cargo builds."""
_Waited = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)
_NOTHING = {"aten::empty", "aten::empty_strided", "aten::resize_", "aten::detach"}
"""Operators that launch no kernel."""
WAITS: Counter[tuple[str, str]] = Counter()
"""(reason, ``file:line`` of dexml) -> times that the host waited for the device."""
_kept: list[Any] = []


def missing() -> str:
    """Why no device can be pretended here; empty if it can."""
    if torch.cuda.is_available():
        return "there is a real GPU"
    if not torch.backends.cuda.is_built():
        return "needs a CUDA build of PyTorch"
    if shutil.which("g++") is None:
        return "needs g++"
    return ""


def build() -> Path:
    """Compile the device, once for each version of it and of PyTorch."""
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:12]
    out = BUILT / f"{key}.so"
    if not out.exists():
        root = Path(torch.__file__).parent
        includes = [root / "include", root / "include/torch/csrc/api/include"]
        half = out.with_suffix(f".{os.getpid()}")
        BUILT.mkdir(parents=True, exist_ok=True)
        command = [
            "g++",
            "-O1",
            "-std=c++20",
            "-shared",
            "-fPIC",
            "-w",
            str(SOURCE),
            "-o",
            str(half),
        ]
        command += [f"-I{folder}" for folder in includes]
        subprocess.run([*command, f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu"], check=True)
        half.replace(out)
    return out


def start(memory: int = 141 * 10**9) -> None:
    """Make ``cuda`` usable in this process, as one device with so many bytes."""
    if reason := missing():
        raise RuntimeError(f"no device can be pretended: {reason}")
    library = ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)
    library.pretend_launches.restype = ctypes.c_char_p
    library.pretend_peak.restype = library.pretend_held.restype = ctypes.c_long
    hook = _Waited(lambda reason, name: _note(reason.decode()))
    _kept.extend([library, hook])
    _answer_for_the_driver(memory)
    replaced = library.pretend_start(hook)
    if replaced < 500:
        raise RuntimeError(f"only {replaced} operators of PyTorch have kernels for CUDA")


def _note(reason: str) -> None:
    for frame in reversed(traceback.extract_stack(limit=60)):
        if "/dexml/" in frame.filename or "torch/optim" in frame.filename:
            place = frame.filename.rsplit("/dexml/", 1)[-1].rsplit("site-packages/", 1)[-1]
            WAITS[reason, f"{place}:{frame.lineno}"] += 1
            return
    WAITS[reason, "elsewhere"] += 1


class _Event:
    """In the place of ``torch.cuda.Event``."""

    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return 1000 * (end.at - self.at)


def _answer_for_the_driver(memory: int) -> None:
    cuda: Any = torch.cuda
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "mem_get_info": lambda device=None: (memory - held(), memory),
        "get_device_name": lambda device=None: "pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda *a, **k: True,
        "is_current_stream_capturing": lambda: False,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device="cuda": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device="cuda": None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: held(),
        "max_memory_allocated": lambda device=None: peak(),
        "reset_peak_memory_stats": lambda device=None: reset(),
        "Event": _Event,
    }
    for name, answer in answers.items():
        setattr(cuda, name, answer)
    cuda._initialized = True
    # The choice between attention kernels asks the driver; the plain one needs none.
    for name in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
        getattr(torch.backends.cuda, name)(False)


def reset() -> None:
    """Start counting again."""
    WAITS.clear()
    _kept[0].pretend_reset()


def launches() -> Counter[str]:
    """Operators since `reset` that launch kernels, by name; one may launch several."""
    found: Counter[str] = Counter()
    for line in _kept[0].pretend_launches().decode().splitlines():
        name, times = line.rsplit(" ", 1)
        if name not in _NOTHING:
            found[name] += int(times)
    return found


def peak() -> int:
    """The most bytes that tensors of the device have held since `reset`."""
    return int(_kept[0].pretend_peak())


def held() -> int:
    """Bytes that tensors of the device hold."""
    return int(_kept[0].pretend_held())
