"""A loss as a module for other training loops: the labels of the batch, positives by group."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dexml.losses.decoupled import decoupled_softmax
from dexml.losses.pairs import Csr


def same_group(point_groups: Tensor, label_groups: Tensor) -> Csr:
    """Find the pairs of points and labels with equal groups, without a matrix of all pairs.

    The same pairs, in the same order, as:

        points, labels = torch.nonzero(point_groups[:, None] == label_groups, as_tuple=True)

    Args:
        point_groups: Whole numbers, shape (B,).
        label_groups: Whole numbers, shape (L,).

    Returns:
        ``(indptr, indices)``, int64: the labels of each point, ascending, as the losses take them.

    Examples:
        >>> indptr, indices = same_group(torch.tensor([7, 8]), torch.tensor([8, 7, 8]))
        >>> indptr.tolist(), indices.tolist()
        ([0, 1, 3], [1, 0, 2])
    """
    groups, order = torch.sort(label_groups, stable=True)
    first = torch.searchsorted(groups, point_groups)
    counts = torch.searchsorted(groups, point_groups, right=True) - first
    indptr = torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])
    within = torch.arange(int(indptr[-1]), device=counts.device)
    within = within - torch.repeat_interleave(indptr[:-1], counts)
    return indptr, order[torch.repeat_interleave(first, counts) + within]


def in_sets(sets: Tensor, label_ids: Tensor) -> Csr:
    """Find the pairs of points and labels where the label's id is in the point's set.

    Args:
        sets: Label ids of each point, whole numbers, shape (B, W), padded with negative numbers.
        label_ids: The id of each label, shape (L,); several may be equal.

    Returns:
        As `same_group`.

    Examples:
        >>> indptr, indices = in_sets(torch.tensor([[7, -1], [8, 7]]), torch.tensor([7, 8, 7]))
        >>> indptr.tolist(), indices.tolist()
        ([0, 2, 5], [0, 2, 0, 1, 2])
    """
    n_points, width = sets.shape
    n_labels = len(label_ids)
    # An id that is twice in a set counts once: later ones become padding.
    ordered = torch.sort(sets, dim=1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    given = torch.where(again | (ordered < 0), torch.full_like(ordered, -1), ordered)
    # Padding matches nothing: ids are shifted up, so that -1 meets no label.
    known = torch.where(label_ids < 0, torch.full_like(label_ids, -2), label_ids)
    indptr, indices = same_group(given.reshape(-1), known)
    rows = torch.repeat_interleave(torch.arange(len(indptr) - 1, device=sets.device), indptr.diff())
    points = torch.div(rows, width, rounding_mode="floor")
    pairs = torch.sort(points * n_labels + indices).values
    counts = torch.bincount(points, minlength=n_points)
    return torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)]), pairs % max(1, n_labels)


class InBatchLoss(nn.Module):
    """A loss over the labels of a batch, with the signature that sentence-transformers calls.

    The first column of a batch holds the points, the second a positive label of each, further
    columns more labels (hard negatives). A point and a label of the second column are positives of
    each other if their rows have the same group, or if the label's id is in the point's set (see
    `forward`); without either a point has its own row's label only. With several labels a point,
    give sets: else labels that are right for a point, and are in the batch because of another row,
    count as its negatives.

    Args:
        model: Turns the features of a column into ``{"sentence_embedding": (B, D)}``.
        loss: `decoupled_softmax`, `softmax`, `soft_topk`, `bce` or `topk_hinge`.
        normalize: Score by cosine.
        learn_scale: Make the scale and the offset of the scores parameters, for a loss that takes
            them (`bce`). They start at 1 and `offset`.
        offset: Start of the offset.
        **options: Passed on to the loss (`temperature`, `k`, ...).

    Raises:
        ValueError: ``learn_scale=True`` with a loss that does not take a scale and an offset.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor] = decoupled_softmax,
        *,
        normalize: bool = True,
        learn_scale: bool = False,
        offset: float = -10.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if learn_scale and "log_scale" not in inspect.signature(loss).parameters:
            raise ValueError(
                "learn_scale: this loss does not take log_scale and offset; use it with bce"
            )
        self.model = model
        self.loss = loss
        self.normalize = normalize
        self.options = options
        self.log_scale = nn.Parameter(torch.zeros(())) if learn_scale else None
        self.offset = nn.Parameter(torch.tensor(float(offset))) if learn_scale else None

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            sentence_features: Tokens of each column, two columns at least.
            labels: None or empty; or the group of each row, whole numbers, shape (B,); or sets of
                positives, whole numbers, shape (B, W), padded with -1: first the id of the row's
                label (the second column), then the ids of the point's other positives.
                ``dexml.integrations.sentence_transformers.training_columns`` makes them.

        Returns:
            Scalar in float32 or wider.

        Raises:
            ValueError: There are fewer than two columns, or `labels` is not whole numbers, one or
                more a row.
        """
        columns = [self.model(features)["sentence_embedding"] for features in sentence_features]
        if len(columns) < 2:
            raise ValueError(f"{len(columns)} text column; expected points and labels")
        point_emb, label_emb = columns[0], torch.cat(columns[1:])
        if self.normalize:
            point_emb = nn.functional.normalize(point_emb, dim=1)
            label_emb = nn.functional.normalize(label_emb, dim=1)
        n_points = len(point_emb)
        if labels is None or labels.numel() == 0:
            groups = torch.arange(n_points, device=point_emb.device)
            positives = same_group(groups, groups)
        elif labels.ndim not in (1, 2) or len(labels) != n_points or labels.dtype.is_floating_point:
            raise ValueError(
                f"labels: shape {tuple(labels.shape)}, dtype {labels.dtype}; expected {n_points} "
                "whole numbers, the group of each row, or as many rows of label ids"
            )
        elif labels.ndim == 1:
            positives = same_group(labels, labels)
        else:
            positives = in_sets(labels, labels[:, 0])
        learned = (
            {"log_scale": self.log_scale, "offset": self.offset} if self.offset is not None else {}
        )
        return self.loss(point_emb, label_emb, positives, check=False, **learned, **self.options)
