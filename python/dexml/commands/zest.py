"""The command: python -m dexml.zest train DATA_DIR --out RUN, python -m dexml.zest predict RUN ..."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from dexml import config, console
from dexml.commands.train import recipes, with_recipe
from dexml.config import Settings
from dexml.report.of_training import report_training
from dexml.text.bilinear import BilinearSettings
from dexml.text.bilinear.features import MAX_SIZE
from dexml.train import TrainSettings
from dexml.train.settings import NO_ENCODER

_USUAL = BilinearSettings()
USAGE = """\
usage: python -m dexml.zest train DATA_DIR --out RUN [--config recipe:gz-eurlex-4.3k] [--FIELD VALUE ...]
       python -m dexml.zest predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]

Learned pairs of words of texts and labels (ZestXML): minutes on one core, labels without training
points included. A recipe holds published hyper-parameters. predict is python -m dexml.predict;
train --help lists the options."""


class ZestSettings(Settings):
    """Train the bilinear model alone on a folder in the LF layout."""

    data_dir: CliPositionalArg[Path] = Field(description="data set, a folder in the LF layout")
    out: Path = Field(description="run directory, made by this command")
    overwrite: bool = Field(False, description="replace the run in --out")
    resume: bool = Field(False, description="start a run that was interrupted again")
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

    stemmer: str = Field("english", description="Snowball stemmer by its language; none: none")
    max_size: int = Field(
        MAX_SIZE, ge=1, description="words and pairs of words of points that are kept"
    )
    own_features: bool = Field(
        True, description="give labels with training points a feature of their own"
    )


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.zest``."""
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help", "help"):
        print(USAGE + "\n\nrecipes: " + ", ".join(n for n in recipes() if n.startswith("gz-")))
    elif action == "predict":
        from dexml.commands.predict import main as predict

        predict(rest)
    elif action == "train":
        _train(rest)
    else:
        console.usage_error(f"unknown action '{action}'; give train or predict")


def _train(argv: list[str]) -> None:
    from dexml.train.zest import train_zest

    given = config.parse(ZestSettings, with_recipe(argv), "python -m dexml.zest train")
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
    fields = set(BilinearSettings.__dataclass_fields__)
    train_zest(
        settings,
        BilinearSettings(**given.model_dump(include=fields)),
        stemmer=None if given.stemmer == "none" else given.stemmer,
        max_size=given.max_size,
        own=given.own_features,
        conclude=report_training,
    )
    print(f"{settings.out}: next, python -m dexml.predict {settings.out}")
