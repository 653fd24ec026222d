"""Training: both stages, resuming, honest selection, the run directory."""

import errno
import json
import math
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.sparse import csr_array, save_npz

from dexml import data, losses, train
from dexml.commands import index as index_command
from dexml.commands import predict as predict_command
from dexml.commands.train import main as train_main
from dexml.console import run
from dexml.metrics import evaluate
from dexml.predict import Predictor
from dexml.run import Run
from dexml.train import memory, outcome, selection, step
from dexml.train.advice import advising
from dexml.train.schedule import rate
from small import assert_same, log_of, part_path, train_settings, weights
from tiny_encoders import tiny
from train_parts import start_of


def test_stage_heads_learns_and_leaves_a_complete_run(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=30))
    assert result is not None
    assert result.metrics["P@1"] > 0.3  # a label drawn at random: 0.02
    finished = Run.open(out)
    assert finished.facts["labels"]["n_labels"] == 64
    assert finished.data_dir() == tiny_data.resolve()
    saved = json.loads((out / "metrics.json").read_text())
    assert saved["metrics"] == result.metrics
    assert set(saved["standard_errors"]) == set(outcome.REPORTED)
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
    assert [path.name for path in out.glob(".*")] == [".lock"]  # nothing half-written is left


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
    saved = load_file(part_path(tmp_path / "run", "dense/table"))
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
    assert Run.open(tmp_path / "run").facts["dense"]["prior"] == 0.2
    train.train(
        train_settings(tiny_data, tiny_encoder, tmp_path / "plain", head_epochs=2, validation=0)
    )
    for name, tensor in weights(tmp_path / "plain").items():
        same = torch.equal(tensor, weights(tmp_path / "run")[name])
        assert same != (name == "dense/table/bias")  # the prior is part of it
    counts = np.bincount(data.load_part(tiny_data, "trn", 64).y.indices, minlength=64)
    biases = [weights(tmp_path / n)["dense/table/bias"].numpy() for n in ("run", "plain")]
    np.testing.assert_allclose(biases[0], biases[1] + 0.2 * np.log1p(counts), atol=1e-6)


def test_unseen_labels_keep_the_residual_zero(shared_run: Callable[..., Path]) -> None:
    table = load_file(part_path(shared_run(), "dense/table"))
    assert (table["residual"][5] == 0).all()
    assert (table["residual"][6] != 0).any()


def first_points(n: int, original: Path, folder: Path) -> Path:
    """A data set with the first `n` training points of another."""
    shutil.copytree(original, folder)
    lines = (folder / "raw" / "trn_X.txt").read_text().splitlines()
    (folder / "raw" / "trn_X.txt").write_text("\n".join(lines[:n]) + "\n")
    save_npz(folder / "Y.trn.npz", data.load_labels(folder / "Y.trn.npz")[:n])
    return folder


def test_too_few_points_name_the_data_set(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    copy = first_points(2, tiny_data, tmp_path / "data")
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


def test_finetuning_moves_only_the_upper_layers(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = train_settings(
        *(tiny_data, tiny_encoder, out),
        stages="encoder",
        encoder_epochs=1,
        encoder_layers=1,
        validation=0,
    )
    train.train(settings)
    before = load_file(tiny_encoder / "model.safetensors")
    after = load_file(out / "encoder" / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("layer.1." in name for name in moved)


def test_seeds_repeat_and_differ(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, shared_run: Callable[..., Path]
) -> None:
    for seed in (1, 2):
        train.train(train_settings(tiny_data, tiny_encoder, tmp_path / str(seed), seed=seed))
    assert_same(shared_run(seed=1), tmp_path / "1")
    with pytest.raises(AssertionError):
        assert_same(shared_run(seed=1), tmp_path / "2")


def test_no_epochs_leave_the_encoder_as_it_is(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=0))
    assert result is not None
    assert (load_file(part_path(out, "dense/table"))["residual"] == 0).all()
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
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    found = []
    for seed, n in enumerate((20_000, 12, 12)):
        out = tmp_path / str(seed)
        settings = train_settings(tiny_data, tiny_encoder, out, validation_points=n, seed=seed)
        found.append(start_of(settings).validation_rows)
    assert len(found[0]) > 20
    assert 0 < len(found[1]) <= 12
    assert set(found[1]) < set(found[0])
    np.testing.assert_array_equal(found[1], found[2])


def test_the_run_says_what_it_was_made_with(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run", loss="bce"))
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert len(versions["dexml_run"]) == 64
    if (Path(__file__).parents[1] / ".git").exists():
        assert len(versions["git_commit"].removesuffix("-dirty")) == 40
    dense = Run.open(tmp_path / "run").facts["dense"]
    assert dense["log_scale"] != 0
    assert dense["offset"] < 0
    assert dense["temperature"] == pytest.approx(0.06 / math.exp(dense["log_scale"]))


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


def test_a_moved_run_directory_still_works(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "elsewhere" / "run2"))
    found = [Predictor.open(run).predict(["kernel driver"], 5) for run in (run_dir, copy)]
    np.testing.assert_array_equal(found[0].ids, found[1].ids)
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_a_batch_is_never_empty_and_each_point_is_in_one() -> None:
    """Defect 3."""
    for n in (1, 63, 64, 65, 128, 129):
        rows = np.arange(n) * 7
        batches = step.batches(rows, 64, 1)
        assert len(batches) == -(-n // 64)
        assert min(map(len, batches)) > 0
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), rows)


def test_schedule_rises_and_falls_to_zero() -> None:
    factors = [rate(step, 100, 0.1) for step in range(100)]
    assert np.argmax(factors) == 9
    assert factors[9] == 1.0
    assert 0 < factors[99] < 0.02
    assert (np.diff(factors[:10]) > 0).all()
    assert (np.diff(factors[10:]) < 0).all()


@pytest.mark.parametrize(
    ("stage", "rates"), [("heads", "--head-lr"), ("joint", "--joint-lr, --residual-lr")]
)
def test_nan_loss_ends_with_advice(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    rates: str,
) -> None:
    plain = losses.decoupled_softmax
    monkeypatch.setattr(losses, "decoupled_softmax", lambda *a, **k: plain(*a, **k) * math.nan)
    message = rf"the loss is nan at step 0 of stage {stage}; lower .*\({rates}"
    with pytest.raises(RuntimeError, match=message):
        train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run", stages=stage))


def test_full_memory_inside_a_joint_step_ends_with_advice(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(losses, "decoupled_softmax", full)
    with pytest.raises(RuntimeError, match=r"^out of memory on the device; lower .*joint-batch"):
        train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run", stages="joint"))


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
def test_memory_and_disk_end_with_advice(error: Exception, message: str) -> None:
    with pytest.raises((RuntimeError, OSError), match=message), advising(Path("run")):
        raise error


def test_finetuning_that_makes_it_worse_is_undone(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The best epoch is the head's: nothing of the fine-tuned layers may remain."""
    for name, stages in (("head", "heads"), ("both", "heads,encoder")):
        settings = train_settings(
            *(tiny_data, tiny_encoder, tmp_path / name),
            stages=stages,
            encoder_epochs=1,
            encoder_layers=1,
            encoder_lr=10.0,
            refit=False,
            head_epochs=10,
        )
        train.train(settings)
    chosen = json.loads((tmp_path / "both" / "checkpoint" / "selection.json").read_text())
    assert "encoder" not in chosen["epochs"]
    assert_same(tmp_path / "head", tmp_path / "both")
    scores = [
        json.loads((tmp_path / name / "metrics.json").read_text())["metrics"]["nDCG@5"]
        for name in ("head", "both")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_stored_zeros_are_not_positives_and_negatives_are_refused(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, shared_run: Callable[..., Path]
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
    train.train(train_settings(tmp_path / "zeros", tiny_encoder, tmp_path / "b"))
    assert_same(shared_run(), tmp_path / "b")
    with pytest.raises(ValueError, match=r"Y\.trn\.npz: row 20: negative value"):
        train.train(train_settings(tmp_path / "negative", tiny_encoder, tmp_path / "c"))


def test_a_point_without_labels_and_few_ranks(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Defects 9 (point 7 has no label), 11 (top 10 only), 16 (float32 at every border)."""
    few, out = first_points(40, tiny_data, tmp_path / "data"), tmp_path / "run"
    assert data.load_part(few, "trn", 64).y[[7]].nnz == 0
    changes: dict[str, Any] = {"stages": "encoder,heads", "encoder_epochs": 1, "head_epochs": 1}
    settings = train_settings(
        *(few, tiny_encoder, out),
        **changes,
        positives_per_point=1,
        encoder_batch_size=1,
        negatives="in-batch",
        loss="soft-top-3",
        select="P@10",
    )
    train.train(settings)
    parts = [part_path(out, f"dense/{name}") for name in ("vectors", "queries")]
    for path in [*parts, *(out / "cache").glob("*.npy")]:
        assert np.load(path).dtype == np.float32
    log = log_of(out)
    assert all("P@10" in entry["validation"] for entry in log if "validation" in entry)


def test_end_to_end_on_real_data(debtags_mini: Path, real_encoder: Path, tmp_path: Path) -> None:
    """Train, index, predict and evaluate DebTags-mini: well above popularity."""
    out = tmp_path / "run"
    arguments = [str(debtags_mini), "--out", str(out), "--encoder", str(real_encoder)]
    assert run(train_main, [*arguments, "--point-tokens", "24", "--quiet"]) == 0
    assert run(index_command.main, [str(out), "--quiet"]) == 0
    pred = tmp_path / "pred.npz"
    assert run(predict_command.main, [str(out), "--out", str(pred), "-k", "100", "--quiet"]) == 0
    y_true = data.load_labels(debtags_mini / "Y.tst.npz")
    scores = evaluate(y_true, data.load_scores(pred), ["P@1", "R@100"])
    saved = json.loads((out / "metrics.json").read_text())["metrics"]
    assert scores["P@1"] == pytest.approx(saved["P@1"], abs=0.01)
    assert scores["P@1"] > 0.5
    assert scores["R@100"] > 0.85
