"""An engine runs one model in this process.

It knows tokens and branches, and no messages or graphs. It needs no LangChain.
"""

from langgraph_kvfork.branches.branch import AsyncBranch, Branch
from langgraph_kvfork.branches.events import Done, Event, Logprob, PrefillProgress, Token, Usage
from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.engine.chat_template import RenderedPrompt
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.engine.stats import EngineStats

__all__ = [
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
]
