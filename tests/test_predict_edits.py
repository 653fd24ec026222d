"""A run whose points vote, edited from Python and by the command: one answer, nothing lost."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, vstack

import warm
from dexml.commands.index import main as index_main
from dexml.commands.predict import main as predict_main
from dexml.console import run as run_command
from dexml.predict import Predictor, open_run
from dexml.predict import served as served_module
from dexml.run import LabelSet, Run
from dexml.scorers import Embedder, Queries, VotedScorer
from dexml.scorers.dense import trained_vectors
from small import forge_info, part_path, rewrite_info
from voting import positives, voting_run


@pytest.fixture
def voting(run_dir: Path, tmp_path: Path) -> Path:
    """A run of its own with an exact index and five points that vote."""
    return voting_run(run_dir, tmp_path / "run")


def call(command: Any, *argv: object) -> int:
    return run_command(command, [str(arg) for arg in argv])


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_a_call_sees_one_moment(voting: Path, search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels and points come and go between the encoding of a text and its search."""
    if search == "hnsw":
        assert call(index_main, voting, "--search", "hnsw", "--quiet") == 0
    predictor = Predictor.open(voting, search=search, threads=1)
    before = predictor.predict(["kernel driver"], 64)
    group = predictor.predict(["kernel driver"], 5, only=[3, 9, 60])
    best, encode = int(before.ids[0, 0]), Embedder.points

    def edited(embedder: Embedder, queries: Queries, max_tokens: int) -> Any:
        vectors = encode(embedder, queries, max_tokens)
        with monkeypatch.context() as patch:
            patch.setattr(Embedder, "points", encode)
            predictor.add_labels(["kernel driver"])
            if predictor.label_set.alive[best]:
                predictor.remove_labels([best])
            y = positives([(0, predictor.n_labels - 1)], (1, predictor.n_labels))
            predictor.add_points(["kernel driver"], y)
        return vectors

    monkeypatch.setattr(Embedder, "points", edited)
    asked = predictor.predict(["kernel driver"], 64)
    np.testing.assert_array_equal(asked.ids, before.ids)
    np.testing.assert_array_equal(asked.scores, before.scores)
    if best not in (3, 9, 60):
        asked = predictor.predict(["kernel driver"], 5, only=[3, 9, 60])
        np.testing.assert_array_equal(asked.ids, group.ids)
    monkeypatch.undo()
    assert predictor.n_labels > 64
    assert best not in predictor.predict(["kernel driver"], 64).ids


def test_labels_of_points_are_lists_of_ids_or_a_matrix(voting: Path) -> None:
    by_lists, by_matrix = (Predictor.open(voting, threads=1) for _ in range(2))
    texts = ["kernel driver", "mail", "a point without a label"]
    rows = by_lists.add_points(iter(texts), [[9, 3], (63,), []])
    assert rows.tolist() == [5, 6, 7]
    by_matrix.add_points(texts, positives([(0, 3), (0, 9), (1, 63)], (3, 64)).tocoo())
    asked = [p.predict(["kernel driver", "mail b"], 64) for p in (by_lists, by_matrix)]
    np.testing.assert_array_equal(asked[0].ids, asked[1].ids)
    np.testing.assert_array_equal(asked[0].scores, asked[1].scores)
    assert by_lists.memory is not None
    assert by_lists.memory.points.y[[5, 6, 7]].indices.tolist() == [3, 9, 63]
    by_lists.add_labels(["one more"])
    by_lists.add_points(["kernel"], positives([(0, 3)], (1, 64)))  # of before that label
    by_lists.add_points(["kernel"], [np.array([64], np.int16)])
    by_lists.save()
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert opened.memory.points.y[[8, 9]].indices.tolist() == [3, 64]


TWICE = csr_array((np.ones(3, np.float32), [5, 3, 3], [0, 1, 3]), shape=(2, 64))


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([[3]], ValueError, "2 texts and y: labels for 1 of them"),
        ([[3], [64]], ValueError, r"y\[1\]: label 64 out of range \(n_labels = 64\)"),
        ([[3], [-1]], ValueError, r"y\[1\]: label -1 out of range"),
        ([[3], [1.5]], ValueError, r"y\[1\]: holds 1.5 of type float; expected label ids"),
        ([[3], ["kernel"]], ValueError, r"y\[1\]: holds 'kernel' of type str; expected label"),
        ([[3], [[1, 2]]], ValueError, r"y\[1\]: 2 dimensions; expected a list of label ids"),
        ([[3], [True]], ValueError, r"y\[1\]: holds True of type bool"),
        ([[3], [0, 0, 1, 0]], ValueError, r"y\[1\]: duplicate label 0"),
        ([[3], "kernel"], TypeError, r"y\[1\] is str; expected a list of label ids"),
        ([3, 4], TypeError, r"y\[0\] is int; expected a list of label ids"),
        (None, TypeError, "y is NoneType; give a sparse matrix"),
        (np.ones((2, 64)), TypeError, r"y is ndarray; give a sparse matrix .*, csr_array\(y\)"),
        ([[3], [1, None]], ValueError, r"y\[1\]: holds None of type NoneType; .*\(position 1\)"),
        ([[3], [2**64]], ValueError, r"y\[1\]: label 18446744073709551616 out of range"),
        ([[3], [1, 2**63]], ValueError, r"y\[1\]: label 9223372036854775808 out of range"),
        ([[3], [1, [2]]], ValueError, r"y\[1\]: rows of different lengths"),
        ([[3], {1: 2}], TypeError, r"y\[1\] is dict; expected a list of label ids"),
        ({0: [3], 1: [4]}, TypeError, "y is dict; give a sparse matrix"),
        (TWICE, ValueError, "y: row 1: duplicate label 3"),
        (TWICE.tocoo(), ValueError, "y: a pair is stored twice"),
        (TWICE * np.float32(np.nan), ValueError, "y: row 1: duplicate label 3"),
        (csr_array(np.diag([1.0, np.nan])), ValueError, "y: row 1: truth value of label 1 must"),
        (csr_array(np.diag([1.0, -1.0])), ValueError, "y: row 1: truth value of label 1 must"),
        (csr_array(np.ones(2)), ValueError, "y: one-dimensional"),
        (csr_array((2, 65)), ValueError, r"2 texts and y \(2, 65\) for 64 labels"),
        (csr_array((3, 64)), ValueError, r"2 texts and y \(3, 64\) for 64 labels"),
    ],
)
def test_anything_but_labels_of_points_is_refused(
    voting: Path, y: Any, error: type[Exception], message: str
) -> None:
    predictor = Predictor.open(voting, threads=1)
    with pytest.raises(error, match=message):
        predictor.add_points(["kernel", "mail"], y)
    assert predictor.memory is not None
    assert predictor.memory.n_points == 5
    predictor.predict(["kernel"], 3)
    predictor.save()


@pytest.mark.parametrize("texts", [{"kernel": 1}, {"kernel"}, "kernel", np.array([["kernel"]])])
def test_points_are_lists_of_texts(voting: Path, texts: Any) -> None:
    predictor = Predictor.open(voting, threads=1)
    with pytest.raises(TypeError, match=r"texts is (dict|set|a single string|ndarray)"):
        predictor.add_points(texts, [[3]])
    assert predictor.memory is not None
    assert predictor.memory.n_points == 5


def test_points_need_a_run_in_which_points_vote(run_dir: Path) -> None:
    predictor = Predictor.open(run_dir, threads=1)
    assert predictor.memory is None
    with pytest.raises(ValueError, match="run: no training points vote in this run"):
        predictor.add_points(["kernel"], [[3]])


def test_points_added_by_threads_are_all_there(
    voting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.01)
        return vstack(*args, **kwargs)

    monkeypatch.setattr("dexml.scorers.points.vstack", slowly)
    predictor = Predictor.open(voting, threads=1)
    y = positives([(0, 3)], (1, 64))
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda i: int(predictor.add_points([f"p{i}"], y)[0]), range(24)))
    assert sorted(rows) == list(range(5, 29))
    assert predictor.memory is not None
    assert predictor.memory.n_points == 29


def test_the_command_makes_the_vectors_of_a_service(voting: Path, tmp_path: Path) -> None:
    """Labels added and updated by command or from Python: the same bits."""
    texts = ["mail theme a", "kernel game b", "font"]
    (tmp_path / "add.txt").write_text("".join(f"{t}\n" for t in texts))
    (tmp_path / "update.tsv").write_text("3\tmusic server\n5\tgame theme\n64\tdatabase parser\n")
    service = Predictor.open(voting, threads=1)
    service.add_labels(texts)
    service.update_labels([3, 5, 64], ["music server", "game theme", "database parser"])
    assert call(index_main, voting, "--add", tmp_path / "add.txt", "--quiet") == 0
    assert call(index_main, voting, "--update", tmp_path / "update.tsv", "--quiet") == 0
    saved = Predictor.open(voting, threads=1)
    vectors = saved.dense.index.vectors
    np.testing.assert_array_equal(vectors, service.dense.index.vectors)
    assert saved.label_texts == service.label_texts
    trained = trained_vectors(Run.open(voting).state)
    assert vectors[3, -1] == trained[3, -1]  # what training learned stays
    assert vectors[66, -1] == np.float32(saved.dense.settings["unseen_bias"])


def test_labels_that_an_overwritten_index_forgets_have_no_votes(voting: Path) -> None:
    """Their ids are given to others, which must not inherit the votes."""
    first = Predictor.open(voting, threads=1)
    plain = first.predict(["kernel driver"], 64)
    first.add_labels(["one of this morning"])
    first.add_points(["kernel driver"] * 60, positives([(i, 64) for i in range(60)], (60, 65)))
    assert first.predict(["kernel driver"], 1).ids[0, 0] == 64
    first.save()
    assert call(index_main, voting, "--overwrite", "--search", "exact", "--quiet") == 0
    second = Predictor.open(voting, threads=1)
    assert second.memory is not None
    assert second.memory.n_labels == 64
    assert second.memory.n_points == 65
    assert second.predict(["kernel driver"], 64).ids.shape == plain.ids.shape
    assert second.add_labels(["quite another"]).tolist() == [64]
    asked, dense = second.predict(["kernel driver"], 65), second.dense
    (query,) = dense.vectors(Queries(["kernel driver"]))
    at = asked.ids[0].tolist().index(64)
    score = float(query @ dense.index.vectors[64])
    assert asked.scores[0, at] == pytest.approx(score, abs=1e-5)


def test_a_save_that_fails_writes_nothing_and_can_be_tried_again(
    voting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Predictor.open(voting, threads=1)
    first.add_labels(["kernel driver"])
    first.remove_labels([7, 14])
    first.add_points(["kernel driver"] * 9, positives([(i, 64) for i in range(9)], (9, 65)))
    before = (voting / "run.json").read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left")

    for name in ("write_array", "write_text"):  # points and vectors; texts
        with monkeypatch.context() as patch:
            patch.setattr(f"dexml.{WRITERS[name]}.{name}", full)
            with pytest.raises(OSError, match="no space left"):
                first.save()
        assert (voting / "run.json").read_bytes() == before
        second = Predictor.open(voting, threads=1)
        assert second.memory is not None
        assert (second.n_labels, second.memory.n_points) == (64, 5)
    first.save()  # now that there is room
    np.testing.assert_array_equal(
        Predictor.open(voting, threads=1).predict(["kernel driver"], 64).ids,
        first.predict(["kernel driver"], 64).ids,
    )


WRITERS = {"write_array": "scorers.points", "write_text": "run.labels"}
"""Where each part that has changed is written from."""


def test_a_save_takes_labels_and_points_of_one_moment(
    voting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edits that other threads begin while the run is saved wait, and come with the next save."""
    predictor = Predictor.open(voting, threads=1)
    predictor.add_points(["kernel"], positives([(0, 3)], (1, 64)))
    parts = LabelSet.parts

    def edit() -> None:
        (new,) = predictor.add_labels(["one of this moment"])
        predictor.add_points(["kernel"], positives([(0, int(new))], (1, int(new) + 1)))

    with ThreadPoolExecutor(1) as pool:

        def slowly(labels: LabelSet) -> Any:
            edits.append(pool.submit(edit))
            time.sleep(0.2)
            return parts(labels)

        edits: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(LabelSet, "parts", slowly)
            predictor.save()
        edits[0].result()
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert (opened.n_labels, opened.memory.n_points) == (64, 6)
    predictor.save()
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert (opened.n_labels, opened.memory.n_points) == (65, 7)


@pytest.mark.parametrize("before", ["labels", "index", "points"])
def test_a_run_opened_while_another_saves_is_of_one_moment(
    voting: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Predictor.open(voting, threads=1)
    service.add_labels(["kernel driver"])
    service.add_points(["kernel driver"], positives([(0, 64)], (1, 65)))
    kind = {"labels": "LabelSet", "index": "DenseScorer", "points": "PointMemory"}[before]
    whole = getattr(served_module, kind)
    restore = whole.restore
    saves: list[int] = []

    def late(*args: Any, **kwargs: Any) -> Any:
        if not saves:
            saves.append(1)
            service.save()
        return restore(*args, **kwargs)

    monkeypatch.setattr(whole, "restore", late)
    opened = Predictor.open(voting, threads=1)
    assert saves
    assert opened.memory is not None
    assert (opened.n_labels, opened.memory.n_points) == (65, 6)


def test_a_run_opened_while_its_index_is_built_anew_has_no_votes_for_old_ids(
    voting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Predictor.open(voting, threads=1)
    service.add_labels(["kernel driver"])
    service.add_points(["kernel driver"] * 9, positives([(i, 64) for i in range(9)], (9, 65)))
    service.save()
    (tmp_path / "add.txt").write_text("quite another\n")
    restore = LabelSet.restore

    def late(*args: Any) -> Any:
        monkeypatch.setattr(LabelSet, "restore", restore)
        assert call(index_main, voting, "--overwrite", "--search", "exact", "--quiet") == 0
        assert call(index_main, voting, "--add", tmp_path / "add.txt", "--quiet") == 0
        return restore(*args)

    monkeypatch.setattr(LabelSet, "restore", late)
    opened = Predictor.open(voting, threads=1)
    assert opened.label_texts[64] == "quite another"
    assert opened.memory is not None
    assert opened.memory.n_labels == 64


def test_two_services_do_not_overwrite_each_other(voting: Path) -> None:
    first, second, third = (Predictor.open(voting, threads=1) for _ in range(3))
    first.add_points(["kernel"], positives([(0, 3)], (1, 64)))
    first.save()
    first.add_labels(["of the first"])
    first.save()  # what it saved itself is no surprise
    second.add_labels(["kernel"])
    second.add_points(["kernel"], positives([(0, 64)], (1, 65)))
    third.add_labels(["of one who has changed no point"])
    before = {path: path.read_bytes() for path in voting.rglob("*") if path.is_file()}
    for late in (second, third):
        with pytest.raises(RuntimeError, match=r"run: changed .*since it was opened"):
            late.save()
    assert {path: path.read_bytes() for path in voting.rglob("*") if path.is_file()} == before
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert (opened.label_texts[64:], opened.memory.n_points) == (["of the first"], 6)


def test_two_services_of_one_opened_run_do_not_overwrite_each_other(voting: Path) -> None:
    opened = open_run(voting, threads=1)
    first, second = Predictor(opened), Predictor(opened)
    first.add_labels(["of the first"])
    second.add_labels(["of the second"])
    assert (first.label_texts[64], second.label_texts[64]) == ("of the first", "of the second")
    first.save()
    with pytest.raises(RuntimeError, match=r"changed .*since it was opened"):
        second.save()


def test_a_kill_while_saving_leaves_all_as_before_or_all_as_now(
    voting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step: labels, index and points are of one moment, and the next save cleans up.

    What a kill leaves is the folder as it is then: it is copied at each step.
    """
    predictor = Predictor.open(voting, threads=1)
    predictor.add_labels(["kernel driver"])
    predictor.remove_labels([3])
    predictor.add_points(["kernel driver"] * 2, [[64], [64]])
    left: list[Path] = []

    def copied(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            for when in ("before", "after"):
                with monkeypatch.context() as patch:
                    for name, original in originals.items():
                        patch.setattr(os, name, original)
                    left.append(tmp_path / f"{len(left):03}-{when}")
                    shutil.copytree(voting, left[-1])
                if when == "before":
                    result = function(*args, **kwargs)
            return result

        return call

    originals = {name: getattr(os, name) for name in ("replace", "fsync", "unlink")}
    with monkeypatch.context() as patch:
        for name, original in originals.items():
            patch.setattr(os, name, copied(original))
        predictor.save()
    outcomes = []
    for folder in left:
        opened = open_run(folder, threads=1)
        assert isinstance(opened.scorer, VotedScorer)
        index, n_points = opened.scorer.dense.index, opened.scorer.memory.n_points
        outcome = (len(opened.labels), index.n_labels, bool(opened.labels.alive[3]), n_points)
        outcomes.append(outcome == (65, 65, False, 7))
        assert outcomes[-1] or outcome == (64, 64, True, 5)
        again = Predictor(opened)
        again.remove_labels([4])
        again.save()
        parts = json.loads((folder / "run.json").read_text())["parts"].values()
        lies = {p.relative_to(folder).as_posix() for p in folder.glob("*/*") if p.is_file()}
        assert {name for name in lies if not name.startswith("encoder/")} == {
            part["name"] for part in parts if not part["name"].startswith("encoder/")
        }
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) > 10
    assert outcomes.count(True) > 1


def test_a_saved_run_answers_the_same_in_another_process(voting: Path) -> None:
    predictor = Predictor.open(voting, threads=1)
    (new,) = predictor.add_labels(["kernel driver"])
    predictor.remove_labels([9])
    predictor.update_labels([11], ["mail theme"])
    predictor.add_points(["kernel driver"], [[int(new)]])
    predictor.save()
    code = (
        "import sys; from dexml.predict import Predictor; "
        "ids, scores = Predictor.open(sys.argv[1], threads=1).predict(['kernel driver'], 64); "
        "print(ids.tolist(), scores.tobytes().hex())"
    )
    done = warm.run_code(code, voting)
    assert done.returncode == 0, done.stderr
    ids, scores = predictor.predict(["kernel driver"], 64)
    assert done.stdout.split("] ") == [f"{ids.tolist()}"[:-1], f"{scores.tobytes().hex()}\n"]


def test_the_command_says_who_votes(
    voting: Path, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("kernel driver\n")
    assert call(predict_main, voting, texts) == 0
    first = "search: exact, 64 labels; votes of 5 training points, weight 3 (50 a text, temp"
    assert f"\n{first}" in capsys.readouterr().err
    predictor = Predictor.open(voting, threads=1)
    predictor.add_points(["kernel"], positives([(0, 3)], (1, 64)))
    predictor.save()
    assert call(predict_main, voting, texts) == 0
    assert "votes of 6 training points" in capsys.readouterr().err
    assert call(predict_main, run_dir, texts) == 0
    assert "vote" not in capsys.readouterr().err


def test_resume_knows_the_memory(
    voting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "found.jsonl"
    texts.write_bytes(b"kernel driver\n" * 3 + b"\xff\n")
    ask = (voting, texts, "--out", out, "--block", 1, "--quiet")
    assert call(predict_main, *ask) == 1
    assert json.loads((tmp_path / "found.jsonl.partial" / "state.json").read_text())["rows"] == 3
    predictor = Predictor.open(voting, threads=1)
    predictor.add_points(["kernel driver"], positives([(0, 3)], (1, 64)))
    predictor.save()
    texts.write_text("kernel driver\n" * 4)
    capsys.readouterr()
    assert call(predict_main, *ask, "--resume") == 1
    assert (
        'begun with search = "exact, 64 labels; votes of 5 training points'
        in capsys.readouterr().err
    )


def test_a_number_that_is_a_text_and_an_id_is_not_guessed_at(
    voting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "add.txt").write_text("17\n")
    assert call(index_main, voting, "--add", tmp_path / "add.txt", "--quiet") == 0
    capsys.readouterr()
    assert call(index_main, voting, "--remove", tmp_path / "add.txt") == 1
    message = "17 is an id and also the text of label 64; write 017 for the id"
    assert message in capsys.readouterr().err
    (tmp_path / "gone.txt").write_text("017\n64\n")
    assert call(index_main, voting, "--remove", tmp_path / "gone.txt", "--quiet") == 0
    opened = Predictor.open(voting, threads=1)
    assert np.flatnonzero(~opened.label_set.alive).tolist() == [17, 64]
    assert np.flatnonzero(~opened.dense.index.alive).tolist() == [17, 64]


@pytest.mark.parametrize("how", ["cut", "flipped", "swapped"])
def test_damaged_parts_are_refused(voting: Path, how: str, tmp_path: Path) -> None:
    """Every part that edits write; `swapped`: whole files, of another state of the same run."""
    other = tmp_path / "other"
    shutil.copytree(voting, other)
    edited = Predictor.open(other, threads=1)
    edited.remove_labels([1])
    edited.add_labels(["x"])
    edited.add_points(["x"], positives([(0, 3)], (1, 65)))
    edited.save()
    roles = json.loads((voting / "run.json").read_text())["parts"]
    checked = 0
    for role in (r for r in roles if r.split("/")[0] in ("labels", "index", "neighbours")):
        path = part_path(voting, role)
        whole = path.read_bytes()
        middle = len(whole) // 2
        if how == "cut":
            path.write_bytes(whole[:middle])
        elif how == "flipped":
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
        else:
            path.write_bytes(part_path(other, role).read_bytes())
        if path.read_bytes() != whole:
            checked += 1
            with pytest.raises(ValueError, match=f"{path.name}: damaged"):
                Predictor.open(voting)
        path.write_bytes(whole)
    assert checked >= 7
    Predictor.open(voting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense": {"dim": -1}}, "dim"),
        ({"dense": {"dim": 15}}, "64 vectors of 17 dimensions for 64 labels of 16"),
        ({"labels": {"n_labels": 65}}, "64 lines for 65 labels"),
        ({"labels": {"n_trained": 65}}, "65 at the end of training"),
        ({"index": {"n_alive": 63}}, "64 labels, not 63"),
        ({"neighbours": {"n_points": 6}}, r"float32 of shape \(5, 16\), expected float32 \(6, "),
    ],
)
def test_a_run_json_that_does_not_fit_is_refused(
    voting: Path, changes: dict[str, Any], message: str
) -> None:
    forge_info(voting, **changes)
    with pytest.raises(ValueError, match=message):
        Predictor.open(voting)


def test_parts_of_two_moments_are_refused(voting: Path) -> None:
    """Labels that were removed by one state, and an index of another: files of sound content."""
    np.save(part_path(voting, "labels/alive"), np.arange(64) != 5)
    rewrite_info(voting)
    with pytest.raises(ValueError, match="index and labels disagree on which labels were removed"):
        Predictor.open(voting)
