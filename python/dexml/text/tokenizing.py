"""Run texts through a fast tokenizer: in parallel, in pieces, and safely beside forks."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console

CHUNK_TEXTS, CHUNK_CHARACTERS = 10_000, 4_000_000
"""Texts and characters tokenised at a time: the encodings of the library are large."""
CHARACTERS_A_TOKEN = 8
"""Characters for each token in the first piece of a long text; English has about 5."""


def token_ids(
    backend: Any, texts: list[str], max_tokens: int, dtype: type, *, progress: bool = False
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the token ids of `texts`, one after the other, and the start of each text.

    Args:
        backend: A tokenizer of the tokenizers library. Its truncation and padding are changed.
        texts: The texts.
        max_tokens: Tokens of a text at most, special ones included.
        dtype: An integer type that holds the vocabulary.
        progress: Show a bar with the time left, after two seconds.

    Returns:
        Ids as `dtype`, and N + 1 offsets (int64): the start of each text and the end of the last.

    Raises:
        ValueError: A text is not Unicode.
    """
    _fork_safely()
    # Some tokenizer.json files set a padding and a truncation of their own.
    if backend.padding is not None:
        backend.no_padding()
    wanted = {"max_length": max_tokens, "stride": 0, "strategy": "longest_first"}
    if (backend.truncation or {}) != wanted | {"direction": "right"}:
        backend.enable_truncation(**wanted)
    most = CHARACTERS_A_TOKEN * max_tokens
    # In this order: to ask the tokenizer takes as long as to tokenise a short text.
    any_longer = max(map(len, texts), default=0) > most
    longest = most if any_longer and splits_at_blanks(backend) else None
    ids: list[NDArray[Any]] = [np.zeros(0, dtype)]
    lengths = [np.zeros(1, np.int64)]
    with console.bar(
        total=len(texts), desc="tokenizing", unit="text", delay=2, disable=not progress
    ) as bar:
        for chunk in _chunks(texts, longest):
            pieces = [text if longest is None else _piece(text, longest) for text in chunk]
            encoded = [encoding.ids for encoding in _encoded(backend, pieces, bar.n)]
            short = [
                i
                for i, (text, piece) in enumerate(zip(chunk, pieces, strict=True))
                if piece is not text and len(encoded[i]) < max_tokens
            ]
            whole = _encoded(backend, [chunk[i] for i in short], bar.n)
            for i, encoding in zip(short, whole, strict=True):
                encoded[i] = encoding.ids
            ids.append(np.fromiter(itertools.chain.from_iterable(encoded), dtype))
            lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            bar.update(len(chunk))
    return np.concatenate(ids), np.cumsum(np.concatenate(lengths))


def check_vocabulary(backend: Any, n_embeddings: int, folder: Path) -> None:
    """Refuse a tokenizer that gives ids for which a model has no embedding.

    Some text would end in an error of torch, or in a wrong vector, after hours.

    Args:
        backend: A tokenizer of the tokenizers library.
        n_embeddings: Rows of the model's token embeddings.
        folder: Where both come from, for the message.

    Raises:
        ValueError: It does.
    """
    known = backend.get_vocab(with_added_tokens=True)
    last = max(known, key=known.__getitem__, default=None)
    if last is not None and known[last] >= n_embeddings:
        raise ValueError(
            f"{folder}: its tokenizer knows {known[last] + 1} tokens (the last is {last!r}), but "
            f"the model has embeddings for {n_embeddings}; give the tokenizer that it was "
            "trained with, or resize its embeddings (transformers: resize_token_embeddings)"
        )


def check_prompt(backend: Any, prompt: str, max_tokens: int) -> None:
    """Refuse a prompt that leaves no token for the text: then all texts would be the same.

    Args:
        backend: A tokenizer of the tokenizers library. Its truncation is changed.
        prompt: What is put before each text.
        max_tokens: Tokens of a text at most, special ones and the prompt included.

    Raises:
        ValueError: It leaves none.
    """
    if backend.truncation is not None:
        backend.no_truncation()
    taken = len(_encoded(backend, [prompt], 0)[0].ids)
    if taken >= max_tokens:
        raise ValueError(
            f"max_tokens = {max_tokens}: the prompt {prompt!r:.60} takes {taken} tokens with the "
            f"special ones, which leaves none for a text; give {taken + 1} or more"
        )


def _encoded(backend: Any, texts: list[str], first: int) -> list[Any]:
    try:
        return list(backend.encode_batch(texts))
    except TypeError:
        for i, text in enumerate(texts):
            if not isinstance(text, str) or re.search("[\ud800-\udfff]", text):
                raise ValueError(
                    f"a text at or after number {first + i} is not Unicode: {text!r:.60}"
                ) from None
        raise


def _chunks(texts: list[str], longest: int | None) -> Iterator[list[str]]:
    """Cut `texts` into lists with a bounded number of texts and of characters to tokenise."""
    start = characters = 0
    for i, text in enumerate(texts):
        characters += len(text) if longest is None else min(len(text), longest)
        if i + 1 - start >= CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
            yield texts[start : i + 1]
            start, characters = i + 1, 0
    if start < len(texts):
        yield texts[start:]


def _piece(text: str, longest: int) -> str:
    """Cut the text before a blank within `longest` characters; the last that follows a word."""
    if len(text) <= longest:
        return text
    cut = text.rfind(" ", 1, longest + 1)
    while cut > 0 and text[cut - 1].isspace():
        cut = text.rfind(" ", 1, cut)
    return text[:cut] if cut > 0 else text


_COMPOSE, _DROP = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD"}, {"BertNormalizer", "StripAccents"}
"""Normalizers that treat the text before a blank without a look at what follows it.

Those that drop characters may leave a blank at the end, which a byte-level splitter would keep.
"""


def splits_at_blanks(backend: Any) -> bool:
    """Whether it is known that the tokens before a blank do not depend on what follows it.

    True for BERT, RoBERTa and similar tokenizers (byte-level BPE with the regular expression of
    GPT-2). False for others (SentencePiece with its own normalizer, other regular expressions):
    their texts are tokenised whole.
    """
    normalizers = {step["type"] for step in _steps(backend.normalizer, "normalizers")}
    splitters = _steps(backend.pre_tokenizer, "pretokenizers")
    first = splitters[0]["type"] if splitters else ""
    if first in {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}:
        splits = normalizers <= _COMPOSE | _DROP
    else:
        splits = (
            first == "ByteLevel" and splitters[0].get("use_regex", True) and normalizers <= _COMPOSE
        )
    added = backend.get_added_tokens_decoder().values()
    return splits and not any(re.search(r"\s", token.content) for token in added)


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer; a sequence is unpacked."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return list(state.get(name, [state]))


_forks_are_safe = False


def _fork_safely() -> None:
    """Let a forked child tokenise with one thread, without the library's warning.

    The library's threads do not survive a fork. It warns on stderr at every fork, unless the
    variable below is set at that moment.
    """
    global _forks_are_safe
    if _forks_are_safe or not hasattr(os, "register_at_fork"):
        return
    name, saved = "TOKENIZERS_PARALLELISM", []

    def before() -> None:
        saved.append(os.environ.get(name))
        os.environ[name] = "false"

    def in_parent() -> None:
        value = saved.pop()
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    os.register_at_fork(before=before, after_in_parent=in_parent)
    _forks_are_safe = True
