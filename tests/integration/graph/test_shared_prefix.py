"""`SharedPrefix`: agents with different system prompts and tools share what they are about."""

import sys

import pytest
from helpers import Counter, call
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolRuntime
from pydantic import BaseModel

import langgraph_kvfork
from langgraph_kvfork import InvalidRequestError, SharedPrefix


@tool(return_direct=True)
def water(days: int) -> str:
    """Carry water from the river."""
    return "wet"


@tool(return_direct=True)
def repair(part: str) -> str:
    """Repair a part of the pump."""
    return "whole"


def look(place: str, runtime: ToolRuntime) -> str:
    """Have a look."""
    return f"nothing at {place}, {len(runtime.state['messages'])} messages"


ROLES = {"gardener": [water], "plumber": [repair], "judge": []}


@pytest.fixture(scope="session")
def llm(llm):
    return llm.model_copy(update={"max_tokens": 48})


@pytest.fixture(scope="session")
def document(document):
    return document[0].content[:600]


class MustCall(AgentMiddleware):
    """Makes an agent that has tools call one at first, and then answer."""

    def _forced(self, request):
        done = any(isinstance(message, ToolMessage) for message in request.messages)
        choice = "none" if done or not request.tools else "any"
        return request.override(tool_choice=choice)

    def wrap_model_call(self, request, handler):
        return handler(self._forced(request))

    async def awrap_model_call(self, request, handler):
        return await handler(self._forced(request))


class Prompts(BaseCallbackHandler):
    """Keeps what the model is asked, as tokens."""

    run_inline = True

    def __init__(self, llm):
        self.llm = llm
        self.tokens = []

    def on_chat_model_start(self, serialized, messages, *, invocation_params, **kwargs):
        names = ("tools", "tool_choice", "prompt_tools")
        given = {name: invocation_params[name] for name in names if name in invocation_params}
        engine = self.llm.engine
        text = self.llm._call(None, given).render(engine, messages[0]).text
        self.tokens.append(engine.tokenize(text))


def panel(llm, *middleware):
    """Agents beside each other, in a graph whose messages they share."""
    graph = StateGraph(MessagesState)
    for name, tools in ROLES.items():
        system_prompt = f"You are the {name}."
        agent = create_agent(llm, tools, system_prompt=system_prompt, middleware=middleware)
        graph.add_node(name, agent)
        graph.add_edge(START, name)
    return graph.compile()


async def run(llm, engine, document, *middleware, asynchronous):
    counter, prompts = Counter(engine, []), Prompts(llm)
    state = {"messages": [HumanMessage(document)]}
    result = await call(
        panel(llm, *middleware), state, {"callbacks": [prompts]}, asynchronous=asynchronous
    )
    counter.prompts = prompts.tokens
    return result["messages"], counter


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_parallel_agents_share_all_but_their_roles(llm, engine, document, asynchronous):
    shared = SharedPrefix("Do your work.", tools=[look, water, repair])
    middleware = (MustCall(), shared)
    messages, counter = await run(llm, engine, document, *middleware, asynchronous=asynchronous)
    assert len(counter.prompts) == 3
    counter.check()
    # what differs is a role of some words, at the end
    assert counter.common > max(map(len, counter.prompts)) - 12
    # the state has nothing of it, and each has called what is its own
    assert messages[0].content == document
    called = [made["name"] for m in messages if isinstance(m, AIMessage) for made in m.tool_calls]
    assert sorted(called) == ["repair", "water"]


async def test_tools_are_collected_from_the_agents_that_call(llm, engine, document):
    shared = SharedPrefix("Do your work.")
    await run(llm, engine, document, MustCall(), shared, asynchronous=True)
    engine.clear()
    # by now it has the tools of all
    _, counter = await run(llm, engine, document, MustCall(), shared, asynchronous=True)
    counter.check()
    assert counter.common > max(map(len, counter.prompts)) - 12


def test_a_name_that_two_tools_have_is_refused(llm, engine):
    @tool("water")
    def other(litres: int) -> str:
        """Drink."""
        return ""

    shared, task = SharedPrefix(), {"messages": [HumanMessage("Hello")]}
    middleware = [MustCall(), shared]
    create_agent(llm, [water], middleware=middleware).invoke(task)
    with pytest.raises(InvalidRequestError, match=r"tool=.*Drink.*rename one"):
        create_agent(llm, [other], middleware=middleware).invoke(task)


@pytest.mark.parametrize("system_prompt", [None, "Answer from the letter."])
def test_a_state_may_begin_with_a_system_message(llm, engine, document, system_prompt):
    """Templates take one system message; the document of the state is behind the shared one."""
    prompts = Prompts(llm)
    agent = create_agent(llm, system_prompt="Judge.", middleware=[SharedPrefix(system_prompt)])
    state = {"messages": [SystemMessage(document), HumanMessage("Is it good?")]}
    asked = []

    class Kinds(BaseCallbackHandler):
        run_inline = True

        def on_chat_model_start(self, serialized, messages, **kwargs):
            asked.extend(messages[0])

    agent.invoke(state, {"callbacks": [prompts, Kinds()]})
    assert [message.type for message in asked] == ["system", "human"]
    assert document in asked[0].text
    assert asked[1].text == "Is it good?\n\nJudge."


async def test_without_it_they_share_nothing_of_the_conversation(llm, engine, document):
    _, counter = await run(llm, engine, document, MustCall(), asynchronous=True)
    assert counter.common < 10


def test_the_next_turn_begins_with_the_one_before(llm, engine, document):
    shared = SharedPrefix(tools=[water, repair, look])
    agent = create_agent(
        llm, [look], system_prompt=SystemMessage("Look."), middleware=[MustCall(), shared]
    )
    asked = HumanMessage([{"type": "text", "text": document}])
    messages = agent.invoke({"messages": [asked]})["messages"]
    first, last = (m.usage_metadata for m in messages if isinstance(m, AIMessage))
    assert last["input_token_details"]["cache_read"] >= first["input_tokens"]
    (result,) = [m for m in messages if isinstance(m, ToolMessage)]
    assert result.name == "look"
    assert "2 messages" in result.content


class Verdict(BaseModel):
    """The verdict."""

    good: bool


def test_a_structured_answer_is_one_of_the_tools(llm, engine):
    shared = SharedPrefix("Be brief.", tools=[water, Verdict])
    task = {"messages": [HumanMessage("Is it good?")]}
    create_agent(llm, [], system_prompt="Look.", middleware=[shared]).invoke(task)
    agent = create_agent(
        llm, system_prompt="Judge.", response_format=ToolStrategy(Verdict), middleware=[shared]
    )
    result = agent.invoke(task)
    assert isinstance(result["structured_response"], Verdict)
    usage = result["messages"][1].usage_metadata
    assert usage["input_token_details"]["cache_read"] > usage["input_tokens"] - 12


def test_an_agent_without_messages_has_its_role_for_one(llm, engine):
    agent = create_agent(llm, system_prompt="Say hello.", middleware=[SharedPrefix()])
    assert agent.invoke({"messages": []})["messages"][-1].text


def test_what_it_cannot_do_is_refused_in_words(llm):
    task = {"messages": [HumanMessage("Hello")]}
    agent = create_agent(llm, [water], middleware=[SharedPrefix(tools=[repair])])
    with pytest.raises(InvalidRequestError, match=r"tool=.*water.*SharedPrefix\(tools=\.\.\.\)"):
        agent.invoke(task)
    other = GenericFakeChatModel(messages=iter([AIMessage("Hello")]))
    with pytest.raises(InvalidRequestError, match=r"model=.*pass the agent a ChatKVFork"):
        create_agent(other, middleware=[SharedPrefix()]).invoke(task)
    with pytest.raises(InvalidRequestError, match="system_prompt=3"):
        SharedPrefix(3)
    for tools in (water, "water", {}):
        with pytest.raises(InvalidRequestError, match=r"tools=.*pass a list"):
            SharedPrefix(tools=tools)
    for tools in ([3], [lambda: None]):
        with pytest.raises(InvalidRequestError, match=r"tools\[0\]="):
            SharedPrefix(tools=tools)


def test_only_it_needs_langchain(monkeypatch):
    for name in ("langchain", "langchain.agents", "langchain.agents.middleware"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "langgraph_kvfork.graph.shared_prefix")
    monkeypatch.delattr(langgraph_kvfork, "SharedPrefix")
    exec("from langgraph_kvfork import *", {})
    with pytest.raises(ImportError, match=r"pip install 'langgraph-kvfork\[agents\]'"):
        _ = langgraph_kvfork.SharedPrefix
