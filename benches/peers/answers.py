"""Other tools answer the test texts of a data set, in this interpreter: quality.py starts it.

    python -m peers.answers probe
    python -m peers.answers run NAME FOLDER

FOLDER holds what `write_question` wrote; the answer is written beside it. Needs numpy, scipy and
the tool. Everything runs in one thread as far as the tool can be told.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, load_npz, save_npz


@dataclass(frozen=True)
class Question:
    """What is asked: labels for the test texts."""

    train_texts: Sequence[str]
    test_texts: Sequence[str]
    label_texts: Sequence[str]
    y: csr_matrix
    """Labels of the training texts, float32 ones."""
    k: int
    """Labels a text: 100, and as many more as filter pairs may take away."""
    seed: int
    options: dict[str, Any]
    """Of the encoders: encoder, cache, budget, mnrl_lr."""
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds of each part, as they are done."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = round(time.process_time() - start, 2)


@dataclass(frozen=True)
class Answer:
    ids: NDArray[np.int32]
    """Best first, shape (n, k), padded with -1."""
    scores: NDArray[np.float32]
    command: str
    """The settings, as the page shows them."""


def tfidf(question: Question, pairs: bool) -> tuple[csr_matrix, csr_matrix, str]:
    """Rows of the training and test texts; words of the training texts alone.

    scikit-learn's words (lower case, of two characters or more) without English stop words, or
    these and pairs of them; 1 + ln tf, smooth idf, unit rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    settings: dict[str, Any] = {"sublinear_tf": True, "stop_words": "english"}
    if pairs:
        settings |= {"ngram_range": (1, 2), "min_df": 2}
    with question.part("tf-idf"):
        vectorizer = TfidfVectorizer(dtype=np.float32, **settings)
        train = vectorizer.fit_transform(question.train_texts)
        test = vectorizer.transform(question.test_texts)
    rows = []
    for matrix in (train, test):
        row = csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        row.sort_indices()
        rows.append(row)
    said = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return rows[0], rows[1], f"TfidfVectorizer({said})"


def omikuji(question: Question, pairs: bool = False) -> Answer:
    """Parabel with three trees: the defaults of Omikuji, through its Python package."""
    from omikuji import Model
    from sklearn.datasets import dump_svmlight_file

    train, test, said = tfidf(question, pairs)
    path = question.folder / "train.svm"
    with question.part("write"):
        filled = np.flatnonzero(np.diff(train.indptr))
        with path.open("wb") as file:
            sizes = (len(filled), train.shape[1], question.y.shape[1])
            file.write(" ".join(map(str, sizes)).encode() + b"\n")
            dump_svmlight_file(train[filled], question.y[filled], file, multilabel=True)
    with question.part("train"):
        settings = Model.default_hyper_param()
        model = Model.train_on_data(str(path), settings, 1)
    path.unlink()
    ids, scores = _empty(question)
    with question.part("predict"):
        for row, (first, last) in enumerate(zip(test.indptr, test.indptr[1:], strict=False)):
            weights = zip(
                test.indices[first:last].tolist(), test.data[first:last].tolist(), strict=True
            )
            for at, (label, score) in enumerate(model.predict(list(weights), top_k=question.k)):
                ids[row, at], scores[row, at] = label, score
    command = f"{said}; omikuji.Model.train_on_data with default_hyper_param() "
    return Answer(
        ids, scores, command + f"({settings.n_trees} trees), predict(beam_size=10), no seed"
    )


def pecos(question: Question, pairs: bool = False) -> Answer:
    """PECOS XR-Linear with its defaults: PIFA, hierarchical k-means, teacher-forced negatives."""
    from pecos.xmc import Indexer, LabelEmbeddingFactory
    from pecos.xmc.xlinear import XLinearModel

    train, test, said = tfidf(question, pairs)
    with question.part("train"):
        embeddings = LabelEmbeddingFactory.create(question.y, train, method="pifa", threads=1)
        clusters = Indexer.gen(embeddings, threads=1, seed=question.seed)
        model = XLinearModel.train(train, question.y, C=clusters, threads=1)
    with question.part("predict"):
        found = model.predict(test, only_topk=question.k, threads=1)
    ids, scores = _empty(question)
    for row, (first, last) in enumerate(zip(found.indptr, found.indptr[1:], strict=False)):
        order = np.argsort(-found.data[first:last], kind="stable")[: question.k]
        ids[row, : len(order)] = found.indices[first:last][order]
        scores[row, : len(order)] = found.data[first:last][order]
    command = f"{said}; pecos: LabelEmbeddingFactory.create(method='pifa'), Indexer.gen, "
    return Answer(ids, scores, command + "XLinearModel.train, predict(only_topk), defaults")


def bm25(question: Question) -> Answer:
    """Search the label texts by the words of the text; no training text is looked at."""
    import bm25s

    def words(texts: Sequence[str]) -> Any:
        return bm25s.tokenize(list(texts), show_progress=False)

    with question.part("index"):
        index = bm25s.BM25()
        index.index(words(question.label_texts), show_progress=False)
    ids, scores = _empty(question)
    with question.part("search"):
        k = min(question.k, len(question.label_texts))
        found, values = index.retrieve(words(question.test_texts), k=k, show_progress=False)
    # It fills up with labels that share no word with the text.
    ids[:, :k] = np.where(values > 0, found, -1)
    scores[:, :k] = np.where(values > 0, values, -np.inf)
    command = "bm25s.BM25() over the label texts, bm25s.tokenize (English stop words left out)"
    return Answer(ids, scores, command)


def zero_shot(question: Question) -> Answer:
    """The encoder as it is: cosine of point and label text."""
    from dexml.encoder import DualEncoder, Side
    from dexml.index import exact_search
    from dexml.train.features import cached_features

    encoder = DualEncoder.load(question.options["encoder"])
    cache = Path(question.options["cache"])
    sides: list[tuple[Sequence[str], Side]] = [
        (question.label_texts, "label"),
        (question.test_texts, "point"),
    ]
    with question.part("encode"):
        labels, points = (
            cached_features(
                encoder,
                encoder.tokenize(list(texts), 64, side=side),
                cache,
                desc="encode",
                progress=True,
            )
            for texts, side in sides
        )
    with question.part("search"):
        ids, scores = exact_search(points, labels, min(question.k, len(labels)), progress=True)
    return Answer(ids, scores, "exact search with the encoder as is")


def mnrl(question: Question) -> Answer:
    """MultipleNegativesRankingLoss of sentence-transformers: the whole encoder, a time budget.

    Pairs (point, one of its positives), batches of 64 without equal labels, AdamW 2e-5 (its
    trainer's usual rate; 5e-5 is tried by ``--mnrl-lr``), linear warm-up over the first tenth and
    fall to 0 over the budget.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    from dexml import console
    from dexml.encoder.pretrained import find
    from dexml.index import exact_search

    rate, budget = question.options["mnrl_lr"], question.options["budget"]
    model = SentenceTransformer(str(find(question.options["encoder"])), device="cpu")
    model.max_seq_length = 64
    loss = MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    generator = np.random.default_rng(question.seed)
    torch.manual_seed(question.seed)
    y = question.y
    filled = np.flatnonzero(np.diff(y.indptr))
    start = time.process_time()
    steps = 0
    model.train()
    while (spent := (time.process_time() - start) / budget) < 1:
        chosen: dict[int, int] = {}
        for row in generator.permutation(filled)[:256]:
            label = int(generator.choice(y.indices[y.indptr[row] : y.indptr[row + 1]]))
            chosen.setdefault(label, int(row))
            if len(chosen) == 64:
                break
        sides = (
            [question.train_texts[row] for row in chosen.values()],
            [question.label_texts[label] for label in chosen],
        )
        features = [model.preprocess(side) for side in sides]
        for group in optimizer.param_groups:
            group["lr"] = rate * min(10 * spent + 0.01, (1 - spent) / 0.9)
        value = loss(features, torch.zeros(len(chosen)))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            console.say(f"mnrl: step {steps}, {100 * spent:.0f} %, loss {float(value):.3f}")
    model.eval()
    labels, points = (
        model.encode(
            list(texts), batch_size=128, show_progress_bar=False, normalize_embeddings=True
        ).astype(np.float32)
        for texts in (question.label_texts, question.test_texts)
    )
    ids, scores = exact_search(points, labels, min(question.k, len(labels)))
    command = f"MultipleNegativesRankingLoss, lr {rate:g}, {steps} steps of 64, {budget:.0f} CPU s"
    return Answer(ids, scores, command)


def _empty(question: Question) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    shape = (len(question.test_texts), question.k)
    return np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32)


@dataclass(frozen=True)
class Tool:
    answer: Callable[[Question], Answer]
    needs: tuple[str, ...]
    """Packages; the first names the tool, the versions of all are kept with the row."""
    encoder: bool = False
    """Whether it reads texts with the encoder."""
    seeded: bool = True
    """Whether another run, or another seed, may answer otherwise."""


TOOLS = {
    "omikuji": Tool(omikuji, ("omikuji", "sklearn")),
    "omikuji, pairs": Tool(partial(omikuji, pairs=True), ("omikuji", "sklearn")),
    "pecos": Tool(pecos, ("pecos", "sklearn")),
    "pecos, pairs": Tool(partial(pecos, pairs=True), ("pecos", "sklearn")),
    "bm25": Tool(bm25, ("bm25s",), seeded=False),
    "zero-shot": Tool(zero_shot, ("torch", "dexml"), encoder=True, seeded=False),
    "mnrl": Tool(mnrl, ("sentence_transformers", "torch"), encoder=True),
}
"""Rows of ``quality.py`` that other tools answer. Pairs: of words, as features beside the words."""


def write_question(
    folder: Path,
    texts: Mapping[str, Sequence[str]],
    y: Any,
    *,
    k: int,
    seed: int,
    options: dict[str, Any],
) -> None:
    """Write the files of a question: what `read_question` reads."""
    for name, values in texts.items():
        (folder / f"{name}.json").write_text(json.dumps(list(values)), encoding="utf-8")
    save_npz(folder / "y.npz", csr_matrix(y), compressed=False)
    asked = {"k": k, "seed": seed, "options": options}
    (folder / "question.json").write_text(json.dumps(asked), encoding="utf-8")


def read_question(folder: Path) -> Question:
    def read(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    return Question(
        train_texts=read("train_texts"),
        test_texts=read("test_texts"),
        label_texts=read("label_texts"),
        y=csr_matrix(load_npz(folder / "y.npz"), dtype=np.float32),
        folder=folder,
        **read("question"),
    )


def probe() -> dict[str, dict[str, str]]:
    """Versions of the packages of each tool that this interpreter has all packages for."""
    from peers.worker import available, version_of

    found = {}
    for name, tool in TOOLS.items():
        if all(available(needs) for needs in tool.needs):
            versions = {needs: version_of(needs) for needs in tool.needs}
            found[name] = versions | {"python": platform.python_version()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("probe")
    run = commands.add_parser("run")
    run.add_argument("name", choices=TOOLS)
    run.add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "probe":
        print("\n" + json.dumps(probe()), flush=True)
        return
    question = read_question(args.folder)
    answer = TOOLS[args.name].answer(question)
    np.savez(args.folder / "answer.npz", ids=answer.ids, scores=answer.scores)
    said = {"command": answer.command, "parts": question.seconds}
    (args.folder / "answer.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
