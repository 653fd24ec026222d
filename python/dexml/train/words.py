"""Members of a ranker that know words: lexical, and where they pay a tree and pairs of words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dexml import sealed
from dexml.heap import give_back
from dexml.run import FORMAT, LabelSet
from dexml.scorers.bilinear import BilinearScorer
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.lexicon import Lexicon
from dexml.scorers.points import positives_of
from dexml.scorers.queries import Queries
from dexml.scorers.ranker import Member, Network
from dexml.scorers.tree import TreeScorer
from dexml.sealed import Sealed
from dexml.text.bilinear import BilinearSettings
from dexml.text.stop_words import find_stop_words
from dexml.train.asked import OPTIONAL
from dexml.train.inputs import DataSet
from dexml.train.settings import TrainSettings

T = TypeVar("T")
PAIRS = BilinearSettings(passes=4, row_limit=300)
"""Pairs of words beside other evidence: more passes and longer rows cost time and gain nothing."""


class Also(NamedTuple):
    """Members beside the lexical one."""

    tree: bool
    bilinear: bool


def asked_for(settings: TrainSettings, given: DataSet) -> Also:
    """Return the members that a training tries; pairs of words need words."""
    ranks, words = settings.ranker == "auto", given.part.features is None
    return Also(ranks and settings.tree == "auto", ranks and words and settings.bilinear == "auto")


def tried(settings: TrainSettings, given: DataSet) -> str:
    """Name the members that a training tries, for a message."""
    also = asked_for(settings, given)
    first = "words" if given.part.features is None else "features"
    names = ["a label tree"] * also.tree + ["pairs of words"] * also.bilinear
    return " and ".join([first, *names]) if len(names) < 2 else f"{first}, {' and '.join(names)}"


def used_by(network: Network | None) -> Also:
    """Return the members that a ranker looks at."""
    names = () if network is None else network.names
    return Also(*(OPTIONAL[name].features[0] in names for name in Also._fields))


def fit_lexicon(given: DataSet, settings: TrainSettings) -> Lexicon:
    """Collect the words of all training points and labels; no label of a point is looked at."""
    points, features = given.part.texts, given.part.features
    if features is not None:
        return Lexicon.fit(points, given.label_texts, features=features)
    stop_words = find_stop_words(points) if settings.stop_words == "auto" else ()
    return Lexicon.fit(points, given.label_texts, stop_words)


def word_members(
    given: DataSet,
    rows: NDArray[np.int64],
    lexicon: Lexicon,
    *,
    also: Also,
    seed: int,
    folder: Path | None = None,
) -> tuple[LexicalScorer, tuple[Member, ...]]:
    """Fit the lexical scorer on the points `rows`, and a label tree if asked for.

    Args:
        given: The data set.
        rows: The points to fit.
        lexicon: Of `fit_lexicon`.
        also: What else to train.
        seed: Of the tree, and of pairs of words.
        folder: Of a run: a label tree and pairs of words in it that were trained from the same are
            taken as they are. These take nearly all of the time; the rest is fitted as fast as it
            is read.

    Returns:
        The lexical scorer, and all members with it as the first.
    """
    texts = [given.part.texts[i] for i in rows]
    y = given.y[rows]
    labels = LabelSet.of(given.label_texts, np.bincount(y.indices, minlength=y.shape[1]))
    y = positives_of(y, len(texts))
    # First those that need the most memory beside what they become.
    others: list[Member] = []
    if also.bilinear and y.nnz:
        pairs = None if folder is None else pairs_in(folder)
        bilinear = BilinearScorer.fit(
            texts, y, labels, seed=seed, settings=PAIRS, parents=given.parents, known=pairs
        )
        others.append(bilinear)
        give_back()
    if also.tree and y.nnz:
        words = lexicon.words_of(Queries(texts))
        known = None if folder is None else tree_in(folder, lexicon)
        tree = TreeScorer.fit(words, y, labels, lexicon, seed=seed, known=known)
        del words
        others.insert(0, tree)
        give_back()
    lexical = LexicalScorer.fit(texts, y, labels, lexicon)
    give_back()
    return lexical, (lexical, *others)


def tree_in(folder: Path, lexicon: Lexicon) -> TreeScorer | None:
    """Return the label tree of the run in a folder; None if there is none that can be read."""
    return _read(folder, lambda state: TreeScorer.restore(state, LabelSet.restore(state), lexicon))


def pairs_in(folder: Path) -> BilinearScorer | None:
    """Return the pairs of words of the run in a folder; None if none can be read."""
    return _read(folder, lambda state: BilinearScorer.restore(state, LabelSet.restore(state)))


def _read(folder: Path, restore: Callable[[Sealed], T | None]) -> T | None:
    try:
        return sealed.load(folder, FORMAT, restore)
    except (OSError, ValueError):
        return None
