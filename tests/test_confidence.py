"""Probabilities of a run: fitted on what it was not trained on, saved, edited, cut, printed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz

from dexml import console, train
from dexml.commands.predict import main as predict_main
from dexml.data import save_dataset
from dexml.metrics import evaluate
from dexml.predict import Prediction, Predictor, open_run
from dexml.scorers import Fusion, Queries
from dexml.train import TrainSettings
from small import confusing_data, forge_info, train_settings


def light_settings(data: Path, out: Path, **changes: Any) -> TrainSettings:
    values: dict[str, Any] = {"encoder": "none", "quiet": True, "seed": 1, "validation": 0.3}
    return TrainSettings(data_dir=data, out=out, **(values | changes))


@pytest.fixture(scope="module")
def confusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return confusing_data(tmp_path_factory.mktemp("data") / "confusing")


@pytest.fixture(scope="module")
def ranked(confusing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A light run with a ranker."""
    out = tmp_path_factory.mktemp("runs") / "ranked"
    train.train(light_settings(confusing, out))
    return out


@pytest.fixture
def run(ranked: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(ranked, tmp_path / "run"))


def test_texts(data: Path) -> list[str]:
    return (data / "raw" / "tst_X.txt").read_text().splitlines()


test_texts.__test__ = False  # type: ignore[attr-defined]


def probabilities_of(found: Prediction) -> NDArray[np.float32]:
    assert found.probabilities is not None
    return found.probabilities


def call(main: Any, *words: object) -> int:
    return console.run(main, [str(word) for word in words])


def test_a_prediction_is_a_pair_with_probabilities(confusing: Path, ranked: Path) -> None:
    predictor, texts = Predictor.open(ranked), test_texts(confusing)
    found = predictor.predict(texts, 5)
    ids, scores = found
    p = probabilities_of(found)
    assert p.shape == ids.shape == scores.shape == (len(texts), 5)
    assert p.dtype == np.float32
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(probabilities_of(predictor.predict(texts, 2)), p[:, :2], atol=1e-6)
    y = csr_array(load_npz(confusing / "Y.tst.npz"))
    hits = np.take_along_axis(y.toarray() > 0, ids, axis=1)
    assert hits.mean() == pytest.approx(p.mean(), abs=0.1)
    assert predictor.probabilities_note().startswith("probabilities from ")


@pytest.mark.parametrize("ranker", ["auto", "none"])
def test_noise_is_given_no_confidence(tmp_path: Path, ranker: str) -> None:
    """Texts that say nothing of their labels, but are remembered with them.

    Whoever looks at answers to points that vote for themselves sees hits without end: this fails
    if probabilities are fitted on points that the scorer was fitted on.
    """
    rng = np.random.default_rng(0)
    n, n_labels = 500, 12

    def part(start: int) -> tuple[list[str], list[list[int]]]:
        texts = [
            f"unique{start + i} word{rng.integers(50)} word{rng.integers(50)}" for i in range(n)
        ]
        return texts, [[int(rng.integers(n_labels))] for _ in range(n)]

    labels = [f"label{i}" for i in range(n_labels)]
    trained, tested = part(0), part(n)
    save_dataset(tmp_path / "data", labels, train=trained, test=tested)
    train.train(light_settings(tmp_path / "data", tmp_path / "run", ranker=ranker))
    predictor = Predictor.open(tmp_path / "run")
    p = probabilities_of(predictor.predict(tested[0], 5))
    assert p.max() < 0.3
    assert p.mean() == pytest.approx(1 / n_labels, abs=0.03)
    with pytest.raises(ValueError, match=r"min_precision = 0.8 cannot be reached"):
        predictor.threshold(min_precision=0.8)


def test_without_evidence_there_are_no_probabilities_and_a_reason(tmp_path: Path) -> None:
    texts = ["red apple", "green pear", "blue plum", "red pear"]
    y = [[0], [1], [2], [0]]
    save_dataset(tmp_path / "data", ["red", "green", "blue"], train=(texts, y))
    train.train(light_settings(tmp_path / "data", tmp_path / "few", validation=0.5))
    train.train(light_settings(tmp_path / "data", tmp_path / "none", validation=0))
    for name, reason in (("few", r"right labels among the answers to"), ("none", "no validation")):
        predictor = Predictor.open(tmp_path / name)
        assert predictor.predict(texts).probabilities is None
        assert reason in predictor.probabilities_note()
        with pytest.raises(ValueError, match=f"min_recall needs probabilities, and .*{reason}"):
            predictor.predict(texts, min_recall=0.5)
        predictor.add_labels(["yellow"])
        predictor.save()
        assert reason in Predictor.open(tmp_path / name).probabilities_note()


def test_an_old_run_says_what_to_do(run: Path) -> None:
    parts = json.loads((run / "run.json").read_text())["parts"]
    for role in [role for role in parts if role.startswith("calibration/")]:
        (run / parts.pop(role)["name"]).unlink()
    info = json.loads((run / "run.json").read_text())
    info["parts"] = parts
    (run / "run.json").write_text(json.dumps(info))
    forge_info(run, "calibration")
    predictor = Predictor.open(run)
    assert predictor.predict(["a text"]).probabilities is None
    with pytest.raises(ValueError, match="a dexml without calibration; train it again"):
        predictor.predict(["a text"], min_precision=0.5)


def test_damaged_calibration_is_refused(run: Path) -> None:
    forge_info(run, calibration={"groups": ["all", "head", "torso", "tail", "unseen", "more"]})
    with pytest.raises(ValueError, match=r"calibration: tables of other sizes.*train again"):
        Predictor.open(run)


def test_another_scorer_has_none_and_loses_none(run: Path) -> None:
    opened = open_run(run)
    predictor = Predictor(opened, Fusion((opened.scorer,), (2.0,)))
    assert predictor.predict(["a text"]).probabilities is None
    assert "another scorer" in predictor.probabilities_note()
    predictor.add_labels(["something new"])
    predictor.save()
    assert Predictor.open(run).predict(["a text"]).probabilities is not None


def test_edits_keep_probabilities_defined(confusing: Path, run: Path) -> None:
    predictor, texts = Predictor.open(run), test_texts(confusing)[:20]
    before = probabilities_of(predictor.predict(texts, 5))
    (new,) = predictor.add_labels([texts[0]])
    predictor.remove_labels([3])
    predictor.update_labels([4], ["another text"])
    predictor.add_points(["a point of the new label"], [[int(new)]])
    found = predictor.predict(texts, 50)
    p = probabilities_of(found)
    assert np.isfinite(p).all()
    assert int(new) in found.ids[0]
    assert (p[found.ids >= 0] > 0).all()
    assert (p[found.ids < 0] == 0).all()
    predictor.save()
    again = Predictor.open(run).predict(texts, 50)
    np.testing.assert_array_equal(probabilities_of(again), p)
    assert before.shape == (20, 5)


def test_labels_below_the_cut_are_left_out(confusing: Path, ranked: Path) -> None:
    predictor, texts = Predictor.open(ranked), test_texts(confusing)
    whole = predictor.predict(texts, 10)
    middle = float(np.median(probabilities_of(whole)))
    cut = predictor.predict(texts, 10, min_probability=middle)
    for row in range(len(texts)):
        kept = probabilities_of(whole)[row] >= np.float32(middle)
        n = int(kept.sum())
        assert cut.ids[row].tolist() == [*whole.ids[row][kept].tolist(), *[-1] * (10 - n)]
        assert (cut.scores[row, n:] == -np.inf).all()
        assert (probabilities_of(cut)[row, n:] == 0).all()
    empty = predictor.predict(["xyzzy"], 3, min_probability=1.0)
    assert empty.ids.tolist() == [[-1, -1, -1]]


def test_sets_for_a_recall_are_as_large_as_they_must_be(confusing: Path, ranked: Path) -> None:
    predictor, texts = Predictor.open(ranked), test_texts(confusing)
    y = csr_array(load_npz(confusing / "Y.tst.npz"))
    some, more = (predictor.predict(texts, min_recall=share) for share in (0.5, 0.7))
    assert (some.ids >= 0).sum() < (more.ids >= 0).sum()
    assert (more.ids[:, -1] >= 0).any()  # no column is padding alone
    assert evaluate(y, more.ids, [f"R@{more.ids.shape[1]}"]).popitem()[1] > 0.6
    with pytest.raises(ValueError, match=r"k = 5 with min_recall, .* leave k out"):
        predictor.predict(texts, 5, min_recall=0.5)
    with pytest.raises(ValueError, match=r"min_recall = 1 cannot be guaranteed"):
        predictor.predict(texts, min_recall=1.0)


def test_only_some_labels_keep_their_level(ranked: Path, confusing: Path) -> None:
    """A text's level is that of its best labels among all, whatever labels are asked for."""
    predictor, texts = Predictor.open(ranked), test_texts(confusing)[:5]
    p = probabilities_of(predictor.predict(texts, 3, only=[0, 1, 2]))
    assert ((p > 0) & (p < 1)).all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"min_precision": 0.5, "min_recall": 0.5}, "min_precision and min_recall given; expected"),
        ({"by_frequency": True}, "nothing given; expected one of"),
        ({"min_recall": 0.5, "by_frequency": True}, "by_frequency needs min_precision"),
        ({"min_probability": 1.2}, "min_probability = 1.2; expected a share above 0"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    ranked: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor.open(ranked).predict(["a text"], **asked)


def test_the_command_prints_and_writes_probabilities(
    ranked: Path, confusing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, file = test_texts(confusing)[:3], tmp_path / "x.txt"
    file.write_text("".join(f"{text}\n" for text in texts))
    predictor = Predictor.open(ranked)
    found = predictor.predict(texts, 4)
    p = probabilities_of(found)
    assert call(predict_main, ranked, file, "-k", 4, "--jsonl") == 0
    printed = capsys.readouterr()
    assert "probabilities from" in printed.err
    lines = [json.loads(line) for line in printed.out.splitlines()]
    for row, line in enumerate(lines):
        given = [label["probability"] for label in line["labels"]]
        np.testing.assert_allclose(given, p[row], atol=1e-5)
    assert call(predict_main, ranked, file, "-k", 1) == 0
    assert f"{100 * p[0, 0]:.1f} %" in capsys.readouterr().out
    out = tmp_path / "p.npz"
    assert call(predict_main, ranked, file, "-k", 4, "--out", out, "--values", "probability") == 0
    values = load_npz(out).toarray()
    np.testing.assert_allclose(np.take_along_axis(values, found.ids, axis=1), p, atol=1e-5)


def test_the_command_cuts_and_says_what_to_expect(
    ranked: Path, confusing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = Predictor.open(ranked)
    out = tmp_path / "cut.jsonl"
    words = [ranked, "--out", out, "--min-precision", "0.9"]
    assert call(predict_main, *words) == 0
    told = capsys.readouterr().err
    assert "cut: probability >= " in told
    assert "expected: precision" in told
    texts = test_texts(confusing)
    expected = predictor.predict(texts, 10, min_precision=0.9)
    lines = [json.loads(line)["labels"] for line in out.read_text().splitlines()]
    assert [[label["id"] for label in line] for line in lines] == [
        [i for i in row if i >= 0] for row in expected.ids.tolist()
    ]
    assert call(predict_main, ranked, "--jsonl", "--min-recall", "0.4") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(texts)
    assert call(predict_main, ranked, "--min-precision", "1") == 1
    assert "cannot be reached for sure; the best that can: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min-precision", "0"], "greater than 0"),
        (["--min-precision", "1.1"], "less than or equal to 1"),
        (["--min-precision", "0.5", "--min-recall", "0.5"], "give one of them"),
        (["--by-frequency"], "--by-frequency needs --min-precision"),
        (["--min-recall", "0.5", "-k", "5"], "--min-recall and -k"),
        (["--values", "probability"], "--values is for --out x.npz"),
        (["--min-recall", "0.5", "--explain"], "and --explain: give one of them"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    ranked: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(predict_main, ranked, *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("memory", ["auto", "none"])
def test_a_run_with_an_encoder_has_them_too(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, memory: str
) -> None:
    """Without a ranker: dense scores with votes, or alone; as the training has seen them."""
    out = tmp_path / "run"
    settings = train_settings(tiny_data, tiny_encoder, out, memory=memory, validation=0.3)
    train.train(settings)
    facts = json.loads((out / "run.json").read_text())["calibration"]
    predictor = Predictor.open(out)
    found = predictor.predict(test_texts(tiny_data), 5)
    p = probabilities_of(found)
    assert 0 < p.mean() < 1
    assert facts["depth"] <= 100
    assert facts["groups"][0] == "all"


def test_a_text_whose_first_label_is_unsure_gets_none(confusing: Path, ranked: Path) -> None:
    predictor, texts = Predictor.open(ranked), [*test_texts(confusing), "xyzzy"]
    whole = predictor.predict(texts, 4)
    p = probabilities_of(whole)
    assert [whole.abstained, whole.uncertainty, whole.nearest] == [None, None, None]
    bound = float(np.median(p[:, 0]))
    found = predictor.predict(texts, 4, abstain_below=bound, uncertainty=True)
    expected = p[:, 0] < np.float32(bound)
    assert 0 < expected.sum() < len(texts)
    assert found.abstained is not None
    assert found.uncertainty is not None
    np.testing.assert_array_equal(found.abstained, expected)
    np.testing.assert_allclose(found.uncertainty, 1 - p[:, 0], atol=1e-6)
    assert (found.ids[expected] == -1).all()
    assert (found.scores[expected] == -np.inf).all()
    assert (probabilities_of(found)[expected] == 0).all()
    np.testing.assert_array_equal(found.ids[~expected], whole.ids[~expected])
    np.testing.assert_array_equal(found.scores[~expected], whole.scores[~expected])
    cut = predictor.predict(texts, 4, abstain_below=bound, min_probability=1.0)
    assert cut.abstained is not None  # by the first label, before the cut
    np.testing.assert_array_equal(cut.abstained, expected)


def test_the_nearest_training_point_is_that_of_all_cosines(confusing: Path, ranked: Path) -> None:
    """Held against a product with all points, whatever the number of texts and blocks."""
    predictor = Predictor.open(ranked)
    texts = [*test_texts(confusing)[:50], "xyzzy", (confusing / "raw" / "trn_X.txt").read_text()]
    trained = (confusing / "raw" / "trn_X.txt").read_text().splitlines()
    lexicon = next(m for m in predictor.scorer.members).lexicon  # type: ignore[attr-defined]
    rows, points = (lexicon.rows_of(Queries(some)).joined for some in (texts, trained))
    expected = (rows @ points.T).toarray().max(axis=1)
    found = predictor.predict(texts, 3, uncertainty=True)
    assert found.nearest is not None
    np.testing.assert_allclose(found.nearest, expected, atol=1e-5)
    many = predictor.predict(texts * 21, 3, uncertainty=True)  # more than a block of the ranker
    assert many.nearest is not None
    np.testing.assert_allclose(many.nearest, np.tile(expected, 21), atol=1e-5)
    np.testing.assert_array_equal(many.ids, np.tile(found.ids, (21, 1)))
    bound = float(np.quantile(expected, 0.3))
    unlike = predictor.predict(texts, 3, min_nearest=bound)
    assert unlike.abstained is not None
    np.testing.assert_array_equal(unlike.abstained, found.nearest < np.float32(bound))
    assert unlike.abstained[50]
    assert (unlike.ids[unlike.abstained] == -1).all()


def test_uncertainty_with_filter_pairs_in_several_blocks(confusing: Path, ranked: Path) -> None:
    predictor = Predictor.open(ranked)
    some = test_texts(confusing)
    texts = [some[i] for i in np.random.default_rng(0).integers(len(some), size=1500)]
    first = predictor.predict(texts, 1).ids[:, 0]
    pairs = csr_array(
        (np.ones(len(texts), np.float32), first, np.arange(len(texts) + 1)),
        shape=(len(texts), predictor.n_labels),
    )
    plain = predictor.predict(texts, 3, exclude=pairs)
    found = predictor.predict(texts, 3, exclude=pairs, uncertainty=True)
    np.testing.assert_array_equal(found.ids, plain.ids)
    np.testing.assert_array_equal(found.scores, plain.scores)


def test_an_explanation_has_the_probability_of_the_prediction(
    confusing: Path, ranked: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    predictor, text = Predictor.open(ranked), test_texts(confusing)[0]
    found = predictor.predict([text], 3)
    p = probabilities_of(found)[0]
    for one, value in zip(predictor.explain_best(text, 3), p.tolist(), strict=True):
        assert one.probability == pytest.approx(value, abs=1e-6)
    second = predictor.explain(text, int(found.ids[0, 1]))
    assert second.probability == pytest.approx(float(p[1]), abs=1e-6)
    some = found.ids[0, :2].tolist()
    among = predictor.explain(text, some[1], only=some)
    expected = probabilities_of(predictor.predict([text], 2, only=some))[0]
    where = predictor.predict([text], 2, only=some).ids[0].tolist().index(some[1])
    assert among.probability == pytest.approx(float(expected[where]), abs=1e-6)
    file = tmp_path / "x.txt"
    file.write_text(text + "\n")
    assert call(predict_main, ranked, file, "--explain", "-k", 1) == 0
    assert f"right with {100 * p[0]:.1f} %" in capsys.readouterr().out
    assert call(predict_main, ranked, file, "--explain", "-k", 1, "--jsonl") == 0
    told = json.loads(capsys.readouterr().out)["labels"][0]["probability"]
    assert told == pytest.approx(float(p[0]), abs=1e-6)


def test_the_command_marks_texts_without_an_answer(
    confusing: Path, ranked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor, texts = Predictor.open(ranked), test_texts(confusing)[:30]
    file, out = tmp_path / "x.txt", tmp_path / "out.jsonl"
    file.write_text("".join(f"{text}\n" for text in texts))
    p = probabilities_of(predictor.predict(texts, 1))[:, 0]
    bound = round(float(np.median(p)), 3)
    asked: dict[str, Any] = {"abstain_below": bound, "uncertainty": True}
    found = predictor.predict(texts, 2, **asked)
    words = [ranked, file, "-k", 2, "--abstain-below", bound, "--uncertainty"]
    assert call(predict_main, *words, "--out", out) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert found.abstained is not None
    assert found.uncertainty is not None
    assert found.nearest is not None
    assert [line["abstained"] for line in lines] == found.abstained.tolist()
    np.testing.assert_allclose(
        [line["uncertainty"] for line in lines], found.uncertainty, atol=1e-6
    )
    np.testing.assert_allclose([line["nearest"] for line in lines], found.nearest, atol=1e-5)
    assert [bool(line["labels"]) for line in lines] == (~found.abstained).tolist()
    capsys.readouterr()
    assert call(predict_main, *words) == 0
    table = capsys.readouterr().out
    assert table.count("no labels: too unsure; first label wrong with ") == found.abstained.sum()
    assert f"nearest training point {found.nearest[0]:.2f}" in table
    assert call(predict_main, ranked, file, "--jsonl", "--min-nearest", "1") == 0
    assert '"abstained": true' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--abstain-below", "0"], "greater than 0"),
        (["--min-nearest", "2"], "less than or equal to 1"),
        (["--abstain-below", "0.5", "--explain"], "--abstain-below and --explain: give one"),
        (["--uncertainty", "--out", "x.npz"], "--uncertainty writes .jsonl"),
    ],
)
def test_wrong_calls_of_uncertainty_are_refused(
    ranked: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(predict_main, ranked, *words) == 2
    assert message in capsys.readouterr().err


def test_uncertainty_that_a_run_cannot_say_is_named(
    ranked: Path, tmp_path: Path, run_dir: Path
) -> None:
    predictor = Predictor.open(ranked)
    wrong: list[dict[str, Any]] = [{"abstain_below": 1.5}, {"min_nearest": 0.0}]
    for asked in wrong:
        with pytest.raises(ValueError, match="expected a share above 0"):
            predictor.predict(["a text"], **asked)
    texts = ["red apple", "green pear", "blue plum", "red pear"]
    save_dataset(tmp_path / "data", ["red", "green", "blue"], train=(texts, [[0], [1], [2], [0]]))
    train.train(light_settings(tmp_path / "data", tmp_path / "few", validation=0))
    few = Predictor.open(tmp_path / "few")
    unknown: list[dict[str, Any]] = [{"abstain_below": 0.5}, {"uncertainty": True}]
    for asked in unknown:
        with pytest.raises(ValueError, match=f"{next(iter(asked))} needs probabilities, and the"):
            few.predict(["a text"], **asked)
    found = few.predict(["red apple", "xyzzy"], min_nearest=0.5)
    assert found.abstained is not None
    assert found.abstained.tolist() == [False, True]
    dense = Predictor.open(run_dir)  # no points vote
    with pytest.raises(ValueError, match="min_nearest needs training points that vote"):
        dense.predict(["a text"], min_nearest=0.5)
