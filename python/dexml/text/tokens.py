"""Token ids of many texts: computed once, kept ragged, cut into batches without padding.

Shapes: B texts of a batch, T tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.files import read_array, replacing
from dexml.given import text_list
from dexml.text.tokenizing import check_prompt, token_ids

if TYPE_CHECKING:  # counting and caching tokens works without torch
    import torch
    from torch import Tensor

SELECT_BLOCK = HASH_BLOCK = 65_536
"""Texts handled at a time, so that temporary arrays stay small beside the tokens."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts, one after the other; text i is ``ids[offsets[i]:offsets[i + 1]]``.

    Both arrays may be memory-mapped.
    """

    ids: NDArray[np.uint16] | NDArray[np.int32]
    """Ids of all texts; uint16 where the vocabulary allows, else int32."""
    offsets: NDArray[np.int64]
    """Start of each text, and the end of the last one, shape (N + 1,)."""
    resident: Tensor | None = field(default=None, repr=False, compare=False)
    """The ids on the device given to `to` (uint16 as the int16 with the same bits)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each text, shape (N,), int64."""
        return np.diff(self.offsets)

    def batches(self, max_tokens: int, rows: NDArray[np.int64] | None = None) -> list[NDArray[Any]]:
        """Cut texts into batches of **one exact length** each: no padding, no mask.

        Args:
            max_tokens: Tokens in a batch at most; a batch has at least one text.
            rows: The texts to take; default all.

        Returns:
            Row numbers of each batch, longest texts first. They depend only on the arguments.
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
        """Return the tokens to compute for each real one if batches were padded to their longest.

        It is 1.0 for the batches of `batches`, and more for batches of mixed lengths.
        """
        lengths = self.lengths
        computed = sum(len(batch) * int(lengths[batch].max()) for batch in batches if len(batch))
        real = sum(int(lengths[batch].sum()) for batch in batches)
        return computed / real if real else 1.0

    def keys(self) -> NDArray[np.void]:
        """Return 16 bytes for each text, the digest of its tokens, shape (N,), dtype V16.

        Equal tokens have equal keys, whatever the type of the ids.
        """
        digests = bytearray()
        for start in range(0, len(self), HASH_BLOCK):
            offsets = self.offsets[start : start + HASH_BLOCK + 1]
            ids = memoryview(self.ids[offsets[0] : offsets[-1]].astype("<i4").tobytes())
            for begin, end in pairwise((4 * (offsets - offsets[0])).tolist()):
                digests += blake2b(ids[begin:end], digest_size=16).digest()
        return np.frombuffer(bytes(digests), "V16")

    def first_equal(self) -> NDArray[np.int64]:
        """Return for each text the first one with the same `keys`, shape (N,), int64."""
        seen: dict[bytes, int] = {}
        first = [seen.setdefault(key, i) for i, key in enumerate(self.keys().tolist())]
        return np.array(first, np.int64)

    def select(self, rows: NDArray[np.int64]) -> Tokens:
        """Copy the texts `rows` into memory, in that order."""
        rows = np.asarray(rows, np.int64)
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.empty(offsets[-1], self.ids.dtype)
        for start in range(0, len(rows), SELECT_BLOCK):  # positions take 8 bytes a token
            block = slice(start, start + SELECT_BLOCK)
            first, last = offsets[start], offsets[min(start + SELECT_BLOCK, len(rows))]
            shift = np.repeat(self.offsets[rows[block]] - offsets[:-1][block], lengths[block])
            ids[first:last] = self.ids[np.arange(first, last) + shift]
        return Tokens(ids, offsets)

    def to(self, device: torch.device | str) -> Tokens:
        """Return the same texts with their ids kept on `device`, where `tensor` then takes them.

        The ids are sent once, at 2 or 4 bytes a token. On a CPU nothing is copied.
        """
        import torch

        return Tokens(self.ids, self.offsets, _moved(_signed(self.ids), torch.device(device)))

    def array(self, rows: NDArray[Any] | Sequence[int]) -> NDArray[np.int64]:
        """Return token ids (B, T), int64, of texts of one length.

        Raises:
            ValueError: The texts differ in length.
        """
        starts, length = self._of_one_length(np.asarray(rows))
        ids: NDArray[np.int64] = self.ids[starts[:, None] + np.arange(length)].astype(np.int64)
        return ids

    def _of_one_length(self, rows: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
        """Return the starts and the length of some texts."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        length = int(lengths[0])
        if (lengths != length).any():
            raise ValueError(
                f"texts of {length} and {int(lengths[lengths != length][0])} tokens in one batch; "
                "take the batches of Tokens.batches"
            )
        return starts, length

    def tensor(self, rows: NDArray[Any] | Sequence[int], device: torch.device) -> Tensor:
        """Return token ids (B, T), int64, of texts of one length.

        If the ids are kept on `device`, only the B starts of the texts are sent.

        Raises:
            ValueError: The texts differ in length.
        """
        import torch

        starts, length = self._of_one_length(np.asarray(rows))
        if self.resident is not None and _is(self.resident.device, device):
            positions = torch.arange(length, device=self.resident.device)
            ids = self.resident[_moved(starts, self.resident.device)[:, None] + positions]
        else:
            ids = _moved(_signed(self.ids[starts[:, None] + np.arange(length)]), device)
        return self._positive(ids)

    def packed(
        self, rows: NDArray[Any] | Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return texts of any lengths, packed as `DualEncoder.features_packed` takes them.

        Args:
            rows: Row numbers, at least one.
            device: Device for the ids.

        Returns:
            Token ids (T,), int64, on `device`, and lengths (B,), int64, on the CPU.
        """
        import torch

        rows = np.asarray(rows)
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        ends = np.cumsum(lengths)
        shifts = starts - (ends - lengths)
        if self.resident is not None and _is(self.resident.device, device):
            home, n = self.resident.device, int(ends[-1])
            parts = _moved(shifts, home), _moved(lengths, home)
            # With output_size, torch need not wait for the GPU to add up the lengths.
            positions = torch.repeat_interleave(*parts, output_size=n) + torch.arange(
                n, device=home
            )
            ids = self.resident[positions]
        else:
            ids = _moved(
                _signed(self.ids[np.repeat(shifts, lengths) + np.arange(ends[-1])]), device
            )
        return self._positive(ids), torch.from_numpy(lengths)

    def _positive(self, ids: Tensor) -> Tensor:
        """Return ids as int64; uint16 ids arrive as int16 with the same bits."""
        return ids.long() & 0xFFFF if self.ids.dtype == np.uint16 else ids.long()


def tokenize(
    tokenizer: Any,
    texts: Sequence[str],
    max_tokens: int,
    *,
    prompt: str = "",
    cache: Path | None = None,
    progress: bool = False,
) -> Tokens:
    """Tokenise texts with all cores, special tokens included, and cut each to `max_tokens`.

    Of a long text only a piece is tokenised where that gives the same tokens. If a tokenizer splits
    at every blank and looks at each split alone (`dexml.text.tokenizing.splits_at_blanks`), the
    tokens of a text cut before a blank are the first tokens of the whole text. If the piece is too
    short to fill `max_tokens`, the whole text is tokenised.

    Args:
        tokenizer: A fast tokenizer of transformers, or one of the tokenizers library.
        texts: The texts; may be empty, and so may each of them.
        max_tokens: Tokens of a text at most, special ones and those of the prompt included.
        prompt: Put before each text.
        cache: Folder to keep the result in, under a hash of texts, tokenizer and `max_tokens`. A
            result that is there already is memory-mapped.
        progress: Show a bar with the time left, after two seconds.

    Returns:
        The token ids, in the order of the texts.

    Raises:
        TypeError: `texts` is a single string, a table, a dict or a set, or an item is no string.
        ValueError: Special tokens and the prompt alone fill `max_tokens`, or a text is not Unicode.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    special = backend.num_special_tokens_to_add(False)
    if max_tokens <= special:
        raise ValueError(
            f"max_tokens = {max_tokens}: the tokenizer adds {special} special tokens to each text; "
            f"give {special + 1} or more"
        )
    texts = text_list(texts)
    if prompt:
        check_prompt(backend, prompt, max_tokens)
        texts = [prompt + text for text in texts]
    dtype = np.uint16 if backend.get_vocab_size() <= 1 << 16 else np.int32
    if cache is None or not texts:
        return Tokens(*token_ids(backend, texts, max_tokens, dtype, progress=progress))
    folder = cache / _key(backend, texts, max_tokens)
    if folder.exists():
        try:
            return _opened(folder, len(texts), dtype)
        except (ValueError, OSError, EOFError) as error:
            console.say(f"note: {folder} is damaged, so it is computed again ({error})")
    tokens = Tokens(*token_ids(backend, texts, max_tokens, dtype, progress=progress))
    if not len(tokens.ids):
        return tokens
    cache.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir(exist_ok=True)
        np.save(temporary / "ids.npy", tokens.ids)
        np.save(temporary / "offsets.npy", tokens.offsets)
    return _opened(folder, len(texts), dtype)


def _key(backend: Any, texts: list[str], max_tokens: int) -> str:
    """Hash everything that the tokens depend on (SHA-256)."""
    settings = json.loads(backend.to_str())
    settings["truncation"] = settings["padding"] = None
    digest = hashlib.sha256(f"dexml tokens 1, {max_tokens}, {json.dumps(settings)}".encode())
    for start in range(0, len(texts), HASH_BLOCK):
        encoded = [t.encode("utf-8", "surrogatepass") for t in texts[start : start + HASH_BLOCK]]
        digest.update(np.fromiter(map(len, encoded), "<i8", len(encoded)).tobytes())
        digest.update(b"".join(encoded))
    return digest.hexdigest()[:32]


def _opened(folder: Path, n_texts: int, dtype: type) -> Tokens:
    # Copy on write, not read-only: torch warns when it shares memory that is not writable.
    ids, offsets = (read_array(folder / name, mmap_mode="c") for name in ("ids.npy", "offsets.npy"))
    if ids.dtype != dtype or ids.ndim != 1:
        raise ValueError(f"ids.npy holds {ids.dtype} of shape {ids.shape}")
    if offsets.dtype != np.int64 or offsets.shape != (n_texts + 1,):
        raise ValueError(f"offsets.npy holds {offsets.dtype} of shape {offsets.shape}")
    if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets.npy does not fit the {len(ids)} ids")
    return Tokens(ids, offsets)


def _signed(ids: NDArray[Any]) -> NDArray[Any]:
    """View the ids as a type that torch supports on all devices; copy only what is read-only."""
    ids = ids.view(np.int16) if ids.dtype == np.uint16 else ids
    return ids if ids.flags.writeable else ids.copy()


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    """Send an array to a device; all tokens pass here.

    CUDA takes the bytes before the call returns, and the host need not wait for what is under way.
    """
    import torch

    return torch.from_numpy(array).to(device, non_blocking=True)


def _is(device: torch.device, wanted: torch.device) -> bool:
    return device.type == wanted.type and wanted.index in (None, device.index)
