"""How fast texts are encoded: sentence-transformers, dexml with torch, and dexml with OpenVINO.

    python benches/encode.py DATA_DIR [--encoder NAME_OR_FOLDER] [--threads 2] [--out FILE.json]

Real texts of a data set in the LF layout, cut at 64 and at 256 tokens, and one short text by
itself. All ways of encoding take turns, and the least time of several rounds counts, so that other
work on the machine meets all of them; quote the ratios, not the seconds. Cosines are against dexml
in float32. Needs the extra ``dev``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dexml.data import load_texts
from dexml.encoder import DualEncoder
from dexml.encoder.engine_export import converted
from dexml.encoder.engine_openvino import OpenVino, forms, processor, version
from dexml.encoder.pretrained import MINILM, find

TOKENS = {64: 128, 256: 32}
"""Texts that are encoded, by the number of tokens that they are cut at."""
SHORT_WORDS = 10
ROUNDS, CALLS = 5, 40

Way = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to vectors of unit length."""
Clock = Callable[[], float]


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--cpu", action="store_true", help="CPU seconds, for a busy machine; with --threads 1"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    if given.cpu and given.threads != 1:
        parser.error("--cpu: threads that wait for each other spend CPU time; give --threads 1")
    clock = time.process_time if given.cpu else time.perf_counter
    found = measured(
        given.data_dir,
        str(find(given.encoder)),
        clock,
        threads=given.threads,
        rounds=given.rounds,
    )
    kind = "CPU" if given.cpu else "wall"
    found = {"data": given.data_dir.name, "encoder": given.encoder, "clock": kind} | found
    print(as_table(found))
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measured(
    data_dir: Path, folder: str, clock: Clock, *, threads: int, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Time all ways on texts of a data set.

    Returns:
        ``batches`` by the number of tokens, and ``one``, by the number of threads: for each way
        ``texts_per_second`` or ``p50_ms``, its ratio ``times`` to sentence-transformers (for one
        text: to torch), and the mean and least ``cosine``.
    """
    texts = load_texts(data_dir / "raw" / "trn_X.txt")
    chosen = np.random.default_rng(0).permutation(len(texts))
    batches: dict[str, Any] = {}
    for max_tokens, n in TOKENS.items():
        some = [texts[i] for i in chosen[:n]]
        ways = _ways(folder, max_tokens, threads)
        batches[str(max_tokens)] = _in_turns(ways, some, clock, rounds)
    short = " ".join(next(t for t in texts if len(t.split()) >= SHORT_WORDS).split()[:SHORT_WORDS])
    one = {str(n): _alone(_ways(folder, 64, n), short, clock, CALLS) for n in sorted({1, threads})}
    return {
        "processor": processor(),
        "threads": threads,
        "openvino": version(),
        "python": platform.python_version(),
        "batches": batches,
        "one": one,
    }


def _ways(folder: str, max_tokens: int, threads: int) -> dict[str, Way]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    encoder = DualEncoder.load(folder).eval()
    peer = SentenceTransformer(folder, device="cpu")
    peer.max_seq_length = max_tokens
    engine = converted(encoder, threads=threads)

    def with_torch(precision: Any) -> Way:
        return lambda texts: encoder.encode(texts, max_tokens=max_tokens, precision=precision)

    def with_engine(engine: OpenVino) -> Way:
        return lambda texts: encoder.embed(engine.features(encoder.tokenize(texts, max_tokens)))

    return {
        "sentence-transformers": lambda texts: np.asarray(
            peer.encode(list(texts), normalize_embeddings=True), np.float32
        ),
        "torch, float32": with_torch("float32"),
        "torch, bfloat16": with_torch("bfloat16"),
        **{f"OpenVINO, {form}": with_engine(engine.with_form(form)) for form in forms()},
    }


def _in_turns(
    ways: dict[str, Way], texts: Sequence[str], clock: Clock, rounds: int
) -> dict[str, Any]:
    vectors = {name: way(texts) for name, way in ways.items()}
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            least[name] = min(least[name], _seconds(way, texts, clock))
    whole = vectors["torch, float32"]
    rows = {}
    for name in ways:
        cosines = (vectors[name] * whole).sum(axis=1)
        rows[name] = {
            "texts_per_second": round(len(texts) / least[name], 1),
            "times": round(least["sentence-transformers"] / least[name], 2),
            "cosine_mean": round(float(cosines.mean()), 5),
            "cosine_least": round(float(cosines.min()), 5),
        }
    return rows


def _alone(ways: dict[str, Way], text: str, clock: Clock, calls: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        _seconds(way, [text], clock)
    for _ in range(calls):
        for name, way in ways.items():
            taken[name].append(_seconds(way, [text], clock))
    p50 = {name: float(np.median(times)) for name, times in taken.items()}
    return {
        name: {
            "p50_ms": round(1000 * p50[name], 2),
            "least_ms": round(1000 * min(taken[name]), 2),
            "of_torch": round(p50[name] / p50["torch, float32"], 3),
        }
        for name in ways
    }


def _seconds(way: Way, texts: Sequence[str], clock: Clock) -> float:
    start = clock()
    way(texts)
    return clock() - start


def as_table(found: dict[str, Any]) -> str:
    """Lay out what was measured, as Markdown."""
    lines = [
        f"{found['data']}, {found['encoder']}, {found['threads']} threads, {found['clock']} "
        f"time, {found['processor']}",
        "",
        "| texts cut at | way | texts a second | times sentence-transformers "
        "| cosine, mean / least |",
        "|---|---|---|---|---|",
    ]
    for tokens, rows in found["batches"].items():
        for name, row in rows.items():
            lines.append(
                f"| {tokens} tokens | {name} | {row['texts_per_second']:.0f} | {row['times']:.2f} "
                f"| {row['cosine_mean']:.5f} / {row['cosine_least']:.5f} |"
            )
    lines += ["", "| one short text | way | p50, ms | of torch's time |", "|---|---|---|---|"]
    for threads, rows in found["one"].items():
        for name, row in rows.items():
            lines.append(
                f"| {threads} thread{'s' * (threads != '1')} | {name} | {row['p50_ms']:.1f} "
                f"| {row['of_torch']:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
