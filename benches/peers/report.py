"""Agreement of values, medians and ratios, and the page that shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from peers.jobs import Competitor, Task, Values

Sample = dict[str, Any]
"""What a worker printed."""


@dataclass
class Entry:
    """A competitor in the race, with a number of threads and what it has shown so far."""

    competitor: Competitor
    python: str
    version: str
    threads: int
    rows: int | None
    scale: float
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""
    agreement: dict[str, Any] = field(default_factory=dict)

    def seconds(self, clock: str) -> float:
        """Median over the rounds of ``"cpu_s"`` or ``"wall_s"``, scaled to all rows."""
        return self.scale * float(median(sample[clock] for sample in self.samples))


def compare(values: Values, expected: Values, competitor: Competitor) -> dict[str, Any]:
    """Compare the values both have; `faults` names what disagrees without being documented."""
    faults: list[str] = []
    largest, compared = 0.0, 0
    for name in sorted(values.keys() & expected.keys()):
        if name in competitor.differs or "*" in competitor.differs:
            continue
        compared += 1
        found, wanted = values[name], expected[name]
        if isinstance(found, str) or isinstance(wanted, str):
            if found != wanted:
                faults.append(f"{name}: {found}, expected {wanted}")
            continue
        difference = abs(found - wanted) / max(abs(wanted), 1e-12) if found != wanted else 0.0
        if not difference <= competitor.tolerance:  # catches NaN
            faults.append(f"{name}: {found!r}, expected {wanted!r}")
        largest = max(largest, difference)
    if not compared and not competitor.differs and not competitor.floor:
        faults.append("no value that could be compared")
    if math.isnan(largest):
        largest = math.inf
    return {"compared": compared, "largest_difference": largest, "faults": faults}


def summary(task: Task, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One object for each entry that ran, with ratios to ours of its kind and threads.

    An entry whose values disagree has no times in it.
    """
    rows = []
    for entry in entries:
        competitor = entry.competitor
        row: dict[str, Any] = {
            "name": competitor.name,
            "version": entry.version,
            "computes": competitor.computes,
            "kind": competitor.kind,
            "threads": entry.threads,
            "rows": entry.rows,
            "scaled_by": entry.scale,
            "floor": competitor.floor,
            "documented_differences": competitor.differs,
            **entry.agreement,
        }
        if entry.failure:
            row["failure"] = entry.failure
        elif entry.samples and not entry.agreement.get("faults"):
            cpu, wall = entry.seconds("cpu_s"), entry.seconds("wall_s")
            row |= {
                "cpu_s": cpu,
                "wall_s": wall,
                "peak_mb": median(sample["peak_mb"] for sample in entry.samples),
                "rate": task.rate(entry.samples[0]["work"], cpu),
                "rounds": len(entry.samples),
                "runs": sum(sample["runs"] for sample in entry.samples),
                "every_cpu_s": [entry.scale * sample["cpu_s"] for sample in entry.samples],
                "every_wall_s": [entry.scale * sample["wall_s"] for sample in entry.samples],
            }
            ours = _ours(entries, entry)
            if ours is not None:
                row["cpu_ratio"] = cpu / ours.seconds("cpu_s")
                row["wall_ratio"] = wall / ours.seconds("wall_s")
        rows.append(row)
    return rows


def _ours(entries: Sequence[Entry], entry: Entry) -> Entry | None:
    """Our entry to compare with: same threads, same kind of input where there is one."""
    own = [e for e in entries if e.competitor.ours and e.samples and not e.failure]
    own = [e for e in own if e.threads == entry.threads and not e.agreement.get("faults")]
    same = [e for e in own if e.competitor.kind == entry.competitor.kind]
    return (same or own or [None])[0]  # type: ignore[list-item]


def page(report: dict[str, Any]) -> str:
    """The results as Markdown: a summary, then a table for each task."""
    machine, size = report["machine"], report["size"]
    commit, _, dirty = report["commit"].partition("-")
    commit = commit[:10] + (", with changes" if dirty else "")
    lines = [
        "# dexml against its peers",
        "",
        f"`{report['command']}`, {report['date']}, commit {commit}; "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; "
        f"Python {machine['python']}, size `{size['name']}`.",
        "",
        "CPU seconds (user and system) are the medians over the rounds, on one core that the",
        "tool may not leave; the rate is work per CPU second. Wall seconds are those with all",
        "cores, for tools that can use them. Ratios say how many times our seconds a tool needs,",
        "for the same input format (ids or CSR) where there are two.",
        "Memory is the peak above the inputs, mapped pages of a file included. Values are compared",
        "in the same run: a tool that disagrees without a known reason has no times here.",
        "",
        "| task | dexml | best peer | CPU ratio | wall ratio, all cores |",
        "|---|---|---|---|---|",
    ]
    for name, task in report["tasks"].items():
        line = _summary_line(task)
        if line:
            lines.append(f"| [{task['title']}](#{name}) {line}")
    for name, task in report["tasks"].items():
        lines += ["", f'<a id="{name}"></a>', "", f"## {task['title']}", "", *_table(task)]
    return "\n".join(lines) + "\n"


def _timed(task: dict[str, Any], all_cores: bool) -> list[dict[str, Any]]:
    rows = [row for row in task["entries"] if "cpu_s" in row]
    if not all_cores:
        return [row for row in rows if row["threads"] == 1]
    most: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["threads"] >= most.get(row["name"], row)["threads"]:
            most[row["name"]] = row
    return list(most.values())


def _is_ours(row: dict[str, Any]) -> bool:
    return str(row["name"]).startswith("dexml")


def _same_kind(rows: list[dict[str, Any]], peer: dict[str, Any]) -> dict[str, Any] | None:
    """Ours with the input format of a peer, or our first."""
    ours = [row for row in rows if _is_ours(row)]
    return next((row for row in ours if row["kind"] == peer["kind"]), ours[0] if ours else None)


def _summary_line(task: dict[str, Any]) -> str:
    """The peer with the fewest CPU seconds, and the first done; nothing without ours or a peer."""
    single = [row for row in _timed(task, False) if not row["floor"]]
    wide = [row for row in _timed(task, True) if not row["floor"]]
    peers = [row for row in single if not _is_ours(row)]
    if not peers:
        return ""
    best = min(peers, key=lambda row: row["cpu_s"])
    fastest = min((row for row in wide if not _is_ours(row)), key=lambda row: row["wall_s"])
    ours, ours_wide = _same_kind(single, best), _same_kind(wide, fastest)
    if ours is None or ours_wide is None:
        return ""
    return (
        f"| {_number(ours['rate'])} {_unit(task)} | {best['name']}: {_number(best['rate'])} "
        f"| {_number(best['cpu_s'] / ours['cpu_s'])} "
        f"| {_number(fastest['wall_s'] / ours_wide['wall_s'])} ({fastest['name']}) |"
    )


def _unit(task: dict[str, Any]) -> str:
    return str(task["unit"]).replace("us/", "µs/")


def _table(task: dict[str, Any]) -> list[str]:
    lines = [
        f"| tool | computes | CPU s | {_unit(task)} | wall s | peak MB | CPU ratio | wall ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    wide = {row["name"]: row for row in _timed(task, True)}
    notes: list[str] = []
    for row in _timed(task, False):
        most = wide[row["name"]]
        version = "" if _is_ours(row) else f" {row['version']}"
        floor = " (a floor)" if row["floor"] else ""
        mark = ""
        if row["scaled_by"] > 1:
            mark = " *"
            notes.append(
                f"\\* {row['name']}: first {row['rows']:,} rows, times scaled "
                f"by {row['scaled_by']:.1f}, memory as it was."
            )
        for what, why in row["documented_differences"].items():
            notes.append(f"{row['name']}, {'values' if what == '*' else what}: {why}.")
        ours = _same_kind(list(wide.values()), row)
        ratio = most["wall_s"] / ours["wall_s"] if ours is not None else None
        lines.append(
            f"| {row['name']}{version}{floor}{mark} | {row['computes']} | {_number(row['cpu_s'])} "
            f"| {_number(row['rate'])} | {_number(most['wall_s'])} | {_number(row['peak_mb'])} "
            f"| {_number(row.get('cpu_ratio'))} | {_number(ratio)} |"
        )
    for row in task["entries"]:
        if row.get("failure"):
            notes.append(f"{row['name']}, {row['threads']} threads: failed, {row['failure']}.")
        elif row.get("faults"):
            notes.append(f"{row['name']}: values disagree, no times: {'; '.join(row['faults'])}.")
    notes += [f"{name}: skipped, {why}." for name, why in task["skipped"].items()]
    return [*lines, *(f"\n{note}" for note in dict.fromkeys(notes))]


def _number(value: float | None) -> str:
    """Three digits, without an exponent."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
