"""Retrieval-augmented question answering over the labels of a run, with LangChain.

    pip install 'dexml-xmc[langchain]'
    python docs/examples/retriever.py RUN "Juvenile myopathy with cataract and deafness"

The documents are labels. What a label stands for (a product, a page, several pages) is given as
`passages` to the retriever: docs/examples/rag.py does it.

The language model below repeats its context, so that the example runs offline. Replace it by a chat
model.
"""

import argparse
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from dexml.integrations.langchain import LabelRetriever
from dexml.predict import Predictor


def as_context(documents: list[Document]) -> str:
    """Return the documents as a numbered list for a prompt."""
    return "\n".join(f"[{n}] {d.page_content}" for n, d in enumerate(documents, start=1))


def offline_model(prompt: Any) -> str:
    """Stand in for a chat model: repeat the context."""
    return "From the context:\n" + prompt.to_string().split("Context:\n")[1].split("\n\n")[0]


def answering(retriever: BaseRetriever, model: Any = offline_model) -> Runnable[str, str]:
    """Chain a retriever, a prompt and a model: a question in, an answer out."""
    prompt = ChatPromptTemplate.from_template(
        "Answer from the context alone, with the numbers of what you use.\n\n"
        "Context:\n{context}\n\nQuestion: {question}"
    )
    llm = model if isinstance(model, Runnable) else RunnableLambda(model)
    inputs = {"context": retriever | as_context, "question": RunnablePassthrough()}
    return inputs | prompt | llm | StrOutputParser()


def main(argv: list[str] | None = None) -> str:
    """Ask a run one question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("question")
    parser.add_argument("-k", type=int, default=5)
    arguments = parser.parse_args(argv)
    retriever = LabelRetriever(predictor=Predictor.open(arguments.run), k=arguments.k)
    answer = answering(retriever).invoke(arguments.question)
    print(answer)
    return answer


if __name__ == "__main__":
    main()
