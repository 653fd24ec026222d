"""Training points that vote for their labels: who votes, and what the votes add to scores.

Each of the nearest training points gives its share of one vote to all of its labels. This file
knows vectors only; `dexml.scorers.neighbours` makes them from texts. How the numbers were chosen:
``docs/memory.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console, data
from dexml.data import Csr, pair_parts
from dexml.data.parts import canonical
from dexml.index import Hits
from dexml.run import require
from dexml.scorers.points import Points, positives_of, unit, widened
from dexml.scorers.votes import NEIGHBOURS, TEMPERATURE, Voters, VoteSettings, mask_of, shares
from dexml.sealed import Part, Sealed, array_part

PREFIX = "neighbours/"
_BLOCK = 1024
"""Queries mixed between two updates of the progress bar."""


@dataclass(frozen=True, eq=False)
class PointMemory:
    """Training points that vote for their labels. It never changes: edits return another one.

    Points are compared by the cosine of their embeddings, without the bias dimension of a search
    vector, which is the same for all points.
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
        """Labels that can have votes; there may be more label vectors than these."""
        return int(self.points.y.shape[1])

    @cached_property
    def has_points(self) -> NDArray[np.bool_]:
        """Whether any point has the label, shape (n_labels,)."""
        mask = np.zeros(self.n_labels, np.bool_)
        mask[self.points.y.indices] = True
        return mask

    def with_points(self, vectors: NDArray[np.float32], y: Csr) -> PointMemory:
        """Return a memory with more points behind these; `y` may have more labels than before."""
        added = unit(vectors, "vectors", self.points.dim)
        more = self.points.with_more(added, positives_of(y, len(vectors)))
        return replace(self, points=more)

    def with_first_labels(self, n_labels: int) -> PointMemory:
        """Return a memory without labels from id `n_labels` on; all points stay."""
        if n_labels >= self.n_labels:
            return self
        points = self.points.without(np.arange(n_labels, self.n_labels))
        return replace(self, points=replace(points, y=widened(points.y, n_labels)))

    def with_settings(self, weight: float, neighbours: int, temperature: float) -> PointMemory:
        """Return a memory of the same points with other settings; nothing is copied."""
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

    def voters(self, queries: NDArray[np.float32], near: Hits | None = None) -> Voters:
        """Find the points that vote on each query, as in `nearest`.

        Args:
            queries: As in `nearest`.
            near: What that found for `neighbours` points a query, where it is known already.
        """
        ids, cosines = near or self.nearest(queries, self.settings.neighbours)
        return Voters(ids, cosines, shares(cosines, self.settings.temperature))

    def votes(self, queries: NDArray[np.float32], near: Hits | None = None) -> Csr:
        """Count the votes for each label, before the weight.

        Args:
            queries: As in `nearest`.
            near: As in `voters`.

        Returns:
            Shape (n, n_labels), float32, ids ascending in each row; all voters together give a
            label at most 1.
        """
        voters, _, weights = self.voters(queries, near)
        sums = _rust.vote_sums(
            np.ascontiguousarray(voters), weights, self.points.labels, self.n_labels
        )
        return canonical((len(queries), self.n_labels), *sums)

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
        """Rank by ``score + weight x votes``, as if all labels were scored.

        It is exact although few labels are looked at: a label without votes keeps its score, so
        only `hits` and the labels that have votes can be among the best.

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
                they are known already; `own` has no effect then.
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
        label_vectors = np.ascontiguousarray(label_vectors, np.float32)
        out = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
        with console.bar(total=n, desc="votes", unit="point", disable=not progress) as bar:
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
                    points.labels,
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
        """Return plain values for the manifest of a run."""
        settings = self.settings
        return {
            "weight": settings.weight,
            "neighbours": settings.neighbours,
            "temperature": settings.temperature,
            "n_points": self.n_points,
        }

    def parts(self) -> dict[str, Part]:
        """Return the files that a run keeps of the points."""
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
    def restore(cls, state: Sealed, n_labels: int, dim: int) -> PointMemory:
        """Open the memory of a run whose bytes were checked; the vectors are mapped.

        Args:
            state: The run.
            n_labels: Labels of the run; the memory may know fewer.
            dim: Dimensions that an embedding has, without the bias.

        Raises:
            ValueError: The parts do not fit together.
        """
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
        if y.shape[1] > n_labels or vectors.shape[1] != dim:
            raise state.damaged(
                f"points with {y.shape[1]} labels and {vectors.shape[1]} dimensions for "
                f"{n_labels} labels of {dim}"
            )
        return cls(Points(vectors, vectors[:0], y), settings)
