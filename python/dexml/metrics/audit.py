"""The true precision of predictions, estimated from a sample that people judge.

Truth is incomplete in most data of this kind: a predicted label that is not known to be right may
be right. So a sample of such predictions is drawn and judged, and precision is estimated from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust, data
from dexml.data import Csr
from dexml.metrics.evaluator import evaluate
from dexml.metrics.labelgroups import FREQUENCIES, frequency_of
from dexml.metrics.propensity import label_counts

BINS = 5
"""Strata by probability."""
RANKS = (1, 3, 5, 10)
"""Last rank of each stratum by rank; one more for all that follow."""
FEW = 5
"""Predictions that are drawn from every stratum, if there are enough."""
LEAST_SPREAD = 0.1
"""Standard deviation that a stratum counts with at least: probabilities may be wrong."""
ALL = "all"
By = Literal["auto", "probability", "rank"]


class Drawn(NamedTuple):
    """A prediction to judge."""

    point: int
    label: int
    stratum: int


@dataclass(frozen=True)
class Stratum:
    """Predictions of one kind."""

    place: str
    """Which probabilities or ranks: ``p 0.8-1`` or ``rank 2-3``."""
    frequency: str
    """One of `FREQUENCIES`, or empty where nothing is known of the labels."""
    unknown: int
    """Predictions that are not known to be right: the population that is drawn from."""
    known: int
    """Predictions that the truth says are right."""
    probability: float
    """Sum of the probabilities of both; NaN for scores that are none."""

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.place}, {self.frequency}" if self.frequency else self.place


@dataclass(frozen=True)
class Precision:
    """An estimate of the true precision of some predictions."""

    name: str
    """``all``, or the name of the predictions."""
    predictions: int
    """How many there are."""
    by_truth: float
    """The share of them that the truth says is right."""
    judged: int
    """How many were judged."""
    right: int
    """How many of these are right."""
    precision: float
    """Estimated share that is right."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end."""
    probability: float
    """Mean probability of the predictions; NaN for scores that are none."""


@dataclass(frozen=True)
class Audit:
    """A sample of predictions to judge, and what it was drawn from."""

    k: int
    """Labels of a point that were looked at."""
    seed: int
    strata: tuple[Stratum, ...]
    drawn: tuple[Drawn, ...]
    """In random order, so that who judges half of them has judged a sample too."""

    def estimate(
        self, right: Sequence[bool | None], *, confidence: float = 0.95
    ) -> list[Precision]:
        """Estimate the true precision from judgements.

        The estimator is that of stratified sampling, ``(sum known_h + sum N_h p_h) / N`` with p_h
        the share of the judged ones of stratum h that is right. Its interval: Wilson's limits
        l_h, u_h of each stratum, combined as ``p - sqrt(sum (N_h / N)^2 (1 - n_h / N_h)
        (p_h - l_h)^2)`` and likewise upwards (MOVER, Zou, Huang and Zhang 2009).

        Args:
            right: For each of `drawn`, whether it is right; None: not judged.
            confidence: Chance that an interval holds the true value.

        Returns:
            Estimates for all predictions, then for each kind of them. A kind is left out that has
            a stratum without a judgement.

        Raises:
            ValueError: The number of judgements is wrong, a stratum has none, or `confidence` is
                not between 0 and 1.
        """
        from scipy.special import ndtri  # a large module, which only this needs

        if len(right) != len(self.drawn):
            raise ValueError(f"{len(right)} judgements for {len(self.drawn)} predictions")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence = {confidence:g}; expected a share between 0 and 1")
        n, hits = np.zeros(len(self.strata)), np.zeros(len(self.strata))
        for one, answer in zip(self.drawn, right, strict=True):
            if answer is not None:
                n[one.stratum] += 1
                hits[one.stratum] += answer
        for number, stratum in enumerate(self.strata):
            if stratum.unknown and not n[number]:
                raise ValueError(
                    f"no prediction of '{stratum.name}' is judged; judge at least one "
                    f"({stratum.unknown} of the predictions are of this kind)"
                )
        kinds = {ALL: np.ones(len(self.strata), np.bool_)}
        for field in ("place", "frequency"):
            names = [getattr(stratum, field) for stratum in self.strata]
            if len(set(names)) > 1:
                kinds |= {name: np.array([other == name for other in names]) for name in names}
        z = float(ndtri((1 + confidence) / 2))
        return [self._estimate(name, kind, n, hits, z) for name, kind in kinds.items()]

    def _estimate(
        self,
        name: str,
        kind: NDArray[np.bool_],
        n: NDArray[np.float64],
        hits: NDArray[np.float64],
        z: float,
    ) -> Precision:
        some = [stratum for stratum, own in zip(self.strata, kind, strict=True) if own]
        unknown = np.array([stratum.unknown for stratum in some], np.float64)
        known = sum(stratum.known for stratum in some)
        judged, right = n[kind], hits[kind]
        whole = known + unknown.sum()
        there = judged > 0
        share = np.divide(right, judged, out=np.zeros(len(some)), where=there)
        low, high = wilson(share, np.maximum(judged, 1), z)
        weights = unknown / whole
        left = np.where(unknown > 0, 1 - judged / np.maximum(unknown, 1), 0)
        value = known / whole + float(weights @ share)
        down, up = (
            float(np.sqrt((weights**2 * left * (share - end) ** 2).sum())) for end in (low, high)
        )
        return Precision(
            name,
            int(whole),
            float(known / whole),
            int(judged.sum()),
            int(right.sum()),
            float(value),
            float(max(value - down, known / whole)),
            float(min(value + up, 1.0)),
            float(sum(stratum.probability for stratum in some) / whole),
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain data, of which `of_json` makes the same audit."""
        strata = [
            asdict(s) | {"probability": None if np.isnan(s.probability) else s.probability}
            for s in self.strata
        ]
        return {
            "k": self.k,
            "seed": self.seed,
            "strata": strata,
            "drawn": [list(one) for one in self.drawn],
        }

    @classmethod
    def of_json(cls, plain: dict[str, Any]) -> Audit:
        """Return the audit that `as_json` described.

        Raises:
            ValueError: It is not such data.
        """
        try:
            strata = tuple(
                Stratum(
                    str(s["place"]),
                    str(s["frequency"]),
                    int(s["unknown"]),
                    int(s["known"]),
                    float("nan") if s["probability"] is None else float(s["probability"]),
                )
                for s in plain["strata"]
            )
            drawn = tuple(Drawn(*map(int, one)) for one in plain["drawn"])
            if not all(0 <= one.stratum < len(strata) for one in drawn):
                raise ValueError("a stratum that there is not")
            return cls(int(plain["k"]), int(plain["seed"]), strata, drawn)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the plan of an audit ({error})") from None


def draw_audit(
    y_pred: Csr,
    y_true: Csr | None = None,
    k: int = 5,
    *,
    n: int,
    seed: int,
    y_train: Csr | None = None,
    exclude: Csr | None = None,
    by: By = "auto",
) -> Audit:
    """Draw predictions to judge, by probability (or rank) and frequency of the label.

    From every stratum a few are drawn, and the others where an answer says most about the whole:
    in proportion to size times the standard deviation that probabilities let expect (Neyman's
    allocation), or to size where there are none.

    Args:
        y_pred: Scores or probabilities, shape (n_points, n_labels); the first k labels of each
            point are looked at.
        y_true: Labels that are known to be right, of the same shape: these are not judged. None:
            nothing is known.
        k: Labels of a point that are looked at.
        n: Predictions to draw; fewer where there are fewer.
        seed: Of the drawing.
        y_train: Training labels, for strata by frequency.
        exclude: Pairs to drop first, of the shape of `y_pred`.
        by: ``"probability"``, ``"rank"``, or ``"auto"``: by probability if all scores lie in 0..1.

    Raises:
        ValueError: Shapes disagree, `by` is ``"probability"`` and a score lies outside 0..1, there
            is nothing to judge, or `n` is smaller than the number of strata.

    Example:
        >>> y_pred = csr_array(np.array([[0.9, 0.2, 0], [0.8, 0, 0.1]]))
        >>> y_true = csr_array(np.array([[1, 0, 0], [0, 0, 0]], dtype=np.float32))
        >>> audit = draw_audit(y_pred, y_true, 2, n=3, seed=0)
        >>> sorted((one.point, one.label) for one in audit.drawn)
        [(0, 1), (1, 0), (1, 2)]
        >>> audit.estimate([True, True, True])[0].precision
        1.0
    """
    data.expect_csr(y_pred, "y_pred")
    known = csr_array(y_pred.shape, dtype=np.float32) if y_true is None else y_true
    evaluate(known, y_pred, [f"P@{k}"], exclude=exclude)  # checks all of them
    pairs = data.pair_parts(exclude, y_pred.shape, "exclude")
    ids, scores = _rust.topk_csr(*data.csr_parts(y_pred, "y_pred"), y_pred.shape[1], k, pairs)
    rows, ranks = np.nonzero(ids >= 0)
    labels, values = ids[rows, ranks], scores[rows, ranks].astype(np.float64)
    within = bool(((values >= 0) & (values <= 1)).all())
    if by == "probability" and not within:
        raise ValueError("by = 'probability', but a score lies outside 0..1")
    as_probabilities = by == "probability" or (by == "auto" and within)
    places, place = _places(values, ranks, as_probabilities)
    frequency = np.zeros(len(rows), np.int64)
    frequencies: tuple[str, ...] = ("",)
    if y_train is not None:
        if y_train.shape[1] != y_pred.shape[1]:
            raise ValueError(
                f"y_train: {y_train.shape[1]} labels, but y_pred has {y_pred.shape[1]}"
            )
        counts, frequencies = label_counts(y_train)[labels], FREQUENCIES
        frequency = frequency_of(counts)
    right = data.hits_of(known, ids)[rows, ranks]
    number, of_pair = np.unique(place * len(frequencies) + frequency, return_inverse=True)
    unknown = np.bincount(of_pair, ~right).astype(np.int64)
    total = np.bincount(of_pair, values)
    strata = tuple(
        Stratum(
            places[at // len(frequencies)],
            frequencies[at % len(frequencies)],
            int(unknown[h]),
            int((of_pair == h).sum() - unknown[h]),
            float(total[h]) if as_probabilities else float("nan"),
        )
        for h, at in enumerate(number.tolist())
    )
    spread = np.ones(len(strata))
    if as_probabilities:
        mean = np.clip(total / np.bincount(of_pair), 0, 1)
        spread = np.maximum(np.sqrt(mean * (1 - mean)), LEAST_SPREAD)
    rng = np.random.default_rng(seed)
    drawn: list[Drawn] = []
    for h, size in enumerate(allocate(unknown, spread, n).tolist()):
        population = np.flatnonzero((of_pair == h) & ~right)
        for at in rng.choice(population, size, replace=False).tolist():
            drawn.append(Drawn(int(rows[at]), int(labels[at]), h))
    order = rng.permutation(len(drawn)).tolist()
    return Audit(int(k), int(seed), strata, tuple(drawn[i] for i in order))


def allocate(sizes: NDArray[np.int64], spread: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Share n draws among strata: a few each, the rest in proportion to size times spread.

    Args:
        sizes: Of the strata.
        spread: Standard deviation to expect in each.
        n: Draws in all.

    Raises:
        ValueError: The strata are empty, or more than n.
    """
    there = int((sizes > 0).sum())
    if not there:
        raise ValueError("nothing to judge: every prediction is known to be right")
    if n < there:
        raise ValueError(f"n = {n}: there are {there} strata; draw at least {there} predictions")
    taken = np.minimum(sizes, min(FEW, n // there))
    while (rest := min(n, int(sizes.sum())) - int(taken.sum())) > 0:
        left = sizes - taken
        wish = rest * (left > 0) * sizes * spread / float(((left > 0) * sizes * spread).sum())
        more = np.minimum(np.floor(wish).astype(np.int64), left)
        if not more.any():  # less than one each: the largest wishes first
            first = np.argsort(-np.where(left > 0, wish, -1), kind="stable")[:rest]
            more[first] = np.minimum(1, left[first])
        taken = taken + more
    return taken


def _places(
    values: NDArray[np.float64], ranks: NDArray[np.int64], as_probabilities: bool
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of strata by probability or rank, and the one of each prediction."""
    if as_probabilities:
        names = [f"p {b / BINS:g}-{(b + 1) / BINS:g}" for b in range(BINS)]
        return names, np.minimum((values * BINS).astype(np.int64), BINS - 1)
    first = [1, *(last + 1 for last in RANKS)]
    names = [f"rank {a}" if a == b else f"rank {a}-{b}" for a, b in zip(first, RANKS, strict=False)]
    return [*names, f"rank {first[-1]} on"], np.searchsorted(RANKS, ranks + 1).astype(np.int64)


def wilson(
    p: NDArray[np.float64], n: NDArray[np.float64], z: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Wilson's limits of shares p of n."""
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return middle - spread, middle + spread
