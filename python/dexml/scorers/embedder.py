"""The encoder of a run as a scorer uses it: loaded late, shared by threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dexml.scorers.queries import OnProgress, Queries

if TYPE_CHECKING:  # torch and transformers are loaded with the first text: some commands need none
    from dexml.encoder import DualEncoder, LabelTable

Precision = Literal["auto", "float32", "bfloat16"]


class KnownVectors:
    """Stands for an embedder where the vectors of all texts that will come are known."""

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors (n, D + 1) of `texts`; equal texts have equal vectors."""
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors

    def points(self, queries: Queries, max_tokens: int) -> NDArray[np.float32]:
        """Look the texts up."""
        return self._vectors[[self._row[text] for text in queries.texts]]


class Embedder:
    """Makes vectors of texts. Loads the encoder for the first one; several threads may use it."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        """Remember what to load; nothing is read yet.

        Args:
            folder: The encoder's folder.
            device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes CUDA if there is one.
            threads: CPU threads of torch, a setting of the whole process; None leaves it alone.
            precision: Of the transformer; ``auto``: bfloat16 on CUDA, else float32.

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
        # Maximal length and padding are state of the tokenizer; changing them while another thread
        # tokenises raises "Already borrowed". The lock costs little: tokenising a text takes
        # 0.05 ms, encoding it some 10 ms.
        self._tokenizing = Lock()

    @property
    def encoder(self) -> DualEncoder:
        """The encoder, in eval mode on its device; the first call loads it."""
        with self._loading:
            if self._encoder is None:
                from dexml.encoder import DualEncoder, torch_device  # names the extra if it must

                target = torch_device(self._device)
                if self._threads is not None:
                    import torch

                    torch.set_num_threads(self._threads)
                self._encoder = DualEncoder.load(str(self._folder)).to(target).eval()
            return self._encoder

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """The precision of the transformer, with ``auto`` resolved."""
        if self._precision == "auto":
            # On a CPU bfloat16 was measured 1.5 times slower than float32.
            return "bfloat16" if self.encoder.device.type == "cuda" else "float32"
        return self._precision

    def points(self, queries: Queries, max_tokens: int) -> NDArray[np.float32]:
        """Embed texts to search with.

        Texts that another scorer has embedded already are not embedded again.

        Args:
            queries: The texts.
            max_tokens: Tokens of a text at most.

        Returns:
            Shape (n, D + 1), float32; the last dimension is 1, which meets a label's bias.
        """
        return queries.once(
            (self, "points", max_tokens),
            lambda: self._encode(queries.texts, max_tokens, None, queries.on_progress),
        )

    def labels(
        self,
        texts: list[str],
        max_tokens: int,
        residual: NDArray[np.float32],
        bias: NDArray[np.float32] | float,
        on_progress: OnProgress | None = None,
    ) -> NDArray[np.float32]:
        """Make vectors of labels to search in.

        Args:
            texts: Texts of labels.
            max_tokens: Tokens of a text at most.
            residual: What training added to each, shape (n, D); 0 for a new label.
            bias: The last dimension, shape (n,) or one for all.
            on_progress: Called with the number of texts whenever some more are done.

        Returns:
            Shape (n, D + 1), float32.
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
        """Encode points, or labels with their `table`.

        The loop of `DualEncoder.encode`, but it leaves alone the state of the encoder that
        threads share. The last dimension stays 1.
        """
        import torch

        from dexml.encoder import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, autocast

        encoder, device = self.encoder, self.encoder.device
        budget = GPU_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS
        with torch.inference_mode():
            with self._tokenizing:
                tokens = encoder.tokenize(texts, max_tokens)
            table = None if table is None else table.to(device)
            out = np.ones((len(texts), encoder.dim + 1), np.float32)
            for rows in tokens.batches(budget):
                with autocast(device, self.precision):
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
