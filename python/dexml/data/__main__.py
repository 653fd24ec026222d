"""The command ``python -m dexml.data``: is this folder or matrix whole, and what is in it?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dexml import console, data
from dexml.data import Csr


def describe(name: str, y: Csr) -> str:
    """One line on a matrix: shape, entries, labels a row, empty rows, labels without a row."""
    counts = np.bincount(y.indices[y.data > 0], minlength=y.shape[1])
    return (
        f"{name}: {y.shape[0]} x {y.shape[1]}, {y.nnz} entries, {y.nnz / max(1, y.shape[0]):.2f} "
        f"a row, {int((np.diff(y.indptr) == 0).sum())} rows empty, "
        f"{int((counts == 0).sum())} labels without a row"
    )


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.data stats|check PATH``."""
    parser = console.Parser(prog="python -m dexml.data", description=__doc__, allow_abbrev=False)
    parser.add_argument("action", choices=["stats", "check"], help="check: say only what is wrong")
    parser.add_argument("path", type=Path, help="a folder in the LF layout, or a label matrix")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args(argv)
    if args.path.is_dir():
        dataset = data.load_dataset(args.path)
        matrices = {"training": dataset.y_train, "test": dataset.y_test}
        pairs = {"training filter": dataset.exclude_train, "test filter": dataset.exclude_test}
        matrices |= {name: y for name, y in pairs.items() if y is not None}
    else:
        matrices = {str(args.path): data.load_labels(args.path)}
    if args.action == "check":
        print(f"{args.path}: ok")
        return
    for name, y in matrices.items():
        print(describe(name, y))


if __name__ == "__main__":
    raise SystemExit(console.run(main))
