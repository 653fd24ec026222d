"""Views: all, seen and unseen labels, candidates and truth restricted, points without one out."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, save_npz

from dexml.console import run
from dexml.metrics import (
    Evaluator,
    SwappedWarning,
    ViewEvaluator,
    evaluate,
    inv_propensity,
    seen_groups,
    views,
)
from dexml.metrics import __main__ as command

METRICS = ["P@1", "P@3", "R@5", "nDCG@3", "PSP@1"]
N_LABELS = 12


def problem(seed: int, n: int = 30) -> tuple[csr_array, csr_array, csr_array, csr_array]:
    """Return truth, scores of some labels (with ties), training labels and filter pairs."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, N_LABELS)) < 0.2
    scores = rng.integers(1, 5, (n, N_LABELS)) * (rng.random((n, N_LABELS)) < 0.7)
    train = (rng.random((20, N_LABELS)) < 0.15) & (np.arange(N_LABELS) % 3 > 0)
    exclude = rng.random((n, N_LABELS)) < 0.1
    return tuple(csr_array(one.astype(np.float32)) for one in (truth, scores, train, exclude))


def slow_views(
    y_true: csr_array, y_pred: csr_array, y_train: csr_array, exclude: csr_array | None
) -> dict[str, tuple[dict[str, float], int, int, int]]:
    """Rank the labels of each view for each point, and look at those of the truth."""
    truth, scores = y_true.toarray() > 0, y_pred.toarray()
    dropped = np.zeros_like(truth) if exclude is None else exclude.toarray() > 0
    counts = (y_train.toarray() > 0).sum(axis=0)
    out = {}
    for name, inside in (("all", counts >= 0), ("seen", counts > 0), ("unseen", counts == 0)):
        values: list[list[float]] = []
        short = 0
        for i in range(len(truth)):
            right = {j for j in range(N_LABELS) if truth[i, j] and inside[j]}
            if not right:
                continue
            ranked = [
                j for j in range(N_LABELS) if inside[j] and scores[i, j] and not dropped[i, j]
            ]
            ranked.sort(key=lambda j, i=i: (-scores[i, j], j))  # type: ignore[misc]
            there = sum(bool(inside[j] and not dropped[i, j]) for j in range(N_LABELS))
            short += len(ranked) < min(5, there)
            hits = [j in right for j in ranked] + [False] * 5
            values.append([hits[0], sum(hits[:3]) / 3, sum(hits[:5]) / len(right)])
        if values:
            means = np.mean(values, axis=0)
            n_positives = int((truth & inside).sum())
            named = dict(zip(("P@1", "P@3", "R@5"), means, strict=True))
            out[name] = (named, len(values), n_positives, short)
    return out


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_views_are_those_of_a_slow_twin(seed: int, filtered: bool, as_ids: bool) -> None:
    y_true, y_pred, y_train, exclude = problem(seed)
    pairs = exclude if filtered else None
    ranked: Any = y_pred
    if as_ids:
        dense = y_pred.toarray()
        order = np.argsort(-dense, axis=1, kind="stable")
        ranked = np.where(np.take_along_axis(dense, order, axis=1) > 0, order, -1)
    found = views(y_true, ranked, y_train, ["P@1", "P@3", "R@5"], exclude=pairs)
    expected = slow_views(y_true, y_pred, y_train, pairs)
    assert list(found) == list(expected)
    for name, (values, n_points, n_positives, n_short) in expected.items():
        view = found[name]
        assert view.metrics == pytest.approx(values, abs=1e-12)
        assert (view.n_points, view.n_positives, view.n_short) == (n_points, n_positives, n_short)


def test_the_view_of_all_labels_is_the_plain_evaluation() -> None:
    y_true, y_pred, y_train, exclude = problem(3)
    weights = inv_propensity(y_train)
    found = views(y_true, y_pred, y_train, METRICS, inv_propensity=weights, exclude=exclude)
    plain = evaluate(
        *(y_true, y_pred, METRICS),
        inv_propensity=weights,
        exclude=exclude,
        empty_rows="skip",
    )
    assert found["all"].metrics == plain
    assert found["all"].n_points == int((np.diff(y_true.indptr) > 0).sum())
    assert found["seen"].n_labels + found["unseen"].n_labels == N_LABELS
    assert found["seen"].n_positives + found["unseen"].n_positives == y_true.nnz


def test_one_vs_all_has_exactly_nothing_in_the_unseen_view() -> None:
    y_true, y_pred, y_train, _ = problem(4)
    seen = y_train.sum(axis=0) > 0
    of_seen = csr_array(y_pred.multiply(seen.astype(np.float32)))
    of_seen.eliminate_zeros()
    found = views(y_true, of_seen, y_train, METRICS, inv_propensity=inv_propensity(y_train))
    assert set(found["unseen"].metrics.values()) == {0.0}
    assert found["unseen"].n_points > 0
    assert found["seen"].metrics["P@1"] > 0


def test_a_ranking_that_was_cut_is_counted_as_short() -> None:
    y_true, y_pred, y_train, _ = problem(5)
    whole = csr_array(y_pred + 1e-3 * np.ones(y_pred.shape))
    deep = views(y_true, whole, y_train, ["R@3"])
    assert all(view.n_short == 0 for view in deep.values())
    first = np.argsort(-whole.toarray(), axis=1, kind="stable")[:, :3]
    cut = views(y_true, first, y_train, ["R@3"])
    assert cut["all"] == deep["all"]
    assert cut["unseen"].n_short > 0
    assert cut["unseen"].metrics["R@3"] < deep["unseen"].metrics["R@3"]


def test_blocks_and_rankings_of_one_view_add_up_to_the_same() -> None:
    y_true, y_pred, y_train, exclude = problem(6)
    counts = np.asarray(y_train.sum(axis=0)).astype(int)
    whole = views(y_true, y_pred, y_train, METRICS[:3], exclude=exclude)
    evaluator = ViewEvaluator(counts, METRICS[:3])
    for rows in (slice(0, 7), slice(7, 30)):
        for name, mask in evaluator.masks.items():
            own = csr_array(y_pred[rows].multiply(mask.astype(np.float32)))
            own.eliminate_zeros()
            evaluator.update(y_true[rows], own, exclude=exclude[rows], view=name)
    assert evaluator.result() == whole


def test_a_view_differs_from_its_group_in_the_whole_ranking() -> None:
    y_true = csr_array(np.array([[0, 0, 1]], np.float32))
    y_train = csr_array(np.array([[1, 1, 0]], np.float32))
    ids = np.array([[0, 1, 2]])
    assert views(y_true, ids, y_train, ["P@1"])["unseen"].metrics == {"P@1": 1.0}
    evaluator = Evaluator(3, ["P@1"], label_groups={"seen": seen_groups(y_train)})
    evaluator.update(y_true, ids)
    assert evaluator.result().groups["seen"]["unseen (0)"].metrics == {"P@1": 0.0}


def test_wrong_arguments() -> None:
    y_true, y_pred, y_train, _ = problem(7)
    with pytest.raises(ValueError, match="y_true: 12 labels, but there are counts of 11"):
        views(y_true, y_pred, y_train[:, :11])
    with pytest.raises(ValueError, match="label 99 out of range"):
        views(y_true, np.full((30, 5), [0, 99, 1, 2, 3]), y_train)
    with pytest.raises(ValueError, match="y_pred: ids of dtype float64"):
        views(y_true, np.zeros((30, 2)), y_train)
    with pytest.warns(SwappedWarning):
        views(y_pred, y_true, y_train)


# --- the command ---


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, matrix in zip(("true", "pred", "train", "filter"), problem(8), strict=True):
        save_npz(tmp_path / f"{name}.npz", matrix)
    monkeypatch.chdir(tmp_path)
    return tmp_path


CALL = ["pred.npz", "true.npz", "--train", "train.npz", "--views", "--metrics", "P@1,R@3"]


def test_the_command_prints_a_table_of_views(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    y_true, y_pred, y_train, _ = problem(8)
    found = views(y_true, y_pred, y_train, ["P@1", "R@3"])
    assert run(command.main, CALL) == 0
    shown, notes = capsys.readouterr()
    for name, view in found.items():
        sizes = [str(n) for n in (view.n_labels, view.n_points, view.n_positives)]
        cells = [name, *sizes, *(f"{100 * value:.2f}" for value in view.metrics.values())]
        assert any(line.split() == cells for line in shown.splitlines())
    assert "unseen (0)" in shown  # by group in the whole ranking too
    assert f"{found['unseen'].n_short} of {found['unseen'].n_points} points of view unseen" in notes


def test_json_and_csv_have_the_views(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    y_true, y_pred, y_train, _ = problem(8)
    found = views(y_true, y_pred, y_train, ["P@1", "R@3"])
    assert run(command.main, [*CALL, "--json", "--quiet"]) == 0
    written = json.loads(capsys.readouterr().out)["views"]
    assert written == {name: view.as_json() for name, view in found.items()}
    assert run(command.main, [*CALL, "--csv", "--quiet"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    of_views = {(one["view"], one["metric"]): float(one["value"]) for one in lines if one["view"]}
    assert of_views == {(n, m): v for n, view in found.items() for m, v in view.metrics.items()}


def test_wrong_calls(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.main, ["pred.npz", "true.npz", "--views"]) == 2
    assert "--views needs the training matrix" in capsys.readouterr().err
    assert run(command.main, [*CALL, "--by-label"]) == 2
