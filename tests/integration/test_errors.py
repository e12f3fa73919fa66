"""What goes wrong says so in a sentence, as an exception that LangChain's users know."""

import shutil
from pathlib import Path

import gguf
import pytest
from langchain_core import exceptions
from langchain_core.messages import AIMessage, HumanMessage

from langgraph_kvfork import (
    ChatKVFork,
    ContextOverflowError,
    GenerationTimeoutError,
    InvalidRequestError,
    KVForkError,
    ModelLoadError,
)
from langgraph_kvfork._smollm2 import smollm2_path

VOCABULARY = (
    Path(__file__).parents[2] / "build" / "llama.cpp" / "models" / "ggml-vocab-bert-bge.gguf"
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
    with pytest.raises(exceptions.ModelNotFoundError, match=r"give the path of a GGUF file"):
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
        ("{{ nothing }}", r"prompt is empty \(a chat template may make nothing"),
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
            "user/assistant/...; give roles and an order that it knows, or another chat_template"
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
        before = engine.stats().prefill_tokens
        llm.model_copy(update={"chat_template_kwargs": {"suffix": " x"}}).prefill("Hello")
        assert engine.stats().prefill_tokens == before + 1
    with ChatKVFork(n_ctx=256, chat_template="chatml").engine as engine:
        text = engine.render([{"role": "user", "content": "Hello"}]).text
        assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
