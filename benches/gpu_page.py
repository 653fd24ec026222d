"""The page of a day with a GPU (`gpu.py`): its results as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

GIB = 2**30


def page(done: Mapping[str, Any], left: Sequence[str]) -> str:
    """Lay out the results of the steps.

    Args:
        done: What each step found, by its name.
        left: Steps that were not run.
    """
    lines = ["# A day with a GPU", "", "Made by `python benches/gpu.py`.", ""]
    lines += _machine(done.get("machine", {}))
    failed = [name for name, found in done.items() if "error" in found or found.get("ok") is False]
    lines += [
        f"Failed: {', '.join(failed) or 'nothing'}. Not run: {', '.join(left) or 'none'}.",
        "",
    ]
    for name in failed:
        reason = done[name].get("error") or str(done[name].get("beyond", done[name]))
        lines += [f"- {name}: `{reason.strip().splitlines()[-1][:300]}`"]
    lines += ["", *_checks(done), *_losses(done), *_kernels(done.get("blocks", {}))]
    lines += _encoder(done.get("encoder", {})) + _steps(done) + _trainings(done)
    return "\n".join(lines).rstrip() + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    body = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body, ""] if body else []


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _machine(found: Mapping[str, Any]) -> list[str]:
    if "gpu" not in found:
        return []
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in found["tflops"].items())
    return [
        f"{found['gpus']} x {found['gpu']} ({found['memory_GiB']:.0f} GiB), "
        f"{found['cores']} cores, Python {found['python']}, CUDA {found['cuda']}, {versions}. "
        f"Products of 8,192 x 8,192, TFLOP/s: {rates}.",
        "",
    ]


def _checks(done: Mapping[str, Any]) -> list[str]:
    lines = []
    cases = done.get("tests", {}).get("cases", {})
    if cases:
        good = sum(result == "ok" for result in cases.values())
        lines += ["## Checks", "", f"Tests marked `cuda`: {good} of {len(cases)} pass.", ""]
    found = done.get("exact", {})
    if "errors" in found:
        search = found["search"]
        lines += [
            "Largest relative error of loss and gradients against float64 on the host. Search: "
            f"{search['equal_ids']:.2%} of the ids are those of float64, "
            f"{search['scores_per_second']:.3g} scores a second.",
            "",
        ]
        lines += _table(["loss, dtype", "error"], found["errors"].items())
    return lines


def _losses(done: Mapping[str, Any]) -> list[str]:
    steps = [found for name, found in done.items() if name.startswith("losses-")]
    rows = [row for found in steps for row in found.get("rows", [])]
    keys = ["B", "L", "D", "dtype", "name", "seconds", "scratch_MB", "x floor"]
    table = _table(keys, [[row.get(key) for key in keys] for row in rows])
    return ["## Losses against the floor of their products", "", *table] if table else []


def _kernels(found: Mapping[str, Any]) -> list[str]:
    if "blocks" not in found:
        return []
    lines = ["## Kernels", ""]
    lines += _table(["block: rows x labels x dims x warps x stages", "s"], found["blocks"].items())
    rows = [[f"2^{n}", one["kernels"], one["tiles"]] for n, one in found["sizes"].items()]
    return lines + _table(["scores", "kernels, s", "tiles, s"], rows)


def _encoder(found: Mapping[str, Any]) -> list[str]:
    keys = ["way", "length", "tokens", "seconds", "tokens_per_second", "x floor", "launches"]
    rows = [[row.get(key) for key in keys] for row in found.get("rows", [])]
    table = _table(keys, rows)
    return ["## Micro-batches of the encoder, forward and backward", "", *table] if table else []


def _steps(done: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, found in done.items():
        if "planned_bytes" not in found:
            continue
        seconds, peak = found["seconds"], found["peak_bytes"]
        seconds = seconds["dexml"] if isinstance(seconds, dict) else seconds
        peak = peak.get("dexml", 0) if isinstance(peak, dict) else peak
        floor = found.get("floor_seconds")
        rows.append([
            name, found["points"], found["labels"], seconds, seconds / floor if floor else None,
            found.get("launches"), found.get("waits"), peak / GIB, found["planned_bytes"] / GIB,
            found["peak / planned"],
        ])  # fmt: skip
    head = ["step", "points", "labels", "s", "x floor", "launches", "waits"]
    head += ["peak GiB", "planned GiB", "peak / planned"]
    table = _table(head, rows)
    return ["## Steps", "", *table] if table else []


def _trainings(done: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, found in done.items():
        if not name.startswith("train-"):
            continue
        for chosen, one in found.items():
            if isinstance(one, dict) and "metrics" in one:
                metrics = ", ".join(
                    f"{key} {100 * value:.2f}" for key, value in list(one["metrics"].items())[:6]
                )
                rows.append([name, chosen, one["seconds"], one["peak_bytes"] / GIB, metrics])
    table = _table(["data set", "stages", "s", "peak GiB", "test part, %"], rows)
    return ["## Trainings", "", *table] if table else []
