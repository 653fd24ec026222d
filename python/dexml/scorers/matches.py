"""Which words and pieces of words a text shares with a label and with its points."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from dexml.data import Csr
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.queries import Queries


class Match(NamedTuple):
    """A term that a text and a label have in common."""

    term: str
    kind: Literal["word", "piece"]
    """A word or a pair of words; or some characters of a word, a blank being its edge."""
    part: float
    """What it adds to the inner product."""


def matches(scorer: LexicalScorer, queries: Queries, label: int) -> dict[str, list[Match]]:
    """Take the lexical evidence of a label for one text apart.

    Args:
        scorer: The lexical scorer.
        queries: One text.
        label: Its id.

    Returns:
        By the name of a feature, the largest part first: ``text`` (the label's own text),
        ``name`` (pieces of words of it) and ``centroid`` (the mean of its points). The parts sum
        to the feature.
    """
    rows, lexicon = scorer.lexicon.rows_of(queries), scorer.lexicon
    n_pieces = lexicon.chars.n_tokens

    def word(column: int) -> Match:
        words = lexicon.words
        own = column < words.n_tokens
        term = words.token(column) if own else lexicon.later.token(column - words.n_tokens)
        return Match(term, "word", 0.0)

    def piece(column: int) -> Match:
        return Match(lexicon.chars.token(column), "piece", 0.0)

    def joined(column: int) -> Match:
        return piece(column) if column < n_pieces else word(column - n_pieces)

    return {
        name: sorted(
            (term(column)._replace(part=part) for column, part in _common(own, theirs, label)),
            key=lambda match: (-match.part, match.term),
        )
        for name, own, theirs, term in (
            ("text", rows.text, scorer.words.rows, word),
            ("name", rows.chars, scorer.chars.rows, piece),
            ("centroid", rows.joined, scorer.base, joined),
        )
    }


def _common(own: Csr, theirs: Csr, label: int) -> list[tuple[int, float]]:
    """Return the columns that the first row of one matrix and a row of another share."""
    begin, end = theirs.indptr[label], theirs.indptr[label + 1]
    columns, at, other = np.intersect1d(
        own.indices[: own.indptr[1]], theirs.indices[begin:end], return_indices=True
    )
    parts = own.data[at].astype(np.float64) * theirs.data[begin:end][other]
    return list(zip(columns.tolist(), parts.tolist(), strict=True))
