"""Token ids of many texts: made once, kept ragged, cut into batches that need no padding.

Knows numpy, torch and the tokenizers library. Shapes: B texts of a batch, T tokens.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dexml import console
from dexml.files import replacing

CHUNK_TEXTS, CHUNK_CHARACTERS = 10_000, 4_000_000
"""Tokenised at a time: the library's own encodings are large, so few are kept alive."""
CHARACTERS_A_TOKEN = 8
"""Length of the piece of a long text that is tokenised first; English has about 5."""
SELECT_BLOCK = 65_536


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts, one after the other; text i: ``ids[offsets[i]:offsets[i + 1]]``.

    `ids` are uint16 where the vocabulary allows, else int32; `offsets` are int64. Both may be
    memory-mapped.
    """

    ids: NDArray[np.uint16] | NDArray[np.int32]
    offsets: NDArray[np.int64]
    resident: Tensor | None = field(default=None, repr=False, compare=False)
    """The ids on the device that `to` was called with (uint16 as the int16 of the same bits)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each text, shape (N,)."""
        return np.diff(self.offsets)

    def batches(self, max_tokens: int, rows: NDArray[np.int64] | None = None) -> list[NDArray[Any]]:
        """Cut texts into batches of **one exact length** each: no padding, no mask.

        Args:
            max_tokens: Tokens a batch, at least one text.
            rows: The texts wanted; default all.

        Returns:
            Row numbers of each batch, longest texts first; a function of the arguments alone.
        """
        rows = np.arange(len(self)) if rows is None else rows
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        order = np.argsort(-lengths, kind="stable")
        cuts = np.flatnonzero(np.diff(lengths[order])) + 1
        out = []
        for run in np.split(order, cuts):
            size = max(1, max_tokens // max(1, int(lengths[run[0]]))) if len(run) else 1
            out += [rows[run[start : start + size]] for start in range(0, len(run), size)]
        return out

    def padding_ratio(self, batches: Sequence[NDArray[Any]]) -> float:
        """Tokens computed for each token of the texts, were each batch padded to its longest.

        1.0 for what `batches` gives; batches of mixed lengths have more.
        """
        lengths = self.lengths
        computed = sum(len(batch) * int(lengths[batch].max()) for batch in batches if len(batch))
        real = sum(int(lengths[batch].sum()) for batch in batches)
        return computed / real if real else 1.0

    def select(self, rows: NDArray[np.int64]) -> Tokens:
        """The texts `rows`, in that order, in memory."""
        rows = np.asarray(rows, np.int64)
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.empty(offsets[-1], self.ids.dtype)
        for start in range(0, len(rows), SELECT_BLOCK):  # places take 8 bytes a token
            block = slice(start, start + SELECT_BLOCK)
            first, last = offsets[start], offsets[min(start + SELECT_BLOCK, len(rows))]
            shift = np.repeat(self.offsets[rows[block]] - offsets[:-1][block], lengths[block])
            ids[first:last] = self.ids[np.arange(first, last) + shift]
        return Tokens(ids, offsets)

    def to(self, device: torch.device | str) -> Tokens:
        """The same texts with their ids resident on `device`, where `tensor` then finds them.

        The ids travel once, at 2 or 4 bytes a token; on a CPU nothing is copied.
        """
        return Tokens(self.ids, self.offsets, _moved(_signed(self.ids), torch.device(device)))

    def tensor(self, rows: NDArray[Any], device: torch.device) -> Tensor:
        """Token ids, int64 (B, T), of texts that have one length.

        From ids resident on `device`, only the B places of the texts travel.

        Raises:
            ValueError: The texts differ in length.
        """
        starts = self.offsets[rows]
        lengths = self.offsets[np.asarray(rows) + 1] - starts
        length = int(lengths[0])
        if (lengths != length).any():
            raise ValueError(
                f"tensor: texts of {length} and {int(lengths[lengths != length][0])} tokens in one "
                "batch; take the batches of Tokens.batches"
            )
        if self.resident is not None and _is(self.resident.device, device):
            places = torch.arange(length, device=self.resident.device)
            ids = self.resident[_moved(starts, self.resident.device)[:, None] + places]
        else:
            ids = _moved(_signed(self.ids[starts[:, None] + np.arange(length)]), device)
        return ids.long() & 0xFFFF if self.ids.dtype == np.uint16 else ids.long()


def tokenize(
    tokenizer: Any,
    texts: Sequence[str],
    max_tokens: int,
    *,
    cache: Path | None = None,
    progress: bool = False,
) -> Tokens:
    """Tokenise texts with all cores, special tokens included, each cut to `max_tokens`.

    Of a long text only a piece is tokenised, where that provably gives the same tokens: for a
    tokenizer that splits at every blank and looks at each split alone (`_splits_at_blanks`), the
    tokens of a text cut before a blank are the first tokens of the whole. If the piece turns out
    too short to fill `max_tokens`, the whole text is tokenised after all.

    Args:
        tokenizer: A fast tokenizer of transformers.
        texts: The texts; may be empty, and so may each of them.
        max_tokens: Tokens of a text at most, special ones included.
        cache: A folder to keep the result in, under a hash of texts, tokenizer and `max_tokens`;
            what is there already is memory-mapped.
        progress: Show a bar with the time left, after two seconds.

    Returns:
        The token ids, in the order of the texts.

    Raises:
        ValueError: `max_tokens` leaves no room beside the special tokens, or a text is not
            Unicode.
    """
    backend = tokenizer.backend_tokenizer
    special = backend.num_special_tokens_to_add(False)
    if max_tokens <= special:
        raise ValueError(
            f"max_tokens = {max_tokens}: the tokenizer adds {special} special tokens to each text; "
            f"give {special + 1} or more"
        )
    texts = texts if isinstance(texts, list) else list(texts)
    dtype = np.uint16 if backend.get_vocab_size() <= 1 << 16 else np.int32
    if cache is None or not texts:
        return _tokenized(backend, texts, max_tokens, dtype, progress)
    folder = cache / _key(backend, texts, max_tokens)
    if folder.exists():
        try:
            return _opened(folder, len(texts), dtype)
        except (ValueError, OSError, EOFError) as error:
            console.say(f"note: {folder} is damaged and is made again ({error})")
    tokens = _tokenized(backend, texts, max_tokens, dtype, progress)
    if not len(tokens.ids):
        return tokens
    cache.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as beside:
        beside.mkdir(exist_ok=True)
        np.save(beside / "ids.npy", tokens.ids)
        np.save(beside / "offsets.npy", tokens.offsets)
    return _opened(folder, len(texts), dtype)


def _tokenized(
    backend: Any, texts: list[str], max_tokens: int, dtype: type, progress: bool
) -> Tokens:
    _fork_safely()
    # Some tokenizer.json files carry a padding and a truncation of their own.
    if backend.padding is not None:
        backend.no_padding()
    wanted = {"max_length": max_tokens, "stride": 0, "strategy": "longest_first"}
    if (backend.truncation or {}) != wanted | {"direction": "right"}:
        backend.enable_truncation(**wanted)
    longest = CHARACTERS_A_TOKEN * max_tokens if _splits_at_blanks(backend) else None
    ids, lengths = [np.zeros(0, dtype)], [np.zeros(1, np.int64)]
    with tqdm(
        total=len(texts), desc="tokenizing", unit="text", delay=2, disable=not progress
    ) as bar:
        for chunk in _chunks(texts, longest):
            pieces = [text if longest is None else _piece(text, longest) for text in chunk]
            found = [encoding.ids for encoding in _encoded(backend, pieces, bar.n)]
            short = [
                i
                for i, (text, piece) in enumerate(zip(chunk, pieces, strict=True))
                if piece is not text and len(found[i]) < max_tokens
            ]
            whole = _encoded(backend, [chunk[i] for i in short], bar.n)
            for i, encoding in zip(short, whole, strict=True):
                found[i] = encoding.ids
            ids.append(np.fromiter(itertools.chain.from_iterable(found), dtype))
            lengths.append(np.fromiter(map(len, found), np.int64, len(found)))
            bar.update(len(chunk))
    return Tokens(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))


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
    """Cut `texts` into lists of a bounded number of texts and of characters to tokenise."""
    start = characters = 0
    for i, text in enumerate(texts):
        characters += len(text) if longest is None else min(len(text), longest)
        if i + 1 - start >= CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
            yield texts[start : i + 1]
            start, characters = i + 1, 0
    if start < len(texts):
        yield texts[start:]


def _piece(text: str, longest: int) -> str:
    """The text up to its last blank within `longest` characters that follows no white space."""
    if len(text) <= longest:
        return text
    cut = text.rfind(" ", 1, longest + 1)
    while cut > 0 and text[cut - 1].isspace():
        cut = text.rfind(" ", 1, cut)
    return text[:cut] if cut > 0 else text


_COMPOSE, _DROP = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD"}, {"BertNormalizer", "StripAccents"}
"""Normalizers under which what stands before a blank does not depend on what follows it.

Those that drop characters may leave a blank at the end, which a byte-level splitter would keep.
"""


def _splits_at_blanks(backend: Any) -> bool:
    """True if the tokens before a blank are known not to depend on what follows it.

    True for the kinds named here (BERT, RoBERTa and their kin, byte-level BPE with the regular
    expression of GPT-2); others (SentencePiece with its own normalizer, other regular
    expressions) are not known to, and their texts are tokenised whole.
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
    """The steps of a normalizer or pre-tokenizer, a sequence laid open."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return list(state.get(name, [state]))


def _key(backend: Any, texts: list[str], max_tokens: int) -> str:
    """SHA-256 over all that the tokens depend on."""
    settings = json.loads(backend.to_str())
    settings["truncation"] = settings["padding"] = None
    digest = hashlib.sha256(f"dexml tokens 1, {max_tokens}, {json.dumps(settings)}".encode())
    for start in range(0, len(texts), CHUNK_TEXTS):
        encoded = [t.encode("utf-8", "surrogatepass") for t in texts[start : start + CHUNK_TEXTS]]
        digest.update(np.fromiter(map(len, encoded), "<i8", len(encoded)).tobytes())
        digest.update(b"".join(encoded))
    return digest.hexdigest()[:32]


def _opened(folder: Path, n_texts: int, dtype: type) -> Tokens:
    # Copy on write, not read-only: torch shares writable memory without a word.
    ids, offsets = (
        np.load(folder / name, mmap_mode="c", allow_pickle=False)
        for name in ("ids.npy", "offsets.npy")
    )
    if ids.dtype != dtype or ids.ndim != 1:
        raise ValueError(f"ids.npy holds {ids.dtype} of shape {ids.shape}")
    if offsets.dtype != np.int64 or offsets.shape != (n_texts + 1,):
        raise ValueError(f"offsets.npy holds {offsets.dtype} of shape {offsets.shape}")
    if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets.npy does not fit the {len(ids)} ids")
    return Tokens(ids, offsets)


_forks_are_safe = False


def _fork_safely() -> None:
    """Let a forked child tokenise with one thread, without the library's warning.

    Its threads do not survive a fork. It notices, and says so on stderr at every fork, unless the
    variable below is set at that moment.
    """
    global _forks_are_safe
    if _forks_are_safe or not hasattr(os, "register_at_fork"):
        return
    name, given = "TOKENIZERS_PARALLELISM", []

    def before() -> None:
        given.append(os.environ.get(name))
        os.environ[name] = "false"

    def in_parent() -> None:
        value = given.pop()
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    os.register_at_fork(before=before, after_in_parent=in_parent)
    _forks_are_safe = True


def _signed(ids: NDArray[Any]) -> NDArray[Any]:
    """The ids as a type that torch computes with everywhere, without a copy if writable."""
    ids = ids.view(np.int16) if ids.dtype == np.uint16 else ids
    return ids if ids.flags.writeable else ids.copy()


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    """The one place where tokens travel to a device."""
    return torch.from_numpy(array).to(device)


def _is(device: torch.device, wanted: torch.device) -> bool:
    return device.type == wanted.type and wanted.index in (None, device.index)
