"""Encoders of several kinds: their limits, split in two parts, packed, compiled."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dexml.encoder import DualEncoder, autocast, compiled
from dexml.encoder.attention import PACKABLE
from dexml.encoder.layers import SPLITTABLE, blocks, freeze_embeddings, upper_layers
from tiny_encoders import KINDS, tiny

TEXTS = ["a b c", "", "j i h g f e d c b a a b", "d", "c b a", "e e e e e e e e e f g h i j"]
CPU = torch.device("cpu")
PACKED = [kind for kind in KINDS if kind in PACKABLE]


@pytest.fixture(scope="module", params=KINDS)
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> DualEncoder:
    folder = tiny(request.param, tmp_path_factory.mktemp(request.param))
    return DualEncoder.load(str(folder)).eval()


@pytest.fixture(scope="module", params=PACKED)
def packable(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> DualEncoder:
    folder = tiny(request.param, tmp_path_factory.mktemp(request.param))
    return DualEncoder.load(str(folder)).eval()


def packed(encoder: DualEncoder, texts: list[str]) -> tuple[Tensor, Tensor]:
    tokens = encoder.tokenize(texts, 32)
    return torch.from_numpy(tokens.ids.astype(np.int64)), torch.from_numpy(tokens.lengths)


def test_batches_of_one_length_equal_padded_batches_with_a_mask(encoder: DualEncoder) -> None:
    tokens = encoder.tokenize(TEXTS, 32)
    longest = int(tokens.lengths.max())
    padding = encoder.transformer.config.pad_token_id
    ids = torch.full((len(TEXTS), longest), padding)
    mask = torch.zeros(len(TEXTS), longest, dtype=torch.long)
    for i, length in enumerate(tokens.lengths):
        ids[i, :length] = tokens.tensor([i], CPU)
        mask[i, :length] = 1
    with torch.no_grad():
        states = encoder.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
    sums = (states * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    expected = torch.nn.functional.normalize(sums, dim=1).numpy()
    np.testing.assert_allclose(encoder.encode_features(tokens), expected, atol=2e-6)


def test_the_last_position_is_used_and_none_behind_it(encoder: DualEncoder) -> None:
    texts = ["a " * 100]
    limit = 32
    assert encoder.tokenize(texts, 512).lengths.tolist() == [limit]
    assert np.isfinite(encoder.encode(texts, max_tokens=512)).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_upper_of_lower_is_the_whole_to_the_bit(encoder: DualEncoder, n: int) -> None:
    tokens = encoder.tokenize(TEXTS, 32)
    for rows in tokens.batches(40):
        ids = tokens.tensor(rows, CPU)
        with torch.no_grad():
            hidden = encoder.lower(ids, n)
            assert hidden.shape == (*ids.shape, 16)
            assert torch.equal(encoder.upper(hidden, n), encoder.features(ids))


def test_upper_trains_its_blocks_and_no_others(encoder: DualEncoder) -> None:
    ids = torch.tensor([[2, 4, 5, 6, 3]])
    encoder.zero_grad()
    with torch.no_grad():
        hidden = encoder.lower(ids, 1)
    encoder.upper(hidden, 1)[:, 0].sum().backward()  # the sum of unit vectors would be flat
    split = {id(p) for p in upper_layers(encoder.transformer, 1)[0].parameters()}
    grads = [
        (id(p) in split, p.grad) for p in blocks(encoder.transformer).parameters() if p.ndim > 1
    ]
    assert all((grad is not None) == top for top, grad in grads)
    whole = [
        p.grad.clone()
        for p in upper_layers(encoder.transformer, 1)[0].parameters()
        if p.grad is not None
    ]
    encoder.zero_grad()
    encoder.features(ids)[:, 0].sum().backward()
    top = upper_layers(encoder.transformer, 1)[0].parameters()
    for part, parameter in zip(whole, top, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(part, parameter.grad)


def test_upper_layers_are_blocks_without_embeddings(encoder: DualEncoder) -> None:
    transformer = encoder.transformer
    depth = len(blocks(transformer))
    assert upper_layers(transformer, depth) == list(blocks(transformer))
    for n in (0, depth + 1):
        with pytest.raises(ValueError, match=f"{n} upper layers; this encoder has {depth}: give"):
            upper_layers(transformer, n)


def test_the_model_is_left_as_it_was_by_a_split(encoder: DualEncoder) -> None:
    ids = torch.tensor([[2, 4, 5, 6, 3]])
    names = list(encoder.state_dict())
    with torch.no_grad():
        before = encoder.features(ids)
        encoder.upper(encoder.lower(ids, 2), 2)
        assert torch.equal(encoder.features(ids), before)
    assert list(encoder.state_dict()) == names


def test_dropout_of_the_config_is_on_in_training(tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny("distilbert", tmp_path)))
    ids = torch.tensor([[2, 4, 5, 6, 3]])
    encoder.train()
    torch.manual_seed(0)
    first, second = encoder.features(ids), encoder.features(ids)
    torch.manual_seed(0)
    assert torch.equal(encoder.features(ids), first)
    assert not torch.equal(first, second)
    hidden = encoder.lower(ids, 1)
    assert not torch.equal(encoder.upper(hidden, 1), encoder.upper(hidden, 1))
    assert encoder.training
    encoder.encode(["a"])
    assert encoder.training


def test_what_cannot_be_split_is_said(encoder: DualEncoder, tmp_path: Path) -> None:
    ids = torch.tensor([[2, 3]])
    for n in (0, 4):
        with pytest.raises(ValueError, match=rf"n = {n} upper blocks; this model has 3: give 1..3"):
            encoder.lower(ids, n)
        with pytest.raises(ValueError, match=rf"n = {n} upper blocks"):
            encoder.upper(torch.zeros(1, 2, 16), n)
    electra = DualEncoder.load(str(tiny("electra", tmp_path)))
    with pytest.raises(ValueError, match="ElectraModel: models of kind electra cannot be split"):
        electra.lower(ids, 1)
    with pytest.raises(ValueError, match="ElectraModel: texts cannot be packed"):
        electra.features_packed(ids[0], torch.tensor([2]))
    assert set(KINDS) <= set(SPLITTABLE)


def test_frozen_embeddings_get_no_gradient(encoder: DualEncoder) -> None:
    freeze_embeddings(encoder.transformer)
    encoder.zero_grad()
    encoder.features(torch.tensor([[2, 4, 3]]))[:, 0].sum().backward()
    words = encoder.transformer.get_input_embeddings()
    assert words.weight.grad is None
    assert any(p.grad is not None for p in blocks(encoder.transformer).parameters())
    encoder.transformer.requires_grad_(True)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_packed_texts_equal_texts_alone(packable: DualEncoder, pooling: str) -> None:
    packable.pooling = pooling  # type: ignore[assignment]
    ids, lengths = packed(packable, TEXTS)
    with torch.no_grad():
        ours = packable.features_packed(ids, lengths)
        alone = torch.cat([packable.features(part[None]) for part in ids.split(lengths.tolist())])
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)
    order = torch.tensor([4, 2, 0])  # other neighbours, same vectors
    parts = ids.split(lengths.tolist())
    with torch.no_grad():
        again = packable.features_packed(torch.cat([parts[i] for i in order]), lengths[order])
    torch.testing.assert_close(again, ours[order], atol=1e-5, rtol=0)
    packable.pooling = "mean"


def test_gradients_of_packed_texts_equal_those_of_texts_alone(packable: DualEncoder) -> None:
    ids, lengths = packed(packable, TEXTS)
    weight = torch.randn(len(TEXTS), 16, generator=torch.manual_seed(1))
    grads = []
    for way in ("packed", "alone"):
        packable.zero_grad()
        if way == "packed":
            features = packable.features_packed(ids, lengths)
        else:
            parts = ids.split(lengths.tolist())
            features = torch.cat([packable.features(part[None]) for part in parts])
        (features * weight).sum().backward()
        grads.append([p.grad.clone() for p in packable.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 10
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_packed_attention_has_no_dropout(tmp_path: Path) -> None:
    encoder = DualEncoder.load(
        str(tiny("bert", tmp_path, attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0))
    )
    ids, lengths = packed(encoder, TEXTS)
    with torch.no_grad():
        trained, scored = (
            encoder.train(mode).features_packed(ids, lengths) for mode in (True, False)
        )
        torch.testing.assert_close(trained, scored, atol=1e-6, rtol=0)
        encoder.train()
        rest = [encoder.features(part[None]) for part in ids.split(lengths.tolist())]
    assert float((torch.cat(rest) - scored).abs().max()) > 1e-3  # others keep theirs


def test_padding_ids_inside_a_packed_text_keep_their_positions(tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny("roberta", tmp_path))).eval()
    ids, lengths = torch.tensor([2, 4, 1, 5, 3, 2, 1, 3]), torch.tensor([5, 3])
    with torch.no_grad():
        alone = torch.cat([encoder.features(part[None]) for part in ids.split([5, 3])])
        ours = encoder.features_packed(ids, lengths)
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)


def test_after_packing_everything_else_is_as_before(packable: DualEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    packable.save(folder, max_tokens=32)
    fresh = DualEncoder.load(str(folder)).eval()
    before = fresh.encode(TEXTS)
    fresh.features_packed(*packed(fresh, TEXTS))
    np.testing.assert_array_equal(fresh.encode(TEXTS), before)
    mask = torch.tensor([[1, 1, 1, 0]])
    ids = torch.tensor([[2, 4, 3, 0]])
    with torch.no_grad():
        masked = fresh.transformer(input_ids=ids, attention_mask=mask).last_hidden_state[:, :3]
        alone = fresh.transformer(input_ids=ids[:, :3]).last_hidden_state
    torch.testing.assert_close(masked, alone, atol=1e-5, rtol=0)
    fresh.save(tmp_path / "again", max_tokens=32)
    np.testing.assert_array_equal(
        DualEncoder.load(str(tmp_path / "again")).eval().encode(TEXTS), before
    )


def test_lengths_that_do_not_fit_are_refused(packable: DualEncoder) -> None:
    with pytest.raises(ValueError, match=r"2 lengths \(least 1\) sum to 4, there are 3 tokens"):
        packable.features_packed(torch.tensor([2, 4, 3]), torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"2 lengths \(least 0\)"):
        packable.features_packed(torch.tensor([2, 4, 3]), torch.tensor([0, 3]))
    none = packable.features_packed(torch.zeros(0, dtype=torch.long), torch.zeros(0).long())
    assert none.shape == (0, 16)


@pytest.mark.parametrize("kind", ["mpnet", "modernbert"])
def test_packing_is_refused_where_it_would_be_wrong(kind: str, tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny(kind, tmp_path)))
    with pytest.raises(ValueError, match=f"texts cannot be packed for models of kind {kind}"):
        encoder.features_packed(torch.tensor([2, 3]), torch.tensor([2]))


# torch hides this warning of its own compiler, but not from a filter that makes it an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_equals_eager(tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny("bert", tmp_path, num_hidden_layers=2))).eval()
    eager = encoder.encode(TEXTS)
    names = list(encoder.state_dict())
    assert compiled(encoder, backend="aot_eager") is encoder
    np.testing.assert_allclose(encoder.encode(TEXTS), eager, atol=1e-6)
    assert list(encoder.state_dict()) == names
    ids = torch.tensor([[2, 4, 5, 3]])
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.upper(encoder.lower(ids, 1), 1), encoder.features(ids), atol=1e-6, rtol=0
        )
    encoder.features(ids)[:, 0].sum().backward()
    assert all(p.grad is not None for p in blocks(encoder.transformer).parameters())


def test_bf16_is_near_float32(real_encoder: Path) -> None:
    encoder = DualEncoder.load(str(real_encoder)).eval()
    texts = ["kernel driver for network cards", "music player", "the theme of a mail server"] * 3
    exact = encoder.encode(texts, precision="float32")
    near = encoder.encode(texts, precision="bfloat16")
    assert near.dtype == np.float32
    assert not np.array_equal(near, exact)
    assert (near * exact).sum(axis=1).min() >= 0.9999
    np.testing.assert_array_equal(encoder.encode(texts), exact)  # auto on a CPU


def test_precisions_by_name() -> None:
    cuda = torch.device("cuda")
    states = [autocast(CPU, p)._enabled for p in ("auto", "float32", "bfloat16")]
    assert states == [False, False, True]
    with pytest.raises(ValueError, match="precision 'fp16': expected auto, float32 or bfloat16"):
        autocast(cuda, "fp16")  # type: ignore[arg-type]
