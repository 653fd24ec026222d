"""The tables of the bench of quality."""

import json
from pathlib import Path
from typing import Any

import pytest

import quality


def row(p_at_1: float, **more: Any) -> dict[str, Any]:
    known = {
        "metrics": dict.fromkeys(quality.SHOWN, 0.25) | {"P@1": p_at_1},
        "errors": dict.fromkeys(quality.SHOWN, 0.004),
        "command": "python -m dexml.train Tiny",
        "seed": 3,
        "cpu_seconds": 61.6,
        "seconds": 80.0,
        "encoder": "minilm",
        "machine": "a machine",
        "refit": True,
    }
    return known | more


def test_tables_of_all_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {
        "default": row(0.5012),
        "loss bce": row(0.4, refit=False, machine="other", command="python -m x --loss bce"),
    }
    (tmp_path / "Tiny.json").write_text(json.dumps(results))
    (tmp_path / "Another.json").write_text(json.dumps({"zero-shot": row(0.1)}))
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    text = quality.tables()
    another, tiny = text.split("### ")[1:]
    assert another.splitlines()[0] == "Another"
    lines = tiny.splitlines()
    assert lines[0] == "Tiny"
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert {len(cells) for cells in table} == {len(quality.SHOWN) + 2}
    assert [cell.strip() for cell in table[0][1:-1]] == list(quality.SHOWN)
    assert lines[4].startswith("| default | 50.1 ±0.4 | 25.0 ±0.4 |")
    assert lines[4].endswith("| 62 |")
    assert lines[5].startswith("| loss bce (no refit) | 40.0 ±0.4 |")
    assert "- default: `python -m dexml.train Tiny`, seed 3" in lines
    assert "- loss bce: `python -m x --loss bce`, seed 3" in lines
    assert "Machine: a machine; other." in lines


def test_no_results_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    assert quality.tables() == ""
