"""How many threads an engine takes by default: from trees of files such as Linux kernels show."""

import math
import os
from pathlib import Path

import pytest

from langgraph_kvfork.machine.threads import cpu_limit, default_threads, strong_cores


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def siblings(pairs: dict[int, str]) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text
        for cpu, text in pairs.items()
    }


def test_two_threads_of_a_core_count_once(tmp_path):
    write(tmp_path, siblings({cpu: f"{cpu % 8},{cpu % 8 + 8}" for cpu in range(16)}))
    assert strong_cores(set(range(16)), tmp_path) == 8
    assert strong_cores({0, 1, 2, 8, 9, 10}, tmp_path) == 3


def test_a_few_processors_all_count(tmp_path):
    write(tmp_path, siblings({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}))
    assert strong_cores({0, 1, 2, 3}, tmp_path) == 4


def test_efficiency_cores_do_not_count_on_intels_hybrids(tmp_path):
    cores = {cpu: f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" for cpu in range(12)}
    write(tmp_path, siblings(cores | {cpu: str(cpu) for cpu in range(12, 20)}))
    write(tmp_path, {"sys/devices/cpu_core/cpus": "0-11", "sys/devices/cpu_atom/cpus": "12-19"})
    assert strong_cores(set(range(20)), tmp_path) == 6
    # unless the process has no others
    assert strong_cores(set(range(12, 20)), tmp_path) == 8


def test_efficiency_cores_do_not_count_where_capacities_differ(tmp_path):
    capacities = [250] * 4 + [870] * 5 + [1024]
    write(
        tmp_path,
        {f"sys/devices/system/cpu/cpu{i}/cpu_capacity": str(c) for i, c in enumerate(capacities)},
    )
    assert strong_cores(set(range(10)), tmp_path) == 6


def test_without_topology_each_processor_counts(tmp_path):
    assert strong_cores(set(range(6)), tmp_path) == 6


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, math.inf),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, math.inf),
        # the least of all groups that the process is in
        (
            {
                "proc/self/cgroup": "0::/a/b/c",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
                "sys/fs/cgroup/a/b/c/cpu.max": "max 100000",
            },
            2.0,
        ),
        # the path is the host's, the files are the container's
        (
            {"proc/self/cgroup": "0::/docker/0123", "sys/fs/cgroup/cpu.max": "50000 100000"},
            0.5,
        ),
        # version 1, which writes -1 for no limit, alone and beside version 2
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n0::/",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        # its controllers may be in another order than in the mount's name
        (
            {
                "proc/self/cgroup": "3:cpuacct,cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "70000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000",
            },
            1.4,
        ),
    ],
)
def test_the_limit_of_a_container_is_found(files, limit, tmp_path):
    assert cpu_limit(write(tmp_path, files)) == limit


def test_the_limit_bounds_the_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for limit, threads in [(0.1, 1), (1.2, 1), (1.25, 2), (1.5, 2), (2, 2), (9, 4), (math.inf, 4)]:
        monkeypatch.setattr("langgraph_kvfork.machine.threads.cpu_limit", lambda n=limit: n)
        assert default_threads() == threads
