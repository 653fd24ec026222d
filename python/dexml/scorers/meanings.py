"""What evidence means, for people who ask why a label was chosen.

Each member says it for its own features, beside the code that computes them. A group is what a
person takes as one thing, such as all numbers about shared words.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dexml.scorers.queries import Queries


class Group(StrEnum):
    """Kinds of evidence, in the order in which they are shown."""

    DENSE = "dense"
    BY_MEANING = "neighbours by meaning"
    WORDS = "words"
    BY_WORDS = "neighbours by words"
    BILINEAR = "pairs of words"
    TREE = "tree"
    COMPANIONS = "companions"
    FREQUENCY = "frequency"
    OTHER = "other"


class Meaning(NamedTuple):
    """What a feature is about."""

    group: Group
    words: str
    """What the number is, in a few plain words."""


Terms = Mapping[str, tuple[float, NDArray[np.float32]]]
"""A weight and values (n, m) by name: the products of both sum to a score."""


@runtime_checkable
class Explained(Protocol):
    """A scorer that says what its evidence means, and what its score is the sum of."""

    def meanings(self) -> Mapping[str, Meaning]:
        """Return the meaning of each feature and of each term of the score, by name.

        The first of a group is the one that says most to a person.
        """
        ...

    def terms(self, queries: Queries, ids: NDArray[np.int32]) -> Terms:
        """Return the terms of the scores of the labels `ids` (n, m), none of them removed."""
        ...
