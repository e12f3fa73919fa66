"""What the branches of one fan-out come to, and when no more are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Literal, TypeAlias

from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

Output: TypeAlias = Literal["dict", "list", "reduce"]
OnError: TypeAlias = Literal["raise", "collect"]
Race: TypeAlias = bool | Callable[[Any], bool]


class ForkResults:
    """Takes the branches' ends as they come.

    Args:
        names: The branches.
        on_error: What becomes of a branch that fails.
        race: Whether one answer is enough, and which.

    Attributes:
        decided: Whether what the other branches would say makes no difference any more.
    """

    def __init__(self, names: Sequence[str], on_error: OnError, race: Race) -> None:
        self.decided = not names
        self._names = names
        self._collects = on_error == "collect"
        self._race = race
        self._ends: dict[str, Any] = {}

    def take(self, name: str, end: Future[Any] | asyncio.Future[Any]) -> None:
        """Take a branch's end.

        Raises:
            BaseException: The branch's error, if errors are not collected, or if it is none (a
                graph's interrupt, a cancelled task).
        """
        error = end.exception()
        if error is None:
            self._answer(name, end.result())
        elif self._collects and isinstance(error, Exception) and _is_failure(error):
            self._ends[name] = error
        else:
            raise error

    def update(self, key: str, output: Output) -> Any:
        """Return the update of the graph's state."""
        ends = {name: self._ends[name] for name in self._names if name in self._ends}
        if output == "dict":
            return {key: ends}
        if output == "list":
            return {key: list(ends.values())}
        # as many nodes would: a write for each, which LangGraph passes to the key's reducer
        return [Command(update={key: end}) for end in ends.values()] or {}

    def _answer(self, name: str, answer: Any) -> None:
        if not self._race:
            self._ends[name] = answer
        elif self._race is True or self._race(answer):
            self._ends = {name: answer}
            self.decided = True


def _is_failure(error: Exception) -> bool:
    # LangGraph's interrupts are exceptions that must reach it
    return not isinstance(error, GraphBubbleUp)
