"""Who may import whom: left uses right, as docs/architecture.md says."""

import ast
import json
import os
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
    "text": {"losses", "encoder", "index", "metrics", "run", "torch", "transformers"},
    "index": {"losses", "encoder", "sampling", "train", "predict", "torch", "hnswlib"},
    "run": {"losses", "encoder", "train", "predict", "torch", "transformers"},
    "sampling": {"losses", "encoder", "index", "torch", "transformers"},
    "scorers": {"losses", "train", "predict", "commands", "torch", "transformers"},
    "train": {"losses", "predict", "report", "plan", "demo", "commands", "torch", "transformers"},
    "predict": {"losses", "train", "report", "plan", "demo", "sampling", "commands", "torch"},
    "losses": {"encoder", "index", "sampling", "metrics", "data", "config", "run", "_rust"},
    "encoder": {"losses", "index", "sampling", "metrics", "data", "config", "run", "_rust"},
}
"""What must not be there after one import, here and in what that brings along."""

IMPORTS = """
import importlib, json, os, sys
import numpy, scipy.sparse

def after(name):
    # In a fork: what another room has loaded is not there.
    reader, writer = os.pipe()
    if os.fork() == 0:
        importlib.import_module(f"dexml.{name}")
        with open(writer, "w") as file:
            json.dump(sorted(sys.modules), file)
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        return json.load(file)

loaded = {name: after(name) for name in sys.argv[1].split(",")}
import torch  # which both of the others need, and which takes seconds
print(json.dumps(loaded | {name: after(name) for name in sys.argv[2].split(",")}))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The rooms and packages that are loaded after the import of one room, by its name."""
    heavy = ["losses", "encoder"]
    light = [name for name in FORBIDDEN if name not in heavy]
    command = [sys.executable, "-c", IMPORTS, ",".join(light), ",".join(heavy)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        name: {room(module) if module.startswith("dexml.") else module for module in modules}
        for name, modules in json.loads(done.stdout).items()
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", FORBIDDEN)
def test_an_import_brings_no_neighbour(loaded: dict[str, set[str]], name: str) -> None:
    assert not loaded[name] & FORBIDDEN[name]
    assert name in loaded[name]
