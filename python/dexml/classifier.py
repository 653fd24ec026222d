"""`XmcClassifier`: the whole job in the conventions of scikit-learn."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from dexml import console, data
from dexml.data import Csr
from dexml.given import text_list
from dexml.metrics import evaluate

console.require("sklearn", "sklearn", "pydantic", "tqdm")

# isort: split
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from dexml.predict import Predictor
from dexml.train import TrainSettings, train
from dexml.train.settings import NO_ENCODER

__all__ = ["XmcClassifier"]

ONE, MANY, MATRIX = "one", "many", "matrix"
"""What `y` was: a label a text, a list of labels a text, or a matrix of texts x labels."""


class XmcClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Finds the labels of texts: `fit` trains a run, `predict` asks it.

    Without an encoder (the default), a light run: words, a label tree and a ranker, in seconds. It
    is a classifier of scikit-learn: ``clone``, ``cross_val_score``, ``GridSearchCV`` and pipelines
    work. What goes in is a sequence of texts, or a sparse matrix of features (n, n_features) for
    points without texts, and labels in one of three forms; `predict` answers in the same form:

    - a list of labels for each text: lists of strings come back, the best label first;
    - one label for each text: an array of strings comes back;
    - a sparse or dense matrix (n_texts, n_labels) of 0 and 1, with `label_texts`: a sparse matrix
      comes back.

    Args:
        encoder: Folder or hub name of a text encoder for a full run (extra ``train``); None: a
            light run.
        k: Labels that `predict` returns of each text, at most. One label a text: 1.
        min_probability: `predict` leaves labels out that are less likely than this. None: none.
        candidates: Labels of each text that `decision_function` and `predict_proba` score.
        label_texts: Texts of the labels: of the columns of a matrix; or a dict from the names that
            labels have in lists to their texts. None: the names are the texts.
        favour: ``"balanced"``, or ``"tail"``: rare labels count more.
        tree: ``"auto"``: try a label tree; ``"none"``: do not, which saves most of the time.
        validation: Share of the texts that the ranker learns from.
        seed: Of every random choice.
        settings: Other settings of `dexml.train.TrainSettings`.
        out: Folder for the run, which must not be there yet. None: a temporary one, removed with
            the estimator.

    Attributes:
        classes_: Names of the labels, an array of strings, (n_labels,); for a matrix, their texts.
        predictor_: The trained run, a `dexml.predict.Predictor`.
        run_: Its folder.
    """

    def __init__(
        self,
        encoder: str | None = None,
        *,
        k: int = 5,
        min_probability: float | None = None,
        candidates: int = 100,
        label_texts: Sequence[str] | Mapping[str, str] | None = None,
        favour: Literal["balanced", "tail"] = "balanced",
        tree: Literal["auto", "none"] = "auto",
        validation: float = 0.1,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        out: str | None = None,
    ) -> None:
        # As scikit-learn wants it: nothing is checked or changed here.
        self.encoder = encoder
        self.k = k
        self.min_probability = min_probability
        self.candidates = candidates
        self.label_texts = label_texts
        self.favour = favour
        self.tree = tree
        self.validation = validation
        self.seed = seed
        self.settings = settings
        self.out = out

    def fit(self, X: Any, y: Any) -> Self:
        """Train on texts and their labels.

        Args:
            X: n texts: a list, an array or a column; or n rows of features, a sparse matrix.
            y: Their labels, see the class.

        Raises:
            TypeError: `X` is not a sequence of texts, or `y` is none of the three forms.
            ValueError: The lengths differ, there are fewer than three texts, or no labels.
        """
        points = _points(X)
        texts = data.feature_texts(points, "X") if issparse(points) else points
        self._kind = _kind_of(y)
        if self._kind != MATRIX and len(texts) != len(y):
            raise ValueError(f"{len(texts)} texts and labels of {len(y)}")
        given, names = self._data_set(texts, y)
        root = Path(self.out) if self.out is not None else self._temporary()
        folder = root / "data"
        data.save_dataset(folder, given.label_texts, (points, given.y_train))
        train(
            TrainSettings(
                data_dir=folder,
                out=root / "run",
                **{
                    "encoder": self.encoder or NO_ENCODER,
                    "favour": self.favour,
                    "tree": self.tree,
                    "validation": self.validation,
                    "seed": self.seed,
                    "quiet": True,
                    **(self.settings or {}),
                },
            )
        )
        self.run_ = root / "run"
        self.predictor_ = Predictor.open(self.run_)
        self.classes_ = np.array(names, dtype=object)
        return self

    def _temporary(self) -> Path:
        """Make a folder that is removed together with the run that is opened from it."""
        folder = tempfile.TemporaryDirectory(prefix="dexml-", ignore_cleanup_errors=True)
        self._remove = weakref.finalize(self, folder.cleanup)
        return Path(folder.name)

    def _data_set(self, texts: list[str], y: Any) -> tuple[data.Dataset, list[str]]:
        """Return the data set, and the names of the labels."""
        if self._kind == MATRIX:
            if self.label_texts is None or isinstance(self.label_texts, Mapping):
                raise ValueError("y is a matrix; give label_texts, the text of each column")
            label_texts = text_list(self.label_texts, "label_texts")
            matrix = data.label_matrix(csr_array(y), len(texts), len(label_texts))
            if matrix.shape[1] != len(label_texts):
                raise ValueError(f"y has {matrix.shape[1]} columns, label_texts {len(label_texts)}")
            given = data.Dataset(
                texts, [], label_texts, matrix, csr_array((0, len(label_texts)), dtype=np.float32),
                None, None, None, None,
            )  # fmt: skip
            return given, label_texts
        if self.label_texts is not None and not isinstance(self.label_texts, Mapping):
            raise ValueError(
                "y holds names of labels; label_texts is then a dict from name to text"
            )
        labels = None
        if self.label_texts is not None:
            labels = {"id": list(self.label_texts), "text": list(self.label_texts.values())}
        separator = "" if self._kind == ONE else None
        table = {"text": texts, "labels": y}
        given = data.from_table(table, labels=labels, columns=data.Columns(separator=separator))
        names = given.label_texts if labels is None else [str(name) for name in labels["id"]]
        return given, names

    def predict(self, X: Any) -> Any:
        """Find the labels of texts.

        Returns:
            In the form that `y` had: an array of names (n,); lists of names, best first; or a
            sparse matrix of 0 and 1, (n, n_labels).

        Raises:
            ValueError: `min_probability` is given, but the run has no probabilities.
        """
        k = 1 if self._kind_fitted() == ONE else self.k
        found = self.predictor_.predict(
            _points(X),
            k,
            min_probability=None if self._kind == ONE else self.min_probability,
        )
        if self._kind == MATRIX:
            return _matrix(found.ids, np.ones(found.ids.shape, np.float32), len(self.classes_))
        if self._kind == ONE:
            return self.classes_[found.ids[:, 0]]
        return [[str(self.classes_[i]) for i in row if i >= 0] for row in found.ids]

    def decision_function(self, X: Any) -> Csr:
        """Return the scores of the `candidates` best labels of each text, CSR (n, n_labels)."""
        self._kind_fitted()
        found = self.predictor_.predict(_points(X), self.candidates)
        return _matrix(found.ids, found.scores, len(self.classes_))

    def predict_proba(self, X: Any) -> Csr:
        """Return the probabilities of the `candidates` best labels of each text, (n, n_labels).

        Each says how likely that label is right; labels that are not stored count as 0. They come
        from held-out training texts (``docs/confidence.md``).

        Raises:
            ValueError: There were too few of these for probabilities; the message says so.
        """
        self._kind_fitted()
        found = self.predictor_.predict(_points(X), self.candidates)
        if found.probabilities is None:
            raise ValueError(self.predictor_.probabilities_note())
        return _matrix(found.ids, found.probabilities, len(self.classes_))

    def score(self, X: Any, y: Any, sample_weight: None = None) -> float:
        """Return P@1: the share of texts whose first label is right. Unknown labels count as wrong.

        Raises:
            ValueError: `sample_weight` is given.
        """
        if sample_weight is not None:
            raise ValueError("sample_weight is not supported; leave it out")
        self._kind_fitted()
        ids = self.predictor_.predict(_points(X), 1).ids
        if _kind_of(y) == MATRIX:
            truth = data.label_matrix(csr_array(y), len(ids), len(self.classes_))
            return float(evaluate(truth, ids, ["P@1"])["P@1"])
        wanted = [[one] if isinstance(one, str) else list(one) for one in y]
        if len(wanted) != len(ids):
            raise ValueError(f"{len(ids)} texts and labels of {len(wanted)}")
        first = [self.classes_[i] if i >= 0 else None for i in ids[:, 0]]
        return float(np.mean([name in names for name, names in zip(first, wanted, strict=True)]))

    def _kind_fitted(self) -> str:
        if not hasattr(self, "predictor_"):
            raise NotFittedError("this XmcClassifier is not fitted yet; call fit(texts, labels)")
        return self._kind

    def __sklearn_tags__(self) -> Any:
        """Say that texts or sparse rows go in, and that a text may have several labels."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.input_tags.sparse = True
        tags.target_tags.two_d_labels, tags.classifier_tags.multi_label = True, True
        return tags


def _points(X: Any) -> Any:
    """Return what a caller gave as a list of texts, or as CSR rows of features."""
    if issparse(X):
        return csr_array(X)
    if getattr(X, "ndim", 1) == 2 and np.asarray(X).dtype.kind in "biuf":
        raise TypeError(
            f"X is {type(X).__name__}, a dense matrix; give csr_array(X) if its rows are features, "
            "or one column of texts"
        )
    return text_list(X, "X")


def _kind_of(y: Any) -> str:
    if issparse(y) or getattr(y, "ndim", 1) == 2:
        return MATRIX
    if isinstance(y, str | bytes | Mapping) or not hasattr(y, "__len__"):
        raise TypeError(f"y is {type(y).__name__}; give labels for each text, or a matrix")
    listed = y.tolist() if hasattr(y, "tolist") else list(y)
    return ONE if listed and all(isinstance(one, str) for one in listed) else MANY


def _matrix(ids: NDArray[np.int32], values: NDArray[np.float32], n_labels: int) -> Csr:
    """Put values (n, k) at their ids, CSR (n, n_labels); padding is left out."""
    there = ids >= 0
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    matrix = csr_array((values[there], ids[there], indptr), shape=(len(ids), n_labels))
    matrix.sort_indices()
    return matrix
