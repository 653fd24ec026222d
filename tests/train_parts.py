"""What a training starts from, for tests that look at a single step."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dexml import train
from dexml.encoder import DualEncoder
from dexml.encoder.attention import packed_states, pooled
from dexml.train import TrainSettings, fit
from dexml.train.problem import Job


class Caught(BaseException):
    """Ends a training where it would begin to fit."""


def start_of(settings: TrainSettings) -> Job:
    """The first job of a training, as `train` prepares it: the selection, if there is one."""
    found: list[Job] = []

    def stop(job: Job, *rest: Any) -> Any:
        job.model.eval()
        found.append(job)
        raise Caught

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit, "fit", stop)
        with pytest.raises(Caught):
            train.train(settings)
    return found[0]


def start_in_float64(settings: TrainSettings) -> Job:
    """`start_of` in float64, with made-up biases; `features64` makes the encoder follow."""
    job = start_of(settings)
    problem, model = job.problem, job.model
    model.double()
    with torch.no_grad():
        model.table.bias.copy_(torch.linspace(-1, 1, len(model.table.bias)))
    if problem.features is not None:
        wide = tuple(part.astype(np.float64) for part in problem.features)
        object.__setattr__(problem, "features", wide)
    return job


def features_packed64(self: DualEncoder, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`DualEncoder.features_packed`, the same way."""
    states = packed_states(self.transformer, ids, lengths)
    return normalize(pooled(states, lengths, "mean"), dim=1)


def features64(self: DualEncoder, ids: torch.Tensor) -> torch.Tensor:
    """`DualEncoder.features` without its way through float32."""
    return normalize(self.transformer(input_ids=ids).last_hidden_state.mean(dim=1), dim=1)
