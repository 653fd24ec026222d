"""The benchmark against peers at its tiny size: data, agreement, ratios, the whole command."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench_peers
from peers import data, report
from peers.jobs import Case, Competitor, Job
from peers.report import Entry
from peers.worker import TASKS, available, measure

SIZE = data.SIZES["tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.prepare(tmp_path_factory.mktemp("peers"), SIZE, set(data.PARTS))


def test_rankings_are_distinct_and_scores_fall(folder: Path) -> None:
    case = Case(folder)
    ids, y_true, y_pred = case.ids, case.truth, case.predictions
    assert (np.diff(np.sort(ids, axis=1), axis=1) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < SIZE.n_labels
    assert y_pred.has_sorted_indices
    by_score = np.argsort(-y_pred.data.reshape(ids.shape), axis=1)
    ranked = np.take_along_axis(y_pred.indices.reshape(ids.shape), by_score, axis=1)
    np.testing.assert_array_equal(ranked, ids)
    for row in range(0, SIZE.eval_rows, 97):
        assert len(set(y_pred[row].data.tolist())) == ids.shape[1]
        positives = y_true[row].indices
        assert len(set(positives.tolist())) == len(positives)


def test_lf_text_is_its_matrix(folder: Path) -> None:
    y = Case(folder).matrix("lf", SIZE.n_labels)
    lines = (folder / "lf" / "text.txt").read_text().splitlines()
    assert lines[0] == f"{SIZE.lf_rows} {SIZE.n_labels}"
    for row, line in enumerate(lines[1:]):
        labels = y.indices[y.indptr[row] : y.indptr[row + 1]]
        assert line == " ".join(f"{label}:1.0" for label in labels)


def test_bow_text_has_labels_and_features(folder: Path) -> None:
    lines = (folder / "bow" / "text.txt").read_text().splitlines()
    assert lines[0] == f"{SIZE.bow_rows} {SIZE.bow_features} {SIZE.n_labels}"
    assert len(lines) == SIZE.bow_rows + 1
    for line in lines[1:]:
        labels, *features = line.split(" ")
        ids = [int(label) for label in labels.split(",")]
        assert ids == sorted(set(ids))
        assert ids[-1] < SIZE.n_labels
        pairs = [token.split(":") for token in features]
        columns = [int(column) for column, _ in pairs]
        assert columns == sorted(set(columns))
        assert all(len(value) == 8 and 0 < float(value) < 1 for _, value in pairs)


def test_no_equal_scores_in_dense_rows_and_shards(folder: Path) -> None:
    case = Case(folder)
    dense = case.array("dense/scores")
    assert all(len(np.unique(row)) == SIZE.n_labels for row in dense)
    ids, scores = case.shards
    assert (np.diff(scores, axis=2) < 0).all()
    together = scores.transpose(1, 0, 2).reshape(SIZE.merge_rows, -1)
    assert all(len(np.unique(row)) == together.shape[1] for row in together)
    labels = ids.transpose(1, 0, 2).reshape(SIZE.merge_rows, -1)
    assert all(len(np.unique(row)) == labels.shape[1] for row in labels)


def test_the_same_data_again(folder: Path, tmp_path: Path) -> None:
    again = data.prepare(tmp_path, SIZE, {"lf", "eval"})
    for name in ("lf/text.txt", "eval/ids.npy", "eval/pred_data.npy"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def competitor(name: str = "peer", **more: Any) -> Competitor:
    return Competitor(name, "numpy", lambda case: Job(dict, dict), **more)


def test_disagreement_is_found() -> None:
    def faults(found: dict[str, Any], wanted: dict[str, Any], **more: Any) -> list[str]:
        return list(report.compare(found, wanted, competitor(**more))["faults"])

    assert faults({"P@1": 0.5}, {"P@1": 0.5, "R@1": 1.0}) == []
    assert faults({"P@1": 0.5001}, {"P@1": 0.5}) == ["P@1: 0.5001, expected 0.5"]
    assert faults({"P@1": 0.5001}, {"P@1": 0.5}, tolerance=1e-3) == []
    assert faults({"P@1": float("nan")}, {"P@1": 0.5}) == ["P@1: nan, expected 0.5"]
    assert faults({"pattern": "ab"}, {"pattern": "cd"}) == ["pattern: ab, expected cd"]
    assert faults({"P@1": 0.4}, {"P@1": 0.5}, differs={"P@1": "rounds"}) == []
    assert faults({}, {"P@1": 0.5}) == ["no value that could be compared"]
    assert faults({}, {}, differs={"*": "cannot be looked into"}) == []


def entry(name: str, cpu: float, threads: int = 1, scale: float = 1.0, **more: Any) -> Entry:
    sample = {"cpu_s": cpu, "wall_s": cpu / threads, "peak_mb": 1.0, "work": 600, "runs": 1}
    found = Entry(competitor(name, **more), "python", "1.0", threads, None, scale, [sample] * 3)
    found.agreement = {"compared": 1, "largest_difference": 0.0, "faults": []}
    return found


def test_ratios_compare_like_with_like() -> None:
    entries = [
        entry("dexml, ids", 1.0, kind="ids"),
        entry("dexml, CSR", 2.0, kind="csr"),
        entry("dexml, ids", 1.0, threads=2, kind="ids"),
        entry("peer, CSR", 8.0, kind="csr"),
        entry("peer, ids", 3.0, threads=2, kind="ids"),
        entry("slow", 5.0, scale=10.0),
    ]
    rows = report.summary(TASKS["evaluate-5"], entries)
    assert [row["cpu_ratio"] for row in rows] == [1.0, 1.0, 1.0, 4.0, 3.0, 50.0]
    assert rows[0]["rate"] == pytest.approx(1e6 / 600)
    assert rows[5]["cpu_s"] == 50.0
    task = {"unit": "us/row", "entries": rows}
    assert report._summary_line(task) == (
        "| 3,333 µs/row | peer, CSR: 13,333 | 4.00 | 3.00 (peer, ids) |"
    )


def test_no_times_for_wrong_values() -> None:
    wrong = entry("wrong", 0.1)
    wrong.agreement["faults"] = ["P@1: 0.4, expected 0.5"]
    failed = entry("failed", 0.1)
    failed.failure = "MemoryError"
    task = TASKS["evaluate-5"]
    rows = report.summary(task, [entry("dexml, ids", 1.0), wrong, failed])
    assert "cpu_s" not in rows[1]
    assert "cpu_s" not in rows[2]
    page = report.page(
        {
            "machine": {"processor": "p", "cores": 2, "memory_gb": 1, "python": "3.11"},
            "size": {"name": "tiny"},
            "command": "python",
            "date": "2026-01-01",
            "commit": "0" * 40,
            "tasks": {
                task.name: {
                    "title": task.title,
                    "unit": task.unit,
                    "skipped": {"absent": "`absent` is not installed"},
                    "entries": rows,
                }
            },
        }
    )
    assert "wrong: values disagree, no times: P@1: 0.4, expected 0.5." in page
    assert "failed, 1 threads: failed, MemoryError." in page
    assert "absent: skipped, `absent` is not installed." in page


def test_measure_counts_memory_of_the_run_alone() -> None:
    def run() -> np.ndarray:
        return np.ones(20_000_000)  # so much that glibc never takes it from what is free

    found = measure(Job(run, lambda out: {"sum": float(out.sum())}), 0.0)
    assert found["values"] == {"sum": 20_000_000.0}
    assert found["runs"] == 1
    assert 140 < found["peak_mb"] < 400  # 160 MB


def test_arguments() -> None:
    assert bench_peers.task_names("evaluate,merge") == ["evaluate-5", "evaluate-100", "merge"]
    with pytest.raises(argparse.ArgumentTypeError, match=r"no task 'lod'; there are load-lf"):
        bench_peers.task_names("lod")
    with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=PATH of an interpreter"):
        bench_peers.named_path("pecos=/no/such/python")


QUICK = [name for name in TASKS if name not in ("walk-400", "load-bow")]


@pytest.mark.parametrize("task", QUICK)
def test_values_agree(folder: Path, task: str) -> None:
    found = []
    for one in TASKS[task].competitors:
        simple = one.ours or one.needs in ("numpy", "scipy")
        if simple and not one.floor and available(one.needs):
            found.append((one, measure(one.prepare(Case(folder)), 0.0)["values"]))
    assert found
    for one, values in found[1:]:
        assert report.compare(values, found[0][1], one)["faults"] == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "tiny", "--task", "propensity", "--tool", "dexml,numpy,pyxclib"]
    words += ["--rounds", "1", "--seconds", "0", "--out", str(tmp_path)]
    assert bench_peers.main(words) == 0
    written = json.loads((tmp_path / "peers_tiny.json").read_text())
    rows = {row["name"]: row for row in written["tasks"]["propensity"]["entries"]}
    assert rows["dexml"]["cpu_ratio"] == 1.0
    assert rows["numpy"]["largest_difference"] < 1e-9
    assert str(tmp_path) not in json.dumps(written)
    assert "| numpy " in (tmp_path / "peers.md").read_text()
    assert "propensity pyxclib: skipped, `xclib` is not installed" in capsys.readouterr().err
