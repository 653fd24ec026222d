"""The bench of a training step keeps running."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import train_step
from original_step import Original


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """The bench works on one thread; what comes after it gets its own number back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_bench_runs_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "step"
    options = ["--shape", "tiny", "--labels", "200", "--points", "16", "--rounds", "1"]
    train_step.main([*options, "--out", str(out)])
    found = json.loads(out.with_suffix(".json").read_text())
    (row,) = found["steps"]
    assert (row["shape"], row["points"], row["labels"]) == ("tiny", 16, 200)
    assert set(row["seconds"]) == set(row["titles_per_second"]) == {"dexml", "original"}
    assert all(s > 0 for s in [*row["seconds"].values(), row["floor_seconds"]])
    assert found["processes"] == []
    page = out.with_suffix(".md").read_text()
    assert "| tiny | 16 | 200 |" in page
    assert capsys.readouterr().out.endswith(f"{page}\n")


def test_another_step_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed where both do not compute one loss."""
    gradients = Original.gradients
    monkeypatch.setattr(Original, "gradients", lambda self: 1.01 * gradients(self))
    with pytest.raises(SystemExit, match=r"losses .* gradient norms .*: not the same step"):
        train_step.main(["--shape", "tiny", "--out", str(tmp_path / "step")])
    assert not list(tmp_path.iterdir())
