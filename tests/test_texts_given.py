"""Texts are lists, arrays and columns of strings; tables, dicts and sets are none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml.data import load_part, load_texts, save_dataset, save_texts, text_list
from dexml.text.lexical import fit_vectorizer


class Table:
    """Stands in for a table of pandas: iterating gives the names of its columns."""

    ndim = 2
    columns = ("text", "label")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return 3


class Columns:
    """Stands in for a table of `datasets` or pyarrow."""

    column_names = ("text",)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter([{"text": "a"}])

    def __len__(self) -> int:
        return 1


class Column:
    """Stands in for a Series: one dimension, `tolist`."""

    ndim = 1

    def __init__(self, *texts: Any) -> None:
        self.texts = texts

    def tolist(self) -> list[Any]:
        return list(self.texts)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)


NO_TEXTS = [
    (Table(), r"is Table, a table; give one column of it, table\['text'\]"),
    (Columns(), "is Columns, a table"),
    (np.array([["a", "b"]]), "is ndarray, a table"),
    (np.array("a"), "is ndarray, a table"),
    ({"text": "a"}, r"is dict; give a list of strings, list\(texts\.values\(\)\)"),
    ({"a": 1}.keys(), "is dict_keys; give a list of strings"),
    ({"a"}, "is set; give a list of strings"),
    (frozenset("a"), "is frozenset; give a list of strings"),
    ("a", "is a single string"),
    (b"a", "is a single string"),
    (None, "is None"),
    (3, "is int"),
]
CALLS: dict[str, Callable[[Any, Path], Any]] = {
    "text_list": lambda texts, _: text_list(texts),
    "save_texts": lambda texts, folder: save_texts(folder / "x.txt", texts),
    "save_dataset, labels": lambda texts, folder: save_dataset(folder / "d", texts, (["a"], [[0]])),
    "save_dataset, points": lambda texts, folder: save_dataset(
        folder / "d", ["a"], (texts, [[0]] * 3)
    ),
    "fit_vectorizer": lambda texts, _: fit_vectorizer(texts),
    "Vectorizer.rows": lambda texts, _: fit_vectorizer(["a b", "a c"]).rows(texts),
}


@pytest.mark.parametrize(("texts", "message"), NO_TEXTS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_what_is_no_list_of_texts(
    call: Callable[[Any, Path], Any], texts: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=message):
        call(texts, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "texts",
    [["a", "b"], ("a", "b"), np.array(["a", "b"]), Column("a", "b"), iter("ab")],
)
def test_what_is_a_list_of_texts(texts: Any) -> None:
    assert text_list(texts) == ["a", "b"]


@pytest.mark.parametrize("texts", [["a", 3.5], Column("a", 3.5), np.array(["a", 3.5], object)])
def test_every_text_is_a_string(texts: Any) -> None:
    with pytest.raises(TypeError, match=r"texts\[1\] is float; expected a string"):
        text_list(texts)


def test_a_data_set_has_a_line_for_each_row(tmp_path: Path) -> None:
    texts = Column("one\ntwo", "three", "")
    save_dataset(tmp_path / "d", Column("x", "y"), (texts, [[0], [1], []]))  # type: ignore[arg-type]
    assert load_texts(tmp_path / "d" / "raw" / "trn_X.txt") == ["one two", "three", ""]
    assert load_part(tmp_path / "d", "trn", 2).y.shape == (3, 2)


@pytest.mark.parametrize("side", [Table(), ["a"], "ab", None])
def test_a_side_of_a_data_set_is_a_pair(tmp_path: Path, side: Any) -> None:
    with pytest.raises(TypeError, match=r"train is \w+; give a pair \(texts, labels\)"):
        save_dataset(tmp_path / "d", ["a"], side)
    assert not list(tmp_path.iterdir())
