"""The command ``python -m dexml.index``: build, edit, show."""

import json
import os
import re
import shutil
import sys
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warm
from dexml import locks
from dexml.commands import index as command
from dexml.commands import predict
from dexml.console import run
from dexml.index import IndexFacts, LabelIndex
from dexml.predict import Predictor
from dexml.run import LabelSet, Run
from dexml.scorers.dense import trained_vectors
from small import forge_info, part_path, rewrite_info


def call(*argv: object) -> int:
    return run(command.main, [str(arg) for arg in argv])


@pytest.fixture
def edited(run_dir: Path, tmp_path: Path) -> Path:
    """A run of its own, with a bias of new labels that no other label has."""
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("checkpoint", "cache"))
    rewrite_info(copy, dense={"unseen_bias": 0.25})
    return copy


def labels_of(run_dir: Path) -> LabelSet:
    return LabelSet.restore(Run.open(run_dir).state)


def index_of(run_dir: Path) -> LabelIndex:
    state = Run.open(run_dir).state
    return LabelIndex.restore(state, state.facts["index"], "index/")


def facts_of(run_dir: Path) -> IndexFacts:
    return index_of(run_dir).facts


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
    state = Run.open(edited).state
    np.testing.assert_array_equal(index_of(edited).vectors, trained_vectors(state))
    assert call(edited, "--info") == 0
    shown = dict(re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines())
    assert shown["search"] == "hnsw"
    assert shown["labels"] == "64"
    assert shown["next id"] == "64"
    assert shown["edits since built"] == "0"
    for role in ("graph", "vectors"):
        path = part_path(edited, f"index/{role}")
        assert shown[f"index/{path.name}"] == f"{path.stat().st_size} bytes"
    assert shown["recall@20"].startswith("1.0000 (ef 64")


def test_a_graph_that_finds_too_little_is_named(
    edited: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dexml.index.recall._recall", lambda found, truth: 0.5)
    assert call(edited, "--quiet", "--search", "hnsw") == 0
    shown = capsys.readouterr().err
    assert "warning: recall@10 stays below 0.99; for k from 1 to 10 exact search is used" in shown
    assert "warning: recall@64 stays below 0.98; for k from 11 to 64 exact search is used" in shown
    assert index_of(edited).search_for(10) == "exact"


def test_labels_are_added_changed_and_removed(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, texts = index_of(edited), labels_of(edited).texts
    added = file(edited, f"kernel game\n{texts[3]}\nmail theme parser\nkernel game\n")
    assert call(edited, "--add", added) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["64\tkernel game", "65\tmail theme parser"]
    assert "2 of 4 are labels already" in shown.err
    assert call(edited, "--update", file(edited, f"64\t{texts[5]}\n")) == 0
    assert call(edited, "--remove", file(edited, "3\n65\n")) == 0
    assert call(edited, "--remove", file(edited, f"{texts[9]}\n")) == 0
    index, labels = index_of(edited), labels_of(edited)
    assert labels.texts == [*texts, texts[5], "mail theme parser"]
    assert np.flatnonzero(~index.alive).tolist() == [3, 9, 65]
    np.testing.assert_array_equal(index.alive, labels.alive)
    assert labels.edits == 6
    assert labels.n_trained == 64
    # Label 5 was never seen in training: its vector is its text's, as that of the new one.
    np.testing.assert_allclose(index.vectors[64, :-1], index.vectors[5, :-1], atol=1e-5)
    assert index.vectors[64, -1] == 0.25
    np.testing.assert_array_equal(index.vectors[:64], before.vectors)

    assert call(edited, "--quiet") == 1
    assert "labels were edited 6 times" in capsys.readouterr().err
    assert call(edited, "--rebuild", "--quiet") == 0
    assert facts_of(edited).n_alive == 63
    assert call(edited, "--overwrite", "--quiet") == 0
    assert facts_of(edited).n_labels == 64
    assert labels_of(edited).texts == texts
    assert labels_of(edited).edits == 0
    assert part_path(edited, "labels/texts") == part_path(edited, "labels/trained")


def test_ids_are_printed_when_they_are_given(
    edited: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = Predictor.save

    def late(predictor: Predictor, **rest: bool) -> None:
        other = Predictor.open(edited)  # somebody is faster, and cares for no lock
        other.remove_labels([3])
        save(other, lock=False)
        save(predictor, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "save", late)
        assert call(edited, "--add", file(edited, "kernel game\n")) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "changed by another process since it was opened" in shown.err
    assert call(edited, "--add", file(edited, "kernel game\n")) == 0
    assert capsys.readouterr().out == "64\tkernel game\n"


def slow_edit(words: list[str], begun: Event, go_on: Event) -> None:
    """An edit that waits while it holds the run."""
    plain = Predictor.add_labels

    def wait(self: Predictor, *arguments: Any, **options: Any) -> Any:
        begun.set()
        go_on.wait()
        return plain(self, *arguments, **options)

    setattr(Predictor, "add_labels", wait)  # noqa: B010
    sys.exit(run(command.main, words))


def test_the_second_of_two_at_once_ends_with_one_line(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = file(edited, "kernel game\n")
    context = warm.context()
    begun, go_on = context.Event(), context.Event()
    words = [str(edited), "--add", str(texts), "--quiet"]
    first = context.Process(target=slow_edit, args=(words, begun, go_on))
    first.start()
    assert begun.wait(warm.TIMEOUT)
    before = (edited / "run.json").read_bytes()
    for more in (["--add", texts], ["--rebuild"], ["--overwrite"], []):
        assert call(edited, *more) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(
            f"error: {edited}: in use by process {first.pid} (python -m dexml.index --add, since "
        )
        assert shown.err.count("\n") == 1
    assert call(edited, "--info") == 0  # readers need no lock
    assert (edited / "run.json").read_bytes() == before
    go_on.set()
    first.join(warm.TIMEOUT)
    assert first.exitcode == 0
    assert labels_of(edited).texts[64:] == ["kernel game"]


def test_the_second_of_two_predictions_into_one_file_ends_with_one_line(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, texts = edited / "out.jsonl", file(edited, "kernel game\n")
    lock = edited / ".out.jsonl.lock"
    with locks.hold(lock, str(out), "python -m dexml.predict --out", remove=True):
        assert run(predict.main, [str(edited), str(texts), "--out", str(out), "--quiet"]) == 1
        shown = capsys.readouterr().err
        assert shown.startswith(f"error: {out}: in use by process {os.getpid()} (python -m dexml.p")
        assert shown.count("\n") == 1
        assert not out.exists()
    assert run(predict.main, [str(edited), str(texts), "--out", str(out), "--quiet"]) == 0
    assert out.exists()
    assert not lock.exists()


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--add", "a\n\nb\n", "edit.txt:2: an empty line"),
        ("--add", "", "edit.txt: empty"),
        ("--remove", "64\n", "edit.txt:1: label 64 of 64 labels"),
        ("--remove", "3\n3\n", "edit.txt:2: label 3 is given twice"),
        ("--remove", "3\nno such label\n", "edit.txt:1: no label has the text '3'"),
        ("--update", "3 text\n", "edit.txt:1: expected ID TAB TEXT"),
        ("--update", "x\ttext\n", "edit.txt:1: expected ID TAB TEXT"),
        ("--update", "99\ttext\n", "edit.txt:1: label 99 of 64 labels"),
    ],
)
def test_edits_that_are_wrong_change_nothing(
    edited: Path, option: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (edited / "run.json").read_bytes()
    assert call(edited, option, file(edited, text)) == 1
    said, *errors = capsys.readouterr().err.splitlines()
    assert said == f"opening {edited}"
    assert len(errors) == 1
    assert message in errors[0]
    assert (edited / "run.json").read_bytes() == before


def test_wrong_calls(edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(edited, "--add", "a", "--remove", "b") == 2
    assert "--add and --remove: one at a time" in capsys.readouterr().err
    assert call(edited, "--add", edited / "none.txt") == 1
    assert "none.txt: No such file" in capsys.readouterr().err
    shutil.rmtree(edited / "index")
    rewrite_info(edited, "index")
    for option in ("--info", "--rebuild"):
        assert call(edited, option) == 1
        assert f"no index yet; build it: python -m dexml.index {edited}" in capsys.readouterr().err
    assert call(edited, "--quiet") == 0
    assert facts_of(edited).n_labels == 64


def test_an_index_of_another_run_is_refused(
    edited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files are not those that the manifest of this run names."""
    other = tmp_path / "other"
    shutil.copytree(edited, other)
    assert call(other, "--add", file(other, "kernel game\n")) == 0
    shutil.rmtree(edited / "index")
    shutil.copytree(other / "index", edited / "index")
    capsys.readouterr()
    assert call(edited, "--rebuild") == 1
    shown = capsys.readouterr().err
    assert "/index/vectors-" in shown
    assert "missing; copy the whole run again, or train again" in shown


@pytest.mark.parametrize(
    ("gone", "changes", "message"),
    [
        (["dense.unseen_bias"], {}, "no proper 'dense.unseen_bias'"),
        (["labels"], {}, "no proper 'labels'"),
        ([], {"labels": {"edits": "6"}}, "no proper 'labels.edits'"),
        ([], {"labels": {"n_trained": 65}}, "64 labels, 65 at the end of training, 0 edits"),
        ([], {"labels": {"edits": -1}}, "64 labels, 64 at the end of training, -1 edits"),
        ([], {"labels": {"n_labels": 63, "n_trained": 63}}, "64 lines for 63 labels"),
        ([], {"index": 3}, "no proper 'index'"),
        ([], {"index": {"m": "16"}}, "m is not of type int"),
        ([], {"index": {"more": 1}}, "fields of an index: "),
        ([], {"index": {"n_alive": 63}}, "64 labels, not 63"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(
    edited: Path,
    gone: list[str],
    changes: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forge_info(edited, *gone, **changes)
    before = (edited / "run.json").read_bytes()
    for option in ("--rebuild", "--info"):
        code = call(edited, option, "--quiet")
        shown = capsys.readouterr().err
        if option == "--rebuild" or code:  # --info looks at less
            assert code == 1
            assert message in shown
            assert str(edited) in shown
            assert shown.count("\n") == 1
    assert (edited / "run.json").read_bytes() == before


def test_a_run_of_an_older_format_is_refused(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    assert call(edited, "--info") == 1
    assert "run.json: format 1 of an older dexml; train again" in capsys.readouterr().err
