"""Tools and schemas through every chat template that llama.cpp ships, with a vocabulary only.

`calls.json` has, by template, how its model writes the call `add(a=1, b=2)`.
"""

import ctypes
import json
import math
import os.path
from functools import cache
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langgraph_kvfork import InvalidRequestError, arrange
from langgraph_kvfork.convert.messages import to_openai
from langgraph_kvfork.engine.chat_template import AnswerReader, ChatTemplate
from langgraph_kvfork.native import abi
from langgraph_kvfork.order.join import join

SOURCE = Path(__file__).parents[2] / "build" / "llama.cpp" / "models"
TEMPLATES = sorted(path.name for path in (SOURCE / "templates").glob("*.jinja"))
CALLS = json.loads(Path(__file__).with_name("calls.json").read_text(encoding="utf-8"))

NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
ARGUMENTS = {"a": 1, "b": 2}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "description": "Add numbers.", "parameters": NUMBERS},
    },
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the web.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        },
    },
]
QUESTIONS = [HumanMessage("What is 1 + 2?")]
QUESTION = [{"role": "user", "content": "What is 1 + 2?"}]


@cache
def native():
    return abi.native()


@cache
def vocabulary():
    llama = native().llama
    llama.llama_backend_init()
    native().kvf.kvf_set_log_level(0)
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(SOURCE / "ggml-vocab-qwen2.gguf").encode(), params)
    assert model
    return model


@cache
def template(name):
    source = (SOURCE / "templates" / name).read_text(encoding="utf-8")
    return ChatTemplate(native(), vocabulary(), source)


def render(name, messages=QUESTION, **options):
    # without thoughts, where the template can do without: they are text that a grammar allows
    return template(name).render(messages, enable_thinking=False, **options)


def read(rendered, text, size):
    """Read an answer in pieces, and return the message that they add up to."""
    reader = AnswerReader(native(), rendered.answer_format)
    message = {"content": "", "calls": []}
    for i in range(0, len(text), size):
        delta = reader.push(text[i : i + size], last=i + size >= len(text))
        assert "unread" not in delta
        message["content"] += delta.get("content", "")
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(message["calls"]):
                message["calls"].append({"name": call["name"], "id": call["id"], "arguments": ""})
            else:
                assert "name" not in call
            message["calls"][call["index"]]["arguments"] += call["arguments"]
    return message


def follows(rendered, text):
    """Return whether a text follows the grammar, and whether it may end there."""
    llama = native().llama
    vocab = llama.llama_model_get_vocab(vocabulary())
    form = json.loads(rendered.answer_format)
    grammar = llama.llama_sampler_init_grammar(vocab, rendered.grammar.encode(), b"root")
    assert grammar, "the grammar does not parse"

    def allows(token):
        candidate = (llama.llama_token_data * 1)(llama.llama_token_data(token, 0.0, 0.0))
        candidates = llama.llama_token_data_array(candidate, 1, -1, False)
        llama.llama_sampler_apply(grammar, ctypes.byref(candidates))
        return candidate[0].logit != -math.inf

    # what the prompt ends with is a part of the grammar, unless it holds from a trigger on only
    prompt = "" if form["grammar_lazy"] else form["generation_prompt"]
    try:
        for token in [*_tokens(vocab, prompt), *_tokens(vocab, text)]:
            if not allows(token):
                return False, False
            llama.llama_sampler_accept(grammar, token)
        return True, allows(llama.llama_vocab_eos(vocab))
    finally:
        llama.llama_sampler_free(grammar)


def _tokens(vocab, text):
    llama = native().llama
    data = text.encode()
    tokens = (llama.llama_token * (len(data) + 8))()
    count = llama.llama_tokenize(vocab, data, len(data), tokens, len(tokens), False, True)
    return tokens[:count]


def test_every_template_has_a_recorded_call():
    assert len(TEMPLATES) >= 70
    assert set(CALLS) == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_tools_and_their_results_are_rendered(name):
    made = {"name": "add", "arguments": json.dumps(ARGUMENTS)}
    history = [
        *QUESTION,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "id": "abcdefghi", "function": made}],
        },
        {"role": "tool", "content": "It is 3.", "tool_call_id": "abcdefghi", "name": "add"},
    ]
    first = render(name, tools=TOOLS).text
    assert "What is 1 + 2?" in first
    prompt = render(name, history, tools=TOOLS).text
    assert "It is 3." in prompt
    assert prompt.count("add") > first.count("add")


# llama-common, as of the release that we build, does not read what these templates write
UNREAD = {"Mistral-Small-3.2-24B-Instruct-2506.jinja"}
# nor does its grammar hold arguments to their types here: values are free, names are not
UNTYPED = {
    "Kimi-K3.jinja",
    "LFM2-8B-A1B.jinja",
    "LFM2.5-8B-A1B.jinja",
    "LFM2.5-Instruct.jinja",
    "google-gemma-4-31B-it-interleaved.jinja",
    "google-gemma-4-31B-it.jinja",
}
# what ends the thoughts that these prompts end with
THOUGHTS_END = {
    "Apriel-1.6-15b-Thinker-fixed.jinja": "[BEGIN FINAL RESPONSE]\n",
    "Cohere2MoE.jinja": "<|END_THINKING|><|START_TEXT|>",
    "MiniMax-M2.jinja": "</think>\n\n",
    "NVIDIA-Nemotron-Nano-v2.jinja": "</think>\n\n",
    "StepFun3.5-Flash.jinja": "\n</think>\n",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja": "</think>\n\n",
    "llama-cpp-deepseek-r1.jinja": "</think>\n\n",
}


def _each(*, but=frozenset()):
    """Return all templates, some of them as expected failures."""
    reason = "a limit of llama-common, see above"
    mark = pytest.mark.xfail(reason=reason, raises=AssertionError)
    return [pytest.param(name, marks=mark if name in but else ()) for name in TEMPLATES]


@pytest.mark.parametrize("context", ["What they share.", [("human", "What they share.")]])
@pytest.mark.parametrize("name", TEMPLATES)
def test_branches_that_are_arranged_share_their_context(name, context):
    roles = ["You are a lawyer.", "Edit a newspaper."]
    prompts = [render(name, to_openai(arrange(context, role))).text for role in roles]
    assert "What they share." in os.path.commonprefix(prompts)
    assert all(role in prompt for role, prompt in zip(roles, prompts, strict=True))


CALLED = [
    HumanMessage("What is 1 + 2?"),
    AIMessage("", tool_calls=[{"name": "add", "args": ARGUMENTS, "id": "abcdefghi"}]),
    ToolMessage("What they share.", tool_call_id="abcdefghi", name="add"),
]
BLOCKS = [HumanMessage([{"type": "text", "text": "What they share."}])]
JOINED = {
    "a document of the human's": ([HumanMessage("What they share.")], HumanMessage),
    "two turns without an answer": ([*QUESTIONS, HumanMessage("What they share.")], HumanMessage),
    "a document of the system's": ([SystemMessage("What they share.")], SystemMessage),
    "a role behind the human's": ([HumanMessage("What they share.")], SystemMessage),
    "an answer": ([*QUESTIONS, AIMessage("What they share.")], HumanMessage),
    "answers of several branches": (
        [*QUESTIONS, AIMessage("One."), AIMessage("What they share.")],
        SystemMessage,
    ),
    "a tool's result": (CALLED, HumanMessage),
    "a tool's result before a role": (CALLED, SystemMessage),
    "blocks": (BLOCKS, lambda text: HumanMessage([{"type": "text", "text": text}])),
    "blocks before text": (BLOCKS, HumanMessage),
}


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("case", JOINED)
def test_every_template_takes_what_is_joined_and_shares_it(case, tools):
    context, kind = JOINED[case]
    options = {"tools": tools, "tool_choice": "none"} if tools else {}
    roles = ["You are a lawyer.", "Edit a newspaper."]
    for name in TEMPLATES:
        prompts = [
            render(name, to_openai(join(context, [kind(role), HumanMessage("Why?")])), **options)
            for role in roles
        ]
        assert "What they share." in os.path.commonprefix([p.text for p in prompts]), name
        for prompt, role in zip(prompts, roles, strict=True):
            assert prompt.text.rindex("Why?") > prompt.text.index(role), name


def test_without_the_join_some_templates_refuse_them():
    context, kind = JOINED["a document of the human's"]
    with pytest.raises(InvalidRequestError, match="alternate"):
        render("google-gemma-2-2b-it.jinja", to_openai([*context, kind("You are a lawyer.")]))


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", _each(but=UNREAD))
def test_a_recorded_call_is_read_however_it_arrives(name, size):
    calls = read(render(name, tools=TOOLS), CALLS[name], size)["calls"]
    assert [call["name"] for call in calls] == ["add"]
    assert calls[0]["id"]
    assert json.loads(calls[0]["arguments"]) == ARGUMENTS


@pytest.mark.parametrize("name", _each(but=UNREAD))
def test_a_recorded_call_follows_the_grammar_of_a_forced_one(name):
    rendered = render(name, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert follows(rendered, CALLS[name]) == (True, True)
    assert read(rendered, CALLS[name], 5)["calls"][0]["name"] == "add"


@pytest.mark.parametrize("name", _each(but=UNTYPED))
def test_a_forced_call_has_the_types_of_its_schema(name):
    rendered = render(name, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    values = [i for i, c in enumerate(CALLS[name]) if c == "2"]
    wrong = CALLS[name][: values[-1]] + "true" + CALLS[name][values[-1] + 1 :]
    assert not follows(rendered, wrong)[0]


@pytest.mark.parametrize("name", _each(but={"Kimi-K3.jinja"}))  # it has to think
def test_a_forced_call_is_not_preceded_by_talk(name):
    rendered = render(name, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    thoughts_end = THOUGHTS_END.get(name, "").removesuffix("<|START_TEXT|>")
    assert not follows(rendered, f"{thoughts_end}Well, I could add them.")[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_follows_a_schema_and_is_read(name):
    rendered = render(name, json_schema=NUMBERS)
    before = THOUGHTS_END.get(name, "")
    # some insist on a fence around it, some on a channel
    forms = ("{}", "```json\n{}\n```", "<|channel|>final<|message|>{}", "<|message|>{}")
    answers = [before + form.replace("{}", json.dumps(ARGUMENTS)) for form in forms]
    (answer,) = [answer for answer in answers if follows(rendered, answer)[0]]
    assert not follows(rendered, answer.replace("2", "true"))[0]
    assert json.loads(read(rendered, answer, 3)["content"]) == ARGUMENTS


@pytest.mark.parametrize("name", _each(but={"Kimi-K3.jinja"}))  # it has to think
def test_beside_tools_an_answer_follows_a_schema_or_is_a_call(name):
    rendered = render(name, tools=TOOLS, json_schema=NUMBERS, parallel_tool_calls=False)
    assert rendered.text == render(name, tools=TOOLS, parallel_tool_calls=False).text
    before = THOUGHTS_END.get(name, "")
    forms = ("{}", "```json\n{}\n```", "<|channel|>final<|message|>{}", "<|message|>{}")
    answers = [before + form.replace("{}", json.dumps(ARGUMENTS)) for form in forms]
    good = [answer for answer in answers if follows(rendered, answer)[0]]
    assert len(good) == 1
    answer = good[0]
    assert not follows(rendered, answer.replace("2", "true"))[0]
    assert json.loads(read(rendered, answer, 3)["content"].strip("`json\n")) == ARGUMENTS
    if name not in UNREAD:
        assert follows(rendered, CALLS[name]) == (True, True)
        (made,) = read(rendered, CALLS[name], 5)["calls"]
        assert json.loads(made["arguments"]) == ARGUMENTS


@pytest.mark.parametrize("name", TEMPLATES)
def test_rules_stand_where_constants_of_a_schema_are(name):
    digits = {"constants": {"918273645000000": "kvf-1"}, "text": 'kvf-1 ::= "7" [0-9]\n'}
    schema = {"const": 918273645000000}
    rendered = render(name, json_schema=schema, rules=digits)
    before = THOUGHTS_END.get(name, "")
    forms = ("{}", "```json\n{}\n```", "<|channel|>final<|message|>{}", "<|message|>{}")
    assert any(follows(rendered, before + form.replace("{}", "75"))[0] for form in forms)
    assert not any(follows(rendered, before + form.replace("{}", "918"))[0] for form in forms)


@pytest.mark.parametrize("name", _each(but=UNTYPED | UNREAD))
def test_rules_stand_where_constants_of_a_tool_are(name):
    rules = {"constants": {"918273645000001": "kvf-1"}, "text": "kvf-1 ::= [1-2]\n"}
    constant = {"type": "integer", "const": 918273645000001}
    bounded = {**NUMBERS, "properties": {**NUMBERS["properties"], "b": constant}}
    function = {**TOOLS[0]["function"], "parameters": bounded}
    tools = [{"type": "function", "function": function}]
    options = {"tool_choice": "required", "parallel_tool_calls": False, "rules": rules}
    rendered = render(name, tools=tools, **options)
    assert follows(rendered, CALLS[name]) == (True, True)
    last = CALLS[name].rindex("2")
    assert not follows(rendered, CALLS[name][:last] + "3" + CALLS[name][last + 1 :])[0]
