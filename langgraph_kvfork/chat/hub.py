"""Model files from the Hugging Face Hub."""

from __future__ import annotations

import fnmatch
import importlib
import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from langgraph_kvfork.errors import InvalidRequestError


def download(
    repo_id: str,
    filename: str,
    *,
    additional_files: Sequence[str] = (),
    local_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> str:
    """Download a model's files, unless they are there already, and return the first one's path.

    Args:
        repo_id: The repository, `owner/name`.
        filename: The file in it, or a glob pattern that matches one.
        additional_files: More of them.
        local_dir: Where to put the files; None: the hub's cache.
        cache_dir: The hub's cache, if not the default one.

    Raises:
        ImportError: The package `huggingface-hub` is missing.
        InvalidRequestError: No file matches, or more than one.
    """
    hub = _huggingface_hub()
    names = hub.HfApi().list_repo_files(repo_id)
    path, *_ = [
        hub.hf_hub_download(
            repo_id=repo_id,
            filename=_match(pattern, names, repo_id),
            local_dir=local_dir,
            cache_dir=cache_dir,
        )
        for pattern in (filename, *additional_files)
    ]
    return str(path)


def _huggingface_hub() -> Any:
    try:
        # not an import statement, which type checkers could only follow where it is installed
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(
            "from_pretrained needs the package huggingface-hub: "
            "`pip install 'langgraph-kvfork[hub]'`."
        ) from error


def _match(pattern: str, names: Sequence[str], repo_id: str) -> str:
    found = [name for name in names if fnmatch.fnmatch(name, pattern)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidRequestError(
            f"filename={pattern!r} matches {len(found)} files in {repo_id}: give one of "
            f"{', '.join(found)}."
        )
    models = [name for name in names if PurePosixPath(name).suffix == ".gguf"]
    raise InvalidRequestError(
        f"filename={pattern!r} matches no file in {repo_id}. Its GGUF files: "
        f"{', '.join(models) or 'none'}."
    )
