"""What encodes texts in a training, and in which form: chosen by its speed and by what it costs.

A form is taken if it is faster on this machine, and if validation points find their labels in it as
well as in float32 (`dexml.train.form`). The same form then makes the features that heads are
trained on, and serves the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.encoder import DualEncoder, Tokens
from dexml.encoder.engine import Engine, Form
from dexml.encoder.engine_speed import is_faster, seconds
from dexml.run import folder as rundir
from dexml.train import features, processes
from dexml.train import form as forming
from dexml.train.form import METRICS, Encode, Sample
from dexml.train.inputs import DataSet
from dexml.train.problem import Features, Model
from dexml.train.schedule import parse_stages
from dexml.train.settings import TrainSettings

if TYPE_CHECKING:
    from dexml.encoder.engine_openvino import OpenVino

NAME = "openvino"
FILE = "engine.json"
"""Where a checkpoint keeps the choice: a resumed run goes on with it."""
TIMED = 2048
"""Tokens that forms are timed on, some more or less."""


@dataclass(frozen=True)
class Chosen:
    """What encodes texts.

    Attributes:
        engine: None for torch.
        facts: Section ``engine`` of the manifest; empty for torch.
        sample: What the form was compared with float32 on, unless it is float32.
        features: Of the sample, in the form.
    """

    engine: OpenVino | None = None
    facts: Mapping[str, Any] | None = None
    sample: Sample | None = None
    features: Features | None = None


def choose(
    encoder: DualEncoder, given: DataSet, tokens: tuple[Tokens, Tokens], settings: TrainSettings
) -> Chosen:
    """Choose what encodes texts, and let `encoder` use it, where its transformer stays as it is.

    Args:
        encoder: The encoder as it was loaded.
        given: The data set.
        tokens: Of its training points and its labels.
        settings: The settings.

    Raises:
        ImportError: `--engine openvino`, and the library is missing.
        ValueError: `--engine openvino`, and the encoder cannot be converted or is on a GPU; or this
            processor does not multiply `--form`.
    """
    encoder.engine = None
    wanted = _is_wanted(encoder, settings, processes.size())
    if not wanted or parse_stages(settings.stages) != ("heads",):
        return Chosen()
    if not settings.quiet:
        console.say("encoder: converted for OpenVINO, and its forms compared on this machine ...")
    engine = _converted(encoder, settings)
    if engine is None:
        return Chosen()

    def encode(by: Engine, texts: Tokens) -> NDArray[np.float32]:
        """Encode a sample; the training then finds its texts in the cache."""
        encoder.engine = by
        return features.cached_features(
            encoder,
            texts,
            features.cache_folder(settings),
            desc=f"sample in {by.form}",
            progress=not settings.quiet,
            gigabytes=settings.cache_gigabytes,
        )

    path = settings.out / "checkpoint" / FILE
    if path.exists():  # a resumed run
        chosen = _as_before(engine, rundir.read_json(path), given, tokens, encode)
    else:
        form, seed = settings.form, settings.seed
        chosen = decide(engine, encoder, given, tokens, form, seed, encode=encode)
        say(chosen, quiet=settings.quiet, log=settings.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_json(path, dict(chosen.facts or {}))
    encoder.engine = chosen.engine
    return chosen


def expected(encoder: DualEncoder, settings: TrainSettings, n_processes: int) -> OpenVino | None:
    """What will encode texts, before any form is compared; None for torch.

    With ``--form auto`` bfloat16 where the processor multiplies it: it seldom costs anything.
    """
    wanted = _is_wanted(encoder, settings, n_processes)
    if not wanted or parse_stages(settings.stages) != ("heads",):
        return None
    from dexml.encoder.engine_openvino import forms

    engine = _converted(encoder, settings)
    form: Form = "bfloat16" if "bfloat16" in forms() else "float32"
    return engine and engine.with_form(form if settings.form == "auto" else settings.form)


def note_trained_loss(
    chosen: Chosen, model: Model, given: DataSet, settings: TrainSettings
) -> None:
    """Add to the choice in the checkpoint what its form costs by the vectors of a trained model.

    Args:
        chosen: What encodes texts; nothing is done for torch, and where nothing was compared.
        model: The selection at its best epoch.
        given: The data set.
        settings: The settings.
    """
    if chosen.sample is None or chosen.features is None:
        return
    temperature = model.served_temperature(settings.temperature)
    found = forming.trained_loss(
        model, chosen.sample, chosen.features, given, temperature, settings.seed
    )
    facts = dict(chosen.facts or {}) | {"trained": found}
    rundir.write_json(settings.out / "checkpoint" / FILE, facts)
    if not settings.quiet:
        form = facts["form"]
        console.say(f"encoder: {form} against float32, trained{_in_words(found)}")


def export(
    encoder: DualEncoder, chosen: Chosen, folder: Path, settings: TrainSettings
) -> dict[str, Any] | None:
    """Complete a saved encoder with the files that it is served from without torch.

    Args:
        encoder: The encoder as it was saved.
        chosen: What encoded its texts in the training.
        folder: Where it was saved.
        settings: The settings.

    Returns:
        Section ``engine`` of the manifest; None if nothing was written. A transformer that was
        trained is served in float32: no other form was compared.
    """
    if settings.engine == "torch" or not console.is_installed(NAME):
        return None
    from dexml.encoder.engine_export import NotExportable, write

    encoder.engine = None
    engine = chosen.engine or _converted(encoder, settings)
    if engine is None:
        return None
    try:
        write(encoder, engine, folder)
    except NotExportable as error:
        _refuse(error, settings)
        return None
    path = settings.out / "checkpoint" / FILE
    return rundir.read_json(path) if chosen.engine else facts_of("float32", [])


def _is_wanted(encoder: DualEncoder, settings: TrainSettings, n_processes: int) -> bool:
    """Whether an engine is to encode texts in this training."""
    asked = settings.engine == NAME
    if settings.engine == "torch":
        return False
    if encoder.device.type != "cpu" or n_processes > 1:
        if asked:
            raise ValueError("--engine openvino encodes on a CPU, in one process; give auto")
        return False
    if not console.is_installed(NAME):
        if asked:
            console.require("serve", NAME)
        return False
    return True


def _converted(encoder: DualEncoder, settings: TrainSettings) -> OpenVino | None:
    from dexml.encoder.engine_export import NotExportable, converted

    try:
        return converted(encoder, threads=settings.threads or None)
    except NotExportable as error:
        _refuse(error, settings)
        return None


def _refuse(error: Exception, settings: TrainSettings) -> None:
    if settings.engine == NAME:
        raise ValueError(f"{settings.encoder}: {error}; give --engine torch") from None
    console.say(f"note: {settings.encoder} needs torch to be served: {error}")


def decide(
    engine: OpenVino,
    encoder: DualEncoder,
    given: DataSet,
    tokens: tuple[Tokens, Tokens],
    form: Form | Literal["auto"],
    seed: int,
    *,
    encode: Encode | None = None,
) -> Chosen:
    """Decide in which form a converted encoder is used.

    Args:
        engine: The transformer of `encoder`, converted, in float32.
        encoder: The encoder, for its heads.
        given: The data set.
        tokens: Of its training points and its labels.
        form: The form, or ``auto``: the most exact one that is clearly faster than float32 and
            passes. So times that differ from run to run do not decide between the others.
        seed: Seed of the resampling.
        encode: Encodes the texts that are compared; default without a cache.

    Raises:
        ValueError: This processor does not multiply `form`.
    """
    from dexml.encoder.engine_openvino import forms

    able = forms()
    if form != "auto":
        if form not in able:
            raise ValueError(f"--form {form}: this processor multiplies {', '.join(able)}")
        return Chosen(engine.with_form(form), facts_of(form, []))
    chosen, sample = Chosen(engine), None
    faster, rows = _timed(engine, able, tokens[0])
    for candidate in faster:
        if sample is None:
            sample = Sample.take(engine, given, tokens, encode)
        if len(sample.points) < forming.MIN_POINTS:
            break
        other = engine.with_form(candidate)
        found = forming.encoded(other, sample.tokens, encode)
        row = rows[able.index(candidate)]
        row |= forming.loss(encoder, sample, found, given, seed)
        if forming.passes(row):
            chosen = Chosen(other, None, sample, found)
            break
    assert chosen.engine is not None
    facts = facts_of(chosen.engine.form, rows)
    return Chosen(chosen.engine, facts, chosen.sample, chosen.features)


def _as_before(
    engine: OpenVino,
    facts: dict[str, Any],
    given: DataSet,
    tokens: tuple[Tokens, Tokens],
    encode: Encode,
) -> Chosen:
    from dexml.encoder.engine_openvino import forms

    form = facts["form"]
    if form not in forms():
        raise ValueError(
            f"this run was started in {form}, which this processor does not multiply; resume it "
            "where it was started, or --overwrite"
        )
    other = engine.with_form(form)
    if form == "float32" or not facts["compared"]:
        return Chosen(other, facts)
    sample = Sample.take(engine, given, tokens, encode)
    return Chosen(other, facts, sample, forming.encoded(other, sample.tokens, encode))


def _timed(
    engine: OpenVino, able: Sequence[Form], tokens: Tokens
) -> tuple[list[Form], list[dict[str, Any]]]:
    """Time the forms; return those that beat float32, the most exact first, and a row for each."""
    mean = max(1.0, float(tokens.lengths.mean()))
    number = min(len(tokens), max(8, round(TIMED / mean)))
    few = np.unique(np.linspace(0, len(tokens) - 1, number).astype(np.int64))
    texts = tokens.select(few)
    taken = dict(zip(able, seconds([engine.with_form(form) for form in able], texts), strict=True))
    total = int(texts.lengths.sum())
    rows: list[dict[str, Any]] = [
        {"form": form, "tokens_per_second": round(total / time)} for form, time in taken.items()
    ]
    faster: list[Form] = [form for form in able if is_faster(taken[form], taken["float32"])]
    return faster, rows


def facts_of(form: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return section ``engine`` of the manifest: the form, and what was compared."""
    from dexml.encoder.engine_openvino import processor, version

    return {
        "name": NAME,
        "form": form,
        "version": version(),
        "processor": processor(),
        "compared": rows,
    }


def say(chosen: Chosen, *, quiet: bool, log: Path | None = None) -> None:
    """Say what was compared, and log it to the run folder `log`, where the report finds it."""
    facts = chosen.facts or {}
    rows, words = facts["compared"], []
    if not rows:  # nothing was: the form was given
        return
    base = rows[0]["tokens_per_second"]  # float32 is the first form
    for row in rows:
        times = row["tokens_per_second"] / base
        numbers = {"tokens_per_second": row["tokens_per_second"], "times_float32": round(times, 2)}
        for name in METRICS:
            numbers |= {f"{name} {key}": value for key, value in row.get(name, {}).items()}
        if log is not None:
            rundir.log(log, event=f"encoding in {row['form']}", **numbers)
        words.append(f"{row['form']} {times:.1f} x" + (_in_words(row) if "points" in row else ""))
    if not quiet:
        console.say(f"encoder: OpenVINO in {facts['form']}; speed {'; '.join(words)}")


def _in_words(row: Mapping[str, Any]) -> str:
    changes = [
        f"{name} {100 * row[name]['difference']:+.2f} "
        f"[{100 * row[name]['low']:+.2f}, {100 * row[name]['high']:+.2f}]"
        for name in METRICS
    ]
    return f" ({', '.join(changes)} on {row['points']} points)"
