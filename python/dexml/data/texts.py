"""Texts in files, one a line, and splits of points by a hash."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.files import replacing
from dexml.given import expect_texts

MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors put in front of UTF-8."""


def packing(head: bytes) -> Literal["gzip", "zstd"] | None:
    """Return how a file is packed, by its first 4 bytes: the one test of all readers in Python.

    It is that of the Rust core. Zstd data may start with a skippable frame, as pzstd writes it.
    """
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    is_skippable = 0x50 <= head[0] <= 0x5F and head[1:4] == b"\x2a\x4d\x18" if head else False
    return "zstd" if is_skippable or head[:4] == b"\x28\xb5\x2f\xfd" else None


def load_texts(path: str | os.PathLike[str]) -> list[str]:
    r"""Load texts, one a line: UTF-8, split on ``\n`` only, stripped; a last newline is optional.

    A gzip or zstd file is recognised by its first bytes. A byte order mark is no text.

    Raises:
        ValueError: A line is not UTF-8 (the message names it), or a compressed file is damaged.
    """
    with Path(path).open("rb") as file:
        if packing(file.read(4)):
            return list(lines(io.BytesIO(_rust.load_bytes(str(path))), str(path)))
        file.seek(0)
        return list(lines(file, str(path)))


def save_texts(path: str | os.PathLike[str], texts: Iterable[str]) -> None:
    """Save texts, one a line; white space inside a text becomes one blank.

    Raises:
        TypeError: `texts` is a single string, a table, a dict or a set, or an item is not a
            ``str``; the message numbers it.
        ValueError: UTF-8 cannot hold a text (half of a surrogate pair).
    """
    name = Path(path).name
    expect_texts(texts, f"{name}: texts")
    with (
        replacing(Path(path)) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name}: text {number} is of type {type(text).__name__}, not str")
            try:
                file.write(" ".join(text.split()) + "\n")
            except UnicodeEncodeError as error:
                raise ValueError(f"{name}: text {number} is not Unicode ({error.reason})") from None


def lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Yield the texts of a byte stream, one a line; a byte order mark in front is left out.

    Raises:
        ValueError: A line is not UTF-8; the message begins with `name` and the line.
    """
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(MARK)
        try:
            yield line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}:{number}: not UTF-8 ({error.reason}); convert it") from None


def validation_mask(keys: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Choose a validation part by a hash of each point's key, the same on every machine.

    Args:
        keys: Group keys, or the points' texts if there are no groups. Equal keys stay together.
        fraction: Expected share of keys, in [0, 1).

    Returns:
        A mask, shape (n_points,), True for validation points: those whose
        ``unit_interval("validation", key)`` is below `fraction`.
    """
    return np.fromiter(
        (unit_interval("validation", key) < fraction for key in keys), np.bool_, len(keys)
    )


def part_numbers(salt: str, keys: Sequence[str], n_parts: int) -> NDArray[np.int64]:
    """Cut points into `n_parts` parts by a hash of each point's key; equal keys stay together.

    Returns:
        The part of each point, from 0, shape (n_points,).
    """
    return np.fromiter(
        (int(n_parts * unit_interval(salt, key)) for key in keys), np.int64, len(keys)
    )


def unit_interval(salt: str, key: str) -> float:
    """Map a key to [0, 1), evenly and the same on every machine.

    The value is the first 8 bytes (big-endian) of SHA-256(salt NUL key), divided by 2^64.
    """
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
