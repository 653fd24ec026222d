"""How well the probabilities of runs hold on their test parts, and what they cost.

    python benches/confidence.py RUN [RUN ...] [--json FILE]

For each run: ECE@5, beside that of a sigmoid of the score; what `min_precision` = 0.8 delivers,
where it can be reached; what `min_recall` = 0.9 delivers, or the largest that can be guaranteed;
the CPU time of probabilities over that of predicting. Choose nothing by these figures.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from dexml import data
from dexml.metrics import evaluate, reliability
from dexml.predict import Prediction, Predictor
from dexml.scorers import Queries


def reachable(predictor: Predictor, name: str, share: float) -> float:
    """The share itself, or else the largest that a refusal names."""
    asked: dict[str, Any] = {name: share}
    try:
        predictor.threshold(**asked)
    except ValueError as error:
        named = re.search(r"can: (0\.\d+)", str(error))
        return float(named[1]) if named else 0.0
    return share


def measure(run: Path, folder: Path | None) -> dict[str, Any]:
    """Measure one run on the test part of its data set."""
    predictor = Predictor.open(run)
    part = data.load_part(folder or predictor.run.data_dir(), "tst", predictor.n_labels)
    y, asked = part.y, dict[str, Any](exclude=part.exclude)
    predictor.predict(part.texts[:100], 20)  # indexes are made with the first question
    start = time.process_time()
    bare = predictor.scorer.search(Queries(part.texts), 20, exclude=part.exclude)
    searching = time.process_time() - start
    start = time.process_time()
    found = predictor.predict(part.texts, 20, **asked)
    predicting = time.process_time() - start
    assert found.probabilities is not None, predictor.probabilities_note()
    assert (bare[0] == found.ids).all()  # probabilities change no ranking
    p = data.csr_of_ids(found.ids, found.probabilities, predictor.n_labels)
    sigmoid = data.csr_of_ids(found.ids, 1 / (1 + np.exp(-found.scores)), predictor.n_labels)
    judged = reliability(y, p, 5, groups=part.groups, seed=0)
    result: dict[str, Any] = {
        "run": run.name,
        "points": len(part.texts),
        **evaluate(y, p, ["ECE@1", "ECE@5", "ACE@5", "Brier@5", "NLL@5", "ECEover@5"]),
        "ECE@5 interval": [judged.ece_interval.low, judged.ece_interval.high],
        "ECE@5 of a sigmoid": evaluate(y, sigmoid, ["ECE@5"])["ECE@5"],
        "cost": predicting / searching - 1,
    }
    for share in (0.5, 0.6, 0.7, 0.8):
        if reachable(predictor, "min_precision", share) < share:
            best = reachable(predictor, "min_precision", share)
            result[f"min_precision {share:g}"] = f"best {best:g}"
            continue
        cut = predictor.predict(part.texts, 100, min_precision=share, **asked)
        result[f"min_precision {share:g}"] = of_cut(y, cut)
    most = reachable(predictor, "min_recall", 0.9)
    for share in sorted({0.4, most}):
        if share <= most:
            result[f"min_recall {share:g}"] = of_cut(
                y, predictor.predict(part.texts, min_recall=share, **asked), part.groups
            )
    return result


def of_cut(y: csr_array, cut: Prediction, groups: Any = None) -> dict[str, float]:
    """Precision, recall and number of the labels that are kept."""
    k = cut.ids.shape[1]
    found = evaluate(y, cut.ids, [f"microP@{k}", f"microR@{k}"], empty_rows="skip")
    hits = data.hits_of(y, cut.ids).sum(axis=1)
    n = (y > 0).sum(axis=1)
    has = n > 0
    share = hits[has] / n[has]
    keys = np.arange(len(share)) if groups is None else np.array(groups)[has]
    _, unit = np.unique(keys, return_inverse=True)
    by_unit = np.bincount(unit, share) / np.bincount(unit)
    return {
        "precision": found[f"microP@{k}"],
        "recall": found[f"microR@{k}"],
        "recall of a text": float(share.mean()),
        "recall of a unit": float(by_unit.mean()),
        "standard error": float(by_unit.std() / np.sqrt(len(by_unit))),
        "labels": float((cut.ids >= 0).sum(axis=1).mean()),
    }


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, help="data set, if it moved since the training")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    results = []
    for run in args.runs:
        results.append(measure(run, args.data))
        print(json.dumps(results[-1], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
