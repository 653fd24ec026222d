"""Features of texts by the encoder: computed once, kept in a folder, shared out over processes."""

from __future__ import annotations

import hashlib
import json
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
from dexml.train import known, processes
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
    """Features of texts by the encoder as it is now, cached; the same bits whatever is cached.

    With a `steady` engine, each text is looked for in the cache, and only the others are encoded.
    The bits of torch depend on the batch in which a text stands, so there a list of texts is looked
    for as a whole. Features come before the head, so the head does not matter.

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
    device = encoder.device
    if shares_rows(encoder):
        assert encoder.engine is not None
        return known.features_of(
            encoder.engine,
            tokens,
            width=encoder.width,
            fingerprint=fingerprint(encoder),
            cache=cache,
            gigabytes=gigabytes,
            desc=desc,
            progress=progress,
        )
    path = cached_path(encoder, tokens, cache, precision, 1 if alone else processes.size())
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


def shares_rows(encoder: DualEncoder) -> bool:
    """Whether features of a text are cached for all lists in which it stands."""
    return processes.size() == 1 and encoder.engine is not None and encoder.engine.steady


def unknown(
    encoder: DualEncoder,
    tokens: Tokens,
    cache: Path,
    precision: Precision = "auto",
    n_processes: int = 1,
) -> NDArray[np.int64]:
    """Rows of the texts that `cached_features` would encode; arguments as there."""
    if shares_rows(encoder):
        return known.unknown(tokens, fingerprint=fingerprint(encoder), cache=cache)
    is_known = cached_path(encoder, tokens, cache, precision, n_processes).exists()
    return np.arange(0 if is_known else len(tokens))


def cached_path(
    encoder: DualEncoder,
    tokens: Tokens,
    cache: Path,
    precision: Precision = "auto",
    n_processes: int = 1,
) -> Path:
    """The file in `cache` for the features of this list by the encoder as it is now.

    Prompts are part of the tokens. Texts that `n_processes` share out stand in other batches, and
    on a CPU the sums of torch depend on its threads too.
    """
    digest = hashlib.sha256(fingerprint(encoder, precision).encode())
    digest.update(f" {n_processes}".encode())
    if encoder.engine is None and encoder.device.type == "cpu":
        digest.update(f" {torch.get_num_threads()}".encode())
    for array in (tokens.ids.astype(np.int32), tokens.offsets):
        digest.update(array.tobytes())
    return cache / f"{digest.hexdigest()[:16]}.npy"


def fingerprint(encoder: DualEncoder, precision: Precision = "auto") -> str:
    """Hash what features depend on beside the tokens, as the encoder is now: 16 hex digits.

    Torch is part of it: it has made the engine's graph, too.
    """
    facts = encoder.transformer.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):  # where it lay, and who wrote it
        facts.pop(name, None)
    digest = hashlib.sha256(f"{encoder.pooling} {encoder.normalize} {torch.__version__}".encode())
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    if encoder.engine is not None:
        digest.update(encoder.engine.fingerprint.encode())
    elif in_bfloat16(encoder.device, precision):
        digest.update(b"bfloat16")
    for tensor in encoder.transformer.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


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
