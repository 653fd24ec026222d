"""A sealed folder: one manifest names every part of it, and one rename puts all parts into force.

A part is never written in place: it gets the name ``ROLE-HASH.SUFFIX``. The manifest holds name,
size and SHA-256 of every part and a digest of itself, and is written beside and renamed. A kill at
any moment leaves the old state or the new one, and at most files that no manifest names; the next
save removes those. Run folders and folders of a single index are sealed folders.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dexml import locks
from dexml.files import (
    beside_name,
    digest_of,
    follow_umask,
    is_foreign,
    is_leftover,
    is_sealed,
    remove,
    replacing,
    seal_of,
    spelled,
    sync,
    write_array,
)

T = TypeVar("T")
LOCK = ".lock"
ATTEMPTS = 100
"""Of a reader to see one whole state while another process saves again and again."""
WAIT = 10.0
"""Seconds that a save waits for another one to end."""
_BY_CONTENT = re.compile(r"[a-z_]+-[0-9a-f]{16}(\.[a-z]+)?")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Format:
    """What a kind of sealed folder is called, and the version that this dexml reads and writes."""

    manifest: str
    name: str
    version: int
    remedy: str
    """What to do about a damaged one."""
    whole: bool = False
    """Whether the folder itself, and not only folders of parts in it, holds nothing else."""
    free: frozenset[str] = frozenset()
    """Files in folders of parts that people may change or remove."""


@dataclass(frozen=True)
class Part:
    """A file of a sealed folder, as it is to be written.

    `write` returns the size in bytes that the file must have, if it knows; `source` is what the
    content was made from: while these objects are the same, the file is not written again.
    """

    write: Callable[[Path], int | None]
    suffix: str
    source: tuple[object, ...]


@dataclass(frozen=True)
class Sealed:
    """What a sealed folder holds at one moment."""

    folder: Path
    format: Format
    facts: dict[str, Any]
    """What the manifest says beside the parts."""
    parts: dict[str, dict[str, Any]]
    """``name``, ``bytes`` and ``sha256`` of each part, by its role."""
    digest: str

    def path(self, role: str) -> Path:
        """The file of a part."""
        return self.folder / str(self.parts[role]["name"])

    def check(self, role: str) -> Path:
        """The file of a part, after every byte of it was checked.

        Raises:
            FileNotFoundError: It is missing.
            ValueError: It is not the file that was saved, or there is no such part.
        """
        if role not in self.parts:
            raise ValueError(f"{self.folder}: has no {role}; {self.format.remedy}")
        path = self.path(role)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; {self.format.remedy}")
        if not is_sealed(path, self.parts[role]):
            raise ValueError(f"{path}: damaged (not the file that was saved); {self.format.remedy}")
        return path

    def check_all(self) -> None:
        """Check every byte of every part, and that their folders hold nothing else.

        Raises:
            FileNotFoundError: A part is missing.
            ValueError: A part is damaged, or a file in a folder of parts does not belong to them.
        """
        for role in self.parts:
            self.check(role)
        names = {str(part["name"]) for part in self.parts.values()}
        names |= {self.format.manifest, *self.format.free}
        tops = {name.split("/")[0] for name in names if "/" in name}
        for top in ["."] if self.format.whole else sorted(tops):
            for path in sorted((self.folder / top).rglob("*")):
                inside = path.relative_to(self.folder)
                known = inside.as_posix() in names or _BY_CONTENT.fullmatch(path.name)
                if path.is_file() and all(map(is_foreign, inside.parts)) and not known:
                    raise ValueError(
                        f"{path}: not a part of {self.format.name}; remove it, or move it elsewhere"
                    )

    def array(
        self,
        role: str,
        dtype: type,
        shape: tuple[int | None, ...],
        *,
        mmap_mode: Literal["r"] | None = None,
    ) -> NDArray[Any]:
        """Open an array (never unpickled) that has this dtype and shape; None: any size.

        Its bytes have been checked before (`load`).

        Raises:
            ValueError: There is no such part, or it holds something else.
        """
        if role not in self.parts:
            raise self.damaged(f"no {role}")
        path = self.path(role)
        try:
            array: NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        except (ValueError, EOFError, SyntaxError) as error:
            raise self.damaged(str(error), path) from None
        fits = len(array.shape) == len(shape) and all(
            b in (a, None) for a, b in zip(array.shape, shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            wanted = f"{np.dtype(dtype)} {tuple('any' if n is None else n for n in shape)}"
            raise self.damaged(f"{array.dtype} of shape {array.shape}, expected {wanted}", path)
        return array if mmap_mode is None else np.asarray(array)

    def damaged(self, what: str, path: Path | None = None) -> ValueError:
        """The error for content that cannot be right."""
        return ValueError(f"{path or self.folder}: damaged ({what}); {self.format.remedy}")


def read(folder: Path, kind: Format) -> Sealed:
    """Read the manifest of a folder; the parts are not looked at.

    Raises:
        FileNotFoundError: There is no such folder, or no manifest in it.
        ValueError: The manifest is damaged, or of another version.
    """
    path = folder / kind.manifest
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: not {kind.name} (no {kind.manifest} there)")
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        version = content["format_version"]
        if type(version) is not int:
            raise TypeError("format_version is not a number")
        if version > kind.version:
            raise _Version(f"format {version} is newer than {kind.version}; update dexml")
        if version < kind.version:
            raise _Version(f"format {version} of an older dexml; {kind.remedy}")
        if content["digest"] != digest_of(content) or text != spelled(content):
            raise TypeError("its digest does not match")
        parts = dict(content["parts"])
        for role, part in parts.items():
            _check_seal(role, part)
        facts = {k: v for k, v in content.items() if k not in _OWN}
        return Sealed(folder.resolve(), kind, facts, parts, str(content["digest"]))
    except _Version as error:
        raise ValueError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); {kind.remedy}") from None
    except RecursionError:
        raise ValueError(f"{path}: damaged (nested too deeply); {kind.remedy}") from None


_OWN = ("format_version", "parts", "digest")


class _Version(Exception):
    """A manifest of another version."""


def _check_seal(role: str, part: Any) -> None:
    """Refuse a seal whose name could lead out of the folder, or that says nothing."""
    name = part["name"]
    outside = os.path.isabs(name) or ".." in name.split("/") or "\\" in name or not name
    if outside or type(part["bytes"]) is not int or not _HEX.fullmatch(part["sha256"]):
        raise TypeError(f"no proper seal of {role}")


def load(folder: Path, kind: Format, build: Callable[[Sealed], T]) -> T:
    """Check a folder and build something from it, all from one state of the folder.

    While other processes save to it, reading starts again until one state was read as a whole.

    Args:
        folder: The folder.
        kind: What it must be.
        build: Makes the result; its errors of content are `ValueError`.

    Raises:
        FileNotFoundError: There is no such folder, or a part is missing.
        ValueError: Damaged, or of another version.
    """
    for attempt in range(ATTEMPTS):
        state = read(folder, kind)
        try:
            state.check_all()
            return build(state)
        except (ValueError, FileNotFoundError):
            if attempt == ATTEMPTS - 1 or digest_in(folder, kind) == state.digest:
                raise
    raise AssertionError  # the loop returns or raises


def digest_in(folder: Path, kind: Format) -> str | None:
    """The digest that the manifest in a folder claims; None if there is none to read."""
    try:
        content = json.loads((folder / kind.manifest).read_text(encoding="utf-8"))
        return str(content["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@dataclass
class Home:
    """The folder that something was loaded from or saved to, and what of it lies there already."""

    state: Sealed | None = None
    sources: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def note(self, state: Sealed, parts: Mapping[str, Part]) -> None:
        """Remember what was loaded or saved: `parts` are those of the thing as it is now."""
        self.state = state
        self.sources = {role: part.source for role, part in parts.items()}

    def is_in(self, folder: Path) -> bool:
        """Whether this is where it was loaded from or saved to."""
        return self.state is not None and self.state.folder == folder.resolve()

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
            folder: Made if it is missing.
            kind: What it is.
            facts: JSON values for the manifest.
            parts: The parts by their role (``folder/stem`` or ``stem``).
            keep: Seals of further parts that lie in the folder already.
            lock: Hold the folder's lock; False: the caller does.

        Raises:
            FileExistsError: The folder holds something else.
            RuntimeError: Another process has saved to the folder since it was loaded from it or
                saved to it, or is saving to it and does not end.
        """
        if folder.is_symlink() and not folder.exists():
            raise FileExistsError(f"{folder}: a link that leads nowhere")
        folder = folder.resolve()
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder}: not a folder; choose another place for {kind.name}")
        own = self.is_in(folder)
        if kind.whole and not own and not (folder / kind.manifest).exists():
            _refuse_foreign(folder, kind)
        folder.mkdir(exist_ok=True)
        if lock:
            with locks.hold(folder / LOCK, str(folder), f"saving {kind.name}", wait=WAIT):
                state = self._write(folder, kind, facts, parts, keep or {})
        else:
            state = self._write(folder, kind, facts, parts, keep or {})
        self.note(state, parts)

    def _write(
        self,
        folder: Path,
        kind: Format,
        facts: Mapping[str, Any],
        parts: Mapping[str, Part],
        keep: Mapping[str, Mapping[str, Any]],
    ) -> Sealed:
        seals: dict[str, dict[str, Any]] = {role: dict(seal) for role, seal in keep.items()}
        known = {}
        if self.state is not None and self.state.folder == folder:
            if digest_in(folder, kind) != self.state.digest:
                raise RuntimeError(f"{folder}: changed by another process since it was opened")
            known = self.state.parts
        written: list[tuple[Part, dict[str, Any]]] = []  # one file may have two roles
        for role, part in parts.items():
            twin = [seal for other, seal in written if _same(other.source, part.source)]
            if role in known and _same(self.sources.get(role), part.source):
                seals[role] = known[role]
            elif twin:
                seals[role] = twin[0]
            else:
                seals[role] = _put(folder, role, part)
            written.append((part, seals[role]))
        content = {"format_version": kind.version, **facts, "parts": seals}
        content["digest"] = digest_of(content)
        for top in {Path(str(seal["name"])).parent for seal in seals.values()}:
            sync(folder / top)
        with replacing(folder / kind.manifest) as beside:
            beside.write_text(spelled(content), encoding="utf-8")
        sync(folder)
        _remove_unnamed(folder, {str(s["name"]) for s in seals.values()}, {*seals, *known})
        return Sealed(folder, kind, dict(facts), seals, str(content["digest"]))


def array_part(array: NDArray[Any]) -> Part:
    """An array as a part."""
    return Part(lambda path: write_array(path, array), ".npy", (array,))


def _same(old: tuple[object, ...] | None, new: tuple[object, ...]) -> bool:
    """Whether a part was made from the same objects (numbers: the same values)."""
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


def _refuse_foreign(folder: Path, kind: Format) -> None:
    """Refuse a folder that holds other things than what a killed first save leaves."""
    if not folder.exists():
        return
    for entry in sorted(folder.iterdir()):
        if is_foreign(entry.name) and not _BY_CONTENT.fullmatch(entry.name):
            raise FileExistsError(
                f"{folder}: holds {entry.name}, which is not a part of {kind.name}; choose another "
                "folder"
            )


def _remove_unnamed(folder: Path, named: set[str], roles: set[str]) -> None:
    """Remove earlier files of these roles, and what killed processes left of them."""
    for role in roles:
        stem, place = Path(role).name, (folder / role).parent
        if not place.is_dir():
            continue
        old = re.compile(rf"{re.escape(stem)}-[0-9a-f]{{16}}(\.[a-z]+)?")
        for entry in place.iterdir():
            left = is_leftover(entry.name, stem)
            if left or (old.fullmatch(entry.name) and _inside(entry, folder) not in named):
                remove(entry)


def _inside(entry: Path, folder: Path) -> str:
    return entry.relative_to(folder).as_posix()
