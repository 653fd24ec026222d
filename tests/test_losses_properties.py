"""Properties, options and sampled positives of the losses; numbers in names: the oracle list."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import normalize

import losses_reference as dense
from dexml import losses
from dexml.losses import Layout
from losses_problem import F64, LAYOUTS, Problem, assert_grads, ours


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "name", ["softmax", "decoupled_softmax", "soft_topk", "topk_hinge", "triplet"]
)
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
    """50 free logits a row, five positives, the first starts ahead: Adam, at a high rate."""
    n_rows = len(ends)
    z = torch.zeros(n_rows, 50, dtype=F64)
    z[:, 0] = 3.0
    z.requires_grad_()
    eye = torch.eye(50, dtype=F64)
    own = (5 * torch.arange(n_rows + 1), torch.arange(5).repeat(n_rows))
    optimizer = torch.optim.Adam([z], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        ours(name)(z, eye, own, temperature=1.0, check=False, **options).backward()
        optimizer.step()
    rows = ours(name)(z, eye, own, temperature=1.0, reduction="none", **options)
    assert rows.tolist() == pytest.approx(ends, abs=1e-3)
    if name == "softmax":
        assert torch.softmax(z.detach(), 1)[0, :5].tolist() == pytest.approx([0.2] * 5, abs=1e-3)


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

    wanted = pairs.read(p.own, (7, 13), "positives", weight=p.own_weights)
    drawn, rest = pairs.draw(wanted, 3, k)
    assert drawn.counts.tolist() == torch.minimum(wanted.counts, k).tolist()
    both = pairs.merge(drawn, rest, 13)
    assert both.columns.tolist() == wanted.columns.tolist()
    dense_weights = p.weights[drawn.rows, drawn.columns]
    assert drawn.weight is not None
    assert torch.equal(drawn.weight, dense_weights)  # weights stay with their pairs
    with pytest.raises(ValueError, match="bce would train the positives"):
        losses.bce(p.x, p.y, p.own, sample_seed=1)


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


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_a_dynamic_margin_has_the_gradient_of_its_least_value(temperature: float) -> None:
    """PRIME's clip(|s_p - s_n|, 0.1, 0.3) of dot products, without a gradient of its own."""
    p = Problem(4, n_points=6, n_labels=40)
    x, y = (normalize(t.detach(), dim=1).requires_grad_() for t in (p.x, p.y))
    s = x @ y.T
    rows, active = [], 0
    for b, own in enumerate(torch.from_numpy(p.positives)):
        out = torch.from_numpy(p.ignore[b]) | own
        terms = [s.sum() * 0]
        for positive in s[b][own]:
            negatives = s[b][~out]
            margin = (positive - negatives).abs().clamp(0.1, 0.3).detach()
            gap = negatives - positive + margin
            share = torch.softmax(negatives[gap > 0].detach() / temperature, dim=0)
            terms.append((share * gap[gap > 0]).sum() / temperature)
            active += int((margin[gap > 0] > 0.1).sum())
        rows.append(torch.stack(terms).sum() / max(1, int(own.sum())))
    assert active > 50  # many margins are larger
    options: Any = {"ignore": p.out, "temperature": temperature, "margin": 0.1 / temperature}
    loss = losses.triplet(x, y, p.own, **options)
    expected = torch.stack(rows).mean()
    assert abs(float(loss.detach() - expected.detach())) > 1e-3  # the value is another
    assert_grads(loss, expected, [x, y], 1e-11)


def test_triplet_lets_go_of_what_is_right() -> None:
    """No gradient where every positive wins by the margin; else of the nearest negatives alone."""
    z = torch.tensor([[5.0, 2.9, 1.0, -3.0, 4.0]], dtype=F64, requires_grad=True)
    eye, own = torch.eye(5, dtype=F64), csr_array(np.array([[1, 0, 0, 0, 0]]))
    ignore = csr_array(np.array([[0, 0, 0, 0, 1]]))
    loss = losses.triplet(z, eye, own, ignore=ignore, temperature=1.0)
    assert loss.item() == 0.0
    assert (torch.autograd.grad(loss, z)[0] == 0).all()
    loss = losses.triplet(z, eye, own, ignore=ignore, temperature=1.0, margin=4.5)
    share = torch.softmax(torch.tensor([2.9, 1.0], dtype=F64), 0)
    assert loss.item() == pytest.approx(float(share @ torch.tensor([2.4, 0.5], dtype=F64)))
    expected = torch.tensor([[-1.0, *share.tolist(), 0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_positive_hinge_equals_its_twin(layout: Layout | None) -> None:
    p = Problem(2)
    for temperature in (1.0, 0.3):
        loss = losses.positive_hinge(
            *(p.x, p.y, p.own),
            label_bias=p.bias,
            weights=p.own_weights,
            temperature=temperature,
            layout=layout,
        )
        z = p.z(temperature, with_bias=True)
        expected = dense.positive_hinge(z, p.positives, weights=p.weights).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert_grads(loss, expected, [p.x, p.y, p.bias], 1e-11)
    for function in (losses.triplet, losses.positive_hinge):
        with pytest.raises(ValueError, match=r"margin = 0\.0; expected a number above 0"):
            function(p.x, p.y, p.own, margin=0.0)
