"""What votes of the training points do on validation points, in percent.

The results are in ``docs/experiments/memory.md``.
The run must not have seen its validation points::

    python -m dexml.train DATA --out RUN --no-refit
    python benches/memory.py RUN [--select nDCG@5] [--grid]
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust, data
from dexml.encoder import DualEncoder, with_bias_dimension
from dexml.index import Hits, exact_search
from dexml.metrics import Evaluator, inv_propensity, propensity_constants, seen_groups
from dexml.run import LabelSet, Run
from dexml.run import folder as rundir
from dexml.scorers import PointMemory
from dexml.scorers.dense import trained_vectors
from dexml.scorers.votes import shares
from dexml.train.features import cached_features
from dexml.train.memory import PRIORS, VOTERS, WEIGHTS, Validation, choose_memory, summary

METRICS = ["P@1", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@100"]


def validation_of(folder: Path) -> tuple[Validation, dict[str, NDArray[np.float32]], float]:
    """The validation points of a run, features by the encoder before training, and the prior."""
    run, config = Run.open(folder), rundir.read_config(folder)
    if config["refit"]:
        raise SystemExit(f"{folder}: has seen its validation points; train with --no-refit")
    labels = LabelSet.restore_trained(run.state)
    part = data.load_part(run.data_dir(), "trn", len(labels))
    encoder = DualEncoder.load(str(folder / "encoder"))
    start = DualEncoder.load(config["encoder"])
    tokens = start.tokenize(part.texts, config["point_tokens"])
    raw = cached_features(start, tokens, folder / "cache", desc="points", progress=True)
    if "encoder" in config["stages"]:
        features = encoder.encode_features(tokens, desc="points", progress=True)
    else:
        features = raw
    embedded = encoder.embed(features)
    held = data.validation_mask(part.groups or part.texts, config["validation"])
    rows, out = np.flatnonzero(~held), np.flatnonzero(held)
    a, b = config["propensity_a"], config["propensity_b"]
    if config["propensity"]:
        a, b = propensity_constants(config["propensity"])
    y = csr_array((part.y > 0).astype(np.float32))
    dense = run.facts["dense"]
    prior_bias = dense["temperature"] * np.log1p(
        np.bincount(y[rows].indices, minlength=y.shape[1])
    ).astype(np.float32)
    vectors = np.array(trained_vectors(run.state))
    vectors[:, -1] -= np.float32(dense["prior"]) * prior_bias
    validation = Validation(
        queries=with_bias_dimension(embedded[out]),
        y_true=y[out],
        label_vectors=vectors,
        prior_bias=prior_bias,
        points=embedded[rows],
        y=y[rows],
        inv_propensity=inv_propensity(part.y, a=a, b=b),
        exclude=None if part.exclude is None else part.exclude[out],
        groups=None if part.groups is None else [part.groups[i] for i in out],
    )
    return validation, {"queries": raw[out], "points": raw[rows]}, dense["prior"]


def centroid_labels(
    label_vectors: NDArray[np.float32], vectors: NDArray[np.float32], y: csr_array, share: float
) -> NDArray[np.float32]:
    """Move label vectors towards the mean of their training points: votes without a cost.

    PEFA-XS: ``z <- share x z + (1 - share) x mean``, then back to the length of z. Labels without a
    point, and biases, stay as they are. `y` holds ones.
    """
    dim, counts = vectors.shape[1], np.bincount(y.indices, minlength=y.shape[1])
    seen = counts > 0
    means = (y.T @ vectors)[seen] / counts[seen, None]
    old = label_vectors[seen, :dim]
    moved = share * old + (1 - share) * means
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    new = label_vectors.copy()
    scale = np.linalg.norm(old, axis=1, keepdims=True) / np.where(length > 0, length, 1)
    new[seen, :dim] = np.where(length > 0, moved * scale, old)
    return new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--select", default="nDCG@5")
    parser.add_argument("--grid", action="store_true", help="every setting, with prior 0")
    args = parser.parse_args()
    v, raw, prior = validation_of(args.run)
    print(
        f"{os.path.basename(args.run)}: {len(v.points)} fitted and {len(v.queries)} validation "
        f"points, {v.y.shape[1]} labels, prior {prior}"
    )
    print("".join(f"{name:>9}" for name in [*METRICS, "unseen"]))
    seen = seen_groups(v.y)

    def show(name: str, ids: NDArray[np.int32]) -> None:
        evaluator = Evaluator(
            v.y.shape[1], METRICS, inv_propensity=v.inv_propensity, label_groups={"seen": seen}
        )
        evaluator.update(v.y_true, ids, exclude=v.exclude)
        result = evaluator.result()
        values = [result.metrics[m] for m in METRICS]
        values.append(result.groups["seen"]["unseen (0)"].metrics["R@100"])
        print("".join(f"{100 * value:9.2f}" for value in values), f" {name}", flush=True)

    def biased(prior: float, vectors: NDArray[np.float32] = v.label_vectors) -> NDArray[np.float32]:
        changed = vectors.copy()
        changed[:, -1] += np.float32(prior) * v.prior_bias
        return changed

    memory = PointMemory.of(v.points, v.y, weight=0)
    raw_memory = PointMemory.of(raw["points"], v.y, weight=0)
    near, raw_near = memory.nearest(v.queries, 50), raw_memory.nearest(raw["queries"], 50)
    found = {p: exact_search(v.queries, biased(p), 100, exclude=v.exclude) for p in PRIORS}

    def voted(
        p: float, weight: float, b: int, t: float, neighbours: Hits = near
    ) -> NDArray[np.int32]:
        mixer = memory.with_settings(weight, b, t)
        return mixer.mix(v.queries, found[p], biased(p), 100, exclude=v.exclude, near=neighbours)[0]

    show("no votes, prior 0", found[0.0][0])
    show(f"no votes, prior {prior}", found[prior][0])
    for p in dict.fromkeys([0.0, prior / 2, prior]):
        if p in found:
            for weight in (0.1, 0.2, 0.3, 0.5):
                show(f"votes, prior {p}, weight {weight}, 20 x 0.2", voted(p, weight, 20, 0.2))
    for b, t in [(20, 0.1), (50, 0.1), (50, 0.2), (50, 0.05), (10, 0.2)]:
        show(f"votes, prior 0, weight 0.3, {b} x {t}", voted(0.0, 0.3, b, t))
    for b, t in [(20, 0.1), (50, 0.1), (20, 0.2)]:
        show(
            f"votes in raw features, prior 0, weight 0.3, {b} x {t}",
            voted(0.0, 0.3, b, t, raw_near),
        )
    for share in (0.9, 0.7, 0.5):
        moved = centroid_labels(v.label_vectors, v.points, v.y, share)
        for p in dict.fromkeys([0.0, prior]):
            ids = exact_search(v.queries, biased(p, moved), 100, exclude=v.exclude)[0]
            show(f"PEFA-XS, own share {share}, prior {p}", ids)
    counts = np.bincount(v.y.indices, minlength=v.y.shape[1])
    pairs = None if v.exclude is None else data.pair_parts(v.exclude, v.exclude.shape, "exclude")
    ballots = csr_array(
        (
            shares(near[1], 0.1).ravel(),
            near[0].ravel(),
            np.arange(len(near[0]) + 1) * near[0].shape[1],
        ),
        shape=(len(near[0]), len(v.points)),
    )
    for power, weight in [(0.25, 0.3), (0.25, 0.5), (0.25, 1.0), (0.5, 1.0)]:
        rarer = csr_array((v.y * (1.0 + counts) ** -power).astype(np.float32))
        ids = np.full((len(v.queries), 100), -1, np.int32)
        for start in range(0, len(ids), 500):
            rows = slice(start, start + 500)
            scores = v.queries[rows] @ v.label_vectors.T
            scores += np.float32(weight) * (ballots[rows] @ rarer).toarray()
            window = None if pairs is None else (pairs[0][start : start + 501], pairs[1])
            ids[rows] = _rust.topk_dense(np.asarray(scores, np.float32), 100, window)[0]
        show(f"votes / (1 + n)^{power}, prior 0, weight {weight}, 50 x 0.1", ids)
    if args.grid:
        for weight in WEIGHTS:
            for b, t in VOTERS:
                show(f"votes, prior 0, weight {weight}, {b} x {t}", voted(0.0, weight, b, t))
    started = time.process_time()
    choice = choose_memory(v, args.select, seed=0, progress=True)
    print(f"chosen in {time.process_time() - started:.0f} CPU s: {summary(choice)}")
    if choice.memory["kind"] == "votes":
        chosen = [choice.memory[name] for name in ("weight", "neighbours", "temperature")]
        show("as chosen", voted(choice.prior, *chosen))


if __name__ == "__main__":
    main()
