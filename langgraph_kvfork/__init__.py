"""LangGraph fan-outs that prefill their shared context once.

Swap a graph's chat model for `ChatKVFork`: whatever its parallel branches have in common is
computed once, and each branch is a fork that shares its KV cells. `ForkNode` and `PrefillNode` say
the same explicitly. `Engine` is what runs below, for use without LangChain.

Importing this package loads nothing: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langgraph_kvfork.branch import AsyncBranch, Branch
    from langgraph_kvfork.chat_model import ChatKVFork
    from langgraph_kvfork.engine import Engine
    from langgraph_kvfork.engine_params import EngineParams
    from langgraph_kvfork.errors import (
        BranchCancelledError,
        BranchEndedError,
        ContextOverflowError,
        EngineClosedError,
        GenerationError,
        GenerationTimeoutError,
        InvalidRequestError,
        KVForkError,
        ModelLoadError,
        NativeLibraryError,
        ProcessForkedError,
        StructuredOutputError,
    )
    from langgraph_kvfork.events import Done, Event, Logprob, PrefillProgress, Token, Usage
    from langgraph_kvfork.fork_branch import ForkBranch
    from langgraph_kvfork.fork_node import ForkNode
    from langgraph_kvfork.fork_report import ForkReport, ReportedCall
    from langgraph_kvfork.message_order import MessageOrderWarning, arrange
    from langgraph_kvfork.prefill_node import PrefillNode
    from langgraph_kvfork.rendered_prompt import RenderedPrompt
    from langgraph_kvfork.request import Request
    from langgraph_kvfork.shared_prefix import SharedPrefix as SharedPrefix
    from langgraph_kvfork.stats import EngineStats
    from langgraph_kvfork.tree_search_node import SearchPath, TreeSearchNode

__all__ = [
    "AsyncBranch",
    "Branch",
    "BranchCancelledError",
    "BranchEndedError",
    "ChatKVFork",
    "ContextOverflowError",
    "Done",
    "Engine",
    "EngineClosedError",
    "EngineParams",
    "EngineStats",
    "Event",
    "ForkBranch",
    "ForkNode",
    "ForkReport",
    "GenerationError",
    "GenerationTimeoutError",
    "InvalidRequestError",
    "KVForkError",
    "Logprob",
    "MessageOrderWarning",
    "ModelLoadError",
    "NativeLibraryError",
    "PrefillNode",
    "PrefillProgress",
    "ProcessForkedError",
    "RenderedPrompt",
    "ReportedCall",
    "Request",
    "SearchPath",
    "StructuredOutputError",
    "Token",
    "TreeSearchNode",
    "Usage",
    "arrange",
]

_MODULES = {
    "AsyncBranch": "branch",
    "Branch": "branch",
    "ChatKVFork": "chat_model",
    "Done": "events",
    "Engine": "engine",
    "EngineParams": "engine_params",
    "EngineStats": "stats",
    "Event": "events",
    "ForkBranch": "fork_branch",
    "ForkNode": "fork_node",
    "ForkReport": "fork_report",
    "Logprob": "events",
    "MessageOrderWarning": "message_order",
    "PrefillNode": "prefill_node",
    "PrefillProgress": "events",
    "RenderedPrompt": "rendered_prompt",
    "ReportedCall": "fork_report",
    "Request": "request",
    "SearchPath": "tree_search_node",
    "SharedPrefix": "shared_prefix",
    "Token": "events",
    "TreeSearchNode": "tree_search_node",
    "Usage": "events",
    "arrange": "message_order",
}
"""Where each name is; the exceptions are all in `errors`.

`SharedPrefix` is not in `__all__`: it needs a package that `import *` must not ask for.
"""


def __getattr__(name: str) -> object:
    if name not in __all__ and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
