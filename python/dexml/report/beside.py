"""What stands beside the scores of a run: what was chosen, and what it would score without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dexml.metrics import Evaluator, inv_propensity
from dexml.metrics.propensity import label_counts
from dexml.report.figures import in_percent
from dexml.run import folder as rundir
from dexml.train.outcome import UNSEEN, Finished, propensity_of

ROWS = {
    "without_ranker": "without the ranker",
    "without_memory": "without ranker and votes",
}
"""Rows of ``metrics.json``, by what they are called."""
POPULAR = "most frequent labels for every text"
BLOCK = 10_000
"""Test points that are scored at a time."""


def rows(finished: Finished) -> dict[str, Mapping[str, float]]:
    """Return the scores of the run, of parts of it, and of the most frequent labels."""
    if finished.test is None:
        return {}
    result = finished.test.result
    saved = _read(finished.settings.out / "metrics.json")
    parts = {name: saved[key] for key, name in ROWS.items() if key in saved}
    return {"this run": result.metrics, **parts, POPULAR: _popular(finished)}


def _popular(finished: Finished) -> Mapping[str, float]:
    """Score the labels with the most training points, the same for every text."""
    assert finished.test is not None
    part, metrics = finished.test.part, list(finished.test.result.metrics)
    counts = label_counts(finished.y)
    k = max(int(name.split("@")[1]) for name in metrics)
    first = np.full(k, -1, np.int32)
    first[: len(counts)] = np.argsort(-counts, kind="stable")[:k]
    weights = inv_propensity(finished.y, **propensity_of(finished.settings))
    evaluator = Evaluator(len(counts), metrics, inv_propensity=weights)
    for start in range(0, len(part.texts), BLOCK):
        block = slice(start, start + BLOCK)
        y = part.y[block]
        exclude = None if part.exclude is None else part.exclude[block]
        evaluator.update(y, np.tile(first, (y.shape[0], 1)), exclude=exclude)
    return evaluator.result().metrics


def chosen(folder: Path) -> list[tuple[str, str]]:
    """Return what the training chose on validation points, as pairs of name and words."""
    run = _read(folder / "run.json")
    found = []
    selected, ranker = run.get("selected", {}), run.get("selected_ranker", {})
    if "gain" in selected and "points" in selected:  # a light run has no other choice
        selected, ranker = {}, selected
    if "prior_without" in selected:
        votes = "none"
        if selected["kind"] == "votes":
            votes = f"{selected['neighbours']} nearest points, weight {selected['weight']}"
        found.append(("votes of training points", votes + _gain(selected, "without", "with")))
    if ranker:
        used = "used" if ranker.get("used") else "not used: the gain is within the noise"
        found.append(("ranker", used + _gain(ranker, "base", "ranker")))
        for name in ("tree", "bilinear"):
            if isinstance(ranker.get(name), dict):
                kept = "kept" if ranker[name].get("used") else "left out"
                words = {"tree": "label tree", "bilinear": "pairs of words"}[name]
                found.append((words, kept))
        if ranker.get("used") and (lift := ranker.get("lift", {})).get("lift"):
            recall = lift.get(UNSEEN, {"without": 0.0, "with": 0.0})
            change = f"{in_percent(recall['without'])} → {in_percent(recall['with'])}"
            words = f"{lift['lift']:g}; {UNSEEN} {change} on validation points"
            found.append(("labels without points lifted by", words))
    engine = run.get("engine", {})
    if "form" in engine:
        found.append(("encoder", f"{engine.get('name', '')} in {engine['form']}"))
    left_out = run.get("lexical", {}).get("words", {}).get("settings", {}).get("stop_words", ())
    if left_out:
        found.append(("stop words left out", f"{len(left_out):,}"))
    return found


def _gain(facts: Mapping[str, Any], before: str, after: str) -> str:
    """Say what the metric of the selection was before and after, if it was measured."""
    select = facts.get("select", "")
    gain = facts.get("gain", {}).get(select)
    if not gain:
        return ""
    return f"; {select} {in_percent(gain[before])} → {in_percent(gain[after])} on validation points"


def _read(path: Path) -> dict[str, Any]:
    return rundir.read_json(path) if path.exists() else {}
