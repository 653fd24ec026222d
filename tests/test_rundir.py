"""What a run directory may hold, and what is left when it is replaced."""

import os
from pathlib import Path

import pytest

from dexml import train
from dexml.commands.index import main as index_main
from dexml.console import run
from dexml.run import folder as rundir
from small import train_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def full_run(tiny_data: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of everything that leaves files: both stages, trackers, an index."""
    out = tmp_path_factory.mktemp("runs") / "run"
    changes = {"stages": "heads,encoder", "encoder_epochs": 1, "encoder_layers": 1}
    more = {"tensorboard": True, "cache_layers": True}
    train.train(train_settings(tiny_data, tiny_encoder, out, **changes, **more))
    assert run(index_main, [str(out), "--quiet"]) == 0
    return out


def test_a_run_holds_nothing_that_is_not_known(full_run: Path) -> None:
    found = {path.name for path in full_run.iterdir()}
    assert found <= set(rundir._OWN)
    assert set(rundir._OWN) - found <= {"memory", "wandb"}


def test_the_page_names_all_that_a_run_may_hold() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    table = page.split("## A run directory")[1].split("\n\n**")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name.strip("`/") for row in rows for name in row.replace(",", " ").split()}
    assert named == set(rundir._OWN)


def test_a_run_is_removed_whole_and_nothing_else(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "features.npy").write_bytes(b"kept")
    folder.mkdir()
    for name in rundir._OWN:
        if name == "cache":
            (folder / name).symlink_to(elsewhere, target_is_directory=True)
        elif "." in name:
            (folder / name).write_text("{}")
        else:
            (folder / name / "inside").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    rundir.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert [path.name for path in elsewhere.iterdir()] == ["features.npy"]


def test_a_kill_while_removing_leaves_a_run_that_can_be_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run.json` goes first: no reader takes the rest for finished; `versions.json` last."""
    for name in ("run.json", "config.toml", "labels.txt", "versions.json"):
        (tmp_path / name).write_text("{}")
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "labels.txt":
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        rundir.remove(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["labels.txt", "versions.json"]
