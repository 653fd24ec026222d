"""The bilinear model (ZestXML): ablation, cost, the synthetic problem.

    python benches/zest.py ablation DATA [--part val] [--only NAME ...]
    python benches/zest.py cost DATA
    python benches/zest.py synthetic

`val` is the validation part that dexml.train selects on, cut by hash from the training points;
`tst` is read only if asked for. Times are CPU seconds. Side by side with other methods:
benches/zest_views.py. docs/experiments/zestxml.md has results.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from dexml import data
from dexml.data import Csr
from dexml.metrics import View, inv_propensity
from dexml.run import LabelSet
from dexml.scorers import Queries
from dexml.scorers.bilinear import BilinearScorer
from dexml.text.bilinear import BilinearFeatures, BilinearSettings, fit_bilinear
from dexml.text.lexical import LexicalIndex, feature_parts
from dexml.train.views import views

USUAL = BilinearSettings()
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "K 10": {"k": 10},
    "K 120": {"k": 120},
    "alpha 0": {"alpha": 0.0},
    "alpha 0.2": {"alpha": 0.2},
    "cost 0.3": {"cost": 0.3},
    "cost 5": {"cost": 5.0},
    "shortlist 50": {"shortlist": 50},
    "positives added": {"add_positives": True},
    "logistic": {"loss": "logistic"},
    "8 passes": {"passes": 8},
    "without lexical term": {"score_alpha": 1.0},
    "half lexical term": {"score_alpha": 0.5},
    "without stemmer": {"stemmer": None},
    "without own features": {"own": False},
    "support only": {"support": True},
}
COLUMNS = ("P@1", "P@5", "nDCG@5", "PSP@5", "R@100")


class SupportOnly:
    """Ranks by the first weights alone."""

    def __init__(self, scorer: BilinearScorer) -> None:
        self.search = scorer.found


def parts(folder: Path, part: str) -> tuple[list[str], list[str], Csr, data.Part]:
    """Return label texts, texts and labels of the fitted points, and the part to score."""
    labels = data.load_label_texts(folder)
    train = data.load_part(folder, "trn", len(labels))
    y = csr_array((train.y > 0).astype(np.float32))
    if train.exclude is not None:
        y = csr_array(y - y.multiply(train.exclude))
        y.eliminate_zeros()
        y.sort_indices()
    if part == "tst":
        return labels, train.texts, y, data.load_part(folder, "tst", len(labels))
    held = data.validation_mask(train.groups or train.texts, 0.1)
    rows, fitted = np.flatnonzero(held), np.flatnonzero(~held)
    asked = data.Part(
        [train.texts[i] for i in rows],
        csr_array(train.y[rows]),
        None if train.exclude is None else train.exclude[rows],
        None,
    )
    return labels, [train.texts[i] for i in fitted], csr_array(y[fitted]), asked


def row(name: str, found: dict[str, View], *more: str) -> str:
    """Format a row of a table."""
    every = [f"{100 * found['all'].metrics[metric]:.2f}" for metric in COLUMNS]
    unseen = found.get("unseen")
    pairs = ["-", "-"]
    if unseen is not None:
        pairs = [f"{100 * unseen.metrics[metric]:.2f}" for metric in ("P@1", "R@100")]
    return "| " + " | ".join([name, *every, *pairs, *more]) + " |"


def head(*more: str) -> str:
    """Format the head of a table."""
    names = ["", *COLUMNS, "unseen P@1", "unseen R@100", *more]
    return "| " + " | ".join(names) + " |\n|" + "---|" * len(names)


def ablation(folder: Path, part: str, only: Sequence[str]) -> None:
    """Fit each variant and print its scores."""
    labels, texts, y, asked = parts(folder, part)
    counts = np.bincount(y.indices, minlength=len(labels))
    weights, known = inv_propensity(y), LabelSet.of(labels, counts)
    print(f"{folder.name}, {part}: {len(asked.texts)} points", flush=True)
    print(head("weights", "fit, CPU s"), flush=True)
    made: dict[Any, BilinearFeatures] = {}
    scorer: BilinearScorer | None = None
    for name, changes in VARIANTS.items():
        if only and name not in only:
            continue
        rest = dict(changes)
        own, stemmer = rest.pop("own", True), rest.pop("stemmer", "english")
        support = rest.pop("support", False)
        seen = np.flatnonzero(counts if own else np.zeros(0))
        key = (own, stemmer)
        if key not in made:
            made[key] = BilinearFeatures.fit(texts, labels, seen, stemmer=stemmer)
        began = time.process_time()
        reused = set(rest) <= {"score_alpha"} and key == (True, "english") and scorer is not None
        if reused and scorer is not None:
            fitted = replace(scorer, model=replace(scorer.model, settings=replace(USUAL, **rest)))
        else:
            model = replace(USUAL, **rest)
            fitted = BilinearScorer.fit(
                texts, y, known, seed=0, settings=model, vocabulary=made[key]
            )
            scorer = scorer or fitted
        seconds = time.process_time() - began
        ranked: Any = SupportOnly(fitted) if support else fitted
        found = views(ranked, asked, counts, weights)
        cost = "as above" if reused else f"{seconds:.1f}"
        print(row(name, found, f"{fitted.model.support.nnz:,}", cost), flush=True)


def cost(folder: Path) -> None:
    """Measure a training end to end on all training points, and single texts."""
    labels, texts, y, _ = parts(folder, "val")
    whole = data.load_part(folder, "trn", len(labels))
    texts, y = whole.texts, csr_array((whole.y > 0).astype(np.float32))
    began = time.process_time()
    counts = np.bincount(y.indices, minlength=len(labels))
    scorer = BilinearScorer.fit(texts, y, LabelSet.of(labels, counts), seed=0)
    trained = time.process_time()
    test = data.load_part(folder, "tst", len(labels))
    for start in range(0, len(test.texts), 1024):
        scorer.search(Queries(test.texts[start : start + 1024]), 100)
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{folder.name}: features, support, fit {trained - began:.1f} CPU s; {len(test.texts)} "
        f"test points ranked {done - trained:.1f} CPU s; peak {peak} MiB"
    )
    times = []
    for text in test.texts[:500]:
        began = time.process_time()
        scorer.search(Queries([text]), 10)
        times.append(1000 * (time.process_time() - began))
    low, middle, high = np.percentile(times, [10, 50, 90])
    print(
        f"one text: median {middle:.2f} ms, 10 % {low:.2f}, 90 % {high:.2f} (CPU), {len(labels)} "
        f"labels; {scorer.model.facts}"
    )


def synthetic_problem(seed: int = 0) -> tuple[Csr, Csr, Csr, Any]:
    """Make 3,000 points, 1,500 features, 1,200 labels of which 187 have no point."""
    n, n_labels, width, words = 3000, 1200, 1500, 400
    rng = np.random.default_rng(seed)
    unseen = rng.choice(n_labels, 187, replace=False)
    seen = np.setdiff1d(np.arange(n_labels), unseen)
    chance = 1 / np.arange(1, words + 1) ** 0.7
    chance /= chance.sum()
    own = [np.unique(rng.choice(words, size=rng.integers(2, 6), p=chance)) for _ in range(n_labels)]

    def rows(lists: Sequence[Any], columns: int, *, unit: bool = True) -> Csr:
        lengths = np.array([len(one) for one in lists])
        values = 1 / np.sqrt(np.repeat(lengths, lengths)) if unit else np.ones(lengths.sum())
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        shape = (len(lists), columns)
        return csr_array((values.astype(np.float32), np.concatenate(lists), indptr), shape=shape)

    itself = dict(zip(seen.tolist(), range(words, words + len(seen)), strict=True))
    z = [np.append(w, itself[i]) if i in itself else w for i, w in enumerate(own)]
    points, truth = [], []
    for _ in range(n):
        labels = np.sort(rng.choice(seen, size=rng.integers(1, 4), replace=False))
        features = set(rng.integers(words, width, size=10).tolist())
        for label in labels.tolist():
            features |= set(own[label][rng.random(len(own[label])) < 0.8].tolist())
            features |= {words + (label * 7 + j) % (width - words) for j in range(2)}
        points.append(np.sort(list(features)))
        truth.append(labels)
    n_features = words + len(seen)
    direct = np.where(np.arange(n_features) < words, np.arange(n_features), -1).astype(np.int32)
    return rows(points, width), rows(z, n_features), rows(truth, n_labels, unit=False), direct


def synthetic() -> None:
    """Time the steps on the synthetic problem, on one thread."""
    x, z, y, direct = synthetic_problem()
    for passes, tolerance in ((20, 0.01), (200, 0.01), (2000, 1e-6)):
        settings = replace(
            USUAL, k=30, direct_weight=0.5, shortlist=50, passes=passes, tolerance=tolerance
        )
        began = time.process_time()
        model = fit_bilinear(x, z, y, direct, settings, seed=0, num_threads=1)
        fitted = time.process_time()
        model.best(x[:1100], LexicalIndex(z), feature_parts(z, "z"), 50)
        print(
            f"{passes} passes, tolerance {tolerance}: support, shortlists and fit "
            f"{fitted - began:.2f} CPU s, 1,100 points ranked {time.process_time() - fitted:.3f}; "
            f"{model.facts}"
        )


def main() -> None:
    """Run an experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    one = actions.add_parser("ablation")
    one.add_argument("data", type=Path)
    one.add_argument("--part", choices=["val", "tst"], default="val")
    one.add_argument("--only", nargs="*", default=[], choices=list(VARIANTS))
    actions.add_parser("cost").add_argument("data", type=Path)
    actions.add_parser("synthetic")
    given = parser.parse_args()
    if given.action == "ablation":
        ablation(given.data, given.part, given.only)
    elif given.action == "cost":
        cost(given.data)
    else:
        synthetic()


if __name__ == "__main__":
    main()
