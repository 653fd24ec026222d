"""Data sets in the LF layout: label matrices, texts, filter pairs and splits.

Needs numpy and scipy only. Matrices are ``scipy.sparse.csr_array``: points x labels, float32
values, int32 ids sorted within a row. Formats: ``docs/formats.md``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, save_npz

from dexml import _rust
from dexml.files import replacing

Csr: TypeAlias = csr_array
"""Type of every sparse matrix here: rows are points, columns are labels."""

CsrParts = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]
"""``indptr``, ``indices``, ``data`` as the Rust core takes them."""


@dataclass(frozen=True)
class Part:
    """One side (training or test) of a data set."""

    texts: list[str]
    y: Csr
    exclude: Csr | None
    groups: list[str] | None


@dataclass(frozen=True)
class Dataset:
    """A data set in the LF layout. Row i of a matrix belongs to text i, column j to label j."""

    train_texts: list[str]
    test_texts: list[str]
    label_texts: list[str]
    y_train: Csr
    y_test: Csr
    exclude_train: Csr | None
    exclude_test: Csr | None
    train_groups: list[str] | None
    test_groups: list[str] | None


def load_labels(path: str | os.PathLike[str], *, missing_value: float | None = None) -> Csr:
    """Load a label matrix from LF text or from a scipy CSR ``.npz``.

    Args:
        path: ``.npz`` is read as a scipy archive (never unpickled), anything else as LF text.
        missing_value: Value of text tokens without one (``3`` for ``3:1.0``); by default such a
            token is an error.

    Returns:
        float32 values, int32 ids sorted within a row, shape from the header.

    Raises:
        ValueError: The content is not what the format says; the message names file and line.
        OSError: The file cannot be read.
    """
    path = Path(path)
    if path.suffix != ".npz":
        shape, indptr, indices, data = _rust.load_labels(str(path), missing_value=missing_value)
        return _canonical(shape, indptr, indices, data)
    shape, indptr, indices, values = _read_npz(path)
    with np.errstate(over="ignore"):  # an infinite value is refused below
        data = values.astype(np.float32, copy=False)
    repaired = _rust.check_csr(str(path), *shape, indptr, indices, data)
    if repaired is not None:
        indices, data = repaired
    return _canonical(shape, indptr, indices, data)


def load_scores(path: str | os.PathLike[str]) -> Csr:
    """Load predictions: as :func:`load_labels`, but the scores of an ``.npz`` keep their dtype.

    Rounding float64 scores to float32 would make ties, and ties decide P@1.
    """
    path = Path(path)
    if path.suffix != ".npz":
        return load_labels(path)
    shape, indptr, indices, data = _read_npz(path)
    return csr_array((data, indices, indptr), shape=shape)


def load_pairs(path: str | os.PathLike[str], shape: tuple[int, int]) -> Csr:
    """Load filter pairs (``point label`` a line): every stored entry of the result is a pair.

    Repeated pairs are merged. A pair outside `shape` raises ``ValueError`` with its line.
    """
    indptr, indices, _ = _rust.load_pairs(str(path), *shape)
    return _canonical(shape, indptr, indices, np.ones(len(indices), np.float32))


def save_labels(path: str | os.PathLike[str], y: Csr) -> None:
    """Write a label matrix as LF text or, for the suffix ``.npz``, as a scipy archive.

    The file is written beside `path` and renamed, so `path` is never half-written.
    """
    path = Path(path)
    n_rows, n_labels = y.shape
    indptr, indices, values = csr_parts(y.tocsr(), "y")
    values = values.astype(np.float32, copy=False)
    repaired = _rust.check_csr("y", n_rows, n_labels, indptr, indices, values)
    if repaired is not None:
        indices, values = repaired
    if path.suffix == ".npz":
        save_scores(path, _canonical((n_rows, n_labels), indptr, indices, values))
    else:
        _rust.save_labels(str(path), n_labels, indptr, indices, values)


def save_scores(path: Path, y: Csr) -> None:
    """Write `y` as a scipy CSR archive as it is: dtype and order of entries are kept."""
    with replacing(path) as beside:
        save_npz(beside, y)


def load_texts(path: str | os.PathLike[str]) -> list[str]:
    r"""Load texts, one a line: UTF-8, split on ``\n`` only, stripped; a last newline is optional.

    Raises:
        ValueError: Bytes that are not UTF-8; the message names the line.
    """
    with Path(path).open("rb") as file:
        return list(lines(file, str(path)))


def lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Yield the texts of a byte stream, a line each; `name` stands in the error."""
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}:{number}: not UTF-8 ({error.reason}); convert it") from None


def load_label_texts(folder: str | os.PathLike[str]) -> list[str]:
    """Load the label texts (``raw/Y.txt``) of a folder in the LF layout."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a folder in the LF layout")
    texts = load_texts(folder / "raw" / "Y.txt")
    if not texts:
        raise ValueError(f"{folder / 'raw' / 'Y.txt'}: no label in it")
    return texts


def load_part(folder: str | os.PathLike[str], part: str, n_labels: int) -> Part:
    """Load one side of a folder in the LF layout; no file of the other side is opened.

    Args:
        folder: The data set.
        part: ``"trn"`` or ``"tst"``.
        n_labels: Number of label texts; the matrix must have as many columns.

    Raises:
        ValueError: Numbers of texts, groups, rows or columns disagree.
        FileNotFoundError: A file of the layout is missing.
    """
    folder = Path(folder)
    matrix = folder / f"Y.{part}.npz"
    if not matrix.exists():
        matrix = folder / f"{part}_X_Y.txt"
    if not matrix.exists():
        raise FileNotFoundError(f"{folder}: neither Y.{part}.npz nor {part}_X_Y.txt is there")
    y = load_labels(matrix)
    if y.shape[1] != n_labels:
        raise ValueError(
            f"{matrix}: {y.shape[1]} labels, but {folder / 'raw' / 'Y.txt'} has {n_labels} lines; "
            "one label text a line"
        )
    if len(y.data) and y.data.min() < 0:
        row = int(np.searchsorted(y.indptr, np.argmin(y.data), side="right")) - 1
        raise ValueError(f"{matrix}: row {row}: negative value; above 0 is a positive, 0 is none")
    texts = load_texts(folder / "raw" / f"{part}_X.txt")
    _same_rows(folder / "raw" / f"{part}_X.txt", len(texts), matrix, y.shape[0])
    groups = None
    group_file = folder / "raw" / f"{part}_groups.txt"
    if group_file.exists():
        groups = load_texts(group_file)
        _same_rows(group_file, len(groups), matrix, y.shape[0])
    pairs = folder / f"filter_labels_{'train' if part == 'trn' else 'test'}.txt"
    exclude = load_pairs(pairs, (y.shape[0], n_labels)) if pairs.exists() else None
    if exclude is not None and exclude.nnz == 0:
        exclude = None
    return Part(texts, y, exclude, groups)


def load_dataset(folder: str | os.PathLike[str]) -> Dataset:
    """Load both sides of a folder in the LF layout (see ``docs/formats.md``)."""
    labels = load_label_texts(folder)
    train, test = (load_part(folder, part, len(labels)) for part in ("trn", "tst"))
    return Dataset(
        train_texts=train.texts,
        test_texts=test.texts,
        label_texts=labels,
        y_train=train.y,
        y_test=test.y,
        exclude_train=train.exclude,
        exclude_test=test.exclude,
        train_groups=train.groups,
        test_groups=test.groups,
    )


def validation_mask(keys: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Choose a validation part by a hash of each point's key, the same on every machine.

    Args:
        keys: Group keys where there are some, else the points' texts: equal keys stay together.
        fraction: Expected share of keys, in [0, 1).

    Returns:
        True for validation points: the first 8 bytes (big-endian) of
        SHA-256(``validation`` NUL key), divided by 2^64, lie below `fraction`.
    """
    return np.fromiter(
        (unit_interval("validation", key) < fraction for key in keys), np.bool_, len(keys)
    )


def unit_interval(salt: str, key: str) -> float:
    """Map a key to [0, 1), evenly and the same on every machine: SHA-256(salt NUL key)."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def csr_parts(y: Csr, name: str) -> CsrParts:
    """Take a sparse matrix apart for the Rust core, without a copy where dtypes allow.

    Values become float32, but float64 scores stay as they are.

    Raises:
        ValueError: `y` is no scipy CSR matrix, or its ids do not fit into int32.
    """
    if getattr(y, "format", None) != "csr":
        raise ValueError(f"{name}: expected a scipy CSR array, not {type(y).__name__}")
    if y.shape[1] > np.iinfo(np.int32).max:
        raise ValueError(f"{name}: {y.shape[1]} labels; ids are int32")
    indices = np.ascontiguousarray(y.indices)
    if indices.dtype != np.int32:
        if len(indices) and not (indices.min() >= 0 and indices.max() < y.shape[1]):
            raise ValueError(f"{name}: a label id lies outside 0..{y.shape[1] - 1}")
        indices = indices.astype(np.int32)
    data = np.ascontiguousarray(y.data)
    if data.dtype not in (np.float32, np.float64):
        data = data.astype(np.float32 if data.dtype in (np.bool_, np.float16) else np.float64)
    return np.ascontiguousarray(y.indptr, dtype=np.int64), indices, data


def truth_parts(y: Csr, name: str) -> CsrParts:
    """As :func:`csr_parts`, for truth: positives stay positive when values become float32."""
    indptr, indices, data = csr_parts(y, name)
    if data.dtype != np.float32:
        data = np.where(data > 0, 1.0, data).astype(np.float32)
    return indptr, indices, data


def pair_parts(
    pairs: Csr | None, shape: tuple[int, int], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
    """As :func:`csr_parts`, for filter pairs: their values do not count."""
    if pairs is None:
        return None
    if pairs.shape != shape:
        raise ValueError(f"{name}: shape {pairs.shape}, but y_true has {shape}")
    indptr, indices, _ = csr_parts(pairs, name)
    return indptr, indices


def _same_rows(path: Path, n_lines: int, matrix: Path, n_rows: int) -> None:
    if n_lines != n_rows:
        raise ValueError(f"{path}: {n_lines} lines, but {matrix} has {n_rows} rows; one line a row")


def _canonical(
    shape: tuple[int, int],
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32],
) -> Csr:
    """Build a CSR that shares `indices` and `data`; scipy wants both index arrays of one dtype."""
    if len(indices) <= np.iinfo(np.int32).max:
        y: Csr = csr_array((data, indices, indptr.astype(np.int32)), shape=shape)
    else:
        y = csr_array((data, indices.astype(np.int64), indptr), shape=shape)
    y.has_canonical_format = True
    return y


def _read_npz(path: Path) -> tuple[tuple[int, int], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Read the arrays of a scipy CSR archive without unpickling; shapes and dtypes are checked."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # bytes it did not expect make np.load raise a dozen kinds
        raise ValueError(
            f"{path}: damaged or not a scipy .npz archive ({error}); write it again"
        ) from None
    kind = arrays.get("format")
    kind_name = kind.item() if isinstance(kind, np.ndarray) and kind.ndim == 0 else b"?"
    kind_name = kind_name.decode("ascii", "replace") if isinstance(kind_name, bytes) else kind_name
    if kind_name != "csr":
        raise ValueError(f"{path}: format is '{kind_name}', expected 'csr'; save y.tocsr()")
    missing = {"shape", "indptr", "indices", "data"} - {
        name for name, array in arrays.items() if isinstance(array, np.ndarray)
    }
    if missing:
        raise ValueError(f"{path}: no array '{min(missing)}' in it; not a scipy CSR archive")
    shape, indptr, indices, data = (arrays[n] for n in ("shape", "indptr", "indices", "data"))
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or shape.min() < 0:
        raise ValueError(f"{path}: bad shape {shape.tolist()}")
    if not indptr.ndim == indices.ndim == data.ndim == 1:
        raise ValueError(f"{path}: indptr, indices and data are not one-dimensional")
    if indptr.dtype.kind != "i" or indices.dtype.kind != "i" or data.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: dtypes {indptr.dtype}, {indices.dtype}, {data.dtype} of indptr, indices, data"
        )
    n_rows, n_labels = (int(side) for side in shape)
    if n_labels > np.iinfo(np.int32).max:
        raise ValueError(f"{path}: {n_labels} labels; at most 2^31 - 1")
    if indptr.shape != (n_rows + 1,) or indices.shape != data.shape:
        raise ValueError(
            f"{path}: {len(indptr)} indptr, {indices.size} indices and {data.size} values "
            f"do not make {n_rows} rows"
        )
    if len(indices) and not (indices.min() >= 0 and indices.max() < n_labels):
        raise ValueError(
            f"{path}: label {int(indices.max())} out of range (n_labels = {n_labels})"
            if indices.max() >= n_labels
            else f"{path}: bad label '{int(indices.min())}'"
        )
    # Compared pairwise: a difference could wrap around and hide a hostile value.
    rises = bool((indptr[1:] >= indptr[:-1]).all())
    if not (indptr[0] == 0 and indptr[-1] == len(indices) and rises):
        raise ValueError(f"{path}: indptr does not rise from 0 to {len(indices)}")
    return (n_rows, n_labels), indptr.astype(np.int64), indices.astype(np.int32), data
