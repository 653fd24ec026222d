"""What a report is made from. N training points, L labels, M test points, k ranked labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.metrics import Interval, Result
from dexml.scorers.calibration import Calibration


@dataclass(frozen=True)
class Evaluation:
    """The test part, the labels that the model ranked for its points, and their scores.

    Raises:
        ValueError: The shapes disagree.
    """

    result: Result
    intervals: Mapping[str, Interval]
    """By metric (`Result.intervals`); a metric without values per point has none."""
    resampled: str
    """What was resampled for the intervals: ``"points, 1,000 resamples"``."""
    y_true: Csr
    """Relevant labels (values above 0), (M, L)."""
    ids: NDArray[np.int32]
    """Best first, -1 where there is none, (M, k); may be mapped from a file."""
    scores: NDArray[np.float32]
    """Shape (M, k)."""
    texts: Sequence[str]
    exclude: Csr | None = None
    """Pairs that were removed before ranking, (M, L)."""
    groups: Sequence[str] | None = None
    """A key for each point; points with one key are resampled together."""
    probabilities: NDArray[np.float32] | None = None
    """Of the ranked labels, (M, k); None: the run has none."""

    def __post_init__(self) -> None:
        ids, n_points, n_texts = self.ids, self.y_true.shape[0], len(self.texts)
        if ids.ndim != 2 or len(ids) != n_points or n_texts != n_points:
            raise ValueError(
                f"report: ids of shape {ids.shape} and {n_texts} texts for {n_points} points"
            )
        if self.scores.shape != ids.shape:
            raise ValueError(f"report: scores of shape {self.scores.shape}, but ids {ids.shape}")
        if self.probabilities is not None and self.probabilities.shape != ids.shape:
            raise ValueError(
                f"report: probabilities of shape {self.probabilities.shape}, but ids {ids.shape}"
            )
        if self.exclude is not None and self.exclude.shape != self.y_true.shape:
            raise ValueError(
                f"report: exclude of shape {self.exclude.shape}, but y_true {self.y_true.shape}"
            )


@dataclass(frozen=True)
class Training:
    """Everything that the page of a training says; nothing else is read, not even a clock.

    Raises:
        ValueError: The numbers of labels disagree.
    """

    settings: Mapping[str, Any]
    """Plain values by name."""
    defaults: Mapping[str, Any]
    """The default of each setting that has one; the page begins with what differs."""
    log: Sequence[Mapping[str, Any]]
    """Lines of ``log.jsonl`` (`dexml.run.folder.read_log`)."""
    y: Csr
    """Labels of all training points, validation points among them (values above 0), (N, L)."""
    label_texts: Sequence[str]
    versions: Mapping[str, str]
    """Versions of packages, the hash of the data and the like."""
    seconds: float
    """Of the whole training."""
    test: Evaluation | None = None
    """Without it, the page shows the best validation of `log`."""
    chosen: Sequence[tuple[str, str]] = ()
    """What was chosen on validation points, as pairs of name and words."""
    calibration: Calibration | None = None
    """What the probabilities of the test part are made with, and what is to be expected of them."""
    counts: NDArray[np.int64] | None = None
    """Training points of each label that the scorer knows, (L,); None: those of `y`."""
    rows: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metrics of the run, of parts of it and of a baseline, by what they are called."""

    def __post_init__(self) -> None:
        n_labels, n_texts = self.y.shape[1], len(self.label_texts)
        if n_texts != n_labels:
            raise ValueError(f"report: {n_texts} label texts, but y has {n_labels} labels")
        if self.test is not None and self.test.y_true.shape[1] != n_labels:
            raise ValueError(
                f"report: y_true has {self.test.y_true.shape[1]} labels, but y {n_labels}"
            )
