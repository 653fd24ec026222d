"""The notebooks in ``docs/notebooks`` run, cell by cell, and say what their text says."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def run(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], list[str]]:
    """Run the cells of a notebook; return its variables, and what each cell printed."""
    names: dict[str, Any] = {}
    printed = []
    for cell in json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            printed.append(capsys.readouterr().out)
    return names, printed


def test_every_notebook_is_run_here_and_keeps_what_it_printed() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {
        *("table-to-model", "confidence-and-errors", "new-labels")
    }
    for path in FOLDER.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert len(outputs) >= 4
        assert all(output["output_type"] != "error" for output in outputs)


def test_from_a_table_to_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    names, printed = run("table-to-model", capsys)
    assert printed[1].startswith("text,labels,part\n")
    assert names["predictor"].labels(names["found"].ids)[0][0] == "sound loses data"
    assert names["result"].metrics["P@1"] > 0.7
    assert printed[-1].startswith("rank 1 of ")


def test_confidence_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    names, printed = run("confidence-and-errors", capsys)
    assert "expected: precision 9" in printed[3]
    assert 0.85 < names["right"] / names["kept"].sum() <= 1
    assert len(printed[-1].splitlines()) == 5


def test_new_labels_without_training(capsys: pytest.CaptureFixture[str]) -> None:
    _, printed = run("new-labels", capsys)
    assert "scanner" not in printed[1]
    assert printed[2].splitlines()[0].endswith("scanner crashes")
    assert printed[3].splitlines()[0].endswith("scanner or copier crashes")
    assert "scanner" not in printed[4]
    assert printed[5] == "41 labels\n"
