"""The node that searches a tree of answers.

Each round is two fan-outs: one samples answers to all paths that are kept, one scores the results.
Nothing of the tree is kept in the engine by hand: a path's prompt begins with the tokens of the
branch that wrote its last answer, and so forks it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, Union, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from typing_extensions import TypedDict

from langgraph_kvfork.checks import check_integer, is_number, require
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.graph.branches import Plan
from langgraph_kvfork.graph.fan_out import FanOut
from langgraph_kvfork.graph.function import (
    Calls,
    as_function,
    awith_calls,
    check_sync,
    with_calls,
)
from langgraph_kvfork.graph.node import (
    check_key,
    check_written,
    refusing_unknown_arguments,
    state_value,
)
from langgraph_kvfork.hooks.sample import Sample
from langgraph_kvfork.order.prompt import Messages, is_messages, to_messages

Path: TypeAlias = list[BaseMessage]
"""A conversation from the state's messages to one of the tree's answers."""

PathFunction: TypeAlias = Union[Callable[..., Any], Runnable[Any, Any]]  # noqa: UP007
"""A function of a path, sync or async, that may take `config` or `runtime` too; or a runnable."""

FollowUp: TypeAlias = Union[Messages, PathFunction]  # noqa: UP007


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

    Functions are as those of a `ForkNode`: async, of `config` or `runtime` too, or runnables.

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
            scored at once, as branches "score 0", "score 1", …
        n: Answers to each path.
        beam_width: Paths that are kept.
        depth: Most rounds.
        follow_up: What is said between two answers: text, messages, or a function of the path.
        is_solution: Whether a path is a solution. After a round with such paths the search ends,
            and only those are kept.
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
        score: PathFunction,
        *,
        n: int = 3,
        beam_width: int = 2,
        depth: int = 3,
        follow_up: FollowUp = "Go on.",
        is_solution: PathFunction | None = None,
        messages_key: str = "messages",
        output_key: str = "paths",
    ) -> None:
        require(isinstance(llm, Runnable), "llm", llm, "pass a ChatKVFork")
        judge = as_function("score", score, "path")
        if judge is None:
            raise InvalidRequestError(
                f"score={score!r} is not possible: pass a function of a path, or a runnable."
            )
        for name, count in {"n": n, "beam_width": beam_width, "depth": depth}.items():
            check_integer(name, count, "pass 1 or more", low=1)
        self._follow_up = as_function("follow_up", follow_up, "path")
        is_valid = self._follow_up is not None or is_messages(follow_up)
        require(is_valid, "follow_up", follow_up, "pass text, messages or a function of a path")
        self._is_solution = as_function("is_solution", is_solution, "path")
        is_valid = is_solution is None or self._is_solution is not None
        require(is_valid, "is_solution", is_solution, "pass a function of a path, or None")
        check_key("messages_key", messages_key)
        check_key("output_key", output_key)
        self.llm = llm
        self.score = score
        self._score = judge
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
        check_written(config, self, self.output_key)
        check_sync([self._score, self._is_solution, self._follow_up])
        root = self._root(state)
        prompts = self._prompts([root])
        for i in range(self.depth):
            fan_out = functools.partial(_fan_out, config=config, run_manager=run_manager)
            answers = fan_out(self._sampled(prompts), arguments=kwargs).run()
            paths = _with_answers(prompts, list(answers.values()))
            kept, is_end = self._prune(paths, fan_out(self._judged(paths)).run())
            if is_end or i + 1 == self.depth:
                break
            paths = [with_calls(self._followed(path), path, config) for _, path in kept]
            prompts = self._prompts(paths)
        return self._update(root, kept)

    async def _asearch(
        self,
        state: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> dict[str, list[SearchPath]]:
        check_written(config, self, self.output_key)
        root = self._root(state)
        prompts = self._prompts([root])
        for i in range(self.depth):
            fan_out = functools.partial(_fan_out, config=config, run_manager=run_manager)
            answers = await fan_out(self._sampled(prompts), arguments=kwargs).arun()
            paths = _with_answers(prompts, list(answers.values()))
            kept, is_end = self._prune(paths, await fan_out(self._judged(paths)).arun())
            if is_end or i + 1 == self.depth:
                break
            paths = [await awith_calls(self._followed(path), path, config) for _, path in kept]
            prompts = self._prompts(paths)
        return self._update(root, kept)

    def _root(self, state: Any) -> Path:
        name = f"state[{self.messages_key!r}]"
        root = to_messages(name, state_value(state, self.messages_key, "messages"))
        require(bool(root), name, root, "pass at least one message")
        return root

    def _prompts(self, paths: Sequence[Path]) -> list[Path]:
        """Return the prompts of a round, one for each answer."""
        return [path for path in paths for _ in range(self.n)]

    def _followed(self, path: Path) -> Calls[Path]:
        """Return a path with the messages that come before it goes on."""
        said = self.follow_up
        if self._follow_up is not None:
            said = yield self._follow_up
            require(is_messages(said), "follow_up(path)", said, "return text or messages")
        return [*path, *to_messages("follow_up", cast("Messages", said))]

    def _sampled(self, prompts: Sequence[Path]) -> list[Plan]:
        n = len(prompts) if self.n > 1 else 1  # answers to different prompts may be alike
        return [
            Plan(str(i), self.llm, path, Sample(i, n) if n > 1 else None)
            for i, path in enumerate(prompts)
        ]

    def _judged(self, paths: Sequence[Path]) -> list[Plan]:
        judge: Runnable[Any, Any] = RunnableLambda(self._judge, self._ajudge, name="score")
        return [Plan(f"score {i}", judge, path) for i, path in enumerate(paths)]

    def _judge(self, path: Path, config: RunnableConfig) -> tuple[float, bool]:
        """Return a path's score, and whether it is a solution."""
        score = _checked(self._score(path, config))
        return score, self._is_solution is not None and self._is_solution.judge(path, config)

    async def _ajudge(self, path: Path, config: RunnableConfig) -> tuple[float, bool]:
        score = _checked(await self._score.acall(path, config))
        return score, self._is_solution is not None and await self._is_solution.ajudge(path, config)

    def _prune(
        self, answered: Sequence[Path], judged: Mapping[str, tuple[float, bool]]
    ) -> tuple[list[tuple[float, Path]], bool]:
        """Return the best paths, and whether they are solutions."""
        paths = zip(judged.values(), answered, strict=True)
        scored = sorted(
            ((score, is_solution, path) for (score, is_solution), path in paths),
            key=lambda each: each[0],
            reverse=True,
        )
        solved = [each for each in scored if each[1]]
        kept = (solved or scored)[: self.beam_width]
        return [(score, path) for score, _, path in kept], bool(solved)

    def _update(
        self, root: Path, kept: Sequence[tuple[float, Path]]
    ) -> dict[str, list[SearchPath]]:
        return {
            self.output_key: [
                SearchPath(messages=path[len(root) :], score=float(score)) for score, path in kept
            ]
        }


def _fan_out(
    plans: Sequence[Plan],
    *,
    config: RunnableConfig,
    run_manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
    arguments: Mapping[str, Any] | None = None,
) -> FanOut:
    return FanOut(
        plans,
        config,
        run_manager,
        arguments or {},
        collects=False,
        races=False,
        judge=None,
        width=len(plans),
        stream_tokens=False,
    )


def _checked(score: Any) -> float:
    is_valid = is_number(score) and not math.isnan(score)
    require(is_valid, "score(path)", score, "return a number")
    number: float = score
    return number


def _with_answers(prompts: Sequence[Path], answers: Sequence[Any]) -> list[Path]:
    """Return the paths to the answers. An answer that came twice is one."""
    paths: dict[object, Path] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        if not isinstance(answer, AIMessage):
            raise InvalidRequestError(
                f"llm answered {answer!r}, which cannot go on: pass a chat model without a parser."
            )
        path = [*prompt, answer]
        key = tuple(str(message.content) for message in path), repr(answer.tool_calls)
        paths.setdefault(key, path)
    return list(paths.values())
