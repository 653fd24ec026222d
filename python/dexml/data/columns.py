"""Tables as columns: JSON lines, CSV, TSV, Parquet, lines of fastText and PECOS, and in memory."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console
from dexml.data.texts import MARK, packing

CSV_CELL = 2**31 - 1
"""Characters of a CSV cell at most; Python's own limit is 131,072."""

PREFIX = "__label__"
"""Of a label in a line of fastText."""
_WORD = re.compile(rf"(?<!\S){PREFIX}\S")
_IDS = re.compile(r"\d+(:[-+.\deE]+)?(,\d+(:[-+.\deE]+)?)*\t")
"""How a line of PECOS with labels begins."""
_OBJECT = re.compile(r'\s*(\[\s*)?\{\s*["}]')
"""How JSON lines and lists of objects begin, and texts hardly ever."""
EARLY = 10
"""Lines in which fastText is looked for: points without labels may come first."""
ID, TEXT = ("id", "label"), "text"
"""Columns of a table of labels: one of the first, and this one."""
Row = Callable[[int], str]
"""Names the place of a row in messages."""


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length, and what table and rows are called in messages."""

    columns: Mapping[str, Sequence[Any]]
    name: str
    row: Row

    def column(self, name: str, remedy: str) -> Sequence[Any]:
        """Return a column; one that is missing is an error, with the `remedy` at its end."""
        if name not in self.columns:
            known = ", ".join(map(str, self.columns)) or "none"
            hint = console.did_you_mean(name, [str(c) for c in self.columns])
            raise ValueError(f"{self.name}: no column '{name}' (columns: {known}){hint}; {remedy}")
        return self.columns[name]

    def cell(self, row: int, column: str) -> str:
        """Name the place of a cell."""
        return f"{self.row(row)}, column '{column}'"


def open_table(source: Any, name: str, wanted: Sequence[str] = ()) -> Table:
    """Read a file, or take the columns of a table in memory, which `name` stands for in messages.

    Args:
        source: File or table.
        name: Of a table in memory, for messages.
        wanted: Columns that are needed; others may be left out. Empty: all.

    Raises:
        ValueError: The file is empty or damaged; the message names the line.
        TypeError: It is no table.
        FileNotFoundError: There is no such file.
    """
    if isinstance(source, str | os.PathLike):
        return _read(Path(source), wanted)
    if isinstance(source, Mapping):
        names: Any = list(source)
    else:
        names = getattr(source, "column_names", None)
        names = getattr(source, "columns", None) if names is None else names
        if names is None or callable(names):
            kind = type(source).__name__
            raise TypeError(f"{name} is {kind}; give a file, a data frame, or a dict of columns")
    columns = {str(column): listed(source[column]) for column in names}
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name}: columns of different lengths ({lengths})")
    return Table(columns, name, lambda row: f"{name} row {row}")


@dataclass(frozen=True)
class StringLists(Sequence[list[str]]):
    """Rows of strings, none of them null, each different string once. n rows."""

    offsets: NDArray[np.int64]
    """Row i has the codes from ``offsets[i]`` to ``offsets[i + 1]``, (n + 1,)."""
    codes: NDArray[np.int32]
    """Positions in `strings`."""
    strings: list[str]
    """In the order in which rows have them first."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        at = range(len(self))[row]  # counts from the end, and refuses what is not there
        return [self.strings[i] for i in self.codes[self.offsets[at] : self.offsets[at + 1]]]

    def __iter__(self) -> Iterator[list[str]]:
        strings = [self.strings[code] for code in self.codes.tolist()]
        offsets = self.offsets.tolist()
        for start, end in pairwise(offsets):
            yield strings[start:end]


def string_lists(cells: Sequence[Any]) -> StringLists | None:
    """Return cells that are lists of strings, all of them, as such; None for others."""
    if isinstance(cells, StringLists):
        return cells
    if not set(map(type, cells)) <= {list}:
        return None
    flat = list(chain.from_iterable(cells))
    if not set(map(type, flat)) <= {str}:
        return None
    codes = {string: code for code, string in enumerate(dict.fromkeys(flat))}
    lengths = np.fromiter(map(len, cells), np.int64, len(cells))
    return StringLists(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.fromiter(map(codes.__getitem__, flat), np.int32, len(flat)),
        list(codes),
    )


def _of_arrow(column: Any) -> Sequence[Any]:
    """Return the values of a column of pyarrow. `to_pylist` would take ten times as long."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if lists and not column.null_count:
        value = kind.value_type
        if pa.types.is_string(value) or pa.types.is_large_string(value):
            whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
            flat = whole.flatten().dictionary_encode()
            if not flat.null_count:
                offsets = whole.offsets.to_numpy().astype(np.int64)
                return StringLists(
                    offsets - offsets[0],
                    flat.indices.to_numpy().astype(np.int32),
                    flat.dictionary.to_pylist(),
                )
    return column.to_pylist()  # type: ignore[no-any-return]


def listed(column: Any) -> Sequence[Any]:
    """Return the values of a column: of pyarrow, polars, pandas, numpy, or any sequence."""
    if hasattr(column, "num_chunks") and hasattr(column, "to_pylist"):
        return _of_arrow(column)
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _read(path: Path, wanted: Sequence[str]) -> Table:
    """Read a file; what it is, its first bytes say."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        packed = packing(file.read(4)) is not None
    content = _rust.load_bytes(str(path)) if packed else path.read_bytes()
    if content[:4] == b"PAR1":
        return _parquet(content, path)
    content = content.removeprefix(MARK)
    if wanted and content.lstrip()[:1] == b"{":
        table = _regular_lines(content, path, wanted)
        if table is not None:
            return table
    try:
        text = codecs.decode(content, "utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    start = text.lstrip()[:1]
    if not start:
        raise ValueError(f"{path}: empty; expected a table")
    named = path.name.removesuffix(".gz").removesuffix(".zst")
    header = {name.strip(' "') for name in re.split("[\t,;]", text.split("\n", 1)[0].strip())}
    if not _OBJECT.match(text):
        if not wanted and named.endswith(".txt") and not (TEXT in header and header & {*ID}):
            return _names_of_labels(text, path)
        if wanted and not header >= {*wanted}:
            if _is_pecos(text):
                return _pecos(text, path)
            early = islice(_filled(text), EARLY)
            if not named.endswith((".csv", ".tsv")) and any(map(_WORD.search, early)):
                return _fasttext(text, path)
    if start in "{[":
        return _json_list(text, path) if start == "[" else _json_lines(text, path)
    return _delimited(text, path)


def _filled(text: str) -> Iterator[str]:
    """Yield the lines that are not blank, each when it is asked for."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if (line := text[start:end]).strip():
            yield line
        start = end + 1


def _is_pecos(text: str) -> bool:
    """Whether numbers and a tab begin the first line, or the first one after points without labels.

    With two tabs, a line without a number may be the header of a table whose rows are numbered.
    """
    for line in _filled(text):
        if not line.startswith("\t"):
            return _IDS.match(line) is not None
        if line.count("\t") > 1:
            return False
    return False


def _names_of_labels(text: str, path: Path) -> Table:
    """Read a label a line; labels are named by number, from 0."""
    texts = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if "" in texts:
        raise ValueError(
            f"{path}:{texts.index('') + 1}: empty; the line is the number of a label: name it, or "
            "take the line out if it is none"
        )
    lines: dict[str, Sequence[Any]] = {"id": list(range(len(texts))), "text": texts}
    return Table(lines, str(path), lambda row: f"{path}:{row + 1}")


def _fasttext(text: str, path: Path) -> Table:
    """Read lines of fastText: words, and among them labels with a prefix."""
    numbered = [(at, line.split()) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
    labels = [[w.removeprefix(PREFIX) for w in ws if w.startswith(PREFIX)] for _, ws in numbered]
    texts = [" ".join(w for w in words if not w.startswith(PREFIX)) for _, words in numbered]
    columns: dict[str, Sequence[Any]] = {"text": texts, "labels": labels}
    return Table(columns, str(path), lambda row: f"{path}:{numbered[row][0]}")


def _pecos(text: str, path: Path) -> Table:
    """Read lines of PECOS: numbers of labels, each perhaps with a value, a tab, the text."""
    labels: list[list[int]] = []
    texts: list[str] = []
    at: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        ids, tab, rest = line.partition("\t")
        if not tab:
            raise ValueError(f"{path}:{number}: no tab; expected 'label,label<TAB>text'")
        labels.append([_number(one, path, number) for one in ids.split(",") if ids.strip()])
        texts.append(rest.strip())
        at.append(number)
    return Table({"text": texts, "labels": labels}, str(path), lambda row: f"{path}:{at[row]}")


def _number(given: str, path: Path, line: int) -> int:
    """Read ``3`` or ``3:0.5``, where the value does not matter."""
    number = given.partition(":")[0].strip()
    if not (number.isascii() and number.isdecimal()):
        raise ValueError(f"{path}:{line}: '{given}'; expected the number of a label before the tab")
    return int(number)


def _regular_lines(content: bytes, path: Path, wanted: Sequence[str]) -> Table | None:
    """Read columns of JSON lines in Rust; None where `_json_lines` has to look closer."""
    names = list(dict.fromkeys(wanted))
    found = _rust.json_columns(content, names)
    if found is None:
        return None
    lines, columns = found
    cells = [StringLists(*column) if isinstance(column, tuple) else column for column in columns]
    return Table(
        dict(zip(names, cells, strict=True)), str(path), lambda row: f"{path}:{lines[row]}"
    )


def _json_lines(text: str, path: Path) -> Table:
    contents = text.split("\n")
    lines = [line for line, content in enumerate(contents, start=1) if content.strip()]
    records = _parsed(contents, lines)
    if records is not None:
        return _records(records, path, lambda row: f"{path}:{lines[row]}")
    records = []
    for line in lines:
        content = contents[line - 1]
        try:
            record = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{path}:{line}: not JSON ({error}); one object a line") from None
        records.append(record)
    return _records(records, path, lambda row: f"{path}:{lines[row]}")


def _parsed(contents: list[str], lines: list[int]) -> list[Any] | None:
    """Parse all lines at once, which is faster; None if a line is no JSON of its own.

    The zeros between lines tell: a line that ends in another one swallows a zero, and a line with
    two values has none between them.
    """
    joined = ",0,".join([contents[line - 1] for line in lines])
    try:
        found = json.loads(f"[{joined}]")
    except (ValueError, RecursionError):
        return None
    zeros = found[1::2]
    alternate = len(found) == 2 * len(lines) - 1 and set(map(type, zeros)) <= {int}
    return found[::2] if alternate and not any(zeros) else None


def _json_list(text: str, path: Path) -> Table:
    try:
        records = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    return _records(records, path, lambda row: f"{path}: object {row}")


def _records(records: list[Any], path: Path, row: Row) -> Table:
    """Turn objects into columns; what an object does not have is None."""
    names: dict[str, None] = {}
    for at, record in enumerate(records):
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise ValueError(
                f'{row(at)}: {kind}; expected an object, {{"text": ..., "labels": []}}'
            )
        names.update(dict.fromkeys(record))
    return Table({name: [r.get(name) for r in records] for name in names}, str(path), row)


def _delimited(text: str, path: Path) -> Table:
    """Read CSV or TSV with a header; the header says what separates columns."""
    header = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=header.count)
    before = csv.field_size_limit(CSV_CELL)
    line = 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader)]
        if len(set(names)) < len(names):
            raise ValueError(f"{path}:1: a column is named twice ({', '.join(names)})")
        rows, lines = [], []
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(names):
                    raise ValueError(
                        f"{path}:{line}: {len(cells)} cells, but the header has {len(names)}; "
                        'put cells that hold the separator in quotes, "..."'
                    )
                rows.append(cells)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        where = "" if reader.line_num == line else f" (read to line {reader.line_num})"
        cure = (
            "" if "limit" in str(error) else '; close quotes, and write one inside a cell twice, ""'
        )
        raise ValueError(f"{path}:{line}: {error}{where}{cure}") from None
    finally:
        csv.field_size_limit(before)
    columns = {name: [cells[at] for cells in rows] for at, name in enumerate(names)}
    return Table(columns, str(path), lambda row: f"{path}:{lines[row]}")


def _parquet(content: bytes, path: Path) -> Table:
    console.require("tables", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: damaged Parquet file; copy or write it again ({reason})"
        ) from None
    columns = {name: _of_arrow(table[name]) for name in table.column_names}
    return Table(columns, str(path), lambda row: f"{path} row {row}")
