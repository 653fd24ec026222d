"""What a release needs: workflows call targets that exist, and versions and citations are sound."""

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "docs" / "check_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Cargo.toml", "CITATION.cff", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python" / "dexml").mkdir(parents=True)
    shutil.copy(ROOT / "python" / "dexml" / "__init__.py", tmp_path / "python" / "dexml")
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_release_waits_for_versions_and_addresses(check: Any, checkout: Path) -> None:
    edit(checkout / "pyproject.toml", check.PLACEHOLDER, "dexml.example.org")
    version = re.findall(r'(?m)^version = "(.*)"', (checkout / "Cargo.toml").read_text())[0]
    edit(checkout / "CHANGELOG.md", "## Unreleased", f"## {version}")
    assert check.faults(checkout) == []
    edit(checkout / "CITATION.cff", f"version: {version}", "version: 0.0.1")
    edit(checkout / "CHANGELOG.md", f"## {version}", "## Unreleased")
    edit(
        checkout / "pyproject.toml", "https://dexml.example.org/dexml/docs", "https://owner.example"
    )
    assert check.faults(checkout) == [
        f"CITATION.cff: version 0.0.1, expected {version}",
        f"CHANGELOG.md: no section '## {version}'",
        next(
            f'pyproject.toml:{number}: a placeholder: Documentation = "https://owner.example"'
            for number, line in enumerate((checkout / "pyproject.toml").read_text().splitlines(), 1)
            if "owner.example" in line
        ),
    ]


def test_versions_agree_today(check: Any) -> None:
    assert not [fault for fault in check.faults() if "expected" in fault]


def test_workflows_call_targets_of_the_makefile() -> None:
    yaml = pytest.importorskip("yaml", reason="needs pyyaml")
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))
    called = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        for step in (step for job in jobs.values() for step in job["steps"]):
            command = step.get("run", "make")
            assert command.startswith(("make", "rustup component add")), command
            called |= {word for word in command.split()[1:] if "=" not in word} - {
                *("component", "add", "rustfmt", "clippy"),
            }
    assert called <= targets
    assert {"lint", "test", "docs", "site", "wheel", "test-wheel", "sdist", "crate"} <= called


def test_the_citation_is_complete() -> None:
    yaml = pytest.importorskip("yaml", reason="needs pyyaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    (paper,) = citation["references"]
    assert paper["title"] == "Dual-Encoders for Extreme Multi-label Classification"
    assert paper["year"] == 2024
