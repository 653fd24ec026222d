"""Device and precision of an encoder."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """Return the context for computing with the transformer.

    Pooling, heads and scores stay float32.

    Args:
        device: Device of the transformer.
        precision: ``float32``; ``bfloat16`` (of its matrix products); ``auto``: bfloat16 on CUDA,
            float32 elsewhere. On a CPU, bfloat16 pays only if the processor multiplies it.

    Raises:
        ValueError: The precision is none of these.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16(device, precision))


def in_bfloat16(device: torch.device, precision: Precision) -> bool:
    """Say whether products of the transformer are bfloat16; raises as `autocast`."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision {precision!r}: expected auto, float32 or bfloat16")
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def torch_device(name: str) -> torch.device:
    """Return the device `name`; ``auto`` is CUDA if available, else the CPU.

    Raises:
        ValueError: This machine does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise ValueError(f"device {name}: not usable here ({reason})") from None
    return device
