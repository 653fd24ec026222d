"""The command: python -m dexml.zest train | predict | export | features | score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from scipy.sparse import csr_array

from dexml import config, console, data
from dexml.commands.train import recipes, with_recipe
from dexml.config import Settings
from dexml.metrics import propensity_constants
from dexml.report.of_training import report_training
from dexml.text.bilinear import BilinearSettings
from dexml.text.bilinear.features import MAX_SIZE
from dexml.train import TrainSettings
from dexml.train.settings import NO_ENCODER

_USUAL = BilinearSettings()
USAGE = """\
usage: python -m dexml.zest train DATA_DIR --out RUN [--config recipe:NAME] [--FIELD VALUE ...]
       python -m dexml.zest predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]
       python -m dexml.zest export RUN MODEL
       python -m dexml.zest features DATA_DIR --out FOLDER
       python -m dexml.zest score FOLDER [--out SCORES.npz] [--FIELD VALUE ...]

Learned pairs of words of texts and labels (ZestXML): minutes on one core, labels without training
points included. A recipe holds published hyper-parameters. predict is python -m dexml.predict.
export writes one file that Rust, C and C++ serve. features writes the published feature files,
score fits and scores such files. train --help lists the options."""


class Fit(Settings):
    """How a model is fitted."""

    seed: int = Field(0, ge=0, description="seed of the order in which points are visited")
    propensity: str = Field("", description="benchmark whose constants weigh PSP@k, by its name")
    propensity_a: float = Field(0.55, description="constant A of the propensities")
    propensity_b: float = Field(1.5, ge=0, description="constant B of the propensities")

    k: int = Field(_USUAL.k, ge=1, description="pairs kept for each feature (bs_count)")
    alpha: float = Field(
        _USUAL.alpha, ge=0, le=1, description="0: precision, 1: Jaccard index (bs_alpha)"
    )
    direct_weight: float = Field(
        _USUAL.direct_weight, ge=0, description="of features with the same name (bs_direct_wt)"
    )
    cost: float = Field(
        _USUAL.cost, gt=0, description="of a pair's loss (bilinear_classifier_cost)"
    )
    positive_weight: float = Field(
        _USUAL.positive_weight, gt=0, description="multiplies the cost of positives (pos_wt)"
    )
    shortlist: int = Field(_USUAL.shortlist, ge=1, description="labels a point (shortyK)")
    add_positives: bool = Field(
        _USUAL.add_positives, description="train on positives too that the shortlist lacks"
    )
    score_alpha: float = Field(
        _USUAL.score_alpha, ge=0, le=1, description="share of the learned part in the score"
    )
    loss: Literal["squared-hinge", "logistic"] = Field(_USUAL.loss, description="of a pair")
    tolerance: float = Field(_USUAL.tolerance, gt=0, description="ends the fit")
    passes: int = Field(_USUAL.passes, ge=0, description="visits of each point at most")

    def model(self) -> BilinearSettings:
        """Return the settings of the model."""
        return BilinearSettings(
            **self.model_dump(include=set(BilinearSettings.__dataclass_fields__))
        )


class Words(Settings):
    """How texts become features."""

    stemmer: str = Field("english", description="Snowball stemmer by its language; none: none")
    max_size: int = Field(
        MAX_SIZE, ge=1, description="words and pairs of words of points that are kept"
    )

    def language(self) -> str | None:
        """Return the stemmer."""
        return None if self.stemmer == "none" else self.stemmer


class ZestSettings(Fit, Words):
    """Train the bilinear model alone on a folder in the LF layout."""

    data_dir: CliPositionalArg[Path] = Field(description="data set, a folder in the LF layout")
    out: Path = Field(description="run directory, made by this command")
    overwrite: bool = Field(False, description="replace the run in --out")
    resume: bool = Field(False, description="start a run that was interrupted again")
    own_features: bool = Field(
        True, description="give labels with training points a feature of their own"
    )


class FeatureSettings(Words):
    """Write the published feature files of a folder in the LF layout."""

    data_dir: CliPositionalArg[Path] = Field(description="data set, a folder in the LF layout")
    out: Path = Field(description="new folder")
    packed: Literal["", ".gz", ".zst"] = Field("", description="compress matrices: .gz or .zst")


class ScoreSettings(Fit):
    """Fit the bilinear model on feature files, and score their test part."""

    folder: CliPositionalArg[Path] = Field(
        description="folder with Xf.txt, Yf.txt, trn_X_Xf.txt ..."
    )
    out: Path | None = Field(None, description="write the scores of the test points, .npz")
    as_json: bool = Field(False, description="print one JSON object")


class ExportSettings(Settings):
    """Write the bilinear model of a run as one file that answers texts without Python."""

    run: CliPositionalArg[Path] = Field(description="run directory")
    path: CliPositionalArg[Path] = Field(description="the file")


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.zest``."""
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help", "help"):
        print(USAGE + "\n\nrecipes: " + ", ".join(recipes(of_zest=True)))
    elif action == "predict":
        from dexml.commands.predict import main as predict

        predict(rest)
    elif action in _ACTIONS:
        _ACTIONS[action](with_recipe(rest, of_zest=True))
    else:
        known = ["predict", *_ACTIONS]
        hint = console.did_you_mean(action, known) or f" (known: {', '.join(known)})"
        console.usage_error(f"unknown action '{action}'{hint}")


def _train(argv: list[str]) -> None:
    from dexml.train.zest import train_zest

    given = config.parse(ZestSettings, argv, "python -m dexml.zest train")
    shared = {"data_dir", "out", "overwrite", "resume", "seed", "quiet", "debug"}
    shared |= {"propensity", "propensity_a", "propensity_b"}
    settings = TrainSettings(
        encoder=NO_ENCODER,
        validation=0.0,
        ranker="none",
        tree="none",
        memory="none",
        **given.model_dump(include=shared),
    )
    train_zest(
        settings,
        given.model(),
        stemmer=given.language(),
        max_size=given.max_size,
        own=given.own_features,
        conclude=report_training,
    )
    print(f"{settings.out}: next, python -m dexml.predict {settings.out}")


def _features(argv: list[str]) -> None:
    from dexml.train.zest_features import features_of

    given = config.parse(FeatureSettings, argv, "python -m dexml.zest features")
    found = features_of(given.data_dir, stemmer=given.language(), max_size=given.max_size)
    data.save_features(given.out, found, packed=given.packed)
    print(
        f"{given.out}: {len(found.point_names)} point and {len(found.label_names)} label features"
    )


def _score(argv: list[str]) -> None:
    from dexml.metrics import inv_propensity
    from dexml.train.views import table
    from dexml.train.zest_features import run_features

    given = config.parse(ScoreSettings, argv, "python -m dexml.zest score")
    features = data.load_features(given.folder)
    constants = {"a": given.propensity_a, "b": given.propensity_b}
    if given.propensity:
        constants = dict(zip("ab", propensity_constants(given.propensity), strict=True))
    weights = inv_propensity(features.y_train, **constants)
    found = run_features(features, given.model(), weights, seed=given.seed)
    if given.out is not None:
        there = found.ids >= 0
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        shape = (len(found.ids), features.y_train.shape[1])
        data.save_scores(
            given.out, csr_array((found.scores[there], found.ids[there], indptr), shape)
        )
    if given.as_json:
        views = {name: view.as_json() for name, view in found.views.items()}
        console.put(json.dumps({"views": views, "fit": found.model.facts}))
    elif found.views:
        print(table(found.views))


def _export(argv: list[str]) -> None:
    from dexml.predict.served import open_run, scorers_in
    from dexml.scorers.bilinear import BilinearScorer

    given = config.parse(ExportSettings, argv, "python -m dexml.zest export")
    scorers = scorers_in(open_run(given.run).scorer)
    scorer = next((one for one in scorers if isinstance(one, BilinearScorer)), None)
    if scorer is None:
        raise ValueError(
            f"{given.run}: has no bilinear model; train it with python -m dexml.zest train"
        )
    scorer.export(given.path)
    print(f"{given.path}: {int(scorer.known.sum())} labels")


_ACTIONS = {"train": _train, "features": _features, "score": _score, "export": _export}
