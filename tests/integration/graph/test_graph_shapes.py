"""Every shape of graph that people build shares what its prompts imply, sync and async.

Bounds are computed from the rendered prompts alone: at least their token trie, less what had been
generated before; at most each superstep's common prefix once and the rest of each prompt, less what
prompts of earlier supersteps left.
"""

import os.path

import graph_shapes
import pytest
from graph_shapes import Runner, question
from helpers import Recorder, prompt_tokens

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@pytest.fixture(scope="session")
def llm(llm):
    return llm.model_copy(update={"max_tokens": 4})


class Count:
    """What the engine computed since it was made, against bounds from the prompts."""

    def __init__(self, engine):
        self.engine = engine
        self.before = engine.stats()
        self.recorder = Recorder()

    def runner(self, llm, asynchronous):
        return Runner(llm, asynchronous, self.recorder.config())

    def counted(self, name):
        return getattr(self.engine.stats(), name) - getattr(self.before, name)

    def check(self, *sizes):
        """Check the bounds of supersteps with so many calls each."""
        prompts = [tuple(prompt_tokens(self.engine, m)) for m in self.recorder.prompts]
        assert len(prompts) == sum(sizes)
        trie = {p[:i] for p in prompts for i in range(1, len(p) + 1)}
        prefilled = self.counted("prefilled_tokens")
        assert self.counted("preemptions") == self.counted("evictions") == 0
        assert len(trie) - self.counted("generated_tokens") <= prefilled <= most(prompts, sizes)
        assert prefilled + self.counted("forked_tokens") == sum(map(len, prompts))
        # the bound says something: it is far from what it costs to share nothing
        assert len(prompts) == 1 or most(prompts, sizes) < sum(map(len, prompts))


def most(prompts, sizes):
    total, earlier = 0, []
    for size in sizes:
        step = prompts[len(earlier) : len(earlier) + size]
        common = len(os.path.commonprefix(step))
        known = [max((len(os.path.commonprefix([p, e])) for e in earlier), default=0) for p in step]
        total += max(common - max(known), 0)
        # the last token of a prompt is always computed, for its logits
        total += sum(max(len(p) - max(common, k), 1) for p, k in zip(step, known, strict=True))
        earlier += step
    return total


@both
async def test_a_static_fan_out(llm, engine, asynchronous):
    count = Count(engine)
    result = await graph_shapes.static_fan_out(count.runner(llm, asynchronous))
    assert len(result["answers"]) == 4
    count.check(4, 1)


@both
async def test_send_map_reduce_of_32(llm, engine, asynchronous):
    count = Count(engine)
    result = await graph_shapes.send_map_reduce_of_32(count.runner(llm, asynchronous))
    assert len(result["answers"]) == 32
    count.check(32, 1)


@both
async def test_two_levels_of_subgraphs_that_fan_out(llm, engine, asynchronous):
    count = Count(engine)
    runner = count.runner(llm, asynchronous)
    result = await graph_shapes.two_levels_of_subgraphs_that_fan_out(runner)
    # a subgraph returns all of its state, so the lists of those within are added up on the way
    assert len(result["answers"]) >= 8
    count.check(8)


@both
async def test_an_entrypoint_and_its_tasks(llm, engine, asynchronous):
    count = Count(engine)
    assert await graph_shapes.an_entrypoint_and_its_tasks(count.runner(llm, asynchronous))
    count.check(4, 1)


@both
async def test_a_supervisor_with_parallel_sub_agents(llm, engine, asynchronous):
    count = Count(engine)
    runner = count.runner(llm, asynchronous)
    result = await graph_shapes.a_supervisor_with_parallel_sub_agents(runner)
    assert len(result["answers"]) == 4
    count.check(1, 2, 1)


@both
async def test_three_rounds_of_debate(llm, engine, asynchronous):
    count = Count(engine)
    result = await graph_shapes.three_rounds_of_debate(count.runner(llm, asynchronous))
    assert len(result["answers"]) == 9
    count.check(3, 3, 3)


@both
async def test_best_of_eight(llm, engine, asynchronous):
    count = Count(engine)
    result = await graph_shapes.best_of_eight(count.runner(llm, asynchronous))
    assert len(result["branches"]) == 8
    count.check(8, 1)


@both
async def test_interrupted_and_resumed_in_another_invocation(llm, engine, asynchronous):
    count = Count(engine)
    runner = count.runner(llm, asynchronous)
    shape = graph_shapes.interrupted_and_resumed_in_another_invocation
    paused, resumed = await shape(runner)
    assert "summary" not in paused
    assert "summary" in resumed
    # the call before the interrupt comes again, and costs one token
    count.check(2, 1, 1, 1)


@both
async def test_time_travel_and_a_fork_of_the_past(llm, engine, asynchronous):
    count = Count(engine)
    runner = count.runner(llm, asynchronous)
    result = await graph_shapes.time_travel_and_a_fork_of_the_past(runner)
    assert result["answers"][-1] == "And a third thing."
    count.check(2, 1, 1, 1)


@both
async def test_a_retried_node_costs_one_token(llm, engine, asynchronous):
    count = Count(engine)
    await graph_shapes.a_retried_node(count.runner(llm, asynchronous))
    count.check(1, 1)
    length = len(prompt_tokens(engine, question("What broke?")(None)))
    assert count.counted("prefilled_tokens") == length + 1


@both
async def test_a_cached_node_computes_nothing(llm, engine, asynchronous):
    count = Count(engine)
    first, second = await graph_shapes.a_cached_node(count.runner(llm, asynchronous))
    assert first == second
    count.check(1)
