"""The step is exact: gradient cache, dropout, precision, drawn labels, rows of the table."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dexml import losses
from dexml.encoder import DualEncoder, LabelTable
from dexml.train import stages, step, towers
from dexml.train.rows import RowAdamW
from dexml.train.step import Stage
from dexml.train.towers import plan
from small import train_settings
from train_parts import features64, features_packed64, start_in_float64, start_of

BATCH = np.array([3, 7, 10, 33, 150, 151, 200, 299])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def stage_of(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Stage]:
    """A stage in float64, with dropout, at the start of a training."""
    monkeypatch.setattr(DualEncoder, "features", features64)
    monkeypatch.setattr(DualEncoder, "features_packed", features_packed64)

    def make(name: str, **changes: Any) -> Stage:
        settings = train_settings(
            filtered, tiny_encoder, tmp_path / "run", stages=name, overwrite=True, **changes
        )
        job = start_in_float64(settings)
        stage = stages.make(name.split(",")[0], job)
        job.model.train()
        return stage

    return make


def flat_gradient(stage: Stage) -> torch.Tensor:
    parts = [p.grad.reshape(-1) for p in stage.parameters if p.grad is not None]
    return torch.cat(parts).clone()


def one_shot(
    stage: Stage, step_number: int = 4, bias: torch.Tensor | None = None
) -> tuple[float, torch.Tensor]:
    """The slow twin: everything in one graph, the same dropout, one call of the loss."""
    settings, model = stage.settings, stage.model
    found = stage.sampler.candidates(BATCH, 1)
    sides = []
    texts = stage.texts
    both: list[tuple[Any, Any, towers.Encode]] = [
        (BATCH, texts.point_lengths, texts.points),
        (found.ids, texts.label_lengths, partial(texts.labels, None)),
    ]
    for side, (ids, lengths, encode) in enumerate(both):
        cut = plan(ids, lengths, stage.max_tokens, packed=settings.packed)
        rows = []
        for m in range(len(cut.tokens)):
            a, b = cut.cuts[m], cut.cuts[m + 1]
            torch.manual_seed(
                towers.seed_of(settings.seed, stage.schedule.number, step_number, side, m)
            )
            rows.append(encode(cut.ids[a:b], a))
        back = torch.empty(len(ids), dtype=torch.int64)
        back[torch.from_numpy(cut.order)] = torch.arange(len(ids))
        sides.append(torch.cat(rows)[back])
    n = (len(BATCH), len(found.ids))
    same = np.arange(n[0]), np.arange(n[1])
    loss = losses.decoupled_softmax(
        sides[0],
        sides[1],
        step.csr(found.positives, *same, n),
        ignore=None if found.ignore is None else step.csr(found.ignore, *same, n),
        temperature=settings.temperature,
        label_bias=(model.table.bias.detach() if bias is None else bias)[found.ids],
        negative_log_weight=found.log_weight,
    )
    for parameter in stage.parameters:
        parameter.grad = None
    loss.backward()
    return float(loss.detach()), flat_gradient(stage)


MODES = [
    {"negatives": "all"},
    {"negatives": "all", "positives_per_point": 1},
    {"negatives": "in-batch", "positives_per_point": 1},
    {"negatives": "uniform", "negatives_per_point": 3},
    {"negatives": "uniform", "negatives_per_point": 2, "packed": True},
    {"negatives": "graph 0.5, frequency 0.5", "negatives_per_point": 4, "encoder_layers": 1},
]


@pytest.mark.parametrize("mode", MODES, ids=lambda m: " ".join(map(str, m.values())))
@pytest.mark.parametrize("keep", [1, 40, 10_000])
def test_cached_gradient_equals_the_one_shot_gradient(
    stage_of: Callable[..., Stage], mode: dict[str, Any], keep: int
) -> None:
    stage = stage_of("encoder", micro_tokens=20, keep_tokens=keep, **mode)
    loss, expected = one_shot(stage)
    found, _ = step.gradients(stage, BATCH, 1, 4, 10)
    assert found == pytest.approx(loss, abs=1e-13)
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(flat_gradient(stage), expected, rtol=1e-12, atol=1e-13)


def test_packed_texts_give_the_gradient_of_texts_of_one_length(
    stage_of: Callable[..., Stage],
) -> None:
    found = []
    for packed in (False, True):
        stage = stage_of("encoder", micro_tokens=99, keep_tokens=1, negatives="all", packed=packed)
        stage.model.eval()  # no dropout, which other micro-batches draw in another way
        loss, _ = step.gradients(stage, BATCH, 1, 4, 10)
        batches = plan(BATCH, stage.texts.point_lengths, stage.max_tokens, packed=packed)
        found.append((loss, flat_gradient(stage), len(batches.tokens)))
    (loss, expected, n_batches), (packed_loss, ours, n_packed) = found
    assert n_packed < n_batches
    assert packed_loss == pytest.approx(loss, abs=1e-12)
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


def test_without_replayed_dropout_the_gradient_is_another(
    stage_of: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of("encoder", micro_tokens=20, keep_tokens=1, negatives="all")
    _, expected = one_shot(stage)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
    with pytest.raises(RuntimeError, match="gives other embeddings when it encodes a text again"):
        step.gradients(stage, BATCH, 1, 4, 10)
    stage.scratch.checked = True
    step.gradients(stage, BATCH, 1, 4, 10)
    assert float((flat_gradient(stage) - expected).abs().max()) > 1e-4


def test_steps_have_their_own_dropout_and_repeat_it(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of("encoder", negatives="all")
    values = [step.gradients(stage, BATCH, 1, number, 10)[0] for number in (0, 1, 0)]
    assert values[0] == values[2] != values[1]


@pytest.mark.parametrize("negatives", ["all", "uniform 0.5, graph 0.5"])
def test_heads_gradient_equals_autograd(stage_of: Callable[..., Stage], negatives: str) -> None:
    stage = stage_of("heads", head_negatives=negatives, head_pool=128)  # 2 a point
    stage = replace(stage, max_tokens=10, label_plan=None)
    problem_features = stage.texts.features(np.arange(300))
    table, encoder = stage.model.table, stage.model.encoder
    found = stage.sampler.candidates(BATCH, 1)
    n = (len(BATCH), len(found.ids))
    same = np.arange(n[0]), np.arange(n[1])
    assert found.ignore is not None
    loss = losses.decoupled_softmax(
        encoder(torch.from_numpy(problem_features[0][BATCH])),
        table(encoder, torch.from_numpy(problem_features[1]))[found.ids],
        step.csr(found.positives, *same, n),
        ignore=step.csr(found.ignore, *same, n),
        temperature=stage.settings.temperature,
        label_bias=table.bias[found.ids],
    )
    stage.model.zero_grad()
    loss.backward()
    assert encoder.head.weight.grad is not None
    assert table.residual.grad is not None
    assert table.bias.grad is not None
    expected = [g.clone() for g in (encoder.head.weight.grad, table.residual.grad, table.bias.grad)]
    assert float(expected[1].abs().max()) > 0
    value, tables = step.gradients(stage, BATCH, 1, 0, 10)
    assert value == pytest.approx(float(loss.detach()), abs=1e-13)
    torch.testing.assert_close(flat_gradient(stage).view_as(expected[0]), expected[0])
    if negatives == "all":
        assert stage.own_table is not None
        torch.testing.assert_close(stage.own_table.residual.grad, expected[1])
        torch.testing.assert_close(stage.own_table.bias.grad, expected[2])
    else:
        assert tables is not None
        ids = torch.from_numpy(tables[0])
        assert len(ids) < 64
        torch.testing.assert_close(tables[1], expected[1][ids])
        torch.testing.assert_close(tables[2], expected[2][ids])


def test_precision_changes_no_scale(filtered: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """Defect 5: the bf16 gradient is the float32 one, up to bf16."""
    found = {}
    for precision in ("float32", "bfloat16"):
        settings = train_settings(
            *(filtered, tiny_encoder, tmp_path / precision),
            stages="encoder",
            negatives="all",
            precision=precision,
        )
        stage = stages.make("encoder", start_of(settings))
        step.gradients(stage, BATCH, 1, 0, 10)
        found[precision] = flat_gradient(stage)
    cosine = torch.cosine_similarity(found["float32"], found["bfloat16"], dim=0)
    ratio = found["bfloat16"].norm() / found["float32"].norm()
    assert cosine > 0.99
    assert ratio == pytest.approx(1, abs=0.1)
    assert not torch.equal(found["float32"], found["bfloat16"])


def test_touched_rows_move_as_under_adamw() -> None:
    torch.manual_seed(0)
    table = LabelTable(torch.ones(6, dtype=torch.int64), 3)
    plain = LabelTable(torch.ones(6, dtype=torch.int64), 3)
    ours = RowAdamW(table, (0.9, 0.98), 1e-8)
    ours.add("residual", 0.1)
    ours.add("bias", 0.2)
    theirs = torch.optim.AdamW(
        [{"params": [plain.residual], "lr": 0.1}, {"params": [plain.bias], "lr": 0.2}],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    ids = np.array([4, 1, 2])
    for done in range(5):
        residual, bias = torch.randn(3, 3), torch.randn(3)
        plain.residual.grad, plain.bias.grad = torch.zeros(6, 3), torch.zeros(6)
        plain.residual.grad[ids], plain.bias.grad[ids] = residual, bias
        theirs.step()
        ours.step(ids, residual, bias, steps=done + 1)
    torch.testing.assert_close(table.residual, plain.residual)
    torch.testing.assert_close(table.bias, plain.bias)
    assert (table.residual[[0, 3, 5]] == 0).all()
    assert ours.counts.tolist() == [0, 5, 5, 0, 5, 0]


@pytest.mark.parametrize("beta2", [0.9, 0.98])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.02, 0.002])
def test_rows_that_are_seldom_drawn_move_as_far_as_under_adamw_on_drawn_gradients(
    share: float, beta2: float
) -> None:
    """In the mean, where all rows are updated and those that are not drawn have no gradient."""
    n, steps, lr = 400, 2500, 0.01
    generator = torch.Generator().manual_seed(0)
    table, plain = (LabelTable(torch.ones(n, dtype=torch.int64), 1) for _ in range(2))
    ours = RowAdamW(table, (0.9, beta2), 1e-8)
    ours.add("bias", lr)
    theirs = torch.optim.AdamW([plain.bias], lr=lr, betas=(0.9, beta2), weight_decay=0.0)
    for done in range(steps):
        ids = (torch.rand(n, generator=generator) < share).nonzero()[:, 0]
        plain.bias.grad = torch.zeros(n).index_fill(0, ids, 1 / share)
        theirs.step()
        gradient = torch.full((len(ids),), 1 / share)
        ours.step(ids.numpy(), torch.zeros(len(ids), 1), gradient, steps=done + 1)
    far = torch.stack([table.bias.detach().mean(), plain.bias.detach().mean()])
    assert (far < 0).all()
    assert float(far[0] / far[1]) == pytest.approx(1, abs=0.12)


def test_micro_batches_have_one_length_and_no_padding() -> None:
    """Defect 17: as many tokens are encoded as there are."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 40, size=1000)
    ids = generator.permutation(1000)[:700]
    for deterministic in (False, True):
        found = plan(ids, lengths, 100, deterministic=deterministic)
        assert sorted(found.ids) == sorted(ids)
        np.testing.assert_array_equal(found.ids, ids[found.order])
        assert found.runs[0][0] == 0
        assert found.runs[-1][1] == len(found.tokens)
        assert found.tokens.sum() == lengths[ids].sum()
        for m, tokens in enumerate(found.tokens):
            some = lengths[found.ids[found.cuts[m] : found.cuts[m + 1]]]
            assert len(set(some)) == 1
            assert tokens == some.sum() <= 100
    packed = plan(ids, lengths, 100, packed=True)
    assert packed.tokens.sum() == lengths[ids].sum()
    assert (packed.tokens <= 100).all()
    assert len(packed.tokens) < len(plan(ids, lengths, 100).tokens)
    next_text = lengths[packed.ids[packed.cuts[1:-1]]]
    assert (packed.tokens[:-1] + next_text > 100).all()  # no more texts would have fitted
    assert plan(ids, lengths, 2, packed=True).cuts.tolist() == list(range(701))
    assert len(found.runs) == 8
    borders = [found.cuts[a] for a, _ in found.runs]
    assert borders == [v * 700 // 8 for v in range(8)]


def test_positives_at_both_ends_count(stage_of: Callable[..., Stage]) -> None:
    """Defect 1: the last label can be a positive, and is no negative then."""
    stage = stage_of("heads")
    y = stage.sampler.y.tolil()
    y[int(BATCH[0]), [0, 63]] = 1
    stage.sampler.y = y.tocsr()
    for negatives in (stage.sampler,):
        rows, places = negatives.candidates(BATCH, 1).positives
        assert {0, 63} <= set(places[rows == 0])
    _, _ = step.gradients(stage, BATCH[:1], 1, 0, 10)
    assert stage.own_table is not None
    assert stage.own_table.bias.grad is not None
    grad = stage.own_table.bias.grad
    assert float(grad[0]) < 0
    assert float(grad[63]) < 0


def test_a_step_holds_no_points_x_labels_matrix(
    stage_of: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 19: targets travel as CSR; no tensor has B x K numbers."""
    stage = stage_of("heads", head_batch_size=300)
    shapes = []
    plain = losses.decoupled_softmax

    def watch(x: Any, y: Any, positives: Any, **options: Any) -> Any:
        shapes.append((positives[0].shape, positives[1].shape, options["ignore"][1].shape))
        return plain(x, y, positives, **options)

    monkeypatch.setattr(losses, "decoupled_softmax", watch)
    rows = np.arange(300)
    step.gradients(stage, rows, 1, 0, 10)
    assert shapes[0][0] == (301,)
    assert shapes[0][1][0] == stage.sampler.y.nnz
    assert shapes[0][2][0] < 300 * 64 / 4


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("heads", {"head_negatives": "all"}),
        ("heads", {"head_negatives": "uniform"}),
        ("heads", {"loss": "bce"}),
        ("encoder", {"negatives": "all"}),
        ("encoder", {"negatives": "uniform 0.5, graph 0.5", "keep_tokens": 40}),
        ("encoder", {"negatives": "in-batch", "encoder_layers": 1, "cache_layers": True}),
        ("joint", {"negatives": "all", "keep_tokens": 40}),
        ("joint", {"negatives": "uniform", "encoder_layers": 1}),
    ],
    ids=str,
)
def test_steps_leave_no_tensors_behind(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    """Not even until the garbage collector runs: on a large table it would come too late."""
    settings = train_settings(filtered, tiny_encoder, tmp_path / "run", stages=name, **changes)
    stage = stages.make(name, start_of(settings))
    stage.model.train()

    def alive() -> int:
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for number in range(23):
            step.take_step(stage, BATCH, 1, number, 30)
            if number == 2:
                before = alive()
        assert alive() <= before
    finally:
        gc.enable()


def with_settings(stage: Stage, **changes: Any) -> Stage:
    settings = stage.settings.model_copy(update=changes)
    return replace(stage, job=replace(stage.job, settings=settings))


def test_a_loss_after_bce_goes_on_with_its_scale(stage_of: Callable[..., Stage]) -> None:
    """The scale is what scores are served with; it and the offset stand still then."""
    stage = stage_of("heads", loss="bce, decoupled from 0.5")
    model = stage.model
    for number in range(5):
        step.take_step(stage, BATCH, 1, number, 10)
    scale, offset = float(model.log_scale.detach()), float(model.offset.detach())
    assert scale != 0
    temperature = stage.settings.temperature
    stage = with_settings(stage, temperature=temperature * float(np.exp(-scale)), loss="softmax")
    with torch.no_grad():
        model.log_scale.zero_()
    expected, _ = step.gradients(stage, BATCH, 1, 5, 10)
    stage = with_settings(stage, temperature=temperature, loss="bce, softmax from 0.5")
    with torch.no_grad():
        model.log_scale.fill_(scale)
    found, _ = step.take_step(stage, BATCH, 1, 5, 10)
    assert found == pytest.approx(expected, abs=1e-12)
    assert (float(model.log_scale.detach()), float(model.offset.detach())) == (scale, offset)


@pytest.mark.parametrize("keep", [1, 10_000])
@pytest.mark.parametrize("negatives", ["all", "uniform 0.5, graph 0.5"])
def test_joint_gradient_equals_autograd(
    stage_of: Callable[..., Stage], negatives: str, keep: int
) -> None:
    """Of transformer, head, residuals and biases: one graph, with the same dropout."""
    stage = stage_of(
        "joint", negatives=negatives, negatives_per_point=2, micro_tokens=20, keep_tokens=keep
    )
    table = stage.model.table
    assert float(table.residual.detach().abs().max()) > 0.01  # at the centroids
    loss, expected = one_shot(stage, bias=table.bias)
    assert table.residual.grad is not None
    assert table.bias.grad is not None
    residual, bias = table.residual.grad.clone(), table.bias.grad.clone()
    found, rows = step.gradients(stage, BATCH, 1, 4, 10)
    assert found == pytest.approx(loss, abs=1e-13)
    torch.testing.assert_close(flat_gradient(stage), expected, rtol=1e-12, atol=1e-13)
    assert float(residual.abs().max()) > 1e-4
    if negatives == "all":
        assert stage.own_table is not None
        ids = torch.from_numpy(np.asarray(stage.own_rows))
        ours = stage.own_table.residual.grad, stage.own_table.bias.grad
        assert len(ids) == len(bias)
    else:
        assert rows is not None
        ids, ours = torch.from_numpy(rows.ids), (rows.residual, rows.bias)
        assert 8 < len(ids) < 64
    torch.testing.assert_close(ours[0], residual[ids], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours[1], bias[ids], rtol=1e-12, atol=1e-13)


def test_residuals_start_at_centroids_once(stage_of: Callable[..., Stage]) -> None:
    """In the first stage that trains them: of features by the encoder as it is then."""
    first = stage_of("joint")
    encoder, table = first.model.encoder, first.model.table
    points = first.texts.features(first.job.rows)[0].astype(np.float64)
    y = first.job.problem.y[first.job.rows].toarray()
    counts = y.sum(axis=0)
    mean = y.T @ points
    mean /= np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-12)
    expected = mean * (counts / (counts + first.settings.residual_shrink))[:, None]
    assert encoder.normalize
    np.testing.assert_allclose(table.residual.detach().numpy(), expected, atol=1e-6)
    stage = stage_of("heads,joint", joint_epochs=1)
    with torch.no_grad():
        stage.model.table.residual.fill_(0.25)
    stages.make("joint", stage.job)
    assert (stage.model.table.residual == 0.25).all()  # as heads left them


@pytest.mark.parametrize("name", ["heads", "joint"])
@pytest.mark.parametrize("loss", ["decoupled", "bce"])
def test_loss_of_texts_and_of_labels_equals_autograd(
    stage_of: Callable[..., Stage], name: str, loss: str
) -> None:
    """w L(text alone) + (1 - w) L(label), each written down."""
    weight = 0.3
    stage = stage_of(name, negatives="all", text_weight=weight, loss=loss, micro_tokens=40)
    model, texts, settings = stage.model, stage.texts, stage.settings
    model.eval()  # no dropout, which other micro-batches draw in another way
    found = stage.sampler.candidates(BATCH, 1)
    n = (len(BATCH), len(found.ids))
    same = np.arange(n[0]), np.arange(n[1])
    ignored = found.ignore
    assert ignored is not None
    both = [torch.zeros(n[1], 2 * model.encoder.dim, dtype=torch.float64)]
    cut = plan(found.ids, texts.label_lengths, stage.max_tokens)
    for m in range(len(cut.tokens)):
        ids = cut.ids[cut.cuts[m] : cut.cuts[m + 1]]
        rows = torch.from_numpy(ids)
        part = texts.labels(None, ids, 0, alone=True)
        both.append(torch.zeros_like(both[0]).index_copy(0, rows, part))
    labels, alone = torch.stack(both).sum(dim=0).split(model.encoder.dim, dim=1)
    points = [texts.points(BATCH[i : i + 1], i) for i in range(len(BATCH))]
    more: Any = {"log_scale": model.log_scale, "offset": model.offset} if loss == "bce" else {}
    function: Any = losses.bce if loss == "bce" else losses.decoupled_softmax

    def of(label_emb: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = function(
            torch.cat(points),
            label_emb.contiguous(),
            step.csr(found.positives, *same, n),
            ignore=step.csr(ignored, *same, n),
            temperature=settings.temperature,
            label_bias=bias,
            **more,
        )
        return value

    model.zero_grad()
    bias = model.table.bias
    expected = weight * of(alone, torch.zeros_like(bias)) + (1 - weight) * of(labels, bias)
    expected.backward()
    wanted = [p.grad.clone() for p in (model.table.residual, bias) if p.grad is not None]
    wanted.append(flat_gradient(stage))
    scalars = [p.grad.clone() for p in (model.log_scale, model.offset) if p.grad is not None]
    value, _ = step.gradients(stage, BATCH, 1, 0, 10)
    assert value == pytest.approx(float(expected.detach()), abs=1e-13)
    assert stage.own_table is not None
    order = torch.from_numpy(cut.ids)
    ours = [stage.own_table.residual.grad, stage.own_table.bias.grad, flat_gradient(stage)]
    for mine, other in zip(ours, [wanted[0][order], wanted[1][order], wanted[2]], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-13)
    for scalar, other in zip((model.log_scale, model.offset), scalars, strict=False):
        torch.testing.assert_close(scalar.grad, other, rtol=1e-10, atol=1e-13)


def test_the_text_loss_alone_is_training_without_a_table(stage_of: Callable[..., Stage]) -> None:
    """Weight 1: the encoder's gradient is that of a table of zeros."""
    found = []
    for name, changes in (("joint", {"text_weight": 1.0}), ("encoder", {})):
        stage = stage_of(name, negatives="all", micro_tokens=20, keep_tokens=1, **changes)
        stage.model.eval()
        if name == "encoder":
            torch.nn.init.zeros_(stage.model.table.bias)
        value, _ = step.gradients(stage, BATCH, 1, 4, 10)
        found.append((value, flat_gradient(stage)))
        if stage.own_table is not None:
            assert stage.own_table.residual.grad is not None
            assert (stage.own_table.residual.grad == 0).all()
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-13)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-12, atol=1e-13)
