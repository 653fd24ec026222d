"""The dense scorer: the dot product of a text's embedding and a label's vector.

A label's vector is ``normalise(A z + r)`` with the features z of its text, the label head A and
the residual r that training added (`dexml.encoder.LabelTable`). Search vectors have one more
dimension: a label's holds its bias, a text's holds 1. A label added after the training has
residual 0 and the bias of a label without training points.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.index import EXACT_UP_TO, Hits, LabelIndex
from dexml.run import LabelSet, require
from dexml.run.run import ENCODER
from dexml.scorers.embedder import Embedder
from dexml.scorers.meanings import Group, Meaning, Terms
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change
from dexml.sealed import Part, Sealed
from dexml.text.lexical import Also

Search = Literal["auto", "exact", "hnsw"]
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


@dataclass(frozen=True, eq=False)
class DenseScorer:
    """Label vectors in an index, and the encoder that makes vectors of texts.

    Attributes:
        embedder: The encoder.
        index: The label vectors. It belongs to this scorer alone: edit the scorer, not the index.
        settings: Section ``dense`` of the manifest: tokens of a text, bias of unseen labels, ...
        trained: The run as it was opened; the residuals are read from it when they are needed.
        how: How the index is searched.
    """

    embedder: Embedder
    index: LabelIndex
    settings: Mapping[str, Any]
    trained: Sealed
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

        Without an index, the label vectors of the training are searched exactly.

        Args:
            state: The run.
            labels: Its labels.
            embedder: Its encoder.
            search: ``exact``, ``hnsw``, or ``auto``: exact if there is no graph, or if there are
                at most `exact_up_to` labels; else the graph where its recall is known to suffice.
            exact_up_to: See `search`.

        Raises:
            FileNotFoundError: `search` is ``hnsw``, but there is no index.
            ValueError: `search` is ``hnsw`` for an index without a graph; or the parts do not fit
                together.
        """
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
        if (index.n_labels, index.facts.dim) != (len(labels), settings["dim"] + 1):
            raise state.damaged(
                f"{index.n_labels} vectors of {index.facts.dim} dimensions for {len(labels)} "
                f"labels of {settings['dim'] + 1}"
            )
        if not np.array_equal(index.alive, labels.alive):
            raise state.damaged("index and labels disagree on which labels were removed")
        if search == "auto" and index.facts.n_alive <= exact_up_to:
            search = "exact"
        return cls(embedder, index, settings, state, search)

    @property
    def dim(self) -> int:
        """D, the number of dimensions of an embedding."""
        return int(self.settings["dim"])

    def vectors(self, queries: Queries) -> NDArray[np.float32]:
        """Embed texts to search with, shape (n, D + 1)."""
        return self.embedder.points(queries, self.settings["point_tokens"])

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        also: Also | None = None,
    ) -> Hits:
        """Find the k best labels of each text; `also`: as in `LabelIndex.search`."""
        vectors = self.vectors(queries)
        return self.index.search(vectors, k, exclude=exclude, only=only, search=self.how, also=also)

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text, to the bit as `search` does.

        -inf for padding and removed labels.
        """
        return self.index.score_pairs(self.vectors(queries), ids)

    def probabilities(
        self, queries: Queries, ids: NDArray[np.integer[Any]], labels: LabelSet
    ) -> NDArray[np.float32]:
        """Return the probability that each label is right, as training with bce saw it.

        The sigmoid of the score without what was added to it for the ranking: the frequency prior
        is taken out of the bias, and votes are no part of this scorer. A label without training
        points has the probability of one with few.

        Args:
            queries: The texts.
            ids: Label ids of each text, (n, m), padded with -1.
            labels: The labels of this moment.

        Returns:
            Shape (n, m), float32; 0 for padding and removed labels.

        Raises:
            ValueError: The run was not trained with bce over all labels to the end.
        """
        if "offset" not in self.settings:
            raise ValueError(
                f"{self.trained.folder}: its scores give no probabilities; that takes a training "
                "that ends with --loss bce over all labels"
            )
        scores = self.score_pairs(queries, ids).astype(np.float64)
        counts = labels.counts[np.maximum(ids, 0)]
        logits = scores / self.settings["temperature"] - self.settings["prior"] * np.log1p(counts)
        with np.errstate(over="ignore"):  # of -inf: the probability is 0
            found = 1 / (1 + np.exp(-(logits + self.settings["offset"])))
        return np.asarray(found, np.float32)

    def meanings(self) -> dict[str, Meaning]:
        """Return what the evidence means."""
        return {
            "cosine": Meaning(Group.DENSE, "cosine of the text's and the label's embeddings"),
            "bias": Meaning(Group.DENSE, "what training learned of the label whatever the text"),
        }

    def terms(self, queries: Queries, ids: NDArray[np.int32]) -> Terms:
        """Return the cosine and the bias, whose sum is the score."""
        bias = np.asarray(self.index.vectors[ids, -1], np.float32)
        return {"cosine": (1.0, self.score_pairs(queries, ids) - bias), "bias": (1.0, bias)}

    def update(self, change: Change) -> DenseScorer:
        """Return this scorer after an edit of the labels; new points change nothing here."""
        return change.once(self, lambda: self._after(change))

    def _after(self, change: Change) -> DenseScorer:
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
        """Read what training added to the texts of labels, (n, D); 0 for those added later."""
        rows = np.zeros((len(ids), self.dim), np.float32)
        trained = ids < n_trained
        if trained.any():
            rows[trained] = read_residual(self.trained, n_trained, self.dim)[ids[trained]]
        return rows

    def facts(self) -> dict[str, Any]:
        """Return the settings of the dense scorer, and those of its index."""
        return {"dense": dict(self.settings), "index": self.index.facts.as_json()}

    def parts(self) -> dict[str, Part]:
        """Return the files of the index; what training left is never written again."""
        return self.index.parts(INDEX)

    def fingerprint(self) -> dict[str, Any]:
        """Return how texts are encoded; `note` says how the index is searched."""
        return {
            "device": self.embedder.device,
            "precision": self.embedder.precision,
            "engine": self.embedder.engine,
        }

    def is_exact(self, k: int) -> bool:
        """Whether a search for k labels compares all of them."""
        chosen = self.index.search_for(k) if self.how == "auto" else self.how
        return chosen == "exact" or self.index.facts.kind == "exact"

    def note(self, k: int) -> str:
        """Say how k labels a text are found, and how well."""
        facts, known = self.index.facts, self.index.recall_for(k)
        exact = f"exact, {facts.n_alive} labels"
        if self.how == "exact" or facts.kind == "exact":
            return exact
        if self.is_exact(k):
            return f"{exact} (the graph does not find enough for k = {k})"
        hnsw = f"HNSW, {facts.n_alive} labels"
        if known is None:
            return f"{hnsw}, recall not known for k = {k} (--search exact compares all)"
        return (
            f"{hnsw}, recall@{known.k} {known.recall:.4f} against exact search when it was "
            "measured (--search exact compares all)"
        )


def trained_vectors(state: Sealed) -> NDArray[np.float32]:
    """Map the search vectors (L, D + 1) that the labels had at the end of the training."""
    dim = require(state, "dense", _FACTS)["dim"]
    n = require(state, "labels", {"n_trained": int})["n_trained"]
    return state.array(VECTORS, np.float32, (n, dim + 1), mmap_mode="r")


def kept_queries(state: Sealed) -> NDArray[np.float32]:
    """Read the points (n, D + 1) that training kept to measure the recall of an index with."""
    dim = require(state, "dense", _FACTS)["dim"]
    return state.array(QUERIES, np.float32, (None, dim + 1))


def read_residual(state: Sealed, n_labels: int, dim: int) -> NDArray[np.float32]:
    """Read what training added to the text of each label, (n_labels, D); 0 for unseen labels.

    The file is checked again: the run may have been trained anew since it was opened.
    """
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
    """Return the folder of a run's encoder."""
    return state.folder / ENCODER


def check_encoder(state: Sealed) -> None:
    """Check the files of a run's encoder again, just before they are read without torch.

    The weights that torch reads are large and are left out.

    Raises:
        FileNotFoundError: One is missing.
        ValueError: One is not the file that was saved.
    """
    for role in state.parts:
        weights = role.endswith(".safetensors") and role.count("/") == 1
        if role.startswith(f"{ENCODER}/") and not weights:
            state.check(role)


def engine_facts(state: Sealed) -> dict[str, Any]:
    """Return what training chose to encode with; empty in runs that know nothing of engines."""
    return require(state, "engine", {"name": str, "form": str}) if "engine" in state.facts else {}
