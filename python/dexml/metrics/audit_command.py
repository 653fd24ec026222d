"""``python -m dexml.metrics audit``: draw predictions to judge, and read the judgements."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dexml import console, data
from dexml.data import Csr
from dexml.files import replacing, write_json
from dexml.metrics.audit import Audit, Precision, draw_audit
from dexml.metrics.errors_report import Texts, load_texts
from dexml.metrics.scorer import load_matrix, load_pred

USAGE = """python -m dexml.metrics audit draw PRED [TRUTH] --out FILE.csv [options]
       python -m dexml.metrics audit read FILE.csv [--json]

draw: write predictions to judge into a table, drawn by probability (or rank) and by
how frequent the label is. Fill in the column 'right' (yes or no; empty: not judged).
read: estimate from the judgements how much of all predictions is right.
"""
JUDGEMENTS = {
    **dict.fromkeys(("1", "yes", "y", "true", "right"), True),
    **dict.fromkeys(("0", "no", "n", "false", "wrong"), False),
    **dict.fromkeys(("", "?"), None),
}
COLUMNS = ("right", "label_text", "text", "label", "point")


def _whole(smallest: int) -> Any:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {smallest}")
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    parser = console.Parser(prog="python -m dexml.metrics audit", usage=USAGE, allow_abbrev=False)
    steps = parser.add_subparsers(dest="step", required=True, parser_class=console.Parser)
    draw = steps.add_parser("draw", usage=USAGE, allow_abbrev=False).add_argument
    draw("pred", metavar="PRED", help="scores or probabilities: .npz or LF text")
    draw("truth", metavar="TRUTH", nargs="?", help="labels known to be right; not judged again")
    draw("--out", metavar="FILE.csv", type=Path, required=True, help="the table to fill in")
    draw("-n", type=_whole(1), default=300, help="predictions to draw (300)")
    draw("--at", metavar="K", type=_whole(1), default=5, help="labels of a point (5)")
    draw("--seed", type=_whole(0), default=0, help="of the drawing (0)")
    draw("--train", metavar="Y", type=Path, help="training matrix: strata by frequency too")
    draw("--filter", metavar="PAIRS", type=Path, help="pairs to drop from the rankings first")
    draw("--by", choices=["auto", "probability", "rank"], default="auto", help="kind of strata")
    draw("--labels", metavar="FILE", type=Path, help="label texts, a line each")
    draw("--data", metavar="FOLDER", type=Path, help="data set: texts of labels and test points")
    draw("--texts", metavar="FILE", type=Path, help="texts of the points, a line each")
    read = steps.add_parser("read", usage=USAGE, allow_abbrev=False).add_argument
    read("file", metavar="FILE.csv", type=Path, help="the table, filled in")
    read("--json", action="store_true", help="JSON on stdout")
    for add in (draw, read):
        add("--quiet", action="store_true", help="no messages")
        add("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.metrics audit``."""
    args = _parser().parse_args(argv)
    if args.step == "draw":
        _draw(args)
    else:
        _read(args)


def _draw(args: argparse.Namespace) -> None:
    if args.out.suffix != ".csv":
        console.usage_error(f"--out {args.out}: the name must end in .csv")
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"{args.out}: the folder {args.out.parent} is not there")
    if args.out.exists():
        raise FileExistsError(f"{args.out}: exists, and may hold judgements; give another name")
    y_true = None if args.truth is None else load_matrix(args.truth, data.load_labels)
    if args.pred.endswith(".npy"):
        raise ValueError(f"{args.pred}: ranked ids have no scores; give .npz or LF text")
    if y_true is None:
        y_pred = load_matrix(args.pred, data.load_scores)
    else:
        y_pred = load_pred(args.pred, args.truth, y_true)
    assert not isinstance(y_pred, np.ndarray)
    exclude = None if args.filter is None else data.load_pairs(args.filter, y_pred.shape)
    y_train = None if args.train is None else data.load_labels(args.train)
    texts = _texts(args, y_pred)
    try:
        audit = draw_audit(
            y_pred,
            y_true,
            args.at,
            n=args.n,
            seed=args.seed,
            y_train=y_train,
            exclude=exclude,
            by=args.by,
        )
    except ValueError as error:
        raise ValueError(f"{args.pred}: {error}") from None
    write_json(plan_of(args.out), audit.as_json())
    with replacing(args.out) as beside:
        beside.write_text(as_table(audit, texts), encoding="utf-8-sig", newline="")
    if not args.quiet:
        console.say(
            f"{args.out}: {len(audit.drawn)} predictions of {len(audit.strata)} kinds; fill in "
            f"'right' with yes or no, keep {plan_of(args.out)} beside it, then: python -m "
            f"dexml.metrics audit read {args.out}"
        )


def _texts(args: argparse.Namespace, y_pred: Csr) -> Texts:
    n_points, n_labels = y_pred.shape
    texts = load_texts(args.labels, args.data, n_points, n_labels)
    if args.texts is None:
        return texts
    points = data.load_texts(args.texts)
    if len(points) != n_points:
        raise ValueError(
            f"{args.texts}: {len(points)} lines, but {args.pred} has {n_points} points"
        )
    return Texts(texts.labels, points)


def plan_of(table: Path) -> Path:
    """Return where the plan of an audit lies: beside its table."""
    return table.with_suffix(".plan.json")


def as_table(audit: Audit, texts: Texts) -> str:
    """Return the table to fill in, as CSV.

    It holds neither scores nor strata: who judges should not know how sure the model was.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in audit.drawn:
        text = "" if texts.points is None else texts.points[one.point]
        writer.writerow(["", _plain(texts.label(one.label)), _plain(text), one.label, one.point])
    return out.getvalue()


def _plain(text: str) -> str:
    """Keep a spreadsheet from taking a text for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and text[1:] else text


def judgements(path: Path, audit: Audit) -> list[bool | None]:
    """Read the column ``right`` of a table, in any order of rows and columns.

    A spreadsheet may have written it with semicolons or tabs.

    Raises:
        ValueError: A column is missing, a judgement is neither yes nor no, or a row is no drawn
            prediction or stands twice. The message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as CSV UTF-8") from None
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    for name in ("right", "label", "point"):
        if name not in (reader.fieldnames or ()):
            raise ValueError(f"{path}:1: no column '{name}'; keep the columns of the table")
    at = {(one.point, one.label): i for i, one in enumerate(audit.drawn)}
    found: list[bool | None] = [None] * len(audit.drawn)
    seen: set[int] = set()
    for row in reader:
        where = f"{path}:{reader.line_num}"
        try:
            pair = int(row["point"]), int(row["label"])
        except (TypeError, ValueError):
            raise ValueError(f"{where}: 'point' and 'label' are not numbers") from None
        if pair not in at:
            raise ValueError(f"{where}: point {pair[0]}, label {pair[1]} was not drawn")
        if at[pair] in seen:
            raise ValueError(f"{where}: point {pair[0]}, label {pair[1]} stands there twice")
        seen.add(at[pair])
        answer = (row["right"] or "").strip().lower()
        if answer not in JUDGEMENTS:
            raise ValueError(f"{where}: right = '{row['right']}'; write yes or no, or leave it out")
        found[at[pair]] = JUDGEMENTS[answer]
    return found


def _read(args: argparse.Namespace) -> None:
    plan = plan_of(args.file)
    if not args.file.exists():
        raise FileNotFoundError(f"{args.file}: no such file")
    if not plan.exists():
        raise FileNotFoundError(f"{plan}: missing; it was written beside the table by audit draw")
    try:
        audit = Audit.of_json(json.loads(plan.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{plan}: {error}") from None
    found = judgements(args.file, audit)
    try:
        estimates = audit.estimate(found)
    except ValueError as error:
        raise ValueError(f"{args.file}: {error}") from None
    if args.json:
        console.put(json.dumps({"k": audit.k, "estimates": [_plain_data(e) for e in estimates]}))
    else:
        print(as_grid(estimates))
    if not args.quiet:
        open_ = sum(one is None for one in found)
        left = f"; {open_} are not judged and were left out" if open_ else ""
        console.say(
            f"the first {audit.k} labels; precision: stratified estimate with its 95 % interval "
            f"(MOVER of Wilson's limits){left}"
        )


def _plain_data(estimate: Precision) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(estimate).items()
    }


def as_grid(estimates: list[Precision]) -> str:
    """Lay out estimates for people, in percent."""
    heads = ["predictions", "judged", "right", "by the truth", "precision", "95 % interval"]
    sure = not math.isnan(estimates[0].probability)
    rows = []
    for one in estimates:
        cells = [str(one.predictions), str(one.judged), str(one.right)]
        cells += [f"{100 * one.by_truth:.1f}", f"{100 * one.precision:.1f}"]
        cells.append(f"{100 * one.low:.1f} to {100 * one.high:.1f}")
        rows.append((one.name, [*cells, *([f"{100 * one.probability:.1f}"] if sure else [])]))
    return console.grid("percent", [*heads, *(["mean p"] if sure else [])], rows)
