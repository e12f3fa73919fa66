"""A prefix that is prefilled ahead, and put into the store at once."""

from __future__ import annotations

from collections.abc import Callable

from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.checks import require
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.errors import GenerationError, StoreWarning
from langgraph_kvfork.warning import warn


def check_save(save: object, request: Request, params: Callable[[], EngineParams]) -> None:
    """Refuse to save a prefix where that makes no sense, before anything is computed.

    Args:
        save: What was asked for.
        request: The call.
        params: Returns the engine's; it may look at files.

    Raises:
        InvalidRequestError: `save` is no truth value; or there is no store, or nothing to share.
    """
    require(isinstance(save, bool), "save", save, "pass True or False")
    if not save:
        return
    remedy = "with share_prefix=False nothing is kept, so leave one of them out"
    require(request.share_prefix, "save", save, remedy)
    remedy = "there is no store, so pass cache_dir to the model too, or set KVFORK_CACHE_DIR"
    require(params().cache_dir is not None, "save", save, remedy)


def save_prefix(engine: Engine) -> None:
    """Write an engine's snapshots to its store; warn if the store does not take it.

    Raises:
        EngineClosedError: The engine is closed.
    """
    try:
        engine.save()
    except GenerationError as error:
        warn(f"What was prefilled is not in the store: {error}", StoreWarning)
