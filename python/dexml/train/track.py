"""Send the lines of ``log.jsonl`` to TensorBoard and Weights & Biases too.

tensorboardX writes the TensorBoard files: 0.7 MB and protobuf. The package ``tensorboard``, which
`torch.utils.tensorboard` needs, is the server as well and brings grpc, pillow, werkzeug and more.
``tensorboard --logdir RUN/tensorboard`` shows the files of either.
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
from dexml.files import write_bytes

Track = Callable[[Mapping[str, Any]], None]
MODES = ("online", "offline")
_GROUP = ("fit", "stage", "event")
"""Fields that name the group of a line: its curves are its own, and so are its steps."""
_NOT_CURVES = (*_GROUP, "time", "epoch", "step", "steps")
"""All other numbers of a line are curves."""


@contextmanager
def trackers(
    folder: Path,
    *,
    tensorboard: bool = False,
    wandb: str = "",
    wandb_mode: str = "online",
    config: Mapping[str, Any] | None = None,
) -> Iterator[Track]:
    """Open the trackers asked for and yield a function that sends them a line of the log.

    Call it in one process of a job only. Leaving the block flushes what was sent, also after an
    error.

    Args:
        folder: The run folder; files go to ``tensorboard/`` and ``wandb/`` in it.
        tensorboard: Write event files.
        wandb: Name of the W&B project; empty: none. A resumed run continues the same W&B run.
        wandb_mode: ``"online"``, or ``"offline"`` for files that ``wandb sync`` sends later.
        config: Settings shown with a W&B run.

    Raises:
        ImportError: A package is missing; the message names the extra.
        ValueError: An unknown mode.
    """
    if wandb_mode not in MODES:
        raise ValueError(f"wandb_mode = '{wandb_mode}'; expected one of {', '.join(MODES)}")
    # Both before anything is opened, so that nothing is left behind.
    if tensorboard:
        console.require("tensorboard", "tensorboardX")
    if wandb:
        console.require("wandb", "wandb")
    with ExitStack() as stack:
        sinks: list[Track] = []
        if tensorboard:
            sinks.append(stack.enter_context(_tensorboard(folder / "tensorboard")))
        if wandb:
            sinks.append(stack.enter_context(_wandb(folder, wandb, wandb_mode, config or {})))

        def track(line: Mapping[str, Any]) -> None:
            for sink in sinks:
                sink(line)

        yield track


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line by tag: ``{"selection/heads/validation/P@1": 0.4, ...}``.

    The tag begins with the group of the line, because steps count from 0 in each group.
    """
    return {
        f"{_prefix(line)}/{name}": value
        for key, one in line.items()
        if key not in _NOT_CURVES
        for name, value in _numbers(key, one)
    }


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Track]:
    writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder))

    def track(line: Mapping[str, Any]) -> None:
        step, time = line.get("step"), line.get("time")
        for tag, value in scalars(line).items():
            # The writer replaces other characters by itself, but "P@1" would become "P_1".
            tag = re.sub(r"[^-/\w.]", "_", tag.replace("@", "_at_"))
            writer.add_scalar(tag, value, global_step=step, walltime=time)
        writer.flush()  # so that a killed job leaves what it has sent

    try:
        yield track
    finally:
        writer.close()


@contextmanager
def _wandb(folder: Path, project: str, mode: str, config: Mapping[str, Any]) -> Iterator[Track]:
    module = importlib.import_module("wandb")
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    run_id = folder / "wandb" / "run_id.txt"  # a resumed training finds its run by it
    if not run_id.exists():
        write_bytes(run_id, secrets.token_hex(4).encode())
    run = module.init(
        project=project,
        id=run_id.read_text(encoding="utf-8").strip(),
        resume="allow",
        name=folder.resolve().name,
        dir=str(folder),
        mode=mode,
        config=dict(config),
    )
    defined: set[str] = set()

    def track(line: Mapping[str, Any]) -> None:
        values = scalars(line)
        if isinstance(line.get("step"), int):
            # W&B wants a step that only grows, and ours starts again in each group: each has its
            # own.
            prefix = _prefix(line)
            if prefix not in defined:
                run.define_metric(f"{prefix}/step")
                run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")
                defined.add(prefix)
            values[f"{prefix}/step"] = line["step"]
        if values:
            run.log(values)

    exit_code = 1
    try:
        yield track
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)


def _prefix(line: Mapping[str, Any]) -> str:
    return "/".join(str(line[name]) for name in _GROUP if line.get(name)) or "training"


def _numbers(name: str, value: Any) -> list[tuple[str, float]]:
    """Name and value of a number, or of the numbers in an object."""
    if isinstance(value, Mapping):
        return [pair for key, one in value.items() for pair in _numbers(f"{name}/{key}", one)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    return [(name, value)]
