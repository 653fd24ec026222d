"""The dense scorer: the dot product of a text's embedding and a label's vector.

A label's vector is ``normalise(A z + r)`` with the features z of its text, the label head A and
the residual r that training added (`dexml.encoder.LabelTable`). Search vectors have one more
dimension: a label's holds its bias, a text's holds 1. A label added after the training has the
residual 0 and the bias of a label without training points.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.index import EXACT_UP_TO, Hits, LabelIndex
from dexml.run import LabelSet, require
from dexml.run.run import ENCODER
from dexml.scorers.queries import OnProgress, Queries
from dexml.scorers.scorer import Change
from dexml.sealed import Part, Sealed

if TYPE_CHECKING:  # loaded when a text is encoded: many tasks need no encoder
    from dexml.encoder import DualEncoder, LabelTable

Search = Literal["auto", "exact", "hnsw"]
Precision = Literal["auto", "float32", "bfloat16"]
INDEX = "index/"
VECTORS, QUERIES, TABLE = "dense/vectors", "dense/queries", "dense/table"
"""Roles of the label vectors and the queries that training leaves, and of the label table."""
_FACTS: dict[str, Any] = {
    "dim": int,
    "point_tokens": int,
    "label_tokens": int,
    "temperature": int | float,
    "prior": int | float,
    "unseen_bias": int | float,
}


class Embedder:
    """The encoder of a run, loaded when the first text comes; safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        """Remember what to load.

        Args:
            folder: The encoder's folder.
            device: Where it computes: ``cpu``, ``cuda``, ``cuda:1``; auto takes CUDA if there is
                one.
            threads: CPU threads of torch, a setting of the whole process; default: as it is.
            precision: Of the transformer; auto: bfloat16 on CUDA, else float32.

        Raises:
            ValueError: An unknown precision.
        """
        if precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ValueError(f"precision = {precision!r}; expected one of {known}")
        self._folder, self._device, self._threads = folder, device, threads
        self._precision = precision
        self._encoder: DualEncoder | None = None
        self._loading = Lock()
        # Length and padding are state of the tokenizer, and changing them while another thread
        # tokenises raises "Already borrowed"; a text takes 0.05 ms of some 10 ms here.
        self._tokenizing = Lock()

    @property
    def encoder(self) -> DualEncoder:
        """The encoder, in eval mode on its device."""
        with self._loading:
            if self._encoder is None:
                import torch

                from dexml.encoder import DualEncoder, torch_device

                target = torch_device(self._device)
                if self._threads is not None:
                    torch.set_num_threads(self._threads)
                self._encoder = DualEncoder.load(str(self._folder)).to(target).eval()
            return self._encoder

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """Of the transformer; bfloat16 on a CPU was measured 1.5 times slower."""
        if self._precision == "auto":
            return "bfloat16" if self.encoder.device.type == "cuda" else "float32"
        return self._precision

    def points(self, queries: Queries, max_tokens: int) -> NDArray[np.float32]:
        """Vectors (n, D + 1) to search with; the last dimension is 1, which meets a label's bias.

        Texts that were embedded for another scorer are not embedded again.
        """
        return queries.once(
            (self, "points", max_tokens),
            lambda asked: self._encode(asked.texts, max_tokens, None, asked.on_progress),
        )

    def labels(
        self,
        texts: list[str],
        max_tokens: int,
        residual: NDArray[np.float32],
        bias: NDArray[np.float32] | float,
        on_progress: OnProgress | None = None,
    ) -> NDArray[np.float32]:
        """Vectors (n, D + 1) to search in.

        Args:
            texts: Texts of labels.
            max_tokens: Tokens of a text at most.
            residual: What training added to each, shape (n, D); 0 for a new label.
            bias: The last dimension, shape (n,) or one for all.
            on_progress: Called with the number of texts whenever some more are done.
        """
        import torch

        from dexml.encoder import LabelTable

        table = LabelTable(torch.zeros(len(texts), dtype=torch.int64), self.encoder.dim)
        with torch.no_grad():
            table.residual.copy_(torch.from_numpy(residual))
        vectors = self._encode(texts, max_tokens, table, on_progress)
        vectors[:, -1] = bias
        return vectors

    def _encode(
        self,
        texts: list[str],
        max_tokens: int,
        table: LabelTable | None,
        on_progress: OnProgress | None,
    ) -> NDArray[np.float32]:
        """The loop of `DualEncoder.encode` without what touches the encoder's state."""
        import torch

        from dexml.encoder import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS

        encoder, device = self.encoder, self.encoder.device
        budget = GPU_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS
        half = self.precision == "bfloat16"
        with torch.inference_mode():
            with self._tokenizing:
                tokens = encoder.tokenize(texts, max_tokens)
            table = None if table is None else table.to(device)
            out = np.ones((len(texts), encoder.dim + 1), np.float32)
            for rows in tokens.batches(budget):
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    features = encoder.features(tokens.tensor(rows, device))
                features = features.float()
                if table is None:
                    vectors = encoder(features, side="point")
                else:
                    vectors = table(encoder, features, rows)
                out[rows, :-1] = vectors.cpu().numpy()
                if on_progress is not None:
                    on_progress(len(rows))
        return out


@dataclass(frozen=True)
class DenseScorer:
    """Label vectors in an index, and the encoder that makes vectors of texts."""

    embedder: Embedder
    index: LabelIndex
    settings: Mapping[str, Any]
    """Of the run's manifest: tokens of a text, bias of unseen labels, and more."""
    trained: Sealed
    """Where the residuals are."""
    how: Search = "auto"

    @classmethod
    def restore(
        cls,
        state: Sealed,
        labels: LabelSet,
        embedder: Embedder,
        *,
        search: Search = "auto",
        exact_up_to: int = EXACT_UP_TO,
    ) -> DenseScorer:
        """Open the dense scorer of a run whose bytes were checked.

        A run without an index is searched exactly.

        Args:
            state: The run.
            labels: Its labels.
            embedder: Its encoder.
            search: ``exact``, ``hnsw``, or ``auto``: exact up to `exact_up_to` labels or where
                there is no graph.
            exact_up_to: See `search`.

        Raises:
            FileNotFoundError: `search` is ``hnsw``, but there is no index.
            ValueError: The parts do not fit together, or `search` is ``hnsw`` without a graph.
        """
        if search not in get_args(Search):
            raise ValueError(f"search = {search!r}; expected one of {', '.join(get_args(Search))}")
        settings = require(state, "dense", _FACTS)
        folder = state.folder
        if "index" in state.facts:
            index = LabelIndex.restore(state, require(state, "index", {}), INDEX)
            if search == "hnsw" and index.facts.kind != "hnsw":
                raise ValueError(
                    f"{folder}: the index has no graph; python -m dexml.index {folder} "
                    "--search hnsw builds one"
                )
        elif search == "hnsw":
            raise FileNotFoundError(f"{folder}: no index; run python -m dexml.index {folder}")
        else:
            index = LabelIndex.build(trained_vectors(state), search="exact")
        if index.facts.dim != settings["dim"] + 1 or not np.array_equal(index.alive, labels.alive):
            raise state.damaged(
                f"{index.n_labels} vectors of {index.facts.dim} dimensions for {len(labels)} "
                f"labels of {settings['dim'] + 1}"
            )
        if search == "auto" and index.facts.n_alive <= exact_up_to:
            search = "exact"
        return cls(embedder, index, settings, state, search)

    @property
    def dim(self) -> int:
        """D, the number of dimensions of an embedding."""
        return int(self.settings["dim"])

    def vectors(self, queries: Queries) -> NDArray[np.float32]:
        """Vectors (n, D + 1) of texts to search with."""
        return self.embedder.points(queries, self.settings["point_tokens"])

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels of each text."""
        vectors = self.vectors(queries)
        return self.index.search(vectors, k, exclude=exclude, only=only, search=self.how)

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text; -inf for padding and removed labels."""
        return self.index.score_pairs(self.vectors(queries), ids)

    def update(self, change: Change) -> DenseScorer:
        """This scorer after an edit of the labels; points change nothing here."""
        if not (len(change.added) or len(change.removed) or len(change.updated)):
            return self
        index, texts = copy(self.index), change.labels.texts
        tokens = self.settings["label_tokens"]
        if len(change.added):
            new = [texts[i] for i in change.added]
            residual = np.zeros((len(new), self.dim), np.float32)
            bias = self.settings["unseen_bias"]
            vectors = self.embedder.labels(new, tokens, residual, bias, change.on_progress)
            index.add_labels(vectors)
        if len(change.removed):
            index.remove_labels(change.removed)
        if len(change.updated):
            ids = change.updated
            vectors = self.embedder.labels(
                [texts[i] for i in ids],
                tokens,
                self._residual(ids, change.labels.n_trained),
                index.vectors[ids, -1],
                change.on_progress,
            )
            index.update_labels(ids, vectors)
        return replace(self, index=index)

    def _residual(self, ids: NDArray[np.int64], n_trained: int) -> NDArray[np.float32]:
        """What training added to the texts of labels, (n, D); 0 for those added later."""
        rows = np.zeros((len(ids), self.dim), np.float32)
        trained = ids < n_trained
        if trained.any():
            rows[trained] = read_residual(self.trained, n_trained, self.dim)[ids[trained]]
        return rows

    def facts(self) -> dict[str, Any]:
        """Settings of the dense scorer, and of its index."""
        return {"dense": dict(self.settings), "index": self.index.facts.as_json()}

    def parts(self) -> dict[str, Part]:
        """The index; what training left stays as it is."""
        return self.index.parts(INDEX)

    def fingerprint(self) -> dict[str, Any]:
        """How it encodes; `note` says how it searches."""
        return {
            "device": self.embedder.encoder.device.type,
            "precision": self.embedder.precision,
        }

    def note(self, k: int) -> str:
        """Say how k labels a text are searched, and how well."""
        facts, known = self.index.facts, self.index.recall_for(k)
        exact = f"exact, {facts.n_alive} labels"
        if self.how == "exact" or facts.kind == "exact":
            return exact
        if self.how == "auto" and self.index.search_for(k) == "exact":
            return f"{exact} (the graph does not find enough for k = {k})"
        hnsw = f"HNSW, {facts.n_alive} labels"
        if known is None:
            return f"{hnsw}, recall not known for k = {k} (--search exact compares all)"
        return (
            f"{hnsw}, recall@{known.k} {known.recall:.4f} against exact search when it was "
            "measured (--search exact compares all)"
        )


def trained_vectors(state: Sealed) -> NDArray[np.float32]:
    """Search vectors (L, D + 1) of the labels at the end of the training, mapped into memory."""
    dim = require(state, "dense", _FACTS)["dim"]
    n = require(state, "labels", {"n_trained": int})["n_trained"]
    return state.array(VECTORS, np.float32, (n, dim + 1), mmap_mode="r")


def kept_queries(state: Sealed) -> NDArray[np.float32]:
    """Points (n, D + 1) that training kept to measure the recall of an index with."""
    dim = require(state, "dense", _FACTS)["dim"]
    return state.array(QUERIES, np.float32, (None, dim + 1))


def read_residual(state: Sealed, n_labels: int, dim: int) -> NDArray[np.float32]:
    """What training added to the text of each label, (n_labels, D); 0 for unseen labels."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = state.check(TABLE)
    try:
        residual: NDArray[np.float32] = load_file(path)["residual"]
    except (SafetensorError, KeyError) as error:
        raise state.damaged(str(error), path) from None
    if residual.shape != (n_labels, dim):
        raise state.damaged(f"residual {residual.shape}, expected {(n_labels, dim)}", path)
    return residual


def encoder_folder(state: Sealed) -> Path:
    """The encoder's folder of a run."""
    return state.folder / ENCODER
