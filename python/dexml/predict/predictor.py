"""A run opened once, to be asked many times, from several threads at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from os import PathLike
from threading import RLock
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dexml.data import Csr, check_ids, label_matrix
from dexml.index import EXACT_UP_TO
from dexml.predict.arguments import at_least_one, checked, checked_labels, label_mask
from dexml.predict.served import Opened, Served, dense_of, open_run
from dexml.run import LabelSet, Run
from dexml.scorers import Change, DenseScorer, OnProgress, Queries, Scorer, VotedScorer
from dexml.scorers.dense import Precision, Search
from dexml.scorers.neighbours import PointMemory


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

    def __init__(self, opened: Opened, scorer: Scorer | None = None) -> None:
        """Serve a run that was opened, with its own scorer or another one.

        Args:
            opened: The run (`dexml.predict.open_run`).
            scorer: Scores in place of the run's own, for instance a `dexml.scorers.Fusion` of it
                and something else; saved are the parts that it names.
        """
        self._opened = opened
        served = opened.served
        # One reference, replaced as a whole: a call that has read it sees one moment.
        self._now = served if scorer is None else Served(served.labels, scorer)
        self._editing = RLock()

    @classmethod
    def open(
        cls,
        folder: str | PathLike[str],
        *,
        search: Search = "auto",
        device: str = "auto",
        threads: int | None = None,
        precision: Precision = "auto",
        exact_up_to: int = EXACT_UP_TO,
    ) -> Predictor:
        """Open a run: read, verify and warm up, so that the first call is fast.

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
            FileNotFoundError: No finished run there, a part of it is missing, or it has no index
                though `search` needs one.
            ValueError: A part is damaged; an argument is not one of its values.
        """
        opened = open_run(
            folder,
            search=search,
            exact_up_to=exact_up_to,
            device=device,
            threads=None if threads is None else at_least_one("threads", threads),
            precision=precision,
        )
        predictor = cls(opened)
        predictor.predict(["a text to warm up with"], 1)
        return predictor

    @property
    def run(self) -> Run:
        """The run, as it was opened or last saved."""
        return self._opened.run

    @property
    def label_set(self) -> LabelSet:
        """The labels of this moment: texts, training counts, and which are alive."""
        return self._now.labels

    @property
    def scorer(self) -> Scorer:
        """What scores texts and labels at this moment."""
        return self._now.scorer

    @property
    def dense(self) -> DenseScorer:
        """The dense scorer of this moment: encoder, label vectors, index.

        Raises:
            ValueError: The run has none.
        """
        dense = dense_of(self._now.scorer)
        if dense is None:
            raise ValueError(f"{self.run.folder}: has no dense scorer")
        return dense

    @property
    def memory(self) -> PointMemory | None:
        """The training points that vote at this moment; None if none do."""
        scorer = self._now.scorer
        return scorer.memory if isinstance(scorer, VotedScorer) else None

    @property
    def label_texts(self) -> list[str]:
        """Texts of the labels, by label id."""
        return self._now.labels.texts

    @property
    def n_labels(self) -> int:
        """One more than the largest label id there was: ids of removed labels stay unused."""
        return len(self._now.labels)

    def search_note(self, k: int = 10) -> str:
        """Say how k labels a text are searched and how well, and which training points vote."""
        return self._now.scorer.note(k)

    def predict(
        self,
        texts: Iterable[str],
        k: int = 10,
        *,
        exclude: Csr | None = None,
        only: ArrayLike | Set[int] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Prediction:
        """Find the k best labels of each text.

        Args:
            texts: Points; a list, even for a single text.
            k: Labels a text.
            exclude: Pairs (text, label) to leave out, shape (n, n_labels); k labels remain.
            only: The labels to choose from: ids, or a bool mask (n_labels,). The answer is that of
                exact search among them.
            on_progress: Called with the number of texts whenever some more are encoded.

        Returns:
            ``ids`` int32 and ``scores`` float32, (n, k), best first, padded with -1 and -inf.
            A score is the cosine plus the label's bias (times the temperature), plus the votes of
            training points if the run has them.

        Raises:
            TypeError: A single string, or something else than strings among the texts.
            ValueError: A text that is not valid Unicode, `k` below 1, shapes that do not fit.
        """
        k = at_least_one("k", k)
        now = self._now
        mask = None if only is None else label_mask(only, len(now.labels))
        queries = Queries(checked(texts), on_progress)
        return Prediction(*now.scorer.search(queries, k, exclude=exclude, only=mask))

    def labels(self, ids: ArrayLike) -> list[list[str]]:
        """Texts of the label ids (n, k) of a prediction, a list for each text, no padding."""
        rows, texts = np.asarray(ids), self.label_texts
        if rows.ndim != 2:
            raise ValueError(f"ids: shape {rows.shape}; expected (n, k), the ids of a prediction")
        check_ids(rows[rows >= 0], len(texts), "ids")
        return [[texts[i] for i in row if i >= 0] for row in rows.tolist()]

    def add_labels(
        self, texts: Iterable[str], *, on_progress: OnProgress | None = None
    ) -> NDArray[np.int32]:
        """Add labels that training never saw; the model stays as it is.

        A new label's vector comes from its text alone, with the bias of a label without points.
        `on_progress`: as in `predict`.

        Returns:
            Their ids, int32, in order; ids are never given twice.

        Raises:
            TypeError: As `predict`.
            ValueError: As `predict`; a text that is empty or holds a line break.
        """
        new = checked_labels(texts)
        with self._editing:
            labels, ids = self._now.labels.added(new)
            added = ids.astype(np.int64)
            self._now = self._now.after(Change(labels, added=added, on_progress=on_progress))
        return ids

    def remove_labels(self, ids: ArrayLike) -> None:
        """Remove labels from every later answer; their ids stay unused.

        Raises:
            ValueError: An id out of range, of a removed label, or given twice.
        """
        given = np.atleast_1d(np.asarray(ids))
        with self._editing:
            labels = self._now.labels
            check_ids(given, len(labels), "ids")
            rows = labels.rows(given)
            self._now = self._now.after(Change(labels.removed(rows), removed=rows))

    def update_labels(
        self, ids: ArrayLike, texts: Iterable[str], *, on_progress: OnProgress | None = None
    ) -> None:
        """Give labels a new text: what training learned beyond the text (residual, bias) stays.

        For a label whose meaning changes, remove it and add another. `on_progress`: as in
        `predict`.

        Raises:
            TypeError: As `add_labels`.
            ValueError: As `add_labels` and `remove_labels`.
        """
        new, given = checked_labels(texts), np.atleast_1d(np.asarray(ids))
        if len(new) != len(given):
            raise ValueError(f"{len(given)} ids and {len(new)} texts; expected a text for each id")
        with self._editing:
            labels = self._now.labels
            check_ids(given, len(labels), "ids")
            rows = labels.rows(given)
            change = Change(labels.updated(rows, new), updated=rows, on_progress=on_progress)
            self._now = self._now.after(change)

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
            ValueError: No training points vote in this run, texts and `y` do not fit, or an id is
                not a label's.
        """
        new = checked(texts)
        with self._editing:
            if (memory := self.memory) is None:
                raise ValueError(f"{self.run.folder}: no training points vote in this run")
            labels = self._now.labels
            matrix = label_matrix(y, len(new), len(labels))
            self._now = self._now.after(Change(labels, points=Queries(new), y=matrix))
            return np.arange(memory.n_points, memory.n_points + len(new))

    def save(self, *, lock: bool = True) -> None:
        """Write labels and points as they are now to the run, where `open` finds them.

        They are written together: a kill at any moment leaves all as before, or all as now.

        Args:
            lock: Hold the run's lock meanwhile; False for a caller who holds it (`dexml.run.hold`).

        Raises:
            RuntimeError: Another process has saved to the run since this one opened or saved it,
                or trains or edits it; nothing is written.
        """
        with self._editing:
            self._opened.run = self._now.save(self._opened.run, self._opened.home, lock=lock)
