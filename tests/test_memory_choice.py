"""How much votes of training points and the frequency prior say, chosen on validation points."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml.index import exact_search
from dexml.scorers import PointMemory
from dexml.train import memory as memory_module
from dexml.train.memory import Validation, choose_memory, summary
from test_neighbours import L, unit, with_one


def problem(signal: float, n: int = 240, seed: int = 0) -> Validation:
    """Labels follow a direction that the label vectors know; with `signal`, clusters add to it."""
    generator = np.random.default_rng(seed)
    centres, vectors = unit(seed + 1, 12, 8), unit(seed + 2, L, 8)
    own_labels = generator.integers(0, L, (12, 2))

    def drawn(n: int) -> tuple[np.ndarray, csr_array]:
        cluster = generator.integers(0, 12, n)
        x = centres[cluster] + generator.normal(size=(n, 8)).astype(np.float32) * 0.25
        y = np.zeros((n, L), np.float32)
        y[np.arange(n), (x @ vectors[:-3].T).argmax(axis=1)] = 1
        hit = generator.random(n) < signal
        y[np.flatnonzero(hit)[:, None], own_labels[cluster[hit]]] = 1
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32), csr_array(y)

    points, y = drawn(n)
    queries, y_true = drawn(n)
    truth = y_true.toarray()
    truth[:5, L - 1] = 1  # a label that no fitted point has
    counts = np.bincount(y.indices, minlength=L)
    return Validation(
        queries=with_one(queries),
        y_true=csr_array(truth),
        label_vectors=np.concatenate([vectors, np.zeros((L, 1), np.float32)], axis=1),
        prior_bias=(0.06 * np.log1p(counts)).astype(np.float32),
        points=points,
        y=y,
        inv_propensity=np.ones(L) + 1 / (1 + counts),
    )


def test_votes_that_help_are_chosen_and_reported() -> None:
    validation = problem(0.9)
    choice = choose_memory(validation, "nDCG@5", seed=0)
    memory = choice.memory
    assert memory["kind"] == "votes"
    assert memory["weight"] > 0
    gain = memory["gain"]["nDCG@5"]
    assert gain["with"] - gain["without"] > 2 * gain["standard_error"] > 0
    unseen = validation.y_true.toarray()[:, validation.y.toarray().sum(axis=0) == 0]
    assert memory["unseen_labels"] == unseen.any(axis=0).sum() > 0
    assert memory["pairs_with_unseen_labels"] == unseen.sum() >= 5
    assert {"P@1", "nDCG@5", "PSP@1", "R@100", "R@100 of unseen labels"} == set(memory["gain"])
    head, names, without, voted = summary(choice).splitlines()
    assert head.endswith(
        f"{memory['neighbours']} nearest points vote with weight {memory['weight']}"
    )
    assert names.split()[:2] == list(memory["gain"])[:2]
    for line, side in ((without, "without"), (voted, "with")):
        assert line.split()[2:4] == [
            f"{100 * one[side]:.2f}" for one in list(memory["gain"].values())[:2]
        ]
    assert choose_memory(validation, "nDCG@5", seed=0) == choice


def test_the_chosen_memory_scores_what_the_choice_says() -> None:
    """Through the class, as it is served."""
    from dexml.metrics import Evaluator

    v = problem(0.9)
    choice = choose_memory(v, "nDCG@5", seed=0)
    vectors = v.label_vectors.copy()
    vectors[:, -1] += np.float32(choice.prior) * v.prior_bias
    numbers = {name: choice.memory[name] for name in ("weight", "neighbours", "temperature")}
    memory = PointMemory.of(v.points, v.y, **numbers)
    ids, _ = memory.mix(v.queries, exact_search(v.queries, vectors, 100), vectors, 100)
    evaluator = Evaluator(L, ["nDCG@5"])
    evaluator.update(v.y_true, ids)
    assert evaluator.result().metrics["nDCG@5"] == choice.memory["gain"]["nDCG@5"]["with"]


def test_votes_that_do_not_help_stay_off() -> None:
    v = problem(0.0)
    noise = replace(v, y=csr_array(v.y.toarray()[np.random.default_rng(0).permutation(240)]))
    choice = choose_memory(noise, "nDCG@5", seed=0)
    assert choice.memory["kind"] == "none"
    assert choice.memory["tried"]["weight"] > 0
    assert "memory off" in summary(choice)
    without = choose_memory(noise, "nDCG@5", seed=0, weights=())
    assert without.prior == choice.prior
    assert summary(without) == f"prior {choice.prior}; no memory"


def test_among_equals_psp_decides() -> None:
    """Spelled out: every setting by itself, against the best by `select`."""
    v = problem(0.6, seed=1)
    trials = memory_module._Trials(v, "nDCG@5", 50)
    tried = [
        trials.score(0.0, weight, b, temperature)
        for weight in (0.1, 0.2, 0.4, 0.8)
        for b, temperature in ((20, 0.1), (50, 0.2))
    ]
    chosen = memory_module._among_equals(tried, "nDCG@5", None, 3)
    best = max(tried, key=lambda one: one.result.metrics["nDCG@5"])
    equals = []
    for one in tried:
        rows = best.result.rows["nDCG@5"][0] - one.result.rows["nDCG@5"][0]
        draws = np.random.default_rng(0).integers(0, len(rows), (4000, len(rows)))
        if rows.mean() <= rows[draws].mean(axis=1).std():
            equals.append(one)
    assert 1 < len(equals) < len(tried)
    assert chosen is max(equals, key=lambda one: one.result.metrics["PSP@1"])
    assert chosen is not best
    made = choose_memory(
        v,
        "nDCG@5",
        seed=3,
        priors=(0.0,),
        weights=(0.1, 0.2, 0.4, 0.8),
        voters=((20, 0.1), (50, 0.2)),
    ).memory
    made = made.get("tried", made)  # here no gain is beyond the noise
    assert [made[name] for name in ("weight", "neighbours", "temperature")] == [
        chosen.weight,
        chosen.neighbours,
        chosen.temperature,
    ]


def test_no_points_no_memory() -> None:
    v = problem(0.9)
    empty = replace(v, points=v.points[:0], y=v.y[:0])
    choice = choose_memory(empty, "nDCG@5", seed=0)
    assert choice.memory["kind"] == "none"


def test_exclude_groups_and_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dexml.train.memory.MAX_POINTS", 100)
    v = problem(0.9)
    exclude = csr_array((np.random.default_rng(0).random((240, L)) < 0.1).astype(np.float32))
    choice = choose_memory(
        replace(v, exclude=exclude, groups=[f"g{i // 2}" for i in range(240)]), "P@1", seed=0
    )
    assert choice.memory["validation_points"] == 100
    assert choice.memory["select"] == "P@1"
