"""The soft top-k operator and its solver: oracle numbers 1, 2 and 14."""

import math

import pytest
import torch
from torch import Tensor

import losses_reference as dense
from dexml import losses
from dexml.losses import threshold

F64 = torch.float64
AHLE = [-4.5951, -2.1972, -3.1781, 0.0, -1.1527]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def solved(x: Tensor, k: int, alpha: float) -> tuple[Tensor, int]:
    """t of each row of x, of the unshifted scores, and the number of passes."""
    y = alpha * (x - x.amax(dim=1, keepdim=True))
    rows = torch.full((len(x),), k)
    found = threshold.solve(
        lambda t, some, exact: threshold.measure(y if some is None else y[some], t, exact=exact),
        log_sum=torch.logsumexp(y, 1),
        lowest=y.amin(1),
        n_valid=torch.full_like(rows, x.shape[1]),
        k=rows,
        skip=torch.zeros_like(rows, dtype=torch.bool),
    )
    return found.t / alpha - x.amax(dim=1), found.passes


def test_2_published_values() -> None:
    s, log_s = losses.soft_topk_operator(torch.tensor(AHLE, dtype=F64), 3)
    assert s.tolist() == pytest.approx([0.1462, 0.6531, 0.4139, 0.9443, 0.8426], abs=5e-5)
    assert solved(torch.tensor([AHLE], dtype=F64), 3, 1.0)[0].item() == pytest.approx(
        2.83007, abs=5e-6
    )
    torch.testing.assert_close(log_s.exp(), s)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_2_properties_of_the_operator(k: int, alpha: float) -> None:
    generator = torch.Generator().manual_seed(k)
    x = 3 * torch.randn(20, 40, dtype=F64, generator=generator)
    s, _ = losses.soft_topk_operator(x, k, alpha=alpha)
    assert (s.sum(dim=1) - k).abs().max() < 1e-10
    assert s.min() > 0
    assert s.max() < 1
    assert torch.equal(torch.argsort(s, dim=1), torch.argsort(x, dim=1))
    order = torch.randperm(40, generator=generator)
    torch.testing.assert_close(
        losses.soft_topk_operator(x[:, order], k, alpha=alpha)[0], s[:, order], rtol=1e-10, atol=0
    )
    hard, _ = losses.soft_topk_operator(x, k, alpha=1e4)
    assert ((hard > 0.5).sum(dim=1) == k).all()


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_1_gradcheck_of_both_outputs(alpha: float) -> None:
    x = torch.randn(3, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    k = torch.tensor([1, 3, 5])
    assert torch.autograd.gradcheck(
        lambda x: losses.soft_topk_operator(x, k, alpha=alpha), (x,), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda x: losses.soft_topk_operator(x[0], 5, alpha=alpha), (x,), fast_mode=True
    )


def test_the_operator_is_differentiable_once() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    s, _ = losses.soft_topk_operator(x, 2)
    gradient = torch.autograd.grad((s**2).sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def rows_of_every_kind(n: int) -> dict[str, Tensor]:
    """Four rows each, in float32, as scores divided by the temperature."""
    generator = torch.Generator().manual_seed(n)
    normal = torch.randn(4, n, generator=generator)
    five = torch.full((4, n), -20.0)
    five[:, :5] = 20.0
    near = 0.05 * normal / 0.05
    near[:, :5] = 0.9 / 0.05
    signs = torch.where(normal > 0, 1e4, -1e4)
    cosines = torch.nn.functional.normalize(torch.randn(4, 64, generator=generator), dim=1)
    labels = torch.nn.functional.normalize(torch.randn(n, 64, generator=generator), dim=1)
    return {
        "normal": normal,
        "cosine": cosines @ labels.T / 0.05,
        "equal": torch.full((4, n), 3.7),
        "five stand out": five,
        "five at cosine .9": near,
        "+-1e4": signs,
    }


@pytest.mark.parametrize(
    ("n", "k"), [(1000, 1), (1000, 5), (1000, 100), (20_000, 1), (131_072, 5), (20_000, 100)]
)
def test_14_few_passes_and_the_loss_of_a_float64_bisection(n: int, k: int) -> None:
    for kind, x in rows_of_every_kind(n).items():
        alpha = 2.0
        x = x[: 1 if n > 1000 else 4]
        t, passes = solved(x, k, alpha)
        assert passes <= 25, kind
        for row in range(len(x)):
            exact = dense.bisect(x[row].double(), k, alpha)
            # The loss if the first, a middle and the lowest label were positives.
            wanted = torch.stack([x[row, 0], x[row].median(), x[row].min()]).double()
            # t in the solver's own frame: float32 holds x + t only to 6e-8 of their size.
            top = x[row].max().double()
            ours = -torch.nn.functional.logsigmoid(alpha * (wanted + t[row].double()))
            theirs = -torch.nn.functional.logsigmoid(alpha * (wanted + exact))
            spread = 1e-6 * torch.clamp(theirs, min=1.0) + 2e-7 * alpha * top.abs()
            assert ((ours - theirs).abs() <= spread).all(), (kind, ours, theirs)


def test_14_the_plateau_is_no_stopping_place() -> None:
    """Five labels at cosine .9, a positive at .1: exact loss 42.5957 although h is flat."""
    generator = torch.Generator().manual_seed(0)
    x = 0.05 * torch.randn(1, 1000, generator=generator)
    x[0, :5], x[0, 5] = 0.9, 0.1
    for dtype, tolerance in ((torch.float32, 1e-6), (F64, 1e-12)):
        scores = (x.to(dtype) / 0.02).requires_grad_()
        eye = torch.eye(1000, dtype=dtype)
        own = (torch.tensor([0, 1]), torch.tensor([5]))
        loss = losses.soft_topk(scores, eye, own, temperature=1.0)
        row = scores[0].detach().double()
        t = dense.bisect(row, 5, 2.0)
        expected = -torch.nn.functional.logsigmoid(2 * (row[5] + t))
        assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
        assert torch.isfinite(torch.autograd.grad(loss, scores)[0]).all()
    assert 20 < expected < 60


@pytest.mark.parametrize("n", [131_073, 1_305_265])
def test_14_flat_rows_of_very_many_labels(n: int) -> None:
    """The bracket of the original gives 5.95 and 59.3 for these sums."""
    x = torch.full((1, n), 0.3)
    y = 2.0 * (x - 0.3)
    t, passes = solved(x, 5, 2.0)
    assert passes == 1
    assert torch.sigmoid(y.double() + 2 * (t + 0.3)).sum().item() == pytest.approx(5, rel=1e-5)


def test_14_flat_scores_in_the_loss() -> None:
    """The same through the tiles: every label has the same score."""
    x, y = torch.ones(2, 1), torch.full((131_073, 1), 0.3, requires_grad=True)
    own = (torch.tensor([0, 1, 3]), torch.tensor([0, 7, 131_072]))
    loss = losses.soft_topk(x, y, own, temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(5 / 131_073), rel=1e-6)
    assert torch.autograd.grad(loss, y)[0].sum().item() == pytest.approx(0, abs=1e-5)


def test_scores_that_underflow_are_measured_again() -> None:
    """Both sides of the balance vanish: A and C are kept as logarithms."""
    x = torch.tensor([[900.0, 0.0, -700.0, -701.0], [3.0, 2.0, 1.0, 0.0]])
    for dtype in (torch.float32, F64):
        rows = x.to(dtype).requires_grad_()
        _, log_s = losses.soft_topk_operator(rows, 2, alpha=1.0)
        for row in range(2):
            t = dense.bisect(x[row].double(), 2, 1.0)
            expected = torch.nn.functional.logsigmoid(x[row].double() + t)
            torch.testing.assert_close(
                log_s[row].detach().double(), expected, rtol=1e-6, atol=1e-30
            )
        gradient = torch.autograd.grad(log_s[0, 2], rows)[0][0]
        # t lies half-way between the second score and the third, and follows both in halves; the
        # fourth is e^-1 as near as the third.
        share = 1 / (1 + math.exp(-1))
        expected = torch.tensor([0.0, -0.5, 1 - share / 2, (share - 1) / 2], dtype=dtype)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "k", "alpha", "message"),
    [
        (torch.zeros(2, 3, 4), 1, 1.0, r"x: shape \(2, 3, 4\)"),
        (torch.zeros(3).int(), 1, 1.0, "x: dtype torch.int32"),
        (torch.zeros(3), 3, 1.0, "k = 3 of 3 entries"),
        (torch.zeros(3), 0, 1.0, "k = 0"),
        (torch.zeros(2, 3), torch.tensor([1]), 1.0, r"k: shape \(1,\) for 2 rows"),
        (torch.zeros(3), 1, 0.0, "alpha = 0.0"),
    ],
)
def test_errors_of_the_operator(x: Tensor, k: int | Tensor, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.soft_topk_operator(x, k, alpha=alpha)
