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
from dexml.scorers.queries import OnProgress, Queries
from dexml.sealed import Part

NOBODY: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Change:
    """An edit of labels or points: what the labels are after it, and what is different."""

    labels: LabelSet
    """The labels after the edit."""
    added: NDArray[np.int64] = field(default_factory=lambda: NOBODY)
    """Ids of new labels."""
    removed: NDArray[np.int64] = field(default_factory=lambda: NOBODY)
    updated: NDArray[np.int64] = field(default_factory=lambda: NOBODY)
    """Ids of labels with a new text."""
    points: Queries | None = None
    """New points, and their labels `y`, (n, n_labels)."""
    y: Csr | None = None
    on_progress: OnProgress | None = None


class Scorer(Protocol):
    """Scores pairs of a text and a label.

    A scorer never changes: `update` gives another one, which may share what both keep. So a
    question sees one moment, whatever other threads edit meanwhile, and nobody needs a lock but
    the one who replaces the scorer (`dexml.predict.Predictor`).
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
            scores: the smaller id first.
        """
        ...

    def score_pairs(self, queries: Queries, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Score the labels `ids` (n, m) of each text, padded with -1.

        Returns:
            Scores (n, m), float32; -inf where the scorer abstains: padding, and labels it does not
            know.
        """
        ...

    def update(self, change: Change) -> Self:
        """This scorer after an edit."""
        ...

    def facts(self) -> dict[str, Any]:
        """Sections of the run's manifest that belong to this scorer, by name."""
        ...

    def parts(self) -> Mapping[str, Part]:
        """Files of the run that belong to this scorer, by role."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What scores depend on beside the run's files and `note`, as plain values by name."""
        ...

    def note(self, k: int) -> str:
        """Say in a few words how k labels a text are found."""
        ...
