"""What turns texts into sparse rows for the scorers that look at words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from dexml.data import Csr, Features
from dexml.data.parts import stacked
from dexml.files import write_array
from dexml.scorers.queries import Queries
from dexml.sealed import Part, Sealed
from dexml.text.lexical import (
    Vectorizer,
    VectorizerSettings,
    fit_vectorizer,
    join_rows,
    open_vectorizer,
    settings_of,
)

PREFIX = "lexical/"
CHAR_WEIGHT = 0.7
"""Of characters beside words in the joined rows."""
WORDS = VectorizerSettings(sizes=(1, 2), min_df=2, unit=False)
COUNTS = replace(WORDS, grams="features", sizes=(1, 1))
VALUES = replace(COUNTS, sublinear=False, idf=False)
"""Of points that are rows of features: how often something occurs, or weights of any kind."""
BLOCK = 16_384
"""Texts that all kinds of rows are made of at a time."""
FEW_TEXTS = 5_000
"""Points and labels below which words of a single text are kept."""
CHARS = VectorizerSettings(grams="chars", sizes=(2, 5), min_df=2, max_chars=80, max_size=300_000)


class TextRows(NamedTuple):
    """Sparse rows of n texts, float32, unit length; empty for a text without a known term."""

    words: Csr
    """Words and pairs of words that the training knew: the columns are always the same."""
    text: Csr
    """The same, and behind them words that came later."""
    chars: Csr
    """Pieces of words, from the beginning of the text."""
    joined: Csr
    """`chars`, less weighted, and `text` side by side."""


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Knows the terms of texts: words and pairs of words, and pieces of words.

    It knows all words of the labels, and those that two texts have (of few texts: all). A label
    or a point that comes later brings its own words along (`with_texts`): else a new label could
    not be found by a word that nobody has used before.

    Attributes:
        words: Terms of the training.
        chars: Pieces of words, all from the training.
        later: Words that came after the training; each counts as one of a single text.
    """

    words: Vectorizer
    chars: Vectorizer
    later: Vectorizer

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        label_texts: Sequence[str],
        stop_words: tuple[str, ...] = (),
        features: Features | None = None,
    ) -> Lexicon:
        """Collect the terms of points and labels.

        Args:
            texts: Of the points.
            label_texts: Of the labels.
            stop_words: Words to leave out, such as `dexml.text.stop_words.find_stop_words` finds;
                pieces of words are taken from them too.
            features: If the texts are rows of features, what these are. Terms are then features,
                and pieces of words there are none.
        """
        everything = [*texts, *label_texts]
        few = len(everything) < FEW_TEXTS
        usual = WORDS if features is None else COUNTS if features.counts else VALUES
        words = fit_vectorizer(everything, replace(usual, stop_words=stop_words))
        # A word of a single text helps nobody, unless that is a label: it may be asked for. Of few
        # texts every word is kept, for each may be what the next text shares with one of them.
        # Pairs of words are left out: they would only make the match of each single word weaker.
        alone = _words_of(everything if few else label_texts, words)
        words = words.with_tokens([word for word in alone if words.column(word) is None])
        chars = replace(CHARS, min_df=1) if few else CHARS
        pieces = fit_vectorizer(everything if features is None else [], chars)
        return cls(words, pieces, words.without_tokens())

    def with_texts(self, texts: Sequence[str]) -> Lexicon:
        """Return a lexicon that knows the words of these texts too: new columns, at the end."""
        known = (self.words, self.later)
        words = _words_of(texts, self.words)
        new = [w for w in words if all(one.column(w) is None for one in known)]
        return replace(self, later=self.later.with_tokens(new)) if new else self

    @property
    def stop_words(self) -> tuple[str, ...]:
        """Words that are left out."""
        return self.words.settings.stop_words

    @property
    def knows(self) -> str:
        """What its terms are, for messages."""
        return "features" if self.words.settings.grams == "features" else "words"

    @property
    def n_text(self) -> int:
        """Columns of `TextRows.text`."""
        return self.words.n_tokens + self.later.n_tokens

    @property
    def n_joined(self) -> int:
        """Columns of `TextRows.joined`."""
        return self.chars.n_tokens + self.n_text

    def rows(self, texts: Sequence[str]) -> TextRows:
        """Turn texts into rows."""
        return self.rows_of(Queries(texts))

    def rows_of(self, queries: Queries) -> TextRows:
        """Turn texts into rows, once for all who ask."""

        def make() -> TextRows:
            raw, words, chars = self._terms(queries)
            text = words
            if self.later.n_tokens:
                text = join_rows([raw, self.later.rows(queries.texts)])
            return TextRows(words, text, chars, join_rows([chars, text], [CHAR_WEIGHT, 1.0]))

        return queries.once(self, make)

    def joined(self, texts: Sequence[str]) -> Csr:
        """Return `TextRows.joined` alone, of many texts: no other rows of all texts are made."""
        starts = range(0, len(texts), BLOCK)
        blocks = (self.rows(texts[start : start + BLOCK]).joined for start in starts)
        return stacked(blocks, self.n_joined)

    def words_of(self, queries: Queries) -> Csr:
        """Return `TextRows.words` alone, shared with a lexicon that has grown out of this one."""
        return self._terms(queries)[1]

    def _terms(self, queries: Queries) -> tuple[Csr, Csr, Csr]:
        """Return words before and after normalisation, and pieces of words."""

        def make() -> tuple[Csr, Csr, Csr]:
            raw = self.words.rows(queries.texts)
            return raw, join_rows([raw]), self.chars.rows(queries.texts)

        return queries.once((self.words, self.chars), make)

    def facts(self) -> dict[str, Any]:
        """Return plain values for the manifest of a run."""
        return {name: vectorizer_facts(one) for name, one in self._vectorizers().items()}

    def parts(self) -> dict[str, Part]:
        """Return terms and their document frequencies as files of a run."""
        return {
            role: part
            for name, one in self._vectorizers().items()
            for role, part in vectorizer_parts(PREFIX + name, one).items()
        }

    @classmethod
    def restore(cls, state: Sealed, facts: Mapping[str, Any]) -> Lexicon:
        """Read what `parts` wrote; `facts` as `Lexicon.facts` returned them."""
        names = ("words", "chars", "later")
        return cls(**{n: restore_vectorizer(state, PREFIX + n, facts[n]) for n in names})

    def _vectorizers(self) -> dict[str, Vectorizer]:
        return {"words": self.words, "chars": self.chars, "later": self.later}


def _words_of(texts: Sequence[str], words: Vectorizer) -> list[str]:
    """Return all single words of texts but stop words, each once, as `words` cuts them."""
    found = fit_vectorizer(texts, replace(words.settings, sizes=(1, 1), min_df=1))
    return [found.token(column) for column in range(found.n_tokens)]


def vectorizer_facts(vectorizer: Vectorizer) -> dict[str, Any]:
    """Return plain values for the manifest of a run."""
    return {"n_texts": vectorizer.n_texts, "settings": asdict(vectorizer.settings)}


def vectorizer_parts(role: str, vectorizer: Vectorizer) -> dict[str, Part]:
    """Return terms and document frequencies as files of a run, whose roles begin with `role`."""
    tokens = Part(
        lambda path: path.write_bytes(vectorizer.tokens()), ".txt", (vectorizer, "tokens")
    )
    df = Part(lambda path: write_array(path, vectorizer.df), ".npy", (vectorizer, "df"))
    return {f"{role}_tokens": tokens, f"{role}_df": df}


def restore_vectorizer(state: Sealed, role: str, facts: Mapping[str, Any]) -> Vectorizer:
    """Read what `vectorizer_parts` wrote; `facts` as `vectorizer_facts` returned them."""
    return open_vectorizer(
        settings_of(facts["settings"]),
        state.path(f"{role}_tokens"),
        state.array(f"{role}_df", np.int64, (None,)),
        facts["n_texts"],
    )
