"""A retriever for Haystack: labels of a run, or what they stand for, as documents."""

# No `from __future__ import annotations`: Haystack reads the annotations of `run`.

from pathlib import Path
from typing import Any

from dexml import console

console.require("haystack", "haystack")

# isort: split
from haystack import Document, component, default_from_dict, default_to_dict

from dexml.integrations.found import find
from dexml.predict import Predictor

__all__ = ["LabelRetriever"]


@component
class LabelRetriever:
    """Returns the passages of the k best labels of a question as documents, best label first.

    A document's score is that of its label. Its ``meta`` are ``label_id``, ``label`` (the text),
    ``part`` (which of the label's passages), ``score``, and ``probability`` where the run has
    probabilities. A pipeline with it can be written and read: it keeps the path of the run.
    """

    def __init__(
        self,
        run: str | Path | Predictor,
        top_k: int = 5,
        passages: dict[int, str | list[str]] | None = None,
        only: list[int | str] | None = None,
        exclude: list[int | str] | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
    ) -> None:
        """Keep the run and the filters.

        Args:
            run: A run folder, which is opened with the first question (or `warm_up`), or an opened
                run.
            top_k: Labels a question.
            passages: By label id, the text or texts that a label stands for; default its own text.
            only: Labels to choose from, by id or text; None: all.
            exclude: Labels to leave out.
            min_score: Leave out labels with a lower score.
            min_probability: Leave out labels that are less likely right.
        """
        self.predictor = run if isinstance(run, Predictor) else None
        self.folder = str(run.run.folder if isinstance(run, Predictor) else run)
        self.top_k, self.passages = top_k, passages
        self.only, self.exclude = only, exclude
        self.min_score, self.min_probability = min_score, min_probability

    def warm_up(self) -> None:
        """Open the run, if it is not open."""
        if self.predictor is None:
            self.predictor = Predictor.open(self.folder)

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(
        self,
        query: str,
        top_k: int | None = None,
        only: list[int | str] | None = None,
        exclude: list[int | str] | None = None,
    ) -> dict[str, list[Document]]:
        """Find the labels of a question.

        Args:
            query: The question.
            top_k: In place of the retriever's own.
            only: In place of the retriever's own.
            exclude: In place of the retriever's own.

        Returns:
            ``documents``.
        """
        self.warm_up()
        assert self.predictor is not None
        found = find(
            self.predictor,
            query,
            self.top_k if top_k is None else top_k,
            passages=self.passages,
            only=self.only if only is None else only,
            exclude=self.exclude if exclude is None else exclude,
            min_score=self.min_score,
            min_probability=self.min_probability,
        )
        documents = [
            Document(id=p.id, content=p.text, meta=p.metadata(), score=p.score) for p in found
        ]
        return {"documents": documents}

    def to_dict(self) -> dict[str, Any]:
        """Return what a written pipeline keeps."""
        passages = None
        if self.passages is not None:  # keys of JSON are strings
            passages = {str(label): texts for label, texts in self.passages.items()}
        kept: dict[str, Any] = default_to_dict(
            self,
            run=self.folder,
            top_k=self.top_k,
            passages=passages,
            only=self.only,
            exclude=self.exclude,
            min_score=self.min_score,
            min_probability=self.min_probability,
        )
        return kept

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LabelRetriever":
        """Make a retriever of what `to_dict` returned."""
        given = dict(data["init_parameters"])
        if given.get("passages") is not None:
            given["passages"] = {int(label): texts for label, texts in given["passages"].items()}
        made: LabelRetriever = default_from_dict(cls, {**data, "init_parameters": given})
        return made
