"""Competitors that evaluate rankings, and that weigh labels by propensity.

Every competitor says which metrics it computes; those that need k named get `KS`, the others give
every k up to the largest. Conversion into a peer's own objects is never timed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from peers.jobs import Array, Case, Competitor, Job, Task, Values

KS = {5: (1, 3, 5), 100: (1, 5, 10, 50, 100)}
FIVE = ("P", "nDCG", "R", "PSP", "PSnDCG")


def _curves(k: int, curves: dict[str, Any]) -> Values:
    """Values at `KS[k]` from arrays over 1..k."""
    return {f"{name}@{at}": float(curve[at - 1]) for name, curve in curves.items() for at in KS[k]}


def dexml(kind: str, k: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from dexml.metrics import evaluate

        y_true = csr_array(case.truth)
        y_pred = csr_array(case.predictions) if kind == "csr" else case.ids[:, :k].copy()
        weights = case.weights
        names = [f"{name}@{at}" for name in FIVE for at in KS[k]]
        return Job(
            lambda: evaluate(
                y_true, y_pred, names, inv_propensity=weights, num_threads=case.threads
            ),
            lambda out: dict(out),
        )

    return prepare


def pyxclib(kind: str, k: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from xclib.evaluation.xc_metrics import Metrics

        y_true, weights = case.truth, case.weights
        y_pred = case.predictions if kind == "csr" else case.ids
        names = ("P", "nDCG", "PSP", "PSnDCG")
        return Job(
            lambda: Metrics(y_true, weights).eval(y_pred, k, sorted=kind == "ids"),
            lambda out: _curves(k, dict(zip(names, out, strict=True))),
        )

    return prepare


def napkinxc(kind: str, k: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from napkinxc import metrics

        y_true: Any = case.truth
        y_pred: Any = case.predictions if kind == "csr" else case.ids.tolist()
        if kind == "ids":
            indptr, ids = y_true.indptr, y_true.indices.tolist()
            y_true = [ids[i:j] for i, j in pairwise(indptr)]
        weights = case.weights

        def run() -> dict[str, Array]:
            return {
                "P": metrics.precision_at_k(y_true, y_pred, k=k),
                "R": metrics.recall_at_k(y_true, y_pred, k=k),
                "nDCG": metrics.ndcg_at_k(y_true, y_pred, k=k),
                "PSP": metrics.psprecision_at_k(y_true, y_pred, weights, k=k),
                "PSnDCG": metrics.psndcg_at_k(y_true, y_pred, weights, k=k),
            }

        return Job(run, lambda out: _curves(k, out))

    return prepare


def pecos(kind: str, k: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from pecos.utils.smat_util import Metrics

        y_true, y_pred = case.truth, case.predictions
        return Job(
            lambda: Metrics.generate(y_true, y_pred, topk=k),
            lambda out: _curves(k, {"P": out.prec, "R": out.recall}),
        )

    return prepare


def rank_matrix(kind: str, k: int) -> Callable[[Case], Job]:
    """The method of the DEXML code: rank every row, intersect with the truth, cut at each k."""

    def prepare(case: Case) -> Job:
        y_true, y_pred, weights = case.truth, case.predictions, case.weights.astype(np.float32)

        def run() -> Values:
            ranks = y_pred.copy()
            for start, stop in pairwise(ranks.indptr):
                order = np.argsort(-ranks.data[start:stop], kind="mergesort")
                ranks.data[start + order] = np.arange(1, stop - start + 1)
            hits = ranks.multiply(y_true).tocsr()
            n_true = np.diff(y_true.indptr)
            discounts = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, 102)))])
            rows = np.repeat(np.arange(len(n_true)), n_true)
            order = np.lexsort([-weights[y_true.indices], rows])
            ideal = weights[y_true.indices][order]
            place = np.arange(len(rows)) - y_true.indptr[rows]
            found: Values = {}
            for at in sorted(KS[k], reverse=True):
                hits.data[hits.data > at] = 0
                hits.eliminate_zeros()
                found[f"P@{at}"] = float((hits.getnnz(1) / at).mean())
                recalled = hits.getnnz(1) / np.maximum(n_true, 1)
                found[f"R@{at}"] = float(recalled.mean())
                gains = hits.copy()
                gains.data = 1 / np.log2(1 + gains.data)
                norm = discounts[np.minimum(n_true, at)]
                dcg = np.asarray(gains.sum(1)).ravel()
                found[f"nDCG@{at}"] = float((dcg / np.where(norm > 0, norm, 1)).mean())
                gained = float(weights[hits.indices].sum(dtype=np.float64))
                found[f"PSP@{at}"] = gained / float(ideal[place < at].sum(dtype=np.float64))
            return found

        return Job(run, lambda out: out)

    return prepare


def lookup(kind: str, k: int) -> Callable[[Case], Job]:
    """The method of pyxclib in numpy and scipy: look every ranked label up in the truth."""

    def prepare(case: Case) -> Job:
        y_true, ids, weights = case.truth, case.ids[:, :k].copy(), case.weights

        def run() -> dict[str, Array]:
            n = len(ids)
            rows = np.repeat(np.arange(n), k)
            wanted = np.asarray(y_true[rows, ids.ravel()], np.float64).reshape(n, k)
            n_true = np.diff(y_true.indptr)
            row_of = np.repeat(np.arange(n), n_true)
            order = np.lexsort([-weights[y_true.indices], row_of])
            place = np.arange(len(row_of)) - y_true.indptr[row_of]
            kept = place < k
            best = np.zeros((n, k))
            best[row_of[kept], place[kept]] = weights[y_true.indices][order][kept]
            discount = 1 / np.log2(np.arange(2, k + 2))
            ideal = np.concatenate([[0], np.cumsum(discount)])
            norm = ideal[np.minimum(np.maximum(n_true, 1)[:, None], np.arange(1, k + 1))]
            gains = weights[ids] * wanted
            places = np.arange(1, k + 1)
            found = {
                "P": np.cumsum(wanted, 1).mean(0) / places,
                "R": (np.cumsum(wanted, 1) / np.maximum(n_true, 1)[:, None]).mean(0),
                "nDCG": (np.cumsum(wanted * discount, 1) / norm).mean(0),
                "PSP": np.cumsum(gains, 1).sum(0) / np.cumsum(best, 1).sum(0),
            }
            found["PSnDCG"] = (np.cumsum(gains * discount, 1) / norm).sum(0)
            found["PSnDCG"] /= (np.cumsum(best * discount, 1) / norm).sum(0)
            return found

        return Job(run, lambda out: _curves(k, out))

    return prepare


def ranx(kind: str, k: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from numba.typed import List
        from ranx import evaluate

        y_true, ids = case.truth, case.ids.astype(np.float64)
        qrels, run = List(), List()
        scores = np.arange(ids.shape[1], 0, -1.0)
        for row, (start, stop) in enumerate(pairwise(y_true.indptr)):
            labels = y_true.indices[start:stop].astype(np.float64)
            qrels.append(np.column_stack([labels, np.ones(len(labels))]))
            run.append(np.column_stack([ids[row], scores]))
        names = [f"{name}@{at}" for name in ("precision", "recall", "ndcg") for at in KS[k]]
        ours = [f"{name}@{at}" for name in ("P", "R", "nDCG") for at in KS[k]]

        def values(out: Any) -> Values:
            return {new: float(out[old]) for new, old in zip(ours, names, strict=True)}

        few = 20  # compiled for the same types
        return Job(
            lambda: evaluate(qrels, run, names, threads=case.threads),
            values,
            lambda: evaluate(qrels[:few], run[:few], names, threads=case.threads),
        )

    return prepare


def pytrec_eval(kind: str, k: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from pytrec_eval import RelevanceEvaluator

        y_true, ids = case.truth, case.ids
        qrels, run = {}, {}
        for row, (start, stop) in enumerate(pairwise(y_true.indptr)):
            qrels[str(row)] = {str(label): 1 for label in y_true.indices[start:stop]}
            ranked = map(str, ids[row])
            run[str(row)] = {label: float(-at) for at, label in enumerate(ranked)}
        at = ",".join(map(str, KS[k]))
        evaluator = RelevanceEvaluator(qrels, {f"P.{at}", f"recall.{at}", f"ndcg_cut.{at}"})

        def values(out: Any) -> Values:
            n = len(ids)
            return {
                f"{ours}@{at}": sum(row[f"{name}_{at}"] for row in out.values()) / n
                for ours, name in (("P", "P"), ("R", "recall"), ("nDCG", "ndcg_cut"))
                for at in KS[k]
            }

        return Job(lambda: evaluator.evaluate(run), values)

    return prepare


def torchmetrics(kind: str, k: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        import torch
        from torchmetrics.retrieval import RetrievalPrecision

        torch.set_num_threads(case.threads)
        y_true, ids = case.truth, case.ids
        n, width = ids.shape
        rows = np.repeat(np.arange(n), width)
        wanted = np.asarray(y_true[rows, ids.ravel()]).ravel() > 0
        preds = torch.from_numpy(np.tile(np.arange(width, 0, -1, dtype=np.float32) / width, n))
        target, indexes = torch.from_numpy(wanted), torch.from_numpy(rows)

        def run() -> Values:
            found: Values = {}
            for at in KS[k]:
                metric = RetrievalPrecision(top_k=at)
                metric.update(preds, target, indexes=indexes)
                found[f"P@{at}"] = float(metric.compute())
            return found

        return Job(run, lambda out: out)

    return prepare


def sklearn(kind: str, k: int) -> Callable[[Case], Job]:
    def prepare(case: Case) -> Job:
        from sklearn.metrics import ndcg_score

        # Dense over the labels of its own row alone: its ranking, then the positives it misses.
        y_true, ids = case.truth, case.ids
        n, width = ids.shape
        n_true = np.diff(y_true.indptr)
        relevance = np.zeros((n, width + int(n_true.max())))
        rows = np.repeat(np.arange(n), width)
        wanted = np.asarray(y_true[rows, ids.ravel()]).reshape(n, width) > 0
        relevance[:, :width] = wanted
        missed = n_true - wanted.sum(1)
        relevance[:, width:] = np.arange(relevance.shape[1] - width) < missed[:, None]
        scores = np.tile(-np.arange(relevance.shape[1], dtype=np.float64), (n, 1))

        def run() -> Values:
            return {
                f"nDCG@{at}": float(ndcg_score(relevance, scores, k=at, ignore_ties=True))
                for at in KS[k]
            }

        return Job(run, lambda out: out)

    return prepare


def dexml_propensity(case: Case) -> Job:
    from dexml.metrics import inv_propensity

    y = csr_array(case.matrix("lf", case.size.n_labels))
    return Job(lambda: inv_propensity(y), _weights)


def napkinxc_propensity(case: Case) -> Job:
    from napkinxc.metrics import Jain_et_al_inverse_propensity

    y = case.matrix("lf", case.size.n_labels)
    return Job(lambda: Jain_et_al_inverse_propensity(y), _weights)


def pyxclib_propensity(case: Case) -> Job:
    from xclib.evaluation.xc_metrics import compute_inv_propesity

    y = case.matrix("lf", case.size.n_labels)
    return Job(lambda: compute_inv_propesity(y, 0.55, 1.5), _weights)


def numpy_propensity(case: Case) -> Job:
    y = case.matrix("lf", case.size.n_labels)

    def run() -> Array:
        frequency = np.bincount(y.indices[y.data > 0], minlength=y.shape[1])
        c = (np.log(y.shape[0]) - 1) * 2.5**0.55
        return np.asarray(1 + c * (frequency + 1.5) ** -0.55)

    return Job(run, _weights)


def _weights(out: Any) -> Values:
    weights = np.asarray(out, np.float64).ravel()
    return {"sum": float(weights.sum()), "weighted": float(weights @ (np.arange(len(weights)) % 7))}


def _evaluation(k: int) -> Task:
    many = ", ".join(map(str, KS[k]))
    every = f"P, nDCG, R, PSP, PSnDCG at every k <= {k}"
    half = {5: 1, 100: 5}[k]  # rows of the slow ones

    def entry(
        name: str, needs: str, make: Callable[[str, int], Callable[[Case], Job]], **more: Any
    ) -> Competitor:
        return Competitor(name, needs, make(more.get("kind", "ids"), k), **more)

    return Task(
        f"evaluate-{k}",
        f"Evaluate, k <= {k}",
        ("eval",),
        lambda case: case.size.eval_rows,
        "us/row",
        (
            entry("dexml, ids", "dexml", dexml, kind="ids", computes=every, threaded=True),
            entry("dexml, CSR", "dexml", dexml, kind="csr", computes=every, threaded=True),
            entry("pyxclib, ids", "xclib", pyxclib, kind="ids", max_rows=200_000, tolerance=2e-6,
                  computes=f"P, nDCG, PSP, PSnDCG at every k <= {k}"),
            entry("pyxclib, CSR", "xclib", pyxclib, kind="csr", max_rows=200_000, tolerance=2e-6,
                  computes=f"P, nDCG, PSP, PSnDCG at every k <= {k}"),
            entry("numpy + scipy, pyxclib's method", "scipy", lookup, kind="ids",
                  max_rows=200_000, computes=every),
            entry("numpy + scipy, DEXML's method", "scipy", rank_matrix, kind="csr",
                  max_rows=200_000, tolerance=1e-5, computes=f"P, nDCG, R, PSP at {many}"),
            entry("PECOS", "pecos.utils.smat_util", pecos, kind="csr", max_rows=200_000,
                  computes=f"P, R at every k <= {k}"),
            entry("napkinXC, lists", "napkinxc", napkinxc, kind="ids", max_rows=50_000 // half,
                  computes=every),
            entry("napkinXC, CSR", "napkinxc", napkinxc, kind="csr", max_rows=5_000 // half,
                  computes=every),
            entry("ranx", "ranx", ranx, kind="ids", max_rows=50_000, threaded=True,
                  computes=f"P, R, nDCG at {many}"),
            entry("pytrec_eval", "pytrec_eval", pytrec_eval, kind="ids", max_rows=20_000,
                  computes=f"P, R, nDCG at {many}"),
            entry("torchmetrics", "torchmetrics", torchmetrics, kind="ids", max_rows=2_000,
                  threaded=True, tolerance=1e-5, computes=f"P at {many}"),
            entry("scikit-learn", "sklearn", sklearn, kind="ids", max_rows=20_000,
                  computes=f"nDCG at {many}, dense over 100 ranked + positives"),
        ),
        rows=lambda size: size.eval_rows,
    )  # fmt: skip


TASKS = (
    _evaluation(5),
    _evaluation(100),
    Task(
        "propensity",
        "Inverse propensities",
        ("lf",),
        lambda case: len(case.array("lf/indices")),
        "M entries/s",
        (
            Competitor("dexml", "dexml", dexml_propensity),
            Competitor("numpy", "numpy", numpy_propensity, "bincount"),
            Competitor(
                "napkinXC", "napkinxc", napkinxc_propensity, "float32 inside", tolerance=1e-6
            ),
            Competitor("pyxclib", "xclib", pyxclib_propensity, "float32 inside", tolerance=1e-6),
        ),
        scale=1e6,
    ),
)
