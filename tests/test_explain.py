"""Why a label has its score: the parts, the points that voted, the words that matched."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz

from dexml import train
from dexml.commands.index import main as index_main
from dexml.console import run as run_command
from dexml.predict import Explanation, Predictor, open_run
from dexml.predict.served import lexical_of
from dexml.scorers import Fusion, Queries
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.meanings import Group
from dexml.scorers.ranker import RankedScorer
from dexml.train import TrainSettings
from small import confusing_data, part_path, train_settings
from voting import voting_run

TEXT = "secret3 kernel driver"
KINDS = ("light", "light without ranker", "full", "votes", "dense")


def light_settings(data: Path, out: Path, **changes: Any) -> TrainSettings:
    values: dict[str, Any] = {"encoder": "none", "quiet": True, "seed": 1, "validation": 0.3}
    return TrainSettings(data_dir=data, out=out, **(values | changes))


@pytest.fixture(scope="module")
def confusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return confusing_data(tmp_path_factory.mktemp("data") / "confusing")


@pytest.fixture(scope="module")
def folder_of(
    confusing: Path, tiny_encoder: Path, run_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """One run of each kind, made when it is asked for; nobody may write in it."""
    known: dict[str, Path] = {"dense": run_dir}

    def made(kind: str) -> Path:
        if kind in known:
            return known[kind]
        out = tmp_path_factory.mktemp("runs") / "run"
        if kind == "full":
            changes = {"ranker": "auto", "validation": 0.3, "head_epochs": 2}
            train.train(train_settings(confusing, tiny_encoder, out, **changes))
        elif kind == "votes":
            voting_run(run_dir, out)
        else:
            ranker = "none" if kind == "light without ranker" else "auto"
            train.train(light_settings(confusing, out, ranker=ranker))
        known[kind] = out
        return out

    return made


@pytest.fixture(params=KINDS)
def predictor(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Predictor:
    return Predictor.open(folder_of(request.param), threads=1)


@pytest.fixture
def light(folder_of: Callable[[str], Path]) -> Predictor:
    return Predictor.open(folder_of("light"))


@pytest.fixture
def own_folder(folder_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A light run that may be changed."""
    return Path(shutil.copytree(folder_of("light"), tmp_path / "own"))


def total(one: Explanation) -> float:
    return one.start + sum(evidence.contribution for evidence in one.evidence)


# --- scores and ranks ---


def test_the_parts_sum_to_the_scores_of_predict(predictor: Predictor) -> None:
    for text in (TEXT, "secret9 mail", "printer theme a"):
        ids, scores = predictor.predict([text], 4)
        found = predictor.explain_best(text, 4)
        assert [one.label_id for one in found] == ids[0].tolist()
        assert [one.rank for one in found] == [1, 2, 3, 4]
        for one, score in zip(found, scores[0], strict=True):
            assert one.score == pytest.approx(score, abs=1e-5)
            assert total(one) == pytest.approx(score, abs=1e-5)
            assert sum(one.parts.values()) == pytest.approx(total(one) - one.start, abs=1e-9)
            assert one.label_text == predictor.label_texts[one.label_id]


def test_what_a_label_without_points_is_lifted_by_is_part_of_unseen(
    folder_of: Callable[[str], Path],
) -> None:
    opened = open_run(folder_of("light"))
    scorer = opened.scorer
    assert isinstance(scorer, RankedScorer)
    assert scorer.network is not None
    raised = replace(scorer, network=replace(scorer.network, lift=2.0))
    plain, lifted = Predictor(opened, scorer), Predictor(opened, raised)
    for one in (plain, lifted):
        one.add_labels(["printer theme in amber"])
    new = len(plain.label_texts) - 1
    before, after = (one.explain(TEXT, new) for one in (plain, lifted))
    assert after.score is not None
    assert before.score is not None
    assert after.score > before.score
    assert total(after) == pytest.approx(after.score, abs=1e-5)
    ids, scores = lifted.predict([TEXT], len(lifted.label_texts))
    assert scores[0][ids[0] == new] == pytest.approx(after.score, abs=1e-5)
    rises = {
        a.name: a.contribution - b.contribution
        for a, b in zip(after.evidence, before.evidence, strict=True)
    }
    assert rises.pop("unseen") == pytest.approx(after.score - before.score, abs=1e-5)
    assert set(rises.values()) == {0.0}


def test_a_label_is_asked_for_by_id_or_text(predictor: Predictor) -> None:
    best = predictor.explain_best(TEXT, 1)[0]
    assert predictor.explain(TEXT, best.label_id) == best
    assert predictor.explain(TEXT, best.label_text) == best
    assert predictor.explain(TEXT, np.int32(best.label_id)) == best


def test_ranks_are_those_of_a_full_ranking(predictor: Predictor) -> None:
    ids = predictor.predict([TEXT], 64).ids[0]
    for rank in (5, 20, 40):
        if ids[rank - 1] >= 0:
            assert predictor.explain(TEXT, int(ids[rank - 1])).rank == rank


def test_all_evidence_has_a_meaning(predictor: Predictor) -> None:
    """A new feature needs a line in the `meanings` of its scorer."""
    found = predictor.explain_best(TEXT, 1)[0]
    assert [e.name for e in found.evidence if e.group == Group.OTHER] == []
    if isinstance(predictor.scorer, RankedScorer):
        queries = Queries([TEXT])
        names = predictor.scorer.evidence(queries, predictor.scorer.candidates(queries))
        assert not set(names) - set(predictor.scorer.meanings())


@pytest.mark.parametrize("kind", ["light", "full"])
def test_values_are_the_evidence_of_the_ranker(kind: str, folder_of: Callable[[str], Path]) -> None:
    predictor = Predictor.open(folder_of(kind))
    scorer = predictor.scorer
    assert isinstance(scorer, RankedScorer)
    assert scorer.network is not None
    queries = Queries([TEXT])
    pairs = scorer.candidates(queries)
    evidence = scorer.evidence(queries, pairs)
    one = predictor.explain_best(TEXT, 1)[0]
    at = int(np.flatnonzero(pairs.ids == one.label_id)[0])
    assert {e.name: e.value for e in one.evidence} == {
        name: float(evidence[name][at]) for name in scorer.network.names
    }
    assert one.n_ranked == len(pairs)
    groups = {Group.WORDS, Group.BY_WORDS, Group.COMPANIONS, Group.FREQUENCY}
    assert set(one.parts) - {Group.TREE, Group.BILINEAR} == groups | (
        {Group.DENSE, Group.BY_MEANING} if kind == "full" else set()
    )


def test_the_parts_without_a_ranker_are_the_terms_of_the_sum(
    folder_of: Callable[[str], Path],
) -> None:
    light = Predictor.open(folder_of("light without ranker")).explain_best(TEXT, 1)[0]
    assert [e.name for e in light.evidence] == ["centroid", "text", "votes"]
    assert light.start == 0
    for e, weight in zip(light.evidence, (1, 0.3, 0.2), strict=True):
        assert e.value is not None
        assert e.contribution == pytest.approx(weight * e.value)
    voted = Predictor.open(folder_of("votes")).explain_best(TEXT, 1)[0]
    assert [e.name for e in voted.evidence] == ["cosine", "bias", "dense votes"]
    assert voted.evidence[2].contribution == pytest.approx(3 * (voted.evidence[2].value or 0))
    dense = Predictor.open(folder_of("dense")).explain_best(TEXT, 1)[0]
    assert [e.name for e in dense.evidence] == ["cosine", "bias"]
    assert abs(dense.evidence[0].value or 9) <= 1 + 1e-5
    assert (dense.neighbours, dense.words) == ((), ())


def test_filter_pairs_and_groups_of_labels(predictor: Predictor) -> None:
    exclude = csr_array((np.ones(1, np.float32), [3], [0, 1]), shape=(1, 64))
    which: dict[str, Any] = {"exclude": exclude, "only": [0, 3, 9, 20]}
    ids, scores = predictor.predict([TEXT], 4, **which)
    found = predictor.explain_best(TEXT, 4, **which)
    assert [one.label_id for one in found] == [i for i in ids[0].tolist() if i >= 0]
    assert [one.score for one in found] == pytest.approx(scores[0][: len(found)].tolist(), abs=1e-5)
    assert predictor.explain(TEXT, found[0].label_id, **which).rank == 1
    assert predictor.explain(TEXT, 3, **which).rank is None
    assert predictor.explain(TEXT, 40, **which).rank is None


def test_a_label_that_nobody_proposes_is_explained_too(light: Predictor) -> None:
    one = light.explain(TEXT, 40, only=[0, 3, 9])
    assert (one.score, one.rank) == (None, None)
    assert 0 < one.n_ranked <= 3
    assert np.isfinite(total(one))
    assert {e.name for e in one.evidence} == {e.name for e in light.explain(TEXT, 3).evidence}
    nothing = light.explain(TEXT, 3, only=[])
    assert (nothing.score, nothing.n_ranked, nothing.n_points) == (None, 0, light_points(light, 3))
    assert light.explain_best(TEXT, 3, only=[]) == []


def test_a_text_without_a_known_word(light: Predictor) -> None:
    one = light.explain("日本", 3)
    assert one.neighbours[0].points == ()
    assert [(shared.total, shared.terms) for shared in one.words] == [(0, ())] * 3
    assert np.isfinite(total(one))


def light_points(predictor: Predictor, label: int) -> int:
    lexical = lexical_of(predictor.scorer)
    assert lexical is not None
    return int((lexical.y.toarray()[:, label] > 0).sum())


def test_many_labels_have_the_scores_of_predict(light: Predictor) -> None:
    """Beyond a hundred labels more of them are ranked."""
    for i in range(100):
        light.add_labels([f"kernel addition {i}"])
    ids, scores = light.predict([TEXT], 130)
    found = light.explain_best(TEXT, 130)
    assert [one.label_id for one in found] == ids[0][ids[0] >= 0].tolist()
    for one, score in zip(found, scores[0], strict=False):
        assert one.score == pytest.approx(score, abs=1e-5)


def test_other_scorers_are_terms_of_a_sum(folder_of: Callable[[str], Path]) -> None:
    opened = open_run(folder_of("votes"))
    dense = opened.scorer.dense  # type: ignore[attr-defined]

    class Constant:
        def search(self, queries: Queries, k: int, **_: Any) -> tuple[Any, Any]:
            return np.zeros((1, k), np.int32), np.ones((1, k), np.float32)

        def score_pairs(self, queries: Queries, ids: NDArray[Any]) -> NDArray[np.float32]:
            return np.where(ids < 30, 1.0, -np.inf).astype(np.float32)

    own: Any = Constant()
    predictor = Predictor(opened, Fusion((dense, own), (2.0, 0.5)))
    one = predictor.explain_best("kernel driver", 1)[0]
    assert [e.name for e in one.evidence] == ["cosine", "bias", "score"]
    assert one.evidence[2].meaning == "score of Constant"
    assert one.evidence[2].contribution == 0.5
    assert total(one) == pytest.approx(one.score, abs=1e-5)
    assert [e.name for e in predictor.explain("kernel driver", 31).evidence] == ["cosine", "bias"]


# --- who voted, and which words matched ---


def lexical(predictor: Predictor) -> LexicalScorer:
    found = lexical_of(predictor.scorer)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["light", "light without ranker", "full"])
def test_neighbours_by_words_are_those_of_brute_force(
    kind: str, folder_of: Callable[[str], Path], confusing: Path
) -> None:
    predictor = Predictor.open(folder_of(kind))
    scorer = lexical(predictor)
    own = scorer.lexicon.rows([TEXT]).joined.toarray()[0].astype(float)
    cosines = scorer.points.rows.toarray() @ own
    order = np.argsort(-cosines, kind="stable")[:50]
    order = order[cosines[order] > 0]
    shares = cosines[order] ** 3 / (cosines[order] ** 3).sum()
    y = load_npz(confusing / "Y.trn.npz").toarray()
    texts = (confusing / "raw" / "trn_X.txt").read_text().splitlines()
    one = predictor.explain(TEXT, 3)
    (found,) = (n for n in one.neighbours if n.by == "words")
    assert found.n_voters == len(order)
    has = y[order, 3] > 0
    assert found.n_with_label == has.sum() > 0
    assert found.share == pytest.approx(shares[has].sum(), abs=1e-6)
    wanted = sorted({*range(5), *np.flatnonzero(has)[:5].tolist()})
    assert [p.row for p in found.points] == order[wanted].tolist()
    for point, at in zip(found.points, wanted, strict=True):
        assert point.text == texts[point.row]
        assert point.has_label == has[at]
        assert point.cosine == pytest.approx(cosines[order[at]], abs=1e-6)
        assert point.share == pytest.approx(shares[at], abs=1e-6)
    vote = next(e for e in one.evidence if e.name == "votes")
    assert vote.value == pytest.approx(found.share, abs=1e-6)
    assert one.n_points == (y[:, 3] > 0).sum()


def test_neighbours_by_meaning_are_those_of_brute_force(
    folder_of: Callable[[str], Path], confusing: Path
) -> None:
    predictor = Predictor.open(folder_of("full"))
    memory = predictor.memory
    assert memory is not None
    vector = predictor.dense.vectors(Queries([TEXT]))[0, :-1].astype(float)
    cosines = memory.points.base @ (vector / np.linalg.norm(vector))
    order = np.lexsort((np.arange(len(cosines)), -cosines.astype(np.float32)))[:20]
    grown = np.exp((cosines[order] - cosines[order[0]]) / memory.settings.temperature)
    one = predictor.explain_best(TEXT, 1)[0]
    (found,) = (n for n in one.neighbours if n.by == "meaning")
    assert found.n_voters == memory.settings.neighbours == 20
    has = load_npz(confusing / "Y.trn.npz").toarray()[order, one.label_id] > 0
    assert found.n_with_label == has.sum()
    assert found.share == pytest.approx((grown / grown.sum())[has].sum(), abs=1e-4)
    vote = next(e for e in one.evidence if e.name == "dense votes")
    assert vote.value == pytest.approx(found.share, abs=1e-5)
    texts = (confusing / "raw" / "trn_X.txt").read_text().splitlines()
    assert all(p.text == texts[p.row] for p in found.points)


@pytest.mark.parametrize("label", [0, 3, 12])
def test_matched_words_are_those_of_brute_force(light: Predictor, label: int) -> None:
    scorer = lexical(light)
    rows, lexicon = scorer.lexicon.rows([TEXT]), scorer.lexicon
    pieces = [lexicon.chars.token(c) for c in range(lexicon.chars.n_tokens)]
    words = [lexicon.words.token(c) for c in range(lexicon.words.n_tokens)]
    n = light_points(light, label)
    products = {
        "text": (rows.text, scorer.words.rows, words, 1.0),
        "name": (rows.chars, scorer.chars.rows, pieces, 1.0),
        "centroid": (rows.joined, scorer.centroids, [*pieces, *words], n / (n + 1)),
    }
    one = light.explain(TEXT, label)
    values = {e.name: e.value for e in one.evidence}
    assert [shared.feature for shared in one.words] == ["text", "name", "centroid"]
    for shared in one.words:
        own, theirs, terms, factor = products[shared.feature]
        parts = own.toarray()[0].astype(float) * theirs.toarray()[label] * factor
        assert shared.n_terms == np.count_nonzero(parts)
        assert shared.total == pytest.approx(parts.sum(), abs=1e-6)
        assert shared.total == pytest.approx(values[shared.feature], abs=1e-5)
        for kind, inside in (("word", slice(len(terms) - len(words), None)), ("piece", slice(0))):
            if kind == "piece" and shared.feature != "text":
                inside = slice(0, len(pieces))
            named = [match for match in shared.terms if match.kind == kind]
            if shared.feature == "name" and kind == "word":
                assert not named
                continue
            expected = np.sort(parts[inside])[::-1][:10]
            assert [m.part for m in named] == pytest.approx(expected[expected > 0].tolist())
            for match in named:
                where = [i for i, term in enumerate(terms) if term == match.term]
                assert any(parts[i] == pytest.approx(match.part) for i in where)
        if shared.feature == "centroid":
            assert shared.pieces == pytest.approx(parts[: len(pieces)].sum(), abs=1e-6)


# --- as plain data ---


def test_json_holds_everything(predictor: Predictor) -> None:
    one = predictor.explain_best(TEXT, 2)[1]
    found = json.loads(json.dumps(one.as_json()))
    assert list(found) == [
        *("id", "text", "score", "probability", "rank", "n_ranked", "n_points", "start", "parts"),
        *("evidence", "neighbours", "words", "pairs"),
    ]
    assert (found["id"], found["text"]) == (one.label_id, one.label_text)
    assert sum(found["parts"].values()) + found["start"] == pytest.approx(found["score"], abs=1e-5)
    for evidence in found["evidence"]:
        assert list(evidence) == ["name", "group", "meaning", "value", "contribution"]
        assert evidence["group"] in found["parts"]
    for neighbours in found["neighbours"]:
        assert list(neighbours) == ["by", "n_voters", "n_with_label", "share", "points"]
        for point in neighbours["points"]:
            assert list(point) == ["row", "text", "cosine", "share", "has_label"]
    assert (found["pairs"] is None) == (one.pairs is None)
    for words in found["words"]:
        assert list(words) == ["feature", "total", "pieces", "n_terms", "terms"]
        for term in words["terms"]:
            assert list(term) == ["term", "kind", "part"]


def test_evidence_that_cannot_be_known_has_no_value(own_folder: Path) -> None:
    predictor = Predictor.open(own_folder)
    (new,) = predictor.add_labels(["kernel wombat"])
    one = predictor.explain("a kernel wombat", int(new))
    tree = [e.value for e in one.evidence if e.group == Group.TREE]
    assert not tree or set(tree) == {None}
    assert json.loads(json.dumps(one.as_json()))["rank"] == one.rank


# --- edits ---


def test_added_points_and_labels_are_explained(own_folder: Path) -> None:
    predictor = Predictor.open(own_folder)
    (new,) = predictor.add_labels(["wombat burrow"])
    (row,) = predictor.add_points(["quokka island\nof rats"], [[int(new), 5]])
    found = predictor.explain("a quokka island", int(new))
    point = found.neighbours[0].points[0]
    assert (point.row, point.text, point.has_label) == (row, "quokka island of rats", True)
    assert found.n_points == 1
    predictor.update_labels([7], ["numbat colony"])
    shared = predictor.explain("numbat", "numbat colony").words[0]
    assert [match.term for match in shared.terms] == ["numbat"]
    asked = [("a quokka island", int(new)), ("numbat", 7), (TEXT, 3)]
    before = [predictor.explain(*one) for one in asked]
    predictor.save()
    assert [predictor.explain(*one) for one in asked] == before
    again = Predictor.open(own_folder)
    assert [again.explain(*one) for one in asked] == before
    again.add_points(["quoll"], [[3]])
    again.save()
    last = Predictor.open(own_folder)
    assert last.explain("quoll", 3).neighbours[0].points[0].text == "quoll"
    assert last.explain(*asked[0]).neighbours == before[0].neighbours


def test_added_points_of_a_full_run_are_explained(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folder_of("full"), tmp_path / "own"))
    predictor = Predictor.open(folder)
    (row,) = predictor.add_points(["quokka kernel"], [[3]])
    predictor.save()
    for one in (predictor, Predictor.open(folder)):
        by = {n.by: n for n in one.explain("quokka kernel", 3).neighbours}
        for neighbours in by.values():
            assert (row, "quokka kernel") in [(p.row, p.text) for p in neighbours.points]


def test_dropping_edits_of_labels_keeps_the_points_and_their_texts(own_folder: Path) -> None:
    predictor = Predictor.open(own_folder)
    predictor.add_labels(["wombat burrow"])
    predictor.add_points(["quokka island"], [[64, 5]])
    predictor.save()
    assert run_command(index_main, [str(own_folder), "--overwrite", "--quiet"]) == 0
    point = Predictor.open(own_folder).explain("quokka island", 5).neighbours[0].points[0]
    assert (point.text, point.has_label) == ("quokka island", True)


def test_edits_of_labels_leave_the_file_of_texts_alone(own_folder: Path) -> None:
    before = part_path(own_folder, "points/texts")
    predictor = Predictor.open(own_folder)
    predictor.remove_labels([9])
    predictor.save()
    assert part_path(own_folder, "points/texts") == before
    assert predictor.explain(TEXT, 3).neighbours[0].points[0].text


# --- texts of points ---


def test_texts_may_be_left_out(confusing: Path, tmp_path: Path, light: Predictor) -> None:
    out = tmp_path / "run"
    train.train(light_settings(confusing, out, keep_texts=False))
    assert "points" not in json.loads((out / "run.json").read_text())
    assert not (out / "points").exists()
    predictor = Predictor.open(out)
    found, known = (one.explain(TEXT, 3).neighbours[0] for one in (predictor, light))
    assert [p.row for p in found.points] == [p.row for p in known.points]
    assert {p.text for p in found.points} == {None}
    predictor.add_points(["quokka"], [[3]])
    predictor.save()
    assert Predictor.open(out).explain("quokka", 3).neighbours[0].points[0].text is None


def test_without_refit_rows_and_texts_are_those_of_the_fitted_points(
    confusing: Path, tmp_path: Path
) -> None:
    train.train(light_settings(confusing, tmp_path / "run", refit=False))
    found = Predictor.open(tmp_path / "run").explain(TEXT, 3).neighbours[0].points
    assert found
    for point in found:
        assert point.has_label == ("secret3" in (point.text or "").split())


def test_texts_are_read_only_when_they_are_asked_for(own_folder: Path) -> None:
    predictor = Predictor.open(own_folder)
    part_path(own_folder, "points/texts").write_bytes(b"damaged")
    assert predictor.predict([TEXT], 1).ids[0, 0] == 3
    with pytest.raises(ValueError, match=r"points/texts-.*damaged"):
        predictor.explain(TEXT, 3)
    with pytest.raises(ValueError, match=r"points/texts-.*damaged"):
        Predictor.open(own_folder)


def test_texts_that_another_process_has_replaced(own_folder: Path) -> None:
    predictor, other = Predictor.open(own_folder), Predictor.open(own_folder)
    other.add_points(["quokka"], [[3]])
    other.save()
    with pytest.raises(RuntimeError, match=r"changed by another process .* open it again"):
        predictor.explain(TEXT, 3)
    assert other.explain("quokka", 3).neighbours[0].points[0].text == "quokka"


def test_a_training_without_votes_keeps_no_texts(run_dir: Path) -> None:
    assert "points" not in json.loads((run_dir / "run.json").read_text())


def test_texts_that_do_not_fit_the_points_are_refused(own_folder: Path) -> None:
    from small import rewrite_info

    rewrite_info(own_folder, points={"n_texts": 7})
    with pytest.raises(ValueError, match="7 texts for 400 points"):
        Predictor.open(own_folder)
    rewrite_info(own_folder, "points.n_texts")
    with pytest.raises(ValueError, match=r"points.n_texts"):
        Predictor.open(own_folder)


# --- wrong calls ---


def test_labels_that_are_not_there(own_folder: Path) -> None:
    predictor = Predictor.open(own_folder)
    gone = predictor.label_texts[9]
    predictor.remove_labels([9])
    predictor.add_labels(["twice", "twice"])
    cases: list[tuple[Any, type[Exception], str]] = [
        (66, ValueError, r"label: 66 lies outside 0\.\.65"),
        (-1, ValueError, "label: -1 lies outside"),
        (9, ValueError, "label: 9 was removed"),
        (gone, ValueError, f"label: '{gone}' was removed"),
        ("no such", ValueError, "label: 'no such' is no label"),
        ("twice", ValueError, r"2 labels have the text 'twice': give an id \(64, 65\)"),
        (1.5, TypeError, "label is float; give the id of a label, or its text"),
        (None, TypeError, "label is NoneType"),
    ]
    for label, kind, message in cases:
        with pytest.raises(kind, match=message):
            predictor.explain(TEXT, label)


def test_wrong_arguments(light: Predictor) -> None:
    text: Any = [TEXT]
    with pytest.raises(TypeError, match="text is list; expected a string"):
        light.explain(text, 3)
    with pytest.raises(ValueError, match="not valid Unicode"):
        light.explain("\ud800", 3)
    with pytest.raises(ValueError, match="k = 0; expected at least 1"):
        light.explain_best(TEXT, 0)
    with pytest.raises(ValueError, match=r"exclude: shape \(2, 64\)"):
        light.explain(TEXT, 3, exclude=csr_array((2, 64), dtype=np.float32))
    with pytest.raises(ValueError, match="only"):
        light.explain(TEXT, 3, only=[999])
