"""Exact search of short texts by their words, in this interpreter: bench_lexical.py starts it.

    python -m peers.sparse probe
    python -m peers.sparse run NAME FOLDER

All tools rank by BM25 (k1 1.2, b 0.75, idf ln(1 + (n - df + 0.5) / (df + 0.5))), one as a search
engine does, the others as products of sparse rows, so that all must find the same scores. FOLDER
holds what `write_titles` wrote; the scores are written beside it. One thread, whatever a tool has.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

K = 50
K1, B = 1.2, 0.75
FIELDS = ("title_indptr", "title_words", "query_indptr", "query_words")


@dataclass(frozen=True)
class Titles:
    """Texts as numbers of their words: text i has the words ``indptr[i]:indptr[i + 1]``."""

    title_indptr: NDArray[np.int64]
    title_words: NDArray[np.int32]
    query_indptr: NDArray[np.int64]
    query_words: NDArray[np.int32]
    """No word twice in a query."""
    n_words: int

    def counts(self) -> csr_array:
        ones = np.ones(len(self.title_words), np.float32)
        shape = (len(self.title_indptr) - 1, self.n_words)
        counts = csr_array((ones, self.title_words, self.title_indptr), shape=shape, copy=True)
        counts.sum_duplicates()
        return counts

    def queries(self) -> csr_array:
        ones = np.ones(len(self.query_words), np.float32)
        shape = (len(self.query_indptr) - 1, self.n_words)
        queries = csr_array((ones, self.query_words, self.query_indptr), shape=shape, copy=True)
        queries.sort_indices()
        return queries

    def lists(self, part: str) -> list[list[int]]:
        indptr, words = getattr(self, f"{part}_indptr"), getattr(self, f"{part}_words")
        return [row.tolist() for row in np.split(words, indptr[1:-1])]


def draw_titles(n_titles: int, n_queries: int, *, n_words: int = 300_000, seed: int = 0) -> Titles:
    """Titles of 1 to 20 words (7 on average), whose frequencies fall as Zipf's law says."""
    generator = np.random.default_rng(seed)
    shares = np.cumsum(1 / np.arange(1, n_words + 1))
    shares /= shares[-1]

    def draw(n: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        lengths = np.clip(1 + generator.poisson(6, n), 1, 20)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        words = np.searchsorted(shares, generator.random(indptr[-1]))
        return indptr.astype(np.int64), np.minimum(words, n_words - 1).astype(np.int32)

    titles, queries = draw(n_titles), draw(n_queries)
    once = [np.unique(row) for row in np.split(queries[1], queries[0][1:-1])]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in once])])
    return Titles(*titles, indptr.astype(np.int64), np.concatenate(once), n_words)


def write_titles(path: Path, titles: Titles) -> None:
    """Write them as `read_titles` reads them."""
    np.savez(path, n_words=titles.n_words, **{name: getattr(titles, name) for name in FIELDS})


def read_titles(path: Path) -> Titles:
    with np.load(path, allow_pickle=False) as arrays:
        fields = {name: arrays[name] for name in FIELDS}
        return Titles(n_words=int(arrays["n_words"]), **fields)


def bm25_rows(counts: csr_array) -> csr_array:
    """The weight of each word in each text: the score of a query is a sum of them."""
    n = counts.shape[0]
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    df = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log(1 + (n - df + 0.5) / (df + 0.5))
    norm = K1 * (1 - B + B * lengths / lengths.mean())
    of_row = np.repeat(norm, np.diff(counts.indptr))
    tf = counts.data.astype(np.float64)
    weights = (idf[counts.indices] * tf / (tf + of_row)).astype(np.float32)
    return csr_array((weights, counts.indices, counts.indptr), shape=counts.shape)


Search = Callable[[], NDArray[np.float32]]
"""Searches all queries; returns scores (n_queries, K), best first, 0 where there is nothing."""


def dexml(titles: Titles) -> Callable[[], Search]:
    from dexml.text.lexical import LexicalIndex

    rows, queries = bm25_rows(titles.counts()), titles.queries()

    def index() -> Search:
        ready = LexicalIndex(rows, num_threads=1)
        return lambda: np.maximum(ready.search(queries, K, num_threads=1)[1], 0)

    return index


def scipy(titles: Titles) -> Callable[[], Search]:
    """Sparse products of 64 queries at a time, and the K largest of each row."""
    rows, queries = bm25_rows(titles.counts()), titles.queries()

    def index() -> Search:
        columns = rows.T.tocsr()

        def search() -> NDArray[np.float32]:
            out = np.zeros((queries.shape[0], K), np.float32)
            for first in range(0, queries.shape[0], 64):
                product = queries[first : first + 64] @ columns
                for at, (start, end) in enumerate(
                    zip(product.indptr, product.indptr[1:], strict=False)
                ):
                    values = product.data[start:end]
                    best = values if len(values) <= K else np.partition(values, -K)[-K:]
                    out[first + at, : len(best)] = np.sort(best)[::-1]
            return out

        return search

    return index


def bm25s(titles: Titles) -> Callable[[], Search]:
    import bm25s as package
    from bm25s.tokenization import Tokenized

    vocabulary = {str(word): word for word in range(titles.n_words)}
    texts, queries = titles.lists("title"), titles.lists("query")

    def index() -> Search:
        ready = package.BM25(k1=K1, b=B, method="lucene")
        ready.index(Tokenized(ids=texts, vocab=vocabulary), show_progress=False)

        def search() -> NDArray[np.float32]:
            asked = Tokenized(ids=queries, vocab=vocabulary)
            _, scores = ready.retrieve(asked, k=K, show_progress=False)
            found: NDArray[np.float32] = scores
            return found

        return search

    return index


def tantivy(titles: Titles) -> Callable[[], Search]:
    """A search engine: posting lists in blocks, which it leaves out if they cannot win."""
    import tantivy as package

    texts = [" ".join(f"w{word}" for word in row) for row in titles.lists("title")]
    queries = [" ".join(f"w{word}" for word in row) for row in titles.lists("query")]
    schema = package.SchemaBuilder()
    schema.add_text_field("text", stored=False, tokenizer_name="whitespace", index_option="freq")
    built = schema.build()

    def index() -> Search:
        ready = package.Index(built)
        writer = ready.writer(heap_size=1_000_000_000, num_threads=1)
        for text in texts:
            writer.add_document(package.Document(text=text))
        writer.commit()
        writer.wait_merging_threads()
        ready.reload()
        searcher = ready.searcher()

        def search() -> NDArray[np.float32]:
            out = np.zeros((len(queries), K), np.float32)
            for at, query in enumerate(queries):
                asked = ready.parse_query(query, ["text"])
                hits = searcher.search(asked, K, count=False).hits
                out[at, : len(hits)] = [score for score, _ in hits]
            return out / np.float32(1 + K1)

        return search

    return index


@dataclass(frozen=True)
class Tool:
    prepare: Callable[[Titles], Callable[[], Search]]
    needs: str


TOOLS = {
    "dexml": Tool(dexml, "dexml"),
    "scipy": Tool(scipy, "scipy"),
    "bm25s": Tool(bm25s, "bm25s"),
    "tantivy": Tool(tantivy, "tantivy"),
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Index and search in this process; CPU seconds of both."""
    index = TOOLS[name].prepare(read_titles(folder / "titles.npz"))
    start = time.process_time()
    search = index()
    built = time.process_time()
    scores = search()
    done = time.process_time()
    np.save(folder / f"{name}.npy", scores)
    return {"index": round(built - start, 3), "search": round(done - built, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("probe")
    run = commands.add_parser("run")
    run.add_argument("name", choices=TOOLS)
    run.add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "probe":
        from peers.worker import available, version_of

        found: dict[str, Any] = {
            name: version_of(tool.needs) for name, tool in TOOLS.items() if available(tool.needs)
        }
    else:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        found = measure(args.name, args.folder)
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
