"""The command: python -m dexml.predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg
from scipy.sparse import csr_array
from tqdm import tqdm

from dexml import config, console, data
from dexml.config import Settings
from dexml.data import Csr
from dexml.files import replacing
from dexml.index import EXACT_TEST_UP_TO, EXACT_UP_TO, Found
from dexml.predict import Predictor

BLOCK = 4096
"""Texts encoded and searched at a time: memory does not grow with the input."""


class PredictSettings(Settings):
    """Ask a run for the labels of texts; without TEXTS: the test points of its data set."""

    run: CliPositionalArg[Path] = Field(description="run directory of dexml.train")
    texts: CliPositionalArg[str] = Field("", description="a file with a text a line; - for stdin")
    k: int = Field(10, ge=1, description="labels a text")
    out: Path | None = Field(None, description="write .npz (CSR scores) or .jsonl, not a table")
    data: Path | None = Field(None, description="data set, if it moved since the training")
    search: Literal["auto", "exact", "hnsw"] = Field(
        "auto", description="auto: exact up to 50,000 labels (131,072 for test points)"
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto takes CUDA if it is there")


def _test_part(settings: PredictSettings, predictor: Predictor) -> data.Part:
    """The test points of the run's data set."""
    folder = settings.data or predictor.run.data_dir()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: the data set is not there; name it with --data")
    return data.load_part(folder, "tst", len(predictor.label_texts))


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while block := list(islice(iterator, size)):
        yield block


def _as_json(
    predictor: Predictor, text: str, ids: NDArray[np.int32], scores: NDArray[np.float32]
) -> str:
    labels = [
        {"id": int(i), "text": predictor.label_texts[i], "score": float(s)}
        for i, s in zip(ids, scores, strict=True)
        if i >= 0
    ]
    return json.dumps({"text": text, "labels": labels}, ensure_ascii=False)


def _as_lines(
    predictor: Predictor, text: str, ids: NDArray[np.int32], scores: NDArray[np.float32]
) -> str:
    lines = [text]
    for i, s in zip(ids, scores, strict=True):
        if i >= 0:
            lines.append(f"  {s:7.3f}  {predictor.label_texts[i]}")
    return "\n".join(lines)


def _as_csr(found: list[Found], shape: tuple[int, int]) -> Csr:
    """Scores as CSR, canonical: ids ascending within a row (the scores hold the ranking)."""
    ids = np.concatenate([f[0] for f in found]) if found else np.zeros((0, 1), np.int32)
    scores = np.concatenate([f[1] for f in found]) if found else np.zeros((0, 1), np.float32)
    kept = ids >= 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    y: Csr = csr_array((scores[kept], ids[kept], indptr), shape=shape)
    y.sort_indices()
    return y


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.predict``."""
    settings = config.parse(PredictSettings, argv, "python -m dexml.predict")
    suffix = settings.out.suffix if settings.out else ""
    if suffix not in ("", ".npz", ".jsonl") or (settings.out and not suffix):
        console.usage_error(f"--out {settings.out}: the name must end in .npz or .jsonl")
    if settings.texts not in ("", "-") and not Path(settings.texts).is_file():
        raise FileNotFoundError(f"{settings.texts}: no such file; a text a line, or - for stdin")
    if settings.out and not settings.out.parent.is_dir():
        raise FileNotFoundError(f"{settings.out}: the folder {settings.out.parent} is not there")
    # Test points are asked once, and their scores are compared: there exact search is worth more.
    exact_up_to = EXACT_UP_TO if settings.texts else EXACT_TEST_UP_TO
    predictor = Predictor.open(
        settings.run, search=settings.search, device=settings.device, exact_up_to=exact_up_to
    )
    if not settings.quiet:
        console.say(f"search: {predictor.search_note()}")

    with ExitStack() as stack:
        texts: Iterable[str]
        exclude, total = None, None
        size = BLOCK
        if settings.texts == "-":
            # A person who types wants an answer to each line.
            size = 1 if sys.stdin.isatty() else BLOCK
            texts = data.lines(sys.stdin.buffer, "stdin")
        elif settings.texts:
            stream = stack.enter_context(Path(settings.texts).open("rb"))
            texts = data.lines(stream, settings.texts)
        else:
            part = _test_part(settings, predictor)
            texts, exclude, total = part.texts, part.exclude, len(part.texts)

        show = _as_json if suffix == ".jsonl" else _as_lines
        output: TextIO = sys.stdout
        if settings.out and suffix == ".jsonl":
            beside = stack.enter_context(replacing(settings.out))
            output = stack.enter_context(beside.open("w", encoding="utf-8", newline="\n"))
        found: list[Found] = []
        done = 0
        bar = stack.enter_context(
            tqdm(total=total, desc="predict", unit="text", disable=settings.quiet or not suffix)
        )
        for block in _blocks(texts, size):
            pairs = None if exclude is None else exclude[done : done + len(block)]
            ids, scores = predictor.predict(block, settings.k, exclude=pairs)
            if suffix == ".npz":
                found.append((ids, scores))
            else:
                for text, row_ids, row_scores in zip(block, ids, scores, strict=True):
                    print(show(predictor, text, row_ids, row_scores), file=output)
            done += len(block)
            bar.update(len(block))
        if settings.out and suffix == ".npz":
            data.save_scores(settings.out, _as_csr(found, (done, len(predictor.label_texts))))
    if settings.out and not settings.quiet:
        console.say(f"{done} texts, {settings.k} labels each: {settings.out}")


if __name__ == "__main__":
    raise SystemExit(console.run(main))
