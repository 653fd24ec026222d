"""What a training reads: the data set, split into points to fit and points to select on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import console, data
from dexml.data import Csr, part_numbers
from dexml.text.lexical import VectorizerSettings, near_copies
from dexml.train.memory import MAX_POINTS
from dexml.train.settings import NO_ENCODER, TrainSettings

_LEAST = 3
"""Points that a training needs: propensities are not defined for fewer."""
ENOUGH = 2500
"""Points from which a ranker learns nearly all it can; fewer are topped up (`parts_to_ask`)."""
MOST_COMPARED = 200_000
"""Points among which near copies are looked for: it takes seconds up to there."""
_FEW = 0.1
"""Share of points with near copies below which these are left apart: they change nothing."""
_PARTS = 4
COUNTED = VectorizerSettings(grams="features", sizes=(1, 1))
"""How near copies among rows of features are found."""
_SALT = "dexml ranker parts"


@dataclass(frozen=True, eq=False)
class DataSet:
    """The training part, split into points to fit and points to select on. N points, L labels."""

    label_texts: list[str]
    part: data.Part
    """As it was read; where it has no groups, near copies may be groups (`copies_as_groups`)."""
    y: Csr
    """What is trained on, (N, L): `part.y` without filter pairs and stored zeros, all values 1."""
    held_out: NDArray[np.bool_]
    """Points to select on, (N,); none where there is nothing to select by."""
    scored: NDArray[np.int64]
    """Held-out points that a validation scores."""
    parents: list[str] | None = None
    """Of each label, names with blanks between (``raw/Y.parent.txt``)."""

    @property
    def fitted(self) -> NDArray[np.int64]:
        """Points that the selection is trained on."""
        return np.flatnonzero(~self.held_out)


def load_data(settings: TrainSettings) -> DataSet:
    """Read the labels and the training part, and split it.

    Raises:
        ValueError: The data set is wrong, has too few points, or no positive is left to train on;
            the message names the file or folder.
        OSError: A file cannot be read.
    """
    label_texts = data.load_label_texts(settings.data_dir)
    parents = data.load_label_parents(settings.data_dir, len(label_texts))
    part = data.load_part(settings.data_dir, "trn", len(label_texts))
    if part.features is not None and settings.encoder != NO_ENCODER:
        raise ValueError(
            f"{settings.data_dir}: points are rows of features, which an encoder cannot read; give "
            "--encoder none, or texts"
        )
    if part.y.shape[0] < _LEAST:
        raise ValueError(
            f"{settings.data_dir}: {part.y.shape[0]} training points; expected {_LEAST} or more"
        )
    if settings.label_clusters > len(label_texts):
        raise ValueError(
            f"{settings.data_dir}: --label-clusters {settings.label_clusters} for "
            f"{len(label_texts)} labels; give fewer clusters than labels"
        )
    y = part.positives()
    _check_positives(part, settings)
    if part.groups is None and settings.groups == "auto" and settings.validation > 0:
        groups = copies_as_groups(part.texts, part.features)
        if groups is not None and not settings.quiet:
            console.say(
                f"{len(part.texts)} points in {len(set(groups))} groups of near copies, which are "
                "held out together (--groups file: each point for itself)"
            )
        part = replace(part, groups=groups)
    keys = part.groups or part.texts
    held_out = data.validation_mask(keys, settings.validation)
    if not all(y[np.flatnonzero(rows)].nnz for rows in (held_out, ~held_out)):
        held_out[:] = False
    scored, n = held_out, int(held_out.sum())
    if n > settings.validation_points:  # those with the smallest hashes
        share = settings.validation * settings.validation_points / n
        scored = held_out & data.validation_mask(keys, share)
    scored_rows = np.flatnonzero(scored)[: settings.validation_points]
    return DataSet(label_texts, part, y, held_out, scored_rows, parents)


def copies_as_groups(
    texts: Sequence[str], features: data.Features | None = None
) -> list[str] | None:
    """Return a group key for each point, so that near copies are held out together.

    Texts that are rows of `features` are copies where the same features stand out in them.

    Points that have a near copy among the fitted ones are answered better than texts to come will
    be: what is chosen and promised by them is too optimistic. The key is the first text of the
    group. None where less than a tenth of the points has a near copy, or there are more than
    200,000 points.
    """
    if not 1 < len(texts) <= MOST_COMPARED:
        return None
    first = near_copies(texts, settings=None if features is None else COUNTED)
    sizes = np.bincount(first, minlength=len(texts))
    if (sizes[first] > 1).mean() < _FEW:
        return None
    return [texts[i] for i in first]


def _check_positives(part: data.Part, settings: TrainSettings) -> None:
    """Say how many positives filter pairs take; refuse a training part that has none left."""
    taken, n = part.filtered()
    if not n:
        raise ValueError(
            f"{settings.data_dir}: the training part has no positive pair of a point and a label, "
            "so there is nothing to learn"
        )
    if taken == n:
        raise ValueError(
            f"{settings.data_dir}: the filter pairs take all {n} positive pairs of the training "
            "part, so there is nothing left to learn; correct filter_labels_train.txt, or leave "
            "it out"
        )
    if taken and not settings.quiet:
        console.say(
            f"note: filter pairs take {taken} of the {n} positive pairs of the training part"
        )


class Held(NamedTuple):
    """Points that members are fitted on, and others that they are asked about; both ascend."""

    fitted: NDArray[np.int64]
    asked: NDArray[np.int64]


def parts_to_ask(given: DataSet) -> list[Held]:
    """Return what a ranker learns from: points that its members were not fitted on.

    First the validation points, asked of members fitted on all others. Where these are fewer than
    `ENOUGH`, the fitted points are cut into four parts by the hash of their group or text, and
    each part is asked of members fitted on the other three, until there are enough.
    """
    held = [Held(given.fitted, given.scored[:MAX_POINTS])]
    keys = given.part.groups or given.part.texts
    number = part_numbers(_SALT, [keys[i] for i in given.fitted], _PARTS)
    for part in range(_PARTS):
        fitted, asked = given.fitted[number != part], given.fitted[number == part]
        if sum(len(one.asked) for one in held) >= ENOUGH:
            break
        if len(asked) and given.y[fitted].nnz:
            held.append(Held(fitted, asked[:MAX_POINTS]))
    return held
