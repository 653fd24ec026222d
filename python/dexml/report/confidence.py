"""Whether probabilities hold on the test part, and what cuts by them leave."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr, csr_of_ids, hits_of
from dexml.metrics import Reliability, evaluate, reliability
from dexml.metrics.labelgroups import FREQUENCIES, frequency_of
from dexml.metrics.propensity import label_counts
from dexml.report import charts
from dexml.report.charts import Figure, Point, Reach, Series
from dexml.report.figures import in_percent
from dexml.report.inputs import Evaluation, Training
from dexml.scorers.calibration import COLUMNS, Calibration
from dexml.scorers.thresholds import Threshold, at_precision, at_recall

K = 5
"""Labels of a point whose probabilities are looked at."""
RESAMPLES = 500
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
RECALLS = tuple(round(0.05 * step, 2) for step in range(1, 20))
FEW = 20
"""Labels below which a precision is not drawn."""
LINE = 80
"""Points of a line."""


class Cut(NamedTuple):
    """Answers cut by what was asked; `threshold` is None where it cannot be reached."""

    asked: float
    threshold: Threshold | None
    why: str = ""
    """What is said where it cannot."""
    precision: float = np.nan
    """On the test part, as the next ones."""
    recall: float = np.nan
    """Of all right labels."""
    recall_of_text: float = np.nan
    """Mean over the texts that have a right label."""
    labels: float = np.nan
    """A text."""


class Group(NamedTuple):
    """Labels of one frequency, among the first `K` of the test points."""

    name: str
    labels: int
    """Predicted ones."""
    probability: float
    """Their mean probability."""
    precision: float
    ece: float
    cut: float | None
    """Own cut for a precision of 0.8; None: too few right ones, or none is sure."""


class Confidence(NamedTuple):
    """What the page says of probabilities."""

    k: int
    reliability: Reliability
    brier: float
    figures: list[Figure]
    groups: list[Group]
    precisions: list[Cut]
    recalls: list[Cut]
    """Every second one that can be guaranteed, and the largest."""


def judge(training: Training, *, seed: int) -> Confidence | None:
    """Hold the probabilities of the test part against its truth; None where there are none."""
    test, calibration = training.test, training.calibration
    if test is None or calibration is None or test.probabilities is None or not test.ids.size:
        return None
    if not (test.ids[:, 0] >= 0).any():
        return None
    answers = _Answers.of(test)
    k = min(K, test.ids.shape[1])
    found = _matrix(test, k)
    reliable = reliability(
        test.y_true, found, k, groups=test.groups, seed=seed, n_resamples=RESAMPLES
    )
    brier = evaluate(test.y_true, found, [f"Brier@{k}"])[f"Brier@{k}"]
    counts = label_counts(training.y) if training.counts is None else training.counts
    precisions = [_cut(answers, share, calibration, at_precision) for share in PRECISIONS]
    recalls = [_cut(answers, share, calibration, at_recall) for share in RECALLS]
    recalls = [cut for cut in recalls if cut.threshold is not None]
    figures = [
        _curve(reliable, k),
        _against_threshold(answers, calibration),
        _set_sizes(recalls),
    ]
    return Confidence(
        k,
        reliable,
        brier,
        [figure for figure in figures if figure is not None],
        _groups(test, calibration, counts, k),
        precisions,
        [cut for i, cut in enumerate(recalls) if i % 2 or cut is recalls[-1]],
    )


class _Answers(NamedTuple):
    """Ranked labels of the test part with their probabilities, the most probable first."""

    p: NDArray[np.float64]
    """(n,), falling."""
    hits: NDArray[np.bool_]
    rows: NDArray[np.int64]
    positives: NDArray[np.int64]
    """Right labels of each point, (M,)."""

    @classmethod
    def of(cls, test: Evaluation) -> _Answers:
        assert test.probabilities is not None
        hits = hits_of(test.y_true, test.ids)
        rows, columns = np.nonzero(test.ids >= 0)
        p = test.probabilities[rows, columns].astype(np.float64)
        order = np.argsort(-p, kind="stable")
        true = test.y_true.data > 0
        of_row = np.repeat(np.arange(len(test.ids)), np.diff(test.y_true.indptr))
        positives = np.bincount(of_row[true], minlength=len(test.ids))
        return cls(p[order], hits[rows, columns][order], rows[order], positives)

    def above(self, cut: float) -> int:
        """Count the answers of at least this probability."""
        return int(np.searchsorted(-self.p, -float(np.float32(cut)), side="right"))


def _matrix(test: Evaluation, k: int, keep: NDArray[np.bool_] | None = None) -> Csr:
    """Return the probabilities of the first k labels, or of some of them, as a matrix."""
    assert test.probabilities is not None
    ids = test.ids[:, :k] if keep is None else np.where(keep, test.ids[:, :k], -1)
    values = test.probabilities[:, :k].astype(np.float64)
    return csr_of_ids(ids, values, test.y_true.shape[1])


def _cut(answers: _Answers, share: float, calibration: Calibration, find: Any) -> Cut:
    """Find the cut for a share, and measure what it leaves."""
    try:
        threshold = find(calibration, share)
    except ValueError as error:
        return Cut(share, None, str(error))
    n = answers.above(threshold.min_probability)
    hits, points = int(answers.hits[:n].sum()), len(answers.positives)
    found = np.bincount(answers.rows[:n], answers.hits[:n], minlength=points)
    has = answers.positives > 0
    return Cut(
        share,
        threshold,
        "",
        hits / n if n else np.nan,
        hits / max(1, int(answers.positives.sum())),
        float((found[has] / answers.positives[has]).mean()) if has.any() else np.nan,
        n / max(1, points),
    )


def _curve(found: Reliability, k: int) -> Figure | None:
    """Draw how often labels were right against how probable they were said to be."""
    bins = [one for one in found.bins if one.labels >= FEW]
    points = [
        Point(
            one.probability,
            one.precision,
            f"{one.labels:,} labels of mean probability {in_percent(one.probability, 1)}: "
            f"{in_percent(one.precision, 1)} % right",
        )
        for one in bins
    ]
    reaches = [
        Reach(one.probability, one.interval.low, one.interval.high)
        for one in bins
        if np.isfinite(one.interval.low)
    ]
    ends = found.ece_interval
    return charts.lines(
        "Reliability, percent",
        [
            Series("right on the test part", points),
            Series("as promised", [Point(0, 0), Point(1, 1)]),
        ],
        x_name="probability",
        y_text=charts.percent,
        x_text=charts.percent,
        reaches=reaches,
        caption=f"The first {k} labels of the test points, in ten bins by probability, with 95 % "
        f"intervals (bins of fewer than {FEW} labels are left out). Expected "
        f"calibration error {in_percent(found.ece)} "
        f"({in_percent(ends.low)} to {in_percent(ends.high)}).",
    )


def _against_threshold(answers: _Answers, calibration: Calibration) -> Figure | None:
    """Draw precision and recall of what lies above a probability: measured, and expected."""
    cuts, table = calibration.expected.probabilities, calibration.expected.table[0]
    at = np.unique(np.linspace(0, len(cuts) - 1, LINE).round().astype(np.int64))
    total = max(1, int(answers.positives.sum()))
    right = np.concatenate([[0], np.cumsum(answers.hits)])
    lines: dict[str, list[Point]] = {
        name: [] for name in ("precision", "recall", "precision expected", "recall expected")
    }
    held_out = int(calibration.about["points"])
    for i in at.tolist():
        cut, n = float(cuts[i]), answers.above(float(cuts[i]))
        if n >= FEW:
            lines["precision"].append(Point(cut, right[n] / n))
        lines["recall"].append(Point(cut, right[n] / total))
        row = dict(zip(COLUMNS, table[i].tolist(), strict=True))
        if row["labels"] * held_out >= FEW:
            lines["precision expected"].append(Point(cut, row["precision"]))
        lines["recall expected"].append(Point(cut, row["recall"]))
    return charts.lines(
        "Precision and recall above a probability, percent",
        [Series(name, points) for name, points in lines.items()],
        x_name="min_probability",
        y_text=charts.percent,
        x_text=charts.percent,
        from_zero=True,
        caption=f"Of the labels that are left, up to {calibration.depth} a text: on the test part, "
        "and as the held-out training points let expect.",
    )


def _set_sizes(cuts: list[Cut]) -> Figure | None:
    """Draw how many labels a text it takes for a recall."""
    points = [
        Point(
            cut.asked,
            cut.labels,
            f"asked {in_percent(cut.asked, 0)} %: {cut.labels:.2f} labels a text, "
            f"{in_percent(cut.recall_of_text, 1)} % of a text's right labels on the test part",
        )
        for cut in cuts
    ]
    expected = [
        Point(cut.asked, cut.threshold.labels.value)
        for cut in cuts
        if cut.threshold is not None and cut.threshold.labels is not None
    ]
    return charts.lines(
        "Labels a text for a recall",
        [Series("on the test part", points), Series("expected", expected)],
        x_name="min_recall, percent",
        x_text=charts.percent,
        from_zero=True,
        caption="Sets that contain this share of a text's right labels on average (conformal risk "
        "control). The line ends where the candidates do.",
    )


def _groups(
    test: Evaluation, calibration: Calibration, counts: NDArray[np.int64], k: int
) -> list[Group]:
    assert test.probabilities is not None
    ids, p = test.ids[:, :k], test.probabilities[:, :k]
    hits, there = hits_of(test.y_true, ids), ids >= 0
    frequency = frequency_of(counts[np.maximum(ids, 0)])
    try:
        cuts = at_precision(calibration, 0.8, by_frequency=True).by_frequency
    except ValueError:
        cuts = {}
    found = []
    for number, name in enumerate(FREQUENCIES):
        own = there & (frequency == number)
        if not own.any():
            continue
        ece = evaluate(test.y_true, _matrix(test, k, own), [f"ECE@{k}"])[f"ECE@{k}"]
        cut = cuts.get(name)
        found.append(
            Group(
                name,
                int(own.sum()),
                float(p[own].mean()),
                float(hits[own].mean()),
                ece,
                cut if cut is not None and cut <= 1 else None,
            )
        )
    return found
