"""A run with a memory, edited from Python and from the command line: one answer, nothing lost."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, vstack

from dexml.commands.index import main as index_main
from dexml.commands.predict import main as predict_main
from dexml.console import run as run_command
from dexml.index import LabelIndex, sealed
from dexml.predict import Predictor
from dexml.run.folder import Run
from dexml.scorers import PointMemory, save_memory
from small import forge_info, rewrite_info


def positives(pairs: list[tuple[int, int]], shape: tuple[int, int]) -> csr_array:
    rows, columns = zip(*pairs, strict=True)
    return csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


@pytest.fixture
def voting(run_dir: Path, tmp_path: Path) -> Path:
    """A run of its own with an exact index and five points that vote."""
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("checkpoint", "cache", "memory"))
    assert run_command(index_main, [str(copy), "--search", "exact", "--quiet"]) == 0
    points = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    memory = PointMemory(points, positives([(i, 7 * i) for i in range(5)], (5, 64)), weight=3)
    save_memory(memory, copy / "memory", encoder=Run.open(copy).fingerprint())
    return copy


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
    encode, best = predictor._encode, int(before.ids[0, 0])

    def edited(texts: list[str], *rest: Any) -> Any:
        vectors = encode(texts, *rest)
        monkeypatch.setattr(predictor, "_encode", encode)
        predictor.add_labels(["kernel driver"])
        if predictor.index.alive[best]:
            predictor.remove_labels([best])
        y = positives([(0, predictor.n_labels - 1)], (1, predictor.n_labels))
        predictor.add_points(["kernel driver"], y)
        monkeypatch.setattr(predictor, "_encode", edited)
        return vectors

    monkeypatch.setattr(predictor, "_encode", edited)
    found = predictor.predict(["kernel driver"], 64)
    np.testing.assert_array_equal(found.ids, before.ids)
    np.testing.assert_array_equal(found.scores, before.scores)
    if best not in (3, 9, 60):
        found = predictor.predict(["kernel driver"], 5, only=[3, 9, 60])
        np.testing.assert_array_equal(found.ids, group.ids)


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
    assert by_lists.memory.state.y[[5, 6, 7]].indices.tolist() == [3, 9, 63]
    by_lists.add_labels(["one more"])
    by_lists.add_points(["kernel"], positives([(0, 3)], (1, 64)))  # of before that label
    by_lists.add_points(["kernel"], [np.array([64], np.int16)])
    by_lists.save()
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert opened.memory.state.y[[8, 9]].indices.tolist() == [3, 64]


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
        (csr_array((2, 65)), ValueError, r"2 texts and y \(2, 65\) for 64 labels"),
        (csr_array((3, 64)), ValueError, r"2 texts and y \(3, 64\) for 64 labels"),
    ],
)
def test_what_are_no_labels_of_points_is_named(
    voting: Path, y: Any, error: type[Exception], message: str
) -> None:
    predictor = Predictor.open(voting, threads=1)
    with pytest.raises(error, match=message):
        predictor.add_points(["kernel", "mail"], y)
    assert predictor.memory is not None
    assert predictor.memory.n_points == 5
    predictor.memory = None
    with pytest.raises(ValueError, match="has no memory of training points to add to"):
        predictor.add_points(["kernel", "mail"], y)


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
    saved = LabelIndex.load(voting / "index")
    np.testing.assert_array_equal(saved.vectors, service.vectors)
    assert saved.texts == service.label_texts
    trained = Run.open(voting).load_array("label_emb")
    assert saved.vectors[3, -1] == trained[3, -1]  # what training learned stays
    assert saved.vectors[66, -1] == np.float32(Run.open(voting).unseen_bias())


def test_labels_that_an_overwritten_index_forgets_have_no_votes(
    voting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their ids are given to others, which must not inherit the votes."""
    first = Predictor.open(voting, threads=1)
    plain = first.predict(["kernel driver"], 64)
    first.add_labels(["one of this morning"])
    first.add_points(["kernel driver"] * 60, positives([(i, 64) for i in range(60)], (60, 65)))
    assert first.predict(["kernel driver"], 1).ids[0, 0] == 64
    first.save()
    aside = tmp_path / "aside"
    (voting / "index").rename(aside)
    with pytest.raises(ValueError, match=r"have 65 labels, but the index has 64; .*--overwrite"):
        Predictor.open(voting)
    aside.rename(voting / "index")
    assert call(index_main, voting, "--overwrite", "--search", "exact", "--quiet") == 0
    second = Predictor.open(voting, threads=1)
    assert second.memory is not None
    assert second.memory.n_labels == 64
    assert second.memory.n_points == 65
    assert second.predict(["kernel driver"], 64).ids.shape == plain.ids.shape
    assert second.add_labels(["quite another"]).tolist() == [64]
    found = second.predict(["kernel driver"], 65)
    query = np.concatenate([second.encoder.encode(["kernel driver"]), [[1]]], axis=1)
    at = found.ids[0].tolist().index(64)
    assert found.scores[0, at] == pytest.approx(float(query[0] @ second.vectors[64]), abs=1e-5)


@pytest.mark.parametrize("fails", ["labels", "points"])
def test_a_save_that_ends_in_between_leaves_what_fits_together(
    voting: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Predictor.open(voting, threads=1)
    first.add_labels(["kernel driver"])
    first.remove_labels([7, 14])
    first.add_points(["kernel driver"] * 9, positives([(i, 64) for i in range(9)], (9, 65)))
    assert first.predict(["kernel driver"], 1).ids[0, 0] == 64
    places = {
        "labels": "dexml.index.sealed.write",
        "points": "dexml.scorers.memory_files.sealed.put",
    }
    before = Predictor.open(voting, threads=1).predict(["kernel driver"], 64)
    put, calls = sealed.put, []

    def full(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if fails == "labels" or "labels-{}.npz" in args:  # the second file of the points
            raise OSError("no space left")
        return put(*args, **kwargs)

    monkeypatch.setattr(places[fails], full)
    with pytest.raises(OSError, match="no space left"):
        first.save()
    monkeypatch.undo()
    assert len(calls) > (fails == "points")
    second = Predictor.open(voting, threads=1)
    assert second.memory is not None
    assert second.memory.n_points == 5
    found = second.predict(["kernel driver"], 64)
    if fails == "labels":
        assert second.n_labels == 64
        np.testing.assert_array_equal(found.ids, before.ids)
    else:  # the labels of now with the points of before: each has the votes it had
        assert second.n_labels == 65
        assert not np.isin(found.ids, [7, 14]).any()
        scores = dict(zip(before.ids[0].tolist(), before.scores[0].tolist(), strict=True))
        for i, score in zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True):
            assert i in (-1, 64) or score == pytest.approx(scores[i], abs=1e-5)
    first.save()  # the rest, now that there is room
    np.testing.assert_array_equal(
        Predictor.open(voting, threads=1).predict(["kernel driver"], 64).ids,
        first.predict(["kernel driver"], 64).ids,
    )


def test_points_that_come_while_the_labels_are_saved_do_not_name_labels_that_are_not(
    voting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.open(voting, threads=1)
    predictor.add_points(["kernel"], positives([(0, 3)], (1, 64)))
    save = LabelIndex.save

    def slowly(index: LabelIndex, folder: Path) -> None:
        save(index, folder)
        (new,) = predictor.add_labels(["one of this moment"])
        predictor.add_points(["kernel"], positives([(0, int(new))], (1, int(new) + 1)))

    with monkeypatch.context() as patch:
        patch.setattr(LabelIndex, "save", slowly)
        predictor.save()
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert (opened.n_labels, opened.memory.n_points) == (64, 6)
    predictor.save()
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert (opened.n_labels, opened.memory.n_points) == (65, 7)


@pytest.mark.parametrize("before", ["the points", "the labels"])
def test_who_opens_while_another_saves_gets_what_fits_together(
    voting: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Predictor.open(voting, threads=1)
    service.add_labels(["kernel driver"])
    service.add_points(["kernel driver"], positives([(0, 64)], (1, 65)))
    place = {"the points": "load_memory", "the labels": "_open_index"}[before]
    from dexml.predict import labels

    whole = getattr(labels, place)

    def late(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(labels, place, whole)
        service.save()
        return whole(*args, **kwargs)

    monkeypatch.setattr(labels, place, late)
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert (opened.n_labels, opened.memory.n_points) == (65, 6)


def test_who_opens_while_an_index_is_built_anew_takes_no_votes_for_old_ids(
    voting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Predictor.open(voting, threads=1)
    service.add_labels(["kernel driver"])
    service.add_points(["kernel driver"] * 9, positives([(i, 64) for i in range(9)], (9, 65)))
    service.save()
    (tmp_path / "add.txt").write_text("quite another\n")
    from dexml.predict import labels

    whole = labels._open_index

    def late(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(labels, "_open_index", whole)
        assert call(index_main, voting, "--overwrite", "--search", "exact", "--quiet") == 0
        assert call(index_main, voting, "--add", tmp_path / "add.txt", "--quiet") == 0
        return whole(*args, **kwargs)

    monkeypatch.setattr(labels, "_open_index", late)
    opened = Predictor.open(voting, threads=1)
    assert opened.label_texts[64] == "quite another"
    assert opened.memory is not None
    assert opened.memory.n_labels == 64


def test_two_services_do_not_overwrite_each_other(voting: Path) -> None:
    first, second, third = (Predictor.open(voting, threads=1) for _ in range(3))
    first.add_points(["kernel"], positives([(0, 3)], (1, 64)))
    first.save()
    second.add_labels(["kernel"])
    second.add_points(["kernel"], positives([(0, 64)], (1, 65)))
    before = (voting / "index" / "manifest.json").read_bytes()
    with pytest.raises(RuntimeError, match="memory: changed by another process since it was"):
        second.save()
    assert (voting / "index" / "manifest.json").read_bytes() == before  # all of it or nothing
    third.add_labels(["of one who has changed no point"])
    third.save()
    opened = Predictor.open(voting, threads=1)
    assert opened.memory is not None
    assert (opened.n_labels, opened.memory.n_points) == (65, 6)


def test_an_answer_is_told_with_who_votes(
    voting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("kernel driver\n")
    assert call(predict_main, voting, texts) == 0
    first = "search: exact, 64 labels; votes of 5 training points, weight 3 (50 a text, temp"
    assert capsys.readouterr().err.startswith(first)
    predictor = Predictor.open(voting, threads=1)
    predictor.add_points(["kernel"], positives([(0, 3)], (1, 64)))
    assert predictor.memory is not None
    predictor.memory.build_graph(seed=0)
    predictor.save()
    assert call(predict_main, voting, texts) == 0
    assert "votes of 6 training points, weight 3 (50 a text found by HNSW, temperature 0.2)" in (
        capsys.readouterr().err
    )
    shutil.rmtree(voting / "memory")
    assert call(predict_main, voting, texts) == 0
    assert "vote" not in capsys.readouterr().err
    rewrite_info(voting, memory={"kind": "votes"})
    assert call(predict_main, voting, texts) == 0
    assert f"no votes of training points: {voting / 'memory'} is not" in capsys.readouterr().err


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
    assert np.flatnonzero(~LabelIndex.load(voting / "index").alive).tolist() == [17, 64]


@pytest.mark.parametrize("how", ["cut", "flipped", "swapped"])
def test_damaged_files_of_index_and_memory_are_refused(
    voting: Path, how: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(voting, other)
    edited = Predictor.open(other, threads=1)
    edited.remove_labels([1])
    edited.add_labels(["x"])
    edited.add_points(["x"], positives([(0, 3)], (1, 65)))
    edited.save()
    for folder in ("index", "memory"):
        for path in sorted((voting / folder).iterdir()):
            if path.name == ".lock":
                continue
            whole = path.read_bytes()
            if how == "cut":
                path.write_bytes(whole[: len(whole) // 2])
            elif how == "flipped":
                middle = len(whole) // 2
                path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
            else:
                role = path.name.split("-")[0]
                path.write_bytes(next((other / folder).glob(f"{role}*")).read_bytes())
            if path.read_bytes() != whole:
                with pytest.raises((ValueError, FileNotFoundError), match=folder):
                    Predictor.open(voting)
            path.write_bytes(whole)
    Predictor.open(voting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "0" * 64}, "run.json: the encoder or labels.safetensors are not those"),
        ({"dim": -1}, r"run.json: damaged \(dim = -1\)"),
        ({"point_tokens": 0}, r"run.json: damaged \(point_tokens = 0\)"),
        ({"dim": 15}, "index: 64 labels of 17 dimensions, but run.json says 64 of 16"),
        ({"n_labels": 65}, "index: 64 labels of 17 dimensions, but run.json says 65 of 17"),
    ],
)
def test_a_run_json_that_does_not_fit_is_refused(
    voting: Path, changes: dict[str, Any], message: str
) -> None:
    forge_info(voting, **changes)
    with pytest.raises(ValueError, match=message):
        Predictor.open(voting)
