"""The lexical scorer against plain loops over dense rows, after edits, and on odd data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.run import LabelSet
from dexml.scorers import Change, Queries, lexical
from dexml.scorers import lexicon as lexicon_module
from dexml.scorers.candidates import Candidates
from dexml.scorers.lexical import NEIGHBOURS, PROPOSED, TEXT_WEIGHT, VOTE_WEIGHT, LexicalScorer
from dexml.scorers.lexicon import CHAR_WEIGHT, Lexicon
from dexml.scorers.tree import TreeScorer
from small import PARTS, TOPICS

LABELS = [f"{topic} {part}" for topic in TOPICS[:4] for part in PARTS[:3]]
WORDS = [*TOPICS, *PARTS, *"abc"]


def points(n: int, seed: int, n_labels: int = len(LABELS)) -> tuple[list[str], csr_array]:
    rng = np.random.default_rng(seed)
    y = (rng.random((n, n_labels)) < 0.15).astype(np.float32)
    y[:, 2] = 0  # a label without points
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 6))) for _ in range(n)]
    return texts, csr_array(y)


def label_set(texts: Sequence[str]) -> LabelSet:
    return LabelSet.of(texts, np.zeros(len(texts), np.int64))


def built(
    texts: list[str], y: csr_array, labels: LabelSet, lexicon: Lexicon | None = None
) -> LexicalScorer:
    return LexicalScorer.fit(texts, y, labels, lexicon or Lexicon.fit(texts, labels.texts))


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> LexicalScorer:
    """Fewer points than voters, and whole centroids: no ties at a cut."""
    monkeypatch.setattr(lexical, "CENTROID_TERMS", 10_000)
    return built(*points(40, 0), label_set(LABELS))


@pytest.mark.parametrize("n", [0, 1, 40])
def test_joined_rows_of_many_texts_are_made_in_blocks(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, _ = points(n, 0)
    lexicon = Lexicon.fit([*texts, "kernel driver"], LABELS)
    expected = lexicon.rows(texts).joined
    monkeypatch.setattr(lexicon_module, "BLOCK", 7)
    found = lexicon.joined(texts)
    assert found.shape == expected.shape
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


ASKED = ["kernel driver a", "font", "nobody knows this", "", "music player music library", "b c"]


def twin(scorer: LexicalScorer, texts: list[str]) -> dict[str, NDArray[np.float64]]:
    """Each kind of evidence for every pair of text and label, (n, n_labels), by loops."""
    rows = scorer.lexicon.rows(texts)
    own, points = rows.joined.toarray().astype(float), scorer.points.rows.toarray()
    y = scorer.y.toarray()
    n, n_labels = len(texts), scorer.n_labels
    found = {name: np.zeros((n, n_labels)) for name in ("centroid", "text", "name", "votes")}
    nearest = np.zeros((n, n_labels))
    for i in range(n):
        cosines = points @ own[i]
        voters = [p for p in np.argsort(-cosines, kind="stable")[:NEIGHBOURS] if cosines[p] > 0]
        total = sum(cosines[p] ** 3 for p in voters)
        for p in voters:
            found["votes"][i] += y[p] * cosines[p] ** 3 / total
        nearest[i] = max([cosines[p] for p in voters], default=0)
        for label in range(n_labels):
            members = points[y[:, label] > 0]
            if len(members):
                centroid = members.mean(axis=0)
                centroid /= np.linalg.norm(centroid)
                found["centroid"][i, label] = own[i] @ centroid * len(members) / (len(members) + 1)
        found["text"][i] = scorer.words.rows.toarray() @ rows.text.toarray()[i]
        found["name"][i] = scorer.chars.rows.toarray() @ rows.chars.toarray()[i]
    found["lexical"] = (
        found["centroid"] + TEXT_WEIGHT * found["text"] + VOTE_WEIGHT * found["votes"]
    )
    return found | {"log votes": np.log1p(100 * found["votes"]), "nearest": nearest}


def all_pairs(n: int, n_labels: int) -> Candidates:
    return Candidates.union([np.tile(np.arange(n_labels, dtype=np.int32), (n, 1))], n_labels)


def test_features_are_those_of_loops(scorer: LexicalScorer) -> None:
    pairs = all_pairs(len(ASKED), len(LABELS))
    features, expected = scorer.features(Queries(ASKED), pairs), twin(scorer, ASKED)
    for name, wanted in expected.items():
        np.testing.assert_allclose(features[name], wanted.ravel(), atol=2e-6, err_msg=name)
    for name, values in features.items():
        assert values.dtype == np.float32, name
        if name.endswith(" rank"):
            source = features[name.removesuffix(" rank")]
            np.testing.assert_array_equal(values, pairs.ranks(source))
        if name.endswith(" gap"):
            source = features[name.removesuffix(" gap")]
            np.testing.assert_array_equal(values, source - pairs.largest(source))
    assert next(iter(features)) == "lexical"


def test_rows_join_words_and_pieces_of_words(scorer: LexicalScorer) -> None:
    rows = scorer.lexicon.rows(ASKED)
    joined = np.concatenate([CHAR_WEIGHT * rows.chars.toarray(), rows.text.toarray()], axis=1)
    length = np.linalg.norm(joined, axis=1, keepdims=True)
    np.testing.assert_allclose(
        rows.joined.toarray(), joined / np.where(length > 0, length, 1), atol=1e-6
    )
    np.testing.assert_array_equal(rows.words.toarray(), rows.text.toarray())


def test_words_that_came_later_leave_the_rows_of_a_label_tree(scorer: LexicalScorer) -> None:
    lexicon, queries = scorer.lexicon, Queries(["kernel zebra", "font"])
    grown = lexicon.with_texts(["zebra font"])
    assert grown.later.n_tokens == 1  # single words; pairs of them would weaken each
    assert lexicon.with_texts(["font kernel"]) is lexicon
    rows = grown.rows_of(queries)
    assert lexicon.words_of(queries) is grown.words_of(queries) is rows.words
    np.testing.assert_array_equal(rows.words.toarray(), lexicon.rows(queries.texts).words.toarray())
    assert rows.text[0, lexicon.n_text] > 0
    assert rows.joined.shape == (2, grown.n_joined) == (2, lexicon.n_joined + 1)


def test_a_label_may_have_a_word_of_its_own() -> None:
    """Words of a single text are dropped, but not those of labels, and none of few texts."""
    texts, labels = ["a rare word", "a kernel"], ["quokka island", "kernel"]
    assert Lexicon.fit(texts, labels).words.column("rare") is not None
    lexicon = Lexicon.fit([*texts, *["a kernel"] * lexicon_module.FEW_TEXTS], labels)
    assert lexicon.words.column("quokka") is not None
    assert lexicon.words.column("quokka island") is None
    assert lexicon.words.column("rare") is None


def assert_best(
    ids: NDArray[np.int32],
    scores: NDArray[np.float64],
    allowed: NDArray[np.bool_],
) -> None:
    """The labels found are those of the largest scores; those that are equal up to rounding too."""
    for row, values, ok in zip(ids, scores, allowed, strict=True):
        found = row[row >= 0]
        best = np.sort(values[ok & (values > 1e-9)])[::-1][: len(row)]
        assert len(set(found)) == len(found) == len(best)
        assert ok[found].all()
        np.testing.assert_allclose(values[found], best, atol=2e-6)


@pytest.mark.parametrize("k", [1, 4, 30])
@pytest.mark.parametrize("some", [False, True])
def test_search_ranks_all_labels_exactly(scorer: LexicalScorer, k: int, some: bool) -> None:
    """Labels with many votes, but few common words, are not lost."""
    allowed = np.ones((len(ASKED), len(LABELS)), np.bool_)
    exclude, only = None, None
    if some:
        rng = np.random.default_rng(5)
        exclude = csr_array((rng.random(allowed.shape) < 0.2).astype(np.float32))
        only = rng.random(len(LABELS)) < 0.7
        allowed = (exclude.toarray() == 0) & only
    queries = Queries(ASKED)
    ids, scores = scorer.search(queries, k, exclude=exclude, only=only)
    assert ids.shape == scores.shape == (len(ASKED), k)
    assert_best(ids, twin(scorer, ASKED)["lexical"], allowed)
    np.testing.assert_array_equal(scorer.score_pairs(queries, ids), scores)
    for proposed in scorer.propose(queries, exclude=exclude, only=only):
        rows, columns = np.nonzero(proposed >= 0)
        assert allowed[rows, proposed[rows, columns]].all()


def test_every_kind_of_evidence_proposes_its_best(scorer: LexicalScorer) -> None:
    expected = twin(scorer, ASKED)
    base, centroid, votes, text, name = scorer.propose(Queries(ASKED))
    everything = np.ones((len(ASKED), len(LABELS)), np.bool_)
    for kind, found in (("centroid", centroid), ("votes", votes), ("text", text), ("name", name)):
        assert found.shape[1] == PROPOSED[kind]
        assert_best(found, expected[kind], everything)
    np.testing.assert_array_equal(base, scorer.search(Queries(ASKED), PROPOSED["base"])[0])


def test_labels_of_a_mask_are_proposed_as_well(scorer: LexicalScorer) -> None:
    expected, mask = twin(scorer, ASKED), np.arange(len(LABELS)) % 3 == 0
    plain = scorer.propose(Queries(ASKED))
    more = scorer.propose(Queries(ASKED), unseen=(5, mask))
    allowed = np.broadcast_to(mask, (len(ASKED), len(LABELS)))
    for alone, both, kind, k in zip(plain[3:], more[3:], ("text", "name"), (5, 3), strict=True):
        np.testing.assert_array_equal(both[:, :-k], alone)
        assert_best(both[:, -k:], expected[kind], allowed)


def matrices(scorer: LexicalScorer) -> dict[str, NDArray[Any]]:
    return {
        "points": scorer.points.rows.toarray(),
        "y": scorer.y.toarray(),
        "centroids": scorer.centroids.toarray(),
        "words": scorer.words.rows.toarray(),
        "chars": scorer.chars.rows.toarray(),
        "alive": scorer.alive,
    }


def test_edits_give_what_is_built_afresh() -> None:
    """Apart from document frequencies, which stay those of the training."""
    texts, y = points(60, 1)
    more, y_more = points(15, 2, len(LABELS) + 2)
    more[3] = "zebra kernel"
    scorer = built(texts, y, label_set(LABELS))

    labels, added = label_set(LABELS).added(["striped zebra", "kernel quokka"])
    scorer = scorer.update(Change(labels, added=added.astype(np.int64)))
    labels = labels.updated(np.array([1, 13]), ["wombat", "mail quokka"])
    scorer = scorer.update(Change(labels, updated=np.array([1, 13])))
    scorer = scorer.update(Change(labels, points=Queries(more), y=y_more))
    labels = labels.removed(np.array([4]))
    scorer = scorer.update(Change(labels, removed=np.array([4])))

    wide = np.concatenate([np.pad(y.toarray(), ((0, 0), (0, 2))), y_more.toarray()])
    afresh = built([*texts, *more], csr_array(wide), labels, scorer.lexicon)
    expected = matrices(afresh)
    for name, values in matrices(scorer).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    for a, b in zip(
        scorer.search(Queries(ASKED), 20), afresh.search(Queries(ASKED), 20), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_new_label_is_found_by_a_word_that_nobody_knew(scorer: LexicalScorer) -> None:
    labels, added = label_set(LABELS).added(["striped zebra"])
    queries = Queries(["the zebra", "kernel driver"])
    assert scorer.search(queries, 1)[0][0, 0] == -1 or "zebra" not in LABELS
    after = scorer.update(Change(labels, added=added.astype(np.int64)))
    assert after.search(queries, 1)[0][:, 0].tolist() == [12, scorer.search(queries, 1)[0][1, 0]]
    assert scorer.n_labels == 12  # the scorer before the edit stays as it is


def test_a_new_point_votes_at_once_with_words_of_its_own(scorer: LexicalScorer) -> None:
    y = csr_array((np.ones(1, np.float32), [7], [0, 1]), shape=(1, 12))
    after = scorer.update(Change(label_set(LABELS), points=Queries(["zebra crossing"]), y=y))
    ids, _ = after.search(Queries(["crossing of a zebra"]), 1)
    assert ids[0, 0] == 7
    votes, nearest = after.votes(Queries(["zebra crossing"]))
    assert votes.toarray()[0].argmax() == 7
    assert nearest[0] == pytest.approx(1)


def test_removed_labels_are_never_found(scorer: LexicalScorer) -> None:
    queries = Queries(ASKED)
    before = scorer.search(queries, 12)[0]
    gone = int(before[0, 0])
    after = scorer.update(
        Change(label_set(LABELS).removed(np.array([gone])), removed=np.array([gone]))
    )
    found = [after.search(queries, 12)[0], *after.propose(queries)]
    assert not any((part == gone).any() for part in found)
    assert np.isneginf(after.score_pairs(queries, np.full((len(ASKED), 1), gone))).all()


def test_a_label_tree_has_nothing_against_labels_that_came_later(scorer: LexicalScorer) -> None:
    words = scorer.lexicon.rows(points(40, 0)[0]).words
    tree = TreeScorer.fit(words, scorer.y, label_set(LABELS), scorer.lexicon, seed=0)
    labels, added = label_set(LABELS).added(["striped zebra"])
    after = tree.update(Change(labels, added=added.astype(np.int64)))
    pairs = all_pairs(len(ASKED), len(labels))
    for values in after.features(Queries(ASKED), pairs).values():
        np.testing.assert_array_equal(np.isnan(values), pairs.ids == len(LABELS))


def test_one_edit_is_followed_once_by_all_that_share_a_scorer(scorer: LexicalScorer) -> None:
    change = Change(label_set(LABELS).removed(np.array([0])), removed=np.array([0]))
    assert scorer.update(change) is scorer.update(change)


def test_edits_of_labels_leave_the_index_of_points(scorer: LexicalScorer) -> None:
    """It is large, and building it takes a while."""
    index = scorer.points.index
    after = scorer.update(Change(label_set(LABELS).removed(np.array([0])), removed=np.array([0])))
    assert after.points.index is index


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["", "", ""], ["", ""]),
        (["one", "two", "three"], ["four", "four"]),
        (["a", "a", "a"], ["a"]),
        (["内核 驱动", "内核", "音乐"], ["音乐 播放器", "内核"]),
    ],
    ids=["empty", "equal labels", "one label", "without blanks"],
)
def test_odd_texts(texts: list[str], labels: list[str]) -> None:
    y = csr_array(np.eye(3, len(labels), dtype=np.float32))
    scorer = built(texts, y, label_set(labels))
    queries = Queries([*texts, *labels, "unknown"])
    ids, scores = scorer.search(queries, 5)
    assert ids.shape == (len(queries), 5)
    assert (ids < len(labels)).all()
    assert (np.isneginf(scores) == (ids < 0)).all()
    pairs = Candidates.union(scorer.propose(queries), len(labels))
    for values in scorer.features(queries, pairs).values():
        assert np.isfinite(values).all()
    after = scorer.update(
        Change(label_set(labels).added(["unknown"])[0], added=np.array([len(labels)]))
    )
    assert after.search(queries, 1)[0][-1, 0] == len(labels)


def test_equal_labels_come_in_the_order_of_their_ids() -> None:
    scorer = built(
        ["x", "y", "z"], csr_array(np.zeros((3, 3), np.float32)), label_set(["b", "b", "b"])
    )
    assert scorer.search(Queries(["b"]), 3)[0].tolist() == [[0, 1, 2]]
