"""Data sets from tables: JSON lines, CSV, TSV, Parquet, data frames; a point a row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.data.columns import ID, TEXT, StringLists, Table, open_table, string_lists
from dexml.data.layout import Dataset
from dexml.data.parts import Csr
from dexml.data.rows import feature_texts, features_of, is_bag, load_bags, plain_name

Pattern = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Labels of rows: indptr (n + 1,) and label numbers."""
TABULAR = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
TRAIN, TEST = ("train", "trn"), ("test", "tst")
"""Names of the two sides in a split column."""


@dataclass(frozen=True)
class Columns:
    """How a table is read.

    Attributes:
        text: Column with the text of a point.
        labels: Column with its labels: a list of label texts, or of ids of a table of labels; or
            one string with `separator` between them.
        separator: Between labels in a string. ``""``: the whole string is one label. None: strings
            are refused, unless they hold a JSON list.
        split: Column that says ``train`` (or ``trn``) or ``test`` (``tst``) for each row.
    """

    text: str = "text"
    labels: str = "labels"
    separator: str | None = None
    split: str | None = None


def from_table(
    train: Any, test: Any = None, labels: Any = None, *, columns: Columns | None = None
) -> Dataset:
    """Read a data set from tables.

    A table is a file (JSON lines or a JSON list of objects, CSV or TSV with a header, Parquet,
    lines of fastText or of PECOS, a bag of words; plain, gzip or zstd; told apart by content), a
    data frame of pandas or polars, a table of pyarrow, a ``datasets.Dataset``, or a dict of
    columns. Points of a bag of words are rows of features, and its labels have no texts.

    Args:
        train: Table of points: a text and its labels a row.
        test: The same for points to score at the end; may be left out.
        labels: Table of labels, with columns ``id`` (or ``label``) and ``text``, for labels that
            points name by an id; or a file ``.txt`` with a label a line, none blank, named by
            number from 0. Left out: what points name is the label's text. Labels are numbered in
            the order of this table, else in that in which points name them first.
        columns: Names of columns, and what separates labels in a string.

    Returns:
        The data set; without test points, its test side is empty.

    Raises:
        ValueError: A column is missing, a cell is empty or of the wrong kind, a label is unknown
            or named twice in a row, no point has a label, or a file is damaged. The message names
            file, row and column.
        TypeError: Something is no table.
        ImportError: A Parquet file, and pyarrow is not installed.
    """
    if isinstance(train, str | os.PathLike) and is_bag(Path(train)):
        given = (None if one is None else Path(one) for one in (test, labels))
        return _from_bags(Path(train), *given)
    return from_texts(train, test, labels, columns or Columns())


def from_texts(train: Any, test: Any, labels: Any, columns: Columns) -> Dataset:
    """Read as `from_table` does what is known to be no bag of words."""
    wanted = [columns.text, columns.labels, *([columns.split] if columns.split else [])]
    sides = [("train", open_table(train, "train", wanted))]
    if test is not None:
        sides.append(("test", open_table(test, "test", wanted)))
    known = None if labels is None else _label_table(open_table(labels, "labels"))
    numbers = _Numbers({} if known is None else known[0], fixed=known is not None)
    texts: dict[str, list[str]] = {"train": [], "test": []}
    ids: dict[str, list[list[int]]] = {"train": [], "test": []}
    y_of: dict[str, Pattern] = {}
    for side, table in sides:
        where = _sides(table, columns.split, side)
        found = _texts(table, columns.text)
        cells = table.column(columns.labels, "name it with --label-column")
        lists = string_lists(cells) if columns.split is None else None
        if lists is not None:
            whole = numbers.of_lists(lists)
            if whole is not None:
                texts[side], y_of[side] = found, whole
                continue
        for row, (part, text, cell) in enumerate(zip(where, found, cells, strict=True)):
            at = partial(table.cell, row, columns.labels)
            texts[part].append(text)
            ids[part].append(numbers.of(cell, columns.separator, at))
    label_texts = known[1] if known is not None else list(numbers.by_name)
    y_of |= {part: _pattern(rows) for part, rows in ids.items() if part not in y_of}
    if not len(y_of["train"][1]):
        raise ValueError(f"{sides[0][1].name}: no training point has a label")
    y = {part: _matrix(pattern, len(label_texts)) for part, pattern in y_of.items()}
    return Dataset(
        train_texts=texts["train"],
        test_texts=texts["test"],
        label_texts=label_texts,
        y_train=y["train"],
        y_test=y["test"],
        exclude_train=None,
        exclude_test=None,
        train_groups=None,
        test_groups=None,
    )


def _from_bags(train: Path, test: Path | None, labels: Path | None) -> Dataset:
    bags = load_bags(train, test, labels)
    x, y = bags.train
    x_test, y_test = bags.test or (csr_array((0, x.shape[1])), csr_array((0, y.shape[1])))
    return Dataset(
        train_texts=feature_texts(x),
        test_texts=feature_texts(x_test),
        label_texts=[plain_name(text) for text in bags.label_texts],
        y_train=y,
        y_test=y_test,
        exclude_train=None,
        exclude_test=None,
        train_groups=None,
        test_groups=None,
        features=features_of(x),
    )


def is_table(path: Path) -> bool:
    """Whether a path is that of a table, not of a folder: an existing file, or a name like one."""
    if path.is_dir():
        return False
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return path.exists() or name.endswith(TABULAR)


def _texts(table: Table, column: str) -> list[str]:
    values = table.column(column, "name it with --text-column")
    if set(map(type, values)) <= {str}:
        return list(values)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            if _missing(value):
                cure = "leave the row out, or give an empty text"
                raise ValueError(f"{table.cell(row, column)}: no value; {cure}")
            kind = type(value).__name__
            raise ValueError(f"{table.cell(row, column)}: {kind}; expected a text")
    return list(values)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _sides(table: Table, split: str | None, side: str) -> list[str]:
    """Return ``train`` or ``test`` for each row."""
    n_rows = len(next(iter(table.columns.values()), ()))
    if split is None or (side == "test" and split not in table.columns):
        return [side] * n_rows
    sides = []
    for row, value in enumerate(table.column(split, "name it with --split-column")):
        word = str(value).strip().lower()
        if word not in TRAIN + TEST:
            raise ValueError(
                f"{table.cell(row, split)}: {value!r}; expected train or test (validation points "
                "are drawn from the training points: --validation)"
            )
        sides.append("train" if word in TRAIN else "test")
    return sides


def _names(cell: Any, separator: str | None, at: Callable[[], str]) -> tuple[list[str], bool]:
    """Return the labels of a cell, as they are named there, and whether any of them is a number."""
    if _missing(cell):
        raise ValueError(f"{at()}: no value; a point without labels has an empty list")
    if isinstance(cell, str):
        cell = _split(cell, separator, at)
    elif isinstance(cell, Mapping) or not hasattr(cell, "__iter__"):
        kind = type(cell).__name__
        raise ValueError(f"{at()}: {kind}; expected a list of labels")
    names: list[str] = []
    kinds = set()
    for value in cell:
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool) or not isinstance(value, str | int):
            kind = "null" if _missing(value) else type(value).__name__
            raise ValueError(f"{at()}: a label is {kind}; expected a text or a number")
        name = " ".join(str(value).split())
        if not name:
            raise ValueError(f"{at()}: a label is empty")
        names.append(name)
        kinds.add(isinstance(value, str))
    if len(kinds) > 1:
        raise ValueError(f"{at()}: texts and numbers among its labels; write all as texts")
    return names, False in kinds


def _split(cell: str, separator: str | None, at: Callable[[], str]) -> list[Any]:
    if separator:
        return [name for name in cell.split(separator) if name.strip()]
    if separator == "":
        return [cell] if cell.strip() else []
    try:
        found = json.loads(cell)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise ValueError(
            f"{at()}: a string; say what stands between its labels, --separator ';', or that it "
            "is one label, --separator ''"
        )
    return found


class _Numbers:
    """Numbers of labels by name; new names get the next ones unless they are `fixed`."""

    def __init__(self, by_name: dict[str, int], *, fixed: bool) -> None:
        self.by_name = by_name
        self.fixed = fixed
        self.seen: dict[str, int] = {}  # names as they stand in cells, without another look
        self.strings: bool | None = None  # whether cells are strings, not lists
        self.numeric: bool | None = None  # whether labels are numbers; None: none yet

    def of(self, cell: Any, separator: str | None, at: Callable[[], str]) -> list[int]:
        """Return the numbers of a cell's labels, sorted."""
        try:
            found = [self.seen[name] for name in cell] if type(cell) is list else None
        except (KeyError, TypeError):
            found = None
        if found is None:
            names, numeric = _names(cell, separator, at)
            if self.strings not in (None, isinstance(cell, str)):
                kinds = ("a string", "lists") if isinstance(cell, str) else ("a list", "strings")
                raise ValueError(
                    f"{at()}: {kinds[0]}, but {kinds[1]} in rows before; write all alike"
                )
            self.strings = isinstance(cell, str)
            if names and numeric != (self.numeric if self.numeric is not None else numeric):
                kinds = ("numbers", "texts") if numeric else ("texts", "numbers")
                raise ValueError(
                    f"{at()}: labels are {kinds[0]}, but {kinds[1]} in rows before; write all as "
                    "texts"
                )
            self.numeric = numeric if names else self.numeric
            found = [self._number(name, at) for name in names]
            if type(cell) is list:
                self.seen.update(
                    (raw, n) for raw, n in zip(cell, found, strict=True) if type(raw) is str
                )
        found.sort()
        if len(set(found)) < len(found):
            twice = next(name for name, n in self.by_name.items() if found.count(n) > 1)
            raise ValueError(f"{at()}: label '{twice}' twice")
        return found

    def of_lists(self, cells: StringLists) -> Pattern | None:
        """Return the numbers of the labels of all rows, sorted in each.

        None where a label is empty, unknown or twice in a row: `of` then names the place.
        """
        names = [" ".join(string.split()) for string in cells.strings]
        known = all(names) and not (self.fixed and not self.by_name.keys() >= set(names))
        if not known:
            return None
        fresh = dict(self.by_name)
        found = np.array([fresh.setdefault(name, len(fresh)) for name in names], np.int32)
        y = csr_array(
            (np.ones(len(cells.codes), np.int8), found[cells.codes], cells.offsets),
            shape=(len(cells), max(1, len(fresh))),
        )
        if not y.has_canonical_format:
            y.sort_indices()
        inner = np.diff(y.indptr) > 0
        steps = np.diff(y.indices, prepend=-1)
        steps[y.indptr[:-1][inner]] = 1
        if (steps <= 0).any():
            return None
        self.by_name.update(fresh)
        self.numeric = False if names else self.numeric
        self.strings = False
        return y.indptr.astype(np.int64), y.indices.astype(np.int32)

    def _number(self, name: str, at: Callable[[], str]) -> int:
        if self.fixed and name not in self.by_name:
            raise ValueError(f"{at()}: label '{name}' is not in the table of labels")
        return self.by_name.setdefault(name, len(self.by_name))


def _label_table(table: Table) -> tuple[dict[str, int], list[str]]:
    """Return the number of each label id, and the texts."""
    id_column = next((name for name in ID if name in table.columns), ID[0])
    ids = table.column(id_column, "a table of labels has columns id and text")
    texts = _texts(table, TEXT)
    numbers: dict[str, int] = {}
    for row, value in enumerate(ids):
        name = "" if _missing(value) else " ".join(str(value).split())
        if not name:
            raise ValueError(f"{table.cell(row, id_column)}: empty; expected the id of a label")
        if name in numbers:
            first = table.row(numbers[name])
            raise ValueError(f"{table.cell(row, id_column)}: label '{name}' twice (first {first})")
        numbers[name] = len(numbers)
    if not numbers:
        raise ValueError(f"{table.name}: no labels")
    return numbers, texts


def _pattern(rows: list[list[int]]) -> Pattern:
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    return indptr, np.fromiter((i for row in rows for i in row), np.int32, int(indptr[-1]))


def _matrix(pattern: Pattern, n_labels: int) -> Csr:
    indptr, indices = pattern
    values = np.ones(len(indices), np.float32)
    return csr_array((values, indices, indptr), shape=(len(indptr) - 1, n_labels))
