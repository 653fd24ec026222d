"""What ``dexml.predict`` reads: any number of texts, and files that name a group of labels."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console, data
from dexml.run import LabelSet


@contextmanager
def open_texts(path: Path) -> Iterator[Iterator[str]]:
    """Open a file or a pipe with a text a line; gzip and zstd are unpacked.

    Memory does not grow with the file, except for zstd: it is unpacked as a whole.
    """
    with path.open("rb") as stream:
        packing = data.packing(stream.peek(4)[:4])
        if packing == "gzip":
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield _gzip_lines(unpacked, str(path))
        elif packing == "zstd":
            yield data.lines(io.BytesIO(_rust.load_bytes(str(path))), str(path))
        else:
            yield data.lines(stream, str(path))


def _gzip_lines(stream: gzip.GzipFile, name: str) -> Iterator[str]:
    try:
        yield from data.lines(io.BufferedReader(stream), name)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: damaged or not a gzip stream ({error})") from None


def count_lines(path: Path) -> int | None:
    """Count the lines of a plain file, for the progress bar; None for pipes and packed files."""
    if not path.is_file():  # a pipe can be read once
        return None
    count, last = 0, b"\n"
    with path.open("rb") as stream:
        if data.packing(stream.peek(4)[:4]):
            return None
        while block := stream.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def count_texts(path: Path) -> int:
    """Count the texts of a file by reading it; for packed files.

    Raises:
        ValueError: It is a pipe, which can be read once.
    """
    if not path.is_file():
        raise ValueError(f"{path}: a pipe has no known length; give a file")
    with open_texts(path) as texts:
        return sum(1 for _ in texts)


def read_group(path: Path, labels: LabelSet) -> NDArray[np.bool_]:
    """Read a group of labels, one a line: the text or name of a label, or its id.

    If several labels have the text, all of them belong to the group; removed labels do not. Blank
    lines are skipped.

    Returns:
        A bool mask over the labels.

    Raises:
        ValueError: A line that is neither, an id out of range or of a removed label.
    """
    by_text = labels.ids_by_text
    mask = np.zeros(len(labels), np.bool_)
    for number, line in enumerate(data.load_texts(path), start=1):
        if line and (found := by_text.get(line) or labels.ids_by_name.get(line)):
            mask[found] = True
        elif line.isascii() and line.isdigit():
            if int(line) >= len(labels):
                raise ValueError(
                    f"{path}:{number}: label {line} out of range (n_labels = {len(labels)})"
                )
            if not labels.alive[int(line)]:
                raise ValueError(f"{path}:{number}: label {line} was removed")
            mask[int(line)] = True
        elif line:
            hint = console.did_you_mean(line, list(by_text)) if len(by_text) <= 20_000 else ""
            raise ValueError(
                f"{path}:{number}: no label has the text or id '{_shortened(line)}'{hint}"
            )
    return mask


def _shortened(text: str) -> str:
    """Return a text, or the start of a long one, for a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def stdin_texts(stream: BinaryIO) -> Iterator[str]:
    """Read a text a line from standard input."""
    return data.lines(stream, "stdin")
