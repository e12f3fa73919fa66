"""A fan-out on a real llama-server: what it says it computed, in both of its cache layouts."""

import asyncio
import json

import pytest
from fan_outs import QUESTIONS, State, chat, counts, nodes, plain, some_document
from helpers import await_until, call
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from langgraph_kvfork import (
    ForkNode,
    ForkReport,
    MessageOrderWarning,
    SharedPrefix,
    TreeSearchNode,
)
from langgraph_kvfork.cli.main import main
from langgraph_kvfork.cli.server_bench import server_bench_text
from langgraph_kvfork.server.gather import Member
from langgraph_kvfork.server.sharing import _known
from langgraph_kvfork.server.slots import OneSlot


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("form", ["nodes", "nodes ahead", "plain graph"])
async def test_a_server_computes_one_prompt_and_each_branchs_own(
    saving, document, form, asynchronous
):
    llm = chat(saving)
    messages = some_document(f"{form} {asynchronous}", document)
    bare, prompts = counts(llm, messages)
    own = [n - bare + 16 for n in prompts]  # a question, and the marks of its turn
    graph = plain(llm) if form == "plain graph" else nodes(llm, ahead="ahead" in form)
    before = saving.computed
    with ForkReport() as report:
        state = await call(graph, {"messages": messages}, asynchronous=asynchronous)
    answers = state["answers"] if form == "plain graph" else state["branches"]
    computed = saving.computed - before
    assert len(answers) == 8
    assert computed <= max(prompts) + sum(own) < 2 * max(prompts)
    # the report says what the server says
    assert report.prompt_tokens == sum(prompts)
    assert report.prefilled_tokens == computed
    assert report.saved_tokens == sum(prompts) - computed
    assert sum(a.usage_metadata["input_token_details"]["cache_read"] > 0 for a in answers) == 8
    assert saving.running == 0


def plain_client(server, **kwargs):
    url = f"{server.url}/v1"
    return ChatOpenAI(base_url=url, api_key="none", model="any", temperature=0, **kwargs)


def test_the_plain_client_lets_it_compute_nearly_all_of_it_eight_times(saving, document):
    messages = some_document("plain client", document)
    _, prompts = counts(chat(saving), messages)
    before = saving.computed
    # all eight at once: a pool of the default size would run some of them later
    graph = plain(plain_client(saving, max_tokens=4))
    graph.invoke({"messages": messages}, {"max_concurrency": 8})
    assert saving.computed - before > 0.9 * sum(prompts)


def test_a_branch_computes_what_the_plain_client_does(saving, document):
    """Up to what batches of other sizes change: a wrong prefix would change all of it."""
    messages = some_document("answers", document)
    asked = {"max_tokens": 1, "logprobs": True, "top_logprobs": 3}
    forked = plain(chat(saving).bind(**asked)).invoke({"messages": messages})["answers"]
    for question, answer in list(zip(QUESTIONS, forked, strict=True))[:2]:
        alone = plain_client(saving, **asked).invoke([*messages, HumanMessage(question)])
        ours, theirs = (
            {each["token"]: each["logprob"] for each in first["top_logprobs"]}
            for first in (m.response_metadata["logprobs"]["content"][0] for m in (answer, alone))
        )
        assert max(abs(ours[token] - theirs[token]) for token in ours.keys() & theirs.keys()) < 0.2


def way_of(server):
    (way,) = [known.result().gatherer.way for key, known in _known.items() if key[0] == server.url]
    return way


async def test_slots_are_restored_together_where_idle_ones_are_kept(saving, layout, document):
    messages = some_document("together", document)
    await plain(chat(saving)).ainvoke({"messages": messages})
    way = way_of(saving)
    assert way._keeps == (layout == "apart")
    # and again, by what is in the file
    before = saving.computed
    answers = (await plain(chat(saving)).ainvoke({"messages": messages}))["answers"]
    assert saving.computed - before < 8 * 40
    assert min(a.usage_metadata["input_token_details"]["cache_read"] for a in answers) > 250


async def test_eight_answers_to_one_prompt_share_it(saving, document):
    llm = chat(saving, seed=1).bind(temperature=1.0)
    messages = [*some_document("samples", document), HumanMessage("What is it about?")]
    before = saving.computed
    branches = (await ForkNode(llm, n=8).ainvoke({"messages": messages}))["branches"]
    n = branches[0].usage_metadata["input_tokens"]
    assert saving.computed - before <= n + 8
    assert len({answer.text for answer in branches}) > 1  # each has a seed of its own


async def test_a_tree_search_goes_on_from_its_paths(saving, document):
    llm = chat(saving, seed=1).bind(temperature=1.0)
    messages = [*some_document("tree", document), HumanMessage("Tell me a story.")]
    n = chat(saving).get_num_tokens_from_messages(messages)
    node = TreeSearchNode(llm, lambda path: len(path[-1].text), n=3, beam_width=2, depth=2)
    before = saving.computed
    paths = (await node.ainvoke({"messages": messages}))["paths"]
    assert len(paths) == 2
    assert saving.computed - before < 2 * n  # 9 prompts


async def test_a_call_that_comes_later_waits_for_the_prefix(saving, document):
    llm, messages = chat(saving), some_document("late", document)
    await llm.aserver_facts()
    before = saving.computed
    calls = [
        asyncio.create_task(llm.ainvoke([*messages, HumanMessage(question)]))
        for question in QUESTIONS[:2]
    ]
    way = way_of(saving)
    await await_until(lambda: way._computing)
    answers = [await llm.ainvoke([*messages, HumanMessage(QUESTIONS[2])])]
    answers += [await call for call in calls]
    n = answers[0].usage_metadata["input_tokens"]
    assert saving.computed - before < 1.5 * n


async def test_more_branches_than_slots_share_too(saving, document):
    llm = chat(saving)
    messages = some_document("many", document)
    before = saving.computed
    state = await ForkNode(llm, [f"What is {i}?" for i in range(12)]).ainvoke(
        {"messages": messages}
    )
    n = state["branches"][0].usage_metadata["input_tokens"]
    assert saving.computed - before < 2 * n


async def test_without_saved_slots_branches_go_through_one_slot(single, document):
    with pytest.warns(UserWarning, match="--slot-save-path"):
        facts = await chat(single).aserver_facts()
    assert not facts.saves_slots
    llm = chat(single)
    messages = some_document("one slot", document)
    before = single.computed
    state = await plain(llm).ainvoke({"messages": messages})
    n = state["answers"][0].usage_metadata["input_tokens"]
    assert single.computed - before < 2 * n


def test_branches_wait_where_that_is_faster_by_the_servers_own_speeds():
    way = OneSlot(requests=None)
    branch = Member({"max_completion_tokens": 100}, "", found=None)
    assert way._is_faster_alone(2000, branch)  # nothing is known: the first branch shows it
    speeds = {"prompt_per_second": 1000.0, "predicted_per_second": 50.0}
    way.note({"prompt_n": 2000, "predicted_n": 50, **speeds})
    # 2 s for the prefix, 1 s for an answer
    assert way._is_faster_alone(2000, branch)
    assert not way._is_faster_alone(900, branch)
    # a prompt of a few tokens says nothing of the speed of prefills
    way.note(
        {"prompt_n": 3, "predicted_n": 50, "prompt_per_second": 9.0, "predicted_per_second": 50}
    )
    assert not way._is_faster_alone(900, branch)


async def test_agents_that_share_a_prompt(saving, document):
    def water(days: int) -> str:
        """Water the garden."""
        return f"watered for {days} days"

    shared = SharedPrefix("Answer from the letter.", tools=[water])
    llm = chat(saving)
    letter = {"messages": [HumanMessage(some_document("agents", document)[0].content)]}
    before = saving.computed
    roles = {"You are the gardener.": [water], "You are the judge.": []}
    agents = [
        create_agent(llm, tools, system_prompt=role, middleware=[shared])
        for role, tools in roles.items()
    ]
    first, second = [await agent.ainvoke(letter) for agent in agents]
    prompts = [s["messages"][-1].usage_metadata["input_tokens"] for s in (first, second)]
    assert saving.computed - before < 1.3 * max(prompts)
    assert not second["messages"][-1].tool_calls


async def test_a_conversation_goes_on_from_its_own_slot(saving, document):
    llm, messages = chat(saving), some_document("talk", document)
    await llm.aprefill(messages)
    talk = [*messages, HumanMessage("What is it? " * 60)]
    talk += [await llm.ainvoke(talk), HumanMessage("Go on.")]
    before = saving.computed
    answer = await llm.ainvoke(talk)
    assert saving.computed - before < 40
    assert answer.usage_metadata["input_token_details"]["cache_read"] > 450


async def test_a_streamed_answer_has_the_numbers_too(saving, document):
    messages = [*some_document("stream", document), HumanMessage("What is it?")]
    llm = chat(saving)
    chunks = [chunk async for chunk in llm.astream(messages)]
    whole = sum(chunks[1:], chunks[0])
    again = llm.invoke(messages)
    assert whole.text
    assert whole.usage_metadata["input_tokens"] == again.usage_metadata["input_tokens"]
    for message in (whole, again):
        fork, usage = message.response_metadata["fork"], message.usage_metadata
        assert fork["forked_tokens"] + fork["prefilled_tokens"] == usage["input_tokens"]
        assert message.response_metadata["timings"]["prefill_ms"] > 0
        assert message.response_metadata["model_name"] == "smollm2"


def test_structured_output_and_tokens(saving, document):
    class Person(BaseModel):
        name: str
        age: int

    llm = chat(saving)
    person = llm.with_structured_output(Person).bind(max_tokens=64)
    panel = ForkNode(person, ["Who is Ada?", "Who is Bob?"])
    messages = [SystemMessage("Ada is 33 years old. Bob is 44 years old.")]
    first, _ = panel.invoke({"messages": messages})["branches"]
    assert isinstance(first, Person)
    assert llm.get_token_ids("Hello")
    assert llm.get_num_tokens_from_messages(messages) > 10


async def test_tokens_of_branches_in_the_graphs_stream(saving):
    llm = chat(saving)
    graph = StateGraph(State)
    graph.add_node("panel", ForkNode(llm, QUESTIONS[:2], stream_tokens=True))
    graph.add_edge(START, "panel")
    items = [
        item
        async for item in graph.compile().astream(
            {"messages": [SystemMessage("Be brief.")]}, stream_mode="custom"
        )
    ]
    assert {item["branch_name"] for item in items} == {"0", "1"}
    assert all(item["token"] for item in items)


async def test_an_order_that_prevents_sharing_is_warned_of(saving, document):
    llm = chat(saving)
    graph = StateGraph(State)
    for role in ("lawyer", "editor"):

        async def ask(state, role=role):
            messages = [
                SystemMessage(f"You are a {role}."),
                HumanMessage(document[0].content[:1600]),
            ]
            return {"answers": [await llm.ainvoke(messages, max_tokens=1)]}

        name = f"order {role} {saving.port}"  # each is warned of once
        graph.add_node(name, ask)
        graph.add_edge(START, name)
    with pytest.warns(MessageOrderWarning, match=r"prefills about [\d,]+ tokens"):
        await graph.compile().ainvoke({"messages": []})


@pytest.mark.parametrize("layout", ["unified"], indirect=True, scope="module")
def test_bench_measures_a_server(saving, capsys):
    sizes = ["--prefix", "300", "--branches", "3", "--max-tokens", "2", "--rounds", "1"]
    assert main(["bench", "--server", saving.url, *sizes, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    shared, alone = found["shared"], found["alone"]
    assert (found["kind"], found["model"]) == ("llama-server", "smollm2")
    assert shared["generated"] == alone["generated"] == 3 * 2
    assert alone["prefilled"] > 3 * 270
    assert shared["prefilled"] < 1.3 * 300 + 3 * 30
    assert "3 branches over about 300 tokens" in server_bench_text(found)
    assert main(["bench", "--server", saving.url, "--n-ctx", "100"]) == 1
    assert "--n-ctx=100" in capsys.readouterr().err
