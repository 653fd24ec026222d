"""The labels of an opened run: searched, added, removed.

`Labels` is what a predictor asks of an index. `RunLabels` gives it for the label vectors of a run
and an index that cannot be edited itself; its edits live in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.data import Csr
from dexml.index import Found, LabelIndex, exact_search
from dexml.rundir import Run


class Labels(Protocol):
    """What a predictor asks of an index; all of it from several threads at once."""

    @property
    def n_labels(self) -> int:
        """The next id."""
        ...

    @property
    def texts(self) -> list[str]:
        """Texts by label id."""
        ...

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Vectors by label id, (n_labels, D + 1)."""
        ...

    def note(self) -> str:
        """How labels are searched, and how well."""
        ...

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[Any] | None = None,
    ) -> Found:
        """Find the k best labels of each query."""
        ...

    def add_labels(self, texts: list[str], vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Add labels; return their ids."""
        ...

    def remove_labels(self, ids: NDArray[Any]) -> None:
        """Remove labels for good."""
        ...

    def update_labels(
        self, ids: NDArray[Any], texts: list[str], vectors: NDArray[np.float32]
    ) -> None:
        """Change text and vector of labels."""
        ...

    def save(self, folder: Path) -> None:
        """Write all of it."""
        ...


def open_labels(run: Run, search: str, exact_up_to: int) -> Labels:
    """Open the labels of a run for the wanted search."""
    folder = run.folder / "index"
    if search == "hnsw" and not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no index; run python -m dexml.index {run.folder}")
    n_labels = run.info["n_labels"]
    wanted = search == "hnsw" or (search == "auto" and folder.is_dir() and n_labels > exact_up_to)
    graph = LabelIndex.load(folder, encoder=run.fingerprint()) if wanted else None
    vectors = graph.vectors if graph else run.load_array("label_emb", mmap=True)
    return RunLabels(vectors, run.label_texts(), graph)


@dataclass(frozen=True)
class _State:
    """Labels between two edits. `graph` knows the labels before the first edit."""

    vectors: NDArray[np.float32]
    texts: list[str]
    alive: NDArray[np.bool_] | None
    graph: LabelIndex | None


class RunLabels:
    """Label vectors of a run; an edit makes a new state, searches under way keep theirs."""

    def __init__(
        self, vectors: NDArray[np.float32], texts: list[str], graph: LabelIndex | None = None
    ) -> None:
        self._state = _State(vectors, texts, None, graph)
        self._editing = Lock()
        self._searching = Lock()  # `ef` is state of the graph

    @property
    def n_labels(self) -> int:
        """The next id."""
        return len(self._state.texts)

    @property
    def texts(self) -> list[str]:
        """Texts by label id."""
        return self._state.texts

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Vectors by label id."""
        return self._state.vectors

    def note(self) -> str:
        """Say how labels are searched, and how well."""
        state = self._state
        if state.graph is None:
            alive = len(state.texts) if state.alive is None else int(state.alive.sum())
            return f"exact, {alive} labels"
        made = state.graph.manifest
        return (
            f"HNSW, {made.n_labels} labels, recall@{made.recall_k} {made.recall:.4f} against exact "
            "search when it was built (--search exact compares all)"
        )

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[Any] | None = None,
    ) -> Found:
        """Find the k best labels of each query; exact where `only` names the candidates."""
        state = self._state
        if only is None and state.graph is not None:
            with self._searching:
                return state.graph.search(queries, k, exclude=exclude)
        if only is None and state.alive is None:
            return exact_search(queries, state.vectors, k, exclude=exclude)
        chosen = np.ones(len(state.texts), np.bool_) if only is None else only
        if state.alive is not None:
            chosen = chosen & state.alive[: len(chosen)]
        ids = np.flatnonzero(chosen).astype(np.int32)
        pairs = None if exclude is None else csr_array(csr_array(exclude)[:, ids])
        rows, scores = exact_search(queries, state.vectors[ids], k, exclude=pairs)
        if not len(ids):
            return rows, scores
        return np.where(rows >= 0, ids[rows], np.int32(-1)).astype(np.int32), scores

    def add_labels(self, texts: list[str], vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Add labels; from the first edit on search is exact."""
        with self._editing:
            old = self._state
            alive = self._alive()
            self._state = _State(
                np.concatenate([old.vectors, vectors]),
                [*old.texts, *texts],
                np.concatenate([alive, np.ones(len(texts), np.bool_)]),
                None,
            )
            return np.arange(len(old.texts), len(old.texts) + len(texts), dtype=np.int32)

    def remove_labels(self, ids: NDArray[Any]) -> None:
        """Remove labels for good."""
        with self._editing:
            alive = self._known(ids)
            alive[ids] = False
            self._state = replace(self._state, alive=alive, graph=None)

    def update_labels(
        self, ids: NDArray[Any], texts: list[str], vectors: NDArray[np.float32]
    ) -> None:
        """Change text and vector of labels."""
        with self._editing:
            alive, new = self._known(ids), list(self._state.texts)
            changed = np.array(self._state.vectors)
            changed[ids] = vectors
            for i, text in zip(ids.tolist(), texts, strict=True):
                new[i] = text
            self._state = _State(changed, new, alive, None)

    def save(self, folder: Path) -> None:
        """Not here: edits live in memory."""
        raise NotImplementedError(f"{folder}: this index cannot be edited on disk")

    def _alive(self) -> NDArray[np.bool_]:
        alive = self._state.alive
        return np.ones(len(self._state.texts), np.bool_) if alive is None else alive.copy()

    def _known(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        alive = self._alive()
        for i in np.asarray(ids).tolist():
            if not (isinstance(i, int) and 0 <= i < len(alive) and alive[i]):
                raise ValueError(f"label {i} is not there (n_labels = {len(alive)})")
        return alive
