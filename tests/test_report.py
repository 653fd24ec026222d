"""report.html: self-contained, safe, exact, of bounded size, and whole whatever a run has."""

import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml.metrics import Evaluator, Result, decile_groups
from dexml.report import (
    Predictions,
    charts,
    command,
    curves,
    deciles,
    examples,
    page,
    write_report,
)
from dexml.run.folder import read_log

VOID = {"meta", "br", "link", "img", "input", "hr"}
NASTY = "<script>alert('x')</script> & \"quoted\" \u202egnp.exe\x00\u200b\u2028 מילה"


class Page(HTMLParser):
    """Checks that every element is closed where it must be, and keeps texts and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def problem(
    n_points: int = 40, n_labels: int = 30, k: int = 100, *, seed: int = 0, positives: float = 0.1
) -> dict[str, Any]:
    """Arguments of `write_report` on random predictions, some of them true."""
    generator = np.random.default_rng(seed)
    y = csr_array((generator.random((n_points, n_labels)) < positives).astype(np.float32))
    k = min(k, n_labels)
    ids = np.argsort(generator.random((n_points, n_labels)), axis=1)[:, :k].astype(np.int32)
    scores = -np.sort(-generator.random(ids.shape)).astype(np.float32)
    counts = generator.integers(0, 9, n_labels) ** 3
    metrics = ["P@1", "nDCG@5", f"R@{k}"] if k >= 5 else ["P@1"]
    evaluator = Evaluator(n_labels, metrics, keep_rows=True)
    evaluator.update(y, ids)
    result = evaluator.result()
    return {
        "settings": {"data_dir": "sets/Small", "out": "run", "seed": 3, "select": "nDCG@5"},
        "defaults": {"seed": 0, "select": "nDCG@5"},
        "log": log(),
        "train_counts": counts,
        "n_train": 100,
        "label_texts": [f"label {i}" for i in range(n_labels)],
        "versions": {"python": "3.11", "torch": "2"},
        "seconds": 75.0,
        "result": result,
        "intervals": result.intervals(seed=0, n_resamples=50),
        "resampled": "points, 50 resamples",
        "predictions": Predictions("test", y, ids, [f"text {i}" for i in range(n_points)], scores),
    }


def log(per_epoch: int = 1) -> list[dict[str, Any]]:
    """Two stages of two phases, the best epoch of the selection being the second of all."""
    lines: list[dict[str, Any]] = [
        {"time": 1.7e9, "event": "label graph", "edges": 120, "share": {"kept": 0.5}},
        {"event": "shortlist", "recall": 0.7, "seconds": 1.5},
        {"event": "shortlist", "recall": 0.9, "seconds": 1.0},
    ]
    scores = iter([0.2, 0.5, 0.4, 0.5])
    for stage in ("selection", "all points"):
        for phase in ("heads", "encoder"):
            for step in range(1, 2 * per_epoch + 1):
                entry: dict[str, Any] = {
                    "time": 1.7e9 + step,
                    "fit": stage,
                    "stage": phase,
                    "epoch": (step - 1) // per_epoch + 1,
                    "step": 10 * step,
                    "steps": 20 * per_epoch,
                    "loss": 3.0 / step,
                    "lr": 1e-3 / step,
                    "seconds": 2.0 * step,
                }
                if stage == "selection" and step % per_epoch == 0:
                    value = next(scores)
                    entry["validation"] = {"P@1": value, "nDCG@5": value, "R@100": 0.9}
                lines.append(entry)
    return lines


def html_of(folder: Path, arguments: dict[str, Any]) -> str:
    path = write_report(folder, **arguments)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    html = html_of(tmp_path, problem())
    found = Page(html)
    assert found.tags["svg"] > 8
    assert not found.tags.keys() & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not {name for _, name, _ in found.attributes} & {"src", "href", "srcset", "action"}
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert "://" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html
    for title in ("Test scores", "Training", "By label frequency", "Data", "Examples", "repeat"):
        assert title in found.text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first = html_of(tmp_path, problem())
    assert html_of(tmp_path, problem()) == first
    assert html_of(tmp_path, problem(seed=1)) != first


def test_scores_and_groups_are_the_evaluators(tmp_path: Path) -> None:
    arguments = problem(200, 40, seed=5)
    found = Page(html_of(tmp_path, arguments)).text
    result, intervals = arguments["result"], arguments["intervals"]
    for name, value in result.metrics.items():
        low, high = (100 * x for x in (intervals[name].low, intervals[name].high))
        assert f"{name} {100 * value:.2f} {low:.2f} to {high:.2f}".replace(" ", "") in (
            found.replace(" ", "")
        )
    y, ids = arguments["predictions"].y_true, arguments["predictions"].ids
    groups = deciles.by_decile(y, ids, arguments["train_counts"])
    assert math.isclose(sum(g.contribution["P@1"] for g in groups.values()), result.metrics["P@1"])
    dense = y.toarray() > 0
    names = deciles.frequency_deciles(arguments["train_counts"])
    for number, (name, group) in enumerate(groups.items()):
        own = names.of_label == number
        hits = np.mean([dense[i, ids[i, 0]] and own[ids[i, 0]] for i in range(len(ids))])
        assert math.isclose(group.contribution["P@1"], hits, abs_tol=1e-12)
        recalls = [
            np.mean([label in set(ids[i]) for label in np.flatnonzero(dense[i] & own)])
            for i in range(len(ids))
            if (dense[i] & own).any()
        ]
        assert math.isclose(group.metrics["R@40"], float(np.mean(recalls)))
        row = (
            f"{name.replace(' ', '')}{own.sum()}{group.n_positives}{group.n_points}{100 * hits:.2f}"
        )
        assert row in found.replace(" ", "").replace(",", "")


def slow_deciles(counts: list[int], n: int) -> list[int]:
    """The share in which the first pair of each label lies; n for unseen labels."""
    ranked = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    pairs = [label for label in ranked for _ in range(counts[label])]
    return [
        n if count == 0 else pairs.index(label) * n // len(pairs)
        for label, count in enumerate(counts)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_deciles_are_equal_shares_of_the_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 6, generator.integers(1, 40)) ** int(generator.integers(1, 3))
    expected = slow_deciles(counts.tolist(), 10)
    groups = deciles.frequency_deciles(counts)
    used = sorted(set(expected))
    assert [used[g] for g in groups.of_label] == expected
    assert len(set(groups.names)) == len(groups.names) == len(used)
    assert (groups.names[-1] == "unseen") == bool((counts == 0).any())
    if counts.sum():  # the same as the core's, but for unseen labels
        y = csr_array((np.arange(counts.max())[:, None] < counts).astype(np.float32))
        same = decile_groups(y).of_label[counts > 0]
        assert same.tolist() == [e for e in expected if e < 10]


def test_the_tail_counts_every_label_once() -> None:
    train, test = np.array([0, 1, 1, 7, 50, 2000, 0]), np.array([3, 0, 1, 2, 0, 9, 0])
    rows = deciles.tail(train, test)
    assert [row[0] for row in rows] == ["0", "1", "2-10", "11-100", "101-1,000", "1,001 or more"]
    assert [row[1] for row in rows] == [2, 2, 1, 1, 0, 1]
    assert [row[2] for row in rows] == [0, 2, 7, 50, 0, 2000]
    assert [row[3] for row in rows] == [3, 1, 2, 0, 0, 9]


def test_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    arguments = problem()
    n = len(arguments["predictions"].texts)
    arguments["label_texts"] = [NASTY] * len(arguments["label_texts"])
    arguments["predictions"] = arguments["predictions"]._replace(texts=[NASTY] * n)
    arguments["settings"] |= {"data_dir": f"a/{NASTY[:30]}", "encoder": NASTY}
    arguments["versions"] = {NASTY: NASTY}
    arguments["log"] = [*arguments["log"], {"event": NASTY, NASTY: 1}]
    arguments["log"] += [{"fit": NASTY, "stage": NASTY, "step": 1, "loss": 1.0}]
    html = html_of(tmp_path, arguments)
    found = Page(html)
    assert not found.tags["script"]
    assert "<script>alert('x')</script>" in found.text
    assert not set(html) & set("\u202e\x00\u200b\u2028")
    assert '<span class="odd">U+202E</span>' in html


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a<b>&\"'", "<bdi>a&lt;b&gt;&amp;&quot;&#x27;</bdi>"),
        ("tab\there", "<bdi>tab here</bdi>"),
        ("\ud800", '<bdi><span class="odd">U+D800</span></bdi>'),
        (
            "\u2066x\u2069",
            '<bdi><span class="odd">U+2066</span>x<span class="odd">U+2069</span></bdi>',
        ),
        ("می\u200cر 👩\u200d🔬", "<bdi>می\u200cر 👩\u200d🔬</bdi>"),
        (" ", '<bdi> <span class="more">(empty)</span></bdi>'),
        ("x" * 12, '<bdi>xxxxxxxxxx <span class="more">… and 2 more characters</span></bdi>'),
    ],
)
def test_text(words: str, expected: str) -> None:
    assert page.text(words, 10 if words.startswith("xx") else 320) == expected


def test_without_a_test_part_the_chosen_validation_is_shown(tmp_path: Path) -> None:
    arguments = problem() | {"result": None, "intervals": None, "predictions": None}
    found = Page(html_of(tmp_path, arguments)).text
    assert "Validation scores" in found
    assert "No test part was scored" in found
    assert "heads epoch 2 by nDCG@5" in found
    assert "kept: heads epoch 2, nDCG@5 50" in found
    assert "Test scores" not in found
    assert "Examples" not in found


def test_without_any_scores(tmp_path: Path) -> None:
    bare = problem() | {"result": None, "intervals": None, "predictions": None, "log": []}
    found = Page(html_of(tmp_path, bare)).text
    assert "No test part and no validation part." in found


@pytest.mark.parametrize(
    ("n_points", "n_labels", "k", "positives"),
    [(1, 1, 1, 1.0), (1, 30, 100, 0.2), (20, 30, 3, 0.1), (20, 30, 30, 0.0), (5, 2, 2, 0.5)],
)
def test_odd_sizes(tmp_path: Path, n_points: int, n_labels: int, k: int, positives: float) -> None:
    Page(html_of(tmp_path, problem(n_points, n_labels, k, positives=positives)))


def test_nothing_was_seen_and_nothing_ranked(tmp_path: Path) -> None:
    arguments = problem()
    arguments["train_counts"] = np.zeros(30, np.int64)
    nothing = np.full((40, 5), -1, np.int32)
    arguments["predictions"] = arguments["predictions"]._replace(ids=nothing, scores=None)
    found = Page(html_of(tmp_path, arguments)).text
    assert "Examples" not in found
    assert "0 (0.0 %)" in found


def test_a_skipped_metric_is_a_dash(tmp_path: Path) -> None:
    arguments = problem()
    result: Result = arguments["result"]
    result.metrics["P@1"] = math.nan
    assert "P@1\u2013" in Page(html_of(tmp_path, arguments)).text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_texts": ["a"]}, "report: 1 label texts for 30 label counts"),
        ({"y_true": csr_array((40, 7))}, "y_true has 7 labels, train_counts 30"),
        ({"texts": ["a"]}, r"ids of shape \(40, 30\) and 1 texts for 40 points"),
        ({"scores": np.zeros((1, 1), np.float32)}, r"scores of shape \(1, 1\), but ids \(40, 30\)"),
        ({"exclude": csr_array((1, 30))}, r"exclude of shape \(1, 30\), but y_true \(40, 30\)"),
    ],
)
def test_sizes_that_disagree(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arguments = problem()
    for name, value in changes.items():
        if name in arguments:
            arguments[name] = value
        else:
            arguments["predictions"] = arguments["predictions"]._replace(**{name: value})
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_large_run_stays_a_small_page(tmp_path: Path) -> None:
    n_points, n_labels, k = 20_000, 100_000, 10
    generator = np.random.default_rng(0)
    arguments = problem()
    indices = generator.integers(0, n_labels, 5 * n_points).astype(np.int32)
    y = csr_array(
        (np.ones(len(indices), np.float32), indices, np.arange(0, len(indices) + 1, 5)),
        shape=(n_points, n_labels),
    )
    y.sum_duplicates()
    ids = (np.arange(k) + generator.integers(0, n_labels - k, (n_points, 1))).astype(np.int32)
    arguments |= {
        "log": log(per_epoch=3000),
        "train_counts": generator.zipf(1.5, n_labels).clip(0, 10**6) - 1,
        "label_texts": ["label " * 400] * n_labels,
        "predictions": Predictions("test", y, ids, ["text " * 2000] * n_points),
        "settings": {f"setting {i}": "v" * 10_000 for i in range(60)},
    }
    assert len(html_of(tmp_path, arguments)) < 500_000


def test_examples_are_right_and_wrong_as_said() -> None:
    arguments = problem(300, 20, seed=2)
    _, y, ids, _, scores, _ = arguments["predictions"]
    generator = np.random.default_rng(7)
    exclude = csr_array((generator.random(y.shape) < 0.1).astype(np.float32))
    dense = (y.toarray() > 0) & (exclude.toarray() == 0)
    right, has = examples.first_is_right(y, ids, exclude)
    assert right.tolist() == [bool(dense[i, ids[i, 0]]) for i in range(300)]
    assert has.tolist() == dense.any(axis=1).tolist()
    for kind, found in zip(
        (True, False), examples.choose(y, ids, scores, exclude, seed=1), strict=True
    ):
        assert len({example.point for example in found}) == 6
        for point, ranked, missed, n_missed, n_true in found:
            assert [label for label, *_ in ranked] == ids[point, :8].tolist()
            assert [true for *_, true in ranked] == dense[point, ids[point, :8]].tolist()
            assert ranked[0][2] == kind
            assert [score for _, score, _ in ranked] == scores[point, :8].tolist()
            rest = set(np.flatnonzero(dense[point])) - set(ids[point, :8].tolist())
            assert (n_missed, n_true) == (len(rest), dense[point].sum())
            assert {label for label, _ in missed} <= rest
            for label, rank in missed:
                assert rank is not None
                assert ids[point, rank - 1] == label
    assert examples.choose(y, ids, scores, exclude, seed=1) == examples.choose(
        y, ids, scores, exclude, seed=1
    )
    assert examples.choose(y, ids, seed=1) != examples.choose(y, ids, seed=2)


def test_curves_follow_stages_and_phases_and_resumed_runs_count_once() -> None:
    lines = log()
    found = curves.spans([*lines, *lines[5:8]])
    assert found == curves.spans(lines)
    assert [(s.stage, s.phase, s.start, s.stop, s.epochs) for s in found] == [
        ("selection", "heads", 0, 20, 2),
        ("selection", "encoder", 20, 40, 2),
        ("all points", "heads", 0, 20, 2),
        ("all points", "encoder", 20, 40, 2),
    ]
    loss = curves.curve(found, "loss")
    assert [one.name for one in loss] == [
        *("selection: heads", "selection: encoder", "all points: heads", "all points: encoder")
    ]
    assert [list(one.x) for one in loss[:2]] == [[10, 20], [30, 40]]
    assert [list(one.y) for one in loss[:2]] == [[3.0, 1.5], [3.0, 1.5]]
    one_phase = curves.curve([span for span in found if span.phase == "heads"], "loss")
    assert [one.name for one in one_phase] == ["selection", "all points"]
    chosen = curves.best(found, "nDCG@5")
    assert chosen is not None
    assert (chosen[0].phase, chosen[1]["epoch"]) == ("heads", 2)  # the first of equals
    assert [span.seconds for span in found] == [4.0] * 4
    assert curves.events(lines) == {
        "label graph": {"edges": [120.0], "share kept": [0.5]},
        "shortlist": {"recall": [0.7, 0.9], "seconds": [1.5, 1.0]},
    }


def test_the_clock_of_a_resumed_phase_starts_again() -> None:
    lines = [
        {"fit": "selection", "stage": "heads", "epoch": i, "step": i, "seconds": seconds}
        for i, seconds in enumerate([5.0, 10.0, 4.0, 8.0], start=1)
    ]
    assert curves.spans(lines)[0].seconds == 18.0


def test_read_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{"a": ')
    assert read_log(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": \n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"log.jsonl:2: damaged"):
        read_log(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"log.jsonl:1: not a JSON object"):
        read_log(path)


def test_command_repeats_the_run() -> None:
    settings = {
        "data_dir": "my data",
        "out": "run",
        "seed": 3,
        "refit": False,
        "compile": True,
        "select": "P@1",
        "quiet": True,
        "warmup": 0.1,
    }
    defaults = {"seed": 0, "refit": True, "compile": False, "select": "P@1", "warmup": 0.1}
    assert command(settings, defaults) == (
        "python -m dexml.train 'my data' --out run --seed 3 --no-refit --compile"
    )


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.1234, 0.1236), (-3, 8), (5, 5), (0, 0), (1e-9, 2e-9), (3, 1e7)]
)
def test_ticks_are_round_and_around(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 9
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12


def test_lines_leave_out_what_is_not_finite_and_average_what_is_too_long() -> None:
    series = charts.Series("a", [1, 2, 3], [1.0, math.nan, math.inf])
    drawn = charts.lines([series], label="x")
    assert drawn.count("<circle") == 1
    assert charts.lines([charts.Series("a", [1], [math.nan])], label="x") == ""
    n = 10 * charts.MAX_POINTS + 7
    drawn = charts.lines([charts.Series("a", range(n), [2.0] * n)], label="x")
    points = re.findall(r'points="([^"]*)"', drawn)[0].split()
    assert charts.MAX_POINTS * 0.8 < len(points) <= charts.MAX_POINTS
    assert len({point.split(",")[1] for point in points}) == 1


def test_places_are_linear_in_the_values() -> None:
    drawn = charts.lines([charts.Series("a", [0, 5, 10], [0, 50, 100])], label="x")
    places = [
        tuple(map(float, p.split(","))) for p in re.findall(r'points="([^"]*)"', drawn)[0].split()
    ]
    assert places[0] == (charts.LEFT, charts.HEIGHT - charts.BOTTOM)
    assert places[2] == (charts.WIDTH - charts.RIGHT, charts.TOP)
    assert np.allclose(places[1], np.mean([places[0], places[2]], axis=0), atol=0.06)


def test_bars_are_as_high_as_their_values() -> None:
    bars = [charts.Bar(["a"], value, "t") for value in (0.1, 0.2, math.nan, 0.4)]
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" rx', charts.bars(bars, label="x"))]
    assert np.allclose(np.array(heights) / heights[3], [0.25, 0.5, 0, 1], atol=0.01)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.05, "0.05"), (1200, "1,200"), (3.4e6, "3.4M"), (2e-5, "2e-5"), (12_345, "12.3k")],
)
def test_number(value: float, expected: str) -> None:
    assert charts.number(value) == expected
