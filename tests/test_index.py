"""Exact and HNSW search: same ids, order and scores, against an obvious twin."""

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, save_npz

from dexml import topk
from dexml.index import Hits, LabelIndex, choose_search, exact, exact_search, exact_shard


def unit(seed: int, n: int, dim: int = 12) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def pairs(seed: int, shape: tuple[int, int], share: float = 0.2) -> csr_array:
    return csr_array((np.random.default_rng(seed).random(shape) < share).astype(np.float32))


def by_sorting(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    exclude: csr_array | None = None,
    only: set[int] | None = None,
) -> Hits:
    """Every pair by itself, then a sort of Python."""
    ids = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for row, query in enumerate(queries):
        out = set() if exclude is None else set(exclude[[row]].indices.tolist())
        kept = [i for i in range(len(vectors)) if i not in out and (only is None or i in only)]
        found = sorted((-float(np.vecdot(query, vectors[i])) + 0.0, i) for i in kept)[:k]
        for place, (score, i) in enumerate(found):
            ids[row, place], scores[row, place] = i, -score
    return ids, scores


def same(found: Hits, expected: Hits) -> None:
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[0].dtype == np.int32
    assert found[1].dtype == np.float32


@pytest.fixture(scope="module")
def built() -> LabelIndex:
    index = LabelIndex.build(unit(0, 500), unit(1, 50), search="hnsw", recall=1.0, seed=3)
    assert index.facts.recalls[0].recall == 1.0
    return index


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 6),
    n_labels=st.integers(0, 40),
    dim=st.sampled_from([1, 2, 7]),
    k=st.sampled_from([1, 3, 50]),
    block=st.sampled_from([1, 5, 2**25]),
    grid=st.booleans(),
    share=st.sampled_from([None, 0.1, 0.5, 1.0]),
    group=st.sampled_from([None, "few", "many", "none", "mask"]),
)
def test_exact_search_equals_a_sort(
    seed: int,
    n: int,
    n_labels: int,
    dim: int,
    k: int,
    block: int,
    grid: bool,
    share: float | None,
    group: str | None,
) -> None:
    generator = np.random.default_rng(seed)
    queries = generator.normal(size=(n, dim)).astype(np.float32)
    vectors = (3 * generator.normal(size=(n_labels, dim))).astype(np.float32)
    if grid:  # many ties
        queries, vectors = np.round(queries), np.round(vectors)
    exclude = None if share is None else pairs(seed, (n, n_labels), share)
    size = {"few": n_labels // 4, "many": n_labels - n_labels // 4, "none": 0}.get(group or "", 0)
    only: Any = None if group is None else generator.permutation(n_labels)[:size]
    if group == "mask":
        only = generator.random(n_labels) < 0.5
    members = only if only is None else set(np.arange(n_labels)[only].tolist())
    old = exact._SCORE_BLOCK
    exact._SCORE_BLOCK = block
    try:
        found = exact_search(queries, vectors, k, exclude=exclude, only=only)
        same(found, by_sorting(queries, vectors, k, exclude, members))
        index = LabelIndex.build(vectors, search="exact")
        same(index.search(queries, k, exclude=exclude, only=only), found)
    finally:
        exact._SCORE_BLOCK = old


def test_equal_vectors_tie_however_many_and_wherever_they_stand() -> None:
    vectors = np.repeat(unit(0, 3, 385), 500, axis=0)[np.random.default_rng(0).permutation(1500)]
    queries = unit(1, 4, 385)
    for k in (1, 700):
        same(exact_search(queries, vectors, k), by_sorting(queries, vectors, k))


def test_result_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, vectors = unit(1, 50, 385), unit(0, 3000, 385)
    vectors[1500:] = vectors[:1500]  # ties everywhere
    whole = exact_search(queries, vectors, 25)
    same(exact_search(queries[7:8], vectors, 25), (whole[0][7:8], whole[1][7:8]))
    monkeypatch.setattr(exact, "_SCORE_BLOCK", 1700)
    monkeypatch.setattr(exact, "_ROWS", 13)
    same(exact_search(queries, vectors, 25), whole)


@pytest.mark.parametrize("block", [exact._SCORE_BLOCK, 1000])
@pytest.mark.parametrize("share", [0.02, 0.7, 1.0])
def test_a_second_ranking_is_a_search_of_its_own(
    share: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_SCORE_BLOCK", block)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    vectors[150:200] = vectors[:50]  # ties
    queries = rng.standard_normal((30, 8)).astype(np.float32)
    index, mask = LabelIndex.build(vectors, search="exact"), rng.random(300) < share
    exclude = csr_array((rng.random((30, 300)) < 0.1).astype(np.float32))
    for removed in (np.arange(5), np.arange(6, 300, 7)):
        index.remove_labels(removed)
        for only in (None, rng.random(300) < 0.8):
            ids, scores = index.search(queries, 12, exclude=exclude, only=only, also=(7, mask))
            assert ids.shape == scores.shape == (30, 19)
            for part, k, group in ((slice(12), 12, only), (slice(12, None), 7, mask)):
                alone = index.search(queries, k, exclude=exclude, only=group)
                np.testing.assert_array_equal(ids[:, part], alone[0])
                np.testing.assert_array_equal(scores[:, part], alone[1])


def test_shards_of_several_processes_join_to_the_whole(tmp_path: Path) -> None:
    queries, vectors = unit(1, 20), unit(0, 301)
    vectors[200:250] = vectors[:50]
    exclude = pairs(2, (20, 301))
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "queries.npy", queries)
    save_npz(tmp_path / "exclude.npz", exclude)
    code = """
import sys
import numpy as np
from scipy.sparse import csr_array, load_npz
from dexml.index import exact_shard
first, stop = map(int, sys.argv[1:])
shard = np.load("vectors.npy", mmap_mode="r")[first:stop]
exclude = csr_array(load_npz("exclude.npz"))
found = exact_shard(np.load("queries.npy"), shard, 30, first, exclude=exclude)
np.savez(f"{first}.npz", *found)
"""
    cuts = [0, 100, 290, 301]
    for first, stop in itertools.pairwise(cuts):
        command = [sys.executable, "-c", code, str(first), str(stop)]
        subprocess.run(command, check=True, cwd=tmp_path)
    parts = [np.load(tmp_path / f"{first}.npz") for first in cuts[:-1]]
    found = topk.merge([p["arr_0"] for p in parts], [p["arr_1"] for p in parts], 30)
    same(found, exact_search(queries, vectors, 30, exclude=exclude))
    with pytest.raises(ValueError, match="the shard ends at label 311"):
        exact_shard(queries, vectors, 3, 10, exclude=exclude)
    with pytest.raises(ValueError, match="first_label = -1"):
        exact_shard(queries, vectors, 3, -1)


@pytest.mark.parametrize("group", [None, "few", "many"])
def test_search_on_a_device_equals_that_on_the_cpu(
    group: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dexml.index import device
    from dexml.index.device import search_on

    rng = np.random.default_rng(0)
    queries = np.round(2 * rng.normal(size=(30, 6))).astype(np.float32)
    queries[20:] = 0  # all labels tie
    vectors = np.round(2 * rng.normal(size=(400, 6))).astype(np.float32)  # many others do
    exclude = pairs(3, (30, 400))
    only = {None: None, "few": np.arange(0, 400, 3), "many": np.arange(50, 400)}[group]
    monkeypatch.setattr(device, "_VECTORS", 6 * 130)  # 4 blocks of labels
    monkeypatch.setattr(device, "_SCORES", 130 * 7)  # 5 blocks of queries
    cpu = by_sorting(queries, vectors, 9, exclude, None if only is None else set(only.tolist()))
    index = LabelIndex.build(vectors, search="exact")
    if only is not None:
        index.remove_labels(np.setdiff1d(np.arange(400), only))
    space = index._now.space
    part = exclude if space.group is None else exclude[:, space.group]
    ids, scores, sure = search_on("cpu", space, queries, 9, part, progress=False)
    assert 0 < sure.sum() <= 20  # so many ties leave rows open
    same((ids[sure], scores[sure]), (cpu[0][sure], cpu[1][sure]))
    # On a device the open rows go to the CPU.
    monkeypatch.setattr(device, "search_on", lambda _, *a, **kw: search_on("cpu", *a, **kw))
    same(space.search(queries, 9, exclude=exclude, device="cuda"), cpu)


def test_hnsw_at_full_ef_equals_exact_search(built: LabelIndex) -> None:
    queries = unit(2, 40)
    for exclude in (None, pairs(5, (40, 500), 0.1)):
        expected = exact_search(queries, built.vectors, 10, exclude=exclude)
        same(built._now.near(queries, 10, 500, exclude=exclude), expected)
        same(built.search(queries, 10, exclude=exclude, search="hnsw"), expected)
    for only in (np.arange(3), np.arange(500) != 7, np.arange(0, 500, 2)):
        found = built.search(queries, 10, only=only)
        same(found, exact_search(queries, built.vectors, 10, only=only))


def test_recall_is_measured_and_ef_raised() -> None:
    vectors, queries = unit(0, 4000, 48), unit(1, 100, 48)
    options = {"search": "hnsw", "m": 4, "ef_construction": 20, "seed": 0}
    low = LabelIndex.build(vectors, queries, recall=0.05, **options)  # type: ignore[arg-type]
    high = LabelIndex.build(vectors, queries, recall=0.95, **options)  # type: ignore[arg-type]
    worse, better = low.facts.recalls, high.facts.recalls
    assert better[0].ef > worse[0].ef
    assert worse[0].recall < better[0].recall
    assert [row.k for row in better] == [10, 100]
    for row in better:
        truth, _ = exact_search(queries, vectors, row.k)
        found, _ = high._now.near(queries, row.k, row.ef)
        hits = sum(len(set(a) & set(b)) for a, b in zip(found, truth, strict=True))
        assert hits / truth.size == row.recall
        assert row.queries == 100


def test_a_graph_that_finds_too_little_gives_way_to_exact_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, queries = unit(0, 4000, 48), unit(1, 100, 48)
    monkeypatch.setattr("dexml.index.recall.MAX_EF", 64)
    index = LabelIndex.build(vectors, queries, search="hnsw", m=2, ef_construction=8, seed=0)
    row = index.recall_for(10)
    assert row is not None
    assert not row.reached
    assert index.search_for(10) == "exact"
    same(index.search(queries, 10), exact_search(queries, vectors, 10))
    assert (index.search(queries, 10, search="hnsw")[0] != index.search(queries, 10)[0]).any()
    assert index.search_for(500) == "exact"  # no recall is known there


def test_ef_ends_where_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dexml.index.recall.MAX_EF", 100)  # 64, 96, 144
    vectors = unit(0, 4000, 48)
    index = LabelIndex.build(
        vectors, unit(1, 50, 48), search="hnsw", m=2, ef_construction=8, recall=1.0, seed=0
    )
    assert index.facts.recalls[0].ef == 100


def test_labels_with_one_text_do_not_lower_the_recall() -> None:
    vectors = np.repeat(unit(0, 400), 5, axis=0)
    made = LabelIndex.build(vectors, unit(1, 30), search="hnsw", seed=0).facts.recalls[0]
    assert made.recall >= 0.99
    assert made.ef <= 256


def test_what_the_graph_cannot_reach_is_searched_exactly() -> None:
    vectors = unit(0, 3000)
    sparse = LabelIndex.build(
        vectors, unit(1, 5), search="hnsw", m=2, ef_construction=8, recall=0.1, seed=0
    )
    found = sparse.search(unit(2, 3), 3000, search="hnsw")
    same(found, exact_search(unit(2, 3), vectors, 3000))


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_small_and_odd_label_sets(search: str) -> None:
    small = LabelIndex.build(unit(0, 3), search=search)  # type: ignore[arg-type]
    ids, scores = small.search(unit(4, 2), 5)
    assert ids.shape == (2, 5)
    assert (ids[:, 3:] == -1).all()
    assert (scores[:, 3:] == -np.inf).all()
    assert small.search(unit(4, 2)[:0], 5)[0].shape == (0, 5)
    empty = LabelIndex.build(unit(0, 0), search=search)  # type: ignore[arg-type]
    assert (empty.search(unit(4, 2), 5)[0] == -1).all()
    assert empty.add_labels(unit(0, 2)).tolist() == [0, 1]
    same(empty.search(unit(4, 2), 5), exact_search(unit(4, 2), unit(0, 2), 5))
    line = np.arange(-50, 50, dtype=np.float32)[:, None]
    one = LabelIndex.build(line, search=search)  # type: ignore[arg-type]
    assert one.search(np.array([[2.0], [-1]], np.float32), 2)[0].tolist() == [[99, 98], [0, 1]]


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_vectors_of_any_norm_are_ranked_by_inner_product(search: str) -> None:
    rng = np.random.default_rng(0)
    vectors = (unit(0, 2000) * rng.lognormal(size=(2000, 1))).astype(np.float32)
    index = LabelIndex.build(vectors, unit(1, 100), search=search)  # type: ignore[arg-type]
    found = index.search(unit(2, 30), 10)[0]
    truth = exact_search(unit(2, 30), vectors, 10)[0]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)]) >= 0.98


def test_threads_get_the_answers_of_one(built: LabelIndex) -> None:
    queries = unit(2, 200)
    jobs = [(k, s) for k in (1, 5, 10, 40) for s in ("exact", "hnsw")] * 5
    expected = [built.search(queries, k, search=s) for k, s in jobs]  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda job: built.search(queries, job[0], search=job[1]), jobs)
    for a, b in zip(found, expected, strict=True):
        same(a, b)
    for n in (1, 2, 3):
        same(built.search(queries, 10, search="hnsw", num_threads=n), expected[5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": unit(4, 2, 7)}, r"queries \(2, 7\) and vectors \(9, 12\) do not fit"),
        ({"queries": unit(4, 2).astype(np.float64)}, "queries: float64; expected float32"),
        ({"queries": np.full((2, 12), np.nan, np.float32)}, "queries: row 0 is not finite"),
        ({"vectors": np.full((9, 12), np.inf, np.float32)}, "vectors: row 0 holds NaN"),
        ({"k": 0}, "k = 0; expected at least 1"),
        ({"exclude": csr_array((2, 8))}, r"exclude: shape \(2, 8\), but .* \(2, 9\)"),
        ({"only": np.array([9])}, "only: label 9 lies outside 0..8"),
        ({"only": np.array([-1])}, "only: label -1 lies outside 0..8"),
        ({"only": np.ones(8, np.bool_)}, "only: a mask of 8 for 9 labels"),
        ({"only": np.ones(0, np.bool_)}, "only: a mask of 0 for 9 labels"),
        ({"only": np.ones(3)}, "only: float64 of shape"),
    ],
)
def test_exact_search_refuses(change: dict, message: str) -> None:  # type: ignore[type-arg]
    given = {"queries": unit(4, 2), "vectors": unit(0, 9), "k": 3} | change
    with pytest.raises(ValueError, match=message):
        exact_search(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.full((9, 12), np.nan, np.float32)}, "vectors: row 0 holds NaN"),
        ({"vectors": unit(0, 9).astype(np.float64)}, "vectors: float64 of shape"),
        ({"vectors": np.zeros((3, 0), np.float32)}, r"vectors: float32 of shape \(3, 0\)"),
        ({"queries": unit(0, 2, 5)}, "the index has 12 dimensions"),
        ({"search": "ivf"}, "search = 'ivf'; expected auto, exact or hnsw"),
        ({"k": 0}, "k = 0; expected 1 to 2147483647"),
        ({"m": 1}, "m = 1; expected 2 to 256"),
        ({"m": 100_000}, "m = 100000; expected 2 to 256"),
        ({"ef_construction": 0}, "ef_construction = 0; expected 8 to 65536"),
        ({"seed": -1}, "seed = -1; expected 0 to"),
        ({"seed": 2**64}, "seed = 18446744073709551616; expected 0 to"),
        ({"recall": 0}, "recall = 0; expected more than 0 and at most 1"),
        ({"recall": 1.5}, "recall = 1.5; expected more than 0"),
    ],
)
def test_building_refuses(change: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        LabelIndex.build(**({"vectors": unit(0, 9)} | change))


def test_searching_refuses(built: LabelIndex) -> None:
    with pytest.raises(ValueError, match="the index has 12 dimensions"):
        built.search(unit(4, 2, 7), 5)
    with pytest.raises(ValueError, match="k = 0"):
        built.search(unit(4, 2), 0)
    with pytest.raises(ValueError, match="exclude: shape"):
        built.search(unit(4, 2), 5, exclude=csr_array((2, 7)))
    with pytest.raises(ValueError, match="this index has no graph"):
        LabelIndex.build(unit(0, 9)).search(unit(4, 2), 5, search="hnsw")


def test_the_rule_that_chooses() -> None:
    assert LabelIndex.build(unit(0, 9)).facts.kind == "exact"
    assert choose_search(50_000) == "exact"
    assert choose_search(50_001) == "hnsw"
    assert choose_search(131_072, k=100) == "exact"
    assert choose_search(131_073, k=100) == "hnsw"
    assert choose_search(10**6, k=101) == "exact"
    assert choose_search(10**6, 89_999) == "exact"
    assert choose_search(10**6, 90_000) == "hnsw"
    assert choose_search(10**6, device="cuda:1") == "exact"


def test_a_graph_that_several_threads_build_is_measured() -> None:
    """It is another one each time; what it must find is the same."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((3000, 12)).astype(np.float32)
    index = LabelIndex.build(vectors, search="hnsw", build_threads=2)
    assert index.facts.n_alive == 3000
    known = index.recall_for(10)
    assert known is not None
    assert known.reached
    ids, scores = index.search(vectors[:50], 10, search="hnsw")
    exact, _ = index.search(vectors[:50], 10, search="exact")
    assert (ids[:, 0] == exact[:, 0]).mean() > 0.95
    assert np.isfinite(scores).all()
    index.rebuild(num_threads=2)
    assert index.facts.n_alive == 3000
    with pytest.raises(ValueError, match="build_threads = 0"):
        LabelIndex.build(vectors, search="hnsw", build_threads=0)
