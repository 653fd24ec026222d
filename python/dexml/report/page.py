"""``report.html`` of a run: one page that needs nothing but itself, for people.

Its size does not grow with the data: curves are averaged to a few hundred points, texts are cut,
lists are short. The templates lay out what the other files of this room compute, and escape it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dexml import console
from dexml.files import replacing
from dexml.report import (
    charts,
    confidence,
    curves,
    errors,
    examples,
    figures,
    frequency,
    repeat,
    text,
)
from dexml.report.inputs import Training

FILE = "report.html"
NAMELESS = {"data", "dataset", "run", "light", "..", "."}
"""Folders whose names say nothing about what is in them."""


def write_report(folder: Path, training: Training) -> Path:
    """Write ``report.html`` into a run folder; equal input gives equal bytes.

    Returns:
        The path of the page.
    """
    path = folder / FILE
    with replacing(path) as beside:
        beside.write_text(render(training), encoding="utf-8", newline="\n")
    return path


def render(training: Training) -> str:
    """Return the page of a training."""
    settings, test = training.settings, training.test
    select = str(settings.get("select", "nDCG@5"))
    seed = int(settings.get("seed", 0) or 0)
    spans = curves.spans(training.log)
    deciles = frequency.by_decile(training.y, test) if test and test.ids.size else []
    unseen = next((d.scores for d in deciles if d.unseen and d.scores.n_positives), None)
    right, wrong = examples.choose(test, seed=seed) if test else ([], [])
    template = _environment().get_template("report.html.j2")
    return template.render(
        training=training,
        test=test,
        name=_name(settings),
        begun=curves.begun(training.log),
        headline=figures.HEADLINE,
        select=select,
        best=curves.best,
        kept=curves.best(spans, select),
        spans=spans,
        training_figures=figures.training(spans, select),
        deciles=deciles,
        unseen=unseen,
        decile_figures=figures.by_decile(deciles) if deciles else [],
        sizes=frequency.sizes(training),
        sure=confidence.judge(training, seed=seed),
        errors=errors.find(training),
        rank_figure=figures.label_ranks(training.y),
        events=curves.events(training.log),
        seed=seed,
        right=right,
        wrong=wrong,
        command=repeat.command(settings, training.defaults),
        changed=repeat.changed(settings, training.defaults),
    )


def _name(settings: Mapping[str, Any]) -> str:
    """Name the data set: its folder, or where that says nothing, the one around it."""
    data, out = (Path(str(settings.get(key, ""))) for key in ("data_dir", "out"))
    for path in (data, data.parent, out, out.parent):
        name = path.name.removesuffix(".data")
        if name and name.lower() not in NAMELESS:
            return name
    return "a data set"


def _environment() -> Environment:
    """Load templates that escape every value, hide no character and know every name they use."""
    environment = Environment(
        loader=PackageLoader("dexml.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["finite"] = math.isfinite
    environment.filters |= {
        "count": "{:,}".format,
        "decimals": lambda value, digits: f"{value:.{digits}f}",
        "duration": console.duration,
        "number": charts.number,
        "percent": figures.in_percent,
        "pieces": text.pieces,
        "share": lambda part, whole: f"{100 * part / whole:.1f} %" if whole else figures.NONE,
    }
    return environment


def _finalize(value: Any) -> Any:
    """Make hidden characters visible in whatever a template writes; markup comes from charts."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return text.printable(value) if plain else value
