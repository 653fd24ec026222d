"""The command: python -m dexml.export RUN --to KIND --out FOLDER."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from dexml import config, console
from dexml.config import Settings
from dexml.export import Kind, export


class ExportSettings(Settings):
    """Write the label vectors of a run for another library, or its encoder as ONNX."""

    run: CliPositionalArg[Path] = Field(description="run directory of dexml.train")
    to: Kind = Field(
        description="numpy, faiss, lancedb, qdrant: label vectors; onnx: the encoder with its heads"
    )
    out: Path = Field(description="folder to make")
    overwrite: bool = Field(False, description="replace an export that is there")


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.export``."""
    settings = config.parse(ExportSettings, argv, "python -m dexml.export")
    about = export(settings.run, settings.to, settings.out, overwrite=settings.overwrite)
    if settings.quiet:
        return
    what = "encoder" if settings.to == "onnx" else f"{about['n_labels']} label vectors"
    console.say(f"{settings.out}: {what}, {about['dim']} dimensions, score: the dot product")
    if left_out := about["left_out"]:
        console.say(
            f"note: the run itself adds {', '.join(left_out)}; these are not in vectors. To have "
            "them, ask the run (python -m dexml.predict, Predictor)"
        )
