"""Load the files of ``python -m dexml.metrics`` and score them."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dexml import console, data
from dexml.data import Csr
from dexml.data.matrices import counted_pairs
from dexml.files import read_array
from dexml.metrics.compare import Comparison, compare
from dexml.metrics.errors import Confusion, LabelErrors, confusions, label_errors
from dexml.metrics.evaluator import Evaluator
from dexml.metrics.labelgroups import (
    LabelGroups,
    decile_groups,
    frequency_groups,
    seen_groups,
)
from dexml.metrics.propensity import (
    DEFAULT_CONSTANTS,
    PROPENSITY_CONSTANTS,
    inv_propensity,
    label_counts,
    propensity_note,
)
from dexml.metrics.result import Interval, Progress, Result
from dexml.metrics.swapped import SwappedWarning
from dexml.metrics.views import View, ViewEvaluator, short_note

T = TypeVar("T")
Prediction = Csr | NDArray[np.integer[Any]]

GROUPINGS: dict[str, Callable[[Csr], LabelGroups]] = {
    "frequency": frequency_groups,
    "deciles": decile_groups,
    "seen": seen_groups,
}
"""Builders of label groups from the training matrix, by the name of the option."""
CHUNK = 65_536
"""Points scored between two reports of progress."""


class Scorer:
    """Scores one prediction after another with the same truth and settings."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.truth = args.files[-1]
        self.y_true = load_matrix(self.truth, data.load_labels)
        self.notes: list[str] = []
        """Remarks about the files, for stderr."""
        self._note_values()
        self.weights: NDArray[np.float64] | None = None
        self.propensity = ""
        self.train_counts: NDArray[np.int64] | None = None
        """Training points of each label, with ``--train``."""
        kinds = ("P", "nDCG", "PSP") if args.train else ("P", "nDCG")
        self.metrics = args.metrics or [f"{kind}@{k}" for kind in kinds for k in (1, 3, 5)]
        self.label_groups: dict[str, LabelGroups] = {}
        y_train = self._load_train() if args.train else None
        seen = ["seen"] if args.views and "seen" not in args.per_group else []
        for grouping in [*args.per_group, *seen]:
            if grouping in GROUPINGS and y_train is not None:
                self.label_groups[grouping] = GROUPINGS[grouping](y_train)
            else:
                self.label_groups[grouping] = self._label_groups(grouping)
        shape = self.y_true.shape
        self.exclude: Csr | None = None
        if args.filter:
            self.exclude, n_repeated = counted_pairs(args.filter, shape)
            if n_repeated:
                self.notes.append(f"{args.filter}: {n_repeated} repeated pairs merged")
        self.groups = data.load_texts(args.groups) if args.groups else None
        if self.groups is not None and len(self.groups) != shape[0]:
            raise ValueError(
                f"{args.groups}: {len(self.groups)} keys, but {self.truth} has {shape[0]} points"
            )

    def _note_values(self) -> None:
        """Add a note if the truth looks like scores."""
        values = self.y_true.data
        odd = values[(values != 0) & (values != 1)]
        if len(odd):
            name = "standard input" if self.truth == "-" else self.truth
            self.notes.append(
                f"{name}: TRUTH holds {len(odd)} values other than 0 and 1 ({odd[0]:g}, say); "
                "those above 0 count as positives. Were PRED and TRUTH swapped?"
            )

    def _label_groups(self, path: str) -> LabelGroups:
        """Read a group name for each label; an empty line puts its label in no group."""
        lines, n_labels = data.load_texts(path), self.y_true.shape[1]
        if len(lines) != n_labels:
            raise ValueError(
                f"{path}: {len(lines)} lines, but {self.truth} has {n_labels} labels; "
                "give a group name a line for each label"
            )
        names = list(dict.fromkeys(line for line in lines if line))
        number = {name: i for i, name in enumerate(names)}
        return LabelGroups(names, np.array([number.get(line, -1) for line in lines], np.int64))

    def _load_train(self) -> Csr:
        args = self.args
        y_train = data.load_labels(args.train)
        if y_train.shape[1] != self.y_true.shape[1]:
            raise ValueError(
                f"{args.train}: {y_train.shape[1]} labels, but {self.truth} has "
                f"{self.y_true.shape[1]}"
            )
        self.train_counts = label_counts(y_train)
        a, b = PROPENSITY_CONSTANTS.get(args.propensity, (args.a, args.b))
        if a is None and b is None and any(name.startswith("PS") for name in self.metrics):
            note = propensity_note(args.train)
            self.notes += [] if note is None else [note]
        a, b = (
            constant if constant is not None else default
            for constant, default in zip((a, b), DEFAULT_CONSTANTS, strict=True)
        )
        self.weights = inv_propensity(y_train, a=a, b=b)
        self.propensity = f"A = {a}, B = {b}"
        return y_train

    def load(self, name: str) -> Prediction:
        """Load a prediction file."""
        return load_pred(name, self.truth, self.y_true)

    def score(self, name: str, y_pred: Prediction) -> Result:
        """Score a prediction; `name` is its file."""
        args = self.args
        evaluator = Evaluator(
            self.y_true.shape[1],
            self.metrics,
            inv_propensity=self.weights,
            empty_rows=args.empty_rows,
            psndcg=args.psndcg,
            ties=args.ties,
            label_groups=self.label_groups,
            keep_rows=bool(args.ci or args.compare),
            num_threads=args.threads,
        )
        progress = console.progress(f"scoring {name}", quiet=args.quiet)
        try:
            _update(evaluator, self.y_true, y_pred, self.exclude, progress)
            result = evaluator.result()
        except ValueError as error:
            raise ValueError(f"{name} against {self.truth}: {error}") from None
        if self.propensity:
            result.conventions["propensity"] = self.propensity
        return result

    def views(self, name: str, y_pred: Prediction) -> dict[str, View]:
        """Score all, seen and unseen labels of a prediction apart."""
        args, counts = self.args, self.train_counts
        if counts is None:
            raise ValueError("views need the training matrix")
        evaluator = ViewEvaluator(
            counts,
            self.metrics,
            inv_propensity=self.weights,
            ties=args.ties,
            num_threads=args.threads,
        )
        progress = console.progress(f"views of {name}", quiet=args.quiet)
        _update(evaluator, self.y_true, y_pred, self.exclude, progress)
        found = evaluator.result()
        if note := short_note(found, evaluator.deepest):
            self.notes.append(f"{name}: {note}")
        return found

    def label_errors(self, name: str, k: int) -> LabelErrors:
        """Count the errors of a prediction file by label."""
        return self._of_file(
            name, lambda y_pred: label_errors(self.y_true, y_pred, k, exclude=self.exclude)
        )

    def confusions(
        self, name: str, k: int, n: int, by: Literal["count", "surprise"]
    ) -> list[Confusion]:
        """Find the n first confusions of a prediction file."""

        def count(y_pred: Prediction) -> list[Confusion]:
            return confusions(self.y_true, y_pred, k, exclude=self.exclude, n=n, by=by)

        return self._of_file(name, count)

    def _of_file(self, name: str, count: Callable[[Prediction], T]) -> T:
        y_pred = self.load(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SwappedWarning)  # the command has a note for it
                return count(y_pred)
        except ValueError as error:
            raise ValueError(f"{name} against {self.truth}: {error}") from None

    def resampling(self) -> dict[str, Any]:
        """Return the arguments of the resampling."""
        return {"seed": self.args.seed, "n_resamples": self.args.ci or 1000}

    def intervals(self, name: str, result: Result) -> dict[str, Interval]:
        """Compute intervals of the metrics of one file."""
        progress = console.progress(f"resampling {name}", quiet=self.args.quiet)
        options = self.resampling() | {"num_threads": self.args.threads, "progress": progress}
        return result.intervals(self.groups, **options)

    def compare(self, name: str, other: Result, result: Result) -> dict[str, Comparison]:
        """Compare the result of one file with that of ``--compare``."""
        progress = console.progress(f"comparing {name}", quiet=self.args.quiet)
        options = self.resampling() | {"num_threads": self.args.threads, "progress": progress}
        return compare(other, result, groups=self.groups, **options)


def _load_ids(path: Path) -> NDArray[np.integer[Any]]:
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise ValueError(f"{path}: an .npz archive, not an .npy array; name it .npz")
    try:
        return read_array(path, mmap_mode="r")
    except ValueError as error:
        raise ValueError(f"{error}; expected an .npy array") from None


def load_matrix(name: str, load: Callable[[Path], Csr]) -> Csr:
    """Load a file; ``-`` is standard input (LF text or an archive)."""
    if name != "-":
        return load(Path(name))
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            return load(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "standard input")) from None


def load_pred(name: str, truth: str, y_true: Csr) -> Prediction:
    """Load a prediction file: ranked ids, or scores; its shape must be that of the truth."""
    if name.endswith(".npy"):
        ids = _load_ids(Path(name))
        if ids.ndim != 2 or ids.shape[0] != y_true.shape[0]:
            raise ValueError(
                f"{name}: shape {ids.shape}, but {truth} is {y_true.shape}: give ids of shape "
                f"({y_true.shape[0]}, k)"
            )
        return ids
    y_pred = load_matrix(name, data.load_scores)
    if y_pred.shape != y_true.shape:
        name = "standard input" if name == "-" else name
        raise ValueError(f"{name}: shape {y_pred.shape}, but {truth} is {y_true.shape}")
    return y_pred


def _update(
    evaluator: Evaluator | ViewEvaluator,
    y_true: Csr,
    y_pred: Prediction,
    exclude: Csr | None,
    progress: Progress,
) -> None:
    """Update in chunks, to show progress."""
    n_points = y_true.shape[0]
    for start in range(0, n_points, CHUNK):
        rows = slice(start, min(start + CHUNK, n_points))
        pairs = None if exclude is None else exclude[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SwappedWarning)  # the command has a note for it
            evaluator.update(y_true[rows], y_pred[rows], exclude=pairs)
        progress(rows.stop, n_points)
