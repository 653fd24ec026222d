"""Points that are rows of features: matrices and bags of words in, a light run out."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix, load_npz, save_npz

from dexml import XmcClassifier, data
from dexml.commands.index import main as index_main
from dexml.commands.predict import main as predict_main
from dexml.commands.train import main as train_main
from dexml.commands.zest import main as zest_main
from dexml.data.__main__ import main as data_main
from dexml.predict import Predictor
from dexml.text.lexical import VectorizerSettings, fit_vectorizer
from dexml.train import TrainSettings, train

N_LABELS, N_FEATURES = 6, 40


def points(n: int, seed: int, *, counts: bool = False) -> tuple[csr_array, csr_array]:
    """Features that say the labels: label j has features 4 j to 4 j + 3, and there is noise."""
    rng = np.random.default_rng(seed)
    y = rng.random((n, N_LABELS)) < 0.25
    x = np.zeros((n, N_FEATURES), np.float32)
    for row, labels in enumerate(y):
        for label in np.flatnonzero(labels):
            x[row, 4 * label + rng.choice(4, 2, replace=False)] += rng.random(2)
        x[row, rng.choice(N_FEATURES, 5, replace=False)] += 0.3 * rng.random(5)
    return csr_array(np.ceil(4 * x) if counts else x), csr_array(y.astype(np.float32))


def write_pecos(folder: Path, n: int = 150) -> Path:
    """A folder as PECOS has it: X.*.npz, Y.*.npz, and names of labels."""
    folder.mkdir()
    for part, size, seed in (("trn", n, 0), ("tst", 40, 1)):
        x, y = points(size, seed)
        save_npz(folder / f"X.{part}.npz", csr_matrix(x))
        save_npz(folder / f"Y.{part}.npz", csr_matrix(y))
    names = [f"label {name}" for name in "abcde"] + ["4:3 | screens"]
    (folder / "output-items.txt").write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture(scope="module")
def pecos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pecos(tmp_path_factory.mktemp("rows") / "pecos")


@pytest.fixture(scope="module")
def run(pecos: Path) -> Path:
    out = pecos.parent / "run"
    train(TrainSettings(data_dir=pecos, out=out, encoder="none", quiet=True, validation=0.3))
    return out


def says(main: Callable[[list[str]], None], argv: list[Any]) -> str:
    with pytest.raises((ValueError, SystemExit)) as raised:
        main([str(word) for word in argv])
    return str(raised.value)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-40, 1e-7, 1.0, 1e20]))
def test_texts_hold_the_values_bit_for_bit(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((4, 7)) * scale).astype(np.float32)
    values[rng.random((4, 7)) < 0.4] = 0
    texts = data.feature_texts(csr_array(values))
    again = np.zeros_like(values)
    for row, text in enumerate(texts):
        for token in text.split():
            feature, value = token.split(":")
            again[row, int(feature)] = np.float32(value)
    assert (again.view(np.int32) == values.view(np.int32)).all()


def test_rows_of_a_vectorizer_are_the_matrix() -> None:
    x = points(30, 3)[0]
    plain = VectorizerSettings(grams="features", sublinear=False, idf=False, unit=False)
    texts = data.feature_texts(x)
    vectorizer = fit_vectorizer(texts, plain)
    rows = vectorizer.rows(texts, num_threads=2).toarray()
    dense = x.toarray()
    for column in range(vectorizer.n_tokens):
        np.testing.assert_array_equal(rows[:, column], dense[:, int(vectorizer.token(column))])
    assert vectorizer.n_tokens == (dense != 0).any(axis=0).sum()


def test_a_folder_of_pecos_is_a_data_set(pecos: Path) -> None:
    found = data.load_dataset(pecos)
    assert found.features == data.Features(N_FEATURES, counts=False)
    assert found.label_texts[0] == "label a"
    assert found.label_texts[5] == "| 4:3 | screens"  # or it would be the feature 4
    assert found.train_texts == data.feature_texts(points(150, 0)[0])
    assert f"features={N_FEATURES}" in repr(found)


def test_texts_come_before_features(pecos: Path, tmp_path: Path) -> None:
    folder = write_pecos(tmp_path / "both", 5)
    texts = [f"text {i}" for i in range(5)]
    (folder / "X.trn.txt").write_text("\n".join(texts))
    part = data.load_part(folder, "trn", N_LABELS)
    assert (part.texts, part.features) == (texts, None)
    assert data.load_label_texts(folder)[5] == "4:3 | screens"


def test_labels_without_names_and_labels_with_features(tmp_path: Path) -> None:
    folder = write_pecos(tmp_path / "data", 5)
    (folder / "output-items.txt").unlink()
    assert data.load_label_texts(folder) == ["0", "1", "2", "3", "4", "5"]
    data.save_labels(folder / "lbl_X_Xf.txt", csr_array(2 * np.eye(N_LABELS, N_FEATURES)))
    assert data.load_label_texts(folder)[3] == "3:2 | 3"
    data.save_labels(folder / "lbl_X_Xf.txt", csr_array((4, N_FEATURES)))
    with pytest.raises(ValueError, match=r"lbl_X_Xf.txt has 4 rows"):
        data.load_label_texts(folder)


def test_a_run_finds_labels_by_features(run: Path, pecos: Path) -> None:
    predictor = Predictor.open(run)
    x, y = points(40, 1)
    found = predictor.predict(x, 3)
    assert y.toarray()[np.arange(40), found.ids[:, 0]].mean() > 0.7
    assert "features" in predictor.search_note()
    by_text = predictor.predict(data.feature_texts(x), 3)
    np.testing.assert_array_equal(found.ids, by_text.ids)
    np.testing.assert_array_equal(found.scores, by_text.scores)
    facts = json.loads((run / "run.json").read_text())
    assert facts["features"] == {"n_features": N_FEATURES, "counts": False}
    assert "bilinear" not in facts


def test_the_command_reads_matrices_bags_and_lines(run: Path, pecos: Path, tmp_path: Path) -> None:
    x, y = points(40, 1)
    data.save_bow(tmp_path / "bag.txt.gz", x, y)
    data.save_labels(tmp_path / "lf.txt", x)
    (tmp_path / "lines.txt").write_text("\n".join(data.feature_texts(x)) + "\n")
    answers = []
    data.save_labels(tmp_path / "X.lf.txt.gz", x)
    data.save_labels(tmp_path / "X.lf.txt.zst", x)
    packed = ("X.lf.txt.gz", "X.lf.txt.zst", "bag.txt.gz")
    for name in (pecos / "X.tst.npz", *packed, "lf.txt", "lines.txt", ""):
        texts = [str(tmp_path / name)] if name else []
        out = tmp_path / "answer.npz"
        predict_main([str(run), *texts, "-k", "3", "--quiet", "--out", str(out)])
        answers.append(load_npz(out).toarray())
    for other in answers[1:]:
        np.testing.assert_array_equal(answers[0], other)


def test_a_shard_of_a_matrix(run: Path, pecos: Path, tmp_path: Path) -> None:
    argv = [str(run), str(pecos / "X.tst.npz"), "-k", "2", "--quiet"]
    predict_main([*argv, "--out", str(tmp_path / "all.npz")])
    predict_main([*argv, "--shard", "1/4", "--out", str(tmp_path / "one.npz")])
    whole, one = load_npz(tmp_path / "all.npz"), load_npz(tmp_path / "one.npz")
    np.testing.assert_array_equal(whole.toarray()[10:20], one.toarray())


def test_new_labels_and_points(run: Path, tmp_path: Path) -> None:
    predictor = Predictor.open(run)
    new = predictor.add_labels(["39:1 38:0.5 | brand new", "a name alone"])
    asked = csr_array(([1.0, 1.0], ([0, 0], [38, 39])), shape=(1, N_FEATURES))
    found = predictor.predict(asked, N_LABELS + 2)
    assert new[0] in found.ids[0]
    assert new[1] not in found.ids[0]
    predictor.add_points(asked, [[int(new[1])]])
    assert "151 training points" in predictor.search_note()
    assert new[1] in predictor.predict(asked, N_LABELS + 2).ids[0]


def test_counts_are_weighed_by_tf_idf(tmp_path: Path) -> None:
    x, y = points(120, 0, counts=True)
    data.save_dataset(tmp_path / "data", list("abcdef"), (x, y), points(30, 1, counts=True))
    out = tmp_path / "run"
    train_main([str(tmp_path / "data"), "--out", str(out), "--encoder", "none", "--quiet"])
    facts = json.loads((out / "run.json").read_text())
    assert facts["features"]["counts"]
    assert facts["lexical"]["words"]["settings"]["idf"]
    assert Predictor.open(out).predict(points(30, 1, counts=True)[0], 1).ids.shape == (30, 1)


def test_a_bag_of_words_is_trained_on(tmp_path: Path) -> None:
    for name, n, seed in (("train.txt", 120, 0), ("test.txt", 30, 1)):
        data.save_bow(tmp_path / name, *points(n, seed))
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\nf\n")
    argv = [str(tmp_path / "train.txt"), "--test", str(tmp_path / "test.txt")]
    argv += ["--labels", str(tmp_path / "names.txt"), "--out", str(tmp_path / "run")]
    train_main([*argv, "--encoder", "none", "--quiet"])
    assert (tmp_path / "run.data" / "X.trn.npz").exists()
    assert Predictor.open(tmp_path / "run").label_texts == list("abcdef")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["P@1"] > 0.5
    found = data.from_table(tmp_path / "train.txt", tmp_path / "test.txt")
    assert found.features is not None
    assert found.label_texts == ["0", "1", "2", "3", "4", "5"]
    assert (len(found.train_texts), len(found.test_texts)) == (120, 30)


def test_rows_in_memory_are_written_as_they_came(pecos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(pecos, folder)
    data.save_labels(folder / "lbl_X_Xf.txt", csr_array(2 * np.eye(N_LABELS, N_FEATURES)))
    for source in (pecos, folder):
        found = data.load_dataset(source)
        data.folder_from_dataset(tmp_path / "written", found)
        again = data.load_dataset(tmp_path / "written")
        assert again.train_texts == found.train_texts
        assert again.label_texts == found.label_texts
        assert again.features == found.features


def test_bags_that_do_not_fit_are_named(tmp_path: Path) -> None:
    bag, other, names = tmp_path / "bag.txt", tmp_path / "other.txt", tmp_path / "names.txt"
    x, y = points(9, 0)
    data.save_bow(bag, x, y)
    data.save_bow(other, csr_array(x[:, :30]), y)
    names.write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"other.txt:1: 30 features and 6 labels, but .* has 40"):
        data.from_table(bag, other)
    with pytest.raises(ValueError, match=r"names.txt: 2 lines, but .*bag.txt has 6 labels"):
        data.from_table(bag, None, names)
    data.save_bow(other, x, csr_array(y.shape))
    with pytest.raises(ValueError, match=r"other.txt: no training point has a label"):
        data.from_table(other)


def test_what_needs_texts_says_so(pecos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    message = says(train_main, [pecos, "--out", out, "--encoder", "no-such-encoder"])
    assert message.endswith("which an encoder cannot read; give --encoder none, or texts")
    assert says(zest_main, ["train", pecos, "--out", out]).endswith("and this model needs texts")
    message = says(data_main, ["hold-out-labels", pecos, out])
    assert message.endswith("and holding labels out needs texts")
    assert not out.exists()


def test_points_of_another_kind_are_refused(
    run: Path, light_run: Path, pecos: Path, tmp_path: Path
) -> None:
    predictor = Predictor.open(run)
    with pytest.raises(ValueError, match=r"texts\[1\]: 'words' is no feature; .*'17:0.25 40:1'"):
        predictor.predict(["3:1", "3:1 words 4:1"])
    with pytest.raises(ValueError, match=r"shape \(2, 7\), but .* was trained on 40 features"):
        predictor.predict(csr_array((2, 7)))
    save_npz(tmp_path / "x.npz", csr_matrix((1, 7)))
    with pytest.raises(ValueError, match=r"x.npz: features: shape \(1, 7\)"):
        predict_main([str(run), str(tmp_path / "x.npz"), "--quiet"])
    with pytest.raises(ValueError, match=r"was trained on texts; give texts"):
        Predictor.open(light_run).predict(csr_array((2, 7)))
    with pytest.raises(ValueError, match=r"row 0: value is not finite"):
        predictor.predict(csr_array(([np.nan], ([0], [0])), shape=(1, N_FEATURES)))


def test_test_points_with_other_features_are_refused(tmp_path: Path) -> None:
    folder = write_pecos(tmp_path / "data", 60)
    save_npz(folder / "X.tst.npz", csr_matrix((40, 7), dtype=np.float32))
    with pytest.raises(ValueError, match=r"rows of 7 features, but training points rows of 40"):
        data.load_dataset(folder)
    message = says(train_main, [folder, "--out", tmp_path / "run", "--encoder", "none", "--quiet"])
    assert "test points are rows of 7 features" in message
    save_npz(folder / "X.trn.npz", csr_matrix((9, 7), dtype=np.float32))
    with pytest.raises(ValueError, match=r"X.trn.npz: 9 rows, but .*Y.trn.npz has 60"):
        data.load_part(folder, "trn", N_LABELS)


def test_edits_by_the_command(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (tmp_path / "labels.txt").write_text("39:1 | new\n")
    index_main([str(copy), "--add", str(tmp_path / "labels.txt"), "--quiet"])
    assert Predictor.open(copy).label_texts[-1] == "39:1 | new"


def test_a_classifier_takes_sparse_rows() -> None:
    x, y = points(120, 0)
    names = [f"label {i}" for i in range(N_LABELS)]
    classifier = XmcClassifier(label_texts=names, tree="none").fit(x, y)
    assert classifier.score(x, y) > 0.7
    assert classifier.predict_proba(x[:3]).shape == (3, N_LABELS)
    lists = [[names[j] for j in row.nonzero()[0]] for row in y.toarray()]
    by_names = XmcClassifier(k=1, tree="none").fit(csr_matrix(x), lists)
    assert by_names.predict(x[:2])[0][0] in names
    with pytest.raises(ValueError, match=r"trained on 40 features"):
        classifier.predict(x[:, :7])


def test_packed_files_are_told_apart(tmp_path: Path) -> None:
    data.save_bow(tmp_path / "a.txt", *points(3, 0))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes()))
    (tmp_path / "table.csv").write_text("text,labels\na,b\n")
    assert data.is_bag(packed)
    assert data.is_bag(tmp_path / "a.txt")
    assert not data.is_bag(tmp_path / "table.csv")
    assert not data.is_bag(tmp_path)
    assert data.load_rows(tmp_path / "table.csv") is None
    packed.write_bytes(packed.read_bytes()[:30])
    assert not data.is_bag(packed)
    with pytest.raises(ValueError, match="packed: damaged or not a gzip stream"):
        data.from_table(packed)


def test_messages_about_features_name_features(tmp_path: Path) -> None:
    folder = write_pecos(tmp_path / "labels", 9)
    x, y = points(9, 0)
    x.data[x.indptr[2]] = np.nan
    about = rf"row 2: value is not finite \(feature {x.indices[x.indptr[2]]}\)"
    for name in ("X.trn.npz", "X.lbl.npz"):
        save_npz(folder / name, csr_matrix(x))
        with pytest.raises(ValueError, match=rf"labels/{name}: {about}"):
            data.load_dataset(folder)
        (folder / name).unlink()
        save_npz(folder / "X.trn.npz", csr_matrix(points(9, 0)[0]))
    with pytest.raises(ValueError, match=rf"^trn features: {about}"):
        data.save_dataset(tmp_path / "new", list("abcdef"), (x, y))
    (tmp_path / "x.txt").write_text("1 5\n9:1\n")
    with pytest.raises(ValueError, match=r"x.txt:2: feature 9 out of range \(n_features = 5\)"):
        data.load_rows(tmp_path / "x.txt")
    with pytest.raises(ValueError, match=r"features: row 0: value is not finite \(feature 0\)"):
        data.feature_texts(csr_array([[1e300, 0]]))


def test_people_read_the_names_of_labels(
    run: Path, pecos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = Predictor.open(run)
    assert predictor.label_texts[5] == "| 4:3 | screens"
    assert predictor.label_names[5] == "4:3 | screens"
    predictor.add_labels(["39:1 38:0.5 | brand new"])
    assert predictor.labels([[5, 0, 6, -1]]) == [["4:3 | screens", "label a", "brand new"]]
    x = points(1, 1)[0]
    text = data.feature_texts(x)[0]
    assert predictor.explain(text, "4:3 | screens") == predictor.explain(text, 5)
    why = predictor.explain(text, "brand new")
    assert why.label_text == "brand new"
    assert any("features shared" in one.meaning for one in why.evidence)
    argv = [str(run), str(pecos / "X.tst.npz"), "-k", "6", "--quiet"]
    (tmp_path / "only.txt").write_text("4:3 | screens\n")
    for more in ([], ["--jsonl"], ["--only", str(tmp_path / "only.txt")]):
        predict_main([*argv, *more])
        out = capsys.readouterr().out
        assert "4:3 | screens" in out
        assert "| 4:3" not in out
    for name in ("a.csv", "a.jsonl"):
        predict_main([*argv, "--out", str(tmp_path / name)])
        assert "| 4:3" not in (tmp_path / name).read_text()


def test_the_report_names_labels(tmp_path: Path) -> None:
    folder = write_pecos(tmp_path / "data", 60)
    data.save_labels(folder / "X.lbl.npz", csr_array(2 * np.eye(N_LABELS, N_FEATURES)))
    train_main([str(folder), "--out", str(tmp_path / "run"), "--encoder", "none", "--quiet"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "label a" in page
    assert ":2 | label" not in page


@pytest.mark.parametrize(
    "name", ["| bar", "| 4:3 bar", "4:3 bar", "|", "a | b", "5:1 | c", "| | d"]
)
def test_names_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    x, y = points(9, 0)
    data.save_dataset(tmp_path / "data", [name, *"bcdef"], (x, y))
    inner = data.load_label_texts(tmp_path / "data")
    assert data.names_of(inner)[0] == name
    data.save_labels(tmp_path / "data" / "X.lbl.npz", csr_array(np.eye(N_LABELS, N_FEATURES)))
    assert data.names_of(data.load_label_texts(tmp_path / "data"))[0] == name
