"""Data sets in the LF layout: a folder of matrices, texts and filter pairs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dexml.data.matrices import load_labels, load_pairs
from dexml.data.parts import Csr
from dexml.data.texts import load_texts


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


def find(folder: Path, *names: str) -> Path:
    """Return the first of `names` in `folder`, plain, ``.gz`` or ``.zst``; else the first name."""
    for name in names:
        for suffix in ("", ".gz", ".zst"):
            path = folder / (name + suffix)
            if path.exists():
                return path
    return folder / names[0]


def load_label_texts(folder: str | os.PathLike[str]) -> list[str]:
    """Load the label texts (``raw/Y.txt``) of a folder in the LF layout."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a folder in the LF layout")
    path = find(folder, "raw/Y.txt")
    texts = load_texts(path)
    if not texts:
        raise ValueError(f"{path}: no label in it")
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
    matrix = find(folder, f"Y.{part}.npz", f"{part}_X_Y.txt")
    if not matrix.exists():
        raise FileNotFoundError(f"{folder}: neither Y.{part}.npz nor {part}_X_Y.txt is there")
    y = load_labels(matrix)
    if y.shape[1] != n_labels:
        raise ValueError(
            f"{matrix}: {y.shape[1]} labels, but {find(folder, 'raw/Y.txt')} has {n_labels} lines; "
            "one label text a line"
        )
    if len(y.data) and y.data.min() < 0:
        row = int(np.searchsorted(y.indptr, np.argmin(y.data), side="right")) - 1
        raise ValueError(f"{matrix}: row {row}: negative value; above 0 is a positive, 0 is none")
    text_file = find(folder, f"raw/{part}_X.txt")
    texts = load_texts(text_file)
    _same_rows(text_file, len(texts), matrix, y.shape[0])
    groups = None
    group_file = find(folder, f"raw/{part}_groups.txt")
    if group_file.exists():
        groups = load_texts(group_file)
        _same_rows(group_file, len(groups), matrix, y.shape[0])
    pairs = find(folder, f"filter_labels_{'train' if part == 'trn' else 'test'}.txt")
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


def _same_rows(path: Path, n_lines: int, matrix: Path, n_rows: int) -> None:
    if n_lines != n_rows:
        raise ValueError(f"{path}: {n_lines} lines, but {matrix} has {n_rows} rows; one line a row")
