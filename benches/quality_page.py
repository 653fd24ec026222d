"""Rows of quality.py: kept in one JSON file a data set, shown as tables of a page."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dexml.files import replacing

SHOWN = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@10", "R@100")
BEGIN, END = "<!-- tables of benches/quality.py -->", "<!-- end of the tables -->"
"""What `write_tables` writes anew in the page stands between these."""


@dataclass(frozen=True)
class Seed:
    """What one seed of a row reached and spent."""

    metrics: dict[str, float]
    errors: dict[str, float]
    """Bootstrap standard errors over points or groups of points."""
    cpu_seconds: float
    """User and system time of a process of its own, from its start to its end."""
    seconds: float
    peak_mb: int | None = None
    parts: dict[str, float] = field(default_factory=dict)
    """CPU seconds of the steps of a peer; start and imports are in none of them."""
    features: str = "none"
    """Of the frozen encoder: ``computed`` in this time, ``cached`` and not in it, or ``none``."""
    resumed: bool = False
    """The process went on with an earlier one, whose time is not in `cpu_seconds`."""
    commit: str | None = None
    machine: str | None = None
    """None: that of the row."""


@dataclass(frozen=True)
class Row:
    """A way to answer a data set, with all seeds that were measured."""

    command: str
    machine: str
    """Of the seed that was measured last."""
    encoder: str | None
    refit: bool = True
    errors_over: str = "points or groups of points"
    seeded: bool = True
    """Whether a seed makes a difference; otherwise the row was made once, and its name is 0."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages of a peer."""
    seeds: dict[str, Seed] = field(default_factory=dict)

    def mean(self, metric: str) -> float:
        return float(np.mean([seed.metrics[metric] for seed in self.seeds.values()]))

    def error(self, metric: str) -> float:
        """Standard error over points or groups: the mean of the seeds'."""
        return float(np.mean([seed.errors[metric] for seed in self.seeds.values()]))

    def seed_error(self, metric: str) -> float | None:
        """Standard error of the mean over seeds; None for a single one."""
        values = [seed.metrics[metric] for seed in self.seeds.values()]
        if len(values) < 2:
            return None
        return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def read_row(kept: dict[str, Any]) -> Row:
    """A row as it was kept, also by the first form of the file, which had one seed a row."""
    if "seeds" in kept:
        seeds = {name: Seed(**seed) for name, seed in kept["seeds"].items()}
        return Row(**{**kept, "seeds": seeds})
    names = ("metrics", "errors", "cpu_seconds", "seconds")
    alone = "--encoder none" in kept["command"]
    # mnrl trains the encoder; the others of that time had their features from a cache.
    cached = not alone and "MultipleNegatives" not in kept["command"]
    features = "cached" if cached else "none"
    seed = Seed(**{name: kept[name] for name in names}, features=features)
    return Row(
        command=kept["command"],
        machine=kept["machine"],
        encoder=None if alone else kept["encoder"],
        refit=kept["refit"],
        seeds={str(kept["seed"]): seed},
    )


def read_rows(path: Path) -> dict[str, Row]:
    """All rows of a data set, by name; none if there is no file."""
    if not path.exists():
        return {}
    return {name: read_row(kept) for name, kept in json.loads(path.read_text()).items()}


def keep(path: Path, name: str, row: Row) -> Row:
    """Add a row to the file, or its seeds to the row that is there; return what is there now.

    The other rows stay as they are. The file is read anew, because another process may have made
    other rows meanwhile.
    """
    kept = json.loads(path.read_text()) if path.exists() else {}
    if name in kept:
        old = read_row(kept[name])
        seeds = {
            number: replace(seed, machine=seed.machine or old.machine)
            for number, seed in old.seeds.items()
        }
        row = replace(row, seeds={**seeds, **row.seeds})
    kept[name] = asdict(row)
    with replacing(path) as beside:
        beside.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return row


def tables(paths: Iterable[Path]) -> str:
    """All results as Markdown."""
    return "\n".join(_table(path.stem, read_rows(path)) for path in paths)


def _table(title: str, rows: dict[str, Row]) -> str:
    over = sorted({row.errors_over for row in rows.values()} - {Row.errors_over})
    lines = [
        f"### {title}",
        "",
        f"± standard error over {' or '.join(over) or Row.errors_over}; a second ±: over seeds.",
        "",
        f"| | {' | '.join(SHOWN)} | CPU s | MB |",
        "|---" * (len(SHOWN) + 3) + "|",
    ]
    for name, row in rows.items():
        mark = "" if row.refit else " (no refit)"
        cells = [_cell(row, metric) for metric in SHOWN]
        lines.append(f"| {name}{mark} | {' | '.join(cells)} | {_cpu(row)} | {_memory(row)} |")
    lines.append("")
    for name, row in rows.items():
        numbers = ", ".join(row.seeds)
        seeds = f"seed{'s' * (len(row.seeds) > 1)} {numbers}" if row.seeded else "no seed"
        versions = "".join(f", {package} {version}" for package, version in row.versions.items())
        lines.append(f"- {name}: `{row.command}`, {seeds}{versions}")
    lines += ["", *_machines(rows), ""]
    return "\n".join(lines)


def _machines(rows: dict[str, Row]) -> list[str]:
    """Which rows come from which machine; their times are not comparable between two of them."""
    by_machine: dict[str, list[str]] = {}
    for name, row in rows.items():
        by_machine.setdefault(row.machine, []).append(name)
    if len(by_machine) == 1:
        return [f"Machine: {next(iter(by_machine))}."]
    lines = ["Machines, by what they measured:", ""]
    for machine, names in by_machine.items():
        lines += textwrap.wrap(f"- {machine}: {', '.join(names)}", 120, subsequent_indent="  ")
    return lines


def _cell(row: Row, metric: str) -> str:
    cell = f"{100 * row.mean(metric):.1f} ±{100 * row.error(metric):.1f}"
    spread = row.seed_error(metric)
    return cell if spread is None else f"{cell} ±{100 * spread:.1f}"


def _cpu(row: Row) -> str:
    """Mean over the seeds whose time is whole; if none is, the mean of all, and what it lacks.

    Only of the machine that measured last: times of two machines have no mean.
    """
    seeds = [s for s in row.seeds.values() if s.machine in (None, row.machine)]
    whole = [seed for seed in seeds if seed.features != "cached" and not seed.resumed]
    seconds = f"{np.mean([seed.cpu_seconds for seed in whole or seeds]):.0f}"
    if whole:
        return seconds
    lacks = {"features" if seed.features == "cached" else "start" for seed in seeds}
    return f"{seconds} + {', '.join(sorted(lacks))}"


def _memory(row: Row) -> str:
    peaks = [seed.peak_mb for seed in row.seeds.values() if seed.peak_mb is not None]
    return f"{max(peaks)}" if peaks else ""


def write_tables(page: Path, text: str) -> None:
    """Put the tables into the page, in the place of the former ones."""
    whole = page.read_text(encoding="utf-8")
    head, _, rest = whole.partition(BEGIN)
    _, _, tail = rest.partition(END)
    with replacing(page) as beside:
        beside.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}", encoding="utf-8")
