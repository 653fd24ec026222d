"""Fitting probabilities to scores, on answers to points that the scorer was not fitted on.

A training has such answers from its selection: out-of-fold scores of the ranker, or those of the
first member where there is no ranker. What is said of them (precision, recall) is cross-fitted:
the steps that judge a point were fitted without it and its group.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import hits_of, part_numbers
from dexml.files import replacing
from dexml.metrics.audit import wilson
from dexml.metrics.labelgroups import FREQUENCIES, frequency_of
from dexml.scorers.calibration import (
    ALL,
    COLUMNS,
    OLD,
    Calibration,
    Curve,
    Expected,
    Held,
    Level,
    Missing,
)
from dexml.scorers.candidates import Candidates
from dexml.scorers.points import entries
from dexml.train.asked import Asked, Evidence
from dexml.train.curves import FEW_HITS, fit_curve, fit_level
from dexml.train.inputs import DataSet
from dexml.train.ranking import Choice

FILE = "calibration.npz"
"""Where a checkpoint keeps the calibration."""
DEPTH = 100
"""Labels a text that are looked at."""
FEWEST_HITS = 30
"""Hits below which nothing is fitted."""
GROUP_HITS = 100
"""Hits that a frequency group needs for a cut, and unseen labels for steps of their own."""
FOLDS = 5
N_CUTS = 256
"""Probabilities above which precision and recall are measured."""
RESAMPLES = 500
NO_VALIDATION = "no validation part: nothing was held out that probabilities could be fitted on"
_SALT = "dexml calibration folds"


@dataclass(frozen=True)
class Answers:
    """Answers to n points, none of which the scorer was fitted on. D labels a point."""

    scores: NDArray[np.float32]
    """(n, D), best first, padded with -inf."""
    hits: NDArray[np.bool_]
    """Which are right, (n, D)."""
    counts: NDArray[np.int64]
    """Points of each label that the scorer was fitted on, (n, D)."""
    missed: NDArray[np.int64]
    """Right labels that are not among the answers, by frequency group, (n, 4)."""
    keys: Sequence[str] | None
    """A group key a point: points with one key are one unit. None: each for itself."""
    folds: NDArray[np.int64]
    """Fold of each point; points of one unit are in one fold."""
    ids: NDArray[np.int32] | None = None
    """Label ids of the answers, (n, D), padded with -1. None: they are not kept."""
    y_true: csr_array | None = None
    """The right labels, (n, L); with `ids`."""

    @classmethod
    def of_hits(
        cls,
        ids: NDArray[np.int32],
        scores: NDArray[np.float32],
        counts: NDArray[np.integer[Any]],
        asked: Asked,
        label_counts: NDArray[np.integer[Any]],
    ) -> Answers:
        """Hold ranked labels (n, D) against the truth.

        Args:
            ids: Label ids, padded with -1.
            scores: Their scores.
            counts: Points of each label that the scorer was fitted on, (n, D).
            asked: The points.
            label_counts: The same for labels that are not among the answers, (L,).
        """
        y = csr_array(asked.y_true > 0, dtype=np.float32)
        hits = hits_of(y, ids)
        n = len(ids)
        lengths = hits.sum(axis=1)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        found = csr_array((np.ones(indptr[-1], np.float32), ids[hits], indptr), shape=y.shape)
        rest = csr_array(y - found)
        rest.eliminate_zeros()
        rows = np.repeat(np.arange(n), np.diff(rest.indptr))
        missed = np.zeros((n, len(FREQUENCIES)), np.int64)
        np.add.at(missed, (rows, frequency_of(label_counts[rest.indices])), 1)
        folds = part_numbers(_SALT, asked.keys, FOLDS)
        points = np.asarray(counts, np.int64)
        return cls(scores, hits, points, missed, asked.groups, folds, ids, y)

    @classmethod
    def of_evidence(
        cls,
        evidence: Evidence,
        scores: NDArray[np.float32],
        asked: Asked,
        label_counts: NDArray[np.integer[Any]],
    ) -> Answers:
        """Take the best candidates by `scores`, one for each pair of the evidence."""
        pairs = evidence.pairs
        ids, best = _rust.topk_csr(pairs.indptr, pairs.ids, scores, pairs.n_labels, DEPTH, None)
        log_counts = evidence.features[:, evidence.names.index("log count")]
        counts = _at(pairs, np.rint(np.expm1(log_counts)), ids).astype(np.int64)
        return cls.of_hits(ids, best, counts, asked, label_counts)

    @property
    def there(self) -> NDArray[np.bool_]:
        """False for padding, (n, D)."""
        return np.isfinite(self.scores)

    @property
    def unit_of(self) -> NDArray[np.int64]:
        """The unit of each point, numbered from 0."""
        if self.keys is None:
            return np.arange(len(self.scores))
        return np.unique(np.asarray(self.keys), return_inverse=True)[1].astype(np.int64)


def _at(pairs: Candidates, values: NDArray[Any], ids: NDArray[np.int32]) -> NDArray[np.float32]:
    matrix = csr_array((values + 1.0, pairs.ids, pairs.indptr), pairs.matrix.shape)
    return np.maximum(entries(matrix, ids, 1.0) - 1, 0)


def calibrate(
    evidence: Evidence, asked: Asked, choice: Choice | None, given: DataSet, *, seed: int
) -> Calibration | Missing:
    """Fit probabilities to the scores that will be served.

    Args:
        evidence: What the members say of the points.
        asked: The points.
        choice: The ranker, whose out-of-fold scores count if it is used; else, and without one,
            those of the first member.
        given: The data set.
        seed: Of the resampling.
    """
    ranked = choice is not None and choice.network is not None
    if choice is not None and ranked:
        evidence = choice.evidence
    scores = choice.scores if choice is not None and ranked else evidence.base
    fitted = given.y[given.fitted]
    counts = np.bincount(fitted.indices, minlength=fitted.shape[1])
    return fit(Answers.of_evidence(evidence, scores, asked, counts), seed=seed)


def summary(calibration: Calibration | Missing) -> str:
    """Describe a calibration in one line."""
    if isinstance(calibration, Missing):
        return f"no probabilities: {calibration.reason}"
    about = calibration.about
    own = "" if calibration.unseen is None else ", unseen labels by themselves"
    return (
        f"probabilities: {about['kind']}, from "
        f"{about['hits']} right labels of {about['points']} held-out points{own}"
    )


def fit(answers: Answers, *, seed: int) -> Calibration | Missing:
    """Fit probabilities, and what to expect above each.

    Args:
        answers: To points that the scorer was not fitted on.
        seed: Of the resampling.
    """
    n_points, n_hits = len(answers.scores), int(answers.hits.sum())
    if n_hits < FEWEST_HITS:
        return Missing(
            f"{n_hits} right labels among the answers to {n_points} held-out points; "
            f"{FEWEST_HITS} are needed"
        )
    curves = _curves(answers, np.ones(n_points, np.bool_))
    judged = np.zeros(answers.scores.shape)
    for fold in range(FOLDS):
        held = answers.folds == fold
        if held.any() and answers.hits[~held].any():
            judged[held] = _curves(answers, ~held).judge(answers, held)
    enough = [
        number
        for number in range(len(FREQUENCIES))
        if answers.hits[frequency_of(answers.counts) == number].sum() >= GROUP_HITS
    ]
    # As many right labels between each two cuts; 0 keeps everything.
    shares = np.linspace(0, 1, N_CUTS)
    cuts = np.unique(np.append(0.0, np.quantile(judged[answers.hits], shares, method="lower")))
    expected = _expected(answers, judged, cuts, enough, seed)
    about = {
        "points": n_points,
        "units": _n_units(answers),
        "hits": n_hits,
        "depth": answers.scores.shape[1],
        "kind": "isotonic" if n_hits >= FEW_HITS else "logistic",
        "groups": [ALL, *(FREQUENCIES[number] for number in enough)],
    }
    return Calibration(*curves, expected, about, _held(answers, judged))


def _held(answers: Answers, judged: NDArray[np.float64]) -> Held | None:
    """Return the answers as a run keeps them."""
    if answers.ids is None or answers.y_true is None:
        return None
    y = answers.y_true
    indptr, right = y.indptr.astype(np.int64), y.indices.astype(np.int32)
    return Held(answers.ids, judged.astype(np.float32), indptr, right)


class _Curves(NamedTuple):
    """What is fitted on some points."""

    seen: Curve
    unseen: Curve | None
    level: Level

    def judge(self, answers: Answers, points: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return probabilities of the answers to some points; 0 for padding."""
        best = answers.scores[points]
        leveled = best - self.level.of(best)
        values = self.seen(leveled)
        if self.unseen is not None:
            values = np.where(answers.counts[points] == 0, self.unseen(leveled), values)
        return np.where(answers.there[points], values, 0)


def _curves(answers: Answers, points: NDArray[np.bool_]) -> _Curves:
    """Fit the level, and the curves of seen and of unseen labels, on some points."""
    level = fit_level(answers.scores[points], answers.hits[points])
    leveled = answers.scores - level.of(answers.scores)
    there = answers.there & points[:, None]
    new = there & (answers.counts == 0)
    old = there & ~new
    if answers.hits[new].sum() < GROUP_HITS or not answers.hits[old].any():
        return _Curves(fit_curve(leveled[there], answers.hits[there]), None, level)
    return _Curves(
        fit_curve(leveled[old], answers.hits[old]),
        fit_curve(leveled[new], answers.hits[new]),
        level,
    )


def _n_units(answers: Answers) -> int:
    """Units that have a right label."""
    positives = answers.hits.sum(axis=1) + answers.missed.sum(axis=1)
    return len(np.unique(answers.unit_of[positives > 0]))


def _expected(
    answers: Answers,
    judged: NDArray[np.float64],
    cuts: NDArray[np.float64],
    groups: Sequence[int],
    seed: int,
) -> Expected:
    """Measure answers cut at each probability, with bootstrap intervals over units.

    Args:
        answers: The answers.
        judged: Probabilities by steps that were fitted without the point, (n, D).
        cuts: Probabilities, ascending, (T,).
        groups: Positions of frequency groups that are measured beside all labels.
        seed: Of the resampling.
    """
    unit_of = answers.unit_of
    n_units = int(unit_of.max()) + 1
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_units, np.full(n_units, 1 / n_units), RESAMPLES).astype(np.float64)
    frequency = frequency_of(answers.counts)
    points = np.bincount(unit_of, minlength=n_units).astype(np.float64)
    tables = []
    for group in (None, *groups):
        own = answers.there if group is None else answers.there & (frequency == group)
        kept = _above(judged, own, cuts, unit_of, n_units)
        right = _above(judged, own & answers.hits, cuts, unit_of, n_units)
        missed = answers.missed.sum(axis=1) if group is None else answers.missed[:, group]
        positives = (own & answers.hits).sum(axis=1) + missed
        total = np.bincount(unit_of, positives, minlength=n_units).astype(np.float64)
        tables.append(_intervals(draws, kept, right, total, points))
    return Expected(cuts, np.stack(tables), _missed(answers, judged, cuts))


def _above(
    judged: NDArray[np.float64],
    own: NDArray[np.bool_],
    cuts: NDArray[np.float64],
    unit_of: NDArray[np.int64],
    n_units: int,
) -> NDArray[np.float64]:
    """Count the answers of each unit that are judged at or above each cut, (units, T)."""
    rows, columns = np.nonzero(own)
    at = np.searchsorted(cuts, judged[rows, columns], side="right") - 1
    flat = unit_of[rows] * len(cuts) + at
    counts = np.bincount(flat, minlength=n_units * len(cuts)).reshape(n_units, len(cuts))
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1].astype(np.float64)


def _intervals(
    draws: NDArray[np.float64],
    kept: NDArray[np.float64],
    right: NDArray[np.float64],
    positives: NDArray[np.float64],
    points: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return precision, recall and labels a point with intervals, (T, len(COLUMNS))."""
    with np.errstate(invalid="ignore", divide="ignore"):
        # Sums of whole numbers: exact, however many threads multiply.
        k, r = draws @ kept, draws @ right
        samples = (r / k, r / (draws @ positives)[:, None], k / (draws @ points)[:, None])
        n_kept, n_right = kept.sum(axis=0), right.sum(axis=0)
        values = (n_right / n_kept, n_right / positives.sum(), n_kept / points.sum())
    columns = []
    for value, sample in zip(values, samples, strict=True):
        low, high = np.quantile(np.nan_to_num(sample), [0.05, 0.95], axis=0)
        columns += [np.nan_to_num(value), low, high]
    # A bootstrap of few answers is too sure: 20 of 20 right would be 100 % for sure.
    columns[1] = np.minimum(columns[1], _lower_end(n_right, n_kept))
    assert len(columns) == len(COLUMNS)
    return np.stack(columns, axis=1)


def _lower_end(right: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower end of Wilson's interval of a share, one-sided, 95 %; 0 of nothing."""
    n = np.maximum(n, 1e-9)
    return np.where(n < 1, 0.0, wilson(right / n, n, 1.6449)[0])


def _missed(
    answers: Answers, judged: NDArray[np.float64], cuts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean share of right labels missed at each cut, each unit counted once."""
    positives = answers.hits.sum(axis=1) + answers.missed.sum(axis=1)
    rows = np.flatnonzero(positives > 0)
    n = len(answers.scores)
    found = _above(judged, answers.hits, cuts, np.arange(n), n)[rows]
    share = 1 - found / positives[rows, None]
    _, unit = np.unique(answers.unit_of[rows], return_inverse=True)
    size = np.bincount(unit).astype(np.float64)
    sums = np.zeros((len(size), len(cuts)))
    np.add.at(sums, unit, share)
    mean: NDArray[np.float64] = (sums / size[:, None]).mean(axis=0)
    return mean


def keep(calibration: Calibration | Missing, path: Path) -> None:
    """Keep a calibration in a checkpoint (``.npz``)."""
    arrays: dict[str, NDArray[Any]] = {}
    about: dict[str, Any] = {"missing": getattr(calibration, "reason", "")}
    if isinstance(calibration, Calibration):
        arrays, about = dict(calibration.arrays()), calibration.about
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)


def kept(path: Path) -> Calibration | Missing:
    """Read what `keep` kept; without a file, the training was begun by an older dexml.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.exists():
        return Missing(OLD)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            about = json.loads(str(archive["about"]))
            arrays = {name: archive[name] for name in archive.files if name != "about"}
        if "missing" in about:
            return Missing(about["missing"])
        return Calibration.of_arrays(arrays, about)
    except Exception as error:  # on damaged files np.load raises a dozen kinds of errors
        raise ValueError(f"{path}: damaged ({error}); start again with --overwrite") from None
