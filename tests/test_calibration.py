"""Probabilities of scores, and where to cut: against scikit-learn, slow twins and simulations."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dexml.metrics.labelgroups import frequency_of
from dexml.scorers.calibration import MAX_STEPS, Calibration, Level, Missing
from dexml.scorers.thresholds import at_precision, at_probability, at_recall
from dexml.train import calibrating, curves
from dexml.train.calibrating import Answers, fit
from dexml.train.curves import fit_curve, isotonic_steps


def steep(scores: NDArray[Any]) -> NDArray[np.float64]:
    """The true probability of a score."""
    return 1 / (1 + np.exp(-2.0 * scores))


def answers(
    n: int = 1500, depth: int = 8, seed: int = 0, *, groups: int = 0, missed: float = 0.3
) -> Answers:
    """Answers whose hits follow `steep`, with a few right labels beyond them."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.normal(-1, 1.5, (n, depth))).astype(np.float32)
    hits = rng.random((n, depth)) < steep(scores)
    beyond = np.zeros((n, 4), np.int64)
    beyond[:, 2] = rng.random(n) < missed
    unit = rng.integers(0, groups, n) if groups else np.arange(n)
    keys = [f"g{i}" for i in unit] if groups else None
    return Answers(scores, hits, np.full((n, depth), 5), beyond, keys, unit % 5)


def fitted(**changes: Any) -> Calibration:
    calibration = fit(answers(**changes), seed=0)
    assert isinstance(calibration, Calibration)
    return calibration


def violators(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pool adjacent violators, one step at a time."""
    blocks = [[v, w, 1] for v, w in zip(values, weights, strict=True)]
    at = 0
    while at + 1 < len(blocks):
        (a, m, i), (b, n, j) = blocks[at], blocks[at + 1]
        if a <= b:
            at += 1
            continue
        blocks[at : at + 2] = [[(a * m + b * n) / (m + n), m + n, i + j]]
        at = max(0, at - 1)
    return np.concatenate([np.full(int(n), v) for v, _, n in blocks])


def graded(seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Forty scores, each with a hundred answers, none of them sure."""
    rng = np.random.default_rng(seed)
    scores = np.repeat(np.linspace(-2, 2, 40), 100)
    hits = rng.random(len(scores)) < steep(scores / 2)
    return scores, hits


@pytest.mark.parametrize("seed", range(5))
def test_steps_are_the_isotonic_regression(seed: int) -> None:
    """That of scikit-learn, and that of pooling adjacent violators by hand."""
    isotonic = pytest.importorskip("sklearn.isotonic")
    scores, hits = graded(seed)
    steps = isotonic_steps(scores, hits)
    values = np.array([step.value for step in steps])
    own = values[np.searchsorted([step.low for step in steps], scores, side="right") - 1]
    judge = isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, hits)
    np.testing.assert_allclose(own, judge.predict(scores), atol=1e-12)
    shares = hits.reshape(40, 100).mean(axis=1)
    np.testing.assert_allclose(own[::100], violators(shares, np.full(40, 100.0)))


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_stays_near_the_steps(seed: int) -> None:
    scores, hits = graded(seed)
    steps, curve = isotonic_steps(scores, hits), fit_curve(scores, hits)
    values = np.array([step.value for step in steps])
    np.testing.assert_allclose(curve(np.array([step.mean for step in steps])), values)
    for step, before, after in zip(steps[1:-1], values[:-2], values[2:], strict=True):
        ends = curve(np.array([step.low, step.high]))
        assert (before + step.value) / 2 - 1e-12 <= ends[0] <= ends[1]
        assert ends[1] <= (after + step.value) / 2 + 1e-12
    assert curve(scores).mean() == pytest.approx(hits.mean(), abs=0.002)


def test_steps_are_few_and_the_curve_rises_inside_0_and_1() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200_000)
    hits = rng.random(len(scores)) < steep(scores * 3)
    assert 50 < len(isotonic_steps(scores, hits)) <= MAX_STEPS
    curve = fit_curve(scores, hits)
    assert (np.diff(curve.values) >= 0).all()
    assert (np.diff(curve.scores) > 0).all()
    assert 0 < curve.values[0] < curve.values[-1] < 1
    middle = np.linspace(-1, 1, 50)
    np.testing.assert_allclose(curve(middle), steep(middle * 3), atol=0.06)
    assert curve(np.array([-1e9]))[0] == curve.values[0]
    assert curve(np.array([1e9]))[0] == curve.values[-1]


def test_few_hits_give_a_logistic_curve_and_fewer_none() -> None:
    few = answers(40)
    assert calibrating.FEWEST_HITS <= few.hits.sum() < curves.FEW_HITS
    calibration = fit(few, seed=0)
    assert isinstance(calibration, Calibration)
    assert calibration.about["kind"] == "logistic"
    middle = np.linspace(-2, 1, 20)
    np.testing.assert_allclose(calibration.seen(middle), steep(middle), atol=0.15)
    nothing = fit(answers(5), seed=0)
    assert isinstance(nothing, Missing)
    n = int(answers(5).hits.sum())
    assert nothing.reason.startswith(f"{n} right labels among the answers to 5 held-out points")
    assert nothing.facts() == {"calibration": {"missing": nothing.reason}}


def test_probabilities_are_true_on_other_points() -> None:
    calibration, other = fitted(n=4000), answers(4000, seed=7)
    p = calibration.probabilities(
        np.zeros(other.scores.shape, np.int32), other.scores, np.array([5])
    )
    for low, high in ((0, 0.1), (0.1, 0.4), (0.4, 0.7), (0.7, 1)):
        own = (p >= low) & (p < high)
        assert own.sum() > 1000
        assert other.hits[own].mean() == pytest.approx(p[own].mean(), abs=0.025)
    assert (np.diff(p, axis=1) <= 0).all()  # the order of a text's labels stays


def test_the_level_of_a_text_is_taken_off_its_scores() -> None:
    """Scores that are shifted text by text say nothing alone; ranking losses allow such shifts."""
    base = answers(4000)
    shift = np.random.default_rng(3).normal(0, 5, (4000, 1)).astype(np.float32)
    shifted = Answers(base.scores + shift, base.hits, base.counts, base.missed, None, base.folds)
    calibration = fit(shifted, seed=0)
    assert isinstance(calibration, Calibration)
    assert sum(calibration.level[1:]) == pytest.approx(1, abs=0.1)
    ids, counts = np.zeros(base.scores.shape, np.int32), np.array([5])
    p = calibration.probabilities(ids, shifted.scores, counts)
    flat = fit_curve(shifted.scores.ravel(), base.hits.ravel())(shifted.scores)
    brier = ((p - base.hits) ** 2).mean(), ((flat - base.hits) ** 2).mean()
    assert brier[0] < brier[1] - 0.02
    one = calibration.probabilities(ids[:, :1], shifted.scores[:, :1], counts, shifted.scores)
    np.testing.assert_array_equal(one, p[:, :1])  # it does not depend on how many are asked for


def test_level_of_padded_rows() -> None:
    level = Level(0.5, 0.2, 0.3, 0.5)
    best = np.array([[2.0, 1.0, -np.inf], [-np.inf] * 3])
    peak = 0.5 * np.log(np.exp(2 / 0.5) + np.exp(1 / 0.5))
    np.testing.assert_allclose(level.of(best), [[0.2 * 2 + 0.3 * peak + 0.5 * 1.5], [0]])


def test_unseen_labels_have_steps_of_their_own_where_there_are_enough() -> None:
    both = answers(4000)
    rng = np.random.default_rng(1)
    new = rng.random(both.scores.shape) < 0.2
    both.counts[new] = 0
    both.hits[new] &= rng.random(int(new.sum())) < 0.3  # right less often at the same score
    calibration = fit(both, seed=0)
    assert isinstance(calibration, Calibration)
    assert calibration.unseen is not None
    assert calibration.unseen(np.array([2.0]))[0] < 0.5 < calibration.seen(np.array([2.0]))[0]
    ids = np.array([[0, 1, -1]], np.int32)
    p = calibration.probabilities(ids, np.array([[2.0, 2.0, -np.inf]]), np.array([0, 9]))
    assert p[0, 0] < p[0, 1]
    assert p[0, 2] == 0
    both.hits[new] = False
    without = fit(both, seed=0)
    assert isinstance(without, Calibration)
    assert without.unseen is None


def test_a_cut_is_the_smallest_whose_lower_bound_reaches_the_precision() -> None:
    calibration = fitted(n=3000)
    expected = calibration.expected
    cut = at_precision(calibration, 0.8)
    at = int(np.flatnonzero(expected.probabilities == cut.min_probability)[0])
    assert (expected.table[0, :at, 1] < 0.8).all()
    assert expected.table[0, at, 1] >= 0.8
    assert cut.precision is not None
    assert cut.recall is not None
    assert cut.labels is not None
    other = answers(20_000, seed=9)
    ids, counts = np.zeros(other.scores.shape, np.int32), np.array([5])
    kept = cut.keeps(ids, calibration.probabilities(ids, other.scores, counts), counts)
    assert 0.78 <= other.hits[kept].mean() <= 0.86
    assert cut.precision.low - 0.02 < other.hits[kept].mean() < cut.precision.high + 0.02
    positives = other.hits.sum() + other.missed.sum()
    assert other.hits[kept].sum() / positives == pytest.approx(cut.recall.value, abs=0.03)
    assert kept.sum() / len(kept) == pytest.approx(cut.labels.value, abs=0.1)
    assert "precision 8" in str(cut)
    assert "labels a text" in str(cut)


def test_what_is_expected_is_what_counting_says() -> None:
    some = answers(400, depth=4)
    calibration = fit(some, seed=0)
    assert isinstance(calibration, Calibration)
    cuts, table = calibration.expected.probabilities, calibration.expected.table[0]
    assert cuts[0] == 0  # everything
    positives = int(some.hits.sum() + some.missed.sum())
    assert table[0, 0] == pytest.approx(some.hits.mean())
    assert table[0, 3] == pytest.approx(some.hits.sum() / positives)
    assert table[0, 6] == 4
    per_point = some.hits.sum(axis=1) + some.missed.sum(axis=1)
    share = 1 - some.hits.sum(axis=1)[per_point > 0] / per_point[per_point > 0]
    assert calibration.expected.missed[0] == pytest.approx(share.mean())
    assert (np.diff(calibration.expected.missed) >= 0).all()
    assert calibration.units == (per_point > 0).sum()


def test_a_large_group_makes_the_bounds_wider() -> None:
    """Points of one group err together: resampling points would be too sure."""
    n, rng = 2000, np.random.default_rng(0)
    scores = -np.sort(-rng.normal(-1, 1.5, (n, 8))).astype(np.float32)
    unit = rng.integers(0, 25, n)
    luck = rng.normal(0, 1.5, 25)[unit][:, None]
    hits = rng.random((n, 8)) < steep(scores + luck)
    rest = np.zeros((n, 4), np.int64)

    def width(keys: list[str] | None) -> float:
        calibration = fit(Answers(scores, hits, np.full((n, 8), 5), rest, keys, unit % 5), seed=0)
        assert isinstance(calibration, Calibration)
        table = calibration.expected.table[0]
        return float(table[0, 2] - table[0, 1])

    assert width([f"g{i}" for i in unit]) > 2 * width(None)


def test_what_cannot_be_reached_is_refused_with_what_can() -> None:
    calibration = fitted()
    with pytest.raises(ValueError, match=r"min_precision = 1 cannot be reached .* can: 0\.\d+ "):
        at_precision(calibration, 1.0)
    with pytest.raises(
        ValueError, match=r"min_recall = 1 cannot be guaranteed: the 8 best"
    ) as told:
        at_recall(calibration, 1.0)
    best = float(str(told.value).rsplit(" ", 1)[1])
    at_recall(calibration, best)
    with pytest.raises(ValueError, match="cannot be guaranteed"):
        at_recall(calibration, best + 0.002)
    n, floor = calibration.units, calibration.expected.missed[0]
    assert best == pytest.approx(1 - (n * floor + 1) / (n + 1), abs=1e-3)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
@pytest.mark.parametrize("ask", [at_probability, at_precision, at_recall])
def test_shares_outside_0_and_1_are_refused(ask: Any, share: float) -> None:
    with pytest.raises(ValueError, match="expected a share above 0, and at most 1"):
        ask(fitted(), share)


@pytest.mark.parametrize("share", ["0.8", True, None])
def test_anything_but_a_number_is_refused(share: Any) -> None:
    with pytest.raises(TypeError, match="expected a number"):
        at_precision(fitted(), share)


def test_cuts_by_frequency_hold_for_groups_with_enough_hits() -> None:
    both = answers(3000)
    both.counts[::2] = 500  # head labels, which are right more often at the same score
    both.hits[::2] |= np.random.default_rng(0).random(both.hits[::2].shape) < 0.3
    calibration = fit(both, seed=0)
    assert isinstance(calibration, Calibration)
    assert calibration.groups == ["all", "head", "tail"]
    cut = at_precision(calibration, 0.7, by_frequency=True)
    assert set(cut.by_frequency) == {"head", "tail"}
    assert cut.by_frequency["head"] < cut.by_frequency["tail"]
    between = np.full((1, 3), (cut.by_frequency["head"] + cut.by_frequency["tail"]) / 2, np.float32)
    kept = cut.keeps(np.array([[0, 1, -1]]), between, np.array([500, 5]))
    assert kept.tolist() == [[True, False, False]]
    assert frequency_of(np.array([101, 100, 11, 10, 1, 0])).tolist() == [0, 1, 1, 2, 2, 3]


def test_sets_miss_no_more_than_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 draws of held-out points: the mean missed share of new points keeps to alpha, tightly."""
    monkeypatch.setattr(calibrating, "RESAMPLES", 2)
    population = answers(20_000, seed=1, missed=0.1)
    ids, counts = np.zeros(population.scores.shape, np.int32), np.array([5])
    positives = population.hits.sum(axis=1) + population.missed.sum(axis=1)
    has = positives > 0
    alpha, found = 0.25, []
    for seed in range(200):
        calibration = fit(answers(150, seed=1000 + seed, missed=0.1), seed=0)
        assert isinstance(calibration, Calibration)
        cut = at_recall(calibration, 1 - alpha)
        p = calibration.probabilities(ids, population.scores, counts)
        caught = (cut.keeps(ids, p, counts) & population.hits).sum(axis=1)
        found.append(1 - (caught[has] / positives[has]).mean())
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) <= alpha + 3 * error
    assert np.mean(found) > alpha - 0.05


def test_the_same_seed_gives_the_same_calibration() -> None:
    a, b = (fitted(groups=40).arrays() for _ in range(2))
    assert all((a[name] == b[name]).all() for name in a)
    assert fitted(groups=40).units <= 40


def test_what_is_kept_comes_back(tmp_path: Any) -> None:
    path, calibration = tmp_path / "calibration.npz", fitted()
    calibrating.keep(calibration, path)
    again = calibrating.kept(path)
    assert isinstance(again, Calibration)
    assert again.about == calibration.about
    calibrating.keep(Missing("because"), path)
    assert calibrating.kept(path).facts() == {"calibration": {"missing": "because"}}
    path.write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"calibration\.npz: damaged"):
        calibrating.kept(path)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("values", [0.5, 0.4], "does not rise"),
        ("values", [0.5], "without values"),
        ("values", [0.5, 1.5], "outside 0..1"),
        ("level", [0.0, 0, 0, 0], "no number"),
        ("missed", [0.5], "other sizes"),
    ],
)
def test_arrays_that_cannot_be_right_are_refused(name: str, value: list[float], what: str) -> None:
    calibration = fitted()
    arrays = calibration.arrays() | {"scores": np.array([0.0, 1]), "values": np.array([0.1, 0.2])}
    Calibration.of_arrays(arrays, calibration.about)
    with pytest.raises(ValueError, match=what):
        Calibration.of_arrays(arrays | {name: np.array(value)}, calibration.about)
