"""Importing and constructing is cheap, and wrong arguments are refused in words."""

import pickle
import subprocess
import sys

import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from pydantic import BaseModel, ValidationError

from langgraph_kvfork import (
    ChatKVFork,
    EngineParams,
    InvalidRequestError,
    KVForkError,
    MissingPackageError,
    Request,
)
from langgraph_kvfork.chat import local_model
from langgraph_kvfork.chat.local_model import ENGINE_FIELDS
from langgraph_kvfork.chat.model import _REQUEST_FIELDS
from langgraph_kvfork.engine import hub


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, langgraph_kvfork; dir(langgraph_kvfork); "
        "sys.exit(any(m.split('.')[0] in {'langchain_core', 'langgraph', 'llama_cpp'} "
        "for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_engine_needs_no_langchain():
    code = (
        "import sys; from langgraph_kvfork.engine import Engine, EngineParams, Request; "
        "Request(); EngineParams('model.gguf'); "
        "sys.exit(any(m.split('.')[0] in {'langchain_core', 'langchain', 'langgraph', 'langsmith'} "
        "for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_constructing_a_model_loads_no_library_and_no_weights():
    code = (
        "import sys; from langgraph_kvfork import ChatKVFork, ForkNode, PrefillNode; "
        "llm = ChatKVFork(model_path='/nonexistent.gguf', n_ctx=4096, temperature=0); "
        "ForkNode(llm, {'a': 'b'}); PrefillNode(llm); "
        "from langgraph_kvfork.native import library; "
        "sys.exit(library._library is not None or 'llama_cpp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_60000_models_take_less_than_three_times_as_long_as_langchains_fake_ones():
    # each round makes a thousand of both, so that whatever else the machine does hits both
    program = """
import statistics, sys, time
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langgraph_kvfork import ChatKVFork
from langgraph_kvfork.native import library
from langgraph_kvfork.engine.default_model import smollm2_path

opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
path = smollm2_path()

def ours(i):
    ChatKVFork(model_path=path, n_ctx=4096, temperature=0.5, max_tokens=8, timeout=60, stop=["x"])

def fake(i):
    GenericFakeChatModel(messages=iter(()))

def seconds(make):
    start = time.perf_counter()
    for i in range(1000):
        make(i)
    return time.perf_counter() - start

ours(0)
times = [(seconds(ours), seconds(fake)) for _ in range(60)]
assert not [name for name in opened if name.endswith(".gguf")], opened
assert library._library is None
print(*map(statistics.median, zip(*times)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, fake = map(float, done.stdout.split())
    assert ours < 3 * fake


def test_every_name_in_all_can_be_imported():
    import langgraph_kvfork

    for name in langgraph_kvfork.__all__:
        assert getattr(langgraph_kvfork, name) is not None
    with pytest.raises(AttributeError, match="Chat"):
        langgraph_kvfork.Chat  # noqa: B018


def test_the_model_has_all_parameters_of_the_engine_and_of_requests_with_their_defaults():
    llm = ChatKVFork(model_path="model.gguf")
    params, request = EngineParams("model.gguf"), Request()
    for name in ENGINE_FIELDS:
        if name != "model_path":
            assert getattr(llm, name) == getattr(params, name), name
    for name in _REQUEST_FIELDS:
        if name not in {"stop", "logprobs"}:
            assert getattr(llm, name) == getattr(request, name), name


def test_an_unknown_argument_is_refused_by_name():
    with pytest.raises(ValidationError, match=r"'n_cxt'.*Did you mean.*n_ctx"):
        ChatKVFork(model_path="model.gguf", n_cxt=4096)
    with pytest.raises(ValidationError, match=r"'temp'. Did you mean temperature\?"):
        ChatKVFork(model_path="model.gguf", temp=0)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_ctx", -1),
        ("n_batch", 0),
        ("n_seq_max", 257),
        ("n_threads", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("min_p", -1),
        ("repeat_penalty", 0),
        ("seed", 2**32),
        ("max_tokens", 0),
        ("stop", [""]),
        ("grammar", " "),
        ("top_logprobs", 3),
        ("timeout", -1),
        ("logit_bias", {-1: 1.0}),
        ("lora_path", ""),
        ("model_path", ""),
        ("max_tokens", -2),
        ("lora_scale", float("inf")),
        ("chat_template", "llama-2"),
        ("chat_template_kwargs", {"date": object()}),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(argument, value):
    with pytest.raises(ValidationError, match=argument):
        ChatKVFork(**{"model_path": "model.gguf", argument: value})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_ctx": -1}, "n_ctx=-1 is not possible: pass a count of tokens, 0 for the training"),
        ({"n_ctx": "many"}, "n_ctx='many' is not possible: pass a count of tokens, 0 for the "),
        ({"streaming": "yes!"}, "streaming='yes!' is not possible: input should be a valid boole"),
        ({"n_ctx": "x", "top_k": "y"}, r"n_ctx='x' .*\. top_k='y' is not"),
        ({"n_cxt": 1}, "ChatKVFork has no argument 'n_cxt'"),
        ({"model_path": ""}, "model_path='' is not possible: pass the path of a GGUF file"),
        (
            {"logit_bias": {"a": 1}},
            "logit_bias={'a': 1} is not possible: pass a dict from token ids",
        ),
    ],
)
def test_errors_of_the_constructor_are_of_the_family_whoever_finds_them(arguments, sentence):
    with pytest.raises(KVForkError, match=f"^{sentence}") as refusal:
        ChatKVFork(**arguments)
    assert isinstance(refusal.value, (InvalidRequestError, ModelInvalidRequestError))
    assert isinstance(refusal.value, ValidationError)
    assert not refusal.value.is_retryable
    assert refusal.value.errors()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ChatKVFork(n_ctx=-1, top_k="y"),
        lambda: ChatKVFork.model_validate({"n_ctx": -1, "top_k": "y"}),
        lambda: ChatKVFork.model_validate_json('{"n_ctx": -1, "top_k": "y"}'),
    ],
)
def test_however_a_model_is_made_its_refusal_is_the_same(make):
    with pytest.raises(KVForkError) as refusal:
        make()
    assert isinstance(refusal.value, ValidationError)
    assert str(refusal.value) == (
        "n_ctx=-1 is not possible: pass a count of tokens, 0 for the training context, or None for "
        "what fits. "
        "top_k='y' is not possible: pass 1 or more, or 0 for off."
    )


@pytest.mark.parametrize(
    ("validate", "sentence"),
    [
        (lambda: ChatKVFork.model_validate(3), "3 is no ChatKVFork: input should be"),
        (lambda: ChatKVFork.model_validate_json("{"), "'{' is no ChatKVFork: invalid JSON"),
        (lambda: ChatKVFork(stop_sequences=[""]), r"stop_sequences=\[''\] is not possible: pass a"),
        (
            lambda: ChatKVFork(chat_template_kwargs={"{x}": {1}}),
            r"chat_template_kwargs=\{'\{x}': \{1}} is not",
        ),
    ],
)
def test_what_is_refused_is_named_as_it_was_given(validate, sentence):
    with pytest.raises(KVForkError, match=f"^{sentence}"):
        validate()


WRONG = {
    "n_batch": 0,
    "n_threads": 513,
    "n_seq_max": 257,
    "n_gpu_layers": -2,
    "split_mode": 4,
    "tensor_split": [-1],
    "use_mmap": "maybe",
    "flash_attn": "maybe",
    "type_k": True,
    "type_v": " ",
    "rope_freq_base": float("nan"),
    "yarn_orig_ctx": -1,
    "chat_template": "llama-2",
    "lora_path": "",
    "lora_scale": float("inf"),
    "max_gap_ms": -1,
    "temperature": -0.1,
    "top_p": 1.5,
    "repeat_penalty": 0,
    "presence_penalty": float("inf"),
    "last_n_tokens_size": -1,
    "seed": 2**32,
    "logit_bias": {1: float("nan")},
    "stop": ["a", ""],
    "grammar": "\0",
    "ignore_eos": "maybe",
}


@pytest.mark.parametrize("name", WRONG)
def test_the_model_the_engine_and_requests_refuse_in_the_same_words(name):
    def below():
        return EngineParams(**{"model_path": "m", **given}) if of_engine else Request(**given)

    given, of_engine = {name: WRONG[name]}, name in ENGINE_FIELDS
    with pytest.raises(InvalidRequestError, match=rf"^{name}=.* is not possible: pass ") as refusal:
        below()
    with pytest.raises(InvalidRequestError) as of_model:
        ChatKVFork(**given)
    assert str(of_model.value) == str(refusal.value)


def test_a_request_and_an_engine_convert_nothing():
    for value in ("1", True):
        with pytest.raises(InvalidRequestError, match="top_k"):
            Request(top_k=value)
        with pytest.raises(InvalidRequestError, match="n_ctx"):
            EngineParams("model.gguf", n_ctx=value)
    assert ChatKVFork(top_k="1", n_ctx="512").top_k == 1  # as any model of pydantic's
    assert Request(logit_bias={1: -float("inf")}).logit_bias == {1: -float("inf")}
    assert EngineParams("model.gguf", tensor_split=[1, 2]).tensor_split == (1.0, 2.0)


def test_a_field_that_holds_a_model_refuses_as_pydantic_does():
    class Settings(BaseModel):
        llm: ChatKVFork

    assert Settings.model_validate({"llm": {"n_ctx": 512}}).llm.n_ctx == 512
    with pytest.raises(ValidationError, match="n_ctx=-1 is not possible"):
        Settings.model_validate({"llm": {"n_ctx": -1}})
    with pytest.raises(ValidationError, match="n_ctx='x' is not possible"):
        Settings.model_validate({"llm": {"n_ctx": "x"}})


def test_what_is_found_good_has_a_type():
    assert ChatKVFork(seed=1, logprobs=True, top_logprobs=1)
    for value in (True, 1.5):
        with pytest.raises(KVForkError, match="seed"):
            ChatKVFork.model_construct(seed=value).invoke("Hello")


@pytest.mark.parametrize("name", ["repo_id", "filename", "local_dir", "hub_cache_dir"])
def test_an_empty_name_is_not_an_absent_one(name):
    given = {"repo_id": "a/b", "filename": "c.gguf", name: ""}
    with pytest.raises(ModelInvalidRequestError, match=rf"^{name}='' is not possible"):
        ChatKVFork.from_pretrained(**given)


def test_a_folder_for_model_files_does_not_get_prompts(monkeypatch, tmp_path):
    asked = []

    def download(*names, **given):
        asked.append(given)
        return "m.gguf"

    monkeypatch.setattr(local_model, "download", download)
    # as llama_cpp and huggingface_hub have it
    with pytest.raises(ModelInvalidRequestError, match=r"cache_dir='hub' .*hub_cache_dir"):
        ChatKVFork.from_pretrained("a/b", "c.gguf", cache_dir="hub")
    assert not asked
    llm = ChatKVFork.from_pretrained("a/b", "c.gguf", hub_cache_dir="hub")
    assert (llm.cache_dir, asked[-1]["hub_cache_dir"]) == (None, "hub")
    llm = ChatKVFork.from_pretrained("a/b", "c.gguf", hub_cache_dir=None, cache_dir=tmp_path)
    assert (llm.cache_dir, asked[-1]["hub_cache_dir"]) == (str(tmp_path), None)


def test_a_package_that_is_missing_is_of_the_family_too(monkeypatch):
    monkeypatch.setattr(hub.importlib, "import_module", missing)
    for kind in (MissingPackageError, KVForkError, ImportError):
        with pytest.raises(kind, match="huggingface-hub"):
            ChatKVFork.from_pretrained("a/b", "c.gguf")


def missing(name):
    raise ImportError(name)


def test_standard_parameters_are_accepted():
    llm = ChatKVFork(
        model_path="model.gguf",
        temperature=0,
        max_tokens=100,
        timeout=60,
        stop=["x"],
        max_retries=2,
        streaming=True,
    )
    params = llm._get_ls_params()
    assert params["ls_provider"] == "kvfork"
    assert params["ls_model_name"] == "model"
    assert params["ls_temperature"] == 0
    assert params["ls_max_tokens"] == 100
    assert ChatKVFork(model_path="model.gguf", stop_sequences=["x"]).stop == ["x"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temprature": 1}, "'temprature'.*Did you mean.*temperature"),
        ({"n_ctx": 1}, "n_ctx cannot change"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"logprobs": 3}, "top_logprobs"),
        ({"tool": []}, "'tool'.*Did you mean.*tools"),
        ({"tools": [1]}, r"tools\[0\]=1 is no tool"),
        ({"tool_choice": "any"}, "tool_choice='any'.*pass tools"),
        ({"tools": [print], "tool_choice": "put"}, "tool_choice='put'.*print"),
        ({"tools": [print], "grammar": 'root ::= "x"'}, "tools and grammar.*together"),
        ({"response_format": "json"}, "response_format='json'"),
        ({"parallel_tool_calls": 2}, "parallel_tool_calls=2"),
        ({"reasoning": "high"}, "reasoning='high'"),
        ({"timeout": "soon"}, "timeout='soon'"),
        ({"chat_template_kwargs": ["x"]}, "chat_template_kwargs"),
        ({"lora_scale": 0.5}, "lora_scale cannot change"),
    ],
)
def test_a_wrong_override_is_refused_before_the_engine_is_touched(kwargs, message):
    llm = ChatKVFork(model_path="/nonexistent.gguf")
    with pytest.raises(InvalidRequestError, match=message):
        llm.invoke("Hello", **kwargs)


def test_a_calls_stop_comes_on_top_of_the_models():
    llm = ChatKVFork(model_path="model.gguf", stop=["a", "b"])
    assert llm._call(["b", "c"], {}).request.stop == ["a", "b", "c"]


def test_models_can_be_copied_and_pickled():
    llm = ChatKVFork(model_path="model.gguf", n_ctx=512, stop=["x"])
    assert pickle.loads(pickle.dumps(llm)) == llm
    assert llm.model_copy(deep=True) == llm


def test_engine_params_are_equal_whatever_path_the_model_is_reached_by(tmp_path):
    model = tmp_path / "model.gguf"
    model.touch()
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    assert EngineParams(str(model)) == EngineParams(str(link), verbose=True)
    assert hash(EngineParams(str(model))) == hash(EngineParams(str(link), verbose=True))
    assert EngineParams(str(model)) != EngineParams(str(link), n_ctx=512)
