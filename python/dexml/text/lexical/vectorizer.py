"""Texts as tf-idf rows: the vocabulary and how it is kept in files.

Memory: 8 bytes an entry of the rows, and those of 16,384 texts a thread again while they are
computed. Collecting a vocabulary takes its bytes and about 21 more for each different token, at
most once a thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.data import Csr
from dexml.data.parts import canonical
from dexml.files import read_array, replacing
from dexml.given import expect_texts

Texts: TypeAlias = Sequence[str] | Sequence[list[str]]
"""Texts; or for each text its words, from a tokenizer of your own, which are taken as they are."""

FORMAT_VERSION = 1
SETTINGS, TOKENS, FREQUENCIES = "vectorizer.json", "tokens.txt", "df.npy"


@dataclass(frozen=True)
class VectorizerSettings:
    """How texts become rows; the defaults are words and pairs of words.

    Texts are brought into Unicode form NFKC and lower case and cut at word boundaries (UAX #29).
    Scripts without blanks (Chinese, Japanese, Thai, ...) are cut into single characters, which are
    joined without a blank: sizes 1 to 2 give characters and their pairs.
    """

    grams: Literal["words", "chars", "features"] = "words"
    """Tokens are runs of words, runs of characters within a word, or the names of features: then
    texts are rows such as ``17:0.25 40:1`` (`dexml.data.feature_texts`), and values count as tf."""
    sizes: tuple[int, int] = (1, 2)
    """Shortest and longest run, 1 to 64."""
    edges: bool = True
    """Character runs include a blank at both ends of a word, as ``char_wb`` of scikit-learn."""
    stemmer: str | None = None
    """A Snowball stemmer for the words, such as ``"english"``."""
    stop_words: tuple[str, ...] = ()
    """Words that are dropped first, in lower case."""
    max_chars: int | None = None
    """Read only the first characters of a text."""
    min_df: int = 1
    """Drop tokens that fewer texts hold."""
    max_df: float = 1.0
    """Drop tokens that more than this share of the texts holds."""
    max_size: int | None = None
    """Keep at most so many tokens, those that most texts hold."""
    sublinear: bool = True
    """Weight a token that occurs tf times by 1 + ln tf instead of tf; a tf below 1 stays."""
    idf: bool = True
    """Multiply by 1 + ln((1 + n) / (1 + df))."""
    unit: bool = True
    """Divide rows by their Euclidean length."""


@dataclass(frozen=True)
class Vectorizer:
    """Turns texts into tf-idf rows. Made by `fit_vectorizer` or `load_vectorizer`.

    Columns are tokens, those that most texts hold first, equal ones in the order of their bytes.
    The vocabulary may be empty (all was cut): rows then have no columns.
    """

    settings: VectorizerSettings
    _tokenizer: _rust.Tokenizer
    _vocabulary: _rust.Vocabulary

    @property
    def n_tokens(self) -> int:
        """Number of columns."""
        return len(self._vocabulary)

    @property
    def n_texts(self) -> int:
        """Number of texts that document frequencies were counted on."""
        return self._vocabulary.n_texts

    @property
    def df(self) -> NDArray[np.int64]:
        """Number of texts that hold each token, shape (n_tokens,), a copy."""
        return self._vocabulary.df

    @property
    def core(self) -> tuple[_rust.Tokenizer, _rust.Vocabulary]:
        """Tokenizer and vocabulary of the Rust core."""
        return self._tokenizer, self._vocabulary

    def token(self, column: int) -> str:
        """Return the token of a column."""
        return self._vocabulary.token(column)

    def column(self, token: str) -> int | None:
        """Return the column of a token, or None if it is unknown."""
        return self._vocabulary.id(token)

    def grams(self, text: str) -> list[str]:
        """Return the tokens of a text, known or not, as often as they occur."""
        return self._tokenizer.grams(text)

    def rows(self, texts: Texts, *, num_threads: int | None = None) -> Csr:
        """Turn texts into rows. Unknown tokens are passed over.

        Args:
            texts: N texts, or for each its words.
            num_threads: Threads; default all cores.

        Returns:
            Shape (N, n_tokens), float32, sorted; empty rows for texts without a known token.

        Raises:
            TypeError: `texts` is a single string, a table, a dict or a set, or an item is neither
                a string nor a list of strings.
        """
        expect_texts(texts, "texts")
        parts = self._vocabulary.rows(
            self._tokenizer,
            texts,
            idf=self.settings.idf,
            sublinear=self.settings.sublinear,
            unit=self.settings.unit,
            num_threads=num_threads,
        )
        return canonical((len(texts), self.n_tokens), *parts)

    def with_df_of(self, texts: Texts, *, num_threads: int | None = None) -> Vectorizer:
        """Return a vectorizer with the same columns, but document frequencies of other texts."""
        plain = replace(self, settings=replace(self.settings, idf=False, unit=False))
        held = plain.rows(texts, num_threads=num_threads).indices
        df = np.bincount(held, minlength=self.n_tokens).astype(np.int64)
        tokens = self._vocabulary.to_text()
        vocabulary = _rust.Vocabulary.parse(TOKENS, tokens, df, len(texts))
        return replace(self, _vocabulary=vocabulary)

    def without_tokens(self) -> Vectorizer:
        """Return a vectorizer without columns that counts as many texts."""
        none = np.zeros(0, np.int64)
        return replace(self, _vocabulary=_rust.Vocabulary.parse(TOKENS, b"", none, self.n_texts))

    def with_tokens(self, tokens: Sequence[str]) -> Vectorizer:
        """Return a vectorizer with more columns, behind the others.

        Each of the new tokens counts as one that a single text holds.

        Raises:
            ValueError: A token is given twice, or is a column already.
        """
        if not tokens:
            return self
        lines = (token.replace("\\", "\\\\").replace("\n", "\\n") for token in tokens)
        text = self.tokens() + "".join(f"{line}\n" for line in lines).encode()
        df = np.concatenate([self.df, np.ones(len(tokens), np.int64)])
        vocabulary = _rust.Vocabulary.parse(TOKENS, text, df, max(1, self.n_texts))
        return replace(self, _vocabulary=vocabulary)

    def tokens(self) -> bytes:
        """Return the tokens, one a line, in the order of the columns, as UTF-8."""
        return self._vocabulary.to_text()

    def save(self, folder: Path) -> None:
        """Write a folder with ``vectorizer.json``, ``tokens.txt`` (a token a line) and ``df.npy``.

        A folder that is there is replaced, in one step.
        """
        content = {
            "format_version": FORMAT_VERSION,
            "n_texts": self.n_texts,
            "settings": asdict(self.settings),
        }
        with replacing(folder) as new:
            new.mkdir()
            (new / TOKENS).write_bytes(self._vocabulary.to_text())
            np.save(new / FREQUENCIES, self.df)
            (new / SETTINGS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def fit_vectorizer(
    texts: Texts,
    settings: VectorizerSettings | None = None,
    *,
    num_threads: int | None = None,
) -> Vectorizer:
    """Collect the vocabulary of texts and count in how many of them each token occurs.

    Args:
        texts: Texts, or for each its words.
        settings: How to cut and to weight; default: words and pairs of words.
        num_threads: Threads; default all cores.

    Raises:
        TypeError: `texts` is a single string, a table, a dict or a set, or an item is neither
            a string nor a list of strings.
        ValueError: A setting is out of range; the message names it.

    Examples:
        >>> vectorizer = fit_vectorizer(["a red fox", "a red box"])
        >>> [vectorizer.token(column) for column in range(3)]
        ['a', 'a red', 'red']
        >>> vectorizer.rows(["RED boats"]).toarray().max().item()
        1.0
    """
    expect_texts(texts, "texts")
    settings = settings or VectorizerSettings()
    tokenizer = _tokenizer(settings)
    vocabulary = _rust.Vocabulary.build(
        tokenizer,
        texts,
        min_df=settings.min_df,
        max_df=settings.max_df,
        max_size=settings.max_size,
        num_threads=num_threads,
    )
    return Vectorizer(settings, tokenizer, vocabulary)


def load_vectorizer(folder: Path) -> Vectorizer:
    """Read a vectorizer from the folder that `Vectorizer.save` wrote.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged or of another version; the message names it.
    """
    try:
        content = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"format {version}; this version reads {FORMAT_VERSION}")
        settings, n_texts = settings_of(content["settings"]), int(content["n_texts"])
        _tokenizer(settings)  # refuses settings that no tokenizer can be made of
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / SETTINGS}: not a vectorizer: {error}") from error
    df = read_array(folder / FREQUENCIES)
    if df.dtype != np.int64 or df.ndim != 1:
        raise ValueError(f"{folder / FREQUENCIES}: {df.dtype}, {df.ndim}-d; expected int64, 1-d")
    return open_vectorizer(settings, folder / TOKENS, df, n_texts)


def settings_of(content: Mapping[str, Any]) -> VectorizerSettings:
    """Read settings from JSON, where tuples are lists.

    Raises:
        ValueError: A name is unknown, or a value is of another type.
    """
    usual = asdict(VectorizerSettings())
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in usual:
            raise ValueError(f"unknown setting {name!r}")
        if type(value) not in _TYPES.get(name, (type(usual[name]),)):
            raise ValueError(f"{name} = {value!r:.60}")
        values[name] = tuple(value) if isinstance(value, list) else value
    if not all(type(size) is int for size in values.get("sizes", ())):
        raise ValueError(f"sizes = {values['sizes']!r:.60}")
    if not all(type(word) is str for word in values.get("stop_words", ())):
        raise ValueError("a stop word that is no text")
    return VectorizerSettings(**values)


_NONE = type(None)
_TYPES: dict[str, tuple[type, ...]] = {
    "sizes": (list, tuple),
    "stop_words": (list, tuple),
    "stemmer": (str, _NONE),
    "max_chars": (int, _NONE),
    "max_size": (int, _NONE),
    "max_df": (float, int),
}
"""Types of the settings that may have other types than their defaults."""


def open_vectorizer(
    settings: VectorizerSettings, tokens: Path, df: NDArray[np.int64], n_texts: int
) -> Vectorizer:
    """Put a vectorizer together again.

    Args:
        settings: Those it was fitted with.
        tokens: The file with the bytes of `Vectorizer.tokens`.
        df: `Vectorizer.df`.
        n_texts: `Vectorizer.n_texts`.

    Raises:
        ValueError: They do not fit together; the message names the file.
    """
    vocabulary = _rust.Vocabulary.parse(str(tokens), tokens.read_bytes(), df, n_texts)
    return Vectorizer(settings, _tokenizer(settings), vocabulary)


def _tokenizer(settings: VectorizerSettings) -> _rust.Tokenizer:
    return _rust.Tokenizer(
        settings.grams,
        settings.sizes,
        edges=settings.edges,
        stemmer=settings.stemmer,
        stop_words=list(settings.stop_words),
        max_chars=settings.max_chars,
    )
