"""The Triton kernels: their values under the interpreter, and when they are chosen."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dexml import losses
from dexml.losses import arguments

HERE = Path(__file__).parent


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


def run(script: str, *options: str, interpret: str) -> str:
    paths = os.pathsep.join([p for p in sys.path if p])
    done = subprocess.run(
        [sys.executable, str(HERE / script), *options],
        env=os.environ | {"TRITON_INTERPRET": interpret, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_triton
def test_kernels_under_the_interpreter() -> None:
    assert "kernels agree" in run("kernels_on_cpu.py", interpret="1")


@needs_triton
def test_kernels_compiled_for_gpus_spill_nothing_and_use_the_matrix_units() -> None:
    import kernels_compiled

    if not kernels_compiled.CUOBJDUMP.exists():
        pytest.skip("this Triton does not compile for NVIDIA")
    lines = run("kernels_compiled.py", interpret="0").splitlines()
    found = [json.loads(line) for line in lines]
    assert {one["sm"] for one in found} == {80, 90, 100}
    for one in found:
        assert one["spilled_bytes"] == 0, one
        assert one["shared_bytes"] <= 160 * 1024, one
        assert (one["matrix_units"] > 0) == (one["dtype"] != "fp32"), one


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
