"""The command: python -m dexml.index RUN [--add FILE | --remove FILE | --update FILE | --info]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from dexml import config, console
from dexml.config import Settings
from dexml.data import load_texts
from dexml.index import IndexFacts, LabelIndex, choose_search
from dexml.predict import Predictor, open_run
from dexml.predict.served import Opened, as_trained, dense_of
from dexml.run import FORMAT, LabelSet, Run, hold, require
from dexml.scorers.dense import INDEX, kept_queries, trained_vectors
from dexml.scorers.lexicon import PREFIX as LEXICAL


class IndexSettings(Settings):
    """Build the index over the label vectors of a run, or edit its labels.

    A light run (--encoder none) searches words: it needs no index, and its labels are edited the
    same way.
    """

    run: CliPositionalArg[Path] = Field(description="run directory of dexml.train")
    search: Literal["auto", "exact", "hnsw"] = Field(
        "auto", description="auto: exact up to 50,000 labels (131,072 for k over 10), else hnsw"
    )
    m: int | None = Field(
        None, ge=2, le=256, description="links of a node of the HNSW graph; 16, or 32 for k over 10"
    )
    ef_construction: int | None = Field(
        None, ge=8, le=65_536, description="candidates while building; 200, or 400 for k over 10"
    )
    k: int = Field(10, ge=1, description="labels a text; recall is measured at 10 and 100 as well")
    recall: float | None = Field(
        None, gt=0, le=1, description="recall@k to reach by raising ef; 0.99, or 0.98 for k over 10"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the graph")
    build_threads: int = Field(
        1,
        ge=1,
        description="threads that build the HNSW graph; with more than one another graph each "
        "time, whatever the seed (its recall is measured)",
    )
    add: Path | None = Field(None, description="add the labels of this file, a text a line")
    remove: Path | None = Field(
        None, description="remove the labels of this file: an id a line, or a text a line"
    )
    update: Path | None = Field(
        None, description="change the texts of labels: a file with ID TAB TEXT lines"
    )
    rebuild: bool = Field(False, description="build the graph anew, edits kept")
    info: bool = Field(False, description="show what the index is")
    export: bool = Field(
        False, description="write the encoder for OpenVINO: the run is then served without torch"
    )
    overwrite: bool = Field(False, description="build from the run again: edits are lost")
    device: str = Field("auto", description="of the encoder: cpu, cuda, cuda:1")
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="what encodes texts of labels, as in dexml.predict"
    )


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.index``."""
    settings = config.parse(IndexSettings, argv, "python -m dexml.index")
    tasks = ("add", "remove", "update", "rebuild", "info", "export", "overwrite")
    chosen = [f"--{name}" for name in tasks if getattr(settings, name)]
    if len(chosen) > 1:
        console.usage_error(f"{' and '.join(chosen)}: one at a time")
    run = Run.open(settings.run)
    if settings.info:
        print(_table(run))
        return
    doing = f"python -m dexml.index {' '.join(chosen)}".strip()
    with hold(run.folder, doing):
        if not settings.quiet:
            console.say(f"opening {settings.run}")
        if settings.export:
            from dexml.commands.engine import export  # brings torch

            export(settings.run, threads=None, quiet=settings.quiet)
        elif not chosen or settings.overwrite:
            _build(settings)
        else:
            _edit(settings)


def _build(settings: IndexSettings) -> None:
    """Build from the label vectors of the training; edits are not lost without being asked."""
    opened = open_run(settings.run)
    edits = opened.labels.edits
    if dense_of(opened.scorer) is None:
        _reset(opened, settings)
        return
    if edits and not settings.overwrite:
        raise FileExistsError(
            f"{settings.run}: labels were edited {edits} times since the index was built; "
            "--rebuild keeps the edits, --overwrite starts from the training again"
        )
    state = opened.run.state
    vectors = trained_vectors(state)
    search = settings.search
    if search == "auto":
        search = choose_search(len(vectors), None, settings.k)
    index = LabelIndex.build(
        vectors,
        kept_queries(state),
        search=search,
        m=settings.m,
        ef_construction=settings.ef_construction,
        k=settings.k,
        recall=settings.recall,
        seed=settings.seed,
        build_threads=settings.build_threads,
        progress=not settings.quiet,
    )
    run = as_trained(opened, index).save(opened.run, opened.home, lock=False)
    print(_summary(index.facts, run.folder / "index"))
    _warn(index.facts)


def _reset(opened: Opened, settings: IndexSettings) -> None:
    """Drop the edits of a light run if asked to; there is no index to build."""
    if settings.search == "hnsw":
        raise ValueError(
            f"{settings.run}: a light run searches words; there are no vectors to index"
        )
    if settings.overwrite:
        as_trained(opened).save(opened.run, opened.home, lock=False)
        print(f"{settings.run}: the labels are those of the training again")
        return
    if not settings.quiet:
        console.say(f"{settings.run}: a light run searches words and needs no index; nothing to do")


def _edit(settings: IndexSettings) -> None:
    """Edit the labels, or build the graph anew."""
    run = Run.open(settings.run)
    n_labels = require(run.state, "labels", {"n_labels": int})["n_labels"]
    # Exact search needs no index: the first edit of labels leaves one.
    graph = settings.rebuild or choose_search(n_labels) == "hnsw"
    if "dense" in run.facts and "index" not in run.facts and graph:
        raise FileNotFoundError(
            f"{settings.run}: no index yet; build it: python -m dexml.index {settings.run}"
        )
    opened = open_run(settings.run, device=settings.device, engine=settings.engine)
    predictor = Predictor(opened)
    dense = dense_of(opened.scorer)
    if settings.rebuild and dense is None:
        raise ValueError(
            f"{settings.run}: a light run searches words; there is no graph to rebuild"
        )
    added: list[tuple[int, str]] = []
    if settings.add:
        added = _add(predictor, settings.add, settings)
    elif settings.remove:
        predictor.remove_labels(_ids_of_lines(predictor.label_set, settings.remove))
    elif settings.update:
        _update(predictor, settings.update, settings)
    else:
        predictor.dense.index.rebuild(
            num_threads=settings.build_threads, progress=not settings.quiet
        )
    predictor.save(lock=False)
    for id_, text in added:  # only now are the ids given
        console.put(f"{id_}\t{text}")
    if dense is None:
        if not settings.quiet:
            labels = predictor.label_set
            console.say(f"{labels.n_alive} labels{_removed(len(labels), labels.n_alive)}; words")
        return
    facts_now = predictor.dense.index.facts
    if not settings.quiet:
        console.say(_summary(facts_now, predictor.run.folder / "index"))
    _warn(facts_now)


def _add(predictor: Predictor, path: Path, settings: IndexSettings) -> list[tuple[int, str]]:
    """Add the texts that are not labels yet; return their ids and texts."""
    known = predictor.label_set.ids_by_text
    given = _lines(path)
    texts = [text for text in dict.fromkeys(given) if text not in known]
    if len(texts) < len(given) and not settings.quiet:
        console.say(f"note: {len(given) - len(texts)} of {len(given)} are labels already: skipped")
    with _bar(len(texts), settings) as bar:
        ids = predictor.add_labels(texts, on_progress=bar.update)
    return list(zip(ids.tolist(), texts, strict=True))


def _ids_of_lines(labels: LabelSet, path: Path) -> list[int]:
    """Read ids, if all lines are numbers, or texts; never guess between them."""
    lines = _lines(path)
    if all(line.isdecimal() for line in lines):
        ids = [int(line) for line in lines]
        _check_ids(labels, ids, path)
        for number, line in enumerate(lines, start=1):
            same_text = labels.ids_by_text.get(line, [int(line)])
            if same_text[-1] != int(line):
                raise ValueError(
                    f"{path}:{number}: {line} is an id and also the text of label "
                    f"{same_text[-1]}; write 0{line} for the id"
                )
        return ids
    ids = []
    left = dict(labels.ids_by_text)
    for number, line in enumerate(lines, start=1):
        if line not in left:
            raise ValueError(f"{path}:{number}: no label has the text {line!r}")
        ids += left.pop(line)
    return ids


def _update(predictor: Predictor, path: Path, settings: IndexSettings) -> None:
    """Give labels other texts; what training learned beyond the text stays."""
    ids, texts = [], []
    for number, line in enumerate(_lines(path), start=1):
        id_, tab, text = line.partition("\t")
        if not tab or not id_.isdecimal() or not text.strip():
            raise ValueError(f"{path}:{number}: expected ID TAB TEXT")
        ids.append(int(id_))
        texts.append(text.strip())
    _check_ids(predictor.label_set, ids, path)
    with _bar(len(texts), settings) as bar:
        predictor.update_labels(ids, texts, on_progress=bar.update)


def _bar(n: int, settings: IndexSettings) -> Any:
    return console.bar(total=n, desc="encoding", unit="text", delay=2, disable=settings.quiet)


def _lines(path: Path) -> list[str]:
    """The lines of a file of edits; an empty one is a mistake."""
    lines = load_texts(path)
    for number, line in enumerate(lines, start=1):
        if not line:
            raise ValueError(f"{path}:{number}: an empty line")
    if not lines:
        raise ValueError(f"{path}: empty")
    return lines


def _check_ids(labels: LabelSet, ids: Sequence[int], path: Path) -> None:
    seen: set[int] = set()
    for number, id_ in enumerate(ids, start=1):
        if id_ >= len(labels):
            raise ValueError(f"{path}:{number}: label {id_} of {len(labels)} labels")
        if not labels.alive[id_]:
            raise ValueError(f"{path}:{number}: label {id_} was removed before")
        if id_ in seen:
            raise ValueError(f"{path}:{number}: label {id_} is given twice")
        seen.add(id_)


def _summary(facts: IndexFacts, folder: Path) -> str:
    """One line for exact search; for a graph a table of its recall."""
    removed = _removed(facts.n_labels, facts.n_alive)
    kind = "exact search" if facts.kind == "exact" else f"HNSW, M {facts.m}"
    head = f"{facts.n_alive} labels{removed}, {facts.dim} dimensions; {kind}: {folder}"
    rows = [
        f"recall@{row.k} against exact search {row.recall:.4f} at ef {row.ef} "
        f"({row.queries} points; asked for {row.wanted:g})"
        for row in facts.recalls
    ]
    return "\n".join([head, *rows])


def _removed(n_labels: int, n_alive: int) -> str:
    return f" ({n_labels - n_alive} removed)" if n_labels > n_alive else ""


def _warn(facts: IndexFacts) -> None:
    first = 1
    for row in facts.recalls:
        if not row.reached:
            console.say(
                f"warning: recall@{row.k} stays below {row.wanted:g}; for k from {first} to "
                f"{row.k} exact search is used"
            )
        first = row.k + 1


def _table(run: Run) -> str:
    """Lay out what the manifest says of labels and index, for a reader."""
    labels = require(run.state, "labels", {"n_labels": int, "edits": int})
    if "dense" not in run.facts:
        return _light_table(run, labels)
    if "index" not in run.facts:
        raise FileNotFoundError(
            f"{run.folder}: no index yet; build it: python -m dexml.index {run.folder}"
        )
    try:
        facts = IndexFacts.from_json(require(run.state, "index", {}))
    except ValueError as error:
        raise run.state.damaged(f"index: {error}") from None
    rows = [
        ("search", facts.kind),
        *_label_rows(facts.n_labels, facts.n_alive, labels["edits"]),
        ("dimensions", str(facts.dim)),
        ("format", str(FORMAT.version)),
    ]
    if facts.kind == "hnsw":
        rows += [("M", str(facts.m)), ("ef_construction", str(facts.ef_construction))]
        rows += [("seed", str(facts.seed))]
    for row in facts.recalls:
        rows.append((f"recall@{row.k}", f"{row.recall:.4f} (ef {row.ef}, {row.queries} queries)"))
    return _aligned([*rows, *_file_rows(run, INDEX)])


def _light_table(run: Run, labels: dict[str, Any]) -> str:
    """Lay out what the manifest of a light run says."""
    words = require(run.state, "lexical", {"n_points": int})
    n_alive = LabelSet.restore(run.state).n_alive
    rows = [
        ("search", "words"),
        *_label_rows(labels["n_labels"], n_alive, labels["edits"]),
        ("points", str(words["n_points"])),
        ("format", str(FORMAT.version)),
    ]
    return _aligned([*rows, *_file_rows(run, LEXICAL)])


def _label_rows(n_labels: int, n_alive: int, edits: int) -> list[tuple[str, str]]:
    return [
        ("labels", str(n_alive)),
        ("removed", str(n_labels - n_alive)),
        ("next id", str(n_labels)),
        ("edits since built", str(edits)),
    ]


def _file_rows(run: Run, prefix: str) -> list[tuple[str, str]]:
    parts = run.state.parts.items()
    return [(str(p["name"]), f"{p['bytes']} bytes") for role, p in parts if role.startswith(prefix)]


def _aligned(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)
