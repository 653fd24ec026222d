"""Turn raw downloads of the Extreme Classification Repository into the LF layout.

A download holds ``lbl.json``, ``trn.json`` and ``tst.json`` (or ``.gz``) with a JSON object a line:
``uid``, ``title``, ``content`` and, for points, ``target_ind`` (label numbers: lines of
``lbl.json``, counted from 0) and ``target_rel`` (their values, 1 if missing). The files of filter
pairs are in the same folder.
"""

from __future__ import annotations

import gzip
import json
import math
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from dexml.data.layout import find
from dexml.data.matrices import load_pairs, save_labels
from dexml.data.parts import Csr
from dexml.data.texts import packing, save_texts
from dexml.files import replacing

PARTS = {"trn": "filter_labels_train.txt", "tst": "filter_labels_test.txt"}
PROGRESS = 200_000


def prepare(
    source: Path,
    target: Path,
    *,
    text: str = "both",
    repair: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Turn the raw files in `source` into a folder in the LF layout.

    Nothing is written before everything has been read and checked. A new `target` appears when it
    is complete. If `target` exists (it may be `source` itself), each file appears when it is
    complete.

    Args:
        source: Folder with ``lbl.json``, ``trn.json``, ``tst.json``, plain or ``.gz``.
        target: Folder for ``raw/*.txt``, ``Y.*.npz`` and the filter files.
        text: ``"title"``, ``"content"``, or ``"both"``, joined by a blank. White space becomes one
            blank, because a text is one line.
        repair: Drop duplicate labels of a point and labels out of range, instead of raising.
        say: Called with a message now and then.

    Raises:
        ValueError: A line is not as described above; the message names file and line.
        FileNotFoundError: A raw file is missing.
        NotADirectoryError: `target` is a file.
    """
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target}: a file; give a folder")
    labels = [_text(record, text, at) for record, at in _records(source, "lbl", say)]
    if not labels:
        raise ValueError(f"{_raw(source, 'lbl')}: empty; expected a label a line")
    texts = {"Y": labels}
    matrices = {}
    for part, name in PARTS.items():
        texts[f"{part}_X"], matrices[part] = _points(
            source, part, len(labels), text=text, repair=repair, say=say
        )
        pairs = find(source, name)
        if pairs.exists():
            load_pairs(pairs, matrices[part].shape)
    if target.is_dir():
        _write(target, source, texts, matrices)
    else:
        with replacing(target) as temporary:
            temporary.mkdir()
            _write(temporary, source, texts, matrices)
    sides = ", ".join(f"{y.shape[0]} points in {part}" for part, y in matrices.items())
    say(f"{target}: {len(labels)} labels, {sides}")


def _write(
    folder: Path, source: Path, texts: dict[str, list[str]], matrices: dict[str, Csr]
) -> None:
    (folder / "raw").mkdir(exist_ok=True)
    for name, lines in texts.items():
        save_texts(folder / "raw" / f"{name}.txt", lines)
    for part, name in PARTS.items():
        save_labels(folder / f"Y.{part}.npz", matrices[part])
        pairs = find(source, name)
        if pairs.exists() and folder.resolve() != source.resolve():
            with replacing(folder / pairs.name) as temporary:
                shutil.copyfile(pairs, temporary)


def _points(
    source: Path,
    part: str,
    n_labels: int,
    *,
    text: str,
    repair: bool,
    say: Callable[[str], None],
) -> tuple[list[str], Csr]:
    """Read the points of one side: their texts and the matrix of their labels."""
    texts: list[str] = []
    indptr, indices, values = array("q", [0]), array("i"), array("f")
    n_dropped = 0
    for record, at in _records(source, part, say):
        texts.append(_text(record, text, at))
        row = _targets(record, at)
        seen: dict[int, float] = {}
        for label, value in row:
            if not 0 <= label < n_labels:
                fault = f"label {label} out of range (n_labels = {n_labels})"
            elif label in seen:
                fault = f"duplicate label {label}"
            else:
                seen[label] = value
                continue
            if not repair:
                raise ValueError(f"{at}: {fault}; --repair drops such labels")
            n_dropped += 1
        for label in sorted(seen):
            indices.append(label)
            values.append(seen[label])
        indptr.append(len(indices))
    if n_dropped:
        say(f"{_raw(source, part)}: {n_dropped} labels dropped")
    arrays = (
        np.frombuffer(values, np.float32),
        np.frombuffer(indices, np.int32),
        np.frombuffer(indptr, np.int64).astype(np.int32 if len(indices) < 2**31 else np.int64),
    )
    return texts, csr_array(arrays, shape=(len(texts), n_labels))


def _targets(record: dict[str, Any], at: str) -> list[tuple[int, float]]:
    """Return the labels of a point with their values, in file order."""
    labels = record.get("target_ind")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{at}: 'target_ind' must be a list of label numbers")
    values = record.get("target_rel", [1.0] * len(labels))
    if not isinstance(values, list) or len(values) != len(labels):
        raise ValueError(f"{at}: 'target_rel' must be a list as long as 'target_ind'")
    for value in values:
        if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value < 1e38):
            raise ValueError(f"{at}: 'target_rel' holds {value!r}; expected finite numbers >= 0")
    return list(zip(labels, values, strict=True))


def _text(record: dict[str, Any], which: str, at: str) -> str:
    """Return the text of a record as one line."""
    fields = ("title", "content") if which == "both" else (which,)
    parts = []
    for field in fields:
        value = record.get(field, "" if which == "both" and field == "content" else None)
        if not isinstance(value, str):
            raise ValueError(f"{at}: '{field}' must be a text")
        parts.append(value)
    text = " ".join(" ".join(parts).split())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{at}: half of a surrogate pair in the text; not Unicode") from None
    return text


def _raw(source: Path, name: str) -> Path:
    for path in (source / f"{name}.json", source / f"{name}.json.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"{source}: has neither {name}.json nor {name}.json.gz")


def _records(
    source: Path, name: str, say: Callable[[str], None]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a file, each with ``file:line``; skip blank lines at the end."""
    path = _raw(source, name)
    number, blank = 0, 0
    try:
        with path.open("rb") as plain, gzip.open(plain) if _is_gzip(path) else plain as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    blank = blank or number
                    continue
                if blank:
                    raise ValueError(f"{path}:{blank}: blank line; expected a JSON object")
                yield _object(line, f"{path}:{number}"), f"{path}:{number}"
                if number % PROGRESS == 0:
                    say(f"{path}: {number} lines")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip file after line {number} ({error})") from None


def _object(line: bytes, at: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"{at}: not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{at}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{at}: expected a JSON object, not {type(record).__name__}")
    return record


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return packing(file.read(4)) == "gzip"
