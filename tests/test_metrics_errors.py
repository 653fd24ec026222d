"""Errors by label and confusions: counted as slow loops and scikit-learn do; tables and files."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, save_npz

from dexml import console, data
from dexml.metrics import confusions, evaluate, label_errors
from dexml.metrics.__main__ import main
from reference import confusions_of, label_counts_of, rank

Captured = pytest.CaptureFixture[str]


def made(seed: int, n: int, n_labels: int) -> tuple[csr_array, csr_array, csr_array]:
    """Truth, scores with ties, and filter pairs; some rows of each are empty."""
    rng = np.random.default_rng(seed)
    y = rng.random((n, n_labels)) < 0.3
    scores = rng.integers(1, 4, (n, n_labels)) * (rng.random((n, n_labels)) < 0.5)
    pairs = rng.random((n, n_labels)) < 0.1
    y[: n // 5] = False
    scores[n // 5 : n // 3] = 0
    return csr_array(y.astype(np.float32)), csr_array(scores.astype(np.float32)), csr_array(pairs)


def rows_of(matrix: csr_array) -> list[set[int]]:
    return [set(np.flatnonzero(row > 0).tolist()) for row in matrix.toarray()]


def ranked_by(scores: csr_array, pairs: csr_array) -> list[list[int]]:
    listed = []
    for row, out in zip(scores.toarray(), rows_of(pairs), strict=True):
        listed.append(rank({int(i): float(row[i]) for i in np.flatnonzero(row)}, out))
    return listed


problems = st.tuples(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(problems, st.integers(1, 6), st.booleans())
def test_counts_are_those_of_slow_loops(
    problem: tuple[int, int, int], k: int, with_pairs: bool
) -> None:
    y_true, scores, pairs = made(*problem)
    if not with_pairs:
        pairs = csr_array(pairs.shape, dtype=bool)
    found = label_errors(y_true, scores, k, exclude=pairs if with_pairs else None)
    truth, listed = rows_of(y_true), ranked_by(scores, pairs)
    expected = label_counts_of(truth, listed, y_true.shape[1], k)
    counts = zip(found.positives, found.predicted, found.hits, strict=True)
    assert [tuple(map(int, one)) for one in counts] == expected
    slow = confusions_of(truth, listed, rows_of(pairs), k)
    pairs_found = confusions(y_true, scores, k, exclude=pairs if with_pairs else None, n=1000)
    assert {(one.right, one.wrong): one.together for one in pairs_found} == {
        pair: len(points) for pair, points in slow.items()
    }
    for one in pairs_found:
        assert list(one.points) == slow[one.right, one.wrong][:3]
    order = [(-one.together, one.right, one.wrong) for one in pairs_found]
    assert order == sorted(order)
    assert pairs_found[:4] == confusions(
        y_true, scores, k, exclude=pairs if with_pairs else None, n=4
    )


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_ranked_ids_count_as_scores_do(dtype: Any) -> None:
    y_true, scores, pairs = made(3, 25, 9)
    listed = ranked_by(scores, csr_array(pairs.shape, dtype=bool))
    ids = np.full((25, 9), -1, dtype)
    for row, labels in enumerate(listed):
        ids[row, : len(labels)] = labels
    for exclude in (None, pairs):
        a, b = (label_errors(y_true, y, 3, exclude=exclude) for y in (scores, ids))
        assert (a.hits == b.hits).all()
        assert (a.predicted == b.predicted).all()
        assert confusions(y_true, scores, 3, exclude=exclude) == confusions(
            y_true, ids, 3, exclude=exclude
        )


def test_shares_are_those_of_scikit_learn_and_of_the_macro_metrics() -> None:
    judge = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    y_true, scores, _ = made(1, 60, 11)
    found = label_errors(y_true, scores, 11)
    truth, sets = y_true.toarray() > 0, scores.toarray() > 0
    precision, recall, f1, support = judge.precision_recall_fscore_support(
        truth, sets, average=None, zero_division=0
    )
    np.testing.assert_allclose(np.nan_to_num(found.precision), precision)
    np.testing.assert_allclose(np.nan_to_num(found.recall), recall)
    np.testing.assert_allclose(np.nan_to_num(found.f1), f1)
    np.testing.assert_array_equal(found.positives, support)
    found = label_errors(y_true, scores, 2)
    means = evaluate(y_true, scores, ["macroP@2", "macroR@2", "macroF@2"])
    for name, values in zip(means, (found.precision, found.recall, found.f1), strict=True):
        assert np.nan_to_num(values).mean() == pytest.approx(means[name])


def test_shares_of_nothing_are_no_numbers() -> None:
    y_true = csr_array(np.array([[1, 0, 0]], np.float32))
    found = label_errors(y_true, np.array([[1]]), 1)
    assert np.isnan(found.precision).tolist() == [True, False, True]
    assert np.isnan(found.recall).tolist() == [False, True, True]
    assert np.isnan(found.f1).tolist() == [False, False, True]
    assert found.worst().tolist() == [0]
    assert found.worst(by="false").tolist() == [1]
    assert "k=1" in repr(found)


def test_the_worst_come_first_and_ties_go_by_id() -> None:
    y_true = csr_array(np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 0]], np.float32))
    found = label_errors(y_true, np.array([[3], [1], [0]]), 1)
    assert found.missed.tolist() == [1, 2, 3, 1]
    assert found.worst(3).tolist() == [2, 1, 0]


def test_surprise_puts_pairs_that_belong_together_first() -> None:
    """Label 0 stands everywhere; label 2 only where label 1 is missed."""
    rng = np.random.default_rng(0)
    y, ids = np.zeros((60, 30), np.float32), np.zeros((60, 2), np.int64)
    for point in range(60):
        right = 1 if point < 12 else 3 + int(rng.integers(25))
        y[point, right] = 1
        ids[point] = 0, 2 if right == 1 else 29
    by_count = confusions(csr_array(y), ids, 2)
    assert [(one.right, one.wrong, one.together) for one in by_count[:2]] == [
        (1, 0, 12),
        (1, 2, 12),
    ]
    first = confusions(csr_array(y), ids, 2, by="surprise")[0]
    assert (first.right, first.wrong, first.missed, first.false) == (1, 2, 12, 12)
    only = confusions(csr_array(y), ids, 2, of=[5])
    assert {one.right for one in only} <= {5}
    assert len(only) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k = 0; expected a whole number from 1"),
        ({"k": 7}, r"y_pred: .*7"),
        ({"n": 0}, "n = 0; expected at least 1"),
        ({"by": "size"}, "by = 'size'; expected 'count' or 'surprise'"),
        ({"of": [99]}, "of: label 99 out of range"),
        ({"exclude": csr_array((2, 4))}, "exclude: shape"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    y_true = csr_array(np.array([[1, 0, 1, 0]], np.float32))
    with pytest.raises(ValueError, match=message):
        confusions(y_true, np.array([[1, 3]]), **({"k": 2} | changes))


def test_wrong_predictions_are_refused_as_the_evaluator_does() -> None:
    y_true = csr_array(np.array([[1, 0, 1, 0]], np.float32))
    with pytest.raises(ValueError, match="duplicate label 1"):
        label_errors(y_true, np.array([[1, 1]]), 2)
    with pytest.raises(ValueError, match="by = 'most'; expected 'missed' or 'false'"):
        label_errors(y_true, np.array([[1, 2]]), 2).worst(by="most")  # type: ignore[arg-type]


def test_a_million_labels_take_no_square() -> None:
    """Labels times labels would not fit into any memory."""
    n, n_labels = 2000, 3_000_000
    rng = np.random.default_rng(0)
    ids = rng.integers(0, n_labels // 5, (n, 5)) * 5 + np.arange(5)
    true = np.sort(rng.integers(0, n_labels // 3, (n, 3)) * 3 + np.arange(3), axis=1)
    ones = np.ones(3 * n, np.float32)
    y_true = csr_array((ones, true.ravel(), np.arange(n + 1) * 3), shape=(n, n_labels))
    found = label_errors(y_true, ids, 5)
    assert int(found.predicted.sum()) == 5 * n
    assert int(found.positives.sum()) == 3 * n
    assert len(confusions(y_true, ids, 5, n=10)) == 10


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    y_true, scores, pairs = made(5, 40, 8)
    save_npz(tmp_path / "true.npz", y_true)
    save_npz(tmp_path / "pred.npz", scores)
    data.save_pairs(tmp_path / "pairs.txt", csr_array(pairs.astype(np.float32)))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "Y.txt").write_text("".join(f"label\t{i}\n" for i in range(8)))
    (tmp_path / "raw" / "tst_X.txt").write_text("".join(f"text {i}\n" for i in range(40)))
    (tmp_path / "few.txt").write_text("a\nb\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: Captured, *words: str) -> str:
    assert console.run(main, ["pred.npz", "true.npz", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.usefixtures("files")
def test_the_command_writes_what_the_function_counts(capsys: Captured) -> None:
    y_true, scores, pairs = made(5, 40, 8)
    found = label_errors(y_true, scores, 3, exclude=pairs)
    words = ["--by-label", "--at", "3", "--filter", "pairs.txt", "--data", ".", "--train"]
    out = json.loads(call(capsys, *words, "true.npz", "--json"))
    assert (out["k"], out["n_points"]) == (3, 40)
    assert [row["label"] for row in out["labels"]][: len(found.worst())] == found.worst().tolist()
    for row in out["labels"]:
        label = row["label"]
        assert row["text"] == f"label\t{label}"
        assert row["positives"] == row["training_points"] == found.positives[label]
        assert row["hits"] == found.hits[label]
        assert row["recall"] == pytest.approx(found.recall[label])
    lines = list(csv.DictReader(io.StringIO(call(capsys, *words, "true.npz", "--csv"))))
    assert [int(line["missed"]) for line in lines] == [row["missed"] for row in out["labels"]]
    for name in ("out.csv", "out.jsonl", "out.json"):
        assert call(capsys, *words, "true.npz", "--out", name) == ""
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == out[
        "labels"
    ]
    assert json.loads(Path("out.json").read_text()) == out
    assert Path("out.csv").read_text().splitlines()[0].startswith("label,text,training_points,")


@pytest.mark.usefixtures("files")
def test_the_command_shows_confusions_with_texts(capsys: Captured) -> None:
    y_true, scores, _ = made(5, 40, 8)
    expected = confusions(y_true, scores, 5, n=3, by="surprise")
    words = ["--confusions", "--data", ".", "--top", "3", "--order", "surprise"]
    out = json.loads(call(capsys, *words, "--json"))["confusions"]
    assert [(row["right"], row["wrong"], row["count"]) for row in out] == [
        (one.right, one.wrong, one.together) for one in expected
    ]
    assert out[0]["texts"] == [f"text {point}" for point in expected[0].points]
    assert out[0]["wrong_text"] == f"label\t{expected[0].wrong}"
    table = call(capsys, *words)
    assert f"{expected[0].together} of {expected[0].missed}" in table
    assert f"label\ufffd{expected[0].right} ({expected[0].right}) -> " in table
    assert f"point {expected[0].points[0]}: text {expected[0].points[0]}" in table
    assert len(table.splitlines()) == 7
    lines = list(csv.DictReader(io.StringIO(call(capsys, *words, "--csv"))))
    assert lines[0]["texts"] == " | ".join(out[0]["texts"])


@pytest.mark.usefixtures("files")
def test_the_table_has_a_row_a_label(capsys: Captured) -> None:
    table = call(capsys, "--by-label", "--top", "4", "--quiet")
    assert len(table.splitlines()) == 5
    assert table.splitlines()[0].startswith("most missed")
    y_true, scores, _ = made(5, 40, 8)
    first = label_errors(y_true, scores, 5).worst(by="false")[0]
    table = call(capsys, "--by-label", "--top", "1", "--order", "false")
    assert table.splitlines()[1].startswith(f"label {first}")


def test_a_prediction_without_errors_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    save_npz(tmp_path / "pred.npz", csr_array(np.eye(3, dtype=np.float32)))
    save_npz(tmp_path / "true.npz", csr_array(np.eye(3, dtype=np.float32)))
    monkeypatch.chdir(tmp_path)
    assert "no label fails" in call(capsys, "--by-label")
    assert "no label is missed" in call(capsys, "--confusions")
    assert json.loads(call(capsys, "--confusions", "--json"))["confusions"] == []


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--at", "3"], 2, "--at is for --by-label and --confusions"),
        (["--by-label", "--confusions"], 2, "--by-label and --confusions: give one of them"),
        (["--by-label", "--ci"], 2, "--by-label and --ci: give one of them"),
        (["--by-label", "--metrics", "P@1"], 2, "--by-label and --metrics: give one of them"),
        (["--confusions", "--order", "missed"], 2, "--confusions has count and surprise"),
        (["--by-label", "--order", "count"], 2, "--by-label has missed and false"),
        (["--by-label", "--top", "0"], 2, "'0' is not a number from 1"),
        (["--by-label", "--out", "x.txt"], 2, "--out x.txt: the name must end in .csv, .jsonl"),
        (["--by-label", "--out", "x.csv", "--json"], 2, "--out names the format"),
        (["--by-label", "--out", "no/x.csv"], 1, "the folder no is not there"),
        (["--by-label", "--labels", "few.txt"], 1, "few.txt: 2 label texts for 8 labels"),
        (["--by-label", "--data", "gone"], 1, "gone: no such folder"),
    ],
)
def test_wrong_calls_are_one_line(
    capsys: Captured, words: list[str], code: int, message: str
) -> None:
    assert console.run(main, ["pred.npz", "true.npz", *words]) == code
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.usefixtures("files")
def test_only_one_prediction_is_looked_at(capsys: Captured) -> None:
    assert console.run(main, ["pred.npz", "pred.npz", "true.npz", "--by-label"]) == 2
    assert "--by-label looks at one PRED, not 2" in capsys.readouterr().err
