"""Saving to a sealed folder: only what has changed is written, and all of it comes into force."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dexml import locks
from dexml.files import (
    beside_name,
    digest_of,
    follow_umask,
    is_foreign,
    is_leftover,
    remove,
    replacing,
    seal_of,
    spelled,
    sync,
    write_array,
)
from dexml.sealed.state import Format, Sealed, digest_in, is_named_by_content

LOCK = ".lock"
WAIT = 10.0
"""Seconds that a save waits for another one to end."""


@dataclass(frozen=True)
class Part:
    """A file of a sealed folder, as it is to be written.

    `write` returns the size in bytes that the file must have, if it knows; `source` is what the
    content is made from: while these objects are the same, the file is not written again.
    """

    write: Callable[[Path], int | None]
    suffix: str
    source: tuple[object, ...]


def array_part(array: NDArray[Any]) -> Part:
    """An array as a part."""
    return Part(lambda path: write_array(path, array), ".npy", (array,))


@dataclass
class Home:
    """The folder that something was loaded from or saved to, and what of it lies there already."""

    state: Sealed | None = None
    sources: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def note(self, state: Sealed, parts: Mapping[str, Part]) -> None:
        """Remember what was loaded or saved: `parts` are those of the thing as it is now."""
        self.state = state
        self.sources = {role: part.source for role, part in parts.items()}

    def save(
        self,
        folder: Path,
        kind: Format,
        facts: Mapping[str, Any],
        parts: Mapping[str, Part],
        *,
        keep: Mapping[str, Mapping[str, Any]] | None = None,
        lock: bool = True,
    ) -> None:
        """Write what has changed, and put all parts into force at once.

        Args:
            folder: Created if it is missing.
            kind: What it is.
            facts: JSON values for the manifest.
            parts: The parts by their role (``folder/stem`` or ``stem``).
            keep: Seals of further parts that lie in the folder already.
            lock: Hold the folder's lock; False: the caller does.

        Raises:
            FileExistsError: The folder holds something else.
            RuntimeError: Something else has been saved to the folder since this was loaded from it
                or saved to it, or another process holds the lock and does not end.
        """
        if folder.is_symlink() and not folder.exists():
            raise FileExistsError(f"{folder}: a link that leads nowhere")
        folder = folder.resolve()
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder}: not a folder; choose another place for {kind.name}")
        if kind.whole and not self._is_in(folder):
            _refuse_foreign(folder, kind)
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            sync(folder.parent)
        doing = f"saving {kind.name}"
        held = locks.hold(folder / LOCK, str(folder), doing, wait=WAIT) if lock else nullcontext()
        with held:
            self._write(folder, kind, facts, parts, keep or {})

    def _is_in(self, folder: Path) -> bool:
        return self.state is not None and self.state.folder == folder

    def _write(
        self,
        folder: Path,
        kind: Format,
        facts: Mapping[str, Any],
        parts: Mapping[str, Part],
        keep: Mapping[str, Mapping[str, Any]],
    ) -> None:
        known: dict[str, dict[str, Any]] = {}
        if self.state is not None and self._is_in(folder):
            if digest_in(folder, kind) != self.state.digest:
                raise RuntimeError(
                    f"{folder}: changed by another process since it was opened; open it again, "
                    "and repeat what was not saved"
                )
            known = self.state.parts
        seals: dict[str, dict[str, Any]] = {role: dict(seal) for role, seal in keep.items()}
        written: list[tuple[Part, dict[str, Any]]] = []
        for role, part in parts.items():
            twin = [seal for other, seal in written if _same(other.source, part.source)]
            if role in known and _same(self.sources.get(role), part.source):
                seals[role] = known[role]
            elif twin:  # one file may have two roles
                seals[role] = twin[0]
            else:
                seals[role] = _put(folder, role, part)
            written.append((part, seals[role]))
        # Through JSON and back, so that facts and digest are those that a reader will find.
        content = {"format_version": kind.version, **facts, "parts": seals}
        content = json.loads(json.dumps(content))
        content["digest"] = digest_of(content)
        names = [str(seal["name"]) for seal in seals.values()]
        for inside in _folders(names):  # the parts must be on the disk before they are named
            sync(folder / inside)
        with replacing(folder / kind.manifest) as beside:
            beside.write_text(spelled(content), encoding="utf-8")
        # From here on the new state is in force, whatever else fails.
        own = {name: content[name] for name in facts}
        self.note(Sealed(folder, kind, own, content["parts"], content["digest"]), parts)
        sync(folder)
        _remove_unnamed(folder, kind, names, {*seals, *known})


def _same(old: tuple[object, ...] | None, new: tuple[object, ...]) -> bool:
    """Whether a part was made from the same objects (numbers and strings: the same values)."""
    return (
        old is not None
        and len(old) == len(new) > 0
        and all(
            a is b or (isinstance(a, int | str) and a == b) for a, b in zip(old, new, strict=True)
        )
    )


def _put(folder: Path, role: str, part: Part) -> dict[str, Any]:
    """Write a part under the name of its content."""
    (folder / role).parent.mkdir(parents=True, exist_ok=True)
    beside = beside_name(folder / f"{role}{part.suffix}")
    try:
        expected = part.write(beside)
        size = beside.stat().st_size
        if expected is not None and size != expected:
            raise OSError(
                f"{folder / role}: cut short at {size} of {expected} bytes; is the disk full, or "
                "the size of files limited?"
            )
        follow_umask(beside)
        sync(beside)
        seal = seal_of(beside)
        name = f"{role}-{seal['sha256'][:16]}{part.suffix}"
        os.replace(beside, folder / name)
    finally:
        beside.unlink(missing_ok=True)
    return {"name": name, **seal}


def _folders(names: Iterable[str]) -> list[str]:
    """The folders that lead to some files, the innermost first and ``.`` last."""
    found = {parent.as_posix() for name in names for parent in Path(name).parents} | {"."}
    return sorted(found, key=lambda name: (-len(Path(name).parts), name))


def _refuse_foreign(folder: Path, kind: Format) -> None:
    """Refuse a folder that holds anything but an older save, or what a killed one left."""
    if not folder.exists():
        return
    for entry in sorted(folder.iterdir()):
        known = entry.name == kind.manifest or is_named_by_content(entry.name)
        if is_foreign(entry.name) and not known:
            raise FileExistsError(
                f"{folder}: holds {entry.name}, which is not a part of {kind.name}; choose another "
                "folder"
            )


def _remove_unnamed(folder: Path, kind: Format, names: Iterable[str], roles: Iterable[str]) -> None:
    """Remove earlier parts, and what killed processes left.

    Only in folders whose files are named by their content; beside them only what was begun of the
    manifest or of such a folder. What cannot be removed (on Windows: what is open) waits for the
    next save.
    """
    named = set(names)
    tops = {name.split("/")[0] for name in named if "/" in name}
    for entry in list(folder.iterdir()):
        if any(is_leftover(entry.name, stem) for stem in (kind.manifest, *tops)):
            _try_remove(entry)
    whole = {name.rpartition("/")[0] for name in named if not is_named_by_content(Path(name).name)}
    for inside in {role.rpartition("/")[0] for role in roles} - whole:
        place = folder / inside
        for entry in list(place.iterdir()) if place.is_dir() else []:
            path = entry.relative_to(folder).as_posix()
            old = is_named_by_content(entry.name) and path not in named
            if old or is_leftover(entry.name):
                _try_remove(entry)


def _try_remove(path: Path) -> None:
    with suppress(OSError):
        remove(path)
