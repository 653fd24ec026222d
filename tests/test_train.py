"""Training: both stages, resuming, honest selection, the run directory."""

import errno
import json
import math
import os
import shutil
import signal
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array, save_npz

from dexml import data, losses, train
from dexml.commands import index as index_command
from dexml.commands import predict as predict_command
from dexml.commands.train import main as train_main
from dexml.console import run
from dexml.metrics import evaluate
from dexml.report.of_training import report_training
from dexml.run import folder as rundir
from dexml.train import checkpoint, final, fit, memory, selection, step
from dexml.train.schedule import rate
from small import assert_same, log_of, train_settings, weights
from tiny_encoders import tiny


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def test_stage_heads_learns_and_leaves_a_complete_run(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=30))
    assert result is not None
    assert result.metrics["P@1"] > 0.3  # a label drawn at random: 0.02
    run_dir = rundir.Run.open(out)
    assert run_dir.info["n_labels"] == 64
    assert run_dir.data_dir() == tiny_data.resolve()
    saved = json.loads((out / "metrics.json").read_text())
    assert saved["metrics"] == result.metrics
    assert set(saved["standard_errors"]) == set(selection.REPORTED)
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["head_epochs"] == 30
    assert config["temperature"] == 0.06
    assert "torch" in json.loads((out / "versions.json").read_text())
    log = log_of(out)
    chosen = [entry for entry in log if entry["fit"] == "selection"]
    assert [entry["epoch"] for entry in chosen] == list(range(1, 31))
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["fit"] == "all points"
    assert 0 <= log[0]["validation"]["nDCG@5"] <= 1
    assert not list(out.glob(".*"))  # nothing half-written is left


def test_best_validation_epoch_is_kept(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation scores fall from the second epoch on: the second must be what is saved."""
    kept: list[dict[str, torch.Tensor]] = []

    def falling(problem: Any, model: Any, *rest: Any) -> dict[str, float]:
        kept.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return {"nDCG@5": [0.1, 0.9, 0.5, 0.2, *[0.0] * 20][len(kept) - 1]}

    monkeypatch.setattr(selection, "validate", falling)
    out = tmp_path / "run"
    train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=4, refit=False))
    assert len(kept) == 4
    saved = load_file(tmp_path / "run" / "labels.safetensors")
    assert torch.equal(saved["residual"], kept[1]["table.residual"])
    assert not torch.equal(saved["residual"], kept[3]["table.residual"])


def test_refit_uses_all_points_the_selected_epochs_and_the_selected_prior(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved equals a plain training on all points for the selected number of epochs."""
    calls = 0

    def scores(*arguments: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        return {"nDCG@5": {1: 0.1, 2: 0.3, 3: 0.2}[calls]}

    def chosen_prior(*arguments: Any, **options: Any) -> memory.Choice:
        return memory.Choice(0.2, {"kind": "none", "gain": {}})

    monkeypatch.setattr(selection, "validate", scores)
    monkeypatch.setattr(memory, "choose_memory", chosen_prior)
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))
    chosen = json.loads((tmp_path / "run" / "checkpoint" / "selection.json").read_text())
    assert chosen["epochs"] == {"heads": 2}
    assert chosen["prior"] == 0.2
    assert rundir.Run.open(tmp_path / "run").info["prior"] == 0.2
    train.train(
        train_settings(tiny_data, tiny_encoder, tmp_path / "plain", head_epochs=2, validation=0)
    )
    for name, tensor in weights(tmp_path / "plain").items():
        same = torch.equal(tensor, weights(tmp_path / "run")[name])
        assert same != (name == "labels.safetensors/bias")  # the prior is part of it
    counts = np.bincount(data.load_part(tiny_data, "trn", 64).y.indices, minlength=64)
    biases = [weights(tmp_path / n)["labels.safetensors/bias"].numpy() for n in ("run", "plain")]
    np.testing.assert_allclose(biases[0], biases[1] + 0.2 * np.log1p(counts), atol=1e-6)


def test_unseen_labels_keep_the_residual_zero(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))
    table = load_file(tmp_path / "run" / "labels.safetensors")
    assert (table["residual"][5] == 0).all()
    assert (table["residual"][6] != 0).any()


class Killed(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


def killed(*_: Any) -> None:
    raise Killed


BOTH = {"stages": "heads,encoder", "head_epochs": 1, "encoder_epochs": 2, "encoder_layers": 1}
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


@pytest.mark.parametrize(
    ("killed_at", "changes"),
    [
        (8, {}),
        (8, {"refit": False}),
        (19, {}),  # while refitting
        (13, BOTH),
        (21, BOTH),
        (8, TURNED),
        (15, TURNED),
        (33, TURNED),
        (8, {"loss": "bce, soft-top-3 from 0.5", "patience": 1, "head_epochs": 6}),
        (11, {"loss": "decoupled, bce from 0.5"}),  # what bce learns has fewer steps behind it
    ],
)
def test_killed_and_resumed_equals_unbroken_bit_for_bit(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
    changes: dict[str, Any],
) -> None:
    """Killed inside an epoch, with a checkpoint after every step or none but at its end.

    Defect 21: all that moves is in a checkpoint.
    """
    whole = train_settings(tiny_data, tiny_encoder, tmp_path / "whole", **changes)
    train.train(whole)
    monkeypatch.setattr(fit, "rate", killing(killed_at))
    minutes = 1e-9 if killed_at % 2 else 60
    broken = train_settings(
        tiny_data, tiny_encoder, tmp_path / "broken", checkpoint_minutes=minutes, **changes
    )
    with pytest.raises(Killed):
        train.train(broken)
    monkeypatch.setattr(fit, "rate", rate)
    with pytest.raises(FileNotFoundError, match="--resume"):
        rundir.Run.open(tmp_path / "broken")
    train.train(broken.model_copy(update={"resume": True}))
    assert_same(tmp_path / "whole", tmp_path / "broken")
    assert (
        json.loads((tmp_path / "whole" / "metrics.json").read_text())["metrics"]
        == (json.loads((tmp_path / "broken" / "metrics.json").read_text())["metrics"])
    )
    folder = tmp_path / "broken" / "checkpoint" / "selection"
    assert len(checkpoint.listed(folder)) == 2
    for path in (tmp_path / "whole" / "checkpoint" / "selection").glob("best-*.safetensors"):
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
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run", refit=False)
    train.train(settings)
    (tmp_path / "run" / "run.json").unlink()
    (path,) = (tmp_path / "run" / "checkpoint" / "selection").glob("best-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"best-heads.*damaged.*start again with --overwrite"):
        train.train(settings.model_copy(update={"resume": True}))


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


def test_a_kill_while_saving_costs_nothing(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file lies beside the last checkpoint; after the resume it is gone."""
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "whole"))
    plain = save_file
    calls = 0

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
    assert_same(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("fault", ["cut", "changed", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "whole"))
    monkeypatch.setattr(fit, "rate", killing(14))
    broken = train_settings(tiny_data, tiny_encoder, tmp_path / "broken")
    with pytest.raises(Killed):
        train.train(broken)
    monkeypatch.undo()
    folder = tmp_path / "broken" / "checkpoint" / "selection"
    path = checkpoint.listed(folder)[0]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"cut": bytes(content[:-100]), "changed": bytes(content), "empty": b""}[fault])
    train.train(broken.model_copy(update={"resume": True}))
    assert f"note: {path}: damaged" in capsys.readouterr().err
    assert_same(tmp_path / "whole", tmp_path / "broken")
    for path in checkpoint.listed(folder):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="every checkpoint is damaged; start again with --overw"):
        checkpoint.newest(folder)


def test_the_time_of_a_resumed_run_is_that_of_all_its_sessions(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run")
    monkeypatch.setattr(final, "save", killed)
    with pytest.raises(Killed):
        train.train(settings)
    monkeypatch.undo()
    path = settings.out / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["event"] == "started"
    lines[0]["time"] = lines[-1]["time"] - 5000
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"time": 17, "st')  # killed while it wrote
    train.train(settings.model_copy(update={"resume": True}), report_training)
    assert path.read_text().startswith(text)
    found = json.loads((settings.out / "metrics.json").read_text())["training_seconds"]
    assert 5000 < found < 5300
    assert (settings.out / "report.html").exists()


def test_a_run_is_not_resumed_with_other_weights(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    settings = train_settings(tiny_data, encoder, tmp_path / "run")
    monkeypatch.setattr(final, "save", killed)
    with pytest.raises(Killed):
        train.train(settings)
    monkeypatch.undo()
    tensors = load_file(encoder / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"from other weights than .*encoder has now"):
        train.train(settings.model_copy(update={"resume": True}))


def test_too_few_points_name_the_data_set(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    lines = (copy / "raw" / "trn_X.txt").read_text().splitlines()
    (copy / "raw" / "trn_X.txt").write_text("\n".join(lines[:2]) + "\n")
    save_npz(copy / "Y.trn.npz", data.load_labels(copy / "Y.trn.npz")[:2])
    with pytest.raises(ValueError, match=f"{copy}: 2 training points; expected 3 or more"):
        train.train(train_settings(copy, tiny_encoder, tmp_path / "run"))


def test_more_layers_than_there_are_and_packing_where_it_is_not_known(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    for changes, message in (
        ({"encoder_layers": 99}, "99 upper layers; this encoder has 2: give 1..2"),
        ({"encoder": str(tiny("mpnet", tmp_path / "m")), "packed": True}, "texts cannot be packed"),
    ):
        settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run", stages="encoder")
        with pytest.raises(ValueError, match=message):
            train.train(settings.model_copy(update=changes))
        assert not settings.out.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_saved_step(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "whole"))
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
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_finetuning_moves_only_the_upper_layers(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train.train(
        train_settings(
            tiny_data,
            tiny_encoder,
            out,
            stages="encoder",
            encoder_epochs=1,
            encoder_layers=1,
            validation=0,
        )
    )
    before = load_file(tiny_encoder / "model.safetensors")
    after = load_file(out / "encoder" / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("layer.1." in name for name in moved)


def test_seeds_repeat_and_differ(tiny_data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train.train(train_settings(tiny_data, tiny_encoder, tmp_path / name, seed=seed))
    assert_same(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "a", tmp_path / "c")


def test_no_epochs_leave_the_encoder_as_it_is(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=0))
    assert result is not None
    assert (load_file(out / "labels.safetensors")["residual"] == 0).all()
    before = load_file(tiny_encoder / "model.safetensors")
    after = load_file(out / "encoder" / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_patience_ends_a_stage(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.6, 0.2, 0.1, *[0.0] * 9])
    monkeypatch.setattr(selection, "validate", lambda *a: {"nDCG@5": next(scores)})
    out = tmp_path / "run"
    settings = train_settings(
        *(tiny_data, tiny_encoder, out), head_epochs=9, patience=2, refit=False
    )
    train.train(settings)
    log = log_of(out)
    assert [entry["epoch"] for entry in log] == [1, 2, 3, 4]
    chosen = json.loads((out / "checkpoint" / "selection.json").read_text())
    assert chosen["epochs"] == {"heads": 2}


def test_few_validation_points_are_scored_and_always_the_same(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def watch(problem: Any, model: Any, encoded: Any, rows: Any, *rest: Any) -> dict[str, float]:
        found.append(rows)
        return {"nDCG@5": 0.0}

    monkeypatch.setattr(selection, "validate", watch)
    for i, n in enumerate((20_000, 12, 12)):
        settings = train_settings(
            *(tiny_data, tiny_encoder, tmp_path / str(i)),
            validation_points=n,
            head_epochs=1,
            seed=i,
            refit=False,
        )
        train.train(settings)
    each = len(found) // 3
    assert len(found[0]) > 20
    assert 0 < len(found[each]) <= 12
    assert set(found[each]) < set(found[0])
    np.testing.assert_array_equal(found[each], found[2 * each])


def test_the_run_says_what_it_was_made_with(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run", loss="bce"))
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert len(versions["dexml_run"]) == 64
    if (Path(__file__).parents[1] / ".git").exists():
        assert len(versions["git_commit"].removesuffix("-dirty")) == 40
    info = rundir.Run.open(tmp_path / "run").info
    assert info["log_scale"] != 0
    assert info["offset"] < 0
    assert info["temperature"] == pytest.approx(0.06 / math.exp(info["log_scale"]))


def test_no_test_file_is_opened_before_the_final_scores(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Defect 13: without test files, the training is the same."""
    copy = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    for path in [*copy.glob("*tst*"), *copy.glob("raw/tst*"), copy / "filter_labels_test.txt"]:
        path.unlink()
    changes = {"stages": "heads,encoder", "encoder_epochs": 1, "negatives": "hard"}
    train.train(train_settings(copy, tiny_encoder, tmp_path / "without", **changes))
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "with", **changes))
    assert_same(tmp_path / "without", tmp_path / "with")
    assert not (tmp_path / "without" / "metrics.json").exists()


def test_a_moved_run_directory_still_works(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))
    before = rundir.Run.open(tmp_path / "run").fingerprint()
    shutil.move(tmp_path / "run", tmp_path / "elsewhere" / "run2")
    assert rundir.Run.open(tmp_path / "elsewhere" / "run2").fingerprint() == before


@pytest.mark.parametrize("n_points", [64, 65, 128])
def test_last_batch_is_never_empty(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_points: int,
) -> None:
    sizes = []
    plain = losses.decoupled_softmax

    def watch(points: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(points))
        return plain(points, *arguments, **options)

    monkeypatch.setattr(losses, "decoupled_softmax", watch)
    monkeypatch.setattr(selection, "validate", lambda *a: {"nDCG@5": 0.0})
    wanted = train_settings(tiny_data, tiny_encoder, tmp_path / "run", head_epochs=1, validation=0)
    original = fit.fit  # defect 3

    def cut(job: Any, *rest: Any) -> Any:
        return original(replace(job, rows=job.rows[:n_points]), *rest)

    monkeypatch.setattr(fit, "fit", cut)
    train.train(wanted)
    assert sum(sizes) == n_points
    assert min(sizes) > 0


def test_schedule_rises_and_falls_to_zero() -> None:
    factors = [rate(step, 100, 0.1) for step in range(100)]
    assert np.argmax(factors) == 9
    assert factors[9] == 1.0
    assert 0 < factors[99] < 0.02
    assert (np.diff(factors[:10]) > 0).all()
    assert (np.diff(factors[10:]) < 0).all()


def test_nan_loss_ends_with_advice(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = losses.decoupled_softmax
    monkeypatch.setattr(losses, "decoupled_softmax", lambda *a, **k: plain(*a, **k) * math.nan)
    with pytest.raises(RuntimeError, match="the loss is nan at step 0 of stage heads; lower"):
        train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory on the device; lower"),
        (MemoryError(), "out of memory on this machine; lower --keep-tokens"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you"), "on this machine; lower"),
        (OSError(errno.ENOSPC, "No space left", "x/y"), "x/y: the disk is full; make room"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied", "x/y"), "Permission denied"),
        (RuntimeError("another thing"), "another thing"),
    ],
)
def test_memory_and_disk_end_with_advice(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(losses, "decoupled_softmax", fail)
    with pytest.raises((RuntimeError, OSError), match=message):
        train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))


def test_a_full_disk_while_saving_leaves_a_run_that_goes_on(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = save_file, 0

    def save(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        plain(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", save)
    broken = train_settings(tiny_data, tiny_encoder, tmp_path / "broken")
    with pytest.raises(OSError, match="the disk is full; make room"):
        train.train(broken)
    monkeypatch.undo()
    train.train(broken.model_copy(update={"resume": True}))
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "whole"))
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_finetuning_that_makes_it_worse_is_undone(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The best epoch is the head's: nothing of the fine-tuned layers may remain."""
    for name, stages in (("head", "heads"), ("both", "heads,encoder")):
        train.train(
            train_settings(
                tiny_data,
                tiny_encoder,
                tmp_path / name,
                stages=stages,
                encoder_epochs=1,
                encoder_layers=1,
                encoder_lr=10.0,
                refit=False,
                head_epochs=10,
            )
        )
    chosen = json.loads((tmp_path / "both" / "checkpoint" / "selection.json").read_text())
    assert "encoder" not in chosen["epochs"]
    assert_same(tmp_path / "head", tmp_path / "both")
    scores = [
        json.loads((tmp_path / name / "metrics.json").read_text())["metrics"]["nDCG@5"]
        for name in ("head", "both")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_stored_zeros_are_not_positives_and_negatives_are_refused(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    for name, value in (("zeros", 0.0), ("negative", -1.0)):
        copy = Path(shutil.copytree(tiny_data, tmp_path / name))
        y = data.load_labels(copy / "Y.trn.npz")
        rows = np.arange(20, 60)
        free = [next(j for j in range(64) if j not in y[[r]].indices) for r in rows]
        extra = csr_array((np.ones(len(rows)), (rows, free)), shape=y.shape)
        both = csr_array(y + extra)
        both.data[csr_array(both - 2 * extra).data < 0] = value
        save_npz(copy / "Y.trn.npz", both)
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "a"))
    train.train(train_settings(tmp_path / "zeros", tiny_encoder, tmp_path / "b"))
    assert_same(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match=r"Y\.trn\.npz: row 20: negative value"):
        train.train(train_settings(tmp_path / "negative", tiny_encoder, tmp_path / "c"))


def test_a_point_without_labels_and_few_ranks(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Defects 9 (point 7 has no label), 11 (top 10 only), 16 (float32 at every border)."""
    assert data.load_part(tiny_data, "trn", 64).y[[7]].nnz == 0
    out = tmp_path / "run"
    changes: dict[str, Any] = {"stages": "encoder,heads", "encoder_epochs": 1, "head_epochs": 1}
    settings = train_settings(
        *(tiny_data, tiny_encoder, out),
        **changes,
        positives_per_point=1,
        encoder_batch_size=1,
        negatives="in-batch",
        loss="soft-top-3",
        select="P@10",
    )
    train.train(settings)
    for path in [out / "label_emb.npy", out / "query_emb.npy", *(out / "cache").glob("*.npy")]:
        assert np.load(path).dtype == np.float32
    log = log_of(out)
    assert all("P@10" in entry["validation"] for entry in log if "validation" in entry)


def test_end_to_end_on_real_data(debtags_mini: Path, real_encoder: Path, tmp_path: Path) -> None:
    """Train, index, predict and evaluate DebTags-mini: well above popularity."""

    out = tmp_path / "run"
    arguments = [str(debtags_mini), "--out", str(out), "--encoder", str(real_encoder), "--quiet"]
    assert run(train_main, arguments) == 0
    assert run(index_command.main, [str(out), "--quiet"]) == 0
    pred = tmp_path / "pred.npz"
    assert run(predict_command.main, [str(out), "--out", str(pred), "-k", "100", "--quiet"]) == 0
    y_true = data.load_labels(debtags_mini / "Y.tst.npz")
    scores = evaluate(y_true, data.load_scores(pred), ["P@1", "R@100"])
    saved = json.loads((out / "metrics.json").read_text())["metrics"]
    assert scores["P@1"] == pytest.approx(saved["P@1"], abs=0.01)
    assert scores["P@1"] > 0.5
    assert scores["R@100"] > 0.85
