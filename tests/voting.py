"""A run in which points vote, made of another run."""

import shutil
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

N_VOTERS = 5


def positives(pairs: list[tuple[int, int]], shape: tuple[int, int]) -> csr_array:
    """A matrix of labels with ones at these (point, label) pairs."""
    rows, columns = zip(*pairs, strict=True)
    return csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


def voting_run(run: Path, folder: Path) -> Path:
    """Copy a run, with an exact index and five random points that vote for labels 0, 7, 14, ..."""
    from dexml.commands.index import main
    from dexml.console import run as run_command
    from dexml.predict import Predictor, open_run
    from dexml.scorers import DenseScorer, PointMemory, VotedScorer

    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoint", "cache"))
    assert run_command(main, [str(folder), "--search", "exact", "--quiet"]) == 0
    opened = open_run(folder)
    assert isinstance(opened.scorer, DenseScorer)
    points = np.random.default_rng(0).normal(size=(N_VOTERS, 16)).astype(np.float32)
    y = positives([(i, 7 * i) for i in range(N_VOTERS)], (N_VOTERS, 64))
    memory = PointMemory.of(points, y, weight=3)
    Predictor(opened, VotedScorer(opened.scorer, memory)).save()
    return folder
