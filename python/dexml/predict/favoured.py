"""Answers in the order that is best for a metric."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import favour
from dexml.favour import BY_PROBABILITY, Favour
from dexml.predict.served import Served, n_points_of
from dexml.run import Run
from dexml.scorers import favoured
from dexml.scorers.calibration import Calibration, Missing

CUTS = ("min_precision", "min_recall", "by_frequency")
"""Cuts whose estimates hold for the usual ranking alone."""


class Asked(NamedTuple):
    """The ranking that a caller asks for."""

    favour: Favour
    together: bool
    """Choose the labels of all texts together."""

    @property
    def is_usual(self) -> bool:
        """Whether it is the order of the scores."""
        return self.favour.kind in BY_PROBABILITY


def asked(
    metric: str | None, strength: float, together: bool, cuts: dict[str, Any]
) -> Asked | None:
    """Check what a caller asks for; None: the usual ranking.

    Args:
        metric: Of `Predictor.predict`, as the others.
        strength: How much it counts.
        together: Whether texts are answered together.
        cuts: The other arguments, by name; None and False are those that were not given.

    Raises:
        TypeError, ValueError: As `dexml.favour.parse`; or arguments that do not go together.
    """
    if metric is None:
        if together or strength != 1:
            raise ValueError(f"{'together' if together else 'strength'} needs favour")
        return None
    found = favour.parse(metric, strength)
    if given := [name for name in CUTS if cuts[name]]:
        raise ValueError(
            f"{given[0]} with favour: what it promises holds for the usual ranking alone; leave "
            "one of them out, or give min_probability"
        )
    return Asked(found, bool(together))


def width(asked: Asked, k: int | None, calibration: Calibration | Missing, run: Run) -> int:
    """Return the number of columns of an answer.

    Raises:
        ValueError: The run has no probabilities, or not as many candidates a text.
    """
    k = asked.favour.k if k is None else k
    if asked.is_usual:
        return k
    if isinstance(calibration, Missing):
        raise ValueError(
            f"{run.folder}: favour needs probabilities, and the run has none ({calibration.reason})"
        )
    for name, value in ((f"favour = {asked.favour}", asked.favour.k), (f"k = {k}", k)):
        if value > calibration.depth:
            raise ValueError(
                f"{name}: labels are chosen among the {calibration.depth} best of a text; "
                "give a smaller k"
            )
    return k


class Ordered(NamedTuple):
    """Positions of answers in their new order, and their gains, both (n, D)."""

    at: NDArray[np.int64]
    gains: NDArray[np.float32]


def ordered(
    asked: Asked,
    ids: NDArray[np.int32],
    probabilities: NDArray[np.float32],
    calibration: Calibration,
    now: Served,
    run: Run,
) -> Ordered:
    """Order the candidates of texts for a metric.

    Args:
        asked: The ranking.
        ids: Label ids (n, D), padded with -1.
        probabilities: Of the same shape.
        calibration: Of the run.
        now: Labels and scorer; remembers what was learned of labels.
        run: Says the constants of propensities.
    """
    rows, counts = favoured.rows_of(ids, probabilities), now.counts
    constants = _constants(run, now)
    if asked.together:
        gains = favoured.together(asked.favour, rows, counts, constants)
    else:
        if asked.favour not in now.learned:
            now.learned[asked.favour] = favoured.learned(
                asked.favour, calibration, counts, constants
            )
        gains = now.learned[asked.favour].gains(rows)
    return Ordered(*favoured.order(ids, gains))


def _constants(run: Run, now: Served) -> dict[str, Any]:
    """Return the constants of propensities, and the points that labels are counted in."""
    constants = dict(run.facts.get(favoured.PROPENSITY, {}))
    n_points = n_points_of(now.scorer)
    if n_points is not None:  # some may have been added
        constants["n_points"] = n_points
    if "n_points" not in constants:
        raise ValueError(
            f"{run.folder}: favour needs the number of training points, which this run of an older "
            "dexml does not keep; train it again"
        )
    return constants
