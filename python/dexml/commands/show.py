"""Answers for people (a table), for machines (JSON lines) and for `dexml.metrics` (CSR parts)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.predict import Prediction

Ids = NDArray[np.int32]
Scores = NDArray[np.float32]


def as_json(
    texts: Sequence[str],
    ids: Ids,
    scores: Scores,
    label_texts: Sequence[str],
    probabilities: Scores | None = None,
    marks: Sequence[Mapping[str, object]] | None = None,
) -> str:
    """Write a JSON object a line: ``text``, ``labels``: ``[{id, text, score, probability}]``.

    Without probabilities, labels have none. `marks` are further fields of each text.
    """
    lines = []
    for row, text in enumerate(texts):
        labels: list[dict[str, object]] = [
            {"id": i, "text": label_texts[i], "score": score}
            for i, score in zip(ids[row].tolist(), scores[row].tolist(), strict=True)
            if i >= 0
        ]
        if probabilities is not None:
            for label, p in zip(labels, probabilities[row].tolist(), strict=False):
                label["probability"] = round(p, 6)
        line = {"text": text, "labels": labels} | dict(marks[row] if marks else {})
        lines.append(json.dumps(line, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def as_table(
    texts: Sequence[str],
    ids: Ids,
    scores: Scores,
    label_texts: Sequence[str],
    width: int | None = None,
    probabilities: Scores | None = None,
    marks: Sequence[Mapping[str, object]] | None = None,
) -> str:
    """Write each text with its labels below: score, probability in percent, id, text.

    Args:
        texts: The texts.
        ids: Label ids, shape (n, k), padded with -1.
        scores: Their scores.
        label_texts: Names of the labels, by id.
        width: Columns of a terminal: lines are cut there, and control characters replaced.
        probabilities: Of the labels; None: they are left out.
        marks: Of `marks_of`: a line below each text says what they hold.
    """
    digits = len(str(max(0, len(label_texts) - 1)))
    lines = []
    for row, text in enumerate(texts):
        lines.append(fit(text, width))
        if marks is not None:
            lines.append(fit(f"  {_remark(marks[row])}", width))
        for column, i in enumerate(ids[row].tolist()):
            if i < 0:
                continue
            sure = "" if probabilities is None else f"{100 * probabilities[row, column]:5.1f} %  "
            line = f"  {scores[row, column]:7.3f}  {sure}{i:>{digits}}  {label_texts[i]}"
            lines.append(fit(line, width))
    return "".join(f"{line}\n" for line in lines)


def marks_of(answer: Prediction) -> list[dict[str, object]] | None:
    """Return what is said of whole texts: uncertainty, nearest point, abstained; None: nothing."""
    columns: dict[str, list[object]] = {}
    for name in ("uncertainty", "nearest"):
        if (values := getattr(answer, name)) is not None:
            columns[name] = [round(value, 6) for value in values.tolist()]
    if answer.abstained is not None:
        columns["abstained"] = answer.abstained.tolist()
    if not columns:
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _remark(mark: Mapping[str, Any]) -> str:
    """Say in words what `marks_of` found of a text."""
    parts = ["no labels: too unsure"] if mark.get("abstained") else []
    if "uncertainty" in mark:
        parts.append(f"first label wrong with {100 * mark['uncertainty']:.1f} %")
    if "nearest" in mark:
        parts.append(f"nearest training point {mark['nearest']:.2f}")
    return "; ".join(parts) or "answered"


def fit(line: str, width: int | None) -> str:
    """Cut a line to `width` columns of a terminal, ending in an ellipsis; None: do not."""
    if width is None:
        return line
    line = "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in line[: 4 * width])
    used, cut = 0, 0
    for position, c in enumerate(line):
        wide = unicodedata.east_asian_width(c) in "WF"
        used += 0 if unicodedata.combining(c) else 1 + wide
        if used <= width - 1:
            cut = position + 1
        if used > width:
            return line[:cut] + "…"
    return line


def csr_parts(ids: Ids, scores: Scores) -> tuple[NDArray[np.int64], Ids, Scores]:
    """Return rows as CSR: the number of entries of each, ids ascending in each, and their scores.

    Padding is dropped; the ranking is in the scores.
    """
    order = np.argsort(ids, axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    kept = ids >= 0
    return kept.sum(axis=1, dtype=np.int64), ids[kept], scores[kept]
