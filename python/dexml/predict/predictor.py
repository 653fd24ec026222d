"""A run opened once, to be asked many times, from several threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from copy import copy
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dexml.data import Csr, check_ids, label_matrix
from dexml.encoder import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, DualEncoder, LabelTable, torch_device
from dexml.index import EXACT_UP_TO, LabelIndex
from dexml.predict.arguments import (
    at_least_one,
    checked,
    checked_labels,
    label_mask,
)
from dexml.predict.labels import note, open_labels
from dexml.run.folder import Run
from dexml.scorers import PointMemory, save_memory

Search = Literal["auto", "exact", "hnsw"]
Precision = Literal["auto", "float32", "bfloat16"]
Told = Callable[[int], object]


class Prediction(NamedTuple):
    """The best labels of each text."""

    ids: NDArray[np.int32]
    """Label ids, shape (n, k), best first, padded with -1."""
    scores: NDArray[np.float32]
    """Their scores, shape (n, k), padded with -inf."""


class Predictor:
    """A run opened once, to be asked many times, from several threads at once.

    The same call gives the same answer whatever other threads do, edits of the labels aside: a
    call sees the labels before an edit or after it. A text asked alone and in a batch may differ
    in the last digits of its scores, as matrix products of other sizes round otherwise.
    """

    def __init__(
        self,
        run: Run,
        encoder: DualEncoder,
        index: LabelIndex,
        *,
        search: Search = "auto",
        memory: PointMemory | None = None,
        precision: Precision = "auto",
    ) -> None:
        """Put together what `open` has read."""
        self.run = run
        self.encoder = encoder.eval()
        self.index = index
        self.search = search
        self.memory = memory
        on_gpu = encoder.device.type == "cuda"
        self.precision = precision
        if precision == "auto":  # bfloat16 on a CPU was measured 1.5 times slower
            self.precision = "bfloat16" if on_gpu else "float32"
        self._batch_tokens = GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS
        # Length and padding are state of the tokenizer, and changing them while another thread
        # tokenises raises "Already borrowed"; a text takes 0.05 ms of some 10 ms here.
        self._tokenizing = Lock()
        self._saving = Lock()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        search: Search = "auto",
        device: str = "auto",
        threads: int | None = None,
        precision: Precision = "auto",
        exact_up_to: int = EXACT_UP_TO,
    ) -> Predictor:
        """Open a run directory: read, verify and warm up, so that the first call is fast.

        Args:
            folder: Made by `dexml.train`.
            search: ``exact``, ``hnsw`` (needs `dexml.index`), or ``auto``: exact up to
                `exact_up_to` labels or without an index.
            device: Of the encoder.
            threads: CPU threads of the encoder, a setting of the whole process; default: as it is.
                A server that answers in several threads does best with 1.
            precision: Of the transformer: ``float32``, ``bfloat16``, or ``auto``: bfloat16 on CUDA.
            exact_up_to: Labels up to which ``auto`` compares all of them.

        Raises:
            FileNotFoundError: No finished run there, or no index though `search` wants it.
            ValueError: A file is damaged or belongs to another run; an argument is none of its
                values.
        """
        for name, value, known in (
            ("search", search, ("auto", "exact", "hnsw")),
            ("precision", precision, ("auto", "float32", "bfloat16")),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r}; expected one of {', '.join(known)}")
        threads = None if threads is None else at_least_one("threads", threads)
        run = Run.open(Path(folder))
        index, memory = open_labels(run, search)
        if search == "auto" and index.manifest.n_alive <= exact_up_to:
            search = "exact"
        target = torch_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        encoder = DualEncoder.load(str(run.folder / "encoder")).to(target)
        predictor = cls(run, encoder, index, search=search, memory=memory, precision=precision)
        predictor.predict(["a text to warm up with"], 1)
        return predictor

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The label vectors (n_labels, D + 1); rows of removed labels mean nothing."""
        return self.index.vectors

    @property
    def label_texts(self) -> list[str]:
        """Texts of the labels, by label id."""
        return self.index.texts or []

    @property
    def n_labels(self) -> int:
        """One more than the largest label id there was: ids of removed labels stay unused."""
        return self.index.n_labels

    def search_note(self, k: int = 10) -> str:
        """Say how k labels a text are searched and how well, and which training points vote."""
        said = note(self.index, self.search, k)
        if self.memory is not None:
            return f"{said}; {self.memory.note()}"
        if self.run.info.get("memory", {}).get("kind") == "votes":
            return f"{said}; no votes of training points: {self.run.folder / 'memory'} is not there"
        return said

    def predict(
        self,
        texts: Iterable[str],
        k: int = 10,
        *,
        exclude: Csr | None = None,
        only: ArrayLike | Set[int] | None = None,
        told: Told | None = None,
    ) -> Prediction:
        """Find the k best labels of each text.

        Args:
            texts: Points; a list, though they be one.
            k: Labels a text.
            exclude: Pairs (text, label) to leave out, shape (n, n_labels); k labels remain.
            only: The labels to choose from: ids, or a bool mask (n_labels,). The answer is that of
                exact search among them.
            told: Called with the number of texts whenever some more are encoded.

        Returns:
            ``ids`` int32 and ``scores`` float32, (n, k), best first, padded with -1 and -inf.
            A score is the cosine plus the label's bias (times the temperature), plus the votes of
            the memory where the run has one.

        Raises:
            TypeError: A single string, or something that is no string among the texts.
            ValueError: A text that is not valid Unicode, `k` below 1, shapes that do not fit.
        """
        k = at_least_one("k", k)
        # Views of one moment, whatever other threads edit meanwhile. The memory first: labels only
        # become more, so it never knows one that the index does not.
        memory, index = copy(self.memory), copy(self.index)
        mask = None if only is None else label_mask(only, index.n_labels)
        queries = self._encode(checked(texts), self.run.info["point_tokens"], None, told)
        found = index.search(queries, k, exclude=exclude, only=mask, search=self.search)
        if memory is not None:
            vectors, alive = index.vectors, index.alive
            if not alive.all():  # votes for removed labels are not counted
                mask = alive if mask is None else mask & alive
            found = memory.mix(queries, found, vectors, k, exclude=exclude, only=mask)
        return Prediction(*found)

    def labels(self, ids: ArrayLike) -> list[list[str]]:
        """Texts of the label ids (n, k) of a prediction, a list for each text, no padding."""
        rows, texts = np.asarray(ids), self.label_texts
        if rows.ndim != 2:
            raise ValueError(f"ids: shape {rows.shape}; expected (n, k), the ids of a prediction")
        check_ids(rows[rows >= 0], len(texts), "ids")
        return [[texts[i] for i in row if i >= 0] for row in rows.tolist()]

    def add_labels(self, texts: Iterable[str], *, told: Told | None = None) -> NDArray[np.int32]:
        """Add labels that training never saw; the model stays as it is.

        A new label's vector comes from its text alone, with the bias of a label without points.
        `told`: as in `predict`.

        Returns:
            Their ids, int32, in order; ids are never given twice.

        Raises:
            TypeError: As `predict`.
            ValueError: As `predict`; a text that is empty or holds a line break.
        """
        new = checked_labels(texts)
        table = LabelTable(torch.zeros(len(new), dtype=torch.int64), self.encoder.dim)
        vectors = self._encode(new, self.run.info["label_tokens"], table, told)
        vectors[:, -1] = self.run.unseen_bias()
        return self.index.add_labels(new, vectors)

    def remove_labels(self, ids: ArrayLike) -> None:
        """Remove labels from every later answer; their ids stay unused."""
        rows = np.atleast_1d(np.asarray(ids))
        check_ids(rows, self.n_labels, "ids")
        self.index.remove_labels(rows)

    def update_labels(
        self, ids: ArrayLike, texts: Iterable[str], *, told: Told | None = None
    ) -> None:
        """Give labels a new text: what training learned beyond the text (residual, bias) stays.

        For a label whose meaning changes, remove it and add another. `told`: as in `predict`;
        errors as in `add_labels`, and for ids that are none.
        """
        new, rows = checked_labels(texts), np.atleast_1d(np.asarray(ids))
        if len(new) != len(rows):
            raise ValueError(f"{len(rows)} ids and {len(new)} texts; expected a text for each id")
        check_ids(rows, self.n_labels, "ids")
        table = LabelTable(torch.zeros(len(new), dtype=torch.int64), self.encoder.dim)
        trained = np.flatnonzero(rows < self.run.info["n_labels"])
        if len(trained):
            residual = self.run.residual()[rows[trained]]
            with torch.no_grad():
                table.residual[torch.from_numpy(trained)] = torch.from_numpy(residual)
        vectors = self._encode(new, self.run.info["label_tokens"], table, told)
        vectors[:, -1] = self.index.vectors[rows, -1]
        self.index.update_labels(rows, new, vectors)

    def add_points(
        self, texts: Iterable[str], y: Csr | Sequence[Iterable[int]]
    ) -> NDArray[np.int64]:
        """Let more points vote: labelled texts that came after the training.

        Args:
            texts: The points.
            y: Their labels: a list of label ids for each, or a sparse matrix (n, n_labels) with
                values above 0.

        Returns:
            Their rows among the points that vote.

        Raises:
            TypeError: `y` is neither.
            ValueError: The run has no memory, texts and `y` do not fit, or an id is no label.
        """
        if self.memory is None:
            raise ValueError(f"{self.run.folder}: has no memory of training points to add to")
        new = checked(texts)
        matrix = label_matrix(y, len(new), self.n_labels)
        vectors = self._encode(new, self.run.info["point_tokens"], None)
        return self.memory.add_points(np.ascontiguousarray(vectors[:, :-1]), matrix)

    def save(self) -> None:
        """Write labels and memory as they are now to the run, where `open` finds them.

        The labels first: when this ends in between, what is there is whole and fits together, the
        labels of now with the points of before.

        Raises:
            RuntimeError: Another process has saved one of the two since this one opened them, or
                saved them; nothing is written over.
        """
        index, folder = self.run.folder / "index", self.run.folder / "memory"
        with self._saving:
            memory = self.memory
            if memory is None or memory.home.has(folder, memory.state, memory.settings):
                self.index.save(index)
                return
            # Labels only become more: points of before know no label that is not among them.
            points = memory.state
            memory.home.check(folder)
            self.index.save(index)
            save_memory(memory, folder, encoder=self.run.fingerprint(), points=points)

    @torch.inference_mode()
    def _encode(
        self, texts: list[str], max_tokens: int, table: LabelTable | None, told: Told | None = None
    ) -> NDArray[np.float32]:
        """Vectors (n, D + 1) to search with or, with a `table`, to search in; the last is 1.

        The loop of `DualEncoder.encode` without what touches the encoder's state on every call.
        """
        encoder, device = self.encoder, self.encoder.device
        with self._tokenizing:
            tokens = encoder.tokenize(texts, max_tokens)
        table = None if table is None else table.to(device)
        half = self.precision == "bfloat16"
        out = np.ones((len(texts), encoder.dim + 1), np.float32)
        for rows in tokens.batches(self._batch_tokens):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                features = encoder.features(tokens.tensor(rows, device))
            features = features.float()
            made = (
                encoder(features, side="point") if table is None else table(encoder, features, rows)
            )
            out[rows, :-1] = made.cpu().numpy()
            if told is not None:
                told(len(rows))
        return out
