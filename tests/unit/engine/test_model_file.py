"""A model that is not there is refused in words, without a crash."""

import importlib.util

import pytest

from langgraph_kvfork import ChatKVFork, EngineParams, ModelLoadError
from langgraph_kvfork.engine import default_model, model_file


@pytest.fixture
def no_smollm2(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "smollm2" in name else find_spec(name)
    )
    default_model.smollm2_path.cache_clear()
    yield
    default_model.smollm2_path.cache_clear()


def test_without_a_path_and_without_smollm2_the_error_says_how_to_get_it(no_smollm2):
    llm = ChatKVFork()
    with pytest.raises(ModelLoadError, match=r"pip install .*smollm2"):
        llm.invoke("Hello")


def test_a_file_that_is_missing(tmp_path):
    path = str(tmp_path / "missing.gguf")
    with pytest.raises(ModelLoadError, match=r"missing\.gguf.* does not exist"):
        model_file.check_file("model_path", path, EngineParams(path).model_files)


def test_a_folder(tmp_path):
    with pytest.raises(ModelLoadError, match="is not a file"):
        model_file.check_file("model_path", "model", [str(tmp_path)])


def test_a_file_that_is_not_gguf(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(ModelLoadError, match="is not a GGUF file"):
        model_file.check_file("model_path", "model", [str(path)])
