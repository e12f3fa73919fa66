"""Which of the chat templates that llama.cpp ships drop earlier thoughts, and what keeps them."""

import pytest
from test_templates import SOURCE, TEMPLATES, TOOLS, template

from langgraph_kvfork.order.thoughts import _LEAST, _MARKS, dropped_thoughts, find_remedy
from langgraph_kvfork.order.watch import common_prefix

LONG = " ".join(f"Line {i} of what was found." for i in range(60))
CALL = {
    "type": "function",
    "id": "abcdefghi",
    "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'},
}
QUESTION = {"role": "user", "content": "What is 1 + 2?"}
NEXT = {"role": "user", "content": "And what is 2 + 3?"}
FIRST, SECOND = "I had better add them up.", "The tool knows it well."
CHAT = [QUESTION, {"role": "assistant", "content": LONG, "reasoning_content": FIRST}, NEXT]
TURN = [
    QUESTION,
    {"role": "assistant", "content": "", "reasoning_content": FIRST, "tool_calls": [CALL]},
    {"role": "tool", "content": LONG, "tool_call_id": "abcdefghi", "name": "add"},
    {"role": "assistant", "content": "It is 3.", "reasoning_content": SECOND},
    NEXT,
]

# what keeps the thoughts of an answer, and of a turn with a call
VARIABLES = {
    "GLM-4.7-Flash.jinja": {"clear_thinking": False},
    "LFM2.5-8B-A1B.jinja": {"preserve_thinking": True},
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja": {"truncate_history_thinking": False},
    "deepseek-ai-DeepSeek-V4-Flash-0731.jinja": {"drop_thinking": False},
    "deepseek-ai-DeepSeek-V4.jinja": {"drop_thinking": False},
    "tencent-Hy3.jinja": {"preserved_thinking": True},
}
# these keep all thoughts as they are
KEEP = {
    "Bielik-11B-v3.0-Instruct.jinja",
    "ByteDance-Seed-OSS.jinja",
    "Cohere2MoE.jinja",
    "Kimi-K3.jinja",
    "MiniMax-M3.jinja",
    "Spark2.5.jinja",
    "inclusionai-ling-3.0-flash.jinja",
    "mistralai-Ministral-3-14B-Reasoning-2512.jinja",
    "muse-glimmer.jinja",
    "poolside-Laguna-S-2.1.jinja",
    "poolside-Laguna-XS-2.1.jinja",
    "poolside-Laguna-XS.2.jinja",
}
# a turn with a call: they keep its thoughts until the user speaks again, and no variable ends that
UNTIL_NEXT = {
    "GLM-4.6.jinja": "reasoning=False",
    "Kimi-K2-Thinking.jinja": None,
    "MiniMax-M2.jinja": None,
    "Qwen-Qwen3-0.6B.jinja": "reasoning=False",
    "Qwen3.5-4B.jinja": None,
    "Reka-Edge.jinja": "reasoning=False",
    "StepFun3.5-Flash.jinja": None,
    "deepseek-ai-DeepSeek-V3.2.jinja": "reasoning=False",
    "google-gemma-4-31B-it-interleaved.jinja": "reasoning=False",
    "google-gemma-4-31B-it.jinja": "reasoning=False",
    "openai-gpt-oss-120b.jinja": None,
    "openbmb-MiniCPM5-1B.jinja": "reasoning=False",
}


def renderer(name, **options):
    def render(messages, *, variables=None, reasoning=True):
        more = {"chat_template_kwargs": dict(variables), **options} if variables else options
        return template(name).render(messages, enable_thinking=reasoning, **more).text

    return render


def turn_renderer(name):
    return renderer(name, tools=TOOLS)


@pytest.mark.parametrize("name", sorted(KEEP))
def test_a_template_that_keeps_thoughts_drops_none(name):
    for messages, render in ((CHAT, renderer(name)), (TURN, turn_renderer(name))):
        prompt = render(messages)
        assert FIRST in prompt
        assert dropped_thoughts(messages, prompt, render) is None


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_the_named_variable_keeps_them(name):
    render = renderer(name)
    prompt = render(CHAT)
    assert FIRST not in prompt
    dropped = dropped_thoughts(CHAT, prompt, render)
    assert dropped.index == 1
    assert dropped.again.count("of what was found") == 60
    assert find_remedy(CHAT, dropped, render) == f"chat_template_kwargs={VARIABLES[name]!r}"
    for messages, form in ((CHAT, render), (TURN, turn_renderer(name))):
        kept = form(messages, variables=VARIABLES[name])
        assert FIRST in kept
        *_, last = (i for i, m in enumerate(messages) if m["role"] == "assistant")
        before = form(messages[:last], variables=VARIABLES[name])
        # what comes after the earlier prompt are its answer's thoughts
        after = kept[common_prefix(before, kept) :]
        assert messages[last]["reasoning_content"] in after[: 2 * _MARKS]


@pytest.mark.parametrize("name", sorted(UNTIL_NEXT))
def test_thoughts_of_a_turn_are_dropped_when_the_user_speaks_again(name):
    render = turn_renderer(name)
    assert dropped_thoughts(TURN[:3], render(TURN[:3]), render) is None
    prompt = render(TURN)
    dropped = dropped_thoughts(TURN, prompt, render)
    assert dropped.index == 1
    assert FIRST in dropped.before
    assert dropped.again in prompt
    assert dropped.again.count("of what was found") == 60
    assert "And what is 2 + 3?" not in dropped.again
    assert find_remedy(TURN, dropped, render) == UNTIL_NEXT[name]


@pytest.mark.parametrize("name", [name for name, end in UNTIL_NEXT.items() if end])
def test_without_reasoning_such_a_turn_is_kept(name):
    plain = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in TURN]
    render = turn_renderer(name)
    before, prompt = render(plain[:3], reasoning=False), render(plain, reasoning=False)
    assert len(before) - common_prefix(before, prompt) < _MARKS


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - KEEP - set(VARIABLES) - set(UNTIL_NEXT)))
def test_others_know_no_thoughts_so_only_the_last_answer_is_lost(name):
    render = turn_renderer(name)
    dropped = dropped_thoughts(TURN, render(TURN), render)
    assert dropped is None or (dropped.index == 3 and len(dropped.again) < _LEAST // 5)


def test_there_are_such_templates():
    assert all((SOURCE / "templates" / name).exists() for name in {*KEEP, *VARIABLES, *UNTIL_NEXT})
