"""The command ``python -m dexml.index``: build, edit, show."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dexml.commands import index as command
from dexml.console import run
from dexml.index import LabelIndex
from dexml.run.folder import Run
from small import rewrite_info


def call(*argv: object) -> int:
    return run(command.main, [str(arg) for arg in argv])


@pytest.fixture
def edited(run_dir: Path, tmp_path: Path) -> Path:
    """A run of its own, whose run.json names the bias of new labels."""
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("checkpoint", "cache"))
    rewrite_info(copy, unseen_bias=0.25)
    return copy


def file(folder: Path, text: str) -> Path:
    (folder / "edit.txt").write_text(text)
    return folder / "edit.txt"


def test_build_prints_its_recall(edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(edited, "--quiet") == 0
    assert "64 labels, 17 dimensions; exact search: " in capsys.readouterr().out
    assert call(edited, "--quiet", "--search", "hnsw", "-k", 20, "--recall", 0.9, "-m", 8) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("64 labels, 17 dimensions; HNSW, M 8: ")
    assert [line.split()[0] for line in lines[1:]] == ["recall@10", "recall@20", "recall@64"]
    assert "recall@20 against exact search 1.0000 at ef 64" in lines[2]
    assert "asked for 0.9" in lines[2]
    index = LabelIndex.load(edited / "index", encoder=Run.open(edited).fingerprint())
    assert index.texts == Run.open(edited).label_texts()
    assert call(edited, "--info") == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["search"] == "hnsw"
    assert shown["labels"] == "64"
    assert shown["encoder"].endswith(" (that of the run)")
    assert shown["recall@20"].startswith("1.0000 (ef 64")


def test_a_graph_that_finds_too_little_is_named(
    edited: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dexml.index.recall._recall", lambda found, truth: 0.5)
    assert call(edited, "--quiet", "--search", "hnsw") == 0
    shown = capsys.readouterr().err
    assert "warning: recall@10 stays below 0.99; for k from 1 to 10 exact search is used" in shown
    assert "warning: recall@64 stays below 0.98; for k from 11 to 64 exact search is used" in shown
    assert LabelIndex.load(edited / "index").search_for(10) == "exact"


def test_labels_are_added_changed_and_removed(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = LabelIndex.load(edited / "index")
    texts = before.texts
    assert texts is not None
    added = file(edited, f"kernel game\n{texts[3]}\nmail theme parser\nkernel game\n")
    assert call(edited, "--add", added) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["64\tkernel game", "65\tmail theme parser"]
    assert "2 of 4 are labels already" in shown.err
    assert call(edited, "--update", file(edited, f"64\t{texts[5]}\n")) == 0
    assert call(edited, "--remove", file(edited, "3\n65\n")) == 0
    assert call(edited, "--remove", file(edited, f"{texts[9]}\n")) == 0
    index = LabelIndex.load(edited / "index", encoder=Run.open(edited).fingerprint())
    assert index.texts == [*texts, texts[5], "mail theme parser"]
    assert np.flatnonzero(~index.alive).tolist() == [3, 9, 65]
    assert index.manifest.edits == 6
    # Label 5 was never seen in training: its vector is its text's, as that of the new one.
    np.testing.assert_allclose(index.vectors[64, :-1], index.vectors[5, :-1], atol=1e-5)
    assert index.vectors[64, -1] == 0.25
    np.testing.assert_array_equal(index.vectors[:64], before.vectors)

    assert call(edited, "--quiet") == 1
    assert "labels were edited 6 times" in capsys.readouterr().err
    assert call(edited, "--rebuild", "--quiet") == 0
    assert LabelIndex.load(edited / "index").manifest.n_alive == 63
    assert call(edited, "--overwrite", "--quiet") == 0
    assert LabelIndex.load(edited / "index").manifest.n_labels == 64


def test_ids_are_told_when_they_are_given(
    edited: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = LabelIndex.save

    def late(index: LabelIndex, folder: Path, **rest: bool) -> None:
        other = LabelIndex.load(folder)  # another process is faster
        other.remove_labels([3])
        save(other, folder)
        save(index, folder, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(LabelIndex, "save", late)
        assert call(edited, "--add", file(edited, "kernel game\n")) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "changed by another process since it was opened" in shown.err
    assert call(edited, "--add", file(edited, "kernel game\n")) == 0
    assert capsys.readouterr().out == "64\tkernel game\n"


def test_without_a_bias_of_new_labels_that_of_unseen_ones_is_taken(edited: Path) -> None:
    rewrite_info(edited, "unseen_bias")
    assert call(edited, "--add", file(edited, "kernel game\n")) == 0
    trained = np.load(edited / "label_emb.npy")
    index = LabelIndex.load(edited / "index")
    assert index.vectors[64, -1] == trained[5, -1]  # no training point has label 5


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--add", "a\n\nb\n", "edit.txt:2: an empty line"),
        ("--add", "", "edit.txt: empty"),
        ("--remove", "64\n", "edit.txt:1: label 64 of 64 labels"),
        ("--remove", "3\n3\n", "edit.txt:2: label 3 stands there twice"),
        ("--remove", "3\nno such label\n", "edit.txt:1: no label has the text '3'"),
        ("--update", "3 text\n", "edit.txt:1: expected ID TAB TEXT"),
        ("--update", "x\ttext\n", "edit.txt:1: expected ID TAB TEXT"),
        ("--update", "99\ttext\n", "edit.txt:1: label 99 of 64 labels"),
    ],
)
def test_edits_that_are_wrong_change_nothing(
    edited: Path, option: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (edited / "index" / "manifest.json").read_bytes()
    assert call(edited, option, file(edited, text)) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert (edited / "index" / "manifest.json").read_bytes() == before


def test_wrong_calls(edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(edited, "--add", "a", "--remove", "b") == 2
    assert "--add and --remove: one at a time" in capsys.readouterr().err
    assert call(edited, "--add", edited / "none.txt") == 1
    assert "none.txt: No such file" in capsys.readouterr().err
    shutil.rmtree(edited / "index")
    for option in ("--info", "--rebuild"):
        assert call(edited, option) == 1
        assert "no index there" in capsys.readouterr().err


def test_info_tells_an_index_of_another_run(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = LabelIndex.load(edited / "index")
    made = LabelIndex.build(index.vectors, texts=index.texts, search="exact", encoder="f" * 64)
    made.save(edited / "index")
    assert call(edited, "--info") == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["encoder"].startswith("ffffffffffffffff (ANOTHER RUN'S: it is refused here; --ov")
    assert call(edited, "--rebuild") == 1
    assert "made by another encoder" in capsys.readouterr().err
    assert call(edited, "--overwrite", "--quiet") == 0
    assert call(edited, "--info") == 0
    assert "(that of the run)" in capsys.readouterr().out


def test_a_run_of_an_older_format_is_refused(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    assert call(edited, "--info") == 1
    assert "run.json: format 1 of an older dexml; train again" in capsys.readouterr().err
