"""How much memory this machine, or this container, still has. Imports no torch: launchers ask too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Limit, use, and the parts of memory.stat that the kernel gives back when asked: cgroup 2, then 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def free_memory_bytes() -> float:
    """What new processes can have, by the machine and by every control group around us; else infinite."""
    return max(0.0, min([_free_of_machine(), *map(_free_of_group, _groups())]))


def _free_of_machine() -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def _groups() -> Iterator[Path]:
    """Folders of the control groups that may limit this process's memory, the innermost first."""
    roots = {"": Path("/sys/fs/cgroup"), "memory": Path("/sys/fs/cgroup/memory")}
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in roots.keys() & set(controllers.split(",")):
            inner = roots[name] / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(roots[name]))


def _free_of_group(folder: Path) -> float:
    for limit, used, reclaimable in CGROUP_FILES:
        with suppress(OSError, ValueError):
            room = float((folder / limit).read_text()) - float((folder / used).read_text())
            stated = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return room + sum(float(stated.get(part, 0)) for part in reclaimable)
    return float("inf")
