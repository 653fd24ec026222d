"""Who may import whom: left uses right, as docs/architecture.md says."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "dexml"


def layers() -> list[list[str]]:
    """The rule of the page: groups of modules, each using those behind it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"^`(demo -> .*) -> xmc-core`\.$", page, flags=re.M)
    return [group.split() for group in rule.split(" -> ")]


LAYERS = layers()
MODEL = {
    *("model", "modules", "table", "layers", "attention", "card", "tokens", "tokenizing"),
    "pretrained",
}
"""Files that are one room, the encoder."""


def room(name: str) -> str:
    """Part of the architecture that ``dexml.NAME...`` belongs to."""
    first = name.split(".")[1]
    return "model" if first in MODEL else first


def rank(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imported(path: Path, *, top: bool = False) -> set[str]:
    """Names ``dexml.x`` that a file imports; with `top` only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    nodes = tree.body if top else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            if node.module == "dexml":
                found |= {f"dexml.{alias.name}" for alias in node.names}
            else:
                found.add(str(node.module))
    return {name for name in found if name.startswith("dexml.")}


SOURCES = [
    (room("dexml." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)), path)
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
]
COMMANDS_THAT_ENCODE = {("index", "model")}
"""``python -m dexml.index --add`` encodes texts; importing the package brings no torch."""


def test_every_module_has_its_place() -> None:
    assert {name for name, _ in SOURCES} | {"_rust"} == {n for layer in LAYERS for n in layer}


@pytest.mark.parametrize(
    ("own", "path"), SOURCES, ids=lambda v: v if isinstance(v, str) else v.name
)
def test_left_uses_right(own: str, path: Path) -> None:
    for name in imported(path):
        other = room(name)
        if other == own:
            continue
        if path.name == "__main__.py" and (own, other) in COMMANDS_THAT_ENCODE:
            assert name not in imported(path, top=True), f"{name} at the top of {path}"
            continue
        assert rank(other) > rank(own), f"{path.relative_to(ROOT)} imports {name}"


FORBIDDEN = {
    "losses": {"model", "index", "sampling", "metrics", "data", "config", "rundir", "_rust"},
    "model": {"losses", "index", "sampling", "metrics", "data", "config", "rundir", "_rust"},
    "index": {"losses", "model", "sampling", "train", "predict", "torch", "transformers"},
    "sampling": {"losses", "model", "index", "torch", "transformers"},
    "train": {"predict", "demo"},
    "predict": {"train", "demo", "losses", "sampling"},
}
"""What must not be there after one import, here and in what that brings along."""


@pytest.mark.parametrize("name", FORBIDDEN)
def test_an_import_brings_no_neighbour(name: str) -> None:
    code = f"import json, sys, dexml.{name}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {
        room(module) if module.startswith("dexml.") else module
        for module in json.loads(done.stdout)
    }
    assert not loaded & FORBIDDEN[name]
    assert name in loaded
