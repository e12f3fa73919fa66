"""How much memory a container leaves: from trees of files such as Linux kernels show."""

import pytest

from langgraph_kvfork.machine.free_memory import free_memory, free_of_limits

GIB = 1 << 30


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert list(free_of_limits(tmp_path)) == []


def test_a_group_without_a_limit_has_none(tmp_path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/app",
            "sys/fs/cgroup/app/memory.max": "max",
            "sys/fs/cgroup/app/memory.current": GIB,
        },
    )
    assert list(free_of_limits(tmp_path)) == []


def test_files_that_a_group_can_get_back_are_free(tmp_path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/app/worker",
            "sys/fs/cgroup/app/worker/memory.max": 8 * GIB,
            "sys/fs/cgroup/app/worker/memory.current": 3 * GIB,
            "sys/fs/cgroup/app/worker/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}",
            "sys/fs/cgroup/app/memory.max": 4 * GIB,
            "sys/fs/cgroup/app/memory.current": 4 * GIB,
        },
    )
    # the group's own, and its parent's, which is full
    assert list(free_of_limits(tmp_path)) == [7 * GIB, 0]


@pytest.mark.parametrize("path", ["/", "/docker/0123abcd"])
def test_version_1_in_a_container_whose_path_is_the_hosts(tmp_path, path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": f"5:cpu,cpuacct:{path}\n4:memory:{path}",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 2 * GIB,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": GIB,
        },
    )
    assert set(free_of_limits(tmp_path)) == {GIB}


def test_this_machine_has_some():
    assert 0 < free_memory() < 1 << 50
