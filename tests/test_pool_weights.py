"""Drawn labels weigh the inverse of their chance, so that a pool stands for all labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dexml import data
from dexml.train import step
from dexml.train.candidates import Sampler
from dexml.train.schedule import stage_schedule
from small import train_settings

BATCH = np.array([3, 7, 10, 33, 150, 151, 200, 299])


@pytest.fixture
def sampler_of(filtered: Path, tiny_encoder: Path, tmp_path: Path) -> Callable[..., Sampler]:
    """The sampler of a stage encoder with these settings, over all points but each tenth."""

    def make(**changes: Any) -> Sampler:
        settings = train_settings(filtered, tiny_encoder, tmp_path / "run", **changes)
        dataset = data.load_dataset(filtered)
        y = dataset.y_train
        schedule = stage_schedule("encoder", settings, y.shape[1])
        rows = np.flatnonzero(np.arange(y.shape[0]) % 10 != 5)
        return Sampler(y, dataset.exclude_train, rows, schedule, settings)

    return make


@pytest.mark.parametrize("batch_size", [8, 64, "all"])
@pytest.mark.parametrize(
    "mode",
    [
        {"negatives": "uniform", "negatives_per_point": 3},
        {"negatives": "frequency 0.5, uniform 0.5", "negatives_per_point": 2},
        {"negatives": "in-batch", "positives_per_point": 1},
    ],
    ids=lambda mode: mode["negatives"],
)
def test_drawn_negatives_weigh_the_inverse_of_how_often_they_are_drawn(
    sampler_of: Callable[..., Sampler], mode: dict[str, Any], batch_size: int | str
) -> None:
    sampler = sampler_of(**mode)
    n_labels, rows = sampler.y.shape[1], sampler.rows
    size = len(rows) if batch_size == "all" else int(batch_size)
    drawn, rounds = np.zeros(n_labels), 600
    weight = np.zeros(n_labels)
    for epoch in range(rounds):
        batch = step.batches(rows, size, 5, 1, epoch)[0]
        assert len(batch) == size
        found = sampler.candidates(batch, epoch)
        assert found.log_weight is not None
        drawn[found.ids] += 1
        weight[found.ids] = np.exp(found.log_weight.numpy())
    known = drawn > 0
    error = drawn[known] / rounds * weight[known] - 1
    noise = np.sqrt((weight[known] - 1).clip(0) / rounds)
    assert (np.abs(error) < 5 * noise + 0.03).all()
    assert abs(error.mean()) < 0.02


@pytest.mark.parametrize("negatives", ["uniform", "frequency 0.5, uniform 0.5"])
def test_weights_of_a_batch_of_near_points_stand_for_all_labels(
    sampler_of: Callable[..., Sampler], negatives: str
) -> None:
    """For one batch whatever it is: the weighted sum over pools is that over all labels."""
    sampler = sampler_of(negatives=negatives, negatives_per_point=3, batches="clusters")
    own = np.unique(sampler.y[BATCH].indices)
    total, rounds = np.zeros(sampler.y.shape[1]), 1500
    for epoch in range(rounds):
        found = sampler.candidates(BATCH, epoch)
        assert found.log_weight is not None
        total[found.ids] += np.exp(found.log_weight.numpy())
    assert (total[own] == rounds).all()
    known = total > 0
    assert known.sum() > 55
    np.testing.assert_allclose(total[known] / rounds, 1, atol=0.3)
    assert total[known].mean() / rounds == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("size", [2, 9], ids=["the whole shortlist", "a part of it"])
@pytest.mark.parametrize("others", ["uniform 0.5", "frequency 0.25, uniform 0.25"])
def test_weights_beside_hard_negatives_stand_for_all_labels(
    sampler_of: Callable[..., Sampler], others: str, size: int
) -> None:
    """For one batch, and so for each of its points, which have hard negatives of their own."""
    mixture = {"negatives": f"hard 0.5, {others}", "negatives_per_point": 4}
    sampler = sampler_of(**mixture)
    n_labels, rows = sampler.y.shape[1], sampler.rows
    before = np.exp(weights_of(sampler, 0)[1])
    own = [set(sampler.y[[row]].indices) for row in rows]
    generator = np.random.default_rng(0)
    shortlist = np.full((len(rows), size), -1, np.int32)
    for row, positives in enumerate(own):
        free = [label for label in range(n_labels) if label not in positives]
        kept = size - row % 2  # lists may be shorter
        shortlist[row, :kept] = generator.permutation(free)[:kept]
    sampler.use_shortlist(shortlist)
    batch = np.unique(sampler.y[BATCH].indices)
    hard = np.unique(shortlist[np.searchsorted(rows, BATCH)])[1:]
    total, rounds = np.zeros(n_labels), 3000
    for epoch in range(rounds):
        ids, log_weight = weights_of(sampler, epoch)
        total[ids] += np.exp(log_weight)
        if size == 2:  # those that are taken for certain stand for themselves alone
            assert (log_weight[np.isin(ids, hard)] == 0).all()
    assert (total[batch] == rounds).all()
    known = total > 0
    assert known.sum() > 55
    np.testing.assert_allclose(total[known] / rounds, 1, atol=0.3)
    assert total[known].mean() / rounds == pytest.approx(1, abs=0.03)
    assert before.max() < np.exp(weights_of(sampler, 0)[1]).max()  # fewer draws are uniform now


def weights_of(sampler: Sampler, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The pool of `BATCH` and the log weights of its labels."""
    found = sampler.candidates(BATCH, epoch)
    assert found.log_weight is not None
    return found.ids, found.log_weight.numpy()


def test_hard_negatives_alone_and_neighbours_are_not_weighted(
    sampler_of: Callable[..., Sampler],
) -> None:
    for negatives in ("hard", "hard 0.5, graph 0.5", "graph 0.5, uniform 0.5"):
        sampler = sampler_of(negatives=negatives, negatives_per_point=2)
        assert sampler.candidates(BATCH, 1).log_weight is None


@pytest.mark.parametrize(
    ("changes", "drawn", "size"),
    [
        ({"negatives": "hard 0.25, uniform 0.75"}, 3, 3),
        ({"negatives": "uniform 0.75, hard 0.25"}, 2, 2),  # the first named gets the rest
        ({"negatives": "hard 0.25, frequency 0.75"}, 3, 3),
        ({"negatives": "hard 0.25, uniform 0.75", "shortlist_size": 7}, 3, 7),
        ({"negatives": "hard 0.25, uniform 0.75", "loss": "softmax"}, 3, 100),  # weighs nothing
        ({"negatives": "hard 0.25, uniform 0.75", "loss": "decoupled, softmax from 0.5"}, 3, 100),
        ({"negatives": "hard 0.25, uniform 0.75", "weigh_negatives": False}, 3, 100),
        ({"negatives": "hard 0.25, graph 0.75"}, 3, 100),
        ({"negatives": "hard"}, 10, 100),
        ({"negatives": "hard 0.5, uniform 0.5", "negatives_per_point": 1}, 1, 100),  # hard alone
        ({"negatives": "hard 0.2, uniform 0.8", "negatives_per_point": 2}, 0, 1),  # none is hard
    ],
)
def test_weighted_hard_negatives_are_drawn_whole(
    sampler_of: Callable[..., Sampler], changes: dict[str, Any], drawn: int, size: int
) -> None:
    sampler = sampler_of(**({"negatives_per_point": 10} | changes))
    assert (sampler.n_hard, sampler.shortlist_size) == (drawn, size)
    lists = np.full((len(sampler.rows), size), -1, np.int32)
    lists[:, 0] = 63
    sampler.use_shortlist(lists)
    assert (63 in sampler.candidates(BATCH, 1).ids) or drawn == 0


def test_positives_that_are_not_drawn_are_weighted_as_others_draw_them(
    sampler_of: Callable[..., Sampler],
) -> None:
    """No point draws its own labels as negatives, so a label of many points has fewer chances."""
    sampler = sampler_of(
        negatives="hard 0.5, uniform 0.5", negatives_per_point=8, positives_per_point=1
    )
    lists = np.full((len(sampler.rows), 4), -1, np.int32)
    sampler.use_shortlist(lists)
    counts = np.bincount(sampler.y[BATCH].indices, minlength=sampler.y.shape[1])
    many = counts == counts.max()
    assert counts.max() > 1
    total, rounds = np.zeros(len(counts)), 3000
    for epoch in range(rounds):
        found = sampler.candidates(BATCH, epoch)
        assert found.log_weight is not None
        kept = np.exp(found.log_weight.numpy())
        kept[kept == 1] = 0  # drawn as a positive
        total[found.ids] += kept / rounds
    # What is left is the chance that it was not drawn as a positive.
    assert (total[many] < 1).all()
    assert (total[counts == 0].mean()) == pytest.approx(1, abs=0.03)


def test_points_that_draw_all_labels_weigh_them_once(sampler_of: Callable[..., Sampler]) -> None:
    sampler = sampler_of(negatives="uniform", negatives_per_point=64, batches="clusters")
    point = BATCH[:1]  # its own labels are drawn by nobody
    found = sampler.candidates(point, 1)
    assert found.log_weight is not None
    assert (found.log_weight == 0).all()
