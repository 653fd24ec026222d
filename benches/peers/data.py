"""Synthetic data with a Zipf tail, fixed seed and no equal scores, written once into a folder.

Needs numpy only. Every array is a ``.npy`` file; the two texts are in the formats of
``docs/formats.md``. Sizes are those of the public benchmarks: ``large`` is LF-AmazonTitles-1.3M.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Stands in the folder's name: raise it with every change of what is generated."""
K = 100
SHARDS = 10

Array = NDArray[Any]


@dataclass(frozen=True)
class Size:
    """Rows and columns of the data of every task."""

    name: str
    n_labels: int
    lf_rows: int
    bow_rows: int
    bow_features: int
    eval_rows: int
    walk_rows: int
    walk_labels: int
    dense_rows: int
    merge_rows: int
    exclude_rows: int
    negative_rows: int
    resamples: int


SIZES = {
    size.name: size
    for size in (
        Size("tiny", 3_000, 2_000, 600, 500, 600, 6_000, 2_600, 4, 100, 300, 200, 1_000),
        Size("small", 30_000, 20_000, 10_000, 10_000,
             20_000, 6_000, 2_600, 32, 2_000, 4_000, 2_000, 1_000),
        Size("medium", 131_073, 100_000, 50_000, 50_000,
             100_000, 60_000, 26_000, 128, 10_000, 40_000, 20_000, 1_000),
        Size("large", 1_305_265, 1_000_000, 500_000, 500_000,
             970_237, 294_805, 131_073, 128, 50_000, 200_000, 100_000, 1_000),
    )
}  # fmt: skip


def prepare(
    root: Path, size: Size, parts: set[str], say: Callable[[str], None] = lambda line: None
) -> Path:
    """Write what is missing of `parts` (keys of `PARTS`) under `root`; return the folder.

    A part is written beside its place and renamed, so that an interrupted run leaves no half.
    """
    folder = root / f"{size.name}-v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "size.json").write_text(json.dumps(asdict(size)) + "\n")
    for number, (part, write) in enumerate(PARTS.items()):
        if part in parts and not (folder / part).exists():
            say(f"data: {part} ({size.name})")
            beside = folder / f"{part}.part"
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            write(beside, size, np.random.default_rng((0, number)))
            beside.rename(folder / part)
    return folder


def zipf_ids(generator: np.random.Generator, n: int, n_ids: int) -> NDArray[np.int64]:
    """Draw ids whose frequency falls as 1 / (rank + 100); the ranks are scattered over the ids."""
    ranks = 100 * ((n_ids + 100) / 100) ** generator.random(n) - 100
    scattered = np.random.default_rng(n_ids).permutation(n_ids)
    found: NDArray[np.int64] = scattered[np.minimum(ranks.astype(np.int64), n_ids - 1)]
    return found


def zipf_rows(
    generator: np.random.Generator, counts: Array, n_ids: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Sorted distinct ids in rows of about `counts`; a row that asks for one has one."""
    rows = np.repeat(np.arange(len(counts)), counts)
    keys = rows * n_ids + zipf_ids(generator, len(rows), n_ids)
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    rows, ids = np.divmod(keys, n_ids)
    indptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(counts)), out=indptr[1:])
    return indptr, ids.astype(np.int32)


def write_lf(folder: Path, size: Size, generator: np.random.Generator) -> None:
    """`text.txt` and its matrix: 21.7 labels a row, none without."""
    counts = np.maximum(1, generator.poisson(22.1, size.lf_rows))
    indptr, ids = zipf_rows(generator, counts, size.n_labels)
    np.save(folder / "indptr.npy", indptr)
    np.save(folder / "indices.npy", ids)
    with (folder / "text.txt").open("wb") as file:
        file.write(b"%d %d\n" % (size.lf_rows, size.n_labels))
        for start in range(0, size.lf_rows, 50_000):
            span = indptr[start : start + 50_001]
            ends = np.zeros(span[-1] - span[0], np.bool_)
            ends[span[1:] - span[0] - 1] = True
            _write_tokens(file, ids[span[0] : span[-1]], ends, None)


def write_bow(folder: Path, size: Size, generator: np.random.Generator) -> None:
    """`text.txt`: 59.6 features a row with six decimals each, 3 labels a row, both at least one."""
    n_rows, n_labels = size.bow_rows, size.n_labels
    counts = np.maximum(1, generator.poisson(60.4, n_rows))
    indptr, features = zipf_rows(generator, counts, size.bow_features)
    label_counts = np.maximum(1, generator.poisson(3, n_rows))
    label_indptr, labels = zipf_rows(generator, label_counts, n_labels)
    values = generator.integers(1, 1_000_000, len(features))
    with (folder / "text.txt").open("wb") as file:
        file.write(b"%d %d %d\n" % (n_rows, size.bow_features, n_labels))
        for start in range(0, n_rows, 20_000):
            span, label_span = indptr[start : start + 20_001], label_indptr[start : start + 20_001]
            own, own_labels = slice(span[0], span[-1]), slice(label_span[0], label_span[-1])
            rows = np.arange(len(span) - 1)
            row_of = np.concatenate(
                [np.repeat(rows, np.diff(label_span)), np.repeat(rows, np.diff(span))]
            )
            order = np.argsort(row_of, kind="stable")  # a row's labels, then its features
            ids = np.concatenate([labels[own_labels], features[own]])[order]
            micros = np.concatenate([np.full(label_span[-1] - label_span[0], -1), values[own]])
            ends = np.append(np.diff(row_of[order]) > 0, True)
            _write_tokens(file, ids, ends, micros[order])


def _write_tokens(file: BinaryIO, ids: Array, ends: Array, micros: Array | None) -> None:
    """Write `id:1.0`, or `id:0.dddddd` for a value in millionths, or `id` where that is -1.

    A bare id ends with a comma, or with a blank before a feature; `ends` marks the last of a row.
    """
    powers = 10 ** np.arange(6, -1, -1, dtype=np.int32)
    ids = ids.astype(np.int32)[:, None]
    digits = (ids // powers % 10 + 48).astype(np.uint8)
    keep_digits = (ids >= powers) | (powers == 1)
    n = len(ids)
    ending = np.where(ends, ord("\n"), ord(" ")).astype(np.uint8)[:, None]
    if micros is None:
        tail = np.broadcast_to(np.frombuffer(b":1.0", np.uint8), (n, 4))
        keep_tail = np.ones((n, 4), np.bool_)
    else:
        bare = micros < 0
        decimals = np.maximum(micros, 0)[:, None].astype(np.int32) // powers[1:] % 10 + 48
        point = np.broadcast_to(np.frombuffer(b":0.", np.uint8), (n, 3))
        tail = np.concatenate([point, decimals.astype(np.uint8)], axis=1)
        keep_tail = np.repeat(~bare[:, None], 9, axis=1)
        ending[bare & np.append(bare[1:], False), 0] = ord(",")
    one = np.ones((n, 1), np.bool_)
    bytes_ = np.concatenate([digits, tail, ending], axis=1)
    file.write(bytes_[np.concatenate([keep_digits, keep_tail, one], axis=1)].tobytes())


def write_eval(folder: Path, size: Size, generator: np.random.Generator) -> None:
    """Truth (21.6 positives a row, 0.5 % of rows empty) and rankings of 100, as ids and as CSR.

    A third of the positives is ranked, the earlier places more often; scores fall strictly.
    """
    n_rows, n_labels = size.eval_rows, size.n_labels
    counts = np.maximum(1, generator.poisson(22.1, n_rows))
    counts[generator.random(n_rows) < 0.005] = 0
    indptr, labels = zipf_rows(generator, counts, n_labels)
    np.save(folder / "indptr.npy", indptr)
    np.save(folder / "indices.npy", labels)
    ids, scores = np.empty((n_rows, K), np.int32), np.empty((n_rows, K), np.float32)
    by_id, by_id_scores = np.empty((n_rows, K), np.int32), np.empty((n_rows, K), np.float32)
    for start in range(0, n_rows, 20_000):
        block = slice(start, min(start + 20_000, n_rows))
        ids[block] = _rankings(indptr[start : block.stop + 1], labels, n_labels, generator)
        jitter = generator.random(ids[block].shape) * 0.9
        scores[block] = (K - np.arange(K) + jitter) / 128
        order = np.argsort(ids[block], axis=1)
        by_id[block] = np.take_along_axis(ids[block], order, axis=1)
        by_id_scores[block] = np.take_along_axis(scores[block], order, axis=1)
    np.save(folder / "ids.npy", ids)
    np.save(folder / "pred_indices.npy", by_id.ravel())
    np.save(folder / "pred_data.npy", by_id_scores.ravel())
    # Propensities (0.55, 1.5) after training frequencies as in the truth.
    frequency = np.bincount(labels, minlength=n_labels)
    c = (np.log(n_rows) - 1) * 2.5**0.55
    np.save(folder / "weights.npy", 1 + c * (frequency + 1.5) ** -0.55)


def _rankings(
    indptr: Array, labels: Array, n_labels: int, generator: np.random.Generator
) -> NDArray[np.int32]:
    """100 distinct labels a row: a walk through all labels, positives put into a third of it."""
    n = len(indptr) - 1
    steps = generator.integers(1, max(2, n_labels // (K + 1) + 1), (n, K))
    walk = np.cumsum(steps, axis=1)
    walk += (generator.random((n, 1)) * (n_labels - walk[:, -1:])).astype(np.int64) - 1
    ranked = walk.ravel()
    keys = ranked + np.repeat(np.arange(n), K) * n_labels
    rows = np.repeat(np.arange(n), np.diff(indptr))
    positives = labels[indptr[0] : indptr[-1]].astype(np.int64)
    place = np.minimum(np.searchsorted(keys, positives + rows * n_labels), len(keys) - 1)
    there = keys[place] == positives + rows * n_labels
    hits = np.zeros(n * K, np.bool_)
    hits[place[there]] = True
    chosen = ~there & (generator.random(len(rows)) < 1 / 3)
    free = np.flatnonzero(~hits)[generator.permutation(n * K - hits.sum())]
    slot_rows = free // K
    # One free slot for each chosen positive, of its own row: the i-th of the row's shuffled ones.
    free = free[np.argsort(slot_rows, kind="stable")]
    first_free = np.concatenate([[0], np.cumsum(np.bincount(slot_rows, minlength=n))[:-1]])
    own = rows[chosen]
    first = np.searchsorted(own, np.arange(n))
    number = np.arange(len(own)) - first[own]
    fits = number < K // 2
    slots = free[(first_free[own] + number)[fits]]
    ranked[slots] = positives[chosen][fits]
    hits[slots] = True
    order = np.argsort(generator.random((n, K)) - 0.1 * hits.reshape(n, K), axis=1)
    return np.take_along_axis(ranked.reshape(n, K), order, axis=1).astype(np.int32)


def write_dense(folder: Path, size: Size, generator: np.random.Generator) -> None:
    """Scores of all labels: a permutation a row, so that no two are equal."""
    steps = np.arange(size.n_labels)
    rows = [generator.permutation(steps).astype(np.float32) for _ in range(size.dense_rows)]
    np.save(folder / "scores.npy", np.stack(rows) * np.float32(2.0**-21))


def write_merge(folder: Path, size: Size, generator: np.random.Generator) -> None:
    """Ten rankings of 100 over disjoint labels each; no equal scores in a row."""
    shape = (SHARDS, size.merge_rows, K)
    number = np.arange(SHARDS)[:, None, None]
    rising = np.cumsum(generator.integers(1, 3_000, shape), axis=2)
    np.save(folder / "scores.npy", (rising[:, :, ::-1] * SHARDS + number).astype(np.float32))
    width = max(size.n_labels // SHARDS, K)
    step = width // K
    ids = np.arange(K) * step + generator.integers(0, step, shape) + number * width
    order = np.argsort(generator.random(shape), axis=2)
    np.save(folder / "ids.npy", np.take_along_axis(ids, order, axis=2).astype(np.int32))


def write_walk(folder: Path, size: Size, generator: np.random.Generator) -> None:
    """A training matrix with 2.3 labels a row, as LF-AmazonTitles-131K."""
    counts = np.maximum(1, generator.poisson(2.1, size.walk_rows))
    indptr, labels = zipf_rows(generator, counts, size.walk_labels)
    np.save(folder / "indptr.npy", indptr)
    np.save(folder / "indices.npy", labels)


def write_points(folder: Path, size: Size, generator: np.random.Generator) -> None:
    """A metric's values for each point, of two systems: numbers of hits among five places."""
    first = generator.binomial(5, 0.45, size.eval_rows)
    change = generator.integers(-1, 2, size.eval_rows) * (generator.random(size.eval_rows) < 0.3)
    np.save(folder / "a.npy", first / 5)
    np.save(folder / "b.npy", np.clip(first + change, 0, 5) / 5)


PARTS: dict[str, Callable[[Path, Size, np.random.Generator], None]] = {
    "lf": write_lf,
    "bow": write_bow,
    "eval": write_eval,
    "dense": write_dense,
    "merge": write_merge,
    "walk": write_walk,
    "points": write_points,
}
