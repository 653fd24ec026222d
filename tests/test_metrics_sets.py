"""Sets of labels and probabilities in Python: held against scikit-learn; reliability curves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, save_npz

from dexml import console
from dexml.metrics import Evaluator, LabelGroups, compare, evaluate, reliability
from dexml.metrics.__main__ import main as metrics_main

Matrix = NDArray[np.float64]


def made(seed: int = 0, n: int = 60, n_labels: int = 15) -> tuple[csr_array, csr_array]:
    """Truth, and sets of up to six labels with probabilities; some rows of both are empty."""
    rng = np.random.default_rng(seed)
    p = rng.random((n, n_labels)) * (rng.random((n, n_labels)) < 0.25)
    p[:5] = 0
    y = (rng.random((n, n_labels)) < 0.1) | (rng.random((n, n_labels)) < p * 0.8)
    y[3:9] = 0
    return csr_array(y.astype(np.float32)), csr_array(p)


@pytest.mark.parametrize("seed", range(3))
def test_sets_are_scored_as_scikit_learn_does(seed: int) -> None:
    judge = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    y_true, y_pred = made(seed)
    truth, sets = y_true.toarray() > 0, y_pred.toarray() > 0
    expected: dict[str, float] = {
        "Hamming@15": judge.hamming_loss(truth, sets),
        "Exact@15": judge.accuracy_score(truth, sets),
    }
    for name, average in (("micro", "micro"), ("macro", "macro"), ("sample", "samples")):
        for letter, score in (
            ("P", judge.precision_score),
            ("R", judge.recall_score),
            ("F", judge.f1_score),
        ):
            expected[f"{name}{letter}@15"] = score(truth, sets, average=average, zero_division=0)
    found = evaluate(y_true, y_pred, list(expected))
    assert found == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand() -> None:
    y_true = csr_array(np.array([[1, 0, 1, 0, 1], [0, 1, 0, 0, 0]], np.float32))
    ids = np.array([[0, 1, 2], [0, 2, 3]])
    found = evaluate(y_true, ids, ["MAP@3", "RP@3", "ap@2"])
    assert found == pytest.approx(
        {"MAP@3": (1 + 2 / 3) / 3 / 2, "RP@3": (2 / 3) / 2, "ap@2": (1 / 2) / 2}
    )


def test_names_are_returned_as_they_were_given() -> None:
    y_true, y_pred = made()
    found = evaluate(y_true, y_pred, ["ndcg@5", "hit@1", "recall@5", "micro-F1@15"])
    own = evaluate(y_true, y_pred, ["nDCG@5", "Success@1", "R@5", "microF@15"])
    assert list(found) == ["ndcg@5", "hit@1", "recall@5", "micro-F1@15"]
    assert list(found.values()) == list(own.values())
    with pytest.raises(ValueError, match=r"unknown metric 'nDGC@5'; did you mean 'nDCG@5'\?"):
        evaluate(y_true, y_pred, ["nDGC@5"])


def test_probabilities_are_asked_for_and_checked() -> None:
    y_true, y_pred = made()
    with pytest.raises(ValueError, match="ECE@3 needs probabilities"):
        evaluate(y_true, np.zeros((60, 3), np.int64), ["ECE@3"])
    with pytest.raises(ValueError, match=r"row \d+: score 2.* is no probability between 0 and 1"):
        evaluate(y_true, csr_array(y_pred * 0 + (y_pred > 0) * 2.0), ["Brier@3"])
    evaluate(y_true, y_pred * 5, ["P@3"])  # others take any score


def test_groups_intervals_and_tests_come_with_them() -> None:
    y_true, y_pred = made(n=200)
    names = ["Brier@5", "NLL@5", "microF@5", "sampleF@5", "AP@5", "ECE@5"]
    groups = {"halves": LabelGroups(["first", "rest"], [0] * 7 + [1] * 8)}

    def scored(p: csr_array) -> Any:
        evaluator = Evaluator(15, names, label_groups=groups, keep_rows=True)
        evaluator.update(y_true[:80], p[:80])
        other = Evaluator(15, names, label_groups=groups, keep_rows=True)
        other.update(y_true[80:], p[80:])
        evaluator.merge(other)
        return evaluator.result()

    good, bad = scored(y_pred), scored(csr_array(y_pred.power(3)))
    assert list(good.rows) == names[:-1]
    assert list(good.intervals(seed=0, n_resamples=300)) == names
    for name, interval in good.intervals(seed=0, n_resamples=300).items():
        assert interval.low < good.metrics[name] < interval.high
    paired = compare(good, bad, seed=0, n_resamples=300)
    assert paired["Brier@5"].difference > 0
    assert paired["Brier@5"].p_value < 0.05
    assert paired["AP@5"].difference == 0  # the same order
    assert good.metrics["ECE@5"] < bad.metrics["ECE@5"]
    halves = good.groups["halves"]
    assert 0 < halves["first"].metrics["Brier@5"] < 1
    assert halves["first"].metrics["ECE@5"] != halves["rest"].metrics["ECE@5"]


@pytest.mark.parametrize("ties", ["smaller", "larger"])
@pytest.mark.parametrize("empty_rows", ["zero", "skip"])
def test_intervals_of_calibration_errors_are_those_of_a_slow_bootstrap(
    ties: Any, empty_rows: Any
) -> None:
    """Points are drawn by hand, and every draw is scored by the evaluator itself."""
    y_true, y_pred = made(seed=2, n=150)
    y_pred.data = np.round(y_pred.data, 1)  # ties, and probabilities on the edges of bins
    exclude = csr_array(np.random.default_rng(5).random(y_true.shape) < 0.05)
    names = ["ECE@4", "ECEover@4", "ECEunder@2", "ECE@2"]
    options: dict[str, Any] = {"ties": ties, "empty_rows": empty_rows}
    evaluator = Evaluator(15, [*names, "ACE@4"], keep_rows=True, **options)
    evaluator.update(y_true[:70], y_pred[:70], exclude=exclude[:70])
    other = Evaluator(15, [*names, "ACE@4"], keep_rows=True, **options)
    other.update(y_true[70:], y_pred[70:], exclude=exclude[70:])
    evaluator.merge(other)
    found = evaluator.result().intervals(seed=0, n_resamples=4000)
    rng, drawn = np.random.default_rng(1), []
    for _ in range(400):
        rows = rng.integers(150, size=150)
        sample = (y_true[rows], y_pred[rows], names)
        values = evaluate(*sample, exclude=exclude[rows], **options)
        drawn.append(list(values.values()))
    spread = np.array(drawn)
    for i, name in enumerate(names):
        error = spread[:, i].std()
        assert found[name].standard_error == pytest.approx(error, rel=0.15)
        low, high = np.quantile(spread[:, i], [0.025, 0.975])
        value = evaluator.result().metrics[name]
        assert found[name].low == pytest.approx(min(low, value), abs=error / 2)
        assert found[name].high == pytest.approx(max(high, value), abs=error / 2)
    assert found["ACE@4"].low <= evaluator.result().metrics["ACE@4"] <= found["ACE@4"].high


@pytest.mark.parametrize("name", ["ECE@5", "ECEover@3", "ECEunder@3", "ACE@5", "ACE@2"])
def test_what_is_resampled_gives_the_error_itself(name: str) -> None:
    """The terms of all points, each once, are the value of the core, to rounding."""
    from dexml.metrics.binned import errors, terms

    y_true, y_pred = made(seed=3, n=211)
    evaluator = Evaluator(15, [name], keep_rows=True)
    evaluator.update(y_true, y_pred)
    result = evaluator.result()
    assert result.places is not None
    means = {term: values.mean(keepdims=True) for term, values, _ in terms(result.places, [name])}
    assert errors([name], means)[name][0] == pytest.approx(result.metrics[name], abs=1e-9)


def test_the_reliability_curve_says_what_the_error_does() -> None:
    y_true, y_pred = made(n=300)
    keys = [str(i // 3) for i in range(300)]
    found = reliability(y_true, y_pred, 4, groups=keys, seed=0, n_resamples=200)
    assert found.ece == pytest.approx(
        evaluate(y_true, y_pred.astype(np.float32), ["ECE@4"])["ECE@4"]
    )
    labels = sum(b.labels for b in found.bins)
    weighed = sum(b.labels * abs(b.probability - b.precision) for b in found.bins if b.labels)
    assert weighed / labels == pytest.approx(found.ece)
    assert all(b.interval.low <= b.precision <= b.interval.high for b in found.bins if b.labels)
    assert found.ece_interval.low < found.ece_interval.high
    assert found.coverage[-1] == 1
    assert found.risk[-1] == pytest.approx(1 - evaluate(y_true, y_pred, ["P@1"])["P@1"])
    assert 0 < found.area < 1


def test_reliability_refuses_what_it_cannot_read() -> None:
    y_true, y_pred = made()
    for asked, message in (
        ((y_true, y_pred[:5]), "shape"),
        ((y_true, y_pred * 3), "outside 0..1"),
        ((y_true, y_pred * 0 > 2), "no predicted label"),
        ((y_true, y_pred, 0), "k must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            reliability(*asked, seed=0)


def test_the_command_takes_probabilities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    y_true, y_pred = made()
    files = [tmp_path / "p.npz", tmp_path / "y.npz"]
    save_npz(files[0], y_pred)
    save_npz(files[1], y_true)

    def call(*words: object) -> int:
        return console.run(metrics_main, [*map(str, files), *map(str, words)])

    assert call("--metrics", "ece@5,brier@5,map@5", "--csv", "--ci", "50", "--quiet") == 0
    printed = capsys.readouterr().out
    assert "ECE@5" in printed
    assert "AP@5" in printed
    assert call("--metrics", "ndgc@5") == 2
    assert "did you mean 'nDCG@5'?" in capsys.readouterr().err
    assert call("--metrics", "ECE@5,ACE@5", "--ci", "50", "--csv", "--quiet") == 0
    for line in capsys.readouterr().out.splitlines()[1:]:
        _, name, *numbers = line.split(",")
        value, low, high, error = map(float, numbers)
        assert name in ("ECE@5", "ACE@5")
        assert low <= value <= high
        assert error > 0
    assert call("--metrics", "ECE@5", "--compare", files[0]) == 2
    assert "errors of bins have no test" in capsys.readouterr().err
    words = ("--metrics", "P@1,ECE@5", "--ci", "50", "--compare", files[0])
    assert call(*words) == 0
    assert "no test for ECE@5: not a mean over points" in capsys.readouterr().err
    save_npz(files[0], y_pred * 7)
    assert call("--metrics", "ECE@5") == 1
    assert "is no probability" in capsys.readouterr().err
