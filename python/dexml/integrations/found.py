"""What all retrievers share: the labels of a question, and the passages that labels stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.predict import Predictor

Labels = Iterable[int | str]
"""Labels by id or by text."""
Passages = Mapping[int, str | Sequence[str]]
"""By label id, what a label stands for: a text, or several."""


@dataclass(frozen=True)
class Passage:
    """A text to answer from, and the label that led to it.

    Attributes:
        text: A passage of the label, or the label's own text.
        label_id: The label.
        label: Its text.
        part: Which of the label's passages, from 0.
        score: The label's score for the question.
        probability: How likely the label is right; None where the run does not know.
    """

    text: str
    label_id: int
    label: str
    part: int
    score: float
    probability: float | None

    @property
    def id(self) -> str:
        """Names the passage: label and part."""
        return f"{self.label_id}-{self.part}"

    def metadata(self) -> dict[str, Any]:
        """What a document of another library says beside its text."""
        facts: dict[str, Any] = {
            "label_id": self.label_id,
            "label": self.label,
            "part": self.part,
            "score": self.score,
        }
        return facts if self.probability is None else facts | {"probability": self.probability}


def find(
    predictor: Predictor,
    question: str,
    k: int,
    *,
    passages: Passages | None = None,
    only: Labels | None = None,
    exclude: Labels | None = None,
    min_score: float | None = None,
    min_probability: float | None = None,
) -> list[Passage]:
    """Return the passages of the k best labels of a question, best label first.

    Args:
        predictor: The run.
        question: The text.
        k: Labels; each has as many passages as `passages` says.
        passages: Texts of labels; a label that is not there has its own text.
        only: Labels to choose from.
        exclude: Labels to leave out; k others remain.
        min_score: Leave out labels with a lower score.
        min_probability: Leave out labels that are less likely right.

    Raises:
        ValueError: A label is unknown or was removed; `min_probability` for a run without
            probabilities.
    """
    mask = allowed(predictor, only, exclude)
    more: dict[str, Any] = {} if min_probability is None else {"min_probability": min_probability}
    answer = predictor.predict([question], k, only=mask, **more)
    texts = predictor.label_texts
    found = []
    for column, i in enumerate(answer.ids[0].tolist()):
        score = float(answer.scores[0, column])
        if i < 0 or (min_score is not None and score < min_score):
            continue
        sure = answer.probabilities
        probability = None if sure is None else float(sure[0, column])
        for part, text in enumerate(_passages(passages or {}, i, texts[i])):
            found.append(Passage(text, i, texts[i], part, score, probability))
    return found


def allowed(
    predictor: Predictor, only: Labels | None, exclude: Labels | None
) -> NDArray[np.bool_] | None:
    """Return the labels that may be found as a mask (n_labels,); None: all.

    Raises:
        ValueError: A label is unknown or was removed, or several have a text that is given.
    """
    if only is None and exclude is None:
        return None
    labels = predictor.label_set
    mask = np.zeros(len(labels), np.bool_) if only is not None else labels.alive.copy()
    mask[list(_ids(predictor, only))] = True
    mask[list(_ids(predictor, exclude))] = False
    return mask


def _ids(predictor: Predictor, labels: Labels | None) -> Iterator[int]:
    if isinstance(labels, str):
        raise TypeError("a single text; give a list of label ids or texts")
    for label in labels or ():
        yield predictor.label_set.id_of(label)


def _passages(passages: Passages, label: int, text: str) -> Sequence[str]:
    given = passages.get(label, text)
    return [given] if isinstance(given, str) else given
