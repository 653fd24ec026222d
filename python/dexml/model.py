"""The shared text encoder of points and labels, and the table of what each label adds to it.

Knows torch, transformers and `dexml.pretrained`, and nothing of the rest of dexml.
Shapes: B texts of a batch, T tokens, N texts, L labels, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from dexml import pretrained

MAX_TOKENS = 64
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 65536
"""Tokens of an encoding batch: what keeps a core or a GPU busy; more only costs memory."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts, one after the other; text i: ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def batches(self, max_tokens: int, rows: NDArray[np.int64] | None = None) -> list[NDArray[Any]]:
        """Cut texts into batches of **one exact length** each: no padding, no mask.

        Args:
            max_tokens: Tokens a batch, at least one text.
            rows: The texts wanted; default all.

        Returns:
            Row numbers of each batch, longest texts first.
        """
        rows = np.arange(len(self)) if rows is None else rows
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        order = np.argsort(-lengths, kind="stable")
        cuts = np.flatnonzero(np.diff(lengths[order])) + 1
        out = []
        for run in np.split(order, cuts):
            size = max(1, max_tokens // int(lengths[run[0]])) if len(run) else 1
            out += [rows[run[start : start + size]] for start in range(0, len(run), size)]
        return out

    def select(self, rows: NDArray[np.int64]) -> Tokens:
        """The texts `rows`, in that order."""
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shift = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Tokens(self.ids[np.arange(offsets[-1]) + shift], offsets)

    def tensor(self, rows: NDArray[Any], device: torch.device) -> Tensor:
        """Token ids (B, T) of texts that have one length."""
        length = int(self.offsets[rows[0] + 1] - self.offsets[rows[0]])
        ids = self.ids[self.offsets[rows][:, None] + np.arange(length)]
        return torch.from_numpy(ids.astype(np.int64)).to(device)


class DualEncoder(nn.Module):
    """One text encoder for points and labels: transformer, pooling, linear head, unit norm.

    ``encode`` gives what the model was trained with; its folder opens with
    sentence-transformers as well (Transformer, Pooling, Normalize, Dense, Normalize).
    """

    def __init__(
        self,
        transformer: Any,
        tokenizer: Any,
        *,
        pooling: Literal["mean", "cls"] = "mean",
        head: Tensor | None = None,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.max_tokens = max_tokens or MAX_TOKENS
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.pooling = pooling
        width = int(transformer.config.hidden_size)
        self.head = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(width) if head is None else head)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def dim(self) -> int:
        """D, the number of dimensions of an embedding."""
        return int(self.head.out_features)

    @classmethod
    def load(cls, name: str) -> DualEncoder:
        """Open a folder (of `save`, sentence-transformers or transformers) or a hub name.

        Weights are read from safetensors only, in float32. The packaged all-MiniLM-L6-v2 of the
        extra ``demo`` is used where its hub name is given and the package is installed.

        Raises:
            ValueError: The folder holds modules that this class cannot represent.
            OSError: Neither a folder nor a model of the hub that can be reached.
        """
        from transformers import AutoModel, AutoTokenizer

        folder = pretrained.find(name)
        found = pretrained.read_modules(folder)
        with pretrained.hushed():
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            if not tokenizer.is_fast:
                raise ValueError(f"{name}: its tokenizer has no fast form (tokenizer.json)")
            if not tokenizer.backend_tokenizer.encode("").ids:
                raise ValueError(f"{name}: its tokenizer makes nothing of an empty text")
            try:
                transformer = AutoModel.from_pretrained(
                    str(folder), dtype=torch.float32, use_safetensors=True
                )
            except SafetensorError as error:
                raise ValueError(f"{folder}: damaged weights ({error})") from None
        # A pooler would be random weights in models that ship none, and it is never used here.
        if getattr(transformer, "pooler", None) is not None:
            transformer.pooler = None
        return cls(
            transformer,
            tokenizer,
            pooling=found.pooling,
            head=found.head,
            max_tokens=found.max_tokens,
        )

    def save(self, folder: Path, *, max_tokens: int) -> None:
        """Write a folder that this class and sentence-transformers open (safetensors, JSON)."""
        folder.mkdir(parents=True, exist_ok=True)
        with pretrained.hushed():
            self.transformer.save_pretrained(str(folder))
            self.tokenizer.save_pretrained(str(folder))
        pretrained.write_modules(
            folder, self.head.weight.detach().cpu(), self.pooling, max_tokens=max_tokens
        )

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> Tokens:
        """Tokenise texts, special tokens included, cut to `max_tokens` and the model's limit."""
        limit = int(getattr(self.transformer.config, "max_position_embeddings", max_tokens))
        embeddings = getattr(self.transformer, "embeddings", None)
        padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
        if padding is not None:  # RoBERTa and its kin count positions from behind the padding id
            limit -= padding + 1
        limit = min(max_tokens, limit, self.tokenizer.model_max_length)
        backend = self.tokenizer.backend_tokenizer
        # Some tokenizer.json files carry a padding and a truncation of their own.
        backend.no_padding()
        backend.enable_truncation(max_length=limit)
        ids, lengths = [np.zeros(0, np.int32)], [0]
        for start in range(0, len(texts), 10_000):  # encodings are large: keep few alive
            for encoding in backend.encode_batch(list(texts[start : start + 10_000])):
                ids.append(np.asarray(encoding.ids, np.int32))
                lengths.append(len(encoding.ids))
        return Tokens(np.concatenate(ids), np.cumsum(lengths, dtype=np.int64))

    def features(self, ids: Tensor) -> Tensor:
        """Pooled, normalised states (B, D) of token ids (B, T) without padding; no head yet."""
        states_BTD = self.transformer(input_ids=ids).last_hidden_state
        pooled = states_BTD[:, 0] if self.pooling == "cls" else states_BTD.mean(dim=1)
        return normalize(pooled.float(), dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (B, D) of features (B, D): head and unit norm."""
        return normalize(self.head(features), dim=1)

    @torch.inference_mode()
    def encode_features(
        self, tokens: Tokens, *, desc: str = "encoding", progress: bool = False
    ) -> NDArray[np.float32]:
        """Features (N, D) of tokenised texts, float32, in their order."""
        was_training = self.training
        self.eval()
        out = np.empty((len(tokens), self.head.in_features), np.float32)
        budget = CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS
        with tqdm(total=len(tokens), desc=desc, unit="text", disable=not progress) as bar:
            for rows in tokens.batches(budget):
                with autocast(self.device):
                    features = self.features(tokens.tensor(rows, self.device))
                out[rows] = features.cpu().numpy()
                bar.update(len(rows))
        self.train(was_training)
        return out

    @torch.inference_mode()
    def embed(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (N, D) of features (N, D), in blocks."""
        out = np.empty((len(features), self.dim), np.float32)
        start = 0
        for block in _blocks(features, self.device):
            out[start : start + len(block)] = self(block).cpu().numpy()
            start += len(block)
        return out

    def encode(
        self, texts: Sequence[str], *, max_tokens: int | None = None, progress: bool = False
    ) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: The texts.
            max_tokens: Tokens of a text at most; default: as the folder says, else 64.
            progress: Show a bar.

        Returns:
            Unit vectors, shape (n, D), float32. The score of a point and a label is their dot
            product (labels of a trained run have more: see `LabelTable`).
        """
        tokens = self.tokenize(texts, max_tokens or self.max_tokens)
        return self.embed(self.encode_features(tokens, progress=progress))


class LabelTable(nn.Module):
    """What is known of single labels beyond their text: a residual vector and a bias each.

    Label vector = normalise(head(features) + residual). A label that training never saw keeps
    the residual 0, so its text alone speaks, and is served with the bias of a rare label.
    """

    counts: Tensor

    def __init__(self, counts: Tensor, dim: int) -> None:
        """Start at 0. `counts`: training points of each label, shape (L,), int64."""
        super().__init__()
        self.residual = nn.Parameter(torch.zeros(len(counts), dim))
        self.bias = nn.Parameter(torch.zeros(len(counts)))
        self.register_buffer("counts", counts, persistent=False)
        self.residual.register_hook(lambda grad: grad * (self.counts > 0).unsqueeze(1))

    def start_at_centroids(self, features: NDArray[np.float32], y: Any, shrink: float) -> None:
        """Start residuals at n/(n + shrink) of the unit centroid of each label's points.

        Args:
            features: Features of the points, shape (N, D).
            y: Their labels, scipy CSR (N, L).
            shrink: Points at which the centroid counts half; few points say little.
        """
        sums = torch.from_numpy((y > 0).astype(np.float32).T @ features).to(self.residual.device)
        weight = self.counts / (self.counts + shrink)
        with torch.no_grad():
            self.residual.copy_(normalize(sums, dim=1) * weight.unsqueeze(1))

    def forward(self, encoder: DualEncoder, features: Tensor, rows: Any = slice(None)) -> Tensor:
        """Label vectors (B, D) of the labels `rows`, whose text features are given."""
        return normalize(encoder.head(features) + self.residual[rows], dim=1)

    def served_bias(self, prior: float) -> Tensor:
        """The bias (L,) to search with: the trained one + prior x log(1 + count).

        Unseen labels take the mean of the rarest seen ones in place of their own, which training
        has only ever pushed down.
        """
        bias = self.bias.detach()
        seen = self.counts > 0
        if bool(seen.any()):
            rarest = self.counts == self.counts[seen].min()
            bias = torch.where(seen, bias, bias[rarest].mean())
        return bias + prior * torch.log1p(self.counts)

    @torch.inference_mode()
    def vectors(
        self,
        encoder: DualEncoder,
        features: NDArray[np.float32],
        temperature: float,
        prior: float = 0.0,
    ) -> NDArray[np.float32]:
        """Search vectors (L, D + 1): the last dimension is temperature x bias, a point's is 1."""
        out = np.empty((len(features), encoder.dim + 1), np.float32)
        start = 0
        for block in _blocks(features, encoder.device):
            rows = slice(start, start + len(block))
            out[rows, :-1] = self(encoder, block, rows).cpu().numpy()
            start += len(block)
        out[:, -1] = temperature * self.served_bias(prior).cpu().numpy()
        return out


def with_bias_dimension(point_emb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Append the constant 1 that meets the bias of a label: (N, D) -> (N, D + 1)."""
    return np.concatenate([point_emb, np.ones((len(point_emb), 1), np.float32)], axis=1)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for the transformer on CUDA, float32 on a CPU (measured 1.5x slower in bf16)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def upper_layers(transformer: nn.Module, n: int) -> list[nn.Module]:
    """Return the last `n` transformer blocks; all parameters where there are no more than `n`."""
    depth = int(transformer.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    if n >= depth:
        return [transformer]
    for module in transformer.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module[-n:])
    raise ValueError(f"{type(transformer).__name__}: no list of {depth} layers found in it")


def torch_device(name: str) -> torch.device:
    """Return the device `name`; ``auto`` is CUDA where there is one.

    Raises:
        ValueError: Not a device of this machine.
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


def _blocks(features: NDArray[np.float32], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(features), 65_536):
        yield torch.from_numpy(features[start : start + 65_536]).to(device)
