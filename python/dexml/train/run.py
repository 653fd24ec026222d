"""A training from its data set to its run directory, start to end."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml import console, data, rundir
from dexml.files import replacing
from dexml.metrics import Result, inv_propensity, propensity_constants
from dexml.model import DualEncoder, LabelTable, Tokens, torch_device, with_bias_dimension
from dexml.train import fit
from dexml.train.fit import REPORTED, Model, Problem
from dexml.train.settings import SWITCHES, TrainSettings

_QUERIES = 1000
"""Points kept for measuring the recall of an index."""


def train(settings: TrainSettings) -> Result | None:
    """Train, save the run directory, and score the test part if the data set has one.

    Returns:
        The test scores with values per point, or None without a test part.

    Raises:
        FileExistsError: The run directory has a run and neither resume nor overwrite is set.
        ValueError: The data set or a setting is wrong; the message names file and line.
    """
    started = time.perf_counter()
    label_texts = data.load_label_texts(settings.data_dir)
    part = data.load_part(settings.data_dir, "trn", len(label_texts))
    weights = inv_propensity(part.y, **_propensity(settings))
    device = torch_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoder = DualEncoder.load(settings.encoder).to(device)
    # Only now, when everything that was named is there, is the run directory touched.
    folder = settings.out
    if _open_folder(settings, _fingerprint(label_texts, part)):
        console.say(f"{folder}: this run has finished already; nothing to do")
        return None
    torch.manual_seed(settings.seed)

    point_tokens = encoder.tokenize(part.texts, settings.point_tokens)
    label_tokens = encoder.tokenize(label_texts, settings.label_tokens)
    held_out = data.validation_mask(part.groups or part.texts, settings.validation)
    y = (part.y > 0).astype(np.float32)  # stored zeros are no positives
    if held_out.all() or y[np.flatnonzero(held_out)].nnz == 0:
        held_out[:] = False
        console.say("note: no validation part; the last epoch is kept")
    cache, show = folder / "cache", not settings.quiet
    problem = Problem(
        y=y,
        exclude=part.exclude,
        point_tokens=point_tokens,
        label_tokens=label_tokens,
        point_features=cached_features(encoder, point_tokens, cache, desc="points", progress=show),
        label_features=cached_features(encoder, label_tokens, cache, desc="labels", progress=show),
        inv_propensity=weights,
    )
    if show:
        console.say(
            f"{(~held_out).sum()} training and {held_out.sum()} validation points, "
            f"{len(label_texts)} labels, {y.nnz / max(1, y.shape[0]):.1f} a point; "
            f"{device.type}, {torch.get_num_threads()} threads"
        )
    model, prior = _fit(problem, encoder, held_out, settings)

    queries = np.flatnonzero(held_out if held_out.any() else ~held_out)[:_QUERIES]
    every_row = np.arange(len(held_out))
    last_phase = fit.PHASES["finetune" if settings.finetune_epochs else "head"]
    query_features, label_features = last_phase(problem, model, every_row, settings).encode(queries)
    vectors = model.table.vectors(encoder, label_features, settings.temperature, prior)
    _save(settings, model, prior, label_texts, vectors, encoder.embed(query_features))
    rundir.write_json(
        folder / "run.json",
        {
            "format_version": rundir.FORMAT_VERSION,
            "data": os.path.relpath(settings.data_dir, folder),
            "n_labels": len(label_texts),
            "dim": encoder.dim,
            "point_tokens": settings.point_tokens,
            "label_tokens": settings.label_tokens,
            "temperature": settings.temperature,
            "prior": prior,
            "fingerprint": rundir.fingerprint(folder),
        },
    )
    seconds = time.perf_counter() - started
    return _final_scores(settings, model, vectors, weights, seconds)


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
        mode="json", exclude=set(SWITCHES) - {"data_dir", "device", "threads"}
    )
    shown["data_dir"] = os.path.relpath(settings.data_dir, folder)
    rundir.write_config(folder, shown)
    rundir.write_json(folder / "versions.json", {"dexml_run": data_fingerprint} | rundir.versions())
    return False


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


def cached_features(
    encoder: DualEncoder, tokens: Tokens, cache: Path, *, desc: str, progress: bool
) -> NDArray[np.float32]:
    """Features of texts by the encoder as loaded, kept in `cache` under a hash of the tokens."""
    digest = hashlib.sha256(tokens.ids.tobytes() + tokens.offsets.tobytes())
    for tensor in encoder.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    path = cache / f"{digest.hexdigest()[:16]}.npy"
    if path.exists():
        try:
            cached: NDArray[np.float32] = np.load(path, allow_pickle=False)
        except (ValueError, EOFError):
            console.say(f"note: {path} is damaged and is made again")
        else:
            return cached
    features = encoder.encode_features(tokens, desc=desc, progress=progress)
    cache.mkdir(exist_ok=True)
    rundir.write_array(path, features)
    return features


def _fit(
    problem: Problem, encoder: DualEncoder, held_out: NDArray[np.bool_], settings: TrainSettings
) -> tuple[Model, float]:
    """Select epochs and prior on the held-out points; then train on all points the same way."""
    checkpoints = settings.out / "checkpoint"
    initial = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    epochs = {"head": settings.head_epochs, "finetune": settings.finetune_epochs}
    nobody = np.zeros(0, np.int64)
    prior = 0.0
    if held_out.any():
        rows, validation_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        chosen = checkpoints / "selection.json"
        if not (chosen.exists() and settings.refit):
            model = _model(problem, encoder, initial, rows, settings)
            folder = checkpoints / "selection"
            state = fit.fit(problem, model, rows, validation_rows, epochs, settings, folder)
            phase = fit.PHASES[state["phase"] or "head"](problem, model, rows, settings)
            prior = fit.choose_prior(problem, model, phase, validation_rows, settings)
            selection = {"epochs": state["chosen"], "prior": prior, settings.select: state["best"]}
            rundir.write_json(chosen, selection)
            if not settings.quiet:
                console.say(f"selected: {selection}")
        if not settings.refit:
            return model.eval(), prior
        selection = rundir.read_json(chosen)
        epochs, prior = selection["epochs"], selection["prior"]
    rows = np.arange(len(held_out))
    model = _model(problem, encoder, initial, rows, settings)
    fit.fit(problem, model, rows, nobody, epochs, settings, checkpoints / "all points")
    return model.eval(), prior


def _model(
    problem: Problem,
    encoder: DualEncoder,
    initial: dict[str, Tensor],
    rows: NDArray[np.int64],
    settings: TrainSettings,
) -> Model:
    """The model before training: the encoder as loaded, a label table made from `rows`."""
    encoder.load_state_dict(initial)
    y = problem.y[rows]
    counts = torch.from_numpy(np.bincount(y.indices[y.data > 0], minlength=y.shape[1]))
    table = LabelTable(counts, encoder.dim).to(encoder.device)
    if settings.residual_lr > 0:
        table.start_at_centroids(problem.point_features[rows], y, settings.residual_shrink)
    return Model(encoder, table)


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
    features = model.encoder.encode_features(tokens, desc="test points", progress=show)
    result = fit.score(
        model.encoder, features, vectors, part.y, part.exclude, weights, progress=show
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
