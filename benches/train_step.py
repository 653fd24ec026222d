"""One exact all-label training step: dexml against the original's pattern, and the encoder's floor.

    python benches/train_step.py [--labels 2048 8192] [--points 256] [--rounds 3]
    python benches/train_step.py --processes 2                      # gloo, this machine's cores
    python benches/train_step.py --device cuda --shape distilbert --labels 131073 1305265 \\
        --points 3000 16384 --no-original

Titles are random token ids with the lengths of product titles (log-normal, mean 13 tokens, at
most 32); the encoder has random weights in the shape of MiniLM-L6 or DistilBERT, dropout on. The
step is the same for all: embed points and all labels, decoupled softmax against all, gradient
of the whole encoder, AdamW.

- dexml: exact-length micro-batches, tiled loss (``dexml.train``, stage encoder, negatives all).
- original: its pattern re-expressed: all texts padded to 32, labels in index order in chunks, first
  without gradient (random states kept), scores B x L in one piece under autograd, then chunk after
  chunk again with gradient. Its loss and its gradient norm are compared with dexml's, without
  dropout, before anything is timed.
- floor: the encoder's matrix products alone (24 T D^2 a layer and forward unit; 4 units a label
  token, 3 a point token) at the rate of a large matrix product, measured here.

Competitors take turns; the minimum counts. CPU seconds of one thread; seconds on CUDA. Writes
``benches/results/train_step.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy.sparse import csr_array
from torch.multiprocessing.spawn import spawn

from dexml.encoder import DualEncoder, Tokens
from dexml.train import TrainSettings, stages
from dexml.train.problem import Job, Model, Problem
from dexml.train.step import gradients, take_step
from original_step import Original

MAX_TOKENS, VOCABULARY, POSITIVES = 32, 30_522, 3
SHAPES = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 256},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "distilbert": {"hidden_size": 768, "num_hidden_layers": 6, "intermediate_size": 3072},
}
UNITS = {"labels": 4, "points": 3}
"""Forward passes that a token costs: one, one more for the replay, two for the backward pass."""


class _NoTokenizer:
    model_max_length = MAX_TOKENS


def encoder_of(shape: str, device: str, *, dropout: float) -> DualEncoder:
    """A BERT with random weights and a shared head."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        num_attention_heads=12 if shape != "tiny" else 2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **SHAPES[shape],
    )
    head = torch.eye(SHAPES[shape]["hidden_size"])
    transformer = BertModel(config, add_pooling_layer=False)
    return DualEncoder(transformer, _NoTokenizer(), heads=[head]).to(device)


def titles(n: int, seed: int) -> Tokens:
    """Random token ids with the lengths of titles."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(2.45, 0.45, n).round(), 3, MAX_TOKENS).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = generator.integers(1000, VOCABULARY, offsets[-1]).astype(np.int32)
    return Tokens(ids, offsets)


def problem_of(n_points: int, n_labels: int) -> Problem:
    generator = np.random.default_rng(0)
    indices = np.sort(generator.integers(n_labels, size=(n_points, POSITIVES)), axis=1)
    rows = np.repeat(np.arange(n_points), POSITIVES)
    keys = np.unique(rows * n_labels + indices.ravel())
    indptr = np.concatenate([[0], np.cumsum(np.bincount(keys // n_labels, minlength=n_points))])
    y = csr_array(
        (np.ones(len(keys), np.float32), keys % n_labels, indptr), shape=(n_points, n_labels)
    )
    return Problem(
        y=y,
        exclude=None,
        point_tokens=titles(n_points, 1),
        label_tokens=titles(n_labels, 2),
        inv_propensity=np.ones(n_labels),
    )


def settings_of(arguments: argparse.Namespace, n_points: int) -> TrainSettings:
    return TrainSettings(
        data_dir=Path("unused"),
        out=Path("unused"),
        stages="encoder",
        negatives="all",
        encoder_batch_size=n_points,
        temperature=0.05,
        residual_lr=0,
        bias_lr=0,
        device=arguments.device,
        micro_tokens=256 if arguments.shape == "tiny" else 0,
        quiet=True,
    )


def ours(arguments: argparse.Namespace, problem: Problem, encoder: DualEncoder) -> Any:
    """The stage and its batch."""
    n_points = problem.y.shape[0]
    rows = np.arange(n_points)
    settings = settings_of(arguments, n_points)
    job = Job(problem, Model.untrained(encoder, problem.y), rows, settings)
    return stages.make("encoder", job), rows


def rate(device: str, shape: str) -> float:
    """Flop a second of a large matrix product (bf16 on CUDA), the best of several."""
    on_gpu = device != "cpu"
    n = 64 if shape == "tiny" else 8192 if on_gpu else 1024
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    return max(2 * n**3 / clock(lambda: a @ a, device) for _ in range(5))


def clock(work: Callable[[], Any], device: str) -> float:
    """Seconds: of the processor on a CPU, of the wall on CUDA."""
    if device != "cpu":
        torch.cuda.synchronize()
    now = time.process_time if device == "cpu" else time.perf_counter
    start = now()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return now() - start


def floor(problem: Problem, shape: str, flops: float) -> float:
    """Seconds of the encoder's products alone."""
    width, layers = SHAPES[shape]["hidden_size"], SHAPES[shape]["num_hidden_layers"]
    tokens = UNITS["labels"] * len(problem.label_tokens.ids)
    tokens += UNITS["points"] * len(problem.point_tokens.ids)
    return 24 * width**2 * layers * tokens / flops


def same(arguments: argparse.Namespace, n_points: int, n_labels: int) -> None:
    """Both compute one loss and one gradient: compared without dropout."""
    problem = problem_of(n_points, n_labels)
    encoder = encoder_of(arguments.shape, arguments.device, dropout=0.0)
    stage, rows = ours(arguments, problem, encoder)
    other = Original(problem, encoder, arguments.chunk, MAX_TOKENS)
    norms, values = [], []
    encoder.train()
    values.append(other.gradients())
    norms.append(_norm(other.parameters))
    values.append(gradients(stage, rows, 1, 0, 1)[0])
    norms.append(_norm(stage.parameters))
    # bf16 rounds the states, and padding changes the order of sums
    tolerance = 1e-4 if arguments.device == "cpu" else 2e-2
    if not np.allclose(values[0], values[1], rtol=tolerance) or not np.allclose(
        norms[0], norms[1], rtol=10 * tolerance
    ):
        raise SystemExit(f"error: losses {values}, gradient norms {norms}: not the same step")


def _norm(parameters: list[Any]) -> float:
    squares = [float(p.grad.double().square().sum()) for p in parameters if p.grad is not None]
    return math.sqrt(sum(squares))


def measure(arguments: argparse.Namespace, n_points: int, n_labels: int) -> dict[str, Any]:
    device = arguments.device
    problem = problem_of(n_points, n_labels)
    encoder = encoder_of(arguments.shape, device, dropout=0.1)
    stage, rows = ours(arguments, problem, encoder)
    stage.model.train()
    competitors: dict[str, Callable[[], Any]] = {
        "dexml": lambda: take_step(stage, rows, 1, 0, 1),
    }
    if arguments.original:
        other = Original(problem, encoder, arguments.chunk, MAX_TOKENS)
        competitors["original"] = other.step
    flops = rate(device, arguments.shape)
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    for number in range(arguments.rounds + 1):
        for name, work in competitors.items():
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            taken = clock(work, device)
            if number:  # the first round warms up
                seconds[name] = min(taken, seconds.get(name, np.inf))
            if device != "cpu":
                peaks[name] = torch.cuda.max_memory_allocated()
    real = len(problem.label_tokens.ids) + len(problem.point_tokens.ids)
    return {
        "shape": arguments.shape,
        "points": n_points,
        "labels": n_labels,
        "mean_tokens": real / (n_points + n_labels),
        "seconds": seconds,
        "titles_per_second": {n: (n_points + n_labels) / s for n, s in seconds.items()},
        "peak_bytes": peaks,
        "flops_per_second": flops,
        "floor_seconds": floor(problem, arguments.shape, flops),
    }


def work_of_one(rank: int, size: int, folder: str, arguments: argparse.Namespace) -> None:
    """One of several processes: its own seconds of the wall for a step."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    try:
        problem = problem_of(arguments.points[0], arguments.labels[0])
        encoder = encoder_of(arguments.shape, "cpu", dropout=0.1)
        stage, rows = ours(arguments, problem, encoder)
        stage.model.train()
        best, loss = np.inf, 0.0
        for number in range(arguments.rounds + 1):
            dist.barrier()
            start = time.perf_counter()
            loss, _ = take_step(stage, rows, 1, 0, 1)
            if number:
                best = min(best, time.perf_counter() - start)
        if rank == 0:
            found = {"processes": size, "seconds": best, "loss": loss}
            Path(folder, "result.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


def several(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The same step on 1 and on more processes of this machine, one thread each."""
    rows = []
    for size in (1, arguments.processes):
        with tempfile.TemporaryDirectory() as folder:
            spawn(work_of_one, (size, folder, arguments), nprocs=size)
            found: dict[str, Any] = json.loads(Path(folder, "result.json").read_text())
            rows.append(found)
    return rows


def markdown(results: dict[str, Any]) -> str:
    lines = [
        "# One exact all-label step",
        "",
        f"{results['machine']}, torch {results['torch']}, {results['unit']}.",
        "",
        "| encoder | points | labels | tokens a title | dexml s | titles/s | original s | titles/s "
        "| original / dexml | floor s | dexml / floor | peak GiB dexml / original |",
        "|---" * 12 + "|",
    ]
    for row in results["steps"]:
        s, t, peaks = row["seconds"], row["titles_per_second"], row["peak_bytes"]
        other = s.get("original")
        memory = [f"{peaks[n] / 2**30:.1f}" for n in ("dexml", "original") if n in peaks]
        cells = [
            row["shape"],
            f"{row['points']:,}",
            f"{row['labels']:,}",
            f"{row['mean_tokens']:.1f}",
            f"{s['dexml']:.2f}",
            f"{t['dexml']:.0f}",
            f"{other:.2f}" if other else "-",
            f"{t['original']:.0f}" if other else "-",
            f"{other / s['dexml']:.2f}" if other else "-",
            f"{row['floor_seconds']:.2f}",
            f"{s['dexml'] / row['floor_seconds']:.2f}",
            " / ".join(memory) or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if results["processes"]:
        lines += [
            "",
            "| processes (gloo, one thread each) | wall s a step | loss |",
            "|---|---|---|",
        ]
        lines += [
            f"| {row['processes']} | {row['seconds']:.2f} | {row['loss']:.9f} |"
            for row in results["processes"]
        ]
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labels", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--points", type=int, nargs="+", default=[256])
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chunk", type=int, default=256, help="labels a chunk of the original")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=0, help="also 1 and this many processes")
    parser.add_argument("--original", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/train_step")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.original:
        same(arguments, 16, 300)
    steps = []
    for n_points in arguments.points:
        for n_labels in arguments.labels:
            steps.append(measure(arguments, n_points, n_labels))
            row = steps[-1]
            print({k: row[k] for k in ("points", "labels", "seconds", "floor_seconds")}, flush=True)
    on_gpu = arguments.device != "cpu"
    results = {
        "machine": torch.cuda.get_device_name() if on_gpu else f"CPU, {platform.machine()}",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "unit": "seconds" if on_gpu else "CPU seconds of one thread, float32",
        "steps": steps,
        "processes": several(arguments) if arguments.processes else [],
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
