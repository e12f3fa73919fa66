"""What one process computed, another one forks: by way of a store on the disk."""

import json
import os
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
from langchain_core.messages import HumanMessage

from langgraph_kvfork import ChatKVFork, ForkReport, InvalidRequestError, StoreWarning
from langgraph_kvfork.cli.main import main
from langgraph_kvfork.engine import store
from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.engine.store import _hash_of

OPTIONS = {"n_ctx": 2048, "temperature": 0, "max_tokens": 8}


def ask(llm, messages, question="What is this?", **kwargs):
    """Return the text, and what of the prompt was forked, restored and prefilled."""
    answer = llm.invoke([*messages, HumanMessage(question)], **kwargs)
    fork = answer.response_metadata["fork"]
    return answer.text, {
        "forked": fork["forked_tokens"],
        "restored": fork.get("restored_tokens", 0),
        "prefilled": fork["prefilled_tokens"],
        "prompt": answer.usage_metadata["input_tokens"],
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def filled(folder, excerpt):
    """A store that has one prompt and its answer, and the answer's text."""
    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
        text, counts = ask(llm, excerpt)
        assert counts["restored"] == 0
    return text


def elsewhere(program, *arguments):
    """Run a program in another process; return what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(os.fspath, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=os.path.dirname(__file__),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_another_process_forks_it_eight_ways(folder, filled, excerpt):
    found = elsewhere(
        """
        import json, sys
        from langchain_core.messages import HumanMessage, SystemMessage
        from langgraph_kvfork import ChatKVFork
        from test_store import OPTIONS, ask

        excerpt = [SystemMessage(sys.argv[2])]
        with ChatKVFork(**OPTIONS, cache_dir=sys.argv[1]) as llm:
            llm.engine._store.wait()
            first = ask(llm, excerpt)
            others = [ask(llm, excerpt) for _ in range(7)]
            stats = llm.engine.stats()
        print(json.dumps([first, others, stats.prefilled_tokens, stats.restored_tokens]))
        """,
        folder,
        excerpt[0].content,
    )
    (text, counts), others, prefilled, restored = found
    assert text == filled
    # of what was known before the process began, nothing is computed but the last token
    assert counts["prefilled"] == 1
    assert counts["restored"] == counts["prompt"] - 1 == restored
    assert [other[0] for other in others] == [filled] * 7
    assert all(other[1]["forked"] == other[1]["prompt"] - 1 for other in others)
    assert prefilled == 8


def test_the_first_prompt_of_a_process_finds_it(folder, filled, excerpt, monkeypatch):
    known = store._weights

    def slowly(*arguments):
        time.sleep(0.5)  # a disk that sleeps, a machine that is busy
        return known(*arguments)

    monkeypatch.setattr(store, "_weights", slowly)
    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
        assert ask(llm, excerpt)[1]["prefilled"] == 1


def test_what_came_from_the_store_is_told(folder, filled, excerpt):
    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm, ForkReport() as report:
        llm.engine._store.wait()
        answer = llm.invoke([*excerpt, HumanMessage("What is this?")])
        fork = answer.response_metadata["fork"]
        details = answer.usage_metadata["input_token_details"]
        assert fork["restored_tokens"] == details["cache_read"] == report.restored_tokens > 300
        assert details["cache_creation"] == fork["prefilled_tokens"] == 1
        assert 0 < fork["restore_ms"] <= answer.response_metadata["timings"]["prefill_ms"]
        assert f"{fork['restored_tokens']} tokens came from the store" in str(report)


def test_a_prompt_that_turns_off_takes_the_beginning(folder, filled, excerpt):
    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
        llm.engine._store.wait()
        _, counts = ask(llm, excerpt, "Who wrote it, and when?")
        assert counts["restored"] > 300
        assert counts["restored"] + counts["prefilled"] == counts["prompt"]


def test_namespaces_share_nothing(folder, excerpt):
    with ChatKVFork(**OPTIONS, cache_dir=folder, namespace="a") as llm:
        ask(llm, excerpt)
        assert ask(llm, excerpt)[1]["prefilled"] == 1
        counts = ask(llm, excerpt, namespace="b")[1]
        assert counts["forked"] == counts["restored"] == 0
        # what is prefilled ahead is prefilled for its own
        llm.prefill(excerpt, namespace="c")
        assert ask(llm, excerpt, namespace="d")[1]["forked"] == 0
        assert ask(llm, excerpt, namespace="c")[1]["forked"] > 300
    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
        llm.engine._store.wait()
        assert ask(llm, excerpt, namespace="e")[1]["restored"] == 0
        assert ask(llm, excerpt)[1]["restored"] == 0
        assert ask(llm, excerpt, namespace="b")[1]["prefilled"] == 1


def test_calls_that_are_not_kept_leave_nothing(folder, excerpt):
    with ChatKVFork(**OPTIONS, cache_dir=folder, keep=False) as llm:
        ask(llm, excerpt)
        assert llm.engine.stats().cells_used == 0
        llm.engine.save()
        assert llm.engine.stats().stored_bytes == 0
        ask(llm, excerpt, keep=True)
        before = llm.engine.stats()
        for question in ("What?", "Who?", "When?"):
            ask(llm, excerpt, question, keep="prefix")
        after = llm.engine.stats()
        assert (after.cells_used, after.snapshots) == (before.cells_used, before.snapshots)


def test_other_numbers_are_not_taken(folder, filled, excerpt):
    with ChatKVFork(**OPTIONS, cache_dir=folder, type_k="q8_0") as llm:
        llm.engine._store.wait()
        assert ask(llm, excerpt)[1]["restored"] == 0


def test_a_file_is_known_by_its_contents(tmp_path):
    model, known = tmp_path / "model.gguf", tmp_path / "store"
    model.write_bytes(b"a" * 5_000_000)
    os.utime(model, (1, 1))
    first = _hash_of(model, known)
    assert not list(known.glob("*"))  # it was changed just now
    time.sleep(2.1)
    assert _hash_of(model, known) == first
    assert len(list(known.glob("file-*.json"))) == 1
    # as long, and as old: but not the same
    with model.open("r+b") as file:
        file.seek(2_500_000)
        file.write(b"b")
    os.utime(model, (1, 1))
    assert _hash_of(model, known) != first


def test_the_environment_turns_it_on(monkeypatch, folder):
    monkeypatch.setenv("KVFORK_CACHE_DIR", str(folder))
    monkeypatch.setenv("KVFORK_CACHE_SIZE", "3MB")
    params = EngineParams("model.gguf")
    assert (params.cache_dir, params.cache_bytes) == (str(folder), 3_000_000)
    assert EngineParams("model.gguf", cache_dir="").cache_dir is None
    assert EngineParams("model.gguf", cache_size="2 GiB").cache_bytes == 2 << 30


@pytest.mark.parametrize("size", ["0", 0, "ten", "5 parsecs", 1.5, "-1GB", float("nan")])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(InvalidRequestError, match="cache_size"):
        ChatKVFork(cache_dir="somewhere", cache_size=size)


@pytest.mark.parametrize(
    ("name", "value"),
    [("keep", "all"), ("keep", 1), ("keep", None), ("namespace", ""), ("namespace", "a\0b")],
)
def test_values_that_are_none_are_refused(llm, name, value):
    with pytest.raises(InvalidRequestError, match=name):
        llm.invoke("Hi.", **{name: value})


def test_a_damaged_store_costs_only_what_is_damaged(folder, filled, excerpt):
    for file in folder.glob("*/*.kv"):
        with file.open("r+b") as content:
            content.seek(-50, os.SEEK_END)
            content.write(b"damage")
    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
        llm.engine._store.wait()
        text, counts = ask(llm, excerpt)
        assert text == filled
        assert counts["restored"] == 0
        with pytest.warns(StoreWarning, match="damaged"):
            ask(llm, excerpt)


def test_a_store_that_cannot_be_is_warned_of_once(tmp_path, excerpt):
    (tmp_path / "file").write_text("x")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ChatKVFork(**OPTIONS, cache_dir=tmp_path / "file") as llm:
            llm.load().engine._store.wait()
            for _ in range(3):
                ask(llm, excerpt)
    told = [str(w.message) for w in caught if w.category is StoreWarning]
    # it can neither be read nor written, nor can the model's hash be kept there
    assert len(told) == len(set(told)) <= 3
    assert any("Not a directory" in text for text in told)


def test_the_command_line_tells_checks_and_shrinks(folder, filled, capsys):
    def run(*arguments):
        status = main(["cache", *arguments, "--cache-dir", str(folder), "--json"])
        return status, json.loads(capsys.readouterr().out)

    status, found = run("list")
    assert status == 0
    (shelf,) = found["shelves"]
    assert shelf["tokens"] > 300
    assert shelf["about"]["namespace"] == ""
    assert run("verify") == (0, found)
    file = min(folder.glob("*/*.kv"))
    file.write_bytes(file.read_bytes()[:-1])
    status, found = run("verify")
    assert status == 1
    assert found["damaged"] == 1
    assert main(["cache", "list", "--cache-dir", str(folder)]) == 0
    assert "SmolLM2" in capsys.readouterr().out
    assert run("prune")[1]["files"] >= 1
    assert run("prune", "--max-size", "0")[0] == 0
    assert run("list")[1]["shelves"] == []
    assert main(["cache", "list", "--cache-dir", str(folder / "nowhere")]) == 1


def test_a_graph_goes_on_in_another_process(folder, tmp_path, excerpt):
    program = """
        import json, sqlite3, sys
        from langchain_core.messages import HumanMessage, SystemMessage
        from langgraph.checkpoint.sqlite import SqliteSaver
        from langgraph.graph import MessagesState, StateGraph
        from langgraph_kvfork import ChatKVFork
        from test_store import OPTIONS

        folder, database, document, question, namespace = sys.argv[1:]
        saver = SqliteSaver(sqlite3.connect(database, check_same_thread=False))
        with ChatKVFork(**OPTIONS, cache_dir=folder, namespace=namespace) as llm:
            graph = StateGraph(MessagesState)
            graph.add_node("answer", lambda state: {"messages": [llm.invoke(state["messages"])]})
            graph.set_entry_point("answer")
            graph.set_finish_point("answer")
            messages = [HumanMessage(question)]
            if document:
                messages.insert(0, SystemMessage(document))
            config = {"configurable": {"thread_id": "1"}}
            state = graph.compile(checkpointer=saver).invoke({"messages": messages}, config)
            new = llm.get_num_tokens(question)
            fork = state["messages"][-1].response_metadata["fork"]
        print(json.dumps([fork, new, len(state["messages"])]))
    """
    database = tmp_path / "checkpoints.db"
    document = excerpt[0].content
    first, _, _ = elsewhere(program, folder, database, document, "What is this?", "x")
    second, new, n_messages = elsewhere(program, folder, database, "", "Who wrote it?", "x")
    assert n_messages == 5
    assert second["restored_tokens"] > first["prefilled_tokens"]
    # the new message, with what the template writes around it, and the end of the last answer
    assert second["prefilled_tokens"] <= new + 12
    third, _, _ = elsewhere(program, folder, database, "", "And when?", "y")
    assert "restored_tokens" not in third
