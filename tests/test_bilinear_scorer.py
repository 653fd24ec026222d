"""The bilinear scorer: labels without features, edits, files, explanations, and the command."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml.commands.zest import main
from dexml.predict import Predictor, open_run
from dexml.predict.served import bilinear_of
from dexml.run import LabelSet
from dexml.scorers import Change, Queries
from dexml.scorers.bilinear import BilinearScorer
from dexml.scorers.candidates import Candidates
from dexml.scorers.products import products
from dexml.text.bilinear import BilinearFeatures
from small import PARTS, TOPICS, part_path

LABELS = [f"{topic} {part}" for topic in TOPICS[:4] for part in PARTS[:3]]


def points(n: int, seed: int, *, unseen: bool = True) -> tuple[list[str], csr_array]:
    """Texts that name their labels; an unseen label 2 has no point, though its words occur."""
    rng = np.random.default_rng(seed)
    y = rng.random((n, len(LABELS))) < 0.15
    y[:, 2] &= not unseen
    y[np.arange(n), np.arange(n) % 2] = True
    texts = [" and ".join(LABELS[i] for i in np.flatnonzero(row)) + " thing" for row in y]
    return texts, csr_array(y.astype(np.float32))


def label_set(texts: list[str]) -> LabelSet:
    return LabelSet.of(texts, np.zeros(len(texts), np.int64))


@pytest.fixture(scope="module")
def made() -> BilinearScorer:
    texts, y = points(60, 0)
    y = csr_array((y.data, y.indices, y.indptr), shape=(60, len(LABELS) + 1))
    return BilinearScorer.fit(texts, y, label_set([*LABELS, "???"]), seed=0)


ASKED = Queries(["kernel player", "printer driver", "nothing of all this", ""])


def test_a_label_without_points_is_found_by_its_words(made: BilinearScorer) -> None:
    ids, scores = made.search(Queries([LABELS[2]]), 3)
    assert 2 in ids[0]
    assert (np.diff(scores[0]) <= 0).all()


def test_pairs_have_the_scores_of_the_search(made: BilinearScorer) -> None:
    ids, scores = made.search(ASKED, 8)
    np.testing.assert_array_equal(made.score_pairs(ASKED, ids), scores)
    assert ids[3].tolist() == [-1] * 8  # an empty text has no feature


def test_it_abstains_on_labels_without_a_feature(made: BilinearScorer) -> None:
    last = len(LABELS)
    assert not made.known[last]
    assert made.known[:last].all()
    assert (made.score_pairs(ASKED, np.full((4, 1), last)) == -np.inf).all()
    assert not (made.search(ASKED, last + 1)[0] == last).any()
    pairs = Candidates.union([np.full((4, 1), last, np.int32)], last + 1)
    evidence = made.features(ASKED, pairs)  # a ranker that other members propose it to
    assert all(np.isfinite(values).all() for values in evidence.values())
    assert (evidence["same words"] == 0).all()
    np.testing.assert_array_equal(evidence["fitted"], np.float32(made.model.bias))


def test_exclude_and_only_leave_labels_out(made: BilinearScorer) -> None:
    best = made.search(ASKED, 1)[0][0, 0]
    exclude = np.zeros((4, len(LABELS) + 1), np.float32)
    exclude[0, best] = 1
    assert made.search(ASKED, 1, exclude=csr_array(exclude))[0][0, 0] != best
    only = np.arange(len(LABELS) + 1) == 2
    assert set(np.unique(made.search(ASKED, 5, only=only)[0])) <= {-1, 2}


def test_edits_give_the_scorer_of_the_labels_after_them(made: BilinearScorer) -> None:
    labels, added = label_set([*LABELS, "???"]).added(["game theme", "font kernel"])
    now = made.update(Change(labels, added=np.asarray(added, np.int64)))
    assert now.search(Queries(["font kernel"]), 1, only=np.arange(15) >= 12)[0][0, 0] == 14
    labels = labels.removed(np.array([0]))
    gone = now.update(Change(labels, removed=np.array([0])))
    assert not (gone.search(ASKED, 9)[0] == 0).any()
    assert (gone.score_pairs(ASKED, np.zeros((4, 1), np.int64)) == -np.inf).all()
    afresh = made.with_labels(labels)
    for a, b in zip(gone.search(ASKED, 9), afresh.search(ASKED, 9), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_features_of_their_own_labels_are_words_alone() -> None:
    texts, y = points(60, 0)
    none = np.zeros(0, np.int64)
    words = BilinearFeatures.fit(texts, LABELS, none, stemmer=None)
    scorer = BilinearScorer.fit(texts, y, label_set(LABELS), seed=0, vocabulary=words)
    assert scorer.vocabulary.n_label_features == words.labels.n_tokens
    assert scorer.search(Queries([LABELS[5]]), 1)[0][0, 0] == 5


def test_the_products_of_a_score_sum_to_it(made: BilinearScorer) -> None:
    queries = Queries(["kernel player and printer driver"])
    for label in (0, 2):
        found = products(made, queries, label, [*LABELS, "???"])
        total = sum(one.part for one in found) + made.model.bias
        fitted = made.terms(queries, np.array([[label]], np.int32))["belief"][1][0, 0]
        assert made.model.belief(np.array([total], np.float32))[0] == pytest.approx(
            fitted, abs=1e-5
        )
        assert [abs(one.part) for one in found] == sorted(
            (abs(one.part) for one in found), reverse=True
        )
    assert "kernel" in {one.word for one in products(made, queries, 0, [*LABELS, "???"])}


def test_explanations_name_the_largest_products(dataset: Path, tmp_path: Path) -> None:
    run, text = tmp_path / "run", "kernel player and printer driver"
    main(["train", str(dataset), "--out", str(run), "--quiet"])
    predictor = Predictor.open(run)
    one = predictor.explain(text, 2)
    scorer = open_run(run).scorer
    assert isinstance(scorer, BilinearScorer)
    x = scorer.vocabulary.of_points([text]).toarray()[0].astype(float)
    z = scorer.labels.rows.toarray()[2]
    support = scorer.model.support
    weights = csr_array((scorer.model.refined, support.indices, support.indptr), support.shape)
    parts = x[:, None] * weights.toarray() * z  # slow twin: every pair of features
    assert one.pairs is not None
    assert one.pairs.n_terms == np.count_nonzero(parts)
    assert one.pairs.total == pytest.approx(parts.sum() + scorer.model.bias, abs=1e-5)
    largest = np.sort(np.abs(parts), axis=None)[::-1][: len(one.pairs.terms)]
    assert [abs(term.part) for term in one.pairs.terms] == pytest.approx(largest.tolist())
    for term in one.pairs.terms:
        names = [scorer.vocabulary.point_name(i) for i in range(len(x))]
        theirs = [scorer.vocabulary.label_name(i, predictor.label_texts) for i in range(len(z))]
        at = names.index(term.word), theirs.index(term.label_word)
        assert parts[at] == pytest.approx(term.part)
    (new,) = predictor.add_labels(["wombat"])  # no word of it is known
    assert predictor.explain(text, int(new)).pairs is None


def test_the_command_shows_pairs_of_words(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, texts = tmp_path / "run", tmp_path / "texts.txt"
    texts.write_text("kernel player and printer driver\n")
    main(["train", str(dataset), "--out", str(run), "--quiet"])
    capsys.readouterr()
    main(["predict", str(run), str(texts), "--explain", "-k", "1", "--quiet"])
    table = capsys.readouterr().out
    main(["predict", str(run), str(texts), "--explain", "-k", "1", "--quiet", "--jsonl"])
    (label,) = json.loads(capsys.readouterr().out)["labels"]
    first = label["pairs"]["terms"][0]
    assert list(first) == ["word", "label_word", "part"]
    shown = re.search(r"learned pairs +(.*?) → (.*?) ([-+][0-9.]+)", table)
    assert shown is not None
    assert shown[1] == first["word"]
    assert shown[3] == f"{first['part']:+.2f}"
    itself = first["label_word"].startswith("__label__")
    assert shown[2] == ("the label itself" if itself else first["label_word"])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "raw").mkdir(parents=True)
    for part, n, seed in (("trn", 80, 0), ("tst", 30, 1)):
        texts, y = points(n, seed, unseen=part == "trn")
        (folder / f"raw/{part}_X.txt").write_text("\n".join(texts) + "\n")
        rows = (
            " ".join(f"{label}:1" for label in y.indices[a:b])
            for a, b in zip(y.indptr[:-1], y.indptr[1:], strict=True)
        )
        (folder / f"{part}_X_Y.txt").write_text(f"{n} {len(LABELS)}\n" + "\n".join(rows) + "\n")
    (folder / "raw/Y.txt").write_text("\n".join(LABELS) + "\n")
    return folder


def test_the_command_makes_a_run_that_is_asked_edited_and_saved(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    main(["train", str(dataset), "--out", str(run), "--quiet", "-k", "10"])
    scores = json.loads((run / "metrics.json").read_text())
    assert set(scores["views"]) == {"all", "seen", "unseen"}
    assert scores["views"]["all"]["metrics"]["P@1"] == scores["metrics"]["P@1"] > 0.5

    predictor = Predictor.open(run)
    before = predictor.predict(["kernel player"], 3)
    new = predictor.add_labels(["music theme"])
    predictor.save()
    again = Predictor.open(run)
    assert new[0] in again.predict(["music theme"], 3).ids[0]
    after = again.predict(["kernel player"], 3)
    np.testing.assert_array_equal(before.ids, after.ids)

    with pytest.raises(FileExistsError, match="not empty; add --resume or --overwrite"):
        main(["train", str(dataset), "--out", str(run), "--quiet"])
    capsys.readouterr()
    main(["predict", str(run), "-k", "2", "--out", str(tmp_path / "x.npz"), "--quiet"])
    assert (tmp_path / "x.npz").exists()


def test_feature_files_are_written_fitted_and_scored(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["features", str(dataset), "--out", str(tmp_path / "f"), "--packed", ".gz"])
    main(["train", str(dataset), "--out", str(tmp_path / "run"), "--quiet"])
    capsys.readouterr()
    main(["score", str(tmp_path / "f"), "--as-json", "--out", str(tmp_path / "x.npz")])
    scored = json.loads(capsys.readouterr().out)["views"]
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())["views"]
    assert scored["all"]["metrics"]["P@1"] == pytest.approx(
        trained["all"]["metrics"]["P@1"], abs=0.1
    )
    assert set(scored) == set(trained)
    main(["score", str(tmp_path / "f")])
    assert "unseen (" in capsys.readouterr().out


def test_a_model_is_exported_as_one_file(dataset: Path, tmp_path: Path) -> None:
    run, path = tmp_path / "run", tmp_path / "model.xmc"
    main(["train", str(dataset), "--out", str(run), "--quiet"])
    main(["export", str(run), str(path)])
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("role", ["bilinear/refined", "bilinear/support", "bilinear/rows"])
def test_a_damaged_file_is_refused(dataset: Path, tmp_path: Path, role: str) -> None:
    run = tmp_path / "run"
    main(["train", str(dataset), "--out", str(run), "--quiet"])
    path = part_path(run, role)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name):
        Predictor.open(run)


def test_the_same_seed_gives_the_same_run(dataset: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        main(["train", str(dataset), "--out", str(run), "--quiet", "--seed", "3"])
    names = [sorted(p.name for p in run.iterdir() if p.suffix in (".npy", ".npz")) for run in runs]
    assert names[0] == names[1]  # named by their content


# --- parents of labels ---


def test_rows_of_labels_have_their_parents() -> None:
    texts, _ = points(60, 0)
    none, above = np.zeros(0, np.int64), ["a b", "b b", "", *["c"] * (len(LABELS) - 3)]
    words = BilinearFeatures.fit(texts, LABELS, none, parents=above)
    plain = BilinearFeatures.fit(texts, LABELS, none)
    assert words.parents is not None
    assert words.parents.names == ("a", "b", "c")
    ids = np.arange(len(LABELS))
    rows = words.of_labels(LABELS, ids).toarray()
    n = len(LABELS)
    idf = [1 + np.log((1 + n) / (1 + df)) for df in (1, 2, n - 3)]
    expected = plain.labels.rows(LABELS).toarray()  # slow twin: each row by hand
    for label, parents in enumerate(above):
        own = [value * (name in parents.split()) for name, value in zip("abc", idf, strict=True)]
        row = np.concatenate([expected[label], own])
        np.testing.assert_allclose(rows[label], row / np.linalg.norm(row), atol=1e-6)
    assert [words.label_name(words.n_label_features - i, LABELS) for i in (3, 2, 1)] == [
        "__parent__a",
        "__parent__b",
        "__parent__c",
    ]
    assert (words.direct[-3:] == -1).all()
    later = words.of_labels(["???", LABELS[0]], np.array([n, 0])).toarray()
    assert not later[0].any()  # a label that is added has no parents
    np.testing.assert_array_equal(later[1], rows[0])
    assert BilinearFeatures.fit(texts, LABELS, none, parents=[""] * n).parents is None


def test_a_label_without_a_known_word_is_found_by_its_parents(
    dataset: Path, tmp_path: Path
) -> None:
    labels = [*(dataset / "raw" / "Y.txt").read_text().splitlines()[:-1], "???"]
    (dataset / "raw" / "Y.txt").write_text("\n".join(labels) + "\n")
    run, file = tmp_path / "run", dataset / "raw" / "Y.parent.txt"
    main(["train", str(dataset), "--out", str(run), "--quiet"])
    scorer = bilinear_of(open_run(run).scorer)
    assert scorer is not None
    silent = ~scorer.known
    above = [f"p{i % 3} all" for i in range(len(labels))]
    file.write_text("\n".join(above) + "\n")
    main(["train", str(dataset), "--out", str(run), "--quiet", "--overwrite"])
    predictor = Predictor.open(run)
    scorer = bilinear_of(open_run(run).scorer)
    assert scorer is not None
    assert scorer.known[silent].all()
    assert scorer.vocabulary.parents is not None
    assert scorer.vocabulary.parents.names == ("all", "p0", "p1", "p2")
    before = predictor.predict(["kernel driver"], 5)
    predictor.add_labels(["kernel wombat"])
    edited = predictor.predict(["kernel driver"], 5)
    assert set(before.ids[0]) - set(edited.ids[0]) <= {before.ids[0, -1]}
    predictor.save()
    again = Predictor.open(run).predict(["kernel driver"], 5)
    np.testing.assert_array_equal(again.ids, edited.ids)
    np.testing.assert_array_equal(again.scores, edited.scores)
    file.write_text("one line\n")
    with pytest.raises(ValueError, match=r"Y.parent.txt: 1 lines, but there are \d+ labels"):
        main(["train", str(dataset), "--out", str(run), "--quiet", "--overwrite"])


def test_weights_that_are_known_are_taken_only_if_all_is_the_same() -> None:
    texts, y = points(60, 0)
    labels = label_set(LABELS)
    one = BilinearScorer.fit(texts, y, labels, seed=0)
    assert BilinearScorer.fit(texts, y, labels, seed=0, known=one).model is one.model
    for other in (
        BilinearScorer.fit(texts, y, labels, seed=1, known=one),
        BilinearScorer.fit(texts[:-1], csr_array(y[:-1]), labels, seed=0, known=one),
        BilinearScorer.fit(texts, y, labels, seed=0, parents=["p"] * len(LABELS), known=one),
    ):
        assert other.model is not one.model
        assert other.source != one.source
