"""`XmcClassifier`: in the conventions of scikit-learn, over a light run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, issparse

pytest.importorskip("sklearn", reason="the extra sklearn is not installed")

from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from dexml import XmcClassifier

THINGS = ["kernel", "parser", "driver", "editor"]
PARTS = ["crash", "leak", "manual"]


def some_texts(n: int = 120) -> tuple[list[str], list[list[str]]]:
    texts, labels = [], []
    for i in range(n):
        thing, part = THINGS[i % 4], PARTS[(i // 4) % 3]
        texts.append(f"report {i}: a {part} of our {thing}")
        labels.append([thing, part])
    return texts, labels


TEXTS, LABELS = some_texts()
FAST: dict[str, Any] = {"tree": "none", "validation": 0.2, "settings": {"bilinear": "none"}}


@pytest.fixture(scope="module")
def fitted() -> XmcClassifier:
    return XmcClassifier(k=2, **FAST).fit(TEXTS, LABELS)


def test_lists_of_labels(fitted: XmcClassifier) -> None:
    found = fitted.predict(["the driver has a leak", "a manual for the parser"])
    assert [set(row) for row in found] == [{"driver", "leak"}, {"parser", "manual"}]
    assert sorted(fitted.classes_) == sorted(THINGS + PARTS)
    assert fitted.score(TEXTS, LABELS) == 1.0
    assert fitted.score(TEXTS[:4], [["unknown"]] * 4) == 0.0


def test_scores_and_probabilities_are_sparse_and_agree_with_the_run(fitted: XmcClassifier) -> None:
    scores = fitted.decision_function(TEXTS[:5])
    assert (issparse(scores), scores.shape) == (True, (5, 7))
    ids, expected = fitted.predictor_.predict(TEXTS[:5], 100)
    for row in range(5):
        known = ids[row] >= 0
        assert np.allclose(scores[[row]].toarray()[0, ids[row][known]], expected[row][known])
    first = np.array([fitted.classes_[i] for i in ids[:, 0]])
    assert [row[0] for row in fitted.predict(TEXTS[:5])] == list(first)
    if fitted.predictor_.predict(TEXTS[:1]).probabilities is None:
        with pytest.raises(ValueError, match="no probabilities"):
            fitted.predict_proba(TEXTS[:5])
    else:
        likely = fitted.predict_proba(TEXTS[:5])
        assert likely.shape == (5, 7)
        assert ((likely.data >= 0) & (likely.data <= 1)).all()


def test_one_label_a_text() -> None:
    y = np.array([row[0] for row in LABELS])
    classifier = XmcClassifier(**FAST).fit(np.array(TEXTS), y)
    found = classifier.predict(TEXTS[:8])
    assert list(found) == list(y[:8])
    assert classifier.score(TEXTS, y) == 1.0


@pytest.mark.parametrize("form", [csr_array, np.asarray], ids=["sparse", "dense"])
def test_a_matrix_with_texts_of_its_columns(form: Any) -> None:
    names = THINGS + PARTS
    y = np.zeros((len(TEXTS), len(names)), np.float32)
    for row, labels in enumerate(LABELS):
        y[row, [names.index(label) for label in labels]] = 1
    classifier = XmcClassifier(k=2, label_texts=names, **FAST).fit(TEXTS, form(y))
    found = classifier.predict(TEXTS)
    assert issparse(found)
    assert (found.toarray() == y).mean() > 0.99
    assert classifier.score(TEXTS, form(y)) == 1.0
    with pytest.raises(ValueError, match="give label_texts"):
        XmcClassifier().fit(TEXTS, form(y))


def test_names_with_texts_of_their_own() -> None:
    texts = {name: f"everything about the {name}" for name in THINGS + PARTS}
    codes = {name: f"L{i}" for i, name in enumerate(texts)}
    y = [[codes[name] for name in row] for row in LABELS]
    given = {codes[name]: text for name, text in texts.items()}
    classifier = XmcClassifier(k=2, label_texts=given, **FAST).fit(TEXTS, y)
    assert set(classifier.predict([TEXTS[0]])[0]) == set(y[0])
    with pytest.raises(ValueError, match="label 'L0' is not in the table of labels"):
        XmcClassifier(label_texts={"x": "X"}).fit(TEXTS, y)


def test_conventions_of_scikit_learn() -> None:
    classifier = XmcClassifier(seed=3, **FAST)
    assert is_classifier(classifier)
    again = clone(classifier.set_params(k=2))
    assert again.get_params() == classifier.get_params()
    with pytest.raises(NotFittedError):
        again.predict(TEXTS)
    assert "XmcClassifier" in repr(classifier)
    y = np.array([row[0] for row in LABELS])
    assert cross_val_score(classifier, TEXTS, y, cv=2).min() > 0.9
    search = GridSearchCV(classifier, {"favour": ["balanced", "tail"]}, cv=2).fit(TEXTS, y)
    assert search.best_score_ > 0.9
    upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    chain = Pipeline([("upper", upper), ("labels", classifier)]).fit(TEXTS, y)
    assert chain.score(TEXTS, y) == 1.0


def test_the_run_is_kept_where_asked_and_else_removed(tmp_path: Path) -> None:
    kept = XmcClassifier(out=str(tmp_path / "kept"), **FAST).fit(TEXTS, LABELS)
    assert json.loads((kept.run_ / "run.json").read_text())["labels"]
    with pytest.raises(FileExistsError):
        XmcClassifier(out=str(tmp_path / "kept"), **FAST).fit(TEXTS, LABELS)
    gone = XmcClassifier(**FAST).fit(TEXTS, LABELS)
    folder = gone.run_
    del gone
    assert not folder.exists()


@pytest.mark.parametrize(
    ("texts", "labels", "error", "message"),
    [
        ("a text", LABELS, TypeError, "X is a single string"),
        (np.zeros((3, 2)), LABELS, TypeError, r"X is ndarray, a dense matrix; give csr_array\(X\)"),
        (TEXTS, "kernel", TypeError, "y is str; give labels for each text"),
        (TEXTS, LABELS[:-1], ValueError, "120 texts and labels of 119"),
        (TEXTS[:3], [["a"], None, ["b"]], ValueError, "row 1, column 'labels': no value"),
        (TEXTS[:2], [["a"], ["b"]], ValueError, "2 training points; expected 3 or more"),
    ],
)
def test_bad_input(texts: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        XmcClassifier().fit(texts, labels)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens_of_points"):
        XmcClassifier(settings={"tokens_of_points": 3}).fit(TEXTS, LABELS)


def test_the_package_is_imported_without_scikit_learn() -> None:
    code = "import sys, dexml; assert 'sklearn' not in sys.modules; dexml.XmcClassifier"
    subprocess.run([sys.executable, "-c", code], check=True)
    import dexml

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = dexml.Nothing
