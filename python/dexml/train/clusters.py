"""Clusters: of points, which batches are made of (NGAME), and of labels that share a vector (DEXA).

Both by the model as it is when they are formed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dexml.sampling import balanced_clusters
from dexml.train import processes
from dexml.train.problem import Job
from dexml.train.shortlist import read_rows


def of(job: Job, point_features: NDArray[np.float32], epoch: int) -> NDArray[np.int64]:
    """Put the training points into clusters of `cluster_size` near ones.

    The first process does it for all: batches must be the same everywhere.

    Args:
        job: What is trained.
        point_features: Of the training points, (len(job.rows), H).
        epoch: The epoch that begins; enters the seed.

    Returns:
        The cluster of each training point, (len(job.rows),).
    """
    settings, encoder = job.settings, job.model.encoder
    groups = np.zeros(len(job.rows), np.int64)

    def cut() -> bool:
        vectors = encoder.embed(point_features)
        groups[:] = balanced_clusters(vectors, settings.cluster_size, seed=settings.seed + epoch)
        return True

    processes.first(cut, encoder.device)
    processes.fill(groups, encoder.device)
    return groups


def put_labels(job: Job, label_features: NDArray[np.float32]) -> None:
    """Put the labels into `label_clusters` clusters of near ones, the same on all processes.

    Args:
        job: Its label table gets the clusters.
        label_features: Of all labels, (L, H).
    """
    encoder, table, seed = job.model.encoder, job.model.table, job.settings.seed
    assert table.shared is not None
    n_clusters, groups = len(table.shared), np.zeros(job.n_labels, np.int64)

    def cut() -> bool:
        vectors = encoder.embed(label_features, "label")
        groups[:] = balanced_clusters(vectors, n_clusters=n_clusters, seed=seed)
        return True

    processes.first(cut, encoder.device)
    processes.fill(groups, encoder.device)
    table.cluster.copy_(torch.from_numpy(groups))


def load(path: Path, n_rows: int) -> NDArray[np.int64]:
    """Read clusters that a checkpoint names.

    Raises:
        ValueError: Missing, damaged, or of another number of points.
    """
    groups: NDArray[np.int64] = read_rows(path, n_rows, np.int64, ndim=1)
    return groups
