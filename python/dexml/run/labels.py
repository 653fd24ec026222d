"""The labels of a run: ids, texts, training counts, and which of them are alive."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from dexml import shown
from dexml.data.rows import split_label
from dexml.files import write_text
from dexml.index.edits import check_rows
from dexml.run.run import require
from dexml.sealed import Part, Sealed, array_part

PREFIX = "labels/"
TRAINED = f"{PREFIX}trained"
"""Role of the texts as they were at the end of the training."""


@dataclass(frozen=True, repr=False)
class LabelSet:
    """The labels at one moment. Edits return another set; this one never changes.

    An id is given once: a removed label leaves a gap, and the next new label gets the id
    ``len(labels)``.

    Attributes:
        texts: Text of each label by id, those of removed labels included.
        counts: Training points of each label, int64, shape (n_labels,); 0 for labels added later.
        alive: False for removed labels, shape (n_labels,).
        n_trained: Labels that there were at the end of the training.
        edits: Labels added, removed or changed since then, or since the index was built.
    """

    texts: list[str]
    counts: NDArray[np.int64]
    alive: NDArray[np.bool_]
    n_trained: int
    edits: int = 0

    @classmethod
    def of(cls, texts: Sequence[str], counts: NDArray[np.int64]) -> LabelSet:
        """The labels at the end of a training."""
        return cls(list(texts), counts, np.ones(len(texts), np.bool_), len(texts))

    def __len__(self) -> int:
        return len(self.texts)

    def _facts(self) -> dict[str, object]:
        return {"labels": len(self), "alive": self.n_alive, "trained": self.n_trained}

    def __repr__(self) -> str:
        return shown.line("LabelSet", self._facts())

    def _repr_html_(self) -> str:
        return shown.html("LabelSet", self._facts())

    @cached_property
    def n_alive(self) -> int:
        """Labels that were not removed."""
        return int(self.alive.sum())

    @cached_property
    def ids_by_text(self) -> dict[str, list[int]]:
        """Ids of the labels that are alive, by their text; one text may have several."""
        ids: dict[str, list[int]] = {}
        for i in np.flatnonzero(self.alive).tolist():
            ids.setdefault(self.texts[i], []).append(i)
        return ids

    @cached_property
    def ids_by_name(self) -> dict[str, list[int]]:
        """The same by name: of a label with features before its name, the name alone."""
        ids: dict[str, list[int]] = {}
        for text, found in self.ids_by_text.items():
            ids.setdefault(split_label(text)[1], []).extend(found)
        return ids

    def rows(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Check ids of labels that are alive, each given once.

        Raises:
            ValueError: An id out of range, of a removed label, or given twice.
        """
        return check_rows(ids, self.alive)

    def id_of(self, label: SupportsIndex | str) -> int:
        """Return the id of a label that is alive, given by its id, its text or its name.

        Raises:
            TypeError: Neither.
            ValueError: No such label, a removed one, or several labels have this text.
        """
        if isinstance(label, str):
            label_text = label.strip()
            ids = self.ids_by_text.get(label_text) or self.ids_by_name.get(label_text, [])
            if len(ids) > 1:
                shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
                raise ValueError(
                    f"label: {len(ids)} labels have the text {label!r}: give an id ({shown})"
                )
            if ids:
                return ids[0]
            removed = label.strip() in self.texts
            raise ValueError(f"label: {label!r} {'was removed' if removed else 'is no label'}")
        try:
            number = operator.index(label)
        except TypeError:
            kind = type(label).__name__
            raise TypeError(f"label is {kind}; give the id of a label, or its text") from None
        if not 0 <= number < len(self):
            raise ValueError(f"label: {number} lies outside 0..{len(self) - 1}")
        if not self.alive[number]:
            raise ValueError(f"label: {number} was removed")
        return number

    def added(self, texts: Sequence[str]) -> tuple[LabelSet, NDArray[np.int32]]:
        """These labels and new ones, and the ids of the new ones."""
        check_texts(texts)
        n = len(texts)
        more = LabelSet(
            [*self.texts, *texts],
            np.concatenate([self.counts, np.zeros(n, np.int64)]),
            np.concatenate([self.alive, np.ones(n, np.bool_)]),
            self.n_trained,
            self.edits + n,
        )
        return more, np.arange(len(self), len(more), dtype=np.int32)

    def removed(self, rows: NDArray[np.int64]) -> LabelSet:
        """These labels without some of them."""
        alive = self.alive.copy()
        alive[rows] = False
        return replace(self, alive=alive, edits=self.edits + len(rows))

    def updated(self, rows: NDArray[np.int64], texts: Sequence[str]) -> LabelSet:
        """These labels, some with another text."""
        check_texts(texts)
        changed = list(self.texts)
        for row, text in zip(rows.tolist(), texts, strict=True):
            changed[row] = text
        return replace(self, texts=changed, edits=self.edits + len(rows))

    def facts(self) -> dict[str, int]:
        """What the manifest of a run says of its labels."""
        return {"n_labels": len(self), "n_trained": self.n_trained, "edits": self.edits}

    def parts(self) -> dict[str, Part]:
        """What a run keeps of its labels."""
        return {
            f"{PREFIX}texts": text_part(self.texts),
            f"{PREFIX}counts": array_part(self.counts),
            f"{PREFIX}alive": array_part(self.alive),
        }

    @classmethod
    def restore(cls, state: Sealed) -> LabelSet:
        """Read the labels of a run whose bytes were checked.

        Raises:
            ValueError: The parts do not fit together.
        """
        facts = require(state, "labels", {"n_labels": int, "n_trained": int, "edits": int})
        n, n_trained, edits = facts["n_labels"], facts["n_trained"], facts["edits"]
        if not 0 <= n_trained <= n or edits < 0:
            raise state.damaged(f"{n} labels, {n_trained} at the end of training, {edits} edits")
        return cls(
            read_texts(state, f"{PREFIX}texts", n),
            state.array(f"{PREFIX}counts", np.int64, (n,)),
            state.array(f"{PREFIX}alive", np.bool_, (n,)),
            n_trained,
            edits,
        )

    @classmethod
    def restore_trained(cls, state: Sealed) -> LabelSet:
        """Read the labels as they were at the end of the training."""
        now = cls.restore(state)
        texts = read_texts(state, TRAINED, now.n_trained)
        return cls.of(texts, now.counts[: now.n_trained])


def text_part(texts: list[str]) -> Part:
    """Texts as a part, one a line."""
    return Part(
        lambda path: write_text(path, "".join(f"{text}\n" for text in texts)), ".txt", (texts,)
    )


def read_texts(state: Sealed, role: str, n: int) -> list[str]:
    """Read `n` texts, one a line."""
    if role not in state.parts:
        raise state.damaged(f"no {role}")
    path = state.path(role)
    try:
        texts = path.read_bytes().decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise state.damaged(str(error), path) from None
    if len(texts) != n:
        raise state.damaged(f"{len(texts)} lines for {n} labels", path)
    return texts


def check_texts(texts: Sequence[str], *, blank: bool = False) -> None:
    """Refuse texts of labels that cannot be a line of a file, or say nothing.

    Args:
        texts: Texts of labels.
        blank: Allow empty ones: a data set may hold such labels.

    Raises:
        TypeError: Something else than strings.
        ValueError: A single string in place of a list, a line break, an empty text.
    """
    if isinstance(texts, str):
        raise ValueError("texts: a single string; give a list of strings")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] is {type(text).__name__}; expected a string")
        if "\n" in text:
            raise ValueError(f"texts[{i}]: holds a line break; a label is one line")
        if not blank and not text.strip():
            raise ValueError(f"texts[{i}]: empty; a label needs a text")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"texts[{i}]: not valid Unicode at character {error.start} "
                f"({text[error.start]!r}, {error.reason})"
            ) from None
