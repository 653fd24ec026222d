"""Light runs that grow: an encoder is trained in their folder, and they are served until then."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml import _rust, console, train
from dexml.commands.train import main as train_main
from dexml.predict import Predictor, open_run
from dexml.run import Run
from dexml.text.bilinear import fit_bilinear
from dexml.train import TrainSettings, fit
from dexml.train.settings import SWITCHES
from dexml.train.words import Also
from small import confusing_data, log_of, train_settings

TEXTS = ["secret3 kernel driver", "printer theme", "secret9 secret11", ""]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return confusing_data(tmp_path_factory.mktemp("data") / "secrets")


def settings_of(data: Path, encoder: Path | str, out: Path, **changes: Any) -> TrainSettings:
    values = {"ranker": "auto", "bilinear": "none", "validation": 0.3, "head_epochs": 2}
    return train_settings(data, Path(encoder), out, **(values | changes))


def always_a_tree(patch: pytest.MonkeyPatch) -> None:
    for module in ("light", "evidence"):
        patch.setattr(
            f"dexml.train.{module}.used_by", lambda network: Also(network is not None, False)
        )


@pytest.fixture(autouse=True)
def trees_that_help(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The label tree is always used; the list counts how often one is trained, by its seed."""
    trained: list[int] = []
    usual = _rust.fit_tree

    def counted(*arguments: Any, **options: Any) -> Any:
        trained.append(options["seed"])
        return usual(*arguments, **options)

    monkeypatch.setattr(_rust, "fit_tree", counted)
    always_a_tree(monkeypatch)
    return trained


@pytest.fixture(scope="module")
def light(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A light run with a tree."""
    out = tmp_path_factory.mktemp("runs") / "light"
    with pytest.MonkeyPatch.context() as patch:
        always_a_tree(patch)
        train.train(settings_of(secrets, "none", out))
    assert "tree" in facts_of(out)
    return out


@pytest.fixture(scope="module")
def full(secrets: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with an encoder in a folder of its own."""
    out = tmp_path_factory.mktemp("runs") / "full"
    with pytest.MonkeyPatch.context() as patch:
        always_a_tree(patch)
        train.train(settings_of(secrets, tiny_encoder, out))
    return out


@pytest.fixture
def growing(light: Path, tmp_path: Path) -> Path:
    """The light run, in a folder of its own."""
    out = tmp_path / "run"
    shutil.copytree(light, out)
    return out


def facts_of(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    return facts


def content(run: Path) -> dict[str, bytes]:
    """All files of a run but its log."""
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", ".lock")
    }


def events(run: Path) -> list[str]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    named = (line.get("event") for line in lines)
    return [event for event in named if event in ("started", "growing", "finished")]


def killed(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_a_light_run_grows_into_what_a_training_of_its_own_gives(
    growing: Path, full: Path, secrets: Path, tiny_encoder: Path
) -> None:
    light_seconds = json.loads((growing / "metrics.json").read_text())["training_seconds"]
    result = train.train(settings_of(secrets, tiny_encoder, growing))
    assert result is not None
    grown, own = facts_of(growing), facts_of(full)
    assert {name for name in grown if grown[name] != own[name]} <= {"data", "digest"}
    assert grown.keys() == own.keys()
    # The folder holds no file of the light run any more, and its pages are about the new one.
    assert content(growing).keys() == content(full).keys()
    found, expected = (json.loads((run / "metrics.json").read_text()) for run in (growing, full))
    assert found["metrics"] == expected["metrics"] == result.metrics
    assert found["training_seconds"] >= light_seconds
    marks = json.loads((growing / "versions.json").read_text())
    assert marks["encoder"] == json.loads((full / "versions.json").read_text())["encoder"]
    assert f"encoder = '{tiny_encoder}'".replace("'", '"') in (growing / "config.toml").read_text()
    assert events(growing) == ["started", "finished", "growing", "started", "finished"]
    (line,) = (line for line in log_of(growing) if line.get("event") == "growing")
    assert line["light"] == {"encoder": "none"}
    assert train.train(settings_of(secrets, tiny_encoder, growing, resume=True)) is None


@pytest.mark.parametrize(("changes", "trained"), [({}, [1]), ({"seed": 2}, [2, 2])])
def test_a_tree_of_the_same_points_and_seed_is_not_trained_again(
    growing: Path,
    secrets: Path,
    tiny_encoder: Path,
    trees_that_help: list[int],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    trained: list[int],
) -> None:
    """The one that the validation points are kept from is trained; the light run keeps none."""
    monkeypatch.setattr("dexml.train.inputs.ENOUGH", 1)
    before = facts_of(growing)["parts"]
    train.train(settings_of(secrets, tiny_encoder, growing, **changes))
    assert trees_that_help == trained
    after = facts_of(growing)["parts"]
    same = all(after[role] == before[role] for role in before if role.startswith("tree/"))
    assert same == (not changes)
    assert all(after[role] == before[role] for role in before if role.startswith("lexical/"))


def test_with_fewer_points_the_tree_is_trained_again(
    growing: Path,
    secrets: Path,
    tiny_encoder: Path,
    trees_that_help: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dexml.train.inputs.ENOUGH", 1)
    train.train(settings_of(secrets, tiny_encoder, growing, refit=False))
    assert trees_that_help == [1, 1]


@pytest.mark.parametrize(("changes", "fitted"), [({}, 1), ({"seed": 2}, 2), ({"refit": False}, 2)])
def test_pairs_of_words_of_the_same_points_and_seed_are_not_fitted_again(
    secrets: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    fitted: int,
) -> None:
    monkeypatch.setattr("dexml.train.inputs.ENOUGH", 1)
    for module in ("light", "evidence"):
        monkeypatch.setattr(f"dexml.train.{module}.used_by", lambda _: Also(True, True))
    out = tmp_path / "run"
    train.train(settings_of(secrets, "none", out, bilinear="auto"))
    before, fits = facts_of(out)["parts"], list[int]()

    def counted(*arguments: Any, **options: Any) -> Any:
        fits.append(options["seed"])
        return fit_bilinear(*arguments, **options)

    monkeypatch.setattr("dexml.scorers.bilinear.fit_bilinear", counted)
    train.train(settings_of(secrets, tiny_encoder, out, bilinear="auto", **changes))
    assert len(fits) == fitted
    after = facts_of(out)["parts"]
    roles = [role for role in before if role.startswith("bilinear/")]
    assert roles
    assert all(after[role] == before[role] for role in roles) == (not changes)


def test_the_light_run_answers_until_the_training_is_done(
    growing: Path,
    full: Path,
    secrets: Path,
    tiny_encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training that is killed goes on with --resume; meanwhile nobody may edit the run."""
    opened = Predictor.open(growing)
    light = opened.predict(TEXTS, 5)
    settings = settings_of(secrets, tiny_encoder, growing)
    answers = []

    def asked(*_: Any) -> Any:
        answers.append(Predictor.open(growing).predict(TEXTS, 5))
        editor = Predictor.open(growing)
        editor.add_labels(["wombat"])
        with pytest.raises(RuntimeError, match=r"python -m dexml\.train"):
            editor.save()
        raise KeyboardInterrupt

    monkeypatch.setattr("dexml.sealed.home.WAIT", 0.1)
    for place, at in (("dexml.train.fit.fit", asked), ("dexml.train.final.save", killed)):
        with monkeypatch.context() as patch:
            patch.setattr(place, at)
            with pytest.raises(KeyboardInterrupt):
                train.train(settings)
        settings = settings.model_copy(update={"resume": True})
        answers.append(Predictor.open(growing).predict(TEXTS, 5))
    for answer in answers:
        np.testing.assert_array_equal(answer.ids, light.ids)
        np.testing.assert_array_equal(answer.scores, light.scores)
    train.train(settings)
    assert facts_of(growing)["parts"] == facts_of(full)["parts"]
    assert "dense" in Run.open(growing).facts
    np.testing.assert_array_equal(opened.predict(TEXTS, 5).ids, light.ids)  # opened before
    opened.add_labels(["wombat"])
    with pytest.raises(RuntimeError, match="changed by another process"):
        opened.save()


@pytest.mark.parametrize(
    "place",
    [
        *("run.folder.write_json", "run.folder.write_config", "train.run.begin_log"),
        *("train.features.tokenize", "train.final.Home.save", "train.outcome.write_json"),
    ],
)
def test_killed_anywhere_it_goes_on(
    growing: Path,
    full: Path,
    secrets: Path,
    tiny_encoder: Path,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(secrets, tiny_encoder, growing, resume=True)  # a new one may have it too
    with monkeypatch.context() as patch:
        patch.setattr(f"dexml.{place}", killed)
        with pytest.raises(KeyboardInterrupt):
            train.train(settings)
    assert Predictor.open(growing).predict(TEXTS, 5).ids.shape == (4, 5)
    assert ("dense" in Run.open(growing).facts) == (place == "train.outcome.write_json")
    assert (growing / "metrics.json").exists() == (not place.startswith(("train.final", "train.o")))
    train.train(settings)
    assert facts_of(growing)["parts"] == facts_of(full)["parts"]
    assert (growing / "metrics.json").exists()
    assert events(growing)[-1] == "finished"


def add_label(predictor: Predictor) -> None:
    predictor.add_labels(["wombat burrow", "zebra"])


def remove_label(predictor: Predictor) -> None:
    predictor.remove_labels([3])


def update_label(predictor: Predictor) -> None:
    predictor.update_labels([7], ["numbat colony"])


def add_points(predictor: Predictor) -> None:
    predictor.add_points(["quokka island", "a quokka", "quokka"], [[3], [5, 7], []])


def all_at_once(predictor: Predictor) -> None:
    for edit in (add_label, remove_label, update_label, add_points):
        edit(predictor)


EDITS: dict[Callable[[Predictor], None], str] = {
    add_label: "labels added: 2",
    remove_label: "labels removed: 1",
    update_label: "labels with another text: 1",
    add_points: "points added: 3",
    all_at_once: "labels added: 2, labels removed: 1, labels with another text: 1, points added: 3",
}


@pytest.mark.parametrize(("edit", "named"), EDITS.items(), ids=[e.__name__ for e in EDITS])
def test_an_edited_light_run_is_not_lost(
    growing: Path,
    secrets: Path,
    tiny_encoder: Path,
    edit: Callable[[Predictor], None],
    named: str,
) -> None:
    predictor = Predictor(open_run(growing))
    edit(predictor)
    predictor.save()
    before = content(growing)
    message = rf"\({named}\), which a training would lose; put it into .*--out.*--overwrite"
    for resume in (False, True):
        with pytest.raises(ValueError, match=message):
            train.train(settings_of(secrets, tiny_encoder, growing, resume=resume))
    assert content(growing) == before


def test_an_edit_after_a_kill_is_not_lost_either(
    growing: Path, secrets: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(secrets, tiny_encoder, growing)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            train.train(settings)
    with pytest.raises(FileExistsError, match="--resume or --overwrite"):
        train.train(settings)
    with pytest.raises(ValueError, match=r"was started with encoder = .*, not 'none'"):
        train.train(settings_of(secrets, "none", growing, resume=True))
    predictor = Predictor(open_run(growing))
    add_points(predictor)
    predictor.save()
    with pytest.raises(ValueError, match="points added: 3"):
        train.train(settings.model_copy(update={"resume": True}))
    train.train(settings.model_copy(update={"overwrite": True}))
    assert "dense" in Run.open(growing).facts


def test_edits_that_were_undone_are_no_edits(
    growing: Path, secrets: Path, tiny_encoder: Path
) -> None:
    text = Run.open(growing).state.path("labels/texts").read_text().splitlines()[7]
    for new in ("numbat colony", text):
        predictor = Predictor(open_run(growing))
        predictor.update_labels([7], [new])
        predictor.save()
    train.train(settings_of(secrets, tiny_encoder, growing))
    assert "dense" in Run.open(growing).facts


def test_a_light_run_of_other_data_does_not_grow(
    growing: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    before = content(growing)
    with pytest.raises(ValueError, match=r"other data than .*--overwrite, or give another --out"):
        train.train(settings_of(tiny_data, tiny_encoder, growing))
    assert content(growing) == before


def test_a_damaged_light_run_is_named(growing: Path, secrets: Path, tiny_encoder: Path) -> None:
    path = Run.open(growing).state.path("lexical/points")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{path.name}: damaged"):
        train.train(settings_of(secrets, tiny_encoder, growing))


def test_without_a_ranker_the_words_go(
    growing: Path, secrets: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command, which says what happens."""
    shown = settings_of(secrets, tiny_encoder, growing, ranker="none").model_dump(mode="json")
    words = [str(secrets), "--out", str(growing), "--ranker", "none"]
    usual = settings_of(secrets, tiny_encoder, growing).model_fields_set
    for name in sorted(usual - {*SWITCHES, "ranker"}):
        words += [f"--{name.replace('_', '-')}", str(shown[name])]
    assert console.run(train_main, words) == 0
    captured = capsys.readouterr()
    assert f"{growing}: a light run, which is served until this training is done" in captured.err
    assert "next, python -m dexml.predict" in captured.out
    left = {path.parent.name for path in growing.rglob("*") if path.is_file()}
    assert not left & {"lexical", "tree", "ranker"}
    assert Predictor.open(growing).predict(["kernel driver"], 1).ids.shape == (1, 1)
