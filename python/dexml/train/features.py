"""Features of texts by the encoder: computed once, kept in a folder, shared out over processes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dexml import console
from dexml.encoder import DualEncoder, Precision, Side, Tokens
from dexml.encoder.device import in_bfloat16
from dexml.files import read_array
from dexml.run import folder as rundir
from dexml.train import processes
from dexml.train.cache import bound, used
from dexml.train.problem import Features, Job
from dexml.train.settings import CACHE_GIGABYTES, TrainSettings


def cache_folder(settings: TrainSettings) -> Path:
    """Where tokens and features are kept."""
    return Path(settings.cache) if settings.cache else settings.out / "cache"


def tokenize(
    encoder: DualEncoder,
    texts: Sequence[str],
    max_tokens: int,
    settings: TrainSettings,
    *,
    side: Side,
) -> Tokens:
    """Tokenise texts of a side and cache them: the first process writes the cache, others read."""

    def tokens() -> Tokens:
        found = encoder.tokenize(
            texts,
            max_tokens,
            side=side,
            cache=cache_folder(settings),
            progress=not settings.quiet,
        )
        if isinstance(found.ids, np.memmap):
            used(Path(str(found.ids.filename)).parent)
        return found

    if processes.size() > 1:
        processes.first(lambda: len(tokens()) == len(texts), encoder.device)
    return tokens()


def cached_features(
    encoder: DualEncoder,
    tokens: Tokens,
    cache: Path,
    *,
    desc: str,
    progress: bool,
    alone: bool = False,
    gigabytes: float = CACHE_GIGABYTES,
    precision: Precision = "auto",
) -> NDArray[np.float32]:
    """Features of texts by the encoder as it is now, cached under a hash of both.

    Features come before the head, so the hash leaves the head out.

    Args:
        encoder: The encoder.
        tokens: The texts.
        cache: Folder of the cache.
        desc: Words beside the progress bar.
        progress: Show a progress bar.
        alone: Let each process encode all texts: then the bits do not depend on their number.
        gigabytes: What the cache may take.
        precision: Of the transformer.
    """
    path = cached_path(encoder, tokens, cache, precision)
    device = encoder.device
    cached: NDArray[np.float32] | None = None
    if path.exists():
        try:
            cached = read_array(path)
            used(path)
        except FileNotFoundError:
            pass  # another training has just made room
        except ValueError:
            console.say(f"note: {path} is damaged and is computed again")
    if processes.size() == 1 and cached is not None:
        return cached
    ready = torch.tensor([float(cached is not None)], device=device)
    processes.add_up(ready)
    if cached is not None and int(ready) == processes.size():
        return cached
    features = encoded(
        encoder, tokens, desc=desc, progress=progress, alone=alone, precision=precision
    )

    def write() -> bool:
        cache.mkdir(parents=True, exist_ok=True)
        rundir.write_array(path, features)
        bound(cache, gigabytes, keep=path)
        return True

    processes.first(write, device)
    return features


def cached_path(
    encoder: DualEncoder, tokens: Tokens, cache: Path, precision: Precision = "auto"
) -> Path:
    """The file in `cache` for the features of these texts by the encoder as it is now.

    Features of an engine, and of each of its forms, have files of their own, and so have those in
    bfloat16. Prompts are part of the tokens.
    """
    digest = hashlib.sha256(f"{encoder.pooling} {encoder.normalize}".encode())
    for array in (tokens.ids.astype(np.int32), tokens.offsets):
        digest.update(array.tobytes())
    if encoder.engine is not None:
        digest.update(f"{encoder.engine.name} {encoder.engine.form}".encode())
    elif in_bfloat16(encoder.device, precision):
        digest.update(b"bfloat16")
    for tensor in encoder.transformer.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return cache / f"{digest.hexdigest()[:16]}.npy"


def encoded(
    encoder: DualEncoder,
    tokens: Tokens,
    *,
    desc: str,
    progress: bool,
    alone: bool = False,
    precision: Precision = "auto",
) -> NDArray[np.float32]:
    """Encode texts, shared out over the processes; with `alone`, each process encodes all."""
    encode = partial(encoder.encode_features, desc=desc, progress=progress, precision=precision)
    if processes.size() == 1 or alone:
        return encode(tokens)
    mine = np.arange(processes.rank(), len(tokens), processes.size())
    part = encode(tokens.select(mine))
    out = np.zeros((len(tokens), part.shape[1]), np.float32)
    out[mine] = part
    processes.fill(out, encoder.device)
    return out


def of_all(
    encoder: DualEncoder, tokens: tuple[Tokens, Tokens], settings: TrainSettings
) -> Features:
    """Features of all points and all labels by the encoder as it is now, cached."""
    both = [
        cached_features(
            encoder,
            texts,
            cache_folder(settings),
            desc=desc,
            progress=not settings.quiet,
            alone=settings.deterministic,
            gigabytes=settings.cache_gigabytes,
            precision=settings.precision,
        )
        for desc, texts in zip(("points", "labels"), tokens, strict=True)
    ]
    return both[0], both[1]


def current(job: Job, rows: NDArray[np.int64]) -> Features:
    """Features of the points `rows` and of all labels by the encoder as it is now."""
    problem, model = job.problem, job.model
    if problem.features is not None and not model.trained_layers:  # still as it was loaded
        return problem.features[0][rows], problem.features[1]
    settings = job.settings
    encode = partial(
        encoded,
        model.encoder,
        progress=not settings.quiet,
        alone=settings.deterministic,
        precision=settings.precision,
    )
    points = encode(problem.point_tokens.select(rows), desc="points")
    return points, encode(problem.label_tokens, desc="labels")
