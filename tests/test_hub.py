"""A run pushed and pulled: the hub is a folder here."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dexml.commands.hub import main as command
from dexml.console import run
from dexml.hub import pull, push
from dexml.predict import Predictor

pytest.importorskip("huggingface_hub", reason="needs huggingface-hub")
REPO = "someone/run"


class Hub:
    """What the package uses of `huggingface_hub.HfApi`, over folders."""

    root = Path()
    commits = 0
    private: bool | None = None

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        Hub.private = private
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)

    def list_repo_files(self, repo_id: str, *, revision: str | None) -> list[str]:
        folder = self.root / repo_id
        return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]

    def create_commit(self, repo_id: str, operations: list[Any], **_: Any) -> Any:
        Hub.commits += 1
        for operation in operations:
            path = self.root / repo_id / operation.path_in_repo
            if type(operation).__name__ == "CommitOperationDelete":
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with operation.as_file() as file:
                path.write_bytes(file.read())
        return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/{Hub.commits}")

    def snapshot_download(self, repo_id: str, *, revision: str | None) -> str:
        return str(self.root / repo_id)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    Hub.root, Hub.commits, Hub.private = tmp_path / "hub", 0, None
    return tmp_path / "hub" / REPO


def test_a_pulled_run_answers_as_the_pushed_one(run_dir: Path, tmp_path: Path, hub: Path) -> None:
    assert push(run_dir, REPO) == f"hub/{REPO}/commit/1"
    assert Hub.private is True
    folder = pull(REPO, tmp_path / "pulled")
    texts = ["kernel driver a", "mail server"]
    before, after = (Predictor.open(f, threads=1) for f in (run_dir, folder))
    assert after.predict(texts, 5).ids.tolist() == before.predict(texts, 5).ids.tolist()
    after.add_labels(["a new label"])
    after.save()  # the copy is a run of its own
    assert not (hub / "checkpoint").exists()
    assert not (hub / "log.jsonl").exists()
    told = (hub / "config.toml").read_text()
    assert str(tmp_path.parents[1]) not in told
    assert "seed" in told


def test_a_push_replaces_the_state_that_is_there(run_dir: Path, tmp_path: Path, hub: Path) -> None:
    own = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    push(own, REPO)
    (hub / "README.md").write_text("a card of my own")
    predictor = Predictor.open(own, threads=1)
    predictor.add_labels(["a new label"])
    predictor.save()
    push(own, REPO)
    assert (hub / "README.md").read_text() == "a card of my own"
    named = {part["name"] for part in json.loads((own / "run.json").read_text())["parts"].values()}
    there = {p.relative_to(hub).as_posix() for p in (hub / "labels").rglob("*") if p.is_file()}
    assert there == {name for name in named if name.startswith("labels/")}
    assert Predictor.open(pull(REPO, tmp_path / "pulled")).label_texts[-1] == "a new label"


def test_a_damaged_run_is_neither_pushed_nor_pulled(
    run_dir: Path, tmp_path: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    push(own, REPO)
    (part,) = (own / "labels").glob("texts-*")
    name = part.relative_to(own)
    part.write_bytes(part.read_bytes() + b"x")
    assert run(command, ["push", str(own), REPO]) == 1
    assert "not the file that was saved" in capsys.readouterr().err
    assert Hub.commits == 1
    (hub / name).write_bytes(b"x")
    out = tmp_path / "pulled"
    assert run(command, ["pull", REPO, str(out)]) == 1
    assert "not the file that was saved" in capsys.readouterr().err
    assert not out.exists()


def test_nothing_is_replaced_unasked(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, ["push", str(run_dir), REPO, "--public"]) == 0
    assert Hub.private is False
    assert capsys.readouterr().out.strip() == f"hub/{REPO}/commit/1"
    out = tmp_path / "out"
    assert run(command, ["pull", REPO, str(out)]) == 0
    assert run(command, ["pull", REPO, str(out)]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert run(command, ["pull", REPO, str(out), "--overwrite"]) == 0
    (out / "run.json").unlink()
    assert run(command, ["pull", REPO, str(out), "--overwrite"]) == 1
    assert "is no run" in capsys.readouterr().err
    (tmp_path / "hub" / "someone" / "empty").mkdir()
    assert run(command, ["pull", "someone/empty", str(tmp_path / "other")]) == 1
    assert "no run in it" in capsys.readouterr().err
