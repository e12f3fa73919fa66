"""A disk that is full, may only be read, or is gone: it costs sharing, never an answer."""

import json
import os
import shutil
import warnings

import pytest
from test_store import OPTIONS, ask, elsewhere, filled, folder  # noqa: F401 - fixtures

from langgraph_kvfork import ChatKVFork, GenerationError, StoreWarning
from langgraph_kvfork.cli.main import main

IS_ROOT = os.geteuid() == 0


def test_a_full_disk_is_warned_of_once(folder, filled, excerpt):  # noqa: F811
    found = elsewhere(
        """
        import json, resource, sys, warnings
        from langchain_core.messages import SystemMessage
        from langgraph_kvfork import ChatKVFork, GenerationError, StoreWarning
        from test_store import OPTIONS, ask

        folder, *documents = sys.argv[1:]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
                llm.engine.save()
                # as a full disk, a limit ends a write in its midst
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
                answers = [ask(llm, [SystemMessage(text)]) for text in documents * 2]
                try:
                    llm.engine.save()
                    error = ""
                except GenerationError as refused:
                    error = str(refused)
                answers.append(ask(llm, [SystemMessage(documents[0])]))
                # what ends the process is not written through the limit
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                llm.engine.save()
        told = [str(w.message) for w in caught if w.category is StoreWarning]
        print(json.dumps([answers, error, told]))
        """,
        folder,
        excerpt[0].content,
        f"Another one. {excerpt[0].content}",
    )
    answers, error, told = found
    (first, second, *again), last = answers[:4], answers[4]
    assert first[0] == filled
    assert first[1]["restored"] > 300  # what is there is read
    assert second[1]["restored"] == 0
    assert [text for text, _ in again] == [first[0], second[0]]
    assert all(counts["prefilled"] == 1 for _, counts in again)
    assert last[0] == filled
    assert "File too large" in error
    assert len(told) == 1
    assert "cannot be written" in told[0]
    # and when there is room again, all of it is written
    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
        other = [type(excerpt[0])(f"Another one. {excerpt[0].content}")]
        assert ask(llm, other)[1]["restored"] > 300
    assert not list(folder.glob("**/*.part"))


def test_a_store_that_may_only_be_read_is_read(folder, filled, excerpt):  # noqa: F811
    entries = [folder, *folder.glob("**/*")]
    # pytest's folders are the user's own, whom root is not then
    above = {path: path.stat().st_mode for path in folder.parents[:3]} if IS_ROOT else {}
    for path in entries:
        path.chmod(0o555 if path.is_dir() else 0o444)
        shutil.chown(path, 65534 if IS_ROOT else os.geteuid())
    for path, mode in above.items():
        path.chmod(mode | 0o055)
    try:
        found = elsewhere(
            """
            import json, os, sys, warnings
            from langchain_core.messages import SystemMessage
            from langgraph_kvfork import ChatKVFork, StoreWarning
            from test_store import OPTIONS, ask

            folder, document = sys.argv[1:]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                llm = ChatKVFork(**OPTIONS, cache_dir=folder)
                llm.invoke("Hello.")  # imports all that there is to import, as long as it may
                if os.geteuid() == 0:  # who may write anywhere
                    os.seteuid(65534)
                with llm:
                    answers = [ask(llm, [SystemMessage(text + document)]) for text in ("", "Two.")]
            told = [str(w.message) for w in caught if w.category is StoreWarning]
            print(json.dumps([answers, told]))
            """,
            folder,
            excerpt[0].content,
        )
    finally:
        for path in entries:
            shutil.chown(path, os.geteuid())
            path.chmod(0o700)
        for path, mode in above.items():
            path.chmod(mode)
    (first, second), told = found
    assert first[0] == filled
    assert first[1]["restored"] > 300
    assert second[1]["restored"] == 0
    assert len(told) == 1
    assert "cannot be written" in told[0]


@pytest.mark.parametrize("what", ["store", "parent"])
def test_a_store_that_is_removed_while_it_is_used(tmp_path, excerpt, what):
    path = tmp_path / "volume" / "store"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ChatKVFork(**OPTIONS, cache_dir=path) as llm:
            first = ask(llm, excerpt)
            llm.engine.save()
            shutil.rmtree(path if what == "store" else path.parent)
            for _ in range(2):
                llm.engine.clear()
                text, counts = ask(llm, excerpt)
                assert text == first[0]
                assert counts["prefilled"] == counts["prompt"]
            with pytest.raises(GenerationError, match="No such file"):
                llm.engine.save()
            ask(llm, excerpt)
    told = [str(w.message) for w in caught if w.category is StoreWarning]
    # it can neither be read nor written
    assert 1 <= len(told) <= 2
    assert len(told) == len(set(told))
    assert not path.exists()  # a volume that is gone is not written beside


def test_what_others_removed_is_written_again(folder, excerpt, capsys):  # noqa: F811
    def command(*arguments):
        assert main(["cache", *arguments, "--cache-dir", str(folder), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
        ask(llm, excerpt)
        llm.engine.save()
        n_files = command("prune", "--max-size", "0")["files"]
        assert n_files > 1
        llm.engine.save()
        assert command("list")["shelves"][0]["files"] == n_files
        # and by whoever computes it again
        command("prune", "--max-size", "0")
        llm.engine.clear()
        ask(llm, excerpt)
        llm.engine.save()
        written = llm.engine.stats().stored_bytes
        llm.engine.save()  # what is there is not copied again
        assert llm.engine.stats().stored_bytes == written
        assert command("list")["shelves"][0]["files"] == n_files


def test_two_processes_leave_one_store(folder, excerpt):  # noqa: F811
    """What one has written, the other finds while both run; neither holds the other up."""
    with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
        ask(llm, excerpt)
        llm.engine.save()
        found = elsewhere(
            """
            import json, sys
            from langchain_core.messages import SystemMessage
            from langgraph_kvfork import ChatKVFork
            from test_store import OPTIONS, ask

            folder, document = sys.argv[1:]
            with ChatKVFork(**OPTIONS, cache_dir=folder) as llm:
                first = ask(llm, [SystemMessage(document)])
                llm.prefill([SystemMessage("New. " + document)], save=True)
                print(json.dumps(first[1]))
            """,
            folder,
            excerpt[0].content,
        )
        assert found["restored"] > 300
        other = [type(excerpt[0])(f"New. {excerpt[0].content}")]
        assert ask(llm, other)[1]["restored"] > 300
