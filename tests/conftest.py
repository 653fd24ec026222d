"""Small data sets and encoders for the tests."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array, save_npz

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the fork test must not warn

SHARED = Path(__file__).resolve().parents[2] / "shared"
TOPICS = ("kernel", "printer", "music", "network", "game", "font", "mail", "database")
PARTS = ("driver", "library", "player", "editor", "server", "theme", "parser", "monitor")


def shared(*parts: str) -> Path:
    """A file of the data folder beside the checkout; the test is skipped where there is none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the data folder beside the checkout")
    return path


@pytest.fixture(scope="session")
def debtags_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = shared("data", "DebTags-mini.tar.gz")
    folder = tmp_path_factory.mktemp("debtags")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "DebTags-mini"


@pytest.fixture(scope="session")
def real_encoder() -> Path:
    return shared("models", "minilm-l3-8k")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT with random weights and a vocabulary of whole words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *TOPICS, *PARTS, *"abcdefgh"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(str(folder))
    fast.save_pretrained(str(folder))
    return folder


def write_tiny_data(folder: Path, seed: int = 0) -> Path:
    """64 labels (a topic and a part each); a point names one or two of them, with noise words."""
    generator = np.random.default_rng(seed)
    labels = [f"{topic} {part}" for topic in TOPICS for part in PARTS]
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "Y.txt").write_text("".join(f"{t}\n" for t in labels))
    for part, n_points in (("trn", 300), ("tst", 80)):
        y = np.zeros((n_points, len(labels)), np.float32)
        texts = []
        for row in range(n_points):
            chosen = generator.choice(len(labels), size=generator.integers(1, 3), replace=False)
            y[row, chosen] = 1
            noise = " ".join(generator.choice(list("abcdefgh"), size=2))
            texts.append(" ".join(labels[i] for i in chosen) + f" {noise}")
        if part == "trn":
            y[7] = 0  # a point without labels
            y[:, 5] = 0  # a label that training never sees
        (folder / "raw" / f"{part}_X.txt").write_text("".join(f"{t}\n" for t in texts))
        save_npz(folder / f"Y.{part}.npz", csr_array(y))
    pairs = "".join(f"{row} {(3 * row) % 64}\n" for row in range(0, 80, 4))
    (folder / "filter_labels_test.txt").write_text(pairs)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data") / "tiny")
