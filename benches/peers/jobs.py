"""What a competitor is, what it gets and what it gives back. Needs numpy and scipy only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from peers.data import SHARDS, Size

Array = NDArray[Any]
Values = dict[str, float | str]


@dataclass(frozen=True)
class Case:
    """The inputs of one run, read from the data folder; nothing of it is timed.

    Args:
        folder: As `peers.data.prepare` returns it.
        rows: Only the first rows of a task that is row by row; None for all.
        threads: Threads the competitor may use.
    """

    folder: Path
    rows: int | None = None
    threads: int = 1

    @cached_property
    def size(self) -> Size:
        """Sizes of the data."""
        return Size(**json.loads((self.folder / "size.json").read_text()))

    def array(self, name: str) -> Array:
        """An array such as ``"eval/ids"``, in memory."""
        array: Array = np.load(self.folder / f"{name}.npy")
        return array

    def matrix(self, part: str, n_labels: int, rows: int | None = None) -> csr_matrix:
        """A matrix of ones; `csr_matrix`, because some peers refuse `csr_array`."""
        indptr = self.array(f"{part}/indptr")
        indptr = indptr[: len(indptr) if rows is None else rows + 1]
        indices = self.array(f"{part}/indices")[: indptr[-1]]
        ones = np.ones(len(indices), np.float32)
        shape = (len(indptr) - 1, n_labels)
        return csr_matrix((ones, indices, indptr.astype(np.int32)), shape=shape)

    @property
    def truth(self) -> csr_matrix:
        """Truth of the evaluation."""
        return self.matrix("eval", self.size.n_labels, self.rows)

    @property
    def ids(self) -> Array:
        """Ranked labels, shape (rows, 100), int32."""
        return self.array("eval/ids")[: self.rows]

    @property
    def weights(self) -> Array:
        """Inverse propensities, float64."""
        return self.array("eval/weights")

    @property
    def predictions(self) -> csr_matrix:
        """The same rankings as scores, ids sorted within a row."""
        k = self.array("eval/ids").shape[1]
        n = self.rows or self.size.eval_rows
        indices, scores = (self.array(f"eval/pred_{part}")[: n * k] for part in ("indices", "data"))
        indptr = np.arange(0, n * k + 1, k, dtype=np.int32)
        return csr_matrix((scores, indices, indptr), shape=(n, self.size.n_labels))

    @property
    def pairs(self) -> tuple[Array, Array]:
        """Rows and labels to drop: one a row, half of them ranked."""
        n = self.size.exclude_rows
        ids = self.array("eval/ids")[:n]
        generator = np.random.default_rng(1)
        ranked = ids[np.arange(n), generator.integers(ids.shape[1], size=n)]
        other = generator.integers(self.size.n_labels, size=n)
        return np.arange(n), np.where(generator.random(n) < 0.5, ranked, other).astype(np.int32)

    @property
    def shards(self) -> tuple[Array, Array]:
        """Ids and scores of the shards, shape (10, rows, 100) each."""
        ids, scores = self.array("merge/ids"), self.array("merge/scores")
        assert len(ids) == SHARDS
        return ids, scores


@dataclass(frozen=True)
class Job:
    """A prepared run.

    Args:
        run: The timed part.
        values: Takes what `run` returned apart; not timed. Compared between competitors.
        warm: Run before, for compilers and caches; by default `run` itself is repeated.
        clean: Run at the end, to remove what `run` has written.
    """

    run: Callable[[], Any]
    values: Callable[[Any], Values]
    warm: Callable[[], Any] | None = None
    clean: Callable[[], None] | None = None


@dataclass(frozen=True)
class Competitor:
    """A way to do a task.

    Args:
        name: As the table shows it; ``dexml`` first for ours.
        needs: Package to import, or ``module:name`` for a name that it must have.
        prepare: Makes the job; the only place that imports the package.
        computes: Exactly what it computes.
        kind: Competitors of one kind have one input format and are compared with ours of it.
        max_rows: Runs on so many rows only, and its times are scaled by the row.
        threaded: Can use several threads.
        tolerance: Largest relative difference of its values (1e-9 where all is float64).
        differs: Values that differ and why (``*`` for all); the page says it, nothing is compared.
        floor: Not the task but a bound of it (one pass over the data, a binary format).
    """

    name: str
    needs: str
    prepare: Callable[[Case], Job]
    computes: str = ""
    kind: str = ""
    max_rows: int | None = None
    threaded: bool = False
    tolerance: float = 1e-9
    differs: dict[str, str] = field(default_factory=dict)
    floor: bool = False

    @property
    def ours(self) -> bool:
        """Whether this is dexml."""
        return self.name.startswith("dexml")


@dataclass(frozen=True)
class Task:
    """Something that all competitors do.

    Args:
        name: On the command line.
        title: In the table.
        parts: Parts of the data that it reads.
        work: Amount of work of all rows, for the rate.
        unit: ``"MB/s"`` and the like (work per CPU second / `scale`), or ``"us/row"``.
        rows: Rows that `max_rows` refers to.
        competitors: Ours first.
    """

    name: str
    title: str
    parts: tuple[str, ...]
    work: Callable[[Case], float]
    unit: str
    competitors: Sequence[Competitor]
    rows: Callable[[Size], int] = lambda size: 0
    scale: float = 1.0

    def rate(self, work: float, seconds: float) -> float:
        """Work a second, or microseconds a row."""
        if self.unit.startswith("us/"):
            return 1e6 * seconds / work
        return work / self.scale / seconds


def digest(*arrays: Array) -> str:
    """A short name of the contents."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()[:16]


def csr_values(y: Any, prefix: str = "") -> Values:
    """Shape, pattern and sums of a sparse matrix; the values may differ by float32 rounding."""
    if not y.has_sorted_indices:
        y = y.copy()
        y.sort_indices()
    indptr, indices = np.asarray(y.indptr, np.int64), np.asarray(y.indices, np.int32)
    data = np.asarray(y.data, np.float64)
    return {
        f"{prefix}shape": f"{y.shape[0]} x {y.shape[1]}",
        f"{prefix}pattern": digest(indptr, indices),
        f"{prefix}sum": float(data.sum()),
        f"{prefix}weighted sum": float(data @ (np.arange(len(data)) % 1_009)),
    }


def ranking_values(ids: Array, scores: Array) -> Values:
    """The ids in their order, and the sum of the scores."""
    order = digest(np.asarray(ids, np.int32))
    return {"ranking": order, "scores": float(np.asarray(scores, np.float64).sum())}
