"""LangGraph fan-outs that prefill their shared context once.

Swap a graph's chat model for `ChatKVFork`: whatever its parallel branches have in common is
computed once, and each branch is a fork that shares its KV cells. `ForkNode` and `PrefillNode` say
the same explicitly. `Engine` is what runs below, for use without LangChain.

Importing this package loads nothing: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langgraph_kvfork.chat.errors import StructuredOutputError
    from langgraph_kvfork.chat.model import ChatKVFork
    from langgraph_kvfork.chat.small_pool import SmallPoolWarning
    from langgraph_kvfork.engine import (
        AsyncBranch,
        Branch,
        Done,
        Engine,
        EngineParams,
        EngineStats,
        Event,
        Logprob,
        PrefillProgress,
        RenderedPrompt,
        Request,
        Token,
        Usage,
    )
    from langgraph_kvfork.errors import (
        BranchCancelledError,
        BranchEndedError,
        ContextOverflowError,
        EngineClosedError,
        EqualAnswersWarning,
        GenerationError,
        GenerationTimeoutError,
        InvalidRequestError,
        KVForkError,
        MissingPackageError,
        ModelLoadError,
        NativeLibraryError,
        ProcessForkedError,
        PromptWarning,
        SchemaWarning,
        ServerWarning,
        StoreWarning,
    )
    from langgraph_kvfork.graph.branches import ForkBranch
    from langgraph_kvfork.graph.fork_node import ForkNode
    from langgraph_kvfork.graph.prefill_node import PrefillNode
    from langgraph_kvfork.graph.shared_prefix import SharedPrefix as SharedPrefix
    from langgraph_kvfork.graph.tree_search_node import SearchPath, TreeSearchNode
    from langgraph_kvfork.order.arrange import arrange
    from langgraph_kvfork.order.thoughts import ThoughtsDroppedWarning
    from langgraph_kvfork.order.watch import MessageOrderWarning
    from langgraph_kvfork.report.counts import ReportedCall
    from langgraph_kvfork.report.fork_report import ForkReport
    from langgraph_kvfork.report.metrics import record_metrics
    from langgraph_kvfork.server.model import ChatKVForkServer as ChatKVForkServer

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
    "EqualAnswersWarning",
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
    "MissingPackageError",
    "ModelLoadError",
    "NativeLibraryError",
    "PrefillNode",
    "PrefillProgress",
    "ProcessForkedError",
    "PromptWarning",
    "RenderedPrompt",
    "ReportedCall",
    "Request",
    "SchemaWarning",
    "SearchPath",
    "ServerWarning",
    "SmallPoolWarning",
    "StoreWarning",
    "StructuredOutputError",
    "ThoughtsDroppedWarning",
    "Token",
    "TreeSearchNode",
    "Usage",
    "arrange",
    "record_metrics",
]

_MODULES = {
    "chat.errors": ("StructuredOutputError",),
    "chat.model": ("ChatKVFork",),
    "chat.small_pool": ("SmallPoolWarning",),
    "engine": (
        "AsyncBranch",
        "Branch",
        "Done",
        "Engine",
        "EngineParams",
        "EngineStats",
        "Event",
        "Logprob",
        "PrefillProgress",
        "RenderedPrompt",
        "Request",
        "Token",
        "Usage",
    ),
    "graph.branches": ("ForkBranch",),
    "graph.fork_node": ("ForkNode",),
    "graph.prefill_node": ("PrefillNode",),
    # not in __all__: it needs a package that `import *` must not ask for
    "graph.shared_prefix": ("SharedPrefix",),
    "graph.tree_search_node": ("SearchPath", "TreeSearchNode"),
    "order.arrange": ("arrange",),
    "order.thoughts": ("ThoughtsDroppedWarning",),
    "order.watch": ("MessageOrderWarning",),
    "report.counts": ("ReportedCall",),
    "report.fork_report": ("ForkReport",),
    "report.metrics": ("record_metrics",),
    # neither: it needs langchain-openai
    "server.model": ("ChatKVForkServer",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
"""Where each name is; the other exceptions are in `errors`."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.metadata.version("langgraph-kvfork")
    if name not in __all__ and name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULE_OF})
