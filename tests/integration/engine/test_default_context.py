"""`n_ctx` and `n_gpu_layers` left out: what fits into the memory that is free."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from langgraph_kvfork import ChatKVFork, ModelLoadError
from langgraph_kvfork.engine import weights
from langgraph_kvfork.engine.default_model import smollm2_path

MIB = 1 << 20

CELL = 30 * 3 * 64 * 2 * 2
"""Bytes of a token of SmolLM2: layers, heads, values of a head, bytes of one, keys and values."""

N_CTX_TRAIN = 50_000_000
"""A training context that no machine has room for: two terabytes."""


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write SmolLM2 with a larger training context in its metadata."""
    model = bytearray(Path(smollm2_path()).read_bytes())
    key = b"llama.context_length"
    value = model.index(key) + len(key) + 4  # after the value's type, which is uint32
    assert struct.unpack_from("<I", model, value) == (8192,)
    struct.pack_into("<I", model, value, N_CTX_TRAIN)
    path = tmp_path_factory.mktemp("model") / "long.gguf"
    path.write_bytes(model)
    return str(path)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let the machine say that so many bytes are free."""
    free = 640 * MIB
    monkeypatch.setattr(weights, "free_memory", lambda: free)
    return free


def test_the_whole_training_context_where_it_fits() -> None:
    with ChatKVFork(max_tokens=1) as llm:
        assert llm.engine.n_ctx == llm.engine.n_ctx_train == 8192
        assert llm.engine.stats().cells_total == 8192
        assert llm.engine.n_gpu_layers == 0


def test_less_where_it_does_not_and_an_answer(
    long_model: str, free: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with ChatKVFork(model_path=long_model, max_tokens=1, verbose=True) as llm:
        engine = llm.engine
        assert engine.n_ctx == engine.stats().cells_total < engine.n_ctx_train == N_CTX_TRAIN
        # a quarter is left to others, and the file's weights are to come
        assert 256 * CELL < engine.n_ctx * CELL < 0.75 * free - Path(long_model).stat().st_size
        assert llm.invoke("Say hello.").content
    told = capfd.readouterr().err
    assert f"n_ctx is {engine.n_ctx:,}, the training context 50,000,000; no layers" in told
    ChatKVFork(verbose=False).load().close()  # the log level is the process's


def test_other_words_for_the_same_make_no_second_engine(
    long_model: str, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChatKVFork(model_path=long_model) as llm:
        engine = llm.engine
        # with less memory free by now
        monkeypatch.setattr(weights, "free_memory", lambda: free // 2)
        for same in ({"type_k": "F16"}, {"n_gpu_layers": 0}, {"n_ctx": engine.n_ctx}):
            assert ChatKVFork(model_path=long_model, **same).engine is engine
        with ChatKVFork(model_path=long_model, type_k="q8_0", flash_attn=True) as other:
            assert other.engine.n_ctx < engine.n_ctx


def test_zero_is_the_training_context_and_says_if_it_does_not_fit(long_model: str) -> None:
    message = r"n_ctx=0 means the model's training context"
    with pytest.raises(ModelLoadError, match=message):
        ChatKVFork(model_path=long_model, n_ctx=0).load()
