"""A weighted sum of any scorers, ranked over the union of their candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.data import Csr
from dexml.index import Hits
from dexml.scorers.queries import Queries
from dexml.scorers.scorer import Change, Scorer
from dexml.sealed import Part

V = TypeVar("V")
CANDIDATES = 100
"""Labels that each member proposes, at least."""


@dataclass(frozen=True, eq=False)
class Fusion:
    """Scores a pair by the weighted sum of its members' scores.

    Every member proposes its best labels, all members score all of these, and the best sums win. A
    label that no member proposes is not found, however good its sum. A member that abstains on a
    label adds nothing to it; a member of weight 0 says nothing at all.

    Attributes:
        members: The scorers.
        weights: A finite weight for each, not all of them 0.
        candidates: Labels that each member proposes; as many as are asked for, if that is more.
    """

    members: tuple[Scorer, ...]
    weights: tuple[float, ...]
    candidates: int = CANDIDATES

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} scorers")
        if not np.isfinite(self.weights).all() or not any(self.weights):
            raise ValueError(
                f"weights = {self.weights}; expected finite numbers, not all of them 0"
            )

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
            member.search(queries, width, exclude=exclude, only=only)[0]
            for member, weight in zip(self.members, self.weights, strict=True)
            if weight
        ]
        ids = _distinct(np.concatenate(proposed, axis=1))
        scores = self.score_pairs(queries, ids)
        kept = (ids >= 0) & ~np.isneginf(scores)
        indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        n_labels = int(ids.max(initial=0)) + 1
        return _rust.topk_csr(indptr, ids[kept], scores[kept], n_labels, k)

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Sum the members' scores of the labels `ids` (n, m); -inf where all of them abstain."""
        total = np.zeros(ids.shape, np.float64)
        known = np.zeros(ids.shape, np.bool_)
        for member, weight in zip(self.members, self.weights, strict=True):
            if weight:
                scores = member.score_pairs(queries, ids)
                speaks = ~np.isneginf(scores)
                total[speaks] += weight * scores[speaks].astype(np.float64)
                known |= speaks
        return np.where(known, total, -np.inf).astype(np.float32)

    def update(self, change: Change) -> Fusion:
        """Return this sum after an edit, which every member follows."""
        return replace(self, members=tuple(member.update(change) for member in self.members))

    def facts(self) -> dict[str, Any]:
        """Return the sections of all members.

        Raises:
            ValueError: Two members have different sections of one name.
        """
        return _joined((member.facts() for member in self.members), lambda a, b: bool(a == b))

    def parts(self) -> Mapping[str, Part]:
        """Return the files of all members.

        Raises:
            ValueError: Two members have different files for one role, such as the scorers of two
                runs.
        """
        return _joined((member.parts() for member in self.members), _same_content)

    def fingerprint(self) -> dict[str, Any]:
        """Return the weights, and what the members' scores depend on."""
        return {
            "weights": list(self.weights),
            "candidates": self.candidates,
            "members": [member.fingerprint() for member in self.members],
        }

    def note(self, k: int) -> str:
        """Return what each member says of its search."""
        notes = [member.note(k) for member in self.members]
        return "; ".join(f"{w:g} x ({note})" for w, note in zip(self.weights, notes, strict=True))


def _distinct(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sort the ids of each row and turn repeated ones into padding."""
    ids = np.sort(ids, axis=1)
    ids[:, 1:][ids[:, 1:] == ids[:, :-1]] = -1
    return ids


def _joined(mappings: Iterable[Mapping[str, V]], same: Callable[[V, V], bool]) -> dict[str, V]:
    """Join what members keep. Two of them may share a scorer, but not overwrite each other."""
    joined: dict[str, V] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            if not same(joined.setdefault(name, value), value):
                raise ValueError(
                    f"two scorers of the fusion save different '{name}'; a run has room for one"
                )
    return joined


def _same_content(a: Part, b: Part) -> bool:
    """Whether two parts are made from the same objects."""
    return len(a.source) == len(b.source) and all(
        x is y or (isinstance(x, int | str) and x == y)
        for x, y in zip(a.source, b.source, strict=True)
    )
