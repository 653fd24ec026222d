"""Hard negatives: the labels that the model, as it is now, wrongly ranks highest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.files import read_array
from dexml.run import folder as rundir
from dexml.train import processes, selection
from dexml.train.problem import Features, Job


def mine(job: Job, encoded: Features, size: int) -> NDArray[np.int32]:
    """Search all labels for the training points, exactly, on all processes.

    Args:
        job: What is trained; the model is searched as it is now.
        encoded: Features of the training points and of all labels.
        size: Labels a point.

    Returns:
        Label ids, shape (len(job.rows), size), int32: neither positives nor filter pairs, padded
        with -1 where fewer are left.
    """
    problem, model, rows, settings = job.problem, job.model, job.rows, job.settings
    temperature = model.served_temperature(settings.temperature)
    vectors = model.table.vectors(model.encoder, encoded[1], temperature)
    k = min(size, job.n_labels)
    parts = [np.zeros((0, k), np.int32)]
    for start in range(0, len(rows), selection.SCORE_BLOCK):
        block = rows[start : start + selection.SCORE_BLOCK]
        pairs: Csr = problem.y[block]
        if problem.exclude is not None:
            pairs = Csr(pairs + abs(problem.exclude[block]))
        features = encoded[0][start : start + selection.SCORE_BLOCK]
        ids, _ = selection.search(
            model.encoder, features, vectors, k, pairs, shared=not settings.deterministic
        )
        parts.append(ids)
    return np.concatenate(parts)


def load(path: Path, n_rows: int) -> NDArray[np.int32]:
    """Read a shortlist that a checkpoint names.

    Raises:
        ValueError: Missing, damaged, or of another number of points.
    """
    found: NDArray[np.int32] = read_rows(path, n_rows, np.int32, ndim=2)
    return found


def read_rows(path: Path, n_rows: int, dtype: type[Any], ndim: int) -> NDArray[Any]:
    """Read an array with a row for each point that a checkpoint names.

    Raises:
        ValueError: Missing, damaged, or of another number of points.
    """
    try:
        rows: NDArray[Any] = read_array(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: damaged or missing ({error}); go back with --overwrite"
        ) from None
    if rows.dtype != dtype or rows.ndim != ndim or len(rows) != n_rows:
        raise ValueError(f"{path}: {rows.dtype} of shape {rows.shape} for {n_rows} points")
    return rows


def save(path: Path, rows: NDArray[Any]) -> None:
    """Write an array with a row for each point, on the first process; a kill leaves no half."""
    if processes.is_first():
        rundir.write_array(path, rows)


def statistics(shortlist: NDArray[np.int32]) -> dict[str, float]:
    """Fields of the log line about a shortlist."""
    return {
        "shortlist_labels_per_point": float((shortlist >= 0).sum(axis=1).mean()),
        "shortlist_distinct_labels": len(np.unique(shortlist[shortlist >= 0])),
    }
