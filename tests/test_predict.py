"""Index and predict as commands, on a small run."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml import data
from dexml.commands import index as index_command
from dexml.commands import predict as predict_command
from dexml.commands import question
from dexml.console import run
from dexml.encoder import with_bias_dimension
from dexml.index import exact_search
from dexml.index.snapshot import Snapshot
from dexml.predict import Predictor
from small import forge_info, part_path, rewrite_info


def copied(run_dir: Path, folder: Path) -> Path:
    """A run of its own, to be changed."""
    return Path(
        shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("checkpoint", "cache"))
    )


def test_index_command_prints_its_recall(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(index_command.main, [str(run_dir), "--search", "hnsw", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "64 labels, 17 dimensions; HNSW" in out
    assert "recall@10 against exact search 1.0000" in out
    assert Predictor.open(run_dir).dense.index.facts.recalls[0].recall == 1.0


def test_test_points_become_csr_that_scores_as_training_said(
    run_dir: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pred.npz"
    assert run(predict_command.main, [str(run_dir), "-k", "100", "--out", str(out), "--quiet"]) == 0
    y_pred = data.load_scores(out)
    dataset = data.load_dataset(tiny_data)
    assert y_pred.shape == dataset.y_test.shape
    assert y_pred.has_canonical_format
    assert dataset.exclude_test is not None
    assert y_pred.multiply(dataset.exclude_test).nnz == 0  # filter pairs are gone
    from dexml.metrics import evaluate, inv_propensity

    found = evaluate(
        dataset.y_test,
        y_pred,
        ["P@1", "nDCG@5", "PSP@5", "R@10"],
        inv_propensity=inv_propensity(dataset.y_train),
    )
    saved = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    assert found == pytest.approx({name: saved[name] for name in found}, abs=0.02)


def test_k_entries_a_row_with_filter_pairs(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "pred.npz"
    assert run(predict_command.main, [str(run_dir), "-k", "5", "--out", str(out), "--quiet"]) == 0
    assert (np.diff(data.load_scores(out).indptr) == 5).all()


def test_blocks_do_not_change_the_answer(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for size in (4096, 7):
        monkeypatch.setattr(question, "BLOCK", size)
        files.append(tmp_path / f"{size}.npz")
        assert run(predict_command.main, [str(run_dir), "--out", str(files[-1]), "--quiet"]) == 0
    a, b = (data.load_scores(f) for f in files)
    np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-5)


def test_jsonl_and_table(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("music player a b\n\nkernel driver\n")
    out = tmp_path / "out.jsonl"
    arguments = [str(run_dir), str(texts), "-k", "3", "--quiet"]
    assert run(predict_command.main, [*arguments, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["text"] for line in lines] == ["music player a b", "", "kernel driver"]
    names = part_path(run_dir, "labels/texts").read_text().splitlines()
    for line in lines:
        assert len(line["labels"]) == 3
        scores = [label["score"] for label in line["labels"]]
        assert scores == sorted(scores, reverse=True)
        assert all(names[label["id"]] == label["text"] for label in line["labels"])
    assert run(predict_command.main, arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("music player a b\n")
    assert lines[0]["labels"][0]["text"] in shown


def test_more_labels_than_there_are_cost_nothing(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "texts.txt").write_text("music player\nkernel driver\n")
    predict, asked = Predictor.predict, []

    def counted(predictor: Predictor, texts: list[str], k: int, **rest: Any) -> Any:
        asked.append(k)
        return predict(predictor, texts, k, **rest)

    monkeypatch.setattr(Predictor, "predict", counted)
    outputs = []
    for k in ("64", "1000000"):
        out = tmp_path / f"{k}.jsonl"
        arguments = [str(run_dir), str(tmp_path / "texts.txt"), "-k", k, "--out", str(out)]
        assert run(predict_command.main, arguments) == 0
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1]
    assert max(asked) == 64
    assert capfd.readouterr().err.count("2 texts, 64 labels each") == 2


def test_stdin(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"mail server\n")))
    assert run(predict_command.main, [str(run_dir), "-", "-k", "2"]) == 0
    assert capsys.readouterr().out.startswith("mail server\n")


def test_auto_takes_the_index_for_many_labels_and_says_so(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Predictor.open(run_dir).search_note() == "exact, 64 labels"
    monkeypatch.setattr(predict_command, "EXACT_UP_TO", 63)
    assert run(predict_command.main, [str(run_dir)]) == 0
    assert "search: exact, 64 labels" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"mail server\n")))
    assert run(predict_command.main, [str(run_dir), "-", "-k", "2"]) == 0
    assert "search: HNSW, 64 labels, recall@10 1.0000" in capsys.readouterr().err


def test_what_is_said_of_the_search_is_what_is_done(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(run_dir, tmp_path / "copy")
    monkeypatch.setattr("dexml.index.recall._recall", lambda hits, truth: 1 - truth.shape[1] / 500)
    arguments = [str(copy), "--search", "hnsw", "--quiet"]
    assert run(index_command.main, arguments) == 0  # recall@10 0.98, recall@64 0.872
    auto = Predictor.open(copy, exact_up_to=0)
    hnsw = Predictor.open(copy, search="hnsw")
    done: list[int] = []
    near = Snapshot.near

    def counted(*args: Any, **kwargs: Any) -> Any:
        done.append(1)
        return near(*args, **kwargs)

    monkeypatch.setattr(Snapshot, "near", counted)
    auto.predict(["kernel"], 5)
    assert not done
    assert auto.search_note(5) == "exact, 64 labels (the graph does not find enough for k = 5)"
    assert "recall@10 0.9800" in hnsw.search_note(5)
    hnsw.predict(["kernel"], 5)
    assert len(done) == 1
    assert "HNSW, 64 labels, recall@64 0.8720 against" in hnsw.search_note(11)
    assert auto.search_note(100).startswith("exact, 64 labels (")
    monkeypatch.undo()
    assert run(index_command.main, [*arguments, "-k", "3", "--recall", "0.5"]) == 0
    recalls = json.loads((copy / "run.json").read_text())["index"]["recalls"]
    rewrite_info(copy, index={"recalls": recalls[:2]})  # k = 3 and 10
    search: Any
    for search, said in (("auto", "exact, 64 labels (the graph"), ("hnsw", "HNSW, 64 labels, rec")):
        asked = Predictor.open(copy, search=search, exact_up_to=0)
        assert asked.search_note(20).startswith(said)
        assert "recall@3 1.0000" in asked.search_note(2)
    assert "recall not known for k = 20" in asked.search_note(20)


def test_exact_and_hnsw_agree(run_dir: Path, tiny_data: Path) -> None:
    texts = data.load_dataset(tiny_data).test_texts
    exact = Predictor.open(run_dir, search="exact").predict(texts, 10)
    approximate = Predictor.open(run_dir, search="hnsw").predict(texts, 10)
    np.testing.assert_allclose(exact[1], approximate[1], atol=1e-5)


def test_predictor_is_the_saved_encoder_and_vectors(run_dir: Path) -> None:
    predictor = Predictor.open(run_dir)
    texts = ["game theme", "font parser c"]
    encoder, index = predictor.dense.embedder.encoder, predictor.dense.index
    queries = with_bias_dimension(encoder.encode(texts, max_tokens=64))
    np.testing.assert_array_equal(
        predictor.predict(texts, 4)[0], exact_search(queries, index.vectors, 4)[0]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere: no such run folder; make one"),
        (["empty"], 1, "empty: no finished run in it (no run.json)"),
        (["RUN", "nowhere.txt"], 1, "nowhere.txt: no such file"),
        (["RUN", "latin.txt"], 1, "latin.txt:2: not UTF-8"),
        (["RUN", "--out", "nowhere/x.npz"], 1, "the folder nowhere is not there"),
        (["RUN", "--device", "tpu3"], 1, "device tpu3: not usable here"),
        (["RUN", "--out", "x.txt"], 2, "must end in .npz, .jsonl, .csv or .parquet"),
        (["RUN", "--data", "nowhere"], 1, "nowhere: the data set is not there"),
        (["RUN", "--search", "fast"], 2, "search = 'fast'"),
        (["RUN", "-k", "0"], 2, "k = '0'"),
        (["RUN", "--outt", "x"], 2, "did you mean '--out'?"),
        (
            ["OLD", "--search", "hnsw"],
            1,
            "damaged (not the file that was saved); copy the whole run again, or train again",
        ),
    ],
)
def test_wrong_use_is_one_line(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("latin.txt").write_bytes(b"good\nb\xe4d\n")
    if "OLD" in arguments:
        shutil.copytree(run_dir, "OLD")
        table = part_path(Path("OLD"), "dense/table")
        table.write_bytes(table.read_bytes()[:-1] + b"x")
    arguments = [str(run_dir) if a == "RUN" else a for a in arguments]
    assert run(predict_command.main, [*arguments, "--quiet"]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_contents_that_do_not_fit_are_named(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a digest and sums that fit, so that only the contents are wrong."""
    copy = copied(run_dir, tmp_path / "copy")
    rewrite_info(copy, "index")  # with one, its own vectors are read
    np.save(part_path(copy, "dense/vectors"), np.zeros((30, 17), np.float32))
    rewrite_info(copy)
    assert run(predict_command.main, [str(copy), "--quiet"]) == 1
    assert ".npy: damaged (float32 of shape (30, 17), expected" in capsys.readouterr().err
    part_path(copy, "dense/vectors").write_bytes(b"\x93NUMPY\x01\x00")
    rewrite_info(copy)
    assert run(predict_command.main, [str(copy), "--quiet"]) == 1
    assert ".npy: damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"n_labels": "64"}}, "no proper 'labels.n_labels'"),
        ({"labels": None}, "no proper 'labels'"),
        ({"dense": {"dim": None}}, "no proper 'dense.dim'"),
        ({"dense": {"dim": True}}, "no proper 'dense.dim'"),
        ({"dense": {"dim": 15}}, "64 vectors of 17 dimensions for 64 labels of 16"),
        ({"dense": {"unseen_bias": "0.5"}}, "no proper 'dense.unseen_bias'"),
        ({"dense": {"unseen_bias": float("nan")}}, "no proper 'dense.unseen_bias'"),
        ({"dense": {"prior": None}}, "no proper 'dense.prior'"),
        ({"dense": []}, "no proper 'dense'"),
        ({"neighbours": "votes"}, "no proper 'neighbours'"),
        ({"index": {"dim": "17"}}, "dim"),
        ({"parts": {"labels/texts": "x"}}, ""),
        ({"digest": None}, ""),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    copy = copied(run_dir, tmp_path / "copy")
    forge_info(copy, **changes)
    for command in (predict_command.main, index_command.main):
        assert run(command, [str(copy), "--quiet"]) == 1
        shown = capsys.readouterr().err
        assert shown.startswith(f"error: {copy / 'run.json'}: damaged (")
        assert message in shown
        assert shown.count("\n") == 1
    with pytest.raises(ValueError, match=r"run.json: damaged"):
        Predictor.open(copy)


def test_a_changed_manifest_is_refused(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copied(run_dir, tmp_path / "copy")
    text = (copy / "run.json").read_text()
    changed = re.sub(r'"point_tokens": \d+', '"point_tokens": 7', text)
    for content in (changed, "{", text.replace('"digest"', '"other"')):
        assert content != text
        (copy / "run.json").write_text(content)
        for command in (predict_command.main, index_command.main):
            assert run(command, [str(copy)]) == 1
            assert "run.json: damaged" in capsys.readouterr().err
    (copy / "run.json").write_text(text.replace('"format_version": 3', '"format_version": 9'))
    with pytest.raises(ValueError, match=r"format 9 .*update dexml"):
        Predictor.open(copy)


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_every_file_of_a_run_is_checked_before_it_is_read(
    run_dir: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copied(run_dir, tmp_path / "copy")
    parts = json.loads((copy / "run.json").read_text())["parts"]
    encoder = {p for p in (copy / "encoder").rglob("*") if p.is_file() and p.name != "README.md"}
    assert {role for role in parts if role.startswith("encoder/")} == {
        p.relative_to(copy).as_posix() for p in encoder
    }
    before = (copy / "run.json").read_bytes()
    for part in parts.values():
        path = copy / part["name"]
        whole = path.read_bytes()
        middle = len(whole) // 2
        if how == "gone":
            path.unlink()
        elif how == "cut":
            path.write_bytes(whole[:middle])
        else:
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        for command in (index_command, predict_command):
            assert run(command.main, [str(copy), "--quiet"]) == 1
            shown = capsys.readouterr().err
            assert shown.startswith(f"error: {path}: {'missing' if how == 'gone' else 'damaged'}")
            assert shown.count("\n") == 1
        with pytest.raises((ValueError, FileNotFoundError), match=path.name):
            Predictor.open(copy)
        path.write_bytes(whole)
    assert (copy / "run.json").read_bytes() == before
    Predictor.open(copy)
    (copy / "encoder" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config.json: not a part of a run; remove it"):
        Predictor.open(copy)


def test_the_residuals_of_a_run_that_was_replaced_are_not_taken(
    run_dir: Path, tmp_path: Path
) -> None:
    """A service may be open while its run is trained again: a file is checked when it is read."""
    copy = copied(run_dir, tmp_path / "copy")
    predictor = Predictor.open(copy)
    predictor.update_labels([3], ["kernel game"])
    before = predictor.label_texts
    table = part_path(copy, "dense/table")
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"safetensors: damaged \(not the file"):
        predictor.update_labels([3], ["kernel"])
    assert predictor.label_texts == before


def test_every_file_is_hashed_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    digest = hashlib.file_digest

    def counted(file: Any, *rest: Any) -> Any:
        hashed.append(Path(file.name).relative_to(run_dir.resolve()).as_posix())
        return digest(file, *rest)

    monkeypatch.setattr("hashlib.file_digest", counted)
    Predictor.open(run_dir)
    parts = json.loads((run_dir / "run.json").read_text())["parts"].values()
    assert sorted(hashed) == sorted({part["name"] for part in parts})


def test_a_reader_that_stops_early_is_no_error(run_dir: Path) -> None:
    command = f"{sys.executable} -m dexml.predict {run_dir} -k 60 | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["train", "index", "predict", "demo"])
def test_help_of_every_command(module: str) -> None:
    command = [sys.executable, "-W", "error", "-m", f"dexml.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--quiet" in done.stdout
