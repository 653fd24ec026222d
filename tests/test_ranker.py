"""The ranker over members of any kind, and how it is trained and judged."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import topk
from dexml.index import Hits
from dexml.metrics import Evaluator, Result, inv_propensity
from dexml.run import LabelSet
from dexml.scorers import Change, Fusion, Queries, ranker
from dexml.scorers.candidates import Candidates
from dexml.scorers.cooccurrence import BEST, Cooccurrence, companion_scores
from dexml.scorers.ranker import LINEAR, Network, RankedScorer, Shape
from dexml.sealed import Part
from dexml.text.lexical import Also
from dexml.train import asked as asking
from dexml.train import ranking
from dexml.train.asked import Asked, Evidence, ask
from dexml.train.outcome import by_seen
from dexml.train.ranking import group_difference

N_LABELS = 40
TEXTS = [f"text {i}" for i in range(23)]


@dataclass(frozen=True, eq=False)
class Table:
    """Scores of all pairs, in a table; proposes the best few."""

    scores: NDArray[np.float32]
    alive: NDArray[np.bool_]
    width: int = 5

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: csr_array | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        allowed = np.broadcast_to(
            self.alive if only is None else self.alive & only, (len(queries), N_LABELS)
        )
        if exclude is not None:
            allowed = allowed & (exclude.toarray() == 0)
        rows = np.where(allowed, self.scores[[int(t.split()[1]) for t in queries.texts]], -np.inf)
        ids, scores = topk.topk(rows, k)
        return np.where(np.isneginf(scores), -1, ids).astype(np.int32), scores

    def score_pairs(self, queries: Queries, ids: NDArray[Any]) -> NDArray[np.float32]:
        rows = self.scores[[int(text.split()[1]) for text in queries.texts]]
        return np.where(ids >= 0, np.take_along_axis(rows, np.maximum(ids, 0), axis=1), -np.inf)

    def propose(
        self, queries: Queries, *, unseen: Also | None = None, **which: Any
    ) -> list[NDArray[np.int32]]:
        best = [self.search(queries, self.width, **which)[0]]
        if unseen is None:
            return best
        k, mask = unseen
        return [*best, self.search(queries, k, exclude=which.get("exclude"), only=mask)[0]]

    def features(self, queries: Queries, pairs: Candidates) -> dict[str, NDArray[np.float32]]:
        return {"table": pairs.flat(self.score_pairs(queries, pairs.padded))}

    def update(self, change: Change) -> "Table":
        return replace(self, alive=change.labels.alive)

    def facts(self) -> dict[str, Any]:
        return {}

    def parts(self) -> Mapping[str, Part]:
        return {}

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def note(self, k: int) -> str:
        return "table"


def labels_of(n: int = 60) -> csr_array:
    rng = np.random.default_rng(3)
    y = (rng.random((n, N_LABELS)) < 0.08).astype(np.float32)
    y[:, 11] = 0  # a label without points
    return csr_array(y)


@pytest.fixture
def scorer() -> RankedScorer:
    rng = np.random.default_rng(0)
    table = Table(rng.random((len(TEXTS), N_LABELS)).astype(np.float32), np.ones(N_LABELS, bool))
    return RankedScorer((table,), None, Cooccurrence(labels_of()), table.alive)


def table_of(scorer: RankedScorer) -> Table:
    (table,) = scorer.members
    assert isinstance(table, Table)
    return table


def with_network(scorer: RankedScorer) -> RankedScorer:
    """Ranks by companions, so that other labels than the table's come first."""
    queries = Queries(TEXTS)
    pairs = scorer.candidates(queries)
    evidence = scorer.evidence(queries, pairs)
    features = np.stack(list(evidence.values()), axis=1)
    positive = evidence["companions rank"] > -np.log(3)
    network = Network.fit(tuple(evidence), features, pairs.indptr, positive, seed=0)
    return replace(scorer, network=network)


def filter_pairs(seed: int = 4) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array((rng.random((len(TEXTS), N_LABELS)) < 0.3).astype(np.float32))


def test_the_note_says_what_ranks(scorer: RankedScorer) -> None:
    assert scorer.note(5) == "table; no ranker"
    assert with_network(scorer).note(5) == "ranker over table"
    two = replace(scorer, members=scorer.members * 2)
    assert two.note(5) == "table; table; no ranker, scores of the first"


def test_candidates_are_proposals_and_companions(scorer: RankedScorer) -> None:
    queries, exclude = Queries(TEXTS), filter_pairs()
    only = np.random.default_rng(6).random(N_LABELS) < 0.7
    pairs = scorer.candidates(queries, exclude=exclude, only=only)
    table = table_of(scorer)
    best = table.search(queries, BEST, exclude=exclude)
    together = companion_scores(best, scorer.together.companions, N_LABELS).toarray()
    for row in range(len(TEXTS)):
        allowed = (exclude.toarray()[row] == 0) & only
        near = np.where(allowed, together[row], 0)
        companions = [i for i in np.argsort(-near, kind="stable") if near[i] > 0]
        proposed = table.propose(queries, exclude=exclude, only=only)[0][row]
        expected = {*companions[: ranker.COMPANIONS], *proposed[proposed >= 0].tolist()}
        expected |= {label for label in [11] if allowed[label]}  # it has no points
        assert set(pairs.ids[pairs.indptr[row] : pairs.indptr[row + 1]]) == expected


def test_evidence_of_the_labels_themselves(scorer: RankedScorer) -> None:
    queries = Queries(TEXTS)
    pairs = scorer.candidates(queries)
    evidence = scorer.evidence(queries, pairs)
    counts = labels_of().toarray().sum(axis=0)[pairs.ids]
    np.testing.assert_allclose(evidence["log count"], np.log(1 + counts), rtol=1e-6)
    np.testing.assert_array_equal(evidence["unseen"], counts == 0)
    best = table_of(scorer).search(queries, BEST)
    together = companion_scores(best, scorer.together.companions, N_LABELS).toarray()
    np.testing.assert_array_equal(evidence["companions"], together[pairs.rows, pairs.ids])
    assert next(iter(evidence)) == "table"


@pytest.mark.parametrize("lift", [0.5, 3.0, ranker.LIFTED_OVER])
def test_a_lift_raises_labels_without_points_by_their_distance_from_the_best(lift: float) -> None:
    rng = np.random.default_rng(4)
    lengths = [0, 1, 7, 30, 0, 2]
    proposals = np.full((len(lengths), N_LABELS), -1, np.int32)
    for row, n in enumerate(lengths):
        proposals[row, :n] = rng.permutation(N_LABELS)[:n]
    pairs = Candidates.union([proposals], N_LABELS)
    scores = rng.normal(0, 4, len(pairs)).astype(np.float32)
    unseen = (rng.random(len(pairs)) < 0.4).astype(np.float32)
    found = ranker.lifted(pairs, scores, unseen, lift)
    for start, end in itertools.pairwise(pairs.indptr):
        for pair in range(start, end):
            best = float(scores[start:end].max())
            rise = lift * min(1.0, (best - float(scores[pair])) / ranker.LIFTED_OVER)
            assert found[pair] == pytest.approx(scores[pair] + unseen[pair] * rise, abs=1e-5)
            assert found[pair] <= best + 1e-5
        for kind in (0, 1):  # both kinds keep their order among themselves
            own = np.flatnonzero(unseen[start:end] == kind) + start
            order = own[np.argsort(scores[own])]
            assert (np.diff(found[order]) >= -1e-5).all()
    np.testing.assert_array_equal(ranker.lifted(pairs, scores, unseen, 0), scores)


@pytest.mark.parametrize("ranked", [False, True])
def test_search_ranks_the_candidates_by_their_scores(scorer: RankedScorer, ranked: bool) -> None:
    scorer = with_network(scorer) if ranked else scorer
    queries = Queries(TEXTS)
    ids, scores = scorer.search(queries, 4)
    pairs = scorer.candidates(queries)
    everything = scorer.score_pairs(queries, np.tile(np.arange(N_LABELS), (len(TEXTS), 1)))
    known = np.zeros((len(TEXTS), N_LABELS), np.bool_)
    known[pairs.rows, pairs.ids] = True
    np.testing.assert_array_equal(np.isfinite(everything), known)
    best = np.argsort(-everything, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(ids, best)
    np.testing.assert_array_equal(scores, np.take_along_axis(everything, best, axis=1))
    np.testing.assert_array_equal(scorer.score_pairs(queries, ids), scores)
    odd = np.full((len(TEXTS), 2), [-1, N_LABELS])
    assert np.isneginf(scorer.score_pairs(queries, odd)).all()


def test_blocks_do_not_show(scorer: RankedScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, exclude = with_network(scorer), filter_pairs()
    whole = scorer.search(Queries(TEXTS), 6, exclude=exclude)
    pairs = scorer.score_pairs(Queries(TEXTS), whole[0])
    monkeypatch.setattr(ranker, "BLOCK", 5)
    for a, b in zip(whole, scorer.search(Queries(TEXTS), 6, exclude=exclude), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(scorer.score_pairs(Queries(TEXTS), whole[0]), pairs)


def test_filter_pairs_of_one_question_do_not_leak_into_the_next(scorer: RankedScorer) -> None:
    """The texts are the same, and so what is kept of them; the filter pairs are others."""
    scorer, shared = with_network(scorer), Queries(TEXTS)
    for exclude in (None, filter_pairs(4), filter_pairs(5), None):
        fresh = scorer.search(Queries(TEXTS), 5, exclude=exclude)
        kept = scorer.search(shared, 5, exclude=exclude)
        for a, b in zip(fresh, kept, strict=True):
            np.testing.assert_array_equal(a, b)
        if exclude is not None:
            rows = np.repeat(np.arange(len(TEXTS)), 5)
            assert not exclude.toarray()[rows, kept[0].ravel()].any()


def test_more_labels_than_candidates(scorer: RankedScorer) -> None:
    """As many as there are, the first member's own ranking fills up."""
    ids, scores = with_network(scorer).search(Queries(TEXTS), N_LABELS + 5)
    assert (np.sort(ids[:, :N_LABELS], axis=1) == np.arange(N_LABELS)).all()
    assert (ids[:, N_LABELS:] == -1).all()
    assert np.isneginf(scores[:, N_LABELS:]).all()


def test_removed_labels_are_not_even_companions(scorer: RankedScorer) -> None:
    labels = LabelSet.of([f"label {i}" for i in range(N_LABELS)], np.zeros(N_LABELS, np.int64))
    gone = np.array([1, 3, 8])
    after = with_network(scorer).update(Change(labels.removed(gone), removed=gone))
    ids, _ = after.search(Queries(TEXTS), N_LABELS)
    assert not np.isin(ids, gone).any()
    assert np.isneginf(after.score_pairs(Queries(TEXTS), np.tile(gone, (len(TEXTS), 1)))).all()


def test_added_points_count(scorer: RankedScorer) -> None:
    labels = LabelSet.of([f"label {i}" for i in range(N_LABELS)], np.zeros(N_LABELS, np.int64))
    y = csr_array((np.ones(2, np.float32), [11, 12], [0, 2]), shape=(1, N_LABELS))
    after = scorer.update(Change(labels, points=Queries(["a new point"]), y=y))
    assert after.together.counts(N_LABELS)[11] == 1
    assert after.together.companions[11, 12] == pytest.approx(1 / 3)
    assert scorer.together.counts(N_LABELS)[11] == 0


def test_a_ranker_may_be_fused(scorer: RankedScorer) -> None:
    ranked = with_network(scorer)
    fused = Fusion((ranked, table_of(scorer)), (1.0, 0.0))
    for a, b in zip(fused.search(Queries(TEXTS), 5), ranked.search(Queries(TEXTS), 5), strict=True):
        np.testing.assert_array_equal(a, b)


# --- training ---


def asked(n: int = 200, **changes: Any) -> Asked:
    rng = np.random.default_rng(1)
    y = (rng.random((n, N_LABELS)) < 0.06).astype(np.float32)
    values: dict[str, Any] = {
        "texts": [f"text {i}" for i in range(n)],
        "y_true": csr_array(y),
        "inv_propensity": np.ones(N_LABELS),
    }
    return Asked(**(values | changes))


def evidence_of(points: Asked, *, telling: bool = True) -> Evidence:
    """All labels as candidates; the base is noise, another feature tells the positives."""
    rng = np.random.default_rng(2)
    n = len(points.texts)
    pairs = Candidates.union([np.tile(np.arange(N_LABELS, dtype=np.int32), (n, 1))], N_LABELS)
    positive = points.y_true.toarray().ravel() > 0
    base, noise = rng.normal(size=(2, len(pairs)))
    clue = positive * float(telling) + 0.3 * rng.normal(size=len(pairs))
    features = np.stack([base, clue, noise], axis=1).astype(np.float32)
    names, others = ("base", "clue", "noise"), np.ones(len(pairs), np.uint8)
    return Evidence(pairs, names, features, positive, base.astype(np.float32), others)


def test_evidence_is_gathered_in_blocks(
    scorer: RankedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = asked(len(TEXTS), exclude=filter_pairs())
    seen: list[int] = []
    whole = ask(scorer, points, seen.append)
    monkeypatch.setattr(asking, "BLOCK", 7)
    parts = ask(scorer, points, seen.append)
    assert seen == [23, 7, 7, 7, 2]
    np.testing.assert_array_equal(whole.pairs.ids, parts.pairs.ids)
    np.testing.assert_array_equal(whole.pairs.indptr, parts.pairs.indptr)
    np.testing.assert_array_equal(whole.features, parts.features)
    rows, ids = whole.pairs.rows, whole.pairs.ids
    np.testing.assert_array_equal(whole.positive, points.y_true.toarray()[rows, ids] > 0)
    assert not filter_pairs().toarray()[rows, ids].any()
    np.testing.assert_array_equal(whole.base, whole.features[:, whole.names.index("table")])


def with_a_tree(points: Asked, clue: float) -> Evidence:
    """Every other candidate is proposed by the tree alone; `clue`: what its feature tells."""
    plain = evidence_of(points)
    rng = np.random.default_rng(4)
    tree = clue * plain.positive + rng.normal(size=len(plain.pairs))
    return replace(
        plain,
        names=(*plain.names, "tree"),
        features=np.column_stack([plain.features, tree.astype(np.float32)]),
        proposers=np.tile(np.array([2, 3], np.uint8), len(plain.pairs))[: len(plain.pairs)],
    )


def test_evidence_without_a_member_is_read_where_it_is() -> None:
    """Else each training of a network would copy it."""
    assert with_a_tree(asked(20), 1.0).without("tree").features.flags.c_contiguous


def test_without_a_member_its_own_candidates_are_gone() -> None:
    evidence = with_a_tree(asked(), 1.0)
    plain = evidence.without("tree")
    kept = np.flatnonzero(evidence.proposers == 3)
    assert plain.names == ("base", "clue", "noise")
    np.testing.assert_array_equal(plain.pairs.ids, evidence.pairs.ids[kept])
    np.testing.assert_array_equal(plain.pairs.rows, evidence.pairs.rows[kept])
    np.testing.assert_array_equal(plain.features, evidence.features[kept, :3])
    np.testing.assert_array_equal(plain.positive, evidence.positive[kept])
    again = plain.without("bilinear")
    np.testing.assert_array_equal(again.pairs.ids, plain.pairs.ids)


def test_a_member_that_finds_more_is_kept() -> None:
    """Its feature says nothing, but half of the candidates are its own."""
    points = asked()
    choice = ranking.choose(with_a_tree(points, 0.0), points, "P@1", seed=0)
    tree = choice.facts["tree"]
    assert tree["used"]
    assert tree["R@100"]["with"] > tree["R@100"]["without"] + 0.3
    assert len(choice.scores) == len(choice.evidence.pairs)


def test_a_member_that_adds_nothing_is_left_out() -> None:
    points = asked()
    evidence = with_a_tree(points, 0.0)
    others = replace(evidence, proposers=np.full(len(evidence.pairs), 3, np.uint8))
    choice = ranking.choose(others, points, "nDCG@5", seed=0)
    assert not choice.facts["tree"]["used"]
    assert "tree" not in choice.evidence.names


def test_a_ranker_that_helps_is_kept() -> None:
    points = asked()
    choice = ranking.choose(evidence_of(points), points, "nDCG@5", seed=0)
    assert choice.network is not None
    assert choice.facts["used"]
    assert choice.facts["hidden"] == 16
    gain = choice.facts["gain"]["nDCG@5"]
    assert gain["ranker"] > gain["base"] + 0.3
    head, names, *rows = ranking.summary(choice).splitlines()
    assert head == "ranker; cross-validation on 200 points"
    assert names.split()[0] == "nDCG@5"
    assert [row.split("  ")[0] for row in rows] == ["without", "with ranker"]
    assert rows[1].split()[2] == f"{100 * gain['ranker']:.2f}"


def test_recall_of_unseen_labels_is_among_what_a_ranker_is_judged_by() -> None:
    """Labels without fitted points, by the scores of base and ranker (here all are found)."""
    points = asked()
    seen = (np.arange(N_LABELS) >= 3).astype(np.float32)
    grouped = replace(points, label_groups=by_seen(csr_array(seen[None, :])))
    choice = ranking.choose(evidence_of(points), grouped, "nDCG@5", seed=0)
    n_pairs = int(points.y_true.toarray()[:, :3].sum())
    assert n_pairs > 0
    expected = {"base": 1.0, "ranker": 1.0, "pairs": n_pairs}
    assert choice.facts["gain"]["R@100 of unseen labels"] == expected
    names, *rows = ranking.summary(choice).splitlines()[1:]
    assert names.endswith("R@100 of unseen labels")
    assert all(row.endswith(" 100.00") for row in rows)
    without = ranking.choose(evidence_of(points), points, "nDCG@5", seed=0)
    assert "R@100 of unseen labels" not in without.facts["gain"]


def deep(unseen: NDArray[np.bool_], n: int = 150) -> tuple[Evidence, Asked]:
    """Each text has 160 candidates and four positives; labels without points are far below."""
    rng = np.random.default_rng(5)
    n_labels = len(unseen)
    pairs = Candidates.union([np.tile(np.arange(n_labels, dtype=np.int32), (n, 1))], n_labels)
    y = np.zeros((n, n_labels), np.float32)
    for row in range(n):
        for kind in (unseen, ~unseen):
            ids = np.flatnonzero(kind)
            y[row, rng.choice(ids, min(2, len(ids)), replace=False)] = 1
    missing = np.tile(unseen, n)
    scores = rng.normal(0, 1, len(pairs)) + 2 * y.ravel() - 2.5 * missing
    points = Asked(
        [f"text {i}" for i in range(n)],
        csr_array(y),
        np.ones(n_labels),
        label_groups=by_seen(csr_array((~unseen[None, :]).astype(np.float32))),
    )
    features = np.stack([scores, missing], axis=1).astype(np.float32)
    names, base = ("base", "unseen"), features[:, 0].copy()
    others = np.ones(len(pairs), np.uint8)
    return Evidence(pairs, names, features, y.ravel() > 0, base, others), points


def unlifted(
    evidence: Evidence, points: Asked
) -> tuple[Evidence, Asked, NDArray[np.float32], Result, str]:
    ranked = ranking.evaluated(evidence, points, evidence.base, "nDCG@5")
    return evidence, points, evidence.base, ranked, "nDCG@5"


def test_the_best_lift_is_taken_before_all_labels_lose() -> None:
    evidence, points = deep(np.arange(160) % 2 == 0)
    lift, scores, result = ranking.choose_lift(*unlifted(evidence, points))
    names = ("nDCG@5", "P@1", "R@100")

    def at(lift: float) -> tuple[float, Result]:
        raised = ranker.lifted(evidence.pairs, evidence.base, evidence.features[:, 1], lift)
        found = ranking.evaluated(evidence, points, raised, "nDCG@5")
        return found.groups["seen"]["unseen (0)"].metrics["R@100"], found

    plain = at(0)
    allowed = [(-plain[0], 0.0)]
    for one in ranking.LIFTS:
        recall, found = at(one)
        if any(plain[1].metrics[n] - found.metrics[n] > ranking.MAY_LOSE for n in names):
            break
        allowed.append((-recall, one))
    assert lift == min(allowed)[1] > 0
    np.testing.assert_array_equal(
        scores, ranker.lifted(evidence.pairs, evidence.base, evidence.features[:, 1], lift)
    )
    assert result.metrics == at(lift)[1].metrics


@pytest.mark.parametrize(
    ("unseen", "n"),
    [(np.ones(160, np.bool_), 150), (np.zeros(160, np.bool_), 150), (np.arange(160) < 80, 40)],
    ids=["all unseen", "none unseen", "few points"],
)
def test_nothing_is_lifted_where_nothing_can_be_told(unseen: NDArray[np.bool_], n: int) -> None:
    evidence, points = deep(unseen, n)
    lift, scores, _ = ranking.choose_lift(*unlifted(evidence, points))
    assert lift == 0
    np.testing.assert_array_equal(scores, evidence.base)


def test_what_is_chosen_is_lifted() -> None:
    evidence, points = deep(np.arange(160) % 2 == 0)
    evidence = replace(evidence, base=np.zeros_like(evidence.base))
    choice = ranking.choose(evidence, points, "nDCG@5", seed=0)
    lift = choice.facts["lift"]
    assert choice.network is not None
    assert choice.network.lift == lift["lift"] > 0
    assert lift["R@100 of unseen labels"]["with"] > lift["R@100 of unseen labels"]["without"]
    assert "labels without points lifted by" in ranking.summary(choice)


def test_a_ranker_is_kept_without_a_lift_that_would_cost_it_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evidence, points = deep(np.arange(160) % 2 == 0)
    evidence = replace(evidence, base=np.zeros_like(evidence.base))

    def worse(
        evidence: Evidence, asked: Asked, *_: object
    ) -> tuple[float, NDArray[np.float32], Result]:
        return 1.0, evidence.base, ranking.evaluated(evidence, asked, evidence.base, "nDCG@5")

    monkeypatch.setattr(ranking, "choose_lift", worse)
    choice = ranking.choose(evidence, points, "nDCG@5", seed=0)
    assert choice.network is not None
    assert choice.network.lift == choice.facts["lift"]["lift"] == 0
    assert "lifted" not in ranking.summary(choice)
    assert choice.scores.any()


def test_a_ranker_that_does_not_help_is_not() -> None:
    points = asked()
    choice = ranking.choose(evidence_of(points, telling=False), points, "nDCG@5", seed=0)
    assert choice.network is None
    assert not choice.facts["used"]
    assert choice.facts["lift"]["lift"] == 0
    assert "within the noise" in ranking.summary(choice)


def test_few_points_get_a_linear_ranker_that_no_evidence_lowers() -> None:
    points = asked(60)
    evidence = evidence_of(points)
    turned = replace(evidence, features=evidence.features * np.array([1, 1, -1], np.float32))
    for one in (evidence, turned):
        choice = ranking.choose(one, points, "nDCG@5", seed=0)
        assert choice.facts["hidden"] == 0
        assert choice.network is not None
        assert (choice.network.linear >= 0).all()
        assert choice.network.linear[0, 1] > 0


@pytest.mark.parametrize("n", [1, 2, 5])
def test_hardly_any_points(n: int) -> None:
    points = asked(n)
    choice = ranking.choose(evidence_of(points), points, "nDCG@5", seed=0)
    assert choice.facts["points"] == n


@pytest.mark.parametrize("all_positive", [False, True])
def test_nothing_to_learn_from(all_positive: bool) -> None:
    """No positive among the candidates, or nothing else: the base stays."""
    points = asked(50)
    evidence = evidence_of(points)
    evidence = replace(evidence, positive=np.full(len(evidence.pairs), all_positive))
    choice = ranking.choose(evidence, points, "nDCG@5", seed=0)
    assert choice.network is None
    np.testing.assert_array_equal(choice.scores, evidence.base)


def test_texts_without_candidates() -> None:
    points = asked()
    full = evidence_of(points)
    kept, pairs = full.pairs.select(np.arange(150))
    indptr = np.concatenate([kept.indptr, np.full(50, kept.indptr[-1])])
    some = Candidates(indptr, kept.ids, N_LABELS)
    evidence = Evidence(
        some,
        full.names,
        full.features[pairs],
        full.positive[pairs],
        full.base[pairs],
        full.proposers[pairs],
    )
    assert ranking.choose(evidence, points, "P@1", seed=0).network is not None


@pytest.mark.parametrize("grouped", [False, True])
def test_no_point_is_judged_by_a_ranker_that_saw_its_group(
    grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first feature says which point a pair is of; equal texts are a group as well."""
    n = 60
    texts = [f"text {i % 20}" for i in range(n)]
    points = asked(n, texts=texts, groups=[f"g{i % 7}" for i in range(n)] if grouped else None)
    evidence = evidence_of(points)
    features = evidence.features.copy()
    features[:, 0] = evidence.pairs.rows
    evidence = replace(evidence, features=features)
    key = np.array([f"g{i % 7}" if grouped else texts[i] for i in range(n)])
    judged: list[int] = []

    class Spy:
        def __init__(self, seen: set[str]) -> None:
            self.seen = seen

        def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
            rows = np.unique(features[:, 0].astype(int))
            assert not self.seen & set(key[rows])
            judged.extend(rows.tolist())
            return features[:, 1]

    def fit(_: Any, given: Any, indptr: Any, positive: Any, *, texts: Any, **__: Any) -> Spy:
        # Of other texts nothing is learned (test_ranker_core).
        assert given is evidence.features
        assert indptr is evidence.pairs.indptr
        assert positive is evidence.positive
        return Spy(set(key[texts]))

    monkeypatch.setattr(Network, "fit", fit)
    scores = ranking.out_of_fold(evidence, points.keys, Shape(), seed=0)
    assert sorted(judged) == list(range(n))
    np.testing.assert_array_equal(scores, features[:, 1])


def test_the_same_ranker_each_time() -> None:
    points = asked(100)
    evidence = evidence_of(points)
    a, b = (ranking.choose(evidence, points, "nDCG@5", seed=3) for _ in range(2))
    assert a.facts == b.facts
    np.testing.assert_array_equal(a.scores, b.scores)
    assert a.network is not None
    assert b.network is not None
    np.testing.assert_array_equal(
        a.network.score(evidence.features), b.network.score(evidence.features)
    )


def test_positives_may_be_weighted_by_their_propensity() -> None:
    points = asked(100)
    points = replace(points, inv_propensity=inv_propensity(points.y_true))
    plain = ranking.choose(evidence_of(points), points, "nDCG@5", seed=0)
    weighted = ranking.choose(evidence_of(points), points, "nDCG@5", seed=0, favour="tail")
    assert not np.array_equal(plain.scores, weighted.scores)


def test_the_network_is_a_mean_of_small_ones() -> None:
    points = asked(50)
    evidence = evidence_of(points)
    network = Network.fit(
        evidence.names, evidence.features, evidence.pairs.indptr, evidence.positive, seed=0
    )
    x = np.clip((evidence.features.astype(float) - network.mean) / network.deviation, -5, 5)
    expected = np.zeros(len(x))
    for m in range(3):
        z = x @ network.weights[m].T + network.bias[m]
        gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        expected += (x @ network.linear[m] + gelu @ network.output[m]) / 3
    np.testing.assert_allclose(network.score(evidence.features), expected, atol=1e-4)
    assert len(network.score(evidence.features[:0])) == 0
    unknown, average = evidence.features[:5].copy(), evidence.features[:5].copy()
    unknown[:, 1], average[:, 1] = np.nan, network.mean[1]
    np.testing.assert_array_equal(network.score(unknown), network.score(average))


def test_the_linear_ranker_is_one_network() -> None:
    points = asked(50)
    evidence = evidence_of(points)
    network = Network.fit(
        evidence.names,
        evidence.features,
        evidence.pairs.indptr,
        evidence.positive,
        seed=0,
        shape=LINEAR,
    )
    assert network.linear.shape == (1, 3)
    assert network.output.shape == (1, 0)


def test_a_large_group_counts_as_one_when_the_ranker_is_judged() -> None:
    y_true = csr_array(np.eye(6, dtype=np.float32)[[0, 0, 0, 0, 1, 2]])

    def result(ids: list[int]) -> Result:
        evaluator = Evaluator(6, ["P@1"], keep_rows=True)
        evaluator.update(y_true, np.array(ids, np.int32)[:, None])
        return evaluator.result()

    base, ranked = result([0, 0, 0, 0, 5, 5]), result([0, 0, 0, 5, 1, 2])
    groups = ["large"] * 4 + ["b", "c"]
    difference, error = group_difference(base, ranked, "P@1", groups) or (0.0, 0.0)
    means = np.array([-0.25, 1, 1])
    assert difference == pytest.approx(means.mean())
    assert error == pytest.approx(means.std(ddof=1) / np.sqrt(3))
    assert group_difference(base, ranked, "P@1", None) is None
    assert group_difference(base, ranked, "P@1", ["one"] * 6) is None
