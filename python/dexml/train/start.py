"""Where a training begins: with an encoder, or without."""

from __future__ import annotations

from collections.abc import Callable

from dexml import console
from dexml.metrics import Result
from dexml.threads import core_threads
from dexml.train.outcome import Finished
from dexml.train.settings import NO_ENCODER, TrainSettings


def train(
    settings: TrainSettings, conclude: Callable[[Finished], None] | None = None
) -> Result | None:
    """Train, save the run folder, and score the test part if the data set has one.

    With ``encoder = "none"`` a light training: words, a label tree and a ranker, in seconds and
    without torch (`dexml.train.light`); else the encoder's stages (`dexml.train.run`). Under
    torchrun, all processes call this; the first one writes, and scores the test part.

    Args:
        settings: The settings.
        conclude: Called by the first process before the run counts as finished; writes a report.

    Returns:
        The test scores with values per point, or None without a test part.

    Raises:
        FileExistsError: The run folder has a run and neither resume nor overwrite is set.
        ValueError: The data set or a setting is wrong; the message names file and line.
        KeyboardInterrupt: A signal came; the run can be resumed.
        RuntimeError: The loss is not finite, memory ran out, another process is gone, or another
            process trains or edits the run.
        OSError: The disk is full, or a file cannot be read.
        ImportError: A package that an encoder needs is missing.
    """
    with core_threads(settings.threads or None):
        return _train(settings, conclude)


def _train(settings: TrainSettings, conclude: Callable[[Finished], None] | None) -> Result | None:
    if settings.encoder == NO_ENCODER:
        from dexml.train.light import train_light

        return train_light(settings, conclude)
    try:
        console.require("train", "torch", "transformers", "safetensors")
    except ImportError as error:
        raise ImportError(f"{error}; or train without an encoder: --encoder none") from None
    from dexml.train.run import train_encoder  # brings torch

    return train_encoder(settings, conclude)
