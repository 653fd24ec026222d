"""A run as it is served: read from its folder, at one moment, and written back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from dexml import sealed
from dexml.encoder.engine import EngineName
from dexml.favour import Favour, Fixed
from dexml.index import EXACT_UP_TO, LabelIndex
from dexml.predict.arguments import at_least_one
from dexml.run import FORMAT, LabelSet, PointTexts, Run, check_there
from dexml.scorers import (
    Change,
    DenseScorer,
    Embedder,
    Fusion,
    NeighbourScorer,
    PointMemory,
    Scorer,
    VotedScorer,
)
from dexml.scorers.bilinear import BilinearScorer
from dexml.scorers.calibration import OLD, Calibration, Missing
from dexml.scorers.calibration import restore as restore_calibration
from dexml.scorers.cooccurrence import Cooccurrence
from dexml.scorers.dense import Search, check_encoder, encoder_folder, engine_facts
from dexml.scorers.embedder import Precision
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.ranker import Member, RankedScorer, restore_network
from dexml.scorers.tree import TreeScorer
from dexml.sealed import Home, Part, Sealed
from dexml.threads import MAX_THREADS, at_once, core_threads

NONE = Missing(OLD)


@dataclass(frozen=True, eq=False)
class Served:
    """Labels and scorer at one moment. It never changes: edits return another one."""

    labels: LabelSet
    scorer: Scorer
    texts: PointTexts | None = None
    """Of the points that vote; None: the run does not keep them."""
    calibration: Calibration | Missing = NONE
    """Of the run's own scorer."""
    learned: dict[Favour, Fixed] = field(default_factory=dict)
    """What labels are worth for metrics that were asked for; filled by `favoured.ordered`."""

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Points of each label that the scorer knows, those that were added included."""
        if isinstance(self.scorer, RankedScorer):
            return self.scorer.counts
        return self.labels.counts

    def after(self, change: Change) -> Served:
        """Return labels, scorer and texts after an edit."""
        texts = self.texts
        if texts is not None and change.points is not None:
            texts = texts.with_more(change.points.texts)
        return Served(change.labels, self.scorer.update(change), texts, self.calibration)

    def parts(self) -> dict[str, Part]:
        """Return the files of labels, scorer and texts, by role."""
        texts = {} if self.texts is None else self.texts.parts()
        parts = self.labels.parts() | dict(self.scorer.parts()) | texts
        return parts | self.calibration.parts()

    def save(self, run: Run, home: Home, *, lock: bool = True) -> Run:
        """Write labels and scorer to the run, all at once.

        Parts of the run that belong to neither (encoder, what training left) stay as they are.

        Args:
            run: The run as it was opened or last saved.
            home: What of labels and scorer lies in its folder already.
            lock: Hold the run's lock meanwhile; False: the caller does.

        Returns:
            The run as it is now.

        Raises:
            ValueError: The scorer leaves out a section that the run's own scorer has.
            RuntimeError: Another process has saved to the run meanwhile.
        """
        if (dense := dense_of(self.scorer)) is not None:
            dense.index.prepare_save()
        parts = self.parts()
        # Labels were edited: what is left behind would not fit them, and the run not open again.
        if lost := _sections(home.sources) - _sections(parts):
            raise ValueError(
                f"{run.folder}: this scorer does not save {', '.join(sorted(lost))}, which the run "
                "has; make it a dexml.scorers.Fusion with the run's own scorer"
            )
        facts = dict(run.facts) | self.scorer.facts() | {"labels": self.labels.facts()}
        facts |= {} if self.texts is None else self.texts.facts()
        keep = {
            role: seal
            for role, seal in run.state.parts.items()
            if role not in parts and role not in home.sources
        }
        home.save(run.folder, FORMAT, facts, parts, keep=keep, lock=lock)
        assert home.state is not None
        return Run(home.state)


def _sections(roles: Iterable[str]) -> set[str]:
    return {role.split("/")[0] for role in roles}


def scorers_in(scorer: Scorer) -> Iterator[Scorer]:
    """Yield a scorer, and the scorers that it is made of."""
    yield scorer
    if isinstance(scorer, Fusion | RankedScorer):
        for member in scorer.members:
            yield from scorers_in(member)
    elif isinstance(scorer, VotedScorer | NeighbourScorer):
        yield scorer.dense


def dense_of(scorer: Scorer) -> DenseScorer | None:
    """Return the first dense scorer in a scorer; None if there is none."""
    return next((s for s in scorers_in(scorer) if isinstance(s, DenseScorer)), None)


def memory_of(scorer: Scorer) -> PointMemory | None:
    """Return the first points that vote in a scorer; None if there are none."""
    voting = (s for s in scorers_in(scorer) if isinstance(s, VotedScorer | NeighbourScorer))
    return next((s.memory for s in voting), None)


@dataclass(frozen=True, eq=False)
class Opened:
    """A run read from its folder.

    Attributes:
        run: The run.
        labels: Its labels.
        scorer: Its own scorer.
        texts: Of the points that vote, if it keeps them.
        calibration: The probabilities of the scorer's scores, or why there are none.
        home: What of labels, scorer and texts lies in the folder.
        threads: CPU threads of a call; None: all cores.
    """

    run: Run
    labels: LabelSet
    scorer: Scorer
    texts: PointTexts | None = None
    calibration: Calibration | Missing = NONE
    home: Home = field(default_factory=Home)
    threads: int | None = None


def open_run(
    folder: str | PathLike[str],
    *,
    search: Search = "auto",
    exact_up_to: int = EXACT_UP_TO,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "auto",
    engine: EngineName = "auto",
    ready: bool = False,
) -> Opened:
    """Read a run, all of it from one state of its folder; every byte is checked first.

    Args:
        folder: As all arguments but the last, see `dexml.predict.Predictor.open`.
        search: How labels are searched.
        exact_up_to: Labels up to which they are compared one by one.
        device: Of the encoder.
        threads: CPU threads of a call.
        precision: Of the transformer.
        engine: Of the encoder.
        ready: Make ready what the first text needs, several things at a time: encoder, indexes.
            Else the first text does it, and the encoder's files are checked again then.

    Raises:
        FileNotFoundError: No finished run there, a part is missing, or no index though `search`
            needs it.
        ValueError: A part is damaged, or an argument is not one of its values.
    """
    folder = Path(folder)
    check_there(folder)
    threads = None if threads is None else at_least_one("threads", threads)
    if threads is not None and threads > MAX_THREADS:
        raise ValueError(f"threads = {threads}; expected at most {MAX_THREADS}")

    def build(state: Sealed) -> Opened:
        labels = LabelSet.restore(state)
        embedder = Embedder(
            encoder_folder(state),
            device=device,
            threads=threads,
            precision=precision,
            engine=engine,
            chosen=engine_facts(state),
            # What is read at once was checked a moment ago.
            check=None if ready else lambda: check_encoder(state),
        )

        def scorer_of() -> Scorer:
            scorer = _restore_scorer(state, labels, embedder, search, exact_up_to)
            if ready:
                slow = [s for s in scorers_in(scorer) if isinstance(s, _PREPARED)]
                at_once([one.prepare for one in slow])
            return scorer

        encodes = ready and "dense" in state.facts
        beside = [lambda: embedder.prepare(alone=False)] if encodes else []
        scorer, *_ = at_once([scorer_of, *beside])
        if encodes:
            embedder.prepare(alone=True)
        texts = PointTexts.restore(state)
        if texts is not None and len(texts) != n_points_of(scorer):
            raise state.damaged(f"{len(texts)} texts for {n_points_of(scorer)} points")
        calibration = restore_calibration(state)
        opened = Opened(Run(state), labels, scorer, texts, calibration, threads=threads)
        opened.home.note(state, Served(labels, scorer, texts, calibration).parts())
        return opened

    with core_threads(threads):
        return sealed.load(folder, FORMAT, build)


_PREPARED = (LexicalScorer, BilinearScorer, RankedScorer)
"""What builds something with the first search."""


def _restore_scorer(
    state: Sealed, labels: LabelSet, embedder: Embedder, search: Search, exact_up_to: int
) -> Scorer:
    """Return the scorer that the sections of the manifest describe."""
    if search not in get_args(Search):
        raise ValueError(f"search = {search!r}; expected one of {', '.join(get_args(Search))}")
    lexical, pairs = at_once(
        [
            lambda: LexicalScorer.restore(state, labels),
            lambda: BilinearScorer.restore(state, labels),
        ]
    )
    if "dense" not in state.facts:
        found = pairs if lexical is None else _ranked(state, labels, (), lexical, pairs)
        if found is None:
            raise state.damaged("no scorer in the manifest")
        if search == "hnsw":
            raise ValueError(
                f"{state.folder}: a light run searches words and has no graph; leave --search out"
            )
        return found
    dense = DenseScorer.restore(state, labels, embedder, search=search, exact_up_to=exact_up_to)
    if "neighbours" not in state.facts:
        return dense
    voted = VotedScorer(dense, PointMemory.restore(state, len(labels), dense.dim))
    return voted if lexical is None else _ranked(state, labels, (voted,), lexical, pairs)


def _ranked(
    state: Sealed,
    labels: LabelSet,
    first: tuple[Member, ...],
    lexical: LexicalScorer,
    pairs: BilinearScorer | None,
) -> RankedScorer:
    tree = TreeScorer.restore(state, labels, lexical.lexicon)
    members = (*first, lexical, *(member for member in (tree, pairs) if member is not None))
    network = restore_network(state)
    ranked = RankedScorer(members, network, Cooccurrence(lexical.y), labels.alive)
    if network is not None and (unknown := set(network.names) - set(ranked.meanings())):
        raise state.damaged(f"the ranker asks for {min(unknown)!r}, which no part of the run knows")
    return ranked


def as_trained(opened: Opened, index: LabelIndex | None = None) -> Served:
    """Return what training left: edits of labels are dropped.

    Points that were added stay; their votes for labels that are dropped go.

    Args:
        opened: The run.
        index: A new index over its label vectors; None for a light run, which has none.
    """
    labels, scorer = LabelSet.restore_trained(opened.run.state), opened.scorer
    if isinstance(scorer, BilinearScorer):
        return Served(labels, scorer.with_labels(labels), opened.texts)
    dense, memory, lexical = dense_of(scorer), memory_of(scorer), lexical_of(scorer)
    first: tuple[Member, ...] = ()
    if dense is not None and index is not None:
        dense = replace(dense, index=index)
        if memory is None:
            return Served(labels, dense, opened.texts, opened.calibration)
        voted = VotedScorer(dense, memory.with_first_labels(len(labels)))
        if lexical is None or not isinstance(scorer, RankedScorer):
            return Served(labels, voted, opened.texts, opened.calibration)
        first = (voted,)
    if lexical is None or not isinstance(scorer, RankedScorer):
        raise ValueError(f"{opened.run.folder}: no index for its label vectors")
    lexical = lexical.with_labels(labels)
    ranked = replace(
        scorer,
        members=(*first, lexical, *(one.with_labels(labels) for one in _learned_in(scorer))),
        together=Cooccurrence(lexical.y),
        alive=labels.alive,
    )
    return Served(labels, ranked, opened.texts, opened.calibration)


def _learned_in(scorer: Scorer) -> list[TreeScorer | BilinearScorer]:
    """Return the label tree and the pairs of words in a scorer, at most one of each."""
    return [s for s in scorers_in(scorer) if isinstance(s, TreeScorer | BilinearScorer)]


def lexical_of(scorer: Scorer) -> LexicalScorer | None:
    """Return the first lexical scorer in a scorer; None if there is none."""
    return next((s for s in scorers_in(scorer) if isinstance(s, LexicalScorer)), None)


def bilinear_of(scorer: Scorer) -> BilinearScorer | None:
    """Return the first scorer by pairs of words in a scorer; None if there is none."""
    return next((s for s in scorers_in(scorer) if isinstance(s, BilinearScorer)), None)


def n_points_of(scorer: Scorer) -> int | None:
    """Return the number of points that vote in a scorer; None if none can."""
    memory, lexical = memory_of(scorer), lexical_of(scorer)
    if memory is not None:
        return memory.n_points
    return None if lexical is None else lexical.n_points
