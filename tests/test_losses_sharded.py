"""Labels split over processes: oracle number 10, and 11 at the ends of shards."""

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

import warm
from dexml import losses
from dexml.losses import Layout, Shard
from dexml.losses.shards import Exchange

F64 = torch.float64
N_LABELS, DIM = 29, 6
UNEVEN = {1: [0, 29], 2: [0, 18, 29], 4: [0, 1, 12, 12, 29]}
CASES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "decoupled_softmax": {},
    "soft_topk": {"k": 3},
    "bce": {},
    "topk_hinge": {"k": 4},
    "triplet": {},
    "positive_hinge": {},
}

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


def problem(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any, Any]:
    """7 points (no multiple of a process count); positives at the ends of all shards."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, DIM, generator=generator, dtype=F64).to(dtype)
    y = torch.randn(N_LABELS, DIM, generator=generator, dtype=F64).to(dtype)
    bias = torch.randn(N_LABELS, generator=generator, dtype=F64).to(dtype)
    ends = {c - 1 for cuts in UNEVEN.values() for c in cuts[1:]} | {6, 13, 20}
    rows = [[0, 5, 28], [], sorted(ends), [17], [3], [11, 12], list(range(N_LABELS))]
    ignore = [[1, 2], [4], [], [18, 28], [0, 3], [], []]
    return x, y, bias, _csr(rows), _csr(ignore)


def _csr(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([0, *(len(r) for r in rows)])
    return torch.cumsum(lengths, 0), torch.tensor([label for r in rows for label in r])


def run_cases(
    shard: Shard | None, deterministic: bool, dtype: torch.dtype
) -> dict[tuple[str, str], list[Any]]:
    """Loss and gradients of every loss for the labels of a shard."""
    x, y, bias, positives, ignore = problem(dtype)
    lo, hi = (0, N_LABELS) if shard is None else (shard.lo, shard.hi)
    found = {}
    for name, options in CASES.items():
        for variant in ("mean", "rows"):
            inputs = [t.clone().requires_grad_() for t in (x, y[lo:hi], bias[lo:hi])]
            extra: dict[str, Any] = {}
            if name == "bce":
                extra["log_scale"] = torch.zeros((), dtype=dtype, requires_grad=True)
                extra["offset"] = torch.tensor(-1.0, dtype=dtype, requires_grad=True)
            if name != "positive_hinge":
                extra["ignore"] = ignore
            loss = getattr(losses, name)(
                *inputs[:2],
                positives,
                label_bias=inputs[2],
                temperature=0.5,
                shard=shard,
                deterministic=deterministic,
                layout=Layout(4, 3, keep=False),
                reduction="mean" if variant == "mean" else "none",
                **options,
                **extra,
            )
            if variant == "rows":
                loss = losses.average_of_ranked(loss, m=1, k=5)
            wanted = [*inputs, *(value for value in extra.values() if value is not ignore)]
            gradients = torch.autograd.grad(loss, wanted)
            found[name, variant] = [loss.detach(), *gradients]
    return found


def results(group: dist.ProcessGroup | None, size: int, rank: int) -> dict[str, Any]:
    """What a process gets for its labels in each mode."""
    lo, hi = UNEVEN[size][rank : rank + 2]
    even = Shard.even(N_LABELS, group)
    return {
        "plain": run_cases(Shard(lo, hi, N_LABELS, group), False, F64),
        "exact32": run_cases(even, True, torch.float32),
        "exact64": run_cases(even, True, F64),
    }


def work(rank: int, folder: str) -> None:
    """One of four processes, of which the first two are a group as well; results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=4
    )
    try:
        found: dict[int, Any] = {4: results(None, 4, rank)}
        pair: Any = dist.new_group([0, 1])  # a number in processes outside it
        if rank < 2:
            found[2] = results(pair, 2, rank)
            found[2]["messages"] = messages = []
            x, y, _, positives, _ = problem(F64)
            for shard, rows in (
                (Shard(0, 15, N_LABELS, pair), 7),
                (Shard.even(N_LABELS, pair), 7 - rank),
            ):
                own = (positives[0][: rows + 1], positives[1][: positives[0][rows]])
                try:
                    losses.softmax(x[:rows], y[shard.lo : shard.hi], own, shard=shard)
                except ValueError as error:
                    messages.append(str(error))
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What `work` saved in each of four processes, with a time limit."""
    folder = tmp_path_factory.mktemp("shards")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    context = warm.context()
    processes = [context.Process(target=work, args=(rank, str(folder))) for rank in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        if process.is_alive():
            process.kill()
    assert [p.exitcode for p in processes] == [0] * 4
    return [torch.load(folder / f"{rank}.pt") for rank in range(4)]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """The same from a single process that holds all labels."""
    torch.set_num_threads(1)
    return {
        "plain": run_cases(None, False, F64),
        "exact32": run_cases(None, True, torch.float32),
        "exact64": run_cases(None, True, F64),
    }


def joined(parts: list[Any], kind: str, case: tuple[str, str]) -> list[torch.Tensor]:
    """Loss, dX, dY, d_bias and the rest; what all processes hold is equal on all."""
    every = [part[kind][case] for part in parts]
    for result in every[1:]:
        for place in (0, 1, *range(4, len(result))):
            assert torch.equal(result[place], every[0][place])
    whole = [torch.cat([r[place] for r in every]) for place in (2, 3)]
    return [*every[0][:2], *whole, *every[0][4:]]


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
@pytest.mark.parametrize("size", [2, 4])
def test_10_processes_give_what_one_gives(
    size: int, by_rank: list[Any], one: dict[str, Any]
) -> None:
    parts = [found[size] for found in by_rank[:size]]
    for kind, cases in one.items():
        for case, expected in cases.items():
            for mine, theirs in zip(joined(parts, kind, case), expected, strict=True):
                if kind == "plain":
                    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
                else:
                    assert torch.equal(mine, theirs), (kind, case)


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
def test_shards_that_do_not_fit_together_are_named(by_rank: list[Any]) -> None:
    for found in by_rank[:2]:
        shards, rows = found[2]["messages"]
        assert "shards 0..15, 0..15 do not cover 0..29" in shards
        assert "B differs between processes: [7, 6]" in rows


def test_the_deterministic_mode_computes_the_same(one: dict[str, Any]) -> None:
    for case, plain in one["plain"].items():
        for a, b in zip(plain, one["exact64"][case], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_errors_of_a_shard() -> None:
    call: Callable[..., Any] = losses.softmax
    x, y, _, positives, _ = problem(F64)
    with pytest.raises(ValueError, match=r"shard 0..28, expected 0..29 \(Shard.even"):
        call(
            x,
            y[:28],
            positives,
            shard=Shard(0, 28, N_LABELS),
            deterministic=True,
        )
    exchange = Exchange(None, 29, deterministic=True)
    assert exchange.cuts == [0, 3, 7, 10, 14, 18, 21, 25, 29]


def test_a_process_count_that_does_not_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    from dexml.losses import shards

    monkeypatch.setattr(shards, "_size", lambda group: 3)
    with pytest.raises(ValueError, match="with 3 processes; expected a divisor of 8"):
        Exchange(Shard(0, 9, 29), 9, deterministic=True)
    x, y, _, positives, _ = problem(F64)
    with pytest.raises(ValueError, match="scores are not kept where labels are sharded"):
        losses.softmax(
            x,
            y[:9],
            positives,
            shard=Shard(0, 9, 29),
            layout=Layout(7, 9, keep=True),
            check=False,
        )
