"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_OWN_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cores(own: Path = _OWN_GROUP, groups: Path = _GROUPS) -> int:
    """Return the cores of the affinity mask, or fewer if a control group grants less time.

    Libraries that count the machine's cores start too many threads in a container.

    Args:
        own: File that names the control groups of this process.
        groups: Where the control groups are mounted.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota(own, groups)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(own: Path, groups: Path) -> float | None:
    """Return the cores' worth of time that the groups above this process grant, the least."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # not Linux, or a sandbox
        return None
    grants = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [groups] if not controllers else [groups / "cpu", groups / controllers]
        inside = path.strip("/")
        for mount in mounts:
            # In a container the path is that of the host, and its own group is the mount itself.
            for folder in [mount, *_down(mount, inside)]:
                grants += [grant for grant in (_v2(folder), _v1(folder)) if grant is not None]
    return min(grants, default=None)


def _down(mount: Path, inside: str) -> list[Path]:
    """The folders from the mount down to a group."""
    names = [name for name in inside.split("/") if name]
    return [mount.joinpath(*names[: i + 1]) for i in range(len(names))]


def _v2(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return int(limit) / int(period) if limit != "max" else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1(folder: Path) -> float | None:
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return limit / period if limit > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
