"""A training from its data set to its run directory, start to end."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from dexml import console, data
from dexml.encoder import DualEncoder, LabelTable, upper_layers, with_bias_dimension
from dexml.encoder.attention import check_packable
from dexml.losses.shards import VIRTUAL_SHARDS
from dexml.metrics import Result, inv_propensity, propensity_constants
from dexml.run import folder as rundir
from dexml.scorers import PointMemory
from dexml.train import features, final, fit, memory, processes, track
from dexml.train.folder import begin_log, encoder_fingerprint, end_log, fingerprint, open_folder
from dexml.train.problem import Model, Problem
from dexml.train.schedule import parse_stages
from dexml.train.settings import TrainSettings

_LEAST = 3
"""Points that a training needs: propensities are not defined for fewer."""
_QUERIES = 1000
"""Points kept for measuring the recall of an index."""


def train(
    settings: TrainSettings, conclude: Callable[[final.Finished], None] | None = None
) -> Result | None:
    """Train, save the run folder, and score the test part if the data set has one.

    Under torchrun, all processes call this; the first one writes, and scores the test part.

    Args:
        settings: The settings.
        conclude: Called by the first process before the run counts as finished; writes a report.

    Returns:
        The test scores with values per point, or None without a test part.

    Raises:
        FileExistsError: The run directory has a run and neither resume nor overwrite is set.
        ValueError: The data set or a setting is wrong; the message names file and line.
        KeyboardInterrupt: Told to stop; the run can be resumed.
        RuntimeError: The loss is no number, memory ran out, or another process is gone.
        OSError: The disk is full, or a file cannot be read.
    """
    with _explained(settings):
        device = processes.start(settings.device)
        try:
            if not processes.is_first():
                settings = settings.model_copy(update={"quiet": True})
            if settings.deterministic and VIRTUAL_SHARDS % processes.size():
                raise ValueError(
                    f"--deterministic with {processes.size()} processes; "
                    f"expected a divisor of {VIRTUAL_SHARDS}"
                )
            processes.introduce(device)
            return _train(settings, device, conclude)
        finally:
            processes.end()


def _train(
    settings: TrainSettings,
    device: torch.device,
    conclude: Callable[[final.Finished], None] | None,
) -> Result | None:
    started = time.perf_counter()
    label_texts = data.load_label_texts(settings.data_dir)
    part = data.load_part(settings.data_dir, "trn", len(label_texts))
    if part.y.shape[0] < _LEAST:
        raise ValueError(
            f"{settings.data_dir}: {part.y.shape[0]} training points; expected {_LEAST} or more"
        )
    propensity = _propensity(settings)
    weights = inv_propensity(part.y, **propensity)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoder = load_encoder(settings).to(device)
    # Only now, when everything that was named is there, is the run directory touched.
    folder, say = settings.out, processes.is_first()
    marks = fingerprint(label_texts, part), encoder_fingerprint(encoder)
    if processes.first(lambda: open_folder(settings, *marks), device):
        if say:
            console.say(f"{folder}: this run has finished already; nothing to do")
        return None
    before = begin_log(settings) if say else 0.0
    torch.manual_seed(settings.seed)

    y = _positives(part)
    point_tokens = features.tokenize(encoder, part.texts, settings.point_tokens, settings)
    label_tokens = features.tokenize(encoder, label_texts, settings.label_tokens, settings)
    tokens, at_start = (point_tokens, label_tokens), None
    if parse_stages(settings.stages)[0] == "heads":
        at_start = features.of_all(encoder, tokens, settings)
    problem = Problem(y, part.exclude, *tokens, weights, at_start)
    held_out = data.validation_mask(part.groups or part.texts, settings.validation)
    if held_out.all() or y[np.flatnonzero(held_out)].nnz == 0:
        held_out[:] = False
        if say:
            console.say("note: no validation part; the last epoch is kept")
    if not settings.quiet:
        console.say(
            f"{(~held_out).sum()} training and {held_out.sum()} validation points, "
            f"{len(label_texts)} labels, {y.nnz / max(1, y.shape[0]):.1f} a point; "
            f"{device.type}, {torch.get_num_threads()} threads"
            + (f", {processes.size()} processes" if processes.size() > 1 else "")
        )
    scored = _scored(held_out, part.groups or part.texts, settings)
    with contextlib.ExitStack() as stack:
        tell: Callable[[Mapping[str, Any]], None] = _no_tracker
        if processes.is_first():
            trackers = track.trackers(
                folder,
                tensorboard=settings.tensorboard,
                wandb=settings.wandb,
                wandb_mode=settings.wandb_mode,
                config=settings.model_dump(mode="json"),
            )
            tell = stack.enter_context(trackers)
        model, selected = _fit(problem, encoder, held_out, scored, part.groups, settings, tell)

    queries = np.flatnonzero(held_out if held_out.any() else ~held_out)[:_QUERIES]
    fitted = np.arange(len(held_out)) if settings.refit else np.flatnonzero(~held_out)
    votes = selected["memory"]["kind"] == "votes"
    wanted = np.concatenate([queries, fitted]) if votes else queries
    point_features, label_features = features.current(problem, model, wanted, settings)
    temperature = model.served_temperature(settings.temperature)
    if not processes.is_first():
        return None
    embedded = encoder.embed(point_features)
    memory = None
    if votes:
        memory = PointMemory.of(
            embedded[len(queries) :],
            problem.y[fitted],
            **{name: selected["memory"][name] for name in ("weight", "neighbours", "temperature")},
        )
    saved = final.Saved(
        model,
        model.table.vectors(encoder, label_features, temperature, selected["prior"]),
        memory,
        with_bias_dimension(embedded[: len(queries)]),
        label_texts,
        problem.y,
    )
    final.save(settings, saved, selected, temperature)
    seconds = before + time.perf_counter() - started
    finished = final.score_test(settings, saved, weights, propensity, seconds)
    if conclude is not None:
        conclude(finished)
    end_log(settings)
    return None if finished.test is None else finished.test.result


def _positives(part: data.Part) -> data.Csr:
    """What is trained on: without stored zeros and filter pairs, ids ascending, all values 1."""
    y = (part.y > 0).astype(np.float32)
    if part.exclude is not None:
        y = data.Csr(y - y.multiply(part.exclude))
        y.eliminate_zeros()
        y.sort_indices()
    return y


def _no_tracker(_: Mapping[str, Any]) -> None:
    """Nobody else wants the log."""


def load_encoder(settings: TrainSettings) -> DualEncoder:
    """The encoder, with pooling, norm and head as its folder says unless a setting says more.

    Raises:
        ValueError: It has fewer layers than are to be trained, or cannot be packed.
    """
    more: dict[str, Any] = {}
    if settings.pooling != "auto":
        more["pooling"] = settings.pooling
    if settings.normalize != "auto":
        more["normalize"] = settings.normalize == "yes"
    if settings.head != "auto":
        more["head"] = settings.head
    elif "heads" in parse_stages(settings.stages):
        more["head"] = "shared"
    encoder = DualEncoder.load(settings.encoder, **more)
    if settings.encoder_layers:
        upper_layers(encoder.transformer, settings.encoder_layers)
    if settings.packed:
        check_packable(encoder.transformer)
    return encoder


def _scored(
    held_out: NDArray[np.bool_], keys: list[str], settings: TrainSettings
) -> NDArray[np.int64]:
    """The held-out points that are scored: all, or those with the smallest hashes."""
    n = int(held_out.sum())
    if n > settings.validation_points:
        share = settings.validation * settings.validation_points / n
        held_out = held_out & data.validation_mask(keys, share)
    return np.flatnonzero(held_out)[: settings.validation_points]


@contextmanager
def _explained(settings: TrainSettings) -> Iterator[None]:
    """Full memory and full disks end with one line that says what to change."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = error.filename or settings.out
        raise OSError(
            f"{where}: the disk is full; make room or lower --keep-checkpoints, and go on with "
            "--resume"
        ) from None
    except (MemoryError, RuntimeError, SafetensorError) as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in text:
            where = "the device"
        elif isinstance(error, MemoryError) or "not enough memory" in text:
            where = "this machine"
        elif "No space left on device" in text:
            raise OSError(
                f"{settings.out}: the disk is full; make room and go on with --resume"
            ) from None
        else:
            raise
        raise RuntimeError(
            f"out of memory on {where}; lower --keep-tokens (and go on with --resume), or start "
            "with lower --micro-tokens, --encoder-batch-size, --head-batch-size, or drawn instead "
            "of all negatives"
        ) from None


def _propensity(settings: TrainSettings) -> dict[str, float]:
    a, b = settings.propensity_a, settings.propensity_b
    if settings.propensity:
        a, b = propensity_constants(settings.propensity)
    return {"a": a, "b": b}


def _fit(
    problem: Problem,
    encoder: DualEncoder,
    held_out: NDArray[np.bool_],
    scored: NDArray[np.int64],
    groups: list[str] | None,
    settings: TrainSettings,
    tell: Callable[[Mapping[str, Any]], None],
) -> tuple[Model, dict[str, Any]]:
    """Select on the held-out points; then train on all points the same way.

    Returns:
        The model, and what was selected: ``epochs`` of each stage, ``prior`` and ``memory``.
    """
    checkpoints = settings.out / "checkpoint"
    initial = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    asked = {"heads": settings.head_epochs, "encoder": settings.encoder_epochs}
    epochs = {name: asked[name] for name in parse_stages(settings.stages)}
    selected: dict[str, Any] = {"epochs": epochs, "prior": 0.0, "memory": {"kind": "none"}}
    nobody = np.zeros(0, np.int64)
    if held_out.any():
        rows = np.flatnonzero(~held_out)
        chosen = checkpoints / "selection.json"
        if not (chosen.exists() and settings.refit):
            model = _model(problem, encoder, initial, rows)
            folder = checkpoints / "selection"
            state = fit.fit(problem, model, rows, scored, epochs, settings, folder, tell)
            _choose(problem, model, rows, scored, groups, settings, state, chosen)
        selected = rundir.read_json(chosen)
        if not settings.refit:
            return model.eval(), selected
    rows = np.arange(len(held_out))
    model = _model(problem, encoder, initial, rows)
    folder = checkpoints / "all points"
    fit.fit(problem, model, rows, nobody, selected["epochs"], settings, folder, tell)
    return model.eval(), selected


def _choose(
    problem: Problem,
    model: Model,
    rows: NDArray[np.int64],
    scored: NDArray[np.int64],
    groups: list[str] | None,
    settings: TrainSettings,
    state: dict[str, Any],
    path: Path,
) -> None:
    """Choose prior and memory on the validation points; the first process writes it to `path`."""
    model.eval()
    few = scored[: memory.MAX_POINTS]
    voting = settings.memory == "auto"
    fitted = rows if voting else rows[:0]
    wanted = np.concatenate([few, fitted])
    point_features, label_features = features.current(problem, model, wanted, settings)

    def choose() -> bool:
        encoder, table = model.encoder, model.table
        temperature = model.served_temperature(settings.temperature)
        embedded = encoder.embed(point_features)
        choice = memory.choose_memory(
            memory.Validation(
                queries=with_bias_dimension(embedded[: len(few)]),
                y_true=problem.y[few],
                label_vectors=table.vectors(encoder, label_features, temperature),
                prior_bias=temperature * np.log1p(table.counts.cpu().numpy()).astype(np.float32),
                points=embedded[len(few) :],
                y=problem.y[fitted],
                inv_propensity=problem.inv_propensity,
                exclude=None if problem.exclude is None else problem.exclude[few],
                groups=None if groups is None else [groups[i] for i in few],
            ),
            settings.select,
            seed=settings.seed,
            weights=memory.WEIGHTS if voting else (),
            progress=not settings.quiet,
        )
        found = {"epochs": state["chosen"], "prior": choice.prior, settings.select: state["best"]}
        rundir.write_json(path, found | {"memory": choice.memory})
        if not settings.quiet:
            console.say(f"selected: epochs {state['chosen']}; {memory.summary(choice)}")
        return True

    processes.first(choose, model.encoder.device)


def _model(
    problem: Problem,
    encoder: DualEncoder,
    initial: dict[str, Tensor],
    rows: NDArray[np.int64],
) -> Model:
    """The model before training: the encoder as loaded, an empty label table for `rows`."""
    encoder.load_state_dict(initial)
    y = problem.y[rows]
    counts = torch.from_numpy(np.bincount(y.indices[y.data > 0], minlength=y.shape[1]))
    return Model(encoder, LabelTable(counts, encoder.dim).to(encoder.device))
