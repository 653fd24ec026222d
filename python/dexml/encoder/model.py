"""The text encoder of points and labels: shared transformer, pooling, and one, two or no heads.

Shapes: B texts of a batch, T tokens, N texts, H dimensions of features (width of the transformer),
D dimensions of embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit

from dexml import console
from dexml.encoder import attention, card, forked, layers, modules, pretrained
from dexml.encoder.device import Precision, autocast, torch_device
from dexml.encoder.engine import Engine
from dexml.encoder.layers import upper_layers
from dexml.encoder.modules import HEADS, NO_PROMPTS, HeadKind, Modules, PoolingMode, Prompts, Side
from dexml.encoder.table import LabelTable, with_bias_dimension
from dexml.text.tokens import Tokens, tokenize

__all__ = [
    "MAX_TOKENS",
    "DualEncoder",
    "LabelTable",
    "Prompts",
    "Side",
    "Tokens",
    "autocast",
    "compiled",
    "torch_device",
    "upper_layers",
    "with_bias_dimension",
]

MAX_TOKENS = 64
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 65536
"""Tokens of an encoding batch: enough to keep a core or a GPU busy. More only costs memory."""


class DualEncoder(nn.Module):
    """One text encoder for points and labels.

    The features z of a text are its pooled token states, of unit length if ``normalize``. Its
    embedding is A z, again of unit length if ``normalize``. The head A is missing, shared by both
    sides, or different for points and labels. The prompt of a side, if there is one, is put before
    each of its texts. Open an encoder with `load`, embed texts with `encode`. A folder written by
    `save` also opens with sentence-transformers.
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
        prompts: Prompts = NO_PROMPTS,
    ) -> None:
        """Put an encoder together.

        Args:
            transformer: A model of transformers that returns ``last_hidden_state``.
            tokenizer: Its fast tokenizer.
            pooling: ``mean`` over all tokens, or the first token (``cls``).
            normalize: Whether features and embeddings have unit length.
            heads: Matrices (D, H): none, one for both sides, or one for points and one for labels.
            max_tokens: Most tokens of a text where a call gives no number; default 64.
            prompts: What is put before texts of points and of labels.

        Raises:
            ValueError: The heads do not fit the transformer or each other.
        """
        super().__init__()
        forked.watch()
        self.max_tokens = max_tokens or MAX_TOKENS
        self.prompts = prompts
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
        self.engine: Engine | None = None
        """Computes the features of `encode_features` and `encode` if it is set, for instance one of
        `dexml.encoder.engine_export.converted`. Training steps do not use it: whoever changes the
        transformer takes the engine away."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
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
        """Return the head matrices (D, H): none, one, or those of points and of labels."""
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
        point_prompt: str | None = None,
        label_prompt: str | None = None,
    ) -> DualEncoder:
        """Open a folder (of `save`, sentence-transformers or transformers) or a hub name.

        Weights are read only from safetensors, in float32. For the hub name of all-MiniLM-L6-v2 the
        package of the extra ``demo`` is used if it is installed.

        Args:
            name: Folder, or name on the hub.
            pooling: ``mean`` or ``cls``; default as the folder says, else ``mean``.
            normalize: Whether vectors have unit length; default as the folder says, else True.
            head: ``none``, ``shared`` or ``two``; default as the folder says, ``shared`` for a
                plain folder of transformers. A head that the folder lacks starts as the identity, a
                second head as a copy of the first.
            point_prompt: What is put before texts of points; default the prompt ``query`` of the
                folder, else its default prompt, else nothing.
            label_prompt: The same for labels: ``document``, ``passage`` or ``corpus``.

        Raises:
            ValueError: This class cannot represent the modules of the folder, or `head` would drop
                a head that the folder has.
            OSError: There is no such folder, and no such model on the hub, or it cannot be reached.
        """
        folder = pretrained.find(name)
        listed = modules.read_modules(folder)
        described = listed or Modules()
        transformer, tokenizer = pretrained.open_transformer(
            folder / described.transformer, lowercase=described.lowercase
        )
        prompts = Prompts(
            described.prompts.point if point_prompt is None else point_prompt,
            described.prompts.label if label_prompt is None else label_prompt,
        )
        if any(prompts) and not described.pools_prompts:
            raise ValueError(
                f"{name}: leaves the tokens of a prompt out of its pooling, which cannot be "
                "represented; give empty prompts to go without"
            )
        if described.unused_prompts and point_prompt is None and label_prompt is None:
            names = ", ".join(described.unused_prompts)
            console.say(
                f"note: {name} has prompts for {names}, none for points (query) or labels "
                "(document): none is used"
            )
        limit = pretrained.token_limit(transformer, tokenizer)
        return cls(
            transformer,
            tokenizer,
            pooling=pooling or described.pooling,
            normalize=described.normalize if normalize is None else normalize,
            heads=_heads(name, described, head or described.head, transformer.config.hidden_size),
            max_tokens=described.max_tokens or (limit if listed and limit < 1 << 20 else None),
            prompts=prompts,
        )

    def save(
        self, folder: Path, *, max_tokens: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Write a folder that this class and sentence-transformers open (safetensors, JSON).

        Args:
            folder: Created if it does not exist.
            max_tokens: Most tokens of a text, for whoever opens the folder.
            facts: Contents of the model card, see `dexml.encoder.card.write_card`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.backend_tokenizer.no_truncation()
        with pretrained.hushed():
            self.transformer.save_pretrained(str(folder))
            self.tokenizer.save_pretrained(str(folder))
        max_tokens = min(max_tokens, pretrained.token_limit(self.transformer, self.tokenizer))
        modules.write_modules(
            folder,
            [weight.detach().cpu().numpy() for weight in self.head_parameters()],
            width=self.width,
            pooling=self.pooling,
            normalize=self.normalize,
            max_tokens=max_tokens,
            prompts=self.prompts,
        )
        card.write_card(folder, self.card_facts(max_tokens) | dict(facts or {}))

    def card_facts(self, max_tokens: int) -> dict[str, Any]:
        """Return what `dexml.encoder.card.write_card` says of the encoder itself."""
        return {
            "dim": self.dim,
            "max_tokens": min(max_tokens, pretrained.token_limit(self.transformer, self.tokenizer)),
            "normalize": self.normalize,
            "pooling": self.pooling,
            "heads": self.heads,
            "prompts": self.prompts,
        }

    def tokenize(
        self,
        texts: Sequence[str],
        max_tokens: int,
        *,
        side: Side = "point",
        cache: Path | None = None,
        progress: bool = False,
    ) -> Tokens:
        """Tokenise texts behind the prompt of their side, and cut them to the model's limit too.

        Arguments and errors are those of `dexml.text.tokenize`. `side` is ``point`` or ``label``;
        it matters only if the prompts differ.
        """
        forked.settle(self.device)
        limit = min(max_tokens, pretrained.token_limit(self.transformer, self.tokenizer))
        prompt = self.prompts.of(side)
        return tokenize(self.tokenizer, texts, limit, prompt=prompt, cache=cache, progress=progress)

    def features(self, ids: Tensor) -> Tensor:
        """Return features (B, H), float32, of token ids (B, T) without padding, before the head."""
        forked.settle(ids.device)
        return self._pooled(self.transformer(input_ids=ids).last_hidden_state)

    def lower(self, ids: Tensor, n: int) -> Tensor:
        """Return hidden states (B, T, H) of token ids (B, T) below the last `n` blocks.

        In eval mode ``upper(lower(ids, n), n)`` equals ``features(ids)`` to the bit. In training
        mode the dropout of the lower blocks is on.

        Raises:
            ValueError: `n` is not in 1..depth, or this kind of model cannot be split here.
        """
        forked.settle(ids.device)
        return layers.lower(self.transformer, ids, n)

    def upper(self, hidden: Tensor, n: int) -> Tensor:
        """Return features (B, H) from the states (B, T, H) of `lower` for the same `n`."""
        forked.settle(hidden.device)
        return self._pooled(layers.upper(self.transformer, hidden, n))

    def features_packed(self, ids_T: Tensor, lengths_B: Tensor) -> Tensor:
        """Return features (B, H) of texts of any lengths.

        Arguments and errors are those of `dexml.encoder.attention.packed_states`.
        """
        forked.settle(ids_T.device)
        states = attention.packed_states(self.transformer, ids_T, lengths_B)
        pooled = attention.pooled(states.float(), lengths_B, self.pooling)
        return to_unit(pooled, dim=1) if self.normalize else pooled

    def _pooled(self, states_BTH: Tensor) -> Tensor:
        first = self.pooling == "cls"
        pooled = states_BTH[:, 0].float() if first else states_BTH.float().mean(dim=1)
        return to_unit(pooled, dim=1) if self.normalize else pooled

    def project(self, features: Tensor, side: Side = "point") -> Tensor:
        """Apply the head of a side to features (B, H); the result (B, D) is not normalised."""
        if side not in ("point", "label"):
            raise ValueError(f"side {side!r}: expected point or label")
        forked.settle(features.device)
        head = self.head if side == "point" or self.label_head is None else self.label_head
        projected: Tensor = head(features)
        return projected

    def forward(self, features: Tensor, side: Side = "point") -> Tensor:
        """Return embeddings (B, D) of features (B, H): the head, then unit length if normalised."""
        projected = self.project(features, side)
        # Without a head the features have their length already.
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
        """Return features (N, H), float32, of tokenised texts in their order, without dropout.

        With an `engine`, its form takes the place of `precision`. The bar counts tokens: batches
        come longest first, and the time that is left would shrink if it counted texts.
        """
        lengths = tokens.lengths
        with console.bar(
            total=int(lengths.sum()), desc=desc, unit="token", unit_scale=True, disable=not progress
        ) as bar:
            if self.engine is not None:
                return self.engine.features(tokens, lambda rows: bar.update(lengths[rows].sum()))
            return self._features_of(tokens, precision, bar)

    def _features_of(self, tokens: Tokens, precision: Precision, bar: Any) -> NDArray[np.float32]:
        was_training, lengths = self.training, tokens.lengths
        self.eval()
        out = np.empty((len(tokens), self.width), np.float32)
        device = self.device
        budget = CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        for rows in tokens.batches(budget):
            with autocast(device, precision):
                features = self.features(tokens.tensor(rows, device))
            out[rows] = features.cpu().numpy()
            bar.update(len(rows) * int(lengths[rows[0]]))
        self.train(was_training)
        return out

    @torch.inference_mode()
    def embed(self, features: NDArray[np.float32], side: Side = "point") -> NDArray[np.float32]:
        """Return embeddings (N, D), float32, of features (N, H), computed in blocks."""
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
            side: ``point`` or ``label``; they differ with two heads, or two prompts.
            max_tokens: Most tokens of a text; default as the folder says, else 64.
            progress: Show a bar.
            precision: See `autocast`.

        Returns:
            Vectors of shape (n, D), float32, of unit length if the encoder normalises. The score of
            a point and a label is their dot product. In a trained run, labels have more than their
            text: see `dexml.encoder.LabelTable`.
        """
        limit = max_tokens or self.max_tokens
        tokens = self.tokenize(texts, limit, side=side, progress=progress)
        features = self.encode_features(tokens, progress=progress, precision=precision)
        return self.embed(features, side)


def compiled(encoder: DualEncoder, *, backend: str = "inductor") -> DualEncoder:
    """Compile the transformer blocks of `encoder` in place with `torch.compile`; return it."""
    layers.compile_blocks(encoder.transformer, backend)
    return encoder


def _heads(name: str, described: Modules, wanted: HeadKind, width: int) -> list[Tensor]:
    """Return head matrices of the kind `wanted`, starting from those of the folder."""
    if wanted not in HEADS:
        raise ValueError(f"head {wanted!r}: expected {', '.join(HEADS)}")
    if HEADS.index(wanted) < len(described.weights):
        raise ValueError(
            f"{name}: has {len(described.weights)} head matrices, which head = {wanted} would "
            f"drop; give {described.head}"
        )
    if wanted == "none":
        return []
    weights = [torch.from_numpy(weight) for weight in described.weights] or [torch.eye(width)]
    return [weights[0], weights[-1]] if wanted == "two" else weights


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        linear.weight.copy_(weight)
    return linear


def _blocks(features: NDArray[np.float32], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(features), 65_536):
        yield torch.from_numpy(features[start : start + 65_536]).to(device)
