"""Say what is missing before a release: versions that differ, placeholders that stand.

python docs/check_release.py
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACEHOLDER = "owner.example"


def faults(root: Path = ROOT) -> list[str]:
    """List what is missing, a line each."""
    cargo = tomllib.loads((root / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]
    version = cargo["package"]["version"]
    places = {
        "Cargo.toml, xmc-core": cargo["dependencies"]["xmc-core"]["version"],
        "python/dexml/__init__.py": _first(
            root / "python/dexml/__init__.py", r'__version__ = "(.*)"'
        ),
        "CITATION.cff": _first(root / "CITATION.cff", r"(?m)^version: (.*)$"),
    }
    found = [
        f"{place}: version {v}, expected {version}" for place, v in places.items() if v != version
    ]
    if f"## {version}" not in (root / "CHANGELOG.md").read_text(encoding="utf-8"):
        found.append(f"CHANGELOG.md: no section '## {version}'")
    for number, line in enumerate((root / "pyproject.toml").read_text().splitlines(), 1):
        if PLACEHOLDER in line:
            found.append(f"pyproject.toml:{number}: a placeholder: {line.strip()}")
    return found


def _first(path: Path, pattern: str) -> str | None:
    match = re.search(pattern, path.read_text(encoding="utf-8"))
    return match[1] if match else None


if __name__ == "__main__":
    for fault in (missing := faults()):
        print(fault, file=sys.stderr)
    raise SystemExit(bool(missing))
