"""The texts of a stage: from the ids of points and labels to their embeddings.

Shapes: N points, L labels, B texts of a micro-batch, H features, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml.encoder import DualEncoder, LabelTable, Tokens, autocast
from dexml.losses.pairs import moved
from dexml.train import features
from dexml.train.frozen import CachedLayers
from dexml.train.problem import Features, Job, Model
from dexml.train.settings import TrainSettings


class TrainedRows(NamedTuple):
    """Rows of the label table that this process trains in a step. K labels, D dimensions."""

    table: LabelTable
    gradient: Tensor | None
    """Of the residuals, (K, D), to add to; None where they are not trained."""


class Texts(Protocol):
    """What a step asks of the texts of its stage. The encoder may be in training mode."""

    point_lengths: NDArray[np.int64] | None
    """Tokens of each point, (N,); None: nothing is encoded, each counts as 1."""
    label_lengths: NDArray[np.int64] | None
    """Tokens of each label, (L,), or None."""

    def points(self, ids: NDArray[np.int64], position: int) -> Tensor:
        """Embeddings (B, D) of the points `ids`."""

    def labels(
        self,
        trained: TrainedRows | None,
        ids: NDArray[np.int64],
        position: int,
        *,
        alone: bool = False,
    ) -> Tensor:
        """Vectors (B, D) of the labels `ids`.

        Args:
            trained: The rows of the label table that this process trains in this step; None where
                the table is not trained.
            ids: The labels.
            position: That of the first one among the rows of `trained`.
            alone: Return (B, 2 D): beside each vector that of the text alone, without the table.
        """

    def features(self, rows: NDArray[np.int64]) -> Features:
        """Features of the points `rows` and of all labels, by the encoder as it is now."""


class FrozenTexts:
    """Features of an encoder that stays as it is.

    Those of labels lie on the encoder's device; if they are not `resident`, those of a step travel.
    """

    def __init__(self, model: Model, known: Features, *, resident: bool = True) -> None:
        self.point_lengths: NDArray[np.int64] | None = None
        self.label_lengths: NDArray[np.int64] | None = None
        self.model = model
        self.point_features, self.label_features = known
        self.labels_LH = torch.from_numpy(known[1])
        if resident:
            self.labels_LH = self.labels_LH.to(model.encoder.device)

    def points(self, ids: NDArray[np.int64], position: int) -> Tensor:
        """Embed points from their features."""
        encoder = self.model.encoder
        features_BH = moved(torch.from_numpy(self.point_features[ids]), encoder.device)
        embedded: Tensor = encoder(features_BH, side="point")
        return embedded

    def labels(
        self,
        trained: TrainedRows | None,
        ids: NDArray[np.int64],
        position: int,
        *,
        alone: bool = False,
    ) -> Tensor:
        """Embed labels from their features."""
        features_BH = self.labels_LH
        if len(ids) < len(features_BH):
            features_BH = features_BH[moved(torch.from_numpy(ids), features_BH.device)]
        features_BH = moved(features_BH, self.model.encoder.device)
        return _label_vectors(self.model, trained, features_BH, ids, position, alone)

    def features(self, rows: NDArray[np.int64]) -> Features:
        """Look the features up: they do not change."""
        return self.point_features[rows], self.label_features


class TunedTexts:
    """Texts that go through the transformer, which learns."""

    def __init__(self, job: Job) -> None:
        self.job, problem = job, job.problem
        self.point_lengths: NDArray[np.int64] | None = np.diff(problem.point_tokens.offsets)
        self.label_lengths: NDArray[np.int64] | None = np.diff(problem.label_tokens.offsets)
        encoder, settings = job.model.encoder, job.settings
        self._points = _Reader(encoder, problem.point_tokens, "point", settings)
        self._labels = _Reader(encoder, problem.label_tokens, "label", settings)

    def points(self, ids: NDArray[np.int64], position: int) -> Tensor:
        """Encode and embed points."""
        embedded: Tensor = self.job.model.encoder(self._points.read(ids), side="point")
        return embedded

    def labels(
        self,
        trained: TrainedRows | None,
        ids: NDArray[np.int64],
        position: int,
        *,
        alone: bool = False,
    ) -> Tensor:
        """Encode and embed labels."""
        features_BH = self._labels.read(ids)
        return _label_vectors(self.job.model, trained, features_BH, ids, position, alone)

    def features(self, rows: NDArray[np.int64]) -> Features:
        """Encode the texts."""
        return features.current(self.job, rows)


class _Reader:
    """Reads features (B, H) with gradient: of texts of one length, or of packed ones."""

    def __init__(
        self, encoder: DualEncoder, tokens: Tokens, side: str, settings: TrainSettings
    ) -> None:
        self.encoder, self.settings = encoder, settings
        self.resident: Tokens | None = None
        self.layers: CachedLayers | None = None
        run: Callable[..., Tensor] = encoder.features
        if settings.cache_layers:
            n = settings.encoder_layers
            folder, show = features.cache_folder(settings), not settings.quiet
            self.layers = CachedLayers(encoder, tokens, n, folder, desc=side, progress=show)
            run = partial(encoder.upper, n=n)
        else:
            self.resident = tokens.to(encoder.device)
        self.run = torch.compile(run, dynamic=True) if settings.compile else run

    def read(self, ids: NDArray[np.int64]) -> Tensor:
        encoder = self.encoder
        with autocast(encoder.device, self.settings.precision):
            if self.layers is not None:
                return self.run(self.layers.states(ids))
            assert self.resident is not None
            if self.settings.packed:
                return encoder.features_packed(*self.resident.packed(ids, encoder.device))
            return self.run(self.resident.tensor(ids, encoder.device))


def _label_vectors(
    model: Model,
    trained: TrainedRows | None,
    features_BH: Tensor,
    ids: NDArray[np.int64],
    position: int,
    alone: bool,
) -> Tensor:
    """Vectors of labels from their features and the table: see `Texts.labels`."""
    if trained is None:
        rows = moved(torch.from_numpy(ids), model.encoder.device)
        vectors: Tensor = model.table(model.encoder, features_BH, rows)
    else:
        some = slice(position, position + len(ids))
        table, gradient = trained
        if len(ids) < len(table.bias) or table.residual.dtype == torch.bfloat16:
            table = table_rows(table, some, wide=True)
        if gradient is not None:
            table.residual.grad = gradient[some]
        vectors = table(model.encoder, features_BH)
    if not alone:
        return vectors
    return torch.cat([vectors, model.encoder(features_BH, side="label")], dim=1)


def table_rows(
    table: LabelTable, rows: NDArray[np.int64] | slice, *, wide: bool = False
) -> LabelTable:
    """Some rows of a label table as a table; those of a slice share its memory.

    With `wide`, residuals in bfloat16 become float32, in memory of their own.
    """
    at: Any = rows if isinstance(rows, slice) else moved(torch.from_numpy(rows), table.bias.device)
    residual = table.residual.detach()[at]
    if wide and residual.dtype == torch.bfloat16:
        residual = residual.float()
    with torch.device(table.bias.device):
        part = LabelTable(table.counts[at], 0, residual.dtype)
    part.residual.data, part.bias.data = residual, table.bias.detach()[at]
    if table.shared is not None:
        part.shared, part.cluster = table.shared, table.cluster[at]
    part.residual.requires_grad_(table.residual.requires_grad)
    part.bias.requires_grad_(table.bias.requires_grad)
    return part
