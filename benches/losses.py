"""The losses against plain masked autograd, the original's pattern, and the bare matrix products.

    python benches/losses.py [--labels 16384 131072] [--points 256] [--dim 384] [--rounds 3]
    python benches/losses.py --labels 1305265 --points 64 --out benches/results/losses-1.3M.json
    python benches/losses.py --device cuda --points 3000 16384 --dim 768 --dtype bfloat16

Times forward and backward with both gradients: CPU seconds of one thread, or seconds of CUDA
events. Values are compared first, then the competitors take turns, and the minimum counts. Scratch
is the peak memory beside inputs and gradients, counted at every new tensor (on CUDA: by the
allocator). A competitor that needs more than ``--dense-bytes`` is left out. Writes
``benches/results/losses.json`` and ``losses.md``.
"""

import argparse
import gc
import json
import platform
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dexml import losses

TEMPERATURE, K, ALPHA = 0.05, 5, 2.0
Step = Callable[[], tuple[Tensor, Tensor, Tensor]]
"""Loss, dX, dY."""


class Inputs:
    """Unit vectors, five positives a point, one at label L - 1."""

    def __init__(self, n_points: int, n_labels: int, dim: int, dtype: torch.dtype, device: str):
        generator = torch.Generator().manual_seed(0)
        self.x = self._unit(n_points, dim, generator).to(device, dtype).requires_grad_()
        self.y = self._unit(n_labels, dim, generator).to(device, dtype).requires_grad_()
        width = n_labels // 5
        columns = torch.randint(width, (n_points, 5), generator=generator) + width * torch.arange(5)
        columns[0, 4] = n_labels - 1
        self.positives = (5 * torch.arange(n_points + 1), columns.ravel())
        self.columns = columns.to(device)

    @staticmethod
    def _unit(n: int, dim: int, generator: torch.Generator) -> Tensor:
        rows = torch.randn(n, dim, generator=generator)
        return torch.nn.functional.normalize(rows, dim=1, out=rows)

    def targets(self) -> Tensor:
        """Build them as a dense B x L matrix, as the original does."""
        y = torch.zeros(len(self.x), len(self.y), device=self.x.device)
        return y.scatter_(1, self.columns, 1.0)


def backward(loss: Tensor, data: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    data.x.grad = data.y.grad = None
    loss.backward()
    assert data.x.grad is not None
    assert data.y.grad is not None
    return loss.detach(), data.x.grad, data.y.grad


def ours(name: str, data: Inputs, **options: Any) -> Step:
    positives = tuple(part.to(data.x.device) for part in data.positives)

    def step() -> tuple[Tensor, Tensor, Tensor]:
        loss = getattr(losses, name)(
            data.x, data.y, positives, temperature=TEMPERATURE, check=False, **options
        )
        return backward(loss, data)

    return step


def masked_autograd(data: Inputs) -> Step:
    """(a) the obvious code: a boolean mask, logsumexp, autograd."""

    def step() -> tuple[Tensor, Tensor, Tensor]:
        z = (data.x @ data.y.T).float() / TEMPERATURE
        mask = data.targets().bool()
        n = torch.logsumexp(z.masked_fill(mask, -torch.inf), dim=1, keepdim=True)
        terms = -torch.nn.functional.logsigmoid(z.gather(1, data.columns) - n)
        return backward(terms.mean(), data)

    return step


def original_decoupled(data: Inputs) -> Step:
    """(b) the original's pattern, with all positives so that the values are the same.

    Takes out the scores of the positives, overwrites them by -100 in place, and leaves the rest to
    autograd.
    """
    rows = torch.arange(len(data.x), device=data.x.device).repeat_interleave(5)
    columns = data.columns.ravel()

    def step() -> tuple[Tensor, Tensor, Tensor]:
        z = (data.x @ data.y.T).float() / TEMPERATURE
        wanted = z[rows, columns]
        z[rows, columns] = -100.0
        n = torch.logsumexp(z, dim=1)
        loss = (torch.logaddexp(n[rows], wanted) - wanted) / 5
        return backward(loss.sum() / len(z), data)

    return step


class OriginalTopk(torch.autograd.Function):
    """32 bisections over the score matrix from a bracket of 10 / alpha beyond the extremes."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, targets: Tensor) -> Tensor:
        lo = -z.amax(dim=1, keepdim=True) - 10 / ALPHA
        hi = -z.amin(dim=1, keepdim=True) + 10 / ALPHA
        for _ in range(32):
            t = (lo + hi) / 2
            high = torch.sigmoid(ALPHA * (z + t)).sum(dim=1, keepdim=True) > K
            lo, hi = torch.where(high, lo, t), torch.where(high, t, hi)
        s = torch.sigmoid(ALPHA * (z + (lo + hi) / 2))
        count = targets.sum(dim=1, keepdim=True)
        loss = -(s.log() * targets).sum(dim=1, keepdim=True) / count
        v = ALPHA * s * (1 - s)
        miss = ALPHA * (1 - s) * targets / count
        ctx.save_for_backward(v / v.sum(dim=1, keepdim=True) * miss.sum(1, keepdim=True) - miss)
        return loss.mean()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (g,) = ctx.saved_tensors
        return g * (grads[0] / len(g)), None


def original_topk(data: Inputs) -> Step:
    """(b) for soft top-k."""

    def step() -> tuple[Tensor, Tensor, Tensor]:
        z = (data.x @ data.y.T).float() / TEMPERATURE
        return backward(OriginalTopk.apply(z, data.targets()), data)

    return step


def products(data: Inputs) -> Step:
    """(c) the three matrix products alone, tile by tile; the values mean nothing."""

    def step() -> tuple[Tensor, Tensor, Tensor]:
        x, y = data.x.detach(), data.y.detach()
        d_x, d_y = torch.zeros_like(x), torch.empty_like(y)
        tile = max(512, (2**24 if x.is_cuda else 2**19) // len(x))
        for start in range(0, len(y), tile):
            part = y[start : start + tile]
            scores = x @ part.T
            d_x.addmm_(scores, part)
            torch.mm(scores.T, x, out=d_y[start : start + tile])
        return x.new_zeros(()), d_x, d_y

    return step


class Meter(TorchDispatchMode):
    """The peak of bytes allocated inside, less one gradient of each shape."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, tuple[int, Any]] = {
            t.untyped_storage()._cdata: (0, None) for t in inputs
        }
        self.gradients = {tuple(t.shape): t.nbytes for t in inputs}
        self.peak: int = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.alive:
                    shape = tuple(tensor.shape)[-2:]
                    self.alive[key] = storage.nbytes(), shape if shape in self.gradients else None
                    weakref.finalize(storage, self.alive.pop, key, None)
        total = sum(size for size, _ in self.alive.values())
        formed = {shape for _, shape in self.alive.values() if shape}
        self.peak = max(self.peak, total - sum(self.gradients[shape] for shape in formed))
        return out


def scratch(step: Step, data: Inputs) -> int:
    """Peak bytes beside inputs and the two gradients."""
    data.x.grad = data.y.grad = None
    gc.collect()
    if data.x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before: int = torch.cuda.memory_allocated()
        step()
        peak: int = torch.cuda.max_memory_allocated()
        return peak - before - int(data.x.nbytes + data.y.nbytes)
    with Meter([data.x, data.y]) as meter:
        step()
    return int(meter.peak)


def seconds(step: Step, device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000  # type: ignore[no-any-return]


def compare(name: str, mine: Step, others: dict[str, Step], tolerance: float) -> None:
    """Check that losses agree within `tolerance`, gradients within ten times that (Frobenius)."""
    value, d_x, d_y = mine()
    kept = value.clone(), d_x.clone(), d_y.clone()
    for other, step in others.items():
        for a, b, factor in zip(kept, step(), (1, 10, 10), strict=True):
            distance = float((a.float() - b.float()).norm() / b.float().norm())
            if distance > factor * tolerance:
                raise SystemExit(f"{name} and {other} differ by {distance:.1e}")


def measure(data: Inputs, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    n_points, n_labels = len(data.x), len(data.y)
    tolerance = 1e-4 if data.x.dtype == torch.float32 else 1e-2
    steps: dict[str, Step] = {
        "decoupled_softmax": ours("decoupled_softmax", data),
        "softmax": ours("softmax", data),
        "soft_topk": ours("soft_topk", data, k=K, alpha=ALPHA),
        "bce": ours("bce", data),
        "topk_hinge": ours("topk_hinge", data, k=K),
        "products (floor)": products(data),
    }
    if 4 * n_points * n_labels * 5 <= arguments.dense_bytes:
        dense = {
            "masked autograd": masked_autograd(data),
            "original's pattern": original_decoupled(data),
        }
        topk = {"original's pattern, soft top-k": original_topk(data)}
        compare("decoupled_softmax", steps["decoupled_softmax"], dense, tolerance)
        compare("soft_topk", steps["soft_topk"], topk, tolerance)
        steps |= dense | topk
    if arguments.only:
        steps = {name: step for name, step in steps.items() if name in arguments.only}
    times: dict[str, list[float]] = {name: [] for name in steps}
    memory = {name: scratch(step, data) for name, step in steps.items()}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, arguments.device))
    rows = []
    for name in steps:
        row = {
            "B": n_points,
            "L": n_labels,
            "D": data.x.shape[1],
            "dtype": str(data.x.dtype).removeprefix("torch."),
            "name": name,
            "seconds": min(times[name]),
            "all_seconds": times[name],
            "scratch_MB": memory[name] / 1e6,
        }
        for other, key in (
            ("products (floor)", "x floor"),
            ("original's pattern", "x original"),
            ("decoupled_softmax", "x decoupled"),
        ):
            if other in times:
                row[key] = min(times[name]) / min(times[other])
        rows.append(row)
        print(json.dumps({k: v for k, v in row.items() if k != "all_seconds"}), flush=True)
    return rows


def table(rows: list[dict[str, Any]], machine: str) -> str:
    columns = [
        "B",
        "L",
        "D",
        "name",
        "seconds",
        "scratch_MB",
        "x floor",
        "x original",
        "x decoupled",
    ]
    lines = ["# Losses: time and scratch of forward and backward", "", machine, ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(c, "") for c in columns]
        lines.append(
            "| " + " | ".join(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--points", type=int, nargs="+", default=[256])
    parser.add_argument("--labels", type=int, nargs="+", default=[16_384, 131_072])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of the competitors to run")
    parser.add_argument("--dense-bytes", type=float, default=4e9)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "losses.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n_points in arguments.points:
        for n_labels in arguments.labels:
            dtype = getattr(torch, arguments.dtype)
            data = Inputs(n_points, n_labels, arguments.dim, dtype, arguments.device)
            rows += measure(data, arguments)
    name = platform.processor() or platform.machine()
    if arguments.device == "cuda":
        name = torch.cuda.get_device_name()
    sizes = " ".join(
        f"--{name} {' '.join(map(str, values))}"
        for name, values in (("points", arguments.points), ("labels", arguments.labels))
    )
    command = f"python benches/losses.py {sizes} --dim {arguments.dim}"
    unit = "CPU seconds of one thread" if arguments.device == "cpu" else "seconds"
    machine = (
        f"`{command}`, torch {torch.__version__}, {arguments.device} ({name}); {unit}, minimum of "
        f"{arguments.rounds} rounds in turn; scratch: beside inputs and gradients."
    )
    arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(table(rows, machine))


if __name__ == "__main__":
    main()
