"""What lexical evidence costs, in a process of its own: bench_lexical.py starts it.

    python benches/lexical_cost.py build WHAT TEXTS  # index them by words; by all; rows kept
    python benches/lexical_cost.py serve RUN TEXTS   # open a run and ask it

Prints one JSON object. ``serve`` runs on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from peers.sparse import draw_titles

BATCH = 1024
BLOCK = 100_000
"""Titles that are turned into rows at a time."""
ONCE = 300
"""Texts that are asked one by one."""
ASKED = 10


def made_up_words(n: int, seed: int) -> list[str]:
    """Different words of one to five syllables; the first, which are the frequent ones, short."""
    generator = np.random.default_rng(seed)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "er", "an")]
    drawn = generator.integers(len(syllables), size=(4 * n, 5))
    lengths = generator.integers(1, 6, size=4 * n)
    words = {"".join(syllables[s] for s in row[:m]) for row, m in zip(drawn, lengths, strict=True)}
    return sorted(words, key=lambda word: (len(word) > 4, hash_of(word)))[:n]


def hash_of(word: str) -> int:
    """The same in every process, unlike `hash`."""
    return int.from_bytes(word.encode()[::-1], "big") * 0x9E3779B97F4A7C15 % (1 << 64)


def write_made_up(path: Path, n: int) -> None:
    """Write N titles, one a line."""
    titles = draw_titles(n, 1)
    words = made_up_words(titles.n_words, 0)
    with path.open("w", encoding="utf-8") as file:
        for row in titles.lists("title"):
            file.write(" ".join(words[word] for word in row) + "\n")


def build(what: str, texts: list[str]) -> dict[str, float]:
    """Build all that a search of texts needs; CPU seconds of each step, and wall seconds."""
    from dexml.scorers.lexicon import CHAR_WEIGHT, CHARS, WORDS
    from dexml.text.lexical import LexicalIndex, fit_vectorizer, join_rows

    seconds: dict[str, float] = {}
    started, wall = time.process_time(), time.perf_counter()

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - start
        return result

    words = timed("vocabulary of words", lambda: fit_vectorizer(texts, WORDS))
    pieces = None
    if what != "words":
        pieces = timed("vocabulary of characters", lambda: fit_vectorizer(texts, CHARS))

    def rows_of(some: list[str]) -> Any:
        rows = timed("rows of words", lambda: words.rows(some))
        if pieces is None:
            return rows
        chars = timed("rows of characters", lambda: pieces.rows(some))
        return timed("joined", lambda: join_rows([chars, rows], [CHAR_WEIGHT, 1.0]))

    if what == "kept":  # as a run that follows edits does: the index holds on to its rows
        index = timed("index", lambda: LexicalIndex(rows_of(texts)))
    else:
        n = len(texts)
        blocks = [rows_of(texts[first : first + BLOCK]) for first in range(0, n, BLOCK)]
        index = timed("index", lambda: LexicalIndex.of_blocks(blocks))
    seconds["all steps"] = time.process_time() - started
    seconds["wall"] = time.perf_counter() - wall
    seconds["values a title"] = index.core.n_postings / index.shape[0]
    return {name: round(value, 1) for name, value in seconds.items()}


def serve(run: Path, texts: list[str]) -> dict[str, float]:
    """Open a run, ask for one text at a time and for batches, with the ranker and without."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from dexml.predict import Predictor
    from dexml.scorers import Queries, Scorer
    from dexml.scorers.ranker import RankedScorer

    start, wall = time.process_time(), time.perf_counter()
    predictor = Predictor.open(run, threads=1)
    found = {
        "open, s": round(time.process_time() - start, 3),
        "open, s wall": round(time.perf_counter() - wall, 3),
    }
    scorer = predictor.scorer
    if not isinstance(scorer, RankedScorer) or scorer.network is None:
        raise SystemExit(f"error: {run}: a run without a ranker")
    asks: dict[str, Scorer] = {"ranked": scorer, "search alone": scorer.members[0]}
    for name, asked in asks.items():
        cpu, passed = [], []
        for text in texts[:ONCE]:
            start, wall = time.process_time(), time.perf_counter()
            asked.search(Queries([text]), ASKED)
            cpu.append(time.process_time() - start)
            passed.append(time.perf_counter() - wall)
        found[f"{name}: one text, ms, p50"] = round(1e3 * median(cpu), 2)
        found[f"{name}: one text, ms wall, p50"] = round(1e3 * median(passed), 2)
        start = time.process_time()
        n = 0
        for first in range(0, min(len(texts), 4 * BATCH), BATCH):
            n += len(asked.search(Queries(texts[first : first + BATCH]), ASKED)[0])
        found[f"{name}: in batches, ms a text"] = round(1e3 * (time.process_time() - start) / n, 3)
    for name in ("one text, ms, p50", "in batches, ms a text"):
        added = found[f"ranked: {name}"] - found[f"search alone: {name}"]
        found[f"ranking adds: {name}"] = round(added, 3)
    found["labels"] = predictor.n_labels
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    built = commands.add_parser("build")
    built.add_argument("what", choices=["words", "all", "kept"])
    built.add_argument("texts", type=Path)
    served = commands.add_parser("serve")
    served.add_argument("run", type=Path)
    served.add_argument("texts", type=Path)
    args = parser.parse_args()
    texts = args.texts.read_text(encoding="utf-8").splitlines()
    found = build(args.what, texts) if args.command == "build" else serve(args.run, texts)
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
