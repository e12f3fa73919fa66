"""Documents on the command line: prompts that an application's calls begin with, and its model."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import (
    BaseMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
)

from langgraph_kvfork import ChatKVFork, Engine
from langgraph_kvfork.chat.call import Call
from langgraph_kvfork.checks import require
from langgraph_kvfork.cli.cache import store_path
from langgraph_kvfork.engine.store import Store
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.graph.model import find_model
from langgraph_kvfork.report.plain_text import fold, text_table


@dataclass(frozen=True)
class Documents:
    """The documents of a command line, and their model.

    Attributes:
        llm: The model, with the command's store.
        call: The arguments of the application's calls.
        files: The documents' files, and their messages.
    """

    llm: ChatKVFork
    call: Call
    files: dict[str, list[BaseMessage]]

    @property
    def engine(self) -> Engine:
        """The model's."""
        return self.llm.engine

    @property
    def store(self) -> Store:
        """The engine's."""
        store = self.engine._store
        assert store is not None
        return store

    @property
    def namespace(self) -> str | None:
        """That of the calls."""
        return self.call.request.namespace

    def tokens(self, file: str) -> list[int]:
        """Return the tokens that each prompt about a document begins with."""
        messages = self.llm._messages(self.files[file])
        return self.engine.tokenize(self.call.render(self.engine, messages, prefix=True))

    def tokens_in_store(self, file: str) -> int:
        """Return how many of these tokens the store has."""
        return int(self.store.stored(self.tokens(file), self.namespace)["tokens"])


def documents(options: argparse.Namespace) -> Documents:
    """Return the documents of a command line, and their model.

    Args:
        options: Its `files`, `llm`, `model`, `role`, `namespace` and `cache_dir`.

    Raises:
        InvalidRequestError: There is no store, no such model, or a file is no document.
        ModelLoadError: The model cannot be loaded.
    """
    llm, kwargs = _model(options)
    if options.cache_dir or not llm.cache_dir:
        llm = llm.model_copy(update={"cache_dir": store_path(options.cache_dir)})
    if options.namespace is not None:
        kwargs["namespace"] = options.namespace
    call = llm._call(None, kwargs)
    require(call.request.share_prefix, "share_prefix", False, "leave it out: nothing is kept")
    files = {file: _messages(file, options.role) for file in options.files}
    return Documents(llm, call, files)


def warmed(options: argparse.Namespace) -> dict[str, Any]:
    """Prefill documents into a store, those that are not there already.

    Args:
        options: What the command line gave.

    Returns:
        "path" (of the store) and "documents": of each its "file", its "tokens", how many of them
        were "forked", "restored" and "prefilled", the "seconds", and how many are "in_store".

    Raises:
        KVForkError: The model cannot be used, a file is no document, or the disk refuses.
    """
    asked = documents(options)
    with asked.llm:
        asked.engine.save()  # it is open now, and can be written
        found = []
        for file in asked.files:
            start = time.perf_counter()
            usage = asked.engine.prefill(asked.tokens(file), namespace=asked.namespace)
            asked.engine.save()
            one = {
                "file": file,
                "tokens": usage.prompt_tokens,
                "forked": usage.forked_tokens - usage.restored_tokens,
                "restored": usage.restored_tokens,
                "prefilled": usage.prefilled_tokens,
                "seconds": time.perf_counter() - start,
            }
            print(f"{file}: {usage.prompt_tokens:,} tokens", file=sys.stderr, flush=True)
            found.append(one)
        # of the first ones, too, which the last ones may have pushed out
        for one in found:
            one["in_store"] = asked.tokens_in_store(str(one["file"]))
        return {"path": asked.llm.cache_dir, "documents": found}


def warmed_text(found: dict[str, Any], width: int | None = None) -> str:
    """Return the result of `warmed` in words; `width`: the longest line."""
    table = [["document", "tokens", "there before", "computed", "in the store", "time"]]
    for one in found["documents"]:
        counts = [one["tokens"], one["forked"] + one["restored"], one["prefilled"], one["in_store"]]
        table.append([one["file"], *(f"{n:,}" for n in counts), f"{one['seconds']:.1f} s"])
    lines = [*text_table(table, width), "", f"in {found['path']}"]
    if lacking := [one["file"] for one in found["documents"] if one["in_store"] < one["tokens"]]:
        lines.append(
            f"Not all of {', '.join(lacking)} is in the store: raise cache_size; fewer than 64 "
            "tokens are computed as fast as they are read, and not kept."
        )
    return fold("\n".join(lines), width)


def is_all_there(found: dict[str, Any]) -> bool:
    """Return whether a store has all that `warmed` was asked for."""
    return all(one["in_store"] >= one["tokens"] for one in found["documents"])


def _model(options: argparse.Namespace) -> tuple[ChatKVFork, dict[str, Any]]:
    """Return the model that a command line names, and the arguments bound to it."""
    if options.llm is None:
        return ChatKVFork(model_path=options.model), {}
    require(options.model is None, "model", options.model, "give either --model or --llm")
    module, _, name = options.llm.partition(":")
    require(bool(module and name), "llm", options.llm, "give it as MODULE:NAME")
    try:
        given = importlib.import_module(module)
        for each in name.split("."):
            given = getattr(given, each)
    except (ImportError, AttributeError) as error:
        raise InvalidRequestError(f"llm={options.llm!r} is not possible: {error}.") from error
    found = find_model(given, ChatKVFork)
    remedy = "name a ChatKVFork, with arguments bound to it or a parser behind, but no prompt"
    require(found is not None and not found.before, "llm", options.llm, remedy)
    assert found is not None
    kwargs = {k: v for k, v in found.kwargs.items() if k != "ls_structured_output_format"}
    return found.model, kwargs


def _messages(file: str, role: str) -> list[BaseMessage]:
    """Return a document's messages: those of a JSON file, or one that is the file's text."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{file} cannot be read as text: {error}.") from error
    if not file.endswith(".json"):
        require(bool(text), "file", file, "it is empty")
        return [SystemMessage(text) if role == "system" else HumanMessage(text)]
    try:
        found = json.loads(text)
        messages = found["messages"] if isinstance(found, dict) else found
        require(isinstance(messages, list) and bool(messages), "messages", messages, "give a list")
        return list(convert_to_messages(messages))
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        remedy = 'a list of messages, such as [{"role": "system", "content": "..."}]'
        raise InvalidRequestError(f"{file} is not {remedy}: {error}") from error
