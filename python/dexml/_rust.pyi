"""The Rust core on numpy arrays.

Arrays are C-contiguous: `indptr` int64, `indices` int32, `data` float32, and nothing is converted.
A matrix is passed as `(indptr, indices, data)`, where `indptr` may be a window of a larger one. Bad
content, shapes and ranges raise `ValueError`, wrong element types `TypeError`.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar, final, overload

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bilinear",
    "Evaluator",
    "InvertedIndex",
    "LabelTree",
    "NegativeSampler",
    "Resampler",
    "Tokenizer",
    "Vocabulary",
    "check_csr",
    "co_occurrence",
    "default_threads",
    "drop_pairs_csr",
    "drop_pairs_ids",
    "favour",
    "feature_texts",
    "fit_ranker",
    "fit_tree",
    "gains_given",
    "interval",
    "inv_propensity",
    "join_rows",
    "json_columns",
    "label_centroids",
    "label_counts",
    "load_bow",
    "load_bytes",
    "load_labels",
    "load_pairs",
    "load_scores",
    "merge_topk",
    "mix_rows",
    "mix_votes",
    "not_a_feature",
    "p_value",
    "pair_scores",
    "parse_metrics",
    "plain_inv_propensity",
    "plain_label_counts",
    "random_walk",
    "ranks_in_rows",
    "refine_support",
    "save_bow",
    "save_labels",
    "save_npz",
    "save_pairs",
    "score_ranker",
    "select_support",
    "set_default_threads",
    "stop_word_languages",
    "stop_words_of",
    "topk_csr",
    "topk_dense",
    "vote_sums",
]

_Pattern: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32]]
_Truth: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
_Scores: TypeAlias = tuple[
    NDArray[np.int64], NDArray[np.int32], NDArray[np.float32] | NDArray[np.float64]
]
_Ranking: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32]]

_Float = TypeVar("_Float", np.float32, np.float64)
_Id = TypeVar("_Id", np.int32, np.int64)

_Matrix: TypeAlias = tuple[
    tuple[int, int], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]
]
_Repairs: TypeAlias = tuple[tuple[int, int, int, int], list[str]]

@overload
def load_labels(
    path: str,
    *,
    missing_value: float | None = None,
    repair: Literal[True],
    num_threads: int | None = None,
) -> tuple[_Matrix, _Repairs]: ...
@overload
def load_labels(
    path: str,
    *,
    missing_value: float | None = None,
    repair: bool = False,
    num_threads: int | None = None,
) -> tuple[_Matrix, _Repairs | None]:
    """Read a label matrix: shape, indptr, indices, data; repairs if asked for. Ctrl-C is heard.

    Repairs are the counts of duplicates, labels out of range, values not finite, rows sorted, and
    the first messages.
    """

@overload
def load_bow(
    path: str,
    *,
    missing_value: float | None = None,
    repair: Literal[True],
    num_threads: int | None = None,
) -> tuple[_Matrix, _Matrix, _Repairs]: ...
@overload
def load_bow(
    path: str,
    *,
    missing_value: float | None = None,
    repair: bool = False,
    num_threads: int | None = None,
) -> tuple[_Matrix, _Matrix, _Repairs | None]:
    """Read bag-of-words text: features and labels; repairs if asked for. Ctrl-C is heard."""

def load_scores(
    path: str, *, num_threads: int | None = None
) -> tuple[
    tuple[int, int],
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.float32] | NDArray[np.float64],
]:
    """Read scores: as a label matrix, but float64 stays float64. Ctrl-C is heard."""

def load_pairs(
    path: str, n_rows: int, n_labels: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """Read filter pairs: indptr, indices, number of repeated pairs merged."""

def load_bytes(path: str) -> bytes:
    """Read a whole file, unpacked if it is gzip or zstd. Ctrl-C is heard."""

def json_columns(
    content: bytes, names: Sequence[str]
) -> (
    tuple[
        NDArray[np.int64], list[list[str] | tuple[NDArray[np.int64], NDArray[np.int32], list[str]]]
    ]
    | None
):
    """Read columns of JSON lines: lines of the rows (counted from 1), and a column for each name.

    A column is a list of strings, or lists of strings: offsets (n + 1,), codes, strings. None where
    a line is no object, a key is missing or there twice, a cell is neither or another kind than
    those above, or where bytes are not UTF-8 or a string is no Unicode. Ctrl-C is heard.
    """

def save_labels(
    path: str,
    n_labels: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32],
    *,
    num_threads: int | None = None,
) -> None:
    """Write label text beside the file, then replace it; `.gz` and `.zst` are compressed."""

def save_npz(
    path: str,
    n_labels: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32] | NDArray[np.float64],
    *,
    compressed: bool = True,
    num_threads: int | None = None,
) -> None:
    """Write a scipy CSR archive beside the file, then replace it."""

def save_bow(
    path: str,
    features: _Truth,
    n_features: int,
    labels: _Pattern,
    n_labels: int,
    *,
    num_threads: int | None = None,
) -> None:
    """Write bag-of-words text, as :func:`save_labels` does."""

def save_pairs(
    path: str,
    n_labels: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    *,
    num_threads: int | None = None,
) -> None:
    """Write filter pairs, as :func:`save_labels` does."""

def check_csr(
    name: str,
    n_rows: int,
    n_labels: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32],
) -> _Ranking | None:
    """Check a matrix with the rules of the text loader; sorted indices and data if unsorted."""

def label_counts(
    n_labels: int, indices: NDArray[np.int32], data: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Count the values > 0 of each label."""

def plain_label_counts(
    shape: tuple[int, int],
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32],
) -> NDArray[np.int64] | None:
    """As `label_counts`, checked in the same pass; None if the matrix is not plain.

    Plain is sorted without duplicates, labels in range, values neither NaN nor below 0.
    """

def plain_inv_propensity(
    shape: tuple[int, int],
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32],
    a: float,
    b: float,
    weights: NDArray[np.float64],
) -> bool:
    """Weigh each label as `inv_propensity` into `weights`; false if the matrix is not plain."""

def inv_propensity(
    counts: NDArray[np.int64], n_points: int, a: float, b: float
) -> NDArray[np.float64]:
    """Weigh each label by `1 + C (count + b) ** -a`."""

def favour(
    probabilities: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]],
    n_labels: int,
    k: int,
    together: str,
    *,
    scale: float,
    linear: NDArray[np.float64],
    offsets: NDArray[np.float64],
    seed: int,
    max_passes: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float, int]:
    """Choose k labels of each row that are best for all rows together, by coordinate ascent.

    `together` is nothing, precision, f or coverage. Returns what each entry adds to its row (the k
    largest are its labels), sums and numbers of the rows that are given each label, the utility,
    and the number of passes. One thread; the formulas stand in ``xmc-core/src/favour.rs``.
    """

def gains_given(
    probabilities: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]],
    n_labels: int,
    together: str,
    *,
    scale: float,
    linear: NDArray[np.float64],
    offsets: NDArray[np.float64],
    sums: NDArray[np.float64],
    given: NDArray[np.float64],
    num_threads: int | None = None,
) -> NDArray[np.float64]:
    """Return what each entry adds to rows that were given labels before (`favour`)."""

def topk_csr(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32] | NDArray[np.float64],
    n_labels: int,
    k: int,
    exclude: _Pattern | None = None,
    *,
    num_threads: int | None = None,
) -> _Ranking:
    """Rank the stored entries of each row: ids and scores (n, k), padded with -1 and -inf."""

def ranks_in_rows(indptr: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Rank of each score in its row, from 0, int32: largest first, ties in order, NaN last."""

def topk_dense(
    scores: NDArray[np.float32],
    k: int,
    exclude: _Pattern | None = None,
    *,
    first_label: int = 0,
    num_threads: int | None = None,
) -> _Ranking:
    """Rank dense rows whose first column is `first_label`; `exclude` holds global label ids."""

def merge_topk(
    ids: Sequence[NDArray[np.int32]],
    scores: Sequence[NDArray[np.float32]],
    k: int,
    *,
    num_threads: int | None = None,
) -> _Ranking:
    """Merge the rankings of label shards, (n, width) each, over disjoint labels, row by row."""

def mix_votes(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    neighbours: _Ranking,
    y: _Pattern,
    plain: _Ranking,
    k: int,
    *,
    weight: float,
    exclude: _Pattern | None = None,
    only: NDArray[np.bool_] | None = None,
    num_threads: int | None = None,
) -> _Ranking:
    """Rank by score + weight x votes; `neighbours` are rows of `y` and their votes, (n, b).

    `plain` holds the k best labels by score alone, under the same `exclude` and `only`.
    """

def drop_pairs_csr(
    scores: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[_Float]],
    n_labels: int,
    exclude: _Pattern,
    kept: tuple[NDArray[np.int32], NDArray[_Float]],
    *,
    num_threads: int | None = None,
) -> NDArray[np.int64]:
    """Write the stored entries that are not excluded, in their order, into `kept`.

    Its arrays have room for all entries; what is behind the last row pointer stays as it was.
    """

def drop_pairs_ids(
    ids: NDArray[_Id],
    n_labels: int,
    exclude: _Pattern,
    *,
    num_threads: int | None = None,
) -> NDArray[_Id]:
    """Return ranked ids (n, width) that are not excluded, moved up and padded with -1."""

def random_walk(
    y_train: _Truth,
    n_labels: int,
    *,
    n_steps: int,
    restart: float,
    top: int,
    min_count: int,
    keep_self: bool,
    seed: int,
    max_point_labels: int | None = None,
    max_label_points: int | None = None,
    num_threads: int | None = None,
) -> _Truth:
    """Walk from each label: visits as a CSR matrix of labels by labels. Ctrl-C is heard."""

def co_occurrence(
    y_train: _Truth,
    n_labels: int,
    *,
    normalise: str,
    top: int,
    min_count: int,
    keep_self: bool,
    max_point_labels: int | None = None,
    max_label_points: int | None = None,
    num_threads: int | None = None,
) -> _Truth:
    """Count common points: weights as a CSR matrix of labels by labels. Ctrl-C is heard."""

@final
class NegativeSampler:
    """Draws negatives for points of `y`; everything is prepared once and owned."""

    def __new__(
        cls,
        y: _Truth,
        n_labels: int,
        n_negatives: int,
        sources: Sequence[tuple[str, float]],
        *,
        alpha: float,
        smoothing: float,
        exclude: _Pattern | None = None,
        candidates: NDArray[np.bool_] | None = None,
        graph: _Truth | None = None,
        even_edges: bool = False,
        shortlist_rows: _Pattern | None = None,
        shortlist_ids: NDArray[np.int32] | None = None,
        num_threads: int | None = None,
    ) -> NegativeSampler: ...
    def draw(self, rows: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int32]:
        """Draw negatives of points, shape (n, n_negatives), padded with -1."""

    @property
    def mixture(self) -> list[tuple[str, int]]:
        """How many negatives of a row come from each source, in the order of a row."""

def parse_metrics(names: Sequence[str]) -> list[tuple[str, int]]:
    """Split metric names into kind and k."""

@final
class Evaluator:
    """Sums of the kinds of `metrics` at every k to the largest; means over labels at their own k.

    The result is the same to the last bit for any number of threads, any cut into updates and any
    order of merges. Threads share the rows of an update, so large updates use them best. A failing
    update leaves the evaluator as it was; rows in its message count from the start of the stream.
    `label_groups` holds name, number of groups, and group of each label (-1 for none).
    """

    def __new__(
        cls,
        n_labels: int,
        metrics: Sequence[str],
        *,
        inv_propensity: NDArray[np.float64] | None = None,
        empty_rows: str = "zero",
        psndcg: str = "xclib",
        ties: str = "smaller",
        label_groups: Sequence[tuple[str, int, NDArray[np.int32]]] | None = None,
        keep_rows: bool = False,
        num_threads: int | None = None,
    ) -> Evaluator: ...
    def update_csr(self, y_true: _Truth, y_pred: _Scores, exclude: _Pattern | None = None) -> None:
        """Add points with scored labels; every stored entry is ranked."""

    def update_ids(
        self,
        y_true: _Truth,
        y_pred: NDArray[np.int32] | NDArray[np.int64],
        exclude: _Pattern | None = None,
    ) -> None:
        """Add points with ranked labels, shape (n, width), padded with -1."""

    def merge(self, other: Evaluator) -> None:
        """Add the rows of another evaluator with the same settings."""

    def to_bytes(self) -> bytes:
        """Return settings and sums with a version and a checksum, for another process."""

    @staticmethod
    def from_bytes(state: bytes, num_threads: int | None = None) -> Evaluator:
        """Return the evaluator that `to_bytes` wrote; ``ValueError`` for anything else."""

    def value(self, metric: str) -> float:
        """Return a metric of a listed kind at any k up to the largest of the list."""

    def group_values(self, grouping: int, group: int, metrics: Sequence[str]) -> list[float]:
        """Return metrics with the truth restricted to a group; NaN if it has nothing to average."""

    def contribution(self, grouping: int, group: int, k: int) -> float:
        """Return the part of P@k that is hits of a group."""

    def group_counts(self, grouping: int, group: int) -> tuple[int, int, int]:
        """Count labels, rows with a positive, and positives of a group."""

    def row_values(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return a metric of the list for each row: `(values, None)`, or numerator and denominator.

        Rows that `empty_rows="skip"` leaves out are NaN.
        """

    @property
    def n_rows(self) -> int:
        """Rows so far."""

    @property
    def n_empty(self) -> int:
        """Rows without positives."""

    @property
    def n_excluded(self) -> int:
        """Entries dropped from rankings."""

    @property
    def n_excluded_positives(self) -> int:
        """Positives that were excluded, each a sure miss."""

_Terms = tuple[str, NDArray[np.float64], NDArray[np.float64] | None]
"""Name, numerators and denominators of a metric; without denominators it is a mean."""

@final
class Resampler:
    """Row terms of one system, or of two with the same truth, laid out for resampling.

    `clusters` (uint32) gives the cluster of each row, from 0 without gaps, to be drawn whole.
    """

    def __new__(
        cls,
        first: Sequence[_Terms],
        second: Sequence[_Terms],
        clusters: NDArray[np.uint32] | None = None,
        *,
        num_threads: int | None = None,
    ) -> Resampler: ...
    def bootstrap(self, seed: int, first: int, n: int) -> NDArray[np.float64]:
        """Return values in bootstrap samples `first .. first + n`, shape (n_values, n).

        A row for each metric of the first system, then of the second.
        """

    def sign_flips(self, seed: int, first: int, n: int) -> NDArray[np.float64]:
        """Return differences under random swaps `first .. first + n`, shape (n_metrics, n)."""

    def differences(self) -> list[tuple[float, float]]:
        """Return the difference (second less first) of each metric, and its rounding tolerance."""

    @property
    def n_units(self) -> int:
        """Rows or clusters that are drawn."""

def interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """Low end, high end and standard error of bootstrap values; NaN values are left out."""

def p_value(difference: float, tolerance: float, flips: NDArray[np.float64]) -> float:
    """Two-sided p-value of a difference among those under random swaps."""

_Texts: TypeAlias = Sequence[str] | Sequence[list[str]]

@final
class Tokenizer:
    """Cuts texts into words, and words into n-grams."""

    def __new__(
        cls,
        grams: Literal["words", "chars", "features"],
        sizes: tuple[int, int],
        *,
        edges: bool = True,
        stemmer: str | None = None,
        stop_words: Sequence[str] = ...,
        max_chars: int | None = None,
    ) -> Tokenizer: ...
    def words(self, text: str) -> list[str]:
        """Words of a text."""

    def grams(self, text: str) -> list[str]:
        """Tokens of a text, as often as they occur."""

@final
class Vocabulary:
    """Numbered tokens and the number of texts that hold each."""

    @staticmethod
    def build(
        tokenizer: Tokenizer,
        texts: _Texts,
        *,
        min_df: int = 1,
        max_df: float = 1.0,
        max_size: int | None = None,
        num_threads: int | None = None,
    ) -> Vocabulary:
        """Count the tokens of texts and keep the frequent ones. Ctrl-C is heard."""

    @staticmethod
    def parse(file: str, text: bytes, df: NDArray[np.int64], n_texts: int) -> Vocabulary:
        """Read what `to_text` wrote; `file` is its name in messages."""

    def to_text(self) -> bytes:
        """Tokens, one a line, UTF-8; line feeds in a token are escaped."""

    def __len__(self) -> int: ...
    def id(self, token: str) -> int | None:
        """Id of a token, None if it is unknown."""

    def token(self, id: int) -> str:
        """Token with an id."""

    def ids_in(self, other: Vocabulary) -> NDArray[np.int32]:
        """Id that each token has in another vocabulary, -1 where it is unknown there."""

    @property
    def df(self) -> NDArray[np.int64]: ...
    @property
    def n_texts(self) -> int: ...
    def smooth_idf(self) -> NDArray[np.float32]:
        """``1 + ln((1 + n) / (1 + df))`` of each token."""

    def rows(
        self,
        tokenizer: Tokenizer,
        texts: _Texts,
        *,
        idf: bool,
        sublinear: bool,
        unit: bool,
        num_threads: int | None = None,
    ) -> _Truth:
        """Weighted rows of texts, sorted by token; `idf`: times `smooth_idf`. Ctrl-C is heard."""

@final
class InvertedIndex:
    """Sparse rows by column. Rows must be sorted, without duplicates."""

    def __new__(
        cls, rows: _Truth, n_features: int, *, num_threads: int | None = None
    ) -> InvertedIndex: ...
    @staticmethod
    def of_blocks(
        blocks: list[_Truth], n_features: int, *, num_threads: int | None = None
    ) -> InvertedIndex:
        """Index blocks of rows, which are taken out of the list one by one."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def n_postings(self) -> int: ...
    def search(
        self,
        queries: _Truth,
        k: int,
        *,
        exclude: _Pattern | None = None,
        only: NDArray[np.bool_] | None = None,
        also: tuple[int, NDArray[np.bool_]] | None = None,
        rows: _Truth | None = None,
        num_threads: int | None = None,
    ) -> _Ranking:
        """The k rows of largest inner product that share a term, padded with -1 and -inf.

        Behind them, with `also`, those of a second ranking: so many of the rows of a mask.
        With `rows`, those that were indexed, the result is the same and may come sooner.
        """

    def search_product(
        self,
        left: _Truth,
        n_left: int,
        right: _Truth,
        k: int,
        *,
        only: NDArray[np.bool_] | None = None,
        num_threads: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The rows of largest inner product with the rows of a product, which are not made."""

    def search_both(
        self,
        queries: _Truth,
        k: tuple[int, int],
        n_columns: int,
        *,
        exclude: _Pattern | None = None,
        only: NDArray[np.bool_] | None = None,
        voted: tuple[_Truth, float] | None = None,
        num_threads: int | None = None,
    ) -> _Ranking:
        """`search` for ``k[0]`` rows, and for ``k[1]`` by columns below `n_columns`, in one.

        With `voted`, the first ranking is by the score plus a weight times the votes for a row.
        """

def join_rows(
    parts: Sequence[_Truth],
    n_features: Sequence[int],
    weights: Sequence[float],
    *,
    unit: bool,
    num_threads: int | None = None,
) -> _Truth:
    """Matrices side by side, each times its weight."""

@final
class Bilinear:
    """A fitted bilinear model, made ready once."""

    def __new__(
        cls,
        support: _Truth,
        n_label_features: int,
        refined: NDArray[np.float32],
        direct: NDArray[np.int32],
        *,
        bias: float,
        loss: str,
        score_alpha: float,
        shortlist: int,
    ) -> Bilinear: ...
    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of point features and of label features."""

    def support(self) -> _Truth:
        """First weights, a copy: (point features, label features)."""

    def refined(self) -> NDArray[np.float32]:
        """Fitted weights of the same entries, a copy."""

    def refined_rows(self, features: NDArray[np.int32]) -> _Truth:
        """Fitted weights of some point features, a row each."""

    def find(
        self,
        index: InvertedIndex,
        x: _Truth,
        k: int,
        *,
        exclude: _Pattern | None = None,
        only: NDArray[np.bool_] | None = None,
        also: tuple[int, NDArray[np.bool_]] | None = None,
        num_threads: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k labels of largest inner product by the first weights; `also`: as in a search."""

    def terms(
        self, x: _Truth, z: _Truth, pairs: _Pattern, *, num_threads: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The terms of given pairs: by the fitted weights without bias, and by equal names."""

    def save(
        self,
        path: str,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        sublinear: bool,
        labels: _Truth,
    ) -> None:
        """Write a file that answers texts without Python."""

def select_support(
    x: _Truth,
    n_features: int,
    z: _Truth,
    n_label_features: int,
    y: _Pattern,
    direct: NDArray[np.int32],
    *,
    k: int,
    alpha: float,
    direct_weight: float,
    threshold: float = 0.0,
    row_limit: int | None = None,
    num_threads: int | None = None,
) -> _Truth:
    """Pairs of features that a bilinear model may weigh: (n_features, n_label_features)."""

def refine_support(
    x: _Truth,
    n_features: int,
    z: _Truth,
    n_label_features: int,
    y: _Pattern,
    support: _Truth,
    shortlist: _Pattern,
    *,
    loss: str,
    cost: float,
    positive_weight: float,
    tolerance: float,
    max_passes: int,
    seed: int,
    num_threads: int | None = None,
) -> tuple[NDArray[np.float32], float, float, int, bool]:
    """Fitted weights of the support, bias, objective, passes, and whether the fit converged."""

def label_centroids(
    rows: _Truth,
    n_features: int,
    y: _Truth,
    n_labels: int,
    max_terms: int,
    *,
    num_threads: int | None = None,
) -> _Truth:
    """Unit means of the rows of each label's points, cut to the largest weights."""

def pair_scores(
    queries: _Truth,
    rows: _Truth,
    n_features: int,
    pairs: _Pattern,
    *,
    trusted: bool = False,
    num_threads: int | None = None,
) -> NDArray[np.float32]:
    """Inner products of given pairs, in their order.

    Of `rows`, those of a pair are checked; `trusted`: their columns ascend and all is finite.
    """

def feature_texts(rows: _Truth, n_features: int) -> list[str]:
    """Write each row as a text, ``17:0.25 40:1``; `Tokenizer` with ``features`` reads it."""

def not_a_feature(texts: list[str]) -> tuple[int, str] | None:
    """Return the first text that is not a row of features, and the token that is none."""

def mix_rows(
    ids: NDArray[np.int32],
    weights: NDArray[np.float64],
    rows: _Truth,
    n_features: int,
    *,
    num_threads: int | None = None,
) -> _Truth:
    """Sum of the rows `ids` (n, m), padded with -1, each times its weight. Sorted."""

def vote_sums(
    neighbours: NDArray[np.int32],
    votes: NDArray[np.float32],
    y: _Pattern,
    n_labels: int,
    *,
    num_threads: int | None = None,
) -> _Truth:
    """Votes of the nearest points, summed by label, without zeros."""

_Ranker: TypeAlias = tuple[
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
]
"""Mean and deviation (F,); linear (M, F); output (M, H); weights (M, H, F); bias (M, H).

M members with F features and H hidden units; a member scores standardised features x as
``linear . x + output . gelu(weights x + bias)``.
"""

def fit_ranker(
    features: NDArray[np.float32],
    indptr: NDArray[np.int64],
    positive: NDArray[np.bool_],
    *,
    hidden: int,
    n_members: int,
    epochs: int,
    batch: int,
    learning_rate: float,
    decay: float,
    seed: int,
    weights: NDArray[np.float32] | None = None,
    queries: NDArray[np.int64] | None = None,
    non_negative: bool = False,
    sampled: bool = False,
    num_threads: int | None = None,
) -> _Ranker:
    """Train a ranker on the candidates of queries, with the decoupled softmax. Ctrl-C is heard.

    `features` has shape (n_pairs, F); query q has the pairs ``indptr[q]:indptr[q + 1]``.
    `weights` (n_pairs,) multiplies the loss term of each positive. `queries`: those to learn from,
    which mean and deviation are of as well; None: all. Queries without a positive or
    without a negative only count for mean and deviation. `epochs=0` returns the networks as they
    start. `non_negative` keeps the weights of a linear ranker (`hidden=0`) at 0 or above.
    `sampled`: after the first epoch, negatives that hardly pull are taken by chance.
    """

def score_ranker(
    ranker: _Ranker, features: NDArray[np.float32], *, num_threads: int | None = None
) -> NDArray[np.float32]:
    """Score pairs (n_pairs, F) by the mean of the members: shape (n_pairs,)."""

_Tree: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32], _Truth]
"""Labels (n_trees, labels in the tree), bias (n_trees, classifiers) and weights.

Labels come in the order of leaves. Weights is a CSR matrix with a row for each classifier, tree
after tree: those of the nodes below the root, level by level, then those of the labels in the
order of leaves.
"""

def fit_tree(
    x: _Truth,
    n_features: int,
    y: _Pattern,
    n_labels: int,
    *,
    n_trees: int,
    max_leaf: int,
    max_label_features: int,
    max_rounds: int,
    cost: float,
    tolerance: float,
    max_passes: int,
    threshold: float,
    seed: int,
    num_threads: int | None = None,
) -> _Tree:
    """Build and train label trees on sparse features. Ctrl-C is heard.

    Rows of `x` are scaled to unit length; every stored entry of `y` is a positive. Labels without a
    point are not in the tree. A node is halved by at most `max_rounds` rounds of 2-means, which
    look at the `max_label_features` largest weights of a label's mean. `cost`, `tolerance` and
    `max_passes` belong to the solver (squared hinge, dual coordinate descent); weights below
    `threshold` are dropped.
    """

@final
class LabelTree:
    """Label trees that can be searched: the checked arrays of `fit_tree`, copied."""

    def __new__(
        cls,
        labels: NDArray[np.int32],
        bias: NDArray[np.float32],
        weights: _Truth,
        *,
        n_labels: int,
        n_features: int,
        num_threads: int | None = None,
    ) -> LabelTree: ...
    def labels(self) -> NDArray[np.int32]:
        """The labels in the order of the leaves, a copy: (n_trees, n)."""

    def bias(self) -> NDArray[np.float32]:
        """Bias of each classifier, a copy: (n_trees, m)."""

    def weights(self) -> _Truth:
        """Weights of the classifiers, a row each, without zeros: a copy."""

    def rank(self, x: _Truth, k: int, *, beam: int, exclude: _Pattern | None = None) -> _Ranking:
        """Rank the labels that a beam reaches: ids and scores (n, k), padded with -1 and -inf.

        A score is the logarithm of a probability, in -100..0.
        """

    def reach(self, x: _Truth, *, beam: int) -> _Truth:
        """Score the labels that a beam reaches: rows (n, n_labels), sorted by label."""

    def score(self, x: _Truth, ids: NDArray[np.int32], *, beam: int) -> NDArray[np.float32]:
        """Score given labels (n, m).

        -1 and labels that are not in the tree score -inf, those that no beam reaches -100.
        """

def stop_word_languages() -> list[str]:
    """Return the codes of the languages that have a list of stop words."""

def stop_words_of(language: str) -> list[str]:
    """Return the stop words of a language, by its code."""

def default_threads() -> int | None:
    """Return how many threads calls from this thread use where ``num_threads`` is None.

    None: one for each available core.
    """

def set_default_threads(num_threads: int | None) -> int | None:
    """Set `default_threads`, for the calling thread alone, and return what it was.

    Raises:
        ValueError: `num_threads` is not in 1..=1024.
    """
