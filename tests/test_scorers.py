"""Scorers: one written outside the package, sums of several, edits, and one moment a question."""

import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import data
from dexml.index import Hits, LabelIndex
from dexml.predict import Opened, Predictor, open_run
from dexml.run import LabelSet
from dexml.scorers import (
    Change,
    DenseScorer,
    Embedder,
    Fusion,
    NeighbourScorer,
    PointMemory,
    Queries,
    Scorer,
    VotedScorer,
)
from test_neighbours import assert_ranks
from voting import voting_run

TOY = 5.0
"""Weight of the scorer from outside: a label whose every word is asked for comes first."""


@dataclass(frozen=True)
class WordOverlap:
    """The share of a label's words that the text has; as somebody outside would write a scorer."""

    words: tuple[frozenset[str], ...]

    def score_pairs(self, queries: Queries, ids: NDArray[Any]) -> NDArray[np.float32]:
        scores = np.full(ids.shape, -np.inf, np.float32)
        for row, text in enumerate(queries.texts):
            for column, i in enumerate(ids[row]):
                if i >= 0 and (own := self.words[i]):
                    scores[row, column] = len(own & set(text.split())) / len(own)
        return scores

    def search(self, queries: Queries, k: int, *, exclude: Any = None, only: Any = None) -> Hits:
        ids = np.tile(np.arange(len(self.words), dtype=np.int32), (len(queries), 1))
        scores = self.score_pairs(queries, ids)
        if only is not None:
            scores[:, ~only] = -np.inf
        if exclude is not None:
            scores[exclude.toarray() > 0] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, best, axis=1)
        return np.where(np.isneginf(scores), -1, best).astype(np.int32), scores

    def update(self, change: Change) -> "WordOverlap":
        return overlap(change.labels)

    def facts(self) -> dict[str, Any]:
        return {}

    parts = fingerprint = facts

    def note(self, k: int) -> str:
        return "word overlap"


def overlap(labels: LabelSet) -> WordOverlap:
    texts = zip(labels.texts, labels.alive, strict=True)
    return WordOverlap(tuple(frozenset(text.split() if alive else ()) for text, alive in texts))


@pytest.fixture(scope="module")
def plain(run_dir: Path) -> Opened:
    """A run without votes."""
    return open_run(run_dir, search="exact", threads=1)


@pytest.fixture
def voting(run_dir: Path, tmp_path: Path) -> Path:
    """A run of its own in which points vote."""
    return voting_run(run_dir, tmp_path / "run")


@pytest.fixture
def fused(voting: Path) -> Predictor:
    """The run's own scorer and the toy."""
    opened = open_run(voting, threads=1)
    toy = overlap(opened.labels)
    return Predictor(opened, Fusion((opened.scorer, toy), (1.0, TOY)))


def test_a_scorer_from_outside_is_served_fused_with_the_runs_own(fused: Predictor) -> None:
    texts = ["kernel driver a", "mail", "nothing known"]
    ids, scores = fused.predict(texts, 64)
    own = Predictor.open(fused.run.folder, search="exact", threads=1)
    by_id = np.argsort(ids, axis=1)
    plain = own.predict(texts, 64)
    plain_scores = np.take_along_axis(plain.scores, np.argsort(plain.ids, axis=1), axis=1)
    toy = overlap(own.label_set).score_pairs(Queries(texts), np.sort(ids, axis=1))
    np.testing.assert_allclose(
        np.take_along_axis(scores, by_id, axis=1), plain_scores + TOY * toy, atol=1e-6
    )
    assert (np.diff(scores) <= 0).all()
    assert fused.search_note(3).startswith("1 x (exact, 64 labels; votes of 5 training points")
    assert fused.search_note(3).endswith("; 5 x (word overlap)")
    assert fused.dense.index.n_labels == 64
    assert fused.memory is not None


def test_all_members_follow_edits_of_labels_and_points(fused: Predictor) -> None:
    text = "a wholly new phrase"
    (new,) = fused.add_labels([text])
    assert fused.predict([text], 1).ids[0, 0] == new
    assert new not in fused.predict([text], 64, only=np.arange(65) != new).ids
    exclude = csr_array(([1.0], ([0], [new])), shape=(1, 65))
    assert new not in fused.predict([text], 65, exclude=exclude).ids
    assert fused.predict([text], 65, only=[new, 3]).ids[0].tolist()[2:] == [-1] * 63
    before = fused.predict(["kernel driver"], 65)
    fused.add_points(["kernel driver"] * 60, [[9]] * 60)
    after = fused.predict(["kernel driver"], 65)
    gain = after.scores[after.ids == 9] - before.scores[before.ids == 9]
    assert gain == pytest.approx(3.0, abs=0.1)  # 50 voters, all of them new; weight 3
    fused.update_labels([9], ["utterly different"])
    assert fused.predict(["utterly different"], 5).ids.tolist()[0].count(9) == 1
    fused.remove_labels([new])
    assert new not in fused.predict([text], 65).ids
    assert new not in fused.predict([text], 65, only=[new]).ids


def test_a_fused_run_is_saved_and_opens_with_its_own_scorer(fused: Predictor) -> None:
    (new,) = fused.add_labels(["a wholly new phrase"])
    fused.remove_labels([3])
    fused.add_points(["kernel"], [[int(new)]])
    fused.save()
    opened = open_run(fused.run.folder, threads=1)
    assert isinstance(opened.scorer, VotedScorer)
    assert opened.scorer.memory.n_points == 6
    again = Predictor(opened, Fusion((opened.scorer, overlap(opened.labels)), (1.0, TOY)))
    for a, b in zip(again.predict(["mail a"], 65), fused.predict(["mail a"], 65), strict=True):
        np.testing.assert_array_equal(a, b)
    again.add_labels(["and another"])
    again.save()


def test_saving_an_edited_graph_by_a_fused_scorer_measures_its_recall(
    run_dir: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    opened = open_run(run, search="hnsw", threads=1)
    predictor = Predictor(opened, Fusion((opened.scorer, overlap(opened.labels)), (1.0, TOY)))
    predictor.remove_labels(np.arange(20))
    predictor.save()  # more than a fifth of the graph is out of use: built anew
    index = Predictor.open(run, search="hnsw").dense.index
    assert index.facts.n_alive == 44
    assert {row.k for row in index.facts.recalls} == {10, 44}


def test_a_scorer_without_the_runs_own_is_served_but_not_saved(voting: Path) -> None:
    opened = open_run(voting, threads=1)
    toy = Predictor(opened, overlap(opened.labels))
    assert toy.label_texts[toy.predict(["kernel driver"], 1).ids[0, 0]] == "kernel driver"
    assert toy.memory is None
    with pytest.raises(ValueError, match="run: served without a dense scorer"):
        toy.dense  # noqa: B018
    with pytest.raises(ValueError, match="no training points vote"):
        toy.add_points(["x"], [[3]])
    toy.add_labels(["one more"])
    assert isinstance(opened.scorer, VotedScorer)
    without_votes = Predictor(opened, opened.scorer.dense)
    before = (voting / "run.json").read_bytes()
    for predictor, sections in ((toy, "index, neighbours"), (without_votes, "neighbours")):
        with pytest.raises(ValueError, match=f"does not save {sections}, which the run has; make"):
            predictor.save()
    assert (voting / "run.json").read_bytes() == before


def test_the_scorers_of_two_runs_are_served_together_but_not_saved(
    voting: Path, plain: Opened
) -> None:
    opened = open_run(voting, threads=1)
    both = Predictor(opened, Fusion((opened.scorer, plain.scorer), (1.0, 1.0)))
    assert (both.predict(["kernel"], 3).ids >= 0).all()
    before = (voting / "run.json").read_bytes()
    with pytest.raises(ValueError, match=r"two scorers of the fusion save different 'index"):
        both.save()
    assert (voting / "run.json").read_bytes() == before


# sums


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


# once


def test_texts_are_embedded_once_for_all_members(
    voting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_run(voting, threads=1)
    own = opened.scorer
    assert isinstance(own, VotedScorer)
    neighbours = NeighbourScorer(own.dense, own.memory)
    fusion = Fusion((own, own.dense, neighbours, overlap(opened.labels)), (1.0, 1.0, 1.0, 1.0))
    predictor = Predictor(opened, fusion)
    encoded: list[list[str]] = []
    counted: list[int] = []
    encode, votes = Embedder._encode, PointMemory.votes

    def watch_encode(self: Embedder, texts: list[str], *rest: Any) -> Any:
        encoded.append(texts)
        return encode(self, texts, *rest)

    def watch_votes(self: PointMemory, queries: Any) -> Any:
        counted.append(len(queries))
        return votes(self, queries)

    monkeypatch.setattr(Embedder, "_encode", watch_encode)
    monkeypatch.setattr(PointMemory, "votes", watch_votes)
    predictor.predict(["kernel", "mail"], 5)
    assert encoded == [["kernel", "mail"]]
    assert counted == [2]
    predictor.add_labels(["one more"])
    predictor.add_points(["kernel"], [[64]])
    assert encoded[1:] == [["one more"], ["kernel"]]
    after = predictor.scorer
    assert isinstance(after, Fusion)
    voted, dense, voters, _ = after.members
    assert isinstance(voted, VotedScorer)
    assert isinstance(voters, NeighbourScorer)
    assert voted.dense is dense is voters.dense  # one index, not three
    assert voted.memory is voters.memory is predictor.memory


def test_a_representation_is_made_once_for_each_key() -> None:
    queries, calls = Queries(["a", "b"]), []

    def make() -> str:
        calls.append(1)
        return f"of {len(queries)}"

    assert [queries.once("tokens", make), queries.once("tokens", make)] == ["of 2", "of 2"]
    assert queries.once(("tokens", 9), make) == "of 2"
    assert len(calls) == 2
    assert Queries(["a"]).once("tokens", lambda: "others") == "others"


# one moment


def test_a_question_sees_one_moment_while_others_edit(fused: Predictor) -> None:
    """Labels and points are added, removed and updated: every answer is that of some moment."""
    texts = ["kernel driver", "a label of round 3"]

    def ask() -> bytes:
        ids, scores = fused.predict(texts, 30)
        return ids.tobytes() + scores.tobytes()

    moments, answers, stop = {ask()}, list[set[bytes]](), threading.Event()

    def keep_asking() -> set[bytes]:
        seen = set()
        while not stop.is_set():
            seen.add(ask())
        return seen

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(keep_asking) for _ in range(3)]
        try:
            for round_ in range(8):
                (new,) = fused.add_labels([f"a label of round {round_}"])
                moments.add(ask())
                fused.add_points(["kernel driver"], [[int(new), 5]])
                moments.add(ask())
                fused.update_labels([new, 20 + round_], ["kernel driver", "label"])
                moments.add(ask())
                fused.remove_labels([new - 1 if round_ % 2 else 30 + round_])
                moments.add(ask())
        finally:
            stop.set()
        answers = [done.result() for done in asking]
    assert len(moments) > 20
    for seen in answers:
        assert seen <= moments
        assert seen


# what is loaded


BLOCKED = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # importing it raises ImportError
run, work = sys.argv[2:4]
"""


def blocked(names: str, run: Path, work: Path, code: str) -> str:
    command = [sys.executable, "-c", BLOCKED + code, names, str(run), str(work)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


INDEX = """
import os
import dexml.predict
from dexml.commands.index import main
from dexml.console import run as run_command

def call(*words):
    assert run_command(main, [run, *words, "--quiet"]) == 0, words

call("--search", "hnsw", "--overwrite")
with open(os.path.join(work, "gone.txt"), "w") as file:
    file.write("3\\n5\\n")
call("--remove", file.name)
call("--rebuild")
call("--info")
predictor = dexml.predict.Predictor(dexml.predict.open_run(run))
assert predictor.label_set.n_alive == 62
predictor.remove_labels([7])
predictor.save()
"""


def test_an_index_is_built_and_edited_without_torch(run_dir: Path, tmp_path: Path) -> None:
    run = Path(
        shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    )
    shown = blocked("torch,transformers", run, tmp_path, INDEX)
    assert re.search(r"^removed +2$", shown, flags=re.M)
    assert open_run(run).labels.n_alive == 61


HNSW = """
from dexml.predict import Predictor, open_run
assert Predictor(open_run(run)).search_note() == "exact, 64 labels; votes of 5 training points, \\
weight 3 (50 a text, temperature 0.2)"
print(Predictor.open(run).predict(["kernel"], 3).ids.shape)
from dexml.commands.index import main
try:
    main([run, "--overwrite", "--search", "hnsw"])
except ImportError as error:
    print(error)
"""


def test_an_exact_run_opens_without_hnswlib(voting: Path, tmp_path: Path) -> None:
    shown = blocked("hnswlib", voting, tmp_path, HNSW).splitlines()
    assert shown[0] == "(1, 3)"
    assert "hnswlib" in shown[1]
    assert "dexml-xmc[" in shown[1]


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
