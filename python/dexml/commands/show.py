"""Answers for people (a table), for machines (JSON lines) and for `dexml.metrics` (CSR parts)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Scores = NDArray[np.float32]


def as_json(texts: Sequence[str], ids: Ids, scores: Scores, label_texts: Sequence[str]) -> str:
    """Write a JSON object a line: ``text``, ``labels``: ``[{id, text, score}]``."""
    lines = []
    for text, row_ids, row_scores in zip(texts, ids.tolist(), scores.tolist(), strict=True):
        labels = [
            {"id": i, "text": label_texts[i], "score": score}
            for i, score in zip(row_ids, row_scores, strict=True)
            if i >= 0
        ]
        lines.append(json.dumps({"text": text, "labels": labels}, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def as_table(
    texts: Sequence[str],
    ids: Ids,
    scores: Scores,
    label_texts: Sequence[str],
    width: int | None = None,
) -> str:
    """Write each text with its labels below: score, id, text.

    Args:
        texts: The texts.
        ids: Label ids, shape (n, k), padded with -1.
        scores: Their scores.
        label_texts: Texts of the labels, by id.
        width: Columns of a terminal: lines are cut there, and control characters replaced.
    """
    digits = len(str(max(0, len(label_texts) - 1)))
    lines = []
    for text, row_ids, row_scores in zip(texts, ids.tolist(), scores.tolist(), strict=True):
        lines.append(fit(text, width))
        for i, score in zip(row_ids, row_scores, strict=True):
            if i >= 0:
                lines.append(fit(f"  {score:7.3f}  {i:>{digits}}  {label_texts[i]}", width))
    return "".join(f"{line}\n" for line in lines)


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
