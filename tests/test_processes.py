"""Process groups, whoever forms them; evaluators between processes, and copies of them."""

import os
import pickle
import socket
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from copy import copy, deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

import warm
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
    with ProcessPoolExecutor(2, mp_context=warm.context()) as pool:
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


def sum_of_ranks() -> float:
    import torch
    import torch.distributed as dist

    tensor = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(tensor)
    return tensor.item()


def slow() -> bool:
    time.sleep(1.5)
    return True


def guests_of_a_group(rank: int, folder: str, port: str) -> None:
    """A program such as Lightning has formed the group; its collectives may take 1 second."""
    import torch.distributed as dist

    from dexml.train import processes

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=1),
    )
    for work in (slow, lambda: False):  # it may train twice
        device = processes.start("cpu")
        assert processes.first(work, device) == (work is slow)
        processes.end()
        assert dist.is_initialized()
        assert sum_of_ranks() == 3
    dist.destroy_process_group()


def owners_of_a_group(rank: int, folder: str, port: str) -> None:
    """As torchrun starts them."""
    import torch.distributed as dist

    from dexml.train import processes

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    processes.start("cpu")
    assert sum_of_ranks() == 3
    processes.end()
    assert not dist.is_initialized()
    assert processes.size() == 1


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
@pytest.mark.parametrize("work", [guests_of_a_group, owners_of_a_group])
def test_a_training_destroys_the_groups_that_it_has_formed_and_no_others(
    tmp_path: Path, work: Any
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = warm.context()
    started = [context.Process(target=work, args=(rank, str(tmp_path), port)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=100)
        process.kill()
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
