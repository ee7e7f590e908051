"""How many cores there are to share out."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Returns the cores that this process may keep busy: its affinity, or less where a container has a quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """Returns how many cores' time the container may use, None where nothing limits it or nothing says so."""
    try:
        quota, _, period = (cgroups / "cpu.max").read_text().partition(" ")  # cgroup 2: "150000 100000", "max 100000"
    except OSError:
        try:
            quota = (cgroups / "cpu" / "cpu.cfs_quota_us").read_text()  # cgroup 1: -1 is no limit
            period = (cgroups / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        cores = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return cores if cores > 0 else None
