"""A run opened once, to be asked many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.index import EXACT_UP_TO, Found, LabelIndex, exact_search
from dexml.model import DualEncoder, torch_device, with_bias_dimension
from dexml.rundir import Run


@dataclass(frozen=True)
class Predictor:
    """A run opened once, to be asked many times."""

    run: Run
    encoder: DualEncoder
    vectors: NDArray[np.float32]
    index: LabelIndex | None
    label_texts: list[str]

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        search: str = "auto",
        device: str = "auto",
        exact_up_to: int = EXACT_UP_TO,
    ) -> Predictor:
        """Open a run directory.

        Args:
            folder: Made by `dexml.train`.
            search: ``exact``, ``hnsw`` (needs `dexml.index`), or ``auto``: exact up to
                `exact_up_to` labels or without an index.
            device: Of the encoder.
            exact_up_to: Labels up to which ``auto`` compares all of them.
        """
        run = Run.open(folder)
        n_labels = run.info["n_labels"]
        has_index = (folder / "index").is_dir()
        if search == "hnsw" and not has_index:
            raise FileNotFoundError(
                f"{folder / 'index'}: no index; run python -m dexml.index {folder}"
            )
        use_index = search == "hnsw" or (search == "auto" and has_index and n_labels > exact_up_to)
        index = LabelIndex.load(folder / "index", encoder=run.fingerprint()) if use_index else None
        vectors = index.vectors if index else run.load_array("label_emb")
        target = torch_device(device)
        encoder = DualEncoder.load(str(folder / "encoder")).to(target).eval()
        return cls(run, encoder, vectors, index, run.label_texts())

    def search_note(self) -> str:
        """Say how labels are searched, and how well."""
        if self.index is None:
            return f"exact, {len(self.vectors)} labels"
        made = self.index.manifest
        return (
            f"HNSW, {made.n_labels} labels, recall@{made.recall_k} {made.recall:.4f} against exact "
            "search when it was built (--search exact compares all)"
        )

    def predict(self, texts: Sequence[str], k: int = 10, *, exclude: Csr | None = None) -> Found:
        """Find the k best labels of each text.

        Args:
            texts: Points.
            k: Labels a text.
            exclude: Pairs (text, label) to leave out, shape (n, n_labels); k labels remain.

        Returns:
            ``ids`` int32 and ``scores`` float32, (n, k), best first, padded with -1 and -inf.
            A score is the cosine plus the label's bias (times the temperature).
        """
        embedded = self.encoder.encode(texts, max_tokens=self.run.info["point_tokens"])
        queries = with_bias_dimension(embedded)
        if self.index is not None:
            return self.index.search(queries, k, exclude=exclude)
        return exact_search(queries, self.vectors, k, exclude=exclude)
