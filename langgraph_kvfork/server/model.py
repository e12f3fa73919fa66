"""The chat model on a server: `ChatOpenAI`, with calls that are put together before they are sent.

All requests run on one loop (`loop.py`), for callers in threads and in tasks alike. A call waits
until its fan-out is prepared (`gather.py`), is sent with what lets it find its prefix, and its
message gets the server's numbers (`usage.py`). What goes wrong is raised in LangChain's classes
(`errors.py`).
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig, ensure_config
from pydantic import Field, PositiveInt, SecretStr, ValidationError, model_validator
from typing_extensions import Self

from langgraph_kvfork.arguments import RANDOM_SEED
from langgraph_kvfork.branches.events import PrefillProgress, Usage
from langgraph_kvfork.chat.ahead import ComputesAhead
from langgraph_kvfork.chat.answer import SERVER_PROVIDER
from langgraph_kvfork.chat.errors import InvalidRequestError, MissingPackageError, langchain_errors
from langgraph_kvfork.chat.refusals import refusal
from langgraph_kvfork.checks import is_number, require
from langgraph_kvfork.convert.tools import openai_tools
from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.errors import EqualAnswersWarning
from langgraph_kvfork.hooks.place import heartbeat, token_listener
from langgraph_kvfork.hooks.sample import current_sample
from langgraph_kvfork.order.join import join
from langgraph_kvfork.order.watch import watched_order
from langgraph_kvfork.server.loop import after_fork, aitems_of, await_for, items_of, wait_for
from langgraph_kvfork.warning import warn

try:
    import openai
    from langchain_openai import ChatOpenAI
except ImportError as error:
    raise MissingPackageError(
        "ChatKVForkServer needs the package langchain-openai: "
        "`pip install 'langgraph-kvfork[server]'`."
    ) from error

from langgraph_kvfork.server.affinity import Affinity
from langgraph_kvfork.server.ahead import prefill, usage_of
from langgraph_kvfork.server.errors import broken, in_our_words, late
from langgraph_kvfork.server.facts import KINDS, Kind, ServerFacts
from langgraph_kvfork.server.gather import Place
from langgraph_kvfork.server.prompt_text import prompt_text
from langgraph_kvfork.server.requests import Requests, ServerRefusedError
from langgraph_kvfork.server.sharing import Sharing, sharing_of
from langgraph_kvfork.server.slots import tokens_of
from langgraph_kvfork.server.usage import TIMINGS, describe

_ENGINES = {field.name for field in fields(EngineParams)} | {"keep_alive"}
_OF_ANSWERS = ("response_format", "tool_choice", "parallel_tool_calls", "logprobs", "n")
"""Arguments of a call that ask for something that one token is not."""

_BODY = ("top_k", "min_p", "typical_p", "repeat_penalty", "ignore_eos", "chat_template_kwargs")


@functools.cache
def _client() -> Any:
    """Return the connections of all chat models; they belong to the loop of `loop.py`."""
    return openai.DefaultAsyncHttpxClient()


after_fork(_client.cache_clear)


class ChatKVForkServer(ChatOpenAI, ComputesAhead):
    """A chat model on an OpenAI-compatible server: vLLM, SGLang, llama-server or another one.

    It takes the arguments of `ChatOpenAI`, and those below. `base_url` is the server's address,
    with `/v1` or without. `model` left out is the first model that the server serves. `api_key` is
    the server's key, if it has one; `OPENAI_API_KEY` is not read. `timeout` ends a call after so
    many seconds; a stream, after so many without a piece of it.

    The server is asked once which it is, at the first call. Calls whose prompts begin alike, and
    that come at the same time, reach the server in the way in which it computes their common
    beginning once.

    Nodes, reports and warnings are those of `ChatKVFork`. What a server cannot do is refused: an
    engine's arguments (`n_ctx`) are the server's own, and `grammar` is llama-server's.

    Example:
        ```python
        llm = ChatKVForkServer(base_url="http://localhost:8000", temperature=0)
        ```

    Raises:
        InvalidRequestError: An argument is wrong, or the server's own.
        MissingPackageError: The package `langchain-openai` is missing (extra `server`).
    """

    server: Kind | None = None
    """Which server it is: "llama-server", "vllm", "sglang" or "other"; None: ask it."""
    namespace: str | None = Field(default=None, min_length=1, max_length=1024)
    """Prefixes are shared only with calls of the same namespace; None: with those that have none.
    vLLM and SGLang keep them apart (`cache_salt`); with another server it is refused."""
    grammar: str | None = None
    """GBNF with the rule `root`, which the text will follow; llama-server has it, and no other."""
    share_prefix: bool = True
    """Put calls together, and prepare their prefix. False: each is sent as `ChatOpenAI` sends it,
    and the server shares what it does by itself."""
    affinity_header: str | None = None
    """The header by which a router sends requests to one replica, such as "X-Session-ID"; each
    fan-out has a value of its own there."""
    affinity_key: str | None = None
    """The key of a request's body that a router reads likewise, such as "prompt_cache_key"."""
    replicas: PositiveInt = 1
    """How many servers are behind the address. With several, a prefix is computed ahead by a
    request of one token, on each that a fan-out uses."""
    branches_per_replica: PositiveInt | None = None
    """Most branches of a fan-out that have one affinity key; None: all of them."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_the_servers(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name in values:
            if name in _ENGINES and name not in cls.model_fields:
                raise InvalidRequestError(
                    f"ChatKVForkServer has no argument {name!r}: it belongs to the server, which "
                    "is started with it (llama-server --help, vllm serve --help)."
                )
            if name in _BODY:
                raise InvalidRequestError(
                    f"ChatKVForkServer has no argument {name!r}: pass it as "
                    f"extra_body={{{name!r}: ...}}, as the server takes it."
                )
        url = values.pop("openai_api_base", None) or values.pop("base_url", None)
        values["base_url"] = _with_version(url)
        if not (values.get("model") or values.get("model_name")):
            values["model"] = ""
        if not (values.get("api_key") or values.get("openai_api_key")):
            values["api_key"] = SecretStr("none")
        given = values.get("http_client")
        remedy = "pass http_async_client: requests of all callers go through it"
        require(given is None, "http_client", given, remedy)
        if not values.get("openai_proxy") and values.get("http_async_client") is None:
            values["http_async_client"] = _client()
        if values.get("stream_usage") is None:
            values["stream_usage"] = True
        # a prefill may take minutes; and what waits with a limit can lose a cancel (Python < 3.12)
        if "stream_chunk_timeout" in cls.model_fields:
            values.setdefault("stream_chunk_timeout", None)
        if values.get("use_responses_api") is None:
            values["use_responses_api"] = False
        server = values.get("server")
        remedy = f"pass one of {', '.join(map(repr, KINDS))}, or None"
        require(server is None or server in KINDS, "server", server, remedy)
        return values

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        keyed = bool(self.affinity_header or self.affinity_key)
        require(
            keyed or self.branches_per_replica is None,
            "branches_per_replica",
            self.branches_per_replica,
            "pass affinity_header or affinity_key too, by which the router tells replicas apart",
        )
        return self

    if not TYPE_CHECKING:  # which knows the fields

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().__init__(*args, **kwargs)
            except ValidationError as error:
                raise refusal(error, type(self)) from None

    #
    # the server
    #

    def server_facts(self) -> ServerFacts:
        """Return what the server says of itself; it is asked once.

        Raises:
            ServerConnectionError: Nobody answers.
            ServerKeyError: The key is refused.
        """
        return wait_for(self._facts())

    async def aserver_facts(self) -> ServerFacts:
        """As `server_facts`, without blocking the event loop."""
        return await await_for(self._facts())

    async def _facts(self) -> ServerFacts:
        with langchain_errors(), in_our_words(self._root):
            return (await self._sharing()).facts

    @property
    def _root(self) -> str:
        return str(self.openai_api_base).rstrip("/").removesuffix("/v1")

    @property
    def _requests(self) -> Requests:
        return Requests(self.root_async_client, self._root)

    async def _sharing(self) -> Sharing:
        affinity = Affinity(
            self.affinity_header, self.affinity_key, self.replicas, self.branches_per_replica
        )
        try:
            sharing = await sharing_of(self._requests, self.server, affinity)
        except ServerRefusedError as error:
            if isinstance(error.__cause__, openai.APIError):
                raise error.__cause__ from None
            raise
        self.__dict__["_served"] = sharing.facts.model
        return sharing

    @property
    def _model_name(self) -> str:
        return self.model_name or str(self.__dict__.get("_served", "")) or "model"

    #
    # a call
    #

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        payload["model"] = payload.get("model") or self._model_name
        sample = current_sample()
        if sample.count > 1:
            if sample.number == 0 and payload.get("temperature") == 0:
                warn(
                    f"All {sample.count} answers to one prompt will be equal, since temperature=0 "
                    "takes the most likely token each time: leave it out, or pass another value, "
                    "as llm.bind(temperature=0.8).",
                    EqualAnswersWarning,
                )
            if isinstance(payload.get("seed"), int):
                payload["seed"] = (payload["seed"] + sample.number) % RANDOM_SEED
        return payload

    @asynccontextmanager
    async def _placed(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> AsyncIterator[tuple[dict[str, Any], Callable[[AIMessage, str], None]]]:
        """Wait for a call's turn.

        Yields:
            The call's arguments, and what puts its numbers into its message.
        """
        begin = time.perf_counter()
        with langchain_errors(), in_our_words(self._root):
            sharing = await self._sharing()
            kwargs = self._with_own(sharing.facts, kwargs)
            payload = self._get_request_payload(messages, stop=stop, **kwargs)
            text = prompt_text(payload)
            gatherer = sharing.gatherer
            salt = (kwargs.get("extra_body") or {}).get("cache_salt")
            with watched_order(sharing, messages, text, shared=self.share_prefix, namespace=salt):
                if not self.share_prefix:
                    yield kwargs, functools.partial(self._describe, sharing, Place(), begin)
                    return
                async with gatherer.place(payload) as place:
                    given = kwargs.get("extra_body") or {}
                    kwargs = {**kwargs, "extra_body": {**given, **place.body}}
                    headers = {**(kwargs.get("extra_headers") or {}), **place.headers}
                    if headers:
                        kwargs["extra_headers"] = headers
                    yield kwargs, functools.partial(self._describe, sharing, place, begin)

    def _with_own(self, facts: ServerFacts, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return a call's arguments with what this class adds to `ChatOpenAI`'s, in the body."""
        kwargs = dict(kwargs)
        body = {**(self.extra_body or {}), **(kwargs.pop("extra_body", None) or {})}
        namespace = kwargs.pop("namespace", self.namespace)
        grammar = kwargs.pop("grammar", self.grammar)
        in_prompt = kwargs.pop("prompt_tools", None)
        if in_prompt is not None:
            own = kwargs.get("tools")
            kwargs["tools"] = openai_tools(in_prompt, name="prompt_tools")
            if not own:
                kwargs["tool_choice"] = "none"
            if not in_prompt:
                del kwargs["tools"], kwargs["tool_choice"]
        if namespace is not None:
            remedy = (
                f"{_name(facts)} cannot keep callers apart in its cache (vLLM and SGLang can): run "
                "a server for each of them, or leave it out"
            )
            require(facts.has_salt, "namespace", namespace, remedy)
            body["cache_salt"] = namespace
        if grammar is not None:
            remedy = (
                f"{_name(facts)} takes no GBNF (llama-server does): use with_structured_output, or "
                "what the server has instead, in extra_body"
            )
            require(facts.kind == "llama-server", "grammar", grammar, remedy)
            body["grammar"] = grammar
        return {**kwargs, "extra_body": body} if body else kwargs

    def _describe(
        self, sharing: Sharing, place: Place, begin: float, message: AIMessage, model: str
    ) -> None:
        sharing.gatherer.way.note(message.response_metadata.get(TIMINGS) or {})
        total_ms = 1000 * (time.perf_counter() - begin)
        describe(message, sharing.facts, place, self._root, model, total_ms)

    async def _answer_in_time(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> ChatResult:
        """Return the answer to a call, or cancel it when its `timeout` is over."""
        call = asyncio.ensure_future(self._answer(messages, stop, kwargs))
        seconds = kwargs.get("timeout", self.request_timeout)
        try:
            await asyncio.wait([call], timeout=seconds if is_number(seconds) else None)
        finally:
            is_late = not call.done()
            call.cancel()
        if is_late:
            raise late(self._root)
        return call.result()

    async def _answer(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> ChatResult:
        with langchain_errors(), in_our_words(self._root):
            facts = (await self._sharing()).facts
        is_plain = not kwargs.get("response_format") and kwargs.get("n", self.n) in (None, 1)
        if facts.kind == "llama-server" and is_plain:
            # it looks whether anybody still waits when it sends a piece, and hardly ever otherwise
            chunks = [chunk async for chunk in self._chunks(messages, stop, kwargs)]
            return generate_from_stream(iter(chunks))
        async with self._placed(messages, stop, kwargs) as (placed, describe_message):
            result = await super()._agenerate(messages, stop, None, **placed)
            for generation in result.generations:
                if isinstance(generation.message, AIMessage):
                    describe_message(generation.message, self._model_name)
            return result

    async def _chunks(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        is_finished = is_named = False
        async with self._placed(messages, stop, kwargs) as (placed, describe_message):
            stream = cast(
                "AsyncGenerator[ChatGenerationChunk, None]",
                super()._astream(messages, stop, None, **placed),
            )
            async with aclosing(stream):
                async for chunk in stream:
                    info = chunk.generation_info or {}
                    is_finished = is_finished or bool(info.get("finish_reason"))
                    is_named = is_named or bool(info.get("model_name"))
                    if isinstance(chunk.message, AIMessage) and chunk.message.usage_metadata:
                        describe_message(chunk.message, "" if is_named else self._model_name)
                    yield chunk
            if not is_finished:
                raise broken(self._root, "no end of it came")

    def _create_chat_result(self, response: Any, generation_info: Any = None) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        if isinstance(response, dict):
            timings = response.get("timings")
        else:
            timings = getattr(response, "timings", None)
        for generation in result.generations:
            generation.message.response_metadata[TIMINGS] = timings
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], *args: Any, **kwargs: Any
    ) -> ChatGenerationChunk | None:
        converted = super()._convert_chunk_to_generation_chunk(chunk, *args, **kwargs)
        if converted is not None and chunk.get("usage") and chunk.get("timings"):
            converted.message.response_metadata[TIMINGS] = chunk["timings"]
        return converted

    #
    # what LangChain calls
    #

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        result = wait_for(self._answer_in_time(messages, stop, kwargs))
        token_listener()(_text(result))
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        result = await await_for(self._answer_in_time(messages, stop, kwargs))
        token_listener()(_text(result))
        return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        send_heartbeat, listen = heartbeat(), token_listener()
        for chunk in items_of(self._chunks(messages, stop, kwargs)):
            send_heartbeat()
            listen(chunk.text)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        send_heartbeat, listen = heartbeat(), token_listener()
        chunks = cast(
            "AsyncGenerator[ChatGenerationChunk, None]",
            aitems_of(self._chunks(messages, stop, kwargs)),
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                send_heartbeat()
                listen(chunk.text)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = SERVER_PROVIDER
        return params

    @property
    def _llm_type(self) -> str:
        return "chat-kvfork-server"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # also the key of LangChain's response cache: all that an answer depends on
        params = {**super()._identifying_params, "base_url": self._root, "grammar": self.grammar}
        if (sample := current_sample()).count > 1:
            params["sample"] = sample.number
        return params

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return that LangChain cannot store it."""
        return False

    #
    # ahead
    #

    def prefill(self, messages: LanguageModelInput, **kwargs: Any) -> Usage:
        """Compute messages ahead, so that later prompts that begin with them find them.

        llama-server computes them and, with `--slot-save-path`, keeps them in a file for all slots;
        another server answers a request of one token.

        Args:
            messages: What later prompts begin with.
            **kwargs: Arguments of those calls; tools above all, which are a part of the prompt.

        Returns:
            Tokens and times, as far as the server reports them.

        Raises:
            KVForkError: As a call of the model.
        """
        return self._prefill(messages, ensure_config(), None, kwargs, save=False)

    async def aprefill(self, messages: LanguageModelInput, **kwargs: Any) -> Usage:
        """As `prefill`, without blocking the event loop."""
        return await self._aprefill(messages, ensure_config(), None, kwargs, save=False)

    def _prefill(
        self,
        messages: LanguageModelInput,
        config: RunnableConfig,
        on_progress: Callable[[PrefillProgress], None] | None,
        kwargs: dict[str, Any],
        *,
        save: bool,
    ) -> Usage:
        if save:
            self._check_save(kwargs)
        return wait_for(self._ahead(messages, kwargs))

    async def _aprefill(
        self,
        messages: LanguageModelInput,
        config: RunnableConfig,
        on_progress: Callable[[PrefillProgress], None] | None,
        kwargs: dict[str, Any],
        *,
        save: bool,
    ) -> Usage:
        if save:
            self._check_save(kwargs)
        return await await_for(self._ahead(messages, kwargs))

    @langchain_errors()
    def _check_save(self, kwargs: dict[str, Any]) -> None:
        remedy = "leave it out: the server keeps what it computes as it is started to keep it"
        require(False, "save", True, remedy)

    async def _ahead(self, messages: LanguageModelInput, kwargs: dict[str, Any]) -> Usage:
        begin = time.perf_counter()
        given = self._convert_input(messages).to_messages()
        with langchain_errors(), in_our_words(self._root):
            sharing = await self._sharing()
            kwargs = self._with_own(sharing.facts, kwargs)
            if sharing.facts.kind != "llama-server" or not given:
                kept = {k: v for k, v in kwargs.items() if k not in _OF_ANSWERS}
                result = await self._answer(given, None, {**kept, "max_tokens": 1})
                return usage_of(result, begin)
            # what any continuation of the messages begins with
            payloads = [
                self._get_request_payload(join(given, [HumanMessage(ending)]), **kwargs)
                for ending in ("One", "Two")
            ]
            return await prefill(self._requests, sharing.gatherer.way, payloads, begin)

    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Any = None,
        **kwargs: Any,
    ) -> int:
        """Count the tokens of the prompt that these messages make; the server counts them.

        Raises:
            InvalidRequestError: The server has no endpoint that counts.
        """
        return wait_for(self._count(list(messages), {"tools": tools} if tools else {}))

    async def _count(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> int:
        with langchain_errors(), in_our_words(self._root):
            facts = (await self._sharing()).facts
            bound = self.bind_tools(kwargs["tools"]).kwargs if kwargs else {}  # type: ignore[attr-defined]
            payload = self._get_request_payload(messages, **bound)
            if facts.kind == "llama-server":
                return len(await tokens_of(self._requests, payload))
            require(
                facts.kind == "vllm",
                "messages",
                messages,
                f"{_name(facts)} counts no tokens of messages",
            )
            body = {
                name: payload[name] for name in ("model", "messages", "tools") if name in payload
            }
            return int((await self._requests.post("/tokenize", body, seconds=60.0))["count"])

    def get_token_ids(self, text: str) -> list[int]:
        """Return the model's own tokens for a text; the server makes them.

        Raises:
            InvalidRequestError: The server has no endpoint that does.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return wait_for(self._tokens(text))

    async def _tokens(self, text: str) -> list[int]:
        with langchain_errors(), in_our_words(self._root):
            facts = (await self._sharing()).facts
            require(facts.kind != "other", "text", text, "this server has no endpoint for tokens")
            body: dict[str, Any] = {"content": text}
            if facts.kind != "llama-server":
                body = {"model": self._model_name, "prompt": text, "add_special_tokens": False}
            tokens: list[int] = (await self._requests.post("/tokenize", body, seconds=60.0))[
                "tokens"
            ]
            return tokens


def _with_version(url: object) -> str:
    """Return an address with `/v1`, if it has no path of its own.

    Raises:
        InvalidRequestError: It is none.
    """
    remedy = 'pass the server\'s address, such as "http://localhost:8000"'
    require(isinstance(url, str) and bool(url), "base_url", url, remedy)
    assert isinstance(url, str)
    parts = urlsplit(url)
    require(parts.scheme in ("http", "https") and bool(parts.netloc), "base_url", url, remedy)
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def _name(facts: ServerFacts) -> str:
    return "this server" if facts.kind == "other" else facts.kind


def _text(result: ChatResult) -> str:
    return result.generations[0].text if result.generations else ""
