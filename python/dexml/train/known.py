"""Features of single texts in the shared cache: what any run has encoded is not encoded again.

Only for a steady engine: features of a text have the same bits in whatever list it stands. An entry
holds the texts that were new when it was written, `BLOCK` at most, so nothing is stored twice: a
list is put together from all entries of its encoder. What an interrupted run has encoded stays.

Shapes: N texts, H dimensions of features.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dexml import console, files
from dexml.encoder import Tokens
from dexml.encoder.engine import Engine
from dexml.train.cache import bound, used

BLOCK = 16_384
"""Texts of an entry at most: some minutes of work, and 25 MB of features with H = 384."""


def features_of(
    engine: Engine,
    tokens: Tokens,
    *,
    width: int,
    fingerprint: str,
    cache: Path,
    gigabytes: float,
    desc: str,
    progress: bool,
) -> NDArray[np.float32]:
    """Features of texts: those that are in the cache from there, the others by the engine.

    Args:
        engine: What encodes texts; it must be `steady`.
        tokens: The texts.
        width: H.
        fingerprint: Of the encoder and its engine, 16 hexadecimal digits.
        cache: Folder of the cache; new features are written there.
        gigabytes: What the cache may take.
        desc: Words beside the progress bar.
        progress: Show a progress bar, of the texts that are encoded.

    Returns:
        Shape (N, H), the same bits whatever the cache holds.
    """
    keys, lengths = tokens.keys(), tokens.lengths
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    first_equal = first[inverse]
    out = np.empty((len(tokens), width), np.float32)
    new = _filled(out, keys, np.sort(first), cache, fingerprint)
    with console.bar(
        total=int(lengths[new].sum()),
        desc=desc,
        unit="token",
        unit_scale=True,
        disable=not (progress and len(new)),
    ) as bar:

        def encode(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            own = lengths[rows]
            return engine.features(tokens.select(rows), lambda done: bar.update(own[done].sum()))

        for start in range(0, len(new), BLOCK):
            rows = new[start : start + BLOCK]
            out[rows] = encode(rows)
            _write(cache, fingerprint, keys[rows], out[rows], gigabytes)
    again = np.flatnonzero(first_equal != np.arange(len(tokens)))
    out[again] = out[first_equal[again]]
    return out


def unknown(tokens: Tokens, *, fingerprint: str, cache: Path) -> NDArray[np.int64]:
    """Rows of the texts that would be encoded, ascending; the cache is left as it is."""
    keys = tokens.keys()
    _, first = np.unique(keys, return_index=True)
    return _filled(None, keys, np.sort(first), cache, fingerprint)


def _filled(
    out: NDArray[np.float32] | None,
    keys: NDArray[np.void],
    rows: NDArray[np.int64],
    cache: Path,
    fingerprint: str,
) -> NDArray[np.int64]:
    """Fill rows of `out` from the entries that have them, and return those that none has.

    Args:
        out: Features, shape (N, H); None: only look.
        keys: Of all texts, shape (N,).
        rows: Which to look for, ascending; each has another key.
        cache: Folder of the cache.
        fingerprint: Of the encoder and its engine.
    """
    for path in sorted(cache.glob(f"rows-{fingerprint}-*.safetensors")):
        if not len(rows):
            break
        try:
            with safe_open(path, framework="np") as entry:
                held = _keys_of(entry)
                _, mine, theirs = np.intersect1d(
                    keys[rows], held, assume_unique=True, return_indices=True
                )
                if out is not None and len(mine):
                    out[rows[mine]] = _features_of(entry, held, out.shape[1])[theirs]
                    used(path)
        except FileNotFoundError:
            continue  # another training has just made room
        except (SafetensorError, ValueError) as error:
            console.say(f"note: {path} is damaged, and its texts are encoded again ({error})")
            if out is not None:
                with suppress(OSError):  # on Windows: what is open
                    files.remove(path)
            continue
        rows = np.delete(rows, mine)
    return rows


def _write(
    cache: Path,
    fingerprint: str,
    keys: NDArray[np.void],
    features: NDArray[np.float32],
    gigabytes: float,
) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
    path = cache / f"rows-{fingerprint}-{name}.safetensors"
    parts: dict[str, NDArray[Any]] = {
        "keys": keys.view(np.uint8).reshape(-1, 16),
        "features": features,
    }
    with files.replacing(path) as beside:
        try:
            save_file(parts, beside, {"sha256": _digest(keys, features)})
        except SafetensorError as error:  # a full disk, above all
            raise OSError(f"{path}: {error}") from None
    bound(cache, gigabytes, keep=path)


def _keys_of(entry: Any) -> NDArray[np.void]:
    """The keys of an entry, (n,)."""
    keys = np.ascontiguousarray(entry.get_tensor("keys")).view("V16").reshape(-1)
    if len(np.unique(keys)) < len(keys):
        raise ValueError("texts that stand in it twice")
    return keys


def _features_of(entry: Any, keys: NDArray[np.void], width: int) -> NDArray[np.float32]:
    """The features of an entry, (n, H)."""
    features: NDArray[np.float32] = entry.get_tensor("features")
    if features.dtype != np.float32 or features.shape != (len(keys), width):
        raise ValueError(f"features of shape {features.shape}")
    if (entry.metadata() or {}).get("sha256") != _digest(keys, features):
        raise ValueError("its content has changed")
    return features


def _digest(keys: NDArray[np.void], features: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(keys.tobytes())
    digest.update(np.ascontiguousarray(features).view(np.uint8).data)
    return digest.hexdigest()
