"""What a sealed folder holds at one moment, read and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.files import digest_of, is_foreign, is_sealed, read_array, spelled

T = TypeVar("T")
ATTEMPTS = 100
"""How often a reader starts again while another process saves again and again."""
OWN_FIELDS = ("format_version", "parts", "digest")
"""Fields of a manifest that are not facts."""
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
    renew: str
    """What to do about one of an older version."""
    whole: bool = False
    """Whether the folder itself holds nothing else, or only the folders of parts in it do."""
    free: frozenset[str] = frozenset()
    """Files in folders of parts that people may change or remove."""


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
            raise self.damaged(f"no {role}")
        path = self.path(role)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; {self.format.remedy}")
        if not is_sealed(path, self.parts[role]):
            raise self.damaged("not the file that was saved", path)
        return path

    def check_all(self) -> None:
        """Check every byte of every part, and that their folders hold nothing else.

        Raises:
            FileNotFoundError: A part is missing.
            ValueError: A part is damaged, or a file in a folder of parts does not belong to them.
        """
        seen: dict[str, dict[str, Any]] = {}
        for role, seal in self.parts.items():
            if seal not in seen.values():  # one file may have two roles
                seen[role] = seal
        with ThreadPoolExecutor(_rust.default_threads()) as pool:
            for _ in pool.map(self.check, seen):  # raises the error of the first one
                pass
        names = {str(seal["name"]) for seal in seen.values()}
        tops = {name.split("/")[0] for name in names if "/" in name}
        names |= {self.format.manifest, *self.format.free}
        for top in ["."] if self.format.whole else sorted(tops):
            for path in sorted((self.folder / top).rglob("*")):
                inside = path.relative_to(self.folder)
                known = inside.as_posix() in names or is_named_by_content(path.name)
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
            array = read_array(path, mmap_mode=mmap_mode)
        except ValueError as error:
            raise ValueError(f"{error}; {self.format.remedy}") from None
        fits = len(array.shape) == len(shape) and all(
            b in (a, None) for a, b in zip(array.shape, shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            wanted = f"{np.dtype(dtype)} {tuple('any' if n is None else n for n in shape)}"
            raise self.damaged(f"{array.dtype} of shape {array.shape}, expected {wanted}", path)
        return array if mmap_mode is None else np.asarray(array)

    def damaged(self, what: str, path: Path | None = None) -> ValueError:
        """The error for content that cannot be right; without `path` the manifest is meant."""
        where = self.folder / self.format.manifest if path is None else path
        return ValueError(f"{where}: damaged ({what}); {self.format.remedy}")


def read(folder: Path, kind: Format) -> Sealed:
    """Read the manifest of a folder without looking at the parts.

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
            raise _Version(f"format {version} of an older dexml; {kind.renew}")
        if content["digest"] != digest_of(content) or text != spelled(content):
            raise TypeError("its digest does not match")
        parts = dict(content["parts"])
        for role, seal in parts.items():
            _check_seal(role, seal)
        facts = {name: value for name, value in content.items() if name not in OWN_FIELDS}
        return Sealed(folder.resolve(), kind, facts, parts, str(content["digest"]))
    except _Version as error:
        raise ValueError(f"{path}: {error}") from None
    except KeyError as error:
        raise ValueError(f"{path}: damaged (no {error}); {kind.remedy}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); {kind.remedy}") from None
    except RecursionError:
        raise ValueError(f"{path}: damaged (nested too deeply); {kind.remedy}") from None


class _Version(Exception):
    """A manifest of another version."""


def _check_seal(role: str, seal: Any) -> None:
    """Refuse a seal that says something else than it must, or whose name leads elsewhere.

    The role as well: a save looks for earlier files of it.
    """
    if not isinstance(seal, dict) or seal.keys() != {"name", "bytes", "sha256"}:
        raise TypeError(f"no proper seal of {role}")
    proper = _leads_inside(role) and _leads_inside(seal["name"])
    if not proper or type(seal["bytes"]) is not int or not _HEX.fullmatch(seal["sha256"]):
        raise TypeError(f"no proper seal of {role}")


def _leads_inside(name: str) -> bool:
    """Whether a name is a plain path below the folder, on Windows too."""
    path = PurePosixPath(name)
    plain = path.as_posix() == name and name != "." and ".." not in path.parts
    return plain and not PureWindowsPath(name).anchor and "\\" not in name and "\0" not in name


def is_named_by_content(name: str) -> bool:
    """Whether a file has the name of a part: ``STEM-HASH.SUFFIX``."""
    return _BY_CONTENT.fullmatch(name) is not None


def load(folder: Path, kind: Format, build: Callable[[Sealed], T]) -> T:
    """Check a folder and build something from it, all from one state of the folder.

    If another process saves to the folder meanwhile, reading starts again.

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
