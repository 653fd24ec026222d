"""Choosing how much the training points say beside the trained labels, on validation points.

Frequency prior and votes are chosen together: near points have frequent labels, so that votes do
much of what the prior does, and more precisely (measured in ``docs/memory.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.data import Csr
from dexml.index import Hits, exact_search
from dexml.metrics import Evaluator, Result, compare, seen_groups
from dexml.scorers import PointMemory
from dexml.train.outcome import UNSEEN

PRIORS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
WEIGHTS = (0.1, 0.2, 0.4, 0.8)
VOTERS = ((20, 0.1), (20, 0.2), (50, 0.1), (50, 0.2))
"""Neighbours, and the temperature of their shares."""
MAX_POINTS = 4000
"""Validation points that the choice is made on, at most: each prior takes a full search."""
REPORTED = ("P@1", "nDCG@5", "PSP@1", "R@100")
RESAMPLES = 500


@dataclass(frozen=True)
class Choice:
    """What was chosen on the validation points.

    `memory` is plain data for ``run.json``: ``{"kind": "none", ...}``, or ``"votes"`` with
    ``weight``, ``neighbours`` and ``temperature``. Either has ``gain``: for each metric the value
    without memory, the one with it and the standard error of the difference; and what it was
    measured on.
    """

    prior: float
    memory: dict[str, Any]


@dataclass(frozen=True)
class Validation:
    """The validation points and what they are ranked against.

    Shapes: N fitted points, n validation points, L labels, D dimensions.
    """

    queries: NDArray[np.float32]
    """Embeddings of the validation points, (n, D + 1), with the bias dimension."""
    y_true: Csr
    """Their labels, (n, L)."""
    label_vectors: NDArray[np.float32]
    """Of all labels, (L, D + 1), with prior 0."""
    prior_bias: NDArray[np.float32]
    """What prior 1 adds to the last dimension of each label, (L,): temperature x log(1 + n)."""
    points: NDArray[np.float32]
    """Embeddings of the fitted points, (N, D); none of them is a validation point."""
    y: Csr
    """Their labels, (N, L)."""
    inv_propensity: NDArray[np.float64]
    exclude: Csr | None = None
    """Filter pairs of the validation points, (n, L)."""
    groups: Sequence[str] | None = None
    """A key a validation point: points with one key belong together when errors are estimated."""

    def first(self, n: int) -> Validation:
        """The first `n` validation points."""
        return replace(
            self,
            queries=self.queries[:n],
            y_true=self.y_true[:n],
            exclude=None if self.exclude is None else self.exclude[:n],
            groups=None if self.groups is None else self.groups[:n],
        )


@dataclass(frozen=True)
class _Tried:
    """A setting and what it scored; weight 0 is no memory."""

    prior: float
    weight: float
    neighbours: int
    temperature: float
    result: Result


class _Trials:
    """Scores settings; what they share is searched once."""

    def __init__(self, validation: Validation, select: str, n_neighbours: int) -> None:
        self.validation = validation
        self.metrics = list(dict.fromkeys([select, *REPORTED]))
        self.k = max(int(name.split("@")[1]) for name in self.metrics)
        self.memory = PointMemory.of(validation.points, validation.y, weight=0)
        self.near = self.memory.nearest(validation.queries, max(1, n_neighbours))
        self.groups = {"seen": seen_groups(validation.y)}
        self.vectors = validation.label_vectors.copy()  # with the bias of the prior scored last
        self.found: dict[float, Hits] = {}

    def score(
        self, prior: float, weight: float, neighbours: int = 1, temperature: float = 1.0
    ) -> _Tried:
        """Rank and evaluate all validation points with one setting."""
        v, vectors = self.validation, self.vectors
        vectors[:, -1] = v.label_vectors[:, -1] + np.float32(prior) * v.prior_bias
        if prior not in self.found:
            self.found[prior] = exact_search(v.queries, vectors, self.k, exclude=v.exclude)
        ids, _ = self.memory.with_settings(weight, neighbours, temperature).mix(
            v.queries, self.found[prior], vectors, self.k, exclude=v.exclude, near=self.near
        )
        evaluator = Evaluator(
            v.y_true.shape[1],
            self.metrics,
            inv_propensity=v.inv_propensity,
            label_groups=self.groups,
            keep_rows=True,
        )
        evaluator.update(v.y_true, ids, exclude=v.exclude)
        return _Tried(prior, weight, neighbours, temperature, evaluator.result())


def choose_memory(
    validation: Validation,
    select: str,
    *,
    seed: int,
    priors: Sequence[float] = PRIORS,
    weights: Sequence[float] = WEIGHTS,
    voters: Sequence[tuple[int, float]] = VOTERS,
    progress: bool = False,
) -> Choice:
    """Choose the prior, whether points vote, and how: by `select`, and by PSP@1 among equals.

    1. Without votes the prior with the best `select` is taken, the smaller one of equals.
    2. With votes all weights and voters are tried at this prior and at smaller ones. Settings whose
       `select` is below the best by no more than one standard error of the difference count as
       equal, for validation cannot tell them apart; the one with the best PSP@1 is taken. Votes
       favour frequent labels, and this keeps their weight at what the points at hand can prove.
    3. Votes are used if they raise `select` over step 1 with the whole 95 % bootstrap interval of
       the difference above 0; else the memory is off.

    Args:
        validation: The points to choose on; the first 4,000 are used.
        select: Metric to be raised, such as ``"nDCG@5"``.
        seed: Seed of the resampling.
        priors: Priors to try.
        weights: Weights of the votes to try; none: the memory stays off.
        voters: Pairs (neighbours, temperature) to try.
        progress: Show a bar.
    """
    trials = _Trials(validation.first(MAX_POINTS), select, max((b for b, _ in voters), default=0))
    with console.bar(desc="prior and memory", unit="setting", disable=not progress) as bar:
        plain, mixed = [], []
        for prior in priors:
            plain.append(trials.score(prior, 0.0))
            bar.update()
        without = max(plain, key=lambda tried: tried.result.metrics[select])
        if trials.memory.n_points:
            smaller = (prior for prior in priors if prior <= without.prior)
            for prior, weight, (b, temperature) in product(smaller, weights, voters):
                mixed.append(trials.score(prior, weight, b, temperature))
                bar.update()
    measured = _measured_on(trials.validation, select)
    if not mixed:
        return Choice(without.prior, {"kind": "none", **measured, "gain": {}})
    groups = trials.validation.groups
    chosen = _among_equals(mixed, select, groups, seed)
    differences = compare(
        without.result, chosen.result, groups=groups, seed=seed, n_resamples=RESAMPLES
    )
    gain: dict[str, Any] = {
        name: {"without": d.a, "with": d.b, "standard_error": d.standard_error}
        for name, d in differences.items()
    }
    if measured["pairs_with_unseen_labels"]:
        gain[UNSEEN] = {
            "without": without.result.groups["seen"]["unseen (0)"].metrics["R@100"],
            "with": chosen.result.groups["seen"]["unseen (0)"].metrics["R@100"],
        }
    settings = {
        "weight": chosen.weight,
        "neighbours": chosen.neighbours,
        "temperature": chosen.temperature,
    }
    measured |= {"prior_without": without.prior, "gain": gain}
    if differences[select].low > 0:
        return Choice(chosen.prior, {"kind": "votes", **settings, **measured})
    tried = settings | {"prior": chosen.prior}
    return Choice(without.prior, {"kind": "none", "tried": tried, **measured})


def answers(validation: Validation, choice: Choice, k: int) -> Hits:
    """Return the k best labels of all validation points, with the prior and votes chosen."""
    v, chosen = validation, choice.memory
    vectors = v.label_vectors.copy()
    vectors[:, -1] += np.float32(choice.prior) * v.prior_bias
    hits = exact_search(v.queries, vectors, k, exclude=v.exclude)
    if chosen["kind"] != "votes":
        return hits
    how = {name: chosen[name] for name in ("weight", "neighbours", "temperature")}
    memory = PointMemory.of(v.points, v.y, **how)
    return memory.mix(v.queries, hits, vectors, k, exclude=v.exclude)


def _among_equals(
    tried: list[_Tried], select: str, groups: Sequence[str] | None, seed: int
) -> _Tried:
    """The best PSP@1 among what `select` cannot tell from its best; the first of equals."""
    best = max(tried, key=lambda one: one.result.metrics[select])
    equals = []
    for one in tried:
        behind = compare(one.result, best.result, groups=groups, seed=seed, n_resamples=RESAMPLES)[
            select
        ]
        if behind.difference <= behind.standard_error:
            equals.append(one)
    return max(equals, key=lambda one: one.result.metrics["PSP@1"])


def _measured_on(validation: Validation, select: str) -> dict[str, Any]:
    seen = np.zeros(validation.y.shape[1], np.bool_)
    seen[validation.y.indices[validation.y.data > 0]] = True
    truth = validation.y_true.indices[validation.y_true.data > 0]
    return {
        "select": select,
        "validation_points": len(validation.queries),
        "unseen_labels": len(np.unique(truth[~seen[truth]])),
        "pairs_with_unseen_labels": int((~seen[truth]).sum()),
    }


def summary(choice: Choice) -> str:
    """Describe a choice in a line, and what votes gain in a table below it, percent."""
    memory, prior = choice.memory, f"prior {choice.prior}"
    if not memory["gain"]:
        return f"{prior}; no memory"
    kept = f"{memory.get('neighbours')} nearest points vote with weight {memory.get('weight')}"
    if memory["kind"] == "none":
        kept = "memory off (gain within the noise)"
    rows = {
        f"{side} votes": {name: gain[side] for name, gain in memory["gain"].items()}
        for side in ("without", "with")
    }
    return f"{prior}; {kept}\n{console.table(rows, list(memory['gain']))}"
