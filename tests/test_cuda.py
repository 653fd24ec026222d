"""What runs on CUDA: on a pretended device in every run of the tests, and on a GPU where one is.

See `pretended_cuda/device.py`. A device cannot be taken back, so the cases run in other processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pretended_cuda import device
from small import write_tiny_data

HERE = Path(__file__).parent / "pretended_cuda"

CASES = [
    "trains_with_drawn_labels",
    "trains_with_every_loss_over_all_labels",
    "trains_two_heads_deterministically",
    "trains_jointly_with_a_table_in_bfloat16",
    "trains_packed_in_bfloat16",
    "trains_over_cached_layers",
    "resumes_where_it_stopped",
    "plans_for_the_device",
    "predicts_and_takes_edits",
    "searches_exactly",
    "losses_and_gradients_are_those_of_float64",
    "kernels_are_chosen_and_agree",
    "a_step_seldom_waits",
    "loss_of_a_batch",
]
needs_pretending = pytest.mark.skipif(bool(device.missing()), reason=device.missing() or "-")


def run(arguments: list[str], **more: str) -> str:
    paths = os.pathsep.join([path for path in sys.path if path])
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"} | more
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def results(folder: Path, *options: str) -> dict[str, Any]:
    lines = run([str(HERE / "cases.py"), str(folder), *options]).splitlines()
    return {line["case"]: line["error"] for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return results(tmp_path_factory.mktemp("pretended"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return results(tmp_path_factory.mktemp("real"), "--real")


@needs_pretending
@pytest.mark.parametrize("case", CASES)
def test_on_a_pretended_device(pretended: dict[str, Any], case: str) -> None:
    assert pretended[case] is None, pretended[case]


@needs_pretending
def test_every_case_is_a_test(pretended: dict[str, Any]) -> None:
    assert sorted(pretended) == sorted(CASES)


@needs_pretending
def test_two_processes_on_pretended_devices(tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    write_tiny_data(tmp_path / "data", train_filter=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    out = run([*torchrun, str(HERE / "two.py"), str(tmp_path)], GLOO_SOCKET_IFNAME="lo")
    assert "two processes agree with one" in out


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu(real: dict[str, Any], case: str) -> None:
    assert real[case] is None, real[case]
