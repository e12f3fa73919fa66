"""The functions that a node is given: sync or async, of more than one argument, or runnables."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import run_in_executor, set_config_context
from langchain_core.runnables.utils import coro_with_context
from pydantic import BaseModel

from langgraph_kvfork.checks import require
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.hooks.place import graph_runtime

_MORE = ("config", "runtime", "store", "writer")
"""What a function can take besides its value, by name, as LangGraph's nodes do."""


class NodeFunction:
    """What a node calls: a function or a runnable that somebody gave it.

    A function takes a value, and `config`, `runtime`, `store` or `writer` if it has such arguments,
    as a node of LangGraph does. If it is async, or a runnable that is, only async calls can use it.

    Args:
        name: The argument that it was given as.
        given: A function or a runnable.
        value: What it is called with, for messages: "state", "path" or "answer".

    Raises:
        InvalidRequestError: It takes something else, or is a generator.
    """

    def __init__(self, name: str, given: Callable[..., Any] | Runnable[Any, Any], value: str):
        self.name = name
        self.given = given
        self._value = value
        generates = inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given)
        require(not generates, name, given, "pass a function that returns, not one that yields")
        self._more = {} if isinstance(given, Runnable) else _more(name, given, value)

    @property
    def is_async(self) -> bool:
        """Whether it is known that only async calls can use it."""
        if isinstance(self.given, RunnableLambda):
            return not hasattr(self.given, "func")
        called = getattr(type(self.given), "__call__", None)  # noqa: B004 - its own, not whether
        return inspect.iscoroutinefunction(self.given) or inspect.iscoroutinefunction(called)

    def __call__(self, value: Any, config: RunnableConfig) -> Any:
        """Call it.

        Raises:
            InvalidRequestError: It is async.
        """
        check_sync([self])
        if isinstance(self.given, Runnable):
            return self.given.invoke(value, config)
        with set_config_context(config) as context:
            result = context.run(self._call, value, config)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()  # or Python warns that nobody has awaited it
            raise self.cannot_wait()
        return result

    async def acall(self, value: Any, config: RunnableConfig) -> Any:
        """Call it; if it is not async, beside the event loop."""
        if isinstance(self.given, Runnable):
            return await self.given.ainvoke(value, config)
        with set_config_context(config) as context:
            call = functools.partial(context.run, self._call, value, config)
            result = call() if self.is_async else await run_in_executor(None, call)
            if inspect.iscoroutine(result):
                result = coro_with_context(result, context)
            return await result if inspect.isawaitable(result) else result

    def judge(self, value: Any, config: RunnableConfig) -> bool:
        """Return whether it finds that a value will do.

        Raises:
            InvalidRequestError: What it returned is true whatever it says; or it is async.
        """
        return self._verdict(self(value, config))

    async def ajudge(self, value: Any, config: RunnableConfig) -> bool:
        """As `judge`."""
        return self._verdict(await self.acall(value, config))

    def _verdict(self, said: Any) -> bool:
        if isinstance(said, (BaseMessage, BaseModel, Mapping)) or callable(said):
            raise InvalidRequestError(
                f"{self.name}({self._value}) returned {said!r}, which is neither yes nor no: "
                "return True or False. Behind a model that judges, put a function that reads its "
                "answer: model | read."
            )
        return bool(said)

    def cannot_wait(self) -> InvalidRequestError:
        """Return the error that a sync call of an async function raises."""
        return InvalidRequestError(
            f"{self.name}={self.given!r} is async, and a sync call cannot wait for it: call the "
            "graph with ainvoke() or astream(), or pass a function that is not async."
        )

    def _call(self, value: Any, config: RunnableConfig) -> Any:
        return self.given(value, **self._arguments(config))  # type: ignore[operator]

    def _arguments(self, config: RunnableConfig) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for argument, what in self._more.items():
            if what == "config":
                values[argument] = config
                continue
            runtime = graph_runtime()
            if runtime is None:
                raise InvalidRequestError(
                    f"{self.name}={self.given!r} takes {argument}, which there is in a node of a "
                    "graph only: call it there, or leave the argument out."
                )
            names = {"runtime": runtime, "store": runtime.store, "writer": runtime.stream_writer}
            values[argument] = names[what]
        return values


_Result = TypeVar("_Result")

Calls: TypeAlias = Generator[NodeFunction, Any, _Result]
"""Steps that yield the functions that are to be called, and are sent what these returned."""


def with_calls(steps: Calls[_Result], value: Any, config: RunnableConfig) -> _Result:
    """Return the result of steps, whose functions are called with one value."""
    said: Any = None
    while True:
        try:
            function = steps.send(said)
        except StopIteration as end:
            result: _Result = end.value
            return result
        said = function(value, config)


async def awith_calls(steps: Calls[_Result], value: Any, config: RunnableConfig) -> _Result:
    """As `with_calls`."""
    said: Any = None
    while True:
        try:
            function = steps.send(said)
        except StopIteration as end:
            result: _Result = end.value
            return result
        said = await function.acall(value, config)


def check_sync(functions: Iterable[NodeFunction | None]) -> None:
    """Refuse a function that a sync call cannot use.

    Raises:
        InvalidRequestError: A function is async.
    """
    for function in functions:
        if function is not None and function.is_async:
            raise function.cannot_wait()


def as_function(name: str, given: Any, value: str) -> NodeFunction | None:
    """Return the function that a node calls; None if it was given a value in its place."""
    if isinstance(given, Runnable) or callable(given):
        return NodeFunction(name, given, value)
    return None


def _more(name: str, given: Callable[..., Any], value: str) -> dict[str, str]:
    """Return which arguments a function takes besides its value: their names, and what they are."""
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # some builtins have none
        return {}
    others = list(signature.parameters.values())[1:]
    more = {
        each.name: what
        for each in others
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        and (what := _what(each)) is not None
    }
    try:
        signature.bind(None, **dict.fromkeys(more))
    except TypeError as error:
        raise InvalidRequestError(
            f"{name}={given!r} is not possible: pass a function of the {value}, and of "
            f"{', '.join(_MORE)} if it needs them. ({error})"
        ) from error
    return more


def _what(argument: inspect.Parameter) -> str | None:
    if argument.name in _MORE:
        return argument.name
    if argument.annotation is argument.empty:
        return None
    annotation = argument.annotation
    text = annotation if isinstance(annotation, str) else repr(annotation)
    return next((w for n, w in _ANNOTATIONS.items() if n in text), None)


_ANNOTATIONS = {"RunnableConfig": "config", "Runtime": "runtime", "StreamWriter": "writer"}
