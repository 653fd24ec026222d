"""What a run serves at one moment: its labels and a scorer; read from the run, and written back."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from dexml import sealed
from dexml.index import EXACT_UP_TO, LabelIndex
from dexml.run import FORMAT, LabelSet, Run, check_there
from dexml.run.labels import TRAINED
from dexml.scorers import Change, DenseScorer, Embedder, NeighbourScorer, Scorer, VotedScorer
from dexml.scorers.dense import Precision, Search, encoder_folder
from dexml.scorers.neighbours import PointMemory
from dexml.sealed import Home, Sealed


@dataclass(frozen=True)
class Served:
    """Labels and scorer at one moment. Edits give a new one."""

    labels: LabelSet
    scorer: Scorer

    def after(self, change: Change) -> Served:
        """The same after an edit."""
        return Served(change.labels, self.scorer.update(change))

    def save(self, run: Run, home: Home, *, lock: bool = True) -> Run:
        """Write labels and scorer to the run, all at once.

        Args:
            run: The run they were read from.
            home: What of it lies there already.
            lock: Hold the run's lock meanwhile; False: the caller does.

        Raises:
            RuntimeError: Another process has saved to the run since it was opened.
        """
        if isinstance(dense := dense_of(self.scorer), DenseScorer):
            dense.index.prepare_save()
        parts = self.labels.parts() | dict(self.scorer.parts())
        facts = dict(run.facts) | self.scorer.facts() | {"labels": self.labels.facts()}
        keep = {
            role: seal
            for role, seal in run.state.parts.items()
            if role not in parts and _is_kept(role)
        }
        home.save(run.folder, FORMAT, facts, parts, keep=keep, lock=lock)
        assert home.state is not None
        return Run(home.state)


def _is_kept(role: str) -> bool:
    """Whether a part is what training left, which no edit changes."""
    return role == TRAINED or role.split("/")[0] in ("encoder", "dense")


def dense_of(scorer: Scorer) -> DenseScorer | None:
    """The dense scorer in a run's scorer, if it has one."""
    if isinstance(scorer, VotedScorer):
        return scorer.dense
    return scorer if isinstance(scorer, DenseScorer) else None


@dataclass
class Opened:
    """A run read from its folder: what it serves, and where it came from."""

    run: Run
    served: Served
    home: Home = field(default_factory=Home)


def open_run(
    folder: str | PathLike[str],
    *,
    search: Search = "auto",
    exact_up_to: int = EXACT_UP_TO,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "auto",
) -> Opened:
    """Read a run, all of it from one state of its folder; every byte is checked first.

    The encoder is loaded when the first text comes. Arguments: `dexml.predict.Predictor.open`.

    Raises:
        FileNotFoundError: No finished run there, a part is missing, or no index though `search`
            needs it.
        ValueError: A part is damaged, or an argument is not one of its values.
    """
    folder = Path(folder)
    check_there(folder)

    def build(state: Sealed) -> Opened:
        labels = LabelSet.restore(state)
        embedder = Embedder(
            encoder_folder(state), device=device, threads=threads, precision=precision
        )
        dense = DenseScorer.restore(state, labels, embedder, search=search, exact_up_to=exact_up_to)
        scorer = _with_votes(dense, PointMemory.restore(state))
        opened = Opened(Run(state), Served(labels, scorer))
        opened.home.note(state, labels.parts() | dict(scorer.parts()))
        return opened

    return sealed.load(folder, FORMAT, build)


def indexed_anew(opened: Opened, index: LabelIndex) -> Served:
    """What training left, with a new index over its label vectors: edits of labels are dropped.

    Points that were added stay; their votes for labels that are dropped go.
    """
    labels = LabelSet.restore_trained(opened.run.state)
    dense = dense_of(opened.served.scorer)
    assert dense is not None
    dense = DenseScorer(dense.embedder, index, dense.settings, dense.trained, dense.how)
    memory = None
    if isinstance(opened.served.scorer, VotedScorer):
        memory = opened.served.scorer.memory.with_first_labels(len(labels))
    return Served(labels, _with_votes(dense, memory))


def _with_votes(dense: DenseScorer, memory: PointMemory | None) -> Scorer:
    """The dense scorer alone, or with the votes of points."""
    if memory is None:
        return dense
    if memory.n_labels > dense.index.n_labels or memory.points.dim != dense.dim:
        raise dense.trained.damaged(
            f"points with {memory.n_labels} labels and {memory.points.dim} dimensions for "
            f"{dense.index.n_labels} labels of {dense.dim}"
        )
    return VotedScorer(dense, NeighbourScorer(dense, memory))
