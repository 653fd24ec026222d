"""Labels are added, removed and changed while the index is used."""

import threading
from copy import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dexml.index import LabelIndex, exact_search, labels
from test_index import pairs, same, unit

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "update", "reload", "rebuild"]),
        st.integers(0, 12),
        st.integers(0, 10**6),
    ),
    max_size=12,
)


@pytest.mark.parametrize("search", ["exact", "hnsw"])
@settings(max_examples=25)
@given(edits=EDITS, first=st.integers(0, 30), threshold=st.sampled_from([0, 5, 1000]))
def test_any_edits_equal_an_index_built_afresh(
    search: Literal["exact", "hnsw"],
    edits: list[tuple[str, int, int]],
    first: int,
    threshold: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("index") / "index"
    old, labels.PENDING = labels.PENDING, threshold
    try:
        index = LabelIndex.build(unit(0, first, 4), unit(9, 20, 4), search=search)
        twin = dict(enumerate(unit(0, first, 4)))
        next_id = first
        for kind, n, seed in edits:
            some = np.random.default_rng(seed).permutation(sorted(twin))[:n].tolist()
            vectors = unit(seed, n, 4)
            if kind == "add":
                ids = index.add_labels(vectors)
                assert ids.tolist() == list(range(next_id, next_id + n))
                twin |= dict(zip(ids.tolist(), vectors, strict=True))
                next_id += n
            elif kind == "remove":
                index.remove_labels(some)
                for i in some:
                    del twin[i]
            elif kind == "update":
                index.update_labels(some, vectors[: len(some)])
                twin |= dict(zip(some, vectors[: len(some)], strict=True))
            elif kind == "rebuild":
                index.rebuild()
            else:
                index.save(folder)
                index = LabelIndex.load(folder)
        assert index.n_labels == next_id
        kept = np.array(sorted(twin), np.int32)
        assert np.flatnonzero(index.alive).tolist() == kept.tolist()
        afresh = np.stack([twin[int(i)] for i in kept]) if twin else unit(0, 0, 4)
        queries, exclude = unit(5, 8, 4), pairs(1, (8, next_id), 0.2)
        for k in (1, 5, 40):
            ids, scores = exact_search(queries, afresh, k, exclude=exclude[:, kept])
            ids = np.where(ids < 0, -1, kept[ids] if len(kept) else -1)
            same(index.search(queries, k, exclude=exclude, search="exact"), (ids, scores))
            same(index._now.near(queries, k, 10**6, exclude=exclude), (ids, scores))
            same(index.search(queries, k, exclude=exclude), (ids, scores))
            odd = kept % 2 == 1
            ids, scores = exact_search(queries, afresh, k, only=odd)
            ids = np.where(ids < 0, -1, kept[ids] if len(kept) else -1)
            same(index.search(queries, k, only=np.arange(next_id) % 2 == 1), (ids, scores))
    finally:
        labels.PENDING = old


def test_edits_refuse() -> None:
    index = LabelIndex.build(unit(0, 9))
    index.remove_labels([3])
    calls: list[tuple[Any, str]] = [
        (lambda: index.remove_labels([9]), "ids: label 9 lies outside 0..8"),
        (lambda: index.remove_labels([-1]), "ids: label -1 lies outside 0..8"),
        (lambda: index.remove_labels([3]), "ids: label 3 was removed before"),
        (lambda: index.update_labels([3], unit(0, 1)), "label 3 was removed before"),
        (lambda: index.remove_labels([4, 4]), "a label is given twice"),
        (lambda: index.remove_labels([0.5]), "ids: float64"),  # type: ignore[list-item]
        (lambda: index.add_labels(unit(0, 1, 5)), "5 dimensions; the index has 12"),
        (lambda: index.add_labels(np.full((1, 12), np.nan, np.float32)), "row 0 holds NaN"),
        (lambda: index.update_labels([1], unit(0, 2)), "2 rows for 1 ids"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
    assert index.n_labels == 9
    assert index.facts.n_alive == 8
    assert index.add_labels(unit(0, 1)).tolist() == [9]


def test_new_labels_go_into_the_graph_and_a_worn_graph_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "PENDING", 50)
    index = LabelIndex.build(unit(0, 1000), unit(1, 100), search="hnsw", seed=0)
    graph = index._now.graph
    assert graph is not None
    index.add_labels(unit(2, 50))
    assert len(graph) == 1000
    index.add_labels(unit(3, 1))
    assert len(graph) == 1051
    index.remove_labels(np.arange(100))
    index.update_labels(np.arange(100, 200), unit(4, 100))
    index.save(tmp_path / "index")
    assert index._now.graph is graph  # 200 of 1,151 nodes are out of use
    assert index.facts.recalls[0].queries == 100
    index.remove_labels(np.arange(200, 300))
    index.save(tmp_path / "index")
    assert index._now.graph is not graph
    assert index._now.graph is not None
    assert len(index._now.graph) == index.facts.n_alive == 851
    queries = unit(5, 50)
    found = index.search(queries, 10)[0]
    truth = exact_search(queries, index.vectors, 10, only=index.alive)[0]
    assert np.mean(found == truth) > 0.97


def test_recall_is_measured_again_when_an_edited_index_is_saved(tmp_path: Path) -> None:
    index = LabelIndex.build(unit(0, 3000, 32), unit(1, 400, 32), search="hnsw", seed=0)
    assert index.facts.recalls[0].queries == 400
    index.remove_labels(np.arange(300))
    index.save(tmp_path / "index")
    made = LabelIndex.load(tmp_path / "index").facts.recalls[0]
    assert made.queries == 250
    assert made.recall >= 0.99


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_searches_see_the_labels_before_an_edit_or_after_it(
    search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight equal labels come by one edit and go by one: a search sees all of them or none."""
    monkeypatch.setattr(labels, "PENDING", 20)
    query = np.zeros((1, 12), np.float32)
    query[0, 0] = 1
    block = np.repeat(query * 5, 8, axis=0)
    background = unit(0, 400)
    index = LabelIndex.build(background, search=search)  # type: ignore[arg-type]
    index.add_labels(block)
    stop, counts = threading.Event(), {0: 0, 8: 0}
    wrong: list[Any] = []

    def look() -> None:
        try:
            while not stop.is_set():
                ids, scores = index.search(query, 12)
                first = int(ids[0, 0])
                seen = ids[0][scores[0] == 5].tolist()
                if seen not in ([], list(range(first, first + 8))) or (seen and first % 8):
                    wrong.append(ids.tolist())
                counts[len(seen)] += 1
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for step in range(60):
            old = np.arange(400 + 8 * step, 408 + 8 * step)
            if step % 2:
                index.update_labels(old, block * 0)
            else:
                index.remove_labels(old)
            index.add_labels(block)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:1]
    assert counts[8] > 0


def test_copies_share_what_neither_changes_and_know_where_they_came_from(tmp_path: Path) -> None:
    index = LabelIndex.build(unit(0, 50))
    index.save(tmp_path / "index")
    other = copy(index)
    other.remove_labels([3])
    assert index.alive.all()
    other.save(tmp_path / "index")
    index.remove_labels([4])
    with pytest.raises(RuntimeError, match="changed by another process since it was opened"):
        index.save(tmp_path / "index")
    assert np.flatnonzero(~LabelIndex.load(tmp_path / "index").alive).tolist() == [3]


def test_a_copy_that_grows_the_shared_graph_does_not_spoil_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "PENDING", 0)
    index = LabelIndex.build(unit(0, 300), unit(1, 20), search="hnsw", seed=0)
    other, stop = copy(index), threading.Event()

    def edit() -> None:
        while not stop.is_set():
            other.add_labels(unit(2, 1))

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        for i in range(10):
            index.save(tmp_path / str(i))
    finally:
        stop.set()
        thread.join()
    for i in range(10):
        assert LabelIndex.load(tmp_path / str(i)).n_labels == 300
