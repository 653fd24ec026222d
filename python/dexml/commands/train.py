"""The command: python -m dexml.train DATA --out RUN [--config FILE] [--FIELD VALUE ...]."""

from __future__ import annotations

import json
import os
from importlib.resources import files

from dexml import config, console
from dexml.commands.tables import with_folder
from dexml.index import choose_search
from dexml.metrics import DEFAULT_CONSTANTS
from dexml.metrics.propensity import propensity_note
from dexml.report.of_training import report_training
from dexml.run import Run
from dexml.threads import core_threads
from dexml.train import TrainSettings, train
from dexml.train.settings import NO_ENCODER

PLAN = ("--plan", "--plan-json")
RECIPE = "recipe:"
OF_ZEST = "gz-"


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.train``."""
    argv = with_recipe(argv)
    if not {*PLAN}.isdisjoint(argv) and not any(word.split("=")[0] == "--out" for word in argv):
        argv = [*argv, "--out", os.devnull]  # a plan writes nothing there
    settings = config.parse(TrainSettings, argv, "python -m dexml.train")
    with core_threads(settings.threads or None):
        _run(with_folder(settings))


def _run(settings: TrainSettings) -> None:
    if settings.plan or settings.plan_json:
        _check_plan(settings)
    elif settings.resume and settings.overwrite:
        console.usage_error("--resume and --overwrite exclude each other")
    if not settings.quiet and _is_first():  # what follows may take seconds before it says a word
        encoder = "" if settings.encoder == NO_ENCODER else f" and the encoder {settings.encoder}"
        console.say(f"reading {settings.data_dir}{encoder}")
    if settings.plan or settings.plan_json:
        _say_plan(settings)
        return
    _ask_for_propensity(settings)
    train(settings, report_training)
    if _is_first():
        step = "index" if _pays_an_index(settings) else "predict"
        print(f"{settings.out}: next, python -m dexml.{step} {settings.out}")


def _is_first() -> bool:
    """Whether this is the only process, or the first one under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _pays_an_index(settings: TrainSettings) -> bool:
    """Whether a graph would be faster than exact search, which needs no index."""
    if settings.encoder == NO_ENCODER:
        return False
    n_labels = Run.open(settings.out).facts["labels"]["n_labels"]
    return choose_search(n_labels) == "hnsw"


def _ask_for_propensity(settings: TrainSettings) -> None:
    """Say so if the data set is named after a benchmark that has constants of its own."""
    given = settings.propensity or (settings.propensity_a, settings.propensity_b)
    if given == DEFAULT_CONSTANTS and not settings.quiet and _is_first():
        note = propensity_note(settings.data_dir)
        if note is not None:
            console.say(note)


def _check_plan(settings: TrainSettings) -> None:
    for switch in ("resume", "overwrite"):
        if getattr(settings, switch):
            console.usage_error(f"--plan trains nothing and needs no run; leave --{switch} out")
    if settings.encoder == NO_ENCODER:
        console.usage_error("--plan is for trainings with an encoder; --encoder none needs none")


def _say_plan(settings: TrainSettings) -> None:
    """Print what the training would cost; under torchrun, the first process does."""
    if _is_first():
        from dexml.plan import as_text  # brings torch, which a light training does without
        from dexml.plan.forecast import forecast

        found = forecast(settings)
        print(json.dumps(found.as_json(), indent=2) if settings.plan_json else as_text(found))


def recipes(*, of_zest: bool = False) -> dict[str, str]:
    """Paths of the packaged configurations of this command, or of `dexml.zest`, by name."""
    folder = files("dexml.train") / "recipes"
    found = [path for path in folder.iterdir() if path.name.endswith(".toml")]
    found = [path for path in found if path.name.startswith(OF_ZEST) == of_zest]
    return dict(sorted((path.name.removesuffix(".toml"), str(path)) for path in found))


def with_recipe(argv: list[str], *, of_zest: bool = False) -> list[str]:
    """Put the file of a packaged configuration in the place of ``recipe:NAME``."""
    out = []
    for word in argv:
        prefix = "--config=" if word.startswith("--config=") else ""
        name = word.removeprefix(prefix)
        if name.startswith(RECIPE):
            known = recipes(of_zest=of_zest)
            asked = name.removeprefix(RECIPE)
            if asked not in known:
                console.usage_error(
                    f"no recipe '{asked}' (there are {', '.join(known)})"
                    + console.did_you_mean(asked, list(known))
                )
            word = prefix + known[asked]
        out.append(word)
    return out


if __name__ == "__main__":
    raise SystemExit(console.run(main))
