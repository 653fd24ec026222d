"""The command: python -m dexml.predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial as bound
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg
from scipy.sparse import csr_array

from dexml import config, console, data, locks
from dexml.commands import explain
from dexml.commands.inputs import count_lines, open_texts, read_group, stdin_texts
from dexml.commands.partial import NPZ_FILES, Partial, finish_npz, npz_parts
from dexml.commands.show import as_json, as_table, csr_parts, marks_of
from dexml.config import Settings
from dexml.data import Csr
from dexml.files import is_stream, move_to, target_of
from dexml.index import EXACT_TEST_UP_TO, EXACT_UP_TO
from dexml.predict import Explanation, Prediction, Predictor

BLOCK = 4096
"""Texts encoded and searched at a time: memory does not grow with the input."""
ROWS = "rows.jsonl"
LABELS, EXPLAINED = 10, 3
"""Labels a text, where -k does not say how many."""


class PredictSettings(Settings):
    """Ask a run for the labels of texts; without TEXTS: the test points of its data set."""

    run: CliPositionalArg[Path] = Field(description="run directory of dexml.train")
    texts: CliPositionalArg[str] = Field(
        "", description="a file with a text a line (also .gz, .zst); - for stdin"
    )
    k: int | None = Field(
        None, ge=1, description="labels a text; 10, 3 with --explain, up to 100 with --min-recall"
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
    values: Literal["score", "probability"] = Field("score", description="what --out x.npz holds")
    out: Path | None = Field(None, description="write .npz (CSR scores) or .jsonl, not a table")
    jsonl: bool = Field(False, description="print JSON lines, not a table")
    explain: bool = Field(
        False, description="say why: evidence, words that matched, training points that voted"
    )
    label: str = Field(
        "", description="explain this label, its text or id, and not the best ones (--explain)"
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
    threads: int | None = Field(None, ge=1, description="CPU threads of the encoder")
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
        cut: What answers are cut by, as arguments of `Predictor.predict`.
        unsure: What is asked of uncertainty, likewise.
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
    unsure: dict[str, Any] = field(default_factory=dict)


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.predict``."""
    settings = config.parse(PredictSettings, argv, "python -m dexml.predict")
    _check(settings)
    # Test points are scored once, and the scores are compared with others: exact search is worth
    # its time up to more labels.
    exact_up_to = EXACT_UP_TO if settings.texts else EXACT_TEST_UP_TO
    if not settings.quiet:
        console.say(f"opening {settings.run}")
    predictor = Predictor.open(
        settings.run,
        search=settings.search,
        device=settings.device,
        threads=settings.threads,
        precision=settings.precision,
        engine=settings.engine,
        exact_up_to=exact_up_to,
    )
    if not settings.quiet:
        console.say(f"search: {predictor.search_note(_k(settings))}")
        if encoder := predictor.encoder_note():
            console.say(f"encoder: {encoder}")
    cut = _cut(settings)
    if cut:
        threshold = predictor.threshold(**cut)
        if not settings.quiet:
            console.say(f"cut: {threshold}")
    elif settings.values == "probability" or not settings.quiet:
        note = predictor.probabilities_note()
        if settings.values == "probability" and note.startswith("no "):
            raise ValueError(f"{settings.run}: --values probability: {note}")
        console.say(note)
    with ExitStack() as stack:
        question = _question(settings, predictor, stack)
        if settings.out is None:
            _print(settings, predictor, question)
        else:
            out = _place(settings.out)
            with _held(out):
                _write(settings, out, predictor, question)


def _check(settings: PredictSettings) -> None:
    out = settings.out
    if out is not None and out.suffix not in (".npz", ".jsonl"):
        console.usage_error(f"--out {out}: the name must end in .npz or .jsonl")
    if out is not None and settings.jsonl:
        console.usage_error("--jsonl is for stdout; name the file of --out .jsonl")
    if out is not None and out.suffix == ".npz" and settings.explain:
        console.usage_error(f"--out {out}: .npz holds scores alone; --explain writes .jsonl")
    if settings.label and not settings.explain:
        console.usage_error("--label names a label to explain: add --explain")
    cut = _cut(settings)
    if len(cut) > 1 + settings.by_frequency:
        console.usage_error(f"{' and '.join(map(_option, cut))}: give one of them")
    if settings.by_frequency and settings.min_precision is None:
        console.usage_error("--by-frequency needs --min-precision")
    if cut and settings.explain:
        console.usage_error(f"{_option(next(iter(cut)))} and --explain: give one of them")
    unsure = _unsure(settings)
    if unsure and settings.explain:
        console.usage_error(f"{_option(next(iter(unsure)))} and --explain: give one of them")
    if settings.uncertainty and out is not None and out.suffix == ".npz":
        console.usage_error(f"--out {out}: .npz holds scores alone; --uncertainty writes .jsonl")
    if settings.min_recall is not None and settings.k is not None:
        console.usage_error("--min-recall and -k: the labels a text follow from the recall")
    if settings.values != "score" and (out is None or out.suffix != ".npz"):
        console.usage_error("--values is for --out x.npz; tables and JSON lines have both")
    if settings.label and settings.k is not None:
        console.usage_error("--label and -k: one label is explained, or the best k")
    if settings.resume and out is None:
        console.usage_error("--resume needs --out: printed answers cannot be continued")
    if settings.texts not in ("", "-"):
        path = Path(settings.texts)
        if not path.exists() or path.is_dir():
            raise FileNotFoundError(f"{path}: no such file; a text a line, or - for stdin")
    if out is not None and not (folder := _place(out).parent).is_dir():
        raise FileNotFoundError(f"{out}: the folder {folder} is not there")
    if out is not None and out.is_dir():
        raise IsADirectoryError(f"{out}: is a folder; give a file")


def _question(settings: PredictSettings, predictor: Predictor, stack: ExitStack) -> Question:
    only = _group(settings, predictor)
    texts: Iterator[str]
    total, exclude, n_labels, block = None, None, predictor.n_labels, BLOCK
    if settings.texts == "-":
        # A person who types wants an answer to each line.
        block = 1 if sys.stdin.isatty() else BLOCK
        texts = stdin_texts(sys.stdin.buffer)
    elif settings.texts:
        path = Path(settings.texts)
        total = None if settings.quiet else count_lines(path)
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
        k = min(_k(settings), max(1, predictor.n_labels))  # there are no more to rank
    label = _label(settings.label, predictor) if settings.label else None
    block, cut = settings.block or block, _cut(settings)
    unsure = _unsure(settings)
    return Question(texts, total, exclude, only, n_labels, k, block, label, cut, unsure)


def _cut(settings: PredictSettings) -> dict[str, Any]:
    """What answers are cut by, as arguments of `Predictor.predict`."""
    given = {
        "min_probability": settings.min_probability,
        "min_precision": settings.min_precision,
        "min_recall": settings.min_recall,
        "by_frequency": settings.by_frequency or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _unsure(settings: PredictSettings) -> dict[str, Any]:
    """What is asked of uncertainty, as arguments of `Predictor.predict`."""
    given = {
        "uncertainty": settings.uncertainty or None,
        "abstain_below": settings.abstain_below,
        "min_nearest": settings.min_nearest,
    }
    return {name: value for name, value in given.items() if value is not None}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _k(settings: PredictSettings) -> int:
    """Labels a text."""
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


def _answers(
    predictor: Predictor, question: Question, start: int, bar: Any
) -> Iterator[tuple[list[str], Prediction]]:
    """Yield blocks of texts from row `start` on, with their answers."""
    while texts := list(islice(question.texts, question.block)):
        pairs = None
        if question.exclude is not None:
            pairs = question.exclude[start : start + len(texts)]
        answer = predictor.predict(
            texts,
            question.k,
            exclude=pairs,
            only=question.only,
            on_progress=bar.update,
            **question.cut,
            **question.unsure,
        )
        start += len(texts)
        bar.update(start - bar.n)  # where no encoder has reported them
        yield texts, answer


def _print(settings: PredictSettings, predictor: Predictor, question: Question) -> None:
    """Answer on stdout."""
    on_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_terminal else None
    with _bar(settings, question, 0, hidden=on_terminal or settings.texts == "-") as bar:
        if settings.explain:
            write = explain.as_json if settings.jsonl else bound(explain.as_tables, width=width)
            show = console.put if settings.jsonl else bound(print, flush=True)
            for text, labels in _explained(predictor, question, 0, bar):
                show(write(text, labels), end="")
            return
        names = predictor.label_texts
        for texts, answer in _answers(predictor, question, 0, bar):
            if settings.jsonl:
                lines = as_json(texts, *answer, names, answer.probabilities, marks_of(answer))
                console.put(lines, end="")
            else:
                marks = marks_of(answer)
                shown = as_table(texts, *answer, names, width, answer.probabilities, marks)
                print(shown, end="", flush=True)


def _explained(
    predictor: Predictor, question: Question, start: int, bar: Any
) -> Iterator[tuple[str, list[Explanation]]]:
    """Yield texts from row `start` on, with explanations of their labels."""
    for row, text in enumerate(question.texts, start):
        exclude = None if question.exclude is None else question.exclude[row : row + 1]
        which: dict[str, Any] = {"exclude": exclude, "only": question.only}
        if question.label is None:
            yield text, predictor.explain_best(text, question.k or EXPLAINED, **which)
        else:
            yield text, [predictor.explain(text, question.label, **which)]
        bar.update(1)


def _write(settings: PredictSettings, out: Path, predictor: Predictor, question: Question) -> None:
    """Answer into a file; a later run can go on from what a stopped one leaves."""
    named = settings.out or out
    is_npz = named.suffix == ".npz"
    asked = _asked(settings, predictor, question)
    partial = Partial(out, asked, NPZ_FILES if is_npz else (ROWS,), resume=settings.resume)
    if not settings.quiet:
        if partial.replaced:
            why = "none of its answers were kept" if settings.resume else "no --resume"
            console.say(f"{partial.folder}: an unfinished output, begun anew ({why})")
        elif settings.resume:
            console.say(f"{partial.rows} texts are answered already")
    label_texts = predictor.label_texts
    try:
        with partial, _bar(settings, question, partial.rows) as bar:
            partial.skip(question.texts)
            if settings.explain:
                for text, labels in _explained(predictor, question, partial.rows, bar):
                    partial.append([text], {ROWS: explain.as_json(text, labels).encode("utf-8")})
            else:
                for texts, answer in _answers(predictor, question, partial.rows, bar):
                    if is_npz:
                        base = partial.size(NPZ_FILES[1]) // 4 if partial.rows else None
                        values, probabilities = answer.scores, answer.probabilities
                        if settings.values == "probability" and probabilities is not None:
                            values = probabilities
                        parts = npz_parts(*csr_parts(answer.ids, values), base)
                    else:
                        marks = marks_of(answer)
                        lines = as_json(texts, *answer, label_texts, answer.probabilities, marks)
                        parts = {ROWS: lines.encode("utf-8")}
                    partial.append(texts, parts)
            partial.close()
            if is_npz:
                finish_npz(out, partial.folder, question.n_labels)
            else:
                move_to(partial.folder / ROWS, out)
            partial.remove()
    except BaseException:
        if partial.rows and not settings.quiet:
            console.say(f"{partial.rows} texts are answered and kept; --resume goes on from there")
        raise
    if not settings.quiet:
        each = 1 if question.label is not None else question.k
        many = f"{each} labels each" if each and not question.cut else "labels above the cut"
        console.say(f"{partial.rows} texts, {many}: {named}")


def _place(out: Path) -> Path:
    """Return where the output is made, with its unfinished parts beside it: where a link leads."""
    target = target_of(out)
    return out if is_stream(target) else target


def _held(out: Path) -> AbstractContextManager[None]:
    """Keep other processes from writing the same output."""
    path = out.with_name(f".{out.name}.lock")
    return locks.hold(path, str(out), "python -m dexml.predict --out", remove=True)


def _asked(settings: PredictSettings, predictor: Predictor, question: Question) -> dict[str, Any]:
    """Return everything that the answers depend on, apart from the texts."""
    pairs = question.exclude
    return {
        "search": predictor.search_note(_k(settings)),
        "scorer": predictor.scorer.fingerprint(),
        "k": _k(settings),
        "cut": question.cut,
        **({"uncertainty": question.unsure} if question.unsure else {}),
        "values": settings.values,
        "explain": question.label if question.label is not None else settings.explain,
        "block": question.block,
        "labels": None if question.only is None else _digest(question.only.tobytes()),
        "filter pairs": None
        if pairs is None
        else _digest(pairs.indptr.astype("<i8").tobytes() + pairs.indices.astype("<i4").tobytes()),
        # Last, as a difference in the others says more.
        "run.json": predictor.run.state.digest,
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _bar(settings: PredictSettings, question: Question, start: int, *, hidden: bool = False) -> Any:
    return console.bar(
        total=question.total,
        initial=start,
        desc="predict",
        unit="text",
        delay=2,
        disable=settings.quiet or hidden,
    )
