"""The run directory: where training leaves its files and the later stages find them.

Knows files only, no torch. Every file is written beside its place and renamed; paths inside are
relative, so a run directory can be moved. Contents: ``docs/formats.md``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from dexml.data import load_texts
from dexml.files import is_sealed, replacing
from dexml.run import info as runinfo

_OWN = (
    "run.json",
    *("config.toml", "log.jsonl", "metrics.json", "report.html", "labels.safetensors"),
    *("labels.txt", "label_emb.npy", "query_emb.npy", "encoder", "index", "memory"),
    *("checkpoint", "cache", "tensorboard", "wandb"),
    "versions.json",
)
"""All that a run may hold; the first says that it is finished, the last that it is a run."""
_PACKAGES = ("dexml-xmc", "torch", "transformers", "tokenizers", "numpy", "scipy", "hnswlib")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what ``run.json`` says."""

    folder: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run directory that `dexml.train` has finished.

        Raises:
            FileNotFoundError: No such folder, or the training has not finished.
            ValueError: Damaged, or written by a newer version.
        """
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such run directory; make one: "
                f"python -m dexml.train DATA_DIR --out {folder}"
            )
        path = folder / "run.json"
        if not path.exists():
            unfinished = (folder / "config.toml").exists()
            remedy = "go on with python -m dexml.train ... --resume" if unfinished else "not a run"
            raise FileNotFoundError(f"{folder}: no finished run in it (no run.json); {remedy}")
        info = read_json(path)
        runinfo.check_info(path, info)
        return cls(folder, info)

    def check(self, name: str) -> Path:
        """Return the path of a file of the run, after every byte of it was checked.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is not the file that the training wrote.
        """
        path, known = self.folder / name, self.info["files"]
        if name not in known:
            raise ValueError(f"{path}: not named in run.json; {runinfo.AGAIN}")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; {runinfo.AGAIN}")
        if not is_sealed(path, known[name]):
            raise ValueError(f"{path}: damaged (not the file that was written); {runinfo.AGAIN}")
        return path

    def load_array(self, name: str, *, mmap: bool = False) -> NDArray[np.float32]:
        """Load ``NAME.npy`` (never unpickled), or map it into memory, read-only."""
        path = self.check(f"{name}.npy")
        try:
            array: NDArray[np.float32] = np.load(
                path, mmap_mode="r" if mmap else None, allow_pickle=False
            )
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: damaged ({error}); train again") from None
        rows = self.info["n_labels"] if name == "label_emb" else len(array)
        expected = (rows, self.info["dim"] + 1)
        if array.dtype != np.float32 or array.shape != expected:
            raise ValueError(
                f"{path}: {array.dtype} of shape {array.shape}, expected float32 {expected}; "
                "train again"
            )
        return array

    def label_texts(self) -> list[str]:
        """Texts of the labels, by label id."""
        texts = load_texts(self.check("labels.txt"))
        if len(texts) != self.info["n_labels"]:
            expected = self.info["n_labels"]
            raise ValueError(
                f"{self.folder / 'labels.txt'}: {len(texts)} lines for {expected} labels"
            )
        return texts

    def residual(self) -> NDArray[np.float32]:
        """What training added to the text of each label, (n_labels, D); 0 for unseen labels."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.check(runinfo.TABLE)
        expected = (self.info["n_labels"], self.info["dim"])
        try:
            residual: NDArray[np.float32] = load_file(path)["residual"]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path}: damaged ({error}); train again") from None
        if residual.shape != expected:
            raise ValueError(f"{path}: residual {residual.shape}, expected {expected}; train again")
        return residual

    def unseen_bias(self) -> float:
        """The last dimension of a label vector that no training point speaks for.

        ``run.json`` says it; a run without it shows it in the labels that training never saw
        (their residual is 0), else the tenth of the labels with the smallest stands for them.
        """
        if "unseen_bias" in self.info:
            return float(self.info["unseen_bias"])
        served = self.load_array("label_emb", mmap=True)[:, -1]
        unseen = ~self.residual().any(axis=1)
        if unseen.any():
            return float(served[unseen].mean())
        return float(np.sort(served)[: max(1, len(served) // 10)].mean())

    def data_dir(self) -> Path:
        """The data set the run was trained on, if it still lies where it lay."""
        return Path(os.path.normpath(self.folder / self.info["data"]))

    def fingerprint(self) -> str:
        """SHA-256 over encoder and label table: which run made these vectors?

        The first call checks every byte of both.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: A file is not the one that the training wrote.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        files = self.info["files"]
        for name in runinfo.encoder_files(self.folder):
            if name not in files:
                raise ValueError(f"{self.folder / name}: no part of the run; remove it")
        for name in files:
            if name.startswith("encoder/"):
                self.check(name)
        self.check(runinfo.TABLE)
        made = runinfo.fingerprint(files)
        if made != self.info["fingerprint"]:
            raise ValueError(_strangers(self.folder / "run.json"))
        return made


def _strangers(path: Path) -> str:
    return (
        f"{path}: the encoder or {runinfo.TABLE} are not those it was written with; {runinfo.AGAIN}"
    )


def remove(folder: Path) -> None:
    """Remove the files of a run, and nothing else that may lie in its folder."""
    for name in _OWN:  # in this order: what a kill leaves is no finished run, but still a run
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside `path` and rename it, so that `path` is whole at any moment."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``."""
    with replacing(path) as beside:
        np.save(beside, array)


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the resolved settings as ``config.toml``."""
    write_bytes(folder / "config.toml", tomli_w.dumps(settings).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.toml`` of a run."""
    path = folder / "config.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def log(folder: Path, **fields: Any) -> dict[str, Any]:
    """Append one line to ``log.jsonl``, and return it: the fields and the time (since 1970, s)."""
    line = {"time": round(time.time(), 3), **fields}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read ``log.jsonl``; a last line that a killed job left unfinished is dropped.

    Raises:
        ValueError: Another line is no JSON object.
    """
    found = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number}: damaged ({error})") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{path}:{number}: not a JSON object")
        found.append(entry)
    return found


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
