"""The plan: its arithmetic against a slow count, what does not fit, and what it leaves alone."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dexml import plan as planning
from dexml.plan import Machine, PlanInput, PlannedStage, Speed, as_text, expected_batches, plan
from dexml.train import TrainSettings
from dexml.train.schedule import StageSchedule

GIB = 2**30
LARGE = Machine(10**15, 10**15)
SPEED = Speed(
    batch=0.0,
    token=1e-3,
    token_pair=0.0,
    search=1e-7,
    host_search=1e-7,
    heads_step=0.5,
    heads_label=1e-2,
    label_bytes=100.0,
    backward=3.0,
    token_bytes=1000.0,
    score=1e-6,
)


def stage(name: Any, candidates: int = 50, **changes: Any) -> PlannedStage:
    """Steps of 10 points against all 50 labels: 4 epochs of the heads, 2 of the encoder."""
    epochs = {"heads": 4, "encoder": 2, "joint": 2}[name]
    values: dict[str, Any] = {"epochs": epochs, "batch_size": 10, "negatives": "all"}
    values |= {"per_point": 2} | changes
    return PlannedStage(StageSchedule(name, **values), candidates)


HEADS, ENCODER, JOINT = stage("heads"), stage("encoder"), stage("joint")
DRAWN: Any = {"uniform": 1.0}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def given(*stages: PlannedStage, **changes: Any) -> PlanInput:
    """100 points of 8 tokens, 50 labels of 4; 20 points held out. Changes may be of settings."""
    stages = stages or (HEADS,)
    values: dict[str, Any] = {
        "point_lengths": np.full(100, 8),
        "label_lengths": np.full(50, 4),
        "n_positives": 300,
        "n_unseen": 5,
        "n_validation": 20,
        "dim": 16,
        "width": 16,
        "n_weights": 10_000,
        "n_trained": 6_000,
        "n_blocks": 4,
    }
    names = ",".join(stage.name for stage in stages)
    settings: dict[str, Any] = {"stages": names, "memory": "none", "keep_tokens": 10**9}
    for name, value in changes.items():
        (values if name in PlanInput.__dataclass_fields__ else settings)[name] = value
    return PlanInput(
        settings=TrainSettings(data_dir=Path("unused"), out=Path("unused"), **settings),
        stages=stages,
        **values,
    )


def test_heads_on_frozen_features() -> None:
    found = plan(given(), SPEED, LARGE)
    assert [part.name for part in found.parts] == [
        "features",
        "selection: heads",
        "selection: prior",
        "all points: heads",
    ]
    features, selection, prior, refit = found.parts
    assert features.tokens_an_epoch == 100 * 8 + 50 * 4
    assert math.isclose(features.seconds, 1.0)
    assert (selection.steps, refit.steps) == (4 * 8, 4 * 10)
    assert selection.scores_a_step == 10 * 50
    assert selection.tokens_a_step == 0
    step = 0.5 + 50 * 1e-2
    search = 20 * 50 * 1e-7
    assert math.isclose(selection.seconds_an_epoch, 8 * step)
    assert math.isclose(selection.seconds, 4 * 8 * step + 4 * search)
    assert math.isclose(prior.seconds, 9 * search)
    assert math.isclose(refit.seconds, 40 * step)
    assert math.isclose(found.seconds, sum(part.seconds for part in found.parts))


@pytest.mark.parametrize(
    ("changes", "units"),
    [
        ({}, 3.0),
        ({"keep_tokens": 1}, 4.0 - 2 / 280),  # all else is encoded twice: gradient cache
        ({"keep_tokens": 70}, 3.5),  # of each side: half of 280 tokens
        ({"encoder_layers": 2}, 2.0),
        ({"encoder_layers": 1, "cache_layers": True}, 0.75),
        ({"encoder_layers": 2, "cache_layers": True, "keep_tokens": 1}, 2.0 - 1 / 280),
    ],
)
def test_forward_units_of_a_trained_token(changes: dict[str, Any], units: float) -> None:
    found = plan(given(ENCODER, n_validation=0, **changes), SPEED, LARGE)
    assert math.isclose(found.units["encoder"], units)
    part, last = [part for part in found.parts if part.name != "frozen layers"]
    tokens = 10 * 8 + 50 * 4
    assert part.tokens_a_step == tokens
    assert part.tokens_an_epoch == 10 * tokens
    assert math.isclose(part.seconds_an_epoch, 10 * (tokens * 1e-3 * units + 500 * 1e-6))
    assert math.isclose(part.seconds, 2 * part.seconds_an_epoch)
    assert last.name == "vectors to search"
    assert math.isclose(last.seconds, (100 * 8 + 50 * 4) * 1e-3)


def test_validations_and_refreshed_shortlists_encode_and_search() -> None:
    often = stage("encoder", epochs=5, evaluate_every=2)  # after epochs 2, 4 and the last
    mining = stage(
        "encoder", epochs=5, evaluate_every=2, negatives={"hard": 1.0}, shortlist_every=2
    )
    once = stage("encoder", epochs=5, evaluate_every=99)
    found = plan(given(mining, validation_points=15), SPEED, LARGE)
    unmined = plan(given(often, validation_points=15), SPEED, LARGE)
    plain = plan(given(once), SPEED, LARGE)
    one_validation = (15 * 8 + 50 * 4) * 1e-3 + 15 * 50 * 1e-7
    whole = (20 * 8 + 50 * 4) * 1e-3 + 20 * 50 * 1e-7
    a_refresh = (80 * 8 + 50 * 4) * 1e-3 + 80 * 50 * 1e-7
    expected = plain.parts[0].seconds - whole + 3 * one_validation
    assert math.isclose(unmined.parts[0].seconds, expected)
    assert math.isclose(found.parts[0].seconds, expected + 3 * a_refresh)  # epochs 1, 3, 5


def test_several_processes_share_the_work() -> None:
    one = plan(given(ENCODER, n_validation=0), SPEED, LARGE)
    two = plan(given(ENCODER, n_validation=0, world=2), SPEED, LARGE)
    assert math.isclose(one.seconds, 2 * two.seconds)
    one = plan(given(device="cuda"), SPEED, LARGE)
    two = plan(given(device="cuda", world=2), SPEED, LARGE)
    name = "label table, moments"
    assert one.memory["cuda, heads"][name] == 2 * two.memory["cuda, heads"][name]


@pytest.mark.parametrize("seed", range(5))
def test_expected_batches_are_those_that_are_made(seed: int) -> None:
    from dexml.encoder import Tokens

    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 20, 400)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = Tokens(np.zeros(offsets[-1], np.int32), offsets)
    whole = expected_batches(lengths, len(lengths), 64)
    assert abs(whole - len(tokens.batches(64))) <= len(np.unique(lengths))
    few = [len(tokens.batches(10**6, generator.choice(400, 12, replace=False))) for _ in range(300)]
    assert math.isclose(expected_batches(lengths, 12, 10**6), float(np.mean(few)), rel_tol=0.06)
    assert expected_batches(np.array([7]), 0, 64) == 0


def test_packed_micro_batches_are_fewer() -> None:
    lengths = np.random.default_rng(0).integers(3, 14, 100)
    seconds = []
    for packed in (False, True):
        asked = given(ENCODER, point_lengths=lengths, micro_tokens=64, packed=packed)
        parts = plan(asked, replace(SPEED, batch=1.0), LARGE).parts
        seconds += [part.seconds_an_epoch for part in parts if part.name == "selection: encoder"]
    assert seconds[1] < 0.8 * seconds[0]


def test_scores_are_kept_where_the_device_has_room_for_them() -> None:
    wide = stage("heads", candidates=50, batch_size=2_000_000)
    for memory, device, name, size in (
        (80 * GIB, "cuda", "loss, scores kept", 4 * 4 * 50 * 2_000_000 / 3),
        (2 * GIB, "cuda", "loss, scores formed twice", 256 * 2**20),
        (0, "cpu", "loss, scores formed twice", 64 * 2**20),
    ):
        asked = given(wide, device=device, device_bytes=memory)
        found = plan(asked, SPEED, LARGE).memory[f"{device}, heads"]
        assert math.isclose(found[name], size, rel_tol=1e-6)
    split = given(wide, device="cuda", device_bytes=80 * GIB, world=2)
    assert "loss, scores formed twice" in plan(split, SPEED, LARGE).memory["cuda, heads"]


def test_memory_by_part() -> None:
    memory = plan(given(HEADS, ENCODER, device="cuda"), SPEED, LARGE).memory
    heads, encoder, host = memory["cuda, heads"], memory["cuda, encoder"], memory["host"]
    assert heads["encoder, weights"] == encoder["encoder, weights"] == 40_000
    assert heads["label features"] == 4 * 50 * 16
    assert heads["label table, moments"] == 8 * 50 * 17
    assert heads["label table, gradients"] == 4 * 50 * 17
    assert encoder["encoder, moments"] == 8 * 6_000
    assert encoder["encoder, gradients"] == 4 * 6_000
    assert encoder["label embeddings and their gradients"] == 8 * 50 * 16
    assert encoder["activations"] == 280 * 1000
    assert host["point features"] == 4 * 100 * 16
    bare = plan(given(device="cuda", residual_lr=0), SPEED, LARGE).memory["cuda, heads"]
    assert bare["label table, moments"] == 8 * 50
    kept = given(ENCODER, device="cuda", keep_tokens=100, micro_tokens=120)
    # All points, while 120 tokens of labels are encoded again; kept were 100.
    assert plan(kept, SPEED, LARGE).memory["cuda, encoder"]["activations"] == (80 + 120) * 1000
    cpu = plan(given(world=2), SPEED, LARGE).memory
    assert list(cpu) == ["cpu, heads"]
    assert cpu["cpu, heads"]["encoder, weights"] == 2 * 40_000
    assert cpu["cpu, heads"]["point features"] == 2 * 4 * 100 * 16
    spread = plan(given(world=2, local=1), SPEED, LARGE).memory  # on two machines
    assert spread["cpu, heads"]["point features"] == 4 * 100 * 16
    loaded = plan(given(world=2, resident=GIB), SPEED, LARGE).memory["cpu, heads"]
    assert loaded["loaded already: libraries, texts, pairs"] == 2 * GIB
    assert not {"pairs", "encoder, weights"} & loaded.keys()
    on_gpu = plan(given(device="cuda", resident=GIB), SPEED, LARGE).memory
    assert "encoder, weights" in on_gpu["cuda, heads"]
    assert on_gpu["host"]["loaded already: libraries, texts, pairs"] == GIB


MANY_LABELS = {"label_lengths": np.full(10**6, 4)}


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (
            stage("heads", 1000, negatives=DRAWN),
            MANY_LABELS,
            r"cuda, heads needs .* GiB of 1.0 GiB, most for label table, moments .*--residual-lr 0",
        ),
        (
            stage("heads", 10**6),
            MANY_LABELS,
            "cuda, heads needs .*most for label embeddings, .*draw negatives",
        ),
        (
            stage("encoder", batch_size=500_000),
            {"point_lengths": np.full(10**6, 8)},
            r"cuda, encoder needs .*most for activations \(.*--keep-tokens",
        ),
        (
            HEADS,
            {"n_weights": 10**9},
            "cuda, heads needs .*most for encoder, weights .*smaller encoder",
        ),
        (
            HEADS,
            {"resident": 2 * GIB, "world": 4},
            "host needs 8.0 GiB .*most for loaded already.*fewer",
        ),
        (
            HEADS,
            {"point_lengths": np.full(10**6, 8)},
            "host needs .*most for point features,? .*fewer points",
        ),
    ],
)
def test_what_will_not_fit_says_what_to_change(
    stage: PlannedStage, changes: dict[str, Any], message: str
) -> None:
    wide = {"dim": 384, "width": 384, "device": "cuda"} | changes
    found = plan(given(stage, **wide), SPEED, Machine(GIB, GIB, "cuda:0"))
    assert any(re.search(message, problem) for problem in found.problems)
    assert "will not fit: cuda" in as_text(found) or "will not fit: host" in as_text(found)
    assert plan(given(), SPEED, LARGE).problems == []


@pytest.mark.parametrize(
    ("candidates", "changes", "message"),
    [
        (
            50,
            {"point_lengths": np.zeros(0, int)},
            "0 points and 50 labels; there is nothing to train",
        ),
        (50, {"n_validation": 100}, "n_validation = 100 of 100 points"),
        (50, {"world": 0}, "world = 0; expected at least 1"),
        (51, {}, "stage heads has 51 candidates of 50 labels"),
        (0, {}, "stage heads has 0 candidates"),
    ],
)
def test_quantities_that_cannot_be(candidates: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(given(stage("heads", candidates), **changes), SPEED, LARGE)


def test_without_validation_or_refit() -> None:
    def names(**changes: Any) -> list[str]:
        return [part.name for part in plan(given(**changes), SPEED, LARGE).parts]

    assert names(n_validation=0) == ["features", "all points: heads"]
    assert names(refit=False) == ["features", "selection: heads", "selection: prior"]


def test_text_and_json() -> None:
    found = plan(given(HEADS, ENCODER), SPEED, LARGE)
    text = as_text(found)
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "selection: heads",
        "all points: encoder",
        "tokens of all labels",
        "in all about",
    ):
        assert words in text
    again = json.loads(json.dumps(found.as_json()))
    assert again["statistics"]["tokens of all points"] == 800
    assert again["parts"][0]["name"] == "features"


def test_what_is_cached_and_what_features_are_encoded_again() -> None:
    def parts(*stages: PlannedStage, **changes: Any) -> dict[str, float]:
        found = plan(given(*stages, **changes), SPEED, LARGE).parts
        return {part.name: part.seconds for part in found}

    whole = (100 * 8 + 50 * 4) * 1e-3
    assert math.isclose(parts(HEADS, ENCODER)["features"], whole)
    none = np.zeros(0, np.int64)
    assert "features" not in parts(HEADS, ENCODER, new_lengths=(none, none))
    some = parts(HEADS, ENCODER, new_lengths=(np.full(10, 8), none))
    assert math.isclose(some["features"], 10 * 8 * 1e-3)
    behind = parts(ENCODER, HEADS)
    assert "features" not in behind
    assert math.isclose(behind["selection: features"], whole)
    assert math.isclose(behind["all points: features"], whole)
    lower = parts(ENCODER, cache_layers=True, encoder_layers=1)
    assert math.isclose(lower["frozen layers"], 0.75 * whole)
    assert not any("heads" in name for name in parts(ENCODER, stage("heads", epochs=0)))


def test_votes_of_points_are_searched_and_encoded() -> None:
    def prior(*stages: PlannedStage, **changes: Any) -> float:
        found = plan(given(*stages, **changes), SPEED, LARGE).parts
        return next(part.seconds for part in found if part.name == "selection: prior")

    assert math.isclose(prior(memory="auto") - prior(), 20 * 80 * 1e-7)
    assert math.isclose(prior(ENCODER) - prior(), (20 * 8 + 50 * 4) * 1e-3)
    votes = prior(ENCODER, memory="auto") - prior(ENCODER)
    assert math.isclose(votes, 20 * 80 * 1e-7 + 80 * 8 * 1e-3)
    # One process chooses, on the host.
    assert math.isclose(prior(world=2), prior())
    slow = plan(given(), replace(SPEED, host_search=1e-3), LARGE).parts
    assert math.isclose(slow[2].seconds, 9 * 20 * 50 * 1e-3)


def test_the_last_batch_has_fewer_points_but_all_labels_where_all_compete() -> None:
    odd = {"point_lengths": np.full(95, 8), "n_validation": 0}
    for one, labels in ((ENCODER, 50), (stage("encoder", negatives=DRAWN), 25)):
        part = plan(given(one, **odd), SPEED, LARGE).parts[0]
        assert part.tokens_an_epoch == 9 * (10 * 8 + 50 * 4) + 5 * 8 + labels * 4


def test_rows_of_drawn_labels_and_rows_of_all() -> None:
    def sizes(drawn: bool, world: int) -> dict[str, float]:
        found = given(
            stage("heads", negatives=DRAWN if drawn else "all"), device="cuda", world=world
        )
        return plan(found, SPEED, LARGE).memory["cuda, heads"]

    whole, drawn = sizes(False, 2), sizes(True, 2)
    assert whole["label table, moments"] == 8 * 25 * 17
    assert drawn["label table, moments"] == 8 * 50 * 17  # each process moves all drawn rows
    assert whole["label table, gradients"] == 4 * 25 * 17
    assert drawn["label table, gradients"] == 4 * (25 + 2 * 50) * 17
    assert drawn["label table, weights"] == 4 * 50 * 17 + 8 * 50 + 4 * 25 * 17
    assert sizes(True, 1)["label table, gradients"] == 4 * (50 + 50) * 17


def test_joint_costs_the_encoder_and_the_table() -> None:
    parts = {part.name: part for part in plan(given(JOINT), SPEED, LARGE).parts}
    assert "features" in parts  # of the points, for the centroids
    assert "features" not in [p.name for p in plan(given(ENCODER), SPEED, LARGE).parts]
    after = [part.name for part in plan(given(HEADS, JOINT), SPEED, LARGE).parts]
    assert after.count("features") == 1
    assert "selection: features" not in after  # the residuals are there
    assert "selection: features" in [
        p.name for p in plan(given(ENCODER, JOINT), SPEED, LARGE).parts
    ]
    speed = replace(SPEED, update=1e-6)
    for negatives in ("all", DRAWN):
        seconds = []
        for name in ("encoder", "joint"):
            found = plan(given(stage(name, negatives=negatives)), speed, LARGE).parts
            seconds += [p.seconds_an_epoch for p in found if p.name == f"selection: {name}"]
        assert math.isclose(seconds[1] - seconds[0], 8 * 50 * 17 * 1e-6)
    memory = plan(given(JOINT, device="cuda"), SPEED, LARGE).memory
    joint, host = memory["cuda, joint"], memory["host"]
    encoder = plan(given(ENCODER, device="cuda"), SPEED, LARGE).memory["cuda, encoder"]
    for part, size in encoder.items():
        if part != "label table, weights":
            assert joint[part] == size, part
    assert joint["label table, moments"] == 8 * 50 * 17
    assert joint["label table, gradients"] == 4 * 50 * 17
    assert joint["label table, weights"] == 2 * 4 * 50 * 17  # and in the order of the texts
    assert host["point features"] == 4 * 100 * 16
    drawn = given(stage("joint", 20, negatives=DRAWN), device="cuda")
    drawn_sizes = plan(drawn, SPEED, LARGE).memory["cuda, joint"]
    assert drawn_sizes["label table, moments"] == 8 * 50 * 17
    assert drawn_sizes["label table, gradients"] == 4 * (20 + 20) * 17


def test_a_table_in_bfloat16_takes_two_bytes_a_number() -> None:
    """8.6 M labels of 768 dimensions on a device of 20 GiB, and most of it is the table."""
    n_labels, dim, drawn = 8_600_000, 768, 12_000
    many: dict[str, Any] = {
        "label_lengths": np.full(n_labels, 4, np.int32),
        "dim": dim,
        "width": dim,
        "n_weights": 67_000_000,
        "device": "cuda",
    }
    heads = stage("heads", drawn, negatives=DRAWN, batch_size=256)
    speed = replace(SPEED, label_bytes=4.0 * 6 * dim)
    sizes = plan(given(heads, table="bf16", **many), speed, LARGE).memory["cuda, heads"]
    assert sum(sizes.values()) < 20 * GIB
    table = 2 * n_labels * dim
    a_label = 4 + 8 + 8 + 12  # bias, its moments and count, square and count of the row
    assert sum(sizes.values()) - table - a_label * n_labels < 2 * GIB  # and that is all
    wide = plan(given(heads, **many), speed, LARGE).memory["cuda, heads"]
    assert sum(wide.values()) > 90 * GIB
    plain = given(heads, table="bf16", table_update="sgd", **many)
    assert plan(plain, speed, LARGE).memory["cuda, heads"]["label table, moments"] == 8 * n_labels
    # Where all compete, the gradients are float32; the features are on the device.
    small = plan(given(HEADS, table="bf16", device="cuda"), SPEED, LARGE).memory["cuda, heads"]
    assert small["label table, weights"] == 50 * (2 * 16 + 4)
    assert small["label table, gradients"] == 4 * 50 * 17
    assert small["label table, moments"] == 50 * (8 + 12)
    assert small["label features"] == 4 * 50 * 16
    joint = plan(given(JOINT, table="bf16", device="cuda"), SPEED, LARGE).memory["cuda, joint"]
    assert joint["label table, weights"] == 2 * 50 * (2 * 16 + 4)


def test_one_point_and_one_label() -> None:
    lengths = np.array([3])
    small = given(
        stage("heads", 1, batch_size=1),
        point_lengths=lengths,
        label_lengths=lengths,
        n_validation=0,
    )
    assert "features" in as_text(plan(small, SPEED, LARGE))


def test_the_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = planning.machine()
    assert GIB / 4 < found.host < 2**50
    assert found.device == found.host
    held = planning.resident()
    assert 2**24 < held < found.host
    # In a process of its own: of a large old one, systems take idle pages away at any moment.
    code = (
        "import numpy as np; from dexml.plan import resident; held = resident(); "
        "block = np.ones(2**26, np.uint8); print((resident() - held) / block.nbytes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.8
    monkeypatch.setattr(Path, "read_text", lambda *_: "12345\n")
    assert planning.resident() > 2**24  # no such file: the most there was
    assert planning.machine().host == 12345
    monkeypatch.setattr(Path, "read_text", lambda *_: "max\n")
    assert planning.machine().host > 12345


@pytest.fixture(scope="module")
def measured(tiny_encoder: Path) -> Callable[..., tuple[Any, Speed]]:
    from dexml.encoder import DualEncoder
    from dexml.plan.measure import measure
    from dexml.train.schedule import stage_schedules

    def run(**changes: Any) -> tuple[Any, Speed]:
        encoder = DualEncoder.load(str(tiny_encoder), head="shared")
        torch.manual_seed(3)
        values: dict[str, Any] = {"stages": "heads,encoder", "head_batch_size": 4}
        values |= {"micro_tokens": 64} | changes
        settings = TrainSettings(data_dir=Path("unused"), out=Path("unused"), **values)
        lengths, planned = np.array([4, 4, 3, 3, 9, 9]), stage_schedules(settings, 3)
        return encoder, measure(encoder, lengths, 3, settings, planned, positives=1.5)

    return run


def test_measuring_leaves_everything_as_it_was(
    measured: Callable[..., tuple[Any, Speed]], tiny_encoder: Path
) -> None:
    from dexml.encoder import DualEncoder

    torch.manual_seed(3)
    expected = torch.rand(4)
    encoder, speed = measured()  # seeds as above
    assert torch.equal(torch.rand(4), expected)
    fresh = DualEncoder.load(str(tiny_encoder), head="shared")
    assert encoder.training == fresh.training
    for (name, parameter), other in zip(
        encoder.named_parameters(), fresh.parameters(), strict=True
    ):
        assert torch.equal(parameter, other), name
        assert parameter.requires_grad == other.requires_grad
        assert parameter.grad is None
    numbers = vars(speed)
    assert all(math.isfinite(value) and value >= 0 for value in numbers.values()), numbers
    for name in ("token_bytes", "label_bytes", "score", "search"):
        assert numbers[name] > 0


def test_bytes_of_a_token_are_those_that_autograd_keeps(
    measured: Callable[..., tuple[Any, Speed]],
) -> None:
    """More than one state of every layer, and not a multiple of all there is."""
    _, speed = measured()
    width, layers, middle = 16, 2, 32
    assert 4 * layers * (width + middle) < speed.token_bytes < 4 * layers * 40 * (width + middle)
    _, without = measured(stages="heads")
    assert (without.backward, without.token_bytes) == (3.0, 0.0)


@pytest.mark.parametrize("residual", [True, False])
def test_a_step_on_drawn_rows_is_measured(
    measured: Callable[..., tuple[Any, Speed]], residual: bool
) -> None:
    rate = 1e-3 if residual else 0.0
    _, speed = measured(head_negatives="uniform", residual_lr=rate, precision="bfloat16")
    assert speed.heads_step + speed.heads_label > 0
    assert speed.label_bytes > 0
    assert speed.update > 0


def test_a_measured_plan(measured: Callable[..., tuple[Any, Speed]]) -> None:
    _, speed = measured()
    found = plan(given(HEADS, ENCODER), speed, planning.machine())
    assert found.seconds > 0
    assert found.problems == []
    slower = plan(given(HEADS, ENCODER), replace(speed, token=1.0), planning.machine())
    assert slower.seconds > found.seconds
