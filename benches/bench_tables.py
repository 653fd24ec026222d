"""Reading tables: JSON lines and Parquet into a data set, beside pyarrow into Python objects.

    python benches/bench_tables.py [--rows 1000000]

Rows have 8 words and up to 3 of 100,000 labels, drawn from --seed. CPU seconds of one process, the
least of three readings; pyarrow reads the text column and the lists of labels into Python strings
and lists, and makes no matrix of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json
from pyarrow import parquet

from dexml import data


def write(folder: Path, n_rows: int, seed: int) -> tuple[Path, Path]:
    """Write the same rows as Parquet and as JSON lines."""
    rng = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(5000)])
    texts = [" ".join(row) for row in words[rng.integers(0, len(words), (n_rows, 8))]]
    drawn = rng.integers(0, 100_000, (n_rows, 3)).tolist()
    labels = [[f"label {i}" for i in sorted(set(row))] for row in drawn]
    columns, lines = folder / "rows.parquet", folder / "rows.jsonl"
    parquet.write_table(pa.table({"text": texts, "labels": labels}), columns)
    with lines.open("w") as file:
        for text, names in zip(texts, labels, strict=True):
            file.write(json.dumps({"text": text, "labels": names}) + "\n")
    return columns, lines


def listed(table: pa.Table) -> None:
    """Make Python objects of a table."""
    table["text"].to_pylist()
    table["labels"].to_pylist()


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds, the least of three."""
    spent = []
    for _ in range(3):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return min(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        columns, lines = write(Path(scratch), args.rows, args.seed)
        pairs = {
            "Parquet": (
                seconds(lambda: data.from_table(columns)),
                seconds(lambda: listed(parquet.read_table(columns))),
            ),
            "JSON lines": (
                seconds(lambda: data.from_table(lines)),
                seconds(lambda: listed(arrow_json.read_json(lines))),
            ),
        }
    print(
        "| | dexml, CPU s | rows a CPU second | pyarrow, CPU s | ratio |\n|---|---:|---:|---:|---:|"
    )
    for name, (ours, theirs) in pairs.items():
        print(
            f"| {name} | {ours:.1f} | {args.rows / ours:,.0f} | {theirs:.1f} "
            f"| {ours / theirs:.2f} |"
        )


if __name__ == "__main__":
    main()
