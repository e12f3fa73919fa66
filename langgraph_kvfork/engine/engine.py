"""One model that runs in this process, and all branches that use it.

`Engine` is a facade: the native library computes, in a thread of its own; `Dispatcher` carries its
events to branches; `ChatTemplate` renders; `Weights` are shared by engines of one file; `Lifetime`
counts who uses the engine, and decides when it is closed. Here these are put together, and kept one
per model: `_asked` finds an engine by the parameters as they were given, `_engines` by what they
come to, which only the loaded model can tell.

The end of the process and `fork` are handled at the bottom, since they concern all engines.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

from langgraph_kvfork.arguments import RANDOM_SEED
from langgraph_kvfork.branches.branch import AsyncBranch, Branch
from langgraph_kvfork.branches.dispatcher import Dispatcher
from langgraph_kvfork.branches.events import Done, PrefillProgress, Usage
from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.branches.request_struct import native_request
from langgraph_kvfork.checks import check_integer, require
from langgraph_kvfork.engine.chat_template import AnswerReader, ChatTemplate, RenderedPrompt
from langgraph_kvfork.engine.ending import begin_ending, native_work, wait_for_work
from langgraph_kvfork.engine.lifetime import FORKED, Lifetime
from langgraph_kvfork.engine.model_facts import cell_bytes
from langgraph_kvfork.engine.model_file import in_words, llama_log
from langgraph_kvfork.engine.params import EngineParams, context_key, weights_key
from langgraph_kvfork.engine.registry import Registry
from langgraph_kvfork.engine.stats import EngineStats, MemoryPart
from langgraph_kvfork.engine.store import NO_STORE, Store
from langgraph_kvfork.engine.vocabulary import token_bytes, tokenize
from langgraph_kvfork.engine.weights import Weights
from langgraph_kvfork.errors import (
    EngineClosedError,
    InvalidRequestError,
    KVForkError,
    ModelLoadError,
    ProcessForkedError,
)
from langgraph_kvfork.native.abi import LogLevel, Part, Stats, last_error, native

_AnyBranch = TypeVar("_AnyBranch", Branch, AsyncBranch)

_PREFILL_ONLY = Request(max_tokens=0)


class Engine:
    """A model, its KV cache, and the thread that runs them.

    `Engine.get` returns the process's engine for some parameters and builds it when it is asked for
    the first time. `Engine(params)` builds one that is nobody else's. Engines of one file share its
    weights, however many contexts they have. An engine stays until it is closed or the process
    ends, or until nobody has used it for as long as `Engine.used` was given. Its methods may be
    called from any thread.

    Args:
        params: The model file and how to run it.

    Attributes:
        params: As given.
        n_ctx_train: The model's training context, in tokens.
        n_ctx: KV cells that all branches share, one per token.
        n_seq_max: Most sequences, which are running branches and snapshots, at a time.
        n_gpu_layers: Layers that are on GPUs; -1: all.

    Raises:
        NativeLibraryError: The native library cannot be used.
        ModelLoadError: The model cannot be loaded.
        InvalidRequestError: llama.cpp refuses the parameters.
        ProcessForkedError: The process was forked off one that had made an engine.
    """

    def __init__(self, params: EngineParams) -> None:
        self.params = params
        self._lifetime = Lifetime(str(params.model_path), self._is_busy, self._free)
        # nothing interrupts llama.cpp while it loads, but a wait for a thread can be
        opened: Future[None] = Future()
        threading.Thread(
            target=self._open_into, args=(opened,), name="kvfork load", daemon=True
        ).start()
        try:
            opened.result()
        except BaseException:
            # this thread was interrupted: nobody wants the engine any more
            opened.add_done_callback(self._close_unwanted)
            raise

    def _open_into(self, opened: Future[None]) -> None:
        try:
            with native_work:
                self._native = native()
            # if the process ends, it knows by now that there is a library
            with native_work:
                self._open()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            opened.set_exception(error)
        else:
            opened.set_result(None)

    def _close_unwanted(self, opened: Future[None]) -> None:
        if opened.exception() is None:
            self.close()

    def _open(self) -> None:
        global _used
        if _forked:
            raise ProcessForkedError(FORKED)
        _used = True
        llama = self._native.llama
        self._weights = Weights.take(self._native, self.params)
        try:
            self._model = self._weights.model
            self.n_ctx_train = int(llama.llama_model_n_ctx_train(self._model))
            self._vocab = llama.llama_model_get_vocab(self._model)
            self._chat_template = ChatTemplate(self._native, self._model, self.params.chat_template)
            self._handle = self._create()
            self.n_gpu_layers = self._weights.n_gpu_layers
        except BaseException:
            self._weights.release()
            raise
        self._store = (
            None
            if self.params.cache_dir is None
            else Store(self._native, self._handle, self.params, self.n_gpu_layers)
        )
        self._dispatcher = Dispatcher(
            self._native,
            self._handle,
            f"kvfork {Path(self.params.model_path).name}",
            self._cell_bytes,
        )
        with _alive_lock:
            _alive.append(self)

    #
    # one per parameters
    #

    @classmethod
    def get(cls, params: EngineParams) -> Engine:
        """Return the process's engine for `params`; build it, or wait for whoever builds it, first.

        Raises:
            NativeLibraryError: The native library cannot be used.
            ModelLoadError: The model cannot be loaded.
            InvalidRequestError: llama.cpp refuses the parameters.
        """
        while (engine := _asked.get(params))._lifetime.closed:
            engine._forget()
        return engine

    @classmethod
    async def aget(cls, params: EngineParams) -> Engine:
        """As `get`, without blocking the event loop while a model is loaded."""
        while (engine := await _asked.aget(params))._lifetime.closed:
            engine._forget()
        return engine

    @classmethod
    @contextmanager
    def used(cls, params: EngineParams, keep_alive: float | None = None) -> Iterator[Engine]:
        """Get the process's engine for `params`, and keep it from going while the block uses it.

        Args:
            params: The model file and how to run it.
            keep_alive: Seconds after which the engine is closed if nobody has used it since the
                block: no block like this, no branch. None: never. The latest block decides.

        Raises:
            KVForkError: As `get`.
        """
        while not (engine := cls.get(params))._lifetime.hold():
            pass  # it was closed a moment ago, and the registry has let go of it
        try:
            yield engine
        finally:
            engine._lifetime.let_go(keep_alive)

    @classmethod
    @asynccontextmanager
    async def aused(
        cls, params: EngineParams, keep_alive: float | None = None
    ) -> AsyncIterator[Engine]:
        """As `used`, without blocking the event loop while a model is loaded."""
        while not (engine := await cls.aget(params))._lifetime.hold():
            pass
        try:
            yield engine
        finally:
            engine._lifetime.let_go(keep_alive)

    @classmethod
    def find(cls, params: EngineParams) -> Engine | None:
        """Return the process's engine for `params` if it was asked for and is there; load nothing.

        If it is being loaded, wait for it.
        """
        future = _asked.find(params)
        if future is None:
            return None
        try:
            return future.result()
        except KVForkError:
            return None  # whoever asked for it got the error

    @classmethod
    def all(cls) -> tuple[Engine, ...]:
        """Return all engines of this process that are not closed, in the order of their making."""
        with _alive_lock:
            return tuple(engine for engine in _alive if not engine.closed)

    #
    # branches
    #

    def generate(
        self,
        prompt: str | RenderedPrompt | Sequence[int],
        request: Request | None = None,
        *,
        timeout: float | None = None,
        run_id: int = 0,
    ) -> Branch:
        """Start a branch.

        Args:
            prompt: What `render` returned; or text, which is tokenized with special tokens added
                and parsed wherever they are in it; or tokens.
            request: How to go on after it; by default, `Request()`.
            timeout: Seconds after which the branch is cancelled; None: never.
            run_id: Any number: what is left of the branch goes after what is left of others, until
                `end_run` is called with the number, or no branch had it for ten minutes; 0: no run.

        Returns:
            The branch; iterate over it for its events.

        Raises:
            InvalidRequestError: The request or its grammar is wrong, or `run_id` is no such number.
            ContextOverflowError: The prompt can never fit.
            EngineClosedError: The engine is closed.
        """
        return self._submit(Branch(self, timeout), prompt, request or Request(), run_id)

    def agenerate(
        self,
        prompt: str | RenderedPrompt | Sequence[int],
        request: Request | None = None,
        *,
        timeout: float | None = None,
        run_id: int = 0,
    ) -> AsyncBranch:
        """Start a branch in the running event loop; as `generate`, and it never waits.

        Text is tokenized in the event loop, which takes about 2 ms per 1,000 tokens: for more, give
        tokens that another thread made.
        """
        return self._submit(AsyncBranch(self, timeout), prompt, request or Request(), run_id)

    def prefill(
        self,
        prompt: str | RenderedPrompt | Sequence[int],
        *,
        on_progress: Callable[[PrefillProgress], None] | None = None,
        timeout: float | None = None,
        run_id: int = 0,
        namespace: str | None = None,
    ) -> Usage:
        """Compute a prompt's KV state and keep it, so that later prompts that begin alike fork it.

        Args:
            prompt: As for `generate`.
            on_progress: Called after each chunk, and now and then while others are computed; in the
                calling thread.
            timeout: Seconds after which to give up; None: never.
            run_id: As for `generate`.
            namespace: As in a `Request`.

        Returns:
            Tokens and times.

        Raises:
            KVForkError: As `generate`, and as iterating over a `Branch` does.
        """
        request = replace(_PREFILL_ONLY, namespace=namespace)
        with self.generate(prompt, request, timeout=timeout, run_id=run_id) as branch:
            for event in branch:
                if isinstance(event, Done):
                    return event.usage
                if isinstance(event, PrefillProgress) and on_progress is not None:
                    on_progress(event)
        raise AssertionError("a branch ended without a last event")

    async def aprefill(
        self,
        prompt: str | RenderedPrompt | Sequence[int],
        *,
        on_progress: Callable[[PrefillProgress], None] | None = None,
        timeout: float | None = None,
        run_id: int = 0,
        namespace: str | None = None,
    ) -> Usage:
        """As `prefill`, without blocking the event loop."""
        request = replace(_PREFILL_ONLY, namespace=namespace)
        async with self.agenerate(prompt, request, timeout=timeout, run_id=run_id) as branch:
            async for event in branch:
                if isinstance(event, Done):
                    return event.usage
                if isinstance(event, PrefillProgress) and on_progress is not None:
                    on_progress(event)
        raise AssertionError("a branch ended without a last event")

    def end_run(self, run_id: int) -> None:
        """End a run: what was kept for it goes like anything else when room is needed.

        A run that is not known, or has ended, is ignored; so is this on a closed engine.

        Raises:
            InvalidRequestError: `run_id` is no number of a run.
        """
        _check_run_id(run_id)
        self._call_if_open(self._native.kvf.kvf_end_run, run_id)

    #
    # text
    #

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **options: Any,
    ) -> RenderedPrompt:
        """Render messages through the chat template.

        Args:
            messages: In OpenAI's form.
            add_generation_prompt: End with what makes the model answer.
            **options: More of what `kvf_chat_render` takes: `tools`, `tool_choice`, `json_schema`,
                `enable_thinking`, `chat_template_kwargs`, `parallel_tool_calls`,
                `special_tokens_in_text`.

        Raises:
            InvalidRequestError: The template cannot render them.
            EngineClosedError: The engine is closed.
        """
        with self._use():
            return self._chat_template.render(
                messages, add_generation_prompt=add_generation_prompt, **options
            )

    def answer_reader(self, rendered: RenderedPrompt) -> AnswerReader:
        """Return a reader for the answer to a prompt: its text, thoughts and tool calls."""
        return AnswerReader(self._native, rendered.answer_format)

    def tokenize(
        self,
        text: str | RenderedPrompt,
        *,
        add_special: bool = True,
        parse_special: bool = True,
    ) -> list[int]:
        """Turn text into tokens.

        Args:
            text: Any text, or what `render` made of messages, which knows what the template wrote
                and what the messages did.
            add_special: Add what the model puts at the beginning and end of a prompt.
            parse_special: Take the names of special tokens for these tokens, not for text, unless
                they are from a message.

        Raises:
            EngineClosedError: The engine is closed.
        """
        known = isinstance(text, (str, RenderedPrompt))
        require(known, "text", text, "pass a string, or what render() returned")
        with self._use():
            return tokenize(
                self._native,
                self._model,
                text,
                add_special=add_special,
                parse_special=parse_special,
            )

    def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """Turn tokens into text; bytes that are no characters become U+FFFD.

        Args:
            tokens: Token ids.
            special: Show special tokens by their names instead of leaving them out.

        Raises:
            InvalidRequestError: An id is not in the vocabulary.
            EngineClosedError: The engine is closed.
        """
        pieces = [self.token_bytes(token, special=special) for token in tokens]
        return b"".join(pieces).decode(errors="replace")

    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
        """Return the bytes that a token stands for; they may be a part of a character.

        Raises:
            InvalidRequestError: The id is not in the vocabulary.
            EngineClosedError: The engine is closed.
        """
        with self._use():
            return token_bytes(self._native, self._vocab, token, special=special)

    #
    # state
    #

    def stats(self) -> EngineStats:
        """Return the engine's counters.

        Raises:
            EngineClosedError: The engine is closed.
        """
        with self._use() as handle:
            stats = self._native.kvf.kvf_engine_stats(handle)
        counters = {name: getattr(stats, name) for name, _ in Stats._fields_}
        parts = counters.pop("parts")[: counters.pop("n_parts")]
        counters["parts"] = tuple(
            MemoryPart(**{name: getattr(part, name) for name, _ in Part._fields_}) for part in parts
        )
        return EngineStats(**counters)

    def clear(self) -> None:
        """Drop all that is kept for later forks; running branches go on. Returns when it is done.

        Raises:
            EngineClosedError: The engine is closed.
        """
        with self._use() as handle:
            if not self._native.kvf.kvf_engine_clear(handle):
                raise EngineClosedError("The engine was closed while it was being cleared.")

    def save(self) -> None:
        """Write to the store what is kept for later forks. Returns when it is on the disk.

        It is written anyway, beside everything else: this is for those who have to know that it is.
        Prompts of fewer than 64 tokens are not written, since they are computed about as fast.

        Raises:
            InvalidRequestError: The engine has no store: `cache_dir` names none.
            EngineClosedError: The engine is closed.
            GenerationError: The store cannot be used, or has not taken all of it.
        """
        with self._use():
            if self._store is None:
                raise InvalidRequestError(NO_STORE)
            self._store.save()

    def check_integrity(self) -> None:
        """Check that all that the engine knows in several places is the same in all of them.

        These are its branches, the prefix tree, the sequences, the cells and pages of the KV cache
        and the store's index. Returns between two steps, if nothing is wrong. With
        `KVFORK_CHECK_STEPS` in the environment, each step ends with this check, but for the store.

        Raises:
            GenerationError: Something does not fit, which is a fault of the engine: the message
                names the first thing that was found.
            EngineClosedError: The engine is closed.
        """
        with self._use() as handle:
            if not self._native.kvf.kvf_engine_check_integrity(handle):
                raise last_error(self._native)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._lifetime.closed

    def close(self) -> None:
        """End every branch with `EngineClosedError` and free what only this engine has. Idempotent.

        That is its cells and buffers, and the model's weights unless another engine has them too. A
        computation that is under way is aborted. Returns when everything is freed; a second call,
        from another thread, may return earlier.
        """
        self._lifetime.close()

    def _forget(self) -> None:
        """Let nobody get this engine any more."""
        _asked.remove(self)
        _engines.remove(self)

    def _free(self) -> None:
        """Free everything, after the engine was closed."""
        self._forget()
        if self._store is not None:
            self._store.wait()  # what it is opened for is what is written now
        self._native.kvf.kvf_engine_close(self._handle)
        self._dispatcher.join()
        if self._store is not None:
            self._store.warn()
        self._lifetime.wait_for_calls()
        self._native.kvf.kvf_engine_free(self._handle)
        self._weights.release()
        with _alive_lock:
            if self in _alive:
                _alive.remove(self)

    def _is_busy(self) -> bool:
        stats = self._native.kvf.kvf_engine_stats(self._handle)
        return bool(stats.branches_running or stats.branches_waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Engine {self.params.model_path} {state}>"

    #
    # called by branches
    #

    def _submit(
        self,
        branch: _AnyBranch,
        prompt: str | RenderedPrompt | Sequence[int],
        request: Request,
        run_id: int,
    ) -> _AnyBranch:
        _check_run_id(run_id)
        if isinstance(prompt, (str, RenderedPrompt)):
            prompt = self.tokenize(prompt)
        native = native_request(self._native, prompt, request, run_id)

        kvf = self._native.kvf
        with self._use() as handle:
            branch_id = self._dispatcher.add(
                lambda: int(kvf.kvf_submit(handle, ctypes.byref(native))), branch._mailbox
            )
            if not branch_id:
                raise last_error(self._native)
            if self._store is not None:
                self._store.warn()
        return branch._submitted(branch_id)

    def fork_branch(self, parent: _AnyBranch, branch: _AnyBranch, seed: int | None) -> _AnyBranch:
        """Let `branch`, which is new, go on from where `parent` is."""
        kvf = self._native.kvf
        number = RANDOM_SEED if seed is None else seed
        with self._use() as handle:
            branch_id = self._dispatcher.add(
                lambda: int(kvf.kvf_fork(handle, parent.id, number)), branch._mailbox
            )
            if not branch_id:
                raise last_error(self._native)
        return branch._submitted(branch_id)

    def cancel_branch(self, branch_id: int) -> None:
        """End a branch within one batch step, without waiting for that."""
        self._call_if_open(self._native.kvf.kvf_cancel, branch_id)

    def _call_if_open(self, function: Callable[[int, int], None], number: int) -> None:
        """Call the library with the number of a branch or run, unless the engine is closed."""
        with self._lifetime.call_if_open() as is_open:
            if is_open:
                function(self._handle, number)

    @contextmanager
    def _use(self) -> Iterator[int]:
        """Keep the engine from being freed while the block uses its handle."""
        with self._lifetime.call():
            yield self._handle

    def _create(self) -> int:
        params, kvf = self.params, self._native.kvf
        native_params = self._weights.context_params(params)
        self._cell_bytes = cell_bytes(
            self._native, self._model, native_params.type_k, native_params.type_v
        )
        self.n_ctx = int(native_params.n_ctx)
        self.n_seq_max = int(native_params.n_seq_max)
        lora = self._weights.lora
        with llama_log(self._native, verbose=params.verbose) as errors:
            handle = kvf.kvf_engine_create(
                self._model, native_params, params.batch_invariant, params.max_gap_ms
            )
        if handle and (lora is None or kvf.kvf_engine_set_lora(handle, lora, params.lora_scale)):
            self._report_fit()
            return int(handle)
        error = last_error(self._native)
        if handle:
            kvf.kvf_engine_free(handle)
        failed = f"model_path={params.model_path!r} cannot be run: {error}"
        if isinstance(error, InvalidRequestError):
            raise InvalidRequestError(failed)
        meant = "" if params.n_ctx != 0 else " (n_ctx=0 means the model's training context)"
        raise ModelLoadError(f"{failed}{meant}. {in_words(errors)}")

    def _report_fit(self) -> None:
        """With `verbose`, print how much of the model is where."""
        if self.params.verbose:
            count = self._weights.n_gpu_layers
            layers = {-1: "all", 0: "no"}.get(count, str(count))
            sys.stderr.write(
                f"langgraph-kvfork: {self.params.model_path}: n_ctx is {self.n_ctx:,}, the "
                f"training context {self.n_ctx_train:,}; {layers} layers are on a GPU\n"
            )


def _check_run_id(run_id: int) -> None:
    check_integer("run_id", run_id, "pass a number, or 0 for no run", low=0, high=2**64 - 1)


def _build(params: EngineParams) -> Engine:
    """Build the engine for parameters that nobody asked for in these words.

    Others may have asked for the same in other words, which only the model can tell.
    """
    with native_work:
        lib = native()
    # if the process ends, it knows by now that there is a library
    with native_work:
        if _forked:
            raise ProcessForkedError(FORKED)
        weights = Weights.take(lib, params)
    try:
        with native_work:
            context = weights.context_params(params)
            key = context_key(params, context, lib.llama, weights.model)
        # the engine takes the same weights
        return _engines.get(_Key(params, (weights_key(params, lib.llama), key)))
    finally:
        weights.release()


@dataclass(frozen=True)
class _Key:
    """Parameters that are equal if they come to the same."""

    params: EngineParams = field(compare=False)
    meaning: Hashable


_asked: Registry[EngineParams, Engine] = Registry(_build)
"""Engines by the parameters that were asked for."""
_engines: Registry[_Key, Engine] = Registry(lambda key: Engine(key.params))
"""Engines by what their parameters come to."""
# reentrant: a garbage collection inside may come back here
_alive_lock = threading.RLock()
_alive: list[Engine] = []
_used = False
_forked = False


@atexit.register
def _end() -> None:
    begin_ending()
    if not native.cache_info().currsize:
        wait_for_work()
        return
    for engine in Engine.all():
        engine._dispatcher.mute()
    kvf = native().kvf
    if not any(engine.params.verbose for engine in Engine.all()):
        # llama.cpp would log what this aborts as a failure
        kvf.kvf_set_log_level(LogLevel.NONE)
    kvf.kvf_stop_loading()
    wait_for_work()
    for engine in Engine.all():
        engine._dispatcher.mute()
        engine.close()


def _after_fork_in_child() -> None:
    global _forked, _alive_lock
    _forked = _used
    _asked.reset()
    _engines.reset()
    _alive_lock = threading.RLock()
    for engine in _alive:
        engine._lifetime.abandon()
    _alive.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
