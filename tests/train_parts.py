"""What a training starts from, for tests that look at a single step."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from dexml import train
from dexml.encoder import DualEncoder
from dexml.encoder.attention import packed_states, pooled
from dexml.train import TrainSettings, fit
from dexml.train.problem import Model, Problem


class Start(NamedTuple):
    """Arguments of the first `fit.fit` of a training: the selection, if there is one."""

    problem: Problem
    model: Model
    rows: NDArray[np.int64]
    validation_rows: NDArray[np.int64]


class Caught(BaseException):
    """Ends a training where it would begin to fit."""


def start_of(settings: TrainSettings) -> Start:
    """Prepare a training as `train` does, up to its first step."""
    found: list[Start] = []

    def stop(problem: Any, model: Any, rows: Any, validation_rows: Any, *rest: Any) -> Any:
        found.append(Start(problem, model.eval(), rows, validation_rows))
        raise Caught

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit, "fit", stop)
        with pytest.raises(Caught):
            train.train(settings)
    return found[0]


def features_packed64(self: DualEncoder, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`DualEncoder.features_packed`, the same way."""
    states = packed_states(self.transformer, ids, lengths)
    return normalize(pooled(states, lengths, "mean"), dim=1)


def features64(self: DualEncoder, ids: torch.Tensor) -> torch.Tensor:
    """`DualEncoder.features` without its way through float32."""
    return normalize(self.transformer(input_ids=ids).last_hidden_state.mean(dim=1), dim=1)
