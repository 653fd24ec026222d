"""The trainer's table of losses, and the loss of a step that it leads to."""

import inspect
from typing import Any

import pytest
import torch

from dexml import losses
from dexml.encoder import LabelTable
from dexml.train.objective import objective
from dexml.train.problem import Model
from dexml.train.schedule import LOSSES, Loss, longest, parse_loss
from dexml.train.settings import TrainSettings

SHARED = {
    *("point_emb", "label_emb", "positives", "ignore", "temperature", "label_bias"),
    *("weights", "sample_seed", "reduction", "options"),
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_table_lists_what_a_loss_takes(loss: Loss) -> None:
    """All that the function takes beyond the shared arguments comes from the trainer."""
    function = getattr(losses, loss.function)
    assert set(inspect.signature(function).parameters) - SHARED == set(loss.takes)
    (part,) = parse_loss(loss.example)
    assert part == (0.0, loss, 5 if "k" in loss.takes else None)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_loss_that_trains_undrawn_positives_is_marked(loss: Loss) -> None:
    function = getattr(losses, loss.function)
    if "sample_seed" not in inspect.signature(function).parameters:
        return
    x, own = torch.eye(2), (torch.arange(3), torch.arange(2))
    try:
        function(x, x, own, sample_seed=0)
    except ValueError:
        assert loss.all_positives
    else:
        assert not loss.all_positives


EXPECTED: dict[str, dict[str, Any]] = {
    "decoupled": {"negative_log_weight": torch.tensor([-0.3, 0.0, 0.4, 1.0])},
    "softmax": {},
    "soft-top-2": {"k": 2, "alpha": 1.5},
    "bce": {"log_scale": torch.tensor(0.7), "offset": torch.tensor(-2.0), "temperature": 0.3},
    "topk-hinge-3": {"k": 3},
    "triplet": {"margin": 0.1 / (0.3 / float(torch.tensor(0.7).exp()))},
}


@pytest.mark.parametrize("text", EXPECTED)
def test_the_objective_is_the_loss_with_what_it_takes(text: str) -> None:
    """All losses but bce go on with the scale that bce has learned."""
    settings = TrainSettings.model_validate(
        {"data_dir": "data", "out": "run", "alpha": 1.5, "temperature": 0.3}
    )
    encoder: Any = torch.nn.Identity()
    model = Model(encoder, LabelTable(torch.zeros(4, dtype=torch.int64), 3))
    model.log_scale.data.fill_(0.7)
    model.offset.data.fill_(-2.0)
    model.log_scale.grad = torch.ones(())
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 3, generator=generator), torch.randn(4, 3, generator=generator)
    bias = torch.randn(4, generator=generator)
    positives = torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 3])
    ignore = torch.tensor([0, 0, 1, 1]), torch.tensor([1])
    log_weight = EXPECTED["decoupled"]["negative_log_weight"]
    (part,) = parse_loss(text)
    value = objective(
        part, model, x, y, positives, ignore, bias, log_weight, settings, {"check": True}
    )
    own = {"temperature": model.served_temperature(0.3), **EXPECTED[text]}
    function = getattr(losses, part.loss.function)
    assert torch.equal(value, function(x, y, positives, ignore=ignore, label_bias=bias, **own))
    assert model.log_scale.grad is None


def test_the_longest_loss_stands_for_a_stage() -> None:
    assert longest(parse_loss("decoupled, softmax from 0.3, bce from 0.9")).loss.name == "softmax"
    assert longest(parse_loss("decoupled, softmax from 0.5")).loss.name == "decoupled"
