"""Label graphs, negatives and top-k against numpy and scipy, side by side in one run.

    python benches/bench_sampling.py [--rounds 3] [--out benches/results/sampling.json]

CPU seconds, the least of all rounds, on one thread. pyxclib's walk is run too where it can be
imported. The values of our merge and of our top-k are compared with numpy's first.
"""

import argparse
import importlib
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
from scipy.sparse import csr_array

from dexml.sampling import LabelGraph, NegativeSampler
from dexml.topk import merge, topk

BATCH, N_NEGATIVES = 16_384, 64


def zipf(n_points: int, n_labels: int, mean: float) -> csr_array:
    """Labels with frequencies that fall as 1 / rank."""
    generator = np.random.default_rng(0)
    indptr = np.concatenate([[0], np.cumsum(generator.poisson(mean, n_points))])
    rank = (n_labels ** generator.random(indptr[-1])).astype(np.int64) - 1
    labels = generator.permutation(n_labels)[rank].astype(np.int32)
    y = csr_array((np.ones(len(labels), np.float32), labels, indptr), shape=(n_points, n_labels))
    y.sum_duplicates()
    y.data[:] = 1
    return y


def race(competitors: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Run the competitors in turn; the least CPU seconds of each."""
    least = dict.fromkeys(competitors, float("inf"))
    for _ in range(rounds):
        for name, call in competitors.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - start)
    return least


def walks(rounds: int, report: dict[str, Any]) -> None:
    y = zipf(294_805, 131_073, 2.3)
    seen = int((np.bincount(y.indices, minlength=y.shape[1]) > 0).sum())
    try:
        peer: Any = importlib.import_module("xclib.utils.graph")
    except ImportError:
        peer = None
        print("pyxclib is not installed: its walk is left out")
    for n_steps in (50, 400):
        competitors: dict[str, Callable[[], Any]] = {
            "dexml": partial(LabelGraph.random_walk, y, seed=0, n_steps=n_steps, num_threads=1)
        }
        if peer is not None:
            competitors["pyxclib"] = partial(peer.RandomWalk(y.copy()).simulate, n_steps, 0.8, 50)
        times = race(competitors, rounds)
        report[f"walk, {n_steps} steps a label"] = times
        print(f"walk, {n_steps:3d} steps: {seen * n_steps / times['dexml'] / 1e6:6.1f} M steps/s")

    def product() -> csr_array:
        return y.T.tocsr() @ y

    report["co-occurrence"] = race(
        {
            "dexml, top 50": lambda: LabelGraph.co_occurrence(y, num_threads=1),
            "scipy, the product alone": product,
        },
        rounds,
    )


def numpy_uniform(y: csr_array, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Uniform negatives as training scripts draw them, row by row."""
    generator = np.random.default_rng(0)
    out = []
    for row in rows:
        drawn = np.unique(generator.integers(y.shape[1], size=2 * N_NEGATIVES))
        own = y.indices[y.indptr[row] : y.indptr[row + 1]]
        out.append(generator.permutation(drawn[~np.isin(drawn, own)])[:N_NEGATIVES])
    return out


def negatives(rounds: int, report: dict[str, Any]) -> None:
    y = zipf(200_000, 1_305_265, 21.6)
    generator = np.random.default_rng(1)
    graph = LabelGraph.random_walk(y, seed=0, n_steps=100)
    first = generator.integers(y.shape[1] - 500, size=(y.shape[0], 1))
    shortlist = (first + 5 * np.arange(100)).astype(np.int32)
    rows = generator.integers(y.shape[0], size=BATCH)
    mixture = {"uniform": 0.5, "graph": 0.25, "shortlist": 0.25}
    names: list[Any] = ["uniform", "frequency", "graph", "shortlist", mixture]
    samplers = {
        name if isinstance(name, str) else "mixture": NegativeSampler(
            y,
            n_negatives=N_NEGATIVES,
            sources=name,
            graph=graph,
            shortlist=shortlist,
            num_threads=1,
        )
        for name in names
    }
    competitors: dict[str, Callable[[], Any]] = {
        name: partial(sampler.draw, rows, seed=0, epoch=0) for name, sampler in samplers.items()
    }
    competitors["numpy, uniform"] = lambda: numpy_uniform(y, rows)
    times = race(competitors, rounds)
    report["negatives"] = times
    for name, seconds in times.items():
        print(f"negatives, {name:14s}: {seconds / BATCH * 1e6:7.2f} ms CPU for 1,000 rows")


def rankings(rounds: int, report: dict[str, Any]) -> None:
    generator = np.random.default_rng(2)
    n_shards, n_rows, k = 10, 50_000, 100
    scores = -np.sort(-generator.random((n_shards, n_rows, k), dtype=np.float32))
    ids = (np.arange(k) * n_shards + np.arange(n_shards)[:, None, None]).astype(np.int32)
    ids = np.ascontiguousarray(np.broadcast_to(ids, scores.shape))

    def numpy_merge() -> tuple[NDArray[Any], NDArray[Any]]:
        all_scores = scores.transpose(1, 0, 2).reshape(n_rows, -1)
        all_ids = ids.transpose(1, 0, 2).reshape(n_rows, -1)
        best = np.argpartition(-all_scores, k, axis=1)[:, :k]
        found = np.take_along_axis(all_scores, best, 1)
        order = np.argsort(-found, axis=1)
        best = np.take_along_axis(best, order, 1)
        return np.take_along_axis(all_ids, best, 1), np.take_along_axis(all_scores, best, 1)

    np.testing.assert_array_equal(merge(ids, scores, k)[1], numpy_merge()[1])
    report["merge"] = race(
        {"dexml": lambda: merge(ids, scores, k, num_threads=1), "numpy": numpy_merge}, rounds
    )
    dense = generator.random((128, 1_305_265), dtype=np.float32)
    best = -np.partition(-dense[:2], k, axis=1)[:, :k]
    np.testing.assert_array_equal(topk(dense[:2], k)[1], -np.sort(-best))
    report["dense top-k"] = race(
        {
            "dexml": lambda: topk(dense, k, num_threads=1),
            "numpy, argpartition": lambda: np.argpartition(dense, -k, axis=1)[:, -k:],
            "numpy, maximum of each row (one pass)": lambda: dense.max(axis=1),
        },
        rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/sampling.json")
    args = parser.parse_args()
    report: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    walks(args.rounds, report)
    negatives(args.rounds, report)
    rankings(args.rounds, report)
    for task, times in report.items():
        if task != "machine":
            for name, seconds in times.items():
                print(f"{task:24s} {name:38s} {seconds:8.4f} s CPU")
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
