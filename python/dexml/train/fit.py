"""The training loop and its two phases: heads on frozen features, then the upper layers.

Shapes: N training points, L labels, B points of a step, K labels of a pool, D dimensions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from dexml import losses, rundir
from dexml.data import Csr
from dexml.index import exact_search
from dexml.metrics import Evaluator, Result
from dexml.model import DualEncoder, LabelTable, Tokens, autocast, upper_layers, with_bias_dimension
from dexml.sampling import label_pool, pool_positives, pool_probability
from dexml.train import checkpoint
from dexml.train.settings import TrainSettings

REPORTED = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@10", "R@100")
"""Metrics of ``metrics.json`` and of the tables."""
ADAM_BETAS = (0.9, 0.98)
PRIORS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
PRIOR_POINTS = 4000
"""Validation points that the prior is chosen on, at most: each value takes a full search."""
SCORE_BLOCK = 16_384
"""Points ranked and evaluated at a time."""


class Model(nn.Module):
    """What is trained: the shared encoder and the label table."""

    def __init__(self, encoder: DualEncoder, table: LabelTable) -> None:
        super().__init__()
        self.encoder = encoder
        self.table = table


@dataclass(frozen=True)
class Problem:
    """The training part, tokenised and encoded once."""

    y: Csr
    exclude: Csr | None
    point_tokens: Tokens
    label_tokens: Tokens
    point_features: NDArray[np.float32]
    label_features: NDArray[np.float32]
    inv_propensity: NDArray[np.float64]


@dataclass(frozen=True)
class Phase:
    """One stage of training: its length, its parameters, and the loss of a step."""

    name: str
    batch_size: int
    groups: list[dict[str, Any]]
    loss: Callable[[NDArray[np.int64], int], Tensor]
    encode: Callable[[NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.float32]]]
    """Features of the points asked for and of all labels, as the encoder is now."""


def head_phase(
    problem: Problem, model: Model, rows: NDArray[np.int64], settings: TrainSettings
) -> Phase:
    """Frozen features: head, label residuals and biases against all labels (`docs/training.md`)."""
    encoder, table = model.encoder, model.table
    encoder.transformer.requires_grad_(False)
    table.residual.requires_grad_(settings.residual_lr > 0)
    table.bias.requires_grad_(settings.bias_lr > 0)
    device = encoder.device
    features = torch.from_numpy(problem.point_features)
    label_features_LD = torch.from_numpy(problem.label_features).to(device)

    def loss(rows: NDArray[np.int64], epoch: int) -> Tensor:
        points_BD = encoder(features[rows].to(device))
        labels_LD = table(encoder, label_features_LD)
        return losses.decoupled_softmax(
            points_BD,
            labels_LD,
            problem.y[rows],
            ignore=None if problem.exclude is None else problem.exclude[rows],
            temperature=settings.temperature,
            label_bias=table.bias,
        )

    def encode(rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return problem.point_features[rows], problem.label_features

    decay = settings.weight_decay
    groups = [
        {"params": [encoder.head.weight], "lr": settings.head_lr, "weight_decay": decay},
        {"params": [table.residual], "lr": settings.residual_lr, "weight_decay": 0.0},
        {"params": [table.bias], "lr": settings.bias_lr, "weight_decay": 0.0},
    ]
    return Phase("head", settings.batch_size, groups, loss, encode)


def finetune_phase(
    problem: Problem, model: Model, rows: NDArray[np.int64], settings: TrainSettings
) -> Phase:
    """Upper layers and head against a pool of labels encoded in the same step.

    Labels come into the pool with very different probabilities; as negatives they are weighted by
    the inverse, so that the pool stands for all labels. The label table stays as it is: what it
    knows of single labels was learned against all of them.
    """
    encoder, table = model.encoder, model.table
    layers = upper_layers(encoder.transformer, settings.finetune_layers)
    encoder.transformer.requires_grad_(False)
    for layer in layers:
        layer.requires_grad_(True)
    table.requires_grad_(False)
    probability = pool_probability(
        problem.y,
        rows,
        batch_size=settings.finetune_batch_size,
        per_point=settings.pool_positives,
        n_random=settings.pool_random,
    )
    log_weight_L = torch.from_numpy(-np.log(probability)).float().to(encoder.device)

    def encode_batch(tokens: Tokens, rows: NDArray[np.int64]) -> Tensor:
        batches = tokens.batches(len(rows) * settings.point_tokens, rows)
        with autocast(encoder.device):
            parts = [encoder.features(tokens.tensor(b, encoder.device)) for b in batches]
        encoded = np.concatenate(batches)
        sorter = np.argsort(encoded)
        back = sorter[np.searchsorted(encoded, rows, sorter=sorter)]
        return torch.cat(parts)[torch.from_numpy(back).to(encoder.device)]

    def loss(rows: NDArray[np.int64], epoch: int) -> Tensor:
        pool = label_pool(
            problem.y,
            rows,
            per_point=settings.pool_positives,
            n_random=settings.pool_random,
            seed=settings.seed,
            epoch=epoch,
        )
        points_BD = encoder(encode_batch(problem.point_tokens, rows))
        labels_KD = table(encoder, encode_batch(problem.label_tokens, pool), pool)
        pairs = [problem.y] if problem.exclude is None else [problem.y, problem.exclude]
        inside = [
            tuple(torch.from_numpy(part) for part in pool_positives(y, rows, pool)) for y in pairs
        ]
        return losses.decoupled_softmax(
            points_BD,
            labels_KD,
            inside[0],
            ignore=inside[1] if len(inside) > 1 else None,
            temperature=settings.temperature,
            label_bias=table.bias[pool],
            negative_log_weight=log_weight_L[pool],
        )

    def encode(rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        show = not settings.quiet
        return (
            encoder.encode_features(
                problem.point_tokens.select(rows), desc="points", progress=show
            ),
            encoder.encode_features(problem.label_tokens, desc="labels", progress=show),
        )

    parameters = [p for layer in layers for p in layer.parameters()] + [encoder.head.weight]
    groups = []
    for decay, matrices in ((settings.weight_decay, True), (0.0, False)):
        chosen = [p for p in parameters if (p.ndim > 1) == matrices]
        groups.append({"params": chosen, "lr": settings.finetune_lr, "weight_decay": decay})
    return Phase("finetune", settings.finetune_batch_size, groups, loss, encode)


PHASES = {"head": head_phase, "finetune": finetune_phase}
"""In the order in which they run."""


def fit(
    problem: Problem,
    model: Model,
    rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
    epochs: dict[str, int],
    settings: TrainSettings,
    folder: Path,
) -> dict[str, Any]:
    """Train all phases on `rows`, and leave in `model` the best epoch on `validation_rows`.

    Goes on after the last checkpoint in `folder`, if there is one. Without validation points the
    last epoch is the best.

    Args:
        problem: The training part.
        model: At its start; changed in place.
        rows: Points to fit.
        validation_rows: Points to select on; may be empty.
        epochs: Number of epochs of each phase.
        settings: The settings of the run.
        folder: Where checkpoints are kept; its name is shown beside the progress.

    Returns:
        The state at the best epoch; ``chosen`` holds the epochs of each phase that led to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last, best = folder / "last.safetensors", folder / "best.safetensors"
    state: dict[str, Any] = {"phase": "", "epoch": 0, "step": 0, "best": None, "chosen": {}}
    if last.exists():
        state = checkpoint.read_state(last)
    for name, make_phase in PHASES.items():
        phase = make_phase(problem, model, rows, settings)
        behind = list(PHASES).index(name) < list(PHASES).index(state["phase"] or name)
        if epochs.get(name, 0) and not behind:
            if best.exists() and state["phase"] != name:
                # The best of the earlier phase must also hold what this phase will change.
                checkpoint.save(best, model, None, checkpoint.read_state(best))
            state = _run_phase(
                problem, model, phase, rows, validation_rows, epochs[name], settings, folder, state
            )
        if best.exists():
            checkpoint.load(best, model)
    return checkpoint.read_state(best) if best.exists() else state


def _run_phase(
    problem: Problem,
    model: Model,
    phase: Phase,
    rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
    epochs: int,
    settings: TrainSettings,
    folder: Path,
    state: dict[str, Any],
) -> dict[str, Any]:
    """Train one phase; each epoch ends with a validation and a checkpoint.

    Batches, pools and dropout are functions of (seed, phase, epoch), so a resumed run repeats
    what an unbroken one would do.
    """
    last, best = folder / "last.safetensors", folder / "best.safetensors"
    optimizer = torch.optim.AdamW(
        [group for group in phase.groups if group["lr"] > 0], betas=ADAM_BETAS, fused=True
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    first_epoch = 1
    if state["phase"] == phase.name:
        first_epoch = state["epoch"] + 1
        checkpoint.load(last, model, optimizer)
    steps_per_epoch = math.ceil(len(rows) / phase.batch_size)
    steps = epochs * steps_per_epoch
    step = (first_epoch - 1) * steps_per_epoch
    bar = tqdm(
        total=steps,
        initial=step,
        desc=f"{folder.name}: {phase.name}",
        unit="step",
        disable=settings.quiet,
    )
    started = time.perf_counter()
    for epoch in range(first_epoch, epochs + 1):
        seed = _epoch_seed(settings.seed, phase.name, epoch)
        torch.manual_seed(seed)
        shuffled = np.random.default_rng(seed).permutation(rows)
        model.train()
        total = 0.0
        for start in range(0, len(shuffled), phase.batch_size):
            batch = shuffled[start : start + phase.batch_size]
            factor = schedule(step, steps, settings.warmup)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            loss = phase.loss(batch, epoch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise RuntimeError(
                    f"the loss is {value} at step {step} of phase {phase.name}; lower the learning "
                    "rates (--head-lr, --residual-lr, --bias-lr, --finetune-lr)"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += value * len(batch)
            step += 1
            bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
            bar.update()
        entry: dict[str, Any] = {"loss": total / len(rows)}
        state = state | {"phase": phase.name, "epoch": epoch, "step": step}
        score: float | None = None
        if len(validation_rows) and (epoch % settings.evaluate_every == 0 or epoch == epochs):
            model.eval()
            encoded = phase.encode(validation_rows)
            entry["validation"] = validate(problem, model, encoded, validation_rows, settings)
            score = entry["validation"][settings.select]
        if not len(validation_rows) or (
            score is not None and (state["best"] is None or score > state["best"])
        ):
            state = state | {"best": score, "chosen": state["chosen"] | {phase.name: epoch}}
            if len(validation_rows):
                checkpoint.save(best, model, None, state)
        seconds = round(time.perf_counter() - started, 3)
        entry = {"stage": folder.name, "phase": phase.name, "epoch": epoch, "step": step} | entry
        rundir.log(settings.out, **entry, seconds=seconds)
        checkpoint.save(last, model, optimizer, state)
    bar.close()
    return state


def choose_prior(
    problem: Problem,
    model: Model,
    phase: Phase,
    validation_rows: NDArray[np.int64],
    settings: TrainSettings,
) -> float:
    """Choose how much label frequency adds to the bias, by the validation points.

    The loss weighs rare and frequent positives alike, which serves PSP@k; how much more a
    frequent label should be believed depends on the data set. Ties go to the smaller prior.
    """
    model.eval()
    rows = validation_rows[:PRIOR_POINTS]
    encoded = phase.encode(rows)
    scores = [
        validate(problem, model, encoded, rows, settings, prior)[settings.select]
        for prior in PRIORS
    ]
    return PRIORS[int(np.argmax(scores))]


def validate(
    problem: Problem,
    model: Model,
    encoded: tuple[NDArray[np.float32], NDArray[np.float32]],
    rows: NDArray[np.int64],
    settings: TrainSettings,
    prior: float = 0.0,
) -> dict[str, float]:
    """Scores of the points `rows` against all labels, by exact search."""
    points, labels = encoded
    metrics = list(dict.fromkeys([*REPORTED, settings.select]))
    result = score(
        model.encoder,
        points,
        model.table.vectors(model.encoder, labels, settings.temperature, prior),
        problem.y[rows],
        None if problem.exclude is None else problem.exclude[rows],
        problem.inv_propensity,
        metrics,
    )
    return result.metrics


def score(
    encoder: DualEncoder,
    point_features: NDArray[np.float32],
    label_vectors: NDArray[np.float32],
    y_true: Csr,
    exclude: Csr | None,
    inv_propensity: NDArray[np.float64],
    metrics: list[str] | tuple[str, ...] = REPORTED,
    *,
    progress: bool = False,
) -> Result:
    """Rank all labels for every point by exact search and evaluate, with values per point."""
    k = max(int(name.split("@")[1]) for name in metrics)
    evaluator = Evaluator(y_true.shape[1], metrics, inv_propensity=inv_propensity, keep_rows=True)
    starts = range(0, len(point_features), SCORE_BLOCK)
    for start in tqdm(starts, desc="scoring", unit="block", disable=not progress):
        rows = slice(start, start + SCORE_BLOCK)
        queries = with_bias_dimension(encoder.embed(point_features[rows]))
        pairs = None if exclude is None else exclude[rows]
        ids, _ = exact_search(queries, label_vectors, k, exclude=pairs)
        evaluator.update(y_true[rows], ids, exclude=pairs)
    return evaluator.result()


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at `step`: linear rise over the warm-up, then linear to 0."""
    rise = max(1, round(warmup * steps))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def _epoch_seed(seed: int, phase: str, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, len(phase), epoch)).generate_state(1)[0])
