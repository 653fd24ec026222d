"""Derivatives, memory and torch features; numbers: the oracle list."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dexml import losses
from dexml.losses import Layout
from losses_problem import F64, NAMES, Problem, assert_grads, grads, ours, twin


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# Weights of triplet are constants, so its gradient is not the slope of its value.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "triplet"])
@pytest.mark.parametrize("layout", [Layout(2, 4, keep=True), Layout(5, 4, keep=False)], ids=str)
def test_1_gradcheck(name: str, layout: Layout) -> None:
    p = Problem(5, n_points=5, n_labels=9, dim=3)
    for temperature in (1.0, 0.05):
        variants: list[dict[str, Any]] = [{}]
        if name == "soft_topk":
            variants = [{"k": k, "alpha": a} for k in (1, 3, 5) for a in (1.0, 2.0)]
        if name == "topk_hinge":
            variants = [{"k": k} for k in (1, 3, 5)]
        for options in variants:
            eps = 1e-6 * temperature
            assert torch.autograd.gradcheck(
                lambda x, y, bias, t=temperature, o=options: ours(name)(
                    x, y, p.own, ignore=p.out, temperature=t, label_bias=bias, layout=layout, **o
                ),
                (p.x, p.y, p.bias),
                eps=eps,
                atol=1e-4,
                fast_mode=True,
            )


@pytest.mark.parametrize("name", NAMES)
def test_row_losses_and_any_use_of_them(name: str) -> None:
    """reduction="none" with weights of rows that depend on the losses themselves."""
    p = Problem(6)
    options: dict[str, Any] = {"temperature": 0.5, "ignore": p.out, "label_bias": p.bias}
    z = p.z(0.5, with_bias=True)
    expected = twin(name)(z, p.positives, p.ignore & ~p.positives)
    actual = ours(name)(p.x, p.y, p.own, reduction="none", **options)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    assert_grads((actual**2).sum(), (expected**2).sum(), [p.x, p.y, p.bias], 1e-9)
    mean = ours(name)(p.x, p.y, p.own, **options)
    assert mean.item() == pytest.approx(actual.mean().item(), rel=1e-14)


class Watch(TorchDispatchMode):
    """The largest tensor made, and the largest that matrix products made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_13_no_matrix_of_points_by_labels_is_alive(name: str, reduction: Any) -> None:
    """The largest tensor grows with B x tile and (B + L) x D, never with B x L."""
    p = Problem(2, n_points=48, n_labels=300, dim=3)
    p.positives &= np.random.default_rng(0).random(p.positives.shape) < 0.02
    for layout, scores in ((Layout(8, 300, keep=True), 2400), (Layout(48, 50, False), 2400)):
        with Watch() as watch:  # type: ignore[no-untyped-call]
            loss = ours(name)(p.x, p.y, p.own, layout=layout, reduction=reduction)
            loss.sum().backward()
        assert watch.largest <= max(scores, len(p.y) * 3, int(p.positives.sum()) + 300)


@pytest.mark.parametrize("name", NAMES)
def test_13_the_budget_holds_by_allocation(name: str) -> None:
    """Bytes alive beside inputs and gradients, counted by the storage of each tensor made."""
    import gc
    import weakref

    alive: dict[int, int] = {}
    peak = 0

    class Meter(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal peak
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    key = storage._cdata
                    if key not in alive:
                        alive[key] = storage.nbytes()
                        weakref.finalize(storage, alive.pop, key, None)
            peak = max(peak, sum(alive.values()))
            return out

    budget = 2**18
    sizes = ((128, 1500), (128, 6000), (750, 1500))
    for n_points, n_labels in sizes[1:2] if name == "soft_topk" else sizes:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(n_points, 4, generator=generator, requires_grad=True)
        y = torch.randn(n_labels, 4, generator=generator, requires_grad=True)
        own = (torch.arange(n_points + 1), torch.arange(n_points))
        gc.collect()
        alive.clear()
        peak = 0
        alive.update({t.untyped_storage()._cdata: 0 for t in (x, y)})
        with Meter():  # type: ignore[no-untyped-call]
            ours(name)(x, y, own, scratch_bytes=budget, temperature=1.0)
        # The two gradients, a chunk of points, and some numbers a row and a pair.
        linear = (n_points + n_labels) * 4 * 4 + n_points * (4 * 4 + 8 * 50)
        assert peak <= budget + linear
        assert n_points * n_labels * 4 > 2 * budget


def test_gradients_are_formed_only_where_they_are_needed() -> None:
    p = Problem(2)
    made: list[tuple[int, ...]] = []

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                made.append(tuple(out.shape))
            return out

    for name in NAMES:
        for x, y, point, label in (
            (p.x, p.y.detach(), True, False),
            (p.x.detach(), p.y, False, True),
            (p.x.detach(), p.y.detach(), False, False),
        ):
            made.clear()
            with Shapes():  # type: ignore[no-untyped-call]
                loss = ours(name)(x, y, p.own, layout=Layout(4, 13, keep=False))
            assert ((1, 7, 5) in made) == point  # the sum of the points' gradients
            assert ((13, 5) in made) >= label
            assert loss.requires_grad == (point or label)
        made.clear()
        with torch.no_grad(), Shapes():  # type: ignore[no-untyped-call]
            ours(name)(p.x, p.y, p.own, layout=Layout(4, 13, keep=False))
        assert (1, 7, 5) not in made


@pytest.mark.parametrize("name", NAMES)
def test_one_tensor_as_points_and_labels(name: str) -> None:
    p = Problem(2, n_points=6, n_labels=6)
    loss = ours(name)(p.x, p.x, p.own, temperature=0.5)
    z = p.x @ p.x.T / 0.5
    assert_grads(loss, twin(name)(z, p.positives).mean(), [p.x], 1e-9)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_refused(reduction: Any) -> None:
    p = Problem(2)
    for name in NAMES:
        loss = ours(name)(p.x, p.y, p.own, reduction=reduction).sum()
        gradient = torch.autograd.grad(loss, p.x, create_graph=True)[0]
        with pytest.raises(RuntimeError, match="differentiated once"):
            gradient.sum().backward()


def test_backward_twice_gives_the_same_gradient() -> None:
    p = Problem(2)
    loss = losses.soft_topk(p.x, p.y, p.own)
    first = torch.autograd.grad(loss, p.y, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, p.y)[0])


def test_autocast_changes_nothing() -> None:
    p = Problem(2)
    x, y = p.x.detach().float().requires_grad_(), p.y.detach().float().requires_grad_()
    for name in NAMES:
        plain = ours(name)(x, y, p.own)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = ours(name)(x, y, p.own)
            rows = ours(name)(x, y, p.own, reduction="none")
            in_rows = torch.autograd.grad(rows.sum() / len(x), x)[0]
        assert torch.equal(plain, cast)
        for a, b in zip(grads(plain, [x, y]), grads(cast, [x, y]), strict=True):
            assert torch.equal(a, b)
        torch.testing.assert_close(in_rows, grads(ours(name)(x, y, p.own), [x])[0])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_step_calls_the_loss_with_one_break() -> None:
    p = Problem(2)
    weight = torch.eye(5, dtype=F64, requires_grad=True)
    graphs = 0

    def count(module: Any, _: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return module.forward

    def step(x: Tensor, y: Tensor) -> Tensor:
        points = torch.tanh(x @ weight)
        return 2 * losses.decoupled_softmax(points, y, own, temperature=0.5)

    own = (torch.arange(8), torch.arange(7))
    expected = torch.autograd.grad(step(p.x, p.y), weight)[0]
    loss = torch.compile(step, backend=count)(p.x, p.y)
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], expected)
    assert graphs <= 2
