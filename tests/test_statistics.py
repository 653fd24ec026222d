"""Intervals and comparisons: enumeration, slow twins with known draws, coverage, p-values."""

import itertools
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.metrics import Comparison, Evaluator, Interval, Result, compare

Rows = dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]


def result_of(rows: Rows) -> Result:
    """A result with these rows; values follow from them."""
    values = {
        name: float(np.nansum(x) / ((~np.isnan(x)).sum() if d is None else np.nansum(d)))
        for name, (x, d) in rows.items()
    }
    n_points = len(next(iter(rows.values()))[0])
    return Result(values, n_points, 9, 0, 0, 0, {"empty_rows": "zero"}, rows)


def counts_of(n: int, seed: int, n_resamples: int) -> NDArray[np.float64]:
    """How often each of n units is drawn in each resample, shape (n_resamples, n)."""
    one_hot = [(str(i), np.eye(n)[i], None) for i in range(n)]
    shares = _rust.Resampler(one_hot, []).bootstrap(seed, 0, n_resamples)
    return np.round(shares * n).T if n > 1 else np.ones((n_resamples, 1))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Rows, Rows, list[str] | None]:
    """Two systems on the same rows, with skipped rows, ties, a mean and a ratio; maybe groups."""
    n = draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    denominators = generator.random(n) * (generator.random(n) < 0.8)
    denominators[0] = 1.0
    skipped = generator.random(n) < draw(st.sampled_from([0.0, 0.3]))
    skipped[0] = False
    systems: list[Rows] = []
    for _ in range(2):
        hits = generator.integers(0, 4, n) / 3
        hits[skipped] = np.nan
        systems.append({"P@3": (hits, None), "PSP@3": (generator.random(n), denominators)})
    groups = [str(key) for key in generator.integers(0, 4, n)] if draw(st.booleans()) else None
    return systems[0], systems[1], groups


@settings(max_examples=60)
@given(case=cases(), seed=st.integers(0, 2**64 - 1))
def test_equals_the_slow_twin_with_the_same_draws(
    case: tuple[Rows, Rows, list[str] | None], seed: int
) -> None:
    a, b, groups = case
    n_points = len(a["P@3"][0])
    keys = list(dict.fromkeys(groups)) if groups else [str(i) for i in range(n_points)]
    unit = [keys.index(key) for key in groups] if groups else list(range(n_points))
    counts = counts_of(len(keys), seed, 40)
    results = [result_of(rows) for rows in (a, b)]
    found = results[0].intervals(groups, seed=seed, n_resamples=40, confidence=0.8)
    compared = compare(*results, groups=groups, seed=seed, n_resamples=40, confidence=0.8)
    for name in a:
        values = np.empty((2, 40))
        for system, rows in enumerate((a, b)):
            terms, denominators = rows[name]
            for i in range(40):
                numerator = denominator = 0.0
                for row in range(n_points):
                    if not np.isnan(terms[row]):
                        weight = counts[i, unit[row]]
                        numerator += weight * terms[row]
                        denominator += weight * (1 if denominators is None else denominators[row])
                values[system, i] = numerator / denominator if denominator else np.nan
        for ours, twin in (
            (found[name], values[0]),
            (compared[name], values[1] - values[0]),
        ):
            kept = twin[~np.isnan(twin)]
            assert ours.standard_error == pytest.approx(kept.std(ddof=1), abs=1e-9)
            assert ours.low == pytest.approx(np.quantile(kept, 0.1), abs=1e-9)
            assert ours.high == pytest.approx(np.quantile(kept, 0.9), abs=1e-9)
        assert compared[name].a == results[0].metrics[name]
        assert compared[name].difference == pytest.approx(
            results[1].metrics[name] - results[0].metrics[name], abs=1e-12
        )


@pytest.mark.parametrize("ratio", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_p_values_are_those_of_all_sign_patterns(ratio: bool, grouped: bool) -> None:
    generator = np.random.default_rng(3)
    n = 10
    denominators = generator.random(n) + 0.5 if ratio else None
    a, b = (generator.integers(0, 4, n) / 3 for _ in range(2))
    b += 0.3
    groups = [str(i % 5) for i in range(n)] if grouped else None
    units = np.arange(n) % 5 if grouped else np.arange(n)
    difference = np.bincount(units, b - a)
    sums = [
        abs(float(np.dot(signs, difference)))
        for signs in itertools.product([-1, 1], repeat=len(difference))
    ]
    exact = np.mean([value >= abs(difference.sum()) - 1e-9 for value in sums])
    results = [result_of({"X@1": (x, denominators)}) for x in (a, b)]
    found = compare(*results, groups=groups, seed=1, n_resamples=20_000)["X@1"]
    assert found.p_value == pytest.approx(exact, abs=0.015)
    swapped = compare(*results[::-1], groups=groups, seed=1, n_resamples=20_000)["X@1"]
    assert swapped.p_value == found.p_value
    assert swapped.difference == -found.difference


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """A ratio of sums over skewed terms, 300 data sets of 200 points."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        denominators = generator.exponential(1.0, 200)
        rows: Rows = {"PSP@1": (denominators * generator.random(200), denominators)}
        found = result_of(rows).intervals(seed=0, n_resamples=300, confidence=0.9)["PSP@1"]
        held += found.low <= 0.5 <= found.high
    assert 0.83 * 300 < held < 0.95 * 300


def test_p_values_of_like_systems_are_even() -> None:
    generator = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        rows = [{"P@1": (generator.random(40), None)} for _ in range(2)]
        results = [result_of(dict(r)) for r in rows]
        p_values.append(compare(*results, seed=0, n_resamples=199)["P@1"].p_value)
    for level in (0.1, 0.25, 0.5, 0.75):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.09)


def test_equal_systems_do_not_differ() -> None:
    rows: Rows = {"P@1": (np.random.default_rng(0).random(50), None)}
    found = compare(result_of(rows), result_of(rows), seed=0)["P@1"]
    value = result_of(rows).metrics["P@1"]
    assert found == Comparison(value, value, 0.0, 0.0, 0.0, 0.0, 1.0)


def test_bits_depend_on_neither_threads_nor_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    denominators = generator.random(3001)
    a, b = (
        result_of({"P@1": (generator.random(3001), None), "PSP@1": (x, denominators)})
        for x in generator.random((2, 3001))
    )
    steps: list[tuple[int, int]] = []
    expected = compare(a, b, seed=5, n_resamples=600, num_threads=1)
    alone = a.intervals(seed=5, n_resamples=600, num_threads=1)
    assert compare(a, b, seed=6, n_resamples=600) != expected
    monkeypatch.setattr("dexml.metrics.result.STEP", 101)
    for threads in (2, 7):
        assert compare(a, b, seed=5, n_resamples=600, num_threads=threads) == expected
        assert a.intervals(seed=5, n_resamples=600, num_threads=threads) == alone
    compare(a, b, seed=5, n_resamples=200, progress=lambda *step: steps.append(step))
    assert steps == [(101, 400), (200, 400), (301, 400), (400, 400)]


def test_standard_errors_follow_the_groups() -> None:
    generator = np.random.default_rng(0)
    y = csr_array((generator.random((9001, 40)) < 0.1).astype(np.float32))
    ids = np.argsort(generator.random((9001, 40)), axis=1)[:, :5]
    evaluator = Evaluator(40, ["P@1", "nDCG@5"], keep_rows=True)
    evaluator.update(y, ids)
    errors = evaluator.result().standard_errors(seed=1, n_resamples=400)
    assert errors == evaluator.result().standard_errors(seed=1, n_resamples=400)
    values = evaluator.result().rows["P@1"][0]
    assert errors["P@1"] == pytest.approx(values.std() / np.sqrt(len(values)), rel=0.15)
    clustered = Evaluator(40, ["P@1"], keep_rows=True)  # groups of like points: a larger error
    order = np.argsort(values, kind="stable")
    clustered.update(y[order], ids[order])
    groups = [str(i // 100) for i in range(9001)]
    grouped = clustered.result().standard_errors(groups, seed=1, n_resamples=400)
    assert grouped["P@1"] > 5 * errors["P@1"]


def test_one_group_says_nothing() -> None:
    result = result_of({"P@1": (np.array([0.0, 1.0]), None)})
    assert result.intervals(["a", "a"], seed=0)["P@1"] == Interval(0.5, 0.5, 0.0)


GOOD = replace(
    result_of({"PSP@1": (np.array([1.0, 2.0]), np.array([2.0, 3.0]))}), truth="0123456789abcdef"
)


@pytest.mark.parametrize(
    ("other", "arguments", "message"),
    [
        (replace(GOOD, n_points=3), {}, "different data: 2 and 3 points"),
        (replace(GOOD, n_labels=8), {}, "different data: 9 and 8 labels"),
        (replace(GOOD, n_empty=1), {}, "different data: 0 and 1 points without positives"),
        (replace(GOOD, n_excluded_positives=4), {}, "0 and 4 excluded positives"),
        (
            replace(GOOD, conventions={"empty_rows": "skip"}),
            {},
            "different conventions: empty_rows is 'zero' and 'skip'",
        ),
        (replace(GOOD, truth="00"), {}, "the positives of the points are not the same"),
        (replace(GOOD, rows={}), {}, "different metrics per point: PSP@1 and none"),
        (
            result_of({"PSP@1": (np.array([1.0, 2.0]), np.array([2.0, 4.0]))}),
            {},
            "PSP@1: row 1: denominators 3 and 4 differ: not scored against the same truth",
        ),
        (
            result_of({"PSP@1": (np.array([1.0, np.nan]), np.array([2.0, np.nan]))}),
            {},
            "different data: PSP@1 skips row 1 in one of them",
        ),
        (
            result_of({"PSP@1": (np.array([1.0, 2.0]), None)}),
            {},
            "PSP@1 is a ratio in one of them",
        ),
        (GOOD, {"groups": ["a"]}, "groups: 1 keys for 2 points"),
        (
            GOOD,
            {"groups": [["a"], ["b"]]},
            r"groups: give a string or a number for each point \(.*unh",
        ),
        (GOOD, {"seed": -1}, r"seed must be in 0..2\^64 - 1, not -1"),
        (GOOD, {"n_resamples": 1}, "n_resamples must be at least 2, not 1"),
        (GOOD, {"confidence": 1.0}, "confidence must lie between 0 and 1, not 1"),
        (GOOD, {"num_threads": 0}, "num_threads must be in"),
    ],
)
def test_errors_say_what_differs(other: Result, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(GOOD, other, **({"seed": 0} | arguments))


def test_fingerprint_of_the_truth() -> None:
    """The same for any cut, join and order of entries; another for any other positives."""
    generator = np.random.default_rng(1)
    dense = (generator.random((60, 9)) < 0.3).astype(np.float32)
    dense[[0, 7, 8]] = 0
    ids = np.tile(np.arange(9), (60, 1))

    def fingerprint(y: csr_array, *cuts: int) -> str | None:
        evaluators = []
        for start, stop in itertools.pairwise((0, *cuts, 60)):
            evaluators.append(Evaluator(9, ["P@1"], keep_rows=True))
            middle = (start + stop) // 2
            evaluators[-1].update(y[start:middle], ids[start:middle])
            evaluators[-1].update(y[middle:stop], ids[middle:stop])
        for evaluator in evaluators[1:]:
            evaluators[0].merge(evaluator)
        return evaluators[0].result().truth

    y = csr_array(dense)
    expected = fingerprint(y)
    assert fingerprint(y, 1, 8, 8, 40) == expected
    backwards = csr_array((y.data.copy(), y.indices.copy(), y.indptr.copy()), shape=y.shape)
    for start, stop in itertools.pairwise(backwards.indptr):
        backwards.indices[start:stop] = backwards.indices[start:stop][::-1].copy()
    assert fingerprint(backwards) == expected
    stored_zeros = csr_array(dense + 1)
    stored_zeros.data -= 1
    stored_zeros.data[stored_zeros.data > 0] = 3.5
    assert fingerprint(stored_zeros) == expected
    others = [csr_array(dense[::-1].copy()), csr_array(np.roll(dense, 1, axis=1))]
    for row, label in ((0, 0), (59, 8)):
        flipped = dense.copy()
        flipped[row, label] = 1 - flipped[row, label]
        others.append(csr_array(flipped))
    assert len({expected, *map(fingerprint, others)}) == 5
    evaluator = Evaluator(9, ["P@1"])
    evaluator.update(y, ids)
    assert evaluator.result().truth is None


def test_intervals_need_rows() -> None:
    with pytest.raises(ValueError, match="keep_rows=True"):
        replace(GOOD, rows={}).intervals(seed=0)
    with pytest.raises(ValueError, match="PSP@1: row 0: term inf is not finite"):
        result_of({"PSP@1": (np.array([np.inf]), np.array([1.0]))}).intervals(seed=0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
@pytest.mark.timeout(60)
def test_ctrl_c_stops_a_call() -> None:
    terms = [("P@1", np.random.default_rng(0).random(2_000_000), None)]
    resampler = _rust.Resampler(terms, [], num_threads=1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            resampler.bootstrap(0, 0, 100_000)  # minutes
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_border_errors() -> None:
    terms = [("P@1", np.zeros(3), None)]
    with pytest.raises(TypeError, match="P@1 must be float64, not float32"):
        _rust.Resampler([("P@1", np.zeros(3, np.float32), None)], [])
    with pytest.raises(ValueError, match="clusters must be numbered from 0 without gaps, not 7"):
        _rust.Resampler(terms, [], np.array([0, 7, 1], np.uint32))
    with pytest.raises(ValueError, match="n must not be negative, not -1"):
        _rust.Resampler(terms, []).bootstrap(0, 0, -1)
    assert _rust.Resampler(terms, []).bootstrap(0, 0, 0).shape == (0, 0)
