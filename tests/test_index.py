"""Exact and HNSW search, and the safety of a saved index."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml.index import LabelIndex, exact, exact_search


def unit(seed: int, n: int, dim: int = 12) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def built() -> LabelIndex:
    return LabelIndex.build(unit(0, 500), unit(1, 50), encoder="abc", recall=1.0, seed=3)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_exact_search_equals_a_sort(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, vectors = unit(1, 23), unit(0, 31)
    vectors[9] = vectors[4]  # a tie
    exclude = csr_array((np.random.default_rng(0).random((23, 31)) < 0.2).astype(np.float32))
    monkeypatch.setattr(exact, "_SCORE_BLOCK", 31 * 5)  # 5 queries a block
    ids, scores = exact_search(queries, vectors, k, exclude=exclude)
    assert ids.dtype == np.int32
    assert scores.dtype == np.float32
    for row in range(23):
        all_scores = queries[row] @ vectors.T
        out = set(exclude.indices[exclude.indptr[row] : exclude.indptr[row + 1]])
        kept = [i for i in range(31) if i not in out]
        expected = sorted(kept, key=lambda i: (-round(float(all_scores[i]), 5), i))[:k]
        assert ids[row, : len(expected)].tolist() == expected
        assert (ids[row, len(expected) :] == -1).all()
        assert (scores[row, len(expected) :] == -np.inf).all()


def test_hnsw_at_full_recall_equals_exact_search(built: LabelIndex) -> None:
    queries = unit(2, 40)
    built.manifest = replace(built.manifest, ef=500)
    for exclude in (None, csr_array((np.random.default_rng(5).random((40, 500)) < 0.1) * 1.0)):
        ids, scores = built.search(queries, 10, exclude=exclude)
        exact_ids, exact_scores = exact_search(queries, built.vectors, 10, exclude=exclude)
        np.testing.assert_array_equal(ids, exact_ids)
        np.testing.assert_allclose(scores, exact_scores, atol=1e-6)


def test_recall_is_measured_and_ef_raised() -> None:
    vectors, queries = unit(0, 4000, 48), unit(1, 100, 48)
    low = LabelIndex.build(vectors, queries, m=4, ef_construction=20, recall=0.05, seed=0)
    high = LabelIndex.build(vectors, queries, m=4, ef_construction=20, recall=0.95, seed=0)
    assert high.manifest.ef > low.manifest.ef
    assert low.manifest.recall < high.manifest.recall
    found, _ = high.search(queries, 10)
    truth, _ = exact_search(queries, vectors, 10)
    hits = sum(len(set(a) & set(b)) for a, b in zip(found, truth, strict=True))
    assert hits / truth.size == high.manifest.recall


def test_labels_with_one_text_do_not_lower_the_recall() -> None:
    vectors = np.repeat(unit(0, 400), 5, axis=0)
    made = LabelIndex.build(vectors, unit(1, 30), seed=0).manifest
    assert made.recall == 1.0
    assert made.ef <= 256


def test_what_the_graph_cannot_reach_is_searched_exactly() -> None:
    vectors = unit(0, 3000)
    sparse = LabelIndex.build(vectors, unit(1, 5), m=2, ef_construction=8, recall=0.1, seed=0)
    ids, _ = sparse.search(unit(2, 3), 3000)
    assert (np.sort(ids, axis=1) == np.arange(3000)).all()


def test_k_beyond_the_labels_is_padded(built: LabelIndex) -> None:
    small = LabelIndex.build(unit(0, 3), unit(1, 2), k=10, seed=0)
    ids, scores = small.search(unit(4, 2), 5)
    assert ids.shape == (2, 5)
    assert (ids[:, 3:] == -1).all()
    assert (scores[:, 3:] == -np.inf).all()
    assert built.search(unit(4, 2)[:0], 5)[0].shape == (0, 5)
    with pytest.raises(ValueError, match="12 dimensions"):
        built.search(unit(4, 2, 7), 5)
    with pytest.raises(ValueError, match="no label vectors"):
        LabelIndex.build(unit(0, 0), unit(1, 2))


def test_same_seed_same_graph(tmp_path: Path) -> None:
    for name in ("a", "b"):
        LabelIndex.build(unit(0, 300), unit(1, 20), seed=1).save(tmp_path / name)
    assert (tmp_path / "a/graph.hnsw").read_bytes() == (tmp_path / "b/graph.hnsw").read_bytes()


def test_save_and_load(built: LabelIndex, tmp_path: Path) -> None:
    built.save(tmp_path / "index")
    built.save(tmp_path / "index")  # over an older one
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    loaded = LabelIndex.load(tmp_path / "index", encoder="abc")
    queries = unit(2, 40)
    np.testing.assert_array_equal(loaded.search(queries, 10)[0], built.search(queries, 10)[0])
    assert loaded.manifest == built.manifest
    with pytest.raises(ValueError, match="made by another encoder"):
        LabelIndex.load(tmp_path / "index", encoder="xyz")


def test_every_damage_is_found_before_hnswlib_reads(built: LabelIndex, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    built.save(folder)
    for name in ("graph.hnsw", "vectors.npy"):
        whole = (folder / name).read_bytes()
        for place in range(0, len(whole), len(whole) // 20):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            for damaged in (bytes(flipped), whole[:place], whole + b"x"):
                (folder / name).write_bytes(damaged)
                with pytest.raises(ValueError, match="not the file that was saved"):
                    LabelIndex.load(folder)
        (folder / name).write_bytes(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in (
        ({"format_version": 2}, "format 2 is newer"),
        ({"ef": "sixty"}, "damaged"),
        ({"unknown": 1}, "damaged"),
        ({"n_labels": 7}, "damaged"),
        ({"dim": 5}, "damaged"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ValueError, match=message):
            LabelIndex.load(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        LabelIndex.load(folder)
