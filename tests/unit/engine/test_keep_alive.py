"""`keep_alive` is what Ollama takes, and paths are paths."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from langgraph_kvfork import ChatKVFork, EngineParams, InvalidRequestError
from langgraph_kvfork.engine.keep_alive import keep_alive_seconds


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (0, 0),
        ("0", 0),
        (2.5, 2.5),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("500ms", 0.5),
        (-1, None),
        ("-1", None),
        ("-1m", None),
        (float("inf"), None),
    ],
)
def test_a_keep_alive_in_seconds(keep_alive, seconds):
    assert keep_alive_seconds(keep_alive) == seconds
    ChatKVFork(model_path="model.gguf", keep_alive=keep_alive)


@pytest.mark.parametrize("keep_alive", ["", "soon", "5 minutes", "m", float("nan")])
def test_what_is_no_keep_alive_is_refused(keep_alive):
    with pytest.raises(InvalidRequestError, match="keep_alive="):
        keep_alive_seconds(keep_alive)
    with pytest.raises(ValidationError, match="keep_alive="):
        ChatKVFork(model_path="model.gguf", keep_alive=keep_alive)


def test_path_objects_are_paths(tmp_path):
    path, lora = tmp_path / "model.gguf", tmp_path / "lora.gguf"
    llm = ChatKVFork(model_path=path, lora_path=lora)
    assert (llm.model_path, llm.lora_path) == (str(path), str(lora))
    assert EngineParams(path, lora_path=lora) == EngineParams(str(path), lora_path=str(lora))


def test_an_empty_path_is_refused_and_no_default():
    for empty in ("", "\0"):
        with pytest.raises(ValidationError, match="model_path="):
            ChatKVFork(model_path=empty)
        with pytest.raises(ValidationError, match="lora_path="):
            ChatKVFork(model_path="model.gguf", lora_path=empty)
    for no_path in (b"model.gguf", 1):
        with pytest.raises(InvalidRequestError, match="model_path="):
            EngineParams(no_path)


def test_parameters_mean_the_file_that_was_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params, llm = EngineParams("model.gguf"), ChatKVFork(model_path="~/../model.gguf")
    monkeypatch.chdir("/")
    assert params == EngineParams(tmp_path / "model.gguf")
    assert llm.model_path == os.path.expanduser("~/../model.gguf")


def test_a_split_model_in_a_cache_of_hashes_is_found(tmp_path):
    blobs = [tmp_path / "abc", tmp_path / "def"]
    for i, blob in enumerate(blobs, 1):
        blob.touch()
        Path(tmp_path, f"model-{i:05d}-of-00002.gguf").symlink_to(blob)
    params = EngineParams(tmp_path / "model-00001-of-00002.gguf")
    assert params.model_files == tuple(map(str, blobs))
    blobs[1].unlink()  # llama.cpp says what is missing
    params = EngineParams(tmp_path / "model-00001-of-00002.gguf")
    assert params.model_files == (str(blobs[0]),)


def test_lists_and_numbers_of_parameters_can_be_keys():
    same = EngineParams("model.gguf", tensor_split=[1, 2])
    assert hash(same) == hash(EngineParams("model.gguf", tensor_split=(1.0, 2.0)))
    for wrong in ([], True, 1.5):
        with pytest.raises(InvalidRequestError, match="type_k="):
            EngineParams("model.gguf", type_k=wrong)
