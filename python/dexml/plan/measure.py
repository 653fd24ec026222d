"""How fast this device is, measured in a few seconds: batches, steps of the trainer, a search.

Shapes: B points, L labels of a sample, H features, D dimensions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml.data import Csr
from dexml.encoder import DualEncoder, Tokens, autocast
from dexml.index import exact_search
from dexml.plan.quantities import Lengths, Speed
from dexml.train import TrainSettings, stages
from dexml.train.objective import objective
from dexml.train.problem import Job, Model, Problem
from dexml.train.schedule import StageSchedule, longest, parse_loss
from dexml.train.step import take_step

SAMPLES = 4096, 32_768
"""Labels of the two samples that the time of a step on frozen features is measured with."""
_STEPS = 10_000
"""Steps of the stage whose steps are measured; its loss depends on how far it has come."""
_SCORED = _SEARCHED = 256
"""Points at most whose scores are timed, and points whose search is timed."""
_UPDATED = 2**22
"""Numbers whose update is timed."""
_REPEATS, _PATIENCE = 3, 0.5
"""Runs that are timed, and seconds after which no more are."""


def measure(
    encoder: DualEncoder,
    lengths: Lengths,
    n_labels: int,
    settings: TrainSettings,
    planned: list[StageSchedule],
    positives: float,
) -> Speed:
    """Measure the encoder, the steps and the search on this device.

    The weights of `encoder`, their gradients and its mode stay as they are.

    Args:
        encoder: As loaded, on its device.
        lengths: Tokens of the points and the labels.
        n_labels: Labels of the data set.
        settings: The settings of the training.
        planned: Its stages; what no stage needs is not measured.
        positives: Positives of a point, mean.
    """
    generator, device = np.random.default_rng(settings.seed), encoder.device
    max_tokens, _ = stages.token_budgets(settings, device)
    short, long = (int(np.quantile(lengths, q, method="inverted_cdf")) for q in (0.25, 0.95))
    n_labels = min(n_labels, SAMPLES[1])
    search = partial(_search, encoder.dim, min(n_labels, SAMPLES[0]), generator)
    speeds: dict[str, float] = {}
    with torch.random.fork_rng(), _unchanged(encoder):  # whoever trains next must not notice
        shapes = [(max(1, max_tokens // length), length) for length in (short, long)]
        batch, token, token_pair = _forward(encoder, shapes, generator, settings)
        for stage in planned:
            if not stage.encodes:
                speeds |= _heads(encoder, n_labels, settings, stage, positives)
            else:
                length = (short + long) // 2
                shape = (max(1, max_tokens // length), length)
                speeds |= _backward(encoder, shape, generator, settings)
                speeds["score"] = _score(encoder, n_labels, settings, stage.batch_size, positives)
                speeds["update"] = _update(device)
    return Speed(batch, token, token_pair, search(device), search(torch.device("cpu")), **speeds)


def _forward(
    encoder: DualEncoder,
    shapes: list[tuple[int, int]],
    generator: np.random.Generator,
    settings: TrainSettings,
) -> tuple[float, float, float]:
    """Seconds a batch, a token, and a token and token of its text.

    From three batches: a single short text, many short ones, and long ones.
    """
    encoder.eval()
    (n_short, short), (n_long, long) = shapes
    inputs = [_ids(encoder, shape, generator) for shape in ((1, short), *shapes)]
    with torch.inference_mode(), autocast(encoder.device, settings.precision):
        one, many, longer = (_seconds(partial(_features, encoder, x), x.device) for x in inputs)
    if n_short > 1:
        per_short = max(0.0, many - one) / ((n_short - 1) * short)
        batch = max(0.0, one - short * per_short)
    else:
        per_short, batch = many / short, 0.0
    per_long = max(0.0, longer - batch) / (n_long * long)
    pair = max(0.0, (per_long - per_short) / (long - short)) if long > short else 0.0
    return batch, max(per_short - short * pair, 0.0), pair


def _features(encoder: DualEncoder, ids: Tensor) -> None:
    """Encode texts of one length as the training will: with the engine, if there is one."""
    if encoder.engine is None:
        encoder.features(ids)
        return
    n, length = ids.shape
    flat = ids.numpy().astype(np.int32).ravel()
    encoder.engine.features(Tokens(flat, np.arange(n + 1, dtype=np.int64) * length))


def _backward(
    encoder: DualEncoder,
    shape: tuple[int, int],
    generator: np.random.Generator,
    settings: TrainSettings,
) -> dict[str, float]:
    """Forward and backward over forward alone, and bytes kept for the backward pass of a token."""
    ids = _ids(encoder, shape, generator)
    encoder.train()
    encoder.requires_grad_(True)

    def features() -> Tensor:
        with autocast(encoder.device, settings.precision):
            return encoder.features(ids)

    def forward() -> None:
        with torch.no_grad():
            features()

    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept = _bytes_kept(features, but=weights) / ids.numel()
    both = _seconds(lambda: features().sum().backward(), ids.device)
    ratio = both / max(1e-9, _seconds(forward, ids.device))
    return {"backward": max(1.0, ratio), "token_bytes": kept}


def _heads(
    encoder: DualEncoder,
    n_labels: int,
    settings: TrainSettings,
    schedule: StageSchedule,
    positives: float,
) -> dict[str, float]:
    """Steps of the trainer with few and with many labels, on made-up features."""
    batch_size = settings.head_batch_size
    sizes = sorted({min(n_labels, size) for size in SAMPLES})
    counts, seconds, kept = [], [], 0.0
    for size in sizes:
        drawn = schedule.negatives != "all"
        changes: dict[str, Any] = {"stages": "heads", "head_negatives": "all"}
        if drawn:  # the number of labels of the step is that of the draws, or somewhat less
            changes |= {"head_negatives": "uniform", "head_pool": size}
        y = _positives(batch_size, sizes[-1] if drawn else size, positives, settings.seed)
        features = _unit_rows(batch_size, encoder.width), _unit_rows(y.shape[1], encoder.width)
        nothing = Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64))
        problem = Problem(y, None, nothing, nothing, np.ones(y.shape[1]), features)
        rows = np.arange(batch_size)
        n_clusters = min(settings.label_clusters, y.shape[1])
        model = Model.untrained(encoder, y, None, settings.table, n_clusters)
        job = Job(problem, model, rows, settings.model_copy(update=changes))
        stage = stages.make("heads", job)
        first = math.ceil(longest(parse_loss(settings.loss)).start * _STEPS)
        step = partial(take_step, stage, rows, 1, first, _STEPS)
        kept = _bytes_kept(step)
        seconds.append(_seconds(step, encoder.device))
        counts.append(stage.scratch.n_candidates)
    label = seconds[-1] / counts[-1]
    if counts[-1] > counts[0]:
        label = max(0.0, (seconds[-1] - seconds[0]) / (counts[-1] - counts[0]))
    return {
        "heads_step": max(0.0, seconds[-1] - label * counts[-1]),
        "heads_label": label,
        "label_bytes": kept / counts[-1],
    }


def _score(
    encoder: DualEncoder,
    n_labels: int,
    settings: TrainSettings,
    batch_size: int,
    positives: float,
) -> float:
    """Seconds of one score of the loss alone, forward and backward."""
    n_points, n_labels = min(batch_size, _SCORED), min(n_labels, SAMPLES[0])
    y = _positives(n_points, n_labels, positives, settings.seed)
    points, labels = (
        torch.from_numpy(_unit_rows(n, encoder.dim)).to(encoder.device)
        for n in (n_points, n_labels)
    )
    pairs = torch.from_numpy(y.indptr), torch.from_numpy(y.indices)
    model, bias = Model.untrained(encoder, y), labels.new_zeros(n_labels)
    loss = longest(parse_loss(settings.loss))
    inputs = points.requires_grad_(), labels.requires_grad_(), pairs, None, bias, None

    def run() -> None:
        objective(loss, model, *inputs, settings, {}).backward()

    return _seconds(run, encoder.device) / (n_points * n_labels)


def _positives(n_points: int, n_labels: int, mean: float, seed: int) -> Csr:
    """As many positives for each point, drawn; shape (`n_points`, `n_labels`)."""
    generator = np.random.default_rng(seed)
    n = max(1, min(n_labels, round(mean)))
    rows = [np.sort(generator.choice(n_labels, n, replace=False)) for _ in range(n_points)]
    indptr = np.arange(0, n * n_points + 1, n, dtype=np.int64)
    values = np.ones(n * n_points, np.float32)
    return Csr((values, np.concatenate(rows), indptr), shape=(n_points, n_labels))


def _unit_rows(n: int, dim: int) -> NDArray[np.float32]:
    """Random vectors (n, `dim`) of unit length."""
    rows: NDArray[np.float32] = torch.nn.functional.normalize(torch.randn(n, dim), dim=1).numpy()
    return rows


def _update(device: torch.device) -> float:
    """Seconds of AdamW for one number, and of a gradient that starts at 0."""
    numbers = torch.zeros(_UPDATED, device=device, requires_grad=True)
    numbers.grad = torch.zeros_like(numbers)
    optimizer = torch.optim.AdamW([numbers], lr=1e-3, fused=True)

    def run() -> None:
        assert numbers.grad is not None
        numbers.grad.zero_()
        optimizer.step()

    return _seconds(run, device) / _UPDATED


def _search(dim: int, n_labels: int, generator: np.random.Generator, device: torch.device) -> float:
    queries = generator.standard_normal((_SEARCHED, dim + 1)).astype(np.float32)
    vectors = generator.standard_normal((n_labels, dim + 1)).astype(np.float32)
    k = min(100, n_labels)
    seconds = _seconds(lambda: exact_search(queries, vectors, k, device=device.type), device)
    return seconds / (_SEARCHED * n_labels)


def _ids(encoder: DualEncoder, shape: tuple[int, int], generator: np.random.Generator) -> Tensor:
    top = int(encoder.transformer.config.vocab_size)
    return torch.from_numpy(generator.integers(0, top, shape)).to(encoder.device)


@contextmanager
def _unchanged(encoder: DualEncoder) -> Iterator[None]:
    """Put back what the block changes: heads, gradients, what requires one, and the mode."""
    state = [(p, p.requires_grad, p.grad) for p in encoder.parameters()]
    heads = [(head, head.detach().clone()) for head in encoder.head_parameters()]
    was_training = encoder.training
    try:
        yield
    finally:
        encoder.train(was_training)
        for parameter, required, gradient in state:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        with torch.no_grad():
            for head, weight in heads:
                head.copy_(weight)


def _bytes_kept(run: Callable[[], Any], but: frozenset[int] | set[int] = frozenset()) -> float:
    """Bytes of all storages that `run` keeps for a backward pass, but for those at `but`."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in but:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # alive until here, so that no storage takes the place of another
    del result
    return float(sum(sizes.values()))


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """The shortest of a few runs, after one that warms up; fewer where a run takes long."""
    run()
    seconds: list[float] = []
    while len(seconds) < _REPEATS and sum(seconds) < _PATIENCE:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
