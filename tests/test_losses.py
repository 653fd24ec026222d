"""The losses against their dense float64 twins; numbers in names: the oracle list."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

import losses_reference as dense
from dexml import losses
from dexml.losses import Layout
from losses_problem import F64, LAYOUTS, NAMES, Problem, assert_grads, grads, ours, twin


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


P = Problem(3)
KINDS = ("plain", "ignore", "bias", "weights", "everything")


@cache
def reference(name: str, kind: str, temperature: float) -> tuple[float, tuple[Tensor, ...]]:
    """Loss of the dense twin and its gradients by points, labels and biases; slow, so made once."""
    options: dict[str, Any] = {"k": 3} if name in ("soft_topk", "topk_hinge") else {}
    if kind in ("ignore", "everything"):
        options["ignore"] = P.ignore & ~P.positives
    if kind in ("weights", "everything") and name != "topk_hinge":
        options["weights"] = P.weights
    z = P.z(temperature, with_bias=kind in ("bias", "everything"))
    loss = twin(name)(z, P.positives, **options).mean()
    return loss.item(), grads(loss, [P.x, P.y, P.bias])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_7_11_12_any_layout_equals_the_dense_twin(
    name: str, kind: str, layout: Layout | None
) -> None:
    options: dict[str, Any] = {"k": 3} if name in ("soft_topk", "topk_hinge") else {}
    if kind in ("ignore", "everything"):
        options["ignore"] = P.out
    if kind in ("bias", "everything"):
        options["label_bias"] = P.bias
    if kind in ("weights", "everything") and name != "topk_hinge":
        options["weights"] = P.own_weights
    tol = 1e-9 if name == "soft_topk" else 1e-11
    for temperature in (1.0, 0.05):
        loss = ours(name)(P.x, P.y, P.own, temperature=temperature, layout=layout, **options)
        value, gradients = reference(name, kind, temperature)
        assert loss.item() == pytest.approx(value, rel=tol, abs=tol)
        for mine, theirs in zip(grads(3 * loss, [P.x, P.y, P.bias]), gradients, strict=True):
            assert (mine - 3 * theirs).abs().max() <= tol * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_7_unnormalised_vectors_and_scores_up_to_1e4(name: str, scale: float) -> None:
    p = Problem(11, n_points=5, n_labels=23)
    x = (p.x.detach() * scale / 5).requires_grad_()
    z = x @ p.y.T
    expected = twin(name)(z, p.positives).mean()
    for layout in (Layout(2, 7, keep=True), Layout(5, 7, keep=False)):
        actual = ours(name)(x, p.y, p.own, temperature=1.0, layout=layout)
        assert actual.item() == pytest.approx(expected.item(), rel=1e-9)
        assert_grads(actual, expected, [x, p.y], 1e-9)


# Check values, worked out by hand and by finite differences

WORKED = {
    "softmax": (
        {},
        1.5744379396,
        [0.0630212318, 0.2071239361, -0.4238033621, 0.0280311766, 0.1256270176],
    ),
    "decoupled_softmax": (
        {},
        1.1208745836,
        [-0.1952699812, 0.3490993322, -0.4128142562, 0.0472454570, 0.2117394482],
    ),
    "bce": (
        {},
        0.6841351102,
        [-0.0238405844, 0.1462117157, -0.1, 0.0537882843, 0.1244918662],
    ),
    "soft_topk": (
        {"k": 2},
        0.9774920933,
        [0.0187975842, 0.3242039439, -0.6698505584, 0.0315342332, 0.2953147971],
    ),
    "soft_topk 3": (
        {"k": 3},
        0.4420642573,
        [-0.0040643557, 0.1121973336, -0.3681886288, 0.0701954980, 0.1898601529],
    ),
}


IGNORING = {
    "softmax": 1.3423495824,
    "decoupled_softmax": 0.6727209510,
    "bce": 0.4214827727,
    "soft_topk": 0.5291047262,
}


def worked_row() -> tuple[Tensor, Tensor]:
    """One point whose scores are z = 2, 1, 0, -1, 0.5."""
    z = torch.tensor([[2.0], [1.0], [0.0], [-1.0], [0.5]], dtype=F64, requires_grad=True)
    return torch.ones(1, 1, dtype=F64), z


@pytest.mark.parametrize("name", WORKED)
def test_worked_row(name: str) -> None:
    x, z = worked_row()
    options, value, gradient = WORKED[name]
    positives = csr_array(np.array([[1, 0, 1, 0, 0]]))
    loss_function = ours(name.split()[0])
    loss = loss_function(x, z, positives, temperature=1.0, **options)
    assert loss.item() == pytest.approx(value, abs=5.1e-11)
    assert torch.autograd.grad(loss, z)[0].ravel().tolist() == pytest.approx(gradient, abs=5.1e-11)
    if name in IGNORING:
        ignore = csr_array(np.array([[0, 1, 0, 0, 0]]))
        loss = loss_function(x, z, positives, ignore=ignore, temperature=1.0, **options)
        assert loss.item() == pytest.approx(IGNORING[name], abs=5.1e-11)
        assert torch.autograd.grad(loss, z)[0][1].item() == 0.0


@pytest.mark.parametrize(("k", "value"), [(1, 0.0), (2, 1.5), (3, 1.0), (4, 0.0)])
def test_worked_row_of_the_hinge(k: int, value: float) -> None:
    """k = 1: two positives never fit, so the row is left out (the bare formula says 2)."""
    x, z = worked_row()
    loss = losses.topk_hinge(x, z, csr_array(np.array([[1, 0, 1, 0, 0]])), k=k, temperature=1.0)
    assert loss.item() == value
    expected = [0.0, 0.0, -1.0, 0.0, 1.0] if k == 2 else [0.0] * 5  # k = 3: the flat region
    assert torch.autograd.grad(loss, z)[0].ravel().tolist() == expected


@pytest.mark.parametrize("layout", [Layout(4, 2, keep=False), Layout(4, 5, keep=False)], ids=str)
def test_equal_scores_in_the_hinge_go_to_the_smaller_id(layout: Layout) -> None:
    z = torch.tensor([[3.0], [1.0], [1.0], [1.0], [1.0]], requires_grad=True)
    own = csr_array(np.array([[1, 0, 0, 0, 1]]))
    for k, rival in ((2, 2), (3, 3)):
        loss = losses.topk_hinge(torch.ones(1, 1), z, own, k=k, temperature=1.0, layout=layout)
        expected = [0.0, 0.0, 0.0, 0.0, -1.0]
        expected[rival] = 1.0
        assert torch.autograd.grad(loss, z)[0].ravel().tolist() == expected
    loss = losses.topk_hinge(torch.ones(1, 1), z, own, k=4, temperature=1.0, layout=layout)
    assert loss.item() == 1.0  # the positive itself ranks last
    assert (torch.autograd.grad(loss, z)[0] == 0).all()


def random_dtype_problem() -> tuple[Problem, Callable[[str, Any, Any], Tensor]]:
    p = Problem(4, n_points=40, n_labels=301, dim=16)

    def call(name: str, x: Any, y: Any) -> Tensor:
        return ours(name)(x, y, p.own, temperature=0.5, layout=Layout(16, 64, keep=False))

    return p, call


@pytest.mark.parametrize("name", NAMES)
def test_8_float32_is_near_float64(name: str) -> None:
    p, call = random_dtype_problem()
    x32, y32 = (t.detach().float().requires_grad_() for t in (p.x, p.y))
    exact = call(name, x := x32.detach().double().requires_grad_(), y32.double())
    loss = call(name, x32, y32)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    for ours_, theirs in zip(grads(loss, [x32, y32]), grads(exact, [x, y32]), strict=True):
        assert (ours_ - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_9_half_precision_embeddings_are_scored_in_float32(name: str, dtype: torch.dtype) -> None:
    p, call = random_dtype_problem()
    x16, y16 = (t.detach().to(dtype).requires_grad_() for t in (p.x, p.y))
    loss = call(name, x16, y16)
    exact = call(name, x16.double(), y16.double())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    for mine, theirs in zip(grads(loss, [x16, y16]), grads(exact, [x16, y16]), strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - theirs.double()).norm() <= 1e-2 * theirs.double().norm()


def test_mixed_dtypes_meet_in_the_wider() -> None:
    p, call = random_dtype_problem()
    x16, y32 = p.x.detach().bfloat16().requires_grad_(), p.y.detach().float().requires_grad_()
    loss = call("decoupled_softmax", x16, y32)
    loss.backward()
    assert x16.grad is not None
    assert (loss.dtype, x16.grad.dtype) == (torch.float32, torch.bfloat16)


def test_extreme_scores_stay_finite_and_exact() -> None:
    """Negative at -150, positives at -200: the loss is 50, whatever a mask value would say."""
    z = torch.tensor([[-150.0], [-200.0], [-200.0]])
    own = csr_array(np.array([[0, 1, 1]]))
    loss = losses.decoupled_softmax(torch.ones(1, 1), z, own, temperature=1.0)
    assert loss.item() == pytest.approx(50.0, rel=1e-6)
    z = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    own = csr_array(np.array([[0, 1]]))
    loss = losses.decoupled_softmax(torch.ones(1, 1), z, own, temperature=1.0)
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_12_rows_of_every_odd_kind(layout: Layout | None) -> None:
    """Rows: no positive, all positive, all ignored but the positive, all but one negative."""
    z = torch.tensor([[1.0, 2.0, -1.0, 0.5]] * 4, dtype=F64)
    positives = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    ignore = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 0]], bool)
    eye = torch.eye(4, dtype=F64)
    for name in NAMES:
        x = z.clone().requires_grad_()
        rows = ours(name)(
            x,
            eye,
            csr_array(positives),
            ignore=csr_array(ignore),
            temperature=1.0,
            reduction="none",
            layout=layout,
        )
        gradient = torch.autograd.grad(rows.sum(), x)[0]
        assert torch.isfinite(rows).all()
        assert torch.isfinite(gradient).all()
        expected = twin(name)(z, positives, ignore)
        torch.testing.assert_close(rows.detach(), expected, rtol=1e-12, atol=1e-12)
        zero = {"decoupled_softmax": [0, 1, 2, 3], "bce": []}.get(name, [0, 2, 3])
        zero = [*zero, 1] if name == "soft_topk" else zero  # k = 5 of 4 labels
        assert (rows[zero] == 0).all()
        assert (gradient[zero] == 0).all()
        assert (gradient[torch.from_numpy(ignore)] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_12_one_label_in_total_and_none_and_no_points(name: str) -> None:
    one = csr_array(np.ones((2, 1)))
    x = torch.tensor([[2.0], [-3.0]], requires_grad=True)
    y = torch.tensor([[0.7]], requires_grad=True)
    loss = ours(name)(x, y, one, temperature=1.0)
    if name == "bce":
        assert loss.item() == pytest.approx(dense.bce(x @ y.T, np.ones((2, 1), bool)).mean().item())
    else:
        assert loss.item() == 0.0
        assert all((g == 0).all() for g in grads(loss, [x, y]))
    empty = ours(name)(x[:0], y, csr_array((0, 1)), temperature=1.0)
    assert empty.item() == 0.0
    assert (grads(empty, [y])[0] == 0).all()
    nothing = ours(name)(x, y[:0], csr_array((2, 0)), temperature=1.0)
    assert nothing.item() == 0.0 or (name == "bce" and math.isnan(nothing.item()))
