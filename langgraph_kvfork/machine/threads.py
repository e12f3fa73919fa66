"""How many threads to compute with: the processors that this process has."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from langgraph_kvfork.machine.cgroup import ROOT, cgroup_folders, read_text

_WEAK = 0.5
"""A core with less than this share of the strongest one's capacity is an efficiency core."""

_FEW = 4
"""Up to so many processors all are used, though two may be one core's: half of them is too few."""

_PART = 0.25
"""Least part of a processor, beyond whole ones, that a thread of its own pays for."""


def default_threads() -> int:
    """Return the number of threads that an engine computes with, unless it is named.

    One for each core that the process may use; for each processor, if there are up to four.
    Efficiency cores beside stronger ones do not count: the threads of a graph meet after each
    operation, so all would wait for the slowest. A container's limit is kept; a part of a processor
    counts from a quarter on.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = strong_cores(set(os.sched_getaffinity(0)))
    else:
        cores = _apple_cores() or os.cpu_count() or 1
    return max(1, math.floor(min(cores, cpu_limit() + 1 - _PART)))


def strong_cores(allowed: set[int], root: Path = ROOT) -> int:
    """Count the strong cores among some of Linux's processors.

    Args:
        allowed: Processors that may be used, by their numbers.
        root: Where `sys` is.

    Returns:
        A count of cores; of processors, if there are up to four.
    """
    strong = _strong(allowed, root / "sys/devices")
    if len(strong) <= _FEW:
        return len(strong)
    cpus = root / "sys/devices/system/cpu"
    siblings = {
        read_text(cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in strong
    }
    return len(siblings)


def cpu_limit(root: Path = ROOT) -> float:
    """Return how many processors' time this process may use, by its cgroups; infinite: any.

    Args:
        root: Where `proc` and `sys` are.
    """
    return min(_limits(root), default=math.inf)


def _strong(allowed: set[int], devices: Path) -> set[int]:
    # Intel's kernel driver names the two kinds; elsewhere the scheduler has a capacity for each
    named = _numbers(read_text(devices / "cpu_core/cpus")) & allowed
    if named:
        return named
    capacity = {cpu: read_text(devices / f"system/cpu/cpu{cpu}/cpu_capacity") for cpu in allowed}
    known = {cpu: int(text) for cpu, text in capacity.items() if text.isdecimal()}
    least = _WEAK * max(known.values(), default=0)
    return {cpu for cpu in allowed if known.get(cpu, least) >= least}


def _limits(root: Path) -> Iterator[float]:
    for folder in cgroup_folders("cpu", root):
        quota, _, period = read_text(folder / "cpu.max").partition(" ")
        if not period:
            quota = read_text(folder / "cpu.cfs_quota_us")
            period = read_text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            yield int(quota) / int(period)


def _numbers(ranges: str) -> set[int]:
    """Return the numbers of a list such as `0-3,8`."""
    numbers: set[int] = set()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _apple_cores() -> int:
    """Return how many performance cores macOS says that there are; 0: it does not say."""
    if sys.platform != "darwin":
        return 0
    sysctl = ctypes.CDLL(None).sysctlbyname
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        count = ctypes.c_int32(0)
        size = ctypes.c_size_t(ctypes.sizeof(count))
        if sysctl(name, ctypes.byref(count), ctypes.byref(size), None, 0) == 0:
            return int(count.value)
    return 0
