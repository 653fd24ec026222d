"""Checks of what callers hand over as texts, the same for every function that takes some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any


def text_list(texts: Iterable[str], name: str = "texts") -> list[str]:
    """Return texts as a list: those of a list, tuple, array, Series, column or iterator.

    Iterating over a table gives its column names, over a dict its keys, over a set any order: none
    of these are texts.

    Args:
        texts: The texts.
        name: What error messages call them.

    Raises:
        TypeError: A single string, a table, a dict, a set, or an item that is not a ``str``.
    """
    expect_texts(texts, name)
    listed = texts.tolist() if hasattr(texts, "tolist") else list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{number}] is {type(text).__name__}; expected a string")
    return listed


def expect_texts(texts: Any, name: str) -> None:
    """Raise ``TypeError`` unless iterating over `texts` gives texts; items are not looked at."""
    if isinstance(texts, str | bytes | bytearray):
        raise TypeError(f"{name} is a single string; give a list, [text] for one text")
    kind = "None" if texts is None else type(texts).__name__
    dimensions = getattr(texts, "ndim", 1)
    is_table = hasattr(texts, "columns") or hasattr(texts, "column_names")
    if is_table or (isinstance(dimensions, int) and dimensions != 1):
        raise TypeError(f"{name} is {kind}, a table; give one column of it, table['text']")
    if isinstance(texts, Mapping):
        raise TypeError(f"{name} is {kind}; give a list of strings, list(texts.values())")
    if isinstance(texts, Set) or not isinstance(texts, Iterable):
        raise TypeError(f"{name} is {kind}; give a list of strings")
