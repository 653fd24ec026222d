"""What computes features of token ids: PyTorch, or an inference library in a faster form.

Needs no torch. Shapes: N texts, B texts of a batch, T tokens, H dimensions of features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # reading and writing modules needs safetensors, which an engine does not
    from dexml.encoder.modules import PoolingMode
    from dexml.text.tokens import Tokens

EngineName = Literal["auto", "torch", "openvino"]
Form = Literal["float32", "bfloat16", "int8"]
FORMS: tuple[Form, ...] = ("float32", "bfloat16", "int8")
"""In what numbers the matrix products are computed; ``int8`` also keeps its weights so."""
OnBatch = Callable[[NDArray[np.int64]], object]
"""Called with the row numbers of texts whenever some more are done."""


class Engine(Protocol):
    """Computes features of texts."""

    @property
    def name(self) -> str:
        """``torch`` or ``openvino``."""

    @property
    def form(self) -> Form:
        """The numbers that it multiplies."""

    @property
    def fingerprint(self) -> str:
        """What the bits of features depend on, beside weights and token ids."""

    @property
    def steady(self) -> bool:
        """Whether features of a text have the same bits in any batch and for any threads."""

    def features(self, tokens: Tokens, on_batch: OnBatch | None = None) -> NDArray[np.float32]:
        """Return features (N, H), float32, in the order of the texts."""


def check_engine(name: str) -> None:
    """Refuse a name that is none of the engines.

    Raises:
        ValueError: It is not.
    """
    if name not in ("auto", "torch", "openvino"):
        raise ValueError(f"engine = {name!r}; expected one of auto, torch, openvino")


def pooled(states_BTH: NDArray[Any], mode: PoolingMode, unit: bool) -> NDArray[np.float32]:
    """Pool token states of texts of one length to (B, H), of unit length if `unit`."""
    states_BTH = np.asarray(states_BTH, np.float32)
    pooled_BH = states_BTH[:, 0].copy() if mode == "cls" else states_BTH.mean(axis=1)
    return to_unit(pooled_BH) if unit else pooled_BH


def to_unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1; a row of zeros stays. As `torch.nn.functional.normalize`."""
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float32))
    scaled: NDArray[np.float32] = rows / np.maximum(norms, np.float32(1e-12))[:, None]
    return scaled
