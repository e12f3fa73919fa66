"""`cache`: what a store holds, whether it is whole, and how to make it smaller."""

from __future__ import annotations

import os
import time
from typing import Any

from langgraph_kvfork.checks import require
from langgraph_kvfork.engine.store import inventory
from langgraph_kvfork.engine.store_size import DEFAULT_SIZE, size_bytes
from langgraph_kvfork.native.abi import native
from langgraph_kvfork.report.plain_text import fold, size, text_table


def store_path(cache_dir: str | None) -> str:
    """Return where the store is that a command means.

    Raises:
        InvalidRequestError: Neither the command nor `KVFORK_CACHE_DIR` names one.
    """
    found = cache_dir or os.environ.get("KVFORK_CACHE_DIR")
    require(bool(found), "cache_dir", cache_dir, "give --cache-dir, or set KVFORK_CACHE_DIR")
    return os.path.abspath(os.path.expanduser(str(found)))


def listed(path: str, *, verify: bool) -> dict[str, Any]:
    """Return what a store holds.

    Args:
        path: Its folder.
        verify: Read every file wholly, instead of what it says that it is about.

    Returns:
        "path", "bytes", "damaged" (how many files are), and "shelves": what `kvf_store_list` tells.

    Raises:
        KVForkError: There is no store, or it cannot be read.
    """
    lib = native()
    shelves = inventory(lib, lib.kvf.kvf_store_list, os.fsencode(path), verify)
    return {
        "path": path,
        "bytes": sum(shelf["bytes"] for shelf in shelves),
        "damaged": sum(len(shelf["damaged"]) for shelf in shelves),
        "shelves": shelves,
    }


def pruned(path: str, max_size: str | None) -> dict[str, Any]:
    """Make a store smaller, and return what went: "path", "files" and "bytes".

    Args:
        path: Its folder.
        max_size: Most bytes that stay, a number or text such as "5GB"; None: what
            `KVFORK_CACHE_SIZE` says, else 10 GB; "0": nothing stays.

    Raises:
        InvalidRequestError: `max_size` is no size.
        KVForkError: There is no store, or it cannot be written.
    """
    lib = native()
    most = 0 if max_size == "0" else max_bytes(max_size)
    gone = inventory(lib, lib.kvf.kvf_store_prune, os.fsencode(path), most)
    return {"path": path, **gone}


def max_bytes(asked: str | None) -> int:
    """Return how many bytes a store may have.

    Args:
        asked: A number, or text such as "5GB"; None: what `KVFORK_CACHE_SIZE` says, else 10 GB.

    Raises:
        InvalidRequestError: It is no size.
    """
    return size_bytes("max_size", asked or os.environ.get("KVFORK_CACHE_SIZE") or DEFAULT_SIZE)


def list_text(found: dict[str, Any], width: int | None = None) -> str:
    """Return what `listed` found, in words; `width`: the longest line."""
    table = [["model", "namespace", "files", "tokens", "size", "last used"]]
    for shelf in found["shelves"]:
        about = shelf["about"]
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(shelf["used"]))
        counts = [f"{shelf[name]:,}" for name in ("files", "tokens")]
        names = [model_name(about), about.get("namespace") or "-"]
        table.append([*names, *counts, size(shelf["bytes"]), used])
    lines = [f"{found['path']}: {size(found['bytes'])}", ""]
    if found["shelves"]:
        lines += text_table(table, width)
    for shelf in found["shelves"]:
        lines += [f"damaged: {file['file']}: {file['why']}" for file in shelf["damaged"]]
    return fold("\n".join(lines), width)


def prune_text(found: dict[str, Any], width: int | None = None) -> str:
    """Return what `pruned` did, in words; `width`: the longest line."""
    text = f"{found['path']}: {found['files']:,} files went, {size(found['bytes'])}"
    return fold(text, width)


def model_name(about: dict[str, Any]) -> str:
    """Return the name of a shelf's model, that of the process that made the shelf."""
    return str(about.get("name") or "-")
