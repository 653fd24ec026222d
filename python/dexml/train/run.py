"""A training from its data set to its run directory, start to end."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from dexml import console, data, rundir
from dexml.files import replacing
from dexml.losses.shards import VIRTUAL_SHARDS
from dexml.metrics import Result, inv_propensity, propensity_constants
from dexml.model import DualEncoder, LabelTable, with_bias_dimension
from dexml.train import features, fit, processes, selection
from dexml.train.problem import Model, Problem
from dexml.train.schedule import parse_stages
from dexml.train.selection import REPORTED
from dexml.train.settings import SWITCHES, TrainSettings

_QUERIES = 1000
"""Points kept for measuring the recall of an index."""


def train(settings: TrainSettings) -> Result | None:
    """Train, save the run directory, and score the test part if the data set has one.

    Under torchrun, all processes call this; the first one writes, and scores the test part.

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
            return _train(settings, device)
        finally:
            processes.end()


def _train(settings: TrainSettings, device: torch.device) -> Result | None:
    started = time.perf_counter()
    label_texts = data.load_label_texts(settings.data_dir)
    part = data.load_part(settings.data_dir, "trn", len(label_texts))
    weights = inv_propensity(part.y, **_propensity(settings))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoder = _load_encoder(settings).to(device)
    # Only now, when everything that was named is there, is the run directory touched.
    folder, say = settings.out, processes.is_first()
    if processes.first(lambda: _open_folder(settings, _fingerprint(label_texts, part)), device):
        if say:
            console.say(f"{folder}: this run has finished already; nothing to do")
        return None
    torch.manual_seed(settings.seed)

    y = (part.y > 0).astype(np.float32)  # stored zeros are no positives
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
    model, prior = _fit(problem, encoder, held_out, scored, settings)

    queries = np.flatnonzero(held_out if held_out.any() else ~held_out)[:_QUERIES]
    query_features, label_features = features.current(problem, model, queries, settings)
    temperature = model.served_temperature(settings.temperature)
    vectors = model.table.vectors(encoder, label_features, temperature, prior)
    if not processes.is_first():
        return None
    _save(settings, model, prior, label_texts, vectors, encoder.embed(query_features))
    info = {
        "format_version": rundir.FORMAT_VERSION,
        "data": os.path.relpath(settings.data_dir, folder),
        "n_labels": len(label_texts),
        "dim": encoder.dim,
        "point_tokens": settings.point_tokens,
        "label_tokens": settings.label_tokens,
        "temperature": temperature,
        "prior": prior,
        "fingerprint": rundir.fingerprint(folder),
    }
    if "bce" in settings.loss:
        info |= {"log_scale": model.log_scale.item(), "offset": model.offset.item()}
    rundir.write_json(folder / "run.json", info)
    seconds = time.perf_counter() - started
    return _final_scores(settings, model, vectors, weights, seconds)


def _load_encoder(settings: TrainSettings) -> DualEncoder:
    """The encoder, with pooling, norm and head as its folder says unless a setting says more."""
    more: dict[str, Any] = {}
    if settings.pooling != "auto":
        more["pooling"] = settings.pooling
    if settings.normalize != "auto":
        more["normalize"] = settings.normalize == "yes"
    if settings.head != "auto":
        more["head"] = settings.head
    return DualEncoder.load(settings.encoder, **more)


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


def _open_folder(settings: TrainSettings, data_fingerprint: str) -> bool:
    """Make or reopen the run directory; True if its run has finished already."""
    folder = settings.out
    resolved = settings.model_dump(mode="json", exclude=set(SWITCHES))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        versions = folder / "versions.json"
        known = versions.exists() and "dexml_run" in rundir.read_json(versions)
        if not known:
            raise FileExistsError(f"{folder}: holds something that is not a run; choose another")
        if not settings.overwrite and not settings.resume:
            raise FileExistsError(f"{folder}: not empty; add --resume or --overwrite")
        if settings.resume:
            saved = rundir.read_config(folder)
            for name in resolved:
                if saved.get(name) != resolved[name]:
                    raise ValueError(
                        f"{folder}: was started with {name} = {saved.get(name)!r}, not "
                        f"{resolved[name]!r}; resume with the same settings, or --overwrite"
                    )
            if rundir.read_json(versions)["dexml_run"] != data_fingerprint:
                raise ValueError(
                    f"{folder}: was started on other data than {settings.data_dir} holds now"
                )
            return _is_finished(settings)
        rundir.remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shown = settings.model_dump(
        mode="json", exclude={"resume", "overwrite", "quiet", "debug", "out"}
    )
    shown["data_dir"] = os.path.relpath(settings.data_dir, folder)
    rundir.write_config(folder, shown)
    rundir.write_json(
        folder / "versions.json",
        {"dexml_run": data_fingerprint, **_commit(), **rundir.versions()},
    )
    return False


def _commit() -> dict[str, str]:
    """The git commit of the working directory, if it lies in a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"git_commit": done.stdout.strip()} if done.returncode == 0 else {}


def _is_finished(settings: TrainSettings) -> bool:
    """Complete, and scored if there is something to score: a kill may have come between."""
    done, scored = settings.out / "run.json", settings.out / "metrics.json"
    names = ("Y.tst.npz", "tst_X_Y.txt")
    return done.exists() and (
        scored.exists() or not any((settings.data_dir / name).exists() for name in names)
    )


def _fingerprint(label_texts: list[str], part: data.Part) -> str:
    """SHA-256 over everything that is trained on."""
    digest = hashlib.sha256()
    for texts in (label_texts, part.texts, part.groups or []):
        digest.update("\n".join(texts).encode() + b"\0")
    for matrix in (part.y, part.exclude):
        for array in () if matrix is None else (matrix.indptr, matrix.indices, matrix.data):
            digest.update(array.tobytes() + b"\0")
    return digest.hexdigest()


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
    settings: TrainSettings,
) -> tuple[Model, float]:
    """Select epochs and prior on the held-out points; then train on all points the same way."""
    checkpoints = settings.out / "checkpoint"
    initial = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    asked = {"heads": settings.head_epochs, "encoder": settings.encoder_epochs}
    epochs = {name: asked[name] for name in parse_stages(settings.stages)}
    nobody = np.zeros(0, np.int64)
    prior = 0.0
    if held_out.any():
        rows = np.flatnonzero(~held_out)
        chosen = checkpoints / "selection.json"
        if not (chosen.exists() and settings.refit):
            model = _model(problem, encoder, initial, rows)
            folder = checkpoints / "selection"
            state = fit.fit(problem, model, rows, scored, epochs, settings, folder)
            encoded = features.current(problem, model, scored[: selection.PRIOR_POINTS], settings)
            prior = selection.choose_prior(problem, model, encoded, scored, settings)
            prior = processes.agree([prior], encoder.device)[0]
            found = {"epochs": state["chosen"], "prior": prior, settings.select: state["best"]}

            def write() -> bool:
                rundir.write_json(chosen, found)
                return True

            processes.first(write, encoder.device)
            if not settings.quiet:
                console.say(f"selected: {found}")
        if not settings.refit:
            return model.eval(), prior
        found = rundir.read_json(chosen)
        epochs, prior = found["epochs"], found["prior"]
    rows = np.arange(len(held_out))
    model = _model(problem, encoder, initial, rows)
    fit.fit(problem, model, rows, nobody, epochs, settings, checkpoints / "all points")
    return model.eval(), prior


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


def _save(
    settings: TrainSettings,
    model: Model,
    prior: float,
    label_texts: list[str],
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> None:
    """Write what the later stages read; `run.json` follows and says that all is there."""
    from safetensors.torch import save_file

    folder = settings.out
    with replacing(folder / "encoder") as beside:
        model.encoder.save(beside, max_tokens=settings.point_tokens)
    table = {"residual": model.table.residual.detach(), "bias": model.table.served_bias(prior)}
    with replacing(folder / "labels.safetensors") as beside:
        save_file({n: t.cpu().contiguous() for n, t in table.items()}, beside)
    rundir.write_bytes(folder / "labels.txt", "".join(f"{t}\n" for t in label_texts).encode())
    rundir.write_array(folder / "label_emb.npy", vectors)
    rundir.write_array(folder / "query_emb.npy", with_bias_dimension(queries))


def _final_scores(
    settings: TrainSettings,
    model: Model,
    vectors: NDArray[np.float32],
    weights: NDArray[np.float64],
    seconds: float,
) -> Result | None:
    """Score the test part; this is the first time that its files are opened."""
    try:
        part = data.load_part(settings.data_dir, "tst", len(vectors))
    except FileNotFoundError as error:
        console.say(f"note: no test scores ({error})")
        return None
    if not (part.y.data > 0).any():
        console.say(f"note: no test scores (the test part of {settings.data_dir} has no positive)")
        return None
    show = not settings.quiet
    tokens = model.encoder.tokenize(part.texts, settings.point_tokens)
    encoded = model.encoder.encode_features(tokens, desc="test points", progress=show)
    result = selection.score(
        model.encoder, encoded, vectors, part.y, part.exclude, weights, progress=show
    )
    errors = result.standard_errors(part.groups, seed=settings.seed)
    result.conventions["propensity"] = "A = {a}, B = {b}".format(**_propensity(settings))
    result.conventions["standard_errors"] = (
        "bootstrap over " + ("groups" if part.groups else "points") + ", 1000 resamples"
    )
    rundir.write_json(
        settings.out / "metrics.json",
        result.as_json() | {"standard_errors": errors, "training_seconds": round(seconds, 1)},
    )
    if show:
        console.say(
            console.table({"test, percent": result.metrics}, REPORTED, {"test, percent": errors})
        )
    return result
