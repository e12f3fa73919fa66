"""In batch-invariant mode, sharing changes no text of any graph, bit for bit, sync and async."""

import pytest
from graph_shapes import SHAPES, Runner
from helpers import Recorder

from langgraph_kvfork import ChatKVFork


@pytest.fixture(scope="module")
def llm():
    model = ChatKVFork(batch_invariant=True, n_ctx=8192, temperature=0, max_tokens=4)
    yield model
    model.engine.close()


async def run(shape, llm, *, asynchronous):
    """Return all that is asked and answered in a shape, and how many tokens are forked."""
    recorder = Recorder()
    llm.engine.clear()
    before = llm.engine.stats().forked_tokens
    await shape(Runner(llm, asynchronous, recorder.config()))
    return sorted(recorder.texts), llm.engine.stats().forked_tokens - before


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
async def test_sharing_changes_no_text(llm, shape):
    unshared = llm.model_copy(update={"share_prefix": False})
    expected, n_forked = await run(shape, unshared, asynchronous=True)
    assert n_forked == 0
    for asynchronous in (False, True):
        texts, n_forked = await run(shape, llm, asynchronous=asynchronous)
        assert texts == expected
        assert n_forked > 0 or len(texts) == 1
