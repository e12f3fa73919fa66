"""The model or graph that a runnable is made of: what is wrapped around it is seen through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Found(Generic[_Kind]):
    """What answers in a runnable.

    Attributes:
        model: The model or graph itself.
        kwargs: What is bound to it for every call.
        before: The runnables that its input goes through first.
    """

    model: _Kind
    kwargs: dict[str, Any]
    before: tuple[Runnable[Any, Any], ...] = ()


def find_model(
    llm: object, kind: type[_Kind], config: RunnableConfig | None = None
) -> Found[_Kind] | None:
    """Return the first of a kind in a runnable, or None.

    Bindings, retries and listeners, fallbacks, sequences, parallels, and configurable fields and
    alternatives are seen through. Of fallbacks it is the first one's.

    Args:
        llm: Where to look.
        kind: A class.
        config: The call's: configurable alternatives are chosen by it. None: the default ones.
    """
    if isinstance(llm, kind):
        return Found(llm, {})
    if isinstance(llm, RunnableBindingBase):
        found = find_model(llm.bound, kind, merge_configs(llm.config, config))
        return found and replace(found, kwargs={**found.kwargs, **llm.kwargs})
    if isinstance(llm, DynamicRunnable):
        return find_model(llm.prepare(config)[0], kind, config)
    if isinstance(llm, RunnableWithFallbacks):
        return find_model(llm.runnable, kind, config)
    if isinstance(llm, RunnableSequence):
        for i, step in enumerate(llm.steps):
            if (found := find_model(step, kind, config)) is not None:
                return replace(found, before=(*llm.steps[:i], *found.before))
    elif isinstance(llm, RunnableParallel):
        each = (find_model(step, kind, config) for step in llm.steps__.values())
        return next(filter(None, each), None)
    return None


def answers_first(llm: object, kind: type[_Kind]) -> _Kind | None:
    """Return the model or graph of a kind that a runnable's input goes to; None: another one."""
    found = find_model(llm, kind)
    return None if found is None or found.before else found.model


def as_one(steps: Sequence[Runnable[Any, Any]]) -> Runnable[Any, Any] | None:
    """Return some runnables as one; None: there are none."""
    if len(steps) < 2:
        return steps[0] if steps else None
    return cast("Runnable[Any, Any]", RunnableSequence(*steps))
