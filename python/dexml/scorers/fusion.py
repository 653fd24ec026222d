"""A weighted sum of any scorers, ranked over the union of their candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.data import Csr, csr_parts
from dexml.index import Hits
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change, Scorer
from dexml.sealed import Part

CANDIDATES = 100
"""Labels that each member proposes, at least."""


@dataclass(frozen=True)
class Fusion:
    """Scores a pair by the weighted sum of its members' scores.

    A member that abstains on a label adds nothing; a label on which all abstain is not found.
    Every member proposes its best labels, all members score all of them, and the best sums win: a
    label that no member proposes is not found, however good its sum.

    Attributes:
        members: The scorers.
        weights: A finite weight for each.
        n_labels: The next label id.
        candidates: Labels that each member proposes, at least as many as are asked for.
    """

    members: tuple[Scorer, ...]
    weights: tuple[float, ...]
    n_labels: int
    candidates: int = CANDIDATES

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.members) or not self.members:
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} scorers")
        if not np.isfinite(self.weights).all():
            raise ValueError(f"weights = {self.weights}; expected finite numbers")

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels of each text among the candidates of all members."""
        width = max(k, self.candidates)
        proposed = [
            member.search(queries, width, exclude=exclude, only=only)[0] for member in self.members
        ]
        ids = _distinct(np.concatenate(proposed, axis=1))
        scores = self.score_pairs(queries, ids)
        kept = (ids >= 0) & ~np.isneginf(scores)
        indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        return _rust.topk_csr(
            indptr,
            ids[kept],
            scores[kept],
            self.n_labels,
            k,
            None if exclude is None else csr_parts(exclude, "exclude")[:2],
        )

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Sum the members' scores of the labels `ids` (n, m); -inf where all abstain."""
        total = np.zeros(ids.shape, np.float64)
        known = np.zeros(ids.shape, np.bool_)
        for member, weight in zip(self.members, self.weights, strict=True):
            scores = member.score_pairs(queries, ids)
            speaks = ~np.isneginf(scores)
            total[speaks] += weight * scores[speaks].astype(np.float64)
            known |= speaks
        return np.where(known, total, -np.inf).astype(np.float32)

    def update(self, change: Change) -> Fusion:
        """This sum after an edit: every member follows it."""
        members = tuple(member.update(change) for member in self.members)
        return replace(self, members=members, n_labels=len(change.labels))

    def facts(self) -> dict[str, Any]:
        """Sections of all members."""
        return {name: section for m in self.members for name, section in m.facts().items()}

    def parts(self) -> Mapping[str, Part]:
        """Files of all members."""
        return {role: part for member in self.members for role, part in member.parts().items()}

    def fingerprint(self) -> dict[str, Any]:
        """What the members' scores depend on, and the weights."""
        found = {name: value for m in self.members for name, value in m.fingerprint().items()}
        return found | {"weights": list(self.weights)}

    def note(self, k: int) -> str:
        """What each member says."""
        notes = [member.note(k) for member in self.members]
        return "; ".join(f"{w:g} x ({note})" for w, note in zip(self.weights, notes, strict=True))


def _distinct(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sort the ids of each row and turn repeated ones into padding."""
    ids = np.sort(ids, axis=1)
    ids[:, 1:][ids[:, 1:] == ids[:, :-1]] = -1
    return ids
