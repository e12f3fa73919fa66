"""What nodes leave behind: branches that leave less, prefixes that are saved at once."""

import json

import pytest
from helpers import call, idle, wait_until
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langgraph.graph import MessagesState, StateGraph

from langgraph_kvfork import (
    ChatKVFork,
    ForkBranch,
    ForkNode,
    InvalidRequestError,
    PrefillNode,
    StoreWarning,
)
from langgraph_kvfork.cli.main import main
from langgraph_kvfork.errors import GenerationError

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
OPTIONS = {"n_ctx": 2048, "temperature": 0, "max_tokens": 4}


def wrapped(llm, how):
    """Return something around a model that a caller's arguments do not get through."""
    if how == "graph":
        graph = StateGraph(MessagesState)
        graph.add_node("answer", lambda state: {"messages": [llm.invoke(state["messages"])]})
        graph.set_entry_point("answer")
        graph.set_finish_point("answer")
        return graph.compile()
    return {
        "model": llm,
        "bound": llm.bind(max_tokens=3),
        "parser": llm | StrOutputParser(),
        "function": RunnableLambda(lambda messages: llm.invoke(messages)),
    }[how]


@both
@pytest.mark.parametrize("how", ["model", "bound", "parser", "function", "graph"])
async def test_a_branch_leaves_what_it_says(llm, engine, excerpt, how, asynchronous):
    llm.prefill(excerpt)
    before = engine.stats()
    asked = wrapped(llm, how)
    for keep in ("prefix", False):
        node = ForkNode(llm, {"little": ForkBranch("What is this?", asked, keep=keep)})
        forked = engine.stats().forked_tokens
        await call(node, {"messages": excerpt}, asynchronous=asynchronous)
        wait_until(lambda: idle(engine))
        after = engine.stats()
        assert after.forked_tokens - forked >= 300
        assert (after.cells_used, after.snapshots) == (before.cells_used, before.snapshots)
    # and one that says nothing leaves what the model leaves
    node = ForkNode(llm, {"all": ForkBranch("What is this?", asked)})
    await call(node, {"messages": excerpt}, asynchronous=asynchronous)
    wait_until(lambda: idle(engine))
    assert engine.stats().cells_used > before.cells_used


@both
@pytest.mark.parametrize("how", ["model", "parser", "graph"])
async def test_a_branch_shares_within_its_namespace(llm, engine, excerpt, how, asynchronous):
    llm.prefill(excerpt)
    asked = wrapped(llm, how)
    branches = {"other": ForkBranch("What is this?", asked, namespace="other")}
    node = ForkNode(llm, branches)
    forked = []
    for _ in range(2):
        before = engine.stats().forked_tokens
        await call(node, {"messages": excerpt}, asynchronous=asynchronous)
        wait_until(lambda: idle(engine))
        forked.append(engine.stats().forked_tokens - before)
    assert forked[0] == 0
    assert forked[1] > 300


def test_branches_of_branches_and_what_is_bound_come_on_top(llm, engine, excerpt):
    inner = ForkNode(llm, {"own": ForkBranch("Who?", namespace="inner")}, output_key="messages")
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [*inner.invoke(state)["messages"].values()]})
    graph.set_entry_point("ask")
    outer = ForkBranch(lambda _: {"messages": []}, graph.compile(), namespace="outer")
    bound = ForkBranch("Who?", llm.bind(namespace="bound"), namespace="outer")
    for name in ("inner", "bound"):
        llm.prefill(excerpt, namespace=name)
    before = engine.stats().forked_tokens
    ForkNode(llm, [outer, bound]).invoke({"messages": excerpt})
    assert engine.stats().forked_tokens - before > 2 * 300


@pytest.mark.parametrize(("name", "value"), [("keep", "all"), ("keep", 1), ("namespace", "")])
def test_arguments_of_a_branch_that_are_none_are_refused(name, value):
    with pytest.raises(InvalidRequestError, match=name):
        ForkBranch("Who?", **{name: value})


@pytest.mark.parametrize("given", [{"keep": False}, {"namespace": "a"}])
def test_another_model_does_not_know_what_a_branch_says(llm, given):
    other = FakeListChatModel(responses=["No."])
    name = next(iter(given))
    for model in (other, other | StrOutputParser(), other.with_retry()):
        node = ForkNode(llm, {"a": ForkBranch("Who?", model, **given)})
        with pytest.raises(InvalidRequestError, match=rf"branches\['a'\]\.{name}.*FakeListChat"):
            node.invoke({"messages": ["Hello."]})


def stored_tokens(folder, capsys):
    main(["cache", "list", "--cache-dir", str(folder), "--json"])
    return sum(shelf["tokens"] for shelf in json.loads(capsys.readouterr().out)["shelves"])


@both
async def test_what_is_prefilled_is_on_the_disk_at_once(tmp_path, excerpt, capsys, asynchronous):
    with ChatKVFork(**OPTIONS, cache_dir=tmp_path / "store") as llm:
        if asynchronous:
            usage = await llm.aprefill(excerpt, save=True)
        else:
            usage = llm.prefill(excerpt, save=True)
        assert stored_tokens(llm.cache_dir, capsys) == usage.prompt_tokens > 300
        node = PrefillNode(llm, [HumanMessage("What is this? " * 30)], save=True)
        await call(node, {"messages": excerpt}, asynchronous=asynchronous)
        longer = stored_tokens(llm.cache_dir, capsys)
        assert longer > usage.prompt_tokens + 100
        node = PrefillNode(llm, [HumanMessage("Who are you? " * 60)], save=True, wait=False)
        await call(node, {"messages": excerpt}, asynchronous=asynchronous)
        wait_until(lambda: stored_tokens(llm.cache_dir, capsys) > longer)


@both
async def test_saving_is_refused_where_it_makes_no_sense(llm, engine, excerpt, asynchronous):
    async def prefill(model, **given):
        if asynchronous:
            return await model.aprefill(excerpt, **given)
        return model.prefill(excerpt, **given)

    with pytest.raises(InvalidRequestError, match="KVFORK_CACHE_DIR"):
        await prefill(llm, save=True)
    alone = llm.model_copy(update={"share_prefix": False})
    with pytest.raises(InvalidRequestError, match="share_prefix"):
        await prefill(alone, save=True)
    with pytest.raises(InvalidRequestError, match="save='yes'"):
        await prefill(llm, save="yes")
    with pytest.raises(InvalidRequestError, match="save='yes'"):
        PrefillNode(llm, save="yes")
    for wait in (True, False):
        node = PrefillNode(llm, wait=wait, save=True)
        with pytest.raises(InvalidRequestError, match="cache_dir"):
            await call(node, {"messages": excerpt}, asynchronous=asynchronous)
    assert engine.stats().cells_used == 0
    # what is bound to a model is as good as its own
    assert (await prefill(llm, share_prefix=False)).prompt_tokens == 0


@both
async def test_a_disk_that_refuses_ends_no_graph(tmp_path, excerpt, capsys, asynchronous):
    path = tmp_path / "store"
    path.write_text("a file where the folder ought to be")
    with ChatKVFork(**OPTIONS, cache_dir=path) as llm:
        node = PrefillNode(llm, save=True)
        for _ in range(2):  # each time, since it was asked for each time
            with pytest.warns(StoreWarning, match="is not in the store: .*Not a directory"):
                assert await call(node, {"messages": excerpt}, asynchronous=asynchronous) == {}
        for _ in range(2):
            with pytest.raises(GenerationError, match="Not a directory"):
                llm.engine.save()
        assert llm.prefill(excerpt).forked_tokens > 300
        # what was refused once is tried again
        path.unlink()
        llm.engine.save()
        assert stored_tokens(path, capsys) > 300
