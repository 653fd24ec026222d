"""The bench of lexical evidence: its titles, its equal results, its tables."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

import bench_lexical
import lexical_cost
from peers import sparse


@pytest.fixture
def titles(tmp_path: Path) -> sparse.Titles:
    sparse.write_titles(tmp_path / "titles.npz", sparse.draw_titles(3_000, 40, n_words=500))
    return sparse.read_titles(tmp_path / "titles.npz")


def test_titles_are_short_and_the_same_again(titles: sparse.Titles) -> None:
    lengths = np.diff(titles.title_indptr)
    assert lengths.min() >= 1
    assert lengths.max() <= 20
    assert all(len(set(row)) == len(row) > 0 for row in titles.lists("query"))
    again = sparse.draw_titles(3_000, 40, n_words=500)
    for name in sparse.FIELDS:
        np.testing.assert_array_equal(getattr(again, name), getattr(titles, name))


def test_bm25_of_each_pair_by_its_formula() -> None:
    counts = csr_array(np.array([[1, 0, 2], [0, 1, 0], [1, 1, 1]], np.float32))
    rows = sparse.bm25_rows(counts).toarray()
    mean_length = 7 / 3
    for text, row in enumerate(counts.toarray()):
        for word, tf in enumerate(row):
            df = int((counts.toarray()[:, word] > 0).sum())
            idf = np.log(1 + (3 - df + 0.5) / (df + 0.5))
            norm = 1.2 * (1 - 0.75 + 0.75 * row.sum() / mean_length)
            assert rows[text, word] == pytest.approx(idf * tf / (tf + norm))


def test_both_products_find_what_a_dense_one_finds(titles: sparse.Titles) -> None:
    product = titles.queries().toarray() @ sparse.bm25_rows(titles.counts()).toarray().T
    expected = -np.sort(-product, axis=1)[:, : sparse.K]
    for tool in (sparse.dexml, sparse.scipy):
        np.testing.assert_allclose(tool(titles)()(), expected, rtol=1e-5, atol=1e-6)


def test_made_up_words_differ_and_stay_the_same() -> None:
    words = lexical_cost.made_up_words(2_000, 0)
    assert len(set(words)) == 2_000
    assert lexical_cost.made_up_words(2_000, 0) == words
    assert max(map(len, words[:50])) <= min(map(len, words[-50:]))


def test_what_building_reports(tmp_path: Path) -> None:
    texts = [f"kernel driver {number} of the printer" for number in range(50)]
    assert set(lexical_cost.build("words", texts)) < set(lexical_cost.build("all", texts))


def test_tables_of_a_report() -> None:
    search = {"index": 0.5, "search": 0.2, "peak_mb": 70, "version": "1.0"}
    light, pecos = ({"cpu_seconds": seconds, "peak_mb": 1} for seconds in (30.0, 10.0))
    report = {
        "features": {"seconds": {"words: rows": 0.5, "words: rows, scikit-learn": 2.0, "votes": 1}},
        "search": {"queries": 100, "tools": {"dexml": search}},
        "whole": {"HPO": {"light": light, "pecos": pecos}},
    }
    lines = bench_lexical.tables(json.loads(json.dumps(report))).splitlines()
    assert "| words: rows | 0.50 | 2.00 | 4.0 |" in lines
    assert "| votes | 1.00 | | |" in lines
    assert "| dexml 1.0 | 0.50 | 2.00 | 70 |" in lines
    assert "| HPO | 30 |  | 10 |  | 3.0 |  |" in lines
