"""Write the encoder of a finished run for an engine: python -m dexml.index RUN --export."""

from __future__ import annotations

from pathlib import Path

from dexml import console
from dexml.encoder import DualEncoder
from dexml.encoder.engine_export import NotExportable, converted, write
from dexml.encoder.engine_openvino import FOLDER, OpenVino
from dexml.files import replacing
from dexml.run import FORMAT, Run, encoder_seals
from dexml.run import folder as rundir
from dexml.run.run import ENCODER
from dexml.sealed import Home
from dexml.train import TrainSettings
from dexml.train import engine as engines
from dexml.train.inputs import load_data


def export(folder: Path, *, threads: int | None, quiet: bool) -> None:
    """Convert the encoder of a run, choose its form on the run's data set, and save the run.

    The label vectors of the run stay: those of float32 or of another form differ by little. Without
    the data set, or with a setting ``form``, nothing is compared.

    Args:
        folder: The run; the caller holds its lock.
        threads: Cores that are used at most; default all that this process may use.
        quiet: Say nothing.

    Raises:
        ValueError: A light run, or its encoder cannot be converted.
    """
    state = Run.open(folder).state
    if "dense" not in state.facts:
        raise ValueError(f"{folder}: a light run has no encoder; it is served without torch anyway")
    state.check_all()
    encoder = DualEncoder.load(str(state.folder / ENCODER)).eval()
    try:
        engine = converted(encoder, threads=threads)
    except NotExportable as error:
        raise ValueError(f"{folder}: {error}; it is served with torch") from None
    chosen = _decided(Run(state), encoder, engine)
    engines.say(chosen, quiet=quiet)
    with replacing(state.folder / ENCODER / FOLDER) as beside:
        write(encoder, engine, state.folder / ENCODER, beside)
    home = Home()
    home.note(state, {})
    facts = dict(state.facts) | {"engine": dict(chosen.facts or {})}
    others = {role: seal for role, seal in state.parts.items() if role.split("/")[0] != ENCODER}
    keep = others | encoder_seals(state.folder)
    home.save(state.folder, FORMAT, facts, {}, keep=keep, lock=False)
    if not quiet:
        console.say(f"{state.folder / ENCODER / FOLDER}: written; the run is served without torch")


def _decided(run: Run, encoder: DualEncoder, engine: OpenVino) -> engines.Chosen:
    """Choose the form on the data set of the run, where it is at hand."""
    paths = {"out": run.folder, "data_dir": run.data_dir()}
    settings = TrainSettings.model_validate(rundir.read_config(run.folder) | paths)
    try:
        given = load_data(settings)
    except (OSError, ValueError) as error:
        console.say(f"note: encoded in float32, as the data set cannot be read ({error})")
        return engines.Chosen(engine, engines.facts_of("float32", []))
    tokens = (
        encoder.tokenize(given.part.texts, settings.point_tokens, side="point"),
        encoder.tokenize(given.label_texts, settings.label_tokens, side="label"),
    )
    return engines.decide(engine, encoder, given, tokens, settings.form, settings.seed)
