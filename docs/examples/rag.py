"""Answer questions from several documents, offline: topics as labels, pages as their passages.

    pip install 'dexml-xmc[langchain]'
    python docs/examples/rag.py "why does my laptop not wake up with the new driver?"

Old questions, each with the pages that answered it, train a light run in a second: a label is a
page, and a question may need several. A new question finds its pages, each of which has several
paragraphs. A model answers from those and names the pages. Here the model repeats its context; put
a chat model in its place.
"""

import argparse
import tempfile
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from dexml.data import from_table, save_dataset
from dexml.integrations.langchain import LabelRetriever
from dexml.predict import Predictor
from dexml.train import TrainSettings, train

PAGES = {
    "Suspend": [
        "Suspend keeps memory powered and stops everything else.",
        "A driver that does not answer in time keeps the machine from waking up.",
    ],
    "Drivers": [
        "A driver is loaded as a module and can be blacklisted by its name.",
        "Modules built for another kernel are refused when they are loaded.",
    ],
    "Printing": [
        "Queues are listed by lpstat, and cleared by cancel -a.",
        "A paused queue takes jobs and prints none.",
    ],
    "Network": [
        "An address is leased by DHCP unless it is set by hand.",
        "Without a route to the gateway only the local network is reached.",
    ],
}
ASKED = {
    ("laptop does not wake up after sleep", "sleep drains the battery", "resume hangs"): [
        "Suspend"
    ],
    ("module is not loaded", "blacklist a module", "new driver is refused"): ["Drivers"],
    ("graphics driver breaks sleep", "wake up fails since the driver changed"): [
        "Suspend",
        "Drivers",
    ],
    ("printer takes jobs and prints nothing", "clear the print queue"): ["Printing"],
    ("no address from the router", "only local machines answer", "set an address by hand"): [
        "Network"
    ],
    ("network printer is not found", "print over the network"): ["Printing", "Network"],
}


def trained(folder: Path) -> Predictor:
    """Train a light run on the questions that were answered."""
    rows = [(text, pages) for texts, pages in ASKED.items() for text in texts]
    table = {"text": [text for text, _ in rows], "labels": [pages for _, pages in rows]}
    found = from_table(table)
    save_dataset(folder / "data", found.label_texts, (found.train_texts, found.y_train))
    train(TrainSettings(data_dir=folder / "data", out=folder / "run", encoder="none", quiet=True))
    return Predictor.open(folder / "run")


def as_context(documents: list[Document]) -> str:
    """Return the passages with the pages they are from, for a prompt."""
    return "\n".join(f"[{d.metadata['label']}] {d.page_content}" for d in documents)


def offline_model(prompt: ChatPromptTemplate) -> str:
    """Stand in for a chat model: repeat the context."""
    return prompt.to_string().split("Context:\n")[1].split("\n\n")[0]


def answering(retriever: BaseRetriever, model: Runnable | None = None) -> Runnable[str, str]:
    """Chain a retriever, a prompt and a model: a question in, an answer out."""
    prompt = ChatPromptTemplate.from_template(
        "Answer from the context alone, and name the pages that you use.\n\n"
        "Context:\n{context}\n\nQuestion: {question}"
    )
    inputs = {"context": retriever | as_context, "question": RunnablePassthrough()}
    return inputs | prompt | (model or RunnableLambda(offline_model)) | StrOutputParser()


def main(argv: list[str] | None = None) -> str:
    """Train, and answer one question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("question")
    parser.add_argument("-k", type=int, default=2, help="pages to answer from")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        predictor = trained(Path(folder))
        passages = {i: PAGES[page] for i, page in enumerate(predictor.label_texts)}
        retriever = LabelRetriever(predictor=predictor, k=arguments.k, passages=passages)
        answer = answering(retriever).invoke(arguments.question)
    print(answer)
    return answer


if __name__ == "__main__":
    main()
