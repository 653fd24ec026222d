"""The bench of quality: rows of peers and of ours, seeds, and the tables."""

import json
import os
import stat
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import quality
import quality_page
from dexml.data import load_dataset
from dexml.metrics import evaluate
from peers.answers import read_question, write_question
from peers.worker import available
from quality_page import BEGIN, END, SHOWN, Row, Seed
from small import write_tiny_data

FAKE = """#!{python}
import json, sys
sys.path.insert(0, {benches!r})
from pathlib import Path
if sys.argv[3] == "probe":
    print(json.dumps({{"pecos": {{"pecos": "1.0", "python": "3.10"}}}}))
    sys.exit(0)
import numpy as np
folder = Path(sys.argv[5])
asked = json.loads((folder / "question.json").read_text())
if asked["seed"] == 13:
    sys.exit("ValueError: an unlucky number")
n = len(json.loads((folder / "test_texts.json").read_text()))
ids = np.random.default_rng(asked["seed"]).permuted(np.tile(np.arange(64), (n, 1)), axis=1)
np.savez(folder / "answer.npz", ids=ids.astype(np.int32), scores=np.zeros((n, 64), np.float32))
said = {{"command": f"a fake, k = {{asked['k']}}", "parts": {{"train": 0.5}}}}
(folder / "answer.json").write_text(json.dumps(said))
"""
"""A peer in an interpreter of its own, which is this one: it answers at random, by its seed."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for results and page, with a tiny data set and an environment with a peer."""
    (tmp_path / "results").mkdir()
    (tmp_path / "page.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(quality, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(quality, "PAGE", tmp_path / "page.md")
    python = tmp_path / "envs" / "fake" / "bin" / "python"
    python.parent.mkdir(parents=True)
    benches = str(Path(quality.__file__).parent)
    python.write_text(FAKE.format(python=sys.executable, benches=benches))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    write_tiny_data(tmp_path / "Tiny")
    return tmp_path


def measure(bench: Path, *rows: str, more: tuple[str, ...] = ()) -> dict[str, Row]:
    arguments = [str(bench / "Tiny"), "--envs", str(bench / "envs"), "--runs", str(bench / "runs")]
    quality.main([*arguments, "--cache", str(bench / "cache"), "--rows", *rows, *more])
    return quality_page.read_rows(bench / "results" / "Tiny.json")


def test_a_peer_of_another_environment_is_scored_like_ours(bench: Path) -> None:
    row = measure(bench, "pecos", more=("--seeds", "0", "1", "2"))["pecos"]
    assert list(row.seeds) == ["0", "1", "2"]
    assert row.versions == {"pecos": "1.0", "python": "3.10"}
    assert row.command == "a fake, k = 101"  # one more than 100 for the filter pairs
    assert row.errors_over == "points"
    given = load_dataset(bench / "Tiny")
    for seed in range(3):
        ids = np.random.default_rng(seed).permuted(np.tile(np.arange(64), (80, 1)), axis=1)
        scores = np.tile(np.arange(64, 0, -1, dtype=np.float32), (80, 1))
        y_pred = csr_array(
            (scores.ravel(), ids.ravel().astype(np.int32), np.arange(0, 80 * 64 + 1, 64)),
            shape=(80, 64),
        )
        y_pred.sort_indices()
        metrics = ("P@1", "nDCG@5", "R@10")
        expected = evaluate(given.y_test, y_pred, metrics, exclude=given.exclude_test)
        found = row.seeds[str(seed)]
        assert {name: found.metrics[name] for name in metrics} == pytest.approx(expected)
        assert found.cpu_seconds > 0
        assert found.peak_mb is not None
        assert found.parts == {"train": 0.5}
    page = (bench / "page.md").read_text()
    assert page.startswith(f"before\n{BEGIN}\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
    assert "- pecos: `a fake, k = 101`, seeds 0, 1, 2, pecos 1.0, python 3.10" in page


def test_a_seed_that_is_there_is_kept(bench: Path) -> None:
    first = measure(bench, "pecos")["pecos"].seeds["0"]
    both = measure(bench, "pecos", more=("--seeds", "0", "1"))["pecos"].seeds
    assert both["0"] == first
    assert list(both) == ["0", "1"]


def test_a_peer_that_nobody_has_is_left_out(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if available("omikuji"):
        pytest.skip("omikuji is installed here")
    rows = measure(bench, "omikuji", "pecos")
    assert list(rows) == ["pecos"]
    said = capsys.readouterr().err
    assert "omikuji: left out, no interpreter has omikuji and sklearn (benches/README.md)" in said


def test_the_reason_of_a_peer_that_fails(bench: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*ValueError: an unlucky number"):
        measure(bench, "pecos", more=("--seeds", "13"))
    assert not (bench / "results" / "Tiny.json").exists()
    log = (bench / "runs" / "Tiny" / "pecos-seed-13.log").read_text()
    assert log.endswith("ValueError: an unlucky number\n")


def test_no_such_row(bench: Path) -> None:
    with pytest.raises(SystemExit, match="no row 'pecoss'; rows are losses, negatives, peers"):
        measure(bench, "pecoss")


def test_our_own_row_is_what_the_command_says(bench: Path) -> None:
    row = measure(bench, "light", more=("--seeds", "4"))["light"]
    found = json.loads((bench / "runs" / "Tiny" / "light-seed-4" / "metrics.json").read_text())
    (seed,) = row.seeds.values()
    assert seed.metrics == {name: found["metrics"][name] for name in SHOWN}
    assert seed.errors == {name: found["standard_errors"][name] for name in SHOWN}
    assert row.command == "python -m dexml.train Tiny --encoder none"
    assert row.encoder is None
    assert seed.features == "none"
    assert seed.cpu_seconds > 0.2  # the process, its start included


def test_features_of_the_cache_are_told_from_computed_ones(tmp_path: Path) -> None:
    arguments = type("Arguments", (), {"cache": tmp_path, "cold": False})()
    scratch = tmp_path / "scratch"

    def said(**changes: Any) -> tuple[Path, str]:
        for name, value in changes.items():
            setattr(arguments, name, value)
        return quality.cache_of(arguments, scratch, encoder=True)

    assert said() == (tmp_path, "computed")  # an empty cache
    (tmp_path / "layers-1234.npy").touch()  # of a training of layers: no features
    assert said() == (tmp_path, "computed")
    (tmp_path / "rows-1234-00000000.safetensors").touch()
    assert said() == (tmp_path, "cached")
    assert said(cold=True) == (scratch / "cache", "computed")
    assert quality.cache_of(arguments, scratch, encoder=False)[1] == "none"


def test_a_question_is_read_as_it_was_written(tmp_path: Path) -> None:
    texts = {
        "train_texts": ["one\u2028line", "two"],
        "test_texts": ["drei ß"],
        "label_texts": ["a"],
    }
    y = csr_array(np.array([[1], [0]], np.float32))
    write_question(tmp_path, texts, y, k=7, seed=3, options={"budget": 1.5})
    question = read_question(tmp_path)
    assert question.train_texts == texts["train_texts"]
    assert question.test_texts == texts["test_texts"]
    assert question.label_texts == texts["label_texts"]
    assert (question.k, question.seed, question.options) == (7, 3, {"budget": 1.5})
    np.testing.assert_array_equal(question.y.toarray(), y.toarray())


@pytest.mark.parametrize("name", ["omikuji", "omikuji, pairs", "pecos", "pecos, pairs", "bm25"])
def test_peers_find_the_labels_of_a_tiny_set(bench: Path, name: str) -> None:
    if "PEERS_ENVS" not in os.environ:
        pytest.skip("needs PEERS_ENVS, a folder of environments with peers (benches/README.md)")
    row = measure(bench, name, more=("--envs", os.environ["PEERS_ENVS"]))[name]
    assert row.mean("P@1") > 0.3
    assert row.versions


def old_row(p_at_1: float, **more: Any) -> dict[str, Any]:
    """A row as it was kept when it had one seed, made in the process of the bench."""
    known = {
        "metrics": dict.fromkeys(SHOWN, 0.25) | {"P@1": p_at_1},
        "errors": dict.fromkeys(SHOWN, 0.004),
        "command": "python -m dexml.train Tiny",
        "seed": 3,
        "cpu_seconds": 61.6,
        "seconds": 80.0,
        "encoder": "minilm",
        "machine": "a machine",
        "refit": True,
    }
    return known | more


def new_row(*p_at_1: float, **more: Any) -> dict[str, Any]:
    seeds = {
        str(at): Seed(
            metrics=dict.fromkeys(SHOWN, 0.5) | {"P@1": value},
            errors=dict.fromkeys(SHOWN, 0.01),
            cpu_seconds=10.0 + 2 * at,
            seconds=5.0,
            peak_mb=300 + at,
            features="computed",
        )
        for at, value in enumerate(p_at_1)
    }
    row = Row("python -m x", "a machine", "minilm", errors_over="groups of points", seeds=seeds)
    return asdict(row) | more


def shown(tmp_path: Path, rows: dict[str, Any]) -> list[str]:
    (tmp_path / "Tiny.json").write_text(json.dumps(rows))
    return quality_page.tables([tmp_path / "Tiny.json"]).splitlines()


def test_tables_of_old_results(tmp_path: Path) -> None:
    results = {
        "default": old_row(0.5012),
        "light": old_row(0.45, command="python -m dexml.train Tiny --encoder none"),
        "loss bce": old_row(0.4, refit=False, machine="other", command="python -m x --loss bce"),
    }
    (tmp_path / "Another.json").write_text(json.dumps({"zero-shot": old_row(0.1)}))
    lines = shown(tmp_path, results)
    assert lines[0] == "### Tiny"
    assert lines[2].startswith("± standard error over points or groups of points;")
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert {len(cells) for cells in table} == {len(SHOWN) + 3}
    assert [cell.strip() for cell in table[0][1:-2]] == list(SHOWN)
    assert lines[6].startswith("| default | 50.1 ±0.4 | 25.0 ±0.4 |")
    assert lines[6].endswith("| 62 + features |  |")
    assert lines[7].endswith("| 62 |  |")
    assert lines[8].startswith("| loss bce (no refit) | 40.0 ±0.4 |")
    assert "- default: `python -m dexml.train Tiny`, seed 3" in lines
    at = lines.index("Machines, by what they measured:")
    assert lines[at + 2 : at + 4] == ["- a machine: default, light", "- other: loss bce"]
    both = quality_page.tables(sorted(tmp_path.glob("*.json")))
    assert both.index("### Another") < both.index("### Tiny")


def test_mean_and_both_errors_of_several_seeds(tmp_path: Path) -> None:
    lines = shown(tmp_path, {"default": new_row(0.5, 0.52, 0.54)})
    assert lines[2] == "± standard error over groups of points; a second ±: over seeds."
    spread = 0.02 / 3**0.5
    assert lines[6].startswith(f"| default | 52.0 ±1.0 ±{100 * spread:.1f} | 50.0 ±1.0 ±0.0 |")
    assert lines[6].endswith("| 12 | 302 |")
    assert "- default: `python -m x`, seeds 0, 1, 2" in lines


def test_cpu_seconds_count_whole_runs_only(tmp_path: Path) -> None:
    row = new_row(0.5, 0.5)
    row["seeds"]["1"]["features"] = "cached"
    assert "| 10 |" in shown(tmp_path, {"default": row})[6]
    row["seeds"]["0"]["resumed"] = True
    assert "| 11 + features, start |" in shown(tmp_path, {"default": row})[6]


def test_a_new_seed_joins_the_old_form(tmp_path: Path) -> None:
    path = tmp_path / "Tiny.json"
    path.write_text(json.dumps({"default": old_row(0.4), "light": old_row(0.3)}))
    row = quality_page.read_row(new_row(0.5))
    quality_page.keep(path, "default", row)
    rows = quality_page.read_rows(path)
    assert list(rows["default"].seeds) == ["3", "0"]
    assert rows["default"].mean("P@1") == pytest.approx(0.45)
    assert json.loads(path.read_text())["light"] == old_row(0.3)  # untouched
    # Another machine measures another seed: times have no mean over both.
    quality_page.keep(path, "default", quality_page.read_row(new_row(0.5, 0.6, machine="other")))
    seeds = quality_page.read_rows(path)["default"].seeds
    assert [seeds[number].machine for number in ("3", "0", "1")] == ["a machine", None, None]
    line = next(line for line in quality_page.tables([path]).splitlines() if "default" in line)
    assert "| 50.0 ±" in line
    assert line.split("|")[-3].strip() == "11"  # 10 and 12 s, without the 62 of the first


def test_no_results_no_tables() -> None:
    assert quality_page.tables([]) == ""


def test_what_a_command_spent(tmp_path: Path) -> None:
    work = "x = bytearray(80_000_000)\nfor i in range(3_000_000): pass"
    log = tmp_path / "log.txt"
    spent = quality.run_alone([sys.executable, "-c", work], tmp_path, dict(os.environ), log)
    assert 0 < spent["cpu_seconds"] < 60
    assert 80 < spent["peak_mb"] < 200  # not the memory of this process
