"""A light run that grows: a training with an encoder in the folder of a light run.

The light run is served until the new one is saved, by the rename of ``run.json``. What of its words
is the same by content is not fitted again (`dexml.train.words.word_members`).
"""

from __future__ import annotations

from pathlib import Path

from dexml import sealed
from dexml.run import FORMAT, LabelSet, require
from dexml.sealed import Sealed

DENSE = "dense"
"""The section of the manifest that a light run lacks."""
TRAINED = "trained"
"""The section that says how many points a light run was trained on."""


def light_in(folder: Path) -> Sealed | None:
    """Return the light run that a folder holds, every byte of it checked; None if there is none.

    Raises:
        FileNotFoundError: A part of it is missing.
        ValueError: It is damaged, or of another version.
    """
    if not (folder / FORMAT.manifest).exists():
        return None
    if DENSE in sealed.read(folder, FORMAT).facts:
        return None
    return sealed.load(folder, FORMAT, lambda state: state)


def refuse_edited(light: Sealed, data_dir: Path) -> None:
    """Refuse a light run that was edited: a training would lose what was added or changed.

    Raises:
        ValueError: The message says what was edited.
    """
    now, trained = LabelSet.restore(light), LabelSet.restore_trained(light)
    n_points = require(light, "lexical", {"n_points": int})["n_points"]
    n_trained = require(light, TRAINED, {"n_points": int})["n_points"]
    edits = {
        "labels added": len(now) - len(trained),
        "labels removed": int((~now.alive).sum()),
        "labels with another text": sum(
            a != b for a, b in zip(now.texts[: len(trained)], trained.texts, strict=True)
        ),
        "points added": n_points - n_trained,
    }
    if named := ", ".join(f"{what}: {n}" for what, n in edits.items() if n):
        raise ValueError(
            f"{light.folder}: a light run that was edited ({named}), which a training would lose; "
            f"put it into {data_dir}, or give another --out, or drop it with --overwrite"
        )
