"""Trains, predicts and searches on ``cuda`` and on the CPU, and says where they disagree.

    python cases.py FOLDER [--real] [CASE ...]

Prints a line of JSON for each case: its name, and what was wrong or null. With ``--real`` the
device is a GPU: its sums round otherwise, so training is compared by its losses, without dropout.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and "--real" not in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # it is read when the kernels are imported
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from scipy.sparse import random_array

import small
import tiny_encoders
from dexml import losses
from pretended_cuda import device

SOFTMAXES = ("softmax", "decoupled_softmax")
CASES: dict[str, Callable[[Place], None]] = {}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *small.TOPICS, *small.PARTS, *"abcdefgh"]


@dataclass
class Place:
    """Tiny data and encoders."""

    folder: Path
    data: Path
    encoders: dict[str, Path]
    real: bool

    @classmethod
    def make(cls, folder: Path, *, real: bool) -> Place:
        data = folder / "data"
        if not data.exists():
            small.write_tiny_data(data, train_filter=True)
        encoders = {kind: folder / kind for kind in ("distilbert", "bert")}
        none: dict[str, dict[str, Any]] = {
            "distilbert": {"dropout": 0.0, "attention_dropout": 0.0},
            "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        }
        for kind, path in encoders.items():
            if not path.exists():
                changes = none[kind] if real else {}
                tiny_encoders.tiny(kind, path, vocab_size=len(WORDS), **changes)
                tiny_encoders.write_tokenizer(path, WORDS)
        return cls(folder, data, encoders, real)

    def train(self, where: str, kind: str = "distilbert", **changes: Any) -> Path:
        """Train a little, and return the run."""
        from dexml.train import train

        values: dict[str, Any] = {
            "stages": "heads,encoder", "head_epochs": 1, "encoder_epochs": 1, "device": where,
            "encoder_batch_size": 96, "micro_tokens": 256, "keep_tokens": 512, "refit": False,
            "precision": "float32", "point_tokens": 16, "label_tokens": 16,
        }  # fmt: skip
        out = Path(changes.pop("out", Path(tempfile.mkdtemp(dir=self.folder)) / "run"))
        values |= changes
        train(small.train_settings(self.data, self.encoders[kind], out, **values))
        return out

    def agree(self, tolerance: float = 1e-5, **changes: Any) -> None:
        """Train on both devices; the weights are the same."""
        here, there = (self.train(where, **changes) for where in ("cpu", "cuda"))
        if self.real:
            for a, b in zip(small.log_of(here), small.log_of(there), strict=True):
                if "loss" in a:
                    assert abs(a["loss"] - b["loss"]) <= 0.05 * abs(a["loss"]), (a, b)
            return
        others = small.weights(there)
        for name, tensor in small.weights(here).items():
            gap = float((tensor - others[name]).norm() / (tensor.norm() + 1e-9))
            assert gap <= tolerance, f"{name}: weights differ by {gap:.1e}"


def case(function: Callable[[Place], None]) -> Callable[[Place], None]:
    CASES[function.__name__] = function
    return function


@case
def trains_with_drawn_labels(place: Place) -> None:
    place.agree(
        negatives="hard 0.5, uniform 0.5", head_negatives="frequency 0.5, graph 0.5",
        positives_per_point=1, clip=0.5,
    )  # fmt: skip


@case
def trains_with_every_loss_over_all_labels(place: Place) -> None:
    every = "bce, decoupled from 0.2, softmax from 0.4, soft-top-3 from 0.6, topk-hinge-3 from 0.8"
    place.agree(negatives="all", head_negatives="all", loss=every, head_epochs=2)


@case
def trains_two_heads_deterministically(place: Place) -> None:
    place.agree(head="two", deterministic=True, negatives="all", select="P@1", refit=True)


@case
def trains_jointly_with_a_table_in_bfloat16(place: Place) -> None:
    place.agree(
        stages="heads,joint", joint_epochs=1, table="bf16", text_weight=0.5, micro_tokens=256,
        label_clusters=5, beat_text=0.5,
    )  # fmt: skip


@case
def trains_packed_in_bfloat16(place: Place) -> None:
    if not place.real:
        attend_by_torch()
    place.agree(0.05, kind="bert", packed=True, precision="bfloat16", stages="encoder")


@case
def trains_over_cached_layers(place: Place) -> None:
    place.agree(
        encoder_layers=1, cache_layers=True, normalize="no", temperature=1.0, pooling="cls",
        head="none", stages="encoder", negatives="all", residual_lr=0.0, bias_lr=0.0,
    )  # fmt: skip


@case
def resumes_where_it_stopped(place: Place) -> None:
    """Bit for bit; a GPU has sums whose order is left open, so there it only has to go on."""
    from dexml.train import fit

    loop: Any = fit
    whole = place.train("cuda", head_negatives="all")
    plain, steps = loop.take_step, 0

    def stop(*arguments: Any, **more: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt
        return plain(*arguments, **more)

    out = place.folder / "resumed"
    changes: dict[str, Any] = {"head_negatives": "all", "checkpoint_minutes": 1e-9, "out": out}
    loop.take_step = stop
    try:
        place.train("cuda", **changes)
        raise AssertionError("nothing stopped it")
    except KeyboardInterrupt:
        pass
    finally:
        loop.take_step = plain
    place.train("cuda", resume=True, **changes)
    if not place.real:
        small.assert_same(whole, out)


@case
def plans_for_the_device(place: Place) -> None:
    from dexml.plan.forecast import forecast

    settings = small.train_settings(
        place.data, place.encoders["distilbert"], place.folder / "plan", device="cuda",
        stages="heads,encoder", negatives="all",
    )  # fmt: skip
    plan = forecast(settings)
    assert {"cuda, heads", "cuda, encoder", "host"} <= plan.memory.keys()
    assert not plan.problems, plan.problems


@case
def predicts_and_takes_edits(place: Place) -> None:
    from dexml.predict import Predictor

    run = place.train("cpu", stages="heads", refit=True)
    texts = ["kernel driver a b", "music player", "mail server c"]
    found = []
    for where in ("cpu", "cuda"):
        predictor = Predictor.open(run, device=where, precision="float32")
        first = predictor.predict(texts, 5)
        ids = predictor.add_labels(["printer game", "font network"])
        predictor.update_labels(ids[:1], ["printer font"])
        predictor.remove_labels(ids[1:])
        found.append((first, predictor.predict(texts, 5)))
    for here, there in zip(*found, strict=True):
        assert (here.ids == there.ids).mean() > 0.9
        np.testing.assert_allclose(here.scores, there.scores, atol=1e-3)
    Predictor.open(run, device="cuda").predict(texts, 5)  # in bfloat16


@case
def searches_exactly(place: Place) -> None:
    from dexml.index import exact_search

    generator = np.random.default_rng(0)
    for n, n_labels, k, dim in ((50, 900, 10, 17), (3, 5, 9, 4), (700, 301, 100, 33)):
        queries = generator.normal(size=(n, dim)).astype(np.float32)
        vectors = generator.normal(size=(n_labels, dim)).astype(np.float32)
        vectors[n_labels // 2] = vectors[0]
        exclude = random_array((n, n_labels), density=0.02, format="csr", rng=generator)
        for only in (None, np.arange(0, n_labels, 2)):
            for pairs in (None, exclude):
                here, there = (
                    exact_search(queries, vectors, k, exclude=pairs, only=only, device=where)
                    for where in ("cpu", "cuda")
                )
                np.testing.assert_array_equal(here[0], there[0])
                np.testing.assert_allclose(here[1], there[1], rtol=1e-5, atol=1e-5)


@case
def losses_and_gradients_are_those_of_float64(place: Place) -> None:
    layouts = (None, losses.Layout(16, 64, keep=False), losses.Layout(16, 64, keep=True))
    for name in (*SOFTMAXES, "soft_topk", "bce", "topk_hinge", "triplet"):
        for layout in layouts:
            for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.02)):
                check_loss(name, dtype, tolerance, layout=layout)
        if name != "bce":
            check_loss(name, torch.float32, 1e-4, deterministic=True)
    for name in (*SOFTMAXES, "soft_topk", "triplet"):
        check_loss(name, torch.float32, 1e-4, sample_seed=3)


@case
def kernels_are_chosen_and_agree(place: Place) -> None:
    from dexml.losses import arguments

    smallest, arguments.TRITON_SCORES = arguments.TRITON_SCORES, 1
    try:
        for name in SOFTMAXES:
            check_loss(name, torch.float16, 0.01)
    finally:
        arguments.TRITON_SCORES = smallest


WAITS: dict[int, list[dict[str, Any]]] = {
    2: [  # the loss, and the temperature that it is computed with
        {"stages": "heads"},
        {"stages": "heads", "head_negatives": "frequency 0.5, graph 0.5"},
        {"stages": "encoder", "negatives": "all"},
        {"stages": "encoder", "negatives": "uniform", "positives_per_point": 1},
        {"stages": "encoder", "negatives": "all", "cache_layers": True, "encoder_layers": 1},
        {"stages": "encoder", "negatives": "all", "packed": True, "kind": "bert"},
        {"stages": "joint", "negatives": "all", "table": "bf16"},
        {"stages": "heads", "head_negatives": "uniform", "table": "bf16"},
    ],
    3: [{"stages": "heads", "clip": 0.5, "deterministic": True}],  # the norm of the gradient
    5: [{"stages": "heads", "loss": "topk-hinge-3"}],  # rows that count, and ties, as sizes
    10: [{"stages": "heads", "loss": "soft-top-3"}],  # rows that are not solved yet: two a pass
}
"""Steps by the number of times that the host may wait for the device in them."""


@case
def a_step_seldom_waits(place: Place) -> None:
    if place.real:
        return  # nothing counts there
    from dexml.train import stages, step
    from train_parts import start_of

    attend_by_torch()
    for most, steps in WAITS.items():
        for changes in steps:
            values: dict[str, Any] = {
                "device": "cuda", "micro_tokens": 256, "keep_tokens": 512, "refit": False,
            }  # fmt: skip
            values |= changes
            encoder = place.encoders[values.pop("kind", "distilbert")]
            out = Path(tempfile.mkdtemp(dir=place.folder)) / "run"
            job = start_of(small.train_settings(place.data, encoder, out, **values))
            stage = stages.make(values["stages"], job)
            job.model.train()
            batches = step.batches(job.rows, 96, 1)
            for number in range(2):  # the first step checks what the others take for granted
                device.reset()
                step.take_step(stage, batches[number], 1, number, 2)
            waits = sum(device.WAITS.values())
            assert waits <= most, f"{changes}: {waits} waits, at most {most}: {device.WAITS}"


@case
def loss_of_a_batch(place: Place) -> None:
    model = torch.nn.Linear(8, 8).to("cuda")

    class Embedder(torch.nn.Module):
        def forward(self, given: Any) -> Any:
            return {"sentence_embedding": model(given["x"])}

    loss = losses.InBatchLoss(Embedder()).to("cuda")
    columns = [{"x": torch.randn(12, 8, device="cuda")} for _ in range(3)]
    value = loss(columns, torch.arange(12, device="cuda") // 2)
    value.backward()
    assert value.isfinite()


def attend_by_torch() -> None:
    from torch.nn.attention import varlen

    vars(varlen)["varlen_attn"] = attention_of_torch


def attention_of_torch(
    q: Any, k: Any, v: Any, starts: Any, starts_k: Any, most: int, most_k: int, **_: Any
) -> Any:
    """In the place of torch's kernel for packed texts, with its demands."""
    assert q.is_cuda
    assert q.dtype in (torch.bfloat16, torch.float16)
    assert q.ndim == 3
    assert starts.is_cuda
    assert starts.dtype == torch.int32
    assert isinstance(most, int)
    assert q.shape[-1] % 8 == 0
    assert all(t.stride(-1) == 1 for t in (q, k, v))
    counted = device.WAITS.copy()
    cuts = starts.tolist()  # the real one does not wait
    device.WAITS.clear()
    device.WAITS.update(counted)
    parts = []
    for a, b in itertools.pairwise(cuts):
        text = (t[a:b].transpose(0, 1).unsqueeze(0) for t in (q, k, v))
        parts.append(torch.nn.functional.scaled_dot_product_attention(*text)[0].transpose(0, 1))
    return torch.cat(parts)


def check_loss(name: str, dtype: torch.dtype, tolerance: float, **options: Any) -> None:
    error = loss_error(name, dtype, **options)
    assert error <= tolerance, f"{name}, {dtype}, {options}: off by {error:.1e}"


def loss_error(
    name: str,
    dtype: torch.dtype,
    *,
    shape: tuple[int, int] = (40, 300),
    dim: int = 24,
    **options: Any,
) -> float:
    """The largest relative error of a loss and its gradients, against float64 on the host."""
    generator = np.random.default_rng(0)
    positives, ignore = (
        random_array(shape, density=6 / shape[1], format="csr", rng=generator) for _ in range(2)
    )
    rounded = torch.bfloat16 if dtype != torch.float16 else dtype  # what both can hold
    leaves = [
        torch.from_numpy(generator.normal(size=size)).to(rounded)
        for size in ((shape[0], dim), (shape[1], dim), (shape[1],))
    ]
    found = []
    for where, kind in (("cpu", torch.float64), ("cuda", dtype)):
        x, y, bias = (t.to(where, kind).requires_grad_() for t in leaves)
        more = dict(options)
        if name == "bce":
            more["log_scale"] = torch.zeros((), device=where, requires_grad=True)
            more["offset"] = torch.full((), -2.0, device=where, requires_grad=True)
        if where == "cpu":
            more = {k: v for k, v in more.items() if k not in ("layout", "triton")}
        scale = 2.0 * (dim / 24) ** 0.5
        loss = getattr(losses, name)(
            x, y, positives, ignore=ignore, label_bias=bias, temperature=scale, **more
        )
        loss.backward()
        parts = [loss.detach(), x.grad, y.grad, bias.grad]
        found.append([part.cpu().double() for part in parts])
    errors = [(a - b).norm() / (a.norm() + 1e-12) for a, b in zip(*found, strict=True)]
    return float(max(errors))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--real", action="store_true", help="on a GPU")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.real:
        device.start()
    place = Place.make(given.folder, real=given.real)
    for name in given.cases or CASES:
        error = None
        try:
            CASES[name](place)
        except Exception:  # the next case tells something of its own
            error = traceback.format_exc()
        print(json.dumps({"case": name, "error": error}), flush=True)


if __name__ == "__main__":
    main()
