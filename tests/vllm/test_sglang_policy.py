"""SGLang's default policy, which shares nothing in flight, as Dynamo's mocker simulates it.

SGLang itself does not run on this processor. The mocker has its scheduler and its cache, and no
model; Dynamo's router counts how much of each prompt the cache had when the request came.
"""

import re

import pytest
from fan_outs import QUESTIONS, nodes, plain, some_document
from vllm_servers import Dynamo

from langgraph_kvfork import ChatKVForkServer

N = len(QUESTIONS)


@pytest.fixture(scope="module")
def dynamo(tmp_path_factory):
    with Dynamo(tmp_path_factory.mktemp("discovery")) as dynamo:
        yield dynamo


class Hits:
    """What requests found in the cache since this was made, in whole prompts."""

    def __init__(self, server):
        self._server = server
        self._before = self._now()

    def _now(self):
        found = re.findall(
            r"^dynamo_component_router_kv_hit_rate_(sum|count)\{.*\} (\S+)$",
            self._server.get("/metrics"),
            re.MULTILINE,
        )
        return {name: float(value) for name, value in found}

    def __getattr__(self, name):
        return self._now().get(name, 0.0) - self._before.get(name, 0.0)


def chat(server, **kwargs):
    # Dynamo's frontend does not say what is behind it
    given = {"server": "sglang", "max_tokens": 4, **kwargs}
    return ChatKVForkServer(base_url=server.url, temperature=0, **given)


async def test_without_help_no_branch_finds_its_prefix(dynamo, document):
    hits = Hits(dynamo)
    llm = chat(dynamo, share_prefix=False)
    await plain(llm).ainvoke({"messages": some_document("without", document)})
    assert hits.count == N
    assert hits.sum < 0.5


@pytest.mark.parametrize("form", ["nodes", "plain graph"])
async def test_after_a_request_of_one_token_each_finds_it(dynamo, document, form):
    hits = Hits(dynamo)
    graph = plain(chat(dynamo)) if form == "plain graph" else nodes(chat(dynamo), ahead=False)
    await graph.ainvoke({"messages": some_document(form, document)})
    assert hits.count == N + 1
    assert hits.sum > 0.9 * N
