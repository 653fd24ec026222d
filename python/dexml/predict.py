"""Ask a trained run for labels.

python -m dexml.predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]
"""

from __future__ import annotations

import dexml.extras  # noqa: F401

# isort: split
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm import tqdm

from dexml import config, console, data
from dexml.data import Csr
from dexml.files import replacing
from dexml.index import EXACT_TEST_UP_TO, EXACT_UP_TO, Found, LabelIndex, exact_search
from dexml.model import DualEncoder, torch_device, with_bias_dimension
from dexml.rundir import Run

BLOCK = 4096
"""Texts encoded and searched at a time: memory does not grow with the input."""


@dataclass(frozen=True)
class Predictor:
    """A run opened once, to be asked many times."""

    run: Run
    encoder: DualEncoder
    vectors: NDArray[np.float32]
    index: LabelIndex | None
    label_texts: list[str]

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        search: str = "auto",
        device: str = "auto",
        exact_up_to: int = EXACT_UP_TO,
    ) -> Predictor:
        """Open a run directory.

        Args:
            folder: Made by `dexml.train`.
            search: ``exact``, ``hnsw`` (needs `dexml.index`), or ``auto``: exact up to
                `exact_up_to` labels or without an index.
            device: Of the encoder.
            exact_up_to: Labels up to which ``auto`` compares all of them.
        """
        run = Run.open(folder)
        n_labels = run.info["n_labels"]
        has_index = (folder / "index").is_dir()
        if search == "hnsw" and not has_index:
            raise FileNotFoundError(
                f"{folder / 'index'}: no index; run python -m dexml.index {folder}"
            )
        use_index = search == "hnsw" or (search == "auto" and has_index and n_labels > exact_up_to)
        index = LabelIndex.load(folder / "index", encoder=run.fingerprint()) if use_index else None
        vectors = index.vectors if index else run.load_array("label_emb")
        target = torch_device(device)
        encoder = DualEncoder.load(str(folder / "encoder")).to(target).eval()
        return cls(run, encoder, vectors, index, run.label_texts())

    def search_note(self) -> str:
        """Say how labels are searched, and how well."""
        if self.index is None:
            return f"exact, {len(self.vectors)} labels"
        made = self.index.manifest
        return (
            f"HNSW, {made.n_labels} labels, recall@{made.recall_k} {made.recall:.4f} against exact "
            "search when it was built (--search exact compares all)"
        )

    def predict(self, texts: Sequence[str], k: int = 10, *, exclude: Csr | None = None) -> Found:
        """Find the k best labels of each text.

        Args:
            texts: Points.
            k: Labels a text.
            exclude: Pairs (text, label) to leave out, shape (n, n_labels); k labels remain.

        Returns:
            ``ids`` int32 and ``scores`` float32, (n, k), best first, padded with -1 and -inf.
            A score is the cosine plus the label's bias (times the temperature).
        """
        embedded = self.encoder.encode(texts, max_tokens=self.run.info["point_tokens"])
        queries = with_bias_dimension(embedded)
        if self.index is not None:
            return self.index.search(queries, k, exclude=exclude)
        return exact_search(queries, self.vectors, k, exclude=exclude)


def _test_part(settings: config.PredictSettings, predictor: Predictor) -> data.Part:
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
    settings = config.parse(config.PredictSettings, argv, "python -m dexml.predict")
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
