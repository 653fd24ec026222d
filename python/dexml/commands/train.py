"""The command: python -m dexml.train DATA --out RUN [--config FILE] [--FIELD VALUE ...]."""

from __future__ import annotations

import json
import os
from importlib.resources import files

from dexml import config, console
from dexml.commands.tables import with_folder
from dexml.metrics import DEFAULT_CONSTANTS
from dexml.metrics.propensity import propensity_note
from dexml.report.of_training import report_training
from dexml.train import TrainSettings, train
from dexml.train.settings import NO_ENCODER

PLAN = ("--plan", "--plan-json")
RECIPE = "recipe:"


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.train``."""
    argv = with_recipe(argv)
    if not {*PLAN}.isdisjoint(argv) and not any(word.split("=")[0] == "--out" for word in argv):
        argv = [*argv, "--out", os.devnull]  # a plan writes nothing there
    settings = with_folder(config.parse(TrainSettings, argv, "python -m dexml.train"))
    if settings.plan or settings.plan_json:
        _say_plan(settings)
        return
    if settings.resume and settings.overwrite:
        console.usage_error("--resume and --overwrite exclude each other")
    _ask_for_propensity(settings)
    train(settings, report_training)
    if os.environ.get("RANK", "0") == "0":
        step = "predict" if settings.encoder == NO_ENCODER else "index"
        print(f"{settings.out}: next, python -m dexml.{step} {settings.out}")


def _ask_for_propensity(settings: TrainSettings) -> None:
    """Say so if the data set is named after a benchmark that has constants of its own."""
    given = settings.propensity or (settings.propensity_a, settings.propensity_b)
    if given == DEFAULT_CONSTANTS and not settings.quiet and os.environ.get("RANK", "0") == "0":
        note = propensity_note(settings.data_dir)
        if note is not None:
            console.say(note)


def _say_plan(settings: TrainSettings) -> None:
    """Print what the training would cost; under torchrun, the first process does."""
    for switch in ("resume", "overwrite"):
        if getattr(settings, switch):
            console.usage_error(f"--plan trains nothing and needs no run; leave --{switch} out")
    if settings.encoder == NO_ENCODER:
        console.usage_error("--plan is for trainings with an encoder; --encoder none needs none")
    if os.environ.get("RANK", "0") == "0":
        from dexml.plan import as_text  # brings torch, which a light training does without
        from dexml.plan.forecast import forecast

        found = forecast(settings)
        print(json.dumps(found.as_json(), indent=2) if settings.plan_json else as_text(found))


def recipes() -> dict[str, str]:
    """Paths of the packaged configurations, by name."""
    folder = files("dexml.train") / "recipes"
    found = [path for path in folder.iterdir() if path.name.endswith(".toml")]
    return dict(sorted((path.name.removesuffix(".toml"), str(path)) for path in found))


def with_recipe(argv: list[str]) -> list[str]:
    """Put the file of a packaged configuration in the place of ``recipe:NAME``."""
    out = []
    for word in argv:
        prefix = "--config=" if word.startswith("--config=") else ""
        name = word.removeprefix(prefix)
        if name.startswith(RECIPE):
            known = recipes()
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
