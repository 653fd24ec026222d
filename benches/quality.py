"""Quality on a data set: dexml's settings beside other tools, in one table.

    python benches/quality.py DATA_DIR --rows light default --seeds 0 1 2 --cold
    python benches/quality.py DATA_DIR --rows peers --envs ENVS
    python benches/quality.py DATA_DIR --rows losses negatives --fast
    python benches/quality.py                                # docs/experiments/results.md

Every row trains on the training part and is scored once on the test part by the same code, with
standard errors over groups of points (or points). A row is made by a process of its own, whose CPU
seconds count from its start to its end; for a peer that is texts to predictions, its tf-idf
included. Peers may live in other environments (``--envs``, ``--python``; ``benches/README.md``);
one that no interpreter has is left out, with a line that says so. ``--fast`` trains the rows of an
ablation without the refit on all points. A seed of a row that is there already is kept; ``--again``
makes it anew. Results go to ``benches/results/quality/DATA_SET.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench_peers import commit, environment, last_line, named_path
from dexml import console, data
from dexml.data import Dataset
from dexml.encoder.pretrained import MINILM
from dexml.metrics import Evaluator, inv_propensity
from peers.answers import TOOLS, write_question
from quality_page import SHOWN, Row, Seed, keep, read_rows, tables, write_tables

BENCHES = Path(__file__).resolve().parent
RESULTS = BENCHES / "results" / "quality"
PAGE = BENCHES.parent / "docs" / "experiments" / "results.md"

LOSSES = {
    f"loss {name}": ["--loss", name]
    for name in ("bce", "softmax", "decoupled", "soft-top-5", "soft-top-100")
}
NEGATIVES = {
    f"negatives {name}": ["--head-negatives", name]
    for name in ("in-batch", "hard", "graph", "uniform", "all")
}
OWN: dict[str, list[str]] = {
    "default": [],
    "light": ["--encoder", "none"],
    "light, no tree": ["--encoder", "none", "--tree", "none"],
    "light, tail": ["--encoder", "none", "--favour", "tail"],
    "default, no ranker": ["--ranker", "none"],
    "default, no memory": ["--memory", "none"],
    "heads, then layers": [
        *("--stages", "heads,encoder", "--encoder-layers", "2", "--encoder-epochs", "1"),
        *("--cache-layers", "--encoder-lr", "5e-5"),
    ],
    **LOSSES,
    **NEGATIVES,
}
"""Rows that ``python -m dexml.train`` makes, and what is added to its command."""
SETS = {
    "losses": list(LOSSES),
    "negatives": list(NEGATIVES),
    "peers": ["omikuji", "pecos", "bm25"],
}
ABLATION = {*LOSSES, *NEGATIVES, "heads, then layers"}


@dataclass(frozen=True)
class Interpreter:
    path: str
    versions: dict[str, str]
    """Of the packages that a row needs, and of Python."""


def interpreters(arguments: argparse.Namespace) -> dict[str, Interpreter]:
    """For each tool, the first interpreter that has its packages; ours comes first."""
    paths = [sys.executable, *(path for _, path in arguments.python)]
    if arguments.envs is not None:
        paths += [str(path) for path in sorted(arguments.envs.glob("*/bin/python"))]
    found: dict[str, Interpreter] = {}
    for path in dict.fromkeys(paths):
        command = [path, "-m", "peers.answers", "probe"]
        variables = environment(path, 1)
        done = subprocess.run(command, cwd=BENCHES, env=variables, capture_output=True, text=True)
        if done.returncode:
            console.say(f"{path}: {last_line(done.stderr)}")
            continue
        for name, versions in json.loads(last_line(done.stdout)).items():
            found.setdefault(name, Interpreter(path, versions))
    return found


def run_alone(
    command: list[str], folder: Path, variables: dict[str, str], log: Path
) -> dict[str, Any]:
    """Run a command in `folder`, in a process of its own, and return what it spent.

    All that it says goes to `log`.

    Raises:
        SystemExit: It failed; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as scratch, log.open("w", encoding="utf-8") as file:
        out = Path(scratch) / "spent.json"
        watched = [sys.executable, "-S", str(BENCHES / "peers" / "spent.py"), str(out), *command]
        done = subprocess.run(watched, cwd=folder, env=variables, stdout=file, stderr=file)
        spent: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if done.returncode:
        reason = last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise SystemExit(f"error: {' '.join(command)}: {reason.removeprefix('error: ')}")
    return spent


def train_row(
    folder: Path, name: str, seed: int, arguments: argparse.Namespace, scratch: Path
) -> Row:
    """Run the command and read what it says of the test part."""
    run = run_folder(arguments, folder.name, name, seed)
    extra = list(OWN[name])
    if name in ABLATION:
        extra += ["--memory", "none"] + (["--no-refit"] if arguments.fast else [])
    shown = f"python -m dexml.train {folder.name} {' '.join(extra)}".strip()
    cache, features = cache_of(arguments, scratch, encoder="--encoder" not in extra)
    command = [sys.executable, "-m", "dexml.train", str(folder.resolve()), "--out", str(run)]
    command += [*extra, "--seed", str(seed)]
    if features != "none":
        command += ["--encoder", arguments.encoder, "--cache", str(cache)]
    resumed = arguments.resume and (run / "versions.json").exists()
    command.append("--resume" if resumed else "--overwrite")
    spent = run_alone(command, scratch, dict(os.environ), run.with_suffix(".log"))
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    errors = found["standard_errors"]
    metrics = {metric: found["metrics"][metric] for metric in SHOWN}
    over = "groups of points" if "groups" in found["conventions"]["standard_errors"] else "points"
    return Row(
        command=shown,
        machine=machine(),
        encoder=None if features == "none" else arguments.encoder,
        refit=not (arguments.fast and name in ABLATION),
        errors_over=over,
        seeds={
            str(seed): Seed(
                metrics=metrics,
                errors={metric: errors[metric] for metric in SHOWN},
                features=features,
                resumed=resumed,
                commit=commit(),
                machine=machine(),
                **spent,
            )
        },
    )


def peer_row(
    dataset: Dataset,
    name: str,
    interpreter: Interpreter,
    seed: int,
    arguments: argparse.Namespace,
    scratch: Path,
    log: Path,
) -> Row:
    """Let another tool answer the test texts, and score its answer."""
    tool = TOOLS[name]
    cache, features = cache_of(arguments, scratch, encoder=tool.encoder)
    options = {
        "encoder": arguments.encoder,
        "cache": str(cache),
        "budget": arguments.budget,
        "mnrl_lr": arguments.mnrl_lr,
    }
    texts = {
        "train_texts": dataset.train_texts,
        "test_texts": dataset.test_texts,
        "label_texts": dataset.label_texts,
    }
    excluded = dataset.exclude_test
    most = 0 if excluded is None else int(np.diff(excluded.indptr).max(initial=0))
    folder = scratch / "question"
    folder.mkdir()
    write_question(
        folder,
        texts,
        dataset.y_train,
        k=100 + most,
        seed=seed,
        options=options if tool.encoder else {},
    )
    command = [interpreter.path, "-m", "peers.answers", "run", name, str(folder)]
    # The time of an encoder's row is that of all cores; a peer is told to use one.
    threads = os.cpu_count() or 1 if tool.encoder else 1
    spent = run_alone(command, BENCHES, environment(interpreter.path, threads), log)
    said = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    with np.load(folder / "answer.npz", allow_pickle=False) as answer:
        metrics, errors = score(dataset, answer["ids"], seed)
    over = "points" if dataset.test_groups is None else "groups of points"
    return Row(
        command=said["command"],
        machine=machine(),
        encoder=arguments.encoder if tool.encoder else None,
        errors_over=over,
        seeded=tool.seeded,
        versions=interpreter.versions,
        seeds={
            str(seed): Seed(
                metrics=metrics,
                errors=errors,
                parts=said["parts"],
                features=features,
                commit=commit(),
                machine=machine(),
                **spent,
            )
        },
    )


def run_folder(arguments: argparse.Namespace, data_set: str, name: str, seed: int) -> Path:
    """Where a row of ours is trained; what any row says goes beside it, to a file ``.log``."""
    runs: Path = arguments.runs
    return runs / data_set / f"{name.replace(' ', '-').replace(',', '')}-seed-{seed}"


def cache_of(arguments: argparse.Namespace, scratch: Path, *, encoder: bool) -> tuple[Path, str]:
    """The folder of cached features, and what a row says of them."""
    if not encoder:
        return arguments.cache, "none"
    if arguments.cold:
        return scratch / "cache", "computed"
    cache = arguments.cache.resolve()
    return cache, "cached" if any(cache.glob("rows-*")) else "computed"


def score(
    dataset: Dataset, ids: np.ndarray[Any, Any], seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of a ranking of the test part, and their standard errors."""
    missing = max(0, 100 - ids.shape[1])  # there may be fewer labels
    ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    evaluator = Evaluator(
        dataset.y_test.shape[1],
        SHOWN,
        inv_propensity=inv_propensity(dataset.y_train),
        keep_rows=True,
    )
    evaluator.update(dataset.y_test, ids, exclude=dataset.exclude_test)
    result = evaluator.result()
    return result.metrics, result.standard_errors(dataset.test_groups, seed=seed)


def machine() -> str:
    """Name the processor, its widest vector unit and its cores."""
    model, units = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        said = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        known = {name.strip(): value.strip() for name, value in said.items()}
        model = known.get("model name", model)
        flags = known.get("flags", "").split()
        wide = {"avx512f": " with AVX-512", "avx2": " with AVX2"}
        units = next((text for flag, text in wide.items() if flag in flags), "")
    return f"{model}{units}, {os.cpu_count()} cores"


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Make the rows that are asked for, one after the other."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{folder.name}.json"
    names = [name for row in arguments.rows for name in SETS.get(row, [row])]
    for name in names:
        if name not in OWN and name not in TOOLS:
            known = ", ".join([*SETS, *OWN, *TOOLS])
            raise SystemExit(f"error: no row {name!r}; rows are {known}")
    dataset = data.load_dataset(folder)
    found = interpreters(arguments) if any(name in TOOLS for name in names) else {}
    for name in names:
        if name in TOOLS and name not in found:
            needs = " and ".join(TOOLS[name].needs)
            console.say(f"{name}: left out, no interpreter has {needs} (benches/README.md)")
            continue
        seeded = name in OWN or TOOLS[name].seeded
        for seed in arguments.seeds if seeded else [0]:
            known_row = read_rows(path).get(name)
            if known_row is not None and str(seed) in known_row.seeds and not arguments.again:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                if name in OWN:
                    row = train_row(folder, name, seed, arguments, Path(scratch))
                else:
                    log = run_folder(arguments, folder.name, name, seed).with_suffix(".log")
                    row = peer_row(dataset, name, found[name], seed, arguments, Path(scratch), log)
            keep(path, name, row)
            one = row.seeds[str(seed)]
            console.say(console.table({f"{name}, {seed}": one.metrics}, SHOWN))
            console.say(f"{name}, seed {seed}: {one.cpu_seconds:.1f} CPU s, {one.peak_mb} MB")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("data", type=Path, nargs="?")
    add("--rows", nargs="+", default=["default", "zero-shot"])
    add("--runs", type=Path, default=Path("runs/quality"))
    add("--cache", type=Path, default=Path("runs/cache"), help="features of the encoder")
    add("--cold", action="store_true", help="compute all features: the whole cost of a row")
    add("--encoder", default=MINILM)
    add("--seeds", type=int, nargs="+", default=[0])
    add("--budget", type=float, default=1800, help="CPU seconds of mnrl")
    add("--mnrl-lr", type=float, default=5e-5)
    add("--fast", action="store_true", help="no refit in the ablations")
    add("--again", action="store_true", help="make seeds of rows anew that are there")
    add("--resume", action="store_true", help="go on with an interrupted row of ours")
    add("--envs", type=Path, help="folder of virtual environments with peers")
    add("--python", type=named_path, action="append", default=[], metavar="NAME=PATH")
    arguments = parser.parse_args(argv)
    if arguments.data is not None:
        arguments.runs = arguments.runs.resolve()
        arguments.runs.joinpath(arguments.data.name).mkdir(parents=True, exist_ok=True)
        arguments.cache.mkdir(parents=True, exist_ok=True)
        measure(arguments.data, arguments)
    text = tables(sorted(RESULTS.glob("*.json")))
    write_tables(PAGE, text)
    print(text)


if __name__ == "__main__":
    main()
