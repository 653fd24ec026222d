"""``python -m dexml.data``: describe, check, convert and prepare data sets and matrices."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from dexml import console, data
from dexml.data import Csr, Repairs
from dexml.data.layout import find
from dexml.data.matrices import counted_pairs
from dexml.data.prepare import prepare
from dexml.data.stats import describe, table

TEXT = ("", ".txt", ".dat", ".svm")
"""Suffixes of text files; ``.gz`` or ``.zst`` may follow."""

EPILOG = """\
examples:
  python -m dexml.data stats LF-AmazonTitles-131K/
  python -m dexml.data check trn_X_Y.txt.gz
  python -m dexml.data convert trn_X_Y.txt Y.trn.npz
  python -m dexml.data convert --part labels train.txt Y.trn.npz
  python -m dexml.data from-table posts.csv posts/ --separator ';'
  python -m dexml.data hold-out-labels LF-DebianRelated --share 0.1 --seed 0
  python -m dexml.data prepare LF-AmazonTitles-131K.raw/ LF-AmazonTitles-131K/
"""


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = console.Parser(
        prog="python -m dexml.data",
        description=__doc__,
        allow_abbrev=False,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = console.Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    common.add_argument("--quiet", action="store_true", help="hide progress")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=console.Parser)

    stats = actions.add_parser("stats", parents=[common], help="describe the content")
    check = actions.add_parser("check", parents=[common], help="report faults with their line")
    for action in (stats, check):
        action.add_argument("path", type=Path, help="a folder in the LF layout, or a matrix")
    stats.add_argument("--json", action="store_true", help="print one JSON object")

    convert = actions.add_parser("convert", parents=[common], help="write in another format")
    convert.add_argument(
        "source", type=Path, help="LF text, bag of words or .npz; may be compressed"
    )
    convert.add_argument(
        "target", type=Path, help="the suffix decides: .npz, or .txt, .txt.gz, .txt.zst"
    )
    convert.add_argument("--repair", action="store_true", help="repair the source and say what")
    convert.add_argument(
        "--part",
        choices=["labels", "features", "both"],
        help="what to keep of a bag of words (default labels); both: a bag of words again",
    )

    raw = actions.add_parser(
        "prepare", parents=[common], help="turn raw downloads into the LF layout"
    )
    raw.add_argument("source", type=Path, help="folder with lbl.json, trn.json, tst.json (or .gz)")
    raw.add_argument("target", type=Path, nargs="?", help="new folder; by default the source")
    raw.add_argument(
        "--text",
        choices=["title", "content", "both"],
        default="both",
        help="what becomes the text of points and labels; default: both",
    )
    raw.add_argument(
        "--repair", action="store_true", help="drop bad labels of points and say how many"
    )

    table = actions.add_parser(
        "from-table",
        parents=[common],
        help="turn a table of texts (or a bag of words) and labels into the LF layout",
    )
    table.add_argument(
        "source",
        type=Path,
        help="JSON lines, CSV, TSV, Parquet, lines of fastText or PECOS, or a bag of words; may be "
        "packed",
    )
    table.add_argument("target", type=Path, help="new folder")
    table.add_argument("--test", type=Path, help="another table, of test points")
    table.add_argument(
        "--labels",
        type=Path,
        help="another one: columns id and text of the labels; or a file .txt with a label a line",
    )
    table.add_argument("--text-column", default="text", help="column with the text of a point")
    table.add_argument("--label-column", default="labels", help="column with its labels")
    table.add_argument(
        "--separator", help="what stands between labels in a string; '': it is one label"
    )
    table.add_argument("--split-column", help="column that says train or test for each row")
    held = actions.add_parser(
        "hold-out-labels",
        parents=[common],
        help="write a data set some of whose labels have no training point",
    )
    held.add_argument("source", type=Path, help="a folder in the LF layout")
    held.add_argument(
        "target", type=Path, nargs="?", help="new folder; by default SOURCE-unseen-SHARE-SEED"
    )
    held.add_argument("--share", type=float, default=0.1, help="of the labels (default 0.1)")
    held.add_argument("--seed", type=int, default=0, help="of the choice (default 0)")
    held.add_argument(
        "--validation", type=float, default=0.1, help="share of the training points (default 0.1)"
    )
    return parser


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.data`` with one of its actions."""
    args = arguments().parse_args(argv)
    if args.action == "stats":
        loaded = matrices(args.path)
        say_filter_pairs(args.path, loaded)
        described = {name: describe(y) for name, y in loaded.items()}
        if args.json:
            console.put(json.dumps(described))
        else:
            print(table(described))
    elif args.action == "check":
        say_filter_pairs(args.path, check_path(args.path))
        if args.path.is_dir():
            say_label_texts(args.path)
        print(f"{args.path}: ok")
    elif args.action == "convert":
        convert_file(args.source, args.target, repair=args.repair, part=args.part)
    elif args.action == "from-table":
        columns = data.Columns(
            args.text_column, args.label_column, args.separator, args.split_column
        )
        made = data.folder_from_table(
            args.target, args.source, args.test, args.labels, columns=columns
        )
        print(f"{args.target}: {'written' if made else 'is the same already'}")
    elif args.action == "hold-out-labels":
        source = Path(str(args.source).rstrip("/"))
        name = f"{source.name}-unseen-{args.share:g}-{args.seed}"
        target = args.target or source.with_name(name)
        options = {"share": args.share, "seed": args.seed, "validation": args.validation}
        held = data.hold_out_labels(source, target, **options)
        print(
            f"{target}: {len(held.test)} labels for the test part alone, {len(held.validation)} "
            f"for the {held.n_validation} validation points too; {held.emptied} training points "
            "are left without a label"
        )
    else:
        say = (lambda _: None) if args.quiet else console.say
        target = args.target or args.source
        prepare(args.source, target, text=args.text, repair=args.repair, say=say)


def matrices(path: Path) -> dict[str, Csr]:
    """Load all matrices of a folder or a file, by name."""
    if not path.is_dir():
        loaded, _ = load_any(path)
        return loaded
    n_labels = len(data.load_label_texts(path))
    parts = {"training": data.load_part(path, "trn", n_labels)}
    names = ("Y.tst.npz", "tst_X_Y.txt", "raw/tst_X.txt")
    if any(find(path, name).exists() for name in names):
        parts["test"] = data.load_part(path, "tst", n_labels)
    else:
        console.say(f"{path}: no test part")
    loaded = {name: part.y for name, part in parts.items()}
    pairs = {f"{name} filter": part.exclude for name, part in parts.items()}
    return loaded | {name: y for name, y in pairs.items() if y is not None}


def say_label_texts(path: Path) -> None:
    """Report label texts of a folder that are empty, mere numbers, or occur more than once."""
    lines: dict[str, list[int]] = {}
    for number, text in enumerate(data.load_label_texts(path), start=1):
        lines.setdefault(text, []).append(number)
    file = find(path, "raw/Y.txt")
    empty = lines.pop("", [])
    if empty:
        console.say(f"{file}:{empty[0]}: empty label text ({len(empty)} in all)")
    n_numbers = sum(len(at) for text, at in lines.items() if text.isdecimal())
    if 2 * n_numbers > sum(map(len, lines.values())):
        console.say(
            f"{file}: {n_numbers} label texts are mere numbers, which say nothing about a label: "
            "half of the method is lost; give names or descriptions if there are any"
        )
    twice = {text: numbers for text, numbers in lines.items() if len(numbers) > 1}
    for text, (first, second, *_) in list(twice.items())[:1]:
        console.say(
            f"{file}:{second}: the same text as line {first}, {text!r} ({len(twice)} label texts "
            "occur more than once)"
        )


def say_filter_pairs(path: Path, loaded: dict[str, Csr]) -> None:
    """Report how many pairs of the filter files of a folder are repeated, or are positives."""
    for part, name in (("training", "train"), ("test", "test")):
        if f"{part} filter" in loaded:
            pairs = find(path, f"filter_labels_{name}.txt")
            y, exclude = loaded[part], loaded[f"{part} filter"]
            _, n_repeated = counted_pairs(pairs, y.shape)
            if n_repeated:
                console.say(f"{pairs}: {n_repeated} repeated pairs merged")
            taken, n = data.Part([], y, exclude, None).filtered()
            if taken:
                console.say(f"{pairs}: takes {taken} of the {n} positive pairs of this part")


def load_any(path: Path, *, repair: bool = False) -> tuple[dict[str, Csr], Repairs | None]:
    """Load a matrix file, or both matrices of a bag of words (recognised by its header)."""
    try:
        if repair:
            y, repairs = data.repair_labels(path)
            return {"labels": y}, repairs
        return {"labels": data.load_labels(path)}, None
    except ValueError as error:
        if not str(error).endswith(":1: expected 'rows labels'"):
            raise
        try:
            if repair:
                features, labels, repairs = data.repair_bow(path)
            else:
                (features, labels), repairs = data.load_bow(path), None
        except ValueError as of_bow:
            if not str(of_bow).endswith(":1: expected 'points features labels'"):
                raise
            both = "'rows labels', or 'points features labels' for a bag of words"
            raise ValueError(f"{path}:1: expected {both}") from None
        return {"features": features, "labels": labels}, repairs


def check_path(path: Path) -> dict[str, Csr]:
    """Load all matrices, or raise for the first fault.

    For a file that `load_any` can repair, first print the faults.
    """
    try:
        return matrices(path)
    except ValueError:
        if path.is_file():
            try:
                _, repairs = load_any(path, repair=True)
            except ValueError:
                pass  # cannot be repaired: the first fault is raised below
            else:
                if repairs is not None:
                    for fault in repairs.first:
                        console.say(fault)
                    console.say(f"{path}: convert --repair would repair this: {repairs}")
        raise


def convert_file(source: Path, target: Path, *, repair: bool, part: str | None) -> None:
    """Read one format and write another."""
    to_archive = target.suffix.lower() == ".npz"
    if not to_archive and not target.is_dir():
        packed = target.suffix in (".gz", ".zst")  # writers know only lower case
        suffix = target.with_suffix("").suffix if packed else target.suffix
        if suffix.lower() not in TEXT:
            console.usage_error(f"{target}: unknown suffix; give .npz, .txt or .txt.gz")
    loaded, repairs = load_any(source, repair=repair)
    if part is not None and "features" not in loaded:
        console.usage_error(f"--part is for bags of words; {source} holds one matrix")
    if repairs is not None:
        console.say(f"{source}: {repairs}")
    if "features" not in loaded:
        y = loaded["labels"]
        if _float32_rounds(source):
            if to_archive and not repair:
                data.save_scores(target, data.load_scores(source))
                return
            console.say(f"{source}: values rounded to float32")
        data.save_labels(target, y)
    elif part != "both":
        data.save_labels(target, loaded[part or "labels"])
    elif to_archive:
        console.usage_error("an .npz holds one matrix: --part labels or --part features")
    else:
        data.save_bow(target, loaded["features"], loaded["labels"])


def _float32_rounds(source: Path) -> bool:
    """Whether this is an archive with values (such as scores) that float32 would round."""
    with source.open("rb") as file:
        if file.read(2) != b"PK":
            return False
    with np.load(source, allow_pickle=False) as archive, np.errstate(over="ignore"):
        values = archive["data"]
        return bool((values.astype(np.float32) != values).any())


if __name__ == "__main__":
    raise SystemExit(console.run(main))
