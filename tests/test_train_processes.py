"""Training on several processes (gloo): what one process gives, saved, resumed, and lost."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import warm
from dexml import train
from dexml.encoder import DualEncoder
from dexml.train import TrainSettings, processes, stages, step
from small import assert_same, train_settings
from train_parts import features64, start_of

pytestmark = [
    pytest.mark.skipif(not dist.is_available(), reason="torch without distributed"),
    pytest.mark.skipif(sys.platform == "win32", reason="gloo over files"),
]

BATCH = 37
CASES: dict[str, dict[str, Any]] = {
    "all": {"stages": "encoder", "negatives": "all", "clip": 0.5},
    "drawn": {"stages": "encoder", "negatives": "graph 0.5, uniform 0.5", "encoder_layers": 1},
    "heads": {"stages": "heads"},
    "heads drawn": {"stages": "heads", "head_negatives": "uniform"},
    "bce": {"stages": "heads", "loss": "bce"},
    "joint": {"stages": "joint", "negatives": "all"},
    "bf16": {"stages": "heads", "table": "bf16"},
    "bf16 joint": {"stages": "joint", "negatives": "all", "table": "bf16"},
    "bf16 drawn": {"stages": "heads", "head_negatives": "uniform", "table": "bf16"},
    "two losses": {"stages": "joint", "negatives": "all", "text_weight": 0.3},
    "two losses, labels beat texts": {"stages": "joint", "negatives": "all", "beat_text": 0.5},
    "label clusters": {"stages": "heads", "label_clusters": 5, "label_cluster_lr": 0.01},
    "label clusters drawn": {"stages": "heads", "head_negatives": "uniform", "label_clusters": 5},
    "label clusters bf16": {"stages": "joint", "table": "bf16", "label_clusters": 5},
    "triplet": {"stages": "heads", "loss": "triplet"},
    "joint drawn": {"stages": "joint", "negatives": "uniform", "encoder_layers": 1},
    "soft": {
        "stages": "heads",
        "loss": "softmax, soft-top-3 from 0.5",
        "head_negatives": "uniform",
    },
}
WHOLE: dict[str, Any] = {
    "stages": "encoder,heads,joint",
    "negatives": "hard 0.5, uniform 0.5",
    "deterministic": True,
    "encoder_epochs": 2,
    "head_epochs": 2,
    "joint_epochs": 1,
    "batches": "clusters",
    "refit": False,
    "residual_lr": 0.01,
    "label_clusters": 5,
}
RANKED: dict[str, Any] = {
    "ranker": "auto",
    "tree": "none",
    "bilinear": "none",
    "deterministic": True,
    "head_epochs": 2,
}
"""A training whose ranker asks parts of the fitted points."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def some_steps(
    settings: TrainSettings, dtype: torch.dtype, n_steps: int
) -> tuple[list[float], dict[str, torch.Tensor], list[list[int]]]:
    """Losses and weights after some steps, and the sizes of all-reduces of each step."""
    if dtype == torch.float64:
        DualEncoder.features = features64  # type: ignore[method-assign]
    job = start_of(settings)
    problem, model, rows = job.problem, job.model, job.rows
    if settings.table != "bf16":
        model.to(dtype)
    if problem.features is not None and dtype == torch.float64:
        wide = tuple(part.astype(np.float64) for part in problem.features)
        object.__setattr__(problem, "features", wide)
    name = settings.stages
    stage = stages.make(name, job)
    model.train()
    found: list[float] = []
    sizes: list[list[int]] = []
    plain = dist.all_reduce
    for number, batch in enumerate(step.batches(rows, BATCH, 1)[:n_steps]):
        sizes.append([])

        def watch(tensor: torch.Tensor, *rest: Any, **more: Any) -> Any:
            sizes[-1].append(tensor.numel())
            return plain(tensor, *rest, **more)

        dist.all_reduce = watch
        found.append(step.take_step(stage, batch, 1, number, n_steps)[0])
        dist.all_reduce = plain
    from dexml.train import checkpoint

    checkpoint.complete(stage)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    return found, weights, sizes


def run_cases(folder: Path, data: Path, encoder: Path, exact_steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    plain = DualEncoder.features
    for name, changes in CASES.items():
        out = folder / name.replace(" ", "-")
        if changes.get("table") != "bf16":
            settings = train_settings(data, encoder, out, micro_tokens=60, **changes)
            found[name] = some_steps(settings, torch.float64, 4)
            DualEncoder.features = plain  # type: ignore[method-assign]
        settings = train_settings(
            data, encoder, Path(f"{out}-exact"), micro_tokens=60, deterministic=True, **changes
        )
        found[f"{name} exact"] = some_steps(settings, torch.float32, exact_steps)
    return found


def join(rank: int, size: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )


def work(rank: int, size: int, folder: str, data: str, encoder: str) -> None:
    join(rank, size, folder)
    try:
        found = run_cases(Path(folder), Path(data), Path(encoder), 5)
        torch.save(found, f"{folder}/{rank}.pt")
        for name, changes in (("whole", WHOLE), ("ranked", RANKED)):
            train.train(train_settings(Path(data), Path(encoder), Path(folder) / name, **changes))
    finally:
        dist.destroy_process_group()


def spawn(target: Any, size: int, folder: Path, *more: str) -> list[Any]:
    context = warm.context()
    started = [
        context.Process(target=target, args=(rank, size, str(folder), *more))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    return started


def finished(started: list[Any]) -> list[int]:
    """Exit codes; whoever takes longer than the limit is killed (and so has none of ours)."""
    deadline = time.monotonic() + 200
    for process in started:
        process.join(timeout=max(0.1, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in started]


def test_two_processes_train_as_one(filtered: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """Float64 to rounding; with `deterministic` bit for bit, over a whole training too.

    Defects 6 (a collective inside what the first process does alone) and 20 (a collective for each
    parameter).
    """
    (tmp_path / "two").mkdir()
    started = spawn(work, 2, tmp_path / "two", str(filtered), str(tiny_encoder))
    (tmp_path / "one").mkdir()
    one = run_cases(tmp_path / "one", filtered, tiny_encoder, 5)
    for name, changes in (("whole", WHOLE), ("ranked", RANKED)):
        train.train(train_settings(filtered, tiny_encoder, tmp_path / "one" / name, **changes))
    assert finished(started) == [0, 0]
    two = [torch.load(tmp_path / "two" / f"{rank}.pt") for rank in (0, 1)]
    for case, (values, weights, _) in one.items():
        for rank in (0, 1):
            theirs, their_weights, sizes = two[rank][case]
            if case.endswith("exact"):
                assert theirs == values, case
            else:
                np.testing.assert_allclose(theirs, values, rtol=1e-12)
            for name, tensor in weights.items():
                if case.endswith("exact"):
                    assert torch.equal(their_weights[name], tensor), (case, name)
                else:
                    torch.testing.assert_close(
                        their_weights[name], tensor, rtol=1e-8, atol=1e-10, msg=f"{case} {name}"
                    )
            if case.startswith("two losses"):
                continue  # each loss has collectives of its own
            for some in sizes[1:]:  # beside the point embeddings and their gradient
                assert len([n for n in some if n != BATCH * 16]) == 1, (case, some)
                assert len(some) <= 3
    assert_same(tmp_path / "one" / "whole", tmp_path / "two" / "whole")
    chosen = [tmp_path / n / "ranked" / "checkpoint" / "selection.json" for n in ("one", "two")]
    assert chosen[0].read_bytes() == chosen[1].read_bytes()
    assert json.loads(chosen[0].read_text())["ranker"]["points"] > 100  # of the parts, too
    lines = [
        json.loads(line) for line in (tmp_path / "two/whole/log.jsonl").read_text().splitlines()
    ]
    assert len([line for line in lines if "loss" in line]) == 5  # of the first process alone


def lost(rank: int, size: int, folder: str, data: str, encoder: str) -> None:
    """Process 1 is killed while it trains."""
    join(rank, size, folder)
    if rank == 1:
        plain = step.gradients
        calls = 0

        def die(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*arguments)

        setattr(step, "gradients", die)  # noqa: B010
    try:
        train.train(train_settings(Path(data), Path(encoder), Path(folder) / "run", head_epochs=4))
    except RuntimeError as error:
        (Path(folder) / f"{rank}.txt").write_text(str(error))
        os._exit(1)


def resumed(rank: int, size: int, folder: str, data: str, encoder: str) -> None:
    join(rank, size, f"{folder}/again")
    out = Path(folder) / "run"
    train.train(train_settings(Path(data), Path(encoder), out, head_epochs=4, resume=True))
    dist.destroy_process_group()


def test_a_lost_process_ends_the_job_and_the_run_goes_on(
    filtered: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Resumed on one process or on two, the run ends where an unbroken one does."""
    data = (str(filtered), str(tiny_encoder))
    codes = finished(spawn(lost, 2, tmp_path, *data))
    assert codes == [1, -signal.SIGKILL]
    message = (tmp_path / "0.txt").read_text()
    assert message.startswith("process 0 of 2 lost process 1 (")
    assert message.endswith("resume with --resume")
    assert not (tmp_path / "run" / "run.json").exists()
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    (tmp_path / "again").mkdir()
    started = spawn(resumed, 2, tmp_path, *data)
    settings = train_settings(filtered, tiny_encoder, tmp_path / "whole", head_epochs=4)
    train.train(settings)
    train.train(settings.model_copy(update={"out": tmp_path / "alone", "resume": True}))
    assert finished(started) == [0, 0]
    assert_same_but_rounding(tmp_path / "whole", tmp_path / "run")
    assert_same_but_rounding(tmp_path / "whole", tmp_path / "alone")


def assert_same_but_rounding(a: Path, b: Path) -> None:
    from small import weights

    for name, tensor in weights(a).items():
        torch.testing.assert_close(tensor, weights(b)[name], rtol=1e-3, atol=1e-4)


def patient(rank: int, size: int, folder: str, port: str) -> None:
    """The first process works for longer than a collective may take."""
    local = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), **local)
    setattr(processes, "TIMEOUT", timedelta(seconds=2))  # noqa: B010

    def slow() -> bool:
        time.sleep(4)
        return True

    def fail() -> bool:
        time.sleep(3)
        raise ValueError("no such label")

    device = processes.start("cpu")
    answers: list[object] = [
        processes.first(slow, device),
        processes.first(lambda: False, device),
    ]
    try:
        processes.first(fail, device)
    except (ValueError, RuntimeError) as error:
        answers.append(str(error))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(answers))
    processes.end()


def test_others_wait_for_the_first_as_long_as_it_works(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    assert finished(spawn(patient, 2, tmp_path, port)) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == [True, False, "no such label"]
    assert second == [True, False, "process 0 failed; its message says why"]


def test_a_process_count_that_does_not_divide(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "size", lambda: 3)
    monkeypatch.setattr(processes, "introduce", lambda device: None)
    settings = train_settings(filtered, tiny_encoder, tmp_path / "run", deterministic=True)
    with pytest.raises(ValueError, match="--deterministic with 3 processes; expected a divisor"):
        train.train(settings)
