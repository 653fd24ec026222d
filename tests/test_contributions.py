"""How a ranker's score is shared among its features."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dexml.scorers.contributions import contributions, score_at, standardised
from dexml.scorers.ranker import Network

F = 6


def random_network(seed: int, *, members: int = 3, hidden: int = 16) -> Network:
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    return Network(
        tuple(f"f{i}" for i in range(F)),
        some(F),
        np.exp(some(F)),
        some(members, F),
        some(members, hidden),
        some(members, hidden, F),
        some(members, hidden),
    )


def integrated(
    network: Network, start: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The slow twin: gradients by differences, summed along the line."""
    steps, eps = 400, 1e-5
    total = np.zeros(F)
    for step in range(steps):
        here = start + (x - start) * (step + 0.5) / steps
        for i in range(F):
            more, less = here.copy(), here.copy()
            more[i] += eps
            less[i] -= eps
            total[i] += (score_at(network, more) - score_at(network, less)) / (2 * eps)
    return total / steps * (x - start)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hidden", [0, 1, 16])
def test_they_are_integrated_gradients_and_sum_to_the_difference(seed: int, hidden: int) -> None:
    network = random_network(seed, hidden=hidden)
    start, x = np.random.default_rng(seed + 10).normal(size=(2, F))
    found = contributions(network, start, x)
    np.testing.assert_allclose(found, integrated(network, start, x), atol=1e-3)
    difference = score_at(network, x) - score_at(network, start)
    assert found.sum() == pytest.approx(difference, abs=1e-9)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-7, 1e-5, 1e-3])
def test_small_steps_lose_no_digits(size: float) -> None:
    network = random_network(4)
    start, direction = np.random.default_rng(5).normal(size=(2, F))
    found = contributions(network, start, start + size * direction)
    difference = score_at(network, start + size * direction) - score_at(network, start)
    assert found.sum() == pytest.approx(difference, abs=1e-13)
    assert np.isfinite(found).all()


def test_a_hidden_unit_may_stand_still_while_features_move() -> None:
    network = random_network(6, members=1, hidden=1)
    weights = np.zeros((1, 1, F), np.float32)
    weights[0, 0, :2] = 1, -1
    network = Network(**(vars(network) | {"weights": weights}))
    start = np.zeros(F)
    x = np.array([2.0, 2, 0, 0, 0, 0])
    np.testing.assert_allclose(
        contributions(network, start, x), integrated(network, start, x), atol=1e-5
    )


def test_what_is_the_same_in_both_contributes_nothing() -> None:
    network = random_network(7)
    start, x = np.random.default_rng(8).normal(size=(2, F))
    x[2] = start[2]
    assert contributions(network, start, x)[2] == 0


def test_a_linear_ranker_contributes_weight_times_difference() -> None:
    network = random_network(9, members=1, hidden=0)
    start, x = np.random.default_rng(10).normal(size=(2, F))
    expected = network.linear[0] * (x - start)
    np.testing.assert_allclose(contributions(network, start, x), expected, rtol=1e-12)


def test_features_are_standardised_as_the_network_does() -> None:
    network = random_network(11)
    features = np.random.default_rng(12).normal(size=(20, F)).astype(np.float32)
    features[3, 1], features[4, 2] = np.nan, 1e6
    x = standardised(network, features)
    assert x[3, 1] == 0
    assert np.abs(x).max() == 5
    scores = [score_at(network, row) for row in x]
    np.testing.assert_allclose(scores, network.score(features), atol=1e-3)
