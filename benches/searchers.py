"""The searches that `search.py` compares: ours, and what one would write or install instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Search = Callable[[Array, int], NDArray[Any]]
"""Queries and k to ids (n, k)."""


def plain_numpy(vectors: Array, made: dict[str, Any], folder: Path, threads: int) -> Search:
    def search(queries: Array, k: int) -> NDArray[Any]:
        out = np.empty((len(queries), k), np.int64)
        rows = max(1, 2**25 // len(vectors))
        for start in range(0, len(queries), rows):
            scores = queries[start : start + rows] @ vectors.T
            best = np.argpartition(scores, -k, axis=1)[:, -k:]
            order = np.take_along_axis(scores, best, axis=1).argsort(axis=1)[:, ::-1]
            out[start : start + rows] = np.take_along_axis(best, order, axis=1)
        return out

    return search


def bare_blas(vectors: Array, made: dict[str, Any], folder: Path, threads: int) -> Search:
    """The products alone: nothing is found."""

    def search(queries: Array, k: int) -> NDArray[Any]:
        rows = max(1, min(1024, len(queries)))
        columns = 2**25 // rows
        for start in range(0, len(queries), rows):
            for first in range(0, len(vectors), columns):
                queries[start : start + rows] @ vectors[first : first + columns].T
        return np.zeros((len(queries), 0), np.int64)

    return search


def dexml_exact(vectors: Array, made: dict[str, Any], folder: Path, threads: int) -> Search:
    from dexml.index import LabelIndex

    index = LabelIndex.load(folder / "dexml")
    return lambda queries, k: index.search(queries, k, search="exact", num_threads=threads)[0]


def dexml_hnsw(vectors: Array, made: dict[str, Any], folder: Path, threads: int) -> Search:
    from dexml.index import LabelIndex

    index = LabelIndex.load(folder / "dexml")
    return lambda queries, k: index.search(queries, k, search="hnsw", num_threads=threads)[0]


def bare_hnswlib(vectors: Array, made: dict[str, Any], folder: Path, threads: int) -> Search:
    """The very graph that dexml built."""
    import hnswlib

    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    graph.load_index(str(next((folder / "dexml").glob("graph-*.hnsw"))))

    def search(queries: Array, k: int) -> NDArray[Any]:
        graph.set_ef(made["ef"][str(k)])
        ids: NDArray[Any] = graph.knn_query(queries, k=k, num_threads=threads)[0]
        return ids

    return search


def faiss_flat(vectors: Array, made: dict[str, Any], folder: Path, threads: int) -> Search:
    import faiss

    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    faiss.omp_set_num_threads(threads)
    return lambda queries, k: flat.search(queries, k)[1]


def faiss_hnsw(vectors: Array, made: dict[str, Any], folder: Path, threads: int) -> Search:
    import faiss

    path = folder / "faiss"
    if path.exists():
        graph = faiss.read_index(str(path))
    else:
        graph = faiss.IndexHNSWFlat(vectors.shape[1], made["m"], faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = made["ef_construction"]
        faiss.omp_set_num_threads(1)
        graph.add(vectors)
        faiss.write_index(graph, str(path))
    faiss.omp_set_num_threads(threads)

    def search(queries: Array, k: int) -> NDArray[Any]:
        graph.hnsw.efSearch = made["ef"][str(k)]
        ids: NDArray[Any] = graph.search(queries, k)[1]
        return ids

    return search


def usearch_hnsw(vectors: Array, made: dict[str, Any], folder: Path, threads: int) -> Search:
    from usearch.index import Index  # type: ignore[import-not-found,unused-ignore]

    path = folder / "usearch"
    graph = Index(
        ndim=vectors.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=made["m"],
        expansion_add=made["ef_construction"],
    )
    if path.exists():
        graph.load(str(path))
    else:
        graph.add(np.arange(len(vectors)), vectors, threads=1)
        graph.save(str(path))

    def search(queries: Array, k: int) -> NDArray[Any]:
        graph.expansion_search = made["ef"][str(k)]
        ids: NDArray[Any] = graph.search(queries, k, threads=threads).keys
        return ids

    return search


COMPETITORS = {
    "bare BLAS (products only)": (bare_blas, ()),
    "numpy, argpartition": (plain_numpy, ()),
    "faiss flat": (faiss_flat, ("faiss",)),
    "dexml exact": (dexml_exact, ()),
    "hnswlib directly": (bare_hnswlib, ("hnswlib",)),
    "dexml hnsw": (dexml_hnsw, ("hnswlib",)),
    "faiss HNSW": (faiss_hnsw, ("faiss",)),
    "usearch HNSW": (usearch_hnsw, ("usearch",)),
}
GRAPHS = ("hnswlib directly", "dexml hnsw", "faiss HNSW", "usearch HNSW")
OVERHEAD = {"dexml exact": "bare BLAS (products only)", "dexml hnsw": "hnswlib directly"}
