"""Kill, flip, forge and fork: figures of docs/reliability.md, for anyone to repeat.

python benches/reliability.py kills --encoder FOLDER       # 100 kills of each kind
python benches/reliability.py flips --encoder FOLDER       # a flipped bit in each region
python benches/reliability.py forge --seconds 600          # damage under seals that fit
python benches/reliability.py tests                        # tests of odd input, threads and forks
python benches/reliability.py fuzz LOGS                    # figures of fuzzing, from its logs
python benches/reliability.py page                         # the tables of the page

Each writes its figures to results/reliability.json. All is drawn from --seed; when a kill comes
is not, as it depends on the machine.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Xml
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benches")]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # work is forked

from dexml.files import write_json  # noqa: E402

RESULTS = ROOT / "benches" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: benches/reliability.py page -->", "<!-- end of figures -->"
TESTS = {
    "files and matrices that break a format": "readers formats data writers label_matrices",
    "texts, ids and labels that are none": "texts_given swapped predict_python losses_arguments",
    "runs and indexes, damaged or forged": "sealed forged index_files run",
    "pipes, devices, links, folders": "targets files",
    "settings and commands": "settings data_command metrics_command index_command predict_output",
    "threads": "locks processes tokens rust",
    "forks": "forks engine",
}
"""Test files (``tests/test_NAME.py``) by what they try."""


def keep(part: str, found: Any) -> None:
    """Put figures into the file of results."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    write_json(RESULTS, dict(sorted((kept | {part: found}).items())))
    print(json.dumps({part: found}, indent=1))


def small_data(scratch: Path) -> Path:
    """The generated data of the tests: 300 points, 64 labels."""
    from small import write_tiny_data

    return Path(write_tiny_data(scratch / "data"))


def made(scratch: Path, *, encoder: Path | None) -> dict[str, Path]:
    """Make a light run, and a full one with an index where there is an encoder."""
    from dexml.commands.index import main as index_main
    from dexml.commands.train import main as train_main

    folder, runs = small_data(scratch), {"light": scratch / "light"}
    train_main([str(folder), "--out", str(runs["light"]), "--encoder", "none", "--quiet"])
    if encoder is not None:
        runs["full"] = scratch / "full"
        train_main([str(folder), "--out", str(runs["full"]), *full(encoder), "--quiet"])
        index_main([str(runs["full"]), "--search", "hnsw", "--quiet"])
    return runs


def full(encoder: Path) -> list[str]:
    """Options of the small full training: both stages, with checkpoints after each second."""
    more = ["--stages", "heads,encoder", "--head-epochs", "6", "--encoder-epochs", "2"]
    more += ["--encoder-layers", "1", "--checkpoint-minutes", "0.02", "--engine", "torch"]
    return ["--encoder", str(encoder), *more]


def kills(args: argparse.Namespace, rng: random.Random, scratch: Path) -> None:
    """Kill trainings, indexing, predictions and saves of edits."""
    from faults import kills as work

    n, data = args.kills, small_data(scratch / "of kills")
    found = json.loads(RESULTS.read_text()).get("kills", {}) if RESULTS.exists() else {}
    runs = made(scratch, encoder=args.encoder)
    jobs: dict[str, Callable[[], Any]] = {
        "train, light": lambda: work.train(
            "light", data, ["--encoder", "none"], n, rng, scratch / "of kills"
        ),
        "predict": lambda: work.predict(runs["light"], n, rng, scratch / "of kills"),
        "save of edits": lambda: work.save(runs["light"], n, rng, scratch / "of kills"),
    }
    if args.encoder is not None:
        jobs["index"] = lambda: work.index(runs["full"], n, rng, scratch / "of kills")
        jobs["train, full"] = lambda: work.train(
            "full", data, full(args.encoder), args.full_kills, rng, scratch / "of kills"
        )
    for name in args.only or jobs:
        found[name] = jobs[name]()
        keep("kills", found)


def flips(args: argparse.Namespace, rng: random.Random, scratch: Path) -> None:
    """Flip a bit in each region of each file."""
    from faults import flips as work

    runs = made(scratch, encoder=args.encoder)
    found = {f"{name} run": work.run(run, rng, scratch) for name, run in runs.items()}
    if args.encoder is not None:
        found["checkpoint"] = work.checkpoints(runs["full"], rng, scratch)
    keep("flips", found | {"data": work.matrices(rng, scratch)})


def forge(args: argparse.Namespace, rng: random.Random, scratch: Path) -> None:
    """Seal damage, and look what the readers behind the seals do."""
    from faults.forge import forge as work

    runs = made(scratch, encoder=args.encoder)
    seconds, kept = args.seconds / len(runs), Path(args.keep) if args.keep else scratch
    keep("forged", {f"{name} run": work(run, seconds, rng, kept) for name, run in runs.items()})


def tests(args: argparse.Namespace, rng: random.Random, scratch: Path) -> None:
    """Run the tests that try odd input, threads and forks, and count them."""
    found = {}
    for what, names in TESTS.items():
        files = [str(ROOT / "tests" / f"test_{name}.py") for name in names.split()]
        xml = scratch / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        subprocess.run([*command, f"--junitxml={xml}", *files], cwd=ROOT, check=False)
        suite = Xml.parse(xml).getroot()[0].attrib
        n, bad = int(suite["tests"]), int(suite["failures"]) + int(suite["errors"])
        skipped = int(suite["skipped"])
        found[what] = {"tests": n, "passed": n - bad - skipped, "skipped": skipped, "files": names}
        keep("tests", found)


def fuzz(args: argparse.Namespace, rng: random.Random, scratch: Path) -> None:
    """Read seconds, inputs and coverage from the logs of libFuzzer, ``TARGET.log`` each."""
    found: dict[str, dict[str, int]] = {}
    for log in sorted(args.logs.glob("*.log")):
        text = log.read_text(errors="replace")
        runs = [(int(a), int(b)) for a, b in re.findall(r"Done (\d+) runs in (\d+) second", text)]
        edges = [int(n) for n in re.findall(r"cov: (\d+)", text)]
        if runs:
            found[log.stem] = {
                "inputs": sum(a for a, _ in runs),
                "seconds": sum(b for _, b in runs),
                "edges": max(edges),
                "faults": len(re.findall(r"SUMMARY: (?:libFuzzer|AddressSanitizer)", text)),
            }
    keep("fuzzing", found)


def rows(head: str, lines: list[list[Any]]) -> str:
    """A Markdown table; numbers with thousands."""
    spell = [[f"{x:,}" if isinstance(x, int) else str(x) for x in line] for line in lines]
    names = head.split(" | ")
    rule = "|".join("---" if i == 0 else "---:" for i in range(len(names)))
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {' | '.join(x)} |" for x in spell)])


def page(args: argparse.Namespace, rng: random.Random, scratch: Path) -> None:
    """Write the tables of the page from the results."""
    kept = json.loads(RESULTS.read_text())
    tables = {
        "Odd input, threads and forks": rows(
            "what | tests | passed | skipped",
            [[what, t["tests"], t["passed"], t["skipped"]] for what, t in kept["tests"].items()],
        ),
        "Kills": rows(
            "what is killed | kills | seconds without a kill | ends or saves | lost or unequal",
            [
                [
                    what,
                    k["kills"],
                    k.get("seconds", "endless"),
                    k.get("ends", k.get("saves")),
                    k.get("unequal", 0) + k.get("lost", 0) + k.get("half", 0),
                ]
                for what, k in kept["kills"].items()
            ],
        ),
        "Flipped bits": rows(
            "files of | files | flips | refused | read as before | read as something else",
            [
                [
                    what,
                    f["files"],
                    f["flips"],
                    f["refused"],
                    f.get("same", 0),
                    len(f.get("missed", f.get("other"))),
                ]
                for what, f in kept["flips"].items()
            ],
        ),
        "Damage under seals that fit": rows(
            "a part of | tried | refused | answered | crashed, stuck or another error",
            [
                [what, f["tried"], f["refused"], f["answered"], len(f["faults"])]
                for what, f in kept["forged"].items()
            ],
        ),
        "Fuzzing": rows(
            "target | seconds | inputs | edges of code reached | open faults",
            [
                [f"`{what}`", f["seconds"], f["inputs"], f["edges"], f["faults"]]
                for what, f in kept["fuzzing"].items()
            ],
        ),
    }
    text = PAGE.read_text(encoding="utf-8")
    for title, table in tables.items():
        head, rest = text.split(f"## {title}\n", 1)
        before, more = rest.split(BEGIN, 1)
        _, after = more.split(END, 1)
        text = f"{head}## {title}\n{before}{BEGIN}\n\n{table}\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    actions = parser.add_subparsers(dest="action", required=True)
    for work in (kills, flips, forge, tests, fuzz, page):
        action = actions.add_parser(work.__name__, help=work.__doc__)
        action.set_defaults(work=work)
        if work in (kills, flips, forge):
            action.add_argument("--encoder", type=Path, help="folder of an encoder for full runs")
        if work is kills:
            action.add_argument("--kills", type=int, default=100)
            action.add_argument("--full-kills", type=int, default=20)
            action.add_argument("--only", action="append", help="a kind of work; may be repeated")
        if work is forge:
            action.add_argument("--seconds", type=float, default=600)
            action.add_argument("--keep", help="folder for runs that show a fault")
        if work is fuzz:
            action.add_argument("logs", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "of kills").mkdir()
        args.work(args, random.Random(args.seed), Path(scratch))


if __name__ == "__main__":
    main()
