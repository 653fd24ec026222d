"""Training: both phases, resuming, honest selection, the run directory."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.sparse import csr_array, save_npz

from dexml import data, losses, rundir, train
from dexml.console import run
from dexml.index import __main__ as index_command
from dexml.metrics import evaluate
from dexml.predict import __main__ as predict_command
from dexml.train import fit
from dexml.train.__main__ import main as train_main
from small import assert_same, train_settings, weights


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def test_head_phase_learns_and_leaves_a_complete_run(
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
    assert set(saved["standard_errors"]) == set(fit.REPORTED)
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["head_epochs"] == 30
    assert config["temperature"] == 0.06
    assert "torch" in json.loads((out / "versions.json").read_text())
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    selection = [entry for entry in log if entry["stage"] == "selection"]
    assert [entry["epoch"] for entry in selection] == list(range(1, 31))
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["stage"] == "all points"
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

    monkeypatch.setattr(fit, "validate", falling)
    out = tmp_path / "run"
    train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=4, refit=False))
    assert len(kept) == 4 + len(fit.PRIORS)
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
        prior = arguments[5] if len(arguments) > 5 else 0.0
        return {"nDCG@5": {1: 0.1, 2: 0.3, 3: 0.2}.get(calls, 1.0 - abs(prior - 0.2))}

    monkeypatch.setattr(fit, "validate", scores)
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))
    chosen = json.loads((tmp_path / "run" / "checkpoint" / "selection.json").read_text())
    assert chosen["epochs"] == {"head": 2}
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


@pytest.mark.parametrize(
    ("killed_at", "changes"),
    [
        (8, {}),
        (8, {"refit": False}),
        (19, {}),  # while refitting
        (8, {"finetune_epochs": 2, "head_epochs": 1}),
        (14, {"finetune_epochs": 3, "head_epochs": 0, "finetune_layers": 1}),
        (27, {"finetune_epochs": 2, "head_epochs": 1}),
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
    whole = train_settings(tiny_data, tiny_encoder, tmp_path / "whole", **changes)
    train.train(whole)
    calls = 0
    schedule = fit.schedule

    def kill(*arguments: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise Killed
        return schedule(*arguments)

    monkeypatch.setattr(fit, "schedule", kill)
    broken = train_settings(tiny_data, tiny_encoder, tmp_path / "broken", **changes)
    with pytest.raises(Killed):
        train.train(broken)
    monkeypatch.setattr(fit, "schedule", schedule)
    with pytest.raises(FileNotFoundError, match="--resume"):
        rundir.Run.open(tmp_path / "broken")
    train.train(broken.model_copy(update={"resume": True}))
    assert_same(tmp_path / "whole", tmp_path / "broken")
    assert (
        json.loads((tmp_path / "whole" / "metrics.json").read_text())["metrics"]
        == (json.loads((tmp_path / "broken" / "metrics.json").read_text())["metrics"])
    )


def test_finetuning_moves_only_the_upper_layers(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train.train(
        train_settings(
            tiny_data,
            tiny_encoder,
            out,
            head_epochs=0,
            finetune_epochs=1,
            finetune_layers=1,
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


def test_no_test_file_is_opened_before_the_final_scores(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    for path in [*copy.glob("*tst*"), *copy.glob("raw/tst*"), copy / "filter_labels_test.txt"]:
        path.unlink()
    train.train(train_settings(copy, tiny_encoder, tmp_path / "without"))
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "with"))
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
    monkeypatch.setattr(fit, "validate", lambda *a: {"nDCG@5": 0.0})
    wanted = train_settings(tiny_data, tiny_encoder, tmp_path / "run", head_epochs=1, validation=0)
    original = fit.fit

    def cut(problem: Any, model: Any, rows: Any, *rest: Any) -> Any:
        return original(problem, model, rows[:n_points], *rest)

    monkeypatch.setattr(fit, "fit", cut)
    train.train(wanted)
    assert sum(sizes) == n_points
    assert min(sizes) > 0


def test_schedule_rises_and_falls_to_zero() -> None:
    factors = [fit.schedule(step, 100, 0.1) for step in range(100)]
    assert np.argmax(factors) == 9
    assert factors[9] == 1.0
    assert 0 < factors[99] < 0.02
    assert (np.diff(factors[:10]) > 0).all()
    assert (np.diff(factors[10:]) < 0).all()


def test_nan_loss_ends_with_advice(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "decoupled_softmax", lambda *a, **k: torch.tensor(float("nan")))
    with pytest.raises(RuntimeError, match="the loss is nan at step 0 of phase head; lower"):
        train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))


def test_finetuning_that_makes_it_worse_is_undone(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The best epoch is the head's: nothing of the fine-tuned layers may remain."""
    for name, epochs in (("head", 0), ("both", 1)):
        train.train(
            train_settings(
                tiny_data,
                tiny_encoder,
                tmp_path / name,
                finetune_epochs=epochs,
                finetune_lr=10.0,
                refit=False,
                head_epochs=10,
            )
        )
    chosen = json.loads((tmp_path / "both" / "checkpoint" / "selection.json").read_text())
    assert "finetune" not in chosen["epochs"]
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
