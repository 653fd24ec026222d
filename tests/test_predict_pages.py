"""The serving page and the retriever example run."""

import asyncio
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import warm
from dexml.predict import Predictor

ROOT = Path(__file__).parents[1]


def load_example() -> ModuleType:
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    path = ROOT / "docs" / "examples" / "retriever.py"
    spec = importlib.util.spec_from_file_location("retriever", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["retriever"] = module  # pydantic looks its annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_example()


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    return Predictor.open(run_dir, threads=1)


def test_the_retriever_gives_the_predictors_labels(
    example: ModuleType, predictor: Predictor
) -> None:
    retriever = example.LabelRetriever(predictor=predictor, k=3, passages={})
    documents = retriever.invoke("kernel driver a")
    ids, scores = predictor.predict(["kernel driver a"], 3)
    assert [d.metadata["label_id"] for d in documents] == ids[0].tolist()
    assert [d.metadata["score"] for d in documents] == scores[0].tolist()
    assert [d.page_content for d in documents] == predictor.labels(ids)[0]


def test_groups_passages_and_a_least_score(example: ModuleType, predictor: Predictor) -> None:
    best = int(predictor.predict(["font parser"], 1).ids[0, 0])
    retriever = example.LabelRetriever(
        predictor=predictor, k=3, passages={best: "A passage."}, only=[best, 3]
    )
    documents = retriever.invoke("font parser")
    assert {d.metadata["label_id"] for d in documents} == {best, 3}
    assert documents[0].page_content == "A passage."
    none = example.LabelRetriever(predictor=predictor, min_score=1e9)
    assert none.invoke("font parser") == []


def test_the_chain_answers_alone_in_batches_and_async(
    example: ModuleType, predictor: Predictor
) -> None:
    chain = example.answering(example.LabelRetriever(predictor=predictor, k=2))
    questions = ["kernel driver", "mail server", "game theme"]
    one_by_one = [chain.invoke(question) for question in questions]
    for question, answer in zip(questions, one_by_one, strict=True):
        names = predictor.labels(predictor.predict([question], 2).ids)[0]
        assert answer == f"From the context:\n[1] {names[0]}\n[2] {names[1]}"
    assert chain.batch(questions) == one_by_one  # in threads
    assert asyncio.run(chain.ainvoke(questions[0])) == one_by_one[0]


def test_a_chat_model_takes_the_place_of_the_stand_in(
    example: ModuleType, predictor: Predictor
) -> None:
    models = importlib.import_module("langchain_core.language_models")
    chain = example.answering(
        example.LabelRetriever(predictor=predictor),
        models.FakeListChatModel(responses=["forty-two"]),
    )
    assert chain.invoke("mail server") == "forty-two"


def test_the_example_runs_as_a_script(run_dir: Path) -> None:
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    path = ROOT / "docs" / "examples" / "retriever.py"
    done = warm.run_code(path.read_text(), run_dir, "mail server", "-k", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("From the context:\n[1] ")


def test_questions_are_answered_from_several_documents() -> None:
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    path = ROOT / "docs" / "examples" / "rag.py"
    done = warm.run_code(path.read_text(), "printer on the network prints nothing")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert {line.split("]")[0] for line in lines} == {"[Printing", "[Network"}


def test_latency_is_measured(run_dir: Path) -> None:
    path = ROOT / "docs" / "examples" / "latency.py"
    done = warm.run_code(path.read_text(), run_dir, "--n", "5")
    assert done.returncode == 0, done.stderr
    for part in ("import ", "open ", "first call ", "one text, p99 ", "5 texts at once: "):
        assert part in done.stdout


def test_the_serving_page_runs(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a small run in the place of the demo's."""
    copy = shutil.copytree(run_dir, tmp_path / "run")
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert examples
    for example in examples:
        assert len(example.splitlines()) <= 36
        assert "runs/demo/run" in example
        exec(example.replace("runs/demo/run", str(copy)), {})
    again = Predictor.open(copy)  # as saved
    assert (again.n_labels, again.label_texts[64]) == (66, "mitochondrial myopathy")
    assert 65 not in again.predict(["adult-onset hearing loss"], 66).ids
    assert "mitochondrial" in capsys.readouterr().out
