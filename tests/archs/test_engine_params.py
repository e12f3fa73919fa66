"""What an engine takes from its model where the parameters leave it open."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_archs import SEED, WRITER

from langgraph_kvfork import ChatKVFork
from langgraph_kvfork.engine.model_file import load_model
from langgraph_kvfork.engine.params import EngineParams, context_params
from langgraph_kvfork.native import abi


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a transformer, a recurrent and a hybrid model."""
    folder = tmp_path_factory.mktemp("models")
    command = [WRITER, "-s", SEED, "-a", "^(llama|mamba|jamba)$", "-o", folder]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("arch", "expected"), [("llama", 64), ("mamba", 16), ("jamba", 16)])
def test_models_that_keep_a_state_per_sequence_get_fewer_sequences(
    models: Path, arch: str, expected: int
) -> None:
    native = abi.native()
    path = str(models / f"{arch}-dense.gguf")
    model = load_model(native, EngineParams(path))
    try:
        found = context_params(EngineParams(path), native.llama, model)
        assert found.n_seq_max == expected
        assert context_params(EngineParams(path, n_seq_max=7), native.llama, model).n_seq_max == 7
        assert found.n_ctx == native.llama.llama_model_n_ctx_train(model) > 0
    finally:
        native.llama.llama_model_free(model)


async def test_several_models_run_in_one_process(models: Path) -> None:
    llms = {
        path.stem: ChatKVFork(model_path=str(path), n_ctx=256, max_tokens=4, ignore_eos=True)
        for path in models.glob("*.gguf")
    }
    assert len({id(llm.engine) for llm in llms.values()}) == len(llms) == 4
    for _ in range(3):
        answers = await asyncio.gather(*(llm.ainvoke("Who are you?") for llm in llms.values()))
        assert {answer.usage_metadata["output_tokens"] for answer in answers} == {4}
        assert [a.response_metadata["model_name"] for a in answers] == list(llms)
    for llm in llms.values():
        llm.engine.close()


PROGRAM = """
import resource
from langgraph_kvfork import ChatKVFork, ModelLoadError

with ChatKVFork(n_ctx=256).engine:  # loads all libraries
    pass
size = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmSize" in line)
limit = (size << 10) + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    ChatKVFork(n_ctx=200_000).engine
except ModelLoadError as error:
    print(error)
with ChatKVFork(n_ctx=512, max_tokens=1, temperature=0).engine as engine:
    print(engine.stats().cells_total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it limits memory by Linux's")
def test_a_context_that_memory_cannot_hold_says_how_much_it_asks_for_and_what_to_give() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    error, cells = done.stdout.splitlines()
    # 30 layers x 3 heads x 64 values x 2 bytes, for keys and for values: 4.3 GiB; and the buffers
    assert re.search(r"n_ctx = 200000 asks for about [45]\.\d GiB", error)
    assert "pass n_ctx = 99840 or less" in error
    assert "failed to allocate" in error
    assert cells == "512"
