"""Folders in the LF layout that are made of tables, or of a data set in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dexml.data.layout import Dataset, save_dataset
from dexml.data.matrices import save_labels, save_pairs
from dexml.data.rows import is_bag, load_bags, rows_of, split_label
from dexml.data.tables import Columns, from_texts
from dexml.data.texts import save_texts
from dexml.files import replacing

SOURCE = "table.json"
"""In such a folder: what it was made of."""


def folder_from_table(
    folder: Path,
    train: Path,
    test: Path | None = None,
    labels: Path | None = None,
    *,
    columns: Columns | None = None,
    anew: bool = True,
) -> bool:
    """Write tables in files as a folder in the LF layout; False if it is there already.

    A folder that was made of other content, or read in another way, is replaced.

    Args:
        folder: To write.
        train: Table of points.
        test: Table of test points.
        labels: Table of labels.
        columns: As in `from_table`.
        anew: Whether a folder that was made of something else may be replaced.

    Raises:
        FileExistsError: `folder` holds something that was not made here, or may not be replaced.
        FileNotFoundError: A file is missing.
        ValueError: See `from_table`.
    """
    columns = columns or Columns()
    sources = {"train": train, "test": test, "labels": labels}
    made_of = {name: _digest(path) for name, path in sources.items() if path is not None}
    mark = json.dumps({"sha256": made_of, **asdict(columns)}, indent=2) + "\n"
    if _is_made_of(folder, mark, f"the data set of {train}", anew):
        return False
    if is_bag(train):
        given: Any = load_bags(train, test, labels)
    else:
        found = from_texts(train, test, labels, columns)
        tested = (found.test_texts, found.y_test) if found.test_texts else None
        given = found.label_texts, (found.train_texts, found.y_train), tested
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as beside:
        save_dataset(beside, *given)
        (beside / SOURCE).write_text(mark, encoding="utf-8")
    return True


def folder_from_dataset(folder: Path, dataset: Dataset, *, anew: bool = True) -> bool:
    """Write a data set as a folder in the LF layout; False if it is there already.

    White space inside a text becomes one blank.

    Args:
        folder: To write.
        dataset: The data set.
        anew: Whether a folder that was made of something else may be replaced.

    Raises:
        FileExistsError: `folder` holds something that was not made here, or may not be replaced.
        ValueError: A matrix or a text cannot be written (`save_dataset`), or `label_parents` has
            another length than the labels.
    """
    parents = dataset.label_parents
    if parents is not None and len(parents) != len(dataset.label_texts):
        raise ValueError(f"label_parents: {len(parents)}, but {len(dataset.label_texts)} labels")
    mark = json.dumps({"sha256": {"dataset": _content(dataset)}}, indent=2) + "\n"
    if _is_made_of(folder, mark, "the data set", anew):
        return False
    labels, train, test = dataset.label_texts, dataset.train_texts, dataset.test_texts
    sides: list[Any] = [train, test]
    rows = None
    if (features := dataset.features) is not None:
        sides = [rows_of(texts, features.n_features) for texts in sides]
        apart = [split_label(line) for line in labels]
        rows = rows_of([row for row, _ in apart], features.n_features)
        labels = [name for _, name in apart]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as beside:
        tested = (sides[1], dataset.y_test) if test else None
        save_dataset(beside, labels, (sides[0], dataset.y_train), tested)
        if rows is not None and rows.nnz:
            save_labels(beside / "X.lbl.npz", rows)
        for name, part in (("train", "trn"), ("test", "tst")):
            pairs = getattr(dataset, f"exclude_{name}")
            groups = getattr(dataset, f"{name}_groups")
            if pairs is not None:
                save_pairs(beside / f"filter_labels_{name}.txt", pairs)
            if groups is not None:
                save_texts(beside / "raw" / f"{part}_groups.txt", groups)
        if dataset.label_parents is not None:
            save_texts(beside / "raw" / "Y.parent.txt", dataset.label_parents)
        (beside / SOURCE).write_text(mark, encoding="utf-8")
    return True


def _is_made_of(folder: Path, mark: str, what: str, anew: bool) -> bool:
    """Whether a folder was made of what `mark` says; refuse one that may not be replaced."""
    if not folder.exists():
        return False
    known = folder / SOURCE
    if not known.is_file():
        raise FileExistsError(f"{folder}: holds something else; {what} goes there")
    if known.read_text(encoding="utf-8") == mark:
        return True
    if not anew:
        raise FileExistsError(
            f"{folder}: holds the data of the run beside it, and {what} is another one; add "
            "--overwrite, or give another --out"
        )
    return False


def _content(dataset: Dataset) -> str:
    """SHA-256 of all that a data set holds."""
    digest = hashlib.sha256()
    texts = dataset.label_texts, dataset.train_texts, dataset.test_texts
    for lines in (*texts, dataset.train_groups or [], dataset.test_groups or []):
        digest.update(json.dumps(list(lines)).encode() + b"\0")
    matrices = dataset.y_train, dataset.y_test, dataset.exclude_train, dataset.exclude_test
    for matrix in matrices:
        for array in () if matrix is None else (matrix.indptr, matrix.indices, matrix.data):
            digest.update(np.asarray(array, np.float64).tobytes() + b"\0")
    digest.update(repr(dataset.features).encode())
    if dataset.label_parents is not None:
        digest.update(json.dumps(dataset.label_parents).encode())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
