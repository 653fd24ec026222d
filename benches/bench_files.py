"""dexml.data against scipy on the same files: CPU seconds, best of several rounds, alternating.

python benches/bench_files.py [--points 200000] [--rounds 3]
"""

import argparse
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, load_npz, save_npz

from dexml import data


def cpu(work: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    n_labels = 1_305_265
    counts = generator.poisson(21.7, args.points)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    labels = generator.integers(n_labels, size=indptr[-1], dtype=np.int32)
    ones = np.ones(len(labels), np.float32)
    y = csr_array((ones, labels, indptr), shape=(args.points, n_labels))
    y.sum_duplicates()
    y.data[:] = 1
    with tempfile.TemporaryDirectory() as folder:
        for name, compressed in (("stored", False), ("compressed", True)):
            ours, theirs = Path(folder, "ours.npz"), Path(folder, "theirs.npz")
            tasks: dict[str, Callable[[], object]] = {
                f"save {name} dexml": lambda: data.save_scores(ours, y, compressed=compressed),  # noqa: B023
                f"save {name} scipy": lambda: save_npz(theirs, y, compressed=compressed),  # noqa: B023
                f"load {name} dexml": lambda: data.load_labels(ours),  # noqa: B023
                f"load {name} scipy": lambda: load_npz(theirs),  # noqa: B023
            }
            best = dict.fromkeys(tasks, float("inf"))
            for _ in range(args.rounds):
                for task, work in tasks.items():
                    best[task] = min(best[task], cpu(work))
            assert (load_npz(ours) != data.load_labels(theirs)).nnz == 0
            for task, seconds in best.items():
                print(f"{task:24} {seconds:7.3f} CPU s")


if __name__ == "__main__":
    main()
