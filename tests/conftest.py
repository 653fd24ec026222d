"""Small data sets and encoders for the tests."""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from small import PARTS, TOPICS, train_settings, write_tiny_data

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the fork test must not warn
# Tensors here are tiny: more threads would only wait for each other. PyTorch reads it when it is
# imported, in the processes that tests start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("dexml", deadline=None)  # a busy machine is no defect
settings.load_profile("dexml")


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """No test pulls the plug, so no file needs to be on the disk at once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: None)
        yield


SHARED = Path(__file__).resolve().parents[2] / "shared"


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


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data with filter pairs for its training part too."""
    return write_tiny_data(tmp_path_factory.mktemp("data") / "filtered", train_filter=True)


@pytest.fixture(scope="session")
def shared_run(
    tiny_data: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Train on the tiny data with these settings, once; nobody may write in the run."""
    known: dict[str, Path] = {}

    def trained(**changes: Any) -> Path:
        from dexml import train

        key = repr(sorted(changes.items()))
        if key not in known:
            out = tmp_path_factory.mktemp("runs") / "run"
            train.train(train_settings(tiny_data, tiny_encoder, out, **changes))
            known[key] = out
        return known[key]

    return trained


@pytest.fixture(scope="session")
def run_dir(tiny_data: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and indexed run on the tiny data."""
    from dexml import train
    from dexml.commands.index import main as index_main
    from dexml.console import run

    out = tmp_path_factory.mktemp("runs") / "run"
    train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=20))
    assert run(index_main, [str(out), "--search", "hnsw", "--quiet"]) == 0
    return out


@pytest.fixture(scope="session")
def light_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A light run on the tiny data; copy it before you change it."""
    from dexml.train import TrainSettings, train

    out = tmp_path_factory.mktemp("light") / "run"
    train(TrainSettings(data_dir=tiny_data, out=out, encoder="none", quiet=True))
    return out
