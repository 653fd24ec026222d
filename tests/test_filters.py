"""Training filter pairs, groups, and what the selection may see of the validation points."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, save_npz

from dexml import data, losses, train
from dexml.train import stages, step
from small import log_of, train_settings, weights, write_tiny_data
from train_parts import start_of

STAGES = pytest.mark.parametrize("name", ["heads", "encoder", "joint"])
N_LABELS = 64


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data") / "grouped", groups=True)


def as_dense(pairs: Any, labels: NDArray[np.int64], n_rows: int) -> NDArray[np.bool_]:
    """Pairs as the loss takes them (columns are places in `labels`), as points x all labels."""
    if not isinstance(pairs, tuple):
        pairs = (torch.from_numpy(pairs.indptr), torch.from_numpy(pairs.indices))
    indptr, indices = (part.numpy() for part in pairs)
    dense = np.zeros((n_rows, N_LABELS), np.bool_)
    dense[np.repeat(np.arange(n_rows), np.diff(indptr)), labels[indices]] = True
    return dense


@STAGES
def test_the_loss_is_given_the_positives_and_the_pairs_of_its_points(
    filtered: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    settings = train_settings(
        *(filtered, tiny_encoder, tmp_path / "run"),
        stages=name,
        negatives="in-batch",
        deterministic=name != "heads",
    )
    job = start_of(settings)
    model = job.model
    plain = losses.decoupled_softmax
    calls: list[dict[str, Any]] = []

    def watch(points: Any, labels: Any, positives: Any, **options: Any) -> Any:
        calls.append({"positives": positives, **options})
        return plain(points, labels, positives, **options)

    monkeypatch.setattr(losses, "decoupled_softmax", watch)
    with torch.no_grad():  # so that the biases tell which labels are scored
        model.table.bias.copy_(torch.arange(N_LABELS))
    rows = np.array([0, 3, 4, 7, 8, 9, 150, 299])
    stage = stages.make(name, replace(job, rows=np.arange(300)))
    step.gradients(stage, rows, 1, 0, 10)
    lengths = stage.texts.point_lengths
    if lengths is not None:  # the order in which they are encoded
        rows = rows[np.lexsort((rows, lengths[rows]))]
    labels = calls[0]["label_bias"].detach().numpy().astype(np.int64)
    assert (len(labels) < N_LABELS) == (name != "heads")
    scored = np.isin(np.arange(N_LABELS), labels)
    part = data.load_part(filtered, "trn", N_LABELS)
    assert part.exclude is not None
    for pairs, expected in (("positives", part.y), ("ignore", part.exclude)):
        dense = expected[rows].toarray() > 0
        assert (dense & scored).any()
        found = as_dense(calls[0][pairs], labels, len(rows))
        np.testing.assert_array_equal(found, dense & scored, pairs)


def test_a_positive_that_is_a_filter_pair_is_not_trained_on(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = write_tiny_data(tmp_path / "data", train_filter=True)
    part = data.load_part(folder, "trn", N_LABELS)
    positives = np.stack(part.y.nonzero(), axis=1)[::5]
    with (folder / "filter_labels_train.txt").open("a") as file:
        file.writelines(f"{row} {label}\n" for row, label in positives)
    settings = train_settings(folder, tiny_encoder, tmp_path / "run", validation=0)
    job = start_of(settings)
    problem, model = job.problem, job.model
    expected = part.y.toarray()
    expected[positives[:, 0], positives[:, 1]] = 0
    np.testing.assert_array_equal(problem.y.toarray(), expected)
    np.testing.assert_array_equal(model.table.counts, expected.sum(axis=0))


@STAGES
def test_an_ignored_label_has_no_gradient_at_all(
    filtered: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Of one point's loss: exactly 0 for its filter pairs, and for no other (defect 14)."""
    settings = train_settings(
        filtered, tiny_encoder, tmp_path / "run", stages=name, negatives="all"
    )
    job = start_of(settings)
    problem = job.problem
    stage = stages.make(name, replace(job, rows=np.arange(problem.y.shape[0])))
    exclude = data.load_pairs(filtered / "filter_labels_train.txt", problem.y.shape)
    plain = losses.decoupled_softmax
    given: list[torch.Tensor] = []

    def watch(points: Any, labels: Any, positives: Any, **options: Any) -> Any:
        given.append(labels)
        return plain(points, labels, positives, **options)

    monkeypatch.setattr(losses, "decoupled_softmax", watch)
    n_ignored = 0
    for row in (0, 3, 4, 6, 297):
        step.gradients(stage, np.array([row]), 1, 0, 10)
        assert stage.label_plan is not None
        ignored = (exclude[[row]].toarray()[0] > 0)[stage.label_plan.ids]
        n_ignored += ignored.sum()
        gradient = given[-1].grad
        assert gradient is not None
        np.testing.assert_array_equal((gradient.numpy() == 0).all(axis=1), ignored)
        if stage.own_table is not None:
            assert stage.own_table.bias.grad is not None
            np.testing.assert_array_equal(stage.own_table.bias.grad.numpy() == 0, ignored)
    assert n_ignored >= 6


def test_validation_leaves_the_pairs_out(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """With every wrong label of the validation points filtered, every first hit is right."""
    folder = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    part = data.load_part(folder, "trn", N_LABELS)
    held_out = np.flatnonzero(data.validation_mask(part.texts, 0.1))
    wrong = part.y[held_out].toarray() == 0
    pairs = [f"{held_out[i]} {label}\n" for i, label in zip(*np.nonzero(wrong), strict=True)]
    (folder / "filter_labels_train.txt").write_text("".join(pairs))
    out = tmp_path / "run"
    changes = {"stages": "heads,encoder", "head_epochs": 1, "encoder_epochs": 1}
    changes["groups"] = "file"  # each point for itself
    train.train(train_settings(folder, tiny_encoder, out, **changes))
    entries = log_of(out)
    scores = [entry["validation"] for entry in entries if "validation" in entry]
    assert len(scores) == 2
    for score in scores:
        assert score["P@1"] == pytest.approx((~wrong).any(axis=1).mean())
        assert score["R@10"] == pytest.approx((~wrong).any(axis=1).mean())


def test_no_group_lies_on_both_sides_of_the_cut(
    grouped: Path,
    tiny_encoder: Path,
    tmp_path: Path,
) -> None:
    keys = np.array((grouped / "raw" / "trn_groups.txt").read_text().split())
    assert max(np.unique(keys, return_counts=True)[1]) == 3
    job = start_of(train_settings(grouped, tiny_encoder, tmp_path / "run"))
    assert len(job.validation_rows) > 0
    assert not set(keys[job.rows]) & set(keys[job.validation_rows])
    both = np.concatenate([job.rows, job.validation_rows])
    np.testing.assert_array_equal(np.sort(both), np.arange(300))


def test_equal_texts_stay_together_without_groups(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    texts = (folder / "raw" / "trn_X.txt").read_text().splitlines()
    texts[150:] = texts[:150]
    (folder / "raw" / "trn_X.txt").write_text("\n".join(texts))
    job = start_of(train_settings(folder, tiny_encoder, tmp_path / "run"))
    assert len(job.validation_rows) > 0
    assert set(job.rows % 150).isdisjoint(job.validation_rows % 150)


def test_standard_errors_are_taken_over_the_groups(
    tiny_data: Path, grouped: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    saved, results = [], []
    for folder in (tiny_data, grouped):
        out = tmp_path / folder.name
        results.append(train.train(train_settings(folder, tiny_encoder, out, validation=0)))
        saved.append(json.loads((out / "metrics.json").read_text()))
    assert saved[0]["metrics"] == saved[1]["metrics"]
    assert results[1] is not None
    for content, groups in ((saved[0], None), (saved[1], data.load_dataset(grouped).test_groups)):
        assert content["standard_errors"] == results[1].standard_errors(groups, seed=1)
    for name in ("P@1", "nDCG@5", "R@10"):
        assert saved[0]["standard_errors"][name] != saved[1]["standard_errors"][name]
    assert "over points" in saved[0]["conventions"]["standard_errors"]
    assert "over groups" in saved[1]["conventions"]["standard_errors"]


def test_counts_and_centroids_come_from_the_fitted_points(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
) -> None:
    """`validation` is so large that some labels have their points among the held-out ones only."""
    settings = train_settings(
        tiny_data, tiny_encoder, tmp_path / "run", validation=0.8, residual_shrink=3.0
    )
    job = start_of(settings)
    assert job.problem.features is not None
    y, features = job.problem.y.toarray() > 0, job.problem.features[0].astype(np.float64)
    counts = y[job.rows].sum(axis=0)
    assert ((counts == 0) & (y.sum(axis=0) > 0)).any()
    np.testing.assert_array_equal(job.model.table.counts.numpy(), counts)
    stages.make("heads", job)
    residual = job.model.table.residual.detach().numpy()
    for label in range(N_LABELS):
        mean = features[[i for i in job.rows if y[i, label]]].sum(axis=0)
        expected = mean / max(np.linalg.norm(mean), 1e-12) * counts[label] / (counts[label] + 3.0)
        np.testing.assert_allclose(residual[label], expected, atol=1e-6)


@STAGES
def test_nothing_of_the_validation_points_reaches_the_weights(
    tiny_encoder: Path, tmp_path: Path, name: str
) -> None:
    """Other texts, labels and filter pairs of these points: the same head, layers, residuals."""
    changes: dict[str, Any] = {
        "stages": name,
        "head_epochs": 1,
        "encoder_epochs": 1,
        "joint_epochs": 1,
        "negatives_per_point": 8,
        "negatives": "hard 0.25, graph 0.25, frequency 0.25, uniform 0.25",
    }
    folder = write_tiny_data(tmp_path / "data", train_filter=True, groups=True)
    part = data.load_part(folder, "trn", N_LABELS)
    assert part.groups is not None
    held_out = data.validation_mask(part.groups, 0.1)

    def trained(name: str) -> dict[str, torch.Tensor]:
        out = tmp_path / name
        train.train(train_settings(folder, tiny_encoder, out, refit=False, **changes))
        return weights(out)

    before = trained("before")
    y = part.y.toarray()
    y[held_out] = np.roll(y[held_out], 1, axis=1)
    y[np.flatnonzero(held_out)[0]] = 1
    save_npz(folder / "Y.trn.npz", csr_array(y))
    reversed_texts = [  # as many tokens, so that batches of one length stay what they were
        " ".join(text.split()[::-1]) if held else text
        for text, held in zip(part.texts, held_out, strict=True)
    ]
    (folder / "raw" / "trn_X.txt").write_text("".join(f"{text}\n" for text in reversed_texts))
    with (folder / "filter_labels_train.txt").open("a") as file:
        file.writelines(f"{row} {(row + 1) % 64}\n" for row in np.flatnonzero(held_out))
    after = trained("after")
    del before["dense/table/bias"], after["dense/table/bias"]  # the prior is in it
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    y[np.flatnonzero(~held_out)[0]] = 1
    save_npz(folder / "Y.trn.npz", csr_array(y))
    fitted = trained("fitted")
    assert any(not torch.equal(tensor, fitted[name]) for name, tensor in before.items())
