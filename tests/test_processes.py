"""Evaluators on their way from one process to another, and copies of them."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from copy import copy, deepcopy
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

from dexml import _rust
from dexml.metrics import Evaluator, LabelGroups

N_LABELS = 30
NAMES = ["P@1", "nDCG@5", "PSP@3", "PSnDCG@5", "macroF@3", "Coverage@5"]


def stream(seed: int, n_points: int = 500) -> tuple[csr_array, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = random_array((n_points, N_LABELS), density=0.1, rng=rng, format="csr", dtype=np.float32)
    y.data[:] = 1
    return csr_array(y), rng.permuted(np.tile(np.arange(N_LABELS), (n_points, 1)), axis=1)[:, :6]


def fresh() -> Evaluator:
    weights = np.random.default_rng(7).uniform(1, 20, N_LABELS)
    groups = LabelGroups(["even", "odd"], np.arange(N_LABELS) % 2)
    return Evaluator(
        N_LABELS,
        NAMES,
        inv_propensity=weights,
        ties="larger",
        label_groups={"parity": groups},
        keep_rows=True,
        num_threads=2,
    )


def scored(*seeds: int) -> Evaluator:
    evaluator = fresh()
    for seed in seeds:
        evaluator.update(*stream(seed))
    return evaluator


def everything(evaluator: Evaluator) -> tuple[Any, ...]:
    result = evaluator.result()
    rows = {
        name: [part.tobytes() for part in parts if part is not None]
        for name, parts in result.rows.items()
    }
    return result.metrics, result.as_json(), result.groups, result.truth, rows


def test_evaluators_of_two_processes_merge_to_the_bit() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        first, second = pool.map(scored, [1, 2])
    first.merge(second)
    assert everything(first) == everything(scored(1, 2))


@pytest.mark.parametrize("duplicate", [copy, deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_are_independent(duplicate: Any) -> None:
    original = scored(1)
    before = everything(original)
    twin = duplicate(original)
    assert everything(twin) == before
    twin.update(*stream(2))
    assert everything(original) == before
    original.update(*stream(2))
    assert everything(original) == everything(twin) == everything(scored(1, 2))


def test_bytes_that_are_no_evaluator() -> None:
    core = _rust.Evaluator(8, ["P@1"])
    state = core.to_bytes()
    assert _rust.Evaluator.from_bytes(state, num_threads=1).to_bytes() == state
    for bad in (b"", state[:-1], state[:40] + b"x" + state[41:], pickle.dumps(fresh())):
        with pytest.raises(ValueError, match="damaged or not the state of an evaluator"):
            _rust.Evaluator.from_bytes(bad)
    with pytest.raises(ValueError, match="num_threads must be in"):
        _rust.Evaluator.from_bytes(state, 0)
