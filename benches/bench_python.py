"""dexml.data and dexml.metrics against plain numpy/scipy, side by side in one run.

    python benches/bench_python.py [--size small|medium|large] [--rounds 5]

Writes ``benches/results/python.json``. Values are compared before anything is timed.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import data, metrics

SIZES = {"small": (10_000, 4_000), "medium": (100_000, 131_073), "large": (970_237, 1_305_265)}
K = 100


def synthetic(n_points: int, n_labels: int) -> tuple[csr_array, NDArray[np.int32]]:
    """Labels with a Zipf tail, 21.6 positives a row; rankings that hold a third of them."""
    generator = np.random.default_rng(0)
    counts = generator.poisson(21.6, n_points)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    labels = (n_labels * generator.random(indptr[-1]) ** 3).astype(np.int32)
    y = csr_array((np.ones(len(labels), np.float32), labels, indptr), shape=(n_points, n_labels))
    y.sum_duplicates()
    y.data[:] = 1
    # Distinct ids: a random walk around the ring of labels; a third of the positives on top.
    steps = generator.integers(1, max(2, n_labels // K), (n_points, K))
    ids = (np.cumsum(steps, axis=1) + generator.integers(n_labels, size=(n_points, 1))) % n_labels
    for row in range(n_points):
        own = y.indices[y.indptr[row] : y.indptr[row + 1]][::3]
        rest = ids[row][~np.isin(ids[row], own)]
        ids[row] = np.concatenate([own, rest])[:K]
    return y, ids.astype(np.int32)


def scipy_evaluate(
    y_true: csr_array, ids: NDArray[np.int32], q: NDArray[np.float64]
) -> dict[str, float]:
    """P, nDCG and PSP at 1, 3, 5 and 100 with numpy and scipy, as evaluation scripts do."""
    n_points = y_true.shape[0]
    rows = np.repeat(np.arange(n_points), K)
    wanted = np.asarray(y_true[rows, ids.ravel()], np.float64).reshape(n_points, K)
    discount = 1 / np.log2(np.arange(2, K + 2))
    n_true = np.diff(y_true.indptr)
    ideal_dcg = np.concatenate([[0.0], np.cumsum(discount)])
    gained = q[ids] * wanted
    best = np.zeros((n_points, K))
    for row in range(n_points):
        top = np.sort(q[y_true.indices[y_true.indptr[row] : y_true.indptr[row + 1]]])[::-1][:K]
        best[row, : len(top)] = top
    out = {}
    for k in (1, 3, 5, 100):
        out[f"P@{k}"] = wanted[:, :k].sum() / n_points / k
        dcg = (wanted[:, :k] * discount[:k]).sum(axis=1)
        norm = ideal_dcg[np.minimum(n_true, k)]
        out[f"nDCG@{k}"] = np.divide(dcg, norm, out=np.zeros_like(dcg), where=norm > 0).mean()
        out[f"PSP@{k}"] = gained[:, :k].sum() / best[:, :k].sum()
    return out


def python_load(path: Path) -> csr_array:
    """Load LF text line by line with Python and numpy."""
    with path.open() as file:
        n_rows, n_labels = map(int, file.readline().split())
        indptr, indices, values = [0], [], []
        for line in file:
            for token in line.split():
                label, value = token.split(":")
                indices.append(int(label))
                values.append(float(value))
            indptr.append(len(indices))
    arrays = (np.array(values, np.float32), np.array(indices, np.int32), np.array(indptr))
    return csr_array(arrays, shape=(n_rows, n_labels))


def race(competitors: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Run the competitors in turn; median wall and CPU seconds of each."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in competitors}
    for _ in range(rounds):
        for name, call in competitors.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            "wall_s": float(np.median([t[0] for t in times])),
            "cpu_s": float(np.median([t[1] for t in times])),
        }
        for name, times in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    n_points, n_labels = SIZES[args.size]
    y, ids = synthetic(n_points, n_labels)
    q = metrics.inv_propensity(y)
    names = [f"{kind}@{k}" for kind in ("P", "nDCG", "PSP") for k in (1, 3, 5, 100)]
    ours = metrics.evaluate(y, ids, names, inv_propensity=q)
    theirs = scipy_evaluate(y, ids, q)
    for name in names:
        assert abs(ours[name] - theirs[name]) < 1e-9, (name, ours[name], theirs[name])
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "size": {"points": n_points, "labels": n_labels, "k": K},
    }
    report["evaluate"] = race(
        {
            "dexml, 1 thread": lambda: metrics.evaluate(
                y, ids, names, inv_propensity=q, num_threads=1
            ),
            "dexml, all cores": lambda: metrics.evaluate(y, ids, names, inv_propensity=q),
            "numpy + scipy": lambda: scipy_evaluate(y, ids, q),
        },
        args.rounds,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trn_X_Y.txt"
        data.save_labels(path, y)
        report["megabytes"] = path.stat().st_size / 1e6
        assert (data.load_labels(path) != python_load(path)).nnz == 0
        report["load"] = race(
            {"dexml": lambda: data.load_labels(path), "Python": lambda: python_load(path)},
            args.rounds,
        )
    for task, peer in (("evaluate", "numpy + scipy"), ("load", "Python")):
        for name, times in report[task].items():
            ratio = report[task][peer]["cpu_s"] / times["cpu_s"]
            print(
                f"{task:9s} {name:17s} {times['wall_s']:8.3f} s wall {times['cpu_s']:8.3f} s CPU "
                f"{ratio:7.1f} x {peer}"
            )
    out = Path(__file__).parent / "results" / "python.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
