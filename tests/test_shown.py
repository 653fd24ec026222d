"""Objects fit on one line of a session, and scores go into tables."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import data
from dexml.index import LabelIndex
from dexml.metrics import (
    Evaluator,
    LabelGroups,
    Result,
    evaluate,
    to_dataframe,
    to_latex,
    to_markdown,
)
from dexml.predict import Predictor
from dexml.run import LabelSet, PointTexts
from dexml.sampling import LabelGraph

TRUTH = csr_array(np.eye(4, dtype=np.float32))


def scored(*ids: int) -> Result:
    groups = {"half": LabelGroups(["head <= 2", "<tail> & more"], [0, 0, 1, 1])}
    evaluator = Evaluator(4, ["P@1", "R@1"], label_groups=groups)
    evaluator.update(TRUTH, np.array(ids)[:, None])
    return evaluator.result()


def objects(tiny_data: Path) -> list[tuple[Any, str]]:
    loaded = data.load_dataset(tiny_data)
    part = data.load_part(tiny_data, "trn", 64)
    graph = LabelGraph.co_occurrence(TRUTH)
    index = LabelIndex.build(np.eye(3, dtype=np.float32))
    evaluator = Evaluator(4, ["P@1"])
    labels = LabelSet.of(["a"] * 5000, np.zeros(5000, np.int64))
    return [
        (loaded, "Dataset(labels=64, train_points=300, train_pairs="),
        (part, "Part(points=300, labels=64, pairs="),
        (scored(0, 1, 0, 0), "Result(P@1=0.5000, R@1=0.5000, points=4, labels=4)"),
        (evaluator, "Evaluator(labels=4, metrics=P@1, points=0)"),
        (LabelGroups(["a", "b"], [0, 1, 1]), "LabelGroups(labels=3, groups=a, b)"),
        (graph, "LabelGraph(labels=4, edges=0, method=co_occurrence"),
        (index, "LabelIndex(labels=3, ids=3, dim=3, graph=none)"),
        (labels, "LabelSet(labels=5,000, alive=5,000, trained=5,000)"),
        (PointTexts.of(["a text"] * 5000), "PointTexts(points=5,000)"),
    ]


def test_every_object_has_a_short_line(tiny_data: Path) -> None:
    for shown, start in objects(tiny_data):
        assert repr(shown).startswith(start)
        assert len(repr(shown)) < 300
        assert "\n" not in repr(shown)


def test_notebooks_get_a_small_table(tiny_data: Path) -> None:
    for shown, _ in objects(tiny_data):
        if not isinstance(shown, LabelGroups | PointTexts):
            table = shown._repr_html_()
            assert table.startswith("<table>")
            assert table.endswith("</table>")
            assert len(table) < 1500
    assert "&lt;tail&gt; &amp; more" in scored(0, 1, 2, 3)._repr_html_()
    assert "<td style='text-align:right'>100.00</td>" in scored(0, 1, 2, 3)._repr_html_()


def test_a_predictor_says_which_run_it_serves(run_dir: Path) -> None:
    predictor = Predictor.open(run_dir, threads=1)
    assert repr(predictor) == f"Predictor(run={run_dir.resolve()}, labels=64, scorer=DenseScorer)"
    assert "<caption>Predictor</caption>" in predictor._repr_html_()


def test_scores_as_markdown() -> None:
    one = evaluate(TRUTH, np.array([[0], [1], [0], [3]]), ["P@1"])
    assert to_markdown(one) == "| % | P@1 |\n|---|---:|\n|  | 75.00 |"
    table = to_markdown(
        {"a|b": one, "other": {"R@1": 0.5}}, errors={"a|b": {"P@1": 0.0123}}, digits=1
    )
    assert table.splitlines()[2:] == [r"| a\|b | 75.0 ± 1.2 | - |", "| other | - | 50.0 |"]
    lines = to_markdown(scored(0, 1, 2, 0), errors={"P@1": 0.1}).splitlines()
    assert lines[2:] == [
        "|  | 75.00 ± 10.00 | 75.00 |",
        "| half: head <= 2 | 100.00 | 100.00 |",
        "| half: <tail> & more | 50.00 | 50.00 |",
    ]


def test_scores_as_latex() -> None:
    table = to_latex({"my_run": scored(0, 1, 2, 0)}, errors={"my_run": {"P@1": 0.01}})
    assert table.splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"\% & P@1 & R@1 \\",
        r"\midrule",
        r"my\_run & 75.00 $\pm$ 1.00 & 75.00 \\",
        r"my\_run, half: head $\le$ 2 & 100.00 & 100.00 \\",
        r"my\_run, half: $<$tail$>$ \& more & 50.00 & 50.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_scores_as_a_dataframe(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def from_dict(rows: Any, orient: str) -> str:
        calls.append((rows, orient))
        return "a frame"

    stand_in = SimpleNamespace(DataFrame=SimpleNamespace(from_dict=from_dict))
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    assert to_dataframe({"a": {"P@1": 0.5}, "b": {"P@1": 0.25}}) == "a frame"
    assert calls == [({"a": {"P@1": 0.5}, "b": {"P@1": 0.25}}, "index")]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pandas is not installed; it comes with: pip install"):
        to_dataframe({"P@1": 0.5})


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5], "scores is list; give a Result, a dict of metrics, or a dict of these"),
        ({"a": {"P@1": 1.0}, "P@1": 0.5}, "numbers and systems in one dict"),
    ],
)
def test_what_is_no_scores(scores: Any, message: str) -> None:
    for table in (to_markdown, to_latex):
        with pytest.raises(TypeError, match=message):
            table(scores)
