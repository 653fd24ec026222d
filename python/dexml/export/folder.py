"""The folder that an export leaves: the files of a library, the labels, and what a reader needs."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import dexml
from dexml.export.vectors import Vectors, to_faiss, to_lancedb, to_numpy, to_qdrant
from dexml.files import replacing, write_json, write_text
from dexml.predict import Predictor
from dexml.predict.served import scorers_in
from dexml.scorers import NeighbourScorer, VotedScorer
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.ranker import RankedScorer

Kind = Literal["numpy", "faiss", "lancedb", "qdrant", "onnx"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ABOUT, LABELS = "export.json", "labels.jsonl"
FORMAT_VERSION = 1
_STORES = {"numpy": to_numpy, "faiss": to_faiss, "lancedb": to_lancedb, "qdrant": to_qdrant}


def export(
    run: str | PathLike[str] | Predictor,
    to: Kind,
    out: str | PathLike[str],
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the label vectors of a run, or its encoder, in the format of another library.

    The folder also holds ``labels.jsonl`` (id, text and training points of each label) and
    ``export.json``. It appears whole or not at all.

    Args:
        run: A run folder, or an opened run, with its edits.
        to: ``numpy``, ``faiss``, ``lancedb``, ``qdrant``: the label vectors, to be searched by dot
            product with `Predictor.encode` or the model of ``onnx``: the encoder.
        out: The folder to make.
        overwrite: Replace an export that is there.

    Returns:
        The content of ``export.json``.

    Raises:
        ValueError: A light run, which has neither; an unknown `to`; an encoder that PyTorch cannot
            convert.
        FileExistsError: `out` is there, and is not an export or not to be replaced.
        ImportError: The library is missing; the message names the extra.
    """
    if to not in KINDS:
        raise ValueError(f"to = {to!r}; expected one of {', '.join(KINDS)}")
    folder = Path(out)
    _check_free(folder, overwrite=overwrite)
    predictor = run if isinstance(run, Predictor) else Predictor.open(run)
    given = Vectors.of(predictor)
    about: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "dexml": dexml.__version__,
        "kind": to,
        "run": predictor.run.folder.name,
        "run_digest": predictor.run.state.digest,
        "n_labels": len(given.ids),
        "dim": given.dim,
        "metric": "dot product",
        "last_dimension": "1 in a query, the bias in a label",
        "left_out": _left_out(predictor),
    }
    with replacing(folder) as beside:
        beside.mkdir()
        if to == "onnx":
            from dexml.export.onnx import to_onnx  # brings torch

            about |= to_onnx(predictor, beside)
        else:
            _STORES[to](given, beside)
        rows = zip(given.ids.tolist(), given.texts, given.counts.tolist(), strict=True)
        lines = (
            json.dumps({"id": i, "text": text, "count": count}, ensure_ascii=False)
            for i, text, count in rows
        )
        write_text(beside / LABELS, "".join(f"{line}\n" for line in lines))
        write_json(beside / ABOUT, about)
    return about


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not (folder / ABOUT).is_file():
        raise FileExistsError(f"{folder}: is there, and is no export; name another folder")
    if not overwrite:
        raise FileExistsError(f"{folder}: an export is there; --overwrite replaces it")


def _left_out(predictor: Predictor) -> list[str]:
    """Name what the run adds to dot products, which no vector store can."""
    kinds: dict[str, tuple[type, ...]] = {
        "votes of training points": (VotedScorer, NeighbourScorer),
        "evidence of words": (LexicalScorer,),
        "the ranker": (RankedScorer,),
    }
    parts = list(scorers_in(predictor.scorer))
    return [name for name, kind in kinds.items() if any(isinstance(part, kind) for part in parts)]
