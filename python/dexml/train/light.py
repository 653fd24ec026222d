"""A light training: words, a label tree and a ranker, without a transformer or torch.

The same story as `dexml.train.run`: fit on most points, choose on the others, fit on all points,
save, score the test part.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console, data
from dexml.heap import give_back
from dexml.metrics import Result, inv_propensity
from dexml.run import FEATURES, FORMAT, LabelSet, PointTexts
from dexml.run.labels import TRAINED, text_part
from dexml.scorers.calibration import Calibration, Missing
from dexml.scorers.cooccurrence import Cooccurrence
from dexml.scorers.favoured import PROPENSITY
from dexml.scorers.lexicon import Lexicon
from dexml.scorers.queries import Queries
from dexml.scorers.ranker import RankedScorer
from dexml.sealed import Home
from dexml.train import ranking
from dexml.train.asked import Asked, Evidence, ask
from dexml.train.calibrating import NO_VALIDATION, calibrate, summary
from dexml.train.folder import begin_log, end_log, fingerprint, hold_folder, open_folder
from dexml.train.growth import TRAINED as TRAINED_ON
from dexml.train.inputs import DataSet, Held, load_data, parts_to_ask
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
from dexml.train.words import Also, asked_for, fit_lexicon, tried, used_by, word_members


def train_light(
    settings: TrainSettings, conclude: Callable[[Finished], None] | None = None
) -> Result | None:
    """Train without an encoder: `dexml.train.train`."""
    started = time.perf_counter()
    given = load_data(settings)
    propensity = propensity_of(settings)
    weights = inv_propensity(given.part.y, **propensity)
    with hold_folder(settings.out):
        if open_folder(
            settings, fingerprint(given.label_texts, given.part, given.parents), NO_ENCODER
        ):
            console.say(f"{settings.out}: this run has finished already; nothing to do")
            return None
        before = begin_log(settings)
        _announce(given, settings)

        lexicon = fit_lexicon(given, settings)
        if lexicon.stop_words and not settings.quiet:
            console.say(f"{len(lexicon.stop_words)} stop words left out")
        choice, calibration = _choose(given, lexicon, weights, settings)
        give_back()
        rows = np.arange(len(given.held_out)) if settings.refit else given.fitted
        network = None if choice is None else choice.network
        scorer = ranked_scorer(given, rows, lexicon, also=used_by(network), seed=settings.seed)
        scorer = replace(scorer, network=network)
        _save(settings, given, rows, scorer, choice, calibration)
        give_back()

        seconds = before + time.perf_counter() - started
        test = _ask_test_part(settings, given, scorer, weights)
        counts = scorer.counts
        del scorer
        give_back()
        if test is not None:
            write_scores(settings, test.result, test.part, propensity, seconds, {})
        names = given.label_texts
        names = names if given.part.features is None else data.names_of(names)
        finished = Finished(settings, names, given.y, seconds, test, calibration, counts)
        if conclude is not None:
            conclude(finished)
        end_log(settings)
    return None if finished.test is None else finished.test.result


def ranked_scorer(
    given: DataSet, rows: NDArray[np.int64], lexicon: Lexicon, *, also: Also, seed: int
) -> RankedScorer:
    """Fit the members on the points `rows`; the lexical score ranks."""
    lexical, members = word_members(given, rows, lexicon, also=also, seed=seed)
    return RankedScorer(members, None, Cooccurrence(lexical.y), lexical.alive)


def _choose(
    given: DataSet,
    lexicon: Lexicon,
    weights: NDArray[np.float64],
    settings: TrainSettings,
) -> tuple[ranking.Choice | None, Calibration | Missing]:
    """Train the ranker on points that the members were not fitted on, and judge it there.

    Probabilities are fitted there too, to the scores that will be served.
    """
    if not given.y[given.scored].nnz:
        return None, Missing(NO_VALIDATION)
    ranks = settings.ranker == "auto"
    parts = parts_to_ask(given)
    if not settings.quiet:
        members, times = tried(settings, given), f" {len(parts)} times" if len(parts) > 1 else ""
        console.say(f"fitting {members}{times} for the ranker to learn from ...")
    rows = np.concatenate([part.asked for part in parts])
    with _bar(len(rows), "evidence", settings) as bar:
        found = [_evidence(given, lexicon, weights, part, settings, bar.update) for part in parts]
    evidence = Evidence.joined(found)
    asked = Asked.of(given, rows, weights)
    choice = None
    if ranks:
        choice = ranking.choose(
            evidence, asked, settings.select, seed=settings.seed, favour=settings.favour
        )
        if not settings.quiet:
            console.say(ranking.summary(choice))
    calibration = calibrate(evidence, asked, choice, given, seed=settings.seed)
    if not settings.quiet:
        console.say(summary(calibration))
    return choice, calibration


def _evidence(
    given: DataSet,
    lexicon: Lexicon,
    weights: NDArray[np.float64],
    part: Held,
    settings: TrainSettings,
    on_progress: Callable[[int], object],
) -> Evidence:
    """Fit the members and ask them; their indexes of all points are gone afterwards."""
    also = asked_for(settings, given)
    scorer = ranked_scorer(given, part.fitted, lexicon, also=also, seed=settings.seed)
    _make_ready(scorer, given.part.texts[:1])
    evidence = ask(scorer, Asked.of(given, part.asked, weights), on_progress)
    del scorer
    give_back()
    return evidence


def _make_ready(scorer: RankedScorer, texts: list[str]) -> None:
    """Build the indexes, which a first search does, and give back what that took."""
    scorer.search(Queries(texts), 1)
    give_back()


def _save(
    settings: TrainSettings,
    given: DataSet,
    rows: NDArray[np.int64],
    scorer: RankedScorer,
    choice: ranking.Choice | None,
    calibration: Calibration | Missing,
) -> None:
    """Write the parts of the run, and the manifest that says that all are there.

    `rows` are the training points that vote.
    """
    counts = scorer.together.counts(len(given.label_texts))
    labels = LabelSet.of(given.label_texts, counts)
    sections: dict[str, Any] = {
        "data": os.path.relpath(settings.data_dir, settings.out.resolve()),
        "labels": labels.facts(),
        "selected": {} if choice is None else choice.facts,
        TRAINED_ON: {"n_points": scorer.together.y.shape[0]},
        PROPENSITY: propensity_of(settings) | {"n_points": given.y.shape[0]},
        **scorer.facts(),
        **calibration.facts(),
    }
    parts = labels.parts() | {TRAINED: text_part(labels.texts)} | dict(scorer.parts())
    parts |= calibration.parts()
    if given.part.features is not None:
        sections[FEATURES] = asdict(given.part.features)
    if settings.keep_texts:
        texts = PointTexts.of([given.part.texts[i] for i in rows])
        sections |= texts.facts()
        parts |= texts.parts()
    Home().save(settings.out, FORMAT, sections, parts, lock=False)


def _ask_test_part(
    settings: TrainSettings,
    given: DataSet,
    scorer: RankedScorer,
    weights: NDArray[np.float64],
) -> Scored | None:
    """Score the test part, if there is one; only here are its files opened."""
    part = load_test_part(settings, len(given.label_texts))
    if part is None:
        return None
    name = f"{settings.data_dir}: test points"
    data.check_same_features(given.part.features, part.features, name)
    _make_ready(scorer, part.texts[:1])
    with _bar(len(part.texts), "test points", settings) as bar:

        def on_progress(n: int) -> None:
            give_back()
            bar.update(n)

        result, ids, scores = evaluate_scorer(
            scorer, part.texts, part.y, part.exclude, weights, on_progress, by_seen(given.y)
        )
    return Scored(result, part, ids, scores)


def _announce(given: DataSet, settings: TrainSettings) -> None:
    """Say what is trained on."""
    n_held_out = int(given.held_out.sum())
    if not n_held_out:
        console.say("note: no validation part; labels are ranked without a ranker")
    if not settings.quiet:
        n_points, n_labels = given.y.shape
        features = given.part.features
        kind = "" if features is None else f"rows of {features.n_features} features; "
        console.say(
            f"{n_points - n_held_out} training and {n_held_out} validation points, "
            f"{n_labels} labels, {given.y.nnz / max(1, n_points):.1f} a point; {kind}no encoder"
        )


def _bar(n: int, what: str, settings: TrainSettings) -> AbstractContextManager[Any]:
    bar: AbstractContextManager[Any] = console.bar(
        total=n, desc=what, unit="text", delay=2, disable=settings.quiet
    )
    return bar
