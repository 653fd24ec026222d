"""Points that are rows of features instead of texts.

Everything else here reads texts, so a row becomes one: ``17:0.25 40:1``, the number and the value
of each feature. A vectorizer with ``grams="features"`` (`dexml.text.lexical`) takes it apart again.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data.matrices import load_bow, load_labels
from dexml.data.parts import Csr, csr_parts
from dexml.data.texts import load_texts, packing

NAME_OF_LABEL = "|"
"""Between the features of a label and its name."""
ARCHIVE = b"PK\x03\x04"
HEADER_BYTES = 100
_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?\d+[ \t]+\d+[ \t]+\d+[ \t\r]*\n")
_SHAPE = re.compile(rb"(?:\xef\xbb\xbf)?\d+[ \t]+\d+[ \t\r]*\n")


@dataclass(frozen=True)
class Features:
    """What is known of the features that points are given by."""

    n_features: int
    counts: bool
    """All values are whole numbers, such as how often words occur; tf-idf weighs these. Others are
    taken as they are."""


def features_of(x: Csr) -> Features:
    """Describe a matrix of features, (n, n_features)."""
    return Features(int(x.shape[1]), bool((x.data == np.floor(x.data)).all()))


@contextmanager
def features_named(name: str, called: str | None = None) -> Iterator[None]:
    """Let messages about a matrix of features speak of features: its readers know labels only.

    Args:
        name: What the messages begin with, a file or the name of a matrix.
        called: What they shall begin with instead.
    """
    try:
        yield
    except ValueError as error:
        message = str(error)
        about = message.removeprefix(name)
        begin = (called or name) if len(about) < len(message) else ""
        raise ValueError(begin + about.replace("label", "feature")) from None


def load_feature_matrix(path: Path) -> Csr:
    """Load as `load_labels` does, a matrix of features (n, n_features)."""
    with features_named(str(path)):
        return load_labels(path)


def feature_texts(x: Csr, name: str = "features") -> list[str]:
    """Write each row of features as a text.

    Args:
        x: CSR (n, n_features); values become float32.
        name: What error messages call it.

    Returns:
        n texts ``feature:value feature:value``, with as many digits as the value needs.

    Raises:
        ValueError: Not CSR, a feature is out of range or twice in a row, or a value is not finite.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> feature_texts(csr_array([[0, 0.25, 0], [3, 0, 1]]))
        ['1:0.25', '0:3 2:1']
    """
    with features_named(name):
        indptr, indices, values = csr_parts(x, name)
        with np.errstate(over="ignore", under="ignore"):  # an infinite value is refused below
            values = values.astype(np.float32, copy=False)
        repaired = _rust.check_csr(name, x.shape[0], x.shape[1], indptr, indices, values)
    if repaired is not None:
        indices, values = repaired
    return _rust.feature_texts((indptr, indices, values), x.shape[1])


def rows_of(texts: Sequence[str], n_features: int) -> Csr:
    """Read what `feature_texts` wrote: CSR (n, n_features)."""
    indptr = np.concatenate([[0], np.cumsum([text.count(":") for text in texts], dtype=np.int64)])
    numbers = np.zeros(0)
    if indptr[-1]:  # an empty text would be read as a number
        numbers = np.fromstring(" ".join(texts).replace(":", " "), np.float64, sep=" ")
    features, values = numbers[0::2].astype(np.int32), numbers[1::2].astype(np.float32)
    return csr_array((values, features, indptr), shape=(len(texts), n_features))


def check_feature_texts(texts: Sequence[str], name: str = "texts") -> None:
    """Refuse texts that are not rows of features.

    Raises:
        ValueError: The message names the text and what stands there.
    """
    wrong = _rust.not_a_feature(list(texts))
    if wrong is not None:
        raise ValueError(
            f"{name}[{wrong[0]}]: {wrong[1]!r} is no feature; this run knows points by their "
            "features, give rows such as '17:0.25 40:1' or a sparse matrix"
        )


def require_texts(features: Features | None, name: str, what: str) -> None:
    """Refuse points that are rows of features where only texts will do.

    Raises:
        ValueError: The message begins with `name` and says that `what` needs texts.
    """
    if features is not None:
        raise ValueError(f"{name}: points are rows of features, and {what} needs texts")


def label_lines(names: Sequence[str], x: Csr) -> list[str]:
    """Put the features of labels, CSR (n_labels, n_features), before their names."""
    rows = feature_texts(x, "features of labels")
    return [f"{row} {NAME_OF_LABEL} {name}".lstrip() for row, name in zip(rows, names, strict=True)]


def plain_name(name: str) -> str:
    """Return a label's name so that no part of it is taken for a feature, as of ``4:3 screens``.

    `split_label` gives the name back, also where it begins with the bar itself.
    """
    first = name.split(maxsplit=1)[:1]
    barred = name.startswith(f"{NAME_OF_LABEL} ")
    is_feature = bool(first) and _rust.not_a_feature(first) is None
    return f"{NAME_OF_LABEL} {name}" if barred or is_feature else name


def split_label(line: str) -> tuple[str, str]:
    """Take apart what `label_lines` or `plain_name` put together: features and name."""
    row, bar, name = line.partition(f"{NAME_OF_LABEL} ")
    if bar and (not row or (row.endswith(" ") and _rust.not_a_feature([row]) is None)):
        return row, name
    return "", line


def names_of(texts: Sequence[str]) -> list[str]:
    """Return the names alone of labels of points that are rows of features."""
    return [split_label(text)[1] for text in texts]


def is_bag(path: Path) -> bool:
    """Whether a file is a bag of words: its first line is ``points features labels``."""
    return path.is_file() and _HEADER.match(_head(path)) is not None


def _head(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked; none if it is damaged, as its reader will say."""
    with path.open("rb") as file:
        packed = packing(file.read(4))
        file.seek(0)
        if packed == "zstd":
            return _rust.load_bytes(str(path))[:HEADER_BYTES]
        if packed is None:
            return file.read(HEADER_BYTES)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return unpacked.read(HEADER_BYTES)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return b""


def load_rows(path: Path) -> Csr | None:
    """Load the features of points, (n, n_features), from a file; None if it is of another kind.

    Args:
        path: A scipy archive (``.npz``), LF text (``rows features`` first), or a bag of words,
            whose labels are left out; text may be packed.

    Raises:
        ValueError: The file is damaged; the message names file and line.
    """
    head = _head(path)
    if _HEADER.match(head):
        return load_bow(path)[0]
    is_matrix = head[:4] == ARCHIVE or _SHAPE.match(head)
    return load_feature_matrix(path) if is_matrix else None


class Bags(NamedTuple):
    """Two bags of words that belong together. N and M points, L labels."""

    label_texts: list[str]
    train: tuple[Csr, Csr]
    """Features (N, n_features) and labels (N, L)."""
    test: tuple[Csr, Csr] | None
    """The same for M test points."""


def load_bags(train: Path, test: Path | None = None, labels: Path | None = None) -> Bags:
    """Load bags of words as they come: a file of training points, one of test points.

    Args:
        train: Bag of words.
        test: The same for points to score at the end.
        labels: Texts of the labels, one a line; left out: their numbers.

    Raises:
        ValueError: A file is damaged or of another kind, or two of them do not fit together.
        FileNotFoundError: A file is missing.
    """
    x, y = load_bow(train)
    if not y.nnz:
        raise ValueError(f"{train}: no training point has a label")
    tested = None
    if test is not None:
        tested = load_bow(test)
        found, expected = (tested[0].shape[1], tested[1].shape[1]), (x.shape[1], y.shape[1])
        if found != expected:
            raise ValueError(
                f"{test}:1: {found[0]} features and {found[1]} labels, but {train} has "
                f"{expected[0]} and {expected[1]}"
            )
    if labels is None:
        return Bags(numbered(y.shape[1]), (x, y), tested)
    texts = load_texts(labels)
    if len(texts) != y.shape[1]:
        raise ValueError(
            f"{labels}: {len(texts)} lines, but {train} has {y.shape[1]} labels; one label text a "
            "line"
        )
    return Bags(texts, (x, y), tested)


def numbered(n_labels: int) -> list[str]:
    """Name labels by their numbers, where they have no texts."""
    return [str(label) for label in range(n_labels)]
