"""Train a dual encoder on a folder in the LF layout.

python -m dexml.train DATA_DIR --out RUN [--config FILE.toml] [--FIELD VALUE ...]
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dexml import checkpoint, config, console, data, fit, rundir
from dexml.config import TrainSettings
from dexml.fit import REPORTED, Model, Problem
from dexml.metrics import Result, inv_propensity
from dexml.model import DualEncoder, LabelTable, Tokens, with_bias_dimension

_SWITCHES = ("resume", "overwrite", "quiet", "debug", "out", "data_dir", "threads", "device")
"""Settings that do not belong to the result: a resumed run may have others."""
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
    folder = settings.out
    if _open_folder(settings):
        console.say(f"{folder}: this run has finished already; nothing to do")
        return None
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)

    device = _device(settings.device)
    encoder = DualEncoder.load(settings.encoder).to(device)
    point_tokens = encoder.tokenize(part.texts, settings.point_tokens)
    label_tokens = encoder.tokenize(label_texts, settings.label_tokens)
    held_out = data.validation_mask(part.groups or part.texts, settings.validation)
    if held_out.all() or not held_out.any():
        held_out[:] = False
        console.say("note: no validation part; the last epoch is kept")
    fit_rows = np.flatnonzero(~held_out)
    cache, show = folder / "cache", not settings.quiet
    problem = Problem(
        y=part.y,
        exclude=part.exclude,
        fit_rows=fit_rows,
        validation_rows=np.flatnonzero(held_out),
        point_tokens=point_tokens,
        label_tokens=label_tokens,
        point_features=cached_features(encoder, point_tokens, cache, desc="points", progress=show),
        label_features=cached_features(encoder, label_tokens, cache, desc="labels", progress=show),
        inv_propensity=inv_propensity(part.y),
    )
    fit_y = part.y[fit_rows]
    counts = torch.from_numpy(np.bincount(fit_y.indices[fit_y.data > 0], minlength=fit_y.shape[1]))
    model = Model(encoder, LabelTable(counts, encoder.dim).to(device))
    if settings.residual_lr > 0:
        model.table.start_at_centroids(
            problem.point_features[fit_rows], fit_y, settings.residual_shrink
        )
    if show:
        console.say(
            f"{len(fit_rows)} training and {held_out.sum()} validation points, "
            f"{len(label_texts)} labels, {part.y.nnz / max(1, part.y.shape[0]):.1f} a point; "
            f"{device.type}, {torch.get_num_threads()} threads"
        )

    checkpoints = folder / "checkpoint"
    checkpoints.mkdir(exist_ok=True)
    for make_phase in (fit.head_phase, fit.finetune_phase):
        phase = make_phase(problem, model, settings)
        if phase.epochs and not _is_done(checkpoints, phase.name):
            fit.run_phase(problem, model, phase, settings, checkpoints)
        if (checkpoints / "best.safetensors").exists():
            checkpoint.load(checkpoints / "best.safetensors", model)

    model.eval()
    point_features, label_features = problem.point_features, problem.label_features
    if settings.finetune_epochs:
        label_features = encoder.encode_features(label_tokens, desc="labels")
    vectors = model.table.vectors(encoder, label_features, settings.temperature)
    queries = np.flatnonzero(held_out)[:_QUERIES] if held_out.any() else fit_rows[:_QUERIES]
    if settings.finetune_epochs:
        query_features = encoder.encode_features(point_tokens.select(queries), desc="points")
    else:
        query_features = point_features[queries]
    _save(settings, model, label_texts, vectors, encoder.embed(query_features))
    seconds = time.perf_counter() - started
    result = _final_scores(settings, model, vectors, problem.inv_propensity, seconds)
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
            "fingerprint": rundir.fingerprint(folder),
        },
    )
    return result


def _open_folder(settings: TrainSettings) -> bool:
    """Make or reopen the run directory; True if its run has finished already."""
    folder = settings.out
    resolved = settings.model_dump(mode="json", exclude=set(_SWITCHES))
    if folder.exists() and any(folder.iterdir()):
        known = (folder / "config.toml").exists()
        if settings.overwrite:
            if not known:
                raise FileExistsError(f"{folder}: not a run directory; it will not be overwritten")
            shutil.rmtree(folder)
        elif not settings.resume:
            raise FileExistsError(f"{folder}: not empty; add --resume or --overwrite")
        elif not known:
            raise FileExistsError(f"{folder}: no config.toml in it, so no run to resume")
        else:
            saved = {k: v for k, v in rundir.read_config(folder).items() if k not in _SWITCHES}
            for name in resolved:
                if saved.get(name) != resolved[name]:
                    raise ValueError(
                        f"{folder}: was started with {name} = {saved.get(name)!r}, not "
                        f"{resolved[name]!r}; resume with the same settings, or --overwrite"
                    )
            return (folder / "run.json").exists()
    folder.mkdir(parents=True, exist_ok=True)
    shown = resolved | {"data_dir": os.path.relpath(settings.data_dir, folder)}
    rundir.write_config(folder, shown)
    rundir.write_json(folder / "versions.json", rundir.versions())
    return False


def cached_features(
    encoder: DualEncoder, tokens: Tokens, cache: Path, *, desc: str, progress: bool
) -> NDArray[np.float32]:
    """Features of texts by the encoder as loaded, kept in `cache` under a hash of the tokens."""
    digest = hashlib.sha256(tokens.ids.tobytes() + tokens.offsets.tobytes()).hexdigest()[:16]
    path = cache / f"{digest}.npy"
    if path.exists():
        cached: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return cached
    features = encoder.encode_features(tokens, desc=desc, progress=progress)
    cache.mkdir(exist_ok=True)
    rundir.write_array(path, features)
    return features


def _is_done(checkpoints: Path, phase: str) -> bool:
    """Has a later phase begun already, so that this one is behind us?"""
    last = checkpoints / "last.safetensors"
    return phase == "head" and last.exists() and checkpoint.read_state(last)["phase"] != phase


def _save(
    settings: TrainSettings,
    model: Model,
    label_texts: list[str],
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> None:
    """Write what the later stages read; `run.json` follows last and says that all is there."""
    from safetensors.torch import save_file

    folder = settings.out
    model.encoder.save(folder / "encoder", max_tokens=settings.point_tokens)
    table = {"residual": model.table.residual.detach(), "bias": model.table.served_bias()}
    save_file({n: t.cpu().contiguous() for n, t in table.items()}, folder / "labels.safetensors")
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
    show = not settings.quiet
    tokens = model.encoder.tokenize(part.texts, settings.point_tokens)
    features = model.encoder.encode_features(tokens, desc="test points", progress=show)
    result = fit.score(model.encoder.embed(features), vectors, part.y, part.exclude, weights)
    errors = result.standard_errors(part.groups, seed=settings.seed)
    result.conventions["propensity"] = "A = 0.55, B = 1.5"
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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name}: not usable here ({str(error).splitlines()[0]})"
        ) from None
    return device


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.train``."""
    settings = config.parse(TrainSettings, argv, "python -m dexml.train")
    train(settings)
    print(f"{settings.out}: next, python -m dexml.index {settings.out}")


if __name__ == "__main__":
    raise SystemExit(console.run(main))
