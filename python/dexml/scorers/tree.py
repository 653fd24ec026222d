"""A linear label tree on words: strong where labels have many points.

Labels are clustered by the words of their points, and linear classifiers choose a way down the
tree (Parabel, PECOS XR-Linear); three trees are averaged. It knows labels with training points
alone and follows no edits: it abstains on labels added later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.data import Csr, csr_parts
from dexml.data.parts import canonical
from dexml.files import write_array
from dexml.index import Hits
from dexml.run import LabelSet, require
from dexml.scorers.candidates import Candidates
from dexml.scorers.lexicon import Lexicon
from dexml.scorers.meanings import Group, Meaning, Terms
from dexml.scorers.provenance import source_of
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change
from dexml.sealed import Part, Sealed
from dexml.text.lexical import Also

PREFIX = "tree/"
N_TREES, BEAM = 3, 10
PROPOSED = 60
"""Labels that the tree proposes to a ranker."""
ABSENT = -12.0
"""Evidence for a label on which the tree abstains, or that its beam does not reach."""
SETTINGS: dict[str, Any] = {
    "n_trees": N_TREES,
    "max_leaf": 100,
    "max_label_features": 1000,
    "max_rounds": 5,
    "cost": 1.0,
    "tolerance": 0.1,
    "max_passes": 5,
    "threshold": 0.1,
}
"""How the trees are trained."""
_MEANINGS = {
    "tree probability": Meaning(Group.TREE, "the label tree's probability"),
    "tree": Meaning(Group.TREE, "ln of the label tree's probability, -12 at least"),
    "tree gap": Meaning(Group.TREE, "tree less that of the best candidate"),
    "tree rank": Meaning(Group.TREE, "-ln(1 + rank by tree among the candidates)"),
}
_WEIGHTS = ("indptr", "indices", "data")


@dataclass(frozen=True, eq=False)
class TreeScorer:
    """Scores a label by the logarithm of its probability.

    Attributes:
        lexicon: Makes rows of words of the texts.
        trees: Labels, bias and classifiers. They are kept once, as a search reads them; a file gets
            copies in the order of `dexml._rust.fit_tree`.
        n_trained: Labels that there were when the trees were trained.
        alive: False for removed labels, shape (n_labels,).
        source: Hash of all that the trees were trained from: equal hashes, equal trees.
    """

    lexicon: Lexicon
    trees: _rust.LabelTree
    n_trained: int
    alive: NDArray[np.bool_]
    source: str = ""

    @classmethod
    def fit(
        cls,
        words: Csr,
        y: Csr,
        labels: LabelSet,
        lexicon: Lexicon,
        *,
        seed: int,
        known: TreeScorer | None = None,
        num_threads: int | None = None,
    ) -> TreeScorer:
        """Train the trees, unless `known` has them.

        Args:
            words: Rows of the points' words, (N, terms).
            y: Their labels, (N, L); stored entries are positives.
            labels: The labels.
            lexicon: Made the rows.
            seed: Of the clusters.
            known: Trees trained before, for a lexicon with the same words.
            num_threads: Threads; the result does not depend on it.
        """
        source = source_of(SETTINGS, seed, [lexicon.words.tokens()], [words], y)
        if known is not None and known.source == source:
            return cls(lexicon, known.trees, y.shape[1], labels.alive, source)
        arrays = _rust.fit_tree(
            csr_parts(words, "words"),
            words.shape[1],
            csr_parts(y, "y")[:2],
            y.shape[1],
            **SETTINGS,
            seed=seed,
            num_threads=num_threads,
        )
        trees = _rust.LabelTree(
            *arrays, n_labels=y.shape[1], n_features=words.shape[1], num_threads=num_threads
        )
        return cls(lexicon, trees, y.shape[1], labels.alive, source)

    def _words(self, queries: Queries) -> Any:
        return csr_parts(self.lexicon.words_of(queries), "words")

    def _reached(self, queries: Queries) -> Csr:
        """Score the labels that the beam reaches, (n, n_trained)."""

        def make() -> Csr:
            parts = self.trees.reach(self._words(queries), beam=BEAM)
            return canonical((len(queries), self.n_trained), *parts)

        return queries.once((self, "reached"), make)

    def _ranking(self, queries: Queries, k: int) -> Hits:
        def make() -> Hits:
            parts = csr_parts(self._reached(queries), "reached")
            return _rust.topk_csr(*parts, self.n_trained, k)

        return queries.once((self, "ranking", k), make)

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels of each text among those that the beam reaches."""
        allowed = self.alive if only is None else only & self.alive
        if exclude is None and allowed.all():
            ids, scores = self._ranking(queries, k)
            return ids.copy(), scores.copy()
        longest = 0 if exclude is None else int(np.diff(exclude.indptr).max(initial=0))
        width = k if allowed.all() and not longest else min(4 * k + longest, self.n_trained)
        ids, scores = self._ranking(queries, max(width, 1))
        kept = (ids >= 0) & allowed[np.maximum(ids, 0)]
        indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
        return _rust.topk_csr(
            indptr,
            ids[kept],
            scores[kept],
            len(self.alive),
            k,
            None if exclude is None else csr_parts(exclude, "exclude")[:2],
        )

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text; -inf for labels that no tree holds."""
        known = (ids >= 0) & (ids < self.n_trained)
        known[known] = self.alive[ids[known]]
        wanted = np.where(known, ids, -1).astype(np.int32)
        return self.trees.score(self._words(queries), np.ascontiguousarray(wanted), beam=BEAM)

    def propose(
        self,
        queries: Queries,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        unseen: Also | None = None,
    ) -> list[NDArray[np.int32]]:
        """Propose the best labels to a ranker; it knows none without points."""
        return [self.search(queries, PROPOSED, exclude=exclude, only=only)[0]]

    def features(self, queries: Queries, pairs: Candidates) -> dict[str, NDArray[np.float32]]:
        """Give a ranker the evidence for each pair, by name, each of shape (n_pairs,)."""
        scores = pairs.values_of(self._reached(queries), missing=ABSENT)
        scores = np.maximum(scores, np.float32(ABSENT))
        scores[~self.alive[pairs.ids]] = ABSENT
        features = {
            "tree": scores,
            "tree probability": np.exp(scores),
            "tree gap": scores - pairs.largest(scores),
            "tree rank": pairs.ranks(scores),
        }
        # It could not know labels that came later: that says nothing against them.
        later = pairs.ids >= self.n_trained
        return {name: np.where(later, np.float32(np.nan), v) for name, v in features.items()}

    def meanings(self) -> Mapping[str, Meaning]:
        """Return what the evidence means."""
        return _MEANINGS

    def terms(self, queries: Queries, ids: NDArray[np.int32]) -> Terms:
        """Return the score as one term."""
        return {"tree": (1.0, self.score_pairs(queries, ids))}

    def update(self, change: Change) -> TreeScorer:
        """Return this scorer after an edit: it passes over removed labels and knows no new ones."""
        return replace(self, alive=change.labels.alive)

    def with_labels(self, labels: LabelSet) -> TreeScorer:
        """Return this scorer for the labels as they were trained."""
        return replace(self, alive=labels.alive)

    def facts(self) -> dict[str, Any]:
        """Return the section of the manifest."""
        return {"tree": {"n_trees": N_TREES, "n_trained": self.n_trained, "source": self.source}}

    def parts(self) -> dict[str, Part]:
        """Return the trees as files of a run."""
        return {
            PREFIX + name: Part(partial(self._write, name), ".npy", (self.trees, name))
            for name in ("labels", "bias", *_WEIGHTS)
        }

    def _write(self, name: str, path: Path) -> int:
        trees = self.trees
        if name == "labels":
            return write_array(path, trees.labels())
        if name == "bias":
            return write_array(path, trees.bias())
        return write_array(path, trees.weights()[_WEIGHTS.index(name)])

    @classmethod
    def restore(cls, state: Sealed, labels: LabelSet, lexicon: Lexicon) -> TreeScorer | None:
        """Open the trees of a run whose bytes were checked; None if it has none.

        Raises:
            ValueError: The parts do not fit together.
        """
        if "tree" not in state.facts:
            return None
        facts = require(state, "tree", {"n_trained": int})
        source = facts.get("source")
        weights = (
            state.array(PREFIX + "indptr", np.int64, (None,)),
            # Mapped: the core copies the weights.
            state.array(PREFIX + "indices", np.int32, (None,), mmap_mode="r"),
            state.array(PREFIX + "data", np.float32, (None,), mmap_mode="r"),
        )
        try:
            trees = _rust.LabelTree(
                state.array(PREFIX + "labels", np.int32, (None, None)),
                state.array(PREFIX + "bias", np.float32, (None, None)),
                weights,
                n_labels=facts["n_trained"],
                n_features=lexicon.words.n_tokens,
            )
        except ValueError as error:
            raise state.damaged(str(error)) from None
        known = source if isinstance(source, str) else ""
        return cls(lexicon, trees, facts["n_trained"], labels.alive, known)

    def fingerprint(self) -> dict[str, Any]:
        """Return nothing: scores depend on the files of the run alone."""
        return {}

    def note(self, k: int) -> str:
        """Say what ranks."""
        return f"{len(self.trees.labels())} label trees"
