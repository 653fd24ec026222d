"""The examples in the pages run, and the pages name files that are there."""

import re
from pathlib import Path

import pytest

from dexml import data

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def test_examples_of_the_readme_run(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a small run in the place of the demo's."""
    monkeypatch.chdir(ROOT)
    examples = blocks("python")
    assert len(examples) == 3
    made = tmp_path / "data"
    for example in examples:
        exec(example.replace("runs/demo/run", str(run_dir)).replace("DATA_DIR", str(made)), {})
    assert data.load_part(made, "trn", 3).y.nnz == 4
    assert "'P@1': 0.5" in capsys.readouterr().out


def test_options_named_in_the_readme_exist() -> None:
    from dexml.commands.index import IndexSettings
    from dexml.commands.predict import PredictSettings
    from dexml.config import Settings
    from dexml.demo.chain import DemoSettings
    from dexml.metrics.__main__ import _parser
    from dexml.train import TrainSettings

    models: dict[str, type[Settings]] = {
        "train": TrainSettings,
        "index": IndexSettings,
        "predict": PredictSettings,
        "demo": DemoSettings,
    }
    checked = 0
    for line in "\n".join(blocks("sh")).splitlines():
        command = re.search(r"-m dexml\.(\w+)(.*)", line.split("#")[0])
        if command is None:
            continue
        for option in re.findall(r"--([a-z-]+)", command[2]):
            checked += 1
            if command[1] == "metrics":
                assert f"--{option}" in _parser().format_help()
            else:
                fields = models[command[1]].model_fields
                assert option.replace("-", "_") in {*fields, "config"}
    assert checked >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_named_in_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for name in re.findall(r"`((?:tests|docs|benches|rust|python)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
