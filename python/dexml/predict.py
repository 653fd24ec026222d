"""Ask a trained run for labels.

python -m dexml.predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm import tqdm

from dexml import config, console, data
from dexml.data import Csr
from dexml.index import EXACT_BELOW, Found, LabelIndex, exact_search
from dexml.model import DualEncoder, with_bias_dimension
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
    def open(cls, folder: Path, *, search: str = "auto", device: str = "auto") -> Predictor:
        """Open a run directory.

        Args:
            folder: Made by `dexml.train`.
            search: ``exact``, ``hnsw`` (needs `dexml.index`), or ``auto``: exact below 50,000
                labels or without an index.
            device: Of the encoder.
        """
        run = Run.open(folder)
        vectors = run.load_array("label_emb")
        has_index = (folder / "index").is_dir()
        if search == "hnsw" and not has_index:
            raise FileNotFoundError(
                f"{folder / 'index'}: no index; run python -m dexml.index {folder}"
            )
        use_index = search == "hnsw" or (
            search == "auto" and has_index and len(vectors) >= EXACT_BELOW
        )
        index = LabelIndex.load(folder / "index", encoder=run.fingerprint()) if use_index else None
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        encoder = DualEncoder.load(str(folder / "encoder")).to(device).eval()
        return cls(run, encoder, vectors, index, run.label_texts())

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


def _blocks(texts: Iterator[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for text in texts:
        block.append(text.strip())
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
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
    if settings.out and suffix not in (".npz", ".jsonl"):
        console.usage_error(f"--out {settings.out}: the name must end in .npz or .jsonl")
    if settings.texts not in ("", "-") and not Path(settings.texts).is_file():
        raise FileNotFoundError(f"{settings.texts}: no such file; a text a line, or - for stdin")
    predictor = Predictor.open(settings.run, search=settings.search, device=settings.device)

    exclude = None
    source: Iterator[str]
    if settings.texts:
        total = None
        stream = (
            sys.stdin
            if settings.texts == "-"
            else Path(settings.texts).open(encoding="utf-8", newline="\n")
        )
        source = iter(stream)
    else:
        folder = settings.data or predictor.run.data_dir()
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: the data set is not there; name it with --data")
        part = data.load_part(folder, "tst", len(predictor.label_texts))
        exclude, total = part.exclude, len(part.texts)
        source = iter(part.texts)

    show = {".npz": None, ".jsonl": _as_json, "": _as_lines}[suffix]
    beside = settings.out.with_name(f".{settings.out.name}.{os.getpid()}") if settings.out else None
    output = beside.open("w", encoding="utf-8") if beside and show else sys.stdout
    found: list[Found] = []
    done = 0
    quiet = settings.quiet or (total is None and settings.out is None)
    try:
        with tqdm(total=total, desc="predict", unit="text", disable=quiet) as bar:
            for block in _blocks(source):
                pairs = None if exclude is None else exclude[done : done + len(block)]
                ids, scores = predictor.predict(block, settings.k, exclude=pairs)
                if show is None:
                    found.append((ids, scores))
                else:
                    for text, i, s in zip(block, ids, scores, strict=True):
                        print(show(predictor, text, i, s), file=output)
                done += len(block)
                bar.update(len(block))
        if settings.out and beside:
            if show is None:
                data.save_npz(settings.out, _as_csr(found, (done, len(predictor.label_texts))))
            else:
                output.close()
                os.replace(beside, settings.out)
    finally:
        if beside:
            beside.unlink(missing_ok=True)
    if settings.out:
        console.say(f"{done} texts, {settings.k} labels each: {settings.out}")


if __name__ == "__main__":
    raise SystemExit(console.run(main))
