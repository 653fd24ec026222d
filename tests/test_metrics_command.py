"""``python -m dexml.metrics``: its numbers are the library's, its errors are one line."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, save_npz

from dexml import console, data, metrics
from dexml.console import run
from dexml.metrics import Evaluator, compare, evaluate
from dexml.metrics import __main__ as command

N = 901


def scores(seed: int) -> csr_array:
    """Five scored labels a point, the better ones first."""
    generator = np.random.default_rng(seed)
    ids = np.argsort(generator.random((N, 40)), axis=1)[:, :5]
    values = np.tile(np.arange(5.0, 0, -1), N)
    return csr_array((values, ids.ravel(), np.arange(N + 1) * 5), shape=(N, 40))


TRUTH = csr_array((np.random.default_rng(0).random((N, 40)) < 0.1).astype(np.float32))
PRED, OTHER = scores(1), scores(2)
KINDS = ["books", "", "music"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_npz(tmp_path / "true.npz", TRUTH)
    save_npz(tmp_path / "pred.npz", PRED)
    save_npz(tmp_path / "other.npz", OTHER)
    save_npz(tmp_path / "short.npz", PRED[:-1])
    np.save(tmp_path / "ids.npy", PRED.indices.reshape(N, 5))
    save_npz(tmp_path / "zip.npz", PRED)
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    np.save(tmp_path / "float.npy", np.zeros((N, 5)))
    np.save(tmp_path / "short.npy", np.zeros((3, 5), np.int32))
    np.save(tmp_path / "flat.npy", np.zeros(N, np.int32))
    data.save_labels(tmp_path / "pred.txt", csr_array(PRED.astype(np.float32)))
    data.save_labels(tmp_path / "true.txt", TRUTH)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "true.npz").read_bytes()[:300])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "ids.npy").read_bytes()[:100])
    (tmp_path / "bad.txt").write_text("2 40\n1:1.0\n40:1.0\n")
    (tmp_path / "pairs.txt").write_text("0 1\n5 2\n")
    (tmp_path / "groups.txt").write_text("".join(f"{i // 3}\n" for i in range(N)))
    (tmp_path / "few.txt").write_text("a\nb\n")
    (tmp_path / "kinds.txt").write_text("".join(f"{KINDS[i % 3]}\n" for i in range(40)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


Captured = pytest.CaptureFixture[str]


def output(capsys: Captured, *arguments: str) -> str:
    assert run(command.main, list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def kept(y_pred: csr_array, names: list[str]) -> metrics.Result:
    evaluator = Evaluator(40, names, inv_propensity=metrics.inv_propensity(TRUTH), keep_rows=True)
    evaluator.update(TRUTH, y_pred)
    return evaluator.result()


@pytest.mark.usefixtures("files")
def test_json_equals_the_function(capsys: Captured) -> None:
    out = json.loads(
        output(
            *(capsys, "pred.npz", "true.npz", "--train", "true.npz", "--filter", "pairs.txt"),
            *("--json", "--metrics", "P@1,PSP@5"),
        )
    )
    exclude = np.zeros(TRUTH.shape)
    exclude[0, 1] = exclude[5, 2] = 1
    q = metrics.inv_propensity(TRUTH)
    pairs = csr_array(exclude)
    assert out["metrics"] == evaluate(
        TRUTH, PRED, ["P@1", "PSP@5"], inv_propensity=q, exclude=pairs
    )
    assert out["n_points"] == N
    assert out["conventions"]["propensity"] == "A = 0.55, B = 1.5"
    assert "intervals" not in out
    assert "resampling" not in out


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("pred", ["pred.npz", "pred.txt", "ids.npy"])
@pytest.mark.parametrize("truth", ["true.npz", "true.txt"])
def test_every_format_gives_the_same(capsys: Captured, pred: str, truth: str) -> None:
    out = json.loads(output(capsys, pred, truth, "--json"))
    assert out["metrics"] == evaluate(TRUTH, PRED, list(out["metrics"]))


@pytest.mark.usefixtures("files")
def test_intervals_and_comparison_are_those_of_the_library(capsys: Captured) -> None:
    names = ["P@1", "nDCG@3", "PSP@5"]
    pred, other = kept(PRED, names), kept(OTHER, names)
    groups = [str(i // 3) for i in range(N)]
    arguments = ["pred.npz", "true.npz", "--train", "true.npz", "--metrics", ",".join(names)]
    arguments += ["--ci", "50", "--compare", "other.npz", "--seed", "7", "--groups", "groups.txt"]
    out = json.loads(output(capsys, *arguments, "--json"))
    intervals = pred.intervals(groups, seed=7, n_resamples=50)
    assert out["intervals"] == {name: asdict(found) for name, found in intervals.items()}
    compared = compare(other, pred, groups=groups, seed=7, n_resamples=50)
    assert out["comparison"] == {
        "a": "other.npz",
        "b": "pred.npz",
        "metrics": {name: asdict(found) for name, found in compared.items()},
    }
    assert out["resampling"] == {
        "seed": 7,
        "n_resamples": 50,
        "confidence": 0.95,
        "units": "groups",
    }
    assert out == json.loads(output(capsys, *arguments, "--json", "--threads", "3"))
    lines = list(csv.DictReader(io.StringIO(output(capsys, *arguments, "--csv"))))
    assert [line["metric"] for line in lines] == names
    for line in lines:
        name = line["metric"]
        assert (line["pred"], line["other"]) == ("pred.npz", "other.npz")
        for column, value in {
            "value": pred.metrics[name],
            "low": intervals[name].low,
            "high": intervals[name].high,
            "standard_error": intervals[name].standard_error,
            "other_value": other.metrics[name],
            "difference": compared[name].difference,
            "difference_low": compared[name].low,
            "difference_high": compared[name].high,
            "difference_standard_error": compared[name].standard_error,
            "p_value": compared[name].p_value,
        }.items():
            assert float(line[column]) == value, column


@pytest.mark.usefixtures("files")
def test_ci_and_compare_have_a_thousand_resamples(capsys: Captured) -> None:
    for more in (["--ci"], ["--compare", "other.npz"]):
        out = json.loads(output(capsys, "pred.npz", "true.npz", "--json", *more))
        assert out["resampling"]["n_resamples"] == 1000
        assert out["resampling"]["units"] == "points"


@pytest.mark.usefixtures("files")
def test_table_of_one(capsys: Captured) -> None:
    arguments = ["ids.npy", "true.npz", "--ci", "20", "--metrics", "P@5,nDCG@1,P@1,nDCG@5"]
    assert run(command.main, arguments) == 0
    out, err = capsys.readouterr()
    head, *lines = out.splitlines()
    assert head.split() == ["percent", "@1", "@5"]
    assert [line.split()[0] for line in lines] == ["P", "nDCG"]
    p5 = evaluate(TRUTH, PRED, ["P@5"])["P@5"]
    assert f"  {100 * p5:.2f} ±" in lines[0]
    assert f"{N} points" in err
    assert "±: standard error, bootstrap over points (20 resamples, seed 0); --csv and" in err
    assert run(command.main, ["ids.npy", "true.npz", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("files")
def test_several_predictions_have_a_row_each(capsys: Captured) -> None:
    out = output(capsys, "pred.npz", "other.npz", "ids.npy", "true.npz")
    for kind, block in zip(("P", "nDCG"), out.strip().split("\n\n"), strict=True):
        lines = [line.split() for line in block.splitlines()]
        assert lines[0] == [f"{kind},", "percent", "@1", "@3", "@5"]
        assert [line[0] for line in lines[1:]] == ["pred.npz", "other.npz", "ids.npy"]
        assert lines[1][1:] == lines[3][1:] != lines[2][1:]
    several = json.loads(output(capsys, "pred.npz", "other.npz", "true.npz", "--json"))
    assert [entry.pop("pred") for entry in several["results"]] == ["pred.npz", "other.npz"]
    single = json.loads(output(capsys, "other.npz", "true.npz", "--json"))
    assert several["results"][1] == single
    table = output(capsys, "pred.npz", "other.npz", "true.npz", "--csv").splitlines()
    assert table[0] == "pred,metric,value"
    assert len(table) == 1 + 2 * 6


@pytest.mark.usefixtures("files")
def test_comparison_table(capsys: Captured) -> None:
    out = output(capsys, "pred.npz", "true.npz", "--compare", "other.npz", "--ci=100")
    table = out.split("\n\n")[1].splitlines()
    assert table[0] == "a = other.npz, b = pred.npz"
    assert table[1].split() == ["percent", "a", "b", "b", "-", "a", "95", "%", "interval", "p"]
    assert table[2].startswith("P@1")
    assert "6 tests at once: by Bonferroni's rule only p < 0.0083" in out
    alone = output(capsys, "true.npz", "true.npz", "--compare", "pred.npz", "--metrics", "P@1")
    assert "0.0010  ***" in alone
    assert "Bonferroni" not in alone


@pytest.mark.usefixtures("files")
def test_label_groups_are_those_of_the_library(capsys: Captured) -> None:
    kinds = metrics.LabelGroups(["books", "music"], [(0, -1, 1)[i % 3] for i in range(40)])
    groupings = {
        "frequency": metrics.frequency_groups(TRUTH),
        "deciles": metrics.decile_groups(TRUTH),
        "seen": metrics.seen_groups(TRUTH),
        "kinds.txt": kinds,
    }
    evaluator = Evaluator(40, ["P@1", "R@3", "macroF@3"], label_groups=groupings)
    evaluator.update(TRUTH, PRED)
    expected = evaluator.result().as_json()
    arguments = ["pred.npz", "true.npz", "--train", "true.npz", "--metrics", "P@1,R@3,macroF@3"]
    for grouping in groupings:
        arguments += ["--per-group", grouping]
    out = json.loads(output(capsys, *arguments, "--json"))
    assert out["metrics"] == expected["metrics"]
    assert out["groups"] == expected["groups"]
    lines = list(csv.DictReader(io.StringIO(output(capsys, *arguments, "--csv"))))
    for line in lines[3:]:
        group = expected["groups"][line["grouping"]][line["group"]]
        value = group["metrics"][line["metric"]]
        assert line["value"] == ("" if value is None else str(value))
        assert line["n_labels"] == str(group["n_labels"])
        assert line["contribution"] == str(group["contribution"].get(line["metric"], ""))
    table = output(capsys, *arguments)
    assert "Label groups: kinds.txt" in table
    assert max(map(len, table.splitlines())) <= 80
    block = table.split("Label groups: kinds.txt\n")[1].split("\n\n")
    assert block[0].split() == (
        ["labels", "points", "positives", "of", "P@1", "books", "14"]
        + [str(expected["groups"]["kinds.txt"]["books"][n]) for n in ("n_points", "n_positives")]
        + [f"{100 * expected['groups']['kinds.txt']['books']['contribution']['P@1']:.2f}"]
        + block[0].splitlines()[2].split()
    )
    several = output(capsys, "pred.npz", "ids.npy", "true.npz", "--per-group", "kinds.txt")
    assert "Label groups of ids.npy: kinds.txt" in several


@pytest.mark.usefixtures("files")
def test_means_over_labels_have_no_interval(capsys: Captured) -> None:
    arguments = ["pred.npz", "true.npz", "--metrics", "P@1,macroF@3", "--ci", "9"]
    assert run(command.main, arguments) == 0
    out, err = capsys.readouterr()
    assert "no interval for macroF@3: not a mean over points" in err
    assert out.count("±") == 1
    arguments = [*arguments[:4], "--compare", "other.npz"]
    assert run(command.main, arguments) == 0
    assert "no interval for macroF@3: not a mean over points" in capsys.readouterr().err


@pytest.mark.usefixtures("files")
def test_tables_fit_eighty_columns(capsys: Captured) -> None:
    names = ",".join(f"{kind}@{k}" for kind in ("P", "PSnDCG") for k in range(1, 30))
    out = output(
        *(capsys, "pred.npz", "true.npz", "--train", "true.npz", "--metrics", names, "--ci", "9"),
        *("--compare", "other.npz"),
    )
    assert max(map(len, out.splitlines())) <= 80
    assert "@29" in out


@pytest.mark.parametrize(
    "arguments", [["-", "true.npz"], ["pred.txt", "-"], ["pred.npz", "true.npz", "--compare", "-"]]
)
def test_standard_input(
    files: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    text = (files / ("true.txt" if arguments[1] == "-" else "pred.txt")).read_bytes()

    def feed(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    feed(text)
    out = json.loads(output(capsys, *arguments, "--json", "--metrics", "P@1"))
    assert out["metrics"] == evaluate(TRUTH, PRED, ["P@1"])
    feed(text[: len(text) // 2])
    assert run(command.main, arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: standard input:")
    assert "/" not in err
    feed(b"2 40\n1:1\n2:1\n")
    assert run(command.main, arguments) == 1
    assert "is (901, 40)" in capsys.readouterr().err or arguments[1] == "-"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.npz", "true.npz"], 1, "nowhere.npz"),
        (["nowhere.npy", "true.npz"], 1, "nowhere.npy"),
        (["pred.npz", "true.npz", "--compare", "nowhere.txt"], 1, "nowhere.txt"),
        (["pred.npz", "cut.npz"], 1, "cut.npz: damaged or not a scipy .npz"),
        (["cut.npy", "true.npz"], 1, "cut.npy: damaged ("),
        (["pred.npz", "bad.txt"], 1, "bad.txt:3: label 40 out of range (n_labels = 40)"),
        (["short.npz", "true.npz"], 1, "short.npz: shape (900, 40), but true.npz is (901, 40)"),
        (["short.npy", "true.npz"], 1, "short.npy: shape (3, 5), but true.npz is (901, 40)"),
        (["flat.npy", "true.npz"], 1, "give ids of shape (901, k)"),
        (["float.npy", "true.npz"], 1, "float.npy against true.npz: y_pred: ids of dtype float64"),
        (
            ["ids.npy", "true.npz", "--metrics", "P@6"],
            1,
            "ids.npy against true.npz: y_pred: 5 columns, fewer than the largest k = 6",
        ),
        (["pred.npz", "true.npz", "--filter", "nowhere.txt"], 1, "nowhere.txt"),
        (["pred.npz", "true.npz", "--train", "bad.txt"], 1, "bad.txt:3"),
        (
            ["pred.npz", "true.npz", "--ci", "--groups", "few.txt"],
            1,
            "few.txt: 2 keys, but true.npz has 901 points",
        ),
        (["pred.npz", "true.npz", "--ci", "--seed", "9" * 30], 1, "seed must be in 0..2^64 - 1"),
        (["pred.npz", "true.npz", "--metric", "P@1"], 2, "did you mean '--metrics'"),
        (["pred.npz"], 2, "PRED and TRUTH"),
        ([], 2, "TRUTH"),
        (["-", "-"], 2, "give one '-'"),
        (["-", "true.npz", "--compare", "-"], 2, "give one '-'"),
        (["pred.npz", "true.npz", "--a", "0.6"], 2, "--train"),
        (
            ["pred.npz", "true.npz", "--train", "true.npz", "--propensity", "EURLEX"],
            2,
            "did you mean 'EURLex'",
        ),
        (["pred.npz", "true.npz", "--metrics", "P@1, Q@5"], 2, "Q@5"),
        (["pred.npz", "true.npz", "--ci", "-5"], 2, "--ci"),
        (["pred.npz", "true.npz", "--ci", "1"], 2, "'1' is not a number from 2"),
        (["--ci", "pred.npz", "true.npz"], 2, "'pred.npz' is not a number from 2; files go before"),
        (["pred.npz", "true.npz", "--per-group", "frequency"], 2, "add --train"),
        (
            ["pred.npz", "true.npz", "--per-group", "few.txt"],
            1,
            "few.txt: 2 lines, but true.npz has 40 labels",
        ),
        (["pred.npz", "true.npz", "--per-group", "decile"], 1, "decile: No such file"),
        (["pred.npz", "true.npz", "--groups", "few.txt"], 2, "--groups needs --ci or --compare"),
        (["pred.npz", "true.npz", "--json", "--csv"], 2, "not allowed with"),
        (["pred.npz", "true.npz", "--threads", "0"], 2, "'0' is not a number from 1"),
        (["zip.npy", "true.npz"], 1, "zip.npy: an .npz archive, not an .npy array; name it .npz"),
        (["pred.npz", "true.npz", "--metrics", "P@1,PSP@1"], 2, "PSP@1 needs the training matrix"),
        (["pred.npz", "true.npz", "--metrics", "p1@1"], 2, "did you mean 'P@1'?"),
        (["pred.npz", "true.npz", "--metrics", "P@1,ndgc@5"], 2, "did you mean 'nDCG@5'?"),
        (["pred.npz", "true.npz", "--metrics", "P@0"], 2, "k must be in 1..=65536 in metric 'P@0'"),
        (
            ["pred.npz", "true.npz", "--metrics", "macroP@1,Coverage@3", "--ci"],
            2,
            "macroP@1, Coverage@3: means over labels have no interval; leave out --ci",
        ),
        (
            ["pred.npz", "true.npz", "--metrics", "macroP@1", "--compare", "pred.npz"],
            2,
            "means over labels and errors of bins have no test; leave out --compare",
        ),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, message: str, capsys: Captured
) -> None:
    assert run(command.main, arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.usefixtures("files")
def test_notes_of_odd_files(capsys: Captured) -> None:
    (Path("twice.txt")).write_text("0 1\n5 2\n0 1\n0 1\n")
    arguments = ["true.npz", "pred.npz", "--filter", "twice.txt", "--json"]
    assert run(command.main, arguments) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    swapped, repeated = err.splitlines()
    assert swapped.startswith(f"pred.npz: TRUTH holds {N * 4} values other than 0 and 1 (5, say)")
    assert swapped.endswith("Were PRED and TRUTH swapped?")
    assert repeated == "twice.txt: 2 repeated pairs merged"
    assert run(command.main, [*arguments, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert run(command.main, ["pred.npz", "true.npz", "--filter", "pairs.txt", "--json"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("files")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("rest", "code", "message"),
    [
        ("- true.npz <&-", 1, "error: standard input is closed\n"),
        ("pred.npz true.npz --quiet >&-", 1, "error: standard output is closed\n"),
        ("pred.npz true.npz --quiet 2>&-", 0, ""),
        ("nowhere.npz true.npz 2>&-", 1, ""),
    ],
)
def test_closed_streams(rest: str, code: int, message: str) -> None:
    line = f'"{sys.executable}" -m dexml.metrics {rest}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, message)
    assert (done.stdout == "") == (code == 1)


def test_runs_as_a_module_without_a_warning() -> None:
    arguments = [sys.executable, "-W", "error", "-m", "dexml.metrics", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0
    assert "PRED [PRED ...] TRUTH" in done.stdout


def test_a_grid_wraps_and_keeps_its_row_names() -> None:
    columns = [f"column {i}" for i in range(12)]
    text = console.grid("corner", columns, [("first", ["1"] * 12), ("second", ["22"] * 12)])
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert [line.split()[0] for block in blocks for line in block] == (
        ["corner", "first", "second"] * len(blocks)
    )
    assert max(len(line) for block in blocks for line in block) <= 80
    assert sum(block[0].count("column") for block in blocks) == 12


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_late_and_only_to_people(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dexml.console.time.monotonic", lambda: now[0])

    def shown(stream: io.StringIO, seconds: float, **options: Any) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        now[0] = 0.0
        report = console.progress("work", **options)
        for step in range(1, 11):
            now[0] = seconds * step / 10
            report(step, 10)
        return stream.getvalue()

    long = shown(Terminal(), 200.0)
    assert "\rwork: 10 %, 3 min 00 s left\x1b[K" in long
    assert "\rwork: 90 %, 20 s left\x1b[K" in long
    assert long.endswith("\r\x1b[K")
    assert shown(Terminal(), 1.5) == ""
    assert shown(Terminal(), 200.0, quiet=True) == ""
    assert shown(io.StringIO(), 200.0) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text
