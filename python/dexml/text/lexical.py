"""Words as evidence: tf-idf rows of texts, label centroids, exact sparse search, votes.

Everything is sparse (CSR, float32, int32 columns) and runs in the Rust core, in as many threads as
asked for; the results do not depend on their number. Needs numpy and scipy only.

Memory of the rows is 8 bytes an entry, of an index as much again; a search takes 8 bytes a thread
for each row of the index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import Csr, CsrParts, csr_parts, pair_parts, truth_parts
from dexml.data.parts import canonical, joined
from dexml.files import replacing

Texts: TypeAlias = Sequence[str] | Sequence[list[str]]
"""Texts; or for each text its words, from a tokenizer of your own, which are taken as they are."""

FORMAT_VERSION = 1
SETTINGS, TOKENS, FREQUENCIES = "vectorizer.json", "tokens.txt", "df.npy"
_QUERIES_PER_CALL = 4096
"""Ctrl-C is answered between calls."""


@dataclass(frozen=True)
class VectorizerSettings:
    """How texts become rows; the defaults are words and pairs of words.

    Texts are brought into Unicode form NFKC and lower case and cut at word boundaries (UAX #29).
    Scripts without blanks (Chinese, Japanese, Thai, ...) are cut into single characters, which are
    joined without a blank: sizes 1 to 2 give characters and their pairs.
    """

    grams: Literal["words", "chars"] = "words"
    """Tokens are runs of words, or runs of characters within a word."""
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
    """Weight a token that occurs tf times by 1 + ln tf instead of tf."""
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
            TypeError: An item is neither a string nor a list of strings.
        """
        idf = self._vocabulary.smooth_idf() if self.settings.idf else None
        parts = self._vocabulary.rows(
            self._tokenizer,
            texts,
            idf=idf,
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
        TypeError: An item is neither a string nor a list of strings.
        ValueError: A setting is out of range; the message names it.

    Example:
        >>> vectorizer = fit_vectorizer(["a red fox", "a red box"])
        >>> [vectorizer.token(column) for column in range(3)]
        ['a', 'a red', 'red']
        >>> vectorizer.rows(["RED boats"]).toarray().max().item()
        1.0
    """
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
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["settings"].items()
        }
        settings, n_texts = VectorizerSettings(**values), int(content["n_texts"])
        _tokenizer(settings)  # refuses what no tokenizer can be made of
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / SETTINGS}: not a vectorizer: {error}") from error
    try:
        df = np.load(folder / FREQUENCIES, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{folder / FREQUENCIES}: damaged: {error}") from error
    if df.dtype != np.int64 or df.ndim != 1:
        raise ValueError(f"{folder / FREQUENCIES}: {df.dtype}, {df.ndim}-d; expected int64, 1-d")
    return open_vectorizer(settings, folder / TOKENS, df, n_texts)


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


def join_rows(
    parts: Sequence[Csr],
    weights: Sequence[float] | None = None,
    *,
    unit: bool = True,
    num_threads: int | None = None,
) -> Csr:
    """Put rows side by side, each matrix times its weight, and make the rows unit length again.

    Args:
        parts: Matrices with N rows each.
        weights: A factor for each of them; default all 1.
        unit: Whether to divide each row by its Euclidean length; empty rows stay empty.
        num_threads: Threads; default all cores.

    Returns:
        Shape (N, all columns), float32.

    Raises:
        ValueError: Numbers of rows or of weights disagree, or a value is not finite.
    """
    weights = [1.0] * len(parts) if weights is None else list(weights)
    arrays = [_feature_parts(part, f"parts[{at}]") for at, part in enumerate(parts)]
    widths = [part.shape[1] for part in parts]
    rows = _rust.join_rows(arrays, widths, weights, unit=unit, num_threads=num_threads)
    return canonical((parts[0].shape[0], sum(widths)), *rows)


def label_centroids(
    rows: Csr, y: Csr, *, max_terms: int = 1024, num_threads: int | None = None
) -> Csr:
    """Average the rows of each label's points.

    Args:
        rows: Rows of the points, shape (N, n_features).
        y: Their labels, shape (N, n_labels); values above 0 are positives.
        max_terms: Keep so many of the largest weights of a label, after the division.
        num_threads: Threads; default all cores.

    Returns:
        Shape (n_labels, n_features), float32, of unit length before the cut; an empty row for a
        label without points.

    Raises:
        ValueError: Shapes disagree, or a value is not finite.
    """
    n_features, n_labels = rows.shape[1], y.shape[1]
    parts = _rust.label_centroids(
        _feature_parts(rows, "rows"),
        n_features,
        truth_parts(y, "y"),
        n_labels,
        max_terms,
        num_threads=num_threads,
    )
    return canonical((n_labels, n_features), *parts)


class LexicalIndex:
    """Rows to be searched: the exact top k by inner product.

    The rows are copied, by column: 8 bytes for each value other than 0. Stored zeros do not count.
    """

    def __init__(self, rows: Csr, *, num_threads: int | None = None) -> None:
        """Index rows, shape (n_rows, n_features), float32. Values must be finite."""
        self._index = _rust.InvertedIndex(
            _feature_parts(rows, "rows"), rows.shape[1], num_threads=num_threads
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of features."""
        return self._index.shape

    def search(
        self,
        queries: Csr,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        num_threads: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Find the k rows of largest inner product with each query, equal ones by the smaller row.

        A row that has no term in common with the query is never returned.

        Args:
            queries: Shape (N, n_features).
            k: Rows a query.
            exclude: Pairs to leave out, shape (N, n_rows).
            only: Whether each row may be found, shape (n_rows,).
            num_threads: Threads; default all cores.

        Returns:
            ``ids`` int32 and ``scores`` float32, both (N, k), best first, padded with -1 and -inf.

        Raises:
            ValueError: Shapes disagree, `k` is below 1, or a value is not finite.
        """
        n_queries = queries.shape[0]
        if queries.shape[1] != self.shape[1]:
            raise ValueError(f"queries: {queries.shape[1]} features, expected {self.shape[1]}")
        indptr, indices, data = _feature_parts(queries, "queries")
        pairs = pair_parts(exclude, (n_queries, self.shape[0]), "exclude")
        only = None if only is None else np.ascontiguousarray(only)
        found = []
        for first in range(0, max(n_queries, 1), _QUERIES_PER_CALL):
            window = slice(first, first + _QUERIES_PER_CALL + 1)
            found.append(
                self._index.search(
                    (indptr[window], indices, data),
                    k,
                    exclude=None if pairs is None else (pairs[0][window], pairs[1]),
                    only=only,
                    num_threads=num_threads,
                )
            )
        ids, scores = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(scores)


@overload
def pair_scores(
    queries: Csr, rows: Csr, pairs: NDArray[np.int32], *, num_threads: int | None = None
) -> NDArray[np.float32]: ...
@overload
def pair_scores(queries: Csr, rows: Csr, pairs: Csr, *, num_threads: int | None = None) -> Csr: ...
def pair_scores(
    queries: Csr,
    rows: Csr,
    pairs: Csr | NDArray[np.int32],
    *,
    num_threads: int | None = None,
) -> Csr | NDArray[np.float32]:
    """Compute the inner products of given pairs; 0 where nothing is in common.

    A score is bit for bit the one that `LexicalIndex.search` gives.

    Args:
        queries: Shape (N, n_features).
        rows: Shape (n_rows, n_features).
        pairs: The stored entries of a matrix (N, n_rows), or ids (N, k) padded with -1.
        num_threads: Threads; default all cores.

    Returns:
        A matrix with the entries of `pairs`; or float32 (N, k), -inf where there is no id.

    Raises:
        ValueError: Shapes disagree, an id is out of range, or a value is not finite.
    """
    shape, n_features = (queries.shape[0], rows.shape[0]), rows.shape[1]
    if queries.shape[1] != n_features:
        raise ValueError(f"queries: {queries.shape[1]} features, expected {n_features}")
    given = None
    if isinstance(pairs, np.ndarray):
        if pairs.ndim != 2 or len(pairs) != shape[0]:
            raise ValueError(f"pairs: shape {pairs.shape}, expected ({shape[0]}, k)")
        given = pairs != -1
        indptr = np.concatenate([[0], np.cumsum(given.sum(axis=1))]).astype(np.int64)
        indices = pairs[given].astype(np.int32, casting="same_kind")
    else:
        if pairs.shape != shape:
            raise ValueError(f"pairs: shape {pairs.shape}, expected {shape}")
        indptr, indices, _ = csr_parts(pairs, "pairs")
    scores = _rust.pair_scores(
        _feature_parts(queries, "queries"),
        _feature_parts(rows, "rows"),
        n_features,
        (indptr, indices),
        num_threads=num_threads,
    )
    if given is None:
        return joined(shape, indptr, indices, scores)
    dense = np.full(given.shape, -np.inf, np.float32)
    dense[given] = scores
    return dense


def neighbour_votes(
    ids: NDArray[np.int32],
    cosines: NDArray[np.float32],
    y: Csr,
    *,
    power: float = 3.0,
    num_threads: int | None = None,
) -> Csr:
    """Let the nearest points of each query vote for their labels.

    The votes of a query's neighbours are ``cosine ** power``, 0 for negative cosines, divided by
    their sum; a label's votes are the sum over the neighbours that have it. For the best labels
    only, rank the result with `dexml.topk.topk`.

    Args:
        ids: The nearest points, shape (N, b), padded with -1.
        cosines: Their cosines, shape (N, b).
        y: Labels of all points, shape (n_points, n_labels); values above 0 are positives.
        power: How much more the nearest count.
        num_threads: Threads; default all cores.

    Returns:
        Shape (N, n_labels), float32; labels without votes are not stored.

    Raises:
        ValueError: Shapes disagree, a point is out of range, or a cosine is not finite.
    """
    votes = np.where(ids == -1, 0, np.maximum(cosines, 0)).astype(np.float64) ** power
    total = votes.sum(axis=1, keepdims=True)
    votes = np.divide(votes, total, out=np.zeros_like(votes), where=total != 0)
    indptr, indices, data = truth_parts(y, "y")
    if not (data > 0).all():
        positives = csr_array(y > 0)
        indptr, indices, _ = csr_parts(positives, "y")
    sums = _rust.vote_sums(
        np.ascontiguousarray(ids),
        votes.astype(np.float32),
        (indptr, indices),
        y.shape[1],
        num_threads=num_threads,
    )
    return canonical((len(ids), y.shape[1]), *sums)


def _feature_parts(rows: Csr, name: str) -> CsrParts:
    """Take a matrix apart: float32, each row sorted without duplicates."""
    parts = csr_parts(rows, name)
    if not rows.has_canonical_format:
        sorted_rows: Any = rows.copy()
        sorted_rows.sum_duplicates()
        parts = csr_parts(sorted_rows, name)
    indptr, indices, data = parts
    with np.errstate(over="ignore"):  # an infinite value is refused later, with its place
        return indptr, indices, data.astype(np.float32, copy=False)
