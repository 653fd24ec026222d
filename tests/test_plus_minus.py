"""± is the standard error wherever it is printed, and each place says so."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dexml import console, data, train
from dexml.commands.predict import main as predict_main
from dexml.metrics import Evaluator, Result
from dexml.metrics.__main__ import main as metrics_main
from dexml.metrics.tables import to_latex, to_markdown
from dexml.report.of_training import report_training
from small import train_settings, write_tiny_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data") / "tiny", groups=True)


@pytest.fixture(scope="module")
def light(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, str]:
    """A run, its test scores, and what the training printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = train_settings(folder, Path("none"), out, quiet=False, seed=0)
    with pytest.MonkeyPatch.context() as patched:
        said: list[str] = []
        patched.setattr(console, "say", said.append)
        result = train.train(settings, report_training)
    assert result is not None
    return out, result, "\n".join(said)


def test_the_terminal_and_the_file_of_a_training(light: tuple[Path, Result, str]) -> None:
    out, _, said = light
    saved = json.loads((out / "metrics.json").read_text())
    shown = f"{100 * saved['metrics']['P@1']:.2f} ±{100 * saved['standard_errors']['P@1']:.1f}"
    assert shown in said
    assert "±: standard error, bootstrap over groups" in said


def test_the_report(light: tuple[Path, Result, str]) -> None:
    out, _, _ = light
    error = 100 * json.loads((out / "metrics.json").read_text())["standard_errors"]["P@1"]
    html = (out / "report.html").read_text()
    tile = re.search(r'<span class="name">P@1</span>\s*<b>[^±]*±\s*([0-9.]+)', html)
    assert tile is not None
    assert tile[1] == f"{error:.1f}"
    assert "±: standard error, and 95 % intervals, both by bootstrap over groups" in html


def test_the_command(
    light: tuple[Path, Result, str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _, _ = light
    scores = tmp_path / "scores.npz"
    assert console.run(predict_main, [str(out), "--out", str(scores), "-k", "100", "--quiet"]) == 0
    words = [str(scores), str(folder / "Y.tst.npz"), "--metrics", "P@1", "--ci"]
    pairs = ["--filter", str(folder / "filter_labels_test.txt")]
    keys = ["--groups", str(folder / "raw" / "tst_groups.txt")]
    assert console.run(metrics_main, [*words, *pairs, *keys]) == 0
    shown = capsys.readouterr()
    saved = json.loads((out / "metrics.json").read_text())
    error = 100 * saved["standard_errors"]["P@1"]
    assert f"{100 * saved['metrics']['P@1']:.2f} ±{error:.2f}" in shown.out
    assert "±: standard error, bootstrap over groups" in shown.err


def test_tables_for_papers(light: tuple[Path, Result, str], folder: Path) -> None:
    _, result, _ = light
    errors = result.standard_errors(data.load_part(folder, "tst", 64).groups, seed=0)
    for write, mark in ((to_markdown, " ± "), (to_latex, r"\pm")):
        line = write({"light": result}, errors=errors)
        assert f"{100 * errors['P@1']:.1f}" in line.split(mark)[1][:8]


def test_a_standard_error_is_not_half_an_interval() -> None:
    """The two differ by a factor near 1.96: a test of one would not pass for the other."""
    evaluator = Evaluator(4, ["P@1"], keep_rows=True)
    ids = np.random.default_rng(0).integers(0, 4, (200, 1)).astype(np.int32)
    truth = data.label_matrix([[0]] * 200, 200, 4)
    evaluator.update(truth, ids)
    interval = evaluator.result().intervals(seed=0)["P@1"]
    assert 1.7 < (interval.high - interval.low) / 2 / interval.standard_error < 2.2
