"""The control groups that this process is in: what a container allows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def cgroup_folders(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Yield the folders of Linux's control groups whose limits hold for this process.

    A limit holds for all groups below it, so each group's parents are among them. In a container
    the path of a group may be the host's, which is not there: its parents are tried likewise.

    Args:
        controller: Whose groups, in version 1: "cpu" or "memory". Version 2 has one tree for all.
        root: Where `proc` and `sys` are.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [""]
        elif controller in controllers.split(","):
            mounts = [controllers, controller]
        else:
            continue
        inside = Path(path.lstrip("/"))
        for mount in mounts:
            for group in (inside, *inside.parents):
                yield root / "sys/fs/cgroup" / mount / group


def read_text(path: Path) -> str:
    """Return the text of a file of the kernel, stripped; "" if there is none, as in others."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
