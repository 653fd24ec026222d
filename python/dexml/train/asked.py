"""What the members of a ranker say of validation points: candidates and evidence.

No member may have been fitted on these points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.heap import give_back
from dexml.metrics import LabelGroups
from dexml.scorers.bilinear import BilinearScorer
from dexml.scorers.candidates import Candidates
from dexml.scorers.queries import Queries
from dexml.scorers.ranker import BLOCK, RankedScorer
from dexml.scorers.tree import TreeScorer
from dexml.train.inputs import DataSet
from dexml.train.outcome import by_seen


class Optional(NamedTuple):
    """A member that is used only if it helps."""

    kind: type
    features: tuple[str, ...]
    bit: int
    """In `Evidence.proposers`."""


OPTIONAL = {
    "tree": Optional(TreeScorer, ("tree", "tree probability", "tree gap", "tree rank"), 2),
    "bilinear": Optional(
        BilinearScorer,
        ("bilinear", "bilinear gap", "bilinear rank", "fitted", "fitted gap", "same words"),
        4,
    ),
}
"""They cost most of the time."""
OTHERS = 1
"""The bit of all others that propose labels."""


@dataclass(frozen=True)
class Asked:
    """Validation points: texts, truth, filter pairs, groups. n points, L labels."""

    texts: list[str]
    y_true: Csr
    """(n, L)."""
    inv_propensity: NDArray[np.float64]
    exclude: Csr | None = None
    groups: Sequence[str] | None = None
    """A key a point: points with one key stay on one side of every fold, and are resampled
    together."""
    label_groups: Mapping[str, LabelGroups] | None = None
    """Labels by their number of fitted points."""

    @classmethod
    def of(
        cls, given: DataSet, rows: NDArray[np.int64], inv_propensity: NDArray[np.float64]
    ) -> Asked:
        """Take some training points of a data set."""
        exclude, groups = given.part.exclude, given.part.groups
        return cls(
            [given.part.texts[i] for i in rows],
            given.y[rows],
            inv_propensity,
            None if exclude is None else exclude[rows],
            None if groups is None else [groups[i] for i in rows],
            by_seen(given.y[given.fitted]),
        )

    @property
    def keys(self) -> Sequence[str]:
        """What folds are made by: the groups, or else the texts, as the validation part is."""
        return self.texts if self.groups is None else self.groups


@dataclass(frozen=True)
class Evidence:
    """What the members say of all candidates of some texts."""

    pairs: Candidates
    names: tuple[str, ...]
    features: NDArray[np.float32]
    """(n_pairs, F)."""
    positive: NDArray[np.bool_]
    base: NDArray[np.float32]
    """The first member's score of each pair."""
    proposers: NDArray[np.uint8]
    """Who proposes each pair, (n_pairs,): bits of `OPTIONAL`, and `OTHERS`."""

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """Put the evidence of several parts together, in their order."""
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(part.pairs.indptr) for part in parts])
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.concatenate([part.pairs.ids for part in parts])
        return cls(
            Candidates(indptr, ids, parts[0].pairs.n_labels),
            parts[0].names,
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.positive for part in parts]),
            np.concatenate([part.base for part in parts]),
            np.concatenate([part.proposers for part in parts]),
        )

    def without(self, member: str) -> Evidence:
        """Return the evidence without an optional member, and without what it alone proposes."""
        _, own, bit = OPTIONAL[member]
        columns = np.flatnonzero([name not in own for name in self.names])
        names = tuple(self.names[i] for i in columns)
        others = self.proposers & ~np.uint8(bit)
        rows = np.flatnonzero(others)
        indptr = np.concatenate([[0], np.cumsum(others > 0)])[self.pairs.indptr]
        pairs = Candidates(indptr, self.pairs.ids[rows], self.pairs.n_labels)
        features = self.features[np.ix_(rows, columns)]  # rows stay whole, as the core reads them
        _compare_again(features, names, pairs)
        return Evidence(pairs, names, features, self.positive[rows], self.base[rows], others[rows])


def _compare_again(features: NDArray[np.float32], names: Sequence[str], pairs: Candidates) -> None:
    """Correct the features that compare a label with other candidates, when some are gone."""
    for column, name in enumerate(names):
        what, _, kind = name.rpartition(" ")
        values = features[:, column]
        if kind == "rank" and what in names:
            features[:, column] = pairs.ranks(features[:, names.index(what)])
        elif kind == "gap":
            features[:, column] = values - pairs.largest(values)
        elif kind == "share":  # the logarithm of a share of 1
            total = np.bincount(pairs.rows, np.exp(values), pairs.n_texts)
            features[:, column] = values - np.log(total)[pairs.rows]


def ask(scorer: RankedScorer, asked: Asked, on_progress: Callable[[int], object]) -> Evidence:
    """Ask all members for candidates and evidence, in blocks of texts."""
    ids: list[NDArray[np.int32]] = []
    proposers: list[NDArray[np.uint8]] = []
    lengths = []
    names: tuple[str, ...] = ()
    matrix = np.empty((0, 0), np.float32)
    n_pairs = 0
    for start in range(0, len(asked.texts), BLOCK):
        rows = slice(start, start + BLOCK)
        queries = Queries(asked.texts[rows])
        exclude = None if asked.exclude is None else asked.exclude[rows]
        proposals = scorer.proposals(queries, exclude=exclude)
        pairs = Candidates.union([part for own in proposals for part in own], scorer.n_labels)
        found = scorer.evidence(queries, pairs, exclude)
        names = tuple(found)
        first, n_pairs = n_pairs, n_pairs + len(pairs)
        # Longer in place: blocks that are put together at the end take twice the memory.
        matrix.resize((n_pairs, len(names)), refcheck=False)
        for column, name in enumerate(names):
            matrix[first:n_pairs, column] = found[name]
        ids.append(pairs.ids)
        proposers.append(_proposers(scorer, proposals, pairs))
        lengths.append(np.diff(pairs.indptr))
        del queries, found, proposals
        give_back()
        on_progress(len(lengths[-1]))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    pairs = Candidates(indptr, np.concatenate(ids), scorer.n_labels)
    positive = pairs.values_of(asked.y_true) > 0
    base = matrix[:, 0].copy()
    return Evidence(pairs, names, matrix, positive, base, np.concatenate(proposers))


def _proposers(
    scorer: RankedScorer, proposals: Sequence[Sequence[NDArray[np.int32]]], pairs: Candidates
) -> NDArray[np.uint8]:
    """Say who proposes each pair: a bit for each optional member, another one for all others."""
    parts: dict[int, list[NDArray[np.int32]]] = {}
    # Behind those of the members stand the companions, which are of no member.
    for member, own in zip_longest(scorer.members, proposals):
        bits = (one.bit for one in OPTIONAL.values() if isinstance(member, one.kind))
        parts.setdefault(next(bits, OTHERS), []).extend(own)
    who = np.zeros(len(pairs), np.uint8)
    for bit, own in parts.items():
        proposed = Candidates.union(own, scorer.n_labels).matrix
        who |= np.where(pairs.values_of(proposed) > 0, bit, 0).astype(np.uint8)
    return who
