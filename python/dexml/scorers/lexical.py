"""The lexical scorer: words and pieces of words that a text shares with points and labels.

Every text becomes sparse rows (`dexml.scorers.lexicon`). Evidence for a label: the nearest points
that have it, the centroid of its points, and its own text. It follows edits at once: a new label
is found by its text, a new point votes and moves the centroids of its labels, and both bring along
words that are new.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from dexml import _rust, data
from dexml.data import Csr, csr_parts
from dexml.data.parts import canonical
from dexml.index import Hits
from dexml.run import LabelSet, require
from dexml.scorers.candidates import Candidates
from dexml.scorers.cooccurrence import top_of
from dexml.scorers.lexicon import PREFIX, Lexicon, TextRows
from dexml.scorers.meanings import Group, Meaning, Terms
from dexml.scorers.points import entries, positives_of, widened
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change
from dexml.scorers.searched import Searched, longer, matrix_part, with_rows
from dexml.scorers.votes import Voters
from dexml.sealed import Part, Sealed
from dexml.text.lexical import (
    Also,
    Pattern,
    join_rows,
    label_centroids,
    pair_scores,
    vote_shares,
)

CENTROID_TERMS = 256
"""Largest weights that are kept of a label's centroid."""
NEIGHBOURS = 50
"""Training points that vote on a text."""
TEXT_WEIGHT, VOTE_WEIGHT = 0.3, 0.2
"""Of the label's text and of the votes in the score, beside the centroid: of 0 to 1, the best or
nearly so on the validation parts of LF-TIBSubjects, LF-DebianRelated and DebTags."""
PROPOSED = {"base": 100, "centroid": 60, "votes": 50, "text": 40, "name": 20}
"""Labels that each kind of evidence proposes for a text."""


@dataclass(frozen=True, eq=False)
class LexicalScorer:
    """Scores a label by ``centroid + 0.3 text + 0.2 votes``, and gives the evidence one by one.

    It finds the labels that share a term with the text, in their own text or in that of a point.

    Attributes:
        lexicon: Makes rows of texts.
        points: Joined rows of the points, (N, terms).
        y: Their labels, (N, n_labels); stored entries are positives.
        centroids: Mean of the points of each label, (n_labels, terms), cut to its largest weights.
        words: Word rows of the labels' texts, (n_labels, terms).
        chars: The same of pieces of words.
        alive: False for removed labels, shape (n_labels,).
    """

    lexicon: Lexicon
    points: Searched
    y: Csr
    centroids: Csr
    words: Searched
    chars: Searched
    alive: NDArray[np.bool_]

    @classmethod
    def fit(cls, texts: Sequence[str], y: Csr, labels: LabelSet, lexicon: Lexicon) -> LexicalScorer:
        """Build the evidence of training points.

        Args:
            texts: Texts of the points.
            y: Their labels, shape (n, n_labels); entries above 0 are positives.
            labels: The labels.
            lexicon: Fitted on texts of points and labels.
        """
        own = lexicon.rows(labels.texts)
        words, chars = Searched(own.text), Searched(own.chars)
        del own
        points = lexicon.joined(texts)
        y = positives_of(y, len(texts))
        centroids = label_centroids(points, y, max_terms=CENTROID_TERMS)
        return cls(lexicon, Searched(points), y, centroids, words, chars, labels.alive)

    @property
    def n_labels(self) -> int:
        """The next label id."""
        return len(self.alive)

    @property
    def n_points(self) -> int:
        """Number of points that vote."""
        return int(self.y.shape[0])

    @property
    def base(self) -> Csr:
        """What centroid and text are scored by: their rows side by side, (n_labels, terms + words).

        The centroids are multiplied by n / (n + 1), for few points say little, and the texts by
        their weight in the score.
        """
        return self._base.rows

    def prepare(self) -> None:
        """Build all indexes now rather than with the first search."""
        for rows in (self._base, self.points, self.words, self.chars):
            rows.prepare()

    @cached_property
    def _base(self) -> Searched:
        counts = np.bincount(self.y.indices, minlength=self.n_labels)
        factor = (counts / (counts + 1)).astype(np.float32)
        values = self.centroids.data * np.repeat(factor, np.diff(self.centroids.indptr))
        centroids, shape = self.centroids, self.centroids.shape
        shrunk = csr_array((values, centroids.indices, centroids.indptr), shape)
        return Searched(join_rows([shrunk, self.words.rows], [1.0, TEXT_WEIGHT], unit=False))

    def _for_centroid(self, rows: TextRows) -> Csr:
        """Rows whose inner product with those of `base` is the score by centroid alone."""
        return widened(rows.joined, self.base.shape[1])

    def _asked(self, queries: Queries) -> Csr:
        rows = self.lexicon.rows_of(queries)
        return queries.once(
            (self.lexicon, "base"), lambda: join_rows([rows.joined, rows.text], unit=False)
        )

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels of each text; labels without any evidence are not found."""
        # A ranker asks for candidates, and again for the best of them.
        ids, scores = self._found(queries, max(k, PROPOSED["base"]), exclude, only)[0]
        return np.ascontiguousarray(ids[:, :k]), np.ascontiguousarray(scores[:, :k])

    def _found(
        self, queries: Queries, k: int, exclude: Csr | None, only: NDArray[np.bool_] | None
    ) -> tuple[Hits, Hits]:
        """Search by all evidence, and by centroid alone: its columns are the first ones."""

        def make() -> tuple[object, tuple[Hits, Hits]]:
            found = self._base.index.search_both(
                self._asked(queries),
                k,
                PROPOSED["centroid"],
                self.lexicon.n_joined,
                exclude=exclude,
                only=self._mask(only),
                votes=self.votes(queries)[0],
                weight=VOTE_WEIGHT,
            )
            return (exclude, only), found

        # The result holds what it depends on, so that no later object can get its id.
        return queries.once((self, "found", k, id(exclude), id(only)), make)[1]

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text; -inf for padding and removed labels."""
        known = (ids >= 0) & (ids < self.n_labels)
        known[known] = self.alive[ids[known]]
        wanted = np.where(known, ids, -1).astype(np.int32)
        base = pair_scores(self._asked(queries), self._base.rows, wanted)
        return _voted(base, entries(self.votes(queries)[0], wanted))

    def votes(self, queries: Queries) -> tuple[Csr, NDArray[np.float32]]:
        """Let the nearest points vote: votes for each label, (n, n_labels), and the best cosine.

        A neighbour's share of the vote is the cube of its cosine, over the sum of the cubes.
        """

        def make() -> tuple[Csr, NDArray[np.float32]]:
            ids, cosines = self._nearest(queries)
            sums = _rust.vote_sums(ids, vote_shares(cosines), self._positives, self.n_labels)
            return canonical((len(ids), self.n_labels), *sums), cosines[:, 0]

        return queries.once((self, "votes"), make)

    @cached_property
    def _positives(self) -> Pattern:
        """Row pointers and ids of the points' labels, as the core takes them."""
        return csr_parts(positives_of(self.y, self.n_points), "y")[:2]

    def _nearest(self, queries: Queries) -> Hits:
        def make() -> Hits:
            rows = self.lexicon.rows_of(queries).joined
            ids, cosines = self.points.index.search(rows, NEIGHBOURS)
            return ids, np.where(ids >= 0, cosines, np.float32(0))

        return queries.once((self, "nearest"), make)

    def voters(self, queries: Queries) -> Voters:
        """Find the points that vote on each text."""
        ids, cosines = self._nearest(queries)
        return Voters(ids, cosines, vote_shares(cosines))

    def propose(
        self,
        queries: Queries,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        unseen: Also | None = None,
    ) -> list[NDArray[np.int32]]:
        """Propose the labels that each kind of evidence finds, (n, width) padded with -1.

        Of those in `unseen`, k by their own text and half as many by pieces of its words.
        """
        rows, mask = self.lexicon.rows_of(queries), self._mask(only)

        def nearest(own: Csr, theirs: Searched, kind: str, part: int) -> NDArray[np.int32]:
            also = None if unseen is None else (-(-unseen[0] // part), unseen[1])
            k = PROPOSED[kind]
            return theirs.index.search(own, k, exclude=exclude, only=mask, also=also)[0]

        best, by_centroid = self._found(queries, PROPOSED["base"], exclude, only)
        return [
            best[0],
            by_centroid[0],
            top_of(self.votes(queries)[0], PROPOSED["votes"], exclude, mask),
            nearest(rows.text, self.words, "text", 1),
            nearest(rows.chars, self.chars, "name", 2),
        ]

    def features(self, queries: Queries, pairs: Candidates) -> dict[str, NDArray[np.float32]]:
        """Give a ranker the evidence for each pair, by name, each of shape (n_pairs,)."""
        rows = self.lexicon.rows_of(queries)
        votes, nearest = self.votes(queries)
        vote = pairs.values_of(votes)
        centroid, text, name = (
            theirs.scores(own, pairs)
            for own, theirs in (
                (self._for_centroid(rows), self._base),
                (rows.text, self.words),
                (rows.chars, self.chars),
            )
        )
        base = _voted(centroid + np.float32(TEXT_WEIGHT) * text, vote)
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

    def meanings(self) -> Mapping[str, Meaning]:
        """Return what the evidence means."""
        return _MEANINGS if self.lexicon.knows == "words" else _OF_FEATURES

    def terms(self, queries: Queries, ids: NDArray[np.int32]) -> Terms:
        """Return what the score is the sum of."""
        rows = self.lexicon.rows_of(queries)
        return {
            "centroid": (1.0, pair_scores(self._for_centroid(rows), self.base, ids)),
            "text": (TEXT_WEIGHT, pair_scores(rows.text, self.words.rows, ids)),
            "votes": (VOTE_WEIGHT, entries(self.votes(queries)[0], ids)),
        }

    def update(self, change: Change) -> LexicalScorer:
        """Return this scorer after an edit of labels or points."""
        return change.once(self, lambda: self._after(change))

    def _after(self, change: Change) -> LexicalScorer:
        labels, points = change.labels, change.points
        ids = np.concatenate([change.added, change.updated]).astype(np.int64)
        texts = [labels.texts[i] for i in ids]
        lexicon = self.lexicon.with_texts([*texts, *(points.texts if points is not None else ())])
        words, chars = self.words.wider(lexicon.n_text), self.chars
        if len(ids):
            fresh = lexicon.rows(texts)
            words = Searched(with_rows(words.rows, len(labels), ids, fresh.text))
            chars = Searched(with_rows(chars.rows, len(labels), ids, fresh.chars))
        after = replace(
            self,
            lexicon=lexicon,
            points=self.points.wider(lexicon.n_joined),
            y=widened(self.y, len(labels)),
            centroids=longer(widened(self.centroids, lexicon.n_joined), len(labels)),
            words=words,
            chars=chars,
            alive=labels.alive,
        )
        if points is None or change.y is None:
            return after
        return after._with_points(lexicon.rows_of(points).joined, change.y)

    def _with_points(self, joined: Csr, y: Csr) -> LexicalScorer:
        """Append points; the centroids of their labels move."""
        more = widened(positives_of(y, joined.shape[0]), self.n_labels)
        points = csr_array(vstack([self.points.rows, joined], format="csr"))
        y = csr_array(vstack([self.y, more], format="csr"))
        touched = np.unique(more.indices).astype(np.int64)
        moved = label_centroids(points, csr_array(y[:, touched]), max_terms=CENTROID_TERMS)
        centroids = with_rows(self.centroids, self.n_labels, touched, moved)
        return replace(self, points=Searched(points), y=y, centroids=centroids)

    def with_labels(self, labels: LabelSet) -> LexicalScorer:
        """Return this scorer for the first of its labels, with the texts that they have now."""
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
            words=Searched(own.text),
            chars=Searched(own.chars),
            alive=labels.alive,
        )

    def facts(self) -> dict[str, Any]:
        """Return the settings of the lexicon, and the number of points."""
        return {"lexical": {**self.lexicon.facts(), "n_points": self.n_points}}

    def parts(self) -> Mapping[str, Part]:
        """Return the lexicon, the points and their labels, and the labels' rows as files."""
        matrices = {
            "points": self.points.rows,
            "positives": self.y,
            "centroids": self.centroids,
            "label_words": self.words.rows,
            "label_chars": self.chars.rows,
        }
        rows = {PREFIX + role: matrix_part(matrix) for role, matrix in matrices.items()}
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
            roles = ("points", "positives", "centroids", "label_words", "label_chars")
            paths = [state.path(PREFIX + role) for role in roles]
            # Each is unpacked by one thread; another thread does not know what this one may use.
            n = _rust.default_threads()
            with ThreadPoolExecutor(n, "", _rust.set_default_threads, (n,)) as pool:
                loading = pool.map(data.load_scores, paths)
                lexicon = Lexicon.restore(state, facts)
                points, y, centroids, words, chars = loading
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise state.damaged(str(error)) from None
        n, n_points = len(labels), facts["n_points"]
        shapes = [
            (points, (n_points, lexicon.n_joined)),
            (y, (n_points, n)),
            (centroids, (n, lexicon.n_joined)),
            (words, (n, lexicon.n_text)),
            (chars, (n, lexicon.chars.n_tokens)),
        ]
        for matrix, shape in shapes:
            if matrix.shape != shape:
                raise state.damaged(f"lexical rows of shape {matrix.shape}, expected {shape}")
        return cls(
            lexicon,
            Searched(points),
            y,
            centroids,
            Searched(words),
            Searched(chars),
            labels.alive,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return nothing: scores depend on the files of the run alone."""
        return {}

    def note(self, k: int) -> str:
        """Say what is compared."""
        return (
            f"{self.lexicon.knows}, {int(self.alive.sum())} labels, {self.n_points} training points"
        )

    def _mask(self, only: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        if only is not None:
            return only & self.alive
        return None if self._all_alive else self.alive

    @cached_property
    def _all_alive(self) -> bool:
        return bool(self.alive.all())


_MEANINGS = {
    "lexical": Meaning(Group.WORDS, "centroid + 0.3 text + 0.2 votes"),
    "lexical gap": Meaning(Group.WORDS, "lexical less that of the best candidate"),
    "lexical rank": Meaning(Group.WORDS, "-ln(1 + rank by lexical among the candidates)"),
    "centroid": Meaning(Group.WORDS, "words shared with the mean of the label's points"),
    "centroid gap": Meaning(Group.WORDS, "centroid less that of the best candidate"),
    "centroid rank": Meaning(Group.WORDS, "-ln(1 + rank by centroid among the candidates)"),
    "text": Meaning(Group.WORDS, "words shared with the label's own text"),
    "text rank": Meaning(Group.WORDS, "-ln(1 + rank by text among the candidates)"),
    "name": Meaning(Group.WORDS, "pieces of words shared with the label's own text"),
    "name rank": Meaning(Group.WORDS, "-ln(1 + rank by name among the candidates)"),
    "votes": Meaning(Group.BY_WORDS, "share of the vote of the nearest points by words"),
    "log votes": Meaning(Group.BY_WORDS, "ln(1 + 100 votes)"),
    "votes rank": Meaning(Group.BY_WORDS, "-ln(1 + rank by votes among the candidates)"),
    "nearest": Meaning(Group.BY_WORDS, "cosine of the nearest point, the same for all labels"),
}
_OF_FEATURES = {
    name: Meaning(of.group, re.sub("(pieces of )?words", "features", of.words))
    for name, of in _MEANINGS.items()
}
"""The same for points that are rows of features."""


def _voted(base: NDArray[np.float32], votes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add votes to the scores of centroid and text."""
    return np.asarray(base + np.float32(VOTE_WEIGHT) * votes, np.float32)
