"""`python -m dexml.train` as a command: wrong use, run directories, faulty data."""

import json
import os
import shutil
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, save_npz

import warm
from dexml import config, data, metrics
from dexml.commands.predict import main as predict_main
from dexml.commands.train import main as train_main
from dexml.commands.train import recipes, with_recipe
from dexml.console import run
from dexml.run import Run
from dexml.run.folder import read_config
from dexml.train import TrainSettings, fit, memory
from dexml.train.folder import hold_folder, open_folder
from killing import killed_everywhere
from small import assert_same, log_of, train_settings


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def command(data: Path, encoder: Path, out: Path, *more: str) -> list[str]:
    return [
        *(str(data), "--out", str(out), "--encoder", str(encoder)),
        *("--head-epochs", "1", "--quiet", *more),
    ]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--head-epoch", "3"], 2, "unknown option '--head-epoch'; did you mean '--head-epochs'?"),
        (["--head-epochs", "three"], 2, "head_epochs = 'three'"),
        (["--temperature", "0"], 2, "temperature = '0': input should be greater than 0"),
        (["--propensity", "EURLex", "--propensity-a", "0.6"], 2, "not both"),
        (["--propensity", "EURLEX"], 2, "propensity = 'EURLEX': no propensity constants"),
        (["--select", "nDCG"], 2, "select = 'nDCG'"),
        (["--select", "Coverage@5"], 2, "'Coverage@5' is not a mean over points"),
        (["--select", "macroP@5"], 2, "'macroP@5' is not a mean over points"),
        (["--config", "nowhere.toml"], 2, "--config nowhere.toml: No such file"),
        (["--config", "bad.toml"], 2, "bad.toml: unknown setting 'epochs'"),
        (["--encoder", "./nowhere"], 1, "./nowhere: no such folder"),
        (["--device", "cuda:99"], 1, "device cuda:99: not usable here"),
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
    Path("bad.toml").write_text("epochs = 3\n")
    arguments = command(tiny_data, tiny_encoder, tmp_path / "run", *more)
    assert run(train_main, arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_failed_start_leaves_nothing_and_destroys_nothing(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    wrong = command(tiny_data, Path("./nowhere"), tmp_path / "run")
    assert run(train_main, wrong) == 1
    assert not (tmp_path / "run").exists()
    assert run(train_main, command(tiny_data, tiny_encoder, tmp_path / "run")) == 0
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert run(train_main, [*wrong, "--overwrite"]) == 1
    Run.open(tmp_path / "run")  # the finished run is still there
    assert run(train_main, [*wrong, "--overwrite", "--resume"]) == 2
    again = command(tiny_data, tiny_encoder, tmp_path / "run", "--overwrite", "--seed", "9")
    assert run(train_main, again) == 0
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_foreign_folders_with_a_config_are_not_overwritten(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "config.toml").write_text("title = 'my blog'")
    for switch in ("--overwrite", "--resume"):
        assert run(train_main, command(tiny_data, tiny_encoder, site, switch)) == 1
        assert "holds something that is not a run" in capsys.readouterr().err
    assert [path.read_text() for path in site.iterdir()] == ["title = 'my blog'"]


def test_resuming_on_other_data_is_refused(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = command(tiny_data, tiny_encoder, tmp_path / "run")
    assert run(train_main, first) == 0
    other = Path(shutil.copytree(tiny_data, tmp_path / "other"))
    text = (other / "raw" / "trn_X.txt").read_text()
    (other / "raw" / "trn_X.txt").write_text(text.replace("kernel", "printer", 1))
    assert run(train_main, [*command(other, tiny_encoder, tmp_path / "run"), "--resume"]) == 1
    assert "was started on other data" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["no positives", "a text short", "no validation positives"])
def test_faulty_parts_do_not_cost_the_training(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    expected = 0
    if fault == "no positives":
        save_npz(copy / "Y.tst.npz", csr_array((80, 64), dtype=np.float32))
    elif fault == "a text short":
        expected = 1
        texts = (copy / "raw" / "tst_X.txt").read_text().splitlines()[:-1]
        (copy / "raw" / "tst_X.txt").write_text("\n".join(texts))
    else:
        y = data.load_labels(copy / "Y.trn.npz").toarray()
        y[data.validation_mask(data.load_texts(copy / "raw" / "trn_X.txt"), 0.1)] = 0
        save_npz(copy / "Y.trn.npz", csr_array(y))
    words = [word for word in command(copy, tiny_encoder, tmp_path / "run") if word != "--quiet"]
    words += ["--groups", "file"]  # each point for itself
    assert run(train_main, words) == expected
    Run.open(tmp_path / "run")
    assert {"no positives": "no test scores", "a text short": "79 lines"}.get(
        fault, "no validation part"
    ) in capsys.readouterr().err


def test_missing_out_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(train_main, [str(tmp_path)]) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert run(train_main, [str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_run_directories_are_not_overwritten(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Defect 8: two runs never share a directory."""
    out = tmp_path / "run"
    first = command(tiny_data, tiny_encoder, out)
    assert run(train_main, first) == 0
    assert run(train_main, first) == 1
    assert "not empty; add --resume or --overwrite" in capsys.readouterr().err
    assert run(train_main, [*first, "--resume", "--seed", "5"]) == 1
    assert "was started with seed = 0, not 5" in capsys.readouterr().err
    config = out / "config.toml"
    lines = config.read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("beat_text")]
    assert len(older) == len(lines) - 1
    config.write_text("".join(older))
    assert run(train_main, [*first, "--resume", "--beat-text", "1"]) == 1
    assert "was started with beat_text = 0.0, not 1.0" in capsys.readouterr().err
    assert run(train_main, [*first, "--resume"]) == 0
    assert "finished already" in capsys.readouterr().err
    assert run(train_main, [*first, "--overwrite", "--seed", "5"]) == 0
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    assert run(train_main, command(tiny_data, tiny_encoder, tmp_path / "precious", "--overwrite"))
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def endless(words: list[str], begun: Event) -> None:
    """A training that never ends its first step."""

    def wait(*_: Any) -> None:
        begun.set()
        time.sleep(600)

    setattr(fit, "take_step", wait)  # noqa: B010
    run(train_main, words)


def test_one_training_at_a_time_and_a_killed_one_can_be_resumed_at_once(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = command(tiny_data, tiny_encoder, out)
    begun = warm.context().Event()
    child = warm.context().Process(target=endless, args=(words, begun))
    child.start()
    try:
        assert begun.wait(warm.TIMEOUT)
        before = sorted(path.name for path in out.iterdir())
        for more in ([], ["--resume"], ["--overwrite"]):
            assert run(train_main, [*words, *more]) == 1
            err = capsys.readouterr().err
            assert err.count("\n") == 1
            assert f"in use by process {child.pid} (python -m dexml.train, since " in err
        assert sorted(path.name for path in out.iterdir()) == before
    finally:
        child.kill()
        child.join()
    assert run(train_main, [*words, "--resume"]) == 0
    Run.open(out)


def test_a_folder_with_only_hidden_files_counts_as_empty(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in (".DS_Store", ".lock", "Thumbs.db"):
        (out / name).touch()
    assert run(train_main, command(tiny_data, tiny_encoder, out)) == 0
    assert (out / ".DS_Store").exists()


def test_a_run_killed_before_its_scores_gets_them_on_resume(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    first = command(tiny_data, tiny_encoder, tmp_path / "run")
    assert run(train_main, first) == 0
    scores = (tmp_path / "run" / "metrics.json").read_text()
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run" / "report.html").unlink()
    log = tmp_path / "run" / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert run(train_main, [*first, "--resume"]) == 0
    assert (tmp_path / "run" / "report.html").exists()
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert again["metrics"] == json.loads(scores)["metrics"]


def always_vote(validation: Any, select: str, **options: Any) -> memory.Choice:
    votes = {"kind": "votes", "weight": 0.4, "neighbours": 20, "temperature": 0.1, "gain": {}}
    return memory.Choice(0.1, votes)


def test_scores_with_memory_are_those_of_predict_and_an_overwrite_forgets_it(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    first = command(filtered, tiny_encoder, out)
    monkeypatch.setattr(memory, "choose_memory", always_vote)
    assert run(train_main, first) == 0
    monkeypatch.undo()
    found = json.loads((out / "metrics.json").read_text())
    assert found["metrics"] != found["without_memory"]
    unseen = found["R@100 of unseen labels"]
    assert unseen.keys() == {
        *("points", "pairs"),
        *("metrics", "without_ranker", "without_memory", "encoder_alone"),
    }
    assert unseen["metrics"] == found["groups"]["seen"]["unseen (0)"]["metrics"]["R@100"]
    predictions = tmp_path / "p.npz"
    assert run(predict_main, [str(out), "-k", "100", "--out", str(predictions), "--quiet"]) == 0
    trained, test = (data.load_part(filtered, part, 64) for part in ("trn", "tst"))
    scores = metrics.evaluate(
        test.y,
        data.load_scores(predictions),
        list(found["metrics"]),
        exclude=test.exclude,
        inv_propensity=metrics.inv_propensity(trained.y),
    )
    assert scores == found["metrics"]
    assert run(train_main, [*first, "--overwrite", "--memory", "none"]) == 0
    assert not (out / "neighbours").exists()
    assert run(predict_main, [str(out), "-k", "100", "--out", str(predictions), "--quiet"]) == 0


def test_config_of_a_run_repeats_it(tiny_data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    first = command(tiny_data, tiny_encoder, tmp_path / "a", "--head-lr", "0.01", "--seed", "3")
    assert run(train_main, first) == 0
    config = str(tmp_path / "a" / "config.toml")
    again = [str(tiny_data), "--out", str(tmp_path / "b"), "--config", config, "--quiet"]
    assert run(train_main, again) == 0
    assert_same(tmp_path / "a", tmp_path / "b")


def test_recipes_are_found_by_name_and_can_be_changed(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = [str(tiny_data), "--out", str(out), "--config", "recipe:eurlex-4k-hard"]
    arguments += ["--encoder", str(tiny_encoder), "--quiet", "--encoder-epochs", "2"]
    arguments += ["--shortlist-start", "1", "--pooling", "auto", "--normalize", "auto"]
    assert run(train_main, [*arguments, "--head", "auto"]) == 0
    settings = read_config(out)
    assert settings["negatives"] == "hard"
    assert settings["encoder_epochs"] == 2
    lines = log_of(out)
    assert [line["epoch"] for line in lines if line.get("event") == "shortlist"] == [2]
    assert lines[-1]["step"] * settings["encoder_batch_size"] > 90


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_is_a_configuration(name: str) -> None:
    words = with_recipe(["data", "--out", "run", f"--config=recipe:{name}"])
    settings = config.parse(TrainSettings, words, "train")
    assert settings.stages == "encoder"
    assert settings.encoder == "distilbert-base-uncased"
    assert (settings.negatives == "hard") == name.endswith("-hard")
    assert settings.propensity.lower() == name.removesuffix("-hard")
    assert (settings.temperature, settings.normalize) in ((0.05, "yes"), (1.0, "no"))


def test_an_unknown_recipe_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(recipes()) == 8
    assert run(train_main, ["data", "--out", "run", "--config", "recipe:eurlex"]) == 2
    err = capsys.readouterr().err
    assert "no recipe 'eurlex' (there are eurlex-4k, " in err
    assert "did you mean 'eurlex-4k'?" in err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_while_a_run_begins_leaves_a_folder_to_begin_again_in(
    tiny_data: Path, tmp_path: Path
) -> None:
    """At each step of making the folder, and of making it anew."""
    (tmp_path / "run").mkdir()

    def begin(folder: Path) -> None:
        for changes in ({}, {"overwrite": True}):
            settings = train_settings(tiny_data, Path("none"), folder, **changes)
            with hold_folder(folder):
                assert not open_folder(settings, "data", "weights")

    for killed in killed_everywhere(tmp_path / "run", begin, every=3):
        settings = train_settings(tiny_data, Path("none"), killed, resume=True)
        with hold_folder(killed):
            assert not open_folder(settings, "data", "weights")
        assert {"config.toml", "versions.json"} <= set(os.listdir(killed))
