"""A template that drops earlier thoughts: what is kept, what is lost, and one warning of it."""

import os.path
import re
import warnings

import pytest
from helpers import call, idle
from langchain_core.messages import ChatMessage, HumanMessage

from langgraph_kvfork import ChatKVFork, ThoughtsDroppedWarning
from langgraph_kvfork.order import thoughts

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])

# as Qwen3's: thoughts stay until the user speaks again
TEMPLATE = """\
{%- set last = namespace(user=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.reasoning_content and (preserve_thinking or loop.index0 > last.user) %}
        {{- '<think>\\n' + message.reasoning_content | trim + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
THOUGHT = "I have to look into the license."
SAYS = 'root ::= "<think>\\nI have to look into the license.\\n</think>\\n\\nYes."'
QUESTION = HumanMessage("May I sell copies?")
NEXT = HumanMessage("And in other countries?")


@pytest.fixture(autouse=True)
def nobody_was_warned(monkeypatch):
    monkeypatch.setattr(thoughts, "_warned", {})
    monkeypatch.setattr(thoughts, "_prompts", {})


@pytest.fixture(scope="module")
def model():
    model = ChatKVFork(n_ctx=2048, temperature=0, chat_template=TEMPLATE)
    yield model
    model.engine.close()


@pytest.fixture
def thinker(model):
    model.engine.clear()
    yield model.bind(grammar=SAYS, max_tokens=32)
    assert idle(model.engine)


@pytest.fixture(scope="module")
def found(document):
    """Much more text than is worth a warning."""
    return found_text(document[0].content[:2500])


def found_text(text):
    # not as a tool's result: in templates without tools, as this one, the user says that
    return ChatMessage(text, role="library")


async def turn(thinker, found, asynchronous):
    """Return the messages of a turn in which the model looked something up."""
    messages = [QUESTION]
    for more in ([found], []):
        answer = await call(thinker, messages, asynchronous=asynchronous)
        assert answer.additional_kwargs["reasoning_content"].strip() == THOUGHT
        messages += [answer, *more]
    return messages


def tokens(thinker, messages):
    model = thinker.bound
    made = model._call(None, thinker.kwargs)
    return model.engine.tokenize(made.render(model.engine, messages).text)


def cache_read(answer):
    return answer.usage_metadata["input_token_details"]["cache_read"]


@both
async def test_what_comes_before_the_thoughts_is_kept_and_the_rest_told_of(
    thinker, found, asynchronous
):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ThoughtsDroppedWarning)
        messages = await turn(thinker, found, asynchronous)
    with pytest.warns(ThoughtsDroppedWarning) as caught:
        answer = await call(thinker, [*messages, NEXT], asynchronous=asynchronous)
    (sentence,) = [str(w.message) for w in caught if w.category is ThoughtsDroppedWarning]
    assert "thoughts of messages[1], the answer 'Yes.'" in sentence
    assert "chat_template_kwargs={'preserve_thinking': True} keeps them" in sentence

    # up to the first answer, both prompts are the same, and so it is forked
    earlier, prompt = tokens(thinker, messages[:3]), tokens(thinker, [*messages, NEXT])
    kept = len(os.path.commonprefix([earlier, prompt]))
    assert cache_read(answer) == kept >= len(tokens(thinker, [QUESTION]))
    assert kept < len(earlier) // 2
    # the rest is what the warning counts, but for the question, which is new
    told = int(re.search(r"about ([\d,]+) tokens", sentence)[1].replace(",", ""))
    assert 5 <= len(prompt) - kept - told < 20

    with warnings.catch_warnings():
        warnings.simplefilter("error", ThoughtsDroppedWarning)
        for _ in range(2):
            messages += [NEXT, answer, NEXT]
            answer = await call(thinker, messages, asynchronous=asynchronous)


async def test_with_what_the_warning_names_the_whole_turn_is_forked(thinker, found):
    keeping = thinker.bind(chat_template_kwargs={"preserve_thinking": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error", ThoughtsDroppedWarning)
        messages = await turn(keeping, found, False)
        answer = keeping.invoke([*messages, NEXT])
    assert cache_read(answer) > len(tokens(keeping, messages[:3]))


async def test_without_thoughts_it_is_silent(thinker, found):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ThoughtsDroppedWarning)
        messages = await turn(thinker, found, False)
        for message in messages:
            message.additional_kwargs.pop("reasoning_content", None)
        thinker.invoke([*messages, NEXT])


@pytest.mark.parametrize("reason", ["elsewhere", "other tools", "share_prefix", "reasoning"])
async def test_what_no_snapshot_has_is_not_lost(thinker, found, reason):
    messages = await turn(thinker, found, False)
    if reason == "elsewhere":  # as after a restart
        thoughts._prompts.clear()
    elif reason == "other tools":
        tool = {"name": "search", "parameters": {"type": "object", "properties": {}}}
        thinker = thinker.bind(tools=[{"type": "function", "function": tool}], tool_choice="none")
    else:
        thinker = thinker.bind(**{reason: False})
    with warnings.catch_warnings():
        warnings.simplefilter("error", ThoughtsDroppedWarning)
        thinker.invoke([*messages, NEXT])


async def test_a_small_loss_is_not_worth_a_warning(thinker):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ThoughtsDroppedWarning)
        messages = await turn(thinker, found_text("Yes, you may."), False)
        thinker.invoke([*messages, NEXT])


@both
async def test_an_error_filter_ends_no_call(thinker, found, asynchronous, caplog):
    messages = await turn(thinker, found, asynchronous)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ThoughtsDroppedWarning)
        answer = await call(thinker, [*messages, NEXT], asynchronous=asynchronous)
    assert answer.text == "Yes."
    (sentence,) = [r.message for r in caplog.records if "ThoughtsDroppedWarning: " in r.message]
    assert "leaves out the thoughts" in sentence
