"""The demo: its baselines, its table and its examples; the whole job on tiny data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import console, data
from dexml.data import Dataset
from dexml.demo import chain as demo
from dexml.demo import hpo
from dexml.encoder import DualEncoder
from dexml.index import exact_search
from dexml.metrics import Evaluator, evaluate, inv_propensity
from dexml.train import TrainSettings, fit, outcome
from small import write_tiny_data

ROWS = ("popularity", "zero-shot", "untrained vote", "light", "full")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "grouped"
    return data.load_dataset(write_tiny_data(folder, groups=True))


def test_popularity_ranks_by_frequency_and_ties_by_id() -> None:
    y = np.zeros((6, 5), np.float32)
    for label, count in enumerate([2, 5, 2, 0, 3]):
        y[:count, label] = 1
    ids = demo.popularity(csr_array(y), 3, 4)
    assert ids.tolist() == [[1, 4, 0, 2]] * 3
    assert ids.dtype == np.int32
    assert demo.popularity(csr_array(y), 1, 6).tolist() == [[1, 4, 0, 2, 3, -1]]
    assert demo.popularity(csr_array(y), 0, 2).shape == (0, 2)


def units(generator: np.random.Generator, n: int) -> NDArray[np.float32]:
    vectors = generator.standard_normal((n, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_vote_equals_its_slow_twin(seed: int) -> None:
    """A softmax over ten times the cosines of the 50 nearest points, each for its own labels."""
    generator = np.random.default_rng(seed)
    train_emb, test_emb = units(generator, 90), units(generator, 13)
    y = (generator.random((90, 11)) < 0.2).astype(np.float32)
    y[4] = 0
    expected = np.zeros((13, 11))
    for row, point in enumerate(test_emb.astype(np.float64)):
        cosines = {i: float(point @ other) for i, other in enumerate(train_emb.astype(np.float64))}
        nearest = sorted(cosines, key=lambda i: -cosines[i])[:50]
        total = sum(np.exp(10 * cosines[i]) for i in nearest)
        for i in nearest:
            for label in np.flatnonzero(y[i]):
                expected[row, label] += np.exp(10 * cosines[i]) / total
    found = demo.vote(train_emb, csr_array(y), test_emb)
    assert found.shape == (13, 11)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-7)


def test_compare_is_evaluate_with_errors_over_groups(dataset: Dataset) -> None:
    assert dataset.exclude_test is not None
    generator = np.random.default_rng(0)
    # The excluded pairs rank first, so leaving them out matters.
    scores, others = generator.random((2, 80, 64)) + dataset.exclude_test.toarray()
    ids = np.argsort(-scores, axis=1).astype(np.int32)
    ids = np.pad(ids, ((0, 0), (0, 36)), constant_values=-1)
    predictions = {"ids": ids, "scores": csr_array(others)}
    results, errors = demo.compare(dataset, predictions, 3)
    assert list(results) == list(errors) == ["ids", "scores"]
    q = inv_propensity(dataset.y_train)
    y_true, exclude = dataset.y_test, dataset.exclude_test
    for name, y_pred in predictions.items():
        expected = evaluate(y_true, y_pred, outcome.REPORTED, inv_propensity=q, exclude=exclude)
        assert results[name].metrics == expected
        assert expected != evaluate(y_true, y_pred, outcome.REPORTED, inv_propensity=q)
        evaluator = Evaluator(64, outcome.REPORTED, inv_propensity=q, keep_rows=True)
        evaluator.update(y_true, y_pred, exclude=exclude)
        own = evaluator.result()
        assert errors[name] == own.standard_errors(dataset.test_groups, seed=3)
        assert errors[name] != own.standard_errors(seed=3)


def test_examples_mark_what_is_true_and_name_what_was_missed() -> None:
    labels = [f"label {i}" for i in range(30)]
    y = np.zeros((3, 30), np.float32)
    y[0, [2, 3]] = 1
    y[2, 10:30] = 1
    scores = np.zeros((3, 30))
    scores[0, [1, 2, 4]] = [0.1, 0.3, 0.2]
    scores[2, :10] = np.arange(10, 0, -1)
    scores[2, 29] = 9.5
    empty = csr_array((0, 30))
    texts = ["first point", "second point", "third point"]
    made = Dataset([], texts, labels, empty, csr_array(y), None, None, None, None)
    assert demo.examples(made, csr_array(scores), [2, 0]).splitlines() == [
        "",
        "third point",
        "  predicted: label 0; *label 29; " + "; ".join(f"label {i}" for i in range(1, 7)),
        "  also true: " + "; ".join(f"label {i}" for i in range(10, 18)) + "; and 11 more",
        "",
        "first point",
        "  predicted: *label 2; label 4; label 1",
        "  also true: label 3",
    ]


class Demo:
    """The demo on tiny data with the tiny encoder, and what it did."""

    def __init__(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.out = out
        self.prepared: list[Path] = []
        self.fits: list[str] = []
        self._capsys = capsys

    def run(self, *more: str) -> tuple[int, str, str]:
        code = console.run(demo.main, ["--out", str(self.out), *more])
        return code, *self._capsys.readouterr()


@pytest.fixture
def tiny_demo(
    tmp_path: Path,
    tiny_encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Demo:
    monkeypatch.setattr("dexml.train.inputs.ENOUGH", 1)  # one fit less for each part
    made = Demo(tmp_path / "demo", capsys)
    minilm = TrainSettings.model_fields["encoder"].default

    def prepare(folder: Path, *rest: Any, **options: Any) -> None:
        made.prepared.append(folder)
        write_tiny_data(folder, groups=True)
        stats = {"hpo_release": "2001-02-03", "licence": "free as in tests"}
        (folder / "stats.json").write_text(json.dumps(stats))

    def load(name: str, plain: Callable[..., Any] = DualEncoder.load, **options: Any) -> Any:
        return plain(str(tiny_encoder) if name == minilm else name, **options)

    def watch_fit(*arguments: Any, plain: Callable[..., Any] = fit.fit) -> Any:
        made.fits.append(arguments[0].name)
        return plain(*arguments)

    monkeypatch.setattr(hpo, "prepare", prepare)
    monkeypatch.setattr(DualEncoder, "load", load)
    monkeypatch.setattr(fit, "fit", watch_fit)
    return made


def table_of(out: str) -> dict[str, list[str]]:
    """Cells of the lines of the table, by row name."""
    found = {}
    for line in out.splitlines():
        cells = line.replace(" ±", "±").split("  ")
        if cells[0] in ROWS:
            found[cells[0]] = [cell.strip() for cell in cells[1:] if cell]
    return found


def scores_of(out: str) -> dict[str, list[str]]:
    return {row: cells[:-1] for row, cells in table_of(out).items()}


def seconds_of(out: str) -> dict[str, float]:
    return {row: float(cells[-1]) for row, cells in table_of(out).items()}


def test_the_whole_job_then_again_and_overwrite(tiny_demo: Demo) -> None:
    code, out, err = tiny_demo.run()
    assert code == 0, err
    assert tiny_demo.fits == ["selection", "all points"]
    assert len(tiny_demo.prepared) == 1
    assert tuple(table_of(out)) == ROWS
    assert "80 test diseases, 64 phenotype terms (HPO 2001-02-03)" in out
    assert out.count("  predicted: ") == demo.SHOWN_POINTS
    for line in ("== train: ", "== index: ", "== predict: ", "--encoder none", "== baselines"):
        assert line in err
    assert err.index("--encoder none") < err.index("== index: ")
    assert all(float(cells[-1]) >= 0 for cells in table_of(out).values())
    assert err.endswith("free as in tests\n")
    info = (tiny_demo.out / "run" / "run.json").read_text()

    code, again, _ = tiny_demo.run()
    assert code == 0
    assert len(tiny_demo.fits) == 2
    assert len(tiny_demo.prepared) == 1
    assert scores_of(again) == scores_of(out)
    assert (tiny_demo.out / "run" / "run.json").read_text() == info
    # What was found done keeps its time.
    assert seconds_of(again)["zero-shot"] == pytest.approx(seconds_of(out)["zero-shot"], abs=1)
    for row, run in (("light", "light"), ("full", "run")):
        saved = json.loads((tiny_demo.out / run / "metrics.json").read_text())
        assert seconds_of(again)[row] >= saved["training_seconds"] - 0.1

    code, _, err = tiny_demo.run("--seed", "3")
    assert code == 1
    assert "was started with seed = 0, not 3" in err

    code, other, err = tiny_demo.run("--seed", "3", "--overwrite", "--quiet")
    assert code == 0, err
    assert tiny_demo.fits == ["selection", "all points"] * 2
    assert len(tiny_demo.prepared) == 1  # the data are kept
    assert scores_of(other)["full"] != scores_of(out)["full"]
    assert (tiny_demo.out / "run" / "run.json").read_text() != info
    assert "free as in tests" not in err


def test_rows_of_the_table_are_what_they_are_called(tiny_demo: Demo, tiny_encoder: Path) -> None:
    code, out, err = tiny_demo.run("--quiet", "--overwrite")
    assert code == 0, err
    dataset = data.load_dataset(tiny_demo.out / "data")
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    points, labels, tests = (
        encoder.encode(texts)
        for texts in (dataset.train_texts, dataset.label_texts, dataset.test_texts)
    )
    expected = {
        "popularity": demo.popularity(dataset.y_train, 80, 100),
        "zero-shot": exact_search(tests, labels, 100, exclude=dataset.exclude_test)[0],
        "untrained vote": demo.vote(points, dataset.y_train, tests),
    }
    q = inv_propensity(dataset.y_train)
    rows = table_of(out)
    for name, y_pred in expected.items():
        scores = evaluate(
            dataset.y_test,
            y_pred,
            outcome.REPORTED,
            inv_propensity=q,
            exclude=dataset.exclude_test,
        )
        found = [float(cell.split("±")[0]) for cell in rows[name][:-1]]
        assert found == pytest.approx([100 * scores[m] for m in outcome.REPORTED], abs=0.01), name
    for name, run in (("light", "light"), ("full", "run")):
        saved = json.loads((tiny_demo.out / run / "metrics.json").read_text())
        assert rows[name][:-1] == [
            f"{100 * saved['metrics'][m]:.2f}±{100 * saved['standard_errors'][m]:.1f}"
            for m in outcome.REPORTED
        ]


def test_a_demo_that_was_stopped_goes_on(tiny_demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "fit", stopped)
        assert tiny_demo.run("--quiet")[0] == 130
    light = (tiny_demo.out / "light" / "run.json").read_bytes()
    code, out, err = tiny_demo.run("--quiet")
    assert code == 0, err
    assert tuple(table_of(out)) == ROWS
    assert (tiny_demo.out / "light" / "run.json").read_bytes() == light


def test_popularity_counts_positives_and_pads() -> None:
    y = csr_array(np.array([[5.0, 1, 0], [0, 1, 0], [0, 1, 0]]))
    assert demo.popularity(y, 2, 5).tolist() == [[1, 0, 2, -1, -1]] * 2


def test_vote_with_few_training_points() -> None:
    emb = np.eye(3, 4, dtype=np.float32)
    y = csr_array(np.eye(3))
    scores = demo.vote(emb, y, emb[:2]).toarray()
    assert scores.argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
