"""The Triton kernels: their values under the interpreter, and when they are chosen."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dexml import losses
from dexml.losses import arguments

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_kernels_under_the_interpreter() -> None:
    paths = os.pathsep.join([p for p in sys.path if p])
    done = subprocess.run(
        [sys.executable, str(HERE / "kernels_on_cpu.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "kernels agree" in done.stdout


def test_kernels_are_not_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    x, own = torch.ones(2, 3), (torch.arange(3), torch.arange(2))
    if importlib.util.find_spec("triton") is not None:
        with pytest.raises(ValueError, match="not for float64"):
            losses.softmax(x.double(), x.double(), own, triton=True)
        with pytest.raises(ValueError, match="nor with deterministic"):
            losses.softmax(x, x, own, triton=True, deterministic=True)
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs Triton"):
        losses.softmax(x, x, own, triton=True)
    assert losses.softmax(x.bfloat16(), x.bfloat16(), own).isfinite()
