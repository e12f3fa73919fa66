"""When the order of messages loses sharing, and what to move; no model computes here."""

import os
import sys
import threading
import warnings

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langgraph_kvfork import InvalidRequestError, MessageOrderWarning, arrange
from langgraph_kvfork.order import watch
from langgraph_kvfork.order.watch import (
    _Call,
    _common_block,
    _duplicate_of,
    common_prefix,
    watched_order,
)

TEXT = " ".join(f"{i} sheep passed the gate." for i in range(100))
OTHER = " ".join(f"In the year {i} it rained." for i in range(100))


def call_with(*messages):
    prompt = "".join(f"<{m.type}>{m.text}</>" for m in messages)
    return _Call(engine=None, run=None, namespace=None, node="", messages=messages, prompt=prompt)


def lawyer(text=TEXT):
    return call_with(SystemMessage("You are a lawyer."), HumanMessage(text))


def editor(text=TEXT):
    return call_with(SystemMessage("You are an editor."), HumanMessage(text))


def test_the_message_before_the_common_one_is_to_move():
    loss = _duplicate_of(lawyer(), editor())
    assert loss.message.text == "You are a lawyer."
    assert not loss.is_part
    assert TEXT in loss.text


@pytest.mark.parametrize("ending", ["", " What is it about?"])
def test_the_beginning_of_a_message_is_to_move(ending):
    mine = call_with(HumanMessage(f"You are a lawyer. Read this: {TEXT}{ending}"))
    loss = _duplicate_of(mine, call_with(HumanMessage(f"You are an editor. Read this: {TEXT}")))
    assert loss.call is mine
    assert loss.is_part
    assert loss.text.startswith("r. Read this: 0 sheep")


def test_it_is_the_other_ones_message_if_nothing_of_ours_is_in_front():
    mine = call_with(SystemMessage(TEXT), HumanMessage("You are a lawyer."))
    loss = _duplicate_of(mine, editor())
    assert loss.message.text == "You are an editor."


def test_a_message_that_the_template_puts_otherwise_is_passed_over():
    odd = _Call(None, None, None, "", [AIMessage("unseen"), *lawyer().messages], lawyer().prompt)
    assert _duplicate_of(odd, editor()).message.text == "You are a lawyer."


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (lawyer(), lawyer()),
        (lawyer(TEXT[:900]), editor(TEXT[:900])),
        (lawyer(), editor(OTHER)),
        (lawyer(), editor("-")),
        (lawyer(TEXT[:1200] + OTHER), editor(TEXT[:1200] + OTHER[::-1])),
        (call_with(HumanMessage(TEXT), HumanMessage("a")), call_with(HumanMessage(TEXT))),
        (call_with(HumanMessage(TEXT)), call_with(SystemMessage(TEXT))),
    ],
    ids=[
        "identical",
        "short",
        "different documents",
        "nothing in common",
        "less than half",
        "in order",
        "another role",
    ],
)
def test_where_moving_would_not_help_nothing_is_lost(mine, other):
    assert _duplicate_of(mine, other) is None


def test_a_common_block_is_found_wherever_it_is():
    for before in (0, 1, 199, 200, 801, 2345):
        a, b = OTHER[:before] + TEXT[:1000] + "a", "x" * 77 + TEXT[:1000] + "b"
        i, j, length = _common_block(a, b, 1000)
        assert a[i : i + length] == b[j : j + length]
        assert length >= 1000
    assert _common_block(TEXT[:999], TEXT[:999], 1000) is None


@pytest.mark.parametrize("words", [("", ""), ("a", "b"), ("abc", "abd"), ("ab", "abc"), ("a", "a")])
def test_acommon_prefix(words):
    assert common_prefix(*words) == len(os.path.commonprefix(words))


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("doc", [SystemMessage("doc"), HumanMessage("role\n\nquestion")]),
        ([("system", "doc")], [SystemMessage("doc"), HumanMessage("role\n\nquestion")]),
        (HumanMessage("doc"), [HumanMessage("doc\n\nrole\n\nquestion")]),
        (
            [("human", "doc"), ("ai", "ok")],
            [HumanMessage("doc"), AIMessage("ok"), HumanMessage("role\n\nquestion")],
        ),
        (
            [HumanMessage([{"type": "text", "text": "doc"}])],
            [
                HumanMessage(
                    [
                        {"type": "text", "text": "doc"},
                        {"type": "text", "text": "role\n\nquestion"},
                    ]
                )
            ],
        ),
    ],
)
def test_what_differs_comes_last(context, expected):
    assert arrange(context, "role", "question") == expected


def test_a_role_alone_and_a_context_that_stays_as_it_was():
    context = [HumanMessage("doc")]
    assert arrange(context, "role") == [HumanMessage("doc\n\nrole")]
    assert context == [HumanMessage("doc")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "role"), "context=''"),
        (([], "role"), r"context=\[\]"),
        (([1], "role"), r"context=\[1\]"),
        (("doc", ""), "role=''"),
        (("doc", None), "role=None"),
        (("doc", "role", ""), "question=''"),
        (("doc", "role", 1), "question=1"),
    ],
)
def test_what_is_no_text_is_refused(arguments, message):
    with pytest.raises(InvalidRequestError, match=message):
        arrange(*arguments)


def prompts_of(engine, begin, namespace=None):
    message = SystemMessage(begin)
    prompt = f"<{begin}><{TEXT}>"
    messages = [message, HumanMessage(TEXT)]
    return watched_order(engine, messages, prompt, shared=True, namespace=namespace)


class Words:
    """As much of an engine as a warning needs."""

    def tokenize(self, text, **kwargs):
        return text.split()


@pytest.mark.parametrize("namespaces", [("a", "b"), ("a", None)])
def test_branches_that_may_not_share_are_left_alone(monkeypatch, namespaces):
    monkeypatch.setattr(watch, "_warned", type(watch._warned)())
    engine = Words()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, b = namespaces
        with prompts_of(engine, "You are an editor.", a), prompts_of(engine, "A lawyer.", b):
            pass
    with prompts_of(engine, "You are an editor.", "a"), pytest.warns(MessageOrderWarning):
        prompts_of(engine, "You are a lawyer.", "a").__enter__()
    watch._running.clear()


def test_a_stream_that_is_collected_at_any_line_is_waited_for_by_nobody(monkeypatch):
    monkeypatch.setattr(watch, "_warned", type(watch._warned)())
    engine = Words()
    done = []

    def run():
        """End another call before each line that a call runs, as a collector may."""
        line = 0
        while True:
            line += 1
            watch._warned.clear()
            collected = prompts_of(engine, "You are an editor.")
            collected.__enter__()
            n_lines = 0

            def trace(frame, event, argument):
                nonlocal n_lines, collected
                if frame.f_code.co_filename != watch.__file__:
                    return None
                if event == "line":
                    n_lines += 1
                    if n_lines == line:  # noqa: B023 - within the loop
                        sys.settrace(None)
                        collected.__exit__(None, None, None)
                        collected = None
                return trace

            sys.settrace(trace)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    with prompts_of(engine, "You are a lawyer."):
                        pass
            finally:
                sys.settrace(None)
            if collected is not None:
                collected.__exit__(None, None, None)
                done.append(line)
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert done
    assert done[0] > 20
    assert not watch._running
