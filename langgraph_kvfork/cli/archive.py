"""`cache export` and `cache import`: the contents of a store as one file.

An archive is a tar file, uncompressed, since keys and values hardly get smaller: of each model and
namespace a folder with `about.json`, which says what was computed with what, and the segments.
Their names and checksums are in them, so an import reads all of it and takes what is as it was.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from langgraph_kvfork.checks import require
from langgraph_kvfork.cli.cache import listed, max_bytes
from langgraph_kvfork.cli.documents import Documents
from langgraph_kvfork.engine.store import inventory
from langgraph_kvfork.errors import InvalidRequestError, KVForkError
from langgraph_kvfork.native.abi import native
from langgraph_kvfork.report.plain_text import fold, size

_MEMBER = re.compile(r"[0-9a-f]{64}/(about\.json|[0-9]{8,10}-[0-9a-f]{64}\.kv)")


def exported(
    path: str, archive: str, namespace: str | None, asked: Documents | None
) -> dict[str, Any]:
    """Write a store's contents into a file that only this user can read.

    Args:
        path: The store's folder.
        archive: The file; it must not exist.
        namespace: Only the prefixes of this one; None: all.
        asked: Only the beginnings of these documents; None: all.

    Returns:
        "archive", "files", "bytes", and "left_out": files that were found damaged.

    Raises:
        KVForkError: There is no store, nothing of that in it, or a file cannot be written.
    """
    # of all that is there, all is read; of some documents, an import will find what is damaged
    found = listed(path, verify=asked is None)
    damaged = {f"{s['shelf']}/{one['file']}" for s in found["shelves"] for one in s["damaged"]}
    shelves = {s["shelf"]: s["about"] for s in found["shelves"]}
    files = _files(path, shelves, namespace) if asked is None else _files_of(asked)
    chosen = [file for file in files if file not in damaged]
    remedy = "nothing of what was asked for is in the store: look with cache list"
    require(bool(chosen), "archive", archive, remedy)
    abouts = [f"{shelf}/about.json" for shelf in dict.fromkeys(f.partition("/")[0] for f in chosen)]
    # those that come before others are written before them
    members = [*abouts, *sorted(chosen, key=_end)]
    try:
        _write(path, archive, members)
    except OSError as error:
        raise KVForkError(f"{archive} cannot be written: {error}.") from error
    return {
        "archive": archive,
        "files": len(chosen),
        "bytes": os.path.getsize(archive),
        "left_out": sorted(damaged & {*files}),
    }


def imported(path: str, archive: str, most: str | None) -> dict[str, Any]:
    """Take an archive's contents into a store.

    Args:
        path: The store's folder; it is made if it is not there.
        archive: A file of `exported`.
        most: Most bytes of all files in the store, as `max_bytes` takes it.

    Returns:
        The object of `kvf_store_import`, with "path" and "archive".

    Raises:
        InvalidRequestError: It is no archive, or larger than the store may be.
        KVForkError: The store cannot be written.
    """
    n_bytes, lib = max_bytes(most), native()
    with tempfile.TemporaryDirectory(prefix="kvfork-import-", dir=_parent(path)) as folder:
        _unpack(archive, folder, n_bytes)
        told = inventory(
            lib, lib.kvf.kvf_store_import, os.fsencode(path), os.fsencode(folder), n_bytes
        )
    return {"path": path, "archive": archive, **told}


def exported_text(found: dict[str, Any], width: int | None = None) -> str:
    """Return the result of `exported` in words; `width`: the longest line."""
    lines = [f"{found['archive']}: {found['files']:,} files, {size(found['bytes'])}"]
    lines += [f"left out, since it is damaged: {file}" for file in found["left_out"]]
    lines.append("Whoever can read it can read what was in the prompts.")
    return fold("\n".join(lines), width)


def imported_text(found: dict[str, Any], width: int | None = None) -> str:
    """Return the result of `imported` in words; `width`: the longest line."""
    lines = [
        f"{found['path']}: {found['files']:,} files are new, {found['tokens']:,} tokens, "
        f"{size(found['bytes'])}; {found['known']:,} were there"
    ]
    whys: dict[str, int] = {}
    for one in found["refused"]:
        whys[one["why"]] = whys.get(one["why"], 0) + 1
    lines += [f"refused {count:,} files: {why}" for why, count in whys.items()]
    return fold("\n".join(lines), width)


def _files(path: str, abouts: Mapping[str, Any], namespace: str | None) -> list[str]:
    """Return a store's segments, in its folder, as `shelf/file`."""
    return [
        f"{shelf}/{file.name}"
        for shelf, about in abouts.items()
        if namespace is None or about.get("namespace") == namespace
        for file in Path(path, shelf).glob("*.kv")
        if _MEMBER.fullmatch(f"{shelf}/{file.name}")
    ]


def _files_of(asked: Documents) -> list[str]:
    """Return the segments that documents have to themselves, or with others from the beginning."""
    with asked.llm:
        found = [
            asked.store.stored(asked.tokens(file), asked.namespace)["files"] for file in asked.files
        ]
    return list(dict.fromkeys(file for files in found for file in files))


def _end(member: str) -> tuple[int, str]:
    """Return the position behind a segment's last token, and its name."""
    return int(member.partition("/")[2].partition("-")[0]), member


def _write(path: str, archive: str, members: Iterable[str]) -> None:
    file = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as out, tarfile.open(fileobj=out, mode="w") as tar:
            for member in members:
                tar.add(Path(path, member), arcname=member, recursive=False, filter=_nobodys)
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        os.unlink(archive)
        raise


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an archive's member without what it says of this machine and its users."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


def _unpack(archive: str, folder: str, n_bytes: int) -> None:
    """Unpack an archive into a folder that is empty.

    Raises:
        InvalidRequestError: It is no archive of a store, or has more than `n_bytes`.
    """
    try:
        with tarfile.open(archive, mode="r:") as tar:
            total = 0
            for member in tar:
                is_ours = member.isreg() and _MEMBER.fullmatch(member.name)
                require(bool(is_ours), "archive", archive, f"it has {member.name!r}, as no export")
                total += member.size
                remedy = f"it is larger than the store may be ({n_bytes:,} bytes): raise cache_size"
                require(total <= n_bytes, "archive", archive, remedy)
                target = Path(folder, member.name)
                target.parent.mkdir(mode=0o700, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                with source, target.open("xb") as out:
                    shutil.copyfileobj(source, out)
    except (OSError, tarfile.TarError) as error:
        raise InvalidRequestError(
            f"archive={archive!r} is not possible: pass a file of cache export. ({error})"
        ) from error


def _parent(path: str) -> str | None:
    """Return the nearest folder above a store that is there: so unpacking needs no other disk."""
    return next((str(p) for p in Path(path).parents if os.access(p, os.W_OK)), None)
