"""Trainings that are killed, stopped or out of disk, and go on as if nothing had happened."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dexml import train
from dexml.report.of_training import report_training
from dexml.run import Run
from dexml.train import checkpoint, fit, step
from dexml.train.schedule import rate
from small import assert_same, train_settings


class Killed(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


def killed(*_: Any) -> None:
    raise Killed


def killing(at: int) -> Callable[..., float]:
    """As `rate`, which is called once a step; the call `at` kills."""
    calls = 0

    def kill(*arguments: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed
        return rate(*arguments)

    return kill


def metrics_of(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text())["metrics"]


NEVER, ALWAYS = 60, 1e-9
"""Minutes between checkpoints: none inside an epoch, or one after every step."""
BOTH = {
    "stages": "heads,encoder",
    "head_epochs": 1,
    "encoder_epochs": 2,
    "encoder_layers": 1,
    "groups": "file",  # the steps of an epoch follow from the points that are held out
}
TURNED: dict[str, Any] = {
    "stages": "encoder,heads",
    "head_epochs": 2,
    "encoder_epochs": 2,
    "clip": 1.0,
    "negatives": "hard 0.5, uniform 0.5",
    "shortlist_every": 1,
    "negatives_per_point": 4,
    "head_negatives": "hard",
    "residual_lr": 0.01,
}
"""A shortlist in both stages, a table trained by rows, features of a tuned encoder."""
JOINT: dict[str, Any] = {
    "stages": "joint",
    "joint_epochs": 2,
    "encoder_layers": 1,
    "cache_layers": True,
    "negatives": "all",
    "text_weight": 0.5,
}
THREE: dict[str, Any] = JOINT | {
    "stages": "heads,encoder,joint",
    "head_epochs": 1,
    "encoder_epochs": 1,
    "negatives": "hard 0.5, uniform 0.5",
    "cache_layers": False,
    "batches": "clusters",
    "refit": False,
}


SHARING: dict[str, Any] = {
    "stages": "heads,joint",
    "head_epochs": 1,
    "joint_epochs": 2,
    "negatives": "all",
    "label_clusters": 5,
    "label_cluster_lr": 0.05,
    "joint_batch_size": 64,
    "beat_text": 0.1,
}
"""Clusters of labels, which the second stage has from the first; here copies of their rows."""


@pytest.mark.parametrize(
    ("kills", "changes"),
    [
        # Killed at this step of a session, with so many minutes between checkpoints.
        ([(8, NEVER), (14, ALWAYS)], {}),  # the second while refitting
        ([(8, NEVER)], {"refit": False}),
        ([(13, ALWAYS), (9, ALWAYS)], BOTH),
        ([(8, NEVER), (10, ALWAYS), (19, ALWAYS)], TURNED),
        ([(8, NEVER)], {"loss": "bce, soft-top-3 from 0.5", "patience": 1, "head_epochs": 6}),
        ([(8, NEVER), (9, ALWAYS)], JOINT),
        ([(13, ALWAYS), (6, ALWAYS)], THREE),
        ([(8, NEVER), (6, ALWAYS)], {"table": "bf16", "residual_lr": 0.01}),
        ([(8, NEVER), (6, ALWAYS)], THREE | {"table": "bf16", "head_negatives": "uniform"}),
        ([(8, NEVER), (18, ALWAYS)], SHARING),  # the second in the last stage of the refit
        # What bce learns has fewer steps behind it.
        ([(11, ALWAYS)], {"loss": "decoupled, bce from 0.5"}),
    ],
    ids=[
        *("heads", "heads without refit", "both stages", "turned", "patience"),
        *("joint", "three stages", "bf16", "bf16 in three stages", "sharing", "bce late"),
    ],
)
def test_killed_and_resumed_equals_unbroken_bit_for_bit(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_run: Callable[..., Path],
    kills: list[tuple[int, float]],
    changes: dict[str, Any],
) -> None:
    """Killed inside an epoch, once or again and again.

    Defect 21: all that moves is in a checkpoint.
    """
    whole, out = shared_run(**changes), tmp_path / "broken"
    for number, (at, minutes) in enumerate(kills):
        broken = train_settings(
            *(tiny_data, tiny_encoder, out),
            **changes,
            checkpoint_minutes=minutes,
            resume=number > 0,
        )
        monkeypatch.setattr(fit, "rate", killing(at))
        with pytest.raises(Killed):
            train.train(broken)
        with pytest.raises(FileNotFoundError, match="--resume"):
            Run.open(out)
    monkeypatch.setattr(fit, "rate", rate)
    train.train(broken.model_copy(update={"resume": True}))
    assert_same(whole, out)
    assert metrics_of(whole) == metrics_of(out)
    folder = out / "checkpoint" / "selection"
    assert len(checkpoint.listed(folder)) == 2
    for path in (whole / "checkpoint" / "selection").glob("best-*.safetensors"):
        ours = load_file(folder / path.name)
        for name, tensor in load_file(path).items():
            assert torch.equal(tensor, ours[name]), (path.name, name)


@pytest.mark.parametrize(("at", "changes"), [(1, {}), (2, BOTH), (3, TURNED)])
def test_a_kill_between_the_best_epoch_and_the_checkpoint_costs_nothing(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    changes: dict[str, Any],
) -> None:
    """The first epoch of a stage is its best and saved as such, but the stage has not begun."""
    more = changes | {"refit": False, "residual_lr": 0.01, "head_lr": 0.01}
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "whole", **more))
    plain, calls = checkpoint.save_last, 0

    def save_last(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed
        plain(*arguments)

    monkeypatch.setattr(checkpoint, "save_last", save_last)
    broken = train_settings(tiny_data, tiny_encoder, tmp_path / "broken", **more)
    with pytest.raises(Killed):
        train.train(broken)
    assert list((tmp_path / "broken" / "checkpoint" / "selection").glob("best-*.safetensors"))
    monkeypatch.undo()
    train.train(broken.model_copy(update={"resume": True}))
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_a_damaged_best_epoch_is_refused(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, shared_run: Callable[..., Path]
) -> None:
    out = Path(shutil.copytree(shared_run(refit=False), tmp_path / "run"))
    (out / "run.json").unlink()
    (path,) = (out / "checkpoint" / "selection").glob("best-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"best-heads.*damaged.*start again with --overwrite"):
        train.train(train_settings(tiny_data, tiny_encoder, out, refit=False, resume=True))


def test_a_kill_while_saving_costs_nothing(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_run: Callable[..., Path],
) -> None:
    """Half a file lies beside the last checkpoint; after the resume it is gone."""
    plain, calls = save_file, 0

    def save(tensors: Any, path: Path, metadata: Any) -> None:
        nonlocal calls
        calls += 1
        plain(tensors, path, metadata)
        if calls == 4:
            path.write_bytes(path.read_bytes()[:200])
            monkeypatch.setattr("dexml.files.remove", lambda path: None)  # as a kill would
            raise Killed

    monkeypatch.setattr(checkpoint, "save_file", save)
    broken = train_settings(tiny_data, tiny_encoder, tmp_path / "broken")
    with pytest.raises(Killed):
        train.train(broken)
    monkeypatch.undo()
    folder = tmp_path / "broken" / "checkpoint" / "selection"
    assert list(folder.glob(".*"))
    train.train(broken.model_copy(update={"resume": True}))
    assert not list(folder.glob(".*"))
    assert_same(shared_run(), tmp_path / "broken")


@pytest.fixture(scope="module")
def unfinished(
    tiny_data: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A training that was killed at its 14th step; nobody writes in it."""
    out = tmp_path_factory.mktemp("runs") / "unfinished"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit, "rate", killing(14))
        with pytest.raises(Killed):
            train.train(train_settings(tiny_data, tiny_encoder, out))
    return out


@pytest.mark.parametrize("fault", ["cut", "changed", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    unfinished: Path,
    shared_run: Callable[..., Path],
    fault: str,
) -> None:
    out = Path(shutil.copytree(unfinished, tmp_path / "broken"))
    folder = out / "checkpoint" / "selection"
    path = checkpoint.listed(folder)[0]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"cut": bytes(content[:-100]), "changed": bytes(content), "empty": b""}[fault])
    train.train(train_settings(tiny_data, tiny_encoder, out, resume=True))
    assert f"note: {path}: damaged" in capsys.readouterr().err
    assert_same(shared_run(), out)
    for path in checkpoint.listed(folder):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="every checkpoint is damaged; start again with --overw"):
        checkpoint.newest(folder)


def test_the_time_of_a_resumed_run_is_that_of_all_its_sessions(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, unfinished: Path
) -> None:
    out = Path(shutil.copytree(unfinished, tmp_path / "run"))
    path = out / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["event"] == "started"
    lines[0]["time"] = lines[-1]["time"] - 5000
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"time": 17, "st')  # killed while it wrote
    train.train(train_settings(tiny_data, tiny_encoder, out, resume=True), report_training)
    assert path.read_text().startswith(text)
    found = json.loads((out / "metrics.json").read_text())["training_seconds"]
    assert 5000 < found < 5300
    assert (out / "report.html").exists()


def test_a_run_is_not_resumed_with_other_weights(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    settings = train_settings(tiny_data, encoder, tmp_path / "run")
    monkeypatch.setattr(fit, "take_step", killed)
    with pytest.raises(Killed):
        train.train(settings)
    monkeypatch.undo()
    tensors = load_file(encoder / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"from other weights than .*encoder has now"):
        train.train(settings.model_copy(update={"resume": True}))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_saved_step(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared_run: Callable[..., Path],
    number: int,
) -> None:
    plain = step.take_step
    calls = 0

    def stopped(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:
            os.kill(os.getpid(), number)
        return plain(*arguments)

    monkeypatch.setattr(fit, "take_step", stopped)
    broken = train_settings(tiny_data, tiny_encoder, tmp_path / "broken")
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train.train(broken)
    assert signal.getsignal(number) is before
    assert calls == 8
    assert "stopped at step 8 of heads; resume with --resume" in capsys.readouterr().err
    monkeypatch.undo()
    found = checkpoint.newest(tmp_path / "broken" / "checkpoint" / "selection")
    assert found is not None
    assert found[1].step == 8
    train.train(broken.model_copy(update={"resume": True}))
    assert_same(shared_run(), tmp_path / "broken")


@pytest.mark.parametrize("full", ["checkpoint", "label table"])
def test_a_full_disk_while_saving_leaves_a_run_that_goes_on(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_run: Callable[..., Path],
    full: str,
) -> None:
    plain, calls = save_file, 0

    def save(tensors: Any, path: Path, *more: Any) -> None:
        nonlocal calls
        calls += 1
        if full == "label table" or calls == 4:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        plain(tensors, path, *more)

    where = "dexml.train.checkpoint" if full == "checkpoint" else "safetensors.torch"
    monkeypatch.setattr(f"{where}.save_file", save)
    broken = train_settings(tiny_data, tiny_encoder, tmp_path / "broken")
    with pytest.raises(OSError, match="the disk is full; make room"):
        train.train(broken)
    monkeypatch.undo()
    train.train(broken.model_copy(update={"resume": True}))
    assert_same(shared_run(), tmp_path / "broken")
