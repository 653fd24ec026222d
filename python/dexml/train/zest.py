"""A training of the bilinear model alone (ZestXML): features, support, shortlists, weights, scores.

The run is a run like any other: it is asked, edited and saved by the same commands.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dexml import console, data
from dexml.files import write_json
from dexml.metrics import Result, inv_propensity
from dexml.run import FORMAT, LabelSet
from dexml.run import folder as rundir
from dexml.run.labels import TRAINED, text_part
from dexml.scorers.bilinear import BilinearScorer
from dexml.sealed import Home
from dexml.text.bilinear import BilinearFeatures, BilinearSettings
from dexml.train.folder import begin_log, end_log, fingerprint, hold_folder, open_folder
from dexml.train.growth import TRAINED as TRAINED_ON
from dexml.train.inputs import load_data
from dexml.train.outcome import (
    Finished,
    Scored,
    by_seen,
    evaluate_scorer,
    load_test_part,
    propensity_of,
    write_scores,
)
from dexml.train.settings import NO_ENCODER, TrainSettings
from dexml.train.views import table, views


def train_zest(
    settings: TrainSettings,
    model: BilinearSettings,
    *,
    stemmer: str | None = "english",
    max_size: int | None = None,
    own: bool = True,
    conclude: Callable[[Finished], None] | None = None,
) -> Result | None:
    """Train, save the run folder, and score the test part if the data set has one.

    Args:
        settings: Data set, run folder, seed, propensities; the rest is not looked at.
        model: How the model is fitted.
        stemmer: A Snowball stemmer, or None.
        max_size: Words and pairs of words of points that are kept.
        own: Whether labels with training points get a feature of their own.
        conclude: Called before the run counts as finished; writes a report.

    Returns:
        The test scores with values per point, or None without a test part.

    Raises:
        FileExistsError: The run folder has a run and neither resume nor overwrite is set.
        ValueError: The data set or a setting is wrong; the message names it.
    """
    started = time.perf_counter()
    given = load_data(settings)
    data.require_texts(given.part.features, str(settings.data_dir), "this model")
    propensity = propensity_of(settings)
    weights = inv_propensity(given.part.y, **propensity)
    counts = np.bincount(given.y.indices, minlength=given.y.shape[1])
    with hold_folder(settings.out):
        if open_folder(
            settings, fingerprint(given.label_texts, given.part, given.parents), NO_ENCODER
        ):
            console.say(f"{settings.out}: this run has finished already; nothing to do")
            return None
        before = begin_log(settings)
        labels = LabelSet.of(given.label_texts, counts)
        vocabulary = BilinearFeatures.fit(
            given.part.texts,
            given.label_texts,
            np.flatnonzero(counts if own else np.zeros(0)),
            stemmer=stemmer,
            max_size=max_size,
            parents=given.parents,
        )
        scorer = BilinearScorer.fit(
            given.part.texts,
            given.y,
            labels,
            seed=settings.seed,
            settings=model,
            vocabulary=vocabulary,
        )
        rundir.log(settings.out, event="fitted", **scorer.model.facts)
        if not settings.quiet:
            _announce(scorer, given.y.shape[0])
        sections: dict[str, Any] = {
            "data": os.path.relpath(settings.data_dir, settings.out.resolve()),
            "labels": labels.facts(),
            TRAINED_ON: {"n_points": given.y.shape[0]},
            **scorer.facts(),
        }
        parts = labels.parts() | {TRAINED: text_part(labels.texts)} | dict(scorer.parts())
        Home().save(settings.out, FORMAT, sections, parts, lock=False)

        seconds = before + time.perf_counter() - started
        finished = Finished(settings, given.label_texts, given.y, seconds)
        part = load_test_part(settings, len(given.label_texts))
        if part is not None:
            with console.bar(
                total=len(part.texts), desc="test points", unit="text", disable=settings.quiet
            ) as bar:
                result, ids, scores = evaluate_scorer(
                    scorer, part.texts, part.y, part.exclude, weights, bar.update, by_seen(given.y)
                )
            write_scores(settings, result, part, propensity, seconds, {})
            found = views(scorer, part, counts, weights, ids)
            written = rundir.read_json(settings.out / "metrics.json")
            written["views"] = {name: view.as_json() for name, view in found.items()}
            write_json(settings.out / "metrics.json", written)
            if not settings.quiet and len(found) > 1:
                console.say(table(found))
            test = Scored(result, part, ids, scores)
            finished = finished._replace(test=test)
        if conclude is not None:
            conclude(finished)
        end_log(settings)
    return None if finished.test is None else finished.test.result


def _announce(scorer: BilinearScorer, n_points: int) -> None:
    """Say what was trained, and which labels cannot be found."""
    facts, words = scorer.model.facts, scorer.vocabulary
    console.say(
        f"{n_points} points, {words.points.n_tokens} words and pairs of words of points, "
        f"{words.n_label_features} features of {scorer.n_labels} labels; "
        f"{facts['weights']} weights, {facts['passes']} passes over {facts['pairs']} pairs"
    )
    silent = int((scorer.alive & ~scorer.known).sum())
    if silent:
        console.say(
            f"note: {silent} labels have no training point and no known word: they are never found"
        )
