"""What a training reads: the data set, split into points to fit and points to select on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dexml import data
from dexml.data import Csr
from dexml.train.settings import TrainSettings

_LEAST = 3
"""Points that a training needs: propensities are not defined for fewer."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """The training part, split into points to fit and points to select on. N points, L labels."""

    label_texts: list[str]
    part: data.Part
    """As it was read."""
    y: Csr
    """What is trained on, (N, L): `part.y` without filter pairs and stored zeros, all values 1."""
    held_out: NDArray[np.bool_]
    """Points to select on, (N,); none where there is nothing to select by."""
    scored: NDArray[np.int64]
    """Held-out points that a validation scores."""

    @property
    def fitted(self) -> NDArray[np.int64]:
        """Points that the selection is trained on."""
        return np.flatnonzero(~self.held_out)


def load_data(settings: TrainSettings) -> DataSet:
    """Read the labels and the training part, and split it.

    Raises:
        ValueError: The data set is wrong, or has too few points; the message names the file.
        OSError: A file cannot be read.
    """
    label_texts = data.load_label_texts(settings.data_dir)
    part = data.load_part(settings.data_dir, "trn", len(label_texts))
    if part.y.shape[0] < _LEAST:
        raise ValueError(
            f"{settings.data_dir}: {part.y.shape[0]} training points; expected {_LEAST} or more"
        )
    y = (part.y > 0).astype(np.float32)
    if part.exclude is not None:
        y = data.Csr(y - y.multiply(part.exclude))
        y.eliminate_zeros()
        y.sort_indices()
    keys = part.groups or part.texts
    held_out = data.validation_mask(keys, settings.validation)
    if held_out.all() or y[np.flatnonzero(held_out)].nnz == 0:
        held_out[:] = False
    scored, n = held_out, int(held_out.sum())
    if n > settings.validation_points:  # those with the smallest hashes
        share = settings.validation * settings.validation_points / n
        scored = held_out & data.validation_mask(keys, share)
    scored_rows = np.flatnonzero(scored)[: settings.validation_points]
    return DataSet(label_texts, part, y, held_out, scored_rows)
