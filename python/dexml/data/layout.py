"""Data sets in the LF layout: a folder of matrices, texts and filter pairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import issparse

from dexml import shown
from dexml.data.matrices import load_labels, load_pairs, save_labels
from dexml.data.parts import Csr, expect_csr, label_matrix
from dexml.data.rows import (
    Features,
    feature_texts,
    features_named,
    features_of,
    label_lines,
    load_feature_matrix,
    numbered,
    plain_name,
)
from dexml.data.texts import load_texts, save_texts
from dexml.files import replacing
from dexml.given import text_list

LABEL_TEXTS = ("raw/Y.txt", "output-items.txt")
"""Files with the label texts: of the LF layout, and of PECOS."""
POINT_TEXTS = ("raw/{}_X.txt", "X.{}.txt")
"""The same for the texts of points of a part."""
FEATURE_FILES = ("X.{}.npz", "{}_X_Xf.txt")
"""Their features, which are read if there are no texts; of labels, the part ``lbl``."""
Labels = Any
"""A sparse matrix (N, L), or a list with the label ids of each point."""


@dataclass(frozen=True, repr=False)
class Part:
    """One side (training or test) of a data set."""

    texts: list[str]
    """Text of each point."""
    y: Csr
    """Labels of each point, shape (n_points, n_labels); values above 0 are positives."""
    exclude: Csr | None
    """Filter pairs, same shape, or None if there are none."""
    groups: list[str] | None
    """Group key of each point, or None if the data set has no groups."""
    features: Features | None = None
    """If points are rows of features, what these are; the texts are then `feature_texts`."""

    def positives(self) -> Csr:
        """Return the pairs that count: labels without filter pairs and stored zeros.

        Shape (n_points, n_labels), float32; all values are 1.
        """
        y = (self.y > 0).astype(np.float32)
        if self.exclude is not None:
            pairs = self.exclude.copy()
            pairs.data = np.ones_like(pairs.data)  # every stored entry is a pair
            y = Csr(y - y.multiply(pairs))
            y.eliminate_zeros()
            y.sort_indices()
        return y

    def filtered(self) -> tuple[int, int]:
        """Return how many positives the filter pairs take, and how many there are."""
        n = int((self.y.data > 0).sum())
        return (0 if self.exclude is None else n - self.positives().nnz), n

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"points": len(self.texts), "labels": self.y.shape[1]}
        facts["pairs"] = self.y.nnz
        if self.exclude is not None:
            facts["filter_pairs"] = self.exclude.nnz
        if self.groups is not None:
            facts["groups"] = len(set(self.groups))
        if self.features is not None:
            facts["features"] = self.features.n_features
        return facts

    def __repr__(self) -> str:
        return shown.line("Part", self._facts())

    def _repr_html_(self) -> str:
        return shown.html("Part", self._facts())


@dataclass(frozen=True, repr=False)
class Dataset:
    """Both sides of a data set. Row i of a matrix belongs to text i, column j to label j.

    The fields are those of `Part`, once for training and once for test, and what is known of the
    labels.
    """

    train_texts: list[str]
    test_texts: list[str]
    label_texts: list[str]
    y_train: Csr
    y_test: Csr
    exclude_train: Csr | None
    exclude_test: Csr | None
    train_groups: list[str] | None
    test_groups: list[str] | None
    features: Features | None = None
    label_parents: list[str] | None = None
    """What stands above each label, as `load_label_parents` returns it; None if unknown."""

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"labels": len(self.label_texts)}
        for part in ("train", "test"):
            y, pairs = getattr(self, f"y_{part}"), getattr(self, f"exclude_{part}")
            groups = getattr(self, f"{part}_groups")
            facts[f"{part}_points"], facts[f"{part}_pairs"] = y.shape[0], y.nnz
            if pairs is not None:
                facts[f"{part}_filter_pairs"] = pairs.nnz
            if groups is not None:
                facts[f"{part}_groups"] = len(set(groups))
        if self.features is not None:
            facts["features"] = self.features.n_features
        return facts

    def __repr__(self) -> str:
        return shown.line("Dataset", self._facts())

    def _repr_html_(self) -> str:
        return shown.html("Dataset", self._facts())


def find(folder: Path, *names: str) -> Path:
    """Return the first of `names` that exists in `folder`, plain, ``.gz`` or ``.zst``.

    If there is none, return the path of the first name.
    """
    for name in names:
        for suffix in ("", ".gz", ".zst"):
            path = folder / (name + suffix)
            if path.exists():
                return path
    return folder / names[0]


def load_label_texts(folder: str | os.PathLike[str]) -> list[str]:
    """Load the label texts (``raw/Y.txt``) of a folder in the LF layout.

    Where points are rows of features, labels may have features too (``X.lbl.npz`` or
    ``lbl_X_Xf.txt``), which then stand before the text; without texts, labels have their numbers.

    Raises:
        FileNotFoundError: The folder or the file is missing.
        ValueError: The file is empty, or not UTF-8.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; give a table, or a folder in the LF layout"
        )
    path = find(folder, *LABEL_TEXTS)
    by_features = _feature_file(folder, "trn") is not None
    if by_features and not path.exists():
        texts = numbered(load_labels(_label_file(folder, "trn")).shape[1])
    else:
        texts = load_texts(path)
    if not texts:
        raise ValueError(f"{path}: empty; expected a label text a line")
    if not by_features:
        return texts
    rows = find(folder, *(name.format("lbl") for name in FEATURE_FILES))
    if not rows.exists():
        return [plain_name(text) for text in texts]
    x = load_feature_matrix(rows)
    _same_rows(path, len(texts), rows, x.shape[0])
    return label_lines(texts, x)


def _label_file(folder: Path, part: str) -> Path:
    matrix = find(folder, f"Y.{part}.npz", f"{part}_X_Y.txt")
    if not matrix.exists():
        raise FileNotFoundError(f"{folder}: has neither Y.{part}.npz nor {part}_X_Y.txt")
    return matrix


def _feature_file(folder: Path, part: str) -> Path | None:
    """Return the features of points that have no texts; None if they have some, or no features."""
    texts = find(folder, *(name.format(part) for name in POINT_TEXTS))
    rows = find(folder, *(name.format(part) for name in FEATURE_FILES))
    return None if texts.exists() or not rows.exists() else rows


def load_label_parents(folder: str | os.PathLike[str], n_labels: int) -> list[str] | None:
    """Load what stands above each label (``raw/Y.parent.txt``) of a folder in the LF layout.

    Returns:
        For each label the names of its parents with blanks between, any words without blanks; an
        empty text for none. None without the file.

    Raises:
        ValueError: The file has another number of lines, or is not UTF-8.
    """
    path = find(Path(folder), "raw/Y.parent.txt")
    if not path.exists():
        return None
    parents = load_texts(path)
    if len(parents) != n_labels:
        raise ValueError(
            f"{path}: {len(parents)} lines, but there are {n_labels} labels; give the parents of a "
            "label a line, an empty line for none"
        )
    return parents


def load_part(folder: str | os.PathLike[str], part: str, n_labels: int) -> Part:
    """Load one side of a folder in the LF layout, without opening files of the other side.

    Args:
        folder: The data set.
        part: ``"trn"`` or ``"tst"``; ``"val"`` where there is one (`hold_out_labels`).
        n_labels: Number of label texts; the matrix must have as many columns.

    Raises:
        ValueError: The numbers of texts, groups, rows or columns disagree, or a value is negative.
        FileNotFoundError: A file of the layout is missing.
    """
    folder = Path(folder)
    matrix = _label_file(folder, part)
    y = load_labels(matrix)
    if y.shape[1] != n_labels:
        names = find(folder, *LABEL_TEXTS)
        raise ValueError(
            f"{matrix}: {y.shape[1]} labels, but {names} has {n_labels} lines; one label text a "
            "line"
            if names.exists()
            else f"{matrix}: {y.shape[1]} labels, but there are {n_labels}"
        )
    if len(y.data) and y.data.min() < 0:
        row = int(np.searchsorted(y.indptr, np.argmin(y.data), side="right")) - 1
        raise ValueError(f"{matrix}: row {row}: negative value; give 0, or above 0 for a positive")
    rows, features = _feature_file(folder, part), None
    if rows is not None:
        x = load_feature_matrix(rows)
        if x.shape[0] != y.shape[0]:
            raise ValueError(f"{rows}: {x.shape[0]} rows, but {matrix} has {y.shape[0]}")
        texts, features = feature_texts(x, str(rows)), features_of(x)
    else:
        text_file = find(folder, *(name.format(part) for name in POINT_TEXTS))
        texts = load_texts(text_file)
        _same_rows(text_file, len(texts), matrix, y.shape[0])
    groups = None
    group_file = find(folder, f"raw/{part}_groups.txt")
    if group_file.exists():
        groups = load_texts(group_file)
        _same_rows(group_file, len(groups), matrix, y.shape[0])
    side = {"trn": "train", "tst": "test"}.get(part, part)
    pairs = find(folder, f"filter_labels_{side}.txt")
    exclude = load_pairs(pairs, (y.shape[0], n_labels)) if pairs.exists() else None
    if exclude is not None and exclude.nnz == 0:
        exclude = None
    return Part(texts, y, exclude, groups, features)


def load_dataset(folder: str | os.PathLike[str]) -> Dataset:
    """Load both sides of a folder in the LF layout (``docs/formats.md``).

    Raises:
        ValueError: The numbers of texts, groups, rows or columns disagree, or a file is damaged.
        FileNotFoundError: A file of the layout is missing.
    """
    labels = load_label_texts(folder)
    train, test = (load_part(folder, part, len(labels)) for part in ("trn", "tst"))
    check_same_features(train.features, test.features, f"{folder}: test points")
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
        features=train.features,
        label_parents=load_label_parents(folder, len(labels)),
    )


def check_same_features(trained: Features | None, asked: Features | None, name: str) -> None:
    """Refuse points that are not given by the features that others are given by.

    Raises:
        ValueError: One is given by texts, or the numbers of features differ; begins with `name`.
    """
    kinds = [
        "texts" if one is None else f"rows of {one.n_features} features" for one in (trained, asked)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name} are {kinds[1]}, but training points {kinds[0]}")


def save_dataset(
    folder: str | os.PathLike[str],
    label_texts: Sequence[str],
    train: tuple[Sequence[str] | Csr, Labels],
    test: tuple[Sequence[str] | Csr, Labels] | None = None,
) -> None:
    """Write a new folder in the LF layout, which `dexml.train` reads.

    The folder appears when it is complete. White space inside a text becomes one blank.

    Args:
        folder: Must not exist yet.
        label_texts: The text of each label, L of them; label id i is the i-th text.
        train: Texts of the training points, N of them, and their labels: a sparse matrix (N, L)
            (values above 0 are positives), or a list with the label ids of each point. Instead of
            texts, a sparse matrix of features (N, n_features), for points without texts.
        test: The same for the points to score at the end; may be left out.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: There are no labels, the numbers of texts and labels differ, or a point has a
            label id outside 0..L - 1, the same id twice, or a value that is NaN or negative.
        TypeError: Texts are not a list of ``str``, or labels neither a sparse matrix nor lists of
            ids.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder}: exists already; give another name")
    label_texts = text_list(label_texts, "label_texts")
    n_labels = len(label_texts)
    if not n_labels:
        raise ValueError("label_texts: empty; a data set needs a label")
    folder.parent.mkdir(parents=True, exist_ok=True)
    sides = {"trn": train} if test is None else {"trn": train, "tst": test}
    with replacing(folder) as temporary:
        (temporary / "raw").mkdir(parents=True)
        save_texts(temporary / "raw" / "Y.txt", label_texts)
        for part, side in sides.items():
            if not isinstance(side, tuple | list) or len(side) != 2:
                name = "train" if part == "trn" else "test"
                raise TypeError(f"{name} is {type(side).__name__}; give a pair (texts, labels)")
            points: Any = side[0]
            labels, by_features = side[1], issparse(points)
            if by_features:
                with features_named(f"{part} features"):
                    expect_csr(points, f"{part} features")
            else:
                points = text_list(points, f"{part} texts")
            n_points = points.shape[0] if by_features else len(points)
            y = label_matrix(labels, n_points, n_labels, f"{part} labels")
            if y.shape[1] != n_labels:
                raise ValueError(f"{part} labels {y.shape}, but there are {n_labels} label texts")
            if by_features:
                with features_named("y", f"{part} features"):
                    save_labels(temporary / f"X.{part}.npz", points)
            else:
                save_texts(temporary / "raw" / f"{part}_X.txt", points)
            save_labels(temporary / f"Y.{part}.npz", y)


def _same_rows(path: Path, n_lines: int, matrix: Path, n_rows: int) -> None:
    if n_lines != n_rows:
        raise ValueError(f"{path}: {n_lines} lines, but {matrix} has {n_rows} rows; one line a row")
