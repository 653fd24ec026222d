"""The training loop: one stage after the other, validated, saved, resumed.

Every random choice of a step is a function of (seed, stage, epoch, step). So a run that goes on
after a checkpoint does what an unbroken one would have done.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.run import folder as rundir
from dexml.train import checkpoint, clusters, processes, selection, shortlist, stages
from dexml.train.checkpoint import Progress
from dexml.train.problem import Job
from dexml.train.schedule import rate, stage_schedules
from dexml.train.step import Stage, batches, take_step
from dexml.train.track import Track

LOG_STEPS = 100
"""Steps between lines of the log, in epochs that are much longer."""
_RATES = {
    "heads": "--head-lr, --residual-lr, --bias-lr, --label-cluster-lr",
    "encoder": "--encoder-lr",
    "joint": "--joint-lr, --residual-lr, --bias-lr, --label-cluster-lr",
}


def fit(job: Job, track: Track = lambda line: None) -> Progress:
    """Run all stages of `job`, and leave the best epoch in its model.

    Goes on after the last checkpoint in `job.folder`, if there is one. Without validation points
    the last epoch is the best.

    Args:
        job: What is trained; its model is changed in place.
        track: Gets every line of the log too, on the first process.

    Returns:
        The progress at the best epoch; `chosen` holds the epochs of each stage that led to it.

    Raises:
        KeyboardInterrupt: A signal came; the last step is saved.
        RuntimeError: The loss is not finite, or another process is gone.
    """
    model, folder = job.model, job.folder
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*"):  # half-written by a run that was killed
            left.unlink(missing_ok=True)
    schedules = stage_schedules(job.settings, job.n_labels)
    names = [schedule.name for schedule in schedules]
    last, progress = checkpoint.newest(folder) or (None, Progress())
    if any(schedule.encodes and schedule.epochs for schedule in schedules):
        model.trained_layers = stages.tuned_layers(model.encoder, job.settings)
    first = names.index(progress.stage) if progress.stage in names else 0
    with _stop_signal() as stop:
        for number, schedule in enumerate(schedules):
            if number < first or not schedule.epochs:
                continue
            # A stage starts from the best epoch of the stages before it. If there is none (no
            # validation points), the checkpoint has the transformer that they left.
            best = checkpoint.load_best(folder, names[:number], model)
            if best is None and last is not None:
                checkpoint.load(last, model, prefix="encoder.transformer.")
            stage = stages.make(schedule.name, job)
            if last is not None and progress.stage == schedule.name:
                checkpoint.load(last, model, stage)
            else:
                progress.begin(schedule.name)
            _run_stage(stage, progress, stop, track)
    best = checkpoint.load_best(folder, names, model) if len(job.validation_rows) else None
    return best or progress


def _run_stage(stage: Stage, progress: Progress, stop: Callable[[], bool], track: Track) -> None:
    """Run one stage from `progress` on; each epoch ends with a validation and a checkpoint."""
    job, schedule, settings = stage.job, stage.schedule, stage.settings
    n_batches = schedule.n_batches(len(job.rows))
    steps = schedule.epochs * n_batches
    rates, log = _Rates(stage), _Log(stage, track)
    bar = console.bar(
        total=steps,
        initial=progress.step,
        desc=f"{job.name}: {schedule.name}",
        unit="step",
        disable=settings.quiet,
    )
    if stage.sampler.graph is not None and progress.step == 0:
        log.write(event="label graph", **stage.sampler.graph.stats())
    if progress.shortlist:
        known = shortlist.load(job.folder / progress.shortlist, len(job.rows))
        stage.sampler.use_shortlist(known)
    groups = None
    if progress.clusters:
        groups = clusters.load(job.folder / progress.clusters, len(job.rows))
    saved = time.perf_counter()
    while progress.epoch < schedule.epochs and not 0 < settings.patience <= progress.waited:
        epoch = progress.epoch + 1
        if progress.done == 0 and (schedule.mines_before(epoch) or schedule.clusters_before(epoch)):
            groups = _renew(stage, epoch, progress, log)
        stopping, loss, lr = False, 0.0, 0.0
        seed = (settings.seed, schedule.number, epoch)
        shuffled = batches(job.rows, schedule.batch_size, *seed, clusters=groups)
        for batch in shuffled[progress.done :]:
            stage.model.train()
            lr = rates.set(rate(progress.step, steps, settings.warmup))
            # Any process may get the signal; the first one's clock counts. All learn of both.
            due = time.perf_counter() - saved > 60 * settings.checkpoint_minutes
            flags = (float(stop()), float(due and processes.is_first()))
            with processes.watched():
                loss, flags = take_step(stage, batch, epoch, progress.step, steps, flags)
            if not math.isfinite(loss):
                raise RuntimeError(
                    f"the loss is {loss} at step {progress.step} of stage {schedule.name}; "
                    f"lower the learning rates ({_RATES[schedule.name]})"
                )
            progress.total += loss * len(batch)
            progress.step += 1
            progress.done += 1
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
            stopping = stopping or flags[0] > 0
            if progress.done == n_batches:
                break  # the end of an epoch has its own line and checkpoint
            if progress.done % LOG_STEPS == 0 and n_batches >= 2 * LOG_STEPS:
                log.write(epoch=epoch, step=progress.step, steps=steps, loss=loss, lr=lr)
            if stopping or flags[1]:
                checkpoint.save_last(stage, progress)
                saved = time.perf_counter()
            if stopping:
                _stop(bar, progress)
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": progress.step,
            "steps": steps,
            "loss": progress.total / len(job.rows),
            "lr": lr,
            "candidates": stage.scratch.n_candidates,
        }
        progress.epoch, progress.done, progress.total = epoch, 0, 0.0
        checkpoint.complete(stage)
        with processes.watched():
            line |= _validate(stage, progress)
        log.write(**line)
        if "validation" in line and not settings.quiet:
            console.say_above(bar, _described(stage, line))
        checkpoint.save_last(stage, progress)
        saved = time.perf_counter()
        if stopping:
            _stop(bar, progress)
    bar.close()


def _validate(stage: Stage, progress: Progress) -> dict[str, Any]:
    """Score the model after an epoch if it is time, and save it if it is the best.

    Returns:
        Fields for the log.
    """
    job, settings, epoch = stage.job, stage.settings, progress.epoch
    if not len(job.validation_rows):
        progress.chosen[stage.name] = epoch
        return {}
    if not stage.schedule.validates_after(epoch):
        return {}
    stage.model.eval()
    encoded = stage.texts.features(job.validation_rows)
    scores = selection.validate(job.problem, job.model, encoded, job.validation_rows, settings)
    score = scores[settings.select]
    if progress.best is not None and score <= progress.best:
        progress.waited += 1
    else:
        progress.best, progress.waited = score, 0
        progress.chosen[stage.name] = epoch
        checkpoint.save(checkpoint.best_file(job.folder, stage.name), job.model, None, progress)
    return {"validation": scores}


def _described(stage: Stage, line: Mapping[str, Any]) -> str:
    """Describe an epoch that was validated, in a line."""
    select, width = stage.settings.select, len(str(stage.schedule.epochs))
    score = f"{select} {100 * line['validation'][select]:.2f} on the validation part"
    epoch = f"epoch {line['epoch']:>{width}} of {stage.schedule.epochs}"
    return f"{stage.job.name}, {stage.name}: {epoch}, loss {line['loss']:.4f}, {score}"


def _renew(stage: Stage, epoch: int, progress: Progress, log: _Log) -> NDArray[np.int64] | None:
    """Search hard negatives and put the points into clusters before `epoch`, where asked for.

    The files lie beside the checkpoints that name them.

    Returns:
        The clusters of the points, if batches are made of them.
    """
    job, schedule = stage.job, stage.schedule
    stage.model.eval()
    groups = None
    with processes.watched():
        encoded = stage.texts.features(job.rows)
        if stage.sampler.n_hard:  # few negatives a point may leave none for it
            mined = shortlist.mine(job, encoded, stage.sampler.shortlist_size)
            progress.shortlist = f"shortlist-{stage.name}-{epoch}.npy"
            shortlist.save(job.folder / progress.shortlist, mined)
            stage.sampler.use_shortlist(mined)
            log.write(epoch=epoch, event="shortlist", **shortlist.statistics(mined))
        if schedule.clustered:
            groups = clusters.of(job, encoded[0], epoch)
            progress.clusters = f"clusters-{stage.name}-{epoch}.npy"
            shortlist.save(job.folder / progress.clusters, groups)
            log.write(epoch=epoch, event="clusters", clusters=int(groups.max()) + 1)
    if processes.is_first():
        kept = [checkpoint.read_progress(path) for path in checkpoint.listed(job.folder)]
        used = {name for one in (progress, *kept) for name in (one.shortlist, one.clusters)}
        for path in (*job.folder.glob("shortlist-*.npy"), *job.folder.glob("clusters-*.npy")):
            if path.name not in used:
                path.unlink()
    return groups


class _Rates:
    """The learning rates of a stage, which follow one schedule, each below its own peak."""

    def __init__(self, stage: Stage) -> None:
        optimizers = (stage.optimizer, stage.row_optimizer, stage.rounded)
        self.groups = [group for one in optimizers if one is not None for group in one.param_groups]
        self.peaks = [group["lr"] for group in self.groups]

    def set(self, share: float) -> float:
        """Set all rates to this share of their peaks; the first of them, for the log."""
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = peak * share
        return float(self.groups[0]["lr"]) if self.groups else 0.0


@dataclass
class _Log:
    """Lines about one stage, for ``log.jsonl`` and for whoever tracks the training."""

    stage: Stage
    track: Track
    started: float = field(default_factory=time.perf_counter)

    def write(self, **fields: Any) -> None:
        if processes.is_first():
            job = self.stage.job
            where = {"fit": job.name, "stage": self.stage.name}
            seconds = round(time.perf_counter() - self.started, 3)
            self.track(rundir.log(job.settings.out, **where, **fields, seconds=seconds))


def _stop(bar: Any, progress: Progress) -> None:
    bar.close()
    if processes.is_first():
        console.say(f"stopped at step {progress.step} of {progress.stage}; resume with --resume")
    raise KeyboardInterrupt


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Say whether SIGTERM or Ctrl-C has come; the second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        asked.set()
        restore()
        console.say("stopping after this step")

    for number in before:
        signal.signal(number, handle)
    try:
        yield asked.is_set
    finally:
        restore()
