"""The command that repeats a training."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

_LEFT_OUT = ("data_dir", "out", "resume", "overwrite", "quiet", "debug")
"""The command begins with the first two; the others change nothing of the result."""


def changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are not the default, and those that have none."""
    return {
        name: value
        for name, value in settings.items()
        if name not in defaults or defaults[name] != value
    }


def command(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Write the command: data, ``--out``, and the settings that are not the default."""
    parts = ["python", "-m", "dexml.train", str(settings.get("data_dir", "DATA_DIR"))]
    parts += ["--out", str(settings.get("out", "RUN"))]
    for name, value in changed(settings, defaults).items():
        option = name.replace("_", "-")
        if name in _LEFT_OUT or value is None:
            continue
        if isinstance(value, bool):
            parts.append(f"--{option}" if value else f"--no-{option}")
        else:
            parts += [f"--{option}", str(value)]
    return shlex.join(parts)
