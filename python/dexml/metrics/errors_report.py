"""Output of ``--by-label`` and ``--confusions``: tables for people, CSV and JSON for programs."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console, data
from dexml.data.layout import find
from dexml.files import replacing
from dexml.metrics.errors import Confusion, LabelErrors

SHOWN, WRITTEN = 20, 1000
"""Rows on a terminal; confusions in a file."""
LABEL, TEXT = 34, 92
"""Characters of a label and of an example on a terminal."""
SUFFIXES = (".csv", ".jsonl", ".json")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Texts:
    """Texts that stand beside ids, where they are known."""

    labels: Sequence[str] | None = None
    """By label id."""
    points: Sequence[str] | None = None
    """By point."""

    def label(self, label_id: int) -> str:
        """Return the text of a label; empty where it is not known."""
        return "" if self.labels is None else self.labels[label_id]

    def named(self, label_id: int, width: int = LABEL) -> str:
        """Return the label as people read it: its text and id, cut to `width`."""
        text, id_ = self.label(label_id), f"({label_id})"
        return f"label {label_id}" if not text else f"{cut(text, width - len(id_) - 1)} {id_}"


def load_texts(
    labels: Path | None, folder: Path | None, n_points: int, n_labels: int, side: str = "tst"
) -> Texts:
    """Read label texts (a file, or ``raw/Y.txt`` of a data set) and texts of its points.

    The points are those of `side` of the data set, if it has as many.

    Raises:
        ValueError: There are not as many label texts as labels; or as `dexml.data.load_texts`.
        FileNotFoundError: A file is missing.
    """
    label_texts, source = None, folder
    if labels is not None:
        label_texts, source = data.load_texts(labels), labels
    elif folder is not None:
        label_texts, source = data.load_label_texts(folder), find(folder, "raw/Y.txt")
    if label_texts is not None and len(label_texts) != n_labels:
        raise ValueError(f"{source}: {len(label_texts)} label texts for {n_labels} labels")
    points = None
    if folder is not None and (path := find(folder, f"raw/{side}_X.txt")).exists():
        points = data.load_texts(path)
    return Texts(label_texts, points if points is not None and len(points) == n_points else None)


def by_label(
    errors: LabelErrors, texts: Texts, y_counts: NDArray[np.int64] | None, ids: NDArray[np.int64]
) -> Rows:
    """Return a row for each of the labels `ids`.

    Args:
        errors: Of `dexml.metrics.label_errors`.
        texts: Of labels.
        y_counts: Training points of each label, (n_labels,), if they are known.
        ids: The labels.
    """
    shares = {name: getattr(errors, name)[ids] for name in ("precision", "recall", "f1")}
    counts = {
        name: getattr(errors, name)[ids]
        for name in ("positives", "predicted", "hits", "missed", "false")
    }
    rows = []
    for at, label in enumerate(ids.tolist()):
        row: dict[str, Any] = {"label": label}
        if texts.labels is not None:
            row["text"] = texts.label(label)
        if y_counts is not None:
            row["training_points"] = int(y_counts[label])
        row |= {name: int(values[at]) for name, values in counts.items()}
        row |= {name: _number(values[at]) for name, values in shares.items()}
        rows.append(row)
    return rows


def of_pairs(pairs: Sequence[Confusion], texts: Texts) -> Rows:
    """Return a row for each confusion."""
    rows = []
    for one in pairs:
        row: dict[str, Any] = {"right": one.right, "wrong": one.wrong}
        if texts.labels is not None:
            row |= {"right_text": texts.label(one.right), "wrong_text": texts.label(one.wrong)}
        row |= {"count": one.together, "missed": one.missed, "false": one.false}
        row["points"] = list(one.points)
        if texts.points is not None:
            row["texts"] = [texts.points[point] for point in one.points]
        rows.append(row)
    return rows


def label_table(rows: Rows, texts: Texts, order: str) -> str:
    """Lay out labels for people, fractions in percent."""
    if not rows:
        return "no label fails"
    columns = {"positives": "points", "predicted": "given"}
    columns |= {"missed": "missed", "false": "false"}
    heads = (["trained"] if "training_points" in rows[0] else []) + list(columns.values())
    lines = []
    for row in rows:
        cells = [str(row["training_points"])] if "training_points" in row else []
        cells += [str(row[name]) for name in columns]
        cells += [
            "-" if row[name] is None else f"{100 * row[name]:.1f}"
            for name in ("precision", "recall")
        ]
        lines.append((texts.named(row["label"], 27), cells))
    corner = "most missed" if order == "missed" else "most false"
    return console.grid(corner, [*heads, "P %", "R %"], lines)


def pair_list(pairs: Sequence[Confusion], texts: Texts) -> str:
    """Lay out confusions for people: counts, both labels, and the first example."""
    if not pairs:
        return "no label is missed where a wrong one stands"
    counts = [f"{one.together} of {one.missed}" for one in pairs]
    width = max(map(len, counts))
    lines = [f"{'points':>{width}}  missed label -> wrong label among the first"]
    for one, count in zip(pairs, counts, strict=True):
        lines.append(f"{count:>{width}}  {texts.named(one.right)} -> {texts.named(one.wrong)}")
        if texts.points is not None:
            point = one.points[0]
            lines.append(f"{'':{width}}  {cut(f'point {point}: {texts.points[point]}', TEXT)}")
    return "\n".join(lines)


def cut(text: str, width: int) -> str:
    """Cut a text to some characters, ending in an ellipsis; hidden characters are replaced."""
    text = "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c
        for c in text[: width + 1]
    )
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def as_csv(rows: Rows) -> str:
    """Return rows as CSV; lists are joined by blanks, texts of points by `` | ``."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["label"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = {name: " ".join(map(str, v)) for name, v in row.items() if name == "points"}
        flat |= {name: " | ".join(v) for name, v in row.items() if name == "texts"}
        writer.writerow(row | flat)
    return out.getvalue()


def as_lines(rows: Rows) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_object(rows: Rows, name: str, about: dict[str, Any]) -> str:
    """Return rows as one JSON object, under `name`."""
    return json.dumps(about | {name: rows}, ensure_ascii=False, indent=1) + "\n"


def write(path: Path, rows: Rows, name: str, about: dict[str, Any]) -> None:
    """Write rows to a file whose suffix is one of `SUFFIXES`."""
    text = {
        ".csv": lambda: as_csv(rows),
        ".jsonl": lambda: as_lines(rows),
        ".json": lambda: as_object(rows, name, about),
    }[path.suffix]()
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def check_out(path: Path | None) -> None:
    """End the command if rows cannot be written to `path`."""
    if path is None:
        return
    if path.suffix not in SUFFIXES:
        console.usage_error(f"--out {path}: the name must end in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} is not there")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of both reports."""
    group = parser.add_argument_group("errors").add_argument
    group("--by-label", action="store_true", help="count hits and misses of every label")
    group("--confusions", action="store_true", help="which wrong labels stand where one was missed")
    group("--at", metavar="K", type=_count, help="labels of a point that both look at (5)")
    group(
        "--order",
        choices=["missed", "false", "count", "surprise"],
        help="what comes first: most missed or false labels; most frequent or surprising pairs",
    )
    group("--top", metavar="N", type=_count, help="rows (20; in files all labels, or 1,000 pairs)")
    group("--labels", metavar="FILE", type=Path, help="label texts, a line each")
    group("--data", metavar="FOLDER", type=Path, help="data set: texts of labels and test points")
    group("--out", metavar="FILE", type=Path, help="write .csv, .jsonl or .json, not a table")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1")
    return int(text)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
