"""The command ``python -m dexml.data``: stats, check, convert, prepare."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import data
from dexml.console import run
from dexml.data import __main__ as command

BOW = "3 9 5\n0,4 1:0.5 8:2\n 3:1\n4 1:1\n"


def call(*argv: object) -> int:
    return run(command.main, [str(arg) for arg in argv])


def test_stats_of_a_folder(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stats", tiny_data) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["training", "test", "test", "filter"]
    assert lines[1].split() == ["points", "300", "80", "80"]
    assert any(line.startswith("labels without a point") for line in lines)


def test_stats_of_a_bag_of_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.txt").write_text(BOW)
    assert call("stats", tmp_path / "x.txt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["features", "labels"]
    labels = found["labels"]
    assert (labels["points"], labels["labels"], labels["entries"]) == (3, 5, 3)
    assert labels["points without a positive"] == 1
    assert labels["labels without a point"] == 3
    assert labels["positives a point, mean"] == 1.0
    assert labels["points a used label, most"] == 2
    (tmp_path / "y.txt").write_text("0 0\n")
    assert call("stats", tmp_path / "y.txt") == 0


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "y.txt"
    path.write_text("2 5\n0:1 7:1 0:2\n1:nan\n")
    assert call("check", path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{path}:2: label 7 out of range (n_labels = 5)",
        f"{path}:2: duplicate label 0",
        f"{path}:3: value is not finite (label 1)",
        f"{path}: convert --repair would repair this: 1 duplicates summed, 1 entries out of range "
        "and 1 not finite dropped, 0 rows sorted",
        f"error: {path}:2: label 7 out of range (n_labels = 5)",
    ]
    path.write_text("2 5\n0:x\n\n")
    assert call("check", path) == 1
    assert capsys.readouterr().err == f"error: {path}:2: bad token '0:x' (column 1)\n"
    path.write_text("words\n")
    assert call("check", path) == 1
    path.write_text("7\n")
    assert call("check", path) == 1
    assert "expected 'rows labels', or 'points features labels'" in capsys.readouterr().err
    path.write_text(BOW)
    assert call("check", path) == 0
    path.write_text(BOW.replace("8:2", "9:2"))
    assert call("check", path) == 1
    assert "feature 9 out of range (n_features = 9)" in capsys.readouterr().err


@pytest.mark.parametrize("middle", ["y.npz", "y.txt.gz", "y.txt.zst"])
def test_convert_there_and_back(tmp_path: Path, middle: str) -> None:
    text = "2 5\n0:1.0 3:0.25\n\n"
    (tmp_path / "y.txt").write_text(text)
    assert call("convert", tmp_path / "y.txt", tmp_path / middle) == 0
    assert call("convert", tmp_path / middle, tmp_path / "back.txt") == 0
    assert (tmp_path / "back.txt").read_text() == text


def test_convert_parts_and_repairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, out = tmp_path / "x.txt", tmp_path / "out.txt"
    x.write_text(BOW)
    for part, expected in (
        ("labels", "3 5\n0:1.0 4:1.0\n\n4:1.0\n"),
        ("features", "3 9\n1:0.5 8:2.0\n3:1.0\n1:1.0\n"),
        ("both", "3 9 5\n0,4 1:0.5 8:2.0\n 3:1.0\n4 1:1.0\n"),
    ):
        assert call("convert", "--part", part, x, out) == 0
        assert out.read_text() == expected
    assert call("convert", "--part", "both", x, tmp_path / "x.npz") == 2
    assert "an .npz holds one matrix" in capsys.readouterr().err
    x.write_text("1 5\n3:1 9:1 0:1 3:1\n")
    assert call("convert", x, tmp_path / "no.txt") == 1
    assert not (tmp_path / "no.txt").exists()
    assert call("convert", "--repair", x, out) == 0
    assert out.read_text() == "1 5\n0:1.0 3:2.0\n"
    assert "1 duplicates summed, 1 entries out of range" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["y.npz", "y.npy"], 2, "y.npy: unknown suffix; give .npz, .txt or .txt.gz"),
        (["y.npz", "y.npz.gz"], 2, "y.npz.gz: unknown suffix"),
        (["y.npz", "y.txt.GZ"], 2, "y.txt.GZ: unknown suffix"),
        (["y.npz", "."], 1, ".: is a folder; give a file"),
        (["y.npz", ""], 1, "is a folder; give a file"),
        (["--part", "labels", "y.npz", "z.npz"], 2, "--part is for bags of words; y.npz holds one"),
        (["--part", "both", "x.txt", "x.NPZ"], 2, "an .npz holds one matrix"),
    ],
)
def test_convert_refuses(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data.save_labels("y.npz", csr_array(np.eye(2)))
    (tmp_path / "x.txt").write_text(BOW)
    assert call("convert", *arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.txt", "y.npz"]


def test_convert_keeps_scores_or_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = csr_array(np.array([[0.1, 0.0], [0.0, 1 / 3]]))
    data.save_scores(tmp_path / "p.npz", scores)
    assert call("convert", tmp_path / "p.npz", tmp_path / "q.NPZ") == 0
    assert capsys.readouterr().err == ""
    kept = data.load_scores(tmp_path / "q.NPZ")
    assert kept.dtype == np.float64
    np.testing.assert_array_equal(kept.toarray(), scores.toarray())
    assert call("convert", tmp_path / "p.npz", tmp_path / "p.txt") == 0
    assert capsys.readouterr().err == f"{tmp_path}/p.npz: values rounded to float32\n"
    data.save_scores(tmp_path / "y.npz", csr_array(np.eye(2)))
    assert call("convert", tmp_path / "y.npz", tmp_path / "z.npz") == 0
    assert data.load_scores(tmp_path / "z.npz").dtype == np.float32
    assert capsys.readouterr().err == ""


def test_repeated_pairs_are_counted(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    pairs = folder / "filter_labels_test.txt"
    first = pairs.read_text().splitlines()[0]
    pairs.write_text(pairs.read_text() + f"{first}\n{first}\n")
    for action in ("check", "stats"):
        assert call(action, folder) == 0
        assert capsys.readouterr().err == f"{pairs}: 2 repeated pairs merged\n"
        assert call(action, tiny_data) == 0
        assert capsys.readouterr().err == ""


def test_prepare_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "target").write_text("mine")
    assert call("prepare", raw(tmp_path / "source"), tmp_path / "target") == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/target: a file; give a folder\n"
    assert (tmp_path / "target").read_text() == "mine"


def raw(folder: Path, packed: bool = False, **changes: str) -> Path:
    folder.mkdir()
    files = {
        "lbl": '{"uid": "a", "title": "A  label"}\n'
        '{"uid": "b", "title": "B", "content": "x\\ny"}\n',
        "trn": '{"uid": "0", "title": "T", "content": "", "target_ind": [1, 0], '
        '"target_rel": [1.0, 0.5]}\n{"uid": "1", "title": "U", "target_ind": []}\n',
        "tst": '{"uid": "2", "title": "\\u00e9", "content": "c", "target_ind": [1]}\n',
    } | changes
    for name, text in files.items():
        if packed:
            (folder / f"{name}.json.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{name}.json").write_text(text)
    (folder / "filter_labels_test.txt").write_text("0 0\n")
    return folder


def test_a_folder_without_a_test_part_and_its_label_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    data.save_dataset(folder, ["a", "", "a", "b", "b"], train=(["x"], [[0, 4]]))
    assert run(command.main, ["stats", str(folder)]) == 0
    assert "training" in capsys.readouterr().out
    assert run(command.main, ["check", str(folder)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{folder}: ok\n"
    assert shown.err.splitlines() == [
        f"{folder}: no test part",
        f"{folder}/raw/Y.txt:2: empty label text (1 in all)",
        f"{folder}/raw/Y.txt:3: the same text as line 1, 'a' (2 label texts occur more than once)",
    ]
    (folder / "raw" / "tst_X.txt").write_text("y\n")
    assert run(command.main, ["check", str(folder)]) == 1
    assert "has neither Y.tst.npz nor tst_X_Y.txt" in capsys.readouterr().err


@pytest.mark.parametrize("packed", [False, True])
def test_prepare(tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    source = raw(tmp_path / "source", packed)
    assert call("prepare", source, tmp_path / "target") == 0
    assert "2 labels, 2 points in trn, 1 points in tst" in capsys.readouterr().err
    dataset = data.load_dataset(tmp_path / "target")
    assert dataset.label_texts == ["A label", "B x y"]
    assert dataset.train_texts == ["T", "U"]
    assert dataset.test_texts == ["é c"]
    np.testing.assert_array_equal(dataset.y_train.toarray(), [[0.5, 1], [0, 0]])
    assert dataset.exclude_test is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "target"]
    assert call("prepare", source, "--text", "title", "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert data.load_dataset(source).test_texts == ["é"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trn": "{}\n"}, "trn.json:1: 'title' must be a text"),
        ({"trn": '{"title": "a"}\n'}, "trn.json:1: 'target_ind' must be a list"),
        ({"trn": '{"title": "a", "target_ind": [2]}\n'}, "trn.json:1: label 2 out of range"),
        ({"trn": '{"title": "a", "target_ind": [1, 1]}\n'}, "trn.json:1: duplicate label 1"),
        ({"trn": '{"title": "a", "target_ind": [true]}\n'}, "must be a list of label numbers"),
        (
            {"trn": '{"title": "a", "target_ind": [1], "target_rel": []}\n'},
            "'target_rel' must be a list as long as",
        ),
        (
            {"trn": '{"title": "a", "target_ind": [1], "target_rel": [NaN]}\n'},
            "'target_rel' holds nan",
        ),
        ({"tst": '{"title": "a", "target_ind": [1]}\nno\n'}, "tst.json:2: not JSON"),
        ({"tst": "[]\n"}, "tst.json:1: expected a JSON object, not list"),
        ({"tst": "\n{}\n"}, "tst.json:1: blank line"),
        ({"lbl": ""}, "lbl.json: empty; expected a label a line"),
        ({"lbl": '{"title": "\\ud800"}\n'}, "lbl.json:1: half of a surrogate pair"),
        ({"lbl": '{"title": "a"}\n'}, "trn.json:1: label 1 out of range"),
    ],
)
def test_prepare_refuses(
    tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw(tmp_path / "source", **changes)
    assert call("prepare", source, tmp_path / "target") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def test_prepare_repairs_and_names_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw(tmp_path / "s", trn='{"title": "a", "target_ind": [1, 7, 1, -1]}\n')
    assert call("prepare", source, tmp_path / "t", "--repair") == 0
    assert "3 labels dropped" in capsys.readouterr().err
    assert data.load_labels(tmp_path / "t" / "Y.trn.npz").indices.tolist() == [1]
    (source / "tst.json").unlink()
    (source / "trn.json").write_text('{"title": "a", "target_ind": [1]}\n')
    assert call("prepare", source) == 1
    assert "has neither tst.json nor tst.json.gz" in capsys.readouterr().err
    packed = gzip.compress(b'{"title": "a", "target_ind": []}\n' * 99)
    (source / "tst.json.gz").write_bytes(packed[:-9])
    assert call("prepare", source) == 1
    assert "tst.json.gz: damaged gzip file" in capsys.readouterr().err
    (source / "filter_labels_test.txt").write_text("0 9\n")
    (source / "tst.json.gz").write_bytes(packed)
    assert call("prepare", source) == 1
    assert "filter_labels_test.txt:1: label 9 out of range" in capsys.readouterr().err
    assert not (source / "raw").exists()
