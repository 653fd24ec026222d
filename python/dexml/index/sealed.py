"""The folder of an index: files named by their content, and a manifest that seals them.

A file is never written in place: it gets the name ``ROLE-HASH.SUFFIX``, and the renaming of
``manifest.json`` puts all new files into force at once. A kill at any moment leaves the old index
or the new one, and at most files that no manifest names; the next save removes those.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dexml.files import digest_of, is_sealed, locked, remove, replacing, seal_of, spelled, synced

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
ROLES = {
    "vectors": "npy",
    "alive": "npy",
    "queries": "npy",
    "nodes": "npy",
    "graph": "hnsw",
    "labels": "txt",
}
_OURS = re.compile(rf"(\.\d+\.)?({'|'.join(ROLES)})(-[0-9a-f]{{16}})?\.(npy|hnsw|txt)")
_BESIDE = re.compile(r"\.\d+\.(old\.)?manifest\.json|\.lock")
_AGAIN = "build the index again"
ATTEMPTS = 100
"""Of a reader to see one index whole while another process saves again and again."""


@dataclass(frozen=True)
class Recall:
    """Recall@k measured against exact search, and the `ef` it was measured at."""

    k: int
    ef: int
    recall: float
    wanted: float
    queries: int

    @property
    def reached(self) -> bool:
        """Whether the graph finds what was asked for."""
        return self.recall >= self.wanted


@dataclass(frozen=True)
class Manifest:
    """What an index folder says of itself (``manifest.json``)."""

    format_version: int
    kind: str
    n_labels: int
    n_alive: int
    dim: int
    encoder: str
    edits: int
    m: int
    ef_construction: int
    seed: int
    recalls: tuple[Recall, ...] = ()
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    digest: str = ""

    @property
    def recall(self) -> float:
        """Recall at `recall_k`; exact search: 1."""
        return self.recalls[0].recall if self.recalls else 1.0

    @property
    def recall_k(self) -> int:
        """The k of `recall`."""
        return self.recalls[0].k if self.recalls else 0

    @property
    def recall_queries(self) -> int:
        """Queries that `recall` was measured with."""
        return self.recalls[0].queries if self.recalls else 0

    @property
    def ef(self) -> int:
        """Candidates of a search for `recall_k` labels."""
        return self.recalls[0].ef if self.recalls else 0


def write(
    folder: Path, manifest: Manifest, writers: Mapping[str, Callable[[Path], None] | None]
) -> Manifest:
    """Write the files of an index and put them into force.

    Args:
        folder: Made if it is not there.
        manifest: `files` is that of the index as it was loaded from or saved to this folder, and
            `digest` that of its manifest; ``""`` replaces whatever index is there.
        writers: For each role what writes the file, or None for the file that is there.

    Returns:
        The manifest that was written.

    Raises:
        FileExistsError: The folder holds something that is not an index.
        RuntimeError: Another process has saved to the folder since.
    """

    def content() -> dict[str, Any]:
        files = {
            role: manifest.files[role]
            if writer is None
            else put(folder, f"{role}-{{}}.{ROLES[role]}", writer)
            for role, writer in writers.items()
        }
        return asdict(replace(manifest, files=files))

    written = commit(folder, manifest.digest, content, ours=_OURS, what="an index")
    return replace(manifest, files=written["files"], digest=written["digest"])


def commit(
    folder: Path,
    digest: str,
    content: Callable[[], dict[str, Any]],
    *,
    ours: re.Pattern[str],
    what: str,
) -> dict[str, Any]:
    """Write the files of a folder, and rename its manifest: that puts all of them into force.

    Args:
        folder: Made if it is not there.
        digest: Of the manifest that must be there; ``""`` replaces whatever `what` is there.
        content: Writes files (`put`) and returns the manifest; its ``files`` name what stays.
        ours: Names of files and folders that a save leaves, beside the manifest and the lock.
        what: Name of such a folder, for messages.

    Returns:
        The manifest that was written, with its digest.

    Raises:
        FileExistsError: The folder holds something else.
        RuntimeError: Another process has saved to the folder since.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder}: not a folder; choose another place for {what}")
    folder.mkdir(exist_ok=True)
    path = folder / MANIFEST
    if not path.exists() and (other := foreign(folder, ours)):
        raise FileExistsError(
            f"{folder}: holds {other[0]}, which is no part of {what}; choose another"
        )
    with locked(folder):
        check_unchanged(folder, digest)
        made = content()
        made["digest"] = digest_of(made)
        with replacing(path) as beside:
            beside.write_bytes(spelled(made).encode())
        synced(folder)
        named = {seal["name"] for seal in made["files"].values()}
        for entry in folder.iterdir():
            if entry.name not in named and ours.fullmatch(entry.name):
                remove(entry)
    return made


def check_unchanged(folder: Path, digest: str) -> None:
    """Refuse to go on if the manifest there is not the one with this digest (``""``: any)."""
    if digest and digest_there(folder / MANIFEST) != digest:
        raise RuntimeError(f"{folder}: changed by another process since it was opened")


def read(folder: Path) -> Manifest:
    """Read the manifest and check every byte of every file against it.

    Raises:
        FileNotFoundError: No index there.
        ValueError: Damaged, of another version, or with files that do not belong to it.
    """
    path = folder / MANIFEST
    for attempt in range(ATTEMPTS):
        manifest = read_manifest(folder)
        try:
            for role, seal in manifest.files.items():
                _check(folder, role, seal)
            break
        except (ValueError, FileNotFoundError):  # or a save came between?
            if attempt == ATTEMPTS - 1 or digest_there(path) == manifest.digest:
                raise
    if other := foreign(folder, _OURS):
        raise ValueError(f"{folder}: {other[0]} is no part of the index; remove it")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` alone; errors as `read`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no index there (no manifest.json); {_AGAIN}")
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        version = content["format_version"]
        if type(version) is not int:
            raise TypeError("format_version is not a number")
        if version > FORMAT_VERSION:
            raise ValueError(
                f"{path}: format {version} is newer than {FORMAT_VERSION}; update dexml"
            )
        if version < FORMAT_VERSION:
            raise ValueError(f"{path}: format {version} of an older dexml; {_AGAIN}")
        if content["digest"] != digest_of(content) or text != spelled(content):
            raise TypeError("its digest is another")
        return _manifest(content)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error}); {_AGAIN}") from None
    except RecursionError:
        raise ValueError(f"{path}: damaged (nested too deeply); {_AGAIN}") from None


def path_of(folder: Path, manifest: Manifest, role: str) -> Path:
    """Path of the file with a role."""
    return folder / str(manifest.files[role]["name"])


def _manifest(content: dict[str, Any]) -> Manifest:
    """Check names and types of everything in a manifest."""
    kinds: dict[str, Any] = {"int": int, "str": str}
    for f in fields(Manifest):
        kind = kinds.get(str(f.type), list if f.name == "recalls" else dict)
        if type(content[f.name]) is not kind:
            raise TypeError(f"{f.name} is not of type {kind.__name__}")
    if len(content) != len(fields(Manifest)):
        raise TypeError("unknown fields")
    sizes = ("n_labels", "n_alive", "edits", "seed")
    if content["kind"] not in ("exact", "hnsw") or any(content[name] < 0 for name in sizes):
        raise TypeError("values out of range")
    recalls = tuple(Recall(**row) for row in content["recalls"])
    for row in recalls:
        if not all(type(v) is int and v >= 0 for v in (row.k, row.ef, row.queries)):
            raise TypeError("recalls")
        if not all(isinstance(v, int | float) for v in (row.recall, row.wanted)):
            raise TypeError("recalls")
    wanted = {"vectors", "alive", "queries"} | (
        {"graph", "nodes"} if content["kind"] == "hnsw" and "graph" in content["files"] else set()
    )
    if not wanted <= content["files"].keys() <= wanted | {"labels"}:
        raise TypeError(f"files of roles {', '.join(content['files'])}")
    for role, seal in content["files"].items():
        name = f"{role}-{str(seal['sha256'])[:16]}.{ROLES[role]}"
        if seal["name"] != name or type(seal["bytes"]) is not int:
            raise TypeError(f"file of the {role}")
    return Manifest(**(content | {"recalls": recalls}))


def put(folder: Path, name: str, writer: Callable[[Path], None]) -> dict[str, Any]:
    """Write a file under the name of its content, which stands for the ``{}`` in `name`."""
    beside = folder / f".{os.getpid()}.{name.replace('-{}', '')}"
    try:
        writer(beside)
        synced(beside)
        seal = seal_of(beside)
        name = name.format(seal["sha256"][:16])
        os.replace(beside, folder / name)
    finally:
        beside.unlink(missing_ok=True)
    return {"name": name, **seal}


def _check(folder: Path, role: str, seal: Mapping[str, Any]) -> None:
    path = folder / seal["name"]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the {role} of the index are not there; {_AGAIN}")
    if not is_sealed(path, seal):
        raise ValueError(f"{path}: not the file that was saved; {_AGAIN}")


def foreign(folder: Path, ours: re.Pattern[str]) -> list[str]:
    """Names in the folder that no save of ours leaves."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.name != MANIFEST
        and not ours.fullmatch(entry.name)
        and not _BESIDE.fullmatch(entry.name)
    )


def digest_there(path: Path) -> str | None:
    """The digest that a manifest claims; None where there is none to read."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
