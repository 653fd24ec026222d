"""An index that can be searched, edited while it is searched, saved and opened again."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix

from dexml import sealed, shown
from dexml.data import Csr
from dexml.forks import renew_in_child
from dexml.index import edits
from dexml.index.exact import Hits, Only, check_queries, pair_scores
from dexml.index.facts import IndexFacts, Recall
from dexml.index.graph import Graph
from dexml.index.parts import FORMAT, as_parts, read_parts
from dexml.index.recall import (
    EDIT_QUERIES,
    MEASURED_KS,
    RECALL_QUERIES,
    check_parameters,
    choose_search,
    graph_parameters,
    measure,
    wanted_recall,
)
from dexml.index.snapshot import Snapshot
from dexml.sealed import Home, Part, Sealed

PENDING = 1024
"""New labels that are compared exactly before they are all put into the graph."""
DEGRADED = 0.2
"""Share of retired nodes beyond which saving builds the graph anew."""
Search = Literal["auto", "exact", "hnsw"]


class LabelIndex:
    """Label vectors to search by inner product, exactly or by an HNSW graph.

    Row i is label i. An id is given once: removed labels leave a gap, and `n_labels` is the next
    id. Several threads may search while another edits: a search sees the labels before an edit or
    after it, never a part of it. `copy.copy` gives an index of its own, which later edits of this
    one do not change.

    Examples:
        >>> vectors = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
        >>> index = LabelIndex.build(vectors)
        >>> index.add_labels(np.array([[3, 0]], np.float32)).tolist()
        [3]
        >>> index.remove_labels([2])
        >>> ids, scores = index.search(np.array([[2, 1]], np.float32), 4)
        >>> ids.tolist(), scores.tolist()
        ([[3, 0, 1, -1]], [[6.0, 2.0, 1.0, -inf]])
    """

    def __init__(self, snapshot: Snapshot, facts: IndexFacts, queries: NDArray[np.float32]) -> None:
        """Use `build`, `load` or `restore`."""
        self._now = snapshot
        self._facts = facts
        self._queries = queries
        self._renew()
        renew_in_child(self, LabelIndex._renew)
        self._wanted = {k: wanted_recall(k) for k in MEASURED_KS}
        self._wanted |= {row.k: row.wanted for row in facts.recalls}
        self._buffer = edits.Buffer(facts.dim)
        self._home = Home()
        self._unmeasured = False

    def _renew(self) -> None:
        """Make the lock; again in a forked process, where that of another thread stays locked."""
        self._editing = threading.RLock()

    def _about(self) -> dict[str, object]:
        now, facts = self._now, self._facts
        return {
            "labels": int(now.alive.sum()),
            "ids": len(now.alive),
            "dim": facts.dim,
            "graph": "none" if now.graph is None else "HNSW",
        }

    def __repr__(self) -> str:
        return shown.line("LabelIndex", self._about())

    def _repr_html_(self) -> str:
        return shown.html("LabelIndex", self._about())

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        queries: NDArray[np.float32] | None = None,
        *,
        search: Search = "auto",
        m: int | None = None,
        ef_construction: int | None = None,
        k: int = 10,
        recall: float | None = None,
        seed: int = 0,
        build_threads: int = 1,
        progress: bool = False,
    ) -> LabelIndex:
        """Index label vectors; with a graph, raise `ef` until it finds what was asked for.

        The graph is built by one thread: with several it is another graph each time, whatever the
        seed. Its recall is measured in any case.

        Args:
            vectors: Label vectors, shape (L, D), float32, any norm, L >= 0; not copied.
            queries: Points to measure the recall with, shape (n, D); at most 1,000 are used, and
                kept. Default: the label vectors themselves.
            search: ``exact``, ``hnsw``, or ``auto``: as `choose_search` says.
            m: Links of a node; default 16 for k <= 10, else 32.
            ef_construction: Candidates while building; default 200 for k <= 10, else 400.
            k: Labels a query for which recall is measured, beside 10 and 100.
            recall: Recall@k to reach; default 0.99 for k <= 10, else 0.98.
            seed: Seed of the graph's levels.
            build_threads: Threads that build the graph; more than one: not reproducible.
            progress: Show a bar.

        Raises:
            ValueError: Shapes or dtypes are wrong, a vector is not finite, a number is out of
                range.
        """
        vectors = edits.check_vectors(vectors, None)
        check_parameters(k=k, m=m, ef_construction=ef_construction, recall=recall, seed=seed)
        if search not in ("auto", "exact", "hnsw"):
            raise ValueError(f"search = {search!r}; expected auto, exact or hnsw")
        if build_threads < 1:
            raise ValueError(f"build_threads = {build_threads}; expected at least 1")
        snapshot = Snapshot.of(vectors)
        if queries is None or len(queries) == 0:
            rows = np.random.default_rng(seed).permutation(len(vectors))[:RECALL_QUERIES]
            queries = vectors[np.sort(rows)]
        queries = np.array(queries[:RECALL_QUERIES])
        check_queries(queries, vectors.shape[1], 1)
        kind = choose_search(len(vectors), None, k) if search == "auto" else search
        default_m, default_ef = graph_parameters(k)
        facts = IndexFacts(
            kind=kind,
            n_labels=len(vectors),
            n_alive=len(vectors),
            dim=vectors.shape[1],
            m=m or default_m,
            ef_construction=ef_construction or default_ef,
            seed=seed,
        )
        index = cls(snapshot, facts, queries)
        index._wanted[k] = recall or wanted_recall(k)
        if kind == "hnsw":
            index.rebuild(num_threads=build_threads, progress=progress)
        return index

    @property
    def facts(self) -> IndexFacts:
        """What the index is: kind, sizes, parameters, measured recall."""
        now = self._now
        return replace(self._facts, n_labels=len(now), n_alive=now.n_alive)

    @property
    def n_labels(self) -> int:
        """The next id: labels, removed ones included."""
        return len(self._now)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Label vectors (n_labels, D), those of removed labels included; not to be written to."""
        return self._now.vectors

    @property
    def alive(self) -> NDArray[np.bool_]:
        """False for removed labels, shape (n_labels,); not to be written to."""
        return self._now.alive

    def recall_for(self, k: int) -> Recall | None:
        """The measurement that speaks for k labels a query: that of the next larger k."""
        rows = [row for row in self._facts.recalls if row.k >= min(k, self._now.n_alive)]
        return min(rows, key=lambda row: row.k) if rows else None

    def search_for(self, k: int) -> Literal["exact", "hnsw"]:
        """Which search ``auto`` is: the graph where its measured recall is what was asked for."""
        known = self.recall_for(k)
        return "hnsw" if known is not None and known.reached else "exact"

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exclude: Csr | None = None,
        only: Only | None = None,
        search: Search = "auto",
        device: str = "cpu",
        num_threads: int | None = None,
        progress: bool = False,
        also: tuple[int, Only] | None = None,
    ) -> Hits:
        """Find the k best labels of each query.

        Args:
            queries: Shape (n, D), float32.
            k: Labels a query; rows are padded when fewer are left.
            exclude: Pairs (query, label) to leave out, shape (n, n_labels); k labels remain.
            only: Search these labels alone: a mask of shape (n_labels,), or ids. Always exact.
            search: ``auto``: see `search_for`; ``hnsw`` asks the graph whatever its recall.
            device: Of exact search: ``cpu`` or ``cuda``.
            num_threads: Threads of the graph and of the ranking; default all cores.
            progress: Show a bar (exact search).
            also: A second ranking: so many labels of another group. Always exact, both of them.

        Returns:
            ``ids`` int32 and ``scores`` float32, (n, k), best first, padded with -1 and -inf;
            equal scores: the smaller id first. A pair has one score, whichever search finds it.
            With `also` as many columns more behind them.

        Raises:
            ValueError: Shapes disagree, `k` is below 1, a query is not finite, there is no graph.
        """
        now = self._now
        check_queries(queries, self._facts.dim, k)
        shape = (len(queries), len(now))
        if exclude is not None and not isinstance(exclude, csr_array | csr_matrix):
            raise TypeError(f"exclude is {type(exclude).__name__}; give csr_array, shape {shape}")
        if exclude is not None and exclude.shape != shape:
            raise ValueError(f"exclude: shape {exclude.shape}, but queries and labels have {shape}")
        if search == "hnsw" and self._facts.kind != "hnsw":
            raise ValueError("search = 'hnsw': this index has no graph; build it with hnsw")
        if search == "auto":
            search = self.search_for(k) if device == "cpu" else "exact"
        if search == "exact" or only is not None or also is not None:
            return now.exact(
                queries, k, exclude=exclude, only=only, device=device, progress=progress, also=also
            )
        known = self.recall_for(k) or max(self._facts.recalls, key=lambda row: row.k)
        ef = known.ef if k <= known.k else max(known.ef, 3 * k)
        return now.near(queries, k, ef, exclude=exclude, num_threads=num_threads)

    def score_pairs(
        self, queries: NDArray[np.float32], ids: NDArray[np.integer[Any]]
    ) -> NDArray[np.float32]:
        """Score given labels, to the bit as a search does.

        Args:
            queries: Shape (n, D), float32.
            ids: Label ids, shape (n, m), padded with -1.

        Returns:
            Scores, float32, (n, m); -inf for padding, removed labels and ids beyond `n_labels`.
        """
        now = self._now
        check_queries(queries, self._facts.dim, 1)
        known = (ids >= 0) & (ids < len(now))
        known[known] = now.alive[ids[known]]
        scores = np.full(ids.shape, -np.inf, np.float32)
        if known.any():
            all_scores = pair_scores(queries, now.vectors, np.where(known, ids, 0))
            scores[known] = all_scores[known]
        return scores

    def add_labels(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Add labels; searches find them at once.

        Args:
            vectors: Their vectors, shape (n, D), float32.

        Returns:
            Their ids, int32: the next n.
        """
        with self._editing:
            now = self._now
            after = edits.added(now, edits.check_vectors(vectors, now.dim), self._buffer)
            self._publish(after)
            return np.arange(len(now), len(after), dtype=np.int32)

    def remove_labels(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """Remove labels. Their ids are not given again.

        Raises:
            ValueError: An id out of range, of a removed label, or given twice.
        """
        with self._editing:
            self._publish(edits.removed(self._now, edits.check_rows(ids, self._now.alive)))

    def update_labels(
        self, ids: Sequence[int] | NDArray[np.integer[Any]], vectors: NDArray[np.float32]
    ) -> None:
        """Give labels other vectors; their ids stay. Copies all vectors once.

        Raises:
            ValueError: As `add_labels` and `remove_labels`.
        """
        with self._editing:
            now = self._now
            rows = edits.check_rows(ids, now.alive)
            self._publish(edits.updated(now, rows, edits.check_vectors(vectors, now.dim)))

    def rebuild(self, *, num_threads: int = 1, progress: bool = False) -> None:
        """Build the graph anew from the labels that are left, and measure its recall.

        Searches go on meanwhile with the old graph. Without effect on an exact index.

        Args:
            num_threads: With more than one, the graph is another each time.
            progress: Show a bar.
        """
        if self._facts.kind != "hnsw":
            return
        with self._editing:
            now = self._now
            labels = np.flatnonzero(now.alive).astype(np.int32)
            nodes = np.full(len(now), -1, np.int32)
            graph = None
            if len(labels):
                made = self._facts
                graph = Graph.empty(
                    made.dim, len(labels), m=made.m, ef_construction=made.ef_construction,
                    seed=made.seed,
                )  # fmt: skip
                nodes[labels] = graph.insert(
                    labels, now.vectors, num_threads=num_threads, progress=progress
                )
            self._publish(replace(now, graph=graph, nodes=nodes))
            self.measure(RECALL_QUERIES)

    def measure(self, n_queries: int = RECALL_QUERIES) -> tuple[Recall, ...]:
        """Measure the recall again, and raise `ef` where it is too low.

        Args:
            n_queries: Queries, of those that the index keeps.

        Returns:
            The measurements, also in `facts`; none for an exact index.
        """
        if self._facts.kind != "hnsw":
            return ()
        with self._editing:
            now = self._now
            n = min(n_queries, len(self._queries))
            queries = self._queries[
                np.linspace(0, len(self._queries), n, endpoint=False, dtype=int)
            ]
            targets = sorted(self._wanted.items())
            _, truth = now.exact(queries, max(1, min(targets[-1][0], now.n_alive)))
            recalls = measure(
                lambda k, ef: now.near(queries, k, ef), truth, targets, max(1, now.n_alive)
            )
            self._facts = replace(self._facts, recalls=recalls)
            self._unmeasured = False
            return recalls

    def prepare_save(self, *, progress: bool = False) -> None:
        """Bring graph and recall up to date with the edits.

        After edits that can lower the recall it is measured again (250 queries). A graph of which
        more than a fifth of the nodes are out of use is built anew first.
        """
        with self._editing:
            now = self._now
            if now.graph is not None:
                in_use = int((now.nodes >= 0).sum())
                if len(now.graph) - in_use > DEGRADED * len(now.graph):
                    self.rebuild(progress=progress)
            if self._unmeasured:
                self.measure(EDIT_QUERIES)

    def parts(self, prefix: str = "") -> dict[str, Part]:
        """What a sealed folder keeps of the index, beside its `facts`."""
        return as_parts(self._now, self._queries, self._facts, prefix)

    @classmethod
    def restore(cls, state: Sealed, facts: Mapping[str, Any], prefix: str = "") -> LabelIndex:
        """Open an index in a sealed folder whose bytes were checked; the vectors are mapped.

        Raises:
            ValueError: `facts` or a part cannot be right.
        """
        try:
            known = IndexFacts.from_json(facts)
        except ValueError as error:
            raise state.damaged(str(error)) from None
        snapshot, queries = read_parts(state, known, prefix)
        return cls(snapshot, known, queries)

    def save(self, folder: str | PathLike[str], *, progress: bool = False) -> None:
        """Write what changed since the index was loaded from or saved to `folder`, or all of it.

        Graph and recall are brought up to date first (`prepare_save`). A kill at any moment leaves
        the old index or the new one.

        Raises:
            FileExistsError: The folder holds something that is not an index.
            RuntimeError: Another process has saved to it since it was loaded, or is saving and does
                not end.
        """
        with self._editing:
            self.prepare_save(progress=progress)
            self._home.save(Path(folder), FORMAT, self.facts.as_json(), self.parts())

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> LabelIndex:
        """Open an index folder; every byte is checked before anything else reads it.

        The vectors are mapped into memory.

        Args:
            folder: Written by `save`.

        Raises:
            FileNotFoundError: No index there.
            ValueError: Damaged, or of another version.
        """

        def build(state: Sealed) -> LabelIndex:
            index = cls.restore(state, state.facts)
            index._home.note(state, index.parts())
            return index

        return sealed.load(Path(folder), FORMAT, build)

    def __copy__(self) -> LabelIndex:
        """An index of the same moment; both share what neither changes in place."""
        other = LabelIndex(self._now, self._facts, self._queries)
        other._wanted, other._buffer = dict(self._wanted), self._buffer
        other._unmeasured, other._home = self._unmeasured, replace(self._home)
        # Both may add nodes to the one graph, which must not grow while the other is saved.
        other._editing = self._editing
        return other

    def _publish(self, after: Snapshot) -> None:
        """Let searches see `after`; put new labels into the graph once they are many."""
        before, self._now = self._now, after
        # New labels are compared exactly until then, so they cannot lower the recall.
        self._unmeasured |= bool((after.nodes[: len(before)] != before.nodes).any())
        if self._facts.kind == "hnsw" and len(after.pending) > PENDING:
            if after.graph is None:
                self.rebuild()
                return
            labels = after.pending.astype(np.int32)
            nodes = after.nodes.copy()
            nodes[labels] = after.graph.insert(labels, after.vectors)
            self._now = replace(after, nodes=nodes)
            self._unmeasured = True
