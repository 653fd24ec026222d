"""``dexml`` and ``python -m dexml``: the list of commands, the version, and missing extras."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import dexml
from dexml import console
from dexml.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
EXTRAS = "torch,transformers,hnswlib,safetensors,tqdm,pydantic,pydantic_settings,jinja2,tomli_w"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run Python as if no extra were installed; give code and the lines of stderr."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in '{EXTRAS}'.split(','):\n    sys.modules[name] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'python'}")

    def call(*words: str) -> list[str]:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        return [str(done.returncode), *done.stdout.splitlines(), *done.stderr.splitlines()]

    return call


def test_the_version_is_that_of_the_workspace() -> None:
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    assert dexml.__version__ == workspace["package"]["version"]


def test_the_list_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    package = Path(dexml.__file__).parent
    assert set(COMMANDS) == {path.parent.name for path in package.glob("*/__main__.py")}
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert console.run(main, words) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in COMMANDS)


def test_a_command_is_called_with_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(main, ["metrics", "one"]) == 2
    assert "PRED and TRUTH are both needed" in capsys.readouterr().err
    assert console.run(main, ["--version"]) == 0
    assert capsys.readouterr().out == f"dexml {dexml.__version__}\n"


def test_the_other_package_of_this_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dexml-0.5.1.dist-info").mkdir()
    (tmp_path / "dexml-0.5.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: dexml\nVersion: 0.5.1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for words in (["--version"], []):
        assert console.run(main, words) == 0
        assert capsys.readouterr().err == (
            "warning: the XML mapper 'dexml' 0.5.1 is installed in the same folder; pip uninstall "
            "dexml, then pip install --force-reinstall --no-deps dexml-xmc\n"
        )


@pytest.mark.parametrize(
    "first_file", [None, '"""dexml: an XML mapper."""\n__version__ = "0.5.1"\n']
)
def test_a_first_file_of_the_other_package_is_named(first_file: str | None, tmp_path: Path) -> None:
    """As after installing or uninstalling the XML mapper: the rest of the folder is ours."""
    package = tmp_path / "dexml"
    shutil.copytree(Path(dexml.__file__).parent, package)
    (package / "__init__.py").unlink()
    if first_file is not None:
        (package / "__init__.py").write_text(first_file)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "dexml", "--version"],  # nothing that is installed
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0
    assert done.stdout == "dexml of an unknown version\n"
    assert done.stderr == (
        "warning: dexml/__init__.py is missing or that of another package; "
        "pip install --force-reinstall --no-deps dexml-xmc\n"
    )


def test_an_unknown_command_has_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(main, ["trian"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'trian'; did you mean 'train'?\n"
    assert console.run(main, ["xyzzy"]) == 2
    assert "(known: train, index, predict" in capsys.readouterr().err


def test_the_list_loads_no_command(bare: Callable[..., list[str]]) -> None:
    """No numpy and no torch: that is what makes it fast."""
    heavy = "{'numpy', 'dexml._rust', 'dexml.data', 'dexml.commands'}"
    code = "import sys; from dexml.__main__ import main; main([]); "
    code += f"assert not {heavy} & {{*sys.modules}}"
    assert bare("-c", code)[0] == "0"


@pytest.mark.parametrize("command", ["train", "index", "predict", "demo"])
def test_without_extras_a_command_ends_in_one_line(
    bare: Callable[..., list[str]], command: str
) -> None:
    for words in (["-m", f"dexml.{command}"], ["-m", "dexml", command]):
        code, line = bare(*words, "run", "--help")
        assert code == "1"
        assert line.startswith("error: ")
        assert "is not installed; it comes with: pip install 'dexml-xmc[" in line


@pytest.mark.parametrize("command", ["metrics", "data"])
def test_the_base_install_has_its_commands(bare: Callable[..., list[str]], command: str) -> None:
    assert bare("-m", "dexml", command, "--help")[0] == "0"


def test_rooms_name_the_extra_that_they_need(bare: Callable[..., list[str]]) -> None:
    rooms = "losses model plan text index run scorers train report predict commands"
    code = f"""
for room in "{rooms}".split():
    try:
        __import__("dexml." + room)
    except ModuleNotFoundError as error:
        print(room, error)
    except ImportError as error:
        assert "pip install 'dexml-xmc[" in str(error), error
    else:
        print(room)
"""
    assert bare("-c", code) == ["0"]
