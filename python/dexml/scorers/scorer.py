"""What a scorer is: it scores (text, label) pairs, searches, and follows edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.index import Hits
from dexml.run import LabelSet
from dexml.scorers.queries import Once, OnProgress, Queries
from dexml.sealed import Part


def _no_ids() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Change:
    """One edit of labels or points: the labels after it, and what is different.

    Attributes:
        labels: The labels after the edit.
        added: Ids of new labels.
        removed: Ids of removed labels.
        updated: Ids of labels with a new text.
        points: New points that may vote.
        y: The labels of these points, shape (n, n_labels).
        on_progress: Called with the number of label texts whenever some more are encoded.
        once: Keeps what scorers compute for this edit. A scorer that is part of several others
            follows the edit once, and stays the same object in all of them.
    """

    labels: LabelSet
    added: NDArray[np.int64] = field(default_factory=_no_ids)
    removed: NDArray[np.int64] = field(default_factory=_no_ids)
    updated: NDArray[np.int64] = field(default_factory=_no_ids)
    points: Queries | None = None
    y: Csr | None = None
    on_progress: OnProgress | None = None
    once: Once = field(default_factory=Once)


class Scorer(Protocol):
    """Scores pairs of a text and a label.

    A scorer never changes: `update` returns another one, which may share what both need. So a
    search sees one moment, whatever other threads edit meanwhile, and needs no lock. Only replacing
    the scorer needs one (`dexml.predict.Predictor`).
    """

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best labels of each text.

        Args:
            queries: The texts.
            k: Labels a text; rows are padded when fewer are left.
            exclude: Pairs (text, label) to leave out, shape (n, n_labels); k labels remain.
            only: Labels that may be found, a mask of shape (n_labels,); None: all.

        Returns:
            ``ids`` int32 and ``scores`` float32, (n, k), best first, padded with -1 and -inf; equal
            scores: the smaller id first. Removed labels are never among them.
        """
        ...

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text, padded with -1.

        Returns:
            Scores (n, m), float32; -inf where the scorer abstains: padding, removed labels, and
            labels it does not know.
        """
        ...

    def update(self, change: Change) -> Self:
        """Return this scorer as it is after an edit."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return this scorer's sections of the run's manifest, by name."""
        ...

    def parts(self) -> Mapping[str, Part]:
        """Return this scorer's files in the run, by role (``SECTION/NAME``)."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return what scores depend on beside the run's files and `note`: JSON values by name."""
        ...

    def note(self, k: int) -> str:
        """Say in a few words how k labels a text are found."""
        ...
