"""Why a label has its score for a text: what `Predictor.explain` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dexml.scorers.matches import Match
from dexml.scorers.meanings import Group
from dexml.scorers.products import Product


@dataclass(frozen=True)
class Evidence:
    """A number that speaks for a label or against it."""

    name: str
    group: Group
    meaning: str
    """What the number is, in plain words."""
    value: float | None
    """None: whoever gives this evidence cannot know the label."""
    contribution: float
    """What it adds to the score."""


@dataclass(frozen=True)
class Voter:
    """A training point that votes for its labels."""

    row: int
    """Its number among the points that vote, from 0; those of `Predictor.add_points` come last."""
    text: str | None
    """None: the run does not keep the texts of its points."""
    cosine: float
    share: float
    """Of one vote."""
    has_label: bool


@dataclass(frozen=True)
class Neighbours:
    """The training points nearest to the text, which vote."""

    by: Literal["meaning", "words"]
    """How near they are: by their embeddings, or by the words they share with the text."""
    n_voters: int
    n_with_label: int
    share: float
    """What those with the label have of the vote, 0 to 1."""
    points: tuple[Voter, ...]
    """Those with the largest shares, of all and of those with the label."""


@dataclass(frozen=True)
class SharedWords:
    """What the text shares with the label's own text, or with its training points."""

    feature: str
    """The evidence that it is the sum of: ``text``, ``name`` or ``centroid``."""
    total: float
    pieces: float
    """What pieces of words have of the total; words have the rest."""
    n_terms: int
    terms: tuple[Match, ...]
    """Those with the largest parts of the sum, some of each kind."""


@dataclass(frozen=True)
class WordPairs:
    """What the learned pairs of a word of the text and a word of the label say."""

    total: float
    """The evidence ``fitted``: `bias` and all products."""
    bias: float
    n_terms: int
    """Products that are not 0."""
    terms: tuple[Product, ...]
    """The largest of them by absolute value, the largest first."""


@dataclass(frozen=True)
class Explanation:
    """Why a label has its score for a text.

    The contributions of all `evidence` and `start` sum to the score, up to rounding. How a ranker's
    score is shared among its evidence: `dexml.scorers.contributions`. Scores without a ranker are
    sums: `start` is 0, and the contributions are the terms.
    """

    label_id: int
    label_text: str
    """Where points are rows of features, its name alone."""
    n_points: int
    """Training points with the label; those count that were added since."""
    score: float | None
    """None: no member proposes the label for this text, or none knows it."""
    rank: int | None
    """From 1, by score; equal scores: the smaller id first. None: no search finds the label."""
    n_ranked: int
    """Labels that are ranked for this text: with a ranker the candidates, else all of them."""
    start: float
    """The score of the average candidate: its evidence is the mean over the candidates."""
    evidence: tuple[Evidence, ...]
    """As the scorers list it, the number that says most first in each group. Of a label that is no
    candidate: as if it were one. Empty where no scorer knows the label."""
    neighbours: tuple[Neighbours, ...]
    words: tuple[SharedWords, ...]
    pairs: WordPairs | None = None
    """None: the run has no learned pairs of words, or they do not know the label."""
    probability: float | None = None
    """How likely the label is right, as in a prediction; None: it has no score, or the run no
    probabilities."""

    @property
    def parts(self) -> dict[Group, float]:
        """Contributions to the score, summed by group."""
        sums = dict.fromkeys((g for g in Group if any(e.group == g for e in self.evidence)), 0.0)
        for one in self.evidence:
            sums[one.group] += one.contribution
        return sums

    def as_json(self) -> dict[str, Any]:
        """Return plain data: dicts, lists, strings and numbers."""
        return {
            "id": self.label_id,
            "text": self.label_text,
            "score": self.score,
            "probability": self.probability,
            "rank": self.rank,
            "n_ranked": self.n_ranked,
            "n_points": self.n_points,
            "start": self.start,
            "parts": {str(group): value for group, value in self.parts.items()},
            "evidence": [vars(one) | {"group": str(one.group)} for one in self.evidence],
            "neighbours": [
                vars(one) | {"points": [dict(vars(point)) for point in one.points]}
                for one in self.neighbours
            ],
            "words": [
                vars(one) | {"terms": [match._asdict() for match in one.terms]}
                for one in self.words
            ],
            "pairs": None
            if self.pairs is None
            else vars(self.pairs) | {"terms": [term._asdict() for term in self.pairs.terms]},
        }
