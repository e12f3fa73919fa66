"""`create_agent` on a real model that is made to call, and what its parallel calls cost."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

calls = []


def add(a: int, b: int) -> str:
    """Add two numbers."""
    calls.append("add")
    return "three"


def multiply(a: int, b: int) -> str:
    """Multiply two numbers."""
    calls.append("multiply")
    return "two"


class ForcedChoices(AgentMiddleware):
    """Makes the model call one tool after the other, and then answer."""

    def __init__(self, *choices):
        super().__init__()
        self.choices = choices

    def _forced(self, request):
        n_made = sum(isinstance(m, AIMessage) for m in request.messages)
        return request.override(tool_choice=[*self.choices, "none"][n_made])

    def wrap_model_call(self, request, handler):
        return handler(self._forced(request))

    async def awrap_model_call(self, request, handler):
        return await handler(self._forced(request))


@pytest.fixture(scope="session")
def llm(llm):
    return llm.model_copy(update={"max_tokens": 96})


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agent_with_two_tools_runs_to_its_end(llm, engine, asynchronous):
    calls.clear()
    agent = create_agent(llm, [add, multiply], middleware=[ForcedChoices("add", "multiply")])
    state = {"messages": [HumanMessage("What is 1 + 2, and 1 * 2?")]}
    result = await agent.ainvoke(state) if asynchronous else agent.invoke(state)
    kinds = [type(m).__name__ for m in result["messages"]]
    assert kinds == [
        "HumanMessage",
        "AIMessage",
        "ToolMessage",
        "AIMessage",
        "ToolMessage",
        "AIMessage",
    ]
    assert calls == ["add", "multiply"]
    assert [m.content for m in result["messages"] if isinstance(m, ToolMessage)] == ["three", "two"]
    assert result["messages"][-1].text
    # each turn begins with what the one before left
    turns = [m.usage_metadata for m in result["messages"] if isinstance(m, AIMessage)]
    for before, turn in pairwise(turns):
        assert turn["input_token_details"]["cache_read"] >= before["input_tokens"]


class Result(BaseModel):
    """The result."""

    value: int


def test_an_agents_structured_answer_is_a_tool(llm, engine):
    agent = create_agent(llm, [], response_format=ToolStrategy(Result))
    result = agent.invoke({"messages": [HumanMessage("What is 1 + 2?")]})
    assert isinstance(result["structured_response"], Result)


@tool(return_direct=True)
def guess(a: int) -> str:
    """Guess a number."""
    return "five"


def test_beside_tools_an_agent_chooses_to_make_its_schema_a_tool(llm, engine):
    """It asks the profile. So the prompt contains the schema, unlike with a response format."""
    assert "structured_output" not in llm.profile
    state = {"messages": [HumanMessage("What is 1 + 2?")]}
    result = create_agent(llm, [guess], response_format=Result).invoke(state)
    (made,) = result["messages"][1].tool_calls
    assert made["name"] in {"guess", "Result"}
    if made["name"] == "Result":
        assert isinstance(result["structured_response"], Result)
    # told to, it gives the schema as it is: the model calls a tool, or answers
    native = ProviderStrategy(Result)
    result = create_agent(llm, [guess], response_format=native).invoke(state)
    made = result["messages"][1]
    assert made.tool_calls or isinstance(result["structured_response"], Result)
    result = create_agent(llm, [], response_format=native).invoke(state)
    assert isinstance(result["structured_response"], Result)


def test_parallel_calls_fan_out_and_share_their_prefix(llm, engine, excerpt):
    """Each tool asks the model about one document: N calls prefill it once."""
    seen = []

    def ask(question: int) -> str:
        """Ask about the document."""
        prompt = [*excerpt, HumanMessage(f"Question {question}, number {len(seen)}?")]
        answer = llm.invoke(prompt, max_tokens=4)
        seen.append(prompt)
        return answer.text

    class Several(ForcedChoices):
        def _forced(self, request):
            request = super()._forced(request)
            settings = {"parallel_tool_calls": True, "stop": []}
            return request.override(model_settings=settings)

    agent = create_agent(llm, [ask], middleware=[Several("any")])
    result = agent.invoke({"messages": [HumanMessage("Ask something.")]})
    (first, *_) = [m for m in result["messages"] if isinstance(m, AIMessage)]
    assert len(first.tool_calls) >= 2
    assert len(seen) == len(first.tool_calls)

    # counted on a cold engine: the prompts cost what their trie has nodes
    engine.clear()
    prompts = [tuple(_tokens(llm, engine, prompt)) for prompt in seen]
    before = engine.stats()
    with ThreadPoolExecutor(len(seen)) as pool:
        list(pool.map(lambda prompt: llm.invoke(prompt, max_tokens=1), seen))
    after = engine.stats()
    nodes = {prompt[:n] for prompt in prompts for n in range(1, len(prompt) + 1)}
    assert after.prefilled_tokens - before.prefilled_tokens <= len(nodes) + len(prompts)
    assert after.forked_tokens - before.forked_tokens >= sum(map(len, prompts)) - len(nodes) - len(
        prompts
    )


def _tokens(llm, engine, messages):
    return engine.tokenize(llm._call(None, {}).render(engine, messages))
