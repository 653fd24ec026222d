"""Which search for which task, and how well the approximate one finds what exact search finds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dexml.index.exact import Hits
from dexml.index.facts import Recall

EXACT_UP_TO = 50_000
"""Labels up to which exact search is the default, for k <= 10: up to there it is about as fast, and
certain (measured with D = 384 on one thread)."""
EXACT_TEST_UP_TO = 131_072
"""The same for k <= 100 or a few queries."""
BREAK_EVEN = 90_000
"""Queries that must come before building a graph pays (measured with 131,072 labels, D = 384)."""
MEASURED_KS = (10, 100)
"""Recall is always known at these k."""
RECALL_QUERIES, EDIT_QUERIES = 1000, 250
"""Queries that recall is measured with when a graph is built, and after edits."""
M_RANGE, EF_CONSTRUCTION_RANGE = (2, 256), (8, 65_536)
"""With M 1 hnswlib fails, and beyond 10,000 it takes another than it was told."""
MAX_EF = 4096
"""Beyond this, comparing all labels is the better search."""


def choose_search(
    n_labels: int, n_queries: int | None = None, k: int = 10, device: str = "cpu"
) -> Literal["exact", "hnsw"]:
    """Choose the search that is faster for a task, and the exact one where they are close.

    The rule, from measurements with D = 384 on one CPU thread (exact: 12 ns a label and query;
    HNSW: 0.3 ms a query at recall@10 of 0.99, its building 0.9 ms a label):

    1. on a GPU: exact;
    2. k > 100: exact (at high recall HNSW is no faster there);
    3. up to 50,000 labels, or 131,072 for k > 10: exact;
    4. fewer than 90,000 queries in all: exact, because building the graph costs more;
    5. else HNSW.

    Args:
        n_labels: Labels to search.
        n_queries: Queries that will be asked, if known; None: a service without end.
        k: Labels a query.
        device: ``cpu``, ``cuda``, ``cuda:1``.

    Examples:
        >>> choose_search(131_073), choose_search(131_073, 30_000), choose_search(17_000)
        ('hnsw', 'exact', 'exact')
    """
    if device.split(":")[0] != "cpu" or k > MEASURED_KS[-1]:
        return "exact"
    if n_labels <= (EXACT_UP_TO if k <= MEASURED_KS[0] else EXACT_TEST_UP_TO):
        return "exact"
    return "exact" if n_queries is not None and n_queries < BREAK_EVEN else "hnsw"


def wanted_recall(k: int) -> float:
    """Recall@k that is asked for by default: 0.99 for k <= 10, else 0.98."""
    return 0.99 if k <= MEASURED_KS[0] else 0.98


def graph_parameters(k: int) -> tuple[int, int]:
    """Links of a node and candidates while building (M, ef_construction) for k labels a query."""
    return (16, 200) if k <= MEASURED_KS[0] else (32, 400)


def check_parameters(
    *, k: int, m: int | None, ef_construction: int | None, recall: float | None, seed: int
) -> None:
    """Refuse what an index cannot be built with; None stands for the default.

    Raises:
        TypeError: No whole number where one is asked for.
        ValueError: Out of range.
    """
    for name, value, low, high in (
        ("k", k, 1, 2**31 - 1),
        ("m", m, *M_RANGE),
        ("ef_construction", ef_construction, *EF_CONSTRUCTION_RANGE),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if value is not None and not low <= operator.index(value) <= high:
            raise ValueError(f"{name} = {value}; expected {low} to {high}")
    if recall is not None and not 0 < recall <= 1:
        raise ValueError(f"recall = {recall}; expected more than 0 and at most 1")


def measure(
    search: Callable[[int, int], Hits],
    truth: NDArray[np.float32],
    targets: Sequence[tuple[int, float]],
    n_labels: int,
    start: int = 0,
) -> tuple[Recall, ...]:
    """Raise `ef` for each k until the wanted recall is reached.

    A label counts as found by its score: of labels with equal vectors any is as good as another.

    Args:
        search: Approximate search of the queries with (k, ef).
        truth: Scores of exact search, (n, K), K at least the largest k.
        targets: Each k with its wanted recall; k ascending.
        n_labels: Labels there are; no `ef` is larger.
        start: Lowest `ef` tried.
    """
    found: list[Recall] = []
    for k, wanted in targets:
        k = min(k, n_labels)
        if any(row.k == k for row in found):
            continue
        ef = max(start, 64 if k <= MEASURED_KS[0] else 256, 2 * k)
        while True:
            ef = min(ef, n_labels)
            recall = _recall(search(k, ef)[1], truth[:, :k])
            if recall >= wanted or ef >= min(MAX_EF, n_labels):
                break
            ef = min(ef * 3 // 2, MAX_EF)
        found.append(Recall(k, ef, recall, wanted, len(truth)))
    return tuple(found)


def _recall(found: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    there = truth > -np.inf
    if not there.any():
        return 1.0
    least = np.where(there, truth, np.inf).min(axis=1, keepdims=True)
    return float(((found >= least) & (found > -np.inf)).sum() / there.sum())
