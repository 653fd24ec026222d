"""The text encoder of points and labels: transformer, pooling, heads, and the label table.

Uses torch, transformers and `dexml.text`, and nothing of training, index and data. The manual is
``docs/encoders.md``.
"""

from dexml import console

console.require("train", "torch", "transformers", "safetensors", "tqdm")

# isort: split
from dexml.encoder.device import Precision, autocast, torch_device
from dexml.encoder.layers import upper_layers
from dexml.encoder.model import (
    CPU_BATCH_TOKENS,
    GPU_BATCH_TOKENS,
    MAX_TOKENS,
    DualEncoder,
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
    "Side",
    "Tokens",
    "autocast",
    "compiled",
    "torch_device",
    "upper_layers",
    "with_bias_dimension",
]
