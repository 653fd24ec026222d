"""Features of points and labels for the bilinear model: words, pairs of words, labels themselves.

A point has the tf-idf of its words and pairs of words. A label has the same of its own text, and if
it has training points one feature more that is its own, so that frequent labels can be learned by
heart. Shared words carry the labels without points. Where a label has parents, such as the concepts
above it in a thesaurus, each is a feature too: labels with a parent in common share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.data import Csr
from dexml.text.lexical import Vectorizer, VectorizerSettings, fit_vectorizer, join_rows
from dexml.text.stop_words import find_stop_words

MAX_SIZE = 100_000
"""Words and pairs of words of points that are kept, those that most texts hold."""
OWN = "__label__"
"""Begins the name of a label's own feature, as in the published files."""
PARENT = "__parent__"
"""Begins the name of the feature of a parent."""


@dataclass(frozen=True, eq=False)
class Parents:
    """What stands above labels. P parents.

    Attributes:
        names: Of the parents, (P,), sorted.
        rows: Inverse document frequency of the parents of each label, (L, P).
    """

    names: tuple[str, ...]
    rows: Csr

    @classmethod
    def of(cls, parents: Sequence[str]) -> Parents | None:
        """Read the parents of each label, names with blanks between; None if no label has any."""
        lists = [sorted(set(one.split())) for one in parents]
        names = sorted({name for one in lists for name in one})
        if not names:
            return None
        column = {name: i for i, name in enumerate(names)}
        columns = np.array([column[name] for one in lists for name in one], np.int32)
        idf = 1 + np.log((1 + len(lists)) / (1 + np.bincount(columns, minlength=len(names))))
        indptr = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
        shape = (len(lists), len(names))
        return cls(
            tuple(names), csr_array((idf[columns].astype(np.float32), columns, indptr), shape)
        )

    def of_labels(self, ids: NDArray[np.integer]) -> Csr:
        """Return the rows of some labels; those of labels that came later are empty."""
        there = np.asarray(ids) < self.rows.shape[0]
        lengths = np.zeros(len(there), np.int64)
        some = csr_array(self.rows[np.asarray(ids)[there]])
        lengths[there] = np.diff(some.indptr)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return csr_array((some.data, some.indices, indptr), shape=(len(there), len(self.names)))


@dataclass(frozen=True, eq=False)
class BilinearFeatures:
    """Turns texts of points and labels into rows. C point features, D label features.

    The words of the labels are features of points too, and the other way round: a word that only
    one side knew in training still matches by its name. So a label that comes later needs no new
    columns.

    Attributes:
        points: Words and pairs of words of points; with single words of labels behind them.
        labels: Words and pairs of words of labels; with single words of points behind them.
        own: Labels with a feature of their own, ascending, (n_own,), int32.
        own_value: Its value before rows are made unit length.
        parents: Of the labels; None: none are known.
    """

    points: Vectorizer
    labels: Vectorizer
    own: NDArray[np.int32]
    own_value: float
    parents: Parents | None = None

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        label_texts: Sequence[str],
        own: NDArray[np.integer],
        *,
        stemmer: str | None = "english",
        max_size: int | None = MAX_SIZE,
        parents: Sequence[str] | None = None,
    ) -> BilinearFeatures:
        """Collect the words of points and labels.

        Args:
            texts: Texts of the training points.
            label_texts: Texts of all labels.
            own: Ids of the labels that get a feature of their own: those with training points.
            stemmer: A Snowball stemmer; None: words as they are.
            max_size: Words and pairs of words of points that are kept.
            parents: Of each label, names with blanks between.
        """
        settings = VectorizerSettings(
            sizes=(1, 2),
            stemmer=stemmer,
            stop_words=find_stop_words(texts),
            max_df=0.5,
            max_size=max_size,
            sublinear=False,
            unit=False,
        )
        points = fit_vectorizer(texts, settings)
        labels = fit_vectorizer(label_texts, replace(settings, max_size=None))
        words = [labels.token(i) for i in range(labels.n_tokens)]
        idf = _idf(labels)
        single = np.array([" " not in word for word in words], bool)
        own_value = float(idf[single].max(initial=1.0))
        more = [w for w in words if " " not in w and points.column(w) is None]
        other = (points.token(i) for i in range(points.n_tokens))
        also = [w for w in other if " " not in w and labels.column(w) is None]
        return cls(
            points.with_tokens(more),
            labels.with_tokens(also),
            np.sort(np.asarray(own)).astype(np.int32),
            own_value,
            None if parents is None else Parents.of(parents),
        )

    @property
    def n_label_features(self) -> int:
        """D."""
        return self.labels.n_tokens + len(self.own) + self._n_parents

    @property
    def _n_parents(self) -> int:
        return 0 if self.parents is None else len(self.parents.names)

    @cached_property
    def direct(self) -> NDArray[np.int32]:
        """For each label feature the point feature of the same name, or -1, (D,)."""
        (_, labels), (_, points) = self.labels.core, self.points.core
        others = len(self.own) + self._n_parents
        return np.append(labels.ids_in(points), np.full(others, -1, np.int32))

    def of_points(self, texts: Sequence[str], *, num_threads: int | None = None) -> Csr:
        """Return the rows of points, (n, C), of unit length."""
        return join_rows([self.points.rows(texts, num_threads=num_threads)])

    def of_labels(self, texts: Sequence[str], ids: NDArray[np.integer]) -> Csr:
        """Return the rows of the labels `ids` with these texts, (n, D), of unit length.

        A label without a known word, a feature of its own or a parent has an empty row.
        """
        at = np.searchsorted(self.own, ids)
        known = at < len(self.own)
        known[known] = self.own[at[known]] == np.asarray(ids)[known]
        indptr = np.concatenate([[0], np.cumsum(known)])
        values = np.full(int(known.sum()), self.own_value, np.float32)
        own = csr_array((values, at[known], indptr), shape=(len(ids), len(self.own)))
        above = [] if self.parents is None else [self.parents.of_labels(ids)]
        return join_rows([self.labels.rows(texts), own, *above])

    def point_name(self, column: int) -> str:
        """Return the name of a point feature."""
        return self.points.token(column)

    def label_name(self, column: int, label_texts: Sequence[str]) -> str:
        """Return the name of a label feature."""
        if column < self.labels.n_tokens:
            return self.labels.token(column)
        column -= self.labels.n_tokens
        if self.parents is not None and column >= len(self.own):
            return PARENT + self.parents.names[column - len(self.own)]
        label = int(self.own[column])
        return f"{OWN}{label}__{label_texts[label]}"


def _idf(vectorizer: Vectorizer) -> NDArray[np.float64]:
    return 1 + np.log((1 + vectorizer.n_texts) / (1 + vectorizer.df))
