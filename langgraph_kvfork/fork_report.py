"""What a run computed, and what it took from forks instead."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import time
import weakref
from collections.abc import Sequence
from contextvars import ContextVar, Token
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook
from typing_extensions import Self

from langgraph_kvfork._answer import PROVIDER
from langgraph_kvfork._graph_place import node_path
from langgraph_kvfork._report_view import html, mermaid, text
from langgraph_kvfork.errors import BranchCancelledError, InvalidRequestError
from langgraph_kvfork.prefill_node import PREFILL_EVENT

PAGE = 64
"""Tokens in a page: what a fork copies at most, less one."""


@dataclass(frozen=True, slots=True)
class ReportedCall:
    """One call of the model, or one prefill.

    Attributes:
        node: The graph's node, after those of the graphs around it ("outer/inner"); "" outside.
        branch: The branch's name, if a `ForkNode` called.
        kind: "answer" or "prefill".
        model: The model's name.
        id: The engine's name for it.
        parent: Id of the call whose tokens it was forked from; None if of none.
        prompt_tokens: Tokens of the prompt.
        forked_tokens: How many of these came with a fork.
        prefilled_tokens: Tokens computed instead.
        generated_tokens: Tokens generated.
        ended_ms: When it ended, in milliseconds from the report's beginning.
        wait_ms: Milliseconds from its submission until it had a sequence.
        prefill_ms: From then until its first token.
        decode_ms: From its first token to its last.
        cell_bytes: Bytes of the KV cache that a token takes; None: unknown (sliding windows,
            recurrent states).
    """

    node: str
    branch: str
    kind: str
    model: str
    id: int
    parent: int | None
    prompt_tokens: int
    forked_tokens: int
    prefilled_tokens: int
    generated_tokens: int
    ended_ms: float
    wait_ms: float
    prefill_ms: float
    decode_ms: float
    cell_bytes: int | None

    @property
    def begin_ms(self) -> float:
        """When it was submitted, in milliseconds from the report's beginning."""
        return self.prefill_begin_ms - self.wait_ms

    @property
    def prefill_begin_ms(self) -> float:
        """When its prefill began, in milliseconds from the report's beginning."""
        return self.prefill_end_ms - self.prefill_ms

    @property
    def prefill_end_ms(self) -> float:
        """When its prefill ended, in milliseconds from the report's beginning."""
        return self.ended_ms - self.decode_ms


class ForkReport(BaseCallbackHandler):
    """Tells of a run what was prefilled, forked and generated, by node and branch.

    It is a callback handler, for one run, and a context manager, for all runs in its block. What
    is counted are calls of `ChatKVFork` that ended well, and `PrefillNode`s: the engine's own
    counts, from the answers' metadata. `print` shows a table, notebooks show it with bars.

    Example:
        ```python
        with ForkReport() as report:
            graph.invoke(state)
        print(report)
        report.saved_tokens

        graph.invoke(state, {"callbacks": [report]})  # the same
        ```

    Attributes:
        calls: What ended well, in the order of the ends.

    Raises:
        InvalidRequestError: Its block is entered within its block.
    """

    run_inline = True

    def __init__(self) -> None:
        self.calls: list[ReportedCall] = []
        self._n_failed = self._n_cancelled = 0
        self._begin = time.perf_counter()
        self._open: dict[UUID, _OpenCall] = {}
        self._token: Token[ForkReport | None] | None = None
        self._outer: ForkReport | None = None

    #
    # what it says
    #

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all answers' prompts: what would have been prefilled without sharing."""
        return sum(call.prompt_tokens for call in self.calls if call.kind == "answer")

    @property
    def prefilled_tokens(self) -> int:
        """Tokens that were prefilled."""
        return sum(call.prefilled_tokens for call in self.calls)

    @property
    def forked_tokens(self) -> int:
        """Tokens that came with forks."""
        return sum(call.forked_tokens for call in self.calls)

    @property
    def generated_tokens(self) -> int:
        """Tokens that were generated."""
        return sum(call.generated_tokens for call in self.calls)

    @property
    def ahead_tokens(self) -> int:
        """Tokens that were prefilled ahead: by `PrefillNode`s, whose prompts nobody answers."""
        return sum(call.prefilled_tokens for call in self.calls if call.kind == "prefill")

    @property
    def saved_tokens(self) -> int:
        """Tokens that sharing saved; below 0 if more was prefilled ahead than was used.

        That is what answers took from forks, less `ahead_tokens`, which had to be computed for it.
        """
        return self.prompt_tokens - self.prefilled_tokens

    @property
    def prefill_ms_per_token(self) -> float | None:
        """What a prefilled token took in this run, in milliseconds; None if hardly any was.

        It is the time in which some call prefilled, by the tokens that were: what is prefilled or
        decoded at the same time is computed in the same batches. Of less than a page of 64 tokens
        nothing is said: each would seem to take as long as a batch.
        """
        if self.prefilled_tokens < PAGE:
            return None
        computed = [call for call in self.calls if call.prefilled_tokens]
        covered, end = 0.0, -math.inf
        for call in sorted(computed, key=lambda call: call.prefill_begin_ms):
            covered += max(call.prefill_end_ms - max(call.prefill_begin_ms, end), 0.0)
            end = max(end, call.prefill_end_ms)
        return covered / self.prefilled_tokens

    @property
    def estimated_saved_ms(self) -> float | None:
        """An estimate of the time saved: `saved_tokens` at this run's own `prefill_ms_per_token`.

        None if hardly anything was prefilled, so that nothing was measured.
        """
        rate = self.prefill_ms_per_token
        return None if rate is None else self.saved_tokens * rate

    @property
    def shared_bytes(self) -> int | None:
        """Bytes of the KV cache that forks shared instead of holding them again.

        Whole pages of 64 tokens are counted: a fork may copy the rest. None where a token's bytes
        are unknown (sliding windows, recurrent states).
        """
        total = 0
        for call in self.calls:
            tokens = call.forked_tokens - call.forked_tokens % PAGE
            if tokens:
                if call.cell_bytes is None:
                    return None
                total += tokens * call.cell_bytes
        return total

    @property
    def unfinished(self) -> int:
        """Calls that failed, were cancelled or still run; what they computed is not counted."""
        return self._n_failed + self._n_cancelled + len(self._open)

    @property
    def cancelled(self) -> int:
        """How many of these were cancelled, or are of streams that were left early."""
        return self._n_cancelled + sum(call.is_over() for call in self._open.values())

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "prefilled_tokens": self.prefilled_tokens,
            "forked_tokens": self.forked_tokens,
            "generated_tokens": self.generated_tokens,
            "ahead_tokens": self.ahead_tokens,
            "saved_tokens": self.saved_tokens,
            "prefill_ms_per_token": self.prefill_ms_per_token,
            "estimated_saved_ms": self.estimated_saved_ms,
            "shared_bytes": self.shared_bytes,
            "unfinished": self.unfinished,
            "cancelled": self.cancelled,
            "calls": [asdict(call) for call in self.calls],
        }

    def mermaid(self) -> str:
        """Return a Mermaid flow chart: who was forked from whom, by how many tokens."""
        return mermaid(self)

    def html(self) -> str:
        """Return a table with bars and a time line, as notebooks show it."""
        return html(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, as JSON; `python -m langgraph_kvfork report` shows such a file."""
        Path(path).write_text(json.dumps(self.as_dict(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ForkReport:
        """Read what `save` wrote.

        Raises:
            InvalidRequestError: The file cannot be read, or is something else.
        """
        report = cls()
        names = {field.name for field in fields(ReportedCall)}
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            report.calls = [ReportedCall(**{n: call[n] for n in names}) for call in data["calls"]]
            report._n_cancelled = int(data["cancelled"])
            report._n_failed = int(data["unfinished"]) - report._n_cancelled
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"path={os.fspath(path)!r} is no saved report: give a file that ForkReport.save "
                f"wrote. ({error!r})"
            ) from error
        return report

    def __str__(self) -> str:
        return text(self)

    def __repr__(self) -> str:
        return (
            f"<ForkReport: {len(self.calls)} calls, {self.prefilled_tokens:,} tokens prefilled, "
            f"{self.forked_tokens:,} forked, {self.saved_tokens:,} saved>"
        )

    def _repr_html_(self) -> str:
        return html(self)

    #
    # how it hears of it
    #

    def __enter__(self) -> Self:
        if self._token is not None:
            raise InvalidRequestError(
                "This report is entered already, and would count all calls twice: use another "
                "ForkReport within its block."
            )
        self._outer = _current.get()
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._token is not None
        _current.reset(self._token)
        self._token = self._outer = None

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember where a call of ours belongs."""
        if metadata is not None and metadata.get("ls_provider") == PROVIDER:
            self._open[run_id] = _OpenCall(_place(metadata), _this_task())
        if self._outer is not None:
            self._outer.on_chat_model_start(serialized, messages, run_id=run_id, metadata=metadata)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Count a call that ended well."""
        if self._outer is not None:
            self._outer.on_llm_end(response, run_id=run_id)
        call = self._open.pop(run_id, None)
        if call is None:
            return
        for generation in _generations(response):
            message = generation.message
            usage = message.usage_metadata if isinstance(message, AIMessage) else None
            if usage is None or "total_cost" in usage:
                continue  # LangChain's response cache knew it: nothing was computed
            metadata = message.response_metadata
            self._count(
                call.place,
                "answer",
                {
                    **metadata["fork"],
                    **metadata["timings"],
                    "model_name": metadata["model_name"],
                    "prompt_tokens": usage["input_tokens"],
                    "generated_tokens": usage["output_tokens"],
                },
            )

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Count a call that failed, or was cancelled."""
        if self._open.pop(run_id, None) is not None:
            if isinstance(error, _CANCELLED):
                self._n_cancelled += 1
            else:
                self._n_failed += 1
        if self._outer is not None:
            self._outer.on_llm_error(error, run_id=run_id)

    def on_custom_event(
        self,
        name: str,
        data: Any,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count a `PrefillNode`."""
        if name == PREFILL_EVENT and data["branch"]:
            self._count(_place(metadata or {}), "prefill", data)
        if self._outer is not None:
            self._outer.on_custom_event(name, data, run_id=run_id, metadata=metadata)

    def _count(self, place: tuple[str, str], kind: str, numbers: dict[str, Any]) -> None:
        node, branch = place
        self.calls.append(
            ReportedCall(
                node=node,
                branch=branch,
                kind=kind,
                model=numbers["model_name"],
                id=numbers["branch"],
                parent=numbers["parent"],
                prompt_tokens=numbers["prompt_tokens"],
                forked_tokens=numbers["forked_tokens"],
                prefilled_tokens=numbers["prefilled_tokens"],
                generated_tokens=numbers["generated_tokens"],
                ended_ms=1000 * (time.perf_counter() - self._begin),
                wait_ms=numbers["wait_ms"],
                prefill_ms=numbers["prefill_ms"],
                decode_ms=numbers["decode_ms"],
                cell_bytes=numbers["cell_bytes"],
            )
        )


_CANCELLED = (asyncio.CancelledError, BranchCancelledError, GeneratorExit)


@dataclass(frozen=True, slots=True)
class _OpenCall:
    """A call that LangChain has told nothing of but its beginning.

    Attributes:
        place: Its node and branch.
        task: The task that it runs in; None if in none.
    """

    place: tuple[str, str]
    task: weakref.ref[asyncio.Task[Any]] | None

    def is_over(self) -> bool:
        """Return whether its task was cancelled under it, which LangChain tells nobody."""
        if self.task is None:
            return False
        task = self.task()
        return task is None or task.done()


def _this_task() -> weakref.ref[asyncio.Task[Any]] | None:
    task = None
    with contextlib.suppress(RuntimeError):  # no event loop runs here
        task = asyncio.current_task()
    return None if task is None else weakref.ref(task)


def _place(metadata: dict[str, Any]) -> tuple[str, str]:
    """Return a call's node and branch."""
    return node_path(metadata), metadata.get("kvfork_branch", "")


def _generations(response: LLMResult) -> Sequence[ChatGeneration]:
    return [g for row in response.generations for g in row if isinstance(g, ChatGeneration)]


_current: ContextVar[ForkReport | None] = ContextVar("kvfork_report", default=None)
register_configure_hook(_current, inheritable=True)
