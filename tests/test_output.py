"""What commands print: JSON is UTF-8, tables survive any locale, bars stay out of files."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import console, data

CALL = "import sys; from dexml.console import bar, put, run; raise SystemExit(run({}))"
SHOW = "lambda _: print('½ ± 雪')"
PUT = "lambda _: put('½ ± 雪')"


def printed(code: str, encoding: str) -> bytes:
    command = [sys.executable, "-c", CALL.format(code)]
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, capture_output=True, check=True, env=environment).stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_utf_8_and_tables_fall_back(encoding: str) -> None:
    assert printed(PUT, encoding).decode() == "½ ± 雪\n"
    assert printed(SHOW, encoding).decode(encoding) == "½ ± 雪\n".encode(
        encoding, "replace"
    ).decode(encoding)


def test_lines_keep_their_order(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print("first")
    console.put("second")
    print("third", flush=True)
    lines = capfdbinary.readouterr().out.splitlines()
    assert [line.strip() for line in lines] == [b"first", b"second", b"third"]


def test_output_without_bytes_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    console.put("½", end="")
    assert out.getvalue() == "½"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "disable", "shown"),
    [(io.StringIO(), False, False), (Terminal(), False, True), (Terminal(), True, False)],
)
def test_a_bar_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, disable: bool, shown: bool
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    with console.bar(total=2, desc="work", disable=disable, file=stream) as bar:
        bar.update(2)
    assert ("work" in stream.getvalue()) == shown
    assert list(console.bar(range(3), desc="work", disable=disable, file=stream)) == [0, 1, 2]


def small_set(folder: Path, labels: list[str]) -> Path:
    data.save_dataset(folder, labels, (["a", "b", "c"], [[0], [1], [2]]))
    return folder


def test_label_texts_that_are_numbers_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dexml.data.__main__ import main

    folder = small_set(tmp_path / "numbers", ["0", "1", "2"])
    assert console.run(main, ["check", str(folder)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{folder}: ok\n"
    assert "Y.txt: 3 label texts are mere numbers, which say nothing about a label" in shown.err
    folder = small_set(tmp_path / "texts", ["kernel", "2024", "x2"])
    assert console.run(main, ["check", str(folder)]) == 0
    assert capsys.readouterr().err == f"{folder}: no test part\n"


@pytest.mark.parametrize(
    ("name", "words", "noted"),
    [
        ("LF-AmazonTitles-131K", [], True),
        ("lf-amazontitles-131k", [], True),
        ("LF-AmazonTitles-131K", ["--propensity", "LF-AmazonTitles-131K"], False),
        ("LF-AmazonTitles-131K", ["--a", "0.6", "--b", "2.6"], False),
        ("LF-AmazonTitles-131K", ["--metrics", "P@1"], False),
        ("DebTags", [], False),  # its constants are the default
        ("mine", [], False),
    ],
)
def test_constants_of_a_known_benchmark_are_asked_for(
    name: str, words: list[str], noted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dexml.metrics.__main__ import main

    folder = tmp_path / name
    folder.mkdir()
    y = csr_array(np.eye(5, dtype=np.float32))
    data.save_labels(folder / "Y.npz", y)
    paths = [str(folder / "Y.npz")] * 2
    assert console.run(main, [*paths, "--train", paths[0], "--json", *words]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["metrics"]["P@1"] == 1
    asked = "A = 0.6, B = 2.6: --propensity LF-AmazonTitles-131K" in shown.err
    assert asked == noted


def test_a_training_asks_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dexml.commands.train import main

    folder = tmp_path / "LF-Wikipedia-500K"
    words = [str(folder), "--out", str(tmp_path / "run"), "--encoder", "none"]
    assert console.run(main, words) == 1  # there is no data
    assert "A = 0.5, B = 0.4: --propensity LF-Wikipedia-500K" in capsys.readouterr().err
    console.run(main, [*words, "--propensity", "LF-Wikipedia-500K"])
    assert "note: PSP" not in capsys.readouterr().err
