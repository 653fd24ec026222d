"""The run directory at the start of a training: create it, reopen it, or refuse it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from dexml import console, data
from dexml.files import is_foreign
from dexml.run import folder as rundir
from dexml.run import hold
from dexml.sealed import LOCK
from dexml.train.growth import light_in, refuse_edited
from dexml.train.settings import NO_ENCODER, SWITCHES, TrainSettings

if TYPE_CHECKING:  # a light training has no encoder
    from dexml.encoder import DualEncoder

FINISHED = "finished"
"""The last event of a log."""


def hold_folder(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of the run directory, which is created if it is missing.

    Raises:
        FileExistsError: It holds something that is not a run; then nothing is written there.
        RuntimeError: Another process trains or edits the run; the message names it.
    """
    if not (folder / LOCK).exists():  # otherwise a training may be writing its first files
        _is_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return hold(folder, "python -m dexml.train")


def _is_new(folder: Path) -> bool:
    """Whether there is no run yet.

    Raises:
        FileExistsError: There is something else.
    """
    if not folder.exists() or (folder.is_dir() and _is_empty(folder)):
        return True
    versions = folder / "versions.json"
    if not versions.exists() or "dexml_run" not in rundir.read_json(versions):
        raise FileExistsError(f"{folder}: holds something that is not a run; choose another")
    return False


def open_folder(settings: TrainSettings, data_fingerprint: str, encoder_fingerprint: str) -> bool:
    """Create or reopen the run directory; return True if its run has finished already.

    A light run grows if the settings name an encoder.

    Raises:
        FileExistsError: It holds something else, or a run and neither resume nor overwrite is set.
        ValueError: The run was started with other settings, other data or other weights; or it is
            a light run that was edited.
    """
    folder = settings.out
    marks = {"dexml_run": data_fingerprint, "encoder": encoder_fingerprint}
    # Without settings: killed while it was made, before it began. (Or somebody deleted them; then
    # a finished run is refused as before.)
    begun = (folder / "config.toml").exists() or (folder / "run.json").exists()
    if not _is_new(folder) and begun and not settings.overwrite:
        light = None if settings.encoder == NO_ENCODER else light_in(folder)
        if light is not None:
            # Looked at again when a training goes on: the light run was served and could be edited.
            refuse_edited(light, settings.data_dir)
            if rundir.read_config(folder).get("encoder") == NO_ENCODER:
                _grow(settings, marks)
                return False
        if not settings.resume:
            raise FileExistsError(f"{folder}: not empty; add --resume or --overwrite")
        _check_same(settings, marks)
        return light is None and _is_finished(settings)
    rundir.remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_versions(folder, marks)  # first: from then on it is known as the folder of a run
    _write_config(settings)
    return False


def data_beside(out: Path) -> Path:
    """Return the folder of the data set that is written beside a run."""
    return out.with_name(out.name + ".data")


def may_replace_data(settings: TrainSettings) -> bool:
    """Whether the data set beside a run may be replaced: there is no run, or it is replaced too."""
    return settings.overwrite or not (settings.out / "run.json").exists()


def _check_same(settings: TrainSettings, marks: dict[str, str]) -> None:
    """Refuse to go on with a run that was started with other settings, data or weights."""
    folder, saved = settings.out, rundir.read_config(settings.out)
    for name, value in settings.model_dump(mode="json", exclude=set(SWITCHES)).items():
        # A run of an earlier version lacks settings that are newer.
        started = saved.get(name, TrainSettings.model_fields[name].default)
        if started != value:
            raise ValueError(
                f"{folder}: was started with {name} = {started!r}, not {value!r}; "
                "resume with the same settings, or --overwrite"
            )
    _check_data(settings, marks)
    if rundir.read_json(folder / "versions.json").get("encoder") != marks["encoder"]:
        raise ValueError(
            f"{folder}: was started from other weights than {settings.encoder} has now; "
            "give the encoder it was started from, or --overwrite"
        )


def _check_data(settings: TrainSettings, marks: dict[str, str]) -> None:
    """Refuse to go on with a run that was started on other data."""
    if rundir.read_json(settings.out / "versions.json")["dexml_run"] != marks["dexml_run"]:
        raise ValueError(
            f"{settings.out}: was started on other data than {settings.data_dir} holds now; "
            "add --overwrite, or give another --out"
        )


def _grow(settings: TrainSettings, marks: dict[str, str]) -> None:
    """Start a training in the folder of a light run, which stays as it is until the end.

    ``config.toml`` is written last: from then on, the folder is that of a training to resume.
    """
    folder = settings.out
    _check_data(settings, marks)
    _drop_half_line(folder / "log.jsonl")
    saved, new = rundir.read_config(folder), settings.model_dump(mode="json", exclude=set(SWITCHES))
    differs = {name: saved.get(name) for name in new if saved.get(name) != new[name]}
    rundir.log(folder, event="growing", light=differs)
    _write_versions(folder, marks)
    _write_config(settings)
    if not settings.quiet:
        console.say(f"{folder}: a light run, which is served until this training is done")


def _write_config(settings: TrainSettings) -> None:
    shown = settings.model_dump(
        mode="json", exclude={"resume", "overwrite", "quiet", "debug", "out"}, exclude_none=True
    )
    shown["data_dir"] = os.path.relpath(settings.data_dir, settings.out)
    rundir.write_config(settings.out, shown)


def _write_versions(folder: Path, marks: dict[str, str]) -> None:
    rundir.write_json(folder / "versions.json", {**marks, **_commit(), **rundir.versions()})


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but the lock and what systems leave in folders."""
    return not any(is_foreign(entry.name) for entry in folder.iterdir())


def _commit() -> dict[str, str]:
    """The git commit of the working directory, if it is in a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"git_commit": done.stdout.strip()} if done.returncode == 0 else {}


def _is_finished(settings: TrainSettings) -> bool:
    """Whether the run is scored and reported too: a kill may have come after `run.json`."""
    log = settings.out / "log.jsonl"
    if not (settings.out / "run.json").exists() or not log.exists():
        return False
    lines = rundir.read_log(log)
    return bool(lines) and lines[-1].get("event") == FINISHED


def end_log(settings: TrainSettings) -> None:
    """Log that all is done: the last thing that a training does."""
    rundir.log(settings.out, event=FINISHED)


def begin_log(settings: TrainSettings) -> float:
    """Log that the training starts, or goes on; return the seconds that it has taken before.

    If a killed run left half a line at the end, the half line is removed. The time of such a run
    counts up to its last whole line.
    """
    path, before = settings.out / "log.jsonl", 0.0
    _drop_half_line(path)
    if path.exists():
        times: list[list[float]] = []
        for line in rundir.read_log(path):
            if not times or line.get("event") == "started":
                times.append([])
            times[-1].append(float(line["time"]))
        before = sum(session[-1] - session[0] for session in times)
    rundir.log(settings.out, event="started")
    return before


def _drop_half_line(path: Path) -> None:
    """Remove what a killed process has left of its last line."""
    if path.exists():
        whole, end, rest = path.read_bytes().rpartition(b"\n")
        if rest:
            rundir.write_bytes(path, whole + end)


def encoder_fingerprint(encoder: DualEncoder) -> str:
    """SHA-256 over the weights that a training starts from, including the heads and prompts."""
    digest = hashlib.sha256(f"{encoder.pooling} {encoder.normalize}".encode())
    if any(encoder.prompts):
        digest.update(repr(tuple(encoder.prompts)).encode() + b"\0")
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode() + b"\0")
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def fingerprint(label_texts: list[str], part: data.Part, parents: list[str] | None = None) -> str:
    """SHA-256 over everything that is trained on."""
    digest = hashlib.sha256()
    for texts in (label_texts, part.texts, part.groups or [], *([parents] if parents else [])):
        digest.update("\n".join(texts).encode() + b"\0")
    for matrix in (part.y, part.exclude):
        for array in () if matrix is None else (matrix.indptr, matrix.indices, matrix.data):
            digest.update(array.tobytes() + b"\0")
    return digest.hexdigest()
