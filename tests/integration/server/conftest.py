"""Real llama-servers, from the same source that our library is built from, with SmolLM2."""

import pytest
from llama_servers import LlamaServer


@pytest.fixture(scope="module", params=["unified", "apart"])
def layout(request):
    """Whether a server's slots share one cache, or have one each."""
    return request.param


@pytest.fixture(scope="module")
def saving(layout, tmp_path_factory):
    """A server that saves slots, and computes a prompt in several batches."""
    folder = tmp_path_factory.mktemp("slots")
    with LlamaServer(layout, "--slot-save-path", f"{folder}/", "--batch-size", "64") as server:
        yield server


@pytest.fixture(scope="module")
def single():
    """A small server that saves nothing."""
    with LlamaServer("apart", slots=4) as server:
        yield server
