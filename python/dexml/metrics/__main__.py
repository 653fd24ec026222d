"""The command: ``python -m dexml.metrics PRED TRUTH [...]``. Needs numpy and scipy only."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console, data
from dexml.metrics import DEFAULT_CONSTANTS, PROPENSITY_CONSTANTS, Evaluator, inv_propensity


def _metric_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    try:
        _rust.parse_metrics(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return names


def _at_least(smallest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"'{text}' is no number from {smallest}")
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    parser = console.Parser(
        prog="python -m dexml.metrics", description="Score predictions.", allow_abbrev=False
    )
    add = parser.add_argument
    add("pred", metavar="PRED", type=Path, help="scores: .npz (scipy CSR) or LF text; ids: .npy")
    add("truth", metavar="TRUTH", type=Path, help="truth: .npz (scipy CSR) or LF text")
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
    add(
        "--bootstrap",
        metavar="N",
        type=_at_least(2),
        default=0,
        help="standard errors from N resamples",
    )
    add("--groups", metavar="FILE", type=Path, help="group key a line: resample groups, not points")
    add("--seed", type=_at_least(0), default=0, help="seed of the resampling (default 0)")
    add("--threads", type=_at_least(1), help="default: all cores; the result does not depend on it")
    add("--json", action="store_true", help="one JSON object on stdout, fractions with all digits")
    add("--quiet", action="store_true", help="no messages, only the result")
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def _load_ids(path: Path) -> NDArray[np.integer[Any]]:
    try:
        ids: NDArray[np.integer[Any]] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: damaged or not an .npy array ({error})") from None
    return ids


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.metrics``."""
    args = _parser().parse_args(argv)
    if args.propensity and not (args.a is None and args.b is None):
        console.usage_error("give --propensity or --a and --b, not both")
    if (args.propensity or args.a is not None or args.b is not None) and not args.train:
        console.usage_error("propensities need the training matrix: add --train Y.trn.npz")
    if args.groups and not args.bootstrap:
        console.usage_error("--groups needs --bootstrap N")
    if args.propensity and args.propensity not in PROPENSITY_CONSTANTS:
        hint = console.did_you_mean(args.propensity, list(PROPENSITY_CONSTANTS))
        console.usage_error(f"--propensity '{args.propensity}' is not known{hint}")
    a, b = PROPENSITY_CONSTANTS.get(args.propensity, (args.a, args.b))
    a, b = (DEFAULT_CONSTANTS[0] if a is None else a), (DEFAULT_CONSTANTS[1] if b is None else b)
    kinds = ("P", "nDCG", "PSP") if args.train else ("P", "nDCG")
    names = args.metrics or [f"{kind}@{k}" for kind in kinds for k in (1, 3, 5)]

    y_true = data.load_labels(args.truth)
    y_pred = _load_ids(args.pred) if args.pred.suffix == ".npy" else None
    weights = None
    if args.train:
        y_train = data.load_labels(args.train)
        if y_train.shape[1] != y_true.shape[1]:
            raise ValueError(
                f"{args.train}: {y_train.shape[1]} labels, but {args.truth} has {y_true.shape[1]}"
            )
        weights = inv_propensity(y_train, a=a, b=b)
    evaluator = Evaluator(
        y_true.shape[1],
        names,
        inv_propensity=weights,
        empty_rows=args.empty_rows,
        psndcg=args.psndcg,
        keep_rows=args.bootstrap > 0,
        num_threads=args.threads,
    )
    exclude = data.load_pairs(args.filter, y_true.shape) if args.filter else None
    y_pred = data.load_scores(args.pred) if y_pred is None else y_pred
    try:
        evaluator.update(y_true, y_pred, exclude=exclude)
    except ValueError as error:
        raise ValueError(f"{args.pred} against {args.truth}: {error}") from None
    result = evaluator.result()
    if args.train:
        result.conventions["propensity"] = f"A = {a}, B = {b}"
    errors = {}
    if args.bootstrap:
        groups = data.load_texts(args.groups) if args.groups else None
        errors = result.standard_errors(groups, seed=args.seed, n_resamples=args.bootstrap)
    if args.json:
        extra = {"standard_errors": errors} if errors else {}
        print(json.dumps(result.as_json() | extra, indent=2))
        return
    print(console.table({"percent": result.metrics}, list(result.metrics), {"percent": errors}))
    if not args.quiet:
        console.say(
            f"{result.n_points} points ({result.n_empty} without positives), {result.n_labels} "
            f"labels, {result.n_excluded} excluded entries, {result.n_excluded_positives} excluded "
            "positives; " + ", ".join(f"{k}: {v}" for k, v in result.conventions.items())
        )


if __name__ == "__main__":
    raise SystemExit(console.run(main))
