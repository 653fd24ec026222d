"""The examples in the pages run, and the pages name files that exist."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dexml import data

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benches" / "README.md"),
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


@pytest.fixture(scope="module")
def api() -> ModuleType:
    """The script that makes the API pages."""
    pytest.importorskip("pdoc", reason="needs pdoc")
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_reference_to_nothing_is_reported(api: ModuleType) -> None:
    import pdoc.doc

    module: Any = ModuleType("small")
    module.Shelf = type("Shelf", (), {"__doc__": "See `Shelf.books`.", "__module__": "small"})
    module.__doc__ = "`Shelf`, `dexml.data`, `Shlef`, `dexml.dta`, `n_labels` and ``Anything``."
    module.__all__ = ["Shelf"]
    assert api.broken_references(pdoc.doc.Module(module), []) == [
        "small: `Shlef`: no such name",
        "small: `dexml.dta`: no such name",
        "small.Shelf: `Shelf.books`: no such name",
    ]


def test_a_link_to_nothing_is_reported(api: ModuleType, tmp_path: Path) -> None:
    links = ("b.html", "b.html#there", "#here", "b.html#gone", "c.html", "https://example.org")
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    (tmp_path / "a.html").write_text(f'<p id="here">{anchors}</p>')
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    broken = api.broken_links(tmp_path)
    assert [line.split(": ")[1] for line in broken] == ["b.html#gone", "c.html"]
