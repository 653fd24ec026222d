"""The label table: what training learns about single labels beyond their text.

Shapes: L labels, B labels of a batch, C clusters of labels, N points, H dimensions of features,
D of embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

if TYPE_CHECKING:
    from dexml.encoder import DualEncoder

BLOCK = 65_536
"""Labels handled at a time, so that temporary arrays stay small beside the table."""


class LabelTable(nn.Module):
    """A residual vector and a bias for each label; on request, vectors that near labels share.

    The vector of a label is normalise(A z + r) with its text features z, the label head A and its
    residual r, or A z + r if the encoder does not normalise. A label that training never saw keeps
    the residual 0, so only its text counts. It is served with the bias of a rare label.

    With clusters it is normalise(A z + r + a_c), for labels that training never saw as well: the
    vector a_c of the label's cluster c learns from all labels of the cluster, so rare labels learn
    from frequent ones that are near. Source: DEXA, KDD 2023.
    """

    counts: Tensor
    cluster: Tensor
    """The cluster of each label, int32 (L,); all 0 until they are known, and without clusters."""
    shared: nn.Parameter | None
    """Vectors of the clusters, (C, D); None without clusters."""

    def __init__(
        self, counts: Tensor, dim: int, dtype: torch.dtype = torch.float32, n_clusters: int = 0
    ) -> None:
        """Start with residuals, biases and vectors of clusters of 0.

        Args:
            counts: Number of training points of each label, shape (L,), int64.
            dim: D, the dimensions of a residual.
            dtype: Of the residuals. Vectors are float32 whatever it is, and so are biases.
            n_clusters: C; 0: labels share nothing.
        """
        super().__init__()
        self.residual = nn.Parameter(torch.zeros(len(counts), dim, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(len(counts)))
        self.register_buffer("counts", counts, persistent=False)
        self.shared = nn.Parameter(torch.zeros(n_clusters, dim)) if n_clusters else None
        known = torch.zeros(len(counts) if n_clusters else 0, dtype=torch.int32)
        self.register_buffer("cluster", known, persistent=False)
        # The hook refers only to the mask, not to the table. Otherwise there would be a cycle, and
        # tables made for a single step would pile up until Python collects cycles. It also works
        # if the table is gone before its gradient arrives.
        unseen = counts == 0

        def keep_unseen(residual: Tensor) -> None:
            """Zero the gradient of unseen labels, in place because the table may be large."""
            nonlocal unseen
            if residual.grad is not None and not residual.grad.is_sparse:
                unseen = unseen.to(residual.grad.device)
                residual.grad[unseen] = 0

        self.residual.register_post_accumulate_grad_hook(keep_unseen)

    def start_at_centroids(
        self, features: NDArray[np.float32], y: Any, shrink: float, *, unit: bool = True
    ) -> None:
        """Set each residual to n/(n + shrink) times the centroid of the label's n points.

        Args:
            features: Vectors of the points, shape (N, D): their features, or their embeddings
                where the head is not the identity.
            y: Their labels, scipy CSR of shape (N, L).
            shrink: Number of points with which the centroid counts half: few points say little.
            unit: Scale the centroid to length 1. Give False for an encoder that does not normalise.

        Raises:
            ValueError: The shape of `features` or `y` does not fit the table.
        """
        n_labels, dim = self.residual.shape
        if features.shape[1] != dim or y.shape != (len(features), n_labels):
            raise ValueError(
                f"start_at_centroids: features {features.shape} and y {y.shape} do not fit a table "
                f"of {n_labels} labels and {dim} dimensions"
            )
        by_label = (y > 0).astype(np.float32).T.tocsr()
        for start in range(0, n_labels, BLOCK):
            rows = slice(start, start + BLOCK)
            sums = torch.from_numpy(by_label[rows] @ features).to(self.residual.device)
            counts = self.counts[rows].unsqueeze(1)
            centroids = normalize(sums, dim=1) if unit else sums / counts.clamp(min=1)
            with torch.no_grad():
                start_at = centroids * (counts / (counts + shrink))
                self.residual[rows] = start_at.to(self.residual.dtype)

    def forward(self, encoder: DualEncoder, features: Tensor, rows: Any = slice(None)) -> Tensor:
        """Return vectors (B, D) of the labels `rows` from their text features (B, H)."""
        vectors = encoder.project(features, "label") + self.residual[rows]
        if self.shared is not None:
            # Not an index: the backward pass of an index adds in an order that threads decide.
            vectors = vectors + embedding(self.cluster[rows], self.shared)
        return normalize(vectors, dim=1) if encoder.normalize else vectors

    @torch.no_grad()
    def whole_residual(self) -> Tensor:
        """What is added to the text of each label, (L, D), float32: residual and cluster vector."""
        residual = self.residual.detach().float()
        return residual if self.shared is None else residual + self.shared[self.cluster].float()

    def served_bias(self, prior: float) -> Tensor:
        """Return the bias (L,) to search with: the trained one + prior x log(1 + count).

        Unseen labels get the mean bias of the rarest seen ones. Their own bias would be too low:
        training has only ever pushed it down.
        """
        bias, seen = self.bias.detach(), self.counts > 0
        if bool(seen.any()):
            bias = torch.where(seen, bias, self._unseen_bias())
        return bias + prior * torch.log1p(self.counts)

    def served_unseen_bias(self, temperature: float) -> float:
        """The last dimension of the search vector of a label without training points."""
        # In float32, as in the label vectors: labels added later meet unseen ones to the bit.
        return float(np.float32(temperature) * np.float32(float(self._unseen_bias())))

    def _unseen_bias(self) -> Tensor:
        """The mean bias of the rarest labels that have training points; 0 if none have."""
        bias, seen = self.bias.detach(), self.counts > 0
        if not bool(seen.any()):
            return bias.new_zeros(())
        return bias[self.counts == self.counts[seen].min()].mean()

    @torch.inference_mode()
    def vectors(
        self,
        encoder: DualEncoder,
        features: NDArray[np.float32],
        temperature: float,
        prior: float = 0.0,
        *,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return vectors (L, D + 1) to search.

        The last dimension is temperature x bias; in the vector of a point it is 1.

        Args:
            encoder: The encoder, for its label head.
            features: Text features of all labels, shape (L, H).
            temperature: Temperature of the loss.
            prior: See `served_bias`.
            out: Array to write to, for instance a memory-mapped file; default a new array.
        """
        out = np.empty((len(features), encoder.dim + 1), np.float32) if out is None else out
        for start in range(0, len(features), BLOCK):
            block = torch.from_numpy(features[start : start + BLOCK]).to(encoder.device)
            rows = slice(start, start + len(block))
            out[rows, :-1] = self(encoder, block, rows).cpu().numpy()
        out[:, -1] = temperature * self.served_bias(prior).cpu().numpy()
        return out


def with_bias_dimension(point_emb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Append the constant 1 that is multiplied with the bias of a label: (N, D + 1)."""
    return np.concatenate([point_emb, np.ones((len(point_emb), 1), np.float32)], axis=1)
