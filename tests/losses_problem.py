"""A problem with rows of every kind, for the tests of the losses, and how to compare gradients."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

import losses_reference as dense
from dexml import losses
from dexml.losses import Layout

F64 = torch.float64
NAMES = ("softmax", "decoupled_softmax", "bce", "soft_topk", "topk_hinge", "triplet")
LAYOUTS = (
    None,
    Layout(3, 5, keep=True),
    Layout(3, 5, keep=False),
    Layout(7, 1, keep=False),
    Layout(1, 64, keep=True),
)


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
