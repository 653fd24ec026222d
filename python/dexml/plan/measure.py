"""How fast this device is, measured in a few seconds: two micro-batches, a loss, a search.

Shapes: B points, L labels of a sample, T tokens, H features, D dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dexml import losses
from dexml.encoder import DualEncoder, LabelTable, Tokens
from dexml.encoder.device import Precision, autocast
from dexml.index import exact_search
from dexml.plan import Speed
from dexml.train.rows import RowAdamW
from dexml.train.step import part

Loss = Callable[..., Tensor]
SAMPLES = 4096, 32_768
"""Labels of the two samples that the time of a step on frozen features is measured with."""
_SEARCHED = 256
_UPDATED = 2**22
"""Numbers whose update is timed."""
_REPEATS, _PATIENCE = 3, 0.5
"""Runs that are timed, and seconds after which no more are."""


def measure(
    encoder: DualEncoder,
    point_tokens: Tokens,
    label_tokens: Tokens,
    *,
    batch_size: int,
    positives: float,
    micro_tokens: int,
    encodes: bool = True,
    residual: bool = True,
    drawn: bool = False,
    precision: Precision = "auto",
    loss: Loss = losses.decoupled_softmax,
    temperature: float = 0.05,
    seed: int = 0,
) -> Speed:
    """Measure the encoder, the loss, a step on frozen features and the search on this device.

    Weights and gradients of `encoder` stay as they are, and so does its mode.

    Args:
        encoder: As loaded, on its device.
        point_tokens: Tokens of the points.
        label_tokens: Tokens of the labels.
        batch_size: Points of a step of the phase heads.
        positives: Positives of a point, mean.
        micro_tokens: Tokens of a micro-batch.
        encodes: Measure the backward pass of the encoder too (a phase encoder is planned).
        residual: The label table has residuals.
        drawn: The phase heads draws labels, and updates their rows of the table alone.
        precision: Of the transformer.
        loss: A loss of `dexml.losses`.
        temperature: Of the loss.
        seed: Seed of the sample.
    """
    generator = np.random.default_rng(seed)
    lengths = np.concatenate([_lengths(point_tokens), _lengths(label_tokens)])
    short, long = (int(np.quantile(lengths, q, method="inverted_cdf")) for q in (0.25, 0.95))
    n_labels = len(label_tokens)
    sizes = sorted({min(n_labels, size) for size in SAMPLES})
    with torch.random.fork_rng():  # dropout draws; whoever trains next must not notice
        batch, token, token_pair = _forward(
            encoder, short, long, micro_tokens, generator, precision
        )
        backward, token_bytes = 3.0, 0.0
        if encodes:
            length = (short + long) // 2
            backward, token_bytes = _backward(encoder, length, micro_tokens, generator, precision)
        make = _Sample(encoder, batch_size, positives, loss, temperature, residual, drawn, seed)
        found = [make.step(size) for size in sizes]
        score = make.score(sizes[0])
    label = found[-1][0] / sizes[-1]
    if len(sizes) > 1:
        label = max(0.0, (found[1][0] - found[0][0]) / (sizes[1] - sizes[0]))
    return Speed(
        batch=batch,
        token=token,
        token_pair=token_pair,
        backward=backward,
        heads_step=max(0.0, found[-1][0] - label * sizes[-1]),
        heads_label=label,
        score=score,
        search=_search(encoder.dim, sizes[0], generator, encoder.device),
        host_search=_search(encoder.dim, sizes[0], generator, torch.device("cpu")),
        token_bytes=token_bytes,
        label_bytes=found[-1][1] / sizes[-1],
        update=_update(encoder.device) if encodes else 0.0,
    )


def _forward(
    encoder: DualEncoder,
    short: int,
    long: int,
    micro_tokens: int,
    generator: np.random.Generator,
    precision: Precision,
) -> tuple[float, float, float]:
    """Seconds a batch, a token, and a token and token of its text, from three batches."""
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode(), autocast(encoder.device, precision):
            shapes = [(1, short), (max(1, micro_tokens // short), short)]
            shapes.append((max(1, micro_tokens // long), long))
            inputs = [_ids(encoder, shape, generator) for shape in shapes]
            one, many, longer = (_seconds(partial(encoder.features, x), x.device) for x in inputs)
    finally:
        encoder.train(was_training)
    n_short, n_long = (shape[0] * shape[1] for shape in shapes[1:])
    if shapes[1][0] > 1:
        per_short = max(0.0, many - one) / (n_short - short)
        batch = max(0.0, one - short * per_short)
    else:
        per_short, batch = many / n_short, 0.0
    per_long = max(0.0, longer - batch) / n_long
    pair = max(0.0, (per_long - per_short) / (long - short)) if long > short else 0.0
    return batch, max(per_short - short * pair, 0.0), pair


def _backward(
    encoder: DualEncoder,
    length: int,
    micro_tokens: int,
    generator: np.random.Generator,
    precision: Precision,
) -> tuple[float, float]:
    """Forward and backward over forward alone, and bytes kept for the backward pass of a token."""
    ids = _ids(encoder, (max(1, micro_tokens // length), length), generator)
    state = [(p, p.requires_grad, p.grad) for p in encoder.parameters()]
    was_training = encoder.training
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def both() -> None:
        with autocast(encoder.device, precision):
            found = encoder.features(ids)
        found.sum().backward()

    def forward() -> None:
        with torch.no_grad(), autocast(encoder.device, precision):
            encoder.features(ids)

    try:
        encoder.train()
        encoder.requires_grad_(True)
        weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, _same)
        with hooks, autocast(encoder.device, precision):
            kept = encoder.features(ids)  # alive, so that no storage is counted in place of another
        del kept
        ratio = _seconds(both, ids.device) / max(1e-9, _seconds(forward, ids.device))
    finally:
        encoder.train(was_training)
        for parameter, required, gradient in state:
            parameter.requires_grad_(required)
            parameter.grad = gradient
    return max(1.0, ratio), sum(sizes.values()) / ids.numel()


class _Sample:
    """Points with some positives each, to be scored against a sample of labels."""

    def __init__(
        self,
        encoder: DualEncoder,
        batch_size: int,
        positives: float,
        loss: Loss,
        temperature: float,
        residual: bool,
        drawn: bool,
        seed: int,
    ) -> None:
        self.device, self.dim = encoder.device, encoder.dim
        self.batch_size, self.positives, self.residual = batch_size, positives, residual
        self.drawn = drawn
        self.loss, self.temperature = loss, temperature
        self.torch_generator = torch.Generator().manual_seed(seed)
        self.generator = np.random.default_rng(seed)

    def step(self, n_labels: int) -> tuple[float, float]:
        """Seconds of a step on frozen features, and bytes kept for its backward pass."""
        points_BH, labels_LH = self._rows(self.batch_size), self._rows(n_labels)
        pairs = self._pairs(n_labels)
        head = nn.Linear(self.dim, self.dim, bias=False, device=self.device)
        counts = torch.ones(n_labels, dtype=torch.int64)
        table = LabelTable(counts, self.dim).to(self.device)
        table.residual.requires_grad_(self.residual)
        own: list[Tensor] = [head.weight]
        if not self.drawn:
            own += [table.bias, *([table.residual] if self.residual else [])]
        optimizer = torch.optim.AdamW(own, lr=1e-3, fused=True)
        rows, ids = RowAdamW(table, (0.9, 0.98), 1e-8), np.arange(n_labels)
        for name in ("residual", "bias")[not self.residual :]:
            rows.add(name, 1e-3)
        normalize = nn.functional.normalize
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        def step() -> None:
            drawn = part(table, ids) if self.drawn else table
            features = labels_LH[torch.from_numpy(ids).to(self.device)] if self.drawn else labels_LH
            labels_LD = normalize(head(features) + drawn.residual, dim=1)
            points_BD = normalize(head(points_BH), dim=1)
            options: dict[str, Any] = {"temperature": self.temperature, "label_bias": drawn.bias}
            value = self.loss(points_BD, labels_LD, pairs, **options)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            if self.drawn:
                residual, bias = drawn.residual.grad, drawn.bias.grad
                assert bias is not None
                rows.step(ids, torch.empty(0) if residual is None else residual, bias)
            else:
                table.zero_grad(set_to_none=True)

        with torch.autograd.graph.saved_tensors_hooks(keep, _same):
            step()
        return _seconds(step, self.device), float(sum(sizes.values()))

    def score(self, n_labels: int) -> float:
        """Seconds of one score of the loss alone, forward and backward."""
        points, labels = (self._rows(n).requires_grad_() for n in (self.batch_size, n_labels))
        pairs = self._pairs(n_labels)

        def run() -> None:
            self.loss(points, labels, pairs, temperature=self.temperature).backward()

        return _seconds(run, self.device) / (self.batch_size * n_labels)

    def _rows(self, n: int) -> Tensor:
        found = torch.randn(n, self.dim, generator=self.torch_generator)
        return nn.functional.normalize(found, dim=1).to(self.device)

    def _pairs(self, n_labels: int) -> tuple[Tensor, Tensor]:
        n = max(1, min(n_labels, round(self.positives)))
        rows = [self.generator.choice(n_labels, n, replace=False) for _ in range(self.batch_size)]
        indices = torch.from_numpy(np.concatenate(rows)).to(self.device)
        return torch.arange(0, n * self.batch_size + 1, n, device=self.device), indices


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


def _lengths(tokens: Tokens) -> np.ndarray:
    return np.diff(np.asarray(tokens.offsets))


def _ids(encoder: DualEncoder, shape: tuple[int, int], generator: np.random.Generator) -> Tensor:
    top = int(encoder.transformer.config.vocab_size)
    return torch.from_numpy(generator.integers(0, top, shape)).to(encoder.device)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """The shortest of a few runs, after one that warms up; fewer where a run takes long."""
    run()
    found: list[float] = []
    while len(found) < _REPEATS and sum(found) < _PATIENCE:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)
