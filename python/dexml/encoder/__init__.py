"""The text encoder of points and labels: transformer, pooling, heads, and the label table.

Uses torch, transformers and `dexml.text`, and nothing of training, index and data. They are
imported with the first name that needs them: engines and `dexml.encoder.served` do without. The
manual is ``docs/encoders.md``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dexml import console

if TYPE_CHECKING:
    from dexml.encoder.device import Precision, autocast, torch_device
    from dexml.encoder.layers import upper_layers
    from dexml.encoder.model import (
        CPU_BATCH_TOKENS,
        GPU_BATCH_TOKENS,
        MAX_TOKENS,
        DualEncoder,
        Prompts,
        Side,
        compiled,
    )
    from dexml.encoder.table import LabelTable, with_bias_dimension
    from dexml.text.tokens import Tokens

__all__ = [
    "CPU_BATCH_TOKENS",
    "GPU_BATCH_TOKENS",
    "MAX_TOKENS",
    "DualEncoder",
    "LabelTable",
    "Precision",
    "Prompts",
    "Side",
    "Tokens",
    "autocast",
    "compiled",
    "torch_device",
    "upper_layers",
    "with_bias_dimension",
]

_FILES = {
    "device": ("Precision", "autocast", "torch_device"),
    "layers": ("upper_layers",),
    "model": (
        *("CPU_BATCH_TOKENS", "GPU_BATCH_TOKENS", "MAX_TOKENS"),
        *("DualEncoder", "Prompts", "Side", "Tokens", "compiled"),
    ),
    "table": ("LabelTable", "with_bias_dimension"),
}


def __getattr__(name: str) -> Any:
    """Import the file of a public name when the name is first asked for."""
    for file, names in _FILES.items():
        if name in names:
            console.require("train", "torch", "transformers", "safetensors", "tqdm")
            return getattr(import_module(f"dexml.encoder.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
