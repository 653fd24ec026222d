"""The ranker over a trained encoder: dense scores, votes and words together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.files import replacing
from dexml.index import LabelIndex
from dexml.scorers import DenseScorer, PointMemory, VotedScorer
from dexml.scorers.cooccurrence import Cooccurrence
from dexml.scorers.embedder import Embedder, KnownVectors
from dexml.scorers.ranker import ARRAYS, Network, RankedScorer
from dexml.train import ranking
from dexml.train.asked import Asked, Evidence, ask
from dexml.train.inputs import DataSet
from dexml.train.settings import TrainSettings
from dexml.train.words import Also, asked_for, fit_lexicon, used_by, word_members

FILE = "ranker.npz"
"""Where a checkpoint keeps the ranker."""
VOTES: dict[str, Any] = {"weight": 0.0, "neighbours": 20, "temperature": 0.1}
"""How points vote for a ranker where votes alone did not help: they are evidence, but the base
that the ranker must beat is what would be served without it."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """What the encoder makes of a data set. N fitted points, L labels, D dimensions."""

    label_vectors: NDArray[np.float32]
    """(L, D + 1), with the bias that is served."""
    points: NDArray[np.float32]
    """(N, D)."""
    rows: NDArray[np.int64]
    """The fitted points among all training points."""
    votes: dict[str, Any]
    """``weight``, ``neighbours`` and ``temperature``."""


def votes_of(memory: dict[str, Any]) -> dict[str, Any]:
    """Return how points vote: as `dexml.train.memory` chose, if it did."""
    if memory.get("kind") != "votes":
        return VOTES
    return {name: memory[name] for name in VOTES}


def ranked_scorer(
    given: DataSet,
    embedded: Embedded,
    settings: TrainSettings,
    *,
    also: Also,
    folder: Path | None = None,
) -> RankedScorer:
    """Fit the members on the points of `embedded`; dense scores with votes rank.

    The scorer has no encoder: `asking` gives it the vectors of the texts.
    """
    index = LabelIndex.build(embedded.label_vectors, search="exact")
    nobody: Any = None  # the embedder comes with the texts; residuals serve edits of labels only
    facts = {"dim": embedded.points.shape[1], "point_tokens": 0}
    dense = DenseScorer(nobody, index, facts, nobody, "exact")
    y = given.y[embedded.rows]
    voted = VotedScorer(dense, PointMemory.of(embedded.points, y, **embedded.votes))
    lexicon = fit_lexicon(given, settings)
    lexical, members = word_members(
        given, embedded.rows, lexicon, also=also, seed=settings.seed, folder=folder
    )
    return RankedScorer((voted, *members), None, Cooccurrence(lexical.y), lexical.alive)


def asking(
    scorer: RankedScorer, texts: Sequence[str], vectors: NDArray[np.float32]
) -> RankedScorer:
    """Return a scorer that answers for texts whose search vectors (n, D + 1) are known."""
    voted, *others = scorer.members
    assert isinstance(voted, VotedScorer)
    known = cast(Embedder, KnownVectors(texts, vectors))
    voted = replace(voted, dense=replace(voted.dense, embedder=known))
    return replace(scorer, members=(voted, *others))


def gather(
    given: DataSet,
    embedded: Embedded,
    asked: NDArray[np.int64],
    vectors: NDArray[np.float32],
    weights: NDArray[np.float64],
    settings: TrainSettings,
) -> Evidence:
    """Collect what the members say of points that they were not fitted on.

    Args:
        given: The data set.
        embedded: Of the points that the members are fitted on.
        asked: The other points.
        vectors: Their search vectors, (n, D + 1).
        weights: Inverse propensities, (L,).
        settings: The settings.
    """
    texts = [given.part.texts[i] for i in asked]
    scorer = ranked_scorer(given, embedded, settings, also=asked_for(settings, given))
    scorer = asking(scorer, texts, vectors)
    bar = console.bar(
        total=len(asked), desc="evidence", unit="text", delay=2, disable=settings.quiet
    )
    with bar:
        return ask(scorer, Asked.of(given, asked, weights), bar.update)


def choose_ranker(
    given: DataSet,
    rows: NDArray[np.int64],
    evidence: Evidence,
    weights: NDArray[np.float64],
    settings: TrainSettings,
    path: Path,
) -> ranking.Choice:
    """Train the ranker on the `evidence` of `rows`, judge it, and keep it in `path` if better.

    Args:
        given: The data set.
        rows: The points.
        evidence: Of `gather`, of all these points.
        weights: Inverse propensities, (L,).
        settings: The settings.
        path: Where the network is kept (``.npz``); removed if it is not better.

    Returns:
        The ranker, and what was measured.
    """
    asked = Asked.of(given, rows, weights)
    choice = ranking.choose(
        evidence, asked, settings.select, seed=settings.seed, favour=settings.favour
    )
    path.unlink(missing_ok=True)
    if (network := choice.network) is not None:
        arrays = {name: getattr(network, name) for name in ARRAYS}
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, names=np.array(network.names), lift=np.array(network.lift), **arrays)
    if not settings.quiet:
        console.say(ranking.summary(choice))
    return choice


def final_ranker(given: DataSet, embedded: Embedded, settings: TrainSettings) -> RankedScorer:
    """Put the ranker that `choose_ranker` kept over the evidence of the final model.

    If a light run grows, its label tree is taken over where it is the same.

    Raises:
        ValueError: The file is damaged.
    """
    path = settings.out / "checkpoint" / FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["names"])
            lift = float(arrays["lift"]) if "lift" in arrays else 0.0  # begun by an older dexml
            network = Network(names, **{name: arrays[name] for name in ARRAYS}, lift=lift)
    except Exception as error:  # on damaged files np.load raises a dozen kinds of errors
        raise ValueError(f"{path}: damaged ({error}); start again with --overwrite") from None
    also = used_by(network)
    scorer = ranked_scorer(given, embedded, settings, also=also, folder=settings.out)
    return replace(scorer, network=network)
