"""The chat model.

`ChatKVFork` is the part that LangChain calls: fields, `invoke` and `stream` in both forms, tools,
structured output, token counts. A call is checked and becomes a `Call` (`call.py`), is rendered and
tokenized, runs as a branch of the engine, and its events become chunks (`answer.py`).

`_generate` collects `_stream`, so both ways compute the same. Calls of one engine know nothing of
one another: what they share is found by their tokens, in the engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import fields
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel, generate_from_stream
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from langgraph_kvfork.arguments import (
    AnswerTokens,
    Grammar,
    Keep,
    LastTokens,
    LogitBias,
    LogprobsSwitch,
    Namespace,
    Penalty,
    Probability,
    RepeatPenalty,
    Seed,
    StopStrings,
    Switch,
    Temperature,
    TemplateVariables,
    Timeout,
    TopCount,
    TopK,
    checked,
)
from langgraph_kvfork.branches.events import PrefillProgress, Usage
from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.chat.answer import PROVIDER, Answer
from langgraph_kvfork.chat.bound_model import BoundModel
from langgraph_kvfork.chat.call import Call, stop_strings
from langgraph_kvfork.chat.errors import langchain_errors
from langgraph_kvfork.chat.local_model import ENGINE_FIELDS, LocalChatModel
from langgraph_kvfork.chat.other_names import OTHER_NAMES
from langgraph_kvfork.chat.profile import model_profile
from langgraph_kvfork.chat.refusals import in_our_words, refusal, refusals
from langgraph_kvfork.chat.sample import of_sample
from langgraph_kvfork.chat.saved_prefix import check_save, save_prefix
from langgraph_kvfork.chat.small_pool import watched_pool
from langgraph_kvfork.chat.structured_output import (
    Schema,
    is_checked_later,
    schema_of,
    structured_output,
)
from langgraph_kvfork.chat.token_count import count_tokens
from langgraph_kvfork.checks import refuse_unknown, require
from langgraph_kvfork.convert.tool_choice import ToolChoice
from langgraph_kvfork.convert.tools import AnyTool, chosen_tools, openai_tools
from langgraph_kvfork.engine.ending import python_in_native_code
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.hooks.branch_arguments import branch_arguments
from langgraph_kvfork.hooks.place import heartbeat, progress_with_heartbeat, token_listener
from langgraph_kvfork.hooks.prompt_thread import in_own_thread, in_prompt_thread
from langgraph_kvfork.hooks.runs import run_id_of_call, run_id_of_config
from langgraph_kvfork.hooks.sample import current_sample
from langgraph_kvfork.order.watch import watched_order
from langgraph_kvfork.schema.held import held_tools, warn_of_dropped

# what a call may override: all of a request (but for what rendering finds out), and more
_REQUEST_FIELDS = tuple(field.name for field in fields(Request) if field.name != "answer_format")
_OWN_FIELDS = (
    "top_logprobs",
    "chat_template_kwargs",
    "timeout",
    "reasoning",
    "special_tokens_in_text",
)
_MODEL_FIELDS = (*_REQUEST_FIELDS, *_OWN_FIELDS)
# what a chat model takes otherwise than a request
_CHECKED_HERE = ("max_tokens", "logprobs", *_OWN_FIELDS)
_CALL_FIELDS = (
    *_MODEL_FIELDS,
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "prompt_tools",
    "response_format",
)
_NOT_COMPUTED = Usage(0, 0, 0, 0, 0, 0, None, 0.0, 0.0, 0.0)


@cache
def _known_names(cls: type[BaseChatModel]) -> frozenset[str]:
    return frozenset({*cls.model_fields, "stop_sequences"})


class ChatKVFork(LocalChatModel):
    """A chat model that runs in this process and forks what its prompts have in common.

    However its calls come about (a LangGraph fan-out, `batch`, threads, tasks), prompts that begin
    with the same tokens are prefilled once, as far as they agree, and decoded together in one
    batch.

    Making one costs nothing: the model is loaded when it is first used, or by `load`, and all chat
    models with the same engine parameters share one `Engine`. `close`, or a `with` block, frees it.

    Names are those of `llama_cpp.Llama` and of LangChain's standard parameters; what is unknown is
    refused. Sampling parameters can be overridden in every call (`llm.invoke(..., seed=1)`) and
    with `bind`.

    Example:
        ```python
        llm = ChatKVFork(model_path="model.gguf", n_ctx=16384, temperature=0)
        llm.invoke("Say hello.").content
        ```

    Raises:
        InvalidRequestError: An argument is unknown, of a wrong type or out of range. It is a
            `ValueError` and, where pydantic allows it, a `pydantic.ValidationError` too.
    """

    # the chat template
    chat_template_kwargs: TemplateVariables = Field(default_factory=dict)
    """Variables for the chat template, as JSON has them; a call's come on top."""
    special_tokens_in_text: Switch = False
    """Take names of special tokens in messages, tools and `chat_template_kwargs` for these tokens,
    as the template's own are. False: they are text like any other, whoever wrote it, so no message
    can end its turn or begin another one. True is for those who write a template's tokens by hand,
    and for nobody who lets others write into a prompt."""

    # what to generate
    temperature: Temperature = 0.8
    """Randomness; 0: greedy, always the most likely token."""
    top_k: TopK = 40
    """Sample among this many most likely tokens; 0: off."""
    top_p: Probability = 0.95
    """Sample among the most likely tokens whose probabilities add up to this; 1: off."""
    min_p: Probability = 0.05
    """Leave out tokens less likely than this share of the most likely one; 0: off."""
    typical_p: Probability = 1.0
    """Locally typical sampling; 1: off."""
    repeat_penalty: RepeatPenalty = 1.0
    """Divides the logits of tokens that occurred lately; 1: off."""
    frequency_penalty: Penalty = 0.0
    """Subtracted from a token's logit for each time that it occurred lately; 0: off."""
    presence_penalty: Penalty = 0.0
    """Subtracted from a token's logit if it occurred lately; 0: off."""
    last_n_tokens_size: LastTokens = 64
    """Tokens that the penalties look back on; 0: none."""
    seed: Seed = None
    """0 to 4,294,967,294; None: a random one for every call."""
    logit_bias: LogitBias = Field(default_factory=dict)
    """Added to logits, by token id; `-inf` forbids a token."""
    stop: StopStrings = Field(default_factory=list, alias="stop_sequences")
    """Strings that end the text and are not part of it. A call's `stop` comes on top."""
    max_tokens: AnswerTokens = None
    """Most tokens to generate; None or -1: until the context is full."""
    logprobs: LogprobsSwitch = False
    """Put each token's log-probability into `response_metadata["logprobs"]`."""
    top_logprobs: TopCount = None
    """And those of this many most likely tokens; needs `logprobs`."""
    grammar: Grammar = None
    """GBNF with the rule `root`, which the text will follow."""
    reasoning: Switch = True
    """Whether the model thinks, if its template can turn that off. Thoughts are not in
    the text, but in `additional_kwargs["reasoning_content"]` and the message's `content_blocks`."""
    ignore_eos: Switch = False
    """Go on after an end-of-generation token."""
    share_prefix: Switch = True
    """Fork from what is cached, and leave what is computed to others. False: every call prefills
    its whole prompt."""
    keep: Keep = True
    """What a call leaves for others, in the cache and in the store: True: all that it computed;
    "prefix": what others had in common with it while it ran, and its own tail goes; False:
    nothing."""
    namespace: Namespace = None
    """Prefixes are shared only with calls of the same namespace, in the cache and in the store;
    None: with those that have none."""

    # how to call
    timeout: Timeout = None
    """Seconds after which a call is cancelled with `GenerationTimeoutError`; None: never."""
    max_retries: int | None = None
    """Accepted because it is one of LangChain's standard parameters. Nothing is retried, since what
    fails in this process would fail again. (`with_retry` retries.)"""
    api_key: SecretStr | None = None
    """Accepted likewise. Nothing here needs one."""
    streaming: bool = False
    """Whether `invoke` streams inside. The result is the same; callbacks get every token. `stream`
    streams either way (`disable_streaming=True` lets it not)."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, values: Any) -> Any:
        if isinstance(values, dict):
            refuse_unknown(values, _known_names(cls), cls.__name__, OTHER_NAMES)
        return values

    @model_validator(mode="after")
    def _check_what_belongs_together(self) -> Self:
        _check_logprobs(self.logprobs, self.top_logprobs)
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_sentences(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            raise in_our_words(error, cls, values) from None

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the fields that were given.

        LangChain never streams from a model whose `streaming` was given and is False. Here that is
        the default, which `configurable_fields` and copies give with all others.
        """
        given = super().model_fields_set
        return given if self.streaming else given - {"streaming"}

    @model_validator(mode="after")
    def _leave_profile_open(self) -> Self:
        # where it is not found, __getattr__ is asked: making a model must not read its file
        if self.__dict__.get("profile") is None:
            self.__dict__.pop("profile", None)
        return self

    if not TYPE_CHECKING:  # which knows the fields

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            try:
                with python_in_native_code:
                    super().__init__(*args, **kwargs)
            except ValidationError as error:
                raise refusal(error, type(self)) from None

        @classmethod
        def model_validate(cls, *args: Any, **kwargs: Any) -> Self:
            """As pydantic's; it refuses as the constructor does."""
            with refusals(cls):
                return super().model_validate(*args, **kwargs)

        @classmethod
        def model_validate_json(cls, *args: Any, **kwargs: Any) -> Self:
            """As pydantic's; it refuses as the constructor does."""
            with refusals(cls):
                return super().model_validate_json(*args, **kwargs)

        @classmethod
        def model_validate_strings(cls, *args: Any, **kwargs: Any) -> Self:
            """As pydantic's; it refuses as the constructor does."""
            with refusals(cls):
                return super().model_validate_strings(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            if name == "profile":
                return model_profile(self._engine_params())
            return super().__getattr__(name)

    def bind(  # type: ignore[override] # langchain-core 1.0 has no narrower type, and it is private
        self, **kwargs: Any
    ) -> BoundModel:
        """Return this model with arguments for each of its calls."""
        return BoundModel(bound=self, kwargs=kwargs, config={})

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> BoundModel:
        """Return this model with a configuration for each of its calls."""
        merged = cast("RunnableConfig", {**(config or {}), **kwargs})
        return BoundModel(bound=self, kwargs={}, config=merged)

    @langchain_errors()
    def bind_tools(
        self,
        tools: Sequence[AnyTool],
        *,
        tool_choice: ToolChoice = None,
        parallel_tool_calls: bool | None = None,
        prompt_tools: Sequence[AnyTool] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with tools that it may call.

        Whatever its chat template knows, it can call: templates without tools get them as text. A
        call that is forced always comes and matches its schema, unless `max_tokens` cuts it off;
        such a call is among the message's `invalid_tool_calls`.

        Args:
            tools: Functions, pydantic models, TypedDicts, `BaseTool`s, or OpenAI's JSON.
            tool_choice: None or "auto": the model decides; "none": no call; "any", "required" or
                True: some call; the name of a tool: this one; or the dict that OpenAI, Anthropic,
                Bedrock or Google has for one of these. Of a list of allowed tools, only these can
                be called; the prompt still has all.
            parallel_tool_calls: Whether one answer may call several times. None: if the model's own
                template knows it; but for one tool by its name, once.
            prompt_tools: The tools in the prompt, so that calls with different tools have one
                prompt; a grammar lets the model call none but `tools`. None: `tools`.
            strict: For the tools' schemas, as LangChain converts them. Calls follow their schemas
                with and without it.
            **kwargs: More to bind.

        Raises:
            InvalidRequestError: A tool or `tool_choice` is wrong.
        """
        bound: dict[str, Any] = {"tools": openai_tools(tools, strict=strict)}
        if tool_choice is not None:
            bound["tool_choice"] = tool_choice
        if parallel_tool_calls is not None:
            bound["parallel_tool_calls"] = parallel_tool_calls
        if prompt_tools is not None:
            bound["prompt_tools"] = openai_tools(prompt_tools, strict=strict, name="prompt_tools")
        chosen_tools(bound["tools"], tool_choice, parallel=parallel_tool_calls)
        warn_of_dropped(held_tools(bound["tools"]), "The tools' parameters")
        return self.bind(**bound, **kwargs)

    @langchain_errors()
    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return this model with answers that are objects.

        An answer is whole and matches its schema: a grammar holds what it can while the answer is
        generated, and all of it is checked. If it does not, whatever cut it off,
        `StructuredOutputError` is raised, which keeps the text. What no grammar holds is named in a
        `SchemaWarning`.

        Args:
            schema: A pydantic model (of version 1 or 2): the answer is an instance; a TypedDict or
                JSON schema: a dict. None, for "json_mode" only: any object.
            method: "json_schema": the answer's text follows the schema; "function_calling": the
                schema is a tool that must be called; "json_mode": the text is some JSON object,
                and the prompt has to say which.
            include_raw: Return `{"raw": message, "parsed": object, "parsing_error": error}`.
            strict: For a tool's schema, as LangChain converts it.
            **kwargs: More to bind.

        Raises:
            InvalidRequestError: The schema or the method is wrong.
        """
        return structured_output(
            self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs
        )

    def prefill(
        self,
        messages: LanguageModelInput,
        *,
        on_progress: Callable[[PrefillProgress], None] | None = None,
        save: bool = False,
        **kwargs: Any,
    ) -> Usage:
        """Compute messages ahead, so that later prompts that begin with them only fork.

        With `share_prefix=False` nothing could use it, so nothing is computed.

        Args:
            messages: What later prompts begin with.
            on_progress: Called after each chunk, and now and then while others are computed; in the
                calling thread.
            save: Return when the store has it too, as `Engine.save` does; needs `cache_dir`. What
                the disk refuses is a `StoreWarning`, since answers do not depend on it.
            **kwargs: Arguments of those calls; tools above all, which are a part of the prompt.

        Returns:
            Tokens and times.

        Raises:
            KVForkError: As a call of the model.
        """
        return self._prefill(messages, ensure_config(), on_progress, kwargs, save=save)

    async def aprefill(
        self,
        messages: LanguageModelInput,
        *,
        on_progress: Callable[[PrefillProgress], None] | None = None,
        save: bool = False,
        **kwargs: Any,
    ) -> Usage:
        """As `prefill`, without blocking the event loop."""
        return await self._aprefill(messages, ensure_config(), on_progress, kwargs, save=save)

    @langchain_errors()
    def _prefill(
        self,
        messages: LanguageModelInput,
        config: RunnableConfig,
        on_progress: Callable[[PrefillProgress], None] | None,
        kwargs: dict[str, Any],
        *,
        save: bool,
    ) -> Usage:
        call = self._call(None, kwargs)
        check_save(save, call.request, self._engine_params)
        if not call.request.share_prefix:
            return _NOT_COMPUTED
        with self._engine_in_use() as engine:
            usage = engine.prefill(
                call.render(engine, self._messages(messages), prefix=True),
                on_progress=progress_with_heartbeat(on_progress),
                timeout=call.timeout,
                run_id=run_id_of_config(engine, config),
                namespace=call.request.namespace,
            )
            if save:
                save_prefix(engine)
            return usage

    async def _aprefill(
        self,
        messages: LanguageModelInput,
        config: RunnableConfig,
        on_progress: Callable[[PrefillProgress], None] | None,
        kwargs: dict[str, Any],
        *,
        save: bool,
    ) -> Usage:
        call = self._call(None, kwargs)
        if save is not False:  # or there is nothing to look up, and no thread to wait for
            with langchain_errors():
                check = partial(check_save, save, call.request, self._engine_params)
                await in_prompt_thread(check)
        if not call.request.share_prefix:
            return _NOT_COMPUTED
        converted = self._messages(messages)
        async with self._aengine_in_use() as engine:
            tokens = await in_prompt_thread(
                lambda: engine.tokenize(call.render(engine, converted, prefix=True))
            )
            usage = await engine.aprefill(
                tokens,
                on_progress=progress_with_heartbeat(on_progress),
                timeout=call.timeout,
                run_id=run_id_of_config(engine, config),
                namespace=call.request.namespace,
            )
            if save:
                await in_own_thread(lambda: save_prefix(engine))
            return usage

    @langchain_errors()
    def _check_save(self, kwargs: dict[str, Any]) -> None:
        check_save(True, self._call(None, kwargs).request, self._engine_params)

    @langchain_errors()
    def get_token_ids(self, text: str) -> list[int]:
        """Return the model's own tokens for a text, without what a prompt begins and ends with."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with self._engine_in_use() as engine:
            return engine.tokenize(text, add_special=False, parse_special=False)

    @langchain_errors()
    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Count the tokens of the prompt that these messages make.

        An excerpt that the chat template would refuse, such as one that begins with an answer, is
        counted message by message.

        Args:
            messages: The messages.
            tools: The prompt's tools, in any form that LangChain takes.

        Raises:
            InvalidRequestError: A message is not text of a chat.
        """
        call = self._call(None, {"tools": tools})
        with self._engine_in_use() as engine:
            return count_tokens(engine, self._messages(messages), **call.options())

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
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        # without aclosing: nothing can leave the stream early, and it would complain where a loop
        # is closed under its tasks
        stream = self._astream(messages, stop, run_manager, **kwargs)
        chunks = [chunk async for chunk in stream]
        return generate_from_stream(iter(chunks))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(stop, kwargs)
        with self._engine_in_use() as engine:
            prompt, tokens, request, answer = self._prepare(call, engine, messages)
            send_heartbeat, listen, run_id = heartbeat(), token_listener(), run_id_of_call(engine)
            with (
                watched_order(
                    engine,
                    messages,
                    prompt,
                    shared=request.share_prefix,
                    namespace=request.namespace,
                ),
                watched_pool(engine, run_id) as watch_pool,
                engine.generate(tokens, request, timeout=call.timeout, run_id=run_id) as branch,
            ):
                for event in branch:
                    send_heartbeat()
                    watch_pool(event)
                    for chunk in answer.chunks(event):
                        listen(chunk.text)
                        yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        call = self._call(stop, kwargs)
        async with self._aengine_in_use() as engine:
            prompt, tokens, request, answer = await in_prompt_thread(
                lambda: self._prepare(call, engine, messages)
            )
            send_heartbeat, listen, run_id = heartbeat(), token_listener(), run_id_of_call(engine)
            with (
                watched_order(
                    engine,
                    messages,
                    prompt,
                    shared=request.share_prefix,
                    namespace=request.namespace,
                ),
                watched_pool(engine, run_id) as watch_pool,
            ):
                stream = engine.agenerate(tokens, request, timeout=call.timeout, run_id=run_id)
                async with stream as branch:
                    async for event in branch:
                        send_heartbeat()
                        watch_pool(event)
                        for chunk in answer.chunks(event):
                            listen(chunk.text)
                            yield chunk

    @langchain_errors()
    def _prepare(
        self, call: Call, engine: Engine, messages: list[BaseMessage]
    ) -> tuple[str, list[int], Request, Answer]:
        """Return the prompt, its tokens, how to go on after it, and what reads the answer."""
        rendered = call.render(engine, messages)
        call.watch_thoughts(engine, messages, rendered.text)
        request = call.request_for(rendered)
        answer = Answer(
            engine,
            rendered,
            self._model_name,
            shared=request.share_prefix,
            check=call.answer_check(),
        )
        return rendered.text, engine.tokenize(rendered), request, answer

    @property
    def _llm_type(self) -> str:
        return "chat-kvfork"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # also the key of LangChain's response cache: all that an answer depends on
        names = (name for name in (*ENGINE_FIELDS, *_MODEL_FIELDS) if name != "timeout")
        params = {name: getattr(self, name) for name in names}
        if (sample := current_sample()).count > 1:
            params["sample"] = sample.number
        # nobody gets an answer out of another namespace
        params.update(branch_arguments())
        # LangChain overwrites "stop" with the call's
        return {"model_name": self._model_name, **params, "stop_sequences": self.stop}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = kwargs.get("model") or self._model_name
        return params

    #
    # from fields to what the engine takes
    #

    def _messages(self, messages: LanguageModelInput) -> list[BaseMessage]:
        try:
            return self._convert_input(messages).to_messages()
        except (TypeError, ValueError, NotImplementedError) as error:
            raise InvalidRequestError(
                f"messages are not possible: pass text, or a list of messages. ({error})"
            ) from error

    @langchain_errors()
    def _call(self, stop: list[str] | None, kwargs: dict[str, Any]) -> Call:
        """Return what a call asks for."""
        with python_in_native_code:
            return self._read_call(stop, kwargs)

    def _read_call(self, stop: list[str] | None, kwargs: dict[str, Any]) -> Call:
        options = dict(kwargs)
        # LangChain's own, which has done its work by now
        options.pop("stream", None)
        for name in ENGINE_FIELDS:
            if name in options:
                raise InvalidRequestError(
                    f"{name} cannot change from call to call, since the engine is built with it: "
                    f"pass it to {type(self).__name__}(...)."
                )
        more = [*stop_strings(stop), *stop_strings(options.pop("stop_sequences", None))]
        refuse_unknown(options, _CALL_FIELDS, f"A call of {type(self).__name__}", OTHER_NAMES)
        options["stop"] = list(dict.fromkeys([*self.stop, *more]))
        given = {name: options.get(name, getattr(self, name)) for name in _CHECKED_HERE}
        if given["chat_template_kwargs"] is None:
            given["chat_template_kwargs"] = {}
        own = checked(type(self), given)
        _check_logprobs(own["logprobs"], own["top_logprobs"])
        return Call(
            request=self._request({**options, **own}),
            timeout=own["timeout"],
            tools=chosen_tools(
                options.get("tools"),
                options.get("tool_choice"),
                parallel=options.get("parallel_tool_calls"),
                prompt_tools=options.get("prompt_tools"),
            ),
            json_schema=schema_of(options.get("response_format")),
            checked_later=is_checked_later(options.get("response_format")),
            reasoning=own["reasoning"],
            template_variables={**self.chat_template_kwargs, **own["chat_template_kwargs"]},
            special_tokens_in_text=own["special_tokens_in_text"],
        )

    def _request(self, options: dict[str, Any]) -> Request:
        own = {name: getattr(self, name) for name in _REQUEST_FIELDS}
        values = {**own, **branch_arguments()}
        values.update((name, options[name]) for name in own if name in options)
        values["logprobs"] = (options["top_logprobs"] or 0) if options["logprobs"] else None
        return of_sample(Request(**values))


def _check_logprobs(logprobs: bool, top_logprobs: int | None) -> None:
    require(
        logprobs or top_logprobs is None,
        "top_logprobs",
        top_logprobs,
        "set logprobs=True too, or leave it out",
    )
