"""Intervals and paired tests against numpy, side by side in one run.

    python benches/bench_statistics.py [--points 1000000] [--resamples 1000] [--rounds 3]

numpy draws the counts of a sample with ``bincount(integers(n, size=n))`` and multiplies them with
the matrix of all terms; its flips are ``±1`` signs times the matrix of the differences. It is timed
on few resamples, and all times are given for one. Before anything is timed, the standard errors
of the two are compared. Writes ``benches/results/statistics.json``.
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

from dexml.metrics import Result, compare

NUMPY_RESAMPLES = 8


def system(n: int, generator: np.random.Generator, ideal: NDArray[np.float64]) -> Result:
    """P@1, P@3, P@5, nDCG@5 and PSP@5 of a system."""
    rows: dict[str, Any] = {
        f"P@{k}": (generator.integers(0, k + 1, n) / k, None) for k in (1, 3, 5)
    }
    rows["nDCG@5"] = (generator.random(n), None)
    rows["PSP@5"] = (ideal * generator.random(n), ideal)
    values = {
        name: float(x.mean() / (1 if d is None else d.mean())) for name, (x, d) in rows.items()
    }
    return Result(values, n, 1, 0, 0, 0, {}, rows)


def numpy_bootstrap(terms: NDArray[np.float64], n_resamples: int) -> NDArray[np.float64]:
    """Sums of every column, shape (n_resamples, n_columns)."""
    generator, n = np.random.default_rng(0), len(terms)
    draws = (np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(n_resamples))
    return np.stack([counts @ terms for counts in draws])


def numpy_flips(differences: NDArray[np.float64], n_resamples: int) -> NDArray[np.float64]:
    """Sums of every column with random signs."""
    generator, n = np.random.default_rng(0), len(differences)
    signs = (2.0 * generator.integers(0, 2, n, dtype=np.int8) - 1.0 for _ in range(n_resamples))
    return np.stack([sign @ differences for sign in signs])


def seconds(call: Callable[[], Any], resamples: int, rounds: int) -> dict[str, float]:
    """Least CPU and wall seconds of a call, for one resample."""
    taken = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        taken.append((time.process_time() - cpu, time.perf_counter() - wall))
    return {"cpu_ms": 1e3 * min(taken)[0] / resamples, "wall_ms": 1e3 * min(taken)[1] / resamples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    n, generator = args.points, np.random.default_rng(0)
    ideal = generator.random(n) + 0.1
    a, b = system(n, generator, ideal), system(n, generator, ideal)
    terms = np.stack([x for r in (a, b) for x, _ in r.rows.values()] + [ideal], axis=1)
    differences = terms[:, 5:10] - terms[:, :5]

    found = compare(a, b, seed=0, n_resamples=200)
    sums = numpy_bootstrap(terms, 200 if n <= 100_000 else NUMPY_RESAMPLES)
    for i, name in enumerate(a.rows):
        below = sums[:, 10] if name == "PSP@5" else n
        spread = ((sums[:, 5 + i] - sums[:, i]) / below).std(ddof=1)
        assert 0.4 < found[name].standard_error / spread < 2.5, (name, found[name], spread)

    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "points": n,
        "resamples": args.resamples,
        "metrics": list(a.rows),
        "systems": 2,
    }
    for threads in (1, os.cpu_count() or 1):
        run = partial(compare, a, b, seed=0, n_resamples=args.resamples, num_threads=threads)
        report[f"dexml compare, threads {threads}"] = seconds(run, args.resamples, args.rounds)
    few = NUMPY_RESAMPLES
    report["numpy bootstrap"] = seconds(lambda: numpy_bootstrap(terms, few), few, args.rounds)
    report["numpy flips"] = seconds(lambda: numpy_flips(differences, few), few, args.rounds)
    numpy_cpu = report["numpy bootstrap"]["cpu_ms"] + report["numpy flips"]["cpu_ms"]
    report["ratio"] = numpy_cpu / report["dexml compare, threads 1"]["cpu_ms"]
    for name, value in report.items():
        if isinstance(value, dict):
            total = value["wall_ms"] * args.resamples / 1e3
            print(
                f"{name:26s} {value['cpu_ms']:8.3f} ms CPU a resample, "
                f"{args.resamples} resamples in {total:7.2f} s"
            )
    print(f"numpy takes {report['ratio']:.1f} x the CPU seconds of dexml on one thread")
    out = Path(__file__).parent / "results" / "statistics.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
