"""Competitors that draw: random walks, negatives, bootstrap. They agree within sampling error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from peers.jobs import Array, Case, Competitor, Job, Task, Values

N_NEGATIVES = 100
RESTART = 0.2
BY_CHANCE = 0.05
"""Tolerance of shares that come out of chance."""


def _walk_matrix(case: Case) -> Any:
    return case.matrix("walk", case.size.walk_labels)


def _visits(landed: Array, starts: Array, n_labels: int) -> csr_matrix:
    """Count the visits from each label, as pyxclib does it."""
    rows = np.repeat(starts, landed.shape[1])
    ones = np.ones(landed.size, np.float32)
    return csr_matrix((ones, (rows, landed.ravel())), shape=(n_labels, n_labels))


def _graph_values(graph: Any) -> Values:
    """Share of the steps that end where the walk began, and the number of edges."""
    graph = csr_matrix(graph)
    home = float(graph.diagonal().sum() / graph.sum())
    return {"visits": float(graph.sum()), "at home": home, "edges": float(graph.nnz)}


def dexml_walk(n_steps: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from dexml import sampling

        y = csr_array(_walk_matrix(case))
        graph: Any = sampling.LabelGraph  # type: ignore[attr-defined,unused-ignore]
        return Job(
            lambda: graph.random_walk(
                y,
                n_steps=n_steps,
                restart=RESTART,
                top=n_steps,
                keep_self=True,
                seed=0,
                num_threads=case.threads,
            ),
            lambda out: _graph_values(out.neighbours),
        )

    return prepare


def _both_ways(case: Case) -> tuple[Array, Array, Array, Array, Array]:
    """Labels of points, points of labels, and the labels that have a point."""
    y = _walk_matrix(case)
    turned = y.T.tocsr()
    starts = np.flatnonzero(np.diff(turned.indptr)).astype(np.int32)
    return y.indptr, y.indices, turned.indptr, turned.indices, starts


def numpy_walk(n_steps: int) -> Callable[[Case], Job]:
    """All labels walk in step."""

    def prepare(case: Case) -> Job:
        y = _walk_matrix(case)

        def run() -> Any:
            turned = y.T.tocsr()
            starts = np.flatnonzero(np.diff(turned.indptr)).astype(np.int32)
            generator = np.random.default_rng(0)
            landed = np.empty((len(starts), n_steps), np.int32)
            here = starts
            for step in range(n_steps):
                restart = generator.random(len(starts)) < RESTART
                here = np.where(restart, starts, here)
                points = _any_of(generator, turned.indptr, turned.indices, here)
                here = landed[:, step] = _any_of(generator, y.indptr, y.indices, points)
            return _visits(landed, starts, y.shape[1])

        return Job(run, _graph_values)

    return prepare


def _any_of(generator: np.random.Generator, indptr: Array, indices: Array, rows: Array) -> Array:
    starts = indptr[rows]
    chosen = starts + (generator.random(len(rows)) * (indptr[rows + 1] - starts)).astype(np.int32)
    return np.asarray(indices[chosen])


def numba_walk(n_steps: int) -> Callable[[Case], Job]:
    """One label after the other in compiled loops, as pyxclib does it."""

    def prepare(case: Case) -> Job:
        import numba

        numba.set_num_threads(case.threads)
        labels_at, labels, points_at, points, starts = _both_ways(case)
        n_labels = case.size.walk_labels

        @numba.njit(parallel=True)  # type: ignore[untyped-decorator,unused-ignore]
        def walk(starts: Array, n_steps: int) -> Array:
            landed = np.empty((len(starts), n_steps), np.int32)
            for i in numba.prange(len(starts)):
                here = starts[i]
                for step in range(n_steps):
                    if np.random.random() < RESTART:
                        here = starts[i]
                    low, high = points_at[here], points_at[here + 1]
                    point = points[low + int(np.random.random() * (high - low))]
                    low, high = labels_at[point], labels_at[point + 1]
                    here = labels[low + int(np.random.random() * (high - low))]
                    landed[i, step] = here
            return landed

        return Job(
            lambda: _visits(walk(starts, n_steps), starts, n_labels),
            _graph_values,
            lambda: walk(starts[:100], n_steps),
        )

    return prepare


def pyxclib_walk(n_steps: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from xclib.utils.graph import RandomWalk

        y = _walk_matrix(case)
        return Job(
            lambda: RandomWalk(y).simulate(walk_to=n_steps, p_reset=RESTART),
            _graph_values,
            lambda: RandomWalk(y[:500]).simulate(walk_to=n_steps, p_reset=RESTART),
        )

    return prepare


def _negative_values(case: Case, ids: Array) -> Values:
    y = _negative_truth(case)
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    own = np.sort(ids, axis=1)
    return {
        "drawn": str(ids.shape),
        "positives": float(np.asarray(y[rows, ids.ravel()]).sum()),
        "twice in a row": float((own[:, 1:] == own[:, :-1]).sum()),
        "mean id": float(ids.mean() / case.size.n_labels),
    }


def _negative_truth(case: Case) -> Any:
    return case.matrix("eval", case.size.n_labels, case.size.negative_rows)


def dexml_negatives(case: Case) -> Job:
    from dexml import sampling

    y = csr_array(_negative_truth(case))
    sample: Any = sampling.sample_negatives  # type: ignore[attr-defined,unused-ignore]
    rows = np.arange(y.shape[0])
    return Job(
        lambda: sample(
            y, n_negatives=N_NEGATIVES, seed=0, epoch=0, rows=rows, num_threads=case.threads
        ),
        lambda out: _negative_values(case, out),
    )


def numpy_negatives(case: Case) -> Job:
    """Draw, look up in the truth and in the row, draw again what may not stay."""
    y = _negative_truth(case)

    def run() -> Array:
        generator = np.random.default_rng(0)
        n, n_labels = y.shape
        ids = generator.integers(n_labels, size=(n, N_NEGATIVES), dtype=np.int32)
        rows = np.arange(n)
        while len(rows):
            block = np.sort(ids[rows], axis=1)
            bad = np.asarray(y[np.repeat(rows, N_NEGATIVES), block.ravel()]).reshape(block.shape)
            bad = bad > 0
            bad[:, 1:] |= block[:, 1:] == block[:, :-1]
            block[bad] = generator.integers(n_labels, size=int(bad.sum()), dtype=np.int32)
            ids[rows] = block
            rows = rows[bad.any(axis=1)]
        return ids

    return Job(run, lambda out: _negative_values(case, out))


def generator_negatives(case: Case) -> Job:
    """A draw without replacement a row, as a data loader does it."""
    y = _negative_truth(case)

    def run() -> Array:
        generator = np.random.default_rng(0)
        n, n_labels = y.shape
        ids = np.empty((n, N_NEGATIVES), np.int32)
        for row in range(n):
            own = y.indices[y.indptr[row] : y.indptr[row + 1]]
            drawn = generator.choice(n_labels, N_NEGATIVES + len(own), replace=False)
            ids[row] = drawn[~np.isin(drawn, own)][:N_NEGATIVES]
        return ids

    return Job(run, lambda out: _negative_values(case, out))


def _points(case: Case) -> tuple[Array, Array]:
    return case.array("points/a"), case.array("points/b")


def _interval(case: Case, low: float, high: float) -> Values:
    """Ends of the 95 % interval of the mean difference, in standard errors from it (1.96)."""
    a, b = _points(case)
    difference = b - a
    error = difference.std() / np.sqrt(len(difference))
    mean = difference.mean()
    return {"low": float((mean - low) / error), "high": float((high - mean) / error)}


def dexml_bootstrap(case: Case) -> Job:
    """Truth and rankings that have the values of the points as their P@5."""
    from dexml import metrics

    compare: Any = metrics.compare  # type: ignore[attr-defined,unused-ignore]
    a, b = _points(case)
    n = len(a)
    ones, indices = np.ones(5 * n, np.float32), np.tile(np.arange(5, dtype=np.int32), n)
    y_true = csr_array((ones, indices, np.arange(0, 5 * n + 1, 5, dtype=np.int32)), shape=(n, 10))

    def scored(values: Array) -> Any:
        evaluator = metrics.Evaluator(10, ["P@5"], keep_rows=True)
        hits = np.rint(values * 5)[:, None]
        evaluator.update(y_true, (np.arange(5) + 5 * (np.arange(5) >= hits)).astype(np.int32))
        return evaluator.result()

    first, second = scored(a), scored(b)

    def values(out: Any) -> Values:
        return _interval(case, out["P@5"].low, out["P@5"].high)

    n_resamples = case.size.resamples
    return Job(
        lambda: compare(first, second, n_resamples=n_resamples, seed=0, num_threads=case.threads),
        values,
    )


def numpy_bootstrap(case: Case) -> Job:
    a, b = _points(case)

    def run() -> Any:
        difference = b - a
        n = len(difference)
        generator = np.random.default_rng(0)
        means = [
            difference[generator.integers(n, size=n)].mean() for _ in range(case.size.resamples)
        ]
        return np.percentile(means, [2.5, 97.5])

    return Job(run, lambda out: _interval(case, *out))


def scipy_bootstrap(case: Case) -> Job:
    from scipy.stats import bootstrap

    a, b = _points(case)
    difference = b - a

    def run() -> Any:
        return bootstrap(
            (difference,), np.mean, n_resamples=case.size.resamples, batch=8,
            method="percentile", rng=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip

    return Job(run, lambda out: _interval(case, float(out.low), float(out.high)))


def _walk(n_steps: int) -> Task:
    ours = Competitor(
        "dexml", "dexml.sampling:LabelGraph", dexml_walk(n_steps), "graph of visits",
        threaded=True, tolerance=BY_CHANCE,
    )  # fmt: skip
    return Task(
        f"walk-{n_steps}",
        f"Random walks with restart, {n_steps} steps a label",
        ("walk",),
        lambda case: len(_both_ways(case)[-1]) * float(n_steps),
        "M steps/s",
        (
            ours,
            Competitor("numpy", "numpy", numpy_walk(n_steps), "graph of visits; all labels in step",
                       tolerance=BY_CHANCE),
            Competitor("numba, pyxclib's method", "numba", numba_walk(n_steps),
                       "graph of visits", threaded=True, tolerance=BY_CHANCE),
            Competitor("pyxclib", "xclib", pyxclib_walk(n_steps), "graph of visits",
                       threaded=True, tolerance=BY_CHANCE,
                       differs={"*": "adds a loop to a label never visited again"}),
        ),
        scale=1e6,
    )  # fmt: skip


TASKS = (
    _walk(50),
    _walk(400),
    Task(
        "negatives",
        f"Draw {N_NEGATIVES} uniform negatives a point",
        ("eval",),
        lambda case: case.size.negative_rows,
        "us/row",
        (
            Competitor("dexml", "dexml.sampling:sample_negatives", dexml_negatives,
                       "no positive, none twice", threaded=True, tolerance=BY_CHANCE),
            Competitor("numpy, redrawn", "numpy", numpy_negatives, "no positive, none twice",
                       tolerance=BY_CHANCE),
            Competitor("numpy, row by row", "numpy", generator_negatives,
                       "no positive, none twice", tolerance=BY_CHANCE),
        ),
    ),
    Task(
        "bootstrap",
        "Paired bootstrap of two systems",
        ("points",),
        lambda case: case.size.eval_rows * float(case.size.resamples),
        "M values/s",
        (
            Competitor("dexml", "dexml.metrics:compare", dexml_bootstrap,
                       "interval, and as many sign flips", threaded=True, tolerance=0.2),
            Competitor("numpy", "numpy", numpy_bootstrap, "interval; a loop", tolerance=0.2),
            Competitor("scipy.stats.bootstrap", "scipy", scipy_bootstrap, "interval; batch 8",
                       tolerance=0.2),
        ),
        scale=1e6,
    ),
)  # fmt: skip
