"""Competitors that pick, merge and filter rankings."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from peers.data import K
from peers.jobs import Case, Competitor, Job, Task, Values, digest, ranking_values


def _pair(out: Any) -> Values:
    return ranking_values(out[0], out[1])


def dexml_dense(case: Case) -> Job:
    from dexml.topk import topk  # type: ignore[import-not-found,unused-ignore]

    scores = case.array("dense/scores")
    return Job(lambda: topk(scores, K, num_threads=case.threads), _pair)


def numpy_dense(case: Case) -> Job:
    scores = case.array("dense/scores")

    def run() -> Any:
        ids = np.argpartition(scores, -K, axis=1)[:, -K:]
        top = np.take_along_axis(scores, ids, axis=1)
        order = np.argsort(-top, axis=1)
        return np.take_along_axis(ids, order, axis=1), np.take_along_axis(top, order, axis=1)

    return Job(run, _pair)


def torch_dense(case: Case) -> Job:
    import torch

    torch.set_num_threads(case.threads)
    scores = torch.from_numpy(case.array("dense/scores"))
    return Job(
        lambda: torch.topk(scores, K, dim=1),
        lambda out: ranking_values(out.indices.numpy(), out.values.numpy()),
    )


def one_pass(case: Case) -> Job:
    scores = case.array("dense/scores")
    return Job(lambda: scores.max(axis=1), lambda out: {})


def dexml_merge(case: Case) -> Job:
    from dexml.topk import merge  # type: ignore[import-not-found,unused-ignore]

    ids, scores = case.shards
    return Job(lambda: merge(ids, scores, K, num_threads=case.threads), _pair)


def numpy_merge(case: Case) -> Job:
    ids, scores = case.shards

    def run() -> Any:
        all_ids, all_scores = (np.concatenate(list(part), axis=1) for part in (ids, scores))
        best = np.argpartition(all_scores, -K, axis=1)[:, -K:]
        top = np.take_along_axis(all_scores, best, axis=1)
        order = np.argsort(-top, axis=1)
        best = np.take_along_axis(best, order, axis=1)
        top = np.take_along_axis(top, order, axis=1)
        return np.take_along_axis(all_ids, best, axis=1), top

    return Job(run, _pair)


def torch_merge(case: Case) -> Job:
    import torch

    torch.set_num_threads(case.threads)
    ids, scores = (torch.from_numpy(part) for part in case.shards)

    def run() -> Any:
        top = torch.topk(torch.cat(list(scores), dim=1), K, dim=1)
        return torch.gather(torch.cat(list(ids), dim=1), 1, top.indices), top.values

    return Job(run, lambda out: ranking_values(out[0].numpy(), out[1].numpy()))


def faiss_merge(case: Case) -> Job:
    import faiss

    faiss.omp_set_num_threads(case.threads)
    ids, scores = case.shards
    ids = ids.astype(np.int64)  # faiss knows no other

    def run() -> Any:
        top, merged = faiss.merge_knn_results(scores, ids, keep_max=True)
        return merged, top

    return Job(run, _pair)


def _first_predictions(case: Case) -> csr_matrix:
    y_pred = case.predictions
    n = case.size.exclude_rows
    stop = y_pred.indptr[n]
    parts = (y_pred.data[:stop].copy(), y_pred.indices[:stop].copy(), y_pred.indptr[: n + 1].copy())
    return csr_matrix(parts, shape=(n, y_pred.shape[1]))


def _kept(out: csr_matrix) -> Values:
    """Entries left in each row, and their sums."""
    counts = np.diff(out.indptr).astype(np.int64)
    ids, scores = out.indices.astype(np.float64), out.data.astype(np.float64)
    return {"kept": digest(counts), "ids": float(ids.sum()), "scores": float(scores.sum())}


def dexml_exclude(case: Case) -> Job:
    from dexml.topk import drop_pairs  # type: ignore[import-not-found,unused-ignore]

    y_pred = csr_array(_first_predictions(case))
    rows, labels = case.pairs
    pairs = csr_array((np.ones(len(rows), np.float32), (rows, labels)), shape=y_pred.shape)
    return Job(lambda: drop_pairs(y_pred, pairs, num_threads=case.threads), _kept)


def assign_exclude(case: Case) -> Job:
    """The way of the DEXML code: assign 0, drop the zeros; absent pairs are stored in between."""
    y_pred = _first_predictions(case)
    rows, labels = case.pairs

    def run() -> Any:
        left = y_pred.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy calls it inefficient
            left[rows, labels] = 0
        left.eliminate_zeros()
        return left

    return Job(run, _kept)


def lookup_exclude(case: Case) -> Job:
    """The same, with a look first at which pairs are there."""
    y_pred = _first_predictions(case)
    rows, labels = case.pairs

    def run() -> Any:
        left = y_pred.copy()
        there = np.asarray(left[rows, labels]).ravel() != 0
        left[rows[there], labels[there]] = 0
        left.eliminate_zeros()
        return left

    return Job(run, _kept)


def multiply_exclude(case: Case) -> Job:
    """Subtract what both matrices store."""
    y_pred = _first_predictions(case)
    rows, labels = case.pairs
    ones = np.ones(len(rows), np.float32)
    pairs = csr_matrix((ones, (rows, labels)), shape=y_pred.shape)

    def run() -> Any:
        left = y_pred - y_pred.multiply(pairs)
        left.eliminate_zeros()
        return left

    return Job(run, _kept)


TASKS = (
    Task(
        "topk",
        "Top 100 of dense scores",
        ("dense",),
        lambda case: case.size.dense_rows * case.size.n_labels * 4.0,
        "GB/s",
        (
            Competitor("dexml", "dexml.topk", dexml_dense, "ids and scores, sorted", threaded=True),
            Competitor("numpy", "numpy", numpy_dense, "argpartition, argsort"),
            Competitor("torch", "torch", torch_dense, "topk", threaded=True),
            Competitor("one pass", "numpy", one_pass, "numpy's maximum a row", floor=True),
        ),
        scale=1e9,
    ),
    Task(
        "merge",
        "Merge ten rankings of 100",
        ("merge",),
        lambda case: case.size.merge_rows,
        "us/row",
        (
            Competitor("dexml", "dexml.topk", dexml_merge, threaded=True),
            Competitor("numpy", "numpy", numpy_merge, "concatenate, argpartition, argsort"),
            Competitor("torch", "torch", torch_merge, "cat, topk, gather", threaded=True),
            Competitor("faiss", "faiss", faiss_merge, "merge_knn_results, int64 ids",
                       threaded=True),
        ),
    ),
    Task(
        "exclude",
        "Drop excluded pairs",
        ("eval",),
        lambda case: case.size.exclude_rows,
        "us/row",
        (
            Competitor("dexml", "dexml.topk", dexml_exclude, threaded=True),
            Competitor("scipy, assignment", "scipy", assign_exclude),
            Competitor("scipy, look-up", "scipy", lookup_exclude),
            Competitor("scipy, multiply", "scipy", multiply_exclude),
        ),
    ),
)  # fmt: skip
