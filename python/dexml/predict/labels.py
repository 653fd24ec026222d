"""The labels of an opened run: its index or one made of its label vectors, and points that vote."""

from __future__ import annotations

from dexml.index import LabelIndex, sealed
from dexml.run.folder import Run
from dexml.scorers import PointMemory, load_memory


def open_labels(run: Run, search: str) -> tuple[LabelIndex, PointMemory | None]:
    """Open the index of a run, and its memory of training points if it has one.

    A run that was not indexed gets an index for exact search, in memory.
    """
    folder = run.folder / "memory"
    for _ in range(sealed.ATTEMPTS):
        # The points first: who saves writes them last, so they know no label that the index lacks.
        memory = load_memory(folder, encoder=run.fingerprint()) if folder.is_dir() else None
        index = _open_index(run, search)
        # Unless they have changed since: an index may have been built anew, its ids given again.
        if memory is None or memory.home.is_in(folder):
            break
    if memory is not None and memory.n_labels > index.n_labels:
        raise ValueError(
            f"{folder}: its points have {memory.n_labels} labels, but the index has "
            f"{index.n_labels}; python -m dexml.index {run.folder} --overwrite drops the labels "
            "that are gone"
        )
    return index, memory


def _open_index(run: Run, search: str) -> LabelIndex:
    folder = run.folder / "index"
    if folder.is_dir():
        index = LabelIndex.load(folder, encoder=run.fingerprint())
        if index.texts is None:
            raise ValueError(f"{folder}: holds no label texts; run python -m dexml.index again")
        if index.manifest.dim != run.info["dim"] + 1 or index.n_labels < run.info["n_labels"]:
            raise ValueError(
                f"{folder}: {index.n_labels} labels of {index.manifest.dim} dimensions, but "
                f"run.json says {run.info['n_labels']} of {run.info['dim'] + 1}; train again"
            )
        if search == "hnsw" and index.manifest.kind != "hnsw":
            raise ValueError(
                f"{folder}: an index without a graph; python -m dexml.index {run.folder} "
                "--search hnsw builds one"
            )
        return index
    if search == "hnsw":
        raise FileNotFoundError(f"{folder}: no index; run python -m dexml.index {run.folder}")
    return LabelIndex.build(
        run.load_array("label_emb", mmap=True),
        texts=run.label_texts(),
        search="exact",
        encoder=run.fingerprint(),
    )


def note(index: LabelIndex, search: str, k: int) -> str:
    """Say how k labels a text are searched, and how well."""
    made, known = index.manifest, index.recall_for(k)
    exact = f"exact, {made.n_alive} labels"
    if search == "exact" or made.kind == "exact":
        return exact
    if search == "auto" and index.search_for(k) == "exact":
        return f"{exact} (the graph does not find enough for k = {k})"
    said = f"HNSW, {made.n_alive} labels"
    if known is None:
        return f"{said}, recall not known for k = {k} (--search exact compares all)"
    return (
        f"{said}, recall@{known.k} {known.recall:.4f} against exact search when it was measured "
        "(--search exact compares all)"
    )
