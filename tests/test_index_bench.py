"""The bench of search keeps running."""

import json
from pathlib import Path

import pytest

import search
from searchers import COMPETITORS, GRAPHS


def test_the_bench_runs_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "search.md"
    monkeypatch.setattr(search, "THREADS", (1,))
    search.main(["--labels", "500", "--dims", "8", "--queries", "70", "--out", str(out)])
    (result,) = json.loads(out.with_suffix(".json").read_text())
    table = result["threads"]["1"]
    assert list(table) == list(COMPETITORS)
    assert table["dexml exact"]["10"]["recall"] == 1.0
    assert table["numpy, argpartition"]["100"]["recall"] > 0.99
    assert table["hnswlib directly"]["10"]["recall"] > 0.95
    assert not [row for row in table.values() if isinstance(row, str) and "failed" in row]
    assert "| dexml hnsw | 1 |" in out.read_text()


def test_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "search.md"
    monkeypatch.setattr(search, "THREADS", (1,))
    sizes = ["--labels", "500", "--dims", "8", "--queries", "70"]
    search.main([*sizes, "--exact", "--out", str(out)])
    (result,) = json.loads(out.with_suffix(".json").read_text())
    assert set(result["threads"]["1"]) == set(COMPETITORS) - set(GRAPHS)
    assert "No graph: " in out.read_text()
