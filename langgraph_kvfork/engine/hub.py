"""Model files from the Hugging Face Hub, or from its cache where there is no network.

`huggingface_hub` does the work: the cache, its links, revisions, tokens, resumed downloads, being
offline. What is added here is that a pattern has to match one file, so that nobody downloads ten
quantizations of a model, and that all parts of a split file come with the first.
"""

from __future__ import annotations

import fnmatch
import glob
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from langgraph_kvfork.checks import require
from langgraph_kvfork.errors import InvalidRequestError, MissingPackageError

_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
"""llama.cpp's names of the parts of a split file."""


def download(
    repo_id: str,
    filename: str,
    *,
    additional_files: Sequence[str] = (),
    revision: str | None = None,
    token: str | bool | None = None,
    local_dir: str | os.PathLike[str] | None = None,
    hub_cache_dir: str | os.PathLike[str] | None = None,
) -> str:
    """Download a model's files, unless they are there already, and return the first one's path.

    Args:
        repo_id: The repository, `owner/name`.
        filename: The file in it, or a glob pattern that matches one; of a split file, the first
            part, with which the others come.
        additional_files: More of them.
        revision: A branch, tag or commit; None: the main branch.
        token: Access token; None: the one that is logged in; False: none.
        local_dir: Where to put the files; None: the hub's cache.
        hub_cache_dir: The hub's cache; None: the default one.

    Raises:
        MissingPackageError: The package `huggingface-hub` is missing.
        InvalidRequestError: No file matches, or more than one.
    """
    for name, value in (("repo_id", repo_id), ("filename", filename)):
        require(bool(value), name, value, "pass its name")
    for name, folder in (("local_dir", local_dir), ("hub_cache_dir", hub_cache_dir)):
        # an empty path, of a variable that is not set, would be the working directory
        require(folder is None or bool(os.fspath(folder)), name, folder, "pass a folder, or None")
    hub = _huggingface_hub()
    source = {
        "repo_id": repo_id,
        "revision": revision,
        "token": token,
        "local_dir": local_dir,
        "cache_dir": hub_cache_dir,
    }
    names = _names(hub, source)
    wanted = [_match(pattern, names, repo_id) for pattern in (filename, *additional_files)]
    parts = [name for first in wanted for name in names if _is_part_of(name, first)]
    exact = [glob.escape(name) for name in dict.fromkeys([*wanted, *parts])]
    folder = hub.snapshot_download(**source, allow_patterns=exact)
    return str(Path(folder, wanted[0]))


def _names(hub: Any, source: dict[str, Any]) -> list[str]:
    """Return the names of a repository's files; without a network, of those in the cache."""
    try:
        api = hub.HfApi(token=source["token"])
        return list(api.list_repo_files(source["repo_id"], revision=source["revision"]))
    except _no_network(hub):
        folder = Path(hub.snapshot_download(**source, local_files_only=True))
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _no_network(hub: Any) -> tuple[type[Exception], ...]:
    """Return the errors of a network that is not there; an answer of the hub is another one."""
    errors: list[type[Exception]] = [ConnectionError, hub.errors.OfflineModeIsEnabled]
    # which of them the hub's package uses depends on its version
    for package, name in (("requests", "ConnectionError"), ("httpx", "TransportError")):
        if package in sys.modules:
            errors.append(getattr(sys.modules[package], name))
    return tuple(errors)


def _is_part_of(name: str, first: str) -> bool:
    return bool(_PART.search(first)) and _PART.sub("", name) == _PART.sub("", first)


def _huggingface_hub() -> Any:
    try:
        # not an import statement, which type checkers could only follow where it is installed
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingPackageError(
            "from_pretrained needs the package huggingface-hub: "
            "`pip install 'langgraph-kvfork[hub]'`."
        ) from error


def _match(pattern: str, names: Sequence[str], repo_id: str) -> str:
    found = [name for name in names if fnmatch.fnmatch(name, pattern)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidRequestError(
            f"filename={pattern!r} matches {len(found)} files in {repo_id}: pass one of "
            f"{', '.join(found)}."
        )
    models = [name for name in names if PurePosixPath(name).suffix == ".gguf"]
    raise InvalidRequestError(
        f"filename={pattern!r} matches no file in {repo_id}. Its GGUF files: "
        f"{', '.join(models) or 'none'}."
    )
