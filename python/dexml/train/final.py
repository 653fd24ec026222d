"""The end of a training with an encoder: the run folder's parts and the test scores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml import console, sealed
from dexml.data import Csr
from dexml.encoder import with_bias_dimension
from dexml.encoder.card import write_card
from dexml.files import replacing
from dexml.run import FORMAT, LabelSet, PointTexts, encoder_seals
from dexml.run.labels import TRAINED, text_part
from dexml.run.run import ENCODER
from dexml.scorers import PointMemory
from dexml.scorers.calibration import Calibration, Missing
from dexml.scorers.dense import QUERIES, TABLE, VECTORS
from dexml.scorers.favoured import PROPENSITY
from dexml.scorers.ranker import RankedScorer
from dexml.sealed import Home, Part, array_part
from dexml.train import engine, features, processes, selection
from dexml.train.calibrating import NO_VALIDATION
from dexml.train.evidence import asking
from dexml.train.outcome import (
    Finished,
    Scored,
    by_seen,
    changed,
    evaluate_scorer,
    load_test_part,
    propensity_of,
    write_scores,
)
from dexml.train.problem import Model
from dexml.train.schedule import parse_loss, stage_schedules
from dexml.train.settings import TrainSettings

ALONE = "encoder alone"
"""The row of the dot product of text and label text: no residuals, biases, votes, ranker."""


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
    ranker: RankedScorer | None = None
    """Ranks by all evidence, if that was better."""
    texts: PointTexts | None = None
    """Of the points that vote, if they are to be kept."""
    calibration: Calibration | Missing = Missing(NO_VALIDATION)
    label_features: NDArray[np.float32] | None = None
    """Of the label texts, (L, H), to score the encoder alone."""


def save(
    settings: TrainSettings,
    saved: Saved,
    selected: dict[str, Any],
    temperature: float,
    chosen: engine.Chosen,
) -> None:
    """Write the parts of the run, and the manifest that says that all are there."""
    folder, model = settings.out, saved.model
    with replacing(folder / ENCODER) as beside:
        model.encoder.save(beside, max_tokens=settings.point_tokens, facts=card_facts(settings))
        exported = engine.export(model.encoder, chosen, beside, settings)
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
    if gives_probabilities(settings, selected["epochs"], len(labels)):
        dense |= {"log_scale": model.log_scale.item(), "offset": model.offset.item()}
    sections = {
        "data": os.path.relpath(settings.data_dir, folder.resolve()),
        "labels": labels.facts(),
        "dense": dense,
        "selected": selected["memory"],
    }
    if exported is not None:
        sections["engine"] = exported
    parts = labels.parts() | {
        TRAINED: text_part(labels.texts),
        VECTORS: array_part(saved.vectors),
        QUERIES: array_part(saved.queries),
        TABLE: Part(lambda path: _write_table(path, model, prior), ".safetensors", ()),
    }
    if saved.memory is not None:
        sections["neighbours"] = saved.memory.facts()
        parts |= saved.memory.parts()
        if saved.texts is not None:
            sections |= saved.texts.facts()
            parts |= saved.texts.parts()
    if saved.ranker is not None and saved.ranker.network is not None:
        network = saved.ranker.network
        sections |= {"selected_ranker": selected["ranker"], **network.facts()}
        parts |= network.parts()
        for member in saved.ranker.members[1:]:  # the first is the dense scorer, saved above
            sections |= member.facts()
            parts |= dict(member.parts())
    sections[PROPENSITY] = propensity_of(settings) | {"n_points": saved.y.shape[0]}
    sections |= saved.calibration.facts()
    parts |= saved.calibration.parts()
    home = Home()
    with suppress(OSError, ValueError):  # none yet, or it cannot be read: nothing to take over
        home.note(sealed.read(folder, FORMAT), {})
    # Those of a light run that has grown: better none, until the test part is scored, than these.
    for name in ("metrics.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    home.save(folder, FORMAT, sections, parts, keep=encoder_seals(folder), lock=False)


def card_facts(settings: TrainSettings) -> dict[str, Any]:
    """Return what the model card of the encoder says of its training."""
    return {
        "base_model": settings.encoder,
        "dataset": settings.data_dir.resolve().name,
        "settings": changed(settings),
        "label_table": True,
    }


def gives_probabilities(settings: TrainSettings, epochs: Mapping[str, int], n_labels: int) -> bool:
    """Whether a sigmoid of the trained scores is a probability: bce came last, over all labels.

    Over drawn labels the share of positives is another one, and a later loss moves the scores.

    Args:
        settings: The settings.
        epochs: Epochs of each stage that led to the model.
        n_labels: L.
    """
    losses = parse_loss(settings.loss)
    # A stage that was selected and not trained again may have stopped before its last loss.
    if not losses[-1].loss.learns_scale or (len(losses) > 1 and not settings.refit):
        return False
    trained = [one for one in stage_schedules(settings, n_labels) if epochs.get(one.name)]
    return bool(trained) and trained[-1].negatives == "all"


def _write_table(path: Path, model: Model, prior: float) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    table = model.table
    tensors = {"residual": table.whole_residual(), "bias": table.served_bias(prior)}
    try:
        save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None


def score_test(
    settings: TrainSettings,
    saved: Saved,
    weights: NDArray[np.float64],
    propensity: dict[str, float],
    seconds: float,
) -> Finished:
    """Score the test part, if there is one; only here are its files opened."""
    part = load_test_part(settings, len(saved.vectors))
    if part is None:
        return Finished(settings, saved.label_texts, saved.y, seconds)
    show, encoder, groups = not settings.quiet, saved.model.encoder, by_seen(saved.y)
    tokens = encoder.tokenize(part.texts, settings.point_tokens, side="point")
    if processes.size() == 1:
        cache = features.cache_folder(settings)
        encoded = features.cached_features(
            encoder,
            tokens,
            cache,
            desc="test points",
            progress=show,
            gigabytes=settings.cache_gigabytes,
            precision=settings.precision,
        )
    else:  # the first process is alone here, and the cache is something of all of them
        encoded = encoder.encode_features(
            tokens, desc="test points", progress=show, precision=settings.precision
        )
    score = partial(
        selection.score,
        encoder,
        encoded,
        y_true=part.y,
        exclude=part.exclude,
        inv_propensity=weights,
        label_vectors=saved.vectors,
        label_groups=groups,
        progress=show,
    )
    result, ids, scores = score(memory=saved.memory)
    others = {}
    if saved.ranker is not None:
        others["without ranker"] = result
        vectors = with_bias_dimension(encoder.embed(encoded))
        with console.bar(
            total=len(part.texts), desc="ranking", unit="text", disable=not show
        ) as bar:
            result, ids, scores = evaluate_scorer(
                asking(saved.ranker, part.texts, vectors),
                part.texts,
                part.y,
                part.exclude,
                weights,
                bar.update,
                groups,
            )
    if saved.memory is not None:
        others["without memory"], _, _ = score()
    if saved.label_features is not None:
        alone = encoder.embed(saved.label_features, "label")
        vectors = np.concatenate([alone, np.zeros((len(alone), 1), np.float32)], axis=1)
        others[ALONE], _, _ = score(label_vectors=vectors)
        both = {
            "dot product of the vectors alone": others[ALONE].metrics,
            "the whole run": result.metrics,
        }
        data = settings.data_dir.resolve().name
        figures = {"scores": both, "scored_on": f"the {len(part.texts)} test points of {data}"}
        facts = encoder.card_facts(settings.point_tokens) | card_facts(settings) | figures
        write_card(settings.out / ENCODER, facts)
    write_scores(settings, result, part, propensity, seconds, others)
    counts = saved.model.table.counts.cpu().numpy()
    return Finished(
        settings,
        saved.label_texts,
        saved.y,
        seconds,
        Scored(result, part, ids, scores),
        saved.calibration,
        counts if saved.ranker is None else saved.ranker.counts,
    )
