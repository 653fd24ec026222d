"""The members of a ranker that know words: lexical evidence, and a label tree where it pays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dexml.run import LabelSet
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.lexicon import Lexicon
from dexml.scorers.ranker import Member
from dexml.scorers.tree import TreeScorer
from dexml.train.inputs import DataSet


def fit_lexicon(given: DataSet) -> Lexicon:
    """Collect the words of all training points and labels; no label of a point is looked at."""
    return Lexicon.fit(given.part.texts, given.label_texts)


def word_members(
    given: DataSet, rows: NDArray[np.int64], lexicon: Lexicon, *, tree: bool, seed: int
) -> tuple[LexicalScorer, tuple[Member, ...]]:
    """Fit the lexical scorer on the points `rows`, and a label tree if asked for.

    Returns:
        The lexical scorer, and all members with it as the first.
    """
    y = given.y[rows]
    labels = LabelSet.of(given.label_texts, np.bincount(y.indices, minlength=y.shape[1]))
    texts = [given.part.texts[i] for i in rows]
    lexical = LexicalScorer.fit(texts, y, labels, lexicon)
    if not tree or not y.nnz:
        return lexical, (lexical,)
    words = lexicon.rows(texts).words
    return lexical, (lexical, TreeScorer.fit(words, lexical.y, labels, lexicon, seed=seed))
