"""The loss against its dense float64 twin: values, gradients, corners."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dexml import losses
from dexml.losses import decoupled_softmax

F64 = torch.float64


def dense_decoupled(z: Tensor, positives: np.ndarray, ignore: np.ndarray | None = None) -> Tensor:
    """The definition, one positive at a time: mean_p log(1 + sum_neg e^(z_n - z_p))."""
    total = z.new_zeros(())
    for b in range(z.shape[0]):
        is_positive = positives[b] > 0
        outside = is_positive if ignore is None else is_positive | (ignore[b] > 0)
        negatives = z[b][torch.from_numpy(~outside)]
        terms = [
            torch.logsumexp(torch.cat([z[b, p : p + 1], negatives]), 0) - z[b, p]
            for p in np.flatnonzero(is_positive)
        ]
        if terms:
            total = total + torch.stack(terms).mean()
    return total / z.shape[0]


def random_problem(
    seed: int, n_points: int = 7, n_labels: int = 13, dim: int = 5
) -> tuple[Tensor, Tensor, Tensor, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x, y = (generator.normal(size=(n, dim)) for n in (n_points, n_labels))
    bias = generator.normal(size=n_labels)
    positives = (generator.random((n_points, n_labels)) < 0.25).astype(np.float32)
    ignore = (generator.random((n_points, n_labels)) < 0.2).astype(np.float32)
    positives[0] = 0  # a point without positives
    positives[1] = 1  # one without negatives
    positives[-1, -1] = 1  # the last label is an ordinary one
    tensors = (torch.from_numpy(a).requires_grad_() for a in (x, y, bias))
    return (*tensors, positives, ignore)  # type: ignore[return-value]


@pytest.mark.parametrize("with_ignore", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_value_and_gradients_equal_the_dense_twin(
    monkeypatch: pytest.MonkeyPatch,
    with_ignore: bool,
    with_bias: bool,
    temperature: float,
    chunk: int,
) -> None:
    monkeypatch.setattr(losses, "SCRATCH_BYTES", 0)
    monkeypatch.setattr(losses, "MIN_CHUNK_ROWS", chunk)
    x, y, bias, positives, ignore = random_problem(3)
    inputs = [x, y, bias] if with_bias else [x, y]
    z = x @ y.T / temperature + (bias if with_bias else 0)
    expected = dense_decoupled(z, positives, ignore if with_ignore else None)
    actual = decoupled_softmax(
        x,
        y,
        csr_array(positives),
        ignore=csr_array(ignore) if with_ignore else None,
        temperature=temperature,
        label_bias=bias if with_bias else None,
    )
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(3 * actual, inputs),
        torch.autograd.grad(3 * expected, inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def test_weighted_negatives_equal_repeated_ones() -> None:
    """A negative of weight w counts like w copies of it; positives are not touched."""
    x, y, _, positives, _ = random_problem(6)
    copies = torch.tensor([1, 3, 2, 1, 1, 4, 1, 1, 2, 1, 1, 1, 5])
    z = x @ y.T / 0.5
    expected = z.new_zeros(())
    for b in range(len(z)):
        own = torch.from_numpy(positives[b] > 0)
        negatives = z[b].repeat_interleave(torch.where(own, 0, copies))
        terms = [torch.logsumexp(torch.cat([p[None], negatives]), 0) - p for p in z[b][own]]
        if terms:
            expected = expected + torch.stack(terms).mean() / len(z)
    actual = decoupled_softmax(
        x,
        y,
        csr_array(positives),
        temperature=0.5,
        negative_log_weight=copies.to(F64).log(),
    )
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def test_gradcheck() -> None:
    x, y, bias, positives, ignore = random_problem(5)
    assert torch.autograd.gradcheck(
        lambda x, y, bias: decoupled_softmax(
            x, y, csr_array(positives), ignore=csr_array(ignore), temperature=0.5, label_bias=bias
        ),
        (x, y, bias),
    )


def worked_row() -> tuple[Tensor, Tensor]:
    """One point whose scores are z = 2, 1, 0, -1, 0.5 (the reference row)."""
    z = torch.tensor([[2.0], [1.0], [0.0], [-1.0], [0.5]], dtype=F64, requires_grad=True)
    return torch.ones(1, 1, dtype=F64), z


def test_worked_row() -> None:
    x, z = worked_row()
    loss = decoupled_softmax(x, z, csr_array(np.array([[1, 0, 1, 0, 0]])), temperature=1.0)
    assert loss.item() == pytest.approx(1.1208745836, abs=5e-11)
    expected = [-0.1952699812, 0.3490993322, -0.4128142562, 0.0472454570, 0.2117394482]
    assert torch.autograd.grad(loss, z)[0].ravel().tolist() == pytest.approx(expected, abs=5e-11)


def test_worked_row_with_an_ignored_label() -> None:
    x, z = worked_row()
    ignore = csr_array(np.array([[0, 1, 0, 0, 0]]))
    positives = csr_array(np.array([[1, 0, 1, 0, 0]]))
    loss = decoupled_softmax(x, z, positives, ignore=ignore, temperature=1.0)
    assert loss.item() == pytest.approx(0.6727209510, abs=5e-11)
    assert torch.autograd.grad(loss, z)[0][1].item() == 0.0


def test_one_positive_is_the_plain_softmax() -> None:
    x, y, _, _, _ = random_problem(8)
    target = torch.arange(7)
    positives = (torch.arange(8), target)
    loss = decoupled_softmax(x, y, positives, temperature=0.3)
    expected = torch.nn.functional.cross_entropy(x @ y.T / 0.3, target)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_rows_of_gradient_sum_to_zero_and_positives_are_never_pushed_down() -> None:
    n_labels = 11
    z = torch.randn(4, n_labels, dtype=F64, generator=torch.Generator().manual_seed(1))
    z.requires_grad_()
    eye = torch.eye(n_labels, dtype=F64)
    positives = (np.random.default_rng(2).random((4, n_labels)) < 0.4).astype(np.float32)
    loss = decoupled_softmax(z, eye, csr_array(positives), temperature=1.0)
    gradient = torch.autograd.grad(loss, z)[0]
    assert gradient.sum(dim=1).abs().max() < 1e-15
    assert (gradient[torch.from_numpy(positives) > 0] <= 0).all()


def test_exactly_zero_without_positives_or_without_negatives() -> None:
    x, y, _, _, _ = random_problem(1, n_points=2)
    for positives in (np.zeros((2, 13)), np.ones((2, 13))):
        loss = decoupled_softmax(x, y, csr_array(positives), temperature=0.05)
        assert loss.item() == 0.0
        assert all((g == 0).all() for g in torch.autograd.grad(loss, (x, y)))


def test_extreme_scores_stay_finite_and_exact() -> None:
    """Negative at -150, positives at -200: the loss is 50, whatever a mask value would say."""
    z = torch.tensor([[-150.0], [-200.0], [-200.0]])
    loss = decoupled_softmax(torch.ones(1, 1), z, csr_array(np.array([[0, 1, 1]])), temperature=1.0)
    assert loss.item() == pytest.approx(50.0, rel=1e-6)
    z = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = decoupled_softmax(torch.ones(1, 1), z, csr_array(np.array([[0, 1]])), temperature=1.0)
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_float32_is_near_float64() -> None:
    x, y, _, positives, _ = random_problem(4, n_points=40, n_labels=301, dim=16)
    exact = decoupled_softmax(x, y, csr_array(positives), temperature=0.5)
    exact_grads = torch.autograd.grad(exact, (x, y))
    x32, y32 = (t.detach().float().requires_grad_() for t in (x, y))
    loss = decoupled_softmax(x32, y32, csr_array(positives), temperature=0.5)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    for ours, theirs in zip(torch.autograd.grad(loss, (x32, y32)), exact_grads, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_half_precision_embeddings_are_scored_in_float32() -> None:
    x, y, _, positives, _ = random_problem(4, n_points=9, n_labels=50, dim=8)
    x16, y16 = (t.detach().bfloat16().requires_grad_() for t in (x, y))
    loss = decoupled_softmax(x16, y16, csr_array(positives), temperature=0.05)
    exact = decoupled_softmax(x16.double(), y16.double(), csr_array(positives), temperature=0.05)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(value, x16)[0].double() for value in (loss, exact))
    assert (ours - theirs).norm() <= 1e-2 * theirs.norm()


def test_no_matrix_of_points_by_labels_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that the loss makes has chunk x L entries."""
    monkeypatch.setattr(losses, "SCRATCH_BYTES", 0)
    monkeypatch.setattr(losses, "MIN_CHUNK_ROWS", 8)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    x, y, _, positives, _ = random_problem(2, n_points=200, n_labels=500, dim=4)
    with Watch():  # type: ignore[no-untyped-call]
        decoupled_softmax(x, y, csr_array(positives)).backward()
    assert largest <= max(8 * 500, int(positives.sum()) + 500)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"temperature": math.nan}, "temperature = nan"),
        ({"positives": csr_array(np.ones((7, 12)))}, r"positives: shape \(7, 12\), expected"),
        ({"positives": (torch.arange(8), torch.full((7,), 13))}, "label 13 out of range"),
        ({"positives": (torch.arange(4), torch.arange(3))}, "indptr of length 4 for 7 points"),
        ({"positives": (torch.arange(8), torch.full((7,), -1))}, "label -1 out of range"),
        (
            {"positives": (torch.arange(8), torch.zeros(9, dtype=torch.int64))},
            "does not rise from 0 to 9",
        ),
        (
            {
                "positives": (
                    torch.tensor([0, 2, 2, 2, 2, 2, 2, 2]),
                    torch.zeros(2, dtype=torch.int64),
                )
            },
            "twice",
        ),
        ({"label_emb": torch.zeros(13, 4, dtype=F64)}, r"embeddings of shapes"),
        ({"negative_log_weight": torch.zeros(3)}, r"negative_log_weight: shape \(3,\) for 13"),
        ({"label_bias": torch.zeros(3, dtype=F64)}, r"label_bias: shape \(3,\) for 13 labels"),
    ],
)
def test_errors_name_the_argument(change: dict[str, object], message: str) -> None:
    x, y, _, positives, _ = random_problem(0)
    arguments = {"point_emb": x, "label_emb": y, "positives": csr_array(positives)} | change
    with pytest.raises(ValueError, match=message):
        decoupled_softmax(**arguments)
