"""A training with bce: where its offset starts, and what the probabilities of its run hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import data, train
from dexml.encoder import DualEncoder
from dexml.predict import Predictor
from dexml.scorers.queries import Queries
from dexml.train import memory, stages
from dexml.train.problem import Model
from small import train_settings
from train_parts import start_of
from voting import voting_run


def everything(predictor: Predictor, folder: Path) -> tuple[np.ndarray[Any, Any], float]:
    """Probabilities of all labels for the test points, and the share that is right."""
    part = data.load_part(folder, "tst", predictor.label_set.n_trained)
    ids = np.tile(np.arange(predictor.n_labels, dtype=np.int32), (len(part.texts), 1))
    found = predictor.dense.probabilities(Queries(part.texts), ids, predictor.label_set)
    return found, part.y.nnz / np.prod(part.y.shape)


def test_the_offset_starts_at_the_log_odds_of_a_positive(
    filtered: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Filter pairs are neither; only points that are trained on count."""
    job = start_of(train_settings(filtered, tiny_encoder, tmp_path / "run", loss="bce"))
    y, exclude = job.problem.y[job.rows].toarray(), job.problem.exclude
    assert exclude is not None
    kept = exclude[job.rows].toarray() == 0
    assert not kept.all()
    rate = (y > 0)[kept].mean()
    assert job.model.offset.item() == pytest.approx(np.log(rate / (1 - rate)), abs=1e-6)


@pytest.mark.parametrize(("share", "sign"), [(0.0, -1), (1.0, 1)])
def test_the_offset_is_finite_whatever_the_share(
    tiny_encoder: Path, share: float, sign: int
) -> None:
    y = csr_array(np.full((3, 4), share, np.float32))
    offset = Model.untrained(DualEncoder.load(str(tiny_encoder)), y).offset.item()
    assert np.isfinite(offset)
    assert offset * sign > 0


@pytest.mark.parametrize("stages_", ["heads", "encoder", "encoder,heads", "joint"])
def test_the_scores_begin_around_the_log_odds(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, stages_: str
) -> None:
    """The tiny encoder is random: its cosines are all near 0.9, far from 0."""
    settings = train_settings(filtered, tiny_encoder, tmp_path / "run", loss="bce", stages=stages_)
    job = start_of(settings)
    model, log_odds = job.model, job.model.offset.item()
    (first, *more) = stages_.split(",")
    stages.make(first, job)
    offset = model.offset.item()
    encoder, problem = model.encoder, job.problem
    points = encoder.encode_features(problem.point_tokens)[job.rows]
    labels = model.table.vectors(encoder, encoder.encode_features(problem.label_tokens), 1.0)
    scores = encoder.embed(points) @ labels[:, :-1].T / settings.temperature
    assert scores.mean() > 10
    assert scores.mean() + offset == pytest.approx(log_odds, abs=0.05)
    for name in more:  # what was learned stays
        stages.make(name, job)
        assert model.offset.item() == offset


def test_other_losses_leave_the_offset_alone(
    filtered: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    job = start_of(train_settings(filtered, tiny_encoder, tmp_path / "run", loss="softmax"))
    before = job.model.offset.item()
    stages.make("heads", job)
    assert job.model.offset.item() == before


@pytest.mark.parametrize("epochs", [1, 3])
def test_probabilities_have_the_level_of_the_truth(
    shared_run: Callable[..., Path], tiny_data: Path, epochs: int
) -> None:
    predictor = Predictor.open(shared_run(loss="bce", head_epochs=epochs))
    found, rate = everything(predictor, tiny_data)
    assert found.dtype == np.float32
    assert rate / 2 < found.mean() < 2 * rate


def test_probabilities_hold_neither_prior_nor_votes(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, scores = [], []
    options: dict[str, Any] = memory.choose_memory.__kwdefaults__ or {}
    for prior in (0.0, 0.5):
        monkeypatch.setitem(options, "priors", (prior,))
        out = tmp_path / f"{prior}"
        train.train(train_settings(tiny_data, tiny_encoder, out, loss="bce", memory="none"))
        for folder in (out, voting_run(out, tmp_path / f"{prior} and votes")):
            predictor = Predictor.open(folder)
            assert predictor.dense.settings["prior"] == prior
            found.append(everything(predictor, tiny_data)[0])
            scores.append(predictor.predict(["kernel driver"], 1).scores.item())
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5)
    assert len(set(scores)) == 4


def test_probabilities_after_edits(shared_run: Callable[..., Path]) -> None:
    predictor = Predictor.open(shared_run(loss="bce", head_epochs=1))
    (new,) = predictor.add_labels(["kernel driver"])
    predictor.remove_labels([3])
    ids = np.array([[new, 3, -1, 0]], np.int32)
    queries = Queries(["kernel driver"])
    found = predictor.dense.probabilities(queries, ids, predictor.label_set)
    assert found[0, 1] == found[0, 2] == 0
    assert 0 < found[0, 0] < 1
    assert 0 < found[0, 3] < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "decoupled"},
        {"loss": "bce, decoupled from 0.5"},
        {"loss": "decoupled, bce from 0.5", "refit": False},
        {"loss": "bce", "head_negatives": "uniform", "head_pool": 64},
        {"loss": "bce", "head_epochs": 0},
    ],
    ids=["another loss", "a later loss", "perhaps stopped before", "drawn labels", "not trained"],
)
def test_scores_that_are_no_probabilities_are_not_called_so(
    shared_run: Callable[..., Path], changes: dict[str, Any]
) -> None:
    predictor = Predictor.open(shared_run(**({"head_epochs": 1} | changes)))
    with pytest.raises(ValueError, match="its scores give no probabilities; that takes a training"):
        predictor.dense.probabilities(
            Queries(["kernel driver"]), np.array([[0]]), predictor.label_set
        )


def test_a_loss_that_ends_with_bce_gives_probabilities(
    shared_run: Callable[..., Path], tiny_data: Path
) -> None:
    predictor = Predictor.open(shared_run(loss="decoupled, bce from 0.3", head_epochs=3))
    assert "offset" in predictor.dense.settings
    assert everything(predictor, tiny_data)[0].max() < 1
