"""Putting an explanation together from what the scorers of a run say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr, names_of
from dexml.predict.explanation import (
    Evidence,
    Explanation,
    Neighbours,
    SharedWords,
    Voter,
    WordPairs,
)
from dexml.predict.served import Served, bilinear_of, lexical_of, n_points_of, scorers_in
from dexml.run import PointTexts
from dexml.scorers import Fusion, NeighbourScorer, Queries, Scorer, VotedScorer
from dexml.scorers.candidates import Candidates
from dexml.scorers.contributions import contributions, score_at, standardised
from dexml.scorers.matches import matches
from dexml.scorers.meanings import Explained, Group, Meaning
from dexml.scorers.products import products
from dexml.scorers.ranker import Network, RankedScorer
from dexml.scorers.votes import Voters

LARGEST = 5
"""Points that are named, of all that vote and of those with the label."""
TERMS = 10
"""Words that are named, as many pieces of words, and as many pairs of words."""
_WIDTH = 100
"""Labels that are looked through first for the rank of one."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One text, and which labels may be found for it.

    `queries` holds the text alone. `exclude` has one row, `only` is a mask (n_labels,).
    """

    queries: Queries
    exclude: Csr | None = None
    only: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class _Scored:
    """The score of a label, and what it is made of."""

    score: float | None
    rank: int | None
    n_ranked: int
    start: float
    evidence: tuple[Evidence, ...]


def explain_best(now: Served, asked: Asked, k: int) -> list[Explanation]:
    """Explain the k best labels, the best first."""
    ids = now.scorer.search(asked.queries, k, exclude=asked.exclude, only=asked.only)[0][0]
    return explain(now, asked, ids[ids >= 0].tolist(), k)


def explain(now: Served, asked: Asked, ids: Sequence[int], k: int = 0) -> list[Explanation]:
    """Explain the scores of labels that are alive.

    Args:
        now: Labels and scorer.
        asked: The text.
        ids: The labels.
        k: As many labels are ranked as for an answer of k.
    """
    if isinstance(now.scorer, RankedScorer):
        scored = _ranked(now.scorer, asked, ids, k)
    else:
        scored = (_summed(now, asked, label) for label in ids)
    voting = list(_voting(now.scorer, asked.queries))
    texts = now.texts
    if texts is not None and len(texts) != n_points_of(now.scorer):
        texts = None  # the scorer is not the run's own, and nor are its points
    names, lexical = [now.labels.texts[label] for label in ids], lexical_of(now.scorer)
    if lexical is not None and lexical.lexicon.knows == "features":
        names = names_of(names)
    return [
        Explanation(
            label,
            name,
            _n_points(now, voting, label),
            one.score,
            one.rank,
            one.n_ranked,
            one.start,
            one.evidence,
            tuple(_neighbours(by, voters, y, label, texts) for by, voters, y in voting),
            tuple(_words(now.scorer, asked.queries, label)),
            _pairs(now, asked.queries, label),
        )
        for label, name, one in zip(ids, names, scored, strict=True)
    ]


def _ranked(scorer: RankedScorer, asked: Asked, ids: Sequence[int], k: int) -> Iterator[_Scored]:
    """Explain scores among the candidates; a label that is none of them as if it were one."""
    queries, network, meanings = asked.queries, scorer.network, scorer.meanings()
    pairs = scorer.candidates(queries, k, exclude=asked.exclude, only=asked.only)
    own = scorer.evidence(queries, pairs, asked.exclude)
    scores = plain = next(iter(own.values()))
    if network is not None:
        plain, scores = network.ranked(pairs, own)
    for label in ids:
        among, evidence, lift = pairs, own, scores - plain
        at = np.flatnonzero(pairs.ids == label)
        score, rank = None, None
        if len(at):
            score = float(scores[at[0]])
            before = (scores > score) | ((scores == score) & (pairs.ids < label))
            rank = 1 + int(before.sum())
        if network is None:
            parts = _terms(scorer.members[0], queries, label)
            yield _Scored(score, rank, len(pairs), 0.0, parts)
            continue
        if not len(at):
            also = np.array([[label]], np.int32)
            among = Candidates.union([pairs.padded, also], pairs.n_labels)
            evidence = scorer.evidence(queries, among, asked.exclude)
            at = np.flatnonzero(among.ids == label)
            before, after = network.ranked(among, evidence)
            lift = after - before
        start, shares = _shares(network, network.matrix(own), network.matrix(evidence)[at[0]])
        by_name = dict(zip(network.names, shares.tolist(), strict=True))
        if network.lift:
            by_name["unseen"] = by_name.get("unseen", 0.0) + float(lift[at[0]])
        parts = tuple(
            _evidence(name, float(evidence[name][at[0]]), by_name[name], meanings)
            for name in dict.fromkeys([*meanings, *network.names])
            if name in by_name
        )
        yield _Scored(score, rank, len(pairs), start, parts)


def _shares(
    network: Network, candidates: NDArray[np.float32], features: NDArray[np.float32]
) -> tuple[float, NDArray[np.float64]]:
    """Return the score of the average candidate, and what each feature adds to it."""
    among = standardised(network, candidates)
    start = among.mean(axis=0) if len(among) else np.zeros(len(features))
    x = standardised(network, features[None])[0]
    return score_at(network, start), contributions(network, start, x)


def _summed(now: Served, asked: Asked, label: int) -> _Scored:
    """Explain a score that is a sum."""
    scorer, n_labels = now.scorer, len(now.labels)
    score = float(scorer.score_pairs(asked.queries, np.array([[label]], np.int32))[0, 0])
    allowed = now.labels.alive if asked.only is None else now.labels.alive & asked.only
    parts = _terms(scorer, asked.queries, label)
    if not np.isfinite(score):
        return _Scored(None, None, int(allowed.sum()), 0.0, parts)
    rank = _rank(scorer, asked, label, n_labels)
    return _Scored(score, rank, int(allowed.sum()), 0.0, parts)


def _rank(scorer: Scorer, asked: Asked, label: int, n_labels: int) -> int | None:
    """Look for a label in wider and wider answers; None if no search finds it."""
    width = min(_WIDTH, n_labels)
    while True:
        ids = scorer.search(asked.queries, width, exclude=asked.exclude, only=asked.only)[0][0]
        at = np.flatnonzero(ids == label)
        if len(at):
            return int(at[0]) + 1
        if width == n_labels or ids[-1] < 0:
            return None
        width = min(10 * width, n_labels)


def _terms(
    scorer: Scorer, queries: Queries, label: int, weight: float = 1.0
) -> tuple[Evidence, ...]:
    """Return the terms of a sum; a scorer that does not say them is one term."""
    ids = np.array([[label]], np.int32)
    if isinstance(scorer, Fusion):
        members = zip(scorer.members, scorer.weights, strict=True)
        return tuple(e for m, w in members if w for e in _terms(m, queries, label, weight * w))
    score = scorer.score_pairs(queries, ids)
    if not np.isfinite(score).all():
        return ()  # it abstains, which adds nothing
    terms, meanings = {"score": (1.0, score)}, {}
    if isinstance(scorer, Explained):
        terms, meanings = dict(scorer.terms(queries, ids)), dict(scorer.meanings())
    else:
        meanings["score"] = Meaning(Group.OTHER, f"score of {type(scorer).__name__}")
    return tuple(
        _evidence(name, float(value[0, 0]), weight * factor * float(value[0, 0]), meanings)
        for name, (factor, value) in terms.items()
    )


def _evidence(
    name: str, value: float, contribution: float, meanings: Mapping[str, Meaning]
) -> Evidence:
    meaning = meanings.get(name, Meaning(Group.OTHER, name))
    known = None if np.isnan(value) else value
    return Evidence(name, meaning.group, meaning.words, known, contribution)


def _voting(
    scorer: Scorer, queries: Queries
) -> Iterator[tuple[Literal["meaning", "words"], Voters, Csr]]:
    """Find the points that vote on a text, by embedding and by words, with all points' labels."""
    for one in scorers_in(scorer):
        if isinstance(one, VotedScorer | NeighbourScorer):
            yield "meaning", one.voters(queries), one.memory.points.y
            break
    if (lexical := lexical_of(scorer)) is not None:
        yield "words", lexical.voters(queries), lexical.y


def _n_points(
    now: Served, voting: Sequence[tuple[Literal["meaning", "words"], Voters, Csr]], label: int
) -> int:
    if not voting:
        return int(now.labels.counts[label])
    return int((voting[0][2].indices == label).sum())


def _neighbours(
    by: Literal["meaning", "words"], voters: Voters, y: Csr, label: int, texts: PointTexts | None
) -> Neighbours:
    """Say who votes on a text, and who of them has the label."""
    votes = voters.shares[0] > 0
    rows, cosines, shares = (values[0][votes] for values in voters)
    has = np.array([label in y.indices[y.indptr[row] : y.indptr[row + 1]] for row in rows], bool)
    order = np.argsort(-shares, kind="stable")
    named = np.union1d(order[:LARGEST], order[has[order]][:LARGEST])
    return Neighbours(
        by,
        len(rows),
        int(has.sum()),
        float(shares[has].sum()),
        tuple(
            Voter(
                int(rows[at]),
                None if texts is None else texts.text(int(rows[at])),
                float(cosines[at]),
                float(shares[at]),
                bool(has[at]),
            )
            for at in order[np.isin(order, named)]
        ),
    )


def _words(scorer: Scorer, queries: Queries, label: int) -> Iterator[SharedWords]:
    """Say which terms the text shares with the label."""
    if (lexical := lexical_of(scorer)) is None:
        return
    for feature, found in matches(lexical, queries, label).items():
        words = [match for match in found if match.kind == "word"]
        pieces = [match for match in found if match.kind == "piece"]
        named = {*words[:TERMS], *pieces[:TERMS]}
        yield SharedWords(
            feature,
            sum(match.part for match in found),
            sum(match.part for match in pieces),
            len(found),
            tuple(match for match in found if match in named),
        )


def _pairs(now: Served, queries: Queries, label: int) -> WordPairs | None:
    """Say which learned pairs of words speak for the label or against it."""
    scorer = bilinear_of(now.scorer)
    if scorer is None or not scorer.known[label]:
        return None
    found, bias = products(scorer, queries, label, now.labels.texts), float(scorer.model.bias)
    total = bias + sum(one.part for one in found)
    return WordPairs(total, bias, len(found), tuple(found[:TERMS]))
