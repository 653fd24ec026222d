"""A retriever for LangChain: labels of a run, or what they stand for, as documents."""

from __future__ import annotations

from typing import Any

from dexml import console

console.require("langchain", "langchain_core")

# isort: split
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field

from dexml.integrations.found import find
from dexml.predict import Predictor

__all__ = ["LabelRetriever"]


class LabelRetriever(BaseRetriever):
    """Returns the passages of the k best labels of a question as documents, best label first.

    It works like any other retriever (``invoke``, ``batch``, ``ainvoke``, ``|``). What can be set
    can also be given to a single call: ``retriever.invoke(question, k=3, only=["a label"])``. A
    document's metadata are ``label_id``, ``label`` (its text), ``part`` (which of its passages),
    ``score``, and ``probability`` where the run has probabilities.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    predictor: Predictor
    """The run, opened."""
    k: int = 5
    """Labels a question."""
    passages: dict[int, str | list[str]] = Field(default_factory=dict)
    """By label id, the text or texts that a label stands for; default its own text."""
    only: list[int | str] | None = None
    """Labels to choose from, by id or text; None: all."""
    exclude: list[int | str] | None = None
    """Labels to leave out."""
    min_score: float | None = None
    """Leave out labels with a lower score."""
    min_probability: float | None = None
    """Leave out labels that are less likely right."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **given: Any
    ) -> list[Document]:
        names = ("k", "only", "exclude", "min_score", "min_probability")
        if unknown := set(given) - set(names):
            raise TypeError(f"unknown: {', '.join(sorted(unknown))} (known: {', '.join(names)})")
        asked = {name: given.get(name, getattr(self, name)) for name in names}
        found = find(self.predictor, query, passages=self.passages, **asked)
        return [Document(p.text, id=p.id, metadata=p.metadata()) for p in found]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **given: Any
    ) -> list[Document]:
        """Ask in a thread, as the library does where a retriever has no such method."""
        return await run_in_executor(
            None, self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **given
        )
