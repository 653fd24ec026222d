"""The losses against their dense float64 twins; numbers in names: the oracle list."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import losses_reference as dense
from dexml import losses
from dexml.losses import Layout

F64 = torch.float64
NAMES = ("softmax", "decoupled_softmax", "bce", "soft_topk", "topk_hinge")
LAYOUTS = (
    None,
    Layout(3, 5, keep=True),
    Layout(3, 5, keep=False),
    Layout(7, 1, keep=False),
    Layout(1, 64, keep=True),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def ours(name: str) -> Callable[..., Tensor]:
    return getattr(losses, name)  # type: ignore[no-any-return]


def twin(name: str) -> Callable[..., Tensor]:
    return getattr(dense, name)  # type: ignore[no-any-return]


class Problem:
    """Points, labels and biases; rows of every kind, the last label a positive."""

    def __init__(self, seed: int, n_points: int = 7, n_labels: int = 13, dim: int = 5) -> None:
        generator = np.random.default_rng(seed)
        shape = (n_points, n_labels)
        self.x = torch.from_numpy(generator.normal(size=(n_points, dim))).requires_grad_()
        self.y = torch.from_numpy(generator.normal(size=(n_labels, dim))).requires_grad_()
        self.bias = torch.from_numpy(generator.normal(size=n_labels)).requires_grad_()
        self.positives = generator.random(shape) < 0.25
        self.ignore = generator.random(shape) < 0.2
        self.positives[0] = False  # a point without positives
        self.positives[1] = True  # one without negatives
        self.positives[-1, [0, -1]] = True  # the first and the last label
        self.weights = torch.from_numpy(generator.uniform(0.2, 3, size=shape))

    @property
    def own(self) -> csr_array:
        return csr_array(self.positives.astype(np.float32))

    @property
    def out(self) -> csr_array:
        return csr_array(self.ignore.astype(np.float32))

    @property
    def own_weights(self) -> Tensor:
        return self.weights[torch.from_numpy(self.positives)]

    def z(self, temperature: float, *, with_bias: bool = False) -> Tensor:
        return self.x @ self.y.T / temperature + (self.bias if with_bias else 0)


def grads(loss: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def assert_grads(actual: Tensor, expected: Tensor, inputs: list[Tensor], tol: float) -> None:
    for a, e in zip(grads(actual, inputs), grads(expected, inputs), strict=True):
        assert (a - e).abs().max() <= tol * max(1.0, float(e.abs().max()))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["plain", "ignore", "bias", "weights", "everything"])
@pytest.mark.parametrize("name", NAMES)
def test_7_11_12_any_layout_equals_the_dense_twin(
    name: str, kind: str, layout: Layout | None
) -> None:
    p = Problem(3)
    everything = kind == "everything"
    with_ignore, with_bias = kind == "ignore" or everything, kind == "bias" or everything
    options: dict[str, Any] = {"layout": layout}
    twins: dict[str, Any] = {"ignore": p.ignore & ~p.positives if with_ignore else None}
    if (kind == "weights" or everything) and name != "topk_hinge":
        options["weights"], twins["weights"] = p.own_weights, p.weights
    if name in ("soft_topk", "topk_hinge"):
        options["k"] = twins["k"] = 3
    inputs = [p.x, p.y, p.bias] if with_bias else [p.x, p.y]
    for temperature in (1.0, 0.05):
        actual = ours(name)(
            p.x,
            p.y,
            p.own,
            ignore=p.out if with_ignore else None,
            label_bias=p.bias if with_bias else None,
            temperature=temperature,
            **options,
        )
        expected = twin(name)(p.z(temperature, with_bias=with_bias), p.positives, **twins).mean()
        tol = 1e-9 if name == "soft_topk" else 1e-11
        assert actual.item() == pytest.approx(expected.item(), rel=tol, abs=tol)
        assert_grads(3 * actual, 3 * expected, inputs, tol)


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


@pytest.mark.parametrize("name", NAMES)
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


def test_average_of_ranked_rows() -> None:
    p = Problem(6)
    rows = losses.decoupled_softmax(p.x, p.y, p.own, temperature=0.5, reduction="none")
    loss = losses.average_of_ranked(rows, m=1, k=4)
    expected = torch.sort(dense.decoupled_softmax(p.z(0.5), p.positives), descending=True)
    assert_grads(loss, expected.values[1:4].sum() / 3, [p.x, p.y], 1e-10)
    ties = torch.tensor([2.0, 1.0, 2.0, 0.0])
    assert losses.average_of_ranked(ties, m=0, k=2).item() == 2.0
    for m, k in ((-1, 2), (2, 2), (0, 5)):
        with pytest.raises(ValueError, match=f"m = {m}, k = {k}"):
            losses.average_of_ranked(ties, m=m, k=k)


# Check values (section 10 of the specification)

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


# Properties


@pytest.mark.parametrize("name", ["softmax", "decoupled_softmax", "soft_topk", "topk_hinge"])
def test_3_a_shift_of_a_row_changes_nothing_and_its_gradients_sum_to_0(name: str) -> None:
    n_labels = 11
    eye = torch.eye(n_labels, dtype=F64)
    z = torch.randn(4, n_labels, dtype=F64, generator=torch.Generator().manual_seed(1))
    z.requires_grad_()
    own = csr_array(np.random.default_rng(2).random((4, n_labels)) < 0.4)
    loss = ours(name)(z, eye, own, temperature=1.0)
    gradient = torch.autograd.grad(loss, z)[0]
    assert gradient.sum(dim=1).abs().max() < 1e-12
    shifted = ours(name)(
        z + torch.tensor([[5.0], [-3.0], [40.0], [0.1]]), eye, own, temperature=1.0
    )
    assert shifted.item() == pytest.approx(loss.item(), rel=1e-12)


def test_4_one_positive_makes_the_softmaxes_one() -> None:
    p = Problem(8)
    target = torch.arange(7)
    own = (torch.arange(8), target)
    expected = torch.nn.functional.cross_entropy(p.z(0.3), target)
    for name in ("softmax", "decoupled_softmax"):
        loss = ours(name)(p.x, p.y, own, temperature=0.3)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert_grads(loss, expected, [p.x, p.y], 1e-12)


def test_4_decoupled_never_pushes_a_positive_down_and_softmax_does() -> None:
    n_labels = 11
    z = torch.randn(20, n_labels, dtype=F64, generator=torch.Generator().manual_seed(1)) * 3
    z.requires_grad_()
    eye = torch.eye(n_labels, dtype=F64)
    positives = np.random.default_rng(2).random((20, n_labels)) < 0.4
    own = torch.from_numpy(positives)
    g = torch.autograd.grad(
        losses.decoupled_softmax(z, eye, csr_array(positives), temperature=1.0), z
    )[0]
    assert (g[own] <= 0).all()
    g = torch.autograd.grad(losses.softmax(z, eye, csr_array(positives), temperature=1.0), z)[0]
    high = own & (torch.softmax(z, 1) > 1 / own.sum(dim=1, keepdim=True))
    assert high.any()
    assert (g[high] > 0).all()
    assert (g[own & ~high] < 0).all()


@pytest.mark.parametrize(
    ("name", "options", "ends"),
    [
        ("softmax", {}, [math.log(5)]),
        ("decoupled_softmax", {}, [0.0]),
        ("soft_topk", {"k": torch.tensor([3, 5, 8])}, [dense.infimum(5, k) for k in (3, 5, 8)]),
    ],
)
def test_5_free_logits_reach_the_infimum(
    name: str, options: dict[str, Any], ends: list[float]
) -> None:
    """50 free logits a row, five positives, the first starts ahead: Adam."""
    n_rows = len(ends)
    z = torch.zeros(n_rows, 50, dtype=F64)
    z[:, 0] = 3.0
    z.requires_grad_()
    eye = torch.eye(50, dtype=F64)
    own = (5 * torch.arange(n_rows + 1), torch.arange(5).repeat(n_rows))
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(900):
        optimizer.zero_grad()
        ours(name)(z, eye, own, temperature=1.0, check=False, **options).backward()
        optimizer.step()
    rows = ours(name)(z, eye, own, temperature=1.0, reduction="none", **options)
    assert rows.tolist() == pytest.approx(ends, abs=1e-3)
    if name == "softmax":
        assert torch.softmax(z.detach(), 1)[0, :5].tolist() == pytest.approx([0.2] * 5, abs=1e-3)


# Sampled positives


def test_6_the_mean_over_draws_is_the_full_decoupled_loss() -> None:
    p = Problem(9)
    p.positives[[0, 2, 3, 4, 5, 6]] = p.positives[1] = False
    p.positives[0, [1, 4, 6]] = True
    full = losses.decoupled_softmax(p.x, p.y, p.own, temperature=0.5)
    ids = np.flatnonzero(p.positives[0])
    draws = []
    for label in ids:
        one, rest = np.zeros_like(p.positives), p.positives.copy()
        one[0, label], rest[0, label] = True, False
        draws.append(
            losses.decoupled_softmax(
                p.x, p.y, csr_array(one), ignore=csr_array(rest), temperature=0.5
            ).item()
        )
    assert np.mean(draws) == pytest.approx(full.item(), rel=1e-12)
    seen = [
        losses.decoupled_softmax(p.x, p.y, p.own, temperature=0.5, sample_seed=s).item()
        for s in range(300)
    ]
    for value in draws:  # 100 expected of each
        assert 60 < np.isclose(seen, value, rtol=1e-12).sum() < 140


def test_sampled_positives_of_the_other_losses() -> None:
    p = Problem(9)
    rows = losses.softmax(p.x, p.y, p.own, temperature=0.5, sample_seed=3, reduction="none")
    z = p.z(0.5).detach()
    every = torch.logsumexp(z, 1)  # the others stay in the denominator
    for b in np.flatnonzero(p.positives.any(1)):
        terms = (every[b] - z[b])[torch.from_numpy(p.positives[b])]
        assert (terms - rows[b].detach()).abs().min() < 1e-12
    assert rows[0].item() == 0.0
    k = torch.tensor([1, 2, 1, 2, 1, 2, 50])
    some = losses.soft_topk(p.x, p.y, p.own, k=k, sample_seed=3)
    again = losses.soft_topk(p.x, p.y, p.own, k=k, sample_seed=3)
    other = losses.soft_topk(p.x, p.y, p.own, k=k, sample_seed=4)
    assert some.item() == again.item() != other.item()
    from dexml.losses import pairs

    wanted = pairs.read(p.own, (7, 13), torch.device("cpu"), "positives", weight=p.own_weights)
    drawn, rest = pairs.draw(wanted, 3, k)
    assert drawn.counts.tolist() == torch.minimum(wanted.counts, k).tolist()
    both = pairs.merge(drawn, rest, 13)
    assert both.columns.tolist() == wanted.columns.tolist()
    dense_weights = p.weights[drawn.rows, drawn.columns]
    assert drawn.weight is not None
    assert torch.equal(drawn.weight, dense_weights)  # weights stay with their pairs
    with pytest.raises(ValueError, match="bce would train the positives"):
        losses.bce(p.x, p.y, p.own, sample_seed=1)


# Options of single losses


def test_k_of_each_row() -> None:
    p = Problem(4)
    k = torch.tensor([1, 2, 3, 4, 5, 12, 13])
    rows = losses.soft_topk(p.x, p.y, p.own, k=k, temperature=0.5, reduction="none")
    for b in range(7):
        expected = dense.soft_topk(p.z(0.5), p.positives, k=int(k[b]))[b]
        assert rows[b].item() == pytest.approx(expected.item(), rel=1e-9)


def test_bce_with_learned_scale_and_offset() -> None:
    p = Problem(4)
    log_scale = torch.tensor(0.3, dtype=F64, requires_grad=True)
    offset = torch.tensor([-2.0], dtype=F64, requires_grad=True)
    inputs = [p.x, p.y, p.bias, log_scale, offset]
    z = p.x @ p.y.T / 0.5 * log_scale.exp() + p.bias + offset
    expected = dense.bce(z, p.positives, p.ignore & ~p.positives).mean()
    for layout in (None, Layout(2, 4, keep=False)):
        actual = losses.bce(
            p.x,
            p.y,
            p.own,
            ignore=p.out,
            temperature=0.5,
            label_bias=p.bias,
            log_scale=log_scale,
            offset=offset,
            layout=layout,
        )
        assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
        assert_grads(actual, expected, inputs, 1e-11)
        only = torch.autograd.grad(actual, log_scale)[0]
        torch.testing.assert_close(
            only, torch.autograd.grad(expected, log_scale, retain_graph=True)[0]
        )
    assert torch.autograd.gradcheck(
        lambda a, b: losses.bce(p.x.detach(), p.y.detach(), p.own, log_scale=a, offset=b),
        (log_scale, offset),
    )


def test_weighted_negatives_equal_repeated_ones() -> None:
    """A negative of weight w counts like w copies of it; positives are not touched."""
    p = Problem(6)
    copies = torch.tensor([1, 3, 2, 1, 1, 4, 1, 1, 2, 1, 1, 1, 5])
    z = p.z(0.5)
    expected = z.new_zeros(())
    for b in range(len(z)):
        own = torch.from_numpy(p.positives[b])
        negatives = z[b].repeat_interleave(torch.where(own, 0, copies))
        terms = [torch.logsumexp(torch.cat([s[None], negatives]), 0) - s for s in z[b][own]]
        if terms:
            expected = expected + torch.stack(terms).mean() / len(z)
    for layout in LAYOUTS:
        actual = losses.decoupled_softmax(
            p.x,
            p.y,
            p.own,
            temperature=0.5,
            negative_log_weight=copies.to(F64).log(),
            layout=layout,
        )
        assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
        assert_grads(actual, expected, [p.x, p.y], 1e-11)


# Numbers


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


def test_a_pair_in_both_sets_is_a_positive_and_counted() -> None:
    p = Problem(3)
    both = csr_array((p.ignore | p.positives).astype(np.float32))
    for name in NAMES:
        a = ours(name)(p.x, p.y, p.own, ignore=both)
        b = ours(name)(p.x, p.y, p.own, ignore=csr_array(p.ignore & ~p.positives))
        assert a.item() == b.item()
    found = losses.counts(p.own, both, n_labels=13, k=3)
    assert found == {
        "rows_without_positives": int((p.positives.sum(1) == 0).sum()),
        "ignored_positives": int(p.positives.sum()),
        "rows_beyond_k": int((p.positives.sum(1) > 3).sum()),
    }
    assert losses.counts((torch.arange(3), torch.tensor([0, 0])), n_labels=1) == {
        "rows_without_positives": 0,
        "ignored_positives": 0,
    }


# Memory and autograd


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
    p = Problem(2, n_points=120, n_labels=300, dim=3)
    p.positives &= np.random.default_rng(0).random(p.positives.shape) < 0.02
    for layout, scores in ((Layout(8, 300, keep=True), 2400), (Layout(120, 20, False), 2400)):
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

    budget = 2**20
    sizes = ((256, 3000), (256, 12_000), (1500, 3000))
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


# Layout rule


def test_layout_rule() -> None:
    from dexml.losses.layout import choose

    cpu: dict[str, Any] = {"itemsize": 4, "copies": 2, "device": "cpu"}
    assert choose(256, 131_072, **cpu).keep
    assert not choose(256, 1_305_265, **cpu).keep
    assert choose(64, 192, **cpu) == Layout(64, 192, keep=True)
    assert not choose(256, 131_072, **cpu, may_keep=False).keep
    for n_points in (1, 63, 256, 16_384, 10**6):
        for n_labels in (1, 600, 131_072, 1_305_265):
            for copies in (2, 5):
                for scratch in (2**20, 2**26):
                    found = choose(
                        n_points,
                        n_labels,
                        itemsize=4,
                        copies=copies,
                        device="cpu",
                        scratch_bytes=scratch,
                    )
                    tile = found.chunk_rows * found.tile_labels
                    kept = found.chunk_rows * n_labels if found.keep else 0
                    assert 4 * (kept + (copies - found.keep) * tile) <= scratch
                    assert found.chunk_rows <= n_points
                    assert found.tile_labels <= n_labels


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"temperature": math.nan}, "temperature = nan"),
        ({"positives": csr_array(np.ones((7, 12)))}, r"positives: shape \(7, 12\), expected"),
        ({"ignore": csr_array(np.ones((6, 13)))}, r"ignore: shape \(6, 13\), expected"),
        ({"positives": (torch.arange(8), torch.full((7,), 13))}, "label 13 out of range"),
        ({"positives": (torch.arange(4), torch.arange(3))}, "indptr of length 4 for 7 points"),
        ({"positives": (torch.arange(8), torch.full((7,), -1))}, "label -1 out of range"),
        ({"positives": (torch.arange(8), torch.arange(9))}, "does not rise from 0 to 9"),
        (
            {"positives": (torch.tensor([0, 2] + [2] * 6), torch.tensor([4, 4]))},
            "positives: label 4 appears twice in row 0",
        ),
        ({"label_emb": torch.zeros(13, 4, dtype=F64)}, r"embeddings of shapes"),
        ({"label_emb": torch.zeros(13, 5).int(), "point_emb": torch.zeros(7, 5).int()}, "int32"),
        ({"label_bias": torch.zeros(3, dtype=F64)}, r"label_bias: shape \(3,\) for 13 labels"),
        ({"reduction": "sum"}, "reduction = 'sum'"),
        ({"scratch_bytes": 0}, "scratch_bytes = 0"),
        ({"weights": torch.ones(3)}, r"weights: shape \(3,\) for 22 positives"),
        ({"weights": torch.tensor([1.0] * 21 + [0.0])}, "weights: 0.0 at entry 21"),
        ({"shard": losses.Shard(0, 12, 13)}, r"labels 0..12, but label_emb has 13 rows"),
        ({"shard": losses.Shard(2, 15, 14)}, r"labels 2..15 of 14"),
        ({"negative_log_weight": torch.zeros(3)}, r"negative_log_weight: shape \(3,\) for 13"),
        ({"k": 0}, "k = 0"),
        ({"k": torch.tensor([1, 2])}, r"k: shape \(2,\) for 7 rows"),
        ({"k": torch.zeros(7, dtype=torch.int64)}, "k = 0"),
        ({"k": torch.ones(7)}, "k: dtype torch.float32"),
        ({"alpha": 0.0}, "alpha = 0.0"),
        ({"log_scale": torch.zeros(2)}, r"log_scale: shape \(2,\)"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    p = Problem(0)
    p.positives[:] = False
    p.positives.flat[np.random.default_rng(0).choice(91, 22, replace=False)] = True
    arguments: dict[str, Any] = {"point_emb": p.x, "label_emb": p.y, "positives": p.own} | change
    special = {"k": "soft_topk", "alpha": "soft_topk", "log_scale": "bce"}
    name = next((special[key] for key in change if key in special), "decoupled_softmax")
    with pytest.raises(ValueError, match=message):
        ours(name)(**arguments)


def test_an_unknown_argument_is_refused() -> None:
    p = Problem(0)
    with pytest.raises(TypeError, match="unknown argument 'temprature'"):
        ours("softmax")(p.x, p.y, p.own, temprature=1.0)
    with pytest.raises(ValueError, match=r"k = 2\.5"):
        ours("topk_hinge")(p.x, p.y, p.own, k=2.5)


def test_ids_in_any_order_and_weights_with_them() -> None:
    p = Problem(1)
    own = p.own
    order = np.concatenate(
        [np.arange(a, b)[::-1] for a, b in zip(own.indptr[:-1], own.indptr[1:], strict=True)]
    )
    reverse = (torch.from_numpy(own.indptr), torch.from_numpy(own.indices[order]))
    for name in NAMES[:4]:
        a = ours(name)(p.x, p.y, own, weights=p.own_weights)
        b = ours(name)(p.x, p.y, reverse, weights=p.own_weights[torch.from_numpy(order)])
        assert a.item() == b.item()
