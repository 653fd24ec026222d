"""What the command reads: texts of any number, and the labels of a group."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console, data

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@contextmanager
def open_texts(path: Path) -> Iterator[Iterator[str]]:
    """Open a file, or a pipe, with a text a line; gzip and zstd are unpacked.

    Memory does not grow with the file, except for zstd, which is unpacked as a whole.
    """
    with path.open("rb") as stream:
        head = stream.peek(4)
        if head.startswith(GZIP):
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield _gzip_lines(unpacked, str(path))
        elif head.startswith(ZSTD):
            yield data.lines(io.BytesIO(_rust.load_bytes(str(path))), str(path))
        else:
            yield data.lines(stream, str(path))


def _gzip_lines(stream: gzip.GzipFile, name: str) -> Iterator[str]:
    try:
        yield from data.lines(io.BufferedReader(stream), name)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: damaged or not a gzip stream ({error})") from None


def count_lines(path: Path) -> int | None:
    """Count the lines of a plain file, for the time left; None where that takes too much."""
    if not path.is_file():  # a pipe can be read once
        return None
    count, last = 0, b"\n"
    with path.open("rb") as stream:
        if stream.peek(4).startswith((GZIP, ZSTD)):
            return None
        while block := stream.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def read_group(
    path: Path, label_texts: Sequence[str], alive: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Read a group of labels, one a line: a label's text, or else its id; blank lines are skipped.

    Where several labels have that text, all of them are meant; removed labels (`alive` is False)
    are none.

    Returns:
        A bool mask over the labels.
    """
    by_text: dict[str, list[int]] = {}
    for i, text in enumerate(label_texts):
        if alive[i]:
            by_text.setdefault(text, []).append(i)
    mask = np.zeros(len(label_texts), np.bool_)
    for number, line in enumerate(data.load_texts(path), start=1):
        if line in by_text and line:
            mask[by_text[line]] = True
        elif line.isascii() and line.isdigit():
            if int(line) >= len(label_texts):
                raise ValueError(
                    f"{path}:{number}: label {line} out of range (n_labels = {len(label_texts)})"
                )
            if not alive[int(line)]:
                raise ValueError(f"{path}:{number}: label {line} was removed")
            mask[int(line)] = True
        elif line:
            hint = console.did_you_mean(line, list(by_text)) if len(by_text) <= 20_000 else ""
            raise ValueError(
                f"{path}:{number}: no label has the text or id '{console_text(line)}'{hint}"
            )
    return mask


def console_text(text: str) -> str:
    """Return the start of a text, for a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def stdin_texts(stream: BinaryIO) -> Iterator[str]:
    """Texts of standard input, a line each."""
    return data.lines(stream, "stdin")
