"""A judged sample of predictions: how it is drawn, what it says, how sure that is, its files."""

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, save_npz

from dexml import console, data
from dexml.metrics import Audit, Precision, draw_audit
from dexml.metrics.__main__ import main
from dexml.metrics.audit import allocate

Captured = pytest.CaptureFixture[str]
N, L, K = 400, 60, 4


def made(seed: int = 0) -> tuple[csr_array, csr_array, NDArray[np.bool_], csr_array]:
    """Probabilities, the truth that is known, all of the truth, and training labels."""
    rng = np.random.default_rng(seed)
    p = rng.random((N, L)) ** 4 * (rng.random((N, L)) < 0.2)
    true = rng.random((N, L)) < p**0.7
    known = true & (rng.random((N, L)) < 0.5)
    y_train = rng.random((300, L)) < np.where(np.arange(L) < 5, 0.6, 0.1) * (np.arange(L) < 50)
    matrices = (csr_array(p), csr_array(known.astype(np.float32)))
    return *matrices, true, csr_array(y_train.astype(np.float32))


def judged(audit: Audit, true: NDArray[np.bool_]) -> list[bool | None]:
    return [bool(true[one.point, one.label]) for one in audit.drawn]


def first_k(p: csr_array) -> list[tuple[int, int, int]]:
    """Point, label and rank of the first K labels of each point, slowly."""
    found = []
    for point, row in enumerate(p.toarray()):
        order = sorted(np.flatnonzero(row), key=lambda i: (-np.float32(row[i]), i))
        found += [(point, int(i), rank) for rank, i in enumerate(order[:K], start=1)]
    return found


def test_only_what_is_not_known_is_drawn_and_each_once() -> None:
    p, known, _, y_train = made()
    audit = draw_audit(p, known, K, n=100, seed=1, y_train=y_train)
    pairs = {(one.point, one.label) for one in audit.drawn}
    assert len(audit.drawn) == len(pairs) == 100
    listed = {(point, label) for point, label, _ in first_k(p)}
    assert pairs <= listed
    dense = known.toarray() > 0
    assert not any(dense[pair] for pair in pairs)
    assert sum(s.known for s in audit.strata) == sum(bool(dense[pair]) for pair in listed)
    assert sum(s.known + s.unknown for s in audit.strata) == len(listed)
    again = draw_audit(p, known, K, n=100, seed=1, y_train=y_train)
    assert audit == again
    assert audit.drawn != draw_audit(p, known, K, n=100, seed=2, y_train=y_train).drawn


def test_strata_are_those_of_probability_and_frequency() -> None:
    p, known, _, y_train = made()
    audit = draw_audit(p, known, K, n=100, seed=0, y_train=y_train)
    dense, counts = p.toarray(), y_train.toarray().sum(axis=0)
    for one in audit.drawn:
        stratum = audit.strata[one.stratum]
        value, n = float(np.float32(dense[one.point, one.label])), counts[one.label]
        low, high = map(float, stratum.place.removeprefix("p ").split("-"))
        assert low <= value <= high
        name = "head" if n > 100 else "torso" if n > 10 else "tail" if n > 0 else "unseen"
        assert stratum.frequency == name
    by_rank = draw_audit(p, known, K, n=60, seed=0, by="rank")
    ranks = {(point, label): rank for point, label, rank in first_k(p)}
    names = {1: "rank 1", 2: "rank 2-3", 3: "rank 2-3", 4: "rank 4-5"}
    for one in by_rank.drawn:
        assert by_rank.strata[one.stratum].name == names[ranks[one.point, one.label]]
    assert np.isnan(by_rank.strata[0].probability)
    raw = draw_audit(csr_array(p * 7), known, K, n=60, seed=0)
    assert [s.name for s in raw.strata] == [s.name for s in by_rank.strata]


def test_judging_everything_gives_the_precision_itself() -> None:
    p, known, true, y_train = made()
    audit = draw_audit(p, known, K, n=10**6, seed=0, y_train=y_train)
    pairs = first_k(p)
    share = float(np.mean([true[point, label] for point, label, _ in pairs]))
    whole = audit.estimate(judged(audit, true))[0]
    assert whole.precision == pytest.approx(share)
    assert whole.low == pytest.approx(share)
    assert whole.high == pytest.approx(share)
    assert whole.predictions == len(pairs)
    dense = known.toarray() > 0
    assert whole.by_truth == pytest.approx(np.mean([dense[a, b] for a, b, _ in pairs]))
    mean = np.mean([p.toarray()[a, b] for a, b, _ in pairs])
    assert whole.probability == pytest.approx(mean, abs=1e-6)


def test_the_estimate_is_that_of_the_formula() -> None:
    """Two strata by hand: the sum of known and N_h p_h over N; MOVER of Wilson's limits."""
    plain = {
        "k": 1,
        "seed": 0,
        "strata": [
            {"place": "a", "frequency": "", "unknown": 50, "known": 30, "probability": None},
            {"place": "b", "frequency": "", "unknown": 20, "known": 0, "probability": None},
        ],
        "drawn": [[i, 0, 0] for i in range(10)] + [[i, 1, 1] for i in range(5)],
    }
    audit = Audit.of_json(plain)
    right = [True] * 4 + [False] * 6 + [False] * 5
    found = {one.name: one for one in audit.estimate(right)}
    assert found["all"].precision == pytest.approx((30 + 50 * 0.4) / 100)

    def wilson(x: int, n: int) -> tuple[float, float]:
        z = 1.959963984540054
        p = x / n
        half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return tuple((p + z * z / (2 * n) + s * half) / (1 + z * z / n) for s in (-1, 1))

    (l1, u1), (l2, u2) = wilson(4, 10), wilson(0, 5)
    down = (0.25 * 0.8 * (0.4 - l1) ** 2 + 0.04 * 0.75 * (0 - l2) ** 2) ** 0.5
    up = (0.25 * 0.8 * (u1 - 0.4) ** 2 + 0.04 * 0.75 * (u2 - 0) ** 2) ** 0.5
    assert found["all"].low == pytest.approx(0.5 - down)
    assert found["all"].high == pytest.approx(0.5 + up)
    assert found["b"].precision == 0
    assert found["b"].high == pytest.approx(u2 * 0.75**0.5)
    assert audit.as_json() == plain


def test_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    """400 samples of a population whose truth is hidden; half of the sample is left out."""
    p, known, true, y_train = made(3)
    share = float(np.mean([true[point, label] for point, label, _ in first_k(p)]))
    runs, inside, kinds, middle = 400, 0, Counter[str](), []
    truth: dict[str, float] = {}
    for seed in range(runs):
        audit = draw_audit(p, known, K, n=160, seed=seed, y_train=y_train)
        answers = judged(audit, true)
        first: Precision
        first, *others = audit.estimate(answers)
        middle.append(first.precision)
        inside += first.low <= share <= first.high
        if not truth:
            everything = draw_audit(p, known, K, n=10**6, seed=0, y_train=y_train)
            whole = everything.estimate(judged(everything, true))
            truth = {one.name: one.precision for one in whole}
        for one in others:
            kinds[one.name] += one.low - 1e-12 <= truth[one.name] <= one.high + 1e-12
    assert inside / runs >= 0.93
    assert np.mean(middle) == pytest.approx(share, abs=4 * np.std(middle) / runs**0.5)
    width = first.high - first.low
    assert width < 5 * np.std(middle)  # not uselessly careful
    assert min(kinds.values()) / runs >= 0.92


def test_the_known_truth_is_never_doubted() -> None:
    p, known, true, _ = made()
    audit = draw_audit(p, known, K, n=50, seed=0)
    none = audit.estimate([False] * 50)[0]
    assert none.precision == pytest.approx(none.by_truth)
    assert none.low == pytest.approx(none.by_truth)
    assert none.high > none.by_truth
    some: list[bool | None] = judged(audit, true)
    firsts = {one.stratum: i for i, one in enumerate(audit.drawn)}
    left_out = [a if i in firsts.values() else None for i, a in enumerate(some)]
    assert audit.estimate(left_out)[0].judged == len(firsts)
    some[0] = None
    assert audit.estimate(some)[0].judged == 49


def test_draws_are_shared_by_size_and_spread() -> None:
    sizes = np.array([1000, 1000, 3, 0, 100])
    even = allocate(sizes, np.ones(5), 110)
    assert even.sum() == 110
    assert even[2] == 3
    assert even[3] == 0
    assert (even[[0, 1, 4]] >= 5).all()
    assert even[0] == pytest.approx(even[1], abs=1)
    uneven = allocate(sizes, np.array([0.5, 0.1, 0.5, 0.5, 0.5]), 110)
    assert uneven[0] > 3 * uneven[1]
    assert allocate(sizes, np.ones(5), 10**6).tolist() == sizes.tolist()
    assert allocate(sizes, np.ones(5), 4).tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 2}, r"n = 2: there are \d+ strata; draw at least"),
        ({"by": "probability", "times": 3.0}, "a score lies outside 0..1"),
        ({"y_train": csr_array((4, 3), dtype=np.float32)}, "y_train: 3 labels, but y_pred has 60"),
        ({"y_true": csr_array((4, 3), dtype=np.float32)}, "y_pred: shape"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    p, known, _, _ = made()
    asked: dict[str, Any] = {"y_true": known, "n": 100, "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        draw_audit(csr_array(p * asked.pop("times", 1.0)), k=K, **asked)


def test_wrong_judgements_are_named() -> None:
    p, known, _, _ = made()
    audit = draw_audit(p, known, K, n=50, seed=0)
    with pytest.raises(ValueError, match="3 judgements for 50 predictions"):
        audit.estimate([True] * 3)
    with pytest.raises(ValueError, match="no prediction of 'p 0"):
        audit.estimate([None] * 50)
    with pytest.raises(ValueError, match="confidence = 2; expected a share"):
        audit.estimate([True] * 50, confidence=2)
    with pytest.raises(ValueError, match="every prediction is known to be right"):
        draw_audit(csr_array([[0.5]]), csr_array(np.ones((1, 1), np.float32)), 1, n=5, seed=0)
    with pytest.raises(ValueError, match="not the plan of an audit"):
        Audit.of_json({"k": 5})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    p, known, _, y_train = made()
    save_npz(tmp_path / "pred.npz", p)
    save_npz(tmp_path / "true.npz", known)
    save_npz(tmp_path / "train.npz", y_train)
    np.save(tmp_path / "ids.npy", np.zeros((N, 1), np.int32))
    labels = ["=SUM(A1)", *(f"label {i}, or so" for i in range(1, L))]
    data.save_texts(tmp_path / "Y.txt", labels)
    data.save_texts(tmp_path / "texts.txt", [f'text "{i}"' for i in range(N)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


DRAW = ("audit", "draw", "pred.npz", "true.npz", "--out", "a.csv", "-n", "80", "--at", str(K))


def call(capsys: Captured, *words: str) -> str:
    assert console.run(main, list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def fill_in(path: Path, true: NDArray[np.bool_], delimiter: str = ",") -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    for row in rows:
        row["right"] = "Yes" if true[int(row["point"]), int(row["label"])] else " no"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(reversed(rows))
    return rows


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_drawn_filled_in_and_read(capsys: Captured, delimiter: str) -> None:
    p, known, true, y_train = made()
    call(capsys, *DRAW, "--train", "train.npz", "--labels", "Y.txt", "--texts", "texts.txt")
    rows = fill_in(Path("a.csv"), true, delimiter)
    assert set(rows[0]) == {"right", "label_text", "text", "label", "point"}
    for row in rows:
        label = int(row["label"])
        assert row["text"] == f'text "{row["point"]}"'
        assert row["label_text"] == (f"label {label}, or so" if label else "'=SUM(A1)")
    audit = draw_audit(p, known, K, n=80, seed=0, y_train=y_train)
    assert [(one.point, one.label) for one in audit.drawn] == [
        (int(row["point"]), int(row["label"])) for row in rows
    ]
    out = json.loads(call(capsys, "audit", "read", "a.csv", "--json"))
    expected = audit.estimate(judged(audit, true))
    assert [one["name"] for one in out["estimates"]] == [one.name for one in expected]
    assert out["estimates"][0]["precision"] == pytest.approx(expected[0].precision)
    assert out["estimates"][0]["low"] == pytest.approx(expected[0].low)
    table = call(capsys, "audit", "read", "a.csv")
    assert f"{100 * expected[0].precision:.1f}" in table
    assert "mean p" in table


@pytest.mark.usefixtures("files")
def test_without_truth_everything_is_judged(capsys: Captured) -> None:
    call(capsys, "audit", "draw", "pred.npz", "--out", "b.csv", "-n", "30", "--by", "rank")
    plan = json.loads(Path("b.plan.json").read_text())
    assert sum(stratum["known"] for stratum in plan["strata"]) == 0
    fill_in(Path("b.csv"), np.ones((N, L), np.bool_))
    out = json.loads(call(capsys, "audit", "read", "b.csv", "--json"))["estimates"][0]
    assert out["precision"] == 1
    assert out["low"] < 0.97
    assert out["probability"] is None


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["draw", "pred.npz", "true.npz", "--out", "a.txt"], 2, "the name must end in .csv"),
        (["draw", "pred.npz", "--out", "no/a.csv"], 1, "the folder no is not there"),
        (["draw", "pred.npz", "--out", "done.csv"], 1, "may hold judgements; give another name"),
        (["draw", "ids.npy", "--out", "a.csv"], 1, "ranked ids have no scores"),
        (["draw", "pred.npz", "--out", "a.csv", "-n", "1"], 1, "strata; draw at least"),
        (["draw", "pred.npz", "--out", "a.csv", "--texts", "Y.txt"], 1, "60 lines, but pred.npz"),
        (["read", "gone.csv"], 1, "gone.csv: no such file"),
        (["read", "done.csv"], 1, "done.plan.json: missing; it was written beside the table"),
        (["look"], 2, "invalid choice: 'look'"),
        (["draw", "pred.npz", "--out", "a.csv", "-n", "0"], 2, "'0' is not a number from 1"),
    ],
)
def test_wrong_calls_are_one_line(
    capsys: Captured, words: list[str], code: int, message: str
) -> None:
    Path("done.csv").write_text("right\n")
    assert console.run(main, ["audit", *words]) == code
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("right", "maybe"), r"a.csv:2: right = 'maybe'; write yes or no"),
        (("label", "999"), r"a.csv:2: point \d+, label 999 was not drawn"),
        (("label", "x"), r"a.csv:2: 'point' and 'label' are not numbers"),
        (("twice", ""), r"a.csv:82: point \d+, label \d+ stands there twice"),
        (("drop", "right"), r"a.csv:1: no column 'right'; keep the columns"),
        (("empty", ""), r"a.csv: no prediction of '.*' is judged; judge at least one"),
    ],
)
def test_wrong_tables_are_named(capsys: Captured, change: tuple[str, str], message: str) -> None:
    call(capsys, *DRAW)
    path = Path("a.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    name, value = change
    if name == "twice":
        rows.append(rows[0])
    elif name == "drop":
        rows = [{k: v for k, v in row.items() if k != value} for row in rows]
    elif name != "empty":
        rows[0][name] = value
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert console.run(main, ["audit", "read", "a.csv"]) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert re.search(message, told), told


@pytest.mark.usefixtures("files")
def test_a_damaged_plan_is_named(capsys: Captured) -> None:
    call(capsys, *DRAW)
    Path("a.plan.json").write_text("[1]")
    assert console.run(main, ["audit", "read", "a.csv"]) == 1
    assert "a.plan.json: not the plan of an audit" in capsys.readouterr().err
