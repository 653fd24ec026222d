"""The encoder: batches without padding, folders that other tools open, the label table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_array

from dexml.model import DualEncoder, LabelTable, Tokens, with_bias_dimension

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


def test_a_folder_remembers_its_length(encoder: DualEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path, max_tokens=5)
    loaded = DualEncoder.load(str(tmp_path)).eval()
    assert loaded.max_tokens == 5
    np.testing.assert_array_equal(
        loaded.encode(["a b c d e f g"]), loaded.encode(["a b c"]), strict=True
    )


def test_a_damaged_folder_is_named(encoder: DualEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path, max_tokens=5)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:500])
    with pytest.raises(ValueError, match="damaged weights"):
        DualEncoder.load(str(tmp_path))
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ValueError, match=r"modules\.json: damaged"):
        DualEncoder.load(str(tmp_path))


def test_own_limit_of_the_model_holds(encoder: DualEncoder) -> None:
    assert np.diff(encoder.tokenize(["a " * 100], 512).offsets)[0] == 32


def test_saved_folder_opens_again_and_with_sentence_transformers(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    with torch.no_grad():
        encoder.head.weight.add_(0.3 * torch.randn(16, 16, generator=torch.manual_seed(1)))
    encoder.save(tmp_path / "encoder", max_tokens=32)
    expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(
        DualEncoder.load(str(tmp_path / "encoder")).eval().encode(TEXTS), expected, atol=1e-6
    )
    sentence_transformers = pytest.importorskip("sentence_transformers")
    other = sentence_transformers.SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    np.testing.assert_allclose(other.encode(TEXTS), expected, atol=1e-6)


def test_pooling_of_a_sentence_transformers_folder_is_read(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path, max_tokens=32)
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"embedding_dimension": 16, "pooling_mode": "cls"}))
    assert DualEncoder.load(str(tmp_path)).pooling == "cls"
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="pooling max is not known here"):
        DualEncoder.load(str(tmp_path))


def test_modules_that_cannot_be_represented_are_refused(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path, max_tokens=32)
    dense = tmp_path / "3_Dense"
    save_file(
        {"linear.weight": torch.eye(16), "linear.bias": torch.ones(16)}, dense / "model.safetensors"
    )
    with pytest.raises(ValueError, match="a bias or an activation"):
        DualEncoder.load(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps(modules[:2] + modules[3:4]))
    with pytest.raises(ValueError, match="modules Transformer, Pooling, Dense cannot be"):
        DualEncoder.load(str(tmp_path))


def test_missing_folder_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"\./no/such: no such folder"):
        DualEncoder.load("./no/such")


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
