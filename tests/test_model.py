"""The encoder: batches without padding, heads, the label table."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from dexml.encoder import DualEncoder, LabelTable, Tokens, torch_device, with_bias_dimension
from dexml.encoder import table as table_module
from dexml.encoder.modules import HEADS, HeadKind

TEXTS = ["kernel driver", "music", "a b c d e font", "", "mail server theme", "game"]


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> DualEncoder:
    return DualEncoder.load(str(tiny_encoder)).eval()


def test_batches_have_one_length_each_and_hold_every_row_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 9, 200)
    tokens = Tokens(
        np.arange(lengths.sum(), dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)])
    )
    rows = np.random.default_rng(1).permutation(200)[:90]
    batches = tokens.batches(20, rows)
    assert sorted(np.concatenate(batches)) == sorted(rows)
    for batch in batches:
        assert len(set(lengths[batch])) == 1
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= 20
        ids = tokens.tensor(batch, torch.device("cpu"))
        for row, got in zip(batch, ids.numpy(), strict=True):
            np.testing.assert_array_equal(
                got, tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
            )
    chosen = tokens.select(rows)
    np.testing.assert_array_equal(np.diff(chosen.offsets), lengths[rows])
    np.testing.assert_array_equal(
        chosen.ids[: lengths[rows[0]]], tokens.ids[tokens.offsets[rows[0]] :][: lengths[rows[0]]]
    )


def test_encoding_equals_transformers_one_text_at_a_time(encoder: DualEncoder) -> None:
    ours = encoder.encode(TEXTS)
    assert ours.dtype == np.float32
    for text, vector in zip(TEXTS, ours, strict=True):
        inputs = encoder.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            states = encoder.transformer(**inputs).last_hidden_state[0]
        mean = states.mean(dim=0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-6)


def test_tokens_are_cut_and_keep_the_final_separator(encoder: DualEncoder) -> None:
    tokens = encoder.tokenize(TEXTS, 4)
    assert np.diff(tokens.offsets).max() == 4
    assert (tokens.ids[tokens.offsets[1:] - 1] == 3).all()
    assert len(encoder.tokenize([], 4)) == 0
    assert encoder.encode([]).shape == (0, 16)


def test_positions_behind_a_padding_id_shorten_the_limit(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    """RoBERTa: 34 positions hold 32 tokens."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=34,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(str(tmp_path))
    AutoTokenizer.from_pretrained(str(tiny_encoder)).save_pretrained(str(tmp_path))
    roberta = DualEncoder.load(str(tmp_path)).eval()
    assert np.diff(roberta.tokenize(["a " * 100], 512).offsets)[0] == 32
    assert np.isfinite(roberta.encode(["a " * 100], max_tokens=512)).all()


def test_own_limit_of_the_model_holds(encoder: DualEncoder) -> None:
    assert np.diff(encoder.tokenize(["a " * 100], 512).offsets)[0] == 32


def test_label_vectors_meet_the_bias_in_their_last_dimension(encoder: DualEncoder) -> None:
    table = LabelTable(torch.tensor([5, 1, 2]), 16)
    with torch.no_grad():
        table.residual[1] = 0.5
        table.bias[:] = torch.tensor([0.0, 2.0, -1.0])
    features = encoder.encode_features(encoder.tokenize(TEXTS, 32))
    points = encoder.embed(features)
    vectors = table.vectors(encoder, features[:3], temperature=0.05)
    assert vectors.shape == (3, 17)
    np.testing.assert_allclose(vectors[[0, 2], :-1], points[[0, 2]], atol=1e-6)
    scores = with_bias_dimension(points) @ vectors.T
    expected = points @ vectors[:, :-1].T + 0.05 * table.bias.detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_unseen_labels_are_served_with_the_bias_of_the_rarest() -> None:
    table = LabelTable(torch.tensor([5, 0, 2, 2]), 4)
    with torch.no_grad():
        table.bias[:] = torch.tensor([9.0, -7.0, 1.0, 2.0])
    assert table.served_bias(0.0).tolist() == [9.0, 1.5, 1.0, 2.0]
    with_prior = table.served_bias(0.5).tolist()
    added = [b + 0.5 * np.log1p(n) for b, n in zip([9.0, 1.5, 1.0, 2.0], [5, 0, 2, 2], strict=True)]
    assert with_prior == pytest.approx(added)
    table.counts[:] = 0
    assert table.served_bias(0.5).tolist() == [9.0, -7.0, 1.0, 2.0]


def test_residuals_start_at_shrunk_centroids_and_unseen_ones_stay_at_zero() -> None:
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    y = csr_array(np.array([[1, 0, 0]] * 3 + [[1, 0, 1]] + [[0, 0, 0]] * 2, dtype=np.float32))
    table = LabelTable(torch.tensor([4, 0, 1]), 4)
    table.start_at_centroids(features, y, shrink=10.0)
    mean = features[:4].mean(axis=0)
    expected = [4 / 14 * mean / np.linalg.norm(mean), np.zeros(4)]
    expected.append(1 / 11 * features[3] / np.linalg.norm(features[3]))
    np.testing.assert_allclose(table.residual.detach().numpy(), expected, atol=1e-6)
    table.residual.sum().backward()
    assert table.residual.grad is not None
    assert table.residual.grad.sum(dim=1).tolist() == [4.0, 0.0, 4.0]


def with_heads(folder: Path, kind: HeadKind, *, normalize: bool = True) -> DualEncoder:
    """The tiny encoder with heads off the identity."""
    encoder = DualEncoder.load(str(folder), head=kind, normalize=normalize).eval()
    generator = torch.manual_seed(1)
    with torch.no_grad():
        for weight in encoder.head_parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return encoder


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", HEADS)
def test_embeddings_are_the_written_formula(
    kind: HeadKind, normalize: bool, tiny_encoder: Path
) -> None:
    encoder = with_heads(tiny_encoder, kind, normalize=normalize)
    heads = [weight.detach().numpy() for weight in encoder.head_parameters()]
    assert len(heads) == {"none": 0, "shared": 1, "two": 2}[kind]
    assert encoder.heads == kind
    tokens = encoder.tokenize(TEXTS, 32)
    for i in range(len(TEXTS)):
        with torch.no_grad():
            ids = tokens.tensor(np.array([i]), torch.device("cpu"))
            z = encoder.transformer(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy()
        z = z / np.linalg.norm(z) if normalize else z
        np.testing.assert_allclose(encoder.encode_features(tokens)[i], z, atol=1e-6)
        for side, head in zip(("point", "label"), (heads[:1], heads[-1:]), strict=True):
            expected = head[0] @ z if head else z
            expected = expected / np.linalg.norm(expected) if normalize else expected
            ours = encoder.encode(TEXTS, side=side)[i]  # type: ignore[arg-type]
            np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_unknown_side_and_heads_that_do_not_fit(encoder: DualEncoder) -> None:
    with pytest.raises(ValueError, match="side 'document': expected point or label"):
        encoder.encode(["a"], side="document")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"heads of shape \(16, 15\) do not fit a width of 16"):
        DualEncoder(encoder.transformer, encoder.tokenizer, heads=[torch.zeros(16, 15)])
    heads = [torch.zeros(8, 16), torch.zeros(4, 16)]
    with pytest.raises(ValueError, match=r"heads of shape \(8, 16\) and \(4, 16\) do not fit"):
        DualEncoder(encoder.transformer, encoder.tokenizer, heads=heads)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", HEADS)
def test_label_vectors_use_the_head_of_labels(
    kind: HeadKind, normalize: bool, tiny_encoder: Path
) -> None:
    encoder = with_heads(tiny_encoder, kind, normalize=normalize)
    features = encoder.encode_features(encoder.tokenize(TEXTS[:3], 32))
    table = LabelTable(torch.tensor([5, 1, 2]), 16)
    out = np.zeros((3, 17), np.float32)
    assert table.vectors(encoder, features, 0.05, out=out) is out
    np.testing.assert_allclose(out[:, :-1], encoder.embed(features, side="label"), atol=1e-6)
    with torch.no_grad():
        table.residual[1] = torch.arange(16) / 16
    head = encoder.head_parameters()[-1].detach().numpy() if kind != "none" else np.eye(16)
    expected = head @ features[1] + np.arange(16) / 16
    expected = expected / np.linalg.norm(expected) if normalize else expected
    np.testing.assert_allclose(table.vectors(encoder, features, 0.05)[1, :-1], expected, atol=2e-6)


def test_centroids_in_blocks_and_of_vectors_that_are_not_normalised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    dense = (np.random.default_rng(1).random((9, 7)) < 0.4).astype(np.float32)
    dense[:, 3] = 0
    counts = torch.from_numpy(dense.sum(axis=0).astype(np.int64))
    tables = [LabelTable(counts, 4) for _ in range(3)]
    tables[0].start_at_centroids(features, csr_array(dense), 2.0)
    monkeypatch.setattr(table_module, "BLOCK", 2)
    tables[1].start_at_centroids(features, csr_array(dense), 2.0)
    assert torch.equal(tables[0].residual, tables[1].residual)
    tables[2].start_at_centroids(features, csr_array(dense), 2.0, unit=False)
    for label, n in enumerate(counts.tolist()):
        mean = features[dense[:, label] > 0].mean(axis=0) if n else np.zeros(4)
        ours = tables[2].residual[label].detach().numpy()
        np.testing.assert_allclose(ours, mean * n / (n + 2), atol=1e-6)
    with pytest.raises(
        ValueError, match=r"features \(9, 3\) and y \(9, 7\) do not fit a table of 7"
    ):
        tables[0].start_at_centroids(features[:, :3], csr_array(dense), 2.0)


def test_device_names() -> None:
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device tpu9: not usable here"):
        torch_device("tpu9")


def test_rows_of_a_table_learn_nothing_of_unseen_labels_even_when_it_is_gone() -> None:
    """A step makes tables of some rows in passing; their gradients come when they are gone."""
    table = LabelTable(torch.tensor([2, 0, 1]), 2)
    residual, alive = table.residual, weakref.ref(table)
    loss = (3 * table.residual).sum()
    gc.disable()
    try:
        del table
        assert alive() is None  # nothing that only a search for cycles would find
    finally:
        gc.enable()
    loss.backward()
    assert residual.grad is not None
    assert residual.grad.tolist() == [[3, 3], [0, 0], [3, 3]]
