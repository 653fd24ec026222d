"""The learned ranker: it weighs all evidence for the candidates of a text.

Members propose candidates and give evidence for each by name; a small network, trained on
validation points that no member was fitted on, turns the evidence into one score
(``docs/ranker.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import Csr
from dexml.index import Hits
from dexml.run import require
from dexml.scorers.candidates import Candidates
from dexml.scorers.cooccurrence import BEST, Cooccurrence, companion_scores, top_of
from dexml.scorers.meanings import Explained, Group, Meaning
from dexml.scorers.points import entries
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change, Scorer
from dexml.sealed import Part, Sealed, array_part
from dexml.text.lexical import Also

PREFIX = "ranker/"
BLOCK = 256
"""Texts ranked at a time: some 300 candidates each, with some 30 features. 1,024 take 110 MB more
and are hardly faster."""
COMPANIONS = 30
"""Companions of its best labels that are proposed for a text."""
UNSEEN = 20
"""Labels without points that each kind of evidence proposes, beside the best of all labels."""
LIFTED_OVER = 6.0
"""Distance from a text's best score over which the lift of labels without points grows to its full
size: about that of the hundredth label."""
EPOCHS, RATE = 8, 0.03
"""As good as 15 and 0.01 on all validation parts (better with thousands of texts), in half the
time."""
ARRAYS = ("mean", "deviation", "linear", "output", "weights", "bias")


@dataclass(frozen=True)
class Shape:
    """What kind of ranker is trained."""

    hidden: int = 16
    """Hidden units; 0: a linear ranker."""
    members: int = 3
    """Networks, each with a seed of its own."""
    non_negative: bool = False
    """Hold the weights of a linear ranker at 0 or above: more evidence never lowers a score."""


LINEAR = Shape(hidden=0, members=1, non_negative=True)
"""For few validation points."""


class Member(Scorer, Protocol):
    """A scorer that also proposes candidates and gives evidence for them."""

    def propose(
        self,
        queries: Queries,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        unseen: Also | None = None,
    ) -> list[NDArray[np.int32]]:
        """Propose labels to rank: arrays (n, width) padded with -1, its own ranking first.

        With `unseen` there are so many labels of a mask more among them, by each kind of evidence
        that labels without points have.
        """
        ...

    def features(self, queries: Queries, pairs: Candidates) -> dict[str, NDArray[np.float32]]:
        """Return the evidence for each pair by name, float32, (n_pairs,), its own score first.

        Larger values speak for a label, that of ranks too; NaN: the member cannot know the label.
        Names and their order are always the same.
        """
        ...


@dataclass(frozen=True, eq=False)
class Network:
    """Weights of the ranker: `M` networks whose scores are averaged; F features, H hidden units.

    A network scores standardised features x as ``linear . x + output . gelu(weights x + bias)``.
    """

    names: tuple[str, ...]
    """Of the features, in their order."""
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    linear: NDArray[np.float32]
    """(M, F)."""
    output: NDArray[np.float32]
    """(M, H)."""
    weights: NDArray[np.float32]
    """(M, H, F)."""
    bias: NDArray[np.float32]
    """(M, H)."""
    lift: float = 0.0
    """How far labels without points are raised (`lifted`), 0 to `LIFTED_OVER`."""

    @classmethod
    def fit(
        cls,
        names: Sequence[str],
        features: NDArray[np.float32],
        indptr: NDArray[np.int64],
        positive: NDArray[np.bool_],
        *,
        seed: int,
        shape: Shape | None = None,
        weights: NDArray[np.float32] | None = None,
        texts: NDArray[np.int64] | None = None,
        num_threads: int | None = None,
    ) -> Network:
        """Train on the candidates of texts, with the decoupled softmax.

        Args:
            names: Names of the features.
            features: Shape (n_pairs, F).
            indptr: Text i has the pairs ``indptr[i]:indptr[i + 1]``.
            positive: Which pairs are positives, shape (n_pairs,).
            seed: Of weights and order.
            shape: Hidden units and networks; default: `Shape`.
            weights: Weight of each positive's loss, shape (n_pairs,).
            texts: Those to learn from, which mean and deviation are of as well; default: all.
            num_threads: Threads; the result does not depend on it.

        Raises:
            ValueError: No text has both a positive and a negative among its candidates.
        """
        shape = shape or Shape()
        arrays = _rust.fit_ranker(
            np.ascontiguousarray(features, np.float32),
            indptr,
            positive,
            hidden=shape.hidden,
            n_members=shape.members,
            epochs=EPOCHS,
            batch=32,
            learning_rate=RATE,
            decay=0.1,
            seed=seed,
            weights=weights,
            queries=texts,
            non_negative=shape.non_negative,
            sampled=True,
            num_threads=num_threads,
        )
        return cls(tuple(names), *arrays)

    def matrix(self, evidence: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Put evidence by name into the order of the features, (n_pairs, F)."""
        return np.stack([evidence[name] for name in self.names], axis=1)

    def ranked(
        self, pairs: Candidates, evidence: Mapping[str, NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Score candidates from their evidence by name: without the lift, and with it."""
        scores = self.score(self.matrix(evidence))
        return scores, lifted(pairs, scores, evidence["unseen"], self.lift)

    def facts(self) -> dict[str, Any]:
        """Return the section of the manifest of a run."""
        return {"ranker": {"features": list(self.names), "lift": self.lift}}

    def parts(self) -> dict[str, Part]:
        """Return the arrays as files of a run."""
        return {PREFIX + name: array_part(getattr(self, name)) for name in ARRAYS}

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score pairs by their features (n_pairs, F), shape (n_pairs,).

        A feature that is NaN counts as its mean.
        """
        features = np.where(np.isnan(features), self.mean, features)
        arrays = (
            self.mean,
            self.deviation,
            self.linear,
            self.output,
            self.weights,
            self.bias,
        )
        return _rust.score_ranker(arrays, np.ascontiguousarray(features, np.float32))


@dataclass(frozen=True, eq=False)
class RankedScorer:
    """Ranks the candidates of its members by a network.

    It does not find labels that no member proposes, and abstains on them. Ranks and gaps are taken
    among the candidates: with `exclude` or `only`, the same pair may have another score.

    Attributes:
        members: Propose candidates and give evidence. The best labels of the first one say which
            companions to look at.
        network: Weighs the evidence; None: the first member's scores stand.
        together: Labels of all points that the members know, added ones included.
        alive: False for removed labels, shape (n_labels,).
    """

    members: tuple[Member, ...]
    network: Network | None
    together: Cooccurrence
    alive: NDArray[np.bool_]

    @property
    def n_labels(self) -> int:
        """The next label id."""
        return len(self.alive)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Points of each label that the members know, (n_labels,)."""
        return self.together.counts(self.n_labels)

    def prepare(self) -> None:
        """Count which labels come together now rather than with the first search."""
        _ = self.together.parts

    @cached_property
    def unseen(self) -> NDArray[np.bool_]:
        """Labels that are alive and have no points, (n_labels,)."""
        return np.asarray(self.alive & (self.counts == 0), np.bool_)

    def candidates(
        self,
        queries: Queries,
        k: int = 0,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Candidates:
        """Collect the labels that are proposed.

        Where these may be fewer than `k`, the first member's k best labels are among them too.
        """
        proposals = [
            part for own in self.proposals(queries, exclude=exclude, only=only) for part in own
        ]
        if k > proposals[0].shape[1]:
            proposals.append(self.members[0].search(queries, k, exclude=exclude, only=only)[0])
        return Candidates.union(proposals, self.n_labels)

    def proposals(
        self,
        queries: Queries,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> list[list[NDArray[np.int32]]]:
        """Return what each member proposes, and behind that the companions of the best labels.

        Labels without points have to compete with all others there, so members propose some more
        of them.
        """
        unseen = self.unseen if only is None else self.unseen & only
        more = (UNSEEN, unseen) if unseen.any() else None
        mask = self.alive if only is None else self.alive & only
        return [
            *(m.propose(queries, exclude=exclude, only=only, unseen=more) for m in self.members),
            [top_of(self._together(queries, exclude), COMPANIONS, exclude, mask)],
        ]

    def evidence(
        self, queries: Queries, pairs: Candidates, exclude: Csr | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the evidence for each pair by name: that of all members, and of the labels."""
        features: dict[str, NDArray[np.float32]] = {}
        for member in self.members:
            features |= member.features(queries, pairs)
        together = pairs.values_of(self._together(queries, exclude))
        features["companions"] = together
        features["companions rank"] = pairs.ranks(together)
        counts = self.counts[pairs.ids]
        features["log count"] = np.log1p(counts).astype(np.float32)
        features["unseen"] = (counts == 0).astype(np.float32)
        return features

    def _together(self, queries: Queries, exclude: Csr | None) -> Csr:
        """Score the companions of the first member's best labels, whatever labels are asked for."""

        def make() -> tuple[Csr | None, Csr]:
            hits = self.members[0].search(queries, BEST, exclude=exclude)
            return exclude, companion_scores(hits, self.together.parts, self.n_labels)

        # The result holds `exclude`, so that no later matrix can get its id.
        return queries.once((self, "companions", id(exclude)), make)[1]

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best candidates of each text."""
        ids = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for rows, some in _blocks(queries):
            pairs_out = exclude if some is queries or exclude is None else exclude[rows]
            pairs = self.candidates(some, k, exclude=pairs_out, only=only)
            values = self._score(some, pairs, pairs_out)
            ids[rows], scores[rows] = _rust.topk_csr(
                pairs.indptr, pairs.ids, values, self.n_labels, k, None
            )
        return ids, scores

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text; -inf for labels that are no candidates."""
        scores = np.full(ids.shape, -np.inf, np.float32)
        for rows, some in _blocks(queries):
            pairs = self.candidates(some)
            values = csr_array(
                (self._score(some, pairs, None), pairs.ids, pairs.indptr), pairs.matrix.shape
            )
            scores[rows] = entries(values, ids[rows], -np.inf)
        return scores

    def _score(
        self, queries: Queries, pairs: Candidates, exclude: Csr | None
    ) -> NDArray[np.float32]:
        evidence = self.evidence(queries, pairs, exclude)
        if self.network is None:
            return next(iter(evidence.values()))
        return self.network.ranked(pairs, evidence)[1]

    def meanings(self) -> Mapping[str, Meaning]:
        """Return what the evidence of all members and of the labels means."""
        known = [member.meanings() for member in self.members if isinstance(member, Explained)]
        return {name: meaning for one in known for name, meaning in one.items()} | _MEANINGS

    def update(self, change: Change) -> Self:
        """Return this scorer after an edit, which every member follows; the network stays."""
        together = self.together
        if change.points is not None and change.y is not None:
            together = together.with_points(change.y)
        return replace(
            self,
            members=tuple(member.update(change) for member in self.members),
            together=together,
            alive=change.labels.alive,
        )

    def facts(self) -> dict[str, Any]:
        """Return the sections of all members, and the names of the features."""
        sections = {name: s for member in self.members for name, s in member.facts().items()}
        own = {"ranker": {"features": []}} if self.network is None else self.network.facts()
        return sections | own

    def parts(self) -> Mapping[str, Part]:
        """Return the files of all members, and the network."""
        parts = {role: part for member in self.members for role, part in member.parts().items()}
        return parts if self.network is None else parts | self.network.parts()

    def fingerprint(self) -> dict[str, Any]:
        """Return what the members' scores depend on."""
        return {name: value for m in self.members for name, value in m.fingerprint().items()}

    def note(self, k: int) -> str:
        """Say what is ranked."""
        notes = "; ".join(member.note(k) for member in self.members)
        if self.network is not None:
            return f"ranker over {notes}"
        return f"{notes}; no ranker" + ", scores of the first" * (len(self.members) > 1)


_MEANINGS = {
    "companions": Meaning(Group.COMPANIONS, "how much the text's best labels bring it along"),
    "companions rank": Meaning(
        Group.COMPANIONS, "-ln(1 + rank by companions among the candidates)"
    ),
    "log count": Meaning(Group.FREQUENCY, "training points with the label, ln(1 + n)"),
    "unseen": Meaning(
        Group.FREQUENCY, "1 if no training point has the label; its lift is part of it"
    ),
}


def lifted(
    pairs: Candidates,
    scores: NDArray[np.float32],
    unseen: NDArray[np.float32],
    lift: float,
) -> NDArray[np.float32]:
    """Raise the scores of labels without points, those far below a text's best one most.

    By ``lift x min(1, distance / LIFTED_OVER)``, the distance being that from the best score. So
    the best label of a text stays the best, and labels without points keep their order.

    Args:
        pairs: The candidates.
        scores: Their scores, (n_pairs,).
        unseen: 1 for labels without points, else 0, (n_pairs,).
        lift: 0 to `LIFTED_OVER`.
    """
    if not lift:
        return scores
    distance = pairs.largest(scores) - scores
    rise = np.float32(lift) * np.minimum(distance / np.float32(LIFTED_OVER), np.float32(1))
    return np.asarray(scores + unseen * rise, np.float32)


def _blocks(queries: Queries) -> Iterator[tuple[slice, Queries]]:
    """Cut texts into blocks; few texts stay as they are, with what is computed of them."""
    for start in range(0, len(queries), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, queries if len(queries) <= BLOCK else queries.part(rows)


def restore_network(state: Sealed) -> Network | None:
    """Open the ranker of a run whose bytes were checked; None if it has none.

    Raises:
        ValueError: The parts do not fit together.
    """
    if "ranker" not in state.facts:
        return None
    facts = require(state, "ranker", {"features": list})
    names, lift = facts["features"], facts.get("lift", 0.0)  # older runs have no lift
    if not names:
        return None
    if isinstance(lift, bool) or not isinstance(lift, int | float) or not 0 <= lift <= LIFTED_OVER:
        raise state.damaged("the ranker's lift")
    if not all(isinstance(name, str) for name in names):
        raise state.damaged("names of the ranker's features")
    f = len(names)
    arrays = {
        "mean": state.array(PREFIX + "mean", np.float32, (f,)),
        "deviation": state.array(PREFIX + "deviation", np.float32, (f,)),
        "linear": state.array(PREFIX + "linear", np.float32, (None, f)),
        "output": state.array(PREFIX + "output", np.float32, (None, None)),
        "weights": state.array(PREFIX + "weights", np.float32, (None, None, f)),
        "bias": state.array(PREFIX + "bias", np.float32, (None, None)),
    }
    m, h = arrays["output"].shape
    shapes = len(arrays["linear"]), arrays["weights"].shape, arrays["bias"].shape
    if shapes != (m, (m, h, f), (m, h)):
        raise state.damaged("the ranker's arrays do not fit together")
    return Network(tuple(names), **arrays, lift=float(lift))
