"""Record what a run answers, to the bit, and compare two records.

    python benches/golden.py before.json            # on the old code
    python benches/golden.py after.json             # on the new code, same machine
    python benches/golden.py after.json --against before.json

For changes of the code's shape, which must change no digit. Trains with one thread, so that the
order of additions is fixed. The mini set (some minutes) has votes, a killed and resumed training
with both stages, a graph, edits of labels and points, and a run opened again. ``--demo`` adds the
README's demo. Bits differ between processors: compare records of one machine only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def main() -> None:
    """Record, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--against", type=Path, help="an earlier record, to compare with")
    parser.add_argument("--demo", action="store_true", help="the README's demo as well")
    asked = parser.parse_args()
    if not asked.record.exists():
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            found |= mini(Path(folder))
            if asked.demo:
                found |= demo(Path(folder) / "demo")
        asked.record.write_text(json.dumps(found, indent=2) + "\n")
    new = json.loads(asked.record.read_text())
    if asked.against is None:
        print(json.dumps(new, indent=2))
        return
    old = json.loads(asked.against.read_text())
    differ = [name for name in new.keys() & old.keys() if new[name] != old[name]]
    print(f"{len(new.keys() & old.keys())} outputs compared, {len(differ)} differ", *differ)
    raise SystemExit(bool(differ))


def command(*words: object) -> None:
    """Run a command of the package with one thread."""
    subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        check=True,
        env=os.environ | ONE_THREAD,
        stdout=subprocess.DEVNULL,
    )


def mini(folder: Path) -> dict[str, Any]:
    """DebTags-mini, with the small encoder of the data folder."""
    with tarfile.open(SHARED / "data" / "DebTags-mini.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    data, encoder = folder / "DebTags-mini", SHARED / "models" / "minilm-l3-8k"
    fixed = ["--encoder", encoder, "--threads", "1", "--quiet", "--seed", "3", "--ranker", "none"]
    found: dict[str, Any] = {}

    run = folder / "votes"
    weak = ["--residual-lr", "0", "--head-epochs", "1"]  # so that votes help
    command("dexml.train", data, "--out", run, *fixed, *weak)
    command("dexml.index", run, "--search", "hnsw", "--quiet")
    found |= of_run("votes", run) | edited("votes", run, data)

    both = folder / "both"
    words = [
        *("--stages", "heads,encoder", "--encoder-epochs", "1", "--encoder-layers", "1"),
        *("--head-epochs", "4", "--loss", "decoupled, soft-top-5 from 0.5"),
        *("--negatives", "hard 0.5, uniform 0.5", "--checkpoint-minutes", "0.01"),
    ]
    killed(both, "dexml.train", data, "--out", both, *fixed, *words)
    command("dexml.train", data, "--out", both, *fixed, *words, "--resume")
    found |= of_run("both", both)

    plain = folder / "plain"
    command(
        "dexml.train", data, "--out", plain, *fixed, "--head-negatives", "uniform", "--no-refit"
    )
    return found | of_run("plain", plain)


def demo(folder: Path) -> dict[str, Any]:
    """The training of the README's demo, without a ranker; its encoder computes with one thread."""
    from dexml.demo import hpo

    hpo.prepare(folder / "data")
    command("dexml.train", folder / "data", "--out", folder / "run", "--ranker", "none", "--quiet")
    return of_run("demo", folder / "run")


def of_run(name: str, run: Path) -> dict[str, Any]:
    """Metrics of a run, and the ranking of its test points."""
    metrics = json.loads((run / "metrics.json").read_text())
    metrics.pop("training_seconds")
    out = run.parent / f"{name}.npz"
    command("dexml.predict", run, "--out", out, "-k", "20", "--threads", "1", "--quiet")
    with np.load(out) as arrays:
        ranking = {key: digest(arrays[key]) for key in ("indptr", "indices", "data")}
    return {f"{name}: metrics": metrics, f"{name}: ranking": ranking}


def edited(name: str, run: Path, data: Path) -> dict[str, Any]:
    """Answers after each edit of labels and points, and by the run when it is opened again."""
    os.environ.update(ONE_THREAD)
    from dexml.predict import Predictor

    texts = (data / "raw" / "tst_X.txt").read_text().splitlines()[:40]
    found = {}
    for search in ("exact", "hnsw"):
        predictor = Predictor.open(run, search=search, threads=1)

        def look(step: str, predictor: Any = predictor, search: str = search) -> None:
            ids, scores = predictor.predict(texts, 15)
            found[f"{name}, {search}: {step}"] = [digest(ids), digest(scores)]

        look("opened")
        added = predictor.add_labels(["games about trains", "music notation"])
        look("two labels added")
        predictor.remove_labels([3, int(added[0])])
        look("two labels removed")
        predictor.update_labels([7, 11], ["fonts for mathematics", "mail readers"])
        look("two labels updated")
        predictor.add_points(["a viewer for scores", "a train game"], [[int(added[1])], [2, 4]])
        look("two points added")
        ids, scores = predictor.predict(texts, 15, only=list(range(0, 300, 2)))
        found[f"{name}, {search}: only some"] = [digest(ids), digest(scores)]
        if search == "hnsw":
            predictor.save()
            ids, scores = Predictor.open(run, search=search, threads=1).predict(texts, 15)
            found[f"{name}, {search}: opened again"] = [digest(ids), digest(scores)]
    return found


def digest(array: Any) -> str:
    """SHA-256 of an array's numbers."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


def killed(run: Path, *words: object) -> None:
    """Start a training and kill it once it has a checkpoint of the second stage, or has ended."""
    work = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.DEVNULL,
    )
    while work.poll() is None:
        if list(run.glob("checkpoint/selection/1-*.safetensors")):
            work.kill()
            break
        time.sleep(0.05)
    work.wait()


if __name__ == "__main__":
    main()
