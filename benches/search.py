"""Exact and HNSW search over label vectors, against what one would write or install instead.

    python benches/search.py                                                # small, seconds
    python benches/search.py --labels 131072 1305265 --dims 384 768 --rounds 3  # in full, hours
    python benches/search.py --labels 1305265 --dims 384 --exact            # no graphs, minutes
    python benches/search.py --labels 1305265 --dims 384 --build-threads 2  # graphs, an hour
    python benches/search.py --run RUN                                      # a run's own vectors

Vectors are clustered (seeded): unit vectors around centres, queries near labels. Competitors: plain
numpy (product and argpartition), hnswlib used directly, faiss (flat, HNSW) and usearch where they
are installed. All HNSW graphs have the same M and ef_construction and are compared at the ef that
dexml measured; usearch stores float32. Each competitor searches with 1 and with 2 threads, in
processes of their own so that BLAS obeys; they take turns, the minimum counts. With ``--run``, also
the latency of one text, from the text to its labels. Writes ``benches/results/search.md`` and
``search.json``.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from searchers import COMPETITORS, GRAPHS, OVERHEAD, Array

THREADS = (1, 2)
SPREAD = 0.7
"""Length of the noise around a centre of length 1: near the recall of real label vectors."""


def clustered(n: int, dim: int, seed: int, *, centres: int) -> Array:
    """Unit vectors around centres that are the same for every seed."""
    middle = np.random.default_rng(0).standard_normal((centres, dim), np.float32)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    out = np.empty((n, dim), np.float32)
    for start in range(0, n, 65_536):
        block = out[start : start + 65_536]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= SPREAD / np.sqrt(dim)
        block += middle[rng.integers(0, centres, len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return out


def generated(n_labels: int, n_queries: int, dim: int) -> tuple[Array, Array]:
    """Label vectors, and queries near them."""
    centres = max(1, n_labels // 50)
    labels = clustered(n_labels, dim, 1, centres=centres)
    return labels, clustered(n_queries, dim, 2, centres=centres)


def memory() -> float:
    """Peak of this process, in MB; its mapped files count where they were read."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would be that of the parent, where that is larger
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def job(name: str, folder: Path, threads: int, ks: list[int]) -> dict[str, Any]:
    """In a process of its own: open or build, then search."""
    made = json.loads((folder / "made.json").read_text())
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")
    truth = np.load(folder / "truth.npy")
    started = time.process_time()
    search = COMPETITORS[name][0](np.asarray(vectors), made, folder, threads)
    found: dict[str, Any] = {"open": time.process_time() - started}
    for k in ks:
        ids = search(queries[:64], k)
        wall, cpu = time.perf_counter(), time.process_time()
        ids = search(queries, k)
        found[str(k)] = {
            "wall": (time.perf_counter() - wall) / len(queries),
            "cpu": (time.process_time() - cpu) / len(queries),
        }
        if ids.shape[1]:
            hits = [
                len(set(a) & set(b))
                for a, b in zip(ids.tolist(), truth[:, :k].tolist(), strict=True)
            ]
            found[str(k)]["recall"] = sum(hits) / truth[:, :k].size
    return found | {"memory": memory()}


def build(
    vectors: Array,
    queries: Array,
    folder: Path,
    ks: list[int],
    *,
    exact: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """Build the dexml index, time edits, and leave what the jobs read."""
    from dexml.index import LabelIndex, exact_search

    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", exact_search(queries, vectors, max(ks))[0])
    # A bar, so that one sees how far an hour's work is.
    wall, cpu = time.perf_counter(), time.process_time()
    index = LabelIndex.build(
        *(vectors, queries),
        search="exact" if exact else "hnsw",
        seed=0,
        build_threads=threads,
        progress=True,
    )
    seconds = {
        "build": time.process_time() - cpu,
        "build_wall": time.perf_counter() - wall,
        "build_threads": threads,
    }
    index.save(folder / "dexml")
    recalls = [row for k in ks if (row := index.recall_for(k))]
    info: dict[str, Any] = seconds | {
        "m": index.facts.m,
        "ef_construction": index.facts.ef_construction,
        "ef": {} if exact else {str(k): row.ef for k, row in zip(ks, recalls, strict=True)},
        "disk": sum(path.stat().st_size for path in (folder / "dexml").iterdir()),
    }
    info["build_memory"] = memory()
    (folder / "made.json").write_text(json.dumps(info))
    del index  # a graph of a million labels takes gigabytes, and is loaded again for the edits
    shutil.copytree(folder / "dexml", folder / "edited")
    index = LabelIndex.load(folder / "edited")
    more = clustered(1000, vectors.shape[1], 7, centres=max(1, len(vectors) // 50))
    info["edits"] = {
        "add 1,000 labels": timed(lambda: index.add_labels(more)),
        "save them, recall measured": timed(lambda: index.save(folder / "edited")),
        "add 1,000 more (with a graph: all 2,000 go into it)": timed(
            lambda: index.add_labels(more)
        ),
    }
    shutil.rmtree(folder / "edited")
    return info


def timed(call: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def latency(run: Path, n: int) -> dict[str, float]:
    """Seconds of one text, from the text to its labels: tokenise, encode, search."""
    import torch

    from dexml.predict import Predictor

    torch.set_num_threads(1)
    predictor = Predictor.open(run)
    texts = (predictor.label_texts * (1 + n // len(predictor.label_texts)))[:n]
    times = []
    for text in texts:
        started = time.perf_counter()
        predictor.predict([text], 10)
        times.append(time.perf_counter() - started)
    first, steady = times[0], np.sort(times[1:])
    return {
        "first": first,
        "p50": float(steady[len(steady) // 2]),
        "p99": float(steady[int(len(steady) * 0.99)]),
    }


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("dexml-xmc", "numpy", "hnswlib", "faiss-cpu", "usearch"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join(found)


def compare(
    folder: Path, threads: int, ks: list[int], rounds: int, *, exact: bool = False
) -> dict[str, Any]:
    """Let the competitors take turns; the least time of each counts."""
    best: dict[str, Any] = {}
    for _ in range(rounds):
        for name, (_, needs) in COMPETITORS.items():
            if exact and name in GRAPHS:
                continue
            if any(importlib.util.find_spec(module) is None for module in needs):
                best[name] = f"skipped: {', '.join(needs)} is not installed"
                continue
            limits = {f"{lib}_NUM_THREADS": str(threads) for lib in ("OMP", "OPENBLAS", "MKL")}
            command = [sys.executable, __file__, "--job", name, str(folder), str(threads)]
            done = subprocess.run(
                [*command, *map(str, ks)], env=os.environ | limits, capture_output=True, text=True
            )
            if done.returncode:
                best[name] = f"failed: {done.stderr.strip().splitlines()[-1]}"
                continue
            found = json.loads(done.stdout)
            known = best.setdefault(name, found)
            for k in map(str, ks):
                known[k] |= {c: min(known[k][c], found[k][c]) for c in ("wall", "cpu")}
    return best


def _built(made: dict[str, Any]) -> str:
    """Tell the wall time and the memory of a build, which older results do not have."""
    if "build_wall" not in made:
        return ""
    n = made["build_threads"]
    return (
        f" and {made['build_wall']:.1f} s wall by {n} thread{'s'[: n - 1]} "
        f"(peak {made['build_memory'] / 1e3:.1f} GB)"
    )


def as_markdown(results: list[dict[str, Any]], command: str, machine: str) -> str:
    lines = [
        "# Search",
        "",
        f"`{command}`",
        "",
        f"{machine}; {versions()}. ms a query: CPU time, the least of all rounds; "
        "queries a second: wall time. Overhead: in CPU time, over the bare library.",
    ]
    for result in results:
        lines += ["", f"## {result['name']}", ""]
        made = result["made"]
        lines += [
            (
                f"HNSW M {made['m']}, ef_construction {made['ef_construction']}, ef by k "
                f"{made['ef']}: built in {made['build']:.1f} s CPU{_built(made)}, "
                f"{made['disk'] / 1e6:.1f} MB on disk (vectors and graph)."
                if made["ef"]
                else f"No graph: {made['disk'] / 1e6:.1f} MB on disk."
            ),
            "",
        ]
        head = ["", "threads", "memory, MB"]
        ks = result["ks"]
        for k in ks:
            head += [f"recall@{k}", f"ms, k = {k}", "queries/s", "overhead"]
        lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for threads, table in result["threads"].items():
            for name, found in table.items():
                if isinstance(found, str):
                    lines.append(f"| {name} | {threads} | {found} |{' |' * (len(head) - 3)}")
                    continue
                cells = [name, str(threads), f"{found['memory']:.0f}"]
                for k in map(str, ks):
                    row, base = found[k], table.get(OVERHEAD.get(name, ""))
                    over = (
                        ""
                        if not isinstance(base, dict)
                        else f"{row['cpu'] / base[k]['cpu'] - 1:+.1%}"
                    )
                    recall = f"{row['recall']:.4f}" if "recall" in row else ""
                    cells += [recall, f"{1e3 * row['cpu']:.3f}", f"{1 / row['wall']:.0f}", over]
                lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "| edit | seconds, wall | seconds, CPU |", "|---|---|---|"]
        for step, cost in made["edits"].items():
            lines.append(f"| {step} | {cost['wall']:.2f} | {cost['cpu']:.2f} |")
        if "latency" in result:
            shown = ", ".join(f"{n} {1e3 * v:.1f} ms" for n, v in result["latency"].items())
            lines += ["", f"One text, from the text to its 10 labels, one thread: {shown}."]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    if argv[:1] == ["--job"]:
        place, at_once = Path(argv[2]), int(argv[3])
        print(json.dumps(job(argv[1], place, at_once, [int(k) for k in argv[4:]])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, nargs="+", default=[10_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[64])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--exact", action="store_true", help="no graphs: exact search alone")
    parser.add_argument("--build-threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--run", type=Path, help="a run directory: its own vectors, and latency")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search.md")
    chosen = parser.parse_args(argv)
    ks = [10, 100]
    results: list[dict[str, Any]] = []
    tasks: list[tuple[str, Callable[[], tuple[Array, Array]]]] = []
    if chosen.run:
        from dexml.run import Run
        from dexml.scorers.dense import kept_queries, trained_vectors

        state = Run.open(chosen.run).state
        labels, points = np.array(trained_vectors(state)), kept_queries(state)
        title = f"{len(labels):,} label vectors of a run, D = {labels.shape[1]}"
        tasks.append((title, lambda: (labels, points)))
    else:
        for n in chosen.labels:
            for dim in chosen.dims:
                title = f"{n:,} clustered vectors, D = {dim}"
                tasks.append((title, partial(generated, n, chosen.queries, dim)))
    for name, make in tasks:
        with tempfile.TemporaryDirectory() as folder:
            vectors_, queries = make()
            made = build(
                *(vectors_, queries, Path(folder), ks),
                exact=chosen.exact,
                threads=chosen.build_threads,
            )
            del vectors_
            result: dict[str, Any] = {"name": name, "ks": ks, "made": made, "threads": {}}
            for threads in THREADS:
                result["threads"][threads] = compare(
                    *(Path(folder), threads, ks, chosen.rounds), exact=chosen.exact
                )
        if chosen.run:
            result["latency"] = latency(chosen.run, 500)
        results.append(result)
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        command = " ".join(["python benches/search.py", *argv])
        chosen.out.write_text(as_markdown(results, command, machine))
        chosen.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    print(chosen.out.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
