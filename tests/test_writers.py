"""What a writer of `dexml.data` or `dexml.sampling` accepts, its reader accepts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml.data import (
    load_pairs,
    load_scores,
    save_dataset,
    save_labels,
    save_pairs,
    save_scores,
)
from dexml.sampling import LabelGraph

TWICE = csr_array((np.ones(3, np.float32), [2, 2, 0], [0, 2, 3, 3]), shape=(3, 3))
NAN = csr_array(np.array([[0, 0.5, 0], [0, np.nan, 1], [0, 0, 0]]))


def out_of_range() -> csr_array:
    y = csr_array(np.eye(3, dtype=np.float32))
    y.indices[1] = 7
    return y


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: save_scores(path, TWICE), "y: row 0: duplicate label 2"),
        (lambda path: save_scores(path, NAN), "y: row 1: score of label 1 is NaN"),
        (lambda path: save_scores(path, out_of_range()), "y: row 1: label 7 out of range"),
        (lambda path: save_labels(path, TWICE), "y: row 0: duplicate label 2"),
        (lambda path: save_labels(path, NAN), "y: row 1: value is not finite"),
        (lambda path: save_pairs(path, TWICE), "pairs: row 0: duplicate label 2"),
        (lambda path: save_pairs(path, out_of_range()), "pairs: row 1: label 7 out of range"),
        (lambda path: LabelGraph(TWICE).save(path), "neighbours: row 0: duplicate label 2"),
        (lambda path: LabelGraph(NAN).save(path), "neighbours: row 1: value is not finite"),
        (lambda path: save_dataset(path, [], (["a"], [[]])), "label_texts: empty; a data set"),
        (
            lambda path: save_dataset(path, ["a", "b"], (["x"], csr_array([[0.0, -1.0]]))),
            "trn labels: row 0: truth value of label 1 must be >= 0, not -1",
        ),
        (
            lambda path: save_dataset(path, list("abc"), (list("xyz"), TWICE)),
            "trn labels: row 0: duplicate label 2",
        ),
    ],
)
def test_a_writer_refuses_what_its_reader_refuses(
    write: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "y.npz")
    assert not list(tmp_path.iterdir())


def test_scores_may_be_infinite_and_in_any_order(tmp_path: Path) -> None:
    y = csr_array((np.array([np.inf, -1.0, -np.inf]), [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    save_scores(tmp_path / "y.npz", y)
    assert load_scores(tmp_path / "y.npz").toarray().tolist() == y.toarray().tolist()


def test_an_unsorted_graph_is_written_sorted(tmp_path: Path) -> None:
    weights = csr_array((np.array([1.0, 2, 3, 4]), [1, 0, 1, 0], [0, 2, 4]), shape=(2, 2))
    LabelGraph(weights).save(tmp_path / "graph.npz")
    loaded = LabelGraph.load(tmp_path / "graph.npz").neighbours
    assert loaded.indices.tolist() == [0, 1, 0, 1]
    assert loaded.toarray().tolist() == weights.toarray().tolist()


def test_pairs_are_read_back(tmp_path: Path) -> None:
    pairs = csr_array((np.zeros(3), [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    save_pairs(tmp_path / "pairs.txt", pairs)
    loaded = load_pairs(tmp_path / "pairs.txt", (2, 3))
    assert loaded.toarray().tolist() == [[1, 0, 1], [0, 1, 0]]
