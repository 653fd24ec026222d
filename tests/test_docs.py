"""The examples in the pages run, and the pages name files that exist."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dexml import data

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    ROOT / "benches" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


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
    assert len(examples) == 4
    folder = tmp_path / "data"
    for example in examples:
        exec(example.replace("runs/demo/run", str(run_dir)).replace("DATA_DIR", str(folder)), {})
    assert data.load_part(folder, "trn", 3).y.nnz == 4
    assert "'P@1': 0.5" in capsys.readouterr().out


def test_options_named_in_the_readme_exist() -> None:
    from dexml.commands.index import IndexSettings
    from dexml.commands.question import PredictSettings
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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_named_in_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for name in re.findall(r"`((?:tests|docs|benches|rust|python)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_headings_that_a_page_links_to_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#([\w-]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            text = (page.parent / target if target else page).read_text(encoding="utf-8")
            headings = re.findall(
                r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M
            )
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_of_prose_stay_short(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    text = re.sub(r"`[^`\n]+`", "", text)  # a command is one line, however long
    assert not [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]


def test_every_page_is_in_the_table_of_contents() -> None:
    docs = ROOT / "docs"
    contents = (docs / "index.md").read_text(encoding="utf-8")
    linked = {(docs / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", contents)}
    assert set(docs.rglob("*.md")) - {docs / "index.md"} <= linked


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The part of the site that makes links of names in docstrings."""
    for name in ("griffe", "mkdocs", "mkdocstrings"):
        pytest.importorskip(name, reason=f"needs {name}")
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    return importlib.import_module("references")


def test_names_in_docstrings_become_links_or_faults(references: Any, tmp_path: Path) -> None:
    import griffe

    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "__init__.py").write_text(
        '''"""`Shelf`, `small.books`, `Shlef`, `small.boks`, `n_labels`, ``Any``, `copy.copy`."""
from small.books import Shelf
__all__ = ["Shelf"]
'''
    )
    (tmp_path / "small" / "books.py").write_text(
        '''"""Books."""
class Shelf:
    """See `Shelf.add`, `add`, `rows`, `Shelf.books`, `ValueError`."""
    def add(self, rows):
        """Add `rows`; the twin of `Shelf`."""
'''
    )
    package: Any = griffe.load("small", search_paths=[tmp_path])
    shelf = package["books.Shelf"]
    told = {"small", "small.books.Shelf", "small.books.Shelf.add"}
    text, broken = references.linked(package, [package, shelf], told)
    assert broken == ["Shlef", "small.boks"]
    assert text.startswith("[`Shelf`][small.books.Shelf], `small.books`, `Shlef`")
    text, broken = references.linked(shelf, [package, shelf], told)
    assert broken == ["Shelf.books"]
    link = "small.books.Shelf.add"
    assert text.startswith(f"See [`Shelf.add`][{link}], [`add`][{link}], `rows`")
    text, broken = references.linked(shelf["add"], [package, shelf], told)
    assert (text, broken) == ("Add `rows`; the twin of [`Shelf`][small.books.Shelf].", [])


def test_the_site_is_built_and_its_links_are_checked(
    references: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the pages as they are; then with a link to nothing."""
    build: Any = importlib.import_module("build")
    pages = tmp_path / "pages"
    build.gather(ROOT, pages)
    assert (pages / "docs" / "notebooks" / "new-labels.md").exists()
    settings = build.config(ROOT, pages, tmp_path / "site")
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, [line for line in done.stderr.splitlines() if "INFO" not in line]
    front = (tmp_path / "site" / "api" / "dexml.predict" / "index.html").read_text()
    assert 'id="dexml.predict.Predictor.predict"' in front
    with (pages / "docs" / "search.md").open("a") as file:
        file.write("\n[nothing](nothing.md) and [no heading](#nowhere)\n")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode
    assert "'nothing.md'" in done.stderr
    assert "'#nowhere'" in done.stderr
