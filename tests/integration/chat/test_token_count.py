"""Tokens are counted by the model's own tokenizer and template; who trims can rely on it."""

from typing import Any

import pytest
from helpers import prompt_tokens
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.tools import tool

from langgraph_kvfork import ChatKVFork, InvalidRequestError

STRICT = (
    "{% for m in messages %}"
    "{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that refuses what does not alternate, and system messages, as Gemma's does."""

WITH_TOOLS = (
    "{% for t in tools or [] %}{{ t.function.name }}: {{ t.function.description }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)

CONVERSATION = [
    SystemMessage("You are brief."),
    *(
        message
        for i in range(12)
        for message in (
            HumanMessage(f"This is question number {i}. What do you say to it?"),
            AIMessage(f"This is the answer to question number {i}, and there is no more to say."),
        )
    ),
    HumanMessage("And in the end?"),
]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module")
def strict():
    model = ChatKVFork(n_ctx=1024, chat_template=STRICT)
    yield model
    model.engine.close()


def test_a_text_and_messages_are_counted_as_the_engine_counts_them(llm, engine):
    text = "Grüße, 世界! 🎉 <|im_start|>"
    assert llm.get_num_tokens(text) == len(llm.get_token_ids(text)) > 8
    assert engine.detokenize(llm.get_token_ids(text)) == text
    counted = llm.get_num_tokens_from_messages(CONVERSATION)
    assert counted == len(prompt_tokens(engine, CONVERSATION))
    usage = llm.invoke(CONVERSATION, max_tokens=1).usage_metadata
    assert usage["input_tokens"] == counted
    assert llm.get_num_tokens_from_messages([]) == 0


def test_tools_and_template_arguments_count():
    template = WITH_TOOLS + "{% if hint is defined %}{{ hint }}{% endif %}"
    llm = ChatKVFork(n_ctx=256, chat_template=template)
    question = [HumanMessage("1 + 1?")]
    with llm.engine:
        plain = llm.get_num_tokens_from_messages(question)
        with_tool = llm.get_num_tokens_from_messages(question, tools=[add])
        sent = llm.bind_tools([add]).invoke(question, max_tokens=1)
        assert with_tool == sent.usage_metadata["input_tokens"] > plain
        hinted = llm.model_copy(update={"chat_template_kwargs": {"hint": " Think hard."}})
        assert hinted.get_num_tokens_from_messages(question) > plain


def test_an_excerpt_that_the_template_refuses_is_estimated(strict):
    whole = [m for m in CONVERSATION if not isinstance(m, SystemMessage)]
    exact = strict.get_num_tokens_from_messages(whole)
    with pytest.raises(InvalidRequestError, match="must alternate"):
        strict.engine.render([{"role": "assistant", "content": "x"}])
    # the estimates of two parts, each with a frame of its own, are not far from the whole
    parts = [strict.get_num_tokens_from_messages(part) for part in (whole[:4], whole[3:])]
    overlap = strict.get_num_tokens_from_messages([whole[3]])
    assert exact <= sum(parts) <= exact + overlap + 20
    call = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}])
    assert strict.get_num_tokens_from_messages([call]) > strict.get_num_tokens_from_messages(
        [AIMessage("")]
    )


@pytest.mark.parametrize("strategy", ["last", "first"])
@pytest.mark.parametrize("kind", ["own", "strict"])
def test_trim_messages_keeps_what_fits(llm, strict, strategy, kind):
    model, messages = llm, CONVERSATION
    if kind == "strict":
        model, messages = strict, CONVERSATION[1:]
    options: dict[str, Any] = {}
    if strategy == "last":
        options = {"start_on": "human", "include_system": True}
    limit = model.get_num_tokens_from_messages(messages) // 2
    trimmed = trim_messages(
        messages, max_tokens=limit, token_counter=model, strategy=strategy, **options
    )
    assert 2 < len(trimmed) < len(messages)
    assert model.get_num_tokens_from_messages(trimmed) <= limit
    assert trimmed[0] == messages[0] or strategy == "last"
    assert trimmed[-1] == messages[-1] or strategy == "first"


@pytest.mark.parametrize("trigger", [("tokens", 200), ("fraction", 0.05)])
async def test_the_summarization_middleware_summarizes_when_the_count_says_so(llm, engine, trigger):
    assert llm.profile["max_input_tokens"] == 4096
    summarize = SummarizationMiddleware(
        llm,
        trigger=trigger,
        keep=("messages", 2),
        token_counter=llm.get_num_tokens_from_messages,
    )
    agent = create_agent(llm, middleware=[summarize])
    for messages, summarized in ((CONVERSATION[-3:], False), (CONVERSATION[1:], True)):
        result = await agent.ainvoke({"messages": messages})
        assert (len(result["messages"]) < len(messages)) == summarized
        assert isinstance(result["messages"][-1], AIMessage)


def test_what_is_no_text_is_refused_here_too(llm):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(InvalidRequestError, match="image_url"):
        llm.get_num_tokens_from_messages([HumanMessage([image])])
    result = ToolMessage([{"type": "image", "base64": "AA=="}], tool_call_id="1")
    with pytest.raises(InvalidRequestError, match="image"):
        llm.get_num_tokens_from_messages([result])
