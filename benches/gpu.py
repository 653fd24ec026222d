"""A day with a GPU: everything that waits for one, in calls of under ten minutes.

    python benches/gpu.py --out DAY --data DATA --encoder ENCODER    # again, until all is done
    python benches/gpu.py --out DAY --page                           # the page alone
    python benches/gpu.py --out DAY --toy                            # tiny, on a pretended device

Runs the steps of `gpu_steps.py` one after the other, each in a process of its own, while
``--seconds`` last: the tests marked `cuda`; losses, kernels and search against float64; losses
against the floor of their products; micro-batches, steps over 131 thousand and 1.3 million labels,
memory against --plan; trainings; several GPUs. A step that is done is not run again (``--again
NAME``), one that fails or runs out of time is noted, and the next one begins. Writes
DAY/NAME.json, DAY/gpu.json and DAY/gpu.md.

Needs dexml (a wheel) with the extra `train`, and this checkout for its tests; no Rust, no network.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
for folder in (ROOT / "tests", ROOT / "benches"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--data", type=Path, help="folder of data sets (DebTags, ...)")
    parser.add_argument("--encoder", default="", help="folder of an encoder to train")
    parser.add_argument("--seconds", type=float, default=540, help="of this call")
    parser.add_argument("--only", nargs="+", help="names of steps")
    parser.add_argument("--again", nargs="+", default=[], help="steps to run once more")
    parser.add_argument("--toy", action="store_true", help="tiny sizes on a pretended device")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.step:
        run_step(given)
        return
    if not given.page:
        run_steps(given)
    write_page(given.out)


def run_steps(given: argparse.Namespace) -> None:
    """Run what is not done yet, while time lasts."""
    end = time.monotonic() + given.seconds
    if given.toy:
        start_toy()
    from gpu_steps import STEPS

    unknown = sorted({*(given.only or []), *given.again} - STEPS.keys())
    if unknown:
        raise SystemExit(f"error: no step {unknown[0]!r}; steps are {', '.join(STEPS)}")
    if given.toy:
        gc.freeze()  # steps collect garbage, and what is imported takes long to walk through
    for name in given.again:
        path_of(given.out, name).unlink(missing_ok=True)
    for name, (expected, _) in STEPS.items():
        if (given.only and name not in given.only) or path_of(given.out, name).exists():
            continue
        left = end - time.monotonic()
        if left < min(expected, 0.9 * given.seconds) and not given.toy:
            print(f"{name}: not begun, {left:.0f} s are left; call again", flush=True)
            continue
        started = time.monotonic()
        if given.toy:
            given.step = name
            run_step(given)
        else:
            run_apart(given, name, left)
        found = json.loads(path_of(given.out, name).read_text())
        state = found.get("error") or found.get("skipped") or "done"
        print(f"{name}: {state.splitlines()[-1]}, {time.monotonic() - started:.0f} s", flush=True)


def start_toy() -> None:
    """Let a pretended device stand in for the GPU."""
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    from pretended_cuda import device

    torch.set_num_threads(1)
    if torch.cuda.is_available() and torch.cuda.get_device_name() == "pretended GPU":
        return
    device.start()


def run_apart(given: argparse.Namespace, name: str, seconds: float) -> None:
    """Run a step in a process of its own: what it breaks, the others do not notice."""
    command = [sys.executable, __file__, "--out", str(given.out), "--step", name]
    command += ["--data", str(given.data)] if given.data else []
    command += ["--encoder", given.encoder] if given.encoder else []
    path, log = path_of(given.out, name), given.out / f"{name}.log"
    with log.open("w") as file:
        try:
            subprocess.run(command, stdout=file, stderr=file, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            write(path, {"error": f"took more than the {seconds:.0f} s that were left"})
    if not path.exists():
        write(path, {"error": f"ended without a word: {log.read_text()[-800:]}"})


def run_step(given: argparse.Namespace) -> None:
    """Run one step here, and write what it found or how it failed."""
    from gpu_steps import STEPS, Place

    place = Place(given.toy, given.out, given.data, given.encoder)
    started = time.perf_counter()
    try:
        found = STEPS[given.step][1](place)
    except Exception:  # told on the page; the next step begins
        found = {"error": traceback.format_exc()[-3000:]}
    write(
        path_of(given.out, given.step), {"seconds_of_step": time.perf_counter() - started} | found
    )


def path_of(out: Path, name: str) -> Path:
    return out / f"{name}.json"


def write(path: Path, found: dict[str, Any]) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    beside.replace(path)


def write_page(out: Path) -> None:
    """Put all results together: DAY/gpu.json, and DAY/gpu.md."""
    from gpu_page import page
    from gpu_steps import STEPS

    done = {n: json.loads(path_of(out, n).read_text()) for n in STEPS if path_of(out, n).exists()}
    write(out / "gpu.json", done)
    (out / "gpu.md").write_text(page(done, [name for name in STEPS if name not in done]))


if __name__ == "__main__":
    main()
