"""A finished run: its manifest, its parts, and the lock on its folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from dexml import locks, sealed
from dexml.files import is_foreign, seal_of
from dexml.sealed import LOCK, Format, Sealed

FORMAT = Format(
    "run.json",
    "a run",
    3,
    "copy the whole run again, or train again",
    "train again",
    free=frozenset({"encoder/README.md"}),  # the model card, in which people may write
)
ENCODER = "encoder"


@dataclass(frozen=True)
class Run:
    """A finished run as its manifest describes it; its parts are checked when they are read."""

    state: Sealed

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> Run:
        """Read the manifest of a run that `dexml.train` has finished.

        Raises:
            FileNotFoundError: No such folder, or the training has not finished.
            ValueError: The manifest is damaged, or of another version.
        """
        folder = Path(folder)
        check_there(folder)
        return cls(sealed.read(folder, FORMAT))

    @property
    def folder(self) -> Path:
        """The folder, without symbolic links in its path."""
        return self.state.folder

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the manifest says beside the parts."""
        return self.state.facts

    def data_dir(self) -> Path:
        """The data set the run was trained on, if it is still where it was."""
        return Path(os.path.normpath(self.folder / str(self.facts.get("data", ""))))


def check_there(folder: Path) -> None:
    """Refuse a folder without a finished run.

    Raises:
        FileNotFoundError: The message says what to do.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such run folder; make one: python -m dexml.train DATA_DIR --out {folder}"
        )
    if not (folder / FORMAT.manifest).exists():
        unfinished = (folder / "config.toml").exists()
        remedy = "continue with python -m dexml.train ... --resume" if unfinished else "not a run"
        raise FileNotFoundError(f"{folder}: no finished run in it (no run.json); {remedy}")


def hold(folder: Path, doing: str) -> AbstractContextManager[None]:
    """Hold the lock of a run folder, without waiting.

    Raises:
        RuntimeError: Another process trains or edits the run; the message names it.
    """
    return locks.hold(folder / LOCK, str(folder), doing)


def encoder_seals(folder: Path) -> dict[str, dict[str, Any]]:
    """Name, size and SHA-256 of each file of the encoder in a run folder, by its role."""
    files = (path for path in (folder / ENCODER).rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return {
        name: {"name": name, **seal_of(folder / name)}
        for name in names
        if name not in FORMAT.free and all(map(is_foreign, name.split("/")))
    }


def require(state: Sealed, where: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Read a section of the manifest whose fields must be of these types.

    Raises:
        ValueError: The section or a field is missing, or of another type; a number is not finite.
    """
    section = state.facts.get(where)
    if not isinstance(section, dict):
        raise state.damaged(f"no proper '{where}'")
    for name, kind in kinds.items():
        value: Any = section.get(name)
        good = isinstance(value, kind) and not isinstance(value, bool)
        if not good or (isinstance(value, float) and not math.isfinite(value)):
            raise state.damaged(f"no proper '{where}.{name}'")
    return section
