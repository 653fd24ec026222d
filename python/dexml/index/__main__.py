"""The command: python -m dexml.index RUN."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from dexml import config, console, rundir
from dexml.config import Settings
from dexml.index import LabelIndex


class IndexSettings(Settings):
    """Build the nearest-neighbour index over the label vectors of a run."""

    run: CliPositionalArg[Path] = Field(description="run directory of dexml.train")
    m: int = Field(16, ge=2, le=256, description="links of a node of the HNSW graph")
    ef_construction: int = Field(200, ge=8, description="candidates while building")
    k: int = Field(10, ge=1, description="recall is measured for this many labels")
    recall: float = Field(0.99, gt=0, le=1, description="ef is raised until this recall is reached")
    seed: int = Field(0, ge=0, description="seed of the graph")


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.index``."""
    settings = config.parse(IndexSettings, argv, "python -m dexml.index")
    run = rundir.Run.open(settings.run)
    index = LabelIndex.build(
        run.load_array("label_emb"),
        run.load_array("query_emb"),
        encoder=run.fingerprint(),
        m=settings.m,
        ef_construction=settings.ef_construction,
        k=settings.k,
        recall=settings.recall,
        seed=settings.seed,
        progress=not settings.quiet,
    )
    index.save(settings.run / "index")
    made = index.manifest
    print(
        f"{made.n_labels} labels, {made.dim} dimensions; recall@{made.recall_k} against exact "
        f"search {made.recall:.4f} at ef {made.ef} ({made.recall_queries} points): "
        f"{settings.run / 'index'}"
    )
    if made.recall < settings.recall:
        console.say(f"warning: recall stays below {settings.recall}; predict with --search exact")


if __name__ == "__main__":
    raise SystemExit(console.run(main))
