"""What DEXML claims of its losses and negatives, asked of a data set, seed by seed.

    python benches/claim.py DATA_DIR --runs RUNS [--points 8000] [--epochs 4] [--seeds 0 1 2]
    python benches/claim.py DATA_DIR --runs RUNS --page       # table and picture of what is there

The transformer is trained, its last ``--layers`` layers and the head, and nothing else: no label
table, no votes, no ranker, no prior, no refit. The epoch is chosen on the validation part by
nDCG@5; the test part is scored once. Losses compete against all labels; negatives with the
decoupled softmax. ``--points`` takes the first training points by hash (by group where the set has
groups). A run that is there already is kept, so the command goes on where it stopped; other
settings than those of RUNS are refused. Figures go to ``benches/results/claim/DATA_SET.json``, and
beside them the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from bench_peers import commit, last_line
from dexml import console, data
from dexml.encoder.pretrained import MINILM
from dexml.index import LabelIndex
from dexml.metrics import Evaluator, Result, compare, inv_propensity
from dexml.model import DualEncoder

BENCHES = Path(__file__).resolve().parent
RESULTS = BENCHES / "results" / "claim"
REFERENCE = "decoupled"
LOSSES = ("decoupled", "softmax", "bce", "soft-top-1", "soft-top-5", "soft-top-20")
NEGATIVES = ("uniform", "hard", "in-batch")
ROWS = {name: ["--loss", name, "--negatives", "all"] for name in LOSSES} | {
    f"{name} negatives": ["--loss", REFERENCE, "--negatives", name] for name in NEGATIVES
}
METRICS = ("P@1", "P@5", "P@20", "nDCG@5", "PSP@1", "PSP@5", "R@5", "R@20", "R@100")
DEPTH = 100
"""Labels kept of each test point; fewer are padded with -1."""
COMPARED = ("P@1", "nDCG@5", "R@5", "R@20", "R@100")


def subset(folder: Path, points: int, out: Path) -> Path:
    """Write a folder with the first training points by hash; the test part stays whole."""
    part = data.load_part(folder, "trn", len(data.load_label_texts(folder)))
    keys = part.groups or part.texts
    kept = np.flatnonzero(data.validation_mask(keys, min(1.0, points / len(keys))))
    (out / "raw").mkdir(parents=True, exist_ok=True)
    sparse.save_npz(out / "Y.trn.npz", sparse.csr_matrix(part.positives()[kept]))
    lines = {"trn_X.txt": part.texts}
    if part.groups is not None:
        lines["trn_groups.txt"] = list(part.groups)
    for name, all_lines in lines.items():
        text = "".join(f"{all_lines[i]}\n" for i in kept)
        (out / "raw" / name).write_text(text, encoding="utf-8")
    for name in ("raw/Y.txt", "raw/tst_X.txt", "Y.tst.npz", "filter_labels_test.txt"):
        if (folder / name).exists():
            (out / name).write_bytes((folder / name).read_bytes())
    return out


def train(folder: Path, run: Path, row: str, seed: int, args: argparse.Namespace) -> None:
    """Train one row; a run that was interrupted goes on."""
    command = [sys.executable, "-m", "dexml.train", str(folder), "--out", str(run)]
    command += ["--encoder", args.encoder, "--stages", "encoder", *ROWS[row]]
    command += ["--encoder-layers", str(args.layers), "--cache-layers"]
    command += ["--encoder-epochs", str(args.epochs), "--encoder-lr", str(args.lr)]
    command += ["--encoder-batch-size", str(args.batch), "--precision", args.precision]
    command += ["--point-tokens", str(args.tokens), "--shortlist-start", "1"]
    command += ["--memory", "none", "--ranker", "none", "--no-refit", "--seed", str(seed)]
    command += ["--cache", str(args.runs / "cache"), "--resume" if run.exists() else "--overwrite"]
    variables = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    with run.with_suffix(".log").open("a", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=variables)
    if done.returncode:
        text = run.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"error: {row}, seed {seed}: {last_line(text).removeprefix('error: ')}")


def rank(folder: Path, run: Path, kept: Path, tokens: int) -> None:
    """Keep the best `DEPTH` labels of each test point, by the dot products of the texts alone.

    Not by the run's own search, because that adds what the frequency of labels is worth.
    """
    labels = data.load_label_texts(folder)
    part = data.load_part(folder, "tst", len(labels))
    encoder = DualEncoder.load(str(run / "encoder")).eval()
    index = LabelIndex.build(encoder.encode(labels, side="label"), search="exact")
    points = encoder.encode(part.texts, max_tokens=tokens)
    ids, _ = index.search(points, DEPTH, exclude=part.exclude)
    np.save(kept, ids)


def scored(folder: Path, ids: Any) -> Result:
    """The test scores of a ranking, with values per point."""
    labels = data.load_label_texts(folder)
    part = data.load_part(folder, "tst", len(labels))
    trained = data.load_part(folder, "trn", len(labels))
    weights = inv_propensity(trained.y)
    evaluator = Evaluator(len(labels), METRICS, inv_propensity=weights, keep_rows=True)
    evaluator.update(part.y, ids, exclude=part.exclude)
    return evaluator.result()


def figures(folder: Path, rankings: dict[str, dict[int, Any]]) -> dict[str, Any]:
    """Means over seeds, and how far each row is from the first one, with an interval.

    Differences are between seeds of one number; their mean over seeds has the standard error of
    both sources: of points (paired bootstrap of one seed) and of seeds.
    """
    results = {
        row: {seed: scored(folder, ids) for seed, ids in one.items()}
        for row, one in rankings.items()
    }
    table: dict[str, Any] = {}
    for row, seeds in results.items():
        values = {m: [one.metrics[m] for one in seeds.values()] for m in METRICS}
        table[row] = {
            "seeds": len(seeds),
            "mean": {m: float(np.mean(v)) for m, v in values.items()},
            "deviation": {m: float(np.std(v, ddof=1)) for m, v in values.items() if len(v) > 1},
        }
        both = [seed for seed in seeds if seed in results[REFERENCE]]
        if row == REFERENCE or not both:
            continue
        paired = [compare(results[REFERENCE][seed], seeds[seed], seed=0) for seed in both]
        table[row]["difference"] = {
            m: {
                "mean": float(np.mean(d)),
                "error": error_of(d, [p[m].standard_error for p in paired]),
            }
            for m in COMPARED
            for d in [[p[m].difference for p in paired]]
        }
    return table


def error_of(differences: list[float], errors: list[float]) -> float:
    """Standard error of a mean over seeds that all answer the same test points.

    Points: the mean standard error of one seed, because the points stay the same. Seeds: their
    deviation over the root of their number.
    """
    points = float(np.mean(errors))
    n = len(differences)
    seeds = float(np.std(differences, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return math.hypot(points, seeds)


def table_of(figures: dict[str, Any]) -> str:
    """The Markdown table."""
    lines = [f"| | seeds | {' | '.join(METRICS)} | P@1 less decoupled |"]
    lines.append("|---|---|" + "---|" * (len(METRICS) + 1))
    best = {m: max(one["mean"][m] for one in figures.values()) for m in METRICS}
    for row, one in figures.items():
        cells = []
        for m in METRICS:
            cell = f"{100 * one['mean'][m]:.1f}"
            cells.append(f"**{cell}**" if one["mean"][m] == best[m] else cell)
        gap = one.get("difference", {}).get("P@1")
        cells.append("" if gap is None else f"{100 * gap['mean']:+.1f} ± {196 * gap['error']:.1f}")
        lines.append(f"| {row} | {one['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(figures: dict[str, Any]) -> str:
    """Differences to the decoupled softmax with 95 % intervals, one panel a metric."""
    rows = [row for row, one in figures.items() if "difference" in one]
    height, width, left = 22 * len(rows) + 60, 190, 150
    found = [(figures[r]["difference"][m], r, m) for r in rows for m in COMPARED]
    reach = max(abs(d["mean"]) + 1.96 * d["error"] for d, _, _ in found) * 1.05 or 1.0
    total = left + width * len(COMPARED) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for i, row in enumerate(rows):
        parts.append(f'<text x="{left - 10}" y="{52 + 22 * i}" text-anchor="end">{row}</text>')
    for panel, metric in enumerate(COMPARED):
        middle = left + width * panel + width / 2

        def x(value: float, middle: float = middle) -> float:
            return middle + value / reach * (width / 2 - 8)

        parts.append(f'<text x="{middle}" y="20" text-anchor="middle">{metric}</text>')
        parts.append(
            f'<line x1="{middle}" x2="{middle}" y1="30" y2="{height - 24}" stroke="#bbb"/>'
            f'<text x="{middle}" y="{height - 8}" text-anchor="middle" fill="#666">0</text>'
        )
        for end in (-1, 1):
            label = f"{100 * end * reach:+.0f}"
            at = f'x="{x(end * reach)}" y="{height - 8}" text-anchor="middle" fill="#666"'
            parts.append(f"<text {at}>{label}</text>")
        for i, row in enumerate(rows):
            gap, y = figures[row]["difference"][metric], 48 + 22 * i
            low, high = (x(gap["mean"] + s * 1.96 * gap["error"]) for s in (-1, 1))
            parts.append(
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="#2563c9" '
                f'stroke-width="2"/><circle cx="{x(gap["mean"]):.1f}" cy="{y}" r="4" '
                'fill="#2563c9"/>'
            )
    return "".join(parts) + "</svg>\n"


def settled(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Settings of the trainings in a folder: kept by the first call, and the same in later ones."""
    names = ("points", "layers", "epochs", "batch", "tokens", "lr", "precision")
    settings = {name: getattr(args, name) for name in names}
    settings["encoder"] = Path(args.encoder).name
    if not path.exists():
        path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    other = [f"{name} {kept.get(name)}" for name, one in settings.items() if one != kept.get(name)]
    if other:
        raise SystemExit(
            f"error: {path}: made with {', '.join(other)}; give these, or other --runs"
        )
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--points", type=int, default=8000, help="training points; 0: all")
    parser.add_argument("--layers", type=int, default=1, help="transformer layers to train")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of a point")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--page", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of figures and picture")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    folder = args.data_dir.resolve()
    name = folder.name
    settings = settled(args, args.runs / f"{name}.json")
    if args.points:
        cut = args.runs / f"{name}-{args.points}"
        folder = cut if (cut / "raw" / "Y.txt").exists() else subset(folder, args.points, cut)
    rankings: dict[str, dict[int, Any]] = {}
    for seed in args.seeds:
        for row in args.rows:
            run = args.runs / f"{name}-{row.replace(' ', '-')}-{seed}"
            kept = run.with_suffix(".npy")
            if not kept.exists() and not args.page:
                train(folder, run, row, seed, args)
                rank(folder, run, kept, args.tokens)
                console.say(f"{row}, seed {seed}: done")
            if kept.exists():
                rankings.setdefault(row, {})[seed] = np.load(kept)
    if REFERENCE not in rankings:
        raise SystemExit(f"error: {args.runs}: no training with {REFERENCE!r} to compare with")
    found = figures(folder, rankings)
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"data": name, "commit": commit(), "settings": settings, "rows": found}
    out = args.out / f"{name}.json"
    out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if len(found) > 1:
        out.with_suffix(".svg").write_text(picture(found), encoding="utf-8")
    print(table_of(found))


if __name__ == "__main__":
    main()
