"""An agent that goes on for 200 steps: each step costs what is new in it, and nothing piles up."""

import gc
import operator
import os.path
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage, trim_messages
from langgraph.graph import END, START, StateGraph

from langgraph_kvfork import ContextOverflowError
from langgraph_kvfork.hooks import runs

N_STEPS = 200
SYSTEM = SystemMessage("Go on counting.")


class State(TypedDict):
    messages: Annotated[list[AnyMessage], operator.add]


class Loop:
    """A model and a tool in turns, and the exact cost of each turn."""

    def __init__(self, llm, n_steps, monkeypatch, view=lambda messages: messages):
        # two tokens each: the last one that a branch says never gets into the cache
        self.llm = llm.bind(max_tokens=2, logprobs=True, ignore_eos=True)
        self.engine = llm.engine
        self.n_steps = n_steps
        self.view = view
        self.cached = []
        self.tokenized = []
        tokenize = self.engine.tokenize

        def listen(text, **options):
            self.tokenized.append(tokenize(text, **options))
            return self.tokenized[-1]

        monkeypatch.setattr(self.engine, "tokenize", listen)
        self.steps = []
        self.objects = []
        graph = StateGraph(State)
        graph.add_node("model", self.model)
        graph.add_node("tool", self.tool)
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", lambda _: "tool" if len(self.steps) < n_steps else END)
        graph.add_edge("tool", "model")
        self.graph = graph.compile()

    def run(self):
        start = [SYSTEM, HumanMessage("0")]
        limit = {"recursion_limit": 2 * self.n_steps + 2}
        return self.graph.invoke({"messages": start}, limit)["messages"]

    def tool(self, state):
        return {"messages": [HumanMessage(str(len(self.steps)))]}

    def model(self, state):
        messages = self.view(state["messages"])
        answer = self.llm.invoke(messages)
        prompt = max(self.tokenized, key=len)
        self.tokenized.clear()
        # what the model said may be other tokens as a part of the next prompt: those count
        expected = len(prompt) - len(os.path.commonprefix([prompt, self.cached]))
        assert answer.response_metadata["fork"]["prefilled_tokens"] == expected
        first, _ = answer.response_metadata["logprobs"]["content"]
        self.cached = [*prompt, *self.engine.tokenize(first["token"], add_special=False)]
        self.steps.append((len(prompt), expected))
        if len(self.steps) in (20, self.n_steps):
            self.objects.append(our_objects())
        return {"messages": [answer]}


def our_objects():
    gc.collect()
    return sum(str(type(o).__module__).startswith("langgraph_kvfork") for o in gc.get_objects())


def test_each_of_200_steps_costs_what_is_new_in_it(llm, engine, monkeypatch):
    loop = Loop(llm, N_STEPS, monkeypatch)
    before = engine.stats()
    messages = loop.run()
    assert len(messages) == 2 * N_STEPS + 1
    lengths, costs = zip(*loop.steps, strict=True)
    assert lengths[-1] > 2500
    assert max(costs[1:]) < 20
    after = engine.stats()
    assert after.prefilled_tokens - before.prefilled_tokens == sum(costs)
    assert after.snapshots <= 64
    assert after.evictions - before.evictions >= N_STEPS - 64
    assert after.preemptions == before.preemptions
    # at 20 steps and at 200; what earlier tests left may go meanwhile
    assert loop.objects[1] <= loop.objects[0]
    assert not runs._runs._runs

    with pytest.raises(ContextOverflowError, match=r"the prompt has 5\d{3} tokens, n_ctx is 4096"):
        llm.invoke([*messages, HumanMessage("word " * 2500)])


def test_of_a_trimmed_conversation_what_follows_the_cut_is_computed(llm, engine, monkeypatch):
    def view(messages):
        return trim_messages(
            messages, max_tokens=12, token_counter=len, include_system=True, start_on="human"
        )

    loop = Loop(llm, 12, monkeypatch, view)
    loop.run()
    lengths, costs = zip(*loop.steps, strict=True)
    assert max(costs[1:5]) < 20  # nothing is cut yet
    assert min(costs[-5:]) > max(lengths) // 2
