"""Where a training begins: with an encoder, or without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dexml import console, data
from dexml.metrics import Result
from dexml.threads import core_threads
from dexml.train.folder import data_beside, may_replace_data
from dexml.train.outcome import Finished
from dexml.train.settings import NO_ENCODER, TrainSettings, reading_option

if TYPE_CHECKING:  # serving is not needed to train
    from dexml.predict import Predictor

Conclude = Callable[[Finished], None]
"""Called before the run counts as finished; writes a report."""


@overload
def train(given: TrainSettings, conclude: Conclude | None = None) -> Result | None: ...


@overload
def train(
    given: data.Dataset | str | os.PathLike[str],
    conclude: Conclude | None = None,
    *,
    out: str | os.PathLike[str],
    **settings: Any,
) -> Predictor: ...


def train(
    given: TrainSettings | data.Dataset | str | os.PathLike[str],
    conclude: Conclude | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Result | Predictor | None:
    """Train, save the run folder, and score the test part if the data set has one.

    With ``encoder = "none"`` a light training: words, a label tree and a ranker, in seconds and
    without torch (`dexml.train.light`); else the encoder's stages (`dexml.train.run`). Under
    torchrun, all processes call this; the first one writes, and scores the test part.

    Args:
        given: Settings; or a data set: of `dexml.data.from_table`, `load_dataset`, or a folder in
            the LF layout. One in memory is written to ``OUT.data`` beside the run.
        conclude: Called by the first process before the run counts as finished; writes a report.
        out: The run folder, with a data set.
        settings: Other fields of `TrainSettings`, with a data set.

    Returns:
        With settings: the test scores with values per point, or None without a test part. With a
        data set: the run, opened (the scores are in its ``metrics.json``).

    Raises:
        TypeError: `out` is missing, or given beside settings.
        FileExistsError: The run folder has a run and neither resume nor overwrite is set.
        ValueError: The data set or a setting is wrong (the message names file and line), or a
            setting says how a table is read, which a data set is not.
        KeyboardInterrupt: A signal came; the run can be resumed.
        RuntimeError: The loss is not finite, memory ran out, another process is gone, or another
            process trains or edits the run.
        OSError: The disk is full, or a file cannot be read.
        ImportError: A package that an encoder needs is missing.
    """
    if isinstance(given, TrainSettings):
        if out is not None or settings:
            raise TypeError("settings and more settings; give one of them")
        with core_threads(given.threads or None):
            return _train(given, conclude)
    if out is None:
        raise TypeError("out is missing; give the folder of the run")
    from dexml.predict import Predictor

    with core_threads(settings.get("threads") or None):
        _train(_settings_of(given, Path(out), settings), conclude)
        return Predictor.open(out)


def _settings_of(
    given: data.Dataset | str | os.PathLike[str], out: Path, settings: dict[str, Any]
) -> TrainSettings:
    """Return the settings of a training on a data set, which is written if it is in memory."""
    if not isinstance(given, data.Dataset):
        folder = Path(given)
        if folder.is_file():
            raise ValueError(f"{folder}: a file; give dexml.data.from_table({str(folder)!r})")
        return _read_already(TrainSettings(data_dir=folder, out=out, **settings))
    folder = data_beside(out)
    # Before anything is written.
    checked = _read_already(TrainSettings(data_dir=folder, out=out, **settings))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "a data set in memory and several processes; write it once "
            "(dexml.data.folder_from_dataset) and give the folder"
        )
    data.folder_from_dataset(folder, given, anew=may_replace_data(checked))
    return checked


def _read_already(settings: TrainSettings) -> TrainSettings:
    """Refuse settings that say how a table is read: a data set is none."""
    if (name := reading_option(settings)) is not None:
        raise ValueError(
            f"{name} is for tables, and the data set is none; read the table with "
            "dexml.data.from_table"
        )
    return settings


def _train(settings: TrainSettings, conclude: Conclude | None) -> Result | None:
    if settings.encoder == NO_ENCODER:
        from dexml.train.light import train_light

        return train_light(settings, conclude)
    try:
        console.require("train", "torch", "transformers", "safetensors")
    except ImportError as error:
        raise ImportError(f"{error}; or train without an encoder: --encoder none") from None
    from dexml.train.run import train_encoder  # brings torch

    return train_encoder(settings, conclude)
