"""Votes of the training points: the nearest of them vote for their labels.

Each of the nearest training points gives its share of one vote to all of its labels. `PointMemory`
holds the points and knows nothing of texts; `NeighbourScorer` is the scorer; `VotedScorer` is the
dense scorer plus weighted votes, ranked exactly. Figures and choices: ``docs/memory.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm import tqdm

from dexml import _rust, data
from dexml.data import Csr, csr_parts, pair_parts
from dexml.index import Hits
from dexml.run import require
from dexml.scorers.dense import DenseScorer
from dexml.scorers.points import Points, positives_of, unit, widened
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change
from dexml.scorers.votes import NEIGHBOURS, TEMPERATURE, VoteSettings, mask_of, shares
from dexml.sealed import Part, Sealed, array_part

PREFIX = "neighbours/"
_BLOCK = 1024
"""Queries mixed between two looks at the clock."""


@dataclass(frozen=True)
class PointMemory:
    """Training points that vote for their labels; edits give a new memory.

    Points are found by the cosine of their embeddings, without the bias dimension of a search
    vector: it is the same for all points and says nothing about them.
    """

    points: Points
    settings: VoteSettings

    @classmethod
    def of(
        cls,
        vectors: NDArray[np.float32],
        y: Csr,
        *,
        weight: float,
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
    ) -> PointMemory:
        """Keep unit copies of the vectors, and the positives of `y`.

        Args:
            vectors: Point embeddings, shape (N, D), float32, without a bias dimension.
            y: Their labels, shape (N, L); entries above 0 are positives.
            weight: What a whole vote adds to a score, finite and >= 0.
            neighbours: Points that vote on a query.
            temperature: Shares of the vote are ``softmax(cosine / temperature)``.

        Raises:
            ValueError: Shapes disagree, a vector is not finite, or a number is out of range.
        """
        settings = VoteSettings(weight, neighbours, temperature)
        vectors, y = unit(vectors, "vectors"), positives_of(y, len(vectors))
        return cls(Points(vectors, vectors[:0], y), settings)

    @property
    def n_points(self) -> int:
        """Points that may vote."""
        return len(self.points)

    @property
    def n_labels(self) -> int:
        """Labels that can have votes; the label vectors of a search may be more."""
        return int(self.points.y.shape[1])

    def with_points(self, vectors: NDArray[np.float32], y: Csr) -> PointMemory:
        """These points and more behind them; `y` may have more labels than before."""
        added = unit(vectors, "vectors", self.points.dim)
        more = self.points.with_more(added, positives_of(y, len(vectors)))
        return replace(self, points=more)

    def with_first_labels(self, n_labels: int) -> PointMemory:
        """The same points without votes for labels from id `n_labels` on, which it forgets."""
        if n_labels >= self.n_labels:
            return self
        points = self.points.without(np.arange(n_labels, self.n_labels))
        return replace(self, points=replace(points, y=widened(points.y, n_labels)))

    def with_settings(self, weight: float, neighbours: int, temperature: float) -> PointMemory:
        """The same points with other settings; nothing is copied."""
        return replace(self, settings=VoteSettings(weight, neighbours, temperature))

    def nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        own: NDArray[np.integer[Any]] | None = None,
    ) -> Hits:
        """Find the k nearest points of each query, and their cosines.

        Args:
            queries: Shape (n, D), or (n, D + 1) with the bias dimension, which is left out.
            k: Points a query; rows are padded when there are fewer.
            own: For each query the row of the point that it is, or -1: this one is left out.

        Returns:
            ``ids`` int32 and ``cosines`` float32, (n, k), padded with -1 and -inf.
        """
        return self.points.nearest(queries, k, own)

    def votes(self, queries: NDArray[np.float32]) -> Csr:
        """Votes for the labels of each query, (n, n_labels), before the weight."""
        voters, cosines = self.nearest(queries, self.settings.neighbours)
        weights = shares(cosines, self.settings.temperature)
        known = voters >= 0
        indptr = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
        cast = csr_array(
            (weights[known].astype(np.float64), voters[known], indptr),
            shape=(len(queries), self.n_points),
        )
        return csr_array(cast @ self.points.y)

    def mix(
        self,
        queries: NDArray[np.float32],
        hits: Hits,
        label_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[Any] | None = None,
        own: NDArray[np.integer[Any]] | None = None,
        near: Hits | None = None,
        progress: bool = False,
        num_threads: int | None = None,
    ) -> Hits:
        """Rank by ``score + weight x votes``: as if all labels were scored, but sparsely.

        Args:
            queries: Search vectors of the points in question, shape (n, D + 1) or, in a search
                without biases, (n, D).
            hits: The best labels by score alone, ``ids`` and ``scores``, at least k columns, from
                a search with the same `exclude` and `only`. Their scores are taken as they are.
            label_vectors: Vectors of all labels, same dimensions as the queries: they score the
                labels that have votes but are not among `hits`.
            k: Labels a query.
            exclude: Pairs (query, label) to leave out, shape (n, L).
            only: Labels that may be found: a bool mask (L,), or their ids. It must leave out
                removed labels.
            own: For each query the row of the training point that it is, or -1; a point never
                votes for itself.
            near: What `nearest` gave for these queries, at least `neighbours` columns, where
                it is known already; `own` has no effect then.
            progress: Show a bar.
            num_threads: Threads; default all cores. The result does not depend on it.

        Returns:
            ``ids`` int32 and ``scores`` float32, (n, k); equal scores: the smaller id first.
            With weight 0, `hits` itself, cut to k.

        Raises:
            ValueError: Shapes disagree, or `hits` is too narrow.
        """
        points = self.points
        ids, scores = np.ascontiguousarray(hits[0]), np.ascontiguousarray(hits[1])
        n, n_labels = len(queries), len(label_vectors)
        if ids.shape != scores.shape or ids.ndim != 2 or len(ids) != n:
            raise ValueError(f"hits: shapes {ids.shape} and {scores.shape} for {n} queries")
        if points.y.shape[1] > n_labels:
            raise ValueError(
                f"label_vectors: {n_labels} labels, but points of the memory have "
                f"{points.y.shape[1]}"
            )
        pairs = pair_parts(exclude, (n, n_labels), "exclude")
        if self.settings.weight == 0 and ids.shape[1] >= k:
            return ids[:, :k], scores[:, :k]
        mask, b = mask_of(only, n_labels), self.settings.neighbours
        if near is not None and (near[0].shape != near[1].shape or len(near[0]) != n):
            raise ValueError(f"near: shapes {near[0].shape} and {near[1].shape} for {n} queries")
        labels = csr_parts(points.y, "y")[:2]
        label_vectors = np.ascontiguousarray(label_vectors, np.float32)
        out = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
        with tqdm(total=n, desc="votes", unit="point", disable=not progress) as bar:
            for start in range(0, n, _BLOCK):
                rows = slice(start, min(start + _BLOCK, n))
                if near is None:
                    own_rows = None if own is None else own[rows]
                    voters, cosines = points.nearest(queries[rows], b, own_rows)
                else:
                    voters = np.ascontiguousarray(near[0][rows, :b])
                    cosines = near[1][rows, :b]
                out[0][rows], out[1][rows] = _rust.mix_votes(
                    np.ascontiguousarray(queries[rows], np.float32),
                    label_vectors,
                    (voters, shares(cosines, self.settings.temperature)),
                    labels,
                    (ids[rows], scores[rows]),
                    k,
                    weight=self.settings.weight,
                    exclude=None if pairs is None else (pairs[0][start : rows.stop + 1], pairs[1]),
                    only=mask,
                    num_threads=num_threads,
                )
                bar.update(rows.stop - start)
        return out

    def note(self) -> str:
        """Say who votes, in a few words."""
        settings = self.settings
        return (
            f"votes of {self.n_points} training points, weight {settings.weight:g} "
            f"({settings.neighbours} a text, temperature {settings.temperature:g})"
        )

    def facts(self) -> dict[str, Any]:
        """Plain values for the manifest of a run."""
        settings = self.settings
        return {
            "weight": settings.weight,
            "neighbours": settings.neighbours,
            "temperature": settings.temperature,
            "n_points": self.n_points,
        }

    def parts(self) -> dict[str, Part]:
        """What a run keeps of the points."""
        points = self.points
        if len(points.added):
            vectors = Part(points.write_vectors, ".npy", (points.base, points.added))
        else:
            vectors = array_part(points.base)
        return {
            f"{PREFIX}points": vectors,
            f"{PREFIX}positives": Part(
                lambda path: data.save_labels(path, points.y), ".npz", (points.y,)
            ),
        }

    @classmethod
    def restore(cls, state: Sealed) -> PointMemory | None:
        """Open the memory of a run whose bytes were checked; None if it has none.

        The vectors are mapped into memory.

        Raises:
            ValueError: The parts do not fit together.
        """
        if "neighbours" not in state.facts:
            return None
        number = int | float
        kinds = {"weight": number, "neighbours": int, "temperature": number, "n_points": int}
        facts = require(state, "neighbours", kinds)
        n = facts["n_points"]
        vectors = state.array(f"{PREFIX}points", np.float32, (n, None), mmap_mode="r")
        try:
            y = positives_of(data.load_labels(state.check(f"{PREFIX}positives")), n)
            settings = VoteSettings(facts["weight"], facts["neighbours"], facts["temperature"])
        except ValueError as error:
            raise state.damaged(str(error)) from None
        return cls(Points(vectors, vectors[:0], y), settings)


@dataclass(frozen=True)
class NeighbourScorer:
    """Scores a label by the votes of the nearest training points, as the dense scorer embeds them.

    It knows the labels that one of its points has; a label without votes among the nearest scores
    0.
    """

    dense: DenseScorer
    """Makes embeddings of texts."""
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
        n_labels = self.dense.index.n_labels
        votes = widened(self.memory.votes(self.dense.vectors(queries)), n_labels)
        mask = self.dense.index.alive if only is None else self.dense.index.alive & only
        kept = mask[votes.indices] & (votes.data > 0)
        indptr = np.concatenate([[0], np.cumsum(kept)])[votes.indptr]
        return _rust.topk_csr(
            indptr,
            votes.indices[kept].astype(np.int32),
            votes.data[kept].astype(np.float32),
            n_labels,
            k,
            None if exclude is None else csr_parts(exclude, "exclude")[:2],
        )

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Votes of the labels `ids` (n, m) for each text; -inf for labels without a point."""
        y = self.memory.points.y
        has_points = np.zeros(max(self.dense.index.n_labels, y.shape[1]) + 1, np.bool_)
        has_points[y.indices] = True  # the last place stands for padding, -1
        has_points[: self.dense.index.n_labels] &= self.dense.index.alive
        votes = self.memory.votes(self.dense.vectors(queries)).toarray()
        wide = np.zeros((len(queries), len(has_points)), np.float32)
        wide[:, : votes.shape[1]] = votes
        scores = np.take_along_axis(wide, np.asarray(ids, np.int64), axis=1)
        scores[~has_points[ids]] = -np.inf
        return scores

    def update(self, change: Change) -> NeighbourScorer:
        """This scorer after an edit: new points vote at once."""
        return self.after(change, self.dense.update(change))

    def after(self, change: Change, dense: DenseScorer) -> NeighbourScorer:
        """The same for a dense scorer that has followed the edit already."""
        memory = self.memory
        if change.points is not None and change.y is not None:
            vectors = np.ascontiguousarray(dense.vectors(change.points)[:, :-1])
            memory = memory.with_points(vectors, change.y)
        return NeighbourScorer(dense, memory)

    def facts(self) -> dict[str, Any]:
        """Settings of the votes."""
        return {"neighbours": self.memory.facts()}

    def parts(self) -> dict[str, Part]:
        """The points and their labels."""
        return self.memory.parts()

    def fingerprint(self) -> dict[str, Any]:
        """What it embeds with."""
        return self.dense.fingerprint()

    def note(self, k: int) -> str:
        """Say who votes."""
        return self.memory.note()


@dataclass(frozen=True)
class VotedScorer:
    """``dense + weight x votes``, as if all labels were scored by both.

    The same sum as a `dexml.scorers.Fusion` of both. It is exact, not a ranking of candidates:
    see ``mix_votes`` of the core for why a few labels are enough.
    """

    dense: DenseScorer
    neighbours: NeighbourScorer

    @property
    def memory(self) -> PointMemory:
        """The points that vote."""
        return self.neighbours.memory

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels of each text."""
        hits = self.dense.search(queries, k, exclude=exclude, only=only)
        index = self.dense.index
        if not index.alive.all():  # votes for removed labels do not count
            only = index.alive if only is None else only & index.alive
        vectors = self.dense.vectors(queries)
        return self.memory.mix(vectors, hits, index.vectors, k, exclude=exclude, only=only)

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text."""
        dense = self.dense.score_pairs(queries, ids)
        votes = self.neighbours.score_pairs(queries, ids)
        votes[np.isneginf(votes)] = 0  # it abstains
        return np.asarray(dense + np.float32(self.memory.settings.weight) * votes, np.float32)

    def update(self, change: Change) -> VotedScorer:
        """This scorer after an edit of labels or points."""
        dense = self.dense.update(change)
        return VotedScorer(dense, self.neighbours.after(change, dense))

    def facts(self) -> dict[str, Any]:
        """Settings of both."""
        return self.dense.facts() | self.neighbours.facts()

    def parts(self) -> Mapping[str, Part]:
        """Files of both."""
        return self.dense.parts() | self.neighbours.parts()

    def fingerprint(self) -> dict[str, Any]:
        """How it searches and encodes."""
        return self.dense.fingerprint()

    def note(self, k: int) -> str:
        """Say how labels are searched and which points vote."""
        return f"{self.dense.note(k)}; {self.neighbours.note(k)}"
