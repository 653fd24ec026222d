"""Vectors that clusters of labels share (DEXA), and labels that must beat their texts (PRIME)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn.functional import normalize

from dexml import losses
from dexml.encoder import DualEncoder, LabelTable
from dexml.predict import Predictor
from dexml.sampling import balanced_clusters
from dexml.train import stages, step
from dexml.train.step import Stage
from dexml.train.towers import plan
from small import part_path, train_settings
from train_parts import features64, start_in_float64, start_of

BATCH = np.array([3, 7, 10, 33, 150, 151, 200, 299])
N_CLUSTERS = 7


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def stage_of(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Stage]:
    """A stage in float64 whose table has made-up residuals, biases and vectors of clusters."""
    monkeypatch.setattr(DualEncoder, "features", features64)

    def make(name: str, **changes: Any) -> Stage:
        settings = train_settings(
            filtered, tiny_encoder, tmp_path / "run", stages=name, overwrite=True, **changes
        )
        job = start_in_float64(settings)
        stage, model = stages.make(name, job), job.model
        if model.table.shared is not None:
            with torch.no_grad():
                model.table.shared.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        model.eval()  # no dropout, which other micro-batches draw in another way
        return stage

    return make


def written_down(
    table: LabelTable, encoder: DualEncoder, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The slow twin: vectors of all labels, the clusters as a matrix of zeros and ones; texts."""
    assert table.shared is not None
    one_hot = torch.eye(len(table.shared), dtype=torch.float64)[table.cluster.long()]
    projected = encoder.project(features, "label")
    vectors = normalize(projected + table.residual + one_hot @ table.shared, dim=1)
    return vectors, normalize(projected, dim=1)


def test_a_label_has_the_vector_of_its_cluster_whether_or_not_it_was_seen(
    tiny_encoder: Path,
) -> None:
    encoder = DualEncoder.load(str(tiny_encoder), head="shared").double()
    table = LabelTable(torch.tensor([2, 0, 1]), encoder.dim, n_clusters=2).double()
    assert table.shared is not None
    table.cluster.copy_(torch.tensor([1, 0, 1]))
    torch.nn.init.normal_(table.shared)
    features = torch.randn(3, encoder.width, dtype=torch.float64)
    expected = normalize(features + table.shared.detach()[[1, 0, 1]], dim=1)
    torch.testing.assert_close(table(encoder, features), expected)
    torch.testing.assert_close(table(encoder, features[1:], torch.tensor([1, 2])), expected[1:])
    torch.nn.init.normal_(table.residual)
    whole = (table.residual + table.shared[[1, 0, 1]]).detach().float()
    torch.testing.assert_close(table.whole_residual(), whole)


def test_labels_are_put_into_balanced_clusters_once(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of("heads", label_clusters=N_CLUSTERS)
    table, encoder = stage.model.table, stage.model.encoder
    _, features = stage.texts.features(BATCH)
    vectors = encoder.embed(features, "label")
    expected = balanced_clusters(vectors, n_clusters=N_CLUSTERS, seed=stage.settings.seed)
    assert table.cluster.tolist() == expected.tolist()
    assert np.ptp(np.bincount(expected, minlength=N_CLUSTERS)) <= 1
    table.cluster.zero_()
    for both, second in (("heads,joint", "joint"), ("joint,heads", "heads")):
        settings = stage.settings.model_copy(update={"stages": both})
        stages.make(second, replace(stage.job, settings=settings))
        assert (table.cluster == 0).all()  # as the stage before has left them


@pytest.mark.parametrize("name", ["heads", "joint"])
@pytest.mark.parametrize("negatives", ["all", "uniform"])
@pytest.mark.parametrize("beat_text", [0.0, 0.7])
def test_gradients_equal_autograd(
    stage_of: Callable[..., Stage], name: str, negatives: str, beat_text: float
) -> None:
    """Of shared vectors, residuals, biases and encoder, with many micro-batches."""
    drawn = {"head_negatives": negatives, "head_pool": 128, "negatives": negatives}
    stage = stage_of(
        name, label_clusters=N_CLUSTERS, micro_tokens=40, beat_text=beat_text, margin=0.05, **drawn
    )
    if name == "heads":
        stage = replace(stage, max_tokens=10, label_plan=None)
    model, settings = stage.model, stage.settings
    encoder, table = model.encoder, model.table
    found = stage.sampler.candidates(BATCH, 1)
    n = (len(BATCH), len(found.ids))
    same = np.arange(n[0]), np.arange(n[1])
    assert found.ignore is not None
    if name == "heads":
        known = (torch.from_numpy(f) for f in stage.texts.features(np.arange(300)))
        points, labels = (encoder(next(known)[BATCH]), next(known))
    else:
        problem, texts = stage.job.problem, stage.texts
        points = torch.cat([texts.points(BATCH[i : i + 1], i) for i in range(len(BATCH))])
        tokens = problem.label_tokens
        one = [encoder.features(tokens.tensor(np.array([i]), encoder.device)) for i in range(64)]
        labels = torch.cat(one)
    vectors, alone = written_down(table, encoder, labels)
    positives = step.csr(found.positives, *same, n)
    expected = losses.decoupled_softmax(
        points,
        vectors[found.ids],
        positives,
        ignore=step.csr(found.ignore, *same, n),
        temperature=settings.temperature,
        label_bias=table.bias[found.ids],
        negative_log_weight=found.log_weight,
    )
    rows = torch.repeat_interleave(torch.arange(n[0]), torch.diff(positives[0]))
    ids = torch.from_numpy(found.ids)[positives[1]]
    own, text = vectors[ids], alone[ids].detach()
    terms = (points[rows] * (text - own)).sum(dim=1) + settings.margin
    share = 1 / torch.diff(positives[0])[rows].double() / n[0]
    assert 0 < int((terms < 0).sum()) < len(terms)  # the hinge does both
    term = (share * terms.clamp(min=0)).sum() / settings.temperature
    expected = expected + beat_text * term
    model.zero_grad()
    expected.backward()
    assert table.shared is not None
    wanted: dict[str, Any] = {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }
    assert float(wanted["table.shared"].abs().max()) > 1e-4
    value, drawn_rows = step.gradients(stage, BATCH, 1, 0, 10)
    assert value == pytest.approx(float(expected.detach()), abs=1e-12)
    names = {id(p): name for name, p in model.named_parameters()}
    assert "table.shared" in {names[id(p)] for p in stage.parameters}
    for parameter in stage.parameters:
        torch.testing.assert_close(
            parameter.grad, wanted[names[id(parameter)]], rtol=1e-9, atol=1e-12
        )
    seen = table.counts > 0
    wanted["table.residual"][~seen] = 0
    if drawn_rows is not None:
        ids = torch.from_numpy(drawn_rows.ids)
        ours: tuple[Any, Any] = drawn_rows.residual, drawn_rows.bias
    else:
        assert stage.own_table is not None
        order = plan(np.arange(64), stage.texts.label_lengths, stage.max_tokens).ids
        ids = torch.from_numpy(order)
        ours = stage.own_table.residual.grad, stage.own_table.bias.grad
    torch.testing.assert_close(ours[0], wanted["table.residual"][ids], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours[1], wanted["table.bias"][ids], rtol=1e-9, atol=1e-12)


def test_a_stage_that_trains_texts_alone_lets_no_label_beat_its_text(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of("encoder")
    found = []
    for weight in (0.0, 1.0):
        settings = stage.settings.model_copy(update={"beat_text": weight})  # of encoder, then heads
        value, _ = step.gradients(
            replace(stage, job=replace(stage.job, settings=settings)), BATCH, 1, 0, 10
        )
        grads = [parameter.grad for parameter in stage.parameters if parameter.grad is not None]
        assert grads
        found.append([value, *(float(grad.square().sum()) for grad in grads)])
    assert found[0] == found[1]


def test_shared_vectors_learn_at_a_rate_of_their_own(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of("heads", label_clusters=N_CLUSTERS, label_cluster_lr=0.02, weight_decay=0.5)
    shared = stage.model.table.shared
    assert shared is not None
    assert stage.optimizer is not None
    (group,) = [g for g in stage.optimizer.param_groups if any(p is shared for p in g["params"])]
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.0)
    before = shared.detach().clone()
    step.take_step(stage, BATCH, 1, 0, 10)
    assert (shared != before).any()
    tuned = stage_of("encoder", encoder_epochs=1)
    assert tuned.model.table.shared is None


def test_a_run_keeps_the_sum_in_its_residuals(shared_run: Callable[..., Path]) -> None:
    """So a label whose text is given again has its vector again, and a new one that of its text."""
    run = shared_run(label_clusters=N_CLUSTERS, label_cluster_lr=0.02)
    plain = shared_run()
    assert load_file(part_path(run, "dense/table")).keys() == {"residual", "bias"}
    predictor = Predictor.open(run)
    vectors = predictor.dense.index.vectors.copy()
    assert not np.allclose(vectors, Predictor.open(plain).dense.index.vectors, atol=1e-3)
    texts = predictor.label_set.texts
    predictor.update_labels([0, 5], [texts[0], texts[5]])
    np.testing.assert_allclose(predictor.dense.index.vectors[[0, 5]], vectors[[0, 5]], atol=1e-5)
    (new,) = predictor.add_labels(["a theme for printers"])
    alone = predictor.encode(["a theme for printers"])  # one head for points and labels
    np.testing.assert_allclose(predictor.dense.index.vectors[new, :-1], alone[0, :-1], atol=1e-5)


def test_clusters_that_make_no_sense_are_refused(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    def settings(**changes: Any) -> Any:
        return train_settings(tiny_data, tiny_encoder, tmp_path / "run", **changes)

    for name in ("label_clusters", "beat_text"):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is about what labels"):
            settings(stages="encoder", **{name: 3})
    with pytest.raises(ValueError, match="--beat-text needs labels that learn"):
        settings(beat_text=1.0, residual_lr=0)
    assert settings(beat_text=1.0, residual_lr=0, label_clusters=3).beat_text == 1
    with pytest.raises(ValueError, match="--label-clusters 65 for 64 labels; give fewer"):
        start_of(settings(label_clusters=65))
