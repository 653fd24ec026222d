"""Watching a training elsewhere: TensorBoard and W&B get the lines that ``log.jsonl`` gets.

TensorBoard files are written by tensorboardX: a writer that comes with 0.7 MB and protobuf, where
the package ``tensorboard`` (which `torch.utils.tensorboard` needs) is the server too and brings
grpc, pillow, werkzeug and more. ``tensorboard --logdir RUN/tensorboard`` shows the files of either.
"""

from __future__ import annotations

import importlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dexml import console

Track = Callable[[Mapping[str, Any]], None]
MODES = ("online", "offline")
_PLACE = ("time", "fit", "stage", "event", "epoch", "step", "steps")
"""Fields of a line that say where it belongs; all others that are numbers are curves."""


@contextmanager
def trackers(
    folder: Path,
    *,
    tensorboard: bool = False,
    wandb: str = "",
    wandb_mode: str = "online",
    config: Mapping[str, Any] | None = None,
) -> Iterator[Track]:
    """Open what was asked for; the function given takes every line of the log.

    Call it in one process of a job only. What it has taken is flushed when the block ends, also
    by an error.

    Args:
        folder: The run directory; files go to ``tensorboard/`` and ``wandb/`` in it.
        tensorboard: Write event files.
        wandb: Name of the W&B project; empty: none. A resumed run goes on in the same W&B run.
        wandb_mode: ``"online"``, or ``"offline"`` for files that ``wandb sync`` sends later.
        config: Settings shown with a W&B run.

    Raises:
        ImportError: A package is missing; the message names the extra.
        ValueError: An unknown mode.
    """
    if wandb_mode not in MODES:
        raise ValueError(f"wandb_mode = '{wandb_mode}'; expected one of {', '.join(MODES)}")
    if tensorboard:  # before anything is opened
        console.require("tensorboard", "tensorboardX")
    if wandb:
        console.require("wandb", "wandb")
    with ExitStack() as open_ones:
        sinks: list[Track] = []
        if tensorboard:
            sinks.append(open_ones.enter_context(_tensorboard(folder / "tensorboard")))
        if wandb:
            sinks.append(open_ones.enter_context(_wandb(folder, wandb, wandb_mode, config or {})))

        def track(line: Mapping[str, Any]) -> None:
            for sink in sinks:
                sink(line)

        yield track


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a line by tag: ``{"selection/heads/validation/P@1": 0.4, ...}``.

    Fit and stage (or the event) come first, because steps count from 0 in each of them.
    """
    return {
        f"{_prefix(line)}/{name}": value
        for key, one in line.items()
        if key not in _PLACE
        for name, value in _numbers(key, one)
    }


def postfix(
    *,
    step: int,
    steps: int,
    seconds: float,
    loss: float,
    lr: float | None = None,
    tokens: int = 0,
    begun: int = 0,
) -> str:
    """Say how it goes, behind the bar: ``loss 3.214, lr 8.1e-04, 41k tokens/s, 2 min 05 s left``.

    Args:
        step: Steps done.
        steps: Steps in all.
        seconds: Time since this process began to train.
        loss: Loss of the last step, or a running mean.
        lr: Learning rate of the last step.
        tokens: Tokens encoded in this time; 0: none are.
        begun: Steps that were done before, by the run that is resumed.
    """
    parts = [f"loss {loss:.4g}"]
    if lr is not None:
        parts.append(f"lr {lr:.1e}")
    if tokens and seconds > 0:
        rate = tokens / seconds
        parts.append(f"{rate / 1000:.3g}k tokens/s" if rate >= 1000 else f"{rate:.0f} tokens/s")
    done = step - begun
    if done > 0 and seconds > 0 and step < steps:
        parts.append(f"{console.duration(seconds * (steps - step) / done)} left")
    return ", ".join(parts)


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Track]:
    writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder))

    def track(line: Mapping[str, Any]) -> None:
        step, time = line.get("step"), line.get("time")
        for tag, value in scalars(line).items():
            # The writer allows no other characters; "P@1" would become "P_1".
            tag = re.sub(r"[^-/\w.]", "_", tag.replace("@", "_at_"))
            writer.add_scalar(tag, value, global_step=step, walltime=time)
        writer.flush()  # a killed job leaves what it has told

    try:
        yield track
    finally:
        writer.close()


@contextmanager
def _wandb(folder: Path, project: str, mode: str, config: Mapping[str, Any]) -> Iterator[Track]:
    module = importlib.import_module("wandb")
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    known = folder / "wandb" / "run_id.txt"
    if not known.exists():
        known.write_text(secrets.token_hex(4), encoding="utf-8")
    run = module.init(
        project=project,
        id=known.read_text(encoding="utf-8").strip(),
        resume="allow",
        name=folder.resolve().name,
        dir=str(folder),
        mode=mode,
        config=dict(config),
    )
    defined: set[str] = set()

    def track(line: Mapping[str, Any]) -> None:
        found: dict[str, float] = dict(scalars(line))
        if isinstance(line.get("step"), int):
            # W&B wants a step that only grows, and ours begins again: each stage has its own.
            prefix = _prefix(line)
            if prefix not in defined:
                run.define_metric(f"{prefix}/step")
                run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")
                defined.add(prefix)
            found[f"{prefix}/step"] = line["step"]
        if found:
            run.log(found)

    failed = 1
    try:
        yield track
        failed = 0
    finally:
        run.finish(exit_code=failed)


def _prefix(line: Mapping[str, Any]) -> str:
    place = [str(line[name]) for name in ("fit", "stage", "event") if line.get(name)]
    return "/".join(place) or "training"


def _numbers(name: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [pair for key, one in value.items() for pair in _numbers(f"{name}/{key}", one)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    return [(name, value)]
