"""The steps of a day with a GPU (`gpu.py`): each measures or checks one thing and returns numbers.

Every step takes a `Place` and returns plain values for JSON. Sizes shrink with ``--toy``, where the
device is a pretended one (`tests/pretended_cuda`): then times mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import losses as bench_losses
import train_step
from dexml.losses import arguments as loss_arguments
from dexml.plan.measure import measure
from dexml.plan.memory import memory
from dexml.plan.quantities import PlanInput, PlannedStage
from dexml.train import TrainSettings, stages
from dexml.train.problem import Job, Model
from dexml.train.schedule import stage_schedules
from dexml.train.step import take_step
from pretended_cuda import cases, device

ROOT = Path(__file__).parents[1]
L131K, L1M = 131_073, 1_305_265
PACKAGES = ("torch", "triton", "transformers", "tokenizers", "numpy", "scipy", "dexml-xmc")
LAUNCHES = {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"}
BLOCKS = ((64, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 256, 64, 8, 3))
"""Rows, labels, dimensions, warps and stages of the half-precision kernels to compare."""
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a step works."""

    toy: bool
    out: Path
    data: Path | None = None
    """Folder of data sets in the LF layout."""
    encoder: str = ""

    @property
    def shape(self) -> str:
        return "tiny" if self.toy else "distilbert"

    @property
    def width(self) -> int:
        return int(train_step.SHAPES[self.shape]["hidden_size"])

    def of(self, real: Any, toy: Any) -> Any:
        """A size: for a GPU, and for a toy run."""
        return toy if self.toy else real


def machine(place: Place) -> Numbers:
    """What is here; and what is missing, in one line each."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    free, total = torch.cuda.mem_get_info()
    driver = "" if place.toy else _said("nvidia-smi", "--query-gpu=driver_version,clocks.max.sm")
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpus": torch.cuda.device_count(),
        "capability": list(torch.cuda.get_device_capability()),
        "free_GiB": free / 2**30,
        "memory_GiB": total / 2**30,
        "driver": driver,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "tflops": {
            name: _product_rate(dtype, place.of(8192, 64)) / 1e12
            for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
        },
    }


def _said(*command: str) -> str:
    try:
        done = subprocess.run([*command, "--format=csv,noheader"], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _product_rate(dtype: torch.dtype, n: int) -> float:
    a = torch.randn(n, n, device="cuda").to(dtype)
    times = [bench_losses.seconds(lambda: a @ a, "cuda") for _ in range(5)]  # type: ignore[arg-type,return-value]
    return 2 * n**3 / max(min(times), 1e-9)


def tests(place: Place) -> Numbers:
    """The cases of the tests marked `cuda`, each by itself."""
    names = ["loss_of_a_batch", "searches_exactly"] if place.toy else list(cases.CASES)
    folder = place.out / "cases"
    folder.mkdir(exist_ok=True)
    where = cases.Place.make(folder, real=not place.toy)
    found = {}
    for name in names:
        try:
            cases.CASES[name](where)
            found[name] = "ok"
        except Exception as error:  # the next one tells something of its own
            found[name] = f"{type(error).__name__}: {error}"[:400]
    return {"ok": all(result == "ok" for result in found.values()), "cases": found}


def exact(place: Place) -> Numbers:
    """Losses, kernels and the exact search against float64 on the host."""
    shape, dim = place.of(((257, 5003), 384), ((17, 67), 16))
    errors: Numbers = {}
    for name in (*cases.SOFTMAXES, "soft_topk", "bce", "topk_hinge"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            kernels = [False, True] if name in cases.SOFTMAXES else [None]
            if place.toy and dtype == torch.bfloat16:
                kernels = kernels[:1]  # Triton's interpreter computes in numpy, which has none
            for triton in kernels:
                options = {} if triton is None else {"triton": triton}
                error = cases.loss_error(name, dtype, shape=shape, dim=dim, **options)
                key = f"{name} {str(dtype).removeprefix('torch.')}"
                errors[key + (" kernels" if triton else "")] = error
    # topk_hinge chooses a label; in half precision another one may be the lowest or the (k+1)-th.
    limits = {"float32": 1e-4, "bfloat16": 0.03, "float16": 0.03}
    bad = [
        key for key, error in errors.items()
        if not key.startswith("topk_hinge") and error > limits[key.split()[1]]
    ]  # fmt: skip
    return {"ok": not bad, "beyond": bad, "errors": errors, "search": _search(place)}


def _search(place: Place) -> Numbers:
    from dexml.index import exact_search

    n, n_labels, dim, k = place.of((500, 200_000, 768, 100), (20, 300, 16, 10))
    generator = np.random.default_rng(0)
    queries = generator.standard_normal((n, dim)).astype(np.float32)
    vectors = generator.standard_normal((n_labels, dim)).astype(np.float32)
    ids, scores = exact_search(queries, vectors, k, device="cuda")
    truth = queries.astype(np.float64) @ vectors.astype(np.float64).T
    best = np.argsort(-truth, axis=1, kind="stable")[:, :k]
    wanted = np.take_along_axis(truth, best, axis=1)
    taken = bench_losses.seconds(
        lambda: exact_search(queries, vectors, k, device="cuda"),  # type: ignore[arg-type,return-value]
        "cuda",
    )
    return {
        "equal_ids": float((ids == best).mean()),
        "largest_gap": float(np.abs(scores - wanted).max()),
        "scores_per_second": n * n_labels / taken,
    }


def times_of_losses(place: Place, n_labels: int, dim: int, dtype: str) -> Numbers:
    """Every loss against the three products alone."""
    given = argparse.Namespace(device="cuda", rounds=place.of(3, 1), only=None, dense_bytes=0)
    if dtype == "float32" and n_labels == L131K and not place.toy:
        given.dense_bytes = 20 * 256 * n_labels  # masked autograd too, at the smallest batch
    n_labels, dim = place.of((n_labels, dim), (600, 16))
    rows = []
    for n_points in place.of((256, 1024, 4096, 16_384), (16,)):
        data = bench_losses.Inputs(n_points, n_labels, dim, getattr(torch, dtype), "cuda")
        rows += bench_losses.measure(data, given)
        del data
        _free()
    return {"rows": rows}


def blocks(place: Place) -> Numbers:
    """Blocks of the kernels, and the size from which kernels pay."""
    from dexml.losses import triton_softmax

    kind = "interpreter" if place.toy else "half"
    half = place.of(torch.bfloat16, torch.float16)
    n_points, n_labels, dim = place.of((4096, L131K, 768), (16, 200, 16))
    before = triton_softmax.BLOCKS[kind]
    data = bench_losses.Inputs(n_points, n_labels, dim, half, "cuda")
    found: Numbers = {"blocks": {}, "sizes": {}}
    candidates = place.of(BLOCKS, ((16, 32, 16, 4, 1), (16, 16, 16, 4, 1)))
    try:
        for sizes in candidates:
            triton_softmax.BLOCKS[kind] = triton_softmax.Block(*sizes)
            step = bench_losses.ours("decoupled_softmax", data, triton=True)
            name = "x".join(map(str, sizes))
            try:
                found["blocks"][name] = _best_of(step)
            except Exception as error:  # it does not fit this GPU
                found["blocks"][name] = f"{type(error).__name__}: {error}"[:200]
    finally:
        triton_softmax.BLOCKS[kind] = before
    del data
    _free()
    for power in place.of((18, 20, 22, 24, 26), (12,)):
        n_labels = 2**power // place.of(256, 16)
        data = bench_losses.Inputs(place.of(256, 16), n_labels, dim, half, "cuda")
        found["sizes"][str(power)] = {
            "kernels": _best_of(bench_losses.ours("decoupled_softmax", data, triton=True)),
            "tiles": _best_of(bench_losses.ours("decoupled_softmax", data, triton=False)),
        }
    return found | {"threshold": loss_arguments.TRITON_SCORES}


def encoder(place: Place) -> Numbers:
    """Micro-batches forward and backward: tokens a second, launches, with --compile and not."""
    model = train_step.encoder_of(place.shape, "cuda", dropout=0.1)
    model.train()
    rate = _product_rate(torch.bfloat16, place.of(8192, 64))
    layers = int(train_step.SHAPES[place.shape]["num_hidden_layers"])
    rows = []
    for length in place.of((8, 16, 32), (8,)):
        for tokens in place.of((8192, 32_768, 65_536, 131_072), (64,)):
            ids = torch.randint(1000, train_step.VOCABULARY, (tokens // length, length)).cuda()
            ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"plain": model.features}
            if not place.toy and tokens == 65_536:
                ways["compiled"] = torch.compile(model.features, dynamic=True)
                lengths = torch.full((len(ids),), length)
                ways["packed"] = lambda x, n=lengths: model.features_packed(x.flatten(), n)  # type: ignore[misc]
            for way, features in ways.items():
                work = partial(_forward_and_backward, features, ids)
                try:
                    taken = _best_of(work)
                except Exception as error:
                    rows.append({"way": way, "length": length, "tokens": tokens,
                                 "error": f"{type(error).__name__}: {error}"[:200]})  # fmt: skip
                    continue
                floor = 3 * 24 * place.width**2 * layers * ids.numel() / rate
                rows.append({
                    "way": way, "length": length, "tokens": tokens, "seconds": taken,
                    "tokens_per_second": ids.numel() / taken, "x floor": taken / floor,
                    "launches": launches(work),
                })  # fmt: skip
    return {"rows": rows}


def _forward_and_backward(features: Callable[..., torch.Tensor], ids: torch.Tensor) -> None:
    with torch.autocast("cuda", torch.bfloat16):
        out = features(ids)
    out.float().sum().backward()


def step_of_encoder(place: Place, n_labels: int) -> Numbers:
    """One all-label step over synthetic titles: seconds, launches, waits, memory against --plan."""
    n_labels = place.of(n_labels, 200)
    given = argparse.Namespace(
        device="cuda", shape=place.shape, rounds=1, original=False, chunk=256
    )  # fmt: skip
    n_points = place.of(3000, 16)
    row = train_step.measure(given, n_points, n_labels)
    _free()
    problem = train_step.problem_of(n_points, n_labels)
    settings = train_step.settings_of(given, n_points)
    job = Job(problem, Model.untrained(_encoder(place), problem.y), np.arange(n_points), settings)
    stage = stages.make("encoder", job)
    job.model.train()
    work = partial(take_step, stage, job.rows, 1, 1, 2)
    if n_labels < L1M:
        work()
        row |= {"launches": launches(work), "waits": waits(work)}
    return row | _against_plan(place, job, "encoder", row["peak_bytes"].get("dexml", 0))


def step_of_heads(place: Place, negatives: str) -> Numbers:
    """Steps of the stage heads over cached features of 1.3 million labels."""
    n_points, n_labels, batch_size = place.of((65_536, L1M, 4096), (64, 300, 16))
    problem = train_step.problem_of(n_points, n_labels)
    features = tuple(_unit_rows(n, place.width, seed) for seed, n in enumerate(problem.y.shape))
    problem = replace(problem, features=features)
    settings = TrainSettings(
        data_dir=Path("unused"), out=Path("unused"), stages="heads", device="cuda", quiet=True,
        head_negatives=negatives, head_batch_size=batch_size, head_pool=place.of(8192, 32),
        micro_tokens=place.of(0, 256),
    )  # fmt: skip
    job = Job(problem, Model.untrained(_encoder(place), problem.y), np.arange(n_points), settings)
    job.model.to("cuda")
    torch.cuda.reset_peak_memory_stats()
    stage = stages.make("heads", job)
    job.model.train()
    batch = np.arange(batch_size)
    work = partial(take_step, stage, batch, 1, 1, 2)
    taken = _best_of(work)
    peak = torch.cuda.max_memory_allocated()
    row = {
        "points": batch_size, "labels": n_labels, "negatives": negatives, "seconds": taken,
        "candidates": stage.scratch.n_candidates, "waits": waits(work),
        "launches": launches(work), "peak_bytes": peak,
    }  # fmt: skip
    return row | _against_plan(place, job, "heads", peak)


def _against_plan(place: Place, job: Job, name: str, peak: int) -> Numbers:
    """Peak bytes over what --plan says for the stage."""
    problem, settings, encoder = job.problem, job.settings, job.model.encoder
    n_labels = problem.y.shape[1]
    planned = []
    for schedule in stage_schedules(settings, n_labels):
        n = n_labels if schedule.negatives == "all" else min(n_labels, settings.head_pool)
        planned.append(PlannedStage(schedule, n))
    lengths = problem.point_tokens.lengths, problem.label_tokens.lengths
    speed = measure(
        encoder, np.concatenate(lengths), min(n_labels, 8192), settings,
        [one.schedule for one in planned], positives=float(train_step.POSITIVES),
    )  # fmt: skip
    given = PlanInput(
        settings=settings, stages=planned, point_lengths=lengths[0], label_lengths=lengths[1],
        n_positives=int(problem.y.nnz), n_unseen=0, n_validation=0, dim=encoder.dim,
        width=encoder.width, n_weights=sum(p.numel() for p in encoder.parameters()),
        n_trained=sum(p.numel() for p in stages.unfreeze(encoder, settings)),
        n_blocks=int(train_step.SHAPES[place.shape]["num_hidden_layers"]), device="cuda",
        device_bytes=torch.cuda.mem_get_info()[1],
    )  # fmt: skip
    parts = memory(given, speed)[f"cuda, {name}"]
    planned_bytes = sum(parts.values())
    return {"planned_bytes": planned_bytes, "peak / planned": peak / max(planned_bytes, 1)}


def _encoder(place: Place) -> Any:
    return train_step.encoder_of(place.shape, "cuda", dropout=0.1)


def _unit_rows(n: int, dim: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, dim, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1, out=rows).numpy()


def training(place: Place, name: str) -> Numbers:
    """A training of the encoder for some minutes, then heads."""
    changes: Numbers = {"device": "cuda", "quiet": True, "overwrite": True, "ranker": "none"}
    if place.toy:
        where = cases.Place.make(place.out, real=False)
        data, model = where.data, str(where.encoders["distilbert"])
        changes |= {"encoder_epochs": 1, "head_epochs": 1, "refit": False, "micro_tokens": 256}
    else:
        if place.data is None or not (place.data / name).is_dir():
            return {"skipped": f"give --data, a folder with {name} in it"}
        if not place.encoder:
            return {"skipped": "give --encoder, a folder of transformers"}
        data, model = place.data / name, place.encoder
        changes |= {"encoder_epochs": 3, "refit": False, "negatives": "all"}
    from dexml.train import train

    scores = {}
    for chosen in ("heads", "encoder,heads"):
        settings = TrainSettings(
            data_dir=data, encoder=model, out=place.out / f"{name}-{chosen}", stages=chosen,
            **changes,
        )  # fmt: skip
        torch.cuda.reset_peak_memory_stats()
        result = train(settings)
        lines = [json.loads(line) for line in (settings.out / "log.jsonl").open()]
        scores[chosen] = {
            "metrics": dict(result.metrics) if result is not None else {},
            "seconds": max((line.get("seconds", 0.0) for line in lines), default=0.0),
            "epochs": [line for line in lines if "validation" in line],
            "peak_bytes": torch.cuda.max_memory_allocated(),
        }
    return scores


def processes(place: Place) -> Numbers:
    """The same small training by one process and by one for each GPU."""
    n = torch.cuda.device_count()
    if n < 2:
        return {"skipped": f"{n} GPU"}
    where = cases.Place.make(place.out / "cases", real=True)
    found: Numbers = {}
    for size in (1, n):
        out = place.out / f"processes-{size}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={size}", "-m", "dexml.train", str(where.data)]
        command += ["--out", str(out), "--encoder", str(where.encoders["distilbert"])]
        command += ["--stages", "encoder,heads", "--negatives", "all", "--overwrite", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        if done.returncode:
            return {"ok": False, "error": done.stderr[-800:]}
        lines = [json.loads(line) for line in (out / "log.jsonl").open()]
        found[str(size)] = [line["loss"] for line in lines if "loss" in line]
    one, several = found["1"], found[str(n)]
    return found | {"ok": bool(np.allclose(one, several, rtol=0.05))}


def launches(work: Callable[[], Any]) -> int:
    """Kernels that `work` launches."""
    if _pretended():
        device.reset()
        work()
        return sum(device.launches().values())
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    return sum(event.count for event in profiled.key_averages() if event.key in LAUNCHES)


def waits(work: Callable[[], Any]) -> int:
    """Times that `work` makes the host wait for the device."""
    if _pretended():
        device.reset()
        work()
        return sum(device.WAITS.values())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def _pretended() -> bool:
    return torch.cuda.get_device_name() == "pretended GPU"


def _best_of(work: Callable[[], Any], rounds: int = 3) -> float:
    work()
    return min(bench_losses.seconds(work, "cuda") for _ in range(rounds))


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


STEPS: dict[str, tuple[float, Callable[[Place], Numbers]]] = {
    "machine": (15, machine),
    "tests": (90, tests),
    "exact": (60, exact),
    "losses-131K-768-bfloat16": (
        40, partial(times_of_losses, n_labels=L131K, dim=768, dtype="bfloat16")),
    "step-131K": (60, partial(step_of_encoder, n_labels=L131K)),
    "heads-1.3M": (60, partial(step_of_heads, negatives="all")),
    "heads-1.3M-drawn": (60, partial(step_of_heads, negatives="uniform")),
    "blocks": (60, blocks),
    "encoder": (60, encoder),
    "losses-131K-768-float32": (
        60, partial(times_of_losses, n_labels=L131K, dim=768, dtype="float32")),
    "train-DebTags": (200, partial(training, name="DebTags")),
    "step-1.3M": (200, partial(step_of_encoder, n_labels=L1M)),
    "losses-1.3M-768-bfloat16": (
        100, partial(times_of_losses, n_labels=L1M, dim=768, dtype="bfloat16")),
    "losses-131K-384-bfloat16": (
        40, partial(times_of_losses, n_labels=L131K, dim=384, dtype="bfloat16")),
    "losses-1.3M-384-bfloat16": (
        80, partial(times_of_losses, n_labels=L1M, dim=384, dtype="bfloat16")),
    "train-LF-DebianRelated": (300, partial(training, name="LF-DebianRelated")),
    "losses-131K-384-float32": (
        50, partial(times_of_losses, n_labels=L131K, dim=384, dtype="float32")),
    "losses-1.3M-384-float32": (
        150, partial(times_of_losses, n_labels=L1M, dim=384, dtype="float32")),
    "losses-1.3M-768-float32": (
        200, partial(times_of_losses, n_labels=L1M, dim=768, dtype="float32")),
    "processes": (200, processes),
}  # fmt: skip
"""Seconds that a step may well take, and the step; in the order in which they are worth it."""
