"""The published feature files of ZestXML: sparse features of points and labels, with their names.

``Xf.txt`` and ``Yf.txt`` hold the names of point and label features, one a line;
``trn_X_Xf.txt``, ``tst_X_Xf.txt`` and ``Y_Yf.txt`` sparse rows (``rows columns`` first, then
``feature:value``); ``trn_X_Y.txt`` and ``tst_X_Y.txt`` the labels; ``pos_trn_tst.txt``, which may
be missing, pairs of a test point and a label that are not ranked. Each may be ``.gz`` or ``.zst``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dexml.data.layout import find
from dexml.data.matrices import load_labels, load_pairs, save_labels, save_pairs
from dexml.data.parts import Csr
from dexml.data.texts import load_texts, save_texts
from dexml.files import replacing


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of training and test points. C point features, D label features."""

    point_names: list[str]
    """Of the point features, (C,)."""
    label_names: list[str]
    """Of the label features, (D,)."""
    x_train: Csr
    """(N, C)."""
    z: Csr
    """All labels, (L, D)."""
    y_train: Csr
    """(N, L)."""
    x_test: Csr | None = None
    """(M, C)."""
    y_test: Csr | None = None
    """(M, L)."""
    exclude_test: Csr | None = None
    """Pairs that are not ranked, (M, L)."""

    @property
    def direct(self) -> NDArray[np.int32]:
        """For each label feature the point feature of the same name, or -1, (D,).

        Of the name of a label feature counts what stands behind the first underscore.
        """
        columns = {name: column for column, name in enumerate(self.point_names)}
        names = (name.partition("_") for name in self.label_names)
        return np.array([columns.get(c if b else a, -1) for a, b, c in names], np.int32)


def load_features(folder: str | os.PathLike[str]) -> FeatureSet:
    """Read the feature files of a folder.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is wrong, with its line, or two of them do not fit together.
    """
    folder = Path(folder)
    point_names, label_names = (_names(find(folder, name)) for name in ("Xf.txt", "Yf.txt"))
    x_train = _matrix(folder, "trn_X_Xf.txt", columns=("Xf.txt", len(point_names)))
    z = _matrix(folder, "Y_Yf.txt", columns=("Yf.txt", len(label_names)))
    n_labels = ("Y_Yf.txt", z.shape[0])
    y_train = _matrix(folder, "trn_X_Y.txt", ("trn_X_Xf.txt", x_train.shape[0]), n_labels)
    if not find(folder, "tst_X_Xf.txt").exists():
        return FeatureSet(point_names, label_names, x_train, z, y_train)
    x_test = _matrix(folder, "tst_X_Xf.txt", columns=("Xf.txt", len(point_names)))
    y_test = _matrix(folder, "tst_X_Y.txt", ("tst_X_Xf.txt", x_test.shape[0]), n_labels)
    pairs = find(folder, "pos_trn_tst.txt")
    exclude = load_pairs(pairs, y_test.shape) if pairs.exists() else None
    return FeatureSet(point_names, label_names, x_train, z, y_train, x_test, y_test, exclude)


def save_features(
    folder: str | os.PathLike[str], features: FeatureSet, *, packed: Literal["", ".gz", ".zst"] = ""
) -> None:
    """Write a new folder with the feature files; it appears when it is complete.

    Args:
        folder: Must not exist yet.
        features: What is written; line feeds in names become blanks.
        packed: ``.gz`` or ``.zst``: matrices are compressed.

    Raises:
        FileExistsError: `folder` exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder}: exists already; give another name")
    matrices = {
        "trn_X_Xf": features.x_train,
        "tst_X_Xf": features.x_test,
        "Y_Yf": features.z,
        "trn_X_Y": features.y_train,
        "tst_X_Y": features.y_test,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as new:
        new.mkdir()
        save_texts(new / "Xf.txt", features.point_names)
        save_texts(new / "Yf.txt", features.label_names)
        for name, matrix in matrices.items():
            if matrix is not None:
                save_labels(new / f"{name}.txt{packed}", matrix)
        if features.exclude_test is not None:
            save_pairs(new / "pos_trn_tst.txt", features.exclude_test)


def _names(path: Path) -> list[str]:
    """Read names, each once."""
    names = load_texts(path)
    known: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if known.setdefault(name, line) != line:
            raise ValueError(f"{path}:{line}: the same name as line {known[name]}, {name!r}")
    return names


def _matrix(
    folder: Path,
    name: str,
    rows: tuple[str, int] | None = None,
    columns: tuple[str, int] | None = None,
) -> Csr:
    """Read a matrix whose shape other files, given by name, decide."""
    path = find(folder, name)
    matrix = load_labels(path)
    for axis, what, expected in ((0, "rows", rows), (1, "columns", columns)):
        if expected is not None and matrix.shape[axis] != expected[1]:
            raise ValueError(
                f"{path}:1: {matrix.shape[axis]} {what}, but {find(folder, expected[0])} has "
                f"{expected[1]}"
            )
    return matrix
