"""Function words ("the", "und", "de") that the texts at hand are full of.

They say nothing about labels, but make every search longer. How often a word occurs does not tell
them apart ("library" is as common in a set about software), so lists decide, and the texts decide
about the lists: only those of languages that they are written in, and of them only common words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dexml import _rust
from dexml.text.lexical import VectorizerSettings, fit_vectorizer

SAMPLE = 10_000
"""Texts that are looked at, evenly spread."""
MIN_SHARE, MIN_TEXTS = 0.02, 20
"""A language counts if at least so many of these texts are written in it."""
MIN_DF = 0.01
"""Words in fewer of these texts stay: "d" of a list may be vitamin D."""
WORDS = VectorizerSettings(sizes=(1, 1))
OTHER = frozenset({"hinglish"})
"""Lists that are not of one language: this one holds the English one."""


def find_stop_words(texts: Sequence[str]) -> tuple[str, ...]:
    """Find the stop words of the languages that texts are written in.

    A text is written in the language whose list has the most different words in it; texts where
    two languages are equal, or that have no listed word, do not count.

    Args:
        texts: Any number of texts; 10,000 of them, evenly spread, are looked at.

    Returns:
        In the order of their code points, the words that at least 1 % of these texts hold, of all
        languages that at least 2 % of them and 20 are written in. The lists are those of Snowball
        and NLTK, of 32 languages.
    """
    some = texts[:: max(1, -(-len(texts) // SAMPLE))]
    found = fit_vectorizer(some, WORDS)
    languages = [code for code in _rust.stop_word_languages() if code not in OTHER]
    lists = [
        np.array([c for w in _rust.stop_words_of(code) if (c := found.column(w)) is not None], int)
        for code in languages
    ]
    listed = np.zeros((found.n_tokens, len(languages)), np.float32)
    for at, columns in enumerate(lists):
        listed[columns, at] = 1
    held = found.rows(some)
    held.data[:] = 1
    counts = held @ listed
    ordered = np.sort(counts, axis=1)
    clear = ordered[:, -1] > ordered[:, -2]
    n_texts = np.bincount(counts.argmax(axis=1)[clear], minlength=len(languages))
    df = found.df
    enough = max(MIN_TEXTS, MIN_SHARE * len(some))
    spoken = np.flatnonzero(n_texts >= enough)
    common = {int(c) for at in spoken for c in lists[at] if df[c] >= MIN_DF * len(some)}
    return tuple(sorted(found.token(column) for column in common))
