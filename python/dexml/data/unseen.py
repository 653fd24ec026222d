"""A data set some of whose labels have no training point: the protocol of generalised zero-shot."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.data.layout import Part, find, load_label_parents, load_label_texts, load_part
from dexml.data.matrices import save_labels, save_pairs
from dexml.data.parts import Csr
from dexml.data.rows import require_texts
from dexml.data.texts import save_texts, unit_interval
from dexml.files import replacing

TEST_LABELS, VALIDATION_LABELS = "unseen_labels.txt", "val_unseen_labels.txt"
"""Ids of the labels that were held out, one a line."""


class HeldOut(NamedTuple):
    """What `hold_out_labels` took out."""

    test: NDArray[np.int64]
    """Labels that training and validation part lack."""
    validation: NDArray[np.int64]
    """Labels that the training part alone lacks."""
    emptied: int
    """Training points that are left without a label."""
    n_validation: int
    """Points of the validation part."""


def hold_out_labels(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    share: float = 0.1,
    seed: int,
    validation: float = 0.1,
) -> HeldOut:
    """Write a data set without the training pairs of some labels, chosen by a hash of their id.

    Two shares of the labels with training points are taken out. The first is in the test part
    alone; the second is in the validation part (``val_X_Y``, `validation` of the training points,
    by hash) too, so that what is chosen there is chosen with unseen labels. Points that lose all
    their labels stay, as rows without positives. The texts of all labels stay.

    Args:
        source: A folder in the LF layout.
        target: A new folder.
        share: Of the labels with training points, each time; above 0, below 0.5.
        seed: Of the choice.
        validation: Share of the training points that become the validation part.

    Raises:
        FileExistsError: `target` exists.
        ValueError: A share is out of range, no label is held out, or `source` is wrong.
    """
    if not 0 < share < 0.5:
        raise ValueError(f"share = {share}: give a share above 0 and below 0.5")
    if not 0 < validation < 1:
        raise ValueError(f"validation = {validation}: give a share above 0 and below 1")
    source, target = Path(source), Path(target)
    if target.exists():
        raise FileExistsError(f"{target}: exists already; give another name")
    label_texts = load_label_texts(source)
    train = load_part(source, "trn", len(label_texts))
    require_texts(train.features, str(source), "holding labels out")
    seen = np.flatnonzero(
        np.bincount(train.y.indices[train.y.data > 0], minlength=len(label_texts))
    )
    place = np.array([unit_interval(f"hold out {seed}", str(label)) for label in seen.tolist()])
    test, second = seen[place < share], seen[(place >= share) & (place < 2 * share)]
    if not len(test):
        raise ValueError(f"{source}: no label is held out; give a larger share (it is {share})")
    keys = train.groups or train.texts
    held = np.array([unit_interval(f"validation {seed}", key) < validation for key in keys], bool)
    rows, rest = np.flatnonzero(held), np.flatnonzero(~held)
    val = _without(_points(train, rows), test)
    trn = _without(_points(train, rest), np.concatenate([test, second]))
    before = np.diff(train.y[rest].indptr) > 0
    with replacing(target) as new:
        (new / "raw").mkdir(parents=True)
        save_texts(new / "raw" / "Y.txt", label_texts)
        if (parents := load_label_parents(source, len(label_texts))) is not None:
            save_texts(new / "raw" / "Y.parent.txt", parents)
        parts = {"trn": trn, "val": val}
        if find(source, "Y.tst.npz", "tst_X_Y.txt").exists():
            parts["tst"] = load_part(source, "tst", len(label_texts))
        for name, part in parts.items():
            _write(new, name, part)
        save_texts(new / TEST_LABELS, [str(i) for i in test])
        save_texts(new / VALIDATION_LABELS, [str(i) for i in second])
    emptied = int((before & (np.diff(trn.y.indptr) == 0)).sum())
    return HeldOut(test, second, emptied, len(rows))


def _points(part: Part, rows: NDArray[np.int64]) -> Part:
    """Return some points of a part."""
    return Part(
        [part.texts[i] for i in rows],
        part.y[rows],
        None if part.exclude is None else part.exclude[rows],
        None if part.groups is None else [part.groups[i] for i in rows],
    )


def _without(part: Part, labels: NDArray[np.int64]) -> Part:
    """Drop all pairs of some labels, filter pairs too."""
    exclude = None if part.exclude is None else _dropped(part.exclude, labels)
    return replace(part, y=_dropped(part.y, labels), exclude=exclude)


def _dropped(matrix: Csr, labels: NDArray[np.int64]) -> Csr:
    kept = ~np.isin(matrix.indices, labels)
    indptr = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


def _write(folder: Path, name: str, part: Part) -> None:
    save_texts(folder / "raw" / f"{name}_X.txt", part.texts)
    save_labels(folder / f"{name}_X_Y.txt", part.y)
    if part.groups is not None:
        save_texts(folder / "raw" / f"{name}_groups.txt", part.groups)
    if part.exclude is not None:
        pairs = {"trn": "train", "tst": "test", "val": "val"}[name]
        save_pairs(folder / f"filter_labels_{pairs}.txt", part.exclude)
