"""Clusters of the training points that batches are made of, by the model as it is now (NGAME)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


def load(path: Path, n_rows: int) -> NDArray[np.int64]:
    """Read clusters that a checkpoint names.

    Raises:
        ValueError: Missing, damaged, or of another number of points.
    """
    groups: NDArray[np.int64] = read_rows(path, n_rows, np.int64, ndim=1)
    return groups
