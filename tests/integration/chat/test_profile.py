"""A model's profile comes from its file's metadata; no engine is made for it."""

import subprocess
import sys
import warnings
from pathlib import Path

from langgraph_kvfork import ChatKVFork
from langgraph_kvfork.engine.default_model import smollm2_path

TEMPLATES = Path(__file__).parents[3] / "build" / "llama.cpp" / "models" / "templates"


def test_it_says_what_the_file_says():
    profile = ChatKVFork().profile
    assert profile["name"].startswith("Smollm2 135M")
    assert profile["max_input_tokens"] == 8192
    assert profile["text_inputs"] is profile["text_outputs"] is True
    assert profile["image_inputs"] is profile["reasoning_output"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # LangChain warns of keys that it does not know
        given = ChatKVFork(profile=profile)
    assert given.profile == profile


def test_the_pool_bounds_a_prompt_and_the_training_context_does():
    assert ChatKVFork(n_ctx=512).profile["max_input_tokens"] == 512
    assert ChatKVFork(n_ctx=100_000).profile["max_input_tokens"] == 8192
    stretched = ChatKVFork(n_ctx=100_000, rope_freq_scale=0.25)
    assert stretched.profile["max_input_tokens"] == 100_000


def test_a_template_of_ones_own_counts():
    template = (TEMPLATES / "Qwen-Qwen3-0.6B.jinja").read_text(encoding="utf-8")
    assert ChatKVFork(chat_template=template).profile["reasoning_output"] is True
    # what is wrong with a template is said where it is used
    assert ChatKVFork(chat_template="{% if %}").profile["reasoning_output"] is False


def test_it_follows_the_file_and_without_one_there_is_none(tmp_path):
    path = tmp_path / "model.gguf"
    llm = ChatKVFork(model_path=str(path))
    assert llm.profile is None
    path.write_bytes(b"nonsense")
    assert llm.profile is None
    path.unlink()
    path.symlink_to(smollm2_path())
    assert ChatKVFork(model_path=str(path)).profile["max_input_tokens"] == 8192


def test_a_profile_of_ones_own_stays(tmp_path):
    llm = ChatKVFork(profile={"max_input_tokens": 7})
    assert llm.profile == llm.model_copy().profile == {"max_input_tokens": 7}
    assert ChatKVFork() == ChatKVFork()


def test_no_weights_are_read():
    # what the process has mapped or read of a file of 98 MB
    program = (
        "import resource\n"
        "from langgraph_kvfork import ChatKVFork\n"
        "from langgraph_kvfork.native import abi\n"
        "import langgraph_kvfork.chat.model\n"
        "abi.native()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert ChatKVFork().profile\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        "from langgraph_kvfork.engine.engine import _alive\n"
        "assert not list(_alive)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # in units of 1 KiB on Linux, of a byte on macOS, where this asserts less
    assert int(done.stdout) < 50_000
