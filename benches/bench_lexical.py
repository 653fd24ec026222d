"""Lexical evidence against other tools, and what a light run costs, in one run.

    python benches/bench_lexical.py DATA --run RUN --envs ENVS

DATA is a folder in the LF layout, RUN a light run of it, ENVS a folder of virtual environments with
bm25s and tantivy (``benches/README.md``). Writes ``results/lexical.json`` and prints its tables;
``--parts`` makes some parts anew and keeps the others.

- features: tf-idf rows against scikit-learn, and search among the rows against scipy. Words are cut
  by our tokenizer and by scikit-learn's pattern, so the vocabularies differ a little.
- search: the best 50 of a million made-up titles, against scipy, bm25s and tantivy.
- build: vocabulary, rows and index of two million made-up titles.
- serve: time to open RUN, one text, and batches of 1,024.
- whole: light runs beside XR-Linear and Omikuji, from the results of ``quality.py``.

CPU seconds of one thread, but for `build` and `whole` (all cores). Tools that should find the same
must do so, or there are no times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz
from sklearn.feature_extraction.text import TfidfVectorizer

from bench_peers import commit, environment, last_line, named_path
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
from lexical_cost import write_made_up
from peers import sparse
from quality import BENCHES, RESULTS, machine, run_alone
from quality_page import read_rows

K = 50
OUT = BENCHES / "results" / "lexical.json"
PARTS = ("features", "search", "build", "serve", "whole")


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


def features(arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of tf-idf rows, of search among them, and of what a light run makes of both."""
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
        timed(seconds, f"{grams}: rows", partial(vectorizer.rows, texts, num_threads=1))
        timed(seconds, f"{grams}: rows, scikit-learn", partial(peer.transform, short))
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
    return seconds


def search(arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of indexing a million titles and searching some, tool by tool."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        titles = sparse.draw_titles(arguments.titles, arguments.queries)
        sparse.write_titles(folder / "titles.npz", titles)
        del titles
        for name, (python, version) in tools(arguments).items():
            found[name] = child([python, "-m", "peers.sparse", "run", name, scratch], folder)
            found[name]["version"] = version
            ours, theirs = (np.load(folder / f"{tool}.npy") for tool in ("dexml", name))
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, err_msg=name)
    return {"titles": arguments.titles, "queries": arguments.queries, "tools": found}


def tools(arguments: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Interpreter and version of every tool that some interpreter has; ours comes first."""
    paths = [sys.executable, *(path for _, path in arguments.python)]
    if arguments.envs is not None:
        paths += [str(path) for path in sorted(arguments.envs.glob("*/bin/python"))]
    found: dict[str, tuple[str, str]] = {}
    for path in dict.fromkeys(paths):
        command = [path, "-m", "peers.sparse", "probe"]
        done = subprocess.run(
            command, cwd=BENCHES, env=environment(path, 1), capture_output=True, text=True
        )
        for name, version in json.loads(last_line(done.stdout) if done.stdout else "{}").items():
            found.setdefault(name, (path, version))
    for name in set(sparse.TOOLS) - set(found):
        print(f"{name}: left out, no interpreter has it (benches/README.md)", flush=True)
    return {name: found[name] for name in sparse.TOOLS if name in found}


def build(arguments: argparse.Namespace) -> dict[str, Any]:
    """Index titles by words, and by words and pieces of words as a light run does."""
    n = 2 * arguments.titles
    found: dict[str, Any] = {"titles": n}
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "titles.txt"
        write_made_up(texts, n)
        for what in ("words", "all", "kept"):
            found[what] = cost("build", what, str(texts), threads=os.cpu_count() or 1)
    return found


def serve(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.run is None:
        raise SystemExit("error: --run RUN is missing: a light run of DATA")
    texts = arguments.data / "raw" / "tst_X.txt"
    return cost("serve", str(arguments.run.resolve()), str(texts.resolve()))


def cost(*words: str, threads: int = 1) -> dict[str, Any]:
    """Run ``lexical_cost.py``."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(BENCHES / "lexical_cost.py"), *words]
        return child(command, Path(scratch), threads)


def child(command: list[str], scratch: Path, threads: int = 1) -> dict[str, Any]:
    """Run a process, with the JSON object that it printed and its peak memory."""
    log = scratch / "log.txt"
    spent = run_alone(command, BENCHES, environment(command[0], threads), log)
    found: dict[str, Any] = json.loads(last_line(log.read_text(encoding="utf-8")))
    print(f"{' '.join(command[1:4])}: {found}", flush=True)
    return found | {"peak_mb": spent["peak_mb"]}


def whole(arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds from texts to predictions, by data set and row."""
    names = ("light", "light, no tree", "pecos", "omikuji")
    found: dict[str, Any] = {}
    for path in sorted(RESULTS.glob("*.json")):
        rows = read_rows(path)
        found[path.stem] = {
            name: {
                "cpu_seconds": float(np.mean([s.cpu_seconds for s in rows[name].seeds.values()])),
                "peak_mb": max(s.peak_mb or 0 for s in rows[name].seeds.values()) or None,
            }
            for name in names
            if name in rows
        }
    return found


def tables(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = []
    seconds = report.get("features", {}).get("seconds", {})
    if seconds:
        lines += ["| CPU s | dexml | scikit-learn, scipy | ratio |", "|---|---|---|---|"]
        for name, value in seconds.items():
            peer = seconds.get(f"{name}, scikit-learn", seconds.get(f"{name}, scipy"))
            if not name.endswith((", scikit-learn", ", scipy")):
                ratio = f"{peer:.2f} | {peer / value:.1f}" if peer else "|"
                lines.append(f"| {name} | {value:.2f} | {ratio} |")
    if "search" in report:
        found = report["search"]
        lines += ["", "| tool | index, CPU s | ms a query | peak MB |", "|---|---|---|---|"]
        for name, tool in found["tools"].items():
            query = 1e3 * tool["search"] / found["queries"]
            lines.append(
                f"| {name} {tool['version']} | {tool['index']:.2f} | {query:.2f} "
                f"| {tool['peak_mb']} |"
            )
    if "build" in report:
        found = report["build"]
        lines += [
            "",
            f"| {found['titles']} titles | words | words and characters | the same, rows kept |",
            "|---|---|---|---|",
        ]
        for step in found["all"]:
            cells = [str(found[what].get(step, "")) for what in ("words", "all", "kept")]
            lines.append(f"| {step} | {' | '.join(cells)} |")
    if "serve" in report:
        found = report["serve"]
        kinds = ("search alone", "ranked", "ranking adds")
        lines += ["", f"| | {' | '.join(kinds)} |", "|---|---|---|---|"]
        for name in ("one text, ms, p50", "one text, ms wall, p50", "in batches, ms a text"):
            cells = [str(found.get(f"{kind}: {name}", "")) for kind in kinds]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        opened = f"{found['open, s']} CPU s ({found['open, s wall']} s of wall clock)"
        lines += ["", f"Opened in {opened}, {found['labels']} labels, {found['peak_mb']} MB."]
    if "whole" in report:
        names = ("light", "light, no tree", "pecos", "omikuji")
        lines += ["", f"| CPU s | {' | '.join(names)} | light / pecos | no tree / pecos |"]
        lines.append("|---" * (len(names) + 3) + "|")
        for folder, rows in report["whole"].items():
            cpu = [rows.get(name, {}).get("cpu_seconds") for name in names]
            cells = ["" if value is None else f"{value:.0f}" for value in cpu]
            cells += [f"{a / cpu[2]:.1f}" if a and cpu[2] else "" for a in cpu[:2]]
            lines.append(f"| {folder} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("data", type=Path)
    add("--run", type=Path, help="a light run of DATA, for `serve`")
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add("--titles", type=int, default=1_000_000)
    add("--queries", type=int, default=300)
    add("--envs", type=Path, help="folder of virtual environments with peers")
    add("--python", type=named_path, action="append", default=[], metavar="NAME=PATH")
    add("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    report = {part: known[part] for part in PARTS if part in known}
    makers = {
        "features": features,
        "search": search,
        "build": build,
        "serve": serve,
        "whole": whole,
    }
    for part in arguments.parts:
        made = makers[part](arguments)
        report[part] = (
            {"data": arguments.data.name, "seconds": made} if part == "features" else made
        )
        report |= {"machine": machine(), "commit": commit()}
        # Written after each part: an interrupted run keeps what it has.
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(tables(report))


if __name__ == "__main__":
    main()
