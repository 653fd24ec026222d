"""What python -m dexml.predict is asked: its options, and the question that they make."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg
from scipy.sparse import csr_array

from dexml import console, data, favour
from dexml.commands.inputs import (
    count_lines,
    count_texts,
    open_texts,
    read_group,
    stdin_texts,
)
from dexml.config import Settings
from dexml.data import Csr
from dexml.predict import Predictor
from dexml.predict.arguments import checked_points
from dexml.run import FEATURES
from dexml.threads import MAX_THREADS

BLOCK = 4096
"""Texts encoded and searched at a time: memory does not grow with the input."""
LABELS, EXPLAINED = 10, 3
"""Labels a text, where -k does not say how many."""


class PredictSettings(Settings):
    """Ask a run for the labels of texts; without TEXTS: the test points of its data set."""

    run: CliPositionalArg[Path] = Field(description="run directory of dexml.train")
    texts: CliPositionalArg[str] = Field(
        "",
        description="a file with a text a line (also .gz, .zst); of a run on rows of features also "
        "a matrix (.npz, LF text) or a bag of words; - for stdin",
    )
    k: int | None = Field(
        None,
        ge=1,
        description="labels a text; 10, 3 with --explain, up to 100 with --min-recall, that of the "
        "metric with --favour",
    )
    min_probability: float | None = Field(
        None, gt=0, le=1, description="leave out labels that are less likely right"
    )
    min_precision: float | None = Field(
        None, gt=0, le=1, description="leave out labels so that this share of the others is right"
    )
    min_recall: float | None = Field(
        None,
        gt=0,
        le=1,
        description="print so many labels that a text's contain this share of its right ones on "
        "average",
    )
    by_frequency: bool = Field(
        False, description="with --min-precision: a cut each for frequent and rare labels"
    )
    uncertainty: bool = Field(
        False, description="say how likely the first label is wrong, and the nearest point"
    )
    abstain_below: float | None = Field(
        None, gt=0, le=1, description="no labels where the first one is less likely right"
    )
    min_nearest: float | None = Field(
        None,
        gt=0,
        le=1,
        description="no labels for texts whose nearest training point has a smaller cosine",
    )
    favour: str = Field(
        "", description="rank for a metric: PSP@5, macroP@5, macroR@5, macroF@5, Coverage@5"
    )
    strength: float = Field(
        1.0, gt=0, le=1, description="how much --favour counts against P@k; 1: nothing else does"
    )
    together: bool = Field(
        False,
        description="with --favour: choose the labels of all texts together, held in memory",
    )
    values: Literal["score", "probability", "gain"] | None = Field(
        None,
        description="what --out x.npz holds: score, probability, or gain, by which --favour ranks; "
        "default score, and gain with --favour",
    )
    out: Path | None = Field(
        None,
        description="write a file, not a table: .parquet or .jsonl (a text a row), .csv (a label "
        "a row), .npz (CSR scores)",
    )
    jsonl: bool = Field(False, description="print JSON lines, not a table")
    explain: bool = Field(
        False, description="say why: evidence, words that matched, training points that voted"
    )
    label: str = Field(
        "", description="explain this label, its text or id, and not the best ones (--explain)"
    )
    shard: str = Field(
        "",
        description="answer one of n equal parts of the texts, I/N, from 0/N on; python -m "
        "dexml.merge puts the outputs together",
    )
    resume: bool = Field(False, description="go on with the unfinished --out of a stopped run")
    only: Path | None = Field(
        None, description="choose from these labels: a file with a text or id a line"
    )
    without: Path | None = Field(None, description="leave these labels out: a file, as --only")
    data: Path | None = Field(None, description="data set, if it moved since the training")
    search: Literal["auto", "exact", "hnsw"] = Field(
        "auto", description="auto: exact up to 50,000 labels (131,072 for test points)"
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto takes CUDA if it is there")
    threads: int | None = Field(
        None, ge=1, le=MAX_THREADS, description="CPU threads; default all cores"
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="of the transformer; auto: as training chose, bfloat16 on CUDA"
    )
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="what encodes texts; auto: OpenVINO on a CPU if the run was exported for it "
        "and the library is there, else torch",
    )
    block: int | None = Field(
        None, ge=1, description="texts answered at a time: 4096, or 1 typed at a terminal"
    )


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        texts: The texts.
        total: How many there are, if that is known.
        exclude: Pairs (text, label) to leave out.
        only: Labels to choose from, a mask; None: all.
        n_labels: Columns of the answer.
        k: Labels a text; None: as many as the cut takes.
        block: Texts answered at a time.
        label: The label to explain; None: the k best ones.
        cut: What answers are cut and ranked by, as arguments of `Predictor.predict`.
        first: The number of the first text; not 0 in a shard.
        unsure: What is asked of uncertainty, as arguments of `Predictor.predict`.
    """

    texts: Iterator[str]
    total: int | None
    exclude: Csr | None
    only: NDArray[np.bool_] | None
    n_labels: int
    k: int | None
    block: int
    label: int | None = None
    cut: dict[str, Any] = field(default_factory=dict)
    first: int = 0
    unsure: dict[str, Any] = field(default_factory=dict)


def question_of(settings: PredictSettings, predictor: Predictor, stack: ExitStack) -> Question:
    """Open the texts and read the labels that are asked for; `stack` closes the texts."""
    only = _group(settings, predictor)
    texts: Iterator[str]
    total, exclude, n_labels, block = None, None, predictor.n_labels, BLOCK
    if settings.texts == "-":
        # A person who types wants an answer to each line.
        block = 1 if sys.stdin.isatty() else BLOCK
        texts = stdin_texts(sys.stdin.buffer)
    elif settings.texts and (rows := _feature_rows(Path(settings.texts), predictor)) is not None:
        texts, total = iter(rows), len(rows)
    elif settings.texts:
        path = Path(settings.texts)
        total = None if settings.quiet and not settings.shard else count_lines(path)
        if settings.shard and total is None:
            total = count_texts(path)
        texts = stack.enter_context(open_texts(path))
    else:
        part = _test_part(settings, predictor)
        texts, total, exclude = iter(part.texts), len(part.texts), part.exclude
        if (trained := predictor.label_set.n_trained) < n_labels:
            # The data set does not know labels that were added since: the answer takes its shape.
            console.say(f"labels added since the training are left out: {n_labels - trained}")
            only = np.ones(n_labels, np.bool_) if only is None else only
            only[trained:] = False
            if exclude is not None:
                shape = (exclude.shape[0], n_labels)
                exclude = csr_array((exclude.data, exclude.indices, exclude.indptr), shape=shape)
            n_labels = trained
    k = None
    if settings.min_recall is None:
        k = min(n_labels_of(settings), max(1, predictor.n_labels))  # there are no more to rank
    label = _label(settings.label, predictor) if settings.label else None
    block, cut, first = settings.block or block, cut_of(settings) | ranking_of(settings), 0
    block = sys.maxsize if settings.together else block
    if settings.shard:
        assert total is not None
        at, of = shard_of(settings.shard)
        first, stop = total * at // of, total * (at + 1) // of
        texts, total = islice(texts, first, stop), stop - first
        exclude = None if exclude is None else exclude[first:stop]
    unsure = unsure_of(settings)
    return Question(texts, total, exclude, only, n_labels, k, block, label, cut, first, unsure)


def _feature_rows(path: Path, predictor: Predictor) -> list[str] | None:
    """Read a matrix of features, for a run that knows points by these; None for a file of texts."""
    if FEATURES not in predictor.run.facts or not path.is_file():
        return None
    rows = data.load_rows(path)
    try:
        return None if rows is None else checked_points(rows, predictor.run)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def shard_of(given: str) -> tuple[int, int]:
    """Read ``I/N``; anything else ends the command."""
    at, slash, of = given.partition("/")
    if not (slash and at.isdecimal() and of.isdecimal() and int(at) < int(of)):
        console.usage_error(f"--shard {given}: expected I/N with I from 0 to N - 1, such as 0/8")
    return int(at), int(of)


def cut_of(settings: PredictSettings) -> dict[str, Any]:
    """What answers are cut by, as arguments of `Predictor.predict`."""
    given = {
        "min_probability": settings.min_probability,
        "min_precision": settings.min_precision,
        "min_recall": settings.min_recall,
        "by_frequency": settings.by_frequency or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def unsure_of(settings: PredictSettings) -> dict[str, Any]:
    """What is asked of uncertainty, as arguments of `Predictor.predict`."""
    given = {
        "uncertainty": settings.uncertainty or None,
        "abstain_below": settings.abstain_below,
        "min_nearest": settings.min_nearest,
    }
    return {name: value for name, value in given.items() if value is not None}


def ranking_of(settings: PredictSettings) -> dict[str, Any]:
    """What answers are ranked for, as arguments of `Predictor.predict`."""
    if not settings.favour:
        return {}
    asked: dict[str, Any] = {"favour": settings.favour, "strength": settings.strength}
    return asked | ({"together": True} if settings.together else {})


def check_ranking(settings: PredictSettings) -> None:
    """End the command if a ranking is asked for that is not made."""
    if not settings.favour:
        for name in ("strength", "together"):
            if getattr(settings, name) != PredictSettings.model_fields[name].default:
                console.usage_error(f"--{name} needs --favour")
        if settings.values == "gain":
            console.usage_error("--values gain needs --favour")
        return
    try:
        asked = favour.parse(settings.favour, settings.strength)
    except ValueError as error:
        console.usage_error(f"--{error}")
    if settings.explain:
        console.usage_error(
            "--favour and --explain: give one of them; a score is what is explained"
        )
    if settings.values == "score" and asked.kind not in favour.BY_PROBABILITY:
        console.usage_error(
            "--values score with --favour: whoever ranks them loses the order; leave it out"
        )
    if settings.min_precision is not None or settings.min_recall is not None:
        name = "--min-recall" if settings.min_precision is None else "--min-precision"
        console.usage_error(f"{name} holds for the usual ranking alone: leave out it or --favour")
    for name in ("block", "shard"):
        if settings.together and getattr(settings, name):
            console.usage_error(f"--together and --{name}: all texts are one block")


def option(name: str) -> str:
    """Return the option of a setting."""
    return "--" + name.replace("_", "-")


def n_labels_of(settings: PredictSettings) -> int:
    """Labels a text."""
    if settings.favour:
        return settings.k or favour.parse(settings.favour).k
    return settings.k or (EXPLAINED if settings.explain else LABELS)


def _label(given: str, predictor: Predictor) -> int:
    """Find the label to explain: the one with this text, or else with this id."""
    labels = predictor.label_set
    is_id = given.isascii() and given.isdigit() and given not in labels.ids_by_text
    try:
        return labels.id_of(int(given) if is_id else given)
    except ValueError as error:
        known = labels.ids_by_text
        near = not is_id and given not in labels.texts and len(known) <= 20_000
        hint = console.did_you_mean(given, list(known)) if near else ""
        raise ValueError(f"--{error}{hint}") from None


def _test_part(settings: PredictSettings, predictor: Predictor) -> data.Part:
    """Read the test points of the run's data set."""
    folder = settings.data or predictor.run.data_dir()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: the data set is not there; name it with --data")
    try:
        return data.load_part(folder, "tst", predictor.label_set.n_trained)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; give a file of texts, or - for stdin") from None


def _group(settings: PredictSettings, predictor: Predictor) -> NDArray[np.bool_] | None:
    """Read the labels to choose from, as a mask; None: all."""
    mask = None
    if settings.only is not None:
        mask = read_group(settings.only, predictor.label_set)
    if settings.without is not None:
        rest = ~read_group(settings.without, predictor.label_set)
        mask = rest if mask is None else mask & rest
    return mask
