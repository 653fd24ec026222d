"""Lexical features against scikit-learn and scipy, side by side in one run.

    python benches/bench_lexical.py DATA [--out benches/results/lexical.json]

DATA is a folder in the LF layout with `raw/trn_X.txt`, `raw/tst_X.txt` and `Y.trn.npz`. CPU seconds
on one thread. Words are cut by our tokenizer and by scikit-learn's pattern, so the vocabularies
differ a little; the search is over our rows on both sides, and its scores are compared.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz
from sklearn.feature_extraction.text import TfidfVectorizer

from dexml.text.lexical import (
    LexicalIndex,
    Vectorizer,
    VectorizerSettings,
    fit_vectorizer,
    join_rows,
    label_centroids,
    neighbour_votes,
    pair_scores,
)

K = 50


def timed(report: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    start = time.process_time()
    result = call()
    report[name] = round(time.process_time() - start, 3)
    print(f"{name:50} {report[name]:9.3f} s", flush=True)
    return result


def fitted(texts: list[str], settings: VectorizerSettings) -> tuple[Vectorizer, csr_array]:
    vectorizer = fit_vectorizer(texts, settings, num_threads=1)
    return vectorizer, vectorizer.rows(texts, num_threads=1)


def scipy_search(
    queries: csr_array, rows: csr_array, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Multiply blocks of queries and cut each dense row."""
    ids, scores = [], []
    columns = rows.T.tocsr()
    for first in range(0, queries.shape[0], 256):
        block = (queries[first : first + 256] @ columns).toarray()
        best = np.argpartition(-block, k, axis=1)[:, :k]
        values = np.take_along_axis(block, best, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        ids.append(np.take_along_axis(best, order, 1))
        scores.append(np.take_along_axis(values, order, 1))
    return np.concatenate(ids), np.concatenate(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    texts = (arguments.data / "raw" / "trn_X.txt").read_text(encoding="utf-8").splitlines()
    test = (arguments.data / "raw" / "tst_X.txt").read_text(encoding="utf-8").splitlines()
    y = csr_array(load_npz(arguments.data / "Y.trn.npz"))
    seconds: dict[str, float] = {}
    cases = [
        ("words", "word", (1, 2), r"(?u)\b\w+\b", None),
        ("chars", "char_wb", (2, 5), None, 80),
    ]
    kept: dict[str, tuple[csr_array, csr_array]] = {}
    for grams, analyzer, sizes, pattern, max_chars in cases:
        settings = VectorizerSettings(
            grams=grams,  # type: ignore[arg-type]
            sizes=sizes,
            max_chars=max_chars,
        )
        call = partial(fitted, texts, settings)
        vectorizer, rows = timed(seconds, f"{grams}: fit and rows", call)
        peer = TfidfVectorizer(
            analyzer=analyzer,
            ngram_range=sizes,
            token_pattern=pattern,
            sublinear_tf=True,
            dtype=np.float32,
        )
        short = [text[:max_chars] for text in texts]
        timed(seconds, f"{grams}: fit and rows, scikit-learn", partial(peer.fit_transform, short))
        kept[grams] = rows, vectorizer.rows(test)
        print(f"{grams}: {rows.shape[1]} tokens, {rows.nnz / rows.shape[0]:.0f} a text")

    both = [join_rows([kept["words"][at], kept["chars"][at]], [1, 0.7]) for at in range(2)]
    kept["both"] = both[0], both[1]
    for name, (rows, queries) in kept.items():
        index = timed(seconds, f"{name}: index", partial(LexicalIndex, rows, num_threads=1))
        _, scores = timed(
            seconds, f"{name}: search", partial(index.search, queries, K, num_threads=1)
        )
        product = partial(scipy_search, queries, rows, K)
        _, expected = timed(seconds, f"{name}: search, scipy", product)
        np.testing.assert_allclose(np.maximum(scores, 0), expected, atol=1e-5)

    rows, queries = kept["both"]
    ids, scores = LexicalIndex(rows).search(queries, K)
    centroids = timed(seconds, "centroids", partial(label_centroids, rows, y, num_threads=1))
    by_label = LexicalIndex(centroids)
    timed(seconds, "centroids: search of 60", partial(by_label.search, queries, 60, num_threads=1))
    timed(
        seconds,
        f"scores of {ids.size} pairs",
        partial(pair_scores, queries, rows, ids, num_threads=1),
    )
    timed(seconds, "votes", partial(neighbour_votes, ids, scores, y, num_threads=1))
    if arguments.out:
        report = {
            "data": arguments.data.name,
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "seconds": seconds,
        }
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
