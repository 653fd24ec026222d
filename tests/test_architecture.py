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
    """The rule of the page: groups of rooms, each using those behind it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"^`(demo .* -> _rust)`$", page, flags=re.M)
    return [group.split() for group in rule.split(" -> ")]


LAYERS = layers()


def room(name: str) -> str:
    """The room that ``dexml.NAME...`` belongs to."""
    return name.split(".")[1]


def rank(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imported(path: Path) -> set[str]:
    """Names ``dexml.x`` that a file imports, at its top or later."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            if node.module == "dexml":
                found |= {f"dexml.{alias.name}" for alias in node.names}
            else:
                found.add(str(node.module))
    return {name for name in found if name.startswith("dexml.")}


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
DOORS = [path for path in FILES if path.name == "__main__.py"]
SOURCES = [
    (path.relative_to(PACKAGE).with_suffix("").parts[0], path)
    for path in FILES
    if path not in DOORS
]


def test_every_room_has_its_place() -> None:
    assert {name for name, _ in SOURCES} | {"_rust"} == {n for layer in LAYERS for n in layer}


@pytest.mark.parametrize(
    ("own", "path"), SOURCES, ids=lambda v: v if isinstance(v, str) else v.name
)
def test_left_uses_right(own: str, path: Path) -> None:
    for name in imported(path):
        other = room(name)
        assert other == own or rank(other) > rank(own), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.parent.name)
def test_a_door_leads_to_its_own_command(path: Path) -> None:
    """``__main__`` is how a command is started, and no room: nothing but that command uses it."""
    own = path.parent.name
    rooms = {room(name) for name in imported(path)} - {own, "console"}
    if rooms - {"_rust", "data"}:  # the command needs rooms on its left
        assert imported(path) == {"dexml.console", f"dexml.commands.{own}"}


FORBIDDEN = {
    "losses": {"encoder", "index", "sampling", "metrics", "data", "config", "run", "_rust"},
    "text": {"losses", "encoder", "index", "metrics", "run", "torch", "transformers"},
    "encoder": {"losses", "index", "sampling", "metrics", "data", "config", "run", "_rust"},
    "index": {"losses", "encoder", "sampling", "train", "predict", "torch", "hnswlib"},
    "run": {"losses", "encoder", "train", "predict", "torch", "transformers"},
    "sampling": {"losses", "encoder", "index", "torch", "transformers"},
    "train": {"predict", "report", "plan", "demo", "commands"},
    "predict": {"train", "report", "plan", "demo", "losses", "sampling", "commands"},
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
