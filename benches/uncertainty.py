"""What tells wrong first labels and texts of another kind: ensembles beside plain signals.

    python benches/uncertainty.py RUN [RUN ...] --data FOLDER [FOLDER ...] [--bagged 10]

For each run, FOLDER its data set (in the order of the runs): AUROC of every signal for

- test texts whose first label is wrong, among those of the run's own test part;
- test texts of the other folders, among those and its own.

Signals: 1 - probability of the first label; 1 - cosine of the nearest training point; and total,
data and knowledge uncertainty of an ensemble (arXiv 2210.10160): of the networks that the run
stores, and with ``--bagged N`` of N more, each trained on a bootstrap sample of the held-out points
(which takes a light training's time). Choose nothing by these figures.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from dexml import _rust, data
from dexml.metrics import inv_propensity
from dexml.predict import open_run
from dexml.scorers import Queries, Scorer
from dexml.scorers.calibration import BEST, Calibration
from dexml.scorers.ranker import BLOCK, Network, RankedScorer, Shape

Floats = NDArray[np.float64]
RESAMPLES = 500
TEXTS = 1500
"""Of the own test part, and as many of the others together."""


def auroc(signal: Floats, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive has the larger signal; ties count half (Mann and Whitney)."""
    ranks, n = rankdata(signal), int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(signal) - n)))


def entropy(p: Floats) -> Floats:
    """Entropy of a yes or no, in nats."""
    q = np.clip(p, 1e-12, 1 - 1e-12)
    found: Floats = -q * np.log(q) - (1 - q) * np.log1p(-q)
    return found


def single(network: Network) -> list[Network]:
    """Take a network apart into its members."""
    arrays = ("linear", "output", "weights", "bias")
    return [
        replace(network, **{name: getattr(network, name)[m : m + 1] for name in arrays})
        for m in range(len(network.linear))
    ]


def bagged(run: Path, names: Sequence[str], n: int) -> list[Network]:
    """Train networks on bootstrap samples of what the run's ranker learned from."""
    from dexml.train import TrainSettings
    from dexml.train.asked import Asked, Evidence, ask
    from dexml.train.inputs import load_data, parts_to_ask
    from dexml.train.light import ranked_scorer
    from dexml.train.words import asked_for, fit_lexicon

    given_settings = tomllib.loads((run / "config.toml").read_text())
    folder = (run / given_settings["data_dir"]).resolve()
    settings = TrainSettings(**(given_settings | {"data_dir": folder, "out": run}))
    given = load_data(settings)
    lexicon, weights = fit_lexicon(given, settings), inv_propensity(given.part.y)
    found = []
    for part in parts_to_ask(given):
        scorer = ranked_scorer(
            given, part.fitted, lexicon, also=asked_for(settings, given), seed=settings.seed
        )
        asked = Asked.of(given, part.asked, weights)
        found.append(ask(scorer, asked, lambda _: None))
    evidence = Evidence.joined(found)
    columns = [evidence.names.index(name) for name in names]
    networks = []
    for seed in range(n):
        texts = evidence.pairs.n_texts
        drawn = np.random.default_rng(seed).integers(texts, size=texts)
        pairs, at = evidence.pairs.select(drawn)
        some, right = evidence.features[at][:, columns], evidence.positive[at]
        networks.append(
            Network.fit(names, some, pairs.indptr, right, seed=seed, shape=Shape(members=1))
        )
    return networks


def signals(
    scorer: Scorer,
    calibration: Calibration,
    texts: Sequence[str],
    exclude: data.Csr | None,
    ensembles: dict[str, list[Network]],
) -> tuple[NDArray[np.int32], dict[str, Floats]]:
    """Return the first label of each text, and what each signal says of it."""
    assert isinstance(scorer, RankedScorer)
    assert scorer.network is not None
    firsts: list[NDArray[np.int32]] = []
    found: dict[str, list[Floats]] = {}
    for start in range(0, len(texts), BLOCK):
        queries = Queries(list(texts[start : start + BLOCK]))
        out = None if exclude is None else exclude[start : start + BLOCK]
        pairs = scorer.candidates(queries, exclude=out)
        evidence = scorer.evidence(queries, pairs, out)
        features = np.stack([evidence[name] for name in scorer.network.names], axis=1)

        def best(network: Network, features: Any = features, pairs: Any = pairs) -> Any:
            return _rust.topk_csr(
                pairs.indptr, pairs.ids, network.score(features), pairs.n_labels, BEST, None
            )

        ids, scores = best(scorer.network)
        p = calibration.probabilities(ids, scores, scorer.counts).astype(np.float64)
        there = ids >= 0
        firsts.append(ids[:, 0])
        nearest = np.ones(len(queries))
        rows = pairs.rows
        nearest[rows] = 1 - evidence["nearest"]
        own = {
            "1 - p": 1 - p[:, 0],
            "1 - nearest": nearest,
            "-score": -np.where(there[:, 0], scores[:, 0], -1e9).astype(np.float64),
            "H(p), 1": entropy(p[:, 0]),
            "-sum of p, 5": -p[:, :5].sum(axis=1),
        }
        for name, networks in ensembles.items():
            members = np.stack(
                [
                    _of_pairs(network.score(features), pairs, ids, calibration, scorer.counts)
                    for network in networks
                ]
            )
            mean = members.mean(axis=0)
            total, part = entropy(mean), entropy(members).mean(axis=0)
            total, part = np.where(there, total, 0), np.where(there, part, 0)
            own[f"{name}: 1 - mean p"] = 1 - mean[:, 0]
            own[f"{name}: spread of p, 1"] = members[:, :, 0].std(axis=0)
            for b in (1, 5):
                own[f"{name}: total, {b}"] = total[:, :b].sum(axis=1)
                own[f"{name}: data, {b}"] = part[:, :b].sum(axis=1)
                own[f"{name}: knowledge, {b}"] = (total - part)[:, :b].sum(axis=1)
        for name, values in own.items():
            found.setdefault(name, []).append(values)
    return np.concatenate(firsts), {name: np.concatenate(parts) for name, parts in found.items()}


def _of_pairs(
    scores: NDArray[np.float32],
    pairs: Any,
    ids: NDArray[np.int32],
    calibration: Calibration,
    counts: NDArray[np.int64],
) -> Floats:
    """Probabilities that one member gives to the labels `ids` (n, BEST)."""
    own = data.Csr((scores, pairs.ids, pairs.indptr), shape=pairs.matrix.shape)
    values = np.full(ids.shape, -np.inf, np.float32)
    for row in range(len(ids)):
        begin, end = own.indptr[row], own.indptr[row + 1]
        at = np.searchsorted(pairs.ids[begin:end], ids[row][ids[row] >= 0])
        values[row, : len(at)] = scores[begin:end][at]
    best = -np.sort(-values, axis=1)
    return calibration.probabilities(ids, values, counts, best).astype(np.float64)


def measure(run: Path, folders: Sequence[Path], own: Path, n_bagged: int) -> dict[str, Any]:
    """Measure one run."""
    opened = open_run(run)
    calibration = opened.calibration
    part = data.load_part(own, "tst", opened.labels.n_trained)
    rng = np.random.default_rng(0)
    has = np.flatnonzero(np.diff(part.positives().indptr) > 0)
    rows = np.sort(rng.choice(has, min(TEXTS, len(has)), replace=False))
    texts = [part.texts[i] for i in rows]
    others: list[str] = []
    foreign = [folder for folder in folders if folder != own]
    for folder in foreign:
        theirs = data.load_texts(folder / "raw" / "tst_X.txt")
        some = rng.choice(len(theirs), min(TEXTS // len(foreign), len(theirs)), replace=False)
        others += [theirs[i] for i in np.sort(some)]
    scorer = opened.scorer
    assert isinstance(scorer, RankedScorer)
    assert isinstance(calibration, Calibration)
    assert scorer.network is not None
    ensembles = {f"{len(scorer.network.linear)} stored": single(scorer.network)}
    if n_bagged:
        ensembles[f"{n_bagged} bagged"] = bagged(run, scorer.network.names, n_bagged)
    exclude = None if part.exclude is None else part.exclude[rows]
    first, mine = signals(scorer, calibration, texts, exclude, ensembles)
    _, theirs_said = signals(scorer, calibration, others, None, ensembles)
    truth = part.y[rows].toarray() > 0 if part.y.shape[1] < 2000 else part.y[rows]
    right = np.array([bool(truth[i, label] > 0) for i, label in enumerate(first)]) & (first >= 0)
    out = np.repeat([False, True], [len(texts), len(others)])
    result: dict[str, Any] = {
        "run": str(run),
        "texts": len(texts),
        "others": len(others),
        "wrong": float(1 - right.mean()),
    }
    for task in ("wrong first label", "other texts"):
        values, labels = {}, ~right if task == "wrong first label" else out
        for name in mine:
            whole = np.concatenate([mine[name], theirs_said[name]])
            values[name] = mine[name] if task == "wrong first label" else whole
        draws = [
            np.random.default_rng([1, i]).integers(len(labels), size=len(labels))
            for i in range(RESAMPLES)
        ]
        bar = [auroc(values["1 - p"][d], labels[d]) for d in draws]
        table = {}
        for name, signal in values.items():
            less = [auroc(signal[d], labels[d]) - b for d, b in zip(draws, bar, strict=True)]
            low, high = np.quantile(less, [0.025, 0.975])
            table[name] = {"auroc": auroc(signal, labels), "over 1 - p": [low, high]}
        result[task] = table
    return result


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="a folder a run")
    parser.add_argument("--bagged", type=int, default=0, help="networks to train beside")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    results = []
    for run, own in zip(args.runs, args.data, strict=True):
        results.append(measure(run, args.data, own, args.bagged))
        one = results[-1]
        print(f"{run}: {one['wrong']:.3f} of {one['texts']} first labels wrong")
        for name in one["other texts"]:
            cells = []
            for task in ("wrong first label", "other texts"):
                of = one[task][name]
                low, high = of["over 1 - p"]
                cells.append(f"{of['auroc']:.3f} [{low:+.3f}, {high:+.3f}]")
            print(f"  {name:28} {cells[0]}   {cells[1]}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
