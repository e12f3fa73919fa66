"""The node that searches a tree of answers."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, Union

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import coerce_to_runnable
from langchain_core.runnables.config import patch_config
from typing_extensions import TypedDict

from langgraph_kvfork.checks import check_integer, is_number, require
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.graph.branches import ForkBranch, sample_arguments
from langgraph_kvfork.graph.fork_node import ForkNode
from langgraph_kvfork.graph.node import check_key, refusing_unknown_arguments, state_value
from langgraph_kvfork.order.prompt import Messages, is_messages, to_messages

Path: TypeAlias = list[BaseMessage]
"""A conversation from the state's messages to one of the tree's answers."""

Score: TypeAlias = Union[  # noqa: UP007
    Callable[[Path], float], Callable[[Path], Awaitable[float]], Runnable[Path, float]
]
FollowUp: TypeAlias = Union[Messages, Callable[[Path], Messages]]  # noqa: UP007


class SearchPath(TypedDict):
    """A path that a search has kept.

    Attributes:
        messages: What it adds to the state's messages: answers, and what was said between them.
        score: Its score.
    """

    messages: list[BaseMessage]
    score: float


@refusing_unknown_arguments
class TreeSearchNode(Runnable[Any, dict[str, list[SearchPath]]]):
    """Expands the state's messages into a tree of answers, scores them and keeps the best.

    In each round, `n` answers are sampled to each path that is kept, all in one fan-out, and the
    `beam_width` best of all become the next round's. A path is forked from the branch of its last
    answer: a round prefills what is said between two answers, and a token for each further answer.

    Example:
        ```python
        node = TreeSearchNode(llm, lambda path: -abs(24 - value(path[-1].text)), depth=3)
        graph.add_node("search", node)
        # state["paths"][0] == {"messages": [AIMessage(...), ...], "score": 0.0}
        ```

    Args:
        llm: The chat model, with arguments bound or without. Its `temperature` makes the answers
            differ; with a `seed`, each answer of a round has one of its own.
        score: How good a path is: a function of its messages, the state's included, that returns a
            number, sync or async; or a runnable, such as a model that judges. A round's paths are
            scored at once.
        n: Answers to each path.
        beam_width: Paths that are kept.
        depth: Most rounds.
        follow_up: What is said between two answers: text, messages, or a function of the path.
        is_solution: Whether a path has arrived. After a round with such paths the search ends, and
            only those are kept.
        messages_key: The state's key of the messages.
        output_key: The state's key of the paths that were kept, the best first. The graph's state
            must have it, as for a `ForkNode`.

    Raises:
        InvalidRequestError: An argument is wrong; from `invoke`: the state has no messages, `score`
            returned no number, `follow_up` no messages, or `llm` no message.
    """

    def __init__(
        self,
        llm: Runnable[Any, Any],
        score: Score,
        *,
        n: int = 3,
        beam_width: int = 2,
        depth: int = 3,
        follow_up: FollowUp = "Go on.",
        is_solution: Callable[[Path], bool] | None = None,
        messages_key: str = "messages",
        output_key: str = "paths",
    ) -> None:
        require(isinstance(llm, Runnable), "llm", llm, "give a ChatKVFork")
        remedy = "give a function of a path, or a runnable"
        require(isinstance(score, Runnable) or callable(score), "score", score, remedy)
        for name, count in {"n": n, "beam_width": beam_width, "depth": depth}.items():
            check_integer(name, count, "give 1 or more", low=1)
        good = callable(follow_up) or is_messages(follow_up)
        require(good, "follow_up", follow_up, "give text, messages or a function of a path")
        good = is_solution is None or callable(is_solution)
        require(good, "is_solution", is_solution, "give a function of a path, or None")
        check_key("messages_key", messages_key)
        check_key("output_key", output_key)
        self.llm = llm
        self.score: Runnable[Path, float] = coerce_to_runnable(score)
        self.n = n
        self.beam_width = beam_width
        self.depth = depth
        self.follow_up = follow_up
        self.is_solution = is_solution
        self.messages_key = messages_key
        self.output_key = output_key

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, list[SearchPath]]:
        """Search, with a thread for each answer.

        Args:
            input: The graph's state.
            config: The run's configuration.
            **kwargs: For every call of `llm`.

        Returns:
            The update of the state.
        """
        return self._call_with_config(self._search, input, config, **kwargs)

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, list[SearchPath]]:
        """As `invoke`, with tasks of the running event loop."""
        return await self._acall_with_config(self._asearch, input, config, **kwargs)

    def _search(
        self,
        state: Any,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> dict[str, list[SearchPath]]:
        config = patch_config(config, callbacks=run_manager.get_child())
        root = self._root(state)
        kept: list[tuple[float, Path]] = []
        for _ in range(self.depth):
            prompts = self._prompts(root, kept)
            answers = self._fan_out(prompts, kwargs).invoke({"shared": []}, config)
            grown = _grow(prompts, answers["branches"])
            # a pool of the default size would score them in waves
            scores = self.score.batch(grown, patch_config(config, max_concurrency=len(grown)))
            kept, is_end = self._prune(grown, scores)
            if is_end:
                break
        return self._update(root, kept)

    async def _asearch(
        self,
        state: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> dict[str, list[SearchPath]]:
        config = patch_config(config, callbacks=run_manager.get_child())
        root = self._root(state)
        kept: list[tuple[float, Path]] = []
        for _ in range(self.depth):
            prompts = self._prompts(root, kept)
            answers = await self._fan_out(prompts, kwargs).ainvoke({"shared": []}, config)
            grown = _grow(prompts, answers["branches"])
            kept, is_end = self._prune(grown, await self.score.abatch(grown, config))
            if is_end:
                break
        return self._update(root, kept)

    def _root(self, state: Any) -> Path:
        name = f"state[{self.messages_key!r}]"
        root = to_messages(name, state_value(state, self.messages_key, "messages"))
        require(bool(root), name, root, "give at least one message")
        return root

    def _prompts(self, root: Path, kept: Sequence[tuple[float, Path]]) -> list[Path]:
        """Return the prompts of a round, one for each answer."""
        prompts = [[*path, *self._follow_up(path)] for _, path in kept] or [root]
        return [prompt for prompt in prompts for _ in range(self.n)]

    def _follow_up(self, path: Path) -> list[BaseMessage]:
        said = self.follow_up(path) if callable(self.follow_up) else self.follow_up
        require(is_messages(said), "follow_up(path)", said, "return text or messages")
        return to_messages("follow_up", said)

    def _fan_out(self, prompts: Sequence[Path], arguments: dict[str, Any]) -> ForkNode:
        own = sample_arguments(len(prompts), self.llm, arguments)
        branches = [
            ForkBranch(prompt, self.llm.bind(**{**arguments, **more}))
            for prompt, more in zip(prompts, own, strict=True)
        ]
        return ForkNode(self.llm, branches, messages_key="shared")

    def _prune(
        self, grown: Sequence[Path], scores: Sequence[float]
    ) -> tuple[list[tuple[float, Path]], bool]:
        """Return the best paths, and whether they are where the search wanted to be."""
        for score in scores:
            good = is_number(score) and not math.isnan(score)
            require(good, "score(path)", score, "return a number")
        scored = sorted(zip(scores, grown, strict=True), key=lambda pair: pair[0], reverse=True)
        solved = [pair for pair in scored if self.is_solution and self.is_solution(pair[1])]
        return (solved or scored)[: self.beam_width], bool(solved)

    def _update(
        self, root: Path, kept: Sequence[tuple[float, Path]]
    ) -> dict[str, list[SearchPath]]:
        return {
            self.output_key: [
                SearchPath(messages=path[len(root) :], score=float(score)) for score, path in kept
            ]
        }


def _grow(prompts: Sequence[Path], answers: Sequence[Any]) -> list[Path]:
    """Return the paths to the answers. An answer that came twice is one."""
    grown: dict[object, Path] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        if not isinstance(answer, AIMessage):
            raise InvalidRequestError(
                f"llm answered {answer!r}, which cannot go on: give a chat model without a parser."
            )
        path = [*prompt, answer]
        key = tuple(str(message.content) for message in path), repr(answer.tool_calls)
        grown.setdefault(key, path)
    return list(grown.values())
