"""The command: python -m dexml.index RUN [--add FILE | --remove FILE | --update FILE | --info]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from tqdm import tqdm

from dexml import config, console
from dexml.config import Settings
from dexml.data import load_texts
from dexml.index import LabelIndex, Manifest, choose_search, sealed
from dexml.index.sealed import read_manifest
from dexml.run import folder as rundir
from dexml.scorers import load_memory, save_memory

if TYPE_CHECKING:
    from dexml.predict import Predictor


_FOREIGN = "ANOTHER RUN'S: it is refused here; --overwrite builds one for this run"


class IndexSettings(Settings):
    """Build the index over the label vectors of a run, or edit the labels of the one it has."""

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
    add: Path | None = Field(None, description="add the labels of this file, a text a line")
    remove: Path | None = Field(
        None, description="remove the labels of this file: an id a line, or a text a line"
    )
    update: Path | None = Field(
        None, description="change the texts of labels: a file with ID TAB TEXT lines"
    )
    rebuild: bool = Field(False, description="build the graph anew, edits kept")
    info: bool = Field(False, description="show what the index is")
    overwrite: bool = Field(False, description="build from the run again: edits are lost")
    device: str = Field("auto", description="of the encoder: cpu, cuda, cuda:1")


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.index``."""
    settings = config.parse(IndexSettings, argv, "python -m dexml.index")
    tasks = ("add", "remove", "update", "rebuild", "info", "overwrite")
    chosen = [f"--{name}" for name in tasks if getattr(settings, name)]
    if len(chosen) > 1:
        console.usage_error(f"{' and '.join(chosen)}: one at a time")
    run = rundir.Run.open(settings.run)
    folder = settings.run / "index"
    if settings.info:
        print(_table(read_manifest(folder), run))
        return
    if not chosen or settings.overwrite:
        _build(run, folder, settings)
        return
    added: list[tuple[int, str]] = []
    if settings.add or settings.update:
        sealed.read_manifest(folder)  # without an index there is nothing to edit
        predictor = _predictor(settings)
        index = predictor.index
        if settings.add:
            added = _add(predictor, settings.add, settings)
        elif settings.update:
            _update(predictor, settings.update, settings)
    else:
        index = LabelIndex.load(folder, encoder=run.fingerprint())
        if settings.remove:
            _remove(index, settings.remove)
        else:
            index.rebuild(progress=not settings.quiet)
    index.save(folder, progress=not settings.quiet)
    for id_, text in added:  # only now are they given
        print(f"{id_}\t{text}")
    if not settings.quiet:
        console.say(_summary(index.manifest, folder))
    _warn(index.manifest)


def _predictor(settings: IndexSettings) -> Predictor:
    """What makes vectors of texts: the same, to the bit, as `Predictor.add_labels` in a service."""
    from dexml.predict import Predictor

    return Predictor.open(settings.run, device=settings.device)


def _build(run: rundir.Run, folder: Path, settings: IndexSettings) -> None:
    """Build from the label vectors of the run; an index that was edited is not lost unasked."""
    if (folder / "manifest.json").exists() and not settings.overwrite:
        try:
            edits = read_manifest(folder).edits
        except ValueError:  # damaged, or of an older version: nothing to lose
            edits = 0
        if edits:
            raise FileExistsError(
                f"{folder}: labels were edited {edits} times since it was built; --rebuild keeps "
                "them, --overwrite starts from the run again"
            )
    vectors = run.load_array("label_emb")
    search = settings.search
    if search == "auto":
        search = choose_search(len(vectors), None, settings.k)
    index = LabelIndex.build(
        vectors,
        run.load_array("query_emb"),
        texts=run.label_texts(),
        search=search,
        encoder=run.fingerprint(),
        m=settings.m,
        ef_construction=settings.ef_construction,
        k=settings.k,
        recall=settings.recall,
        seed=settings.seed,
        progress=not settings.quiet,
    )
    _forget_added(run, len(vectors))
    index.save(folder)
    print(_summary(index.manifest, folder))
    _warn(index.manifest)


def _forget_added(run: rundir.Run, n_labels: int) -> None:
    """Take the votes of labels that were added to the old index: their ids are given anew."""
    folder = run.folder / "memory"
    if folder.is_dir():
        memory = load_memory(folder, encoder=run.fingerprint())
        if memory.n_labels > n_labels:
            memory.keep_labels(n_labels)
            save_memory(memory, folder, encoder=run.fingerprint())


def _add(predictor: Predictor, path: Path, settings: IndexSettings) -> list[tuple[int, str]]:
    """Add the texts that are no labels yet; return their ids and texts."""
    index = predictor.index
    known = {t for t, alive in zip(_texts(index), index.alive.tolist(), strict=True) if alive}
    given = _lines(path)
    texts = [text for text in dict.fromkeys(given) if text not in known]
    if len(texts) < len(given) and not settings.quiet:
        console.say(f"note: {len(given) - len(texts)} of {len(given)} are labels already: skipped")
    with _bar(len(texts), settings) as bar:
        ids = predictor.add_labels(texts, told=bar.update)
    return list(zip(ids.tolist(), texts, strict=True))


def _remove(index: LabelIndex, path: Path) -> None:
    """Remove by ids, where all lines are numbers, or by texts; never by a guess between them."""
    lines = _lines(path)
    if all(line.isdecimal() for line in lines):
        ids = [int(line) for line in lines]
        _check_ids(index, ids, path)
        texts = _texts(index)
        by_text = {texts[i]: i for i in np.flatnonzero(index.alive).tolist()}
        for number, line in enumerate(lines, start=1):
            if by_text.get(line, int(line)) != int(line):
                raise ValueError(
                    f"{path}:{number}: {line} is an id and also the text of label {by_text[line]}; "
                    f"write 0{line} for the id"
                )
    else:
        places: dict[str, list[int]] = {}
        texts = _texts(index)
        for i in np.flatnonzero(index.alive).tolist():
            places.setdefault(texts[i], []).append(i)
        ids = []
        for number, line in enumerate(lines, start=1):
            if line not in places:
                raise ValueError(f"{path}:{number}: no label has the text {line!r}")
            ids += places.pop(line)
    index.remove_labels(ids)


def _update(predictor: Predictor, path: Path, settings: IndexSettings) -> None:
    """Give labels other texts; what training learned beyond the text stays."""
    ids, texts = [], []
    for number, line in enumerate(_lines(path), start=1):
        id_, tab, text = line.partition("\t")
        if not tab or not id_.isdecimal() or not text.strip():
            raise ValueError(f"{path}:{number}: expected ID TAB TEXT")
        ids.append(int(id_))
        texts.append(text.strip())
    _check_ids(predictor.index, ids, path)
    with _bar(len(texts), settings) as bar:
        predictor.update_labels(ids, texts, told=bar.update)


def _bar(n: int, settings: IndexSettings) -> Any:
    return tqdm(total=n, desc="encoding", unit="text", delay=2, disable=settings.quiet)


def _lines(path: Path) -> list[str]:
    """The lines of a file of edits; an empty one is a mistake."""
    lines = load_texts(path)
    for number, line in enumerate(lines, start=1):
        if not line:
            raise ValueError(f"{path}:{number}: an empty line")
    if not lines:
        raise ValueError(f"{path}: empty")
    return lines


def _check_ids(index: LabelIndex, ids: Sequence[int], path: Path) -> None:
    seen: set[int] = set()
    for number, id_ in enumerate(ids, start=1):
        if id_ >= index.n_labels:
            raise ValueError(f"{path}:{number}: label {id_} of {index.n_labels} labels")
        if not index.alive[id_]:
            raise ValueError(f"{path}:{number}: label {id_} was removed before")
        if id_ in seen:
            raise ValueError(f"{path}:{number}: label {id_} stands there twice")
        seen.add(id_)


def _texts(index: LabelIndex) -> list[str]:
    if index.texts is None:
        raise ValueError("the index holds no texts; build it again")
    return index.texts


def _summary(made: Manifest, folder: Path) -> str:
    """One line for exact search; for a graph a table of its recall."""
    gone = made.n_labels - made.n_alive
    removed = f" ({gone} removed)" if gone else ""
    kind = "exact search" if made.kind == "exact" else f"HNSW, M {made.m}"
    head = f"{made.n_alive} labels{removed}, {made.dim} dimensions; {kind}: {folder}"
    rows = [
        f"recall@{row.k} against exact search {row.recall:.4f} at ef {row.ef} "
        f"({row.queries} points; asked for {row.wanted:g})"
        for row in made.recalls
    ]
    return "\n".join([head, *rows])


def _warn(made: Manifest) -> None:
    first = 1
    for row in made.recalls:
        if not row.reached:
            console.say(
                f"warning: recall@{row.k} stays below {row.wanted:g}; for k from {first} to "
                f"{row.k} exact search is used"
            )
        first = row.k + 1


def _table(made: Manifest, run: rundir.Run) -> str:
    """The manifest for a reader, and whether it is that of an index of this run."""
    own = made.encoder == run.info["fingerprint"]
    rows = [
        ("search", made.kind),
        ("labels", str(made.n_alive)),
        ("removed", str(made.n_labels - made.n_alive)),
        ("next id", str(made.n_labels)),
        ("edits since built", str(made.edits)),
        ("dimensions", str(made.dim)),
        ("encoder", f"{made.encoder[:16]} ({'that of the run' if own else _FOREIGN})"),
        ("format", str(made.format_version)),
    ]
    if made.kind == "hnsw":
        rows += [("M", str(made.m)), ("ef_construction", str(made.ef_construction))]
        rows += [("seed", str(made.seed))]
    for row in made.recalls:
        rows.append((f"recall@{row.k}", f"{row.recall:.4f} (ef {row.ef}, {row.queries} queries)"))
    rows += [(seal["name"], f"{seal['bytes']} bytes") for seal in made.files.values()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
