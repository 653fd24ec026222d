"""Runs one competitor once or a few times in this interpreter: what ``bench_peers.py`` starts.

    python -m peers.worker probe
    python -m peers.worker run TASK NAME --folder DATA [--threads 1] [--seconds 1] [--rows N]

Prints one JSON object on the last line of stdout. Needs numpy, scipy and the competitor.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import resource
import time
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from statistics import median
from typing import Any

from peers import drawing, ranking, scoring, texts
from peers.jobs import Case, Competitor, Job, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (*texts.TASKS, *scoring.TASKS, *ranking.TASKS, *drawing.TASKS)
}  # fmt: skip
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "pytrec_eval": "pytrec-eval-terrier",
    "faiss": "faiss-cpu",
    "pecos": "libpecos",
    "dexml": "dexml-xmc",
    "xclib": "pyxclib",
    "sentence_transformers": "sentence-transformers",
}
"""Where the package on an index has another name."""
LONG = 5.0
"""A first run of so many seconds needs no warm-up, and counts."""
MOST = 30
"""Runs of one process at most."""


def probe() -> dict[str, str]:
    """Versions of the packages that this interpreter has, by what a competitor needs."""
    found = {"python": platform.python_version()}
    for task in TASKS.values():
        for needs in {competitor.needs for competitor in task.competitors}:
            if available(needs):
                found[needs] = version_of(needs)
    return found


def available(needs: str) -> bool:
    """Whether this interpreter has a package, and the name after the colon in it."""
    module, _, name = needs.partition(":")
    with suppress(ImportError):
        there = util.find_spec(module) is not None
        return there and (not name or hasattr(importlib.import_module(module), name))
    return False


def version_of(needs: str) -> str:
    """Version of a package by the name that it is imported by."""
    module = needs.partition(":")[0]
    package = module.split(".")[0]
    return _version(DISTRIBUTIONS.get(module, DISTRIBUTIONS.get(package, package)))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "from source"


def measure(job: Job, seconds: float) -> dict[str, Any]:
    """Run, repeat while `seconds` last, and read clocks and memory.

    The memory is the peak of the first run above what was resident before it: inputs do not count,
    pages of a mapped file do.
    """
    if job.warm is not None:
        job.warm()
    gc.collect()
    gc.disable()
    before = _reset_peak()
    sample, out = _timed(job)
    peak = max(0.0, _status("VmHWM") - before)
    samples = [sample]
    values = job.values(out)
    del out
    if sample[1] < LONG and seconds > 0:
        samples = [] if job.warm is None else samples
        while len(samples) < MOST and sum(wall for _, wall in samples) < seconds:
            samples.append(_timed(job)[0])
    gc.enable()
    if job.clean is not None:
        job.clean()
    return {
        "cpu_s": median(cpu for cpu, _ in samples),
        "wall_s": median(wall for _, wall in samples),
        "runs": len(samples),
        "peak_mb": peak / 1e3,
        "values": values,
    }


def _timed(job: Job) -> tuple[tuple[float, float], Any]:
    cpu, wall = _cpu_seconds(), time.perf_counter()
    out = job.run()
    wall = time.perf_counter() - wall
    return (_cpu_seconds() - cpu, wall), out


def _cpu_seconds() -> float:
    """User and system time of this process, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _status(field: str) -> float:
    """A field of /proc/self/status in kB; where there is none, the peak of the whole run."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return float(line.split()[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _reset_peak() -> float:
    """Lower the peak to what is resident now, where the kernel allows it; return that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return _status("VmHWM")


def _competitor(task: str, name: str) -> Competitor:
    return next(c for c in TASKS[task].competitors if c.name == name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("probe")
    run = commands.add_parser("run")
    run.add_argument("task", choices=TASKS)
    run.add_argument("name")
    run.add_argument("--folder", type=Path, required=True)
    run.add_argument("--threads", type=int, default=1)
    run.add_argument("--seconds", type=float, default=1.0)
    run.add_argument("--rows", type=int)
    args = parser.parse_args()
    found: dict[str, Any]
    if args.command == "probe":
        found = probe()
    else:
        if args.threads == 1:  # whatever a tool starts, one core is what it gets
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        case = Case(args.folder, args.rows, args.threads)
        found = measure(_competitor(args.task, args.name).prepare(case), args.seconds)
        found["work"] = TASKS[args.task].work(case)
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
