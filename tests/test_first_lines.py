"""What commands say while they work: at once, after each epoch, and what to do next."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dexml.commands import index as index_command
from dexml.commands import predict as predict_command
from dexml.commands import train as train_command
from dexml.console import run
from dexml.predict import Predictor
from small import confusing_data

WIDTH = 100


class Stopped(Exception):
    """Ends a command where its slow part would begin."""


def stop(*_: Any, **__: Any) -> Any:
    raise Stopped


def training(data: Path, encoder: Path | str, out: Path, *more: str) -> list[str]:
    return [
        *(str(data), "--out", str(out), "--encoder", str(encoder), "--engine", "torch"),
        *("--head-epochs", "3", "--head-batch-size", "64", *more),
    ]


@pytest.mark.parametrize("encoder", ["none", "an encoder"])
def test_a_training_speaks_before_its_slow_part(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    encoder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train_command, "train", stop)
    name = tiny_encoder if encoder == "an encoder" else "none"
    words = training(tiny_data, name, tmp_path / "run")
    assert run(train_command.main, words) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"reading {tiny_data}" + (
        f" and the encoder {tiny_encoder}" if encoder == "an encoder" else ""
    )
    monkeypatch.setattr("dexml.plan.forecast.forecast", stop)
    if encoder == "an encoder":
        assert run(train_command.main, [*words, "--plan"]) == 1
        assert capsys.readouterr().err.startswith("reading ")
    assert run(train_command.main, [*words, "--quiet"]) == 1
    assert "reading" not in capsys.readouterr().err


def test_predict_and_index_speak_before_they_open_the_run(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Predictor, "open", stop)
    monkeypatch.setattr(index_command, "open_run", stop)
    for main in (predict_command.main, index_command.main):
        assert run(main, [str(run_dir)]) == 1
        assert capsys.readouterr().err.splitlines()[0] == f"opening {run_dir}"
        assert run(main, [str(run_dir), "--quiet"]) == 1
        assert "opening" not in capsys.readouterr().err


def test_each_validated_epoch_has_its_line(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = training(tiny_data, tiny_encoder, tmp_path / "run", "--evaluate-every", "2")
    assert run(train_command.main, words) == 0
    said = capsys.readouterr().err
    epochs = re.findall(
        r"^selection, heads: epoch (\d) of 3, loss \d+\.\d{4}, "
        r"nDCG@5 (\d+\.\d\d) on the validation part$",
        said,
        re.MULTILINE,
    )
    assert [number for number, _ in epochs] == ["2", "3"]
    assert run(train_command.main, [*words, "--quiet", "--overwrite"]) == 0
    assert "epoch" not in capsys.readouterr().err


def test_what_was_selected_is_a_line_and_a_table(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = confusing_data(tmp_path / "data", n=200)
    assert run(train_command.main, training(data, tiny_encoder, tmp_path / "run")) == 0
    said = capsys.readouterr().err.splitlines()
    (at,) = [i for i, line in enumerate(said) if line.startswith("selected on ")]
    assert re.match(r"selected on \d+ validation points: epochs heads \d; prior 0", said[at])
    assert [line.split("  ")[0] for line in said[at + 2 : at + 4]] == [
        "without votes",
        "with votes",
    ]
    (ranked,) = [i for i, line in enumerate(said) if "; cross-validation on" in line]
    assert [line.split("  ")[0] for line in said[ranked + 2 : ranked + 4]] == [
        "without",
        "with ranker",
    ]
    assert max(map(len, said[at : ranked + 4])) <= WIDTH


@pytest.mark.parametrize(("search", "step"), [("exact", "predict"), ("hnsw", "index")])
def test_an_index_is_named_only_where_it_pays(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    search: str,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[int] = []

    def choose(n_labels: int) -> str:
        asked.append(n_labels)
        return search

    monkeypatch.setattr(train_command, "choose_search", choose)
    out = tmp_path / "run"
    assert run(train_command.main, training(tiny_data, tiny_encoder, out)) == 0
    assert capsys.readouterr().out == f"{out}: next, python -m dexml.{step} {out}\n"
    assert asked == [64]


def test_few_labels_are_edited_without_an_index(
    shared_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As they are searched without one; many are not, for saving would leave no graph."""
    folder = tmp_path / "run"
    shutil.copytree(shared_run(head_epochs=1), folder)
    (tmp_path / "new.txt").write_text("kernel game\n")
    words = [str(folder), "--add", str(tmp_path / "new.txt")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(index_command, "choose_search", lambda *_: "hnsw")
        assert run(index_command.main, words) == 1
        assert "no index yet; build it" in capsys.readouterr().err
    assert run(index_command.main, words) == 0
    assert capsys.readouterr().out == "64\tkernel game\n"
    predictor = Predictor.open(folder)
    assert predictor.n_labels == 65
    assert 64 in predictor.predict(["kernel game"], 65).ids[0]
