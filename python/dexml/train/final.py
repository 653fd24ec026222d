"""The end of a training: the run directory's files, the test scores, the report."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import console, data, rundir, runinfo
from dexml.data import Csr
from dexml.files import replacing
from dexml.index import PointMemory, save_memory
from dexml.metrics import Result
from dexml.train import features, processes, report, selection
from dexml.train.problem import Model
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


def save(
    settings: TrainSettings, saved: Saved, selected: dict[str, Any], temperature: float
) -> None:
    """Write what the later stages read; `run.json` comes last and says that all is there."""
    from safetensors.torch import save_file

    folder, model = settings.out, saved.model
    with replacing(folder / "encoder") as beside:
        facts = {
            "base_model": settings.encoder,
            "dataset": settings.data_dir.resolve().name,
            "settings": _changed(settings),
        }
        model.encoder.save(beside, max_tokens=settings.point_tokens, facts=facts)
    table, prior = model.table, selected["prior"]
    tensors = {"residual": table.residual.detach(), "bias": table.served_bias(prior)}
    with replacing(folder / "labels.safetensors") as beside:
        save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, beside)
    texts = "".join(f"{text}\n" for text in saved.label_texts)
    rundir.write_bytes(folder / "labels.txt", texts.encode())
    rundir.write_array(folder / "label_emb.npy", saved.vectors)
    rundir.write_array(folder / "query_emb.npy", saved.queries)
    files = runinfo.seals(folder)
    fingerprint = runinfo.fingerprint(files)
    if saved.memory is not None:
        save_memory(saved.memory, folder / "memory", encoder=fingerprint)
    info = {
        "data": os.path.relpath(settings.data_dir, folder),
        "n_labels": len(saved.label_texts),
        "dim": model.encoder.dim,
        "point_tokens": settings.point_tokens,
        "label_tokens": settings.label_tokens,
        "temperature": temperature,
        "prior": prior,
        # In float32, as in the label vectors: new labels meet unseen ones to the bit.
        "unseen_bias": float(np.float32(temperature) * np.float32(_unseen_bias(model))),
        "memory": selected["memory"],
        "fingerprint": fingerprint,
    }
    if "bce" in settings.loss:
        info |= {"log_scale": model.log_scale.item(), "offset": model.offset.item()}
    runinfo.write_info(folder, info, files)


def _unseen_bias(model: Model) -> float:
    """The bias that a label without training points is served with: the rarest labels' mean."""
    counts, bias = model.table.counts, model.table.bias.detach()
    seen = counts > 0
    if not bool(seen.any()):
        return 0.0
    return float(bias[counts == counts[seen].min()].mean())


def _changed(settings: TrainSettings) -> dict[str, Any]:
    """Settings that differ from their defaults, plain values."""
    given, defaults = settings.model_dump(mode="json"), _defaults()
    hidden = {"data_dir", "out", "encoder", "resume", "overwrite", "quiet", "debug", "cache"}
    return {k: v for k, v in given.items() if k not in hidden and defaults.get(k, None) != v}


def _defaults() -> dict[str, Any]:
    fields = TrainSettings.model_fields.items()
    return {name: field.default for name, field in fields if not field.is_required()}


def score_test(
    settings: TrainSettings,
    saved: Saved,
    weights: NDArray[np.float64],
    propensity: dict[str, float],
    seconds: float,
) -> Result | None:
    """Score the test part, and write the report; only here are the files of that part opened."""
    part = _test_part(settings, len(saved.vectors))
    if part is None:
        _report(settings, saved, seconds)
        return None
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
    rundir.write_json(settings.out / "metrics.json", found)
    _report(settings, saved, seconds, result, part, ids, scores)
    if show:
        console.say(console.table(rows, REPORTED, {"test, percent": errors}))
        console.say(f"±: standard error, bootstrap over {over}")
        console.say(f"report: {settings.out / report.FILE}")
    return result


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


def _report(
    settings: TrainSettings,
    saved: Saved,
    seconds: float,
    result: Result | None = None,
    part: data.Part | None = None,
    ids: NDArray[np.int32] | None = None,
    scores: NDArray[np.float32] | None = None,
) -> None:
    predictions, log = None, settings.out / "log.jsonl"
    more: dict[str, Any] = {}
    if part is not None and result is not None and ids is not None:
        predictions = report.Predictions("test", part.y, ids, part.texts, scores, part.exclude)
        over = "groups of points" if part.groups else "points"
        more = {
            "result": result,
            "intervals": result.intervals(part.groups, seed=settings.seed),
            "resampled": f"{over}, 1,000 resamples, seed {settings.seed}",
        }
    report.write_report(
        settings.out,
        settings=settings.model_dump(mode="json"),
        defaults=json.loads(json.dumps(_defaults(), default=str)),
        log=report.read_log(log) if log.exists() else [],
        train_counts=np.bincount(saved.y.indices, minlength=saved.y.shape[1]),
        n_train=saved.y.shape[0],
        label_texts=saved.label_texts,
        versions={k: str(v) for k, v in rundir.read_json(settings.out / "versions.json").items()},
        seconds=seconds,
        predictions=predictions,
        **more,
    )
