"""What each form of the encoder costs in quality: a finished full run, asked in all of them.

    python benches/forms.py RUN DATA_DIR [--points N] [--threads 1]

OpenVINO encodes the test points in float32, bfloat16 and int8; forms that this processor lacks are
left out with a line. Labels and training points keep the vectors of the run, whichever form it was
trained in. All forms are scored by the same evaluator, with paired intervals against float32
(bootstrap over groups of points, or points). Prints a table for Markdown and writes
``benches/results/forms/DATA.json``. Needs the extra ``serve``. Choose nothing by these figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import data
from dexml.encoder.engine import FORMS, Form
from dexml.encoder.engine_openvino import forms, processor, version
from dexml.files import write_json
from dexml.metrics import Evaluator, Result, compare, inv_propensity
from dexml.predict import Predictor

RESULTS = Path(__file__).resolve().parent / "results" / "forms"
SHOWN = ("P@1", "nDCG@5", "PSP@1", "R@100")
K, BLOCK, SEED = 100, 512, 0


@dataclass(frozen=True)
class Asked:
    """Test points, and what they are scored against."""

    texts: list[str]
    y: csr_array
    exclude: csr_array | None
    groups: list[str] | None
    weights: NDArray[np.float64]


def asked_of(run: Path, data_dir: Path, points: int | None) -> Asked:
    """Load the test part, or some points of it drawn with a fixed seed."""
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    n_labels = facts["labels"]["n_trained"]
    propensity = facts.get("propensity", {})
    trained = data.load_part(data_dir, "trn", n_labels).y
    constants = {name: propensity[name] for name in ("a", "b") if name in propensity}
    part = data.load_part(data_dir, "tst", n_labels)
    rows = np.arange(len(part.texts))
    if points is not None and points < len(rows):
        rows = np.sort(np.random.default_rng(SEED).permutation(rows)[:points])
    return Asked(
        [part.texts[i] for i in rows],
        csr_array(part.y[rows]),
        None if part.exclude is None else csr_array(part.exclude[rows]),
        None if part.groups is None else [part.groups[i] for i in rows],
        inv_propensity(trained, **constants),
    )


def measure(run: Path, asked: Asked, form: Form, threads: int) -> tuple[Result, float]:
    """Answer all points with texts encoded in one form; return the scores and CPU seconds."""
    predictor = Predictor.open(run, engine="openvino", precision=form, threads=threads)
    evaluator = Evaluator(asked.y.shape[1], SHOWN, inv_propensity=asked.weights, keep_rows=True)
    start = time.process_time()
    for first in range(0, len(asked.texts), BLOCK):
        rows = slice(first, first + BLOCK)
        exclude = None if asked.exclude is None else csr_array(asked.exclude[rows])
        ids = predictor.predict(asked.texts[rows], K, exclude=exclude).ids
        evaluator.update(csr_array(asked.y[rows]), ids, exclude=exclude)
    return evaluator.result(), time.process_time() - start


def measured(run: Path, asked: Asked, threads: int) -> dict[str, Any]:
    """Measure all forms that this processor multiplies; float32 comes first."""
    able, results, rows = forms(), dict[Form, Result](), dict[str, Any]()
    for form in FORMS:
        if form not in able:
            print(f"{form} left out: this processor does not multiply it", file=sys.stderr)
            continue
        results[form], seconds = measure(run, asked, form, threads)
        rows[form] = {"metrics": results[form].metrics, "cpu_seconds": round(seconds, 1)}
        if form != "float32":
            paired = compare(results["float32"], results[form], groups=asked.groups, seed=SEED)
            rows[form]["against float32"] = {name: asdict(one) for name, one in paired.items()}
        print(f"{form}: {seconds:.0f} s of CPU", file=sys.stderr, flush=True)
    return rows


def table(found: dict[str, Any]) -> str:
    """Write the forms as a table in percent, differences from float32 with their intervals."""
    title = f"{found['data']}, {found['points']} points"
    lines = [f"| {title} | " + " | ".join(SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]
    for form, row in found["forms"].items():
        cells = []
        for name in SHOWN:
            cell = f"{100 * row['metrics'][name]:.2f}"
            if (paired := row.get("against float32")) is not None:
                low, high = 100 * paired[name]["low"], 100 * paired[name]["high"]
                cell += f" ({100 * paired[name]['difference']:+.2f} [{low:+.2f}, {high:+.2f}])"
            cells.append(cell)
        trained = ", as trained" if form == found["trained_in"] else ""
        lines.append(f"| {form}{trained} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a full run, exported for OpenVINO")
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--points", type=int, help="so many test points, drawn; default all")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)
    asked = asked_of(given.run, given.data_dir, given.points)
    facts = json.loads((given.run / "run.json").read_text(encoding="utf-8"))
    found = {
        "data": given.data_dir.name,
        "points": len(asked.texts),
        "trained_in": facts.get("engine", {}).get("form", "float32"),
        "processor": processor(),
        "openvino": version(),
        "forms": measured(given.run, asked, given.threads),
    }
    print(table(found))
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / f"{found['data']}.json", found)


if __name__ == "__main__":
    main()
