"""The lexical scorer: words and pieces of words that a text shares with points and labels.

Every text becomes three sparse rows: words (tf-idf of words and pairs of words), characters
(tf-idf of character n-grams of its beginning), and both joined. Evidence for a label: the nearest
training points that have it, the centroid of its training points, and its own text. It follows
edits at once: a new label has its text, a new point votes and moves the centroids of its labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from dexml import data
from dexml.data import Csr
from dexml.files import write_array
from dexml.index import Hits
from dexml.run import LabelSet, require
from dexml.scorers.candidates import Candidates
from dexml.scorers.cooccurrence import top_of
from dexml.scorers.points import positives_of, widened
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change
from dexml.sealed import Part, Sealed
from dexml.text.lexical import (
    LexicalIndex,
    Vectorizer,
    VectorizerSettings,
    fit_vectorizer,
    join_rows,
    label_centroids,
    neighbour_votes,
    open_vectorizer,
    pair_scores,
)

PREFIX = "lexical/"
CENTROID_TERMS = 256
"""Largest weights that are kept of a label's centroid."""
CHAR_WEIGHT = 0.7
"""Of characters beside words in the joined rows."""
WORDS = VectorizerSettings(sizes=(1, 2), min_df=2)
CHARS = VectorizerSettings(grams="chars", sizes=(2, 5), min_df=2, max_chars=80, max_size=300_000)
NEIGHBOURS = 50
"""Training points that vote on a text."""
TEXT_WEIGHT = 0.3
"""Of the label's text in the score, beside the centroid."""
PROPOSED = {"base": 100, "centroid": 60, "votes": 50, "text": 40, "name": 20}
"""Labels that each kind of evidence proposes for a text."""


class TextRows(NamedTuple):
    """Sparse rows of some texts, each (n, number of terms), float32, unit length."""

    words: Csr
    chars: Csr
    joined: Csr


@dataclass(frozen=True, eq=False)
class Lexicon:
    """What turns texts into rows: words and pairs of words, and characters of the beginning."""

    words: Vectorizer
    chars: Vectorizer

    @classmethod
    def fit(cls, texts: list[str]) -> Lexicon:
        """Collect words and character n-grams of texts of points and labels."""
        return cls(fit_vectorizer(texts, WORDS), fit_vectorizer(texts, CHARS))

    def rows(self, texts: list[str]) -> TextRows:
        """Sparse rows of texts."""
        words, chars = self.words.rows(texts), self.chars.rows(texts)
        return TextRows(words, chars, join_rows([words, chars], [1.0, CHAR_WEIGHT]))

    def facts(self) -> dict[str, Any]:
        """Plain values for the manifest of a run."""
        return {
            name: {"n_texts": one.n_texts, "settings": asdict(one.settings)}
            for name, one in (("words", self.words), ("chars", self.chars))
        }

    def parts(self) -> dict[str, Part]:
        """Tokens and document frequencies."""
        parts = {}
        for name, one in (("words", self.words), ("chars", self.chars)):
            parts[f"{PREFIX}{name}_tokens"] = _tokens_part(one)
            parts[f"{PREFIX}{name}_df"] = _frequencies_part(one)
        return parts

    @classmethod
    def restore(cls, state: Sealed, facts: Mapping[str, Any]) -> Lexicon:
        """Read what `parts` wrote; `facts` as of `facts`."""
        found = {}
        for name in ("words", "chars"):
            known = facts[name]
            settings: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in known["settings"].items()
            }
            found[name] = open_vectorizer(
                VectorizerSettings(**settings),
                state.path(f"{PREFIX}{name}_tokens"),
                state.array(f"{PREFIX}{name}_df", np.int64, (None,)),
                known["n_texts"],
            )
        return cls(**found)


@dataclass(frozen=True, eq=False)
class LexicalScorer:
    """Scores a label by its centroid and its text, and gives the evidence for it one by one.

    Attributes:
        lexicon: Makes rows of texts.
        points: Joined rows of the training points, (N, V).
        y: Their labels, (N, n_labels); stored entries are positives.
        centroids: Mean of the points of each label, (n_labels, V), cut to its largest weights.
        words: Rows of the labels' texts, (n_labels, terms).
        chars: The same for characters.
        alive: False for removed labels, shape (n_labels,).
    """

    lexicon: Lexicon
    points: Csr
    y: Csr
    centroids: Csr
    words: Csr
    chars: Csr
    alive: NDArray[np.bool_]

    @classmethod
    def fit(cls, texts: list[str], y: Csr, labels: LabelSet, lexicon: Lexicon) -> LexicalScorer:
        """Build the evidence of training points.

        Args:
            texts: Texts of the points.
            y: Their labels, shape (n, n_labels); entries above 0 are positives.
            labels: The labels.
            lexicon: Fitted on texts of points and labels.
        """
        points, own = lexicon.rows(texts).joined, lexicon.rows(labels.texts)
        y = positives_of(y, len(texts))
        centroids = label_centroids(points, y, max_terms=CENTROID_TERMS)
        return cls(lexicon, points, y, centroids, own.words, own.chars, labels.alive)

    @property
    def n_labels(self) -> int:
        """The next label id."""
        return len(self.alive)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Training points of each label."""
        return np.bincount(self.y.indices, minlength=self.n_labels)

    @cached_property
    def _shrunk(self) -> Csr:
        """Centroids times n / (n + 1): few points say little."""
        factor = (self.counts / (self.counts + 1)).astype(np.float32)
        data_ = self.centroids.data * np.repeat(factor, np.diff(self.centroids.indptr))
        return csr_array(
            (data_, self.centroids.indices, self.centroids.indptr), self.centroids.shape
        )

    @cached_property
    def _base(self) -> Csr:
        """Rows whose inner product with a text's joined and word rows is the score."""
        return join_rows([self._shrunk, self.words], [1.0, TEXT_WEIGHT], unit=False)

    @cached_property
    def _base_index(self) -> LexicalIndex:
        return LexicalIndex(self._base)

    @cached_property
    def _centroid_index(self) -> LexicalIndex:
        return LexicalIndex(self._shrunk)

    @cached_property
    def _point_index(self) -> LexicalIndex:
        return LexicalIndex(self.points)

    @cached_property
    def _word_index(self) -> LexicalIndex:
        return LexicalIndex(self.words)

    @cached_property
    def _char_index(self) -> LexicalIndex:
        return LexicalIndex(self.chars)

    def rows(self, queries: Queries) -> TextRows:
        """Sparse rows of the texts, made once."""
        return queries.once((self.lexicon, "rows"), lambda: self.lexicon.rows(queries.texts))

    def _asked(self, queries: Queries) -> Csr:
        """What meets the rows of `_base`."""
        rows = self.rows(queries)
        return queries.once(
            (self.lexicon, "base"),
            lambda: join_rows([rows.joined, rows.words], unit=False),
        )

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels by centroid and text; labels without a common term are not."""
        mask = self._mask(only)
        return self._base_index.search(self._asked(queries), k, exclude=exclude, only=mask)

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text; -inf for padding and removed labels."""
        known = (ids >= 0) & (ids < self.n_labels)
        known[known] = self.alive[ids[known]]
        wanted = np.where(known, ids, -1).astype(np.int32)
        return pair_scores(self._asked(queries), self._base, wanted)

    def votes(self, queries: Queries) -> tuple[Csr, NDArray[np.float32]]:
        """Votes of the nearest points for each label, (n, n_labels), and the nearest cosine (n,).

        Shares of a vote are the cubes of the cosines over their sum.
        """

        def make() -> tuple[Csr, NDArray[np.float32]]:
            ids, cosines = self._point_index.search(self.rows(queries).joined, NEIGHBOURS)
            cosines = np.where(ids >= 0, cosines, 0)
            return neighbour_votes(ids, cosines, self.y), cosines[:, 0]

        return queries.once((self, "votes"), make)

    def propose(
        self,
        queries: Queries,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> list[NDArray[np.int32]]:
        """Labels that each kind of evidence finds, (n, width) padded with -1."""
        rows, mask = self.rows(queries), self._mask(only)
        votes = top_of(self.votes(queries)[0], PROPOSED["votes"], exclude, mask)
        return [
            self.search(queries, PROPOSED["base"], exclude=exclude, only=only)[0],
            self._centroid_index.search(
                rows.joined, PROPOSED["centroid"], exclude=exclude, only=mask
            )[0],
            votes,
            self._word_index.search(rows.words, PROPOSED["text"], exclude=exclude, only=mask)[0],
            self._char_index.search(rows.chars, PROPOSED["name"], exclude=exclude, only=mask)[0],
        ]

    def features(self, queries: Queries, pairs: Candidates) -> dict[str, NDArray[np.float32]]:
        """The evidence for each pair, by name, each of shape (n_pairs,)."""
        rows = self.rows(queries)
        votes, nearest = self.votes(queries)
        vote = pairs.values_of(votes)
        centroid, text, name = (
            pair_scores(own, theirs, pairs.matrix).data
            for own, theirs in (
                (rows.joined, self._shrunk),
                (rows.words, self.words),
                (rows.chars, self.chars),
            )
        )
        base = centroid + np.float32(TEXT_WEIGHT) * text
        return {
            "lexical": base,
            "lexical gap": base - pairs.largest(base),
            "lexical rank": pairs.ranks(base),
            "votes": vote,
            "log votes": np.log1p(100 * vote),
            "votes rank": pairs.ranks(vote),
            "nearest": nearest[pairs.rows],
            "centroid": centroid,
            "centroid gap": centroid - pairs.largest(centroid),
            "centroid rank": pairs.ranks(centroid),
            "text": text,
            "text rank": pairs.ranks(text),
            "name": name,
            "name rank": pairs.ranks(name),
        }

    def update(self, change: Change) -> LexicalScorer:
        """This scorer after an edit of labels or points."""
        labels = change.labels
        words, chars, y, points = self.words, self.chars, self.y, self.points
        if len(change.added) or len(change.updated):
            ids = np.concatenate([change.added, change.updated]).astype(np.int64)
            texts = [labels.texts[i] for i in ids]
            fresh = self.lexicon.rows(texts)
            words = _with_rows(words, len(labels), ids, fresh.words)
            chars = _with_rows(chars, len(labels), ids, fresh.chars)
        centroids = widened_rows(self.centroids, len(labels))
        y = widened(y, len(labels))
        if change.points is not None and change.y is not None:
            joined = self.rows(change.points).joined
            more = positives_of(change.y, len(change.points))
            points = csr_array(vstack([points, joined], format="csr"))
            y = csr_array(vstack([y, widened(more, len(labels))], format="csr"))
            touched = np.unique(more.indices).astype(np.int64)
            moved = label_centroids(points, csr_array(y[:, touched]), max_terms=CENTROID_TERMS)
            centroids = _with_rows(centroids, len(labels), touched, moved)
        return replace(
            self,
            points=points,
            y=y,
            centroids=centroids,
            words=words,
            chars=chars,
            alive=labels.alive,
        )

    def with_labels(self, labels: LabelSet) -> LexicalScorer:
        """This scorer for other labels, the first of those it has, with the texts they have now."""
        n, own = len(labels), self.lexicon.rows(labels.texts)
        inside = self.y.indices < n
        indptr = np.concatenate([[0], np.cumsum(inside)])[self.y.indptr]
        y = csr_array(
            (self.y.data[inside], self.y.indices[inside], indptr), shape=(len(indptr) - 1, n)
        )
        return replace(
            self,
            y=y,
            centroids=csr_array(self.centroids[:n]),
            words=own.words,
            chars=own.chars,
            alive=labels.alive,
        )

    def facts(self) -> dict[str, Any]:
        """Settings of the lexicon."""
        return {"lexical": {**self.lexicon.facts(), "n_points": int(self.points.shape[0])}}

    def parts(self) -> Mapping[str, Part]:
        """The lexicon, the points and their labels, the labels' rows."""
        matrices = {
            "points": self.points,
            "positives": self.y,
            "centroids": self.centroids,
            "label_words": self.words,
            "label_chars": self.chars,
        }
        rows = {PREFIX + role: _matrix_part(matrix) for role, matrix in matrices.items()}
        return self.lexicon.parts() | rows

    @classmethod
    def restore(cls, state: Sealed, labels: LabelSet) -> LexicalScorer | None:
        """Open the lexical scorer of a run whose bytes were checked; None if it has none.

        Raises:
            ValueError: The parts do not fit together.
        """
        if "lexical" not in state.facts:
            return None
        facts = require(state, "lexical", {"n_points": int})
        try:
            lexicon = Lexicon.restore(state, facts)
            points, y, centroids, words, chars = (
                data.load_scores(state.path(PREFIX + role))
                for role in ("points", "positives", "centroids", "label_words", "label_chars")
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise state.damaged(str(error)) from None
        n, n_points = len(labels), facts["n_points"]
        n_words, n_chars = lexicon.words.n_tokens, lexicon.chars.n_tokens
        shapes = [
            (points, (n_points, n_words + n_chars)),
            (y, (n_points, n)),
            (centroids, (n, n_words + n_chars)),
            (words, (n, n_words)),
            (chars, (n, n_chars)),
        ]
        for matrix, shape in shapes:
            if matrix.shape != shape:
                raise state.damaged(f"lexical rows of shape {matrix.shape}, expected {shape}")
        return cls(lexicon, points, y, centroids, words, chars, labels.alive)

    def fingerprint(self) -> dict[str, Any]:
        """Nothing beside the files of the run."""
        return {}

    def note(self, k: int) -> str:
        """Say what is compared."""
        return f"words, {int(self.alive.sum())} labels, {self.points.shape[0]} training points"

    def _mask(self, only: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        if only is not None:
            return only & self.alive
        return None if self.alive.all() else self.alive


def _frequencies_part(vectorizer: Vectorizer) -> Part:
    return Part(lambda path: write_array(path, vectorizer.df), ".npy", (vectorizer, "df"))


def _tokens_part(vectorizer: Vectorizer) -> Part:
    return Part(lambda path: path.write_bytes(vectorizer.tokens()), ".txt", (vectorizer, "tokens"))


def widened_rows(matrix: Csr, n_rows: int) -> Csr:
    """The same rows, and empty ones behind them."""
    more = n_rows - matrix.shape[0]
    if not more:
        return matrix
    indptr = np.concatenate([matrix.indptr, np.full(more, matrix.indptr[-1])])
    return csr_array((matrix.data, matrix.indices, indptr), shape=(n_rows, matrix.shape[1]))


def _with_rows(matrix: Csr, n_rows: int, rows: NDArray[np.int64], fresh: Csr) -> Csr:
    """A matrix of `n_rows` rows in which `rows` are replaced."""
    source = np.arange(n_rows)
    source[rows] = n_rows + np.arange(len(rows))
    both = csr_array(vstack([widened_rows(matrix, n_rows), fresh], format="csr"))
    return csr_array(both[source])


def _matrix_part(matrix: Csr) -> Part:
    return Part(lambda path: data.save_scores(path, matrix), ".npz", (matrix,))
