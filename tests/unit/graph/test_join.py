"""Messages of a context and of a branch become one prompt; no model computes here."""

from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableLambda

from langgraph_kvfork import ForkNode, arrange
from langgraph_kvfork.convert.messages import to_openai
from langgraph_kvfork.order.join import join

CALL = {"name": "look", "args": {}, "id": "1"}


def seen(messages):
    return [(m["role"], m["content"]) for m in to_openai(messages)]


def test_a_question_continues_a_human_message_that_it_follows():
    assert seen(join([HumanMessage("doc")], [HumanMessage("q")])) == [("user", "doc\n\nq")]
    assert seen(join([HumanMessage("a"), HumanMessage("b")])) == [("user", "a\n\nb")]
    user = ChatMessage(role="user", content="doc")
    assert seen(join([user], [HumanMessage("q")])) == [("user", "doc\n\nq")]


def test_a_system_message_behind_the_beginning_is_the_humans():
    doc, role, q = SystemMessage("doc"), SystemMessage("role"), HumanMessage("q")
    assert seen(join([doc], [role])) == [("system", "doc"), ("user", "role")]
    assert seen(join([doc], [role, q])) == [("system", "doc"), ("user", "role\n\nq")]
    assert seen(join([HumanMessage("doc")], [role])) == [("user", "doc\n\nrole")]
    answered = [q, AIMessage("a")]
    assert seen(join(answered, [role]))[-1] == ("user", "role")


def test_system_messages_at_the_beginning_are_one():
    doc, role, q = SystemMessage("doc"), SystemMessage("role"), HumanMessage("q")
    assert seen(join([doc, role, q])) == [("system", "doc\n\nrole"), ("user", "q")]
    assert seen(join([], [doc, role, q])) == [("system", "doc\n\nrole"), ("user", "q")]


def test_answers_in_a_row_are_one_but_for_those_that_call_tools():
    q, calls = HumanMessage("q"), AIMessage("", tool_calls=[CALL])
    assert seen(join([q, AIMessage("a"), AIMessage("b")]))[1:] == [("assistant", "a\n\nb")]
    result = ToolMessage("r", tool_call_id="1")
    assert join([q, AIMessage("a"), calls, result, result]) == [
        q,
        AIMessage("a"),
        calls,
        result,
        result,
    ]


def test_blocks_stay_blocks_and_text_becomes_one():
    text, asked = {"type": "text", "text": "doc"}, {"type": "text", "text": "q"}
    for own in ("doc", ["doc"], [text]):
        for more in ("q", ["q"], [asked]):
            (joined,) = join([HumanMessage(own)], [HumanMessage(more)])
            is_text = isinstance(own, str) and isinstance(more, str)
            assert joined.content == ("doc\n\nq" if is_text else [text, asked])
    answers = [AIMessage([{"type": "text", "text": "a"}]), AIMessage("b")]
    assert seen(join(answers)) == [("assistant", "a\n\nb")]


def test_an_empty_message_adds_nothing():
    assert seen(join([HumanMessage("")], [HumanMessage("q")])) == [("user", "q")]
    assert seen(join([HumanMessage("doc")], [HumanMessage([])])) == [("user", "doc")]


def test_what_was_given_is_not_changed_and_what_is_not_joined_is_the_same():
    doc, q = HumanMessage("doc", id="7"), HumanMessage("q")
    (joined,) = join([doc], [q])
    assert (doc.content, q.content, joined.id) == ("doc", "q", "7")
    assert join([doc])[0] is doc


def test_node_and_arrange_join_alike():
    asked = []
    for context in ([HumanMessage("doc")], [SystemMessage("doc")], [("human", "doc"), ("ai", "a")]):
        node = ForkNode(_keeps(asked), {"a": [("system", "role"), ("human", "q")]})
        node.invoke({"messages": context})
        assert seen(asked.pop()) == seen(arrange(context, "role", "q"))


def _keeps(asked):
    def keep(messages):
        asked.append(messages)
        return AIMessage("")

    return RunnableLambda(keep)
