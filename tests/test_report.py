"""report.html: self-contained, safe, exact, of bounded size, and whole whatever a run has."""

import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.metrics import Evaluator, confusions, evaluate, label_errors
from dexml.report import (
    Evaluation,
    Training,
    charts,
    confidence,
    curves,
    errors,
    examples,
    frequency,
    write_report,
)
from dexml.report.of_training import report_training
from dexml.report.page import render
from dexml.report.repeat import command
from dexml.report.text import pieces, printable
from dexml.run.folder import read_log
from dexml.scorers.calibration import Calibration
from dexml.train import calibrating, train
from small import train_settings

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
        if tag in ("td", "th", "text", "title"):
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def evaluation(
    n_points: int = 40, n_labels: int = 30, k: int = 100, *, seed: int = 0, positives: float = 0.1
) -> Evaluation:
    """Random predictions, some of them true."""
    generator = np.random.default_rng(seed)
    y = csr_array((generator.random((n_points, n_labels)) < positives).astype(np.float32))
    k = min(k, n_labels)
    ids = np.argsort(generator.random((n_points, n_labels)), axis=1)[:, :k].astype(np.int32)
    scores = -np.sort(-generator.random(ids.shape)).astype(np.float32)
    metrics = ["P@1", "nDCG@5", f"R@{k}"] if k >= 5 else ["P@1"]
    evaluator = Evaluator(n_labels, metrics, keep_rows=True)
    evaluator.update(y, ids)
    result = evaluator.result()
    return Evaluation(
        result=result,
        intervals=result.intervals(seed=0, n_resamples=50),
        resampled="points, 50 resamples",
        y_true=y,
        ids=ids,
        scores=scores,
        texts=[f"text {i}" for i in range(n_points)],
    )


def with_probabilities(test: Evaluation, calibration: Calibration) -> Evaluation:
    """The same with probabilities, as a run with `calibration` has them."""
    counts = np.full(test.y_true.shape[1], 5)
    return replace(test, probabilities=calibration.probabilities(test.ids, test.scores, counts))


def calibrated(seed: int = 0) -> Calibration:
    """Probabilities that are the scores themselves, nearly."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.random((400, 20)), axis=1).astype(np.float32)
    hits = rng.random(scores.shape) < scores
    missed = np.zeros((400, 4), np.int64)
    folds = np.arange(400) % 5
    counts = np.full(scores.shape, 5)
    answers = calibrating.Answers(scores, hits, counts, missed, None, folds)
    found = calibrating.fit(answers, seed=0)
    assert isinstance(found, Calibration)
    return found


def labels_of(counts: NDArray[np.integer[Any]], n_points: int = 0) -> csr_array:
    """Labels of training points, `counts` of each label."""
    n_points = n_points or int(counts.max(initial=1))
    rows = np.concatenate([np.arange(count) for count in counts])
    labels = np.repeat(np.arange(len(counts)), counts)
    values = np.ones(len(rows), np.float32)
    return csr_array((values, (rows, labels)), shape=(n_points, len(counts)))


def training(test: Evaluation | None = None, **changes: Any) -> Training:
    """A training with `test`, or without a test part."""
    n_labels = 30 if test is None else test.y_true.shape[1]
    facts: dict[str, Any] = {
        "settings": {"data_dir": "sets/Small", "out": "run", "seed": 3, "select": "nDCG@5"},
        "defaults": {"seed": 0, "select": "nDCG@5"},
        "log": log(),
        "label_texts": [f"label {i}" for i in range(n_labels)],
        "versions": {"python": "3.11", "torch": "2"},
        "seconds": 75.0,
    }
    if "y" not in changes:
        counts = np.random.default_rng(n_labels).integers(0, 9, n_labels) ** 3
        facts["y"] = labels_of(counts, 600)
    return Training(**facts | changes, test=test)


def log(per_epoch: int = 1) -> list[dict[str, Any]]:
    """Two fits of two stages, the best epoch of the selection being the second of all."""
    lines: list[dict[str, Any]] = [
        {"time": 1.7e9, "event": "label graph", "edges": 120, "kind": "words"},
        {"event": "shortlist", "recall": 0.7, "seconds": 1.5},
        {"event": "shortlist", "recall": 0.9, "seconds": 1.0},
    ]
    scores = iter([0.2, 0.5, 0.4, 0.5])
    for fit in ("selection", "all points"):
        for stage in ("heads", "encoder"):
            for step in range(1, 2 * per_epoch + 1):
                entry: dict[str, Any] = {
                    "time": 1.7e9 + step,
                    curves.FIT: fit,
                    curves.STAGE: stage,
                    "epoch": (step - 1) // per_epoch + 1,
                    "step": 10 * step,
                    "steps": 20 * per_epoch,
                    "loss": 3.0 / step,
                    "lr": 1e-3 / step,
                    "seconds": 2.0 * step,
                }
                if fit == "selection" and step % per_epoch == 0:
                    value = next(scores)
                    entry["validation"] = {"P@1": value, "nDCG@5": value, "R@100": 0.9}
                lines.append(entry)
    return lines


def html_of(folder: Path, of: Training) -> str:
    path = write_report(folder, of)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    html = html_of(tmp_path, training(evaluation()))
    found = Page(html)
    assert html.startswith("<!DOCTYPE html>")
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


def test_a_training_reports_what_it_did(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run", head_epochs=2)
    result = train(settings, report_training)
    assert result is not None
    found = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    for name, value in result.metrics.items():
        assert f"{name} {100 * value:.2f}" in found
    assert "kept: epoch" in found
    assert re.search(r"selection heads 2 \d+ .* all points heads \d+ \d+ ", found)
    assert f"python -m dexml.train {tiny_data} --out {tmp_path / 'run'}" in found


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first = html_of(tmp_path, training(evaluation()))
    assert html_of(tmp_path, training(evaluation())) == first
    assert html_of(tmp_path, training(evaluation(seed=1))) != first


def test_scores_and_groups_are_the_evaluators(tmp_path: Path) -> None:
    test = evaluation(200, 40, seed=5)
    whole = training(test)
    found = Page(html_of(tmp_path, whole)).text
    for name, value in test.result.metrics.items():
        low, high = (100 * x for x in (test.intervals[name].low, test.intervals[name].high))
        assert f"{name} {100 * value:.2f} {low:.2f} to {high:.2f}" in found
    y, ids = test.y_true, test.ids
    deciles = frequency.by_decile(whole.y, test)
    total = sum(one.scores.contribution["P@1"] for one in deciles)
    assert math.isclose(total, test.result.metrics["P@1"])
    dense = y.toarray() > 0
    counts = whole.y.sum(axis=0).astype(int)
    share = np.array(slow_deciles(counts.tolist(), 10))
    assert [one.number - 1 for one in deciles] == sorted(set(share))
    for one in deciles:
        own, scores = share == one.number - 1, one.scores
        assert (one.low, one.high) == (counts[own].min(), counts[own].max())
        assert one.unseen == (one.number == 11)
        hits = np.mean([dense[i, ids[i, 0]] and own[ids[i, 0]] for i in range(len(ids))])
        assert math.isclose(scores.contribution["P@1"], hits, abs_tol=1e-12)
        recalls = [
            np.mean([label in set(ids[i]) for label in np.flatnonzero(dense[i] & own)])
            for i in range(len(ids))
            if (dense[i] & own).any()
        ]
        assert math.isclose(scores.metrics["R@40"], float(np.mean(recalls)))
        row = f"{one.span} {own.sum()} {scores.n_positives} {scores.n_points} {100 * hits:.2f}"
        assert row in found


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
    deciles = frequency.by_decile(labels_of(counts), evaluation(20, len(counts)))
    assert [one.number - 1 for one in deciles] == sorted(set(expected))
    assert [one.scores.n_labels for one in deciles] == [
        expected.count(share) for share in sorted(set(expected))
    ]


def test_the_tail_counts_every_label_and_pair_once() -> None:
    train = np.array([0, 1, 1, 7, 50, 2000, 0])
    tested = np.array([3, 0, 1, 2, 0, 9, 0])
    y = csr_array((np.arange(9)[:, None] < tested).astype(np.float32))
    test = replace(evaluation(9, 7), y_true=y)
    sizes = frequency.sizes(training(test, y=labels_of(train)))
    spans = [band.span for band in sizes.tail]
    assert spans == ["0", "1", "2-10", "11-100", "101-1,000", "1,001 or more"]
    assert [band.n_labels for band in sizes.tail] == [2, 2, 1, 1, 0, 1]
    assert [band.train_pairs for band in sizes.tail] == [0, 2, 7, 50, 0, 2000]
    assert [band.test_pairs for band in sizes.tail] == [3, 1, 2, 0, 0, 9]
    assert sizes[:5] == (7, 5, 2059, 15, 7)


def test_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    test = evaluation()
    nasty = training(
        replace(test, texts=[NASTY] * len(test.texts), resampled=NASTY),
        label_texts=[NASTY] * 30,
        settings={"data_dir": f"a/{NASTY[:30]}", "encoder": NASTY, "select": NASTY, NASTY: NASTY},
        defaults={NASTY: f"{NASTY}!"},
        versions={NASTY: NASTY},
        log=[
            *log(),
            {"event": NASTY, NASTY: 1},
            {
                curves.FIT: NASTY,
                curves.STAGE: NASTY,
                "step": 1,
                "loss": 1.0,
                "validation": {NASTY: 0.5},
            },
        ],
    )
    for one in (nasty, replace(nasty, test=None)):
        html = html_of(tmp_path, one)
        found = Page(html)
        assert not found.tags["script"]
        assert "<script>alert('x')</script>" in found.text
        assert not set(html) & set("\u202e\x00\u200b\u2028")
        assert "U+202E" in html
    assert '<span class="odd">U+202E</span>' in html_of(tmp_path, nasty)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<b>&\"'", [(False, "a<b>&\"'")]),
        ("tab\there\r\n", [(False, "tab here  ")]),
        ("\ud800", [(True, "U+D800")]),
        ("\u2066\x00x\u2069", [(True, "U+2066"), (True, "U+0000"), (False, "x"), (True, "U+2069")]),
        ("می\u200cر 👩\u200d🔬", [(False, "می\u200cر 👩\u200d🔬")]),
        ("", []),
    ],
)
def test_hidden_characters_of_a_text_are_told_apart(
    text: str, expected: list[tuple[bool, str]]
) -> None:
    assert pieces(text) == expected


def test_hidden_characters_are_written_by_number_in_plain_text() -> None:
    assert printable("a\u202eb\nc\u200d") == "a[U+202E]b[U+000A]c\u200d"


def test_long_and_empty_texts_are_shown_as_such(tmp_path: Path) -> None:
    test = evaluation()
    texts = ["x" * 330, " "] * 20
    html = html_of(tmp_path, training(replace(test, texts=texts)))
    assert f'<bdi>{"x" * 320} <span class="more">… and 10 more characters</span></bdi>' in html
    assert '<bdi> <span class="more">(empty)</span></bdi>' in html


def test_without_a_test_part_the_chosen_validation_is_shown(tmp_path: Path) -> None:
    found = Page(html_of(tmp_path, training())).text
    assert "Validation scores" in found
    assert "There was no test part to score" in found
    assert "heads epoch 2 by nDCG@5" in found
    assert "kept: epoch 2" in found
    assert "Test scores" not in found
    assert "Examples" not in found
    assert "test pairs" not in found


def test_without_any_scores(tmp_path: Path) -> None:
    found = Page(html_of(tmp_path, training(log=[]))).text
    assert "There is no test part and no validation part." in found
    assert "Events" not in found


@pytest.mark.parametrize(
    ("n_points", "n_labels", "k", "positives"),
    [(1, 1, 1, 1.0), (1, 30, 100, 0.2), (20, 30, 3, 0.1), (20, 30, 30, 0.0), (5, 2, 2, 0.5)],
)
def test_odd_sizes(tmp_path: Path, n_points: int, n_labels: int, k: int, positives: float) -> None:
    Page(html_of(tmp_path, training(evaluation(n_points, n_labels, k, positives=positives))))


@pytest.mark.parametrize("width", [0, 5])
def test_nothing_was_seen_and_nothing_ranked(tmp_path: Path, width: int) -> None:
    ids, scores = np.full((40, width), -1, np.int32), np.zeros((40, width), np.float32)
    test = replace(evaluation(), ids=ids, scores=scores)
    found = Page(html_of(tmp_path, training(test, y=csr_array((9, 30), dtype=np.float32)))).text
    assert "Examples" not in found
    assert "0 (0.0 %)" in found


def test_a_metric_without_a_value_is_a_dash(tmp_path: Path) -> None:
    test = evaluation()
    test.result.metrics["P@1"] = math.nan
    assert "P@1 \u2013" in Page(html_of(tmp_path, training(test))).text


def test_a_metric_without_an_interval_has_none_in_the_table(tmp_path: Path) -> None:
    test = evaluation()
    intervals = {name: one for name, one in test.intervals.items() if name != "P@1"}
    found = Page(html_of(tmp_path, training(replace(test, intervals=intervals)))).text
    assert f"P@1 {100 * test.result.metrics['P@1']:.2f} \u2013" in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": ["a"]}, r"ids of shape \(40, 30\) and 1 texts for 40 points"),
        ({"scores": np.zeros((1, 1), np.float32)}, r"scores of shape \(1, 1\), but ids \(40, 30\)"),
        ({"exclude": csr_array((1, 30))}, r"exclude of shape \(1, 30\), but y_true \(40, 30\)"),
    ],
)
def test_sizes_of_an_evaluation_that_disagree(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(evaluation(), **changes)


def test_numbers_of_labels_that_disagree() -> None:
    with pytest.raises(ValueError, match="report: 1 label texts, but y has 30 labels"):
        training(label_texts=["a"])
    with pytest.raises(ValueError, match="y_true has 7 labels, but y 30"):
        replace(training(), test=evaluation(n_labels=7))


def test_a_large_run_stays_a_small_page(tmp_path: Path) -> None:
    n_points, n_labels, k = 20_000, 100_000, 10
    generator = np.random.default_rng(0)
    indices = generator.integers(0, n_labels, 5 * n_points).astype(np.int32)
    y = csr_array(
        (np.ones(len(indices), np.float32), indices, np.arange(0, len(indices) + 1, 5)),
        shape=(n_points, n_labels),
    )
    y.sum_duplicates()
    ids = (np.arange(k) + generator.integers(0, n_labels - k, (n_points, 1))).astype(np.int32)
    test = replace(
        evaluation(n_points, 1),
        y_true=y,
        ids=ids,
        scores=np.zeros(ids.shape, np.float32),
        texts=["text " * 2000] * n_points,
    )
    large = training(
        test,
        log=log(per_epoch=3000),
        y=labels_of(generator.zipf(1.5, n_labels).clip(0, 100) - 1),
        label_texts=["label " * 400] * n_labels,
        settings={f"setting {i}": "v" * 10_000 for i in range(60)},
    )
    assert len(html_of(tmp_path, large)) < 500_000


def test_examples_are_right_and_wrong_as_said() -> None:
    test = evaluation(300, 20, k=10, seed=2)
    y, ids = test.y_true, test.ids
    drawn = np.random.default_rng(7).random(y.shape) < 0.2
    np.put_along_axis(drawn, ids, False, axis=1)  # rankings hold no excluded pair
    test = replace(test, exclude=csr_array(drawn.astype(np.float32)))
    dense = (y.toarray() > 0) & ~drawn
    for kind, found in zip((True, False), examples.choose(test, seed=1), strict=True):
        assert len({example.point for example in found}) == 6
        for point, ranked, missed, n_missed, n_true in found:
            assert [one.label for one in ranked] == ids[point, :8].tolist()
            assert [one.true for one in ranked] == dense[point, ids[point, :8]].tolist()
            assert ranked[0].true == kind
            assert [one.score for one in ranked] == test.scores[point, :8].tolist()
            rest = set(np.flatnonzero(dense[point])) - set(ids[point, :8].tolist())
            assert (n_missed, n_true) == (len(rest), dense[point].sum())
            assert n_true > 0
            assert {one.label for one in missed} <= rest
            for label, rank in missed:
                assert (rank is None) == (label not in ids[point])
                assert rank is None or ids[point, rank - 1] == label
    assert examples.choose(test, seed=1) == examples.choose(test, seed=1)
    assert examples.choose(test, seed=1) != examples.choose(test, seed=2)


def test_curves_follow_stages_and_resumed_runs_count_once() -> None:
    lines = log()
    found = curves.spans([*lines, *lines[5:8]])
    assert found == curves.spans(lines)
    assert [(s.fit, s.stage, s.start, s.steps, s.epochs) for s in found] == [
        ("selection", "heads", 0, 20, 2),
        ("selection", "encoder", 20, 20, 2),
        ("all points", "heads", 0, 20, 2),
        ("all points", "encoder", 20, 20, 2),
    ]
    loss = curves.curve(found, "loss")
    assert [one.name for one in loss] == [
        *("selection: heads", "selection: encoder", "all points: heads", "all points: encoder")
    ]
    assert [[(p.x, p.y) for p in one.points] for one in loss[:2]] == [
        [(10, 3.0), (20, 1.5)],
        [(30, 3.0), (40, 1.5)],
    ]
    one_stage = curves.curve([span for span in found if span.stage == "heads"], "loss")
    assert [one.name for one in one_stage] == ["selection", "all points"]
    assert curves.curve(found, "no such field") == []
    assert [span.seconds for span in found] == [4.0] * 4


def test_the_first_of_equal_validations_is_the_best() -> None:
    found = curves.spans(log())
    kept = curves.best(found, "nDCG@5")
    assert kept is not None
    assert (kept.stage, kept.epoch, kept.step) == ("heads", 2, 20)
    assert curves.best(found, "P@7") is None
    assert [one.name for one in curves.validation(found, ["R@100", "P@7", "P@1"])] == [
        *("R@100", "P@1")
    ]


def test_events_are_collected_by_name_and_field() -> None:
    assert curves.events(log()) == {
        "label graph": {"edges": [120.0]},
        "shortlist": {"recall": [0.7, 0.9], "seconds": [1.5, 1.0]},
    }


def test_the_clock_of_a_resumed_stage_starts_again() -> None:
    lines = [
        {curves.FIT: "selection", curves.STAGE: "heads", "epoch": i, "step": i, "seconds": seconds}
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


def drawn(points: list[tuple[float, float]], **options: Any) -> str:
    """One line as SVG."""
    series = charts.Series("a", [charts.Point(x, y) for x, y in points])
    figure = charts.lines("x", [series], x_name="step", **options)
    return "" if figure is None else str(figure.svg)


def line(svg: str) -> list[tuple[float, float]]:
    """The points of the line in a chart."""
    (points,) = re.findall(r'points="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (point.split(",") for point in points.split())]


def test_lines_leave_out_what_is_not_finite() -> None:
    assert drawn([(1, 1.0), (2, math.nan), (3, math.inf)]).count("<circle") == 1
    assert drawn([(1, math.nan)]) == ""


def test_logarithmic_axes_leave_out_what_is_not_above_0() -> None:
    places = line(drawn([(0, 5), (1, 1), (10, 10), (100, 0), (100, 100)], log=True))
    assert places == [
        (charts.LEFT, charts.HEIGHT - charts.BOTTOM),
        pytest.approx(np.mean([places[0], places[2]], axis=0), abs=0.06),
        (charts.WIDTH - charts.RIGHT, charts.TOP),
    ]


def test_lines_average_what_is_too_long() -> None:
    n = 10 * charts.MAX_POINTS + 7
    points = line(drawn([(i, 2.0) for i in range(n)]))
    assert charts.MAX_POINTS * 0.8 < len(points) <= charts.MAX_POINTS
    assert len({y for _, y in points}) == 1


def test_places_are_linear_in_the_values() -> None:
    places = line(drawn([(0, 0), (5, 50), (10, 100)]))
    assert places[0] == (charts.LEFT, charts.HEIGHT - charts.BOTTOM)
    assert places[2] == (charts.WIDTH - charts.RIGHT, charts.TOP)
    assert np.allclose(places[1], np.mean([places[0], places[2]], axis=0), atol=0.06)


def test_bars_are_as_high_as_their_values() -> None:
    bars = [charts.Bar("a", value, "v", "t") for value in (0.1, 0.2, math.nan, 0.4)]
    svg = charts.bars("x", bars).svg
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" rx', svg)]
    assert np.allclose(np.array(heights) / heights[3], [0.25, 0.5, 0, 1], atol=0.01)


def test_words_in_charts_are_escaped_and_hide_nothing() -> None:
    (bar,) = re.findall("<g>.*</g>", charts.bars(NASTY, [charts.Bar(NASTY, 1, NASTY, NASTY)]).svg)
    assert "<script>" not in bar
    assert bar.count("&lt;script&gt;") == bar.count("[U+202E]") == 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((0, "0"), (0.05, "0.05"), (0.0025, "0.0025"), (1e-3, "1e-3"), (2.5e-4, "2.5e-4")),
        *((-2e-5, "-2e-5"), (1200, "1,200"), (12_345, "12.3k"), (-3.4e6, "-3.4M"), (2e9, "2G")),
    ],
)
def test_number(value: float, expected: str) -> None:
    assert charts.number(value) == expected


def test_probabilities_are_held_against_the_test_part() -> None:
    """Every number of the section is that of the public functions."""
    calibration = calibrated()
    test = with_probabilities(evaluation(300, 30, seed=4, positives=0.5), calibration)
    cuts = calibration.expected.probabilities  # probabilities that lie exactly on a cut
    assert test.probabilities is not None
    at = np.searchsorted(cuts, test.probabilities, side="right") - 1
    test = replace(test, probabilities=cuts[np.maximum(at, 0)].astype(np.float32))
    found = confidence.judge(training(test, calibration=calibration, counts=np.full(30, 5)), seed=0)
    assert found is not None
    assert test.probabilities is not None
    p, y = np.zeros(test.y_true.shape), test.y_true.toarray() > 0
    np.put_along_axis(p, test.ids.astype(np.int64), test.probabilities.astype(np.float64), axis=1)
    first = np.zeros_like(p)
    np.put_along_axis(
        first, test.ids[:, :5].astype(np.int64), test.probabilities[:, :5].astype(float), axis=1
    )
    told = evaluate(test.y_true, csr_array(first), ["ECE@5", "Brier@5"])
    assert found.reliability.ece == pytest.approx(told["ECE@5"])
    assert found.brier == pytest.approx(told["Brier@5"])
    (group,) = found.groups
    assert (group.name, group.labels) == ("tail", 5 * 300)
    assert group.ece == pytest.approx(told["ECE@5"])
    reached = [cut for cut in [*found.precisions, *found.recalls] if cut.threshold is not None]
    assert len(reached) > 5
    for cut in reached:
        assert cut.threshold is not None
        kept = p >= np.float32(cut.threshold.min_probability)
        assert cut.labels == pytest.approx(kept.sum() / 300)
        assert cut.precision == pytest.approx(y[kept].mean())
        assert cut.recall == pytest.approx((y & kept).sum() / y.sum())
        of_text = ((y & kept).sum(axis=1) / np.maximum(y.sum(axis=1), 1))[y.any(axis=1)]
        assert cut.recall_of_text == pytest.approx(of_text.mean())
    assert [figure.title for figure in found.figures] == [
        "Reliability, percent",
        "Precision and recall above a probability, percent",
        "Labels a text for a recall",
    ]


def test_the_page_shows_probabilities_and_what_fails(tmp_path: Path) -> None:
    calibration = calibrated()
    test = with_probabilities(evaluation(300, 30, seed=4, positives=0.5), calibration)
    told = training(
        test,
        calibration=calibration,
        counts=np.full(30, 5),
        label_texts=[f"{NASTY} {i}" for i in range(30)],
    )
    write_report(tmp_path, told)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "How sure it is" in page.text
    assert "Labels that fail most" in page.text
    assert "<script" not in html
    assert page.text.count("min_recall") >= 2
    without = Page(render(training(evaluation()))).text
    assert "How sure it is" not in without
    assert "Labels that fail most" in without
    assert "Labels that fail most" not in Page(render(training())).text


def test_the_labels_that_fail_are_those_of_the_metrics() -> None:
    test = evaluation(200, 30, seed=2, positives=0.2)
    found = errors.find(training(test))
    assert found is not None
    counted = label_errors(test.y_true, test.ids, 5)
    assert [one.label for one in found.missed] == counted.worst(errors.MISSED).tolist()
    assert [one.label for one in found.false] == counted.worst(errors.FALSE, by="false").tolist()
    for one in found.missed:
        assert one.missed == counted.missed[one.label]
        assert one.recall == pytest.approx(counted.recall[one.label])
        expected = confusions(
            test.y_true, test.ids, 5, by="surprise", n=errors.INSTEAD, of=[one.label]
        )
        assert one.instead == expected
    tested = counted.positives > 0
    assert found.n_never == int((tested & (counted.hits == 0)).sum())


def test_a_test_part_without_errors_or_answers_is_no_fault() -> None:
    perfect = evaluation(20, 8, 4)
    y = csr_array(np.eye(8, dtype=np.float32)[np.arange(20) % 8])
    ids = (np.arange(20) % 8)[:, None].astype(np.int32)
    right = replace(perfect, y_true=y, ids=ids, scores=np.ones((20, 1), np.float32))
    found = errors.find(training(right))
    assert found is not None
    assert found.missed == []
    assert "Labels that fail most" not in render(training(right))
    calibration = calibrated()
    empty = replace(right, ids=np.full_like(ids, -1), probabilities=np.zeros((20, 1), np.float32))
    assert confidence.judge(training(empty, calibration=calibration), seed=0) is None
    with pytest.raises(ValueError, match="probabilities of shape"):
        replace(right, probabilities=np.zeros((20, 2), np.float32))
