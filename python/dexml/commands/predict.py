"""The command: python -m dexml.predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial as bound
from itertools import islice
from pathlib import Path
from typing import Any

from dexml import config, console, favour, locks
from dexml.commands import explain
from dexml.commands.outputs import ROWS, Output, check_suffix
from dexml.commands.partial import Partial
from dexml.commands.question import (
    EXPLAINED,
    PredictSettings,
    Question,
    check_ranking,
    cut_of,
    n_labels_of,
    option,
    question_of,
    shard_of,
    unsure_of,
)
from dexml.commands.show import as_json, as_table, marks_of
from dexml.files import is_stream, target_of
from dexml.index import EXACT_TEST_UP_TO, EXACT_UP_TO
from dexml.predict import Explanation, Prediction, Predictor
from dexml.scorers.ranker import RankedScorer
from dexml.threads import core_threads


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.predict``."""
    settings = config.parse(PredictSettings, argv, "python -m dexml.predict")
    _check(settings)
    with core_threads(settings.threads):
        _run(settings)


def _run(settings: PredictSettings) -> None:
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
        console.say(f"search: {predictor.search_note(n_labels_of(settings))}")
        if encoder := predictor.encoder_note():
            console.say(f"encoder: {encoder}")
    cut = cut_of(settings)
    if settings.favour and not settings.quiet:
        how = "all texts together" if settings.together else "each text for itself"
        console.say(f"ranked for {favour.parse(settings.favour, settings.strength)}: {how}")
    if cut:
        threshold = predictor.threshold(**cut)
        if not settings.quiet:
            console.say(f"cut: {threshold}")
    elif settings.values == "probability" or not settings.quiet:
        note = predictor.probabilities_note()
        if settings.values == "probability" and not predictor.has_probabilities:
            raise ValueError(f"{settings.run}: --values probability: {note}")
        console.say(note)
    with ExitStack() as stack:
        question = question_of(settings, predictor, stack)
        if settings.out is None:
            _print(settings, predictor, question)
        else:
            out = _place(settings.out)
            with _held(out):
                _write(settings, out, predictor, question)


def _check(settings: PredictSettings) -> None:
    out = settings.out
    if out is not None:
        check_suffix(out)
    if out is not None and settings.jsonl:
        console.usage_error("--jsonl is for stdout; name the file of --out .jsonl")
    if out is not None and out.suffix != ".jsonl" and settings.explain:
        console.usage_error(
            f"--out {out}: {out.suffix} has no room for it; --explain writes .jsonl"
        )
    if settings.shard:
        shard_of(settings.shard)
        if out is None:
            console.usage_error("--shard needs --out: parts are put together from files")
        if settings.texts == "-":
            console.usage_error("--shard: stdin has no known length; give a file")
    if settings.label and not settings.explain:
        console.usage_error("--label names a label to explain: add --explain")
    cut = cut_of(settings)
    if len(cut) > 1 + settings.by_frequency:
        console.usage_error(f"{' and '.join(map(option, cut))}: give one of them")
    if settings.by_frequency and settings.min_precision is None:
        console.usage_error("--by-frequency needs --min-precision")
    if cut and settings.explain:
        console.usage_error(f"{option(next(iter(cut)))} and --explain: give one of them")
    unsure = unsure_of(settings)
    if unsure and settings.explain:
        console.usage_error(f"{option(next(iter(unsure)))} and --explain: give one of them")
    if settings.uncertainty and out is not None and out.suffix != ".jsonl":
        console.usage_error(
            f"--out {out}: {out.suffix} has no room for it; --uncertainty writes .jsonl"
        )
    if settings.min_recall is not None and settings.k is not None:
        console.usage_error("--min-recall and -k: the labels a text follow from the recall")
    check_ranking(settings)
    if settings.values not in (None, "score") and (out is None or out.suffix != ".npz"):
        console.usage_error("--values is for --out x.npz; other outputs have both")
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
        names = predictor.label_names
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
    asked = _asked(settings, predictor, question)
    output = Output(
        named.suffix,
        predictor.label_names,
        question.n_labels,
        predictor.has_probabilities,
        settings.values or ("gain" if settings.favour else "score"),
        question.first,
        _about(settings, predictor, asked, question),
    )
    partial = Partial(out, asked, output.names, resume=settings.resume)
    if not settings.quiet:
        if partial.replaced:
            why = "none of its answers were kept" if settings.resume else "no --resume"
            console.say(f"{partial.folder}: an unfinished output, begun anew ({why})")
        elif settings.resume:
            console.say(f"{partial.rows} texts are answered already")
    try:
        with partial, _bar(settings, question, partial.rows) as bar:
            partial.skip(question.texts)
            if settings.explain:
                for text, labels in _explained(predictor, question, partial.rows, bar):
                    partial.append([text], {ROWS: explain.as_json(text, labels).encode("utf-8")})
            else:
                for texts, answer in _answers(predictor, question, partial.rows, bar):
                    partial.append(texts, output.parts(texts, answer, partial))
            partial.close()
            output.finish(out, partial)
            partial.remove()
    except BaseException:
        if partial.rows and not settings.quiet:
            console.say(f"{partial.rows} texts are answered and kept; --resume goes on from there")
        raise
    if not settings.quiet:
        each = 1 if question.label is not None else question.k
        many = f"{each} labels each" if each and not cut_of(settings) else "labels above the cut"
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
        "search": predictor.search_note(n_labels_of(settings)),
        "scorer": predictor.scorer.fingerprint(),
        "k": n_labels_of(settings),
        "cut": question.cut,
        **({"uncertainty": question.unsure} if question.unsure else {}),
        "values": settings.values or ("gain" if settings.favour else "score"),
        "explain": question.label if question.label is not None else settings.explain,
        "block": question.block,
        # Only where it was asked for: unfinished outputs of an older version have none.
        **({"shard": settings.shard} if settings.shard else {}),
        "labels": None if question.only is None else _digest(question.only.tobytes()),
        "filter pairs": None
        if pairs is None
        else _digest(pairs.indptr.astype("<i8").tobytes() + pairs.indices.astype("<i4").tobytes()),
        # Last, as a difference in the others says more.
        "run.json": predictor.run.state.digest,
    }


def _about(
    settings: PredictSettings, predictor: Predictor, asked: dict[str, Any], question: Question
) -> dict[str, Any]:
    """Return what the metadata of a Parquet file says: merging parts checks it."""
    scorer = predictor.scorer
    ranked = isinstance(scorer, RankedScorer) and scorer.network is not None
    ranked = ranked or bool(settings.favour)  # the order is that of gains, which the file lacks
    at, of = shard_of(settings.shard or "0/1")
    shared = {name: value for name, value in asked.items() if name not in ("shard", "block")}
    return {
        "shard": at,
        "shards": of,
        "first": question.first,
        "ranked": ranked,  # then the score of a label depends on the other candidates
        "asked": shared,
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
