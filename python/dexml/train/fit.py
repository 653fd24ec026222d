"""The training loop: one stage after the other, validated, saved, resumed.

Every random choice of a step is a function of (seed, stage, epoch, step), so that a run that goes
on after a checkpoint does what an unbroken one would do.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dexml import console
from dexml.run import folder as rundir
from dexml.train import checkpoint, processes, selection, shortlist, stages
from dexml.train.problem import Model, Problem
from dexml.train.schedule import parse_stages, rate, shortlist_due
from dexml.train.selection import REPORTED
from dexml.train.settings import TrainSettings
from dexml.train.step import Stage, batches, take_step

__all__ = ["REPORTED", "fit"]
LOG_STEPS = 100
"""Steps between lines of the log, in epochs that are much longer."""


def fit(
    problem: Problem,
    model: Model,
    rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
    epochs: dict[str, int],
    settings: TrainSettings,
    folder: Path,
    tell: Callable[[Mapping[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Run all stages on `rows`, and leave in `model` the best epoch on `validation_rows`.

    Goes on after the last checkpoint in `folder`, if there is one. Without validation points the
    last epoch is the best.

    Args:
        problem: The training part.
        model: At its start; changed in place.
        rows: Points to fit, ascending.
        validation_rows: Points to select on; may be empty.
        epochs: Number of epochs of each stage.
        settings: The settings of the run.
        folder: Where checkpoints are kept; its name is shown beside the progress.
        tell: Gets every line of the log as well, on the first process.

    Returns:
        The state at the best epoch; ``chosen`` holds the epochs of each stage that led to it.

    Raises:
        KeyboardInterrupt: Told to stop; the last step is saved.
        RuntimeError: The loss is no number, or another process is gone.
    """
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*"):  # half-written by a run that was killed
            left.unlink(missing_ok=True)
    names = parse_stages(settings.stages)
    state: dict[str, Any] = {
        "stage": "",
        "epoch": 0,
        "done": 0,
        "step": 0,
        "total": 0.0,
        "written": 0,
        "best": None,
        "chosen": {},
        "waited": 0,
        "shortlist": "",
    }
    found = checkpoint.newest(folder)
    last = None
    if found is not None:
        last, state = found
    if epochs.get("encoder", 0) and "encoder" in names:
        model.trained_layers = stages.tuned_layers(model.encoder, settings)
    with _asked_to_stop() as stop:
        for name in names:
            if not epochs.get(name, 0) or (
                state["stage"] and names.index(name) < names.index(state["stage"])
            ):
                continue
            # Where the stages before have been best, this one starts.
            before = checkpoint.load_best(folder, names[: names.index(name)], model)
            if (
                before is None and last is not None
            ):  # features are those of the encoder as it was at the start
                checkpoint.load(last, model, prefix="encoder.transformer.")
            stage = stages.make(name, problem, model, rows, settings)
            if last is not None and state["stage"] == name:
                checkpoint.load(last, model, stage)
            else:
                state = state | {"stage": name, "epoch": 0, "done": 0, "step": 0, "total": 0.0}
                state = state | {"waited": 0, "shortlist": ""}
            state = _run_stage(
                problem, stage, rows, validation_rows, epochs[name], folder, state, stop, tell
            )
    best = checkpoint.load_best(folder, names, model) if len(validation_rows) else None
    return state if best is None else best


def _run_stage(
    problem: Problem,
    stage: Stage,
    rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
    epochs: int,
    folder: Path,
    state: dict[str, Any],
    stop: Callable[[], bool],
    tell: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Run one stage from `state` on; each epoch ends with a validation and a checkpoint."""
    settings, model, optimizer = stage.settings, stage.model, stage.optimizer
    groups = [] if optimizer is None else list(optimizer.param_groups)
    groups += [] if stage.rows is None else stage.rows.param_groups
    peaks = [group.setdefault("peak", group["lr"]) for group in groups]
    n_batches = math.ceil(len(rows) / stage.batch_size)
    steps = epochs * n_batches
    started = saved = time.perf_counter()
    bar = tqdm(
        total=steps,
        initial=state["step"],
        desc=f"{folder.name}: {stage.name}",
        unit="step",
        disable=settings.quiet,
    )

    def log(**fields: Any) -> None:
        if processes.is_first():
            where = {"stage": folder.name, "phase": stage.name}
            seconds = round(time.perf_counter() - started, 3)
            tell(rundir.log(settings.out, **where, **fields, seconds=seconds))

    def save() -> None:
        nonlocal state, saved
        checkpoint.complete(stage)
        state = state | {"written": state["written"] + 1}
        checkpoint.save_last(folder, model, stage, state, settings.keep_checkpoints)
        saved = time.perf_counter()

    if stage.sampler.graph is not None and state["step"] == 0:
        log(event="label graph", **stage.sampler.graph.stats())
    if state["shortlist"]:
        stage.sampler.use_shortlist(shortlist.load(folder / state["shortlist"], len(rows)))
    while state["epoch"] < epochs and not 0 < settings.patience <= state["waited"]:
        epoch = state["epoch"] + 1
        if state["done"] == 0 and stage.sampler.wants_shortlist:
            state = _refresh_shortlist(problem, stage, rows, epoch, folder, state, log)
        stopping, batch_loss, lr = False, 0.0, 0.0
        all_batches = batches(rows, stage.batch_size, settings.seed, stage.number, epoch)
        for batch in all_batches[state["done"] :]:
            model.train()
            factor = rate(state["step"], steps, settings.warmup)
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * factor
            lr = groups[0]["lr"] if groups else 0.0
            due = time.perf_counter() - saved > 60 * settings.checkpoint_minutes
            flags = (float(stop()), float(due and processes.is_first()))
            with processes.watched():
                batch_loss, flags = take_step(stage, batch, epoch, state["step"], steps, flags)
            if not math.isfinite(batch_loss):
                rates = {"heads": "--head-lr, --residual-lr, --bias-lr", "encoder": "--encoder-lr"}
                raise RuntimeError(
                    f"the loss is {batch_loss} at step {state['step']} of stage {stage.name}; "
                    f"lower the learning rates ({rates[stage.name]})"
                )
            state = state | {
                "total": state["total"] + batch_loss * len(batch),
                "step": state["step"] + 1,
                "done": state["done"] + 1,
            }
            bar.set_postfix_str(f"loss {batch_loss:.3f}", refresh=False)
            bar.update()
            stopping = stopping or flags[0] > 0
            if state["done"] < n_batches:
                if state["done"] % LOG_STEPS == 0 and n_batches >= 2 * LOG_STEPS:
                    log(epoch=epoch, step=state["step"], steps=steps, loss=batch_loss, lr=lr)
                if stopping or flags[1]:
                    save()
                if stopping:
                    _stop(bar, state)
        entry: dict[str, Any] = {
            "epoch": epoch,
            "step": state["step"],
            "steps": steps,
            "loss": state["total"] / len(rows),
            "lr": lr,
            "candidates": stage.n_candidates,
        }
        state = state | {"epoch": epoch, "done": 0, "total": 0.0}
        checkpoint.complete(stage)
        with processes.watched():
            state = _validate(problem, stage, validation_rows, epochs, folder, state, entry)
        log(**entry)
        save()
        if stopping:
            _stop(bar, state)
    bar.close()
    return state


def _validate(
    problem: Problem,
    stage: Stage,
    validation_rows: NDArray[np.int64],
    epochs: int,
    folder: Path,
    state: dict[str, Any],
    entry: dict[str, Any],
) -> dict[str, Any]:
    """Score the model after an epoch if it is time; save it if it is the best."""
    settings, epoch = stage.settings, state["epoch"]
    if not len(validation_rows):
        return state | {"chosen": state["chosen"] | {stage.name: epoch}}
    if epoch % settings.evaluate_every and epoch != epochs:
        return state
    stage.model.eval()
    encoded = stage.encode(validation_rows)
    scores = selection.validate(problem, stage.model, encoded, validation_rows, settings)
    entry["validation"] = scores
    score = scores[settings.select]
    if state["best"] is not None and score <= state["best"]:
        return state | {"waited": state["waited"] + 1}
    state = state | {
        "best": score,
        "waited": 0,
        "chosen": state["chosen"] | {stage.name: epoch},
    }
    checkpoint.save(checkpoint.best_file(folder, stage.name), stage.model, None, state)
    return state


def _refresh_shortlist(
    problem: Problem,
    stage: Stage,
    rows: NDArray[np.int64],
    epoch: int,
    folder: Path,
    state: dict[str, Any],
    log: Callable[..., None],
) -> dict[str, Any]:
    """Search hard negatives before `epoch` if it is time; they are kept beside the checkpoint."""
    settings = stage.settings
    if not shortlist_due(epoch, settings.shortlist_start, settings.shortlist_every):
        return state
    stage.model.eval()
    with processes.watched():
        found = shortlist.mine(problem, stage.model, stage.encode(rows), rows, settings)
    name = f"shortlist-{stage.name}-{epoch}.npy"
    shortlist.save(folder / name, found)
    stage.sampler.use_shortlist(found)
    if processes.is_first():
        states = [checkpoint.read_state(path) for path in checkpoint.listed(folder)]
        used = {name, *(old["shortlist"] for old in states)}
        for path in folder.glob("shortlist-*.npy"):
            if path.name not in used:
                path.unlink()
    log(epoch=epoch, event="shortlist", **shortlist.statistics(found))
    return state | {"shortlist": name}


def _stop(bar: Any, state: dict[str, Any]) -> None:
    bar.close()
    if processes.is_first():
        console.say(f"stopped at step {state['step']} of {state['stage']}; resume with --resume")
    raise KeyboardInterrupt


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or Ctrl-C has come; the second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        for known, handler in before.items():
            signal.signal(known, handler)
        console.say("stopping after this step")

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
