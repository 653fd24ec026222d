"""Sums of scorers: the votes of a run against the formula, and what members abstain on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import data
from dexml.index import LabelIndex
from dexml.predict import Opened, open_run
from dexml.run import LabelSet
from dexml.scorers import (
    Change,
    DenseScorer,
    Fusion,
    NeighbourScorer,
    PointMemory,
    Queries,
    Scorer,
    VotedScorer,
)
from test_neighbours import assert_ranks
from test_scorers import WordOverlap, overlap
from voting import voting_run


@pytest.fixture(scope="module")
def plain(run_dir: Path) -> Opened:
    """A run without votes."""
    return open_run(run_dir, search="exact", threads=1)


@pytest.fixture
def voting(run_dir: Path, tmp_path: Path) -> Path:
    """A run of its own in which points vote."""
    return voting_run(run_dir, tmp_path / "run")


DIM = 3
_WORDS = tuple("abcdefgh")


def vector_of(text: str) -> NDArray[np.float32]:
    """Multiples of 1/4, the same for the same text; few different ones, so that ties are common."""
    seed = sum(map(ord, text))
    return np.random.default_rng(seed).integers(-2, 3, DIM).astype(np.float32) / np.float32(4)


class Embeds:
    """Stands in for an encoder: a vector by text."""

    def points(self, queries: Queries, max_tokens: int) -> NDArray[np.float32]:
        return queries.once((self, max_tokens), lambda: self.labels(queries.texts, 0, None, 1.0))

    def labels(
        self, texts: list[str], max_tokens: int, residual: Any, bias: Any, on_progress: Any = None
    ) -> NDArray[np.float32]:
        out = np.ones((len(texts), DIM + 1), np.float32)
        out[:, :-1] = np.array([vector_of(t) for t in texts], np.float32).reshape(-1, DIM)
        out[:, -1] = bias
        return out


def small_dense(labels: LabelSet) -> DenseScorer:
    embedder: Any = Embeds()
    nothing_trained: Any = None
    vectors = embedder.labels(labels.texts, 0, None, 0.25)
    facts = {"dim": DIM, "point_tokens": 9, "label_tokens": 9, "unseen_bias": 0.25}
    index = LabelIndex.build(vectors, search="exact")
    return DenseScorer(embedder, index, facts, nothing_trained)


def small_memory(generator: np.random.Generator, n: int, n_labels: int, weight: float) -> Any:
    texts = generator.choice(_WORDS, n).tolist()
    vectors = np.array([vector_of(t) for t in texts], np.float32).reshape(-1, DIM)
    y = csr_array((generator.random((n, n_labels)) < 0.3).astype(np.float32))
    return PointMemory.of(vectors, y, weight=weight, neighbours=4, temperature=0.5)


def definition(
    texts: list[str],
    labels: LabelSet,
    memory: PointMemory,
    out: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Every label scored by the formula, dense score + weight x votes; -inf for those in `out`."""
    scores = np.zeros((len(texts), len(labels)))
    points = np.concatenate([memory.points.base, memory.points.added]).astype(np.float64)
    y, set_ = memory.points.y.toarray(), memory.settings
    for row, text in enumerate(texts):
        query = vector_of(text).astype(np.float64)
        for i, label in enumerate(labels.texts):
            scores[row, i] = vector_of(label) @ query + 0.25
        length = np.linalg.norm(query)
        assert len(points) <= set_.neighbours  # all of them vote
        shares = np.exp(points @ (query / (length or 1)) / set_.temperature)
        if len(points):
            scores[row, : y.shape[1]] += set_.weight * (shares / shares.sum() @ y)
    scores[out] = -np.inf
    return scores


@settings(max_examples=60)
@given(st.data())
def test_a_fusion_of_all_candidates_is_the_voted_scorer(given_data: st.DataObject) -> None:
    """Both against the formula, after edits, with ties, exclude, only and weight 0.

    Cosines of this data are often equal up to rounding, so who of the equally near votes could
    differ from the twin: at most four points, all of them vote.
    """
    draw = given_data.draw
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_labels, n_points = draw(st.integers(1, 9)), draw(st.integers(0, 2))
    weight = draw(st.sampled_from([0.0, 0.5, 3.0]))
    texts = generator.choice(_WORDS, n_labels).tolist()
    labels = LabelSet(texts, np.zeros(n_labels, np.int64), np.ones(n_labels, np.bool_), 0)
    dense = small_dense(labels)
    memory = small_memory(generator, n_points, n_labels, weight)
    voted = VotedScorer(dense, memory)
    fusion = Fusion((dense, NeighbourScorer(dense, memory)), (1.0, weight), candidates=99)
    for kind in draw(st.lists(st.sampled_from(["add", "remove", "update", "points"]), max_size=4)):
        some = np.flatnonzero(labels.alive & (generator.random(len(labels)) < 0.3))
        new = generator.choice(_WORDS, len(some)).tolist()
        if kind == "add":
            more, ids = labels.added(["a", "b"])
            change = Change(more, added=ids.astype(np.int64))
        elif kind == "remove":
            change = Change(labels.removed(some), removed=some)
        elif kind == "update":
            change = Change(labels.updated(some, new), updated=some)
        else:
            y = csr_array((generator.random((1, len(labels))) < 0.4).astype(np.float32))
            change = Change(labels, points=Queries(["c"]), y=y)
            if voted.memory.n_points >= 4:
                continue
        labels = change.labels
        voted, fusion = voted.update(change), fusion.update(change)
    n, k = draw(st.integers(0, 3)), draw(st.integers(1, 12))
    asked = generator.choice(_WORDS, n).tolist()
    hidden = generator.random((n, len(labels))) < draw(st.sampled_from([0.0, 0.3]))
    exclude = csr_array(hidden.astype(np.float32)) if hidden.any() else None
    only = generator.random(len(labels)) < 0.7 if draw(st.booleans()) else None
    out = hidden | ~labels.alive
    if only is not None:
        out = out | ~only
    expected = definition(asked, labels, voted.memory, out)
    k_scores = np.full((n, k), -np.inf)
    k_scores[:, : min(k, len(labels))] = -np.sort(-expected, axis=1)[:, :k]
    for scorer in (voted, fusion):
        ids, scores = scorer.search(Queries(asked), k, exclude=exclude, only=only)
        assert ids.shape == scores.shape == (n, k)
        np.testing.assert_allclose(scores, k_scores, atol=1e-5)
        for row in range(n):
            found = ids[row][ids[row] >= 0]
            np.testing.assert_allclose(scores[row, : len(found)], expected[row, found], atol=1e-5)
            assert len(set(found.tolist())) == len(found) == np.isfinite(scores[row]).sum()
            for a, b in zip(range(k - 1), range(1, k), strict=True):
                if ids[row, b] >= 0 and scores[row, a] == scores[row, b]:
                    assert ids[row, a] < ids[row, b]
        again = scorer.score_pairs(Queries(asked), ids)
        np.testing.assert_allclose(again, scores, atol=1e-5)


@pytest.fixture
def both(voting: Path) -> tuple[DenseScorer, NeighbourScorer, Queries]:
    scorer = open_run(voting, threads=1).scorer
    assert isinstance(scorer, VotedScorer)
    texts = ["kernel driver a", "mail", "", "font parser music"]
    return scorer.dense, NeighbourScorer(scorer.dense, scorer.memory), Queries(texts)


def test_votes_added_by_a_fusion_are_those_of_the_run(
    both: tuple[DenseScorer, NeighbourScorer, Queries],
) -> None:
    dense, neighbours, queries = both
    fusion = Fusion((dense, neighbours), (1.0, 3.0))
    voted = VotedScorer(dense, neighbours.memory)
    a, b = fusion.search(queries, 20), voted.search(queries, 20)
    np.testing.assert_allclose(a[1], b[1], atol=1e-5)
    np.testing.assert_allclose(voted.score_pairs(queries, a[0]), a[1], atol=1e-5)
    every = fusion.score_pairs(queries, np.tile(np.arange(64), (len(queries), 1)))
    assert_ranks(b, every.astype(np.float64))


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_given_pairs_score_as_a_search_scores_them(run_dir: Path, search: Any) -> None:
    scorer = open_run(run_dir, search=search, threads=1).scorer
    queries = Queries(["kernel driver a", "mail", "nothing known"])
    ids, scores = scorer.search(queries, 64)
    mixed = np.random.default_rng(0).permuted(ids, axis=1)
    assert np.array_equal(scorer.score_pairs(queries, ids), scores)
    order = np.argsort(mixed, axis=1)
    expected = np.take_along_axis(scores, np.argsort(ids, axis=1), axis=1)
    got = np.take_along_axis(scorer.score_pairs(queries, mixed), order, axis=1)
    assert np.array_equal(got, expected)


def test_scorers_abstain_on_what_they_do_not_know(
    both: tuple[DenseScorer, NeighbourScorer, Queries],
) -> None:
    dense, neighbours, queries = both
    labels = LabelSet.of(["x"] * 64, np.zeros(64, np.int64))
    change = Change(labels.removed(np.array([7])), removed=np.array([7]))
    dense, neighbours = dense.update(change), neighbours.update(change)
    ids = np.tile(np.array([0, 1, 7, 14, -1]), (len(queries), 1))
    known = np.isfinite(dense.score_pairs(queries, ids))
    assert (known == [True, True, False, True, False]).all()
    known = np.isfinite(neighbours.score_pairs(queries, ids))  # points have labels 0, 7, 14, ...
    assert (known == [True, False, False, True, False]).all()
    assert (neighbours.search(queries, 9)[0] != 7).all()
    hits = neighbours.search(queries, 9)
    assert np.array_equal(neighbours.score_pairs(queries, hits[0]), hits[1])
    fusion = Fusion((dense, neighbours), (1.0, 3.0))
    known = np.isfinite(fusion.score_pairs(queries, ids))
    assert (known == [True, True, False, True, False]).all()
    plain = dense.score_pairs(queries, ids)
    assert np.array_equal(fusion.score_pairs(queries, ids)[:, 1], plain[:, 1])


def test_a_label_that_all_abstain_on_is_not_found(plain: Opened) -> None:
    some = WordOverlap((frozenset({"a"}), frozenset(), frozenset({"b"})))
    ids, scores = Fusion((some, some), (1.0, 2.0)).search(Queries(["a", "c"]), 4)
    assert ids.tolist() == [[0, 2, -1, -1], [0, 2, -1, -1]]
    assert scores.tolist() == [[3.0, 0.0, -np.inf, -np.inf], [0.0, 0.0, -np.inf, -np.inf]]


def test_one_member_or_the_others_silent_is_that_member(
    both: tuple[DenseScorer, NeighbourScorer, Queries], plain: Opened
) -> None:
    dense, neighbours, queries = both
    toy = overlap(plain.labels)
    members: list[Scorer] = [dense, neighbours, toy]
    for member in members:
        alone = member.search(queries, 7)
        others = [other for other in members if other is not member]
        silent = Fusion((others[0], member, others[1]), (0.0, 1.0, 0.0))
        for fusion in (Fusion((member,), (1.0,)), silent):
            ids, scores = fusion.search(queries, 7)
            np.testing.assert_array_equal(ids, alone[0])
            np.testing.assert_array_equal(scores, alone[1])


def test_a_few_candidates_may_miss_and_are_as_many_as_asked_for() -> None:
    a = WordOverlap(tuple(frozenset(w) for w in ("x", "y", "xy", "z")))
    few = Fusion((a,), (1.0,), candidates=1)
    assert few.search(Queries(["x"]), 1)[0].tolist() == [[0]]
    assert few.search(Queries(["x"]), 4)[0].tolist() == [[0, 2, 1, 3]]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "1 weights for 2 scorers"),
        ((1.0, float("nan")), "expected finite numbers, not all of them 0"),
        ((0.0, 0.0), "expected finite numbers, not all of them 0"),
        ((1.0, float("inf")), "expected finite numbers"),
    ],
)
def test_weights_that_make_no_sum_are_refused(weights: tuple[float, ...], message: str) -> None:
    toy = WordOverlap((frozenset("a"),))
    with pytest.raises(ValueError, match=message):
        Fusion((toy, toy), weights)


def test_a_fusion_of_all_candidates_is_a_sort_of_the_sums(plain: Opened, tiny_data: Path) -> None:
    texts = data.load_dataset(tiny_data).test_texts[:9]
    toy = overlap(plain.labels)
    fusion = Fusion((plain.scorer, toy), (1.0, -0.5), candidates=64)
    every = np.tile(np.arange(64), (len(texts), 1))
    sums = plain.scorer.score_pairs(Queries(texts), every) - 0.5 * toy.score_pairs(
        Queries(texts), every
    )
    assert_ranks(fusion.search(Queries(texts), 20), sums.astype(np.float64))
    assert replace(fusion, candidates=3).search(Queries(texts), 20)[0].shape == (9, 20)
