"""Matrices in files: label matrices, bags of words, filter pairs and scores.

Readers take plain, gzip and zstd files, which they recognise by the first bytes. Writers compress
by suffix (``.gz``, ``.zst``), write under a temporary name and rename (`dexml.files`: the rule for
links, pipes and devices), and write the same bytes for the same matrix.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import issparse

from dexml import _rust
from dexml.data.parts import Csr, CsrParts, canonical, csr_parts, expect_csr
from dexml.files import named_for_core, target_of


@dataclass(frozen=True)
class Repairs:
    """What a loader repaired in a file."""

    duplicates: int
    """Entries added to another one of the same row and label (dropped, in a label list)."""
    out_of_range: int
    """Entries dropped because their label is negative or beyond the header's number."""
    not_finite: int
    """Entries dropped because their value is NaN or infinite."""
    rows_sorted: int
    """Rows that were not sorted. Every loader sorts rows, so this alone is not a fault."""
    first: tuple[str, ...]
    """The first 20 faults, each with file and line."""

    @property
    def n_entries(self) -> int:
        """Number of entries that were changed or dropped."""
        return self.duplicates + self.out_of_range + self.not_finite

    def __str__(self) -> str:
        return (
            f"{self.duplicates} duplicates summed, {self.out_of_range} entries out of range and "
            f"{self.not_finite} not finite dropped, {self.rows_sorted} rows sorted"
        )


def load_labels(
    path: str | os.PathLike[str], *, missing_value: float | None = None, repair: bool = False
) -> Csr:
    """Load a label matrix from LF text or from a scipy CSR archive (``.npz``).

    Args:
        path: LF text, plain, gzip or zstd; or an archive, which is read without pickle.
        missing_value: Value of text tokens without one (``3`` for ``3:1.0``); by default such a
            token is an error.
        repair: Sum duplicates, drop labels out of range and values that are not finite, and warn
            with the counts (`repair_labels` returns them). By default these are errors.

    Returns:
        A matrix of float32 values and int32 ids, sorted in each row, with the shape of the header.

    Raises:
        ValueError: The content breaks the format; the message names file and line.
        OSError: The file cannot be read.
    """
    loaded, repairs = _rust.load_labels(
        os.fsdecode(path), missing_value=missing_value, repair=repair
    )
    if repairs is not None:
        _warn(path, _repairs(repairs))
    return canonical(*loaded)


def repair_labels(
    path: str | os.PathLike[str], *, missing_value: float | None = None
) -> tuple[Csr, Repairs]:
    """Load as `load_labels` with ``repair=True``, and return what was repaired."""
    loaded, repairs = _rust.load_labels(os.fsdecode(path), missing_value=missing_value, repair=True)
    return canonical(*loaded), _repairs(repairs)


def load_bow(
    path: str | os.PathLike[str], *, missing_value: float | None = None, repair: bool = False
) -> tuple[Csr, Csr]:
    """Load bag-of-words text: ``points features labels``, then ``l1,l2,... f:v f:v`` a line.

    A line that starts with a blank, or whose first token holds a colon, has no labels.

    Args:
        path: The text, plain, gzip or zstd.
        missing_value: Value of features without one; by default such a feature is an error.
        repair: As in `load_labels`, in both matrices.

    Returns:
        Features, shape (n_points, n_features), and labels, shape (n_points, n_labels), whose
        values are 1.

    Raises:
        ValueError: The content breaks the format; the message names file and line.
        OSError: The file cannot be read.
    """
    features, labels, repairs = _rust.load_bow(
        os.fsdecode(path), missing_value=missing_value, repair=repair
    )
    if repairs is not None:
        _warn(path, _repairs(repairs))
    return canonical(*features), canonical(*labels)


def repair_bow(
    path: str | os.PathLike[str], *, missing_value: float | None = None
) -> tuple[Csr, Csr, Repairs]:
    """Load as `load_bow` with ``repair=True``, and return what was repaired."""
    features, labels, repairs = _rust.load_bow(
        os.fsdecode(path), missing_value=missing_value, repair=True
    )
    return canonical(*features), canonical(*labels), _repairs(repairs)


def load_scores(path: str | os.PathLike[str]) -> Csr:
    """Load predictions as `load_labels` does, but keep the float64 scores of an archive.

    Rounding them to float32 would make ties, and ties decide P@1. Scores may be infinite but not
    NaN.

    Raises:
        ValueError: The content breaks the format; the message names file and line or row.
    """
    shape, indptr, indices, data = _rust.load_scores(os.fsdecode(path))
    return canonical(shape, indptr, indices, data)


def load_pairs(path: str | os.PathLike[str], shape: tuple[int, int]) -> Csr:
    """Load filter pairs, a line ``point label`` each; every stored entry of the result is a pair.

    Repeated pairs are merged.

    Args:
        path: The file.
        shape: (n_points, n_labels).

    Raises:
        ValueError: A pair is outside `shape`, or a line is not a pair; the message names the line.
    """
    return counted_pairs(path, shape)[0]


def counted_pairs(path: str | os.PathLike[str], shape: tuple[int, int]) -> tuple[Csr, int]:
    """Load as `load_pairs`, and return how many repeated pairs were merged."""
    indptr, indices, n_repeated = _rust.load_pairs(os.fsdecode(path), *shape)
    return canonical(shape, indptr, indices, np.ones(len(indices), np.float32)), n_repeated


def save_labels(path: str | os.PathLike[str], y: Csr) -> None:
    """Write a label matrix as LF text, or as a compressed scipy archive if `path` ends in ``.npz``.

    Rows are sorted. A further suffix compresses text, as in ``Y.txt.gz``.

    Raises:
        ValueError: A loader would refuse the matrix (a duplicate, a value that is not finite).
    """
    path = _in_folder(path)
    indptr, indices, values = _checked(y, "y")
    save = _rust.save_npz if path.suffix.lower() == ".npz" else _rust.save_labels
    with named_for_core(path) as named:
        save(str(named), y.shape[1], indptr, indices, values)


def save_bow(path: str | os.PathLike[str], features: Csr, labels: Csr) -> None:
    """Write bag-of-words text; the values of `labels` are not written.

    Raises:
        ValueError: The matrices have different numbers of rows, or a loader would refuse one.
    """
    path = _in_folder(path)
    feature_parts, (indptr, indices, _) = _checked(features, "features"), _checked(labels, "labels")
    sizes = features.shape[1], labels.shape[1]
    with named_for_core(path) as named:
        _rust.save_bow(str(named), feature_parts, sizes[0], (indptr, indices), sizes[1])


def save_pairs(path: str | os.PathLike[str], pairs: Csr) -> None:
    """Write filter pairs: a line ``point label`` for every stored entry, whatever its value.

    Raises:
        ValueError: A loader would refuse the pairs (a label out of range, a pair stored twice).
    """
    path = _in_folder(path)
    matrix = _as_csr(pairs, "pairs")
    indptr, indices, _ = csr_parts(matrix, "pairs")
    _check_ids(matrix, "pairs")
    with named_for_core(path) as named:
        _rust.save_pairs(str(named), pairs.shape[1], indptr, indices)


def save_scores(path: str | os.PathLike[str], y: Csr, *, compressed: bool = True) -> None:
    """Write scores as a scipy CSR archive; float64 values and the order of entries are kept.

    Raises:
        ValueError: `load_scores` would refuse the matrix (a label twice in a row, a NaN).
    """
    path = _in_folder(path)
    matrix = _as_csr(y, "y")
    parts = csr_parts(matrix, "y")
    _check_ids(matrix, "y")
    lost = np.flatnonzero(np.isnan(parts[2]))
    if len(lost):
        row = int(np.searchsorted(parts[0], lost[0], side="right")) - 1
        raise ValueError(f"y: row {row}: score of label {parts[1][lost[0]]} is NaN")
    with named_for_core(path) as named:
        _rust.save_npz(str(named), matrix.shape[1], *parts, compressed=compressed)


def _check_ids(y: Csr, name: str) -> None:
    """Raise for a label out of range or twice in a row, whatever the values and their order."""
    indptr, indices, values = csr_parts(y, name)
    ones = np.ones(len(values), np.float32)
    _rust.check_csr(name, y.shape[0], y.shape[1], indptr, indices, ones)


def _checked(y: Csr, name: str) -> CsrParts:
    """Return the float32 parts of a matrix, sorted, or raise if a loader would refuse them."""
    indptr, indices, values = csr_parts(_as_csr(y, name), name)
    exact = values
    with np.errstate(over="ignore", under="ignore"):  # an infinite value is refused below
        values = exact.astype(np.float32, copy=False)
    lost = np.flatnonzero((values == 0) & (exact != 0))
    if len(lost):
        row = int(np.searchsorted(indptr, lost[0], side="right")) - 1
        raise ValueError(
            f"{name}: row {row}: value {exact[lost[0]]} is too small for float32 "
            f"(label {indices[lost[0]]})"
        )
    repaired = _rust.check_csr(name, y.shape[0], y.shape[1], indptr, indices, values)
    if repaired is not None:
        indices, values = repaired
    return indptr, indices, values


def _as_csr(y: Csr, name: str) -> Csr:
    if not issparse(y) or y.ndim != 2:
        expect_csr(y, name)
    return y.tocsr()


def _in_folder(path: str | os.PathLike[str]) -> Path:
    path = Path(os.fsdecode(path))
    folder = target_of(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give a file")
    return path


def _repairs(report: tuple[tuple[int, int, int, int], list[str]]) -> Repairs:
    counts, first = report
    return Repairs(*counts, tuple(first))


def _warn(path: str | os.PathLike[str], repairs: Repairs) -> None:
    if repairs.n_entries:
        warnings.warn(f"{path}: repaired: {repairs}", UserWarning, stacklevel=3)
