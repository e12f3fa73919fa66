"""Counts of bytes and milliseconds, for people."""

from __future__ import annotations


def size(n_bytes: int) -> str:
    """Return a count of bytes for people."""
    if n_bytes < 2**30:
        return f"{n_bytes / 2**20:.0f} MiB"
    return f"{n_bytes / 2**30:.1f} GiB"


def duration(milliseconds: float) -> str:
    """Return a time for people."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.1f} s"
