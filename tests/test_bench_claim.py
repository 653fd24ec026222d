"""The bench of losses and negatives: its table from rankings that are there already."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dexml.data import save_dataset

CLAIM = Path(__file__).parents[1] / "benches" / "claim.py"


def page(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CLAIM), str(folder / "set"), "--runs", str(folder / "runs")]
    command += ["--page", "--points", "0", "--seeds", "0", "1", "--out", str(folder), *more]
    return subprocess.run(command, capture_output=True, text=True, cwd=CLAIM.parent)


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    n = 40
    texts, rows = [f"text {i}" for i in range(n)], [[i % 4] for i in range(n)]
    save_dataset(tmp_path / "set", list("abcd"), train=(texts, rows), test=(texts, rows))
    right = np.array(rows, np.int32)
    other = (right + np.arange(3)[None, :]) % 4  # the right label first
    worse = np.where(np.arange(n)[:, None] < n // 2, other, other[:, [1, 0, 2]])
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, ids in (("decoupled-0", worse), ("decoupled-1", other), ("bce-1", worse)):
        padded = np.pad(ids, ((0, 0), (0, 97)), constant_values=-1)
        np.save(runs / f"set-{name}.npy", padded.astype(np.int32))

    done = page(tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "set.json").read_text(encoding="utf-8"))["rows"]
    assert found["decoupled"]["mean"]["P@1"] == 0.75
    assert found["decoupled"]["seeds"] == 2
    # bce has seed 1 alone, and is compared with that one, not with the mean or with seed 0.
    assert found["bce"]["difference"]["P@1"]["mean"] == -0.5
    assert 0.05 < found["bce"]["difference"]["P@1"]["error"] < 0.11
    assert (tmp_path / "set.svg").read_text(encoding="utf-8").count("<circle") == 5

    refused = page(tmp_path, "--epochs", "9")
    assert refused.returncode == 1
    assert "made with epochs 4" in refused.stderr
