"""The day with a GPU, at toy sizes on a pretended device: no step fails for a silly reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpu
import gpu_page
from pretended_cuda import device

BENCH = Path(__file__).parents[1] / "benches" / "gpu.py"
needs_pretending = pytest.mark.skipif(bool(device.missing()), reason=device.missing() or "-")


def call(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([path for path in sys.path if path])
    return subprocess.run(
        [sys.executable, str(BENCH), "--out", str(out), *options],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@needs_pretending
def test_every_step_runs_and_the_page_has_them_all(tmp_path: Path) -> None:
    done = call(tmp_path, "--toy")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    for name, numbers in found.items():
        assert "error" not in numbers, f"{name}: {numbers['error']}"
        assert numbers.get("ok", True), f"{name}: {numbers}"
    assert found["processes"]["skipped"] == "1 GPU"
    page = (tmp_path / "gpu.md").read_text()
    assert "Failed: nothing. Not run: none." in page
    for heading in ("Checks", "Losses", "Kernels", "Micro-batches", "Steps", "Trainings"):
        assert f"## {heading}" in page
    for name in ("step-131K", "step-1.3M", "heads-1.3M", "heads-1.3M-drawn", "train-DebTags"):
        assert f"| {name} |" in page
    (tmp_path / "machine.json").write_text(json.dumps({"mark": 1}))
    gpu.main(["--out", str(tmp_path), "--page"])
    assert json.loads((tmp_path / "gpu.json").read_text())["machine"] == {"mark": 1}


@needs_pretending
def test_a_step_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    """Without --toy a step has a process of its own; here there is no GPU for it."""
    done = call(tmp_path, "--only", "machine")
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "gpu.md").read_text()
    assert "Failed: machine." in page
    assert "- machine: `" in page


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: no step 'lossse'; steps are machine, tests,"):
        gpu.main(["--out", str(tmp_path), "--only", "lossse"])


def test_a_page_without_results() -> None:
    assert "Failed: nothing. Not run: machine, tests." in gpu_page.page({}, ["machine", "tests"])
