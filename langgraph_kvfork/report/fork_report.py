"""What a run computed, and what it took from forks instead.

`ForkReport` counts nothing itself. Each answer's `response_metadata` has the engine's numbers, and
LangChain's callbacks bring them here; a `PrefillNode` sends its numbers as a custom event. A call
that never ended well has no numbers, and is only counted as unfinished.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
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

from langgraph_kvfork.chat.answer import PROVIDER, SERVER_PROVIDER
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.errors import BranchCancelledError, EngineClosedError, InvalidRequestError
from langgraph_kvfork.graph.prefill_node import PREFILL_EVENT
from langgraph_kvfork.hooks.place import node_path
from langgraph_kvfork.report.counts import Counts, ReportedCall
from langgraph_kvfork.report.view import html, mermaid, text


class ForkReport(Counts, BaseCallbackHandler):
    """Counts what a run prefilled, forked and generated, by node and branch.

    It is a callback handler, for one run, and a context manager, for all runs in its block. It
    counts calls of `ChatKVFork` and `ChatKVForkServer` that ended well, and `PrefillNode`s, with
    the engine's or the server's own numbers from the answers' metadata. `print` shows a table,
    notebooks show it with bars.

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
        super().__init__()
        self._n_failed = self._n_cancelled = self._n_unreported = 0
        self._begin = time.perf_counter()
        self._evictions = _evictions()
        self._n_evicted = 0
        self._open: dict[UUID, _OpenCall] = {}
        self._token: Token[ForkReport | None] | None = None
        self._outer: ForkReport | None = None

    #
    # results
    #

    @property
    def evictions(self) -> int:
        """How many prefixes went to make room; what needs one later prefills it again.

        They are the engine's, so that other runs at the same time have their part in it.
        """
        return self._n_evicted

    @property
    def unfinished(self) -> int:
        """Calls that failed, were cancelled or still run; what they computed is not counted."""
        return self._n_failed + self._n_cancelled + len(self._open)

    @property
    def cancelled(self) -> int:
        """How many of these were cancelled, or are of streams that were left early."""
        return self._n_cancelled + sum(call.is_over() for call in self._open.values())

    @property
    def unreported(self) -> int:
        """Calls of a server that does not report what it took from its cache; not counted."""
        return self._n_unreported

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "prefilled_tokens": self.prefilled_tokens,
            "forked_tokens": self.forked_tokens,
            "restored_tokens": self.restored_tokens,
            "generated_tokens": self.generated_tokens,
            "ahead_tokens": self.ahead_tokens,
            "saved_tokens": self.saved_tokens,
            "prefill_ms_per_token": self.prefill_ms_per_token,
            "estimated_saved_ms": self.estimated_saved_ms,
            "shared_bytes": self.shared_bytes,
            "preemptions": self.preemptions,
            "recomputed_tokens": self.recomputed_tokens,
            "evictions": self.evictions,
            "unfinished": self.unfinished,
            "cancelled": self.cancelled,
            "unreported": self.unreported,
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
            report._n_evicted = int(data.get("evictions", 0))
            report._n_cancelled = int(data["cancelled"])
            report._n_failed = int(data["unfinished"]) - report._n_cancelled
            report._n_unreported = int(data.get("unreported", 0))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"path={os.fspath(path)!r} is no saved report: pass a file that ForkReport.save "
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
    # what LangChain calls
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
        if metadata is not None and metadata.get("ls_provider") in (PROVIDER, SERVER_PROVIDER):
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
            if "fork" not in metadata:
                self._n_unreported += 1
                continue
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
        if name == PREFILL_EVENT and data["branch_id"]:
            self._count(_place(metadata or {}), "prefill", data)
        if self._outer is not None:
            self._outer.on_custom_event(name, data, run_id=run_id, metadata=metadata)

    def _count(self, place: tuple[str, str], kind: str, numbers: dict[str, Any]) -> None:
        node, branch_name = place
        for engine, n in _evictions().items():
            self._n_evicted += n - self._evictions.get(engine, 0)
            self._evictions[engine] = n
        self.calls.append(
            ReportedCall(
                node=node,
                branch_name=branch_name,
                kind=kind,
                model=numbers["model_name"],
                branch_id=numbers["branch_id"],
                parent_id=numbers["parent_id"],
                prompt_tokens=numbers["prompt_tokens"],
                forked_tokens=numbers["forked_tokens"],
                prefilled_tokens=numbers["prefilled_tokens"],
                generated_tokens=numbers["generated_tokens"],
                ended_ms=1000 * (time.perf_counter() - self._begin),
                wait_ms=numbers["wait_ms"],
                prefill_ms=numbers["prefill_ms"],
                decode_ms=numbers["decode_ms"],
                cell_bytes=numbers["cell_bytes"],
                preemptions=numbers.get("preemptions", 0),
                recomputed_tokens=numbers.get("recomputed_tokens", 0),
                restored_tokens=numbers.get("restored_tokens", 0),
                restore_ms=numbers.get("restore_ms", 0.0),
            )
        )


_CANCELLED = (asyncio.CancelledError, BranchCancelledError, GeneratorExit)


@dataclass(frozen=True, slots=True)
class _OpenCall:
    """A call that has begun; LangChain has reported no end of it.

    Attributes:
        place: Its node and the name of its branch.
        task: The task that it runs in; None if in none.
    """

    place: tuple[str, str]
    task: weakref.ref[asyncio.Task[Any]] | None

    def is_over(self) -> bool:
        """Return whether its task was cancelled under it, which LangChain does not report."""
        if self.task is None:
            return False
        task = self.task()
        return task is None or task.done()


def _evictions() -> weakref.WeakKeyDictionary[Engine, int]:
    """Return how many snapshots each engine has dropped to make room."""
    found: weakref.WeakKeyDictionary[Engine, int] = weakref.WeakKeyDictionary()
    for engine in Engine.all():
        with contextlib.suppress(EngineClosedError):  # meanwhile
            found[engine] = engine.stats().evictions
    return found


def _this_task() -> weakref.ref[asyncio.Task[Any]] | None:
    task = None
    with contextlib.suppress(RuntimeError):  # no event loop runs here
        task = asyncio.current_task()
    return None if task is None else weakref.ref(task)


def _place(metadata: dict[str, Any]) -> tuple[str, str]:
    """Return a call's node and the name of its branch."""
    return node_path(metadata), metadata.get("kvfork_branch", "")


def _generations(response: LLMResult) -> Sequence[ChatGeneration]:
    return [g for row in response.generations for g in row if isinstance(g, ChatGeneration)]


_current: ContextVar[ForkReport | None] = ContextVar("kvfork_report", default=None)
register_configure_hook(_current, inheritable=True)
