"""``python -m dexml.metrics PRED [PRED ...] TRUTH``. Needs only numpy and scipy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dexml import _rust, console
from dexml.metrics import (
    PROPENSITY_CONSTANTS,
    audit_command,
    errors_report,
    report,
)
from dexml.metrics.scorer import GROUPINGS, Scorer

USAGE = """python -m dexml.metrics PRED [PRED ...] TRUTH [options]

Score predictions against the truth. Each PRED holds scores, as .npz (scipy CSR)
or LF text, or ranked ids (n, k) padded with -1, as .npy. TRUTH is .npz or LF text.
One of them may be '-': LF text or .npz from standard input.

python -m dexml.metrics audit --help: estimate the true precision from a judged sample.
"""


def _metric_names(text: str) -> list[str]:
    try:
        parsed = _rust.parse_metrics([name.strip() for name in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return [f"{kind}@{k}" for kind, k in parsed]


def _at_least(smallest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.lstrip("-").isdigit()) or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {smallest}")
        return int(text)

    return number


def _resamples(text: str) -> int:
    try:
        return _at_least(2)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; files go before --ci") from None


def _parser() -> argparse.ArgumentParser:
    parser = console.Parser(prog="python -m dexml.metrics", usage=USAGE, allow_abbrev=False)
    add = parser.add_argument
    add("files", metavar="PRED ... TRUTH", nargs="+", help=argparse.SUPPRESS)
    add("--train", metavar="Y", type=Path, help="training matrix: weights of the PS metrics")
    add("--filter", metavar="PAIRS", type=Path, help="pairs to drop from the rankings first")
    add(
        "--metrics",
        type=_metric_names,
        help="comma-separated; default P, nDCG (and PSP with --train) at 1, 3, 5",
    )
    add("--a", type=float, help="constant A of the propensities (default 0.55)")
    add("--b", type=float, help="constant B of the propensities (default 1.5)")
    add("--propensity", metavar="NAME", help="constants of a benchmark, e.g. LF-AmazonTitles-131K")
    add("--empty-rows", choices=["zero", "skip"], default="zero", help="points without positives")
    add("--psndcg", choices=["xclib", "matlab"], default="xclib", help="convention of PSnDCG")
    add("--ties", choices=["smaller", "larger"], default="smaller", help="id first on equal scores")
    add(
        "--per-group",
        metavar="GROUPS",
        action="append",
        default=[],
        help="scores of label groups too: frequency, deciles or seen (by --train), or a file with "
        "a group name a line for each label (an empty line: none); may be repeated",
    )
    add(
        "--views",
        action="store_true",
        help="scores of all, of seen and of unseen labels (by --train), each ranked alone, and of "
        "these groups in the whole ranking",
    )
    add(
        "--ci",
        metavar="N",
        nargs="?",
        const=1000,
        type=_resamples,
        help="standard errors and 95 %% intervals from N bootstrap samples (default 1000)",
    )
    add(
        "--compare",
        metavar="OTHER_PRED",
        help="difference of each PRED to this one: interval and sign-flip test",
    )
    add("--groups", metavar="FILE", type=Path, help="group key a line: resample groups, not points")
    add("--seed", type=_at_least(0), default=0, help="seed of the resampling (default 0)")
    add("--threads", type=_at_least(1), help="default: all cores; the result does not depend on it")
    errors_report.add_options(parser)
    output = parser.add_mutually_exclusive_group().add_argument
    output("--json", action="store_true", help="JSON on stdout, fractions with all digits")
    output("--csv", action="store_true", help="CSV on stdout, a line a metric, fractions")
    add("--quiet", action="store_true", help="no messages, no progress, only the result")
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def _check_usage(args: argparse.Namespace) -> None:
    if len(args.files) < 2:
        console.usage_error("PRED and TRUTH are both needed (--help lists the options)")
    if [*args.files, args.compare].count("-") > 1:
        console.usage_error("standard input can be read once: give one '-'")
    if args.propensity and not (args.a is None and args.b is None):
        console.usage_error("give --propensity or --a and --b, not both")
    if (args.propensity or args.a is not None or args.b is not None) and not args.train:
        console.usage_error("propensities need the training matrix: add --train Y.trn.npz")
    weighted = [name for name in args.metrics or () if name.startswith("PS")]
    if weighted and not args.train:
        console.usage_error(f"{weighted[0]} needs the training matrix: add --train Y.trn.npz")
    if args.compare and all(map(_is_no_mean, args.metrics or ("P@1",))):
        console.usage_error(
            f"{', '.join(args.metrics)}: means over labels and errors of bins have no test; "
            "leave out --compare, or add a mean over points such as P@1"
        )
    if args.ci and all(map(_is_over_labels, args.metrics or ("P@1",))):
        console.usage_error(
            f"{', '.join(args.metrics)}: means over labels have no interval; leave out --ci, or "
            "add a mean over points such as P@1"
        )
    by_training = [name for name in args.per_group if name in GROUPINGS]
    if by_training and not args.train:
        console.usage_error(
            f"--per-group {by_training[0]} needs the training matrix: add --train Y.trn.npz"
        )
    if args.views and not args.train:
        console.usage_error("--views needs the training matrix: add --train Y.trn.npz")
    if args.groups and not (args.ci or args.compare):
        console.usage_error("--groups needs --ci or --compare")
    if args.propensity and args.propensity not in PROPENSITY_CONSTANTS:
        known = list(PROPENSITY_CONSTANTS)
        hint = console.did_you_mean(args.propensity, known) or f"; known: {', '.join(known)}"
        console.usage_error(f"--propensity '{args.propensity}' is not known{hint}")


def _check_errors(args: argparse.Namespace) -> None:
    """Check the options of ``--by-label`` and ``--confusions``, and set their defaults."""
    asked = [name for name in ("by_label", "confusions") if getattr(args, name)]
    if not asked:
        for name in ("at", "order", "top", "labels", "data", "out"):
            if getattr(args, name) is not None:
                console.usage_error(f"--{name} is for --by-label and --confusions")
        return
    option = "--" + asked[0].replace("_", "-")
    if len(asked) > 1:
        console.usage_error("--by-label and --confusions: give one of them")
    fits = ("missed", "false") if args.by_label else ("count", "surprise")
    if args.order is not None and args.order not in fits:
        console.usage_error(f"--order {args.order}: {option} has {' and '.join(fits)}")
    for name in ("metrics", "ci", "compare", "per_group", "views"):
        if getattr(args, name):
            console.usage_error(f"{option} and --{name.replace('_', '-')}: give one of them")
    if len(args.files) > 2:
        console.usage_error(f"{option} looks at one PRED, not {len(args.files) - 1}")
    if args.out is not None and (args.json or args.csv):
        console.usage_error("--out names the format; leave --json and --csv out")
    errors_report.check_out(args.out)


def _is_over_labels(metric: str) -> bool:
    return metric.startswith(("macro", "Coverage"))


def _is_no_mean(metric: str) -> bool:
    return _is_over_labels(metric) or metric.startswith(("ECE", "ACE"))


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.metrics``."""
    if argv[:1] == ["audit"]:
        audit_command.main(argv[1:])
        return
    args = _parser().parse_intermixed_args(argv)
    _check_usage(args)
    _check_errors(args)
    scorer = Scorer(args)
    if args.by_label or args.confusions:
        _errors(args, scorer)
        return
    other = scorer.score(args.compare, scorer.load(args.compare)) if args.compare else None
    scored = []
    for name in args.files[:-1]:
        y_pred = scorer.load(name)
        result = scorer.score(name, y_pred)
        intervals = scorer.intervals(name, result) if args.ci else {}
        comparison = {} if other is None else scorer.compare(name, other, result)
        result.rows.clear()  # large, and not needed any more
        found = scorer.views(name, y_pred) if args.views else {}
        scored.append(report.Scored(name, result, intervals, comparison, found))
    units = "groups" if args.groups else "points"
    resampled = args.ci or args.compare
    settings = scorer.resampling() | {"confidence": 0.95, "units": units} if resampled else {}
    if args.json:
        console.put(report.as_json(scored, args.compare, settings))
    elif args.csv:
        console.put(report.as_csv(scored, args.compare))
    else:
        print(report.as_table(scored, args.compare))
        if not args.quiet:
            console.say(report.footnote(scored, settings))
    if not args.quiet:
        for note in scorer.notes:
            console.say(note)


def _errors(args: argparse.Namespace, scorer: Scorer) -> None:
    """Print or write what ``--by-label`` or ``--confusions`` ask for."""
    to_file = args.out is not None or args.json or args.csv
    k, name = args.at or 5, args.files[0]
    texts = errors_report.load_texts(args.labels, args.data, *scorer.y_true.shape)
    if args.by_label:
        found = scorer.label_errors(name, k)
        ids = found.worst(by=args.order or "missed")
        if to_file:  # labels that never fail too
            there = np.flatnonzero((found.positives > 0) | (found.predicted > 0))
            ids = np.concatenate([ids, np.setdiff1d(there, ids)])
        ids = ids[: args.top or (None if to_file else errors_report.SHOWN)]
        rows = errors_report.by_label(found, texts, scorer.train_counts, ids)
        table = errors_report.label_table(rows, texts, args.order or "missed")
        kind, about = "labels", {"k": k, "n_points": found.n_points}
    else:
        n = args.top or (errors_report.WRITTEN if to_file else errors_report.SHOWN)
        pairs = scorer.confusions(name, k, n, args.order or "count")
        rows = errors_report.of_pairs(pairs, texts)
        table = errors_report.pair_list(pairs, texts)
        kind, about = "confusions", {"k": k, "n_points": scorer.y_true.shape[0]}
    if args.out is not None:
        errors_report.write(args.out, rows, kind, about)
    elif args.json:
        console.put(errors_report.as_object(rows, kind, about), end="")
    elif args.csv:
        console.put(errors_report.as_csv(rows), end="")
    else:
        print(table)
    if not args.quiet:
        where = f": {args.out}" if args.out is not None else ""
        console.say(
            f"{len(rows)} {kind}{where}; the first {k} labels of {about['n_points']} points"
        )
        for note in scorer.notes:
            console.say(note)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
