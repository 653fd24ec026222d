"""The bilinear scorer: which words of a text speak for which words of a label (ZestXML).

A weight for pairs of a word of the text and a word of the label, or the label itself, learned from
the training points (`dexml.text.bilinear`). It scores labels without training points by their
words, and follows edits of labels at once: a new label is a new row. Points that are added do not
change it. It abstains on labels without a feature: no known word and no training point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust, data
from dexml.data import Csr, CsrParts
from dexml.files import write_array
from dexml.index import Hits
from dexml.run import LabelSet, require
from dexml.scorers.candidates import Candidates
from dexml.scorers.lexicon import restore_vectorizer, vectorizer_facts, vectorizer_parts
from dexml.scorers.meanings import Group, Meaning, Terms
from dexml.scorers.provenance import source_of
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change
from dexml.scorers.searched import Searched, matrix_part, with_rows
from dexml.sealed import Part, Sealed, array_part
from dexml.text.bilinear import (
    BilinearFeatures,
    BilinearModel,
    BilinearSettings,
    Parents,
    fit_bilinear,
)
from dexml.text.lexical import Also, feature_parts

PREFIX = "bilinear/"
PROPOSED = {"best": 60, "found": 60}
"""Labels that are proposed for a text: by score, and by the first weights alone."""


@dataclass(frozen=True, eq=False)
class BilinearScorer:
    """Scores a label by ``score_alpha b + (1 - score_alpha) k``.

    b rises with the fitted ``x' W z + bias``, from 0 to 1, and k is the inner product of the
    features that text and label share by name.

    Attributes:
        vocabulary: Turns texts into rows.
        model: The weights.
        labels: Rows of the labels, (n_labels, D).
        alive: False for removed labels, shape (n_labels,).
        source: Hash of all that the weights were fitted from: equal hashes, equal weights.
    """

    vocabulary: BilinearFeatures
    model: BilinearModel
    labels: Searched
    alive: NDArray[np.bool_]
    source: str = ""

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        y: Csr,
        labels: LabelSet,
        *,
        seed: int,
        settings: BilinearSettings | None = None,
        vocabulary: BilinearFeatures | None = None,
        parents: Sequence[str] | None = None,
        known: BilinearScorer | None = None,
        num_threads: int | None = None,
    ) -> BilinearScorer:
        """Train on points, unless `known` has the weights.

        Args:
            texts: Texts of the points.
            y: Their labels, shape (n, n_labels); stored entries are positives.
            labels: The labels.
            seed: Of the order in which the solver visits points.
            settings: Default: `BilinearSettings`.
            vocabulary: Default: of the points and labels, English words stemmed.
            parents: Of each label, names with blanks between; for the default vocabulary.
            known: Weights fitted before.
            num_threads: Threads; the result does not depend on it.
        """
        seen = np.flatnonzero(np.bincount(y.indices, minlength=len(labels)))
        vocabulary = vocabulary or BilinearFeatures.fit(texts, labels.texts, seen, parents=parents)
        settings = settings or BilinearSettings()
        x = vocabulary.of_points(texts)
        z = vocabulary.of_labels(labels.texts, np.arange(len(labels)))
        tokens = [vocabulary.points.tokens(), vocabulary.labels.tokens()]
        source = source_of(asdict(settings), seed, tokens, [x, z], y)
        if known is not None and known.source == source:
            model = known.model
        else:
            model = fit_bilinear(
                x, z, y, vocabulary.direct, settings, seed=seed, num_threads=num_threads
            )
        return cls(vocabulary, model, Searched(z), labels.alive, source)

    @property
    def n_labels(self) -> int:
        """The next label id."""
        return len(self.alive)

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Labels that are alive and have a feature: the others are never found."""
        return np.asarray(self.alive & (np.diff(self.labels.rows.indptr) > 0), np.bool_)

    @cached_property
    def _rows(self) -> CsrParts:
        return feature_parts(self.labels.rows, "labels")

    def _asked(self, queries: Queries) -> Csr:
        return queries.once(
            (self.vocabulary.points, "rows"), lambda: self.vocabulary.of_points(queries.texts)
        )

    def found(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k labels that the first weights rank highest."""

        def make() -> tuple[object, Hits]:
            mask = self.known if only is None else self.known & only
            x = self._asked(queries)
            hits = self.model.find(x, self.labels.index, width, exclude=exclude, only=mask)
            return (exclude, only), hits

        width = max(k, self.model.settings.shortlist)
        ids, sums = queries.once((self, "found", width, id(exclude), id(only)), make)[1]
        return np.ascontiguousarray(ids[:, :k]), np.ascontiguousarray(sums[:, :k])

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels of each text among those that the first weights find."""
        width = max(k, self.model.settings.shortlist)
        found, _ = self.found(queries, width, exclude=exclude, only=only)
        pairs = Candidates.union([found], self.n_labels)
        scores = self.model.combine(*self._terms(queries, pairs))
        return _rust.topk_csr(pairs.indptr, pairs.ids, scores, self.n_labels, k)

    def _terms(
        self, queries: Queries, pairs: Candidates
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the fitted and the lexical part of each pair."""
        return self.model.terms(self._asked(queries), self._rows, (pairs.indptr, pairs.ids))

    def _terms_of(
        self, queries: Queries, ids: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
        """Return which labels are known, and both parts, each (n, m)."""
        there = (ids >= 0) & (ids < self.n_labels)
        there[there] = self.known[ids[there]]
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64)
        wanted = np.asarray(ids[there], np.int32)
        parts = self.model.terms(self._asked(queries), self._rows, (indptr, wanted))
        fitted, lexical = (np.full(ids.shape, -np.inf, np.float32) for _ in range(2))
        fitted[there], lexical[there] = parts
        return there, fitted, lexical

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text; -inf for labels that are not `known`."""
        there, fitted, lexical = self._terms_of(queries, ids)
        scores = np.full(ids.shape, -np.inf, np.float32)
        scores[there] = self.model.combine(fitted[there], lexical[there])
        return scores

    def propose(
        self,
        queries: Queries,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        unseen: Also | None = None,
    ) -> list[NDArray[np.int32]]:
        """Propose the best labels to a ranker, and those that the first weights find."""
        width = max(*PROPOSED.values(), self.model.settings.shortlist)
        mask = self.known if only is None else self.known & only
        also = None
        if unseen is not None:
            also = max(unseen[0], self.model.settings.shortlist), self.known & unseen[1]
        x, index = self._asked(queries), self.labels.index
        found, _ = self.model.find(x, index, width, exclude=exclude, only=mask, also=also)
        there = found >= 0
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64)
        fitted, lexical = self.model.terms(x, self._rows, (indptr, found[there]))
        scores = np.full(found.shape, -np.inf, np.float32)
        scores[there] = self.model.combine(fitted, lexical)

        def best(part: slice, k: int) -> NDArray[np.int32]:
            kept = there[:, part]
            indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
            ids, values = found[:, part][kept], scores[:, part][kept]
            return _rust.topk_csr(indptr, ids, values, self.n_labels, k)[0]

        proposed = [best(slice(width), PROPOSED["best"]), found[:, : PROPOSED["found"]]]
        return proposed if unseen is None else [*proposed, best(slice(width, None), unseen[0])]

    def features(self, queries: Queries, pairs: Candidates) -> dict[str, NDArray[np.float32]]:
        """Give a ranker the evidence for each pair, by name.

        For a label without a feature it is that of one that shares nothing with the text.
        """
        fitted, lexical = self._terms(queries, pairs)
        scores = self.model.combine(fitted, lexical)
        return {
            "bilinear": scores,
            "bilinear gap": scores - pairs.largest(scores),
            "bilinear rank": pairs.ranks(scores),
            "fitted": fitted,
            "fitted gap": fitted - pairs.largest(fitted),
            "same words": lexical,
        }

    def meanings(self) -> Mapping[str, Meaning]:
        """Return what the evidence means."""
        return _MEANINGS

    def terms(self, queries: Queries, ids: NDArray[np.int32]) -> Terms:
        """Return what the score is the sum of."""
        _, fitted, lexical = self._terms_of(queries, ids)
        share = self.model.settings.score_alpha
        return {
            "belief": (share, self.model.belief(fitted)),
            "same words": (1 - share, np.where(np.isfinite(lexical), lexical, np.float32(0))),
        }

    def update(self, change: Change) -> BilinearScorer:
        """Return this scorer after an edit of labels."""
        return change.once(self, lambda: self._after(change))

    def _after(self, change: Change) -> BilinearScorer:
        labels = change.labels
        ids = np.concatenate([change.added, change.updated]).astype(np.int64)
        rows = self.labels
        if len(ids):
            fresh = self.vocabulary.of_labels([labels.texts[i] for i in ids], ids)
            rows = Searched(with_rows(rows.rows, len(labels), ids, fresh))
        return replace(self, labels=rows, alive=labels.alive)

    def with_labels(self, labels: LabelSet) -> BilinearScorer:
        """Return this scorer for the first of its labels, with the texts that they have now."""
        rows = self.vocabulary.of_labels(labels.texts, np.arange(len(labels)))
        return replace(self, labels=Searched(rows), alive=labels.alive)

    def export(self, path: Path) -> None:
        """Write one file that answers texts without Python; it never finds removed labels."""
        rows = self.labels.rows
        kept = np.repeat(self.alive, np.diff(rows.indptr))
        indptr = np.concatenate([[0], np.cumsum(kept)])[rows.indptr]
        alive = csr_array((rows.data[kept], rows.indices[kept], indptr), shape=rows.shape)
        self.model.export(path, self.vocabulary.points, alive)

    def prepare(self) -> None:
        """Build the index of labels now rather than with the first search."""
        self.labels.prepare()

    def facts(self) -> dict[str, Any]:
        """Return the section of the manifest."""
        words = self.vocabulary
        return {
            "bilinear": {
                "settings": asdict(self.model.settings),
                "fit": self.model.facts,
                "bias": self.model.bias,
                "own_value": words.own_value,
                "parents": [] if words.parents is None else list(words.parents.names),
                "source": self.source,
                "points": vectorizer_facts(words.points),
                "labels": vectorizer_facts(words.labels),
            }
        }

    def parts(self) -> Mapping[str, Part]:
        """Return words, weights and the labels' rows as files of a run."""
        words, model = self.vocabulary, self.model
        parents = words.parents
        above = {} if parents is None else {PREFIX + "parents": matrix_part(parents.rows)}
        return above | {
            **vectorizer_parts(PREFIX + "points", words.points),
            **vectorizer_parts(PREFIX + "labels", words.labels),
            PREFIX + "own": array_part(words.own),
            # The core has the weights: copies of them are made when they are written.
            PREFIX + "support": Part(
                lambda path: data.save_scores(path, model.support, compressed=False),
                ".npz",
                (model.core, "support"),
            ),
            PREFIX + "refined": Part(
                lambda path: write_array(path, model.refined), ".npy", (model.core, "refined")
            ),
            PREFIX + "rows": matrix_part(self.labels.rows),
        }

    @classmethod
    def restore(cls, state: Sealed, labels: LabelSet) -> BilinearScorer | None:
        """Open the bilinear scorer of a run whose bytes were checked; None if it has none.

        Raises:
            ValueError: The parts do not fit together.
        """
        if "bilinear" not in state.facts:
            return None
        facts = require(
            state, "bilinear", {"settings": dict, "fit": dict, "bias": float, "own_value": float}
        )
        own = state.array(PREFIX + "own", np.int32, (None,))
        refined = state.array(PREFIX + "refined", np.float32, (None,), mmap_mode="r")
        try:
            points, words = (
                restore_vectorizer(state, PREFIX + name, facts[name])
                for name in ("points", "labels")
            )
            settings = BilinearSettings(**facts["settings"])
            parents = _restore_parents(state, facts.get("parents", []), len(labels))
            support, rows = (
                data.load_scores(state.path(PREFIX + name)) for name in ("support", "rows")
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise state.damaged(str(error)) from None
        vocabulary = BilinearFeatures(points, words, own, facts["own_value"], parents)
        shapes = [
            (support, (points.n_tokens, vocabulary.n_label_features)),
            (rows, (len(labels), vocabulary.n_label_features)),
        ]
        for matrix, shape in shapes:
            if matrix.shape != shape:
                raise state.damaged(f"bilinear rows of shape {matrix.shape}, expected {shape}")
        try:
            model = BilinearModel.of(
                support, refined, facts["bias"], vocabulary.direct, settings, facts["fit"]
            )
        except ValueError as error:
            raise state.damaged(str(error)) from None
        source = facts.get("source")
        known = source if isinstance(source, str) else ""
        return cls(vocabulary, model, Searched(rows), labels.alive, known)

    def fingerprint(self) -> dict[str, Any]:
        """Return nothing: scores depend on the files of the run alone."""
        return {}

    def note(self, k: int) -> str:
        """Say what ranks."""
        return f"pairs of words, {int(self.known.sum())} labels"


def _restore_parents(state: Sealed, names: Sequence[str], n_labels: int) -> Parents | None:
    """Open the parents of labels; labels may have been added since."""
    if not names:
        return None
    if not all(isinstance(name, str) for name in names):
        raise ValueError("names of parents")
    rows = data.load_scores(state.path(PREFIX + "parents"))
    if rows.shape[0] > n_labels or rows.shape[1] != len(names):
        raise ValueError(f"parents of shape {rows.shape}, expected (L, {len(names)})")
    return Parents(tuple(names), rows)


_MEANINGS = {
    "bilinear": Meaning(
        Group.BILINEAR, "score of the learned pairs of words, and of the same words"
    ),
    "bilinear gap": Meaning(Group.BILINEAR, "bilinear less that of the best candidate"),
    "bilinear rank": Meaning(Group.BILINEAR, "-ln(1 + rank by bilinear among the candidates)"),
    "fitted": Meaning(Group.BILINEAR, "sum of the learned weights of pairs of words"),
    "fitted gap": Meaning(Group.BILINEAR, "fitted less that of the best candidate"),
    "belief": Meaning(Group.BILINEAR, "what the learned weights say, from 0 to 1"),
    "same words": Meaning(Group.BILINEAR, "words that text and label share"),
}
