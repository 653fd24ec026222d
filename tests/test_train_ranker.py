"""The ranker in a training with an encoder: chosen, kept over a kill, saved, edited."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, load_npz, save_npz

from dexml import train
from dexml.metrics import evaluate
from dexml.predict import Predictor, open_run
from dexml.run import Run
from dexml.train import fit
from dexml.train.schedule import ALL_POINTS
from dexml.train.settings import TrainSettings
from small import PARTS, TOPICS, assert_same, train_settings


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each label has a word of its own that the tiny encoder does not know: only words tell."""
    folder = tmp_path_factory.mktemp("data") / "secrets"
    rng = np.random.default_rng(0)
    labels = [f"{topic} {part}" for topic in TOPICS for part in PARTS]
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "Y.txt").write_text("".join(f"{t}\n" for t in labels))
    for part, n_points in (("trn", 400), ("tst", 60)):
        y = np.zeros((n_points, len(labels)), np.float32)
        texts = []
        for row in range(n_points):
            chosen = rng.choice(len(labels), size=2, replace=False)
            y[row, chosen] = 1
            lure = labels[rng.integers(len(labels))]
            texts.append(" ".join(f"secret{i}" for i in chosen) + f" {lure}")
        (folder / "raw" / f"{part}_X.txt").write_text("".join(f"{t}\n" for t in texts))
        save_npz(folder / f"Y.{part}.npz", csr_array(y))
    return folder


def settings_of(data: Path, encoder: Path, out: Path, **changes: Any) -> TrainSettings:
    values = {"ranker": "auto", "tree": "none", "validation": 0.3, "head_epochs": 2}
    values["bilinear"] = "none"
    return train_settings(data, encoder, out, **(values | changes))


def facts_of(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    return facts


def metrics_of(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


@pytest.fixture(scope="module")
def ranked(secrets: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "ranked"
    train.train(settings_of(secrets, tiny_encoder, out))
    return out


def test_a_ranker_that_helps_is_used(ranked: Path) -> None:
    chosen = facts_of(ranked)["selected_ranker"]
    assert chosen["used"]
    assert chosen["gain"]["nDCG@5"]["ranker"] > chosen["gain"]["nDCG@5"]["base"]
    metrics = metrics_of(ranked)
    assert metrics["metrics"]["nDCG@5"] > metrics["without_ranker"]["nDCG@5"] + 0.2


@pytest.mark.parametrize(
    "changes",
    [{"favour": "tail"}, {"tree": "auto"}, {"bilinear": "auto"}],
    ids=["tail", "tree", "bilinear"],
)
def test_another_ranker_is_asked_for(
    secrets: Path, tiny_encoder: Path, tmp_path: Path, ranked: Path, changes: dict[str, Any]
) -> None:
    train.train(settings_of(secrets, tiny_encoder, tmp_path / "run", **changes))
    assert facts_of(tmp_path / "run")["selected_ranker"] != facts_of(ranked)["selected_ranker"]


def test_the_saved_run_gives_the_scores_of_the_training(secrets: Path, ranked: Path) -> None:
    texts = (secrets / "raw" / "tst_X.txt").read_text().splitlines()
    ids, _ = Predictor.open(ranked).predict(texts, 100)
    y_true = csr_array(load_npz(secrets / "Y.tst.npz"))
    for name, value in evaluate(y_true, ids, ("P@1", "nDCG@5", "R@100")).items():
        # The texts are encoded in other batches, which may turn a near tie.
        assert value == pytest.approx(metrics_of(ranked)["metrics"][name], abs=0.02)


def test_without_the_ranker_all_is_as_before(
    secrets: Path, tiny_encoder: Path, ranked: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    train.train(settings_of(secrets, tiny_encoder, plain, ranker="none"))
    assert_same(plain, ranked)
    facts = facts_of(plain)
    assert not {"lexical", "ranker", "selected_ranker"} & set(facts)
    assert facts["selected"] == facts_of(ranked)["selected"]
    served = "metrics" if facts["selected"]["kind"] == "votes" else "without_memory"
    assert (
        metrics_of(plain)["metrics"]
        == metrics_of(ranked)["without_ranker" if served == "metrics" else served]
    )


def test_a_ranker_that_does_not_help_leaves_no_trace(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The texts say nothing about the labels."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    rng = np.random.default_rng(0)
    for part, n in (("trn", 300), ("tst", 80)):
        lines = (" ".join(rng.choice(list("abcdefgh"), size=4)) + "\n" for _ in range(n))
        (data / "raw" / f"{part}_X.txt").write_text("".join(lines))
    out = tmp_path / "run"
    train.train(settings_of(data, tiny_encoder, out))
    assert "lexical" not in facts_of(out)
    assert not (out / "checkpoint" / "ranker.npz").exists()
    assert "without_ranker" not in metrics_of(out)


@pytest.mark.parametrize("where", ["part 1", "part 3", ALL_POINTS])
def test_killed_after_the_selection_the_ranker_is_the_same(
    secrets: Path,
    tiny_encoder: Path,
    ranked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    settings = settings_of(secrets, tiny_encoder, tmp_path / "broken")
    usual = fit.fit

    def killed(job: Any, tracker: Any) -> Any:
        if job.name == where:
            raise KeyboardInterrupt
        return usual(job, tracker)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            train.train(settings)
    assert (settings.out / "checkpoint" / "ranker.npz").exists() == (where == ALL_POINTS)
    train.train(settings.model_copy(update={"resume": True}))
    assert facts_of(settings.out)["parts"] == facts_of(ranked)["parts"]
    assert not list((settings.out / "checkpoint").glob("part *"))


def test_without_refit_the_model_of_the_selection_is_served(
    secrets: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Not that of the last part of the points that the ranker learned from."""
    vectors = []
    for ranker in ("auto", "none"):
        out = tmp_path / ranker
        settings = settings_of(secrets, tiny_encoder, out)
        train.train(settings.model_copy(update={"refit": False, "ranker": ranker}))
        state = Run.open(out).state
        vectors.append(state.array("dense/vectors", np.float32, (None, None)))
        assert ("ranker" in state.facts) == (ranker == "auto")
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_damaged_ranker_of_a_checkpoint_is_named(
    secrets: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(secrets, tiny_encoder, tmp_path / "broken")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dexml.train.final.save", killed)
        with pytest.raises(KeyboardInterrupt):
            train.train(settings)
    path = settings.out / "checkpoint" / "ranker.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"ranker\.npz: damaged .*--overwrite"):
        train.train(settings.model_copy(update={"resume": True}))


def test_edits_reach_all_members(ranked: Path) -> None:
    predictor = Predictor(open_run(ranked))
    (new,) = predictor.add_labels(["wombat burrow"])
    rows = predictor.add_points(["secret99 wombat"], [[int(new), 3]])
    assert rows.tolist() == [400]
    memory = predictor.memory
    assert memory is not None
    assert memory.n_points == 401
    predictor.remove_labels([0])
    ids = predictor.predict(["secret0 kernel driver", "secret99 wombat burrow"], 65).ids
    assert 0 not in ids
    assert new in ids[1, :10]
