"""Tokens: made as the plain library makes them, kept on disk, moved once, cut without padding."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from dexml.encoder import DualEncoder
from dexml.text import tokenizing, tokens
from dexml.text.tokenizing import splits_at_blanks, token_ids
from dexml.text.tokens import Tokens, tokenize
from tiny_encoders import tiny, write_tokenizer

CORPUS = [
    "the kernel driver of a mail server; it's 3rd-party (v1.2)",
    "Straße naïve  über\tça\nva  «oui»",
    "数据 库 カタカナ emoji 👍🏽 ok",
    "if   x    then   y    else   z    fi   " * 9,  # so that runs of blanks are tokens of their own
]


class Fast:
    """A tokenizer as transformers wraps it."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def byte_level(normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


TOKENIZERS = {
    "wordpiece": wordpiece(),
    "byte level": byte_level(),
    "byte level, NFKC": byte_level(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    ),
    "unigram": unigram(),
}
CUTTABLE = {"wordpiece", "byte level", "byte level, NFKC"}


def plain(backend: Tokenizer, texts: list[str], max_tokens: int) -> list[list[int]]:
    """The slow twin: each whole text alone, cut afterwards."""
    backend.enable_truncation(max_length=max_tokens)
    return [backend.encode(text).ids for text in texts]


def listed(found: Tokens) -> list[list[int]]:
    return [
        found.ids[start:stop].tolist()
        for start, stop in zip(found.offsets[:-1], found.offsets[1:], strict=True)
    ]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_which_tokenizers_may_be_given_pieces(name: str) -> None:
    assert splits_at_blanks(TOKENIZERS[name]) == (name in CUTTABLE)


def test_tokenizers_that_are_not_known_to_split_at_blanks() -> None:
    ours = byte_level()
    ours.pre_tokenizer = pre_tokenizers.ByteLevel(use_regex=False)
    assert not splits_at_blanks(ours)
    ours = byte_level(normalizers.StripAccents())  # it may uncover a blank at the end
    assert not splits_at_blanks(ours)
    ours = wordpiece()
    ours.normalizer = normalizers.Replace("a b", "c")
    assert not splits_at_blanks(ours)
    ours = wordpiece()
    ours.add_tokens(["mail server"])
    assert not splits_at_blanks(ours)
    ours = wordpiece()
    ours.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    assert splits_at_blanks(ours)


WORDS = [
    "kernel",
    "driver",
    "it's",
    "é",
    "ß",
    "数据",
    "👍🏽",
    "<mask>",
    "[MASK]",
    "!",
    "1.2",
    "ﬁ",
    "Σ",
]
BLANKS = [" ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u200b", "\u0301", "\u00a8", "\u0600", "\x1c"]
PIECES = st.sampled_from(WORDS) | st.sampled_from(BLANKS) | st.just(" ")
LONG = st.lists(st.one_of(PIECES, st.text(max_size=4).filter(str.isprintable)), max_size=60)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(LONG, max_size=4), max_tokens=st.integers(3, 12), characters=st.integers(1, 3)
)
def test_pieces_of_texts_give_the_tokens_of_the_whole(
    name: str, parts: list[list[str]], max_tokens: int, characters: int
) -> None:
    texts = ["".join(part) for part in parts]
    backend = TOKENIZERS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "CHARACTERS_A_TOKEN", characters)  # pieces that are too short too
        patch.setattr(tokenizing, "CHUNK_TEXTS", 2)
        ids, offsets = token_ids(backend, texts, max_tokens, np.uint16)
    assert listed(Tokens(ids, offsets)) == plain(backend, texts, max_tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_piece_never_ends_inside_a_run_of_blanks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "CHARACTERS_A_TOKEN", 1)
    texts = ["a   b   c   d   e   f   ", "x    x    x    x    x", "ab\t  cd\t  ef\t  gh"]
    for max_tokens in range(3, 24):
        found = tokenize(Fast(TOKENIZERS[name]), texts, max_tokens)
        assert listed(found) == plain(TOKENIZERS[name], texts, max_tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_long_texts(name: str) -> None:
    texts = [" ".join(CORPUS * 200), "x" * 20_000, "a " * 20_000, " " * 20_000, "", "数据" * 9_000]
    for max_tokens in (3, 64):
        found = tokenize(Fast(TOKENIZERS[name]), texts, max_tokens)
        assert listed(found) == plain(TOKENIZERS[name], texts, max_tokens)
        assert found.ids.dtype == np.uint16
        assert found.offsets.dtype == np.int64


def test_a_long_text_is_not_tokenised_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encoded = tokenizing._encoded

    def watched(backend: Any, texts: list[str], first: int) -> Any:
        seen.extend(map(len, texts))
        return encoded(backend, texts, first)

    monkeypatch.setattr(tokenizing, "_encoded", watched)
    tokenize(Fast(wordpiece()), ["kernel " * 10_000, "short"], 16)
    assert seen == [17 * 7 + 6, 5]  # the whole words within 8 x 16 characters
    seen.clear()
    tokenize(Fast(unigram()), ["kernel " * 100], 16)
    assert seen == [700]


def test_few_texts_empty_texts_and_none() -> None:
    fast = Fast(wordpiece())
    assert listed(tokenize(fast, [], 8)) == []
    assert listed(tokenize(fast, [""], 8)) == [[1, 2]]
    assert len(tokenize(fast, ("kernel", "", "driver"), 8)) == 3
    assert tokenize(fast, [], 8).to("cpu").batches(8) == []


def test_chunks_are_bounded_by_texts_and_by_characters() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "CHUNK_TEXTS", 3)
        patch.setattr(tokenizing, "CHUNK_CHARACTERS", 10)
        texts = ["a" * n for n in (1, 1, 1, 9, 1, 1, 50, 50)]
        sizes = [list(map(len, chunk)) for chunk in tokenizing._chunks(texts, None)]
        assert sizes == [[1, 1, 1], [9, 1], [1, 50], [50]]
        assert [len(c) for c in tokenizing._chunks(texts, 5)] == [3, 3, 2]


def test_a_vocabulary_beyond_two_bytes_takes_four() -> None:
    words = {f"w{i}": i for i in range(70_000)}
    backend = Tokenizer(models.WordLevel(words, "w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    found = tokenize(Fast(backend), ["w69999 w5", "w65536"], 8)
    assert found.ids.dtype == np.int32
    assert listed(found) == [[69_999, 5], [65_536]]
    assert found.to("cpu").tensor([0], torch.device("cpu")).tolist() == [[69_999, 5]]


def test_ids_above_the_half_of_two_bytes_come_back_positive() -> None:
    found = Tokens(np.array([65_535, 40_000, 1], np.uint16), np.array([0, 2, 3]))
    for kept in (found, found.to("cpu")):
        assert kept.tensor([0], torch.device("cpu")).tolist() == [[65_535, 40_000]]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"max_tokens = 2: .* adds 2 special .* give 3 or more"):
        tokenize(Fast(wordpiece()), ["a"], 2)
    with pytest.raises(ValueError, match=r"at or after number 1 is not Unicode: 'b\\ud800'"):
        tokenize(Fast(wordpiece()), ["a", "b\ud800"], 8)
    found = tokenize(Fast(wordpiece()), ["kernel", "kernel driver"], 8)
    with pytest.raises(ValueError, match=r"texts of 3 and 4 tokens in one batch"):
        found.tensor([0, 1], torch.device("cpu"))


def test_a_cache_is_used_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, texts = Fast(wordpiece()), CORPUS * 3
    plain_tokens = tokenize(fast, texts, 16)
    first = tokenize(fast, texts, 16, cache=tmp_path / "deep" / "cache")
    (folder,) = (tmp_path / "deep" / "cache").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["ids.npy", "offsets.npy"]
    monkeypatch.setattr(tokens, "token_ids", None)
    again = tokenize(fast, texts, 16, cache=tmp_path / "deep" / "cache")
    for found in (first, again):
        assert isinstance(found.ids, np.memmap)
        assert found.ids.dtype == np.uint16
        np.testing.assert_array_equal(found.ids, plain_tokens.ids)
        np.testing.assert_array_equal(found.offsets, plain_tokens.offsets)
    rows = np.array([4, 0])
    assert listed(again.select(rows)) == [listed(plain_tokens)[i] for i in rows]
    batch = again.batches(64)[0]
    device = torch.device("cpu")
    assert torch.equal(again.to("cpu").tensor(batch, device), plain_tokens.tensor(batch, device))
    assert again.to("cpu").resident is not None
    assert np.shares_memory(again.to("cpu").resident.numpy(), again.ids)  # type: ignore[union-attr]


def test_a_cache_is_keyed_by_texts_tokenizer_and_length(tmp_path: Path) -> None:
    fast = Fast(wordpiece())
    tokenize(fast, ["ab", "c"], 16, cache=tmp_path)
    tokenize(fast, ["ab", "c"], 16, cache=tmp_path)
    fast.backend_tokenizer.enable_padding()
    fast.backend_tokenizer.enable_truncation(3)  # both are set for each call, and are no part of it
    tokenize(fast, ["ab", "c"], 16, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    tokenize(fast, ["a", "bc"], 16, cache=tmp_path)
    tokenize(fast, ["ab", "c"], 15, cache=tmp_path)
    other = wordpiece()
    other.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenize(Fast(other), ["ab", "c"], 16, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut", "missing", "offsets", "dtype", "text"])
def test_a_damaged_cache_is_made_again(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast, texts = Fast(wordpiece()), CORPUS
    expected = listed(tokenize(fast, texts, 16, cache=tmp_path))
    (folder,) = tmp_path.iterdir()
    ids, offsets = (np.load(folder / name) for name in ("ids.npy", "offsets.npy"))
    if damage == "cut":
        (folder / "ids.npy").write_bytes((folder / "ids.npy").read_bytes()[:-7])
    elif damage == "missing":
        (folder / "offsets.npy").unlink()
    elif damage == "offsets":
        np.save(folder / "offsets.npy", offsets + 1)
    elif damage == "dtype":
        np.save(folder / "ids.npy", ids.astype(np.int64))
    else:
        (folder / "ids.npy").write_text("no array")
    assert listed(tokenize(fast, texts, 16, cache=tmp_path)) == expected
    assert "is damaged, so it is computed again" in capsys.readouterr().err
    assert listed(tokenize(fast, texts, 16, cache=tmp_path)) == expected
    assert capsys.readouterr().err == ""


def test_texts_without_any_token_are_not_cached(tmp_path: Path) -> None:
    assert listed(tokenize(Fast(unigram()), ["", ""], 16, cache=tmp_path)) == [[], []]
    assert not list(tmp_path.iterdir())
    assert [len(b) for b in tokenize(Fast(unigram()), ["", ""], 16).batches(4)] == [2]


def test_ids_travel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 18: at 2 bytes a token, and then only places of texts."""
    sizes: list[int] = []
    moved = tokens._moved

    def counted(array: Any, device: torch.device) -> torch.Tensor:
        sizes.append(array.nbytes)
        return moved(array, device)

    monkeypatch.setattr(tokens, "_moved", counted)
    found = tokenize(Fast(wordpiece()), CORPUS * 20, 16)
    device = torch.device("cpu")
    resident = found.to(device)
    assert sizes == [2 * len(found.ids)]
    sizes.clear()
    batches = found.batches(64)
    for rows in batches:
        ids = resident.tensor(rows, device)
        assert ids.dtype == torch.int64
        assert ids.tolist() == [listed(found)[i] for i in rows]
    assert sizes == [8 * len(rows) for rows in batches]
    sizes.clear()
    found.tensor(batches[0], device)
    assert sizes == [2 * len(batches[0]) * int(found.lengths[batches[0][0]])]


def test_packed_texts_stand_one_after_the_other() -> None:
    device = torch.device("cpu")
    for found in (
        tokenize(Fast(wordpiece()), CORPUS, 16),
        Tokens(np.array([65535, 40000, 3, 1, 2], np.uint16), np.array([0, 2, 2, 3, 5])),
    ):
        rows = np.random.default_rng(0).permutation(len(found))
        expected = [listed(found)[i] for i in rows]
        for tokens_of in (found, found.to(device)):
            ids, lengths = tokens_of.packed(rows, device)
            assert (ids.dtype, lengths.dtype) == (torch.int64, torch.int64)
            assert ids.tolist() == [token for text in expected for token in text]
            assert lengths.tolist() == [len(text) for text in expected]


def test_padding_ratio() -> None:
    """Defect 17: batches of one exact length have no padding at all."""
    lengths = np.random.default_rng(0).integers(1, 30, 500)
    found = Tokens(np.zeros(lengths.sum(), np.uint16), np.concatenate([[0], np.cumsum(lengths)]))
    assert found.padding_ratio(found.batches(256)) == 1.0
    mixed = np.split(np.arange(500), 10)
    expected = sum(50 * lengths[rows].max() for rows in mixed) / lengths.sum()
    assert found.padding_ratio(mixed) == pytest.approx(expected)
    assert found.padding_ratio(mixed) > 1.5
    assert found.padding_ratio([]) == 1.0


def test_selection_goes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SELECT_BLOCK", 7)
    lengths = np.random.default_rng(0).integers(0, 5, 50)
    found = Tokens(
        np.arange(lengths.sum(), dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)])
    )
    rows = np.random.default_rng(1).integers(0, 50, 40)
    assert listed(found.select(rows)) == [listed(found)[i] for i in rows]
    assert listed(found.select(np.zeros(0, np.int64))) == []


FORK = """
import multiprocessing, os, sys
import numpy as np
from tokenizers import Tokenizer
from dexml.text.tokenizing import token_ids

backend = Tokenizer.from_file(sys.argv[1])
texts = ["a b c", "d e", ""] * 400
expected = token_ids(backend, texts, 16, np.uint16)[0]

def child():
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    same = (token_ids(backend, texts, 16, np.uint16)[0] == expected).all()
    os._exit(0 if same else 1)

for _ in range(2):
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0, process.exitcode
    assert "TOKENIZERS_PARALLELISM" not in os.environ
assert (token_ids(backend, texts, 16, np.uint16)[0] == expected).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_tokenise_without_a_warning(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    env = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "tokenizer.json")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_encoder_keeps_its_cache_and_its_limit(tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny("bert", tmp_path / "encoder")))
    found = encoder.tokenize(["a " * 100, "b"], 512, cache=tmp_path / "cache")
    assert found.lengths.tolist() == [32, 3]
    assert isinstance(found.ids, np.memmap)
    np.testing.assert_array_equal(
        encoder.encode_features(found), encoder.encode_features(found.to("cpu"))
    )
