"""How much memory is free for this process: the machine's, or its container's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from langgraph_kvfork.machine.cgroup import ROOT, cgroup_folders, read_text


def free_memory() -> int:
    """Return how many bytes of the host's memory this process can still take.

    What the system can get back at once, such as files that it keeps in memory, counts as free. The
    limits of control groups, which a container has, are kept.
    """
    import psutil  # here, since only loading a model and the command line need it

    return min(int(psutil.virtual_memory().available), *free_of_limits())


def spare(free: int) -> int:
    """Return how many of the bytes that are free an engine leaves to others."""
    return free // 4


def free_of_limits(root: Path = ROOT) -> Iterator[int]:
    """Yield how many bytes each limit on this process's memory leaves.

    Args:
        root: Where `proc` and `sys` are.
    """
    for folder in cgroup_folders("memory", root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, now = read_text(folder / limit), read_text(folder / used)
            if most.isdecimal() and now.isdecimal():
                yield max(int(most) - int(now) + _files(folder), 0)


def _files(folder: Path) -> int:
    """Return how many bytes of a group are files that it can get back."""
    for line in read_text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdecimal():
            return int(value)
    return 0
