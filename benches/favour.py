"""What rankings for a metric win at it, and what they cost in the others, on test parts.

    python benches/favour.py RUN [RUN ...] [--json FILE] [--svg FILE] [--candidates DIR]

Each run is asked once for the candidates of the test points of its data set. Then they are ranked
for each metric: each text for itself, by weights from held-out answers, and all texts together.
Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dexml import data
from dexml.favour import parse
from dexml.metrics import evaluate, inv_propensity
from dexml.predict import Prediction, Predictor
from dexml.predict.favoured import Asked, ordered
from dexml.predict.served import open_run
from dexml.report import charts
from dexml.scorers.calibration import Calibration

K = 5
METRICS = [f"{kind}@{K}" for kind in ("PSP", "macroP", "macroR", "macroF", "Coverage")]
SHOWN = [f"P@{K}", f"nDCG@{K}", *METRICS]
STRENGTHS = (0.25, 0.5, 0.75, 0.9, 1.0)
STYLE = """
svg { font-family: sans-serif; font-size: 12px; }
.grid { stroke: #ddd; } .tick { fill: #666; font-size: 11px; } .end { text-anchor: end; }
.middle { text-anchor: middle; } .line { fill: none; stroke: var(--c); stroke-width: 2; }
.dot { fill: var(--c); } .c0 { --c: #2563c9; } .c1 { --c: #d0631b; } .c2 { --c: #1b8a5a; }
.c3 { --c: #8b4bc4; } .c4 { --c: #b3801a; } .head { font-weight: bold; }
"""


def candidates(predictor: Predictor, part: data.Part, kept: Path | None) -> Prediction:
    """Ask for the best labels of the test points, or read what was kept of the same run."""
    digest = predictor.run.state.digest
    if kept is not None and kept.exists():
        with np.load(kept, allow_pickle=False) as found:
            if str(found["digest"]) == digest:
                return Prediction(found["ids"], found["scores"], found["p"])
    asked = predictor.predict(part.texts, 100, exclude=part.exclude)
    assert asked.probabilities is not None, predictor.probabilities_note()
    if kept is not None:
        arrays = {"ids": asked.ids, "scores": asked.scores, "p": asked.probabilities}
        np.savez_compressed(kept, allow_pickle=False, digest=np.array(digest), **arrays)
    return asked


def measure(run: Path, folder: Path | None, kept: Path | None) -> dict[str, Any]:
    """Rank the test points of one run for each metric, and measure all of them."""
    opened = open_run(run)
    predictor = Predictor(opened)
    folder = folder or predictor.run.data_dir()
    part = data.load_part(folder, "tst", predictor.n_labels)
    weights = inv_propensity(data.load_part(folder, "trn", predictor.n_labels).y)
    found = candidates(predictor, part, kept and kept / f"{folder.name}.npz")
    calibration, p = opened.calibration, found.probabilities
    assert isinstance(calibration, Calibration)
    assert p is not None
    now = predictor._now

    def measured(ids: np.ndarray[Any, Any]) -> dict[str, float]:
        best = np.ascontiguousarray(ids[:, :K])
        return evaluate(part.y, best, SHOWN, inv_propensity=weights)

    rows = [{"favour": "", "strength": 1.0, "together": False} | measured(found.ids)]
    for metric in METRICS:
        for together in (False, True):
            for strength in STRENGTHS:
                if together and metric.startswith("PSP"):
                    continue  # the same as each text for itself
                asked = Asked(parse(metric, strength), together)
                order = ordered(asked, found.ids, p, calibration, now, predictor.run)
                own = measured(np.take_along_axis(found.ids, order.at, axis=1))
                rows.append({"favour": metric, "strength": strength, "together": together} | own)
    return {"data": folder.name, "points": len(part.texts), "rows": rows}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Write the rankings at full strength as a table in percent, each metric's own in bold."""
    lines = ["| set | `favour` | " + " | ".join(SHOWN) + " |", "|---|---|" + "---:|" * len(SHOWN)]
    for result in results:
        for row in result["rows"]:
            if row["strength"] < 1:
                continue
            name = row["favour"] or "usual"
            name += ", together" if row["together"] else ""
            cells = [
                f"**{100 * row[m]:.2f}**" if m == row["favour"] else f"{100 * row[m]:.2f}"
                for m in SHOWN
            ]
            first = result["data"] if not row["favour"] else ""
            lines.append(f"| {first} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(results: Sequence[dict[str, Any]]) -> str:
    """Draw what each ranking wins at its metric against what it loses in P@k, by strength."""
    width, height, head = charts.WIDTH, charts.HEIGHT, 26
    parts = []
    for i, metric in enumerate(METRICS):
        at = 20 + 130 * i
        parts.append(f'<path class="line c{i}" d="M{at} 16H{at + 20}"/>')
        parts.append(f'<text x="{at + 26}" y="20">{metric}</text>')
    for line, result in enumerate(results):
        usual = result["rows"][0]
        for column, together in enumerate((False, True)):
            series = []
            for metric in METRICS:
                own = [
                    row
                    for row in result["rows"]
                    if row["favour"] == metric and row["together"] == together
                ]
                points = [
                    (100 * row[SHOWN[0]] / usual[SHOWN[0]], 100 * row[metric] / usual[metric])
                    for row in own
                ]
                both = sorted([*points, (100.0, 100.0)]) if points else []
                series.append(charts.Series(metric, [charts.Point(x, y) for x, y in both]))
            how = "all texts together" if together else "each text for itself"
            title = f"{result['data']}, {how}: own metric, % of usual"
            figure = charts.lines(title, series, x_name=f"{SHOWN[0]}, % of usual")
            assert figure is not None
            x, y = column * width, 36 + line * (height + head)
            parts.append(f'<text class="head" x="{x + 20}" y="{y + 14}">{title}</text>')
            place = f'<svg x="{x}" y="{y + head - 6}" width="{width}" height="{height}"'
            parts.append(str(figure.svg).replace("<svg", place, 1))
    size = f"0 0 {2 * width} {46 + len(results) * (height + head)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the data sets, if they moved")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--svg", type=Path, help="write the picture to this file")
    parser.add_argument("--candidates", type=Path, help="keep candidates in this folder")
    args = parser.parse_args()
    results = []
    for run in args.runs:
        folder = args.data and args.data / Path(open_run(run).run.facts["data"]).name
        results.append(measure(run, folder, args.candidates))
        print(table(results[-1:]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    if args.svg:
        args.svg.write_text(picture(results))


if __name__ == "__main__":
    main()
