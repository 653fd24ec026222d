"""Training with sentence-transformers: an evaluator, hard negatives, and rows for a data set.

With `dexml.losses.InBatchLoss`, the loss of its trainer. Points are what it calls queries, labels
what it calls documents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dexml import console

console.require("sentence-transformers", "sentence_transformers")

# isort: split
from sentence_transformers.base.evaluation.evaluator import BaseEvaluator

from dexml.data import Csr, label_matrix
from dexml.index import exact_search
from dexml.metrics import evaluate
from dexml.sampling import LabelGraph, NegativeSampler

__all__ = ["XmcEvaluator", "shortlist", "training_columns"]
Labels = Csr | Sequence[Sequence[int]]
"""Labels of points: a sparse matrix (n_points, n_labels), or a list of label ids for each point."""


class XmcEvaluator(BaseEvaluator):  # type: ignore[misc]  # its package has no types for it
    """Scores a model on points and labels, all labels compared: an evaluator of the trainer.

    The metrics and their conventions are those of `dexml.metrics.evaluate`.
    """

    def __init__(
        self,
        texts: Sequence[str],
        label_texts: Sequence[str],
        y_true: Labels,
        metrics: Sequence[str] = ("P@1", "P@5", "R@100"),
        *,
        exclude: Csr | None = None,
        inv_propensity: NDArray[np.float64] | None = None,
        normalize: bool = True,
        batch_size: int = 64,
        name: str = "",
    ) -> None:
        """Keep what is scored.

        Args:
            texts: Points to score.
            label_texts: The text of each label, by label id.
            y_true: Their labels.
            metrics: Names such as ``"nDCG@5"``; the first is what the trainer selects by.
            exclude: Pairs (point, label) to leave out, shape of `y_true`.
            inv_propensity: Weights for the PS metrics.
            normalize: Compare by cosine, as `InBatchLoss` does by default; else by dot product.
            batch_size: Texts that are encoded at a time.
            name: Put before the names of metrics.

        Raises:
            ValueError: Texts and labels differ in number.
        """
        super().__init__()
        self.texts, self.label_texts = list(texts), list(label_texts)
        self.y_true = label_matrix(y_true, len(self.texts), len(self.label_texts))
        self.metrics, self.exclude = tuple(metrics), exclude
        self.inv_propensity, self.normalize = inv_propensity, normalize
        self.batch_size, self.name = batch_size, name
        self.primary_metric = f"{name}_{self.metrics[0]}" if name else self.metrics[0]

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return the metrics of a model; the arguments are those that the trainer gives."""
        ks = [int(k) for metric in self.metrics for k in re.findall(r"@(\d+)", metric)]
        points, labels = _vectors(
            model, self.texts, self.label_texts, self.normalize, self.batch_size
        )
        ids, _ = exact_search(points, labels, max([1, *ks]), exclude=self.exclude)
        found = evaluate(
            self.y_true,
            ids,
            self.metrics,
            inv_propensity=self.inv_propensity,
            exclude=self.exclude,
        )
        named: dict[str, float] = self.prefix_name_to_metrics(found, self.name)
        self.store_metrics_in_model_card_data(model, named, epoch, steps)
        return named

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says of the evaluation."""
        return {"n_points": len(self.texts), "n_labels": len(self.label_texts)}


def shortlist(
    model: Any,
    texts: Sequence[str],
    label_texts: Sequence[str],
    y: Labels,
    *,
    k: int = 50,
    normalize: bool = True,
    batch_size: int = 64,
) -> NDArray[np.int32]:
    """Find the labels that a model takes for right and that are not: hard negatives.

    Args:
        model: A model of sentence-transformers.
        texts: Training points.
        label_texts: The text of each label, by label id.
        y: The labels of the points; they are left out.
        k: Labels a point.
        normalize: Compare by cosine.
        batch_size: Texts that are encoded at a time.

    Returns:
        Label ids, shape (n_points, k), int32, best first, padded with -1.
    """
    matrix = label_matrix(y, len(texts), len(label_texts))
    points, labels = _vectors(model, list(texts), list(label_texts), normalize, batch_size)
    return exact_search(points, labels, min(k, len(label_texts)), exclude=matrix)[0]


def training_columns(
    texts: Sequence[str],
    label_texts: Sequence[str],
    y: Labels,
    *,
    n_negatives: int = 0,
    seed: int,
    epoch: int = 0,
    sources: str | Mapping[str, float] = "uniform",
    shortlist: NDArray[np.integer[Any]] | Csr | None = None,
    graph: LabelGraph | Csr | None = None,
    graph_weights: Literal["edge", "uniform"] = "edge",
    exclude: Csr | None = None,
) -> dict[str, list[Any]]:
    """Make rows for a data set of sentence-transformers: one for each point and label of it.

    ``datasets.Dataset.from_dict(training_columns(...))`` trains with `InBatchLoss`. The column
    ``labels`` holds, for each row, the ids of all labels of the point, that of the row first,
    padded with -1: so a label of the batch that is right for a point is never its negative. A
    negative column of another row can still be; drawn ones are never right for their own row.

    Args:
        texts: Training points.
        label_texts: The text of each label, by label id.
        y: The labels of the points.
        n_negatives: Columns ``negative_1``, ... of labels that are not the point's.
        seed: Seed of the draw.
        epoch: Another one gives other negatives.
        sources: Where negatives come from; this and the rest as in
            `dexml.sampling.sample_negatives`. ``"shortlist"`` with `shortlist` are hard negatives.
        shortlist: Ids of a function of the same name here, or your own.
        graph: For the source ``"graph"``.
        graph_weights: For the source ``"graph"``.
        exclude: Pairs that are never drawn.

    Returns:
        ``point``, ``positive`` (the text of a label), ``negative_1``, ..., ``labels``: columns of
        one length.

    Raises:
        ValueError: A point has too few other labels for `n_negatives`; or as `sample_negatives`.
    """
    matrix = label_matrix(y, len(texts), len(label_texts))
    matrix.sort_indices()
    counts = np.diff(matrix.indptr)
    points = np.repeat(np.arange(len(texts)), counts)
    width = int(counts.max(initial=1)) or 1
    sets = np.full((len(points), width), -1, np.int64)
    for row, (point, label) in enumerate(zip(points, matrix.indices, strict=True)):
        own = matrix.indices[matrix.indptr[point] : matrix.indptr[point + 1]]
        sets[row, : len(own)] = np.concatenate([[label], own[own != label]])
    columns: dict[str, list[Any]] = {
        "point": [texts[point] for point in points.tolist()],
        "positive": [label_texts[label] for label in matrix.indices.tolist()],
    }
    if n_negatives:
        sampler = NegativeSampler(
            matrix,
            n_negatives=n_negatives,
            sources=sources,
            shortlist=shortlist,
            graph=graph,
            graph_weights=graph_weights,
            exclude=exclude,
        )
        drawn = sampler.draw(points, seed=seed, epoch=epoch)
        if (drawn < 0).any():
            first = int(points[np.flatnonzero((drawn < 0).any(axis=1))[0]])
            raise ValueError(
                f"n_negatives = {n_negatives}: point {first} has fewer labels left to draw from"
            )
        for column, ids in enumerate(drawn.T.tolist(), start=1):
            columns[f"negative_{column}"] = [label_texts[i] for i in ids]
    columns["labels"] = sets.tolist()
    return columns


def _vectors(
    model: Any, texts: list[str], label_texts: list[str], normalize: bool, batch_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Encode points and labels, each behind the model's own prompt."""
    given: dict[str, Any] = {
        "batch_size": batch_size,
        "normalize_embeddings": normalize,
        "show_progress_bar": False,
        "convert_to_numpy": True,
    }
    points = model.encode_query(texts, **given)
    labels = model.encode_document(label_texts, **given)
    return np.asarray(points, np.float32), np.asarray(labels, np.float32)
