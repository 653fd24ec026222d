"""Label pools, by property."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, random_array

from dexml.sampling import label_pool, pool_positives, pool_probability


def matrix(seed: int, n_points: int = 20, n_labels: int = 30) -> csr_array:
    return csr_array(random_array((n_points, n_labels), density=0.15, rng=seed, format="csr"))


@given(seed=st.integers(0, 1000), per_point=st.integers(1, 4), n_random=st.integers(0, 40))
def test_pool_is_sorted_unique_in_range_and_repeats(
    seed: int, per_point: int, n_random: int
) -> None:
    y = matrix(seed)
    rows = np.random.default_rng(seed).permutation(20)[:7]
    draw = [
        label_pool(y, rows, per_point=per_point, n_random=n_random, seed=seed, epoch=3)
        for _ in range(2)
    ]
    pool = draw[0]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (np.diff(pool) > 0).all()
    assert len(pool) <= per_point * 7 + n_random
    assert len(pool) == 0 or (pool[0] >= 0 and pool[-1] < 30)
    for row in rows:
        positives = y.indices[y.indptr[row] : y.indptr[row + 1]]
        assert len(np.intersect1d(positives, pool)) >= min(per_point, len(positives))


def test_another_epoch_draws_another_pool() -> None:
    y, rows = matrix(1), np.arange(20)
    pools = {tuple(label_pool(y, rows, per_point=1, n_random=3, seed=0, epoch=e)) for e in range(5)}
    assert len(pools) == 5


@given(seed=st.integers(0, 1000))
def test_pool_positives_equal_the_dense_lookup(seed: int) -> None:
    y = matrix(seed)
    generator = np.random.default_rng(seed)
    rows = generator.permutation(20)[: generator.integers(0, 20)]
    pool = np.unique(generator.integers(30, size=generator.integers(0, 30)))
    indptr, places = pool_positives(y, rows, pool)
    dense = y.toarray()[rows][:, pool] != 0
    actual = np.zeros_like(dense)
    for i in range(len(rows)):
        actual[i, places[indptr[i] : indptr[i + 1]]] = True
    np.testing.assert_array_equal(actual, dense)


def test_pool_probability_is_the_share_of_pools_that_hold_a_label() -> None:
    y = matrix(3, n_points=60)
    rows = np.arange(5, 60)
    drawn = np.zeros(30)
    generator = np.random.default_rng(0)
    for epoch in range(3000):
        batch = generator.choice(rows, 10, replace=False)
        pool = label_pool(y, batch, per_point=2, n_random=3, seed=1, epoch=epoch)
        drawn[pool] += 1 / 3000
    found = pool_probability(y, rows, batch_size=10, per_point=2, n_random=3)
    np.testing.assert_allclose(found, drawn, atol=0.06)
    assert np.corrcoef(found, drawn)[0, 1] > 0.99
    never = pool_probability(csr_array((4, 3)), np.arange(4), batch_size=2, per_point=1, n_random=0)
    assert never.tolist() == [1.0, 1.0, 1.0]


def test_points_without_labels_still_make_a_pool() -> None:
    pool = label_pool(csr_array((3, 9)), np.arange(3), per_point=1, n_random=0, seed=0, epoch=0)
    assert len(pool) == 1


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="per_point = 0"):
        label_pool(matrix(0), np.arange(2), per_point=0, n_random=1, seed=0, epoch=0)
