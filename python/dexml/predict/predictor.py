"""A run opened once, to be asked many times, from several threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from copy import copy
from dataclasses import replace
from functools import wraps
from os import PathLike
from threading import RLock
from typing import Concatenate, ParamSpec, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dexml import shown
from dexml.data import Csr, check_ids, id_array, label_matrix, names_of
from dexml.encoder.engine import EngineName
from dexml.forks import renew_in_child
from dexml.index import EXACT_UP_TO
from dexml.predict import favoured
from dexml.predict.arguments import (
    at_least_one,
    check_exclude,
    checked,
    checked_labels,
    checked_points,
    label_mask,
)
from dexml.predict.explain import Asked, explain, explain_best
from dexml.predict.explanation import Explanation
from dexml.predict.prediction import Prediction, Unsure
from dexml.predict.served import (
    Opened,
    Served,
    dense_of,
    memory_of,
    n_points_of,
    open_run,
)
from dexml.predict.uncertainty import search_and_compare
from dexml.run import FEATURES, LabelSet, Run
from dexml.scorers import Change, DenseScorer, OnProgress, PointMemory, Queries, Scorer
from dexml.scorers.calibration import BEST, Calibration, Missing
from dexml.scorers.dense import Search
from dexml.scorers.embedder import Precision
from dexml.scorers.thresholds import Threshold, at_precision, at_probability, at_recall
from dexml.threads import core_threads

P = ParamSpec("P")
T = TypeVar("T")
K = 10
"""Labels a text, where nobody says how many."""
PADDED_UP_TO = 1000
"""Columns that an answer may have though there are fewer labels."""


def _with_its_threads(
    method: Callable[Concatenate[Predictor, P], T],
) -> Callable[Concatenate[Predictor, P], T]:
    """Run a method with as many threads of the core as the run was opened with."""

    @wraps(method)
    def bound(self: Predictor, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with core_threads(self._threads):
            return method(self, *args, **kwargs)

    return bound


class Predictor:
    """A run opened once, to be asked many times, from several threads at once.

    Other threads may edit meanwhile: a call sees labels and points as they are before an edit or
    after it, never in between. The scores of a text may differ in the last digits when it is asked
    alone and in a batch, because matrix products of other sizes round differently.
    """

    def __init__(self, opened: Opened, scorer: Scorer | None = None) -> None:
        """Serve a run that was opened, with its own scorer or another one.

        Args:
            opened: The run (`dexml.predict.open_run`).
            scorer: Takes the place of the run's own, for instance a `dexml.scorers.Fusion` of
                ``opened.scorer`` and something else. Only a scorer that contains the run's own can
                be saved.
        """
        self._run, self._threads = opened.run, opened.threads
        self._home = copy(opened.home)  # `save` changes it, and others may serve `opened` too
        # One reference, replaced as a whole: a call that has read it sees one moment.
        scorer = opened.scorer if scorer is None else scorer
        self._now = Served(opened.labels, scorer, opened.texts, opened.calibration)
        self._foreign = scorer is not opened.scorer
        self._renew()
        renew_in_child(self, Predictor._renew)

    def _renew(self) -> None:
        """Make the lock; again in a forked process, where that of another thread stays locked."""
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
        engine: EngineName = "auto",
        exact_up_to: int = EXACT_UP_TO,
    ) -> Predictor:
        """Open a run: read, verify and warm up, so that the first call is fast.

        Args:
            folder: Made by `dexml.train`.
            search: ``exact``, ``hnsw`` (needs a graph: ``python -m dexml.index``), or ``auto``:
                exact up to `exact_up_to` labels or without a graph. A light run has no graph.
            device: Of the encoder: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes CUDA if there is
                one.
            threads: CPU threads of a call: of the encoder, and of search, words, votes and ranker;
                default all that this process may use. Answers do not depend on it. For an encoder
                in torch it is a setting of the whole process (default: as it is); products of
                large matrices are numpy's, which counts its own threads (``OMP_NUM_THREADS``). A
                server that answers in several threads does best with 1.
            precision: Of the transformer: ``float32``, ``bfloat16``, ``int8`` (without torch), or
                ``auto``: bfloat16 on CUDA, with OpenVINO what training chose, else float32.
            engine: ``openvino`` (on a CPU, without torch), ``torch``, or ``auto``: OpenVINO on a
                CPU if the run was exported for it and the library is installed, else torch.
            exact_up_to: See `search`.

        Raises:
            FileNotFoundError: No finished run there, a part of it is missing, or it has no index
                though `search` needs one.
            ValueError: A part is damaged; an argument is not one of its values.
            ImportError: Neither torch nor OpenVINO is installed, or not what `engine` asks for.
        """
        opened = open_run(
            folder,
            search=search,
            exact_up_to=exact_up_to,
            device=device,
            threads=threads,
            precision=precision,
            engine=engine,
            ready=True,
        )
        predictor = cls(opened)
        first = "0:1" if FEATURES in opened.run.facts else "a text to warm up with"
        predictor.predict([first], 1)
        return predictor

    def _facts(self) -> dict[str, object]:
        now = self._now
        facts: dict[str, object] = {"run": self._run.folder, "labels": now.labels.n_alive}
        if (n_points := n_points_of(now.scorer)) is not None:
            facts["points_that_vote"] = n_points
        return facts | {"scorer": type(now.scorer).__name__}

    def __repr__(self) -> str:
        return shown.line("Predictor", self._facts())

    def _repr_html_(self) -> str:
        return shown.html("Predictor", self._facts())

    @property
    def run(self) -> Run:
        """The run, as it was opened or last saved."""
        return self._run

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
        """The dense scorer of this moment: encoder and index of label vectors.

        Raises:
            ValueError: There is none in the scorer.
        """
        dense = dense_of(self._now.scorer)
        if dense is None:
            raise ValueError(f"{self.run.folder}: served without a dense scorer")
        return dense

    @property
    def memory(self) -> PointMemory | None:
        """The training points that vote by their vectors at this moment; None if none do."""
        return memory_of(self._now.scorer)

    @property
    def label_texts(self) -> list[str]:
        """Texts of the labels, by label id.

        Where points are rows of features, they are as the run keeps them: features of the label,
        if it has some, before its name (``5:0.2 | its name``); `label_names` are for people.
        """
        return self._now.labels.texts

    @property
    def label_names(self) -> list[str]:
        """Texts of the labels as people read them, by label id: `label_texts` without features."""
        texts = self.label_texts
        return names_of(texts) if FEATURES in self._run.facts else texts

    @property
    def n_labels(self) -> int:
        """The next label id; removed labels keep theirs, so fewer labels may be alive."""
        return len(self._now.labels)

    def encoder_note(self) -> str:
        """Say what encodes texts, in which form, and what the validation part said of that form.

        Empty for a light run, which encodes none.
        """
        dense = dense_of(self._now.scorer)
        return "" if dense is None else dense.embedder.note()

    def search_note(self, k: int = 10) -> str:
        """Say how k labels a text are found and how well, and which training points vote."""
        return self._now.scorer.note(k)

    @property
    def has_probabilities(self) -> bool:
        """Whether answers have probabilities; if not, `probabilities_note` says why."""
        return isinstance(self._calibration(self._now), Calibration)

    def probabilities_note(self) -> str:
        """Say what the probabilities rest on, or why there are none."""
        calibration = self._calibration(self._now)
        if isinstance(calibration, Missing):
            return f"no probabilities: {calibration.reason}"
        about = calibration.about
        return (
            f"probabilities from {about['hits']} right labels of {about['points']} held-out "
            "training points"
        )

    def _calibration(self, now: Served) -> Calibration | Missing:
        return (
            Missing("another scorer takes the place of the run's own")
            if self._foreign
            else (now.calibration)
        )

    def threshold(
        self,
        *,
        min_probability: float | None = None,
        min_precision: float | None = None,
        min_recall: float | None = None,
        by_frequency: bool = False,
    ) -> Threshold:
        """Find the cut that `predict` makes with the same arguments, and what to expect of it.

        The estimates rest on held-out training points; their intervals are bootstrap ones over
        groups of points. They hold for texts like these.

        Args:
            min_probability: Keep labels of at least this probability.
            min_precision: Keep labels so that at least this share of them is right: the smallest
                probability above which the lower 95 % bound of the precision reaches it.
            min_recall: Keep so many that a text's labels contain this share of its right ones on
                average (conformal risk control).
            by_frequency: With `min_precision`, a cut for each of head, torso, tail and unseen
                labels that had 100 right ones among the held-out answers.

        Raises:
            ValueError: Not exactly one of the first three is given, it is not above 0 and at most
                1, it cannot be reached (the message says what can), or the run has no
                probabilities (the message says why).
        """
        return self._threshold(self._now, min_probability, min_precision, min_recall, by_frequency)

    def _threshold(
        self,
        now: Served,
        min_probability: float | None,
        min_precision: float | None,
        min_recall: float | None,
        by_frequency: bool,
    ) -> Threshold:
        given = {
            "min_probability": min_probability,
            "min_precision": min_precision,
            "min_recall": min_recall,
        }
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(
                f"{' and '.join(named) or 'nothing'} given; expected one of {', '.join(given)}"
            )
        if by_frequency and min_precision is None:
            raise ValueError("by_frequency needs min_precision")
        calibration = self._calibration(now)
        if isinstance(calibration, Missing):
            raise ValueError(
                f"{self.run.folder}: {named[0]} needs probabilities, and the run has none "
                f"({calibration.reason})"
            )
        if min_precision is not None:
            return at_precision(calibration, min_precision, by_frequency=by_frequency)
        if min_recall is not None:
            return at_recall(calibration, min_recall)
        assert min_probability is not None
        return at_probability(calibration, min_probability)

    @_with_its_threads
    def predict(
        self,
        texts: Iterable[str] | Csr,
        k: int | None = None,
        *,
        min_probability: float | None = None,
        min_precision: float | None = None,
        min_recall: float | None = None,
        by_frequency: bool = False,
        favour: str | None = None,
        strength: float = 1.0,
        together: bool = False,
        exclude: Csr | None = None,
        only: ArrayLike | Set[int] | None = None,
        uncertainty: bool = False,
        abstain_below: float | None = None,
        min_nearest: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Prediction:
        """Find the k best labels of each text.

        Args:
            texts: Points; a list, even for a single text. Of a run that was trained on rows of
                features: a sparse matrix (n, n_features), or texts such as ``17:0.25 40:1``.
            k: Labels a text, 10 by default; with `favour` that of the metric, with `min_recall` as
                many as it takes, up to 100. A row with fewer is padded, so that metrics at k have
                their columns; above 1,000, `k` is cut to the number of labels (but not below
                1,000).
            min_probability: Leave out labels below a probability; a row may be empty. This and the
                next three: see `threshold`.
            min_precision: Leave out labels so that at least this share of the others is right.
            min_recall: Return so many that they contain this share of the right ones on average.
            by_frequency: With `min_precision`, cut labels by how frequent they are.
            favour: Rank for a metric, among the 100 best labels by score: ``PSP@5``, ``macroP@5``,
                ``macroR@5``, ``macroF@5``, ``Coverage@5``. Labels beyond its k follow by what they
                would add. ``P@5``, ``nDCG@5`` and ``R@5`` are the usual ranking. Of the cuts,
                `min_probability` alone goes with it.
            strength: How much `favour` counts against P@k: above 0, and 1 for the metric alone.
            together: With `favour`, choose the labels of all these texts together: better for
                macroP, macroF and Coverage, but the answer to a text depends on the others.
            exclude: Pairs (text, label) to leave out, shape (n, n_labels); k labels remain.
            only: The labels to choose from: ids, or a bool mask (n_labels,). They are searched
                exactly.
            uncertainty: Also say how likely the first label is wrong, and how near the nearest
                training point is (`Prediction.uncertainty`, `Prediction.nearest`).
            abstain_below: Give no labels to a text whose first label has a smaller probability;
                `Prediction.abstained` marks it.
            min_nearest: Give no labels to a text whose nearest training point has a smaller cosine.
            on_progress: Called with the number of texts whenever some more are encoded.

        Returns:
            ``ids`` int32, ``scores`` and ``probabilities`` float32, (n, k), best first, padded with
            -1, -inf and 0. With `favour` the best are those of the largest ``gains``; scores and
            probabilities are those of the labels, as without. A dense score is the cosine plus the
            label's bias (times the temperature), plus the votes of training points if the run has
            them. The scores of a ranker are log-odds of its ranking, comparable within a text;
            probabilities are comparable between texts.

        Raises:
            TypeError: `texts` is a single string or holds anything but strings; `exclude` is not a
                CSR matrix.
            ValueError: A text is not valid Unicode, `k` is below 1, shapes do not fit; `favour` is
                no metric that rankings are made for, or the run has not what it takes; or as
                `threshold`.
        """
        now = self._now
        cut, calibration = None, self._calibration(now)
        cuts = {"min_precision": min_precision is not None, "min_recall": min_recall is not None}
        asked = favoured.asked(favour, strength, together, cuts | {"by_frequency": by_frequency})
        if asked is not None:
            k = favoured.width(asked, k, calibration, self.run)
        if by_frequency or not (min_probability is min_precision is min_recall is None):
            cut = self._threshold(now, min_probability, min_precision, min_recall, by_frequency)
        whole = isinstance(calibration, Calibration) and min_recall is not None
        if isinstance(calibration, Calibration) and whole:
            if k is not None and at_least_one("k", k) < calibration.depth:
                raise ValueError(
                    f"k = {k} with min_recall, which looks at the {calibration.depth} best labels "
                    "of a text; leave k out"
                )
            k = calibration.depth if k is None else k
        k = _width(K if k is None else k, now)
        mask = None if only is None else label_mask(only, len(now.labels))
        unsure = Unsure(self.run.folder, uncertainty, abstain_below, min_nearest)
        unsure.check(calibration)
        queries = Queries(checked_points(texts, self.run), on_progress)
        check_exclude(exclude, (len(queries), len(now.labels)))
        reranked = None if asked is None or asked.is_usual else asked
        width = k
        if isinstance(calibration, Calibration):
            width = max(k, BEST if reranked is None else calibration.depth)
        near = None
        if unsure.needs_nearest:
            ids, scores, near = search_and_compare(now.scorer, queries, width, exclude, mask)
        else:
            ids, scores = now.scorer.search(queries, width, exclude=exclude, only=mask)
        if isinstance(calibration, Missing):
            return unsure.applied(Prediction(ids, scores), None, near)
        best = scores
        if mask is not None:  # the level of a text is that of its best labels among all
            best = now.scorer.search(queries, BEST, exclude=exclude)[1]
        probabilities = calibration.probabilities(ids, scores, now.counts, best)
        found = Prediction(ids, scores, probabilities)
        if reranked is not None:
            new = favoured.ordered(reranked, ids, probabilities, calibration, now, self.run)
            found = found.taken(new.at, new.gains)
        found = found.narrowed(k)
        found = found if cut is None else found.cut(cut, now.counts, narrow=whole)
        return unsure.applied(found, 1 - probabilities[:, 0], near)

    @_with_its_threads
    def encode(
        self, texts: Iterable[str], *, on_progress: OnProgress | None = None
    ) -> NDArray[np.float32]:
        """Return the vectors of texts as the index of labels is searched with them.

        The dot product with a label's vector (``dense.index.vectors``) is the dense score. The last
        dimension is 1: it meets the label's bias. Votes and rankers come on top of dense scores.

        Args:
            texts: Points; a list, even for a single text.
            on_progress: As in `predict`.

        Returns:
            Shape (n, D + 1), float32.

        Raises:
            ValueError: A light run, which has no encoder; or as `predict`.
            TypeError: As `predict`.
        """
        dense = dense_of(self._now.scorer)
        if dense is None:
            raise ValueError(
                f"{self.run.folder}: a light run has no vectors; train with an encoder for them"
            )
        return dense.vectors(Queries(checked(texts), on_progress)).copy()

    @_with_its_threads
    def explain(
        self,
        text: str,
        label: SupportsIndex | str,
        *,
        exclude: Csr | None = None,
        only: ArrayLike | Set[int] | None = None,
    ) -> Explanation:
        """Say why a label has its score for a text, or why it has none.

        Args:
            text: A point.
            label: The id of a label, or its text.
            exclude: As in `predict`, shape (1, n_labels): a ranker compares the candidates of a
                text, so that other candidates may change a score.
            only: As in `predict`.

        Raises:
            TypeError: `text` is not a string, or `label` neither an id nor a text.
            ValueError: There is no such label, it was removed, or several have this text; and as
                `predict`.
            RuntimeError: The texts of points cannot be read because another process has saved to
                the run since it was opened.
        """
        now = self._now
        asked, ids = self._asked(now, text, exclude, only), [now.labels.id_of(label)]
        return self._with_probabilities(now, asked, explain(now, asked, ids))[0]

    @_with_its_threads
    def explain_best(
        self,
        text: str,
        k: int = 3,
        *,
        exclude: Csr | None = None,
        only: ArrayLike | Set[int] | None = None,
    ) -> list[Explanation]:
        """Explain the k best labels of a text, the best first: those of `predict`.

        Arguments and errors: `explain` and `predict`.
        """
        now = self._now
        k, asked = _width(k, now), self._asked(now, text, exclude, only)
        return self._with_probabilities(now, asked, explain_best(now, asked, k))

    def _with_probabilities(
        self, now: Served, asked: Asked, found: list[Explanation]
    ) -> list[Explanation]:
        """Say how likely each label is right, as `predict` does."""
        calibration = self._calibration(now)
        scored = [one for one in found if one.score is not None]
        if isinstance(calibration, Missing) or not scored:
            return found
        ids = np.array([[one.label_id for one in scored]], np.int32)
        scores = np.array([[one.score for one in scored]], np.float32)
        best = now.scorer.search(asked.queries, BEST, exclude=asked.exclude)[1]
        values = calibration.probabilities(ids, scores, now.counts, best)[0].tolist()
        by_id = dict(zip(ids[0].tolist(), values, strict=True))
        return [replace(one, probability=by_id.get(one.label_id)) for one in found]

    def _asked(
        self, now: Served, text: str, exclude: Csr | None, only: ArrayLike | Set[int] | None
    ) -> Asked:
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}; expected a string")
        check_exclude(exclude, (1, len(now.labels)))
        mask = None if only is None else label_mask(only, len(now.labels))
        return Asked(Queries(checked_points([text], self.run)), exclude, mask)

    def labels(self, ids: ArrayLike) -> list[list[str]]:
        """Return the names of the label ids (n, k) of a prediction: a list a text, no padding.

        They are the labels' texts; where points are rows of features, without those of the label.
        """
        rows, texts = id_array(ids, "ids"), self.label_texts
        if rows.ndim != 2:
            raise ValueError(f"ids: shape {rows.shape}; expected (n, k), the ids of a prediction")
        for number, row in enumerate(rows):
            is_padding = row == -1
            check_ids(row[~is_padding], len(texts), f"ids[{number}]")
        found = [[texts[i] for i in row if i >= 0] for row in rows.tolist()]
        return [names_of(row) for row in found] if FEATURES in self._run.facts else found

    @_with_its_threads
    def add_labels(
        self, texts: Iterable[str], *, on_progress: OnProgress | None = None
    ) -> NDArray[np.int32]:
        """Add labels that training never saw; the model stays as it is.

        The dense scorer makes a new label's vector from its text alone, with the bias of a label
        without points. `on_progress`: as in `predict`.

        Returns:
            Their ids, int32, in order; an id is never given twice.

        Raises:
            TypeError: `texts` is a single string or holds anything but strings.
            ValueError: A text is empty, holds a line break or is not valid Unicode.
        """
        new = checked_labels(texts)
        with self._editing:
            labels, ids = self._now.labels.added(new)
            added = ids.astype(np.int64)
            self._now = self._now.after(Change(labels, added=added, on_progress=on_progress))
        return ids

    @_with_its_threads
    def remove_labels(self, ids: ArrayLike) -> None:
        """Remove labels from every later answer; their ids stay unused.

        Raises:
            ValueError: An id is out of range, of a removed label, or given twice.
        """
        with self._editing:
            labels = self._now.labels
            rows = _rows(labels, ids)
            self._now = self._now.after(Change(labels.removed(rows), removed=rows))

    @_with_its_threads
    def update_labels(
        self, ids: ArrayLike, texts: Iterable[str], *, on_progress: OnProgress | None = None
    ) -> None:
        """Give labels a new text: what training learned beyond the text (residual, bias) stays.

        If the meaning of a label changes, remove it and add another. `on_progress`: as in
        `predict`.

        Raises:
            TypeError: As `add_labels`.
            ValueError: As `add_labels` and `remove_labels`.
        """
        new = checked_labels(texts)
        with self._editing:
            labels = self._now.labels
            rows = _rows(labels, ids)
            if len(new) != len(rows):
                raise ValueError(
                    f"{len(rows)} ids and {len(new)} texts; expected a text for each id"
                )
            change = Change(labels.updated(rows, new), updated=rows, on_progress=on_progress)
            self._now = self._now.after(change)

    @_with_its_threads
    def add_points(
        self, texts: Iterable[str] | Csr, y: Csr | Sequence[Iterable[int]]
    ) -> NDArray[np.int64]:
        """Let more points vote: texts with known labels that came after the training.

        Args:
            texts: The points, as `predict` takes them.
            y: Their labels: a list of label ids for each point, or a sparse matrix (n, n_labels)
                with values above 0.

        Returns:
            Their rows among the points that vote.

        Raises:
            TypeError: `y` is neither; `texts` as in `predict`.
            ValueError: No training points vote in this run, `texts` and `y` disagree in number, or
                an id is out of range.
        """
        new = checked_points(texts, self.run)
        with self._editing:
            n_points = n_points_of(self._now.scorer)
            if n_points is None:
                raise ValueError(f"{self.run.folder}: no training points vote in this run")
            labels = self._now.labels
            matrix = label_matrix(y, len(new), len(labels))
            self._now = self._now.after(Change(labels, points=Queries(new), y=matrix))
            return np.arange(n_points, n_points + len(new))

    @_with_its_threads
    def save(self, *, lock: bool = True) -> None:
        """Write labels and points as they are now to the run, where `open` finds them.

        They are written together: a kill at any moment leaves all as before, or all as now.

        Args:
            lock: Hold the run's lock meanwhile; False for a caller who holds it (`dexml.run.hold`).

        Raises:
            ValueError: The scorer does not contain the run's own; nothing is written.
            RuntimeError: Another process has saved to the run since this one opened or saved it,
                or is training or editing it; nothing is written.
        """
        with self._editing:
            self._run = self._now.save(self._run, self._home, lock=lock)


def _width(k: int, now: Served) -> int:
    """Columns of an answer: `k`, but few where padding would take gigabytes."""
    return min(at_least_one("k", k), max(PADDED_UP_TO, len(now.labels)))


def _rows(labels: LabelSet, ids: ArrayLike) -> NDArray[np.int64]:
    """Check label ids that a caller gave: in range, alive, each once."""
    given = np.atleast_1d(id_array(ids, "ids"))
    check_ids(given, len(labels), "ids")
    return labels.rows(given.astype(np.int64))
