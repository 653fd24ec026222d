"""Data sets from tables: files of every kind, data frames, and what is wrong with them."""

import csv
import gzip
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from dexml import data
from dexml.commands.predict import main as predict_main
from dexml.commands.train import main as train_main
from dexml.data.__main__ import main as data_main
from dexml.train import TrainSettings, train

POINTS = [
    {"text": "Kernel panics, again", "labels": ["kernel", "drivers"]},
    {"text": 'The "parser" fails', "labels": ["parser"]},
    {"text": "Nothing\nfits", "labels": []},
    {"text": "Treiber läuft nicht", "labels": ["drivers", "größe"]},
]
TEXTS = [str(point["text"]) for point in POINTS]
LABELS = ["kernel", "drivers", "parser", "größe"]
IDS = [[0, 1], [2], [], [1, 3]]


def ids_of(y: data.Csr) -> list[list[int]]:
    return [[int(i) for i in y.indices[a:b]] for a, b in zip(y.indptr, y.indptr[1:], strict=False)]


def columns_of(points: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [point[name] for point in points] for name in points[0]}


def write_jsonl(path: Path, points: list[dict[str, Any]] = POINTS) -> Path:
    path.write_text("".join(json.dumps(point) + "\n" for point in points), encoding="utf-8")
    return path


def write_csv(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["text", "labels"])
        for point in POINTS:
            writer.writerow([point["text"], "|".join(point["labels"])])
    return path


def check(found: data.Dataset) -> None:
    assert (found.train_texts, found.label_texts) == (TEXTS, LABELS)
    assert ids_of(found.y_train) == IDS
    assert found.y_train.dtype == np.float32
    assert (found.test_texts, found.y_test.shape) == ([], (0, 4))


def test_json_lines_and_lists(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl")
    check(data.from_table(path))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    check(data.from_table(tmp_path / "b.jsonl.gz"))
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    check(data.from_table(tmp_path / "marked"))
    (tmp_path / "list").write_text(json.dumps(POINTS), encoding="utf-8")
    check(data.from_table(str(tmp_path / "list")))


def test_zstd(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl")
    try:
        subprocess.run(["zstd", "-q", str(path)], check=True)
    except FileNotFoundError:
        pytest.skip("the program zstd is not installed")
    check(data.from_table(tmp_path / "a.jsonl.zst"))


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_csv_with_a_separator(tmp_path: Path, delimiter: str) -> None:
    path = write_csv(tmp_path / "a.csv", delimiter)
    check(data.from_table(path, columns=data.Columns(separator="|")))


def test_cells_with_a_json_list_need_no_separator() -> None:
    cells = [json.dumps(point["labels"]) for point in POINTS]
    check(data.from_table({"text": TEXTS, "labels": cells}))


def test_one_label_a_row() -> None:
    table = {"title": ["a", "b", "c"], "tag": ["x; y", "z", "x; y"]}
    columns = data.Columns("title", "tag", separator="")
    found = data.from_table(table, columns=columns)
    assert (found.label_texts, ids_of(found.y_train)) == (["x; y", "z"], [[0], [1], [0]])


def test_parquet_arrow_pandas_and_polars(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra tables is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    polars = pytest.importorskip("polars", reason="polars is not installed")
    from pyarrow import parquet

    columns = columns_of(POINTS)
    table = pyarrow.table(columns)
    parquet.write_table(table, tmp_path / "a.parquet")
    check(data.from_table(tmp_path / "a.parquet"))
    check(data.from_table(table))
    check(data.from_table(pandas.DataFrame(columns)))
    check(data.from_table(polars.DataFrame(columns)))
    check(data.from_table({"text": np.array(TEXTS), "labels": columns["labels"]}))
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.parquet: damaged Parquet file"):
        data.from_table(tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"text": "a", "labels": [{"b": 1}\n{"c": 2}]}\n{"text": "x"}, {"text": "y"}', 1),
        ('{"text": "a", "labels": ["b"]}, {"text": "c", "labels": []}', 1),
        ('{"text": "a", "labels": ["b"]}\n\n{"text": "a", "labels": ["b"', 3),
        ('{"text": "a", "labels": ["b"]},0,{"text": "c", "labels": []} x', 1),
    ],
)
def test_lines_that_are_json_only_together_are_refused(
    tmp_path: Path, content: str, line: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"a\.jsonl:{line}: not JSON"):
        data.from_table(path)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", " a", "b c", "b  c", "d", "é", "", None]), max_size=3),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2),
    st.booleans(),
)
def test_lists_of_arrow_are_read_as_lists_of_python(
    rows: list[list[str | None]], cut: int, fixed: bool
) -> None:
    """All at once, or cell by cell where something is wrong: the same data, or the same error."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    texts = [f"text {i}" for i in range(len(rows))]
    kind = pa.list_(pa.string())
    chunks = [pa.array(part, kind) for part in (rows[:cut], rows[cut:])]
    column = pa.chunked_array([chunks[0], pa.array([["x"], *rows[cut:]], kind)[1:]], kind)
    assert len(column) == len(chunks[0]) + len(chunks[1])
    labels = {"id": ["a", "d", "b c"], "text": ["A", "D", "B"]} if fixed else None

    def read(table: Any) -> Any:
        try:
            return data.from_table(table, labels=labels)
        except ValueError as error:
            return str(error)

    one = read(pa.table({"text": texts, "labels": column}))
    two = read({"text": texts, "labels": rows})
    if isinstance(one, str) or isinstance(two, str):
        assert one == two
        return
    assert (one.train_texts, one.label_texts) == (two.train_texts, two.label_texts)
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(one.y_train, name), getattr(two.y_train, name))


def test_a_table_of_labels() -> None:
    labels = {"id": ["L9", "L1", "L5"], "text": ["nine", "one", "five"]}
    table = {"text": ["a", "b"], "labels": [["L1", "L9"], []]}
    found = data.from_table(table, labels=labels)
    assert found.label_texts == ["nine", "one", "five"]
    assert ids_of(found.y_train) == [[0, 1], []]
    numbers = {"label": [7, 8], "text": ["seven", "eight"]}
    found = data.from_table({"text": ["a"], "labels": [[8]]}, labels=numbers)
    assert ids_of(found.y_train) == [[1]]


def test_lines_of_fasttext(tmp_path: Path) -> None:
    path = tmp_path / "train.ft"
    path.write_text("__label__b-c __label__a a text\n\nno label\nat the __label__a end\n")
    found = data.from_table(path)
    assert found.train_texts == ["a text", "no label", "at the end"]
    assert (found.label_texts, ids_of(found.y_train)) == (["b-c", "a"], [[0, 1], [], [1]])


def test_lines_of_pecos_and_labels_a_line(tmp_path: Path) -> None:
    path, names = tmp_path / "train.txt", tmp_path / "labels.txt"
    path.write_text("2,0\ta text\n\tno label\n1:0.5,2:1e-1\ttwo\twords\n")
    names.write_text("zero\none, of many\ntwo\n")
    found = data.from_table(path, path, names)
    assert found.train_texts == ["a text", "no label", "two\twords"]
    assert found.label_texts == ["zero", "one, of many", "two"]
    assert ids_of(found.y_train) == ids_of(found.y_test) == [[0, 2], [], [1, 2]]
    (tmp_path / "labels.txt.gz").write_bytes(gzip.compress(names.read_bytes()))
    assert data.from_table(path, labels=tmp_path / "labels.txt.gz").label_texts[2] == "two"
    names.write_text("id,text\n0,zero\n1,one\n2,two\n")  # a table, whatever its name
    assert data.from_table(path, labels=names).label_texts == ["zero", "one", "two"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a text __label__b\n__label__a other\n", ["a text", "other"]),
        ("\n\n__label__b a text\n", ["a text"]),
        ("no label\n[Art] text __label__b\n", ["no label", "[Art] text"]),
        ("[Art] text __label__b\n", ["[Art] text"]),
    ],
)
def test_fasttext_is_known_by_its_first_lines(
    tmp_path: Path, content: str, texts: list[str]
) -> None:
    (tmp_path / "t.txt").write_text(content)
    found = data.from_table(tmp_path / "t.txt")
    assert (found.train_texts, found.label_texts[0]) == (texts, "b")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t", "text,labels\na __label__x,y\n"),
        ("t", '{"text": "a __label__x", "labels": ["y"]}\n'),
        ("t", '[{"text": "a __label__x", "labels": ["y"]}]\n'),
        ("t", "\ttext\tlabels\n0\ta __label__x\ty\n"),
    ],
)
def test_tables_that_resemble_lines_of_points(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    found = data.from_table(tmp_path / name, columns=data.Columns(separator=";"))
    assert (found.train_texts, found.label_texts) == (["a __label__x"], ["y"])


@pytest.mark.parametrize("content", ["body,tags\na __label__x,y\n", "\tbody\ttags\n0\ta\ty\n"])
def test_another_column_name_is_no_other_format(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match="no column 'text'"):
        data.from_table(tmp_path / "t.csv")


def test_pecos_may_begin_with_points_without_labels(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n\t[Art] first\n\tsecond\n1,0\tthird\n")
    (tmp_path / "l.txt").write_text("zero\none\n")
    found = data.from_table(tmp_path / "t.txt", labels=tmp_path / "l.txt")
    assert found.train_texts == ["[Art] first", "second", "third"]
    assert ids_of(found.y_train) == [[], [], [0, 1]]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("[Art]\ntext\n", ["[Art]", "text"]),
        ("text\n{set}\n", ["text", "{set}"]),
        ("text, plain\nid\n", ["text, plain", "id"]),
        ("__label__x\n3\ty\n", ["__label__x", "3\ty"]),
        ("id;text\n0;zero\n1;one\n", ["zero", "one"]),
        ('"label","text"\n0,zero\n1,one\n', ["zero", "one"]),
        ('{"id": 0, "text": "zero"}\n{"id": 1, "text": "one"}\n', ["zero", "one"]),
    ],
)
def test_labels_a_line_or_a_table_of_them(tmp_path: Path, content: str, texts: list[str]) -> None:
    (tmp_path / "l.txt").write_text(content)
    given = {"text": ["a"], "labels": [[1]]}
    assert data.from_table(given, labels=tmp_path / "l.txt").label_texts == texts


@pytest.mark.parametrize("content", ["a\n\nb\n", "a\n \r\nb", "a\n\n"])
def test_blank_lines_among_labels_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "l.txt").write_text(content)
    with pytest.raises(ValueError, match=r"l.txt:2: empty; the line is the number of a label"):
        data.from_table({"text": ["a"], "labels": [[0]]}, labels=tmp_path / "l.txt")


@pytest.mark.parametrize(
    ("content", "labels", "message"),
    [
        ("0\ta\nno tab\n", "a\n", r"t.txt:2: no tab; expected 'label,label<TAB>text'"),
        ("0\ta\n0,x\tb\n", "a\n", r"t.txt:2: 'x'; expected the number of a label"),
        ("0\ta\n0,-1\tb\n", "a\n", r"t.txt:2: '-1'; expected the number of a label"),
        ("0\ta\n0,1\tb\n", "a\n", r"t.txt:2, column 'labels': label '1' is not in the table"),
        ("0\ta\n0,0\tb\n", "a\n", r"t.txt:2, column 'labels': label '0' twice"),
        ("0\ta\n", "", r"l.txt: empty"),
        ("__label__x __label__x a\n", None, r"t.txt:1, column 'labels': label 'x' twice"),
    ],
)
def test_bad_lines_are_named(
    tmp_path: Path, content: str, labels: str | None, message: str
) -> None:
    (tmp_path / "t.txt").write_text(content)
    names = None
    if labels is not None:
        names = tmp_path / "l.txt"
        names.write_text(labels)
    with pytest.raises(ValueError, match=message):
        data.from_table(tmp_path / "t.txt", labels=names)


def test_test_points_by_table_and_by_column() -> None:
    table = {"text": ["a", "b", "c"], "labels": [["x"], ["y"], ["z"]]}
    found = data.from_table(table, {"text": ["d"], "labels": [["y", "w"]]})
    assert (found.test_texts, ids_of(found.y_test)) == (["d"], [[1, 3]])
    assert found.label_texts == ["x", "y", "z", "w"]
    split = table | {"part": ["train", "TEST", "trn"]}
    found = data.from_table(split, columns=data.Columns(split="part"))
    assert (found.train_texts, found.test_texts) == (["a", "c"], ["b"])
    with pytest.raises(ValueError, match="row 2, column 'part': 'dev'; expected train or test"):
        data.from_table(
            table | {"part": ["train", "test", "dev"]}, columns=data.Columns(split="part")
        )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"text": ["a"], "tags": [["x"]]}, "no column 'labels' .columns: text, tags."),
        ({"txt": ["a"], "labels": [["x"]]}, "no column 'text'.*did you mean 'txt'"),
        ({"text": ["a", "b"], "labels": [["x"]]}, "columns of different lengths"),
        (
            {"text": ["a", None], "labels": [["x"], ["x"]]},
            "row 1, column 'text': no value; leave the row out",
        ),
        (
            {"text": ["a", 3], "labels": [["x"], ["x"]]},
            "row 1, column 'text': int; expected a text",
        ),
        (
            {"text": ["a", "b"], "labels": [["x"], None]},
            "row 1, column 'labels': no value; a point",
        ),
        ({"text": ["a", "b"], "labels": [["x"], "x"]}, "row 1, column 'labels': a string; say"),
        (
            {"text": ["a", "b"], "labels": [["x"], 3]},
            "row 1, column 'labels': int; expected a list",
        ),
        ({"text": ["a"], "labels": [["x", None]]}, "row 0, column 'labels': a label is null"),
        ({"text": ["a"], "labels": [["x", 1.5]]}, "a label is float; expected a text or a number"),
        ({"text": ["a"], "labels": [["x", 1]]}, "row 0, column .labels.: texts and numbers among"),
        ({"text": ["a"], "labels": [["x", " "]]}, "a label is empty"),
        ({"text": ["a"], "labels": [["x", "y", " x"]]}, "row 0, column 'labels': label 'x' twice"),
        ({"text": ["a"], "labels": [[]]}, "train: no training point has a label"),
        ({"text": ["a"], "labels": [{"x": 1}]}, "dict; expected a list of labels"),
    ],
)
def test_bad_cells_are_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.from_table(table)


@pytest.mark.parametrize(
    ("labels", "separator", "message"),
    [
        (
            [[1], ["2"]],
            None,
            "row 1, column 'labels': labels are texts, but numbers in rows before",
        ),
        ([["1"], [], [2]], None, "row 2, column 'labels': labels are numbers, but texts in rows"),
        ([["a"], "b;c"], ";", "row 1, column 'labels': a string, but lists in rows before"),
        (["b;c", ["a"]], ";", "row 1, column 'labels': a list, but strings in rows before"),
    ],
)
def test_rows_of_several_kinds_are_named(
    labels: list[Any], separator: str | None, message: str
) -> None:
    table = {"text": ["x"] * len(labels), "labels": labels}
    with pytest.raises(ValueError, match=message):
        data.from_table(table, columns=data.Columns(separator=separator))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"id": ["x"], "text": ["X"]},
            "train row 0, column 'labels': label 'y' is not in the table",
        ),
        (
            {"id": ["x", "x"], "text": ["X", "Y"]},
            "labels row 1, column 'id': label 'x' twice .first",
        ),
        ({"id": ["x", None], "text": ["X", "Y"]}, "labels row 1, column 'id': empty"),
        ({"text": ["X"]}, "labels: no column 'id'"),
        ({"id": [], "text": []}, "labels: no labels"),
    ],
)
def test_bad_tables_of_labels_are_named(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.from_table({"text": ["a"], "labels": [["y"]]}, labels=labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a: empty; expected a table"),
        (b" \n \n", "a: empty; expected a table"),
        (b'{"text": "a", "labels": []}\n{"text"\n', "a:2: not JSON"),
        (b'{"text": "a"}\n[1]\n', "a:2: list; expected an object"),
        (b'[{"text": "a"}', "a: not JSON"),
        (b"text,labels\na,b,c\n", "a:2: 3 cells, but the header has 2; put cells"),
        (b'text,labels\n"a\nb",c\nd\n', "a:4: 1 cells, but the header has 2"),
        (b'text,labels\n"a,b\n', "a:2: unexpected end of data; close quotes"),
        (b'text,labels\na,b\n"c,d\ne,f\n', r"a:3: unexpected end of data \(read to line 4\)"),
        (b'text,labels\n"a"b,c\n', "a:2: .* expected after .*; close quotes, and write one"),
        (b"text,text\na,b\n", "a:1: a column is named twice"),
        (b"text,labels\n\xff,x\n", "a:2: not UTF-8"),
        (b"PAR1 and nothing", "a: damaged Parquet file; copy or write it again"),
        (b"\x1f\x8b\x08 and nothing", "a: "),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, content: bytes, message: str) -> None:
    if content.startswith(b"PAR1"):
        pytest.importorskip("pyarrow", reason="the extra tables is not installed")
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.from_table(tmp_path / "a")


def test_a_missing_column_of_some_objects_is_an_empty_cell(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [POINTS[0], {"text": "b"}])
    with pytest.raises(ValueError, match=r"a\.jsonl:2, column 'labels': no value"):
        data.from_table(path)


@pytest.mark.parametrize("table", [None, 3, ["a"], {"a"}], ids=repr)
def test_what_is_no_table(table: Any) -> None:
    with pytest.raises(TypeError, match=r"train is .*; give a file, a data frame, or a dict"):
        data.from_table(table)


def test_a_cell_of_ten_megabytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,labels\n" + "word " * 2_000_000 + ",x\n")
    found = data.from_table(tmp_path / "a.csv", columns=data.Columns(separator=";"))
    assert len(found.train_texts[0]) == 10_000_000


words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=5)


@given(st.lists(st.tuples(words, st.lists(words, unique=True, min_size=1)), min_size=1))
def test_json_lines_agree_with_the_table_in_memory(rows: list[tuple[str, list[str]]]) -> None:
    table = {"text": [text for text, _ in rows], "labels": [labels for _, labels in rows]}
    found = data.from_table(table)
    for (text, labels), own, ids in zip(
        rows, found.train_texts, ids_of(found.y_train), strict=True
    ):
        assert text == own
        assert {found.label_texts[i] for i in ids} == set(labels)


# Objects of a line, as text: regular ones, and those that are JSON to Python alone, or not at all.
REGULAR = [
    '{"text": "a", "labels": ["x"]}',
    '{"labels": ["y", "x"], "text": "b", "id": 3, "more": {"text": [null, 1e999]}}',
    '{"text": "\\u00e9\\ud83d\\ude00 \\" é", "labels": [" y ", "é\\tz"]}',
    '{"te\\u0078t": "", "labels": []}\r',
    '{"text":"c","labels":["\\u0000"]}',
]
ODD = [
    "",
    " \t\r",
    "\u2003",
    '{"text": "a", "labels": null}',
    '{"text": null, "labels": []}',
    '{"text": 1, "labels": []}',
    '{"text": "a", "labels": ["x", "x"]}',
    '{"text": "a", "labels": [["x"]]}',
    '{"text": "a", "labels": [1, "1"]}',
    '{"text": "a", "labels": [1, 2]}',
    '{"text": "a", "labels": ["x", ""]}',
    '{"text": "a", "labels": ["x", null]}',
    '{"text": "a", "labels": "x;y"}',
    '{"text": "a", "labels": "[\\"x\\"]"}',
    '{"text": "a", "text": "b", "labels": ["z"]}',
    '{"text": "a", "labels": ["\\ud800"]}',
    '{"text": "a", "labels": ["x"], "more": NaN}',
    '{"text": "a"}',
    '["text"]',
    '{"text": "a", "labels": ["x"]',
    '{"text": "a", "labels": ["x"]},',
    '{"text": "a\tb", "labels": ["x"]}',
]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(*[st.sampled_from(REGULAR)] * 4, st.sampled_from(ODD)), min_size=1),
    st.booleans(),
    st.sampled_from([None, ";"]),
)
def test_json_lines_are_read_as_python_reads_each(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: bool, separator: str | None
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a"
    path.write_text("\n".join(lines) + "\n" * end, encoding="utf-8", newline="")
    columns = data.Columns(separator=separator)
    rows = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]

    def read(source: Any) -> Any:
        try:
            found = data.from_table(source, columns=columns)
        except ValueError as error:
            return str(error)
        return found.train_texts, found.label_texts, ids_of(found.y_train)

    try:
        records = [json.loads(line) for _, line in rows]
    except ValueError:
        assert "not JSON" in read(path)
        return
    if not records or any(type(record) is not dict for record in records):
        if rows and rows[0][1].lstrip()[0] == "[":  # the file is one list of objects
            assert re.search(r"a: object 0: str; expected an object|a: not JSON", read(path))
        else:
            assert re.search(r"a:\d+: list; expected an object|a: empty; expected", read(path))
        return
    names = {name: None for record in records for name in record}
    expected = read({name: [record.get(name) for record in records] for name in names})
    if isinstance(expected, str):  # the same words of another place
        place = re.match(r"train row (\d+)(.*)", expected, re.DOTALL)
        named = f"{path}:{rows[int(place[1])][0]}{place[2]}" if place else expected
        expected = named.replace("train: ", f"{path}: ")
    assert read(path) == expected


def many_points(path: Path, n: int = 60) -> Path:
    things = ["kernel", "parser", "driver"]
    return write_jsonl(
        path,
        [
            {
                "body": f"the {things[i % 3]} number {i} fails",
                "tags": [things[i % 3]],
                "part": "test" if i % 10 == 9 else "train",
            }
            for i in range(n)
        ],
    )


OPTIONS = ["--text-column", "body", "--label-column", "tags", "--split-column", "part"]


def test_a_table_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, run = many_points(tmp_path / "posts.jsonl"), tmp_path / "run"
    command = [str(table), "--out", str(run), "--encoder", "none", *OPTIONS]
    train_main(command)
    assert "written as a data set" in capsys.readouterr().err
    assert json.loads((run / "metrics.json").read_text())["metrics"]["P@1"] > 0.9
    predict_main([str(run), "-k", "1"])
    assert "parser" in capsys.readouterr().out
    made = (tmp_path / "run.data" / "table.json").stat().st_mtime_ns
    train_main([*command, "--resume"])
    assert "finished already" in capsys.readouterr().err
    assert (tmp_path / "run.data" / "table.json").stat().st_mtime_ns == made
    # Other content is another data set, which the run was not trained on.
    many_points(table, 50)
    with pytest.raises(FileExistsError, match="holds the data of the run beside it"):
        train_main([*command, "--resume"])


def test_a_data_set_in_memory_is_trained_on(tiny_data: Path, tmp_path: Path) -> None:
    found = data.load_dataset(tiny_data)
    groups = [text.split()[0] for text in found.train_texts]
    given = replace(found, train_groups=groups)
    settings: dict[str, Any] = {"encoder": "none", "quiet": True, "tree": "none"}
    predictor = train(given, out=tmp_path / "run", **settings)
    assert predictor.label_texts == found.label_texts
    again = data.load_dataset(tmp_path / "run.data")
    assert (again.train_texts, again.train_groups) == (found.train_texts, groups)
    np.testing.assert_array_equal(again.y_test.toarray(), found.y_test.toarray())
    by_folder = train(str(tiny_data), out=str(tmp_path / "other"), **settings)
    assert by_folder.n_labels == predictor.n_labels
    assert not data.folder_from_dataset(tmp_path / "run.data", given)  # it is there
    assert data.folder_from_dataset(tmp_path / "run.data", found)


def test_parents_of_labels_in_memory_are_written(tiny_data: Path, tmp_path: Path) -> None:
    found = data.load_dataset(tiny_data)
    assert found.label_parents is None
    parents = [f"p{i % 3} q" if i else "" for i in range(len(found.label_texts))]
    given = replace(found, label_parents=parents)
    folder = tmp_path / "data"
    assert data.folder_from_dataset(folder, given)
    assert data.load_dataset(folder).label_parents == parents
    assert not data.folder_from_dataset(folder, given)
    assert data.folder_from_dataset(folder, found)
    assert data.load_dataset(folder).label_parents is None
    with pytest.raises(ValueError, match="label_parents: 1, but"):
        data.folder_from_dataset(folder, replace(found, label_parents=["p"]))


def test_the_data_of_a_run_are_not_replaced(tiny_data: Path, tmp_path: Path) -> None:
    found = data.load_dataset(tiny_data)
    settings: dict[str, Any] = {"encoder": "none", "quiet": True, "tree": "none"}
    train(found, out=tmp_path / "run", **settings)
    other = replace(found, label_texts=[f"{text}!" for text in found.label_texts])
    with pytest.raises(FileExistsError, match=r"run.data: holds the data of the run beside it"):
        train(other, out=tmp_path / "run", **settings)
    assert data.load_label_texts(tmp_path / "run.data") == found.label_texts
    with pytest.raises(FileExistsError, match=r"run: not empty"):
        train(found, out=tmp_path / "run", **settings)
    again = train(other, out=tmp_path / "run", overwrite=True, **settings)
    assert again.label_texts == other.label_texts


def test_the_table_of_a_run_is_not_replaced(tmp_path: Path) -> None:
    table = many_points(tmp_path / "posts.jsonl")
    argv = [str(table), "--out", str(tmp_path / "run"), "--encoder", "none", "--quiet", *OPTIONS]
    train_main(argv)
    before = (tmp_path / "run.data" / "raw" / "trn_X.txt").read_text()
    many_points(table, 70)
    with pytest.raises(FileExistsError, match=r"run.data: holds the data of the run beside it"):
        train_main(argv)
    assert (tmp_path / "run.data" / "raw" / "trn_X.txt").read_text() == before


def test_several_processes_need_a_folder(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="write it once"):
        train(data.load_dataset(tiny_data), out=tmp_path / "run", encoder="none")


def test_filter_pairs_in_memory_are_written(tmp_path: Path) -> None:
    y = csr_array(np.eye(4, dtype=np.float32))
    pairs = csr_array(np.eye(4, k=1, dtype=np.float32))
    none = csr_array((0, 4), dtype=np.float32)
    given = data.Dataset(["a", "b", "c", "d"], [], list("wxyz"), y, none, pairs, None, None, None)
    data.folder_from_dataset(tmp_path / "data", given)
    part = data.load_part(tmp_path / "data", "trn", 4)
    assert part.exclude is not None
    np.testing.assert_array_equal(part.exclude.toarray(), pairs.toarray())


def test_what_cannot_be_trained_on_is_named(tiny_data: Path, tmp_path: Path) -> None:
    given = data.load_dataset(tiny_data)
    with pytest.raises(TypeError, match="out is missing"):
        train(given)  # type: ignore[call-overload]
    table = write_jsonl(tmp_path / "posts.jsonl")
    with pytest.raises(ValueError, match=r"a file; give dexml.data.from_table\('.*posts.jsonl'\)"):
        train(table, out=tmp_path / "run", encoder="none")
    with pytest.raises(ValueError, match="epoch"):
        train(given, out=tmp_path / "run", encoder="none", epoch=3)
    of_tables: list[dict[str, Any]] = [{"labels": "no.txt"}, {"text_column": "q"}, {"test": "no"}]
    for reading in of_tables:
        for one in (given, tiny_data):
            with pytest.raises(ValueError, match=f"^{next(iter(reading))} is for tables, and"):
                train(one, out=tmp_path / "run", encoder="none", **reading)
    (tmp_path / "run.data").mkdir()
    with pytest.raises(FileExistsError, match=r"run.data: holds something else; the data set"):
        train(given, out=tmp_path / "run", encoder="none")
    settings = TrainSettings(data_dir=tiny_data, out=tmp_path / "run")
    with pytest.raises(TypeError, match="give one of them"):
        train(settings, out=tmp_path / "run")  # type: ignore[call-overload]


def test_nothing_is_written_for_a_bad_table(tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "labels": "x"}])
    with pytest.raises(ValueError, match="a string; say"):
        train_main([str(table), "--out", str(tmp_path / "run"), "--encoder", "none"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    table = many_points(tmp_path / "posts.jsonl")
    (tmp_path / "run.data").mkdir()
    (tmp_path / "run.data" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        train_main([str(table), "--out", str(tmp_path / "run"), "--encoder", "none", *OPTIONS])
    assert (tmp_path / "run.data" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda t: ["missing.csv"], "missing.csv: no such file"),
        (lambda t: [str(t), "--test", "none.csv"], "none.csv: no such file"),
    ],
)
def test_missing_files(tmp_path: Path, words: Callable[[Path], list[str]], message: str) -> None:
    table = many_points(tmp_path / "posts.jsonl")
    with pytest.raises(FileNotFoundError, match=message):
        train_main([*words(table), "--out", str(tmp_path / "run"), "--encoder", "none", *OPTIONS])


@pytest.mark.parametrize(
    "words", [["--separator", ";"], ["--test", "a.csv"], ["--text-column", "body"]]
)
def test_options_of_tables_are_refused_for_folders(
    tiny_data: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_main([str(tiny_data), "--out", str(tmp_path / "run"), *words])
    assert f"{words[0]} is for a table" in capsys.readouterr().err


def test_a_plan_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = many_points(tmp_path / "posts.jsonl")
    with pytest.raises(SystemExit):
        train_main([str(table), "--plan"])
    assert "from-table" in capsys.readouterr().err


def test_a_folder_from_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, folder = write_csv(tmp_path / "a.csv"), tmp_path / "folder"
    for expected in ("written", "is the same already"):
        data_main(["from-table", str(table), str(folder), "--separator", "|"])
        assert expected in capsys.readouterr().out
    assert data.load_label_texts(folder) == LABELS
    part = data.load_part(folder, "trn", 4)
    assert ids_of(part.y) == IDS
    assert part.texts == [" ".join(text.split()) for text in TEXTS]
    data_main(["check", str(folder)])
