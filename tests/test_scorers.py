"""Scorers: one written outside the package, sums of several, edits, and one moment a question."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.index import Hits
from dexml.predict import Opened, Predictor, open_run
from dexml.run import LabelSet
from dexml.scorers import (
    Change,
    Embedder,
    Fusion,
    NeighbourScorer,
    PointMemory,
    Queries,
    VotedScorer,
)
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

    def watch_votes(self: PointMemory, queries: Any, near: Any = None) -> Any:
        counted.append(len(queries))
        return votes(self, queries, near)

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
