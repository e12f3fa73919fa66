"""What goes wrong says so in a sentence, as an exception that LangChain's users know."""

import shutil
from pathlib import Path

import gguf
import pytest
from langchain_core import exceptions
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, ToolMessage
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

from langgraph_kvfork import (
    ChatKVFork,
    ContextOverflowError,
    GenerationTimeoutError,
    InvalidRequestError,
    KVForkError,
    ModelLoadError,
)
from langgraph_kvfork.chat.errors import _LANGCHAINS, langchain_errors
from langgraph_kvfork.engine.default_model import smollm2_path

VOCABULARY = (
    Path(__file__).parents[3] / "build" / "llama.cpp" / "models" / "ggml-vocab-bert-bge.gguf"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


def call(**kwargs):
    return ChatKVFork(**{"n_ctx": 256, "max_tokens": 1, **kwargs}).invoke("Hello")


def test_errors_are_langchains_and_say_what_to_change(llm, engine):
    with pytest.raises(exceptions.ContextOverflowError, match=r"shorten the prompt or raise n_ctx"):
        llm.invoke("word " * 6000)
    with pytest.raises(exceptions.ModelInvalidRequestError, match=r"temperature=-1 .* 0 .*or more"):
        llm.invoke("Hello", temperature=-1)
    with pytest.raises(exceptions.ModelTimeoutError, match=r"timeout=0\.01 .* more, .*max_tokens"):
        llm.invoke("Hello", timeout=0.01, max_tokens=None, ignore_eos=True)
    with pytest.raises(exceptions.ModelNotFoundError, match=r"pass the path of a GGUF file"):
        call(model_path="/nonexistent.gguf")
    # what would fail again is not to be retried; LangChain's own retries ask this
    assert GenerationTimeoutError.is_retryable
    for kind in (ContextOverflowError, InvalidRequestError, ModelLoadError):
        assert not kind.is_retryable
        assert issubclass(kind, KVForkError)


def test_a_retry_and_a_fallback_see_them(llm, engine):
    tries = []

    def count(state):
        tries.append(1)
        return llm.invoke("word " * 6000)

    from langchain_core.runnables import RunnableLambda

    fallback = RunnableLambda(count).with_fallbacks(
        [llm.bind(max_tokens=1)], exceptions_to_handle=(exceptions.ContextOverflowError,)
    )
    assert isinstance(fallback.invoke("Hello"), AIMessage)
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "tries"),
    [
        ({"input": "word " * 6000}, ContextOverflowError, 1),
        ({"input": "Hello", "temperature": -1}, InvalidRequestError, 1),
        ({"input": "Hello", "timeout": 0, "max_tokens": 99}, GenerationTimeoutError, 3),
    ],
)
def test_the_default_retries_of_langgraph_and_langchain_do_as_the_errors_say(
    llm, engine, arguments, kind, tries
):
    made = []

    def node(state):
        made.append("node")
        return {"x": llm.invoke(**arguments)}

    builder = StateGraph(dict)
    builder.add_node("ask", node, retry_policy=RetryPolicy(initial_interval=0.01, jitter=False))
    builder.add_edge(START, "ask")
    with pytest.raises(kind) as raised:
        builder.compile().invoke({})
    assert len(made) == tries
    assert raised.value.is_retryable == (tries > 1)


@pytest.mark.parametrize("kind", _LANGCHAINS)
def test_every_error_is_retried_by_all_or_by_none(kind):
    with pytest.raises(kind, match="why") as raised, langchain_errors():
        raise kind("why")
    assert isinstance(raised.value, exceptions.ModelError)  # whose `is_retryable` LangChain asks
    assert RetryPolicy().retry_on(raised.value) == raised.value.is_retryable == kind.is_retryable


@pytest.mark.parametrize("size", [0, 4, 20, 1000, 1_000_000, 2_000_000, -1])
def test_a_truncated_file(tmp_path, size):
    path = tmp_path / "cut.gguf"
    shutil.copyfile(smollm2_path(), path)
    with path.open("r+b") as file:
        file.truncate(size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(ModelLoadError, match=r"model_path='.*cut\.gguf'.*(not a GGUF|download it)"):
        call(model_path=str(path))


def test_foreign_files(tmp_path):
    for magic in (b"\x89PNG\r\n", b"PK\x03\x04", b"ggjt", b"{}"):
        (tmp_path / "foreign").write_bytes(magic * 100)
        with pytest.raises(ModelLoadError, match=r"is not a GGUF file.*convert_hf_to_gguf"):
            call(model_path=str(tmp_path / "foreign"))
    with pytest.raises(ModelLoadError, match=r"token_embd\.weight' not found"):
        call(model_path=str(VOCABULARY))

    # of an architecture that nobody knows, as a projector's or one from the future
    writer = gguf.GGUFWriter(str(tmp_path / "future.gguf"), "llama99")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match=r"unknown model architecture: 'llama99'.*newer"):
        call(model_path=str(tmp_path / "future.gguf"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", r"chat_template: does not parse"),
        ("{{ foo(1) }}", r"the chat template refuses them: Callee is not a function"),
        ("{{ nothing }}", r"messages\[0\]\.content is not in the prompt"),
    ],
)
def test_a_template_that_does_not_work(template, message):
    with pytest.raises(InvalidRequestError, match=message):
        call(chat_template=template)


def test_a_template_that_refuses_the_roles():
    llm = ChatKVFork(n_ctx=256, max_tokens=1, chat_template=ALTERNATE)
    with llm.engine as engine:
        with pytest.raises(InvalidRequestError) as refusal:
            llm.invoke([HumanMessage("a"), HumanMessage("b")])
        assert str(refusal.value) == (
            "messages: the chat template refuses them: Conversation roles must alternate "
            "user/assistant/...; pass roles and an order that it knows, or another chat_template"
        )
        with pytest.raises(InvalidRequestError, match="must alternate"):
            list(llm.stream([AIMessage("a")]))
        # and goes on with what it takes
        assert llm.invoke([HumanMessage("a"), AIMessage("b"), HumanMessage("c")])
        assert engine.stats().branches_running == 0


def test_a_template_that_is_named_chatml_and_one_that_takes_arguments():
    template = "{{ messages[0].content }}{{ suffix | default('') }}"
    llm = ChatKVFork(n_ctx=256, max_tokens=1, chat_template=template, temperature=0)
    with llm.engine as engine:
        plain = llm.invoke("Hello").usage_metadata["input_tokens"]
        bound = llm.bind(chat_template_kwargs={"suffix": " my friend"})
        assert bound.invoke("Hello").usage_metadata["input_tokens"] == plain + 2
        before = engine.stats().prefilled_tokens
        llm.model_copy(update={"chat_template_kwargs": {"suffix": " x"}}).prefill("Hello")
        assert engine.stats().prefilled_tokens == before + 1
    with ChatKVFork(n_ctx=256, chat_template="chatml").engine as engine:
        text = engine.render([{"role": "user", "content": "Hello"}]).text
        assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def of(schema):
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"$ref": "#/$defs/nothing"}, r"Pointer '/\$defs/nothing' does not exist"),
        ({"$ref": "https://example.org/s"}, r"https://example.org/s.*nothing is fetched"),
        ({"type": "nonsense"}, r"\"nonsense\" is not valid .* at #/properties/a/type"),
        ({"type": "string", "pattern": "^(a$"}, r"\"\^\(a\$\" is not a \"regex\""),
        ({"type": "integer", "minimum": "x"}, r"\"x\" is not of type \"number\""),
    ],
)
def test_what_is_no_schema_is_refused_when_it_is_bound(llm, part, message):
    with pytest.raises(InvalidRequestError, match=f"^schema is no JSON schema: .*{message}"):
        llm.with_structured_output(of(part))
    tool = {"type": "function", "function": {"name": "x", "parameters": of(part)}}
    with pytest.raises(InvalidRequestError, match=rf"^tools\[0\]'s parameters is.*{message}"):
        llm.bind_tools([tool], tool_choice="x")


@pytest.mark.parametrize("part", [{"enum": []}, False, {"type": "integer", "const": "x"}])
def test_what_nothing_can_match_is_refused_when_it_is_bound(llm, part):
    with pytest.raises(InvalidRequestError, match="nothing can match"):
        llm.with_structured_output(of(part))
    tool = {"type": "function", "function": {"name": "x", "parameters": of(part)}}
    with pytest.raises(InvalidRequestError, match="nothing can match"):
        llm.bind_tools([tool], tool_choice="x")


def test_a_schema_that_refers_to_nothing_but_itself(llm, engine):
    around = {"$defs": {"b": {"$ref": "#/$defs/b"}}, **of({"$ref": "#/$defs/b"})}
    with pytest.raises(InvalidRequestError, match="does not parse as GBNF"):
        llm.with_structured_output(around).invoke("Hello")


@pytest.mark.parametrize(
    "part",
    [
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"allOf": [{"type": "integer"}, {"minimum": 3}]},
        {"enum": [1, "x", None]},
        {"const": 'é\n"'},
        {"type": ["integer", "null"]},
        {"type": "integer", "minimum": 3, "maximum": 12},
        {"type": "string", "pattern": "^[a-z]{2}$"},
        {"type": "string", "format": "date"},
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2},
    ],
)
def test_schemas_that_can_be_one(llm, engine, part):
    answer = llm.with_structured_output(of(part)).invoke("Hello", max_tokens=64)
    assert answer.keys() == {"a"}
    enum = part.get("enum", [part["const"]] if "const" in part else None)
    assert enum is None or answer["a"] in enum


def test_half_a_character(llm, engine):
    half = "\ud83c"
    tool = {"type": "function", "function": {"name": half, "parameters": of({})}}
    attempts = [
        lambda: llm.invoke(f"Hello {half}"),
        lambda: llm.invoke([ChatMessage("Hello", role=half)]),
        lambda: llm.prefill([AIMessage("", tool_calls=[{"name": half, "args": {}, "id": "1"}])]),
        lambda: llm.invoke("Hello", tools=[tool]),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidRequestError, match=r"have half a character, '\\ud83c', after"):
            attempt()


def test_a_conversation_with_a_call_that_nobody_could_parse_goes_on(llm, engine):
    call = {"name": "add", "args": '{"a": 1, "b', "id": "x", "error": None}
    history = [
        HumanMessage("What is 1 + 2?"),
        AIMessage("", invalid_tool_calls=[call]),
        ToolMessage("It was cut off.", tool_call_id="x", status="error"),
    ]
    assert llm.invoke(history)
    text = llm._call(None, {}).render(engine, history).text
    assert '{"a": 1, "b' in text.replace("\\", "")


def test_what_is_not_a_call(llm, engine):
    with pytest.raises(InvalidRequestError, match=r"^messages are not possible"):
        llm.prefill(None)
    with pytest.raises(InvalidRequestError, match=r"^on_progress=3"):
        llm.prefill("Hello", on_progress=3)
    with pytest.raises(InvalidRequestError, match=r"^text=None"):
        llm.get_num_tokens(None)
    with pytest.raises(InvalidRequestError, match=r"^tools=3"):
        llm.get_num_tokens_from_messages([HumanMessage("Hello")], tools=3)
    alone = [ToolMessage("three", tool_call_id="of nobody's")]
    assert llm.invoke(alone)
