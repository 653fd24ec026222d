"""The end of a training: the run folder's files and the test scores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import console, data
from dexml.data import Csr
from dexml.files import replacing, write_json
from dexml.metrics import Result
from dexml.run import FORMAT, LabelSet, encoder_seals
from dexml.run.labels import TRAINED, text_part
from dexml.run.run import ENCODER
from dexml.scorers import PointMemory
from dexml.scorers.dense import QUERIES, TABLE, VECTORS
from dexml.sealed import Home, Part, array_part
from dexml.train import features, processes, selection
from dexml.train.problem import Model
from dexml.train.schedule import parse_loss
from dexml.train.selection import REPORTED
from dexml.train.settings import TrainSettings


class Saved(NamedTuple):
    """What a training leaves behind. L labels, N points, n queries, D dimensions."""

    model: Model
    vectors: NDArray[np.float32]
    """Of the labels, (L, D + 1)."""
    memory: PointMemory | None
    queries: NDArray[np.float32]
    """Points to measure the recall of an index with, (n, D + 1)."""
    label_texts: list[str]
    y: Csr
    """Of all training points, (N, L)."""


class Scored(NamedTuple):
    """The test part and how the model ranks it; k labels a point."""

    result: Result
    part: data.Part
    ids: NDArray[np.int32]
    """Shape (n, k)."""
    scores: NDArray[np.float32]
    """Shape (n, k)."""


class Finished(NamedTuple):
    """A training that has ended, for whoever reports on it."""

    settings: TrainSettings
    label_texts: list[str]
    y: Csr
    """Of all training points, (N, L)."""
    seconds: float
    test: Scored | None = None


def save(
    settings: TrainSettings, saved: Saved, selected: dict[str, Any], temperature: float
) -> None:
    """Write the parts of the run, and the manifest that says that all are there."""
    folder, model = settings.out, saved.model
    with replacing(folder / ENCODER) as beside:
        facts = {
            "base_model": settings.encoder,
            "dataset": settings.data_dir.resolve().name,
            "settings": _changed(settings),
        }
        model.encoder.save(beside, max_tokens=settings.point_tokens, facts=facts)
    labels = LabelSet.of(saved.label_texts, model.table.counts.cpu().numpy())
    prior = selected["prior"]
    dense: dict[str, Any] = {
        "dim": model.encoder.dim,
        "point_tokens": settings.point_tokens,
        "label_tokens": settings.label_tokens,
        "temperature": temperature,
        "prior": prior,
        "unseen_bias": model.table.served_unseen_bias(temperature),
    }
    if any(part.loss.learns_scale for part in parse_loss(settings.loss)):
        dense |= {"log_scale": model.log_scale.item(), "offset": model.offset.item()}
    sections = {
        "data": os.path.relpath(settings.data_dir, folder.resolve()),
        "labels": labels.facts(),
        "dense": dense,
        "selected": selected["memory"],
    }
    parts = labels.parts() | {
        TRAINED: text_part(labels.texts),
        VECTORS: array_part(saved.vectors),
        QUERIES: array_part(saved.queries),
        TABLE: Part(lambda path: _write_table(path, model, prior), ".safetensors", ()),
    }
    if saved.memory is not None:
        sections["neighbours"] = saved.memory.facts()
        parts |= saved.memory.parts()
    Home().save(folder, FORMAT, sections, parts, keep=encoder_seals(folder), lock=False)


def _write_table(path: Path, model: Model, prior: float) -> None:
    from safetensors.torch import save_file

    table = model.table
    tensors = {"residual": table.residual.detach(), "bias": table.served_bias(prior)}
    save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, path)


def _changed(settings: TrainSettings) -> dict[str, Any]:
    """Settings that differ from their defaults, plain values."""
    given, usual = settings.model_dump(mode="json"), defaults()
    hidden = {"data_dir", "out", "encoder", "resume", "overwrite", "quiet", "debug", "cache"}
    return {k: v for k, v in given.items() if k not in hidden and usual.get(k, None) != v}


def defaults() -> dict[str, Any]:
    """The default of each setting that has one."""
    fields = TrainSettings.model_fields.items()
    return {name: field.default for name, field in fields if not field.is_required()}


def score_test(
    settings: TrainSettings,
    saved: Saved,
    weights: NDArray[np.float64],
    propensity: dict[str, float],
    seconds: float,
) -> Finished:
    """Score the test part, if there is one; only here are its files opened."""
    part = _test_part(settings, len(saved.vectors))
    if part is None:
        return Finished(settings, saved.label_texts, saved.y, seconds)
    show, encoder = not settings.quiet, saved.model.encoder
    tokens = encoder.tokenize(part.texts, settings.point_tokens)
    if processes.size() == 1:
        cache = features.cache_folder(settings)
        encoded = features.cached_features(
            encoder, tokens, cache, desc="test points", progress=show
        )
    else:  # the first process is alone here, and the cache is something of all of them
        encoded = encoder.encode_features(tokens, desc="test points", progress=show)
    result, ids, scores = selection.score(
        encoder,
        encoded,
        saved.vectors,
        part.y,
        part.exclude,
        weights,
        memory=saved.memory,
        progress=show,
    )
    errors = result.standard_errors(part.groups, seed=settings.seed)
    over = "groups" if part.groups else "points"
    result.conventions["propensity"] = f"A = {propensity['a']}, B = {propensity['b']}"
    result.conventions["standard_errors"] = f"bootstrap over {over}, 1000 resamples"
    found = result.as_json() | {"standard_errors": errors, "training_seconds": round(seconds, 1)}
    rows = {"test, percent": result.metrics}
    if saved.memory is not None:
        plain, _, _ = selection.score(
            encoder, encoded, saved.vectors, part.y, part.exclude, weights, progress=show
        )
        found["without_memory"] = plain.metrics
        rows["without memory"] = plain.metrics
    write_json(settings.out / "metrics.json", found)
    if show:
        console.say(console.table(rows, REPORTED, {"test, percent": errors}))
        console.say(f"±: standard error, bootstrap over {over}")
    return Finished(
        settings, saved.label_texts, saved.y, seconds, Scored(result, part, ids, scores)
    )


def _test_part(settings: TrainSettings, n_labels: int) -> data.Part | None:
    """The test part, if there is one with a positive."""
    try:
        part = data.load_part(settings.data_dir, "tst", n_labels)
    except FileNotFoundError as error:
        console.say(f"note: no test scores ({error})")
        return None
    if not (part.y.data > 0).any():
        console.say(f"note: no test scores (the test part of {settings.data_dir} has no positive)")
        return None
    return part
