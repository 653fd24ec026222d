"""Training the ranker on validation points, and judging whether it is better than its members.

No member may have been fitted on these points. The ranker is judged by cross-validation over
groups of them, so that its judge has not seen them either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console
from dexml.data import part_numbers
from dexml.metrics import Comparison, Evaluator, Result, compare
from dexml.scorers.ranker import LINEAR, Network, Shape, lifted
from dexml.train.asked import OPTIONAL, Asked, Evidence
from dexml.train.memory import REPORTED, RESAMPLES
from dexml.train.outcome import UNSEEN, unseen_of

FOLDS = 5
FEW_PAIRS = 300
"""Positive pairs among the candidates below which a linear ranker with weights >= 0 is tried."""
POWERS = {"balanced": 0.0, "tail": 0.5}
"""Powers of the inverse propensity that weigh positives, by what a ranker favours."""
LIFTS = tuple(step / 4 for step in range(1, 13))
"""Lifts of labels without points that are tried."""
JUDGED = ("P@1", "nDCG@5", "R@100")
"""Metrics that a lift is judged by, beside the one that the ranker is chosen by."""
MAY_LOSE = 0.003
"""What a lift may cost of each metric that it is judged by, over all labels."""
FEWEST_UNSEEN = 100
"""Right labels without points, and as many with, below which nothing is lifted."""
_SALT = "dexml ranker folds"


@dataclass(frozen=True)
class Choice:
    """The ranker that was chosen, and why.

    `facts` is plain data for the manifest: for each metric the value of the base and of the ranker
    on points that it was not trained on, and the standard error of the difference.
    """

    network: Network | None
    facts: dict[str, Any]
    scores: NDArray[np.float32]
    """Out-of-fold scores of all pairs of `evidence`, lifted as they will be served."""
    evidence: Evidence
    """Of the members that are used."""


def choose(
    evidence: Evidence, asked: Asked, select: str, *, seed: int, favour: str = "balanced"
) -> Choice:
    """Train the ranker, and keep it if it is better than the first member by more than noise.

    Args:
        evidence: Of `gather`.
        asked: The validation points.
        select: The metric that must be better in cross-validation over groups: the whole 95 %
            interval of the difference must be above 0, for the mean over points or for the mean
            over groups. A few large groups can hide what holds for all others, and the points to
            come are of groups that nobody has seen.
        seed: Seed of weights and resampling.
        favour: One of `POWERS`: positives are weighted by their inverse propensity to this power.
    """
    weights = _weights(evidence, asked, favour)
    few = int(evidence.positive.sum()) < FEW_PAIRS
    shape = LINEAR if few else Shape()
    scores = out_of_fold(evidence, asked.keys, shape, seed=seed, weights=weights)
    base, ranked = (evaluated(evidence, asked, s, select) for s in (evidence.base, scores))
    optional: dict[str, dict[str, Any]] = {name: {} for name in OPTIONAL}
    for name, member in OPTIONAL.items():
        if not any(feature in member.features for feature in evidence.names):
            continue
        plain = evidence.without(name)
        plain_weights = _weights(plain, asked, favour)
        plain_scores = out_of_fold(plain, asked.keys, shape, seed=seed, weights=plain_weights)
        simpler = evaluated(plain, asked, plain_scores, select)
        paired = compare(simpler, ranked, groups=asked.groups, seed=seed, n_resamples=RESAMPLES)
        optional[name] = {
            "without": paired[select].a,
            "with": paired[select].b,
            "R@100": {"without": paired["R@100"].a, "with": paired["R@100"].b},
            "used": _pays(paired, select),
        }
        if not optional[name]["used"]:
            evidence, scores, ranked, weights = plain, plain_scores, simpler, plain_weights
    unlifted, judged = ranked, _judge(base, ranked, asked, select, seed)
    lift = 0.0
    if judged.better:
        chosen = choose_lift(evidence, asked, scores, ranked, select)
        again = _judge(base, chosen[2], asked, select, seed) if chosen[0] else judged
        if again.better:  # else the ranker serves as it is
            (lift, scores, ranked), judged = chosen, again
    facts: dict[str, Any] = {
        "select": select,
        "points": len(asked.texts),
        "candidates": round(len(evidence.pairs) / max(1, len(asked.texts)), 1),
        "hidden": shape.hidden,
        "favour": favour,
        **optional,
        "gain": {
            name: {"base": d.a, "ranker": d.b, "standard_error": d.standard_error}
            for name, d in judged.differences.items()
        },
    }
    before, after = unseen_of(base), unseen_of(ranked)
    if before is not None and after is not None:
        recalls = {"base": before.metrics["R@100"], "ranker": after.metrics["R@100"]}
        facts["gain"][UNSEEN] = recalls | {"pairs": before.n_positives}
    facts["lift"] = {"lift": lift} | {
        name: {"without": unlifted.metrics[name], "with": ranked.metrics[name]}
        for name in unlifted.metrics
    }
    if (plainly := unseen_of(unlifted)) is not None and after is not None:
        recalls = {"without": plainly.metrics["R@100"], "with": after.metrics["R@100"]}
        facts["lift"][UNSEEN] = recalls
    if judged.by_group is not None:
        facts["by_group"] = dict(
            zip(("difference", "standard_error"), judged.by_group, strict=True)
        )
    network = None
    if judged.better:
        network = Network.fit(
            evidence.names,
            evidence.features,
            evidence.pairs.indptr,
            evidence.positive,
            shape=shape,
            seed=seed,
            weights=weights,
        )
        network = replace(network, lift=lift)
    return Choice(network, facts | {"used": network is not None}, scores, evidence)


def _weights(evidence: Evidence, asked: Asked, favour: str) -> NDArray[np.float32] | None:
    """Weight positives by a power of their inverse propensity; None: all alike."""
    power = POWERS[favour]
    if not power:
        return None
    return np.asarray(asked.inv_propensity[evidence.pairs.ids] ** power, np.float32)


def _pays(paired: Mapping[str, Comparison], select: str) -> bool:
    """Whether a member is worth its time: it makes the ranking better, or finds more.

    By more than a standard error; one that finds more must not make the ranking worse by as much.
    """
    ranking, found = paired[select], paired["R@100"]
    better = ranking.difference > ranking.standard_error
    worse = ranking.difference < -ranking.standard_error
    return bool(better or (found.difference > found.standard_error and not worse))


class _Judged(NamedTuple):
    """How a ranker compares with the first member, and whether it is better by more than noise."""

    differences: Mapping[str, Comparison]
    by_group: tuple[float, float] | None
    better: bool


def _judge(base: Result, ranked: Result, asked: Asked, select: str, seed: int) -> _Judged:
    differences = compare(base, ranked, groups=asked.groups, seed=seed, n_resamples=RESAMPLES)
    by_group = group_difference(base, ranked, select, asked.groups)
    surely = by_group is not None and by_group[0] - 1.96 * by_group[1] > 0
    return _Judged(differences, by_group, surely or differences[select].low > 0)


def choose_lift(
    evidence: Evidence,
    asked: Asked,
    scores: NDArray[np.float32],
    ranked: Result,
    select: str,
) -> tuple[float, NDArray[np.float32], Result]:
    """Choose how far labels without points are raised (`dexml.scorers.ranker.lifted`).

    The lifts are tried from the smallest one on, up to the first that costs more than `MAY_LOSE` of
    a metric over all labels; of those before, the one with the best R@100 of labels without points
    is taken, the smaller one of equals. 0 where fewer than `FEWEST_UNSEEN` right labels have no
    point, or fewer have one: then nothing can be told.

    Args:
        evidence: Of the points.
        asked: The points.
        scores: Out-of-fold scores of all pairs.
        ranked: Their result.
        select: The metric that the ranker is chosen by.

    Returns:
        The lift, the scores with it, and their result.
    """
    best = 0.0, scores, ranked
    group = unseen_of(ranked)
    n_unseen = 0 if group is None else group.n_positives
    if min(n_unseen, asked.y_true.nnz - n_unseen) < FEWEST_UNSEEN:
        return best
    unseen = evidence.features[:, evidence.names.index("unseen")]
    for lift in LIFTS:
        raised = lifted(evidence.pairs, scores, unseen, lift)
        result = evaluated(evidence, asked, raised, select)
        names = (select, *JUDGED)
        if max(ranked.metrics[name] - result.metrics[name] for name in names) > MAY_LOSE:
            break
        found, so_far = unseen_of(result), unseen_of(best[2])
        assert found is not None
        assert so_far is not None
        if found.metrics["R@100"] > so_far.metrics["R@100"]:
            best = lift, raised, result
    return best


def group_difference(
    base: Result, ranked: Result, select: str, groups: Sequence[str] | None
) -> tuple[float, float] | None:
    """How much better `ranked` is, each group of points counted once; and its standard error.

    None without groups, or for a metric that is not a mean of values of single points.
    """
    (old, denominators), (new, _) = base.rows[select], ranked.rows[select]
    if groups is None or denominators is not None:
        return None
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    means = np.bincount(group, new - old) / np.bincount(group)
    if len(means) < 2:
        return None
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def out_of_fold(
    evidence: Evidence,
    keys: Sequence[str],
    shape: Shape,
    *,
    seed: int,
    weights: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Score every pair by a ranker that was not trained on any point with its key.

    Where the other folds teach nothing, the first member's scores stand.
    """
    folds = part_numbers(_SALT, keys, FOLDS)
    pairs, positive = evidence.pairs, evidence.positive
    n_positives = np.bincount(pairs.rows[positive], minlength=pairs.n_texts)
    teaches = (n_positives > 0) & (n_positives < pairs.lengths)
    scores = np.zeros(len(pairs), np.float32)
    for fold in range(FOLDS):
        fitted = np.flatnonzero(folds != fold)
        _, held = pairs.select(np.flatnonzero(folds == fold))
        if not len(held):
            continue
        if not teaches[fitted].any():
            scores[held] = evidence.base[held]
            continue
        network = Network.fit(
            evidence.names,
            evidence.features,
            pairs.indptr,
            positive,
            shape=replace(shape, members=1),
            seed=seed,
            weights=weights,
            texts=fitted,
        )
        scores[held] = network.score(evidence.features[held])
    return scores


def evaluated(evidence: Evidence, asked: Asked, scores: NDArray[np.float32], select: str) -> Result:
    """Rank the candidates by these scores and evaluate, with values per point."""
    metrics = list(dict.fromkeys([select, *REPORTED]))
    k = max(int(name.split("@")[1]) for name in metrics)
    pairs = evidence.pairs
    ids, _ = _rust.topk_csr(pairs.indptr, pairs.ids, scores, pairs.n_labels, k, None)
    evaluator = Evaluator(
        asked.y_true.shape[1],
        metrics,
        inv_propensity=asked.inv_propensity,
        label_groups=asked.label_groups,
        keep_rows=True,
    )
    evaluator.update(asked.y_true, ids, exclude=asked.exclude)
    return evaluator.result()


def summary(choice: Choice) -> str:
    """Describe a choice in a line, and what it gains in a table below it, percent."""
    facts = choice.facts
    used = "ranker" if choice.network is not None else "no ranker, its gain is within the noise"
    lines = [f"{used}; cross-validation on {facts['points']} points"]
    rows = {
        name: {metric: gain[key] for metric, gain in facts["gain"].items()}
        for name, key in (("without", "base"), ("with ranker", "ranker"))
    }
    lines.append(console.table(rows, list(facts["gain"])))
    for name in OPTIONAL:
        if one := facts[name]:
            changes = ", ".join(
                f"{metric} {100 * value['without']:.2f} -> {100 * value['with']:.2f}"
                for metric, value in ((facts["select"], one), ("R@100", one["R@100"]))
            )
            lines.append(f"{name} {'kept' if one['used'] else 'left out'}: {changes}")
    lift = facts["lift"]
    if lift["lift"]:
        change = " -> ".join(f"{100 * lift[UNSEEN][key]:.2f}" for key in ("without", "with"))
        lines.append(f"labels without points lifted by {lift['lift']:g}: {UNSEEN} {change}")
    return "\n".join(lines)
