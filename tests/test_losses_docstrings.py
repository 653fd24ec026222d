"""The lines of PyTorch in a loss's docstring compute what the loss computes.

The lines are read from the docstring itself, so they cannot drift from the code.
"""

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dexml import losses
from losses_problem import F64, NAMES, ours

OWN: dict[str, dict[str, Any]] = {
    "soft_topk": {"k": 3, "alpha": 1.5},
    "topk_hinge": {"k": 4},
    "bce": {
        "log_scale": torch.tensor(0.3, dtype=F64),
        "offset": torch.tensor(-2.0, dtype=F64),
    },
}


def lines(function: Callable[..., Any]) -> str:
    """The code block of a docstring, which follows right after its first line."""
    match = re.match(r".*\n\nThe same.*:\n\n((?: {4}.*\n|\n)+)", inspect.getdoc(function) or "")
    assert match is not None
    code = textwrap.dedent(match[1]).strip()
    assert len(code.splitlines()) <= 7
    return code


def run(function: Callable[..., Any], **names: Any) -> dict[str, Any]:
    """What the lines define."""
    scope = {
        "torch": torch,
        "F": torch.nn.functional,
        "soft_topk_operator": losses.soft_topk_operator,
        **names,
    }
    exec(lines(function), scope)
    return scope


@pytest.mark.parametrize("name", [*NAMES, "positive_hinge"])
def test_a_loss_is_what_its_lines_say(name: str) -> None:
    """Value, row losses and gradients; one point has no positive, one as many as fit."""
    generator = np.random.default_rng(0)
    x, y = (
        torch.from_numpy(generator.normal(size=size)).requires_grad_() for size in ((6, 4), (11, 4))
    )
    positives = generator.random((6, 11)) < 0.3
    positives[0], positives[1, 1:] = False, True
    arguments: dict[str, Any] = {"temperature": 0.5, **OWN.get(name, {})}
    own = csr_array(positives)
    said = run(
        ours(name),
        point_emb=x,
        label_emb=y,
        y=torch.from_numpy(positives).to(F64),
        **arguments,
    )
    loss = ours(name)(x, y, own, **arguments)
    rows = ours(name)(x, y, own, reduction="none", **arguments)
    torch.testing.assert_close(loss, said["loss"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows, said["rows"], rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(loss, [x, y]), torch.autograd.grad(said["loss"], [x, y]), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_the_operator_is_what_its_lines_say() -> None:
    x = 3 * torch.randn(5, 20, dtype=F64, generator=torch.Generator().manual_seed(0))
    for k, alpha in ((1, 1.0), (7, 2.0), (19, 0.5)):
        said = run(losses.soft_topk_operator, x=x, k=k, alpha=alpha)
        s, log_s = losses.soft_topk_operator(x, k, alpha=alpha)
        torch.testing.assert_close(s, said["s"], rtol=1e-10, atol=0)
        torch.testing.assert_close(log_s, said["log_s"], rtol=1e-10, atol=0)


def test_the_average_is_what_its_lines_say() -> None:
    rows = torch.rand(9, generator=torch.Generator().manual_seed(0))
    said: Tensor = run(losses.average_of_ranked, row_losses=rows, m=2, k=5)["loss"]
    assert torch.equal(losses.average_of_ranked(rows, m=2, k=5), said)


def test_same_group_is_what_its_lines_say() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(-3, 6, (40,), generator=generator)
    labels = torch.randint(-1, 9, (57,), generator=generator)
    said = run(losses.same_group, point_groups=points, label_groups=labels)
    indptr, indices = losses.same_group(points, labels)
    assert torch.equal(indices, said["labels"])
    assert torch.equal(torch.diff(indptr), torch.bincount(said["points"], minlength=40))
