"""Engines are shared, and come and go, as their users say."""

import asyncio
import os
import shutil
import threading
from pathlib import Path

import pytest
from helpers import wait_until

from langgraph_kvfork import ChatKVFork, Engine, EngineClosedError, EngineParams
from langgraph_kvfork.engine.default_model import smollm2_path


def small(**options):
    return ChatKVFork(n_ctx=256, max_tokens=2, temperature=0, **options)


@pytest.fixture(autouse=True)
def no_engine_is_left():
    before = Engine.all()
    yield
    for engine in Engine.all():
        if engine not in before:
            engine.close()


@pytest.mark.parametrize(
    "words",
    [
        {"type_k": "f16", "type_v": "F16"},
        {"type_k": 1},
        {"lora_scale": 0.5},
        {"n_batch": 256, "n_ubatch": 1024},
        {"n_seq_max": 64},
        {"flash_attn": None, "use_mmap": True},
        {"model_path": Path(smollm2_path())},
    ],
)
def test_the_same_in_other_words_is_one_engine(words):
    assert small(**words).engine is small().engine


def test_the_models_own_values_spelled_out_are_one_engine():
    plain = ChatKVFork(model_path=smollm2_path()).engine
    assert ChatKVFork(n_ctx=8192).engine is plain
    from langgraph_kvfork.engine.params import default_threads

    n = default_threads()
    assert ChatKVFork(n_threads=n, n_threads_batch=n).engine is plain
    plain.close()
    # neither wording gets the closed one
    assert not ChatKVFork(n_ctx=8192).engine.closed
    assert ChatKVFork().engine is ChatKVFork(n_ctx=8192).engine


def test_engines_of_one_file_share_its_weights_and_the_last_one_frees_them():
    first, second = small(), ChatKVFork(n_ctx=512, max_tokens=2, temperature=0)
    assert first.engine is not second.engine
    weights = first.engine._weights
    assert second.engine._weights is weights
    text = first.invoke("Hello").content
    users = weights._n_users
    first.close()
    assert weights._n_users == users - 1
    # the other goes on with them
    assert second.invoke("Hello").content == text


def test_two_engines_on_the_same_weights_compute_at_the_same_time():
    models = [small(), ChatKVFork(n_ctx=512, max_tokens=2, temperature=0)]
    alone = [model.invoke("Hello").content for model in models]
    texts = [None, None]

    def ask(i):
        texts[i] = models[i].batch(["Hello"] * 4)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[m.content for m in answers] for answers in texts] == [[t] * 4 for t in alone]


def test_load_and_close_and_with():
    before = Engine.all()
    llm = small(chat_template="chatml")
    llm.close()  # never used: nothing to close, and nothing is loaded for it
    assert Engine.all() == before
    assert llm.load() is llm
    (engine,) = set(Engine.all()) - set(before)
    assert llm.engine is engine
    llm.close()
    llm.close()
    assert engine.closed
    assert Engine.all() == before
    with llm as same:
        assert same is llm
        assert llm.invoke("Hello").content
        assert len(Engine.all()) == len(before) + 1
    assert Engine.all() == before


def test_a_computation_that_close_aborts_is_no_failure_in_the_log(capfd):
    engine = Engine(EngineParams(model_path=smollm2_path(), n_ctx=2048, max_gap_ms=0))
    branch = engine.generate("Once upon a time there was a model. " * 200)
    next(iter(branch))  # a first part of the prompt is computed, and the next one is begun
    engine.close()
    with pytest.raises(EngineClosedError):
        list(branch)
    assert capfd.readouterr().err == ""


async def test_load_and_close_and_with_beside_an_event_loop():
    before = Engine.all()
    async with small(chat_template="chatml") as llm:
        assert await llm.aload() is llm
        assert await llm.ainvoke("Hello")
        assert len(Engine.all()) == len(before) + 1
    assert Engine.all() == before
    await llm.aclose()


def test_an_idle_engine_goes_after_its_keep_alive_and_comes_back():
    llm = small(keep_alive=0)
    other = small(keep_alive="-1")
    llm.invoke("Hello")
    wait_until(lambda: Engine.find(llm._engine_params()) is None)
    assert llm.invoke("Hello").content
    # the latest call decides
    other.invoke("Hello")
    engine = other.engine
    llm.invoke("Hello")
    wait_until(lambda: engine.closed)
    with pytest.raises(EngineClosedError, match="nobody had used it"):
        engine.tokenize("Hello")


def test_a_stream_and_a_branch_keep_their_engine():
    llm = ChatKVFork(n_ctx=512, max_tokens=40, ignore_eos=True, keep_alive=0)
    stream = llm.stream("Hello")
    next(stream)
    engine = Engine.find(llm._engine_params())
    llm.invoke("Hello", max_tokens=1)
    assert not engine.closed
    with engine.generate("Once upon a time") as branch:
        list(stream)
        next(branch)
        assert not engine.closed
    wait_until(lambda: engine.closed)


async def test_fan_outs_on_an_engine_that_goes_at_once_all_get_their_answers():
    llm = small(keep_alive=0)
    for _ in range(3):
        answers = await asyncio.gather(*(llm.ainvoke(f"Say {i}") for i in range(4)))
        assert all(answer.content for answer in answers)
        answers = llm.batch(["Hello", "Hi"])
        assert all(answer.content for answer in answers)


def test_a_relative_path_belongs_to_the_working_directory_of_its_model(tmp_path, monkeypatch):
    shutil.copy(smollm2_path(), tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    early = ChatKVFork(model_path="model.gguf", n_ctx=256, max_tokens=2)
    late = ChatKVFork(model_path=Path("model.gguf"), n_ctx=256, max_tokens=2)
    early.load()
    monkeypatch.chdir("/")
    assert early.invoke("Hello").content
    assert late.engine is early.engine


def test_a_link_that_is_changed_or_gone_changes_nothing(tmp_path):
    link = tmp_path / "link.gguf"
    link.symlink_to(smollm2_path())
    llm = ChatKVFork(model_path=str(link), n_ctx=256, max_tokens=2).load()
    engine = llm.engine
    link.unlink()
    link.symlink_to(tmp_path / "nowhere.gguf")
    assert llm.engine is engine
    engine.close()
    assert llm.invoke("Hello").content  # loaded again from the file that it was
    assert llm.profile["max_input_tokens"] == 256
    assert llm.model_copy(update={"n_ctx": 128}, deep=True).n_ctx == 128


def test_a_copy_with_another_value_has_another_engine():
    llm = small().load()
    other = llm.model_copy(update={"n_ctx": 512})
    assert other.engine is not llm.engine
    assert other.engine.params.n_ctx == 512


def test_what_a_call_costs_to_know_its_engine(monkeypatch):
    llm = small().load()
    looks = []
    realpath = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda *a, **k: looks.append(a) or realpath(*a, **k))
    llm.invoke("Hello")
    assert looks == []


def test_parameters_are_equal_by_the_file_not_by_the_path(tmp_path):
    link = tmp_path / "link.gguf"
    link.symlink_to(smollm2_path())
    assert Engine.get(EngineParams(link, n_ctx=256)) is small().engine


def test_an_engine_checks_itself_while_it_runs_and_not_when_it_is_closed():
    with small().engine as engine:
        engine.check_integrity()
        with engine.generate([1] * 40) as branch:
            for _ in branch:
                engine.check_integrity()
        engine.check_integrity()
    with pytest.raises(EngineClosedError):
        engine.check_integrity()
