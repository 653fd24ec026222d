"""The text encoder of points and labels: shared transformer, pooling, and one, two or no heads.

Knows torch, transformers and the rooms beside it (`pretrained`, `modules`, `layers`, `tokens`,
`attention`, `table`, `device`, `card`), and nothing of training, index and data.
Shapes: B texts of a batch, T tokens, N texts, H dimensions of features (width of the
transformer), D of embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit
from tqdm import tqdm

from dexml import console
from dexml.encoder import attention, card, layers, modules, pretrained
from dexml.encoder.device import Precision, autocast, torch_device
from dexml.encoder.layers import upper_layers
from dexml.encoder.modules import HEADS, HeadKind, Modules, PoolingMode
from dexml.encoder.table import LabelTable, with_bias_dimension
from dexml.text.tokens import Tokens, tokenize

__all__ = [
    "MAX_TOKENS",
    "DualEncoder",
    "LabelTable",
    "Tokens",
    "autocast",
    "compiled",
    "torch_device",
    "upper_layers",
    "with_bias_dimension",
]

MAX_TOKENS = 64
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 65536
"""Tokens of an encoding batch: what keeps a core or a GPU busy; more only costs memory."""
Side = Literal["point", "label"]


class DualEncoder(nn.Module):
    """One text encoder for points and labels.

    Features z = pooled states, of unit length if `normalize`; embedding = A z, again of unit
    length if `normalize`, with the head A: none, one for both sides, or one a side. ``encode``
    gives what the model was trained with; its folder opens with sentence-transformers as well.
    """

    def __init__(
        self,
        transformer: Any,
        tokenizer: Any,
        *,
        pooling: PoolingMode = "mean",
        normalize: bool = True,
        heads: Sequence[Tensor] = (),
        max_tokens: int | None = None,
    ) -> None:
        """Put an encoder together.

        Args:
            transformer: A model of transformers that gives ``last_hidden_state``.
            tokenizer: Its fast tokenizer.
            pooling: ``mean`` over all tokens, or the first (``cls``).
            normalize: Features and embeddings have unit length.
            heads: Matrices (D, H): none, one for both sides, or that of points and of labels.
            max_tokens: Tokens of a text at most where a call gives no number; default 64.
        """
        super().__init__()
        self.max_tokens = max_tokens or MAX_TOKENS
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.normalize = normalize
        self.width = int(transformer.config.hidden_size)
        for weight in heads:
            if weight.shape[1] != self.width or weight.shape != heads[0].shape:
                shapes = " and ".join(str(tuple(w.shape)) for w in heads)
                raise ValueError(f"heads of shape {shapes} do not fit a width of {self.width}")
        linears = [_linear(weight) for weight in heads]
        self.head: Any = linears[0] if linears else nn.Identity()
        self.label_head = linears[1] if len(linears) > 1 else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.transformer.parameters()).device
        return device

    @property
    def dim(self) -> int:
        """D, the number of dimensions of an embedding."""
        return int(self.head.out_features) if self.head_parameters() else self.width

    @property
    def heads(self) -> HeadKind:
        """``none``, ``shared`` or ``two``."""
        return HEADS[len(self.head_parameters())]

    def head_parameters(self) -> list[nn.Parameter]:
        """The head matrices (D, H): none, one, or that of points and that of labels."""
        heads = (self.head, self.label_head)
        weights: list[Any] = [head.weight for head in heads if isinstance(head, nn.Linear)]
        return weights

    @classmethod
    def load(
        cls,
        name: str,
        *,
        pooling: PoolingMode | None = None,
        normalize: bool | None = None,
        head: HeadKind | None = None,
    ) -> DualEncoder:
        """Open a folder (of `save`, sentence-transformers or transformers) or a hub name.

        Weights are read from safetensors only, in float32. The packaged all-MiniLM-L6-v2 of the
        extra ``demo`` is used where its hub name is given and the package is installed. Prompts
        that a folder names are not put before texts (a note says so).

        Args:
            name: Folder, or name on the hub.
            pooling: ``mean`` or ``cls``; default as the folder says, ``mean`` where it is silent.
            normalize: Unit length; default as the folder says, else True.
            head: ``none``, ``shared`` or ``two``; default as the folder says, a shared one in a
                plain folder of transformers. A head that the folder lacks starts as the identity,
                a second one as the first.

        Raises:
            ValueError: The folder holds modules that this class cannot represent, or a head that
                `head` would drop.
            OSError: Neither a folder nor a model of the hub that can be reached.
        """
        folder = pretrained.find(name)
        listed = modules.read_modules(folder)
        found = listed or Modules()
        transformer, tokenizer = pretrained.open_transformer(
            folder / found.transformer, lowercase=found.lowercase
        )
        if found.prompts:
            console.say(f"note: {name} names prompts to put before texts; they are not used")
        limit = pretrained.token_limit(transformer, tokenizer)
        return cls(
            transformer,
            tokenizer,
            pooling=pooling or found.pooling,
            normalize=found.normalize if normalize is None else normalize,
            heads=_heads(name, found, head or found.head, int(transformer.config.hidden_size)),
            max_tokens=found.max_tokens or (limit if listed and limit < 1 << 20 else None),
        )

    def save(
        self, folder: Path, *, max_tokens: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Write a folder that this class and sentence-transformers open (safetensors, JSON).

        Args:
            folder: Made if missing.
            max_tokens: Tokens of a text at most, for those who open it.
            facts: What the model card is to say (`dexml.encoder.card.write_card`).
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.backend_tokenizer.no_truncation()
        with pretrained.hushed():
            self.transformer.save_pretrained(str(folder))
            self.tokenizer.save_pretrained(str(folder))
        max_tokens = min(max_tokens, pretrained.token_limit(self.transformer, self.tokenizer))
        modules.write_modules(
            folder,
            self.head_parameters(),
            width=self.width,
            pooling=self.pooling,
            normalize=self.normalize,
            max_tokens=max_tokens,
        )
        own: dict[str, Any] = {
            "dim": self.dim,
            "max_tokens": max_tokens,
            "normalize": self.normalize,
        }
        own |= {"pooling": self.pooling, "heads": self.heads}
        card.write_card(folder, own | dict(facts or {}))

    def tokenize(
        self,
        texts: Sequence[str],
        max_tokens: int,
        *,
        cache: Path | None = None,
        progress: bool = False,
    ) -> Tokens:
        """Tokenise texts, cut to `max_tokens` and the model's limit (`dexml.text.tokenize`)."""
        limit = min(max_tokens, pretrained.token_limit(self.transformer, self.tokenizer))
        return tokenize(self.tokenizer, texts, limit, cache=cache, progress=progress)

    def features(self, ids: Tensor) -> Tensor:
        """Features (B, H) of token ids (B, T) without padding; float32, no head yet."""
        return self._pooled(self.transformer(input_ids=ids).last_hidden_state)

    def lower(self, ids: Tensor, n: int) -> Tensor:
        """Hidden states (B, T, H) of token ids (B, T) after all but the last `n` blocks.

        In eval mode ``upper(lower(ids, n), n)`` is ``features(ids)`` to the bit; in training mode
        the dropout of these blocks is on.

        Raises:
            ValueError: `n` is not in 1..depth, or the kind of model is not known here.
        """
        return layers.lower(self.transformer, ids, n)

    def upper(self, hidden: Tensor, n: int) -> Tensor:
        """Features (B, H) from the states (B, T, H) that `lower` gave for the same `n`."""
        return self._pooled(layers.upper(self.transformer, hidden, n))

    def features_packed(self, ids_T: Tensor, lengths_B: Tensor) -> Tensor:
        """Features (B, H) of texts of any lengths, packed (`attention.packed_states`)."""
        states = attention.packed_states(self.transformer, ids_T, lengths_B)
        pooled = attention.pooled(states.float(), lengths_B, self.pooling)
        return to_unit(pooled, dim=1) if self.normalize else pooled

    def _pooled(self, states_BTH: Tensor) -> Tensor:
        first = self.pooling == "cls"
        pooled = states_BTH[:, 0].float() if first else states_BTH.float().mean(dim=1)
        return to_unit(pooled, dim=1) if self.normalize else pooled

    def project(self, features: Tensor, side: Side = "point") -> Tensor:
        """Features (B, H) through the head of their side: (B, D), of any length."""
        if side not in ("point", "label"):
            raise ValueError(f"side {side!r}: expected point or label")
        head = self.head if side == "point" or self.label_head is None else self.label_head
        projected: Tensor = head(features)
        return projected

    def forward(self, features: Tensor, side: Side = "point") -> Tensor:
        """Embeddings (B, D) of features (B, H): head, and unit length if `normalize`."""
        projected = self.project(features, side)
        # Without a head the features are as long as they should be.
        return to_unit(projected, dim=1) if self.normalize and self.heads != "none" else projected

    @torch.inference_mode()
    def encode_features(
        self,
        tokens: Tokens,
        *,
        desc: str = "encoding",
        progress: bool = False,
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Features (N, H) of tokenised texts, float32, in their order, without dropout."""
        was_training = self.training
        self.eval()
        out = np.empty((len(tokens), self.width), np.float32)
        device = self.device
        budget = CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        with tqdm(total=len(tokens), desc=desc, unit="text", disable=not progress) as bar:
            for rows in tokens.batches(budget):
                with autocast(device, precision):
                    features = self.features(tokens.tensor(rows, device))
                out[rows] = features.cpu().numpy()
                bar.update(len(rows))
        self.train(was_training)
        return out

    @torch.inference_mode()
    def embed(self, features: NDArray[np.float32], side: Side = "point") -> NDArray[np.float32]:
        """Embeddings (N, D) of features (N, H), in blocks."""
        out = np.empty((len(features), self.dim), np.float32)
        start = 0
        for block in _blocks(features, self.device):
            out[start : start + len(block)] = self(block, side).cpu().numpy()
            start += len(block)
        return out

    def encode(
        self,
        texts: Sequence[str],
        *,
        side: Side = "point",
        max_tokens: int | None = None,
        progress: bool = False,
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: The texts.
            side: ``point`` or ``label``; they differ where there are two heads.
            max_tokens: Tokens of a text at most; default: as the folder says, else 64.
            progress: Show a bar.
            precision: See `autocast`.

        Returns:
            Vectors of shape (n, D), float32, of unit length if `normalize`. The score of a point
            and a label is their dot product (labels of a trained run have more: `LabelTable`).
        """
        tokens = self.tokenize(texts, max_tokens or self.max_tokens, progress=progress)
        features = self.encode_features(tokens, progress=progress, precision=precision)
        return self.embed(features, side)


def compiled(encoder: DualEncoder, *, backend: str = "inductor") -> DualEncoder:
    """Compile the transformer blocks of `encoder` in place with `torch.compile`, and return it."""
    layers.compile_blocks(encoder.transformer, backend)
    return encoder


def _heads(name: str, found: Modules, wanted: HeadKind, width: int) -> list[Tensor]:
    """Head matrices of the kind `wanted`, from those that the folder holds."""
    if wanted not in HEADS:
        raise ValueError(f"head {wanted!r}: expected {', '.join(HEADS)}")
    if HEADS.index(wanted) < len(found.weights):
        raise ValueError(
            f"{name}: has {len(found.weights)} head matrices, which head = {wanted} would drop; "
            f"give {found.head}"
        )
    if wanted == "none":
        return []
    weights = list(found.weights) or [torch.eye(width)]
    return [weights[0], weights[-1]] if wanted == "two" else weights


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        linear.weight.copy_(weight)
    return linear


def _blocks(features: NDArray[np.float32], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(features), 65_536):
        yield torch.from_numpy(features[start : start + 65_536]).to(device)
