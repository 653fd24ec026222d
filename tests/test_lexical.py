"""Lexical features against scikit-learn and scipy, and what happens on odd input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack, random_array
from sklearn.feature_extraction.text import TfidfVectorizer

from dexml.text.lexical import (
    LexicalIndex,
    VectorizerSettings,
    fit_vectorizer,
    join_rows,
    label_centroids,
    load_vectorizer,
    neighbour_votes,
    pair_scores,
)

THREADS = [1, 2, 7]
TEXTS = [
    "The quick brown fox jumps over the lazy dog",
    "a quick dog, a QUICK fox and a box of boxes",
    "Быстрая лиса прыгает через ленивую собаку",
    "γρήγορη αλεπού πηδά πάνω από το σκυλί",
    "الثعلب البني السريع يقفز فوق الكلب",
    "敏捷的棕色狐狸跳过了懒狗",
    "素早い茶色の狐がのろまな犬を飛び越える",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัข",
    "",
    " ... ?! — \n",
]


def rows_of(seed: int, n_rows: int, n_features: int = 40, density: float = 0.1) -> csr_array:
    """Random rows with ties, stored zeros and negative values; sums of products are exact."""
    generator = np.random.default_rng(seed)
    rows = csr_array(
        random_array((n_rows, n_features), density=density, rng=generator, dtype=np.float32)
    )
    rows.data[:] = generator.choice([-1.0, 0.0, 0.5, 0.5, 1.0, 0.125], rows.nnz)
    rows.sort_indices()
    return rows


def assert_same(a: csr_array, b: csr_array) -> None:
    """Bit for bit."""
    assert a.shape == b.shape
    np.testing.assert_array_equal(a.indptr, b.indptr)
    np.testing.assert_array_equal(a.indices, b.indices)
    assert a.data.tobytes() == b.data.tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        VectorizerSettings(),
        VectorizerSettings(sizes=(1, 1), sublinear=False, min_df=2),
        VectorizerSettings(grams="chars", sizes=(2, 5), max_chars=20),
        VectorizerSettings(grams="chars", sizes=(1, 3), edges=False, max_df=0.3),
        VectorizerSettings(stemmer="english", stop_words=("a", "the"), idf=False),
        VectorizerSettings(sizes=(1, 3), unit=False),
    ],
)
def test_tfidf_is_that_of_scikit_learn(settings: VectorizerSettings) -> None:
    ours = fit_vectorizer(TEXTS, settings)
    theirs = TfidfVectorizer(
        analyzer=ours.grams,
        sublinear_tf=settings.sublinear,
        use_idf=settings.idf,
        norm="l2" if settings.unit else None,
        min_df=settings.min_df,
        max_df=settings.max_df,
    )
    expected = theirs.fit_transform(TEXTS).toarray()
    tokens = [ours.token(column) for column in range(ours.n_tokens)]
    assert sorted(tokens) == sorted(theirs.vocabulary_)
    order = [theirs.vocabulary_[token] for token in tokens]
    found = ours.rows(TEXTS)
    assert (found.dtype, found.indices.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(found.toarray(), expected[:, order], rtol=2e-7, atol=0)
    keys = [(-df, token.encode()) for df, token in zip(ours.df, tokens, strict=True)]
    assert keys == sorted(keys)


def test_words_and_characters_are_those_of_scikit_learn_where_both_mean_the_same() -> None:
    texts = ["the quick brown fox", "jumps over a lazy dog", "Быстрая лиса прыгает"]
    for grams, analyzer, sizes in [("words", "word", (1, 3)), ("chars", "char_wb", (2, 5))]:
        settings = VectorizerSettings(grams=grams, sizes=sizes)  # type: ignore[arg-type]
        ours = fit_vectorizer(texts, settings)
        theirs = TfidfVectorizer(
            analyzer=analyzer, ngram_range=sizes, token_pattern=r"\w+" if grams == "words" else None
        ).build_analyzer()
        for text in texts:
            assert sorted(ours.grams(text)) == sorted(theirs(text))


@pytest.mark.parametrize("text", TEXTS[2:8], ids=["ru", "el", "ar", "zh", "ja", "th"])
@pytest.mark.parametrize(
    "settings",
    [VectorizerSettings(), VectorizerSettings(grams="chars", sizes=(2, 3))],
    ids=["words", "chars"],
)
def test_every_script_finds_its_own_text(text: str, settings: VectorizerSettings) -> None:
    vectorizer = fit_vectorizer(TEXTS, settings)
    index = LexicalIndex(vectorizer.rows(TEXTS))
    part = text[: len(text) // 2]
    assert len(vectorizer.grams(part)) >= 5
    ids, scores = index.search(vectorizer.rows([part]), 1)
    assert TEXTS[ids[0, 0]] == text
    assert scores[0, 0] > 0.3


@pytest.mark.parametrize("grams", ["words", "chars"])
def test_threads_give_the_same_bits(grams: Any) -> None:
    texts = [
        f"{a} {b} {TEXTS[n % 10]}"
        for n, (a, b) in enumerate(np.random.default_rng(0).integers(99, size=(700, 2)))
    ]
    settings = VectorizerSettings(grams=grams, sizes=(1, 3), min_df=2)
    first = fit_vectorizer(texts, settings, num_threads=1)
    rows = first.rows(texts, num_threads=1)
    y = rows_of(3, 700, 30, 0.05)
    y.data[:] = 1
    centroids = label_centroids(rows, y, max_terms=50, num_threads=1)
    found = LexicalIndex(rows, num_threads=1).search(rows, 9, num_threads=1)
    votes = neighbour_votes(*found, y, num_threads=1)
    for n in THREADS[1:]:
        other = fit_vectorizer(texts, settings, num_threads=n)
        again = other.rows(texts, num_threads=n)
        assert_same(again, rows)
        np.testing.assert_array_equal(other.df, first.df)
        assert_same(label_centroids(rows, y, max_terms=50, num_threads=n), centroids)
        ids, scores = LexicalIndex(rows, num_threads=n).search(rows, 9, num_threads=n)
        assert ids.tobytes() == found[0].tobytes()
        assert scores.tobytes() == found[1].tobytes()
        assert_same(neighbour_votes(ids, scores, y, num_threads=n), votes)
        assert_same(
            join_rows([rows, again], [1, 0.7], num_threads=n),
            join_rows([rows, again], [1, 0.7], num_threads=1),
        )


def test_own_words_are_taken_as_they_are() -> None:
    words = [["New York", "", "THE"], ["New York", "a\nb", "\\"], []]
    vectorizer = fit_vectorizer(words, VectorizerSettings(sizes=(1, 1)))
    assert [vectorizer.token(column) for column in range(4)] == ["New York", "THE", "\\", "a\nb"]
    assert vectorizer.rows(words).toarray().astype(bool).sum(axis=1).tolist() == [2, 3, 0]


def test_tokens_are_found_in_another_vocabulary() -> None:
    one = fit_vectorizer(["kernel driver printer", "music player"])
    other = fit_vectorizer(["player of the kernel", "mail"])
    found = one.core[1].ids_in(other.core[1])
    expected = [other.column(one.token(i)) for i in range(one.n_tokens)]
    assert found.dtype == np.int32
    assert found.tolist() == [-1 if column is None else column for column in expected]
    assert sorted(found.tolist())[:3] == [-1, -1, -1]


def test_empty_vocabularies_and_unknown_words() -> None:
    cut = VectorizerSettings(min_df=99)
    for texts, settings in [([], VectorizerSettings()), (TEXTS, cut), (TEXTS[8:], cut)]:
        empty = fit_vectorizer(texts, settings)
        rows = empty.rows(TEXTS)
        assert (empty.n_tokens, rows.shape, rows.nnz) == (0, (10, 0), 0)
        ids, scores = LexicalIndex(rows).search(rows, 2)
        assert (ids == -1).all()
        assert np.isneginf(scores).all()
    vectorizer = fit_vectorizer(TEXTS)
    assert vectorizer.rows(["unbekannt", ""]).nnz == 0
    assert vectorizer.rows([]).shape == (0, vectorizer.n_tokens)
    assert vectorizer.column("unbekannt") is None
    assert vectorizer.token(vectorizer.column("fox") or 0) == "fox"
    with pytest.raises(ValueError, match=r"token -1 out of range \(n_tokens = "):
        vectorizer.token(-1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (0, 1)}, r"sizes must be two numbers in 1\.\.=64, the smaller one first"),
        ({"sizes": (1, 10**9)}, r"sizes must be .*, not \(1, 1000000000\)"),
        ({"sizes": (-1, 1)}, "sizes must not be negative"),
        ({"grams": "letters"}, "grams must be 'words', 'chars' or 'features', not 'letters'"),
        ({"stemmer": "klingon"}, "stemmer must be arabic, .*, not 'klingon'"),
        ({"max_chars": 0}, "max_chars must be at least 1"),
        ({"min_df": 0}, "min_df must be at least 1"),
        ({"max_df": 1.5}, "max_df must be a share above 0, at most 1, not 1.5"),
        ({"max_df": float("nan")}, "max_df must be a share"),
        ({"max_size": -1}, "max_size must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_vectorizer(TEXTS, VectorizerSettings(**settings))


def test_texts_of_other_types_are_refused() -> None:
    wrong: list[tuple[Any, str]] = [
        ("one text", "texts is a single string; give a list"),
        (["a", 3], r"texts\[1\]: either all texts are str, or all are lists"),
        ([3], r"texts\[0\] must be str or a list of str, not int"),
        ([["a", None]], r"texts\[0\] must be str or a list of str, not list"),
    ]
    for texts, message in wrong:
        with pytest.raises(TypeError, match=message):
            fit_vectorizer(texts)
    with pytest.raises(UnicodeEncodeError):
        fit_vectorizer(["\ud800"])


def test_a_saved_vectorizer_comes_back(tmp_path: Path) -> None:
    settings = VectorizerSettings(stop_words=("the",), stemmer="russian", max_df=0.5)
    vectorizer = fit_vectorizer(TEXTS, settings)
    folder = tmp_path / "vectorizer"
    vectorizer.save(folder)
    vectorizer.save(folder)  # replaces
    assert sorted(path.name for path in folder.iterdir()) == [
        "df.npy",
        "tokens.txt",
        "vectorizer.json",
    ]
    again = load_vectorizer(folder)
    assert (again.settings, again.n_texts) == (settings, 10)
    assert_same(again.rows(TEXTS), vectorizer.rows(TEXTS))

    other = vectorizer.with_df_of(TEXTS[:2])
    fox = other.column("fox")
    assert fox is not None
    assert (other.n_tokens, other.n_texts) == (vectorizer.n_tokens, 2)
    assert other.df[fox] == 2
    assert other.df.sum() < vectorizer.df.sum()


def test_a_damaged_vectorizer_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "v"

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_vectorizer(folder)
        fit_vectorizer(TEXTS).save(folder)

    fit_vectorizer(TEXTS).save(folder)
    content = json.loads((folder / "vectorizer.json").read_text())
    for change in [{"format_version": 9}, {"settings": {"gram": 1}}, {"settings": []}]:
        (folder / "vectorizer.json").write_text(json.dumps(content | change))
        refused(r"vectorizer\.json: not a vectorizer: ")
    (folder / "vectorizer.json").write_text("[")
    refused(r"vectorizer\.json: not a vectorizer: ")
    (folder / "df.npy").write_bytes(b"")
    refused(r"df\.npy: damaged \(")
    np.save(folder / "df.npy", np.ones(3, np.int32))
    refused(r"df\.npy: int32, 1-d; expected int64, 1-d")
    np.save(folder / "df.npy", np.ones(3, np.int64))
    refused("df: 3 numbers, expected ")
    (folder / "tokens.txt").write_bytes(b"a\na\n")
    refused(r"tokens\.txt:2: duplicate token 'a'")
    (folder / "tokens.txt").write_bytes(b"a\n\xff\n")
    refused(r"tokens\.txt:2: bad token")
    with pytest.raises(FileNotFoundError):
        load_vectorizer(tmp_path / "none")


def slow_search(
    queries: csr_array, rows: csr_array, k: int, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rank the dense product, of those pairs that share a term."""
    q, r = queries.toarray().astype(np.float64), rows.toarray().astype(np.float64)
    scores = (q @ r.T).astype(np.float32)
    common = (q != 0).astype(int) @ (r != 0).astype(int).T > 0
    scores = np.where(common & allowed, scores, -np.inf)
    scores = np.pad(scores, ((0, 0), (0, max(0, k - scores.shape[1]))), constant_values=-np.inf)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
    best = np.take_along_axis(scores, ids, 1)
    return np.where(np.isneginf(best), -1, ids), best.astype(np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_queries=st.integers(0, 20),
    n_rows=st.integers(0, 120),
    density=st.sampled_from([0.0, 0.02, 0.3]),
    k=st.integers(1, 15),
)
def test_search_is_the_sparse_product(
    seed: int, n_queries: int, n_rows: int, density: float, k: int
) -> None:
    queries, rows = rows_of(seed, n_queries), rows_of(seed + 1, n_rows, density=density)
    generator = np.random.default_rng(seed)
    only = generator.random(n_rows) < 0.8
    dropped = generator.random((n_queries, n_rows)) < 0.1
    ids, scores = LexicalIndex(rows).search(queries, k, exclude=csr_array(dropped), only=only)
    expected_ids, expected = slow_search(queries, rows, k, only & ~dropped)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected)
    again = pair_scores(queries, rows, ids)
    assert again.tobytes() == scores.tobytes()


@pytest.mark.parametrize("common", [False, True])
def test_a_second_ranking_is_a_search_of_its_own(common: bool) -> None:
    queries, rows = abs(rows_of(0, 40)), abs(rows_of(1, 90))
    if common:  # most values in few columns, which are read for the best rows only
        more = csr_array(np.random.default_rng(2).integers(1, 8, (130, 20)).astype(np.float32))
        queries = csr_array(hstack([more[90:], queries], format="csr"))
        rows = csr_array(hstack([more[:90], rows], format="csr"))
    index, exclude = LexicalIndex(rows), rows_of(2, 40, 90)
    some, few = np.arange(90) % 4 > 0, np.arange(90) % 9 == 0
    ids, scores = index.search(queries, 7, exclude=exclude, only=some, also=(5, few))
    assert ids.shape == scores.shape == (40, 12)
    for part, k, only in ((slice(7), 7, some), (slice(7, None), 5, few)):
        alone = index.search(queries, k, exclude=exclude, only=only)
        np.testing.assert_array_equal(ids[:, part], alone[0])
        np.testing.assert_array_equal(scores[:, part], alone[1])
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search(queries, 7, also=(0, few))
    with pytest.raises(ValueError, match="only: 3 rows, expected 90"):
        index.search(queries, 7, also=(2, few[:3]))


def test_votes_count_in_a_double_search() -> None:
    queries, rows = rows_of(0, 40), rows_of(1, 90)
    only, votes = np.arange(90) % 4 > 0, abs(rows_of(3, 40, 90))
    index, below = LexicalIndex(rows), rows.shape[1] // 2
    (ids, scores), part = index.search_both(
        queries, 7, 5, below, only=only, votes=votes, weight=0.25
    )
    q, r = queries.toarray().astype(np.float64), rows.toarray().astype(np.float64)
    cast = votes.toarray()
    sums = (q @ r.T).astype(np.float32) + np.float32(0.25) * cast
    known = ((q != 0).astype(int) @ (r != 0).astype(int).T > 0) | (cast > 0)
    dense = np.where(known & only, sums, -np.inf)
    expected = np.argsort(-dense, axis=1, kind="stable")[:, :7]
    best = np.take_along_axis(dense, expected, axis=1)
    np.testing.assert_array_equal(scores, best)
    np.testing.assert_array_equal(ids, np.where(np.isneginf(best), -1, expected))
    np.testing.assert_array_equal(part[0], index.search_both(queries, 7, 5, below, only=only)[1][0])
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be finite and at least 0, not"):
            index.search_both(queries, 7, 5, below, votes=votes, weight=weight)
    with pytest.raises(ValueError, match=r"votes: shape \(40, 3\), expected \(40, 90\)"):
        index.search_both(queries, 7, 5, below, votes=rows_of(3, 40, 3))


def test_a_double_search_is_two_searches() -> None:
    queries, rows = rows_of(0, 40), rows_of(1, 90)
    only, exclude = np.arange(90) % 4 > 0, rows_of(2, 40, 90)
    below = rows.shape[1] // 2
    whole, part = LexicalIndex(rows).search_both(queries, 7, 5, below, exclude=exclude, only=only)
    expected = LexicalIndex(rows).search(queries, 7, exclude=exclude, only=only)
    first = LexicalIndex(csr_array(rows[:, :below]))
    expected_part = first.search(csr_array(queries[:, :below]), 5, exclude=exclude, only=only)
    for found, known in zip((*whole, *part), (*expected, *expected_part), strict=True):
        np.testing.assert_array_equal(found, known)
    with pytest.raises(ValueError, match="k must be at least 1"):
        LexicalIndex(rows).search_both(queries, 7, 0, below)


def test_common_columns_do_not_show() -> None:
    # Most of the values lie in few columns: those are read for the best rows only.
    rows, queries = abs(rows_of(0, 300, 30)), abs(rows_of(1, 20, 30))
    common = csr_array(np.random.default_rng(0).integers(1, 8, (320, 20)).astype(np.float32) / 64)
    rows = csr_array(hstack([common[:300], rows], format="csr"))
    queries = csr_array(hstack([common[300:], queries], format="csr"))
    found = LexicalIndex(rows).search(queries, 5)
    expected = slow_search(queries, rows, 5, np.ones(300, np.bool_))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("size", [1, 40, 200])
def test_an_index_of_blocks_is_that_of_all_rows(size: int) -> None:
    rows, queries = rows_of(1, 90), rows_of(0, 30)
    blocks = [csr_array(rows[first : first + size]) for first in range(0, 90, size)]
    index = LexicalIndex.of_blocks(blocks)
    assert blocks == []
    assert index.shape == rows.shape
    only, exclude = np.arange(90) % 4 > 0, rows_of(2, 30, 90)
    for found, expected in zip(
        index.search(queries, 7, only=only, exclude=exclude),
        LexicalIndex(rows).search(queries, 7, only=only, exclude=exclude),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_bad_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks: \[\] columns; expected one number"):
        LexicalIndex.of_blocks([])
    with pytest.raises(ValueError, match=r"blocks: \[39, 40\] columns; expected one number"):
        LexicalIndex.of_blocks([rows_of(0, 5), rows_of(0, 5, 39)])
    bad = rows_of(0, 5)
    bad.data[0] = np.nan
    with pytest.raises(ValueError, match=r"blocks\[1\]: row 0: value is not finite"):
        LexicalIndex.of_blocks([rows_of(0, 5), bad])


def test_blocks_of_queries_do_not_show() -> None:
    queries, rows = rows_of(0, 4096 + 5), rows_of(1, 50)
    exclude = rows_of(2, 4096 + 5, 50)
    index = LexicalIndex(rows)
    ids, scores = index.search(queries, 3, exclude=exclude)
    tail, tail_scores = index.search(queries[4090:], 3, exclude=exclude[4090:])
    np.testing.assert_array_equal(ids[4090:], tail)
    np.testing.assert_array_equal(scores[4090:], tail_scores)


def test_scores_of_pairs_in_a_matrix() -> None:
    queries, rows, pairs = rows_of(0, 30), rows_of(1, 20), rows_of(2, 30, 20)
    found = pair_scores(queries, rows, pairs)
    np.testing.assert_array_equal(found.indices, pairs.indices)
    dense = (queries.astype(np.float64) @ rows.T.astype(np.float64)).toarray()
    lines = np.repeat(np.arange(30), np.diff(pairs.indptr))
    np.testing.assert_allclose(found.data, dense[lines, pairs.indices], rtol=1e-6, atol=1e-7)


def test_centroids_are_unit_means_cut() -> None:
    rows, y = abs(rows_of(0, 60)), rows_of(1, 60, 12)
    y.data[:] = y.data > 0.4
    means = np.stack([rows.toarray()[y.toarray()[:, label] > 0].sum(0) for label in range(12)])
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    means = np.divide(means, norms, out=np.zeros_like(means), where=norms > 0)
    found = label_centroids(rows, y).toarray()
    np.testing.assert_allclose(found, means, rtol=1e-6)
    cut = label_centroids(rows, y, max_terms=3).toarray()
    for short, whole in zip(cut, found, strict=True):
        keep = np.argsort(-whole, kind="stable")[:3]
        expected = np.zeros_like(whole)
        expected[keep] = whole[keep]
        np.testing.assert_array_equal(short, expected)


def test_joined_rows_are_those_of_scipy() -> None:
    parts = [rows_of(0, 9), rows_of(1, 9, 5), rows_of(2, 9, 3)]
    weights = [1.0, 0.7, -2.0]
    dense = np.hstack([w * p.toarray() for w, p in zip(weights, parts, strict=True)])
    np.testing.assert_allclose(join_rows(parts, weights, unit=False).toarray(), dense, rtol=1e-6)
    unit = join_rows(parts, weights).toarray()
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, dense / np.where(norms > 0, norms, 1), rtol=1e-5, atol=1e-7)


def test_votes_are_shares_of_powers() -> None:
    y = rows_of(5, 30, 8)
    y.data[:] = 1
    generator = np.random.default_rng(0)
    ids = np.argsort(generator.random((6, 30)), axis=1)[:, :4].astype(np.int32)
    cosines = np.sort(generator.uniform(-0.2, 1, (6, 4)).astype(np.float32))[:, ::-1].copy()
    ids[2, 2:], cosines[2, 2:] = -1, -np.inf
    ids[3], cosines[3] = -1, -np.inf
    cosines[4] = -0.5
    expected = np.zeros((6, 8))
    for query in range(6):
        shares = np.where(ids[query] == -1, 0, np.maximum(cosines[query].astype(float), 0) ** 3)
        shares = shares / (shares.sum() or 1)
        for point, share in zip(ids[query], shares, strict=True):
            expected[query] += share * y.toarray()[point] if point >= 0 else 0
    found = neighbour_votes(ids, cosines, y)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    assert (found.data > 0).all()
    y.data[::2] = 0  # a stored 0 is not a positive
    dropped = csr_array(y.toarray())
    assert_same(neighbour_votes(ids, cosines, y), neighbour_votes(ids, cosines, dropped))


def test_bad_matrices_are_refused() -> None:
    good = rows_of(0, 5)
    bad = good.copy()
    bad.data[0] = np.nan
    with pytest.raises(ValueError, match=r"rows: row 0: value is not finite \(feature "):
        LexicalIndex(bad)
    huge = good.astype(np.float64)
    huge.data[0] = 1e300
    with pytest.raises(ValueError, match=r"queries: row 0: value is not finite \(feature "):
        LexicalIndex(good).search(huge, 1)
    index, narrow = LexicalIndex(good), rows_of(0, 5, 39)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        index.search(good, 0)
    with pytest.raises(ValueError, match="queries: 39 features, expected 40"):
        index.search(narrow, 1)
    with pytest.raises(ValueError, match="only: 4 rows, expected 5"):
        index.search(good, 1, only=np.ones(4, bool))
    with pytest.raises(ValueError, match="exclude: shape"):
        index.search(good, 1, exclude=rows_of(0, 4, 5))
    with pytest.raises(ValueError, match="queries: 39 features, expected 40"):
        pair_scores(narrow, good, np.zeros((5, 1), np.int32))
    with pytest.raises(ValueError, match=r"pairs: shape \(4, 1\), expected \(5, k\)"):
        pair_scores(good, good, np.zeros((4, 1), np.int32))
    with pytest.raises(ValueError, match=r"pairs: shape \(5, 6\), expected \(5, 5\)"):
        pair_scores(good, good, rows_of(0, 5, 6))
    with pytest.raises(ValueError, match="pairs: row 0: label 5 out of range"):
        pair_scores(good, good, np.full((5, 1), 5, np.int32))
    with pytest.raises(ValueError, match="y: 4 rows, expected 5"):
        label_centroids(good, csr_array((4, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="max_terms must be at least 1"):
        label_centroids(good, csr_array((5, 3), dtype=np.float32), max_terms=0)
    with pytest.raises(ValueError, match=r"parts\[1\]: 4 rows, expected 5"):
        join_rows([good, rows_of(0, 4)])
    with pytest.raises(ValueError, match="parts must hold at least one matrix"):
        join_rows([])
    with pytest.raises(ValueError, match="2 parts and 1 weights"):
        join_rows([good, good], [1.0])
    y = csr_array((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match=r"neighbours: row 0: row 3 out of range \(n_rows = 3\)"):
        neighbour_votes(np.full((1, 1), 3, np.int32), np.ones((1, 1), np.float32), y)
    with pytest.raises(ValueError, match="vote of point 0 must be finite"):
        neighbour_votes(np.zeros((1, 1), np.int32), np.full((1, 1), np.nan, np.float32), y)


def test_unsorted_matrices_with_duplicates_are_put_in_order() -> None:
    tangled = csr_array(
        (np.array([1, 2, 3], np.float32), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3)
    )
    ids, scores = LexicalIndex(tangled).search(tangled, 1)
    assert (ids.tolist(), scores.tolist()) == ([[0]], [[20.0]])
    assert tangled.nnz == 3, "the matrix of the caller stays as it was"


def test_a_vectorizer_with_more_tokens(tmp_path: Path) -> None:
    """Behind the others, each as of a single text; odd ones survive the file."""
    vectorizer = fit_vectorizer([["a", "b"], ["a"]], VectorizerSettings(sizes=(1, 1)))
    grown = vectorizer.with_tokens(["line\nfeed", "back\\slash"])
    grown.save(tmp_path / "grown")
    for one in (grown, load_vectorizer(tmp_path / "grown")):
        assert [one.column(t) for t in ("a", "b", "line\nfeed", "back\\slash")] == [0, 1, 2, 3]
        assert one.df.tolist() == [2, 1, 1, 1]
        assert one.rows([["back\\slash"]]).toarray().tolist() == [[0, 0, 0, 1]]
    assert vectorizer.n_tokens == 2
    assert vectorizer.with_tokens([]) is vectorizer
    with pytest.raises(ValueError, match="duplicate token 'a'"):
        vectorizer.with_tokens(["a"])
    empty = vectorizer.without_tokens()
    assert (empty.n_tokens, empty.n_texts) == (0, 2)
