"""An unfinished output: a folder beside it, from which a later run can go on.

``x.jsonl.partial/`` holds the data files and ``state.json``: what was asked, how many texts are
answered, a hash of them, and the size of each data file at that moment. Anything that a killed run
wrote after that is cut off. The output itself appears when all texts are answered.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.files import named_for_core, read_json, write_json

FORMAT_VERSION = 1
COMMIT_SECONDS = 1.0
"""Answers of the last moments before a kill may be lost: those younger than this."""
PACK_UP_TO = 2**22
"""Entries (32 MiB) up to which a CSR archive is packed."""
NPZ_FILES = ("indptr.i8", "indices.i4", "scores.f4")


class Partial:
    """The unfinished output of a run; a context that keeps the answers so far if it fails."""

    def __init__(
        self, out: Path, asked: Mapping[str, Any], names: Sequence[str], *, resume: bool
    ) -> None:
        """Begin, or go on.

        Args:
            out: Path of the output.
            asked: Everything that the answers depend on, apart from the texts; JSON values.
            names: Names of the data files.
            resume: Go on with the unfinished output if there is one.

        Raises:
            ValueError: The unfinished output is damaged, or belongs to another question.
        """
        self.folder = out.with_name(f"{out.name}.partial")
        self.rows = 0
        self.replaced = False
        self._asked = dict(asked)
        self._names = names
        self._hash = hashlib.sha256()
        self._committed, self._when = 0, 0.0
        sizes = dict.fromkeys(names, 0)
        self._expected: str | None = None
        if resume and (self.folder / "state.json").exists():
            state = self._read_state()
            self.rows = self._committed = state["rows"]
            self._expected, sizes = state["sha256"], state["bytes"]
        elif self.folder.exists():
            self.replaced = True
            shutil.rmtree(self.folder)
        self._sizes = sizes
        self._files: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open the data files, and cut off what no state knows of."""
        self.folder.mkdir(exist_ok=True)
        for name in self._names:
            path = self.folder / name
            file = self._stack.enter_context(path.open("r+b" if self.rows else "w+b"))
            file.truncate(self._sizes[name])
            file.seek(0, os.SEEK_END)
            self._files[name] = file
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """After an error, keep the answers so far; without any, leave no folder."""
        with self._stack:  # closes the data files whatever happens
            if kind is not None and self.rows:
                self.commit()
        if kind is not None and not self.rows:
            shutil.rmtree(self.folder, ignore_errors=True)

    def skip(self, texts: Iterator[str]) -> None:
        """Pass over the texts that are answered already.

        Raises:
            ValueError: They are not the same as then.
        """
        count = 0
        for text in islice(texts, self.rows):
            self._add(text)
            count += 1
        if count < self.rows:
            raise ValueError(
                f"{self.folder}: holds answers to {self.rows} texts, and now there are {count}; "
                "leave out --resume to start anew"
            )
        if self.rows and self._hash.hexdigest() != self._expected:
            raise ValueError(
                f"{self.folder}: the first {self.rows} texts are not those it holds answers to; "
                "leave out --resume to start anew"
            )

    def size(self, name: str) -> int:
        """Bytes of a data file so far."""
        return self._files[name].tell()

    def append(self, texts: Sequence[str], parts: Mapping[str, bytes]) -> None:
        """Write the answers to some more texts: bytes for each data file."""
        for name, content in parts.items():
            self._files[name].write(content)
        for text in texts:
            self._add(text)
        self.rows += len(texts)
        if time.monotonic() - self._when >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Put the answers on the disk, then note them in the state."""
        if self.rows == self._committed:
            return
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        state = {
            "format_version": FORMAT_VERSION,
            "asked": self._asked,
            "rows": self.rows,
            "sha256": self._hash.hexdigest(),
            "bytes": {name: file.tell() for name, file in self._files.items()},
        }
        write_json(self.folder / "state.json", state)
        self._committed, self._when = self.rows, time.monotonic()

    def close(self) -> None:
        """Put all answers on the disk and close the data files; no later failure loses any."""
        self.commit()
        self._stack.close()

    def remove(self) -> None:
        """Remove the folder, now that the output is there."""
        (self.folder / "state.json").unlink(missing_ok=True)  # first: without it nothing is resumed
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add(self, text: str) -> None:
        self._hash.update(text.encode("utf-8"))
        self._hash.update(b"\n")

    def _read_state(self) -> dict[str, Any]:
        path = self.folder / "state.json"
        anew = "leave out --resume to start anew"
        state = read_json(path)
        if state.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"{path}: not of this version of dexml; {anew}")
        try:
            was, rows, sizes = dict(state["asked"]), state["rows"], dict(state["bytes"])
            whole = isinstance(state["sha256"], str) and isinstance(rows, int) and rows > 0
            for name in self._names:
                size = sizes[name]
                whole = whole and isinstance(size, int)
                whole = whole and 0 <= size <= (self.folder / name).stat().st_size
        except (KeyError, TypeError, ValueError, OSError):
            whole = False
        if not whole:
            raise ValueError(f"{self.folder}: damaged; {anew}")
        for name, value in self._asked.items():
            if was.get(name) != value:
                raise ValueError(
                    f"{self.folder}: begun with {name} = {json.dumps(was.get(name))}, now "
                    f"{json.dumps(value)}; ask the same, or {anew}"
                )
        return state


def npz_parts(
    counts: NDArray[np.int64], ids: NDArray[np.int32], scores: NDArray[np.float32], base: int | None
) -> dict[str, bytes]:
    """Return bytes for the data files of a CSR archive.

    Args:
        counts: Entries of each row.
        ids: Their label ids, row after row.
        scores: Their scores.
        base: Entries that the files hold already; None if not even the first offset is there.
    """
    stops = np.cumsum(counts, dtype=np.int64) + (base or 0)
    if base is None:
        stops = np.concatenate([np.zeros(1, np.int64), stops])
    arrays = (stops.astype("<i8"), ids.astype("<i4"), scores.astype("<f4"))
    return {name: array.tobytes() for name, array in zip(NPZ_FILES, arrays, strict=True)}


def finish_npz(out: Path, folder: Path, n_labels: int) -> None:
    """Make a CSR archive of the data files, which are mapped into memory, not loaded.

    A large archive is stored, not packed: packing holds all the packed bytes at once.
    """
    indptr = _mapped(folder / NPZ_FILES[0], np.dtype("<i8"))
    if not len(indptr):  # no texts
        indptr = np.zeros(1, np.int64)
    indices = _mapped(folder / NPZ_FILES[1], np.dtype("<i4"))
    values = _mapped(folder / NPZ_FILES[2], np.dtype("<f4"))
    packed = len(values) <= PACK_UP_TO
    with named_for_core(out) as named:
        _rust.save_npz(str(named), n_labels, indptr, indices, values, compressed=packed)


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # nothing to map
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))
