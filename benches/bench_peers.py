"""dexml against the tools of its field, side by side in one run.

    python benches/bench_peers.py --size small --envs ENVS [--task load-lf,evaluate] [--rounds 3]

Generates the data, runs every competitor that some interpreter has in a process of its own, in
turn over the rounds, compares what they computed, and writes ``peers_SIZE.json`` and ``peers.md``.
With ``--task`` the other tasks of an earlier run of the same size stay in the file. How to install
the peers: ``benches/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers import data, report
from peers.jobs import Competitor, Task, Values
from peers.report import Entry, Sample
from peers.worker import TASKS

HERE = Path(__file__).resolve().parent
SLOW = 20.0
"""Seconds of a run after which a competitor gets one round only."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def environment(python: str, threads: int) -> dict[str, str]:
    """Threads of every library; PYTHONPATH is for our own interpreter only."""
    variables = dict(os.environ)
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON"):
        variables[f"{library}_NUM_THREADS"] = str(threads)
    if python != sys.executable:
        variables.pop("PYTHONPATH", None)
    return variables


def work(python: str, arguments: list[str], threads: int, timeout: float) -> Sample | str:
    """Start a worker; what it printed, or the reason why it failed."""
    command = [python, "-m", "peers.worker", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=HERE,
            env=environment(python, threads),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {timeout:.0f} s"
    except OSError as error:
        return str(error)
    if done.returncode:
        return last_line(done.stderr).replace(str(Path.home()), "~")
    found: Sample = json.loads(last_line(done.stdout))
    return found


def interpreters(args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Every interpreter with the versions of what it has; ours first."""
    pythons = [sys.executable, *(path for _, path in args.python)]
    if args.envs is not None:
        pythons += [str(path) for path in sorted(args.envs.glob("*/bin/python"))]
    found = {}
    for python in dict.fromkeys(pythons):
        versions = work(python, ["probe"], 1, 120)
        if isinstance(versions, str):
            say(f"{python}: {versions}")
            continue
        found[python] = versions
    return found


def entrants(
    task: Task,
    size: data.Size,
    found: dict[str, dict[str, str]],
    cores: int,
    tools: Sequence[str] = ("",),
) -> tuple[list[Entry], dict[str, str]]:
    """Who takes part and with how many threads; who does not, and why."""
    entries, skipped = [], {}
    for competitor in task.competitors:
        if not competitor.name.lower().startswith(tuple(tools)):
            continue
        allowed = [sys.executable] if competitor.ours else found
        python = next((p for p in allowed if competitor.needs in found.get(p, {})), None)
        if python is None:
            skipped[competitor.name] = f"`{competitor.needs}` is not installed"
            continue
        n_rows = task.rows(size)
        rows = competitor.max_rows if competitor.max_rows and competitor.max_rows < n_rows else None
        scale = n_rows / rows if rows else 1.0
        for threads in (1, cores) if competitor.threaded and cores > 1 else (1,):
            version = found[python][competitor.needs]
            entries.append(Entry(competitor, python, version, threads, rows, scale))
    return entries, skipped


def run_entry(
    task: Task, competitor: Competitor, entry: Entry, folder: Path, seconds: float, timeout: float
) -> Sample | str:
    arguments = ["run", task.name, competitor.name, "--folder", str(folder)]
    arguments += ["--threads", str(entry.threads), "--seconds", str(seconds)]
    arguments += ["--rows", str(entry.rows)] if entry.rows else []
    return work(entry.python, arguments, entry.threads, timeout)


def race(task: Task, entries: list[Entry], folder: Path, args: argparse.Namespace) -> None:
    """Run everyone in turn, round after round; a slow one takes part in the first only."""
    for round_ in range(args.rounds):
        for entry in entries:
            slow = entry.samples and entry.samples[0]["wall_s"] > SLOW
            if entry.failure or slow or entry.agreement.get("faults"):
                continue
            started = time.perf_counter()
            sample = run_entry(task, entry.competitor, entry, folder, args.seconds, args.timeout)
            label = f"{task.name} {round_ + 1}/{args.rounds} {entry.competitor.name}"
            label += f", threads {entry.threads}"
            if isinstance(sample, str):
                entry.failure = sample
                say(f"{label}: failed, {sample}")
                continue
            entry.samples.append(sample)
            say(
                f"{label}: {sample['cpu_s']:.4g} CPU s, {sample['wall_s']:.4g} s wall"
                f" ({time.perf_counter() - started:.0f} s in all)"
            )
        if round_ == 0:
            check(task, entries, folder, args)


def check(task: Task, entries: list[Entry], folder: Path, args: argparse.Namespace) -> None:
    """Compare everyone's values with ours, on the same rows; without ours, with the first."""
    ran = [e for e in entries if not e.failure and not e.competitor.floor]
    judges = [e for e in ran if e.samples[0]["values"]]
    judge = judges[0] if judges else None
    expected: dict[int | None, Values] = {}
    if judge is not None:
        expected[judge.rows] = judge.samples[0]["values"]
    for entry in entries:
        if entry.failure:
            continue
        if judge is not None and entry.rows not in expected:
            short = Entry(judge.competitor, judge.python, judge.version, 1, entry.rows, 1.0)
            sample = run_entry(task, judge.competitor, short, folder, 0, args.timeout)
            expected[entry.rows] = {} if isinstance(sample, str) else sample["values"]
        values = entry.samples[0]["values"]
        if not values and (entry.competitor.ours or entry.competitor.floor):
            entry.agreement = {"compared": 0, "largest_difference": 0.0, "faults": []}
            continue
        entry.agreement = report.compare(values, expected.get(entry.rows, {}), entry.competitor)
        for fault in entry.agreement["faults"]:
            say(f"{task.name} {entry.competitor.name}: values disagree: {fault}")


def machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    memory = 0.0
    for name, key in (("/proc/cpuinfo", "model name"), ("/proc/meminfo", "MemTotal")):
        path = Path(name)
        for line in path.read_text().splitlines() if path.exists() else []:
            if line.startswith(key):
                value = line.split(":", 1)[1].strip()
                if key == "MemTotal":
                    memory = float(value.split()[0]) / 1e6
                else:
                    processor = value
                break
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory, 1),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
        cwd=HERE,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"


def command(args: argparse.Namespace) -> str:
    """The command without the paths of this machine."""
    words = ["python", "benches/bench_peers.py", "--size", args.size, "--envs", "ENVS"]
    words += ["--rounds", str(args.rounds), "--seconds", f"{args.seconds:g}"]
    return shlex.join(words)


def named_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=PATH of an interpreter")
    return name, path


def task_names(text: str) -> list[str]:
    """``evaluate`` stands for every task that begins with it."""
    chosen = []
    for word in text.split(","):
        fitting = [name for name in TASKS if name.startswith(word.strip())]
        if not fitting:
            raise argparse.ArgumentTypeError(f"no task '{word}'; there are {', '.join(TASKS)}")
        chosen += fitting
    return list(dict.fromkeys(chosen))


def tool_names(text: str) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in text.split(","))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("--size", choices=data.SIZES, default="small")
    add("--task", type=task_names, default=list(TASKS), help="comma-separated; default all")
    add("--tool", type=tool_names, default=("",), help="comma-separated beginnings; default all")
    add("--data", type=Path, help="folder that keeps the data (default: made for this run)")
    add("--python", type=named_path, action="append", default=[], metavar="NAME=PATH")
    add("--envs", type=Path, help="folder of virtual environments with peers")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=1.0, help="how long a process repeats (default 1)")
    add("--timeout", type=float, default=1800, help="of one process, in seconds")
    add("--out", type=Path, default=HERE / "results")
    add("--generate", action="store_true", help="write the data and stop")
    return found


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    scratch = tempfile.TemporaryDirectory() if args.data is None else None
    root = Path(scratch.name) if scratch else args.data
    size = data.SIZES[args.size]
    tasks = [TASKS[name] for name in args.task]
    started = time.perf_counter()
    parts = {part for task in tasks for part in task.parts}
    folder = data.prepare(root, size, parts, say).resolve()
    say(f"data: {time.perf_counter() - started:.0f} s")
    if args.generate:
        return 0
    found = interpreters(args)
    path = args.out / f"peers_{size.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(path.read_text())["tasks"] if path.exists() else {}
    here = machine()
    whole: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "command": command(args),
        "machine": here,
        "size": asdict(size),
        "versions": {},
        "tasks": earlier,
    }
    for versions in found.values():
        whole["versions"] = {**versions, **whole["versions"]}
    faults = 0
    for task in tasks:
        started = time.perf_counter()
        entries, skipped = entrants(task, size, found, here["cores"], args.tool)
        for name, why in skipped.items():
            say(f"{task.name} {name}: skipped, {why}")
        race(task, entries, folder, args)
        faults += sum(bool(e.agreement.get("faults")) or bool(e.failure) for e in entries)
        whole["tasks"][task.name] = {
            "title": task.title,
            "unit": task.unit,
            "date": whole["date"],
            "commit": whole["commit"],
            "seconds_in_all": round(time.perf_counter() - started, 1),
            "skipped": skipped,
            "entries": report.summary(task, entries),
        }
        # Written after each task: an interrupted run keeps what it has.
        whole["tasks"] = {name: whole["tasks"][name] for name in TASKS if name in whole["tasks"]}
        path.write_text(json.dumps(whole, indent=1) + "\n")
        (args.out / "peers.md").write_text(report.page(whole))
    if scratch:
        scratch.cleanup()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
