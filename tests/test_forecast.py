"""`python -m dexml.train --plan`: what it prints, what it leaves alone, and what it counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dexml.commands.train import main as train_main
from dexml.console import run
from dexml.plan.forecast import count, forecast, planned_stage
from dexml.train import TrainSettings, features
from dexml.train.problem import load_encoder
from dexml.train.schedule import stage_schedule
from small import train_settings
from train_parts import start_of


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Name, size and time of everything below a folder."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def test_nothing_is_made_and_the_plan_is_on_stdout(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files(tiny_data)
    common = [str(tiny_data), "--encoder", str(tiny_encoder)]
    for more in (["--plan"], ["--plan", "--out", "run", "--stages", "heads,encoder"]):
        assert run(train_main, [*common, *more]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("data\n  training points ")
        assert "in all about" in out
        assert "measuring cpu, 1 threads" in err
        assert files(tmp_path) == {}
    assert files(tiny_data) == before


def test_json_alone_is_a_plan(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--stages", "encoder", "--negatives", "all", "--plan-json", "--quiet"]
    assert run(train_main, [str(tiny_data), "--encoder", str(tiny_encoder), *more]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["problems"] == []
    names = [part["name"] for part in found["parts"]]
    assert names[0] == "selection: encoder"
    assert "features" not in names
    assert found["parts"][0]["labels_a_step"] == found["statistics"]["labels"] == 64
    assert list(found["memory"]) == ["cpu, encoder"]
    assert found["seconds"] > 0


def test_a_run_that_is_there_stays_as_it_is(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    start_of(train_settings(tiny_data, tiny_encoder, out))  # its cache has features now
    before = files(out)
    assert any(name.startswith("cache/") for name in before)
    command = [str(tiny_data), "--encoder", str(tiny_encoder), "--out", str(out), "--quiet"]
    command += ["--engine", "torch"]  # as the run has it
    assert run(train_main, [*command, "--plan-json"]) == 0
    assert files(out) == before
    names = [part["name"] for part in json.loads(capsys.readouterr().out)["parts"]]
    assert "features" not in names  # they are there
    assert run(train_main, [*command[:3], "--quiet", "--plan-json"]) == 0
    names = [part["name"] for part in json.loads(capsys.readouterr().out)["parts"]]
    assert names[0] == "features"


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--plan", "--resume"], 2, "--plan trains nothing and needs no run; leave --resume out"),
        (["--plan-json", "--overwrite"], 2, "leave --overwrite out"),
        (["--plan", "--encoder", "./nowhere"], 1, "./nowhere: no such folder"),
        (["--plan", "--stages", "encoder", "--negatives", "hrad"], 2, "did you mean 'hard'?"),
        (["--plan=yes-please"], 2, "--plan"),
        ([], 2, "--out is missing"),
    ],
)
def test_wrong_use_is_one_line(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(tiny_data), "--encoder", str(tiny_encoder), "--quiet", *more]
    assert run(train_main, words) == code
    out, err = capsys.readouterr()
    assert out == ""
    *before, last = err.splitlines()
    assert all(line.startswith("reading ") for line in before)
    assert last.startswith("error: ")
    assert message in last


def test_an_unknown_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(train_main, [str(tmp_path / "nowhere"), "--plan", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    *before, last = err.splitlines()
    assert all(line.startswith("reading ") for line in before)
    assert "nowhere" in last


def test_only_the_first_process_speaks(
    tiny_data: Path,
    tiny_encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = [str(tiny_data), "--encoder", str(tiny_encoder), "--plan-json", "--quiet"]
    monkeypatch.setenv("RANK", "1")
    assert run(train_main, command) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert run(train_main, command) == 0
    two = json.loads(capsys.readouterr().out)["memory"]["cpu, heads"]
    monkeypatch.delenv("WORLD_SIZE")
    assert run(train_main, command) == 0
    one = json.loads(capsys.readouterr().out)["memory"]["cpu, heads"]
    assert two["point features"] == 2 * one["point features"]
    assert two["label table, moments"] == one["label table, moments"]  # shared out


POOLS: list[dict[str, Any]] = [
    {},
    {"negatives": "in-batch"},
    {"negatives": "frequency 0.5, uniform 0.5", "negatives_per_point": 3},
    {"positives_per_point": 1},
    {"stages": "heads", "head_negatives": "uniform", "head_pool": 40, "head_batch_size": 10},
]


@pytest.mark.parametrize("changes", POOLS, ids=str)
def test_the_pool_is_as_large_as_those_of_the_engine(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    from dexml.train import stages, step

    values = {"stages": "encoder", "encoder_batch_size": 10} | changes
    settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run", **values)
    job = start_of(settings)
    stage = stages.make(settings.stages, job)
    sizes = [
        len(stage.sampler.candidates(batch, epoch).ids)
        for epoch in range(1, 5)
        for batch in step.batches(job.rows, 10, 7, epoch)
        if len(batch) == 10
    ]
    problem = job.problem
    found = planned_stage(stage.schedule, problem.y, problem.exclude, job.rows, settings)
    assert found.drawn
    assert found.schedule.batch_size == 10
    assert min(sizes) - 1 <= found.candidates <= max(sizes) + 1
    assert abs(found.candidates - np.mean(sizes)) < 0.12 * np.mean(sizes)


def test_all_labels_and_hard_negatives(tiny_data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    def of(name: str, **changes: Any) -> Any:
        settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run", **changes)
        schedule = stage_schedule(name, settings, 64)
        return planned_stage(schedule, problem.y, problem.exclude, job.rows, settings)

    job = start_of(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))
    problem = job.problem
    heads, encoder = of("heads"), of("encoder", negatives="all", encoder_epochs=7)
    assert (heads.schedule.epochs, heads.schedule.batch_size) == (3, 64)
    assert (encoder.schedule.epochs, encoder.schedule.batch_size) == (7, 64)
    for stage in (heads, encoder):
        assert stage.candidates == 64
        assert not stage.drawn
    hard = {"negatives": "hard 0.5, uniform 0.5", "shortlist_every": 3, "encoder_epochs": 7}
    mined = of("encoder", **hard).schedule
    assert [epoch for epoch in range(1, 8) if mined.mines_before(epoch)] == [1, 4, 7]
    late = of("encoder", **hard, shortlist_start=2).schedule
    assert [epoch for epoch in range(1, 8) if late.mines_before(epoch)] == [3, 6]
    assert of("encoder", **hard).candidates == of("encoder", encoder_epochs=7).candidates


def test_what_is_counted_is_what_is_trained(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    def given(**changes: Any) -> Any:
        settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run", **changes)
        return count(settings, load_encoder(settings))

    job = start_of(train_settings(tiny_data, tiny_encoder, tmp_path / "run", stages="encoder"))
    problem, model = job.problem, job.model
    whole = given(stages="encoder")
    assert len(whole.point_lengths) == problem.y.shape[0]
    assert np.array_equal(whole.label_lengths, np.diff(problem.label_tokens.offsets))
    assert whole.n_positives == problem.y.nnz
    assert whole.n_validation == len(job.validation_rows)
    assert whole.n_trained == whole.n_weights == sum(p.numel() for p in model.encoder.parameters())
    one = given(stages="encoder", encoder_layers=1)
    assert (one.n_blocks, one.trained_share) == (2, 0.5)
    assert one.n_trained < one.n_weights
    frozen = given(stages="encoder", freeze_embeddings=True)
    assert one.n_trained < frozen.n_trained < frozen.n_weights
    assert given(validation=0).n_validation == 0
    assert given(memory="none").votes is False
    assert given(loss="bce", head_negatives="uniform", head_pool=64).stages[0].drawn
    planned = forecast(
        train_settings(
            *(tiny_data, tiny_encoder, tmp_path / "run"),
            loss="decoupled, soft-top-5 from 0.3",
            residual_lr=0,
        )
    )
    assert planned.memory["cpu, heads"]["label table, moments"] == 8 * 64  # biases alone


def test_a_cache_that_is_named_gets_the_tokens(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings: TrainSettings = train_settings(
        tiny_data, tiny_encoder, tmp_path / "run", cache=str(tmp_path / "cache")
    )
    forecast(settings)
    made = files(tmp_path / "cache")
    assert made
    assert not any(name.endswith(".npy") and "/" not in name for name in made)  # no features
    forecast(settings)
    assert files(tmp_path / "cache") == made
    assert not (tmp_path / "run").exists()
    assert features.cache_folder(settings) == tmp_path / "cache"
