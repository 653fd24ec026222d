"""Retrievers of other libraries give the labels that the run gives."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from dexml.predict import Predictor

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
QUESTION = "kernel driver a"
pytestmark = pytest.mark.filterwarnings("default")  # of other libraries


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    return Predictor.open(run_dir, search="exact", threads=1)


class Hit(dict[str, Any]):
    """A document of any library: its text and its metadata."""


def by_langchain(predictor: Predictor, question: str = QUESTION, **given: Any) -> list[Hit]:
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    from dexml.integrations.langchain import LabelRetriever

    documents = LabelRetriever(predictor=predictor, **given).invoke(question)
    return [Hit(text=d.page_content, **d.metadata) for d in documents]


def by_llama_index(predictor: Predictor, question: str = QUESTION, **given: Any) -> list[Hit]:
    pytest.importorskip("llama_index.core", reason="needs llama-index-core")
    from dexml.integrations.llama_index import LabelRetriever

    nodes = LabelRetriever(predictor, **given).retrieve(question)
    for node in nodes:
        assert node.score == node.node.metadata["score"]
    return [Hit(text=node.node.get_content(), **node.node.metadata) for node in nodes]


def by_haystack(predictor: Predictor, question: str = QUESTION, **given: Any) -> list[Hit]:
    pytest.importorskip("haystack", reason="needs haystack-ai")
    from dexml.integrations.haystack import LabelRetriever

    if "k" in given:
        given["top_k"] = given.pop("k")
    documents = LabelRetriever(predictor, **given).run(query=question)["documents"]
    for document in documents:
        assert document.score == document.meta["score"]
    return [Hit(text=d.content, **d.meta) for d in documents]


retrievers = pytest.mark.parametrize("retrieve", [by_langchain, by_llama_index, by_haystack])


@retrievers
def test_a_retriever_gives_the_labels_of_the_run(retrieve: Any, predictor: Predictor) -> None:
    hits = retrieve(predictor, k=3)
    answer = predictor.predict([QUESTION], 3)
    assert [hit["label_id"] for hit in hits] == answer.ids[0].tolist()
    assert [hit["score"] for hit in hits] == pytest.approx(answer.scores[0].tolist())
    assert [hit["text"] for hit in hits] == predictor.labels(answer.ids)[0]
    if answer.probabilities is not None:
        sure = [hit["probability"] for hit in hits]
        assert sure == pytest.approx(answer.probabilities[0].tolist())


@retrievers
def test_filters_and_passages_of_a_retriever(retrieve: Any, predictor: Predictor) -> None:
    first, second, third = predictor.predict([QUESTION], 3).ids[0].tolist()
    text = predictor.label_texts[second]
    assert [h["label_id"] for h in retrieve(predictor, only=[first, text])] == [first, second]
    hits = retrieve(predictor, k=2, exclude=[first], passages={second: ["One.", "Two."]})
    assert [hit["label_id"] for hit in hits] == [second, second, third]
    assert [hit["text"] for hit in hits][:2] == ["One.", "Two."]
    assert [hit["part"] for hit in hits] == [0, 1, 0]
    least = float(predictor.predict([QUESTION], 1).scores[0, 0])
    assert len(retrieve(predictor, min_score=least)) == 1
    assert retrieve(predictor, min_score=1e9) == []
    with pytest.raises(Exception, match="is no label"):
        retrieve(predictor, only=["no such label"])


def test_langchain_takes_filters_with_a_call(predictor: Predictor) -> None:
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    from dexml.integrations.langchain import LabelRetriever

    retriever = LabelRetriever(predictor=predictor)
    alone = retriever.invoke(QUESTION, k=2, exclude=[0])
    assert len(alone) == 2
    assert asyncio.run(retriever.ainvoke(QUESTION, k=2, exclude=[0])) == alone
    assert [len(d) for d in retriever.batch([QUESTION, "mail server"], k=1)] == [1, 1]
    with pytest.raises(TypeError, match="unknown: filter"):
        retriever.invoke(QUESTION, filter={})


def test_haystack_writes_and_reads_a_pipeline(predictor: Predictor) -> None:
    haystack = pytest.importorskip("haystack", reason="needs haystack-ai")
    from dexml.integrations.haystack import LabelRetriever

    pipeline = haystack.Pipeline()
    retriever = LabelRetriever(str(predictor.run.folder), top_k=2, passages={0: "A passage."})
    pipeline.add_component("retriever", retriever)
    again = haystack.Pipeline.loads(
        pipeline.dumps(), allowed_modules=["dexml.integrations.haystack"]
    )
    assert again.get_component("retriever").passages == {0: "A passage."}
    asked = {"retriever": {"query": QUESTION, "exclude": [1]}}
    assert again.run(asked) == pipeline.run(asked)
    assert len(again.run(asked)["retriever"]["documents"]) == 2


def test_llama_index_answers_from_the_labels(predictor: Predictor) -> None:
    """The retriever in a query engine, with the library's own stand-in for a model."""
    pytest.importorskip("llama_index.core", reason="needs llama-index-core")
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine

    from dexml.integrations.llama_index import LabelRetriever

    engine = RetrieverQueryEngine.from_args(LabelRetriever(predictor, k=2), llm=MockLLM())
    answer = engine.query(QUESTION)
    names = predictor.labels(predictor.predict([QUESTION], 2).ids)[0]
    assert [node.node.get_content() for node in answer.source_nodes] == names
