"""The label table in bfloat16: rounding without bias, updates against twins, exact gradients."""

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dexml import losses, train
from dexml.predict import Predictor
from dexml.train import stages, step
from dexml.train.rounding import RoundedRows, random_bits, to_bfloat16
from dexml.train.step import Stage
from small import part_path, train_settings
from train_parts import start_of

BATCH = np.array([3, 7, 10, 33, 150, 151, 200, 299])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def bits_of(value: float) -> int:
    found: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return found


def float_of(bits: int) -> float:
    found: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return found


@pytest.mark.parametrize("value", [0.1, -0.1, 1 / 3, -7.77e-12, 3.0e20, 1.00390624, 1e-40])
def test_rounding_is_unbiased(value: float) -> None:
    """The mean of 100,000 draws lies within 4 standard errors; each is a neighbour."""
    n = 100_000
    values = torch.full((n // 4, 4), value, dtype=torch.float32)
    found = to_bfloat16(values, random_bits(torch.arange(n // 4), 4, 5)).float().double()
    exact = float(values[0, 0])
    below = float_of(bits_of(value) & 0xFFFF0000)
    above = float_of((bits_of(value) & 0xFFFF0000) + 0x10000)
    assert set(found.unique().tolist()) == {below, above}
    share = (exact - below) / (above - below)
    error = abs(above - below) * math.sqrt(share * (1 - share) / n)
    assert abs(float(found.mean()) - exact) < 4 * error


def test_rounding_keeps_what_bfloat16_has() -> None:
    kept = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-130, math.inf, -math.inf, 3.3895e38])
    kept = kept.to(torch.bfloat16).float()
    for most in (0, 1, 40_000, 65_535):
        found = to_bfloat16(kept, torch.full((8,), most, dtype=torch.int32))
        assert torch.equal(found.float(), kept)
        assert torch.equal(found.float().signbit(), kept.signbit())
    strange = torch.tensor([0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    assert to_bfloat16(strange, torch.full((3,), 65_535, dtype=torch.int32)).isnan().all()


def test_rounding_equals_the_arithmetic_on_patterns() -> None:
    values = torch.randn(500) * torch.logspace(-30, 30, 500)
    bits = torch.randint(0, 65_536, (500,), dtype=torch.int32)
    expected = [
        float_of((bits_of(float(v)) + int(b)) & 0xFFFF0000)
        for v, b in zip(values, bits, strict=True)
    ]
    assert to_bfloat16(values, bits).float().tolist() == expected


def split_mix(x: int) -> int:
    """The published generator, on Python's integers."""
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_random_bits_are_a_function_of_seed_label_and_dimension() -> None:
    labels, dim, seed = torch.tensor([5, 0, 8_599_999]), 7, 2**62 + 3
    found = random_bits(labels, dim, seed)
    assert found.shape == (3, 7)
    for row, label in enumerate(labels.tolist()):
        for d in range(dim):
            start = split_mix(seed) + label * 2 + d // 4
            word = split_mix(start & ((1 << 64) - 1))
            assert found[row, d] == (word >> (16 * (d % 4))) & 0xFFFF
    assert torch.equal(random_bits(labels[1:], dim, seed), found[1:])
    assert not torch.equal(random_bits(labels, dim, seed + 1), found)
    many = random_bits(torch.arange(2000), 100, 1).double()
    assert float(many.mean()) == pytest.approx(32_767.5, abs=4 * 18_919 / math.sqrt(200_000))
    counts = torch.bincount((many.flatten() / 4096).long(), minlength=16).double()
    assert float(((counts - 12_500) ** 2 / 12_500).sum()) < 40  # chi-square of 15, p = 5e-4
    near = np.corrcoef(many[:-1].flatten(), many[1:].flatten())[0, 1]
    assert abs(near) < 4 / math.sqrt(200_000)


@pytest.mark.parametrize("kind", ["adaptive", "sgd"])
def test_updates_equal_their_twin_in_any_chunks(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    n_labels, dim, lr, beta, eps = 9, 5, 0.05, 0.9, 1e-8
    start = torch.randn(n_labels, dim).to(torch.bfloat16)
    values, square, count = start.clone(), [0.0] * n_labels, [0] * n_labels
    chunked = start.clone()
    ours, again = (RoundedRows(n_labels, kind, beta, eps, start) for _ in range(2))
    for one in (ours, again):
        one.add("residual", lr)
    expected = start.clone()
    for number in range(6):
        ids = torch.randperm(n_labels)[:6]
        grad = torch.randn(6, dim)
        for row, label in enumerate(ids.tolist()):
            move = lr * grad[row].double()
            if kind == "adaptive":
                count[label] += 1
                mean = float(grad[row].double().square().mean())
                square[label] = beta * square[label] + (1 - beta) * mean
                move /= math.sqrt(square[label] / (1 - beta ** count[label])) + eps
                share = count[label] / (number + 1)  # the other steps missed it
                move /= math.sqrt(share + (1 - share) * (1 - beta))
            after = (expected[label].double() - move).float().unsqueeze(0)
            bits = random_bits(ids[row : row + 1], dim, number)
            expected[label] = to_bfloat16(after, bits)[0]
        ours.step(values, ids, ids, grad, seed=number, steps=number + 1)
        monkeypatch.setattr("dexml.train.rounding.ROWS", 4)
        again.step(chunked, ids, ids, grad, seed=number, steps=number + 1)
        monkeypatch.undo()
    assert values.dtype == torch.bfloat16
    assert torch.equal(values, chunked)
    # Formed in float32, so a value next to the border of two steps may land on the other side.
    assert float((values != expected).double().mean()) < 0.05
    torch.testing.assert_close(values.float(), expected.float(), rtol=0.01, atol=0.01)


def test_small_updates_arrive_in_the_mean() -> None:
    """A thousand steps of a hundredth of the last bit: rounded to the nearest, nothing moves."""
    table = torch.ones(500, 8, dtype=torch.bfloat16)
    nearest = table.clone()
    rows = RoundedRows(500, "sgd", 0.9, 1e-8, table)
    rows.add("residual", 1.0)
    ids, grad = torch.arange(500), torch.full((500, 8), -(2.0**-7) / 100)
    for number in range(1000):
        rows.step(table, ids, ids, grad, seed=number, steps=number + 1)
        nearest = (nearest.float() - grad).to(torch.bfloat16)
    assert (nearest == 1).all()
    assert float(table.float().mean()) == pytest.approx(1 + 10 * 2.0**-7, rel=1e-3)


@pytest.fixture
def stage_of(filtered: Path, tiny_encoder: Path, tmp_path: Path) -> Callable[..., Stage]:
    def make(name: str, **changes: Any) -> Stage:
        settings = train_settings(
            *(filtered, tiny_encoder, tmp_path / "run"),
            **{"stages": name, "overwrite": True, "table": "bf16", **changes},
        )
        return stages.make(name, start_of(settings))

    return make


@pytest.mark.parametrize("name", ["heads", "joint"])
@pytest.mark.parametrize("negatives", ["all", "uniform"])
def test_gradients_of_a_rounded_table_equal_autograd(
    stage_of: Callable[..., Stage], name: str, negatives: str
) -> None:
    stage = stage_of(name, negatives=negatives, head_negatives=negatives, head_pool=128)
    if negatives == "all" and name == "heads":
        stage = replace(stage, max_tokens=10, label_plan=None)  # several micro-batches
    model, table = stage.model, stage.model.table
    model.eval()
    assert table.residual.dtype == torch.bfloat16
    found = stage.sampler.candidates(BATCH, 1)
    n = (len(BATCH), len(found.ids))
    same = np.arange(n[0]), np.arange(n[1])
    residual = table.residual.detach().float().requires_grad_()
    bias = table.bias.detach().clone().requires_grad_()
    assert float(residual.detach().abs().max()) > 0.01
    label_features, point_features = (
        torch.from_numpy(part) for part in reversed(stage.texts.features(BATCH))
    )
    labels = model.encoder.project(label_features, "label") + residual
    loss = losses.decoupled_softmax(
        model.encoder(point_features),
        torch.nn.functional.normalize(labels, dim=1)[found.ids],
        step.csr(found.positives, *same, n),
        ignore=None if found.ignore is None else step.csr(found.ignore, *same, n),
        temperature=stage.settings.temperature,
        label_bias=bias[found.ids],
        negative_log_weight=found.log_weight,
    )
    loss.backward()
    assert residual.grad is not None
    assert bias.grad is not None
    value, rows = step.gradients(stage, BATCH, 1, 0, 10)
    assert value == pytest.approx(float(loss.detach()), rel=1e-6)
    if negatives == "all":
        assert rows is None
        assert stage.own_table is not None
        assert stage.scratch.gradient is not None
        ids = torch.arange(64)[stage.own_rows]
        ours = stage.scratch.gradient, stage.own_table.bias.grad
    else:
        assert rows is not None
        ids, ours = torch.from_numpy(rows.ids), (rows.residual, rows.bias)
    assert ours[0].dtype == torch.float32
    seen = table.counts[ids] > 0  # autograd does not know that unseen labels stay at 0
    torch.testing.assert_close(ours[0][seen], residual.grad[ids][seen], rtol=1e-4, atol=1e-6)
    assert (ours[0][~seen] == 0).all()
    torch.testing.assert_close(ours[1], bias.grad[ids], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("negatives", ["all", "uniform"])
def test_a_step_moves_rows_by_the_rate_and_leaves_the_rest(
    stage_of: Callable[..., Stage], negatives: str
) -> None:
    stage = stage_of("heads", head_negatives=negatives, head_pool=128, residual_lr=0.01)
    before = stage.model.table.residual.detach().clone()
    step.take_step(stage, BATCH, 1, 0, 10)
    after = stage.model.table.residual.detach()
    moved = (after != before).any(dim=1)
    drawn = np.zeros(64, bool)
    drawn[stage.sampler.candidates(BATCH, 1).ids] = True
    seen = stage.model.table.counts.numpy() > 0
    assert (moved.numpy() <= (drawn & seen)).all()
    assert moved.numpy()[drawn & seen].mean() > 0.9
    size = (after - before).float().square().mean(dim=1).sqrt()
    assert float(size[moved].mean()) == pytest.approx(0.01, rel=0.2)  # the first step of Adam
    assert stage.rounded is not None
    assert stage.rounded.counts.tolist() == drawn.astype(int).tolist()


def test_a_run_keeps_float32_files_that_bfloat16_holds(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run", table="bf16")
    train.train(settings)
    residual = load_file(part_path(tmp_path / "run", "dense/table"))["residual"]
    assert residual.dtype == torch.float32
    assert torch.equal(residual.to(torch.bfloat16).float(), residual)
    assert (residual[5] == 0).all()  # a label without training points
    assert float(residual.abs().max()) > 0
    predictor = Predictor.open(tmp_path / "run")
    added = predictor.add_labels(["kernel font"])
    assert predictor.predict(["kernel driver"], 3).ids.shape == (1, 3)
    assert len(added) == 1


def test_label_features_stay_on_the_host_where_labels_are_drawn(
    stage_of: Callable[..., Stage],
) -> None:
    """They may take more than the table; a step sends those of its labels."""
    for changes, resident in (
        ({"head_negatives": "all"}, True),
        ({"head_negatives": "uniform"}, False),
    ):
        stage = stage_of("heads", **changes)
        assert stages.holds_label_features(stage.schedule, stage.settings) is resident
    plain = stage_of("heads", head_negatives="uniform", table="float32")
    assert stages.holds_label_features(plain.schedule, plain.settings)
