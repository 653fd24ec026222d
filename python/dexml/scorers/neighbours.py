"""Scorers in which training points vote: their votes alone, and the dense scorer plus votes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.data import Csr, csr_parts
from dexml.index import Hits
from dexml.scorers.candidates import Candidates
from dexml.scorers.dense import DenseScorer
from dexml.scorers.meanings import Group, Meaning, Terms
from dexml.scorers.memory import PointMemory
from dexml.scorers.points import entries, widened
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change
from dexml.scorers.votes import Voters
from dexml.sealed import Part
from dexml.text.lexical import Also

PROPOSED = 100
"""Labels that the dense scorer with its votes proposes to a ranker."""
SHARPNESS = 0.06
"""Divides differences of dense scores in the evidence: about the temperature of the training."""


@dataclass(frozen=True, eq=False)
class NeighbourScorer:
    """Scores a label by the votes of the nearest training points, before the memory's weight.

    It knows the labels that any of its points has. Those without votes among the nearest points
    score 0.

    Attributes:
        dense: Embeds the texts, and knows which labels were removed.
        memory: The points.
    """

    dense: DenseScorer
    memory: PointMemory

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k labels of each text with most votes; labels without votes are not found."""
        index = self.dense.index
        votes = widened(_votes(self.dense, self.memory, queries), index.n_labels)
        allowed = index.alive if only is None else index.alive & only
        kept = allowed[votes.indices] & (votes.data > 0)
        indptr = np.concatenate([[0], np.cumsum(kept)])[votes.indptr]
        return _rust.topk_csr(
            indptr,
            votes.indices[kept].astype(np.int32),
            votes.data[kept].astype(np.float32),
            index.n_labels,
            k,
            None if exclude is None else csr_parts(exclude, "exclude")[:2],
        )

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return the votes for the labels `ids` (n, m) of each text; -inf for labels it knows not.

        That is: padding, removed labels, and labels that none of the points has.
        """
        votes = entries(_votes(self.dense, self.memory, queries), ids)
        known = (ids >= 0) & (ids < self.memory.n_labels)
        alive = self.dense.index.alive[: self.memory.n_labels]
        known[known] = (alive & self.memory.has_points)[ids[known]]
        return np.where(known, votes, np.float32(-np.inf))

    def meanings(self) -> Mapping[str, Meaning]:
        """Return what the evidence means."""
        return {"dense votes": _MEANINGS["dense votes"]}

    def terms(self, queries: Queries, ids: NDArray[np.int32]) -> Terms:
        """Return the votes, which are the score."""
        return {"dense votes": (1.0, self.score_pairs(queries, ids))}

    def voters(self, queries: Queries) -> Voters:
        """Find the points that vote on each text."""
        near = _nearest(self.dense, self.memory, queries)
        return self.memory.voters(self.dense.vectors(queries), near)

    def update(self, change: Change) -> NeighbourScorer:
        """Return this scorer after an edit; new points vote at once."""
        dense = self.dense.update(change)
        return NeighbourScorer(dense, _memory_after(change, self.memory, dense))

    def facts(self) -> dict[str, Any]:
        """Return the settings of the votes."""
        return {"neighbours": self.memory.facts()}

    def parts(self) -> dict[str, Part]:
        """Return the files of the points and their labels."""
        return self.memory.parts()

    def fingerprint(self) -> dict[str, Any]:
        """Return how texts are encoded."""
        return self.dense.fingerprint()

    def note(self, k: int) -> str:
        """Say which points vote."""
        return self.memory.note()


@dataclass(frozen=True, eq=False)
class VotedScorer:
    """Scores by ``dense + weight x votes``.

    The same sum as a `dexml.scorers.Fusion` of a `DenseScorer` and a `NeighbourScorer`, but it
    ranks all labels, where a fusion ranks the candidates of its members (`PointMemory.mix`).

    Attributes:
        dense: Scores and embeds.
        memory: The points that vote, and their weight.
    """

    dense: DenseScorer
    memory: PointMemory

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels of each text."""
        hits = self._hits(queries, k, exclude, only)
        index = self.dense.index
        if not index.alive.all():  # points may still vote for labels that were removed
            only = index.alive if only is None else only & index.alive
        vectors = self.dense.vectors(queries)
        votes = self.memory.settings.weight > 0
        near = _nearest(self.dense, self.memory, queries) if votes else None
        return self.memory.mix(
            vectors, hits, index.vectors, k, exclude=exclude, only=only, near=near
        )

    def _hits(
        self, queries: Queries, k: int, exclude: Csr | None, only: NDArray[np.bool_] | None
    ) -> Hits:
        """Find the k best labels by the dense score, among what was proposed if it is exact."""
        key = self._key(exclude, only)
        if key in queries.once and k <= PROPOSED and self.dense.is_exact(k):
            ids, scores = self._proposed(queries, exclude, only, None)
            return ids[:, :k], scores[:, :k]
        return self.dense.search(queries, k, exclude=exclude, only=only)

    def _key(self, exclude: Csr | None, only: NDArray[np.bool_] | None) -> Hashable:
        return self.dense, "proposed", id(exclude), id(only)

    def _proposed(
        self,
        queries: Queries,
        exclude: Csr | None,
        only: NDArray[np.bool_] | None,
        unseen: Also | None,
    ) -> Hits:
        """Find the best labels by the dense score, and behind them those of `unseen`, once."""

        def make() -> tuple[object, Hits]:
            hits = self.dense.search(queries, PROPOSED, exclude=exclude, only=only, also=unseen)
            return (exclude, only), hits

        # The result holds what it depends on, so that no later object can get its id.
        return queries.once(self._key(exclude, only), make)[1]

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text; -inf for padding and removed labels.

        Up to rounding as `search` does, which adds in another order.
        """
        votes = entries(_votes(self.dense, self.memory, queries), ids)
        scores = self.dense.score_pairs(queries, ids)
        return np.asarray(scores + np.float32(self.memory.settings.weight) * votes, np.float32)

    def propose(
        self,
        queries: Queries,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        unseen: Also | None = None,
    ) -> list[NDArray[np.int32]]:
        """Propose the best labels to a ranker, by this scorer's own ranking.

        And those of `unseen`: without votes, for they have no points. None where a graph is
        searched: a mask would need a search of all labels.
        """
        more = []
        if self.dense.is_exact(PROPOSED):
            more = [self._proposed(queries, exclude, only, unseen)[0][:, PROPOSED:]]
        return [self.search(queries, PROPOSED, exclude=exclude, only=only)[0], *more]

    def features(self, queries: Queries, pairs: Candidates) -> dict[str, NDArray[np.float32]]:
        """Give a ranker the evidence for each pair, by name, each of shape (n_pairs,)."""
        dense = pairs.flat(self.dense.score_pairs(queries, pairs.padded))
        votes = _votes(self.dense, self.memory, queries)
        vote = pairs.values_of(votes)
        nearest = _nearest(self.dense, self.memory, queries)[1][:, 0]
        base = np.asarray(dense + np.float32(self.memory.settings.weight) * vote, np.float32)
        logits = np.exp((dense - pairs.largest(dense)) / SHARPNESS)
        total = np.zeros(pairs.n_texts, np.float32)
        np.add.at(total, pairs.rows, logits)
        return {
            "base": base,
            "base rank": pairs.ranks(base),
            "dense": dense,
            "dense gap": (dense - pairs.largest(dense)) / np.float32(SHARPNESS),
            "dense share": np.log(np.maximum(logits / total[pairs.rows], 1e-12)),
            "dense rank": pairs.ranks(dense),
            "bias": np.asarray(self.dense.index.vectors[pairs.ids, -1], np.float32),
            "dense votes": vote,
            "dense votes rank": pairs.ranks(vote),
            "dense nearest": np.where(np.isfinite(nearest), nearest, 0)[pairs.rows],
        }

    def meanings(self) -> Mapping[str, Meaning]:
        """Return what the evidence means."""
        return _MEANINGS | self.dense.meanings()

    def terms(self, queries: Queries, ids: NDArray[np.int32]) -> Terms:
        """Return the terms of the dense score, and the votes with their weight."""
        votes = entries(_votes(self.dense, self.memory, queries), ids)
        return {
            **self.dense.terms(queries, ids),
            "dense votes": (self.memory.settings.weight, votes),
        }

    def voters(self, queries: Queries) -> Voters:
        """Find the points that vote on each text."""
        near = _nearest(self.dense, self.memory, queries)
        return self.memory.voters(self.dense.vectors(queries), near)

    def update(self, change: Change) -> VotedScorer:
        """Return this scorer after an edit; new points vote at once."""
        dense = self.dense.update(change)
        return VotedScorer(dense, _memory_after(change, self.memory, dense))

    def facts(self) -> dict[str, Any]:
        """Return the settings of the dense scorer and of the votes."""
        return self.dense.facts() | {"neighbours": self.memory.facts()}

    def parts(self) -> dict[str, Part]:
        """Return the files of the index, and those of the points."""
        return self.dense.parts() | self.memory.parts()

    def fingerprint(self) -> dict[str, Any]:
        """Return how texts are encoded."""
        return self.dense.fingerprint()

    def note(self, k: int) -> str:
        """Say how labels are found and which points vote."""
        return f"{self.dense.note(k)}; {self.memory.note()}"


_MEANINGS = {
    "dense": Meaning(Group.DENSE, "cosine of the embeddings plus the label's bias"),
    "dense gap": Meaning(Group.DENSE, "dense less that of the best candidate, over 0.06"),
    "dense share": Meaning(
        Group.DENSE, "logarithm of the softmax of dense / 0.06 over the candidates"
    ),
    "dense rank": Meaning(Group.DENSE, "-ln(1 + rank by dense among the candidates)"),
    "base": Meaning(Group.DENSE, "dense score plus the weighted votes of the nearest points"),
    "base rank": Meaning(Group.DENSE, "-ln(1 + rank by base among the candidates)"),
    "dense votes": Meaning(
        Group.BY_MEANING, "share of the vote of the nearest points by embedding"
    ),
    "dense votes rank": Meaning(
        Group.BY_MEANING, "-ln(1 + rank by dense votes among the candidates)"
    ),
    "dense nearest": Meaning(
        Group.BY_MEANING, "cosine of the nearest point, the same for all labels"
    ),
}


def _votes(dense: DenseScorer, memory: PointMemory, queries: Queries) -> Csr:
    """Count the votes for the labels of each text, once for all scorers that ask."""
    key = (dense.embedder, memory, "votes")
    return queries.once(
        key, lambda: memory.votes(dense.vectors(queries), _nearest(dense, memory, queries))
    )


def _nearest(dense: DenseScorer, memory: PointMemory, queries: Queries) -> Hits:
    """Find the points that vote on each text, once for all scorers that ask."""

    def make() -> Hits:
        return memory.nearest(dense.vectors(queries), memory.settings.neighbours)

    return queries.once((dense.embedder, memory, "nearest"), make)


def _memory_after(change: Change, memory: PointMemory, dense: DenseScorer) -> PointMemory:
    """Add the points of an edit, once for all scorers with this memory.

    Votes for removed labels stay in the memory: searches pass over them.
    """
    points, y = change.points, change.y
    if points is None or y is None:
        return memory

    def grown() -> PointMemory:
        return memory.with_points(np.ascontiguousarray(dense.vectors(points)[:, :-1]), y)

    return change.once(memory, grown)
