"""A retriever for LlamaIndex: labels of a run, or what they stand for, as nodes with scores."""

from __future__ import annotations

from collections.abc import Sequence

from dexml import console

console.require("llama-index", "llama_index.core")

# isort: split
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from dexml.integrations.found import Passages, find
from dexml.predict import Predictor

__all__ = ["LabelRetriever"]


class LabelRetriever(BaseRetriever):  # type: ignore[misc]  # types are not looked at
    """Returns the passages of the k best labels of a question as nodes, best label first.

    A node's score is that of its label. Its metadata are ``label_id``, ``label`` (the text),
    ``part`` (which of the label's passages), ``score``, and ``probability`` where the run has
    probabilities.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        k: int = 5,
        passages: Passages | None = None,
        only: Sequence[int | str] | None = None,
        exclude: Sequence[int | str] | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
    ) -> None:
        """Keep the run and the filters.

        Args:
            predictor: The run, opened.
            k: Labels a question.
            passages: By label id, the text or texts that a label stands for; default its own text.
            only: Labels to choose from, by id or text; None: all.
            exclude: Labels to leave out.
            min_score: Leave out labels with a lower score.
            min_probability: Leave out labels that are less likely right.
        """
        super().__init__()
        self.predictor, self.k, self.passages = predictor, k, passages
        self.only, self.exclude = only, exclude
        self.min_score, self.min_probability = min_score, min_probability

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = find(
            self.predictor,
            query_bundle.query_str,
            self.k,
            passages=self.passages,
            only=self.only,
            exclude=self.exclude,
            min_score=self.min_score,
            min_probability=self.min_probability,
        )
        return [
            NodeWithScore(
                node=TextNode(text=p.text, id_=p.id, metadata=p.metadata()), score=p.score
            )
            for p in found
        ]
