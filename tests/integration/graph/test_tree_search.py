"""A round of a tree search computes what is new in it, and nothing else."""

import pytest
from helpers import call, prompt_tokens
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda

from langgraph_kvfork import ForkReport, TreeSearchNode

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
N, WIDTH, DEPTH, TOKENS = 3, 2, 3, 6


class Rounds(BaseCallbackHandler):
    """Keeps the prompts, and what the engine had prefilled when a fan-out ended."""

    run_inline = True

    def __init__(self, engine):
        self.engine = engine
        self.prompts = []
        self.prefilled = [engine.stats().prefilled_tokens]

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.prompts += messages

    def on_chain_start(self, serialized, inputs, *, run_id, **kwargs):
        # a round's answers are there when the first of them is scored
        if kwargs.get("name") == "branch:score 0":
            self.prefilled.append(self.engine.stats().prefilled_tokens)


@both
async def test_a_round_costs_what_is_said_between_two_answers(llm, engine, excerpt, asynchronous):
    root = [*excerpt, HumanMessage("Guess a number.")]
    # a digit is a token, so an answer has the tokens that were sampled; and no answer ends early
    model = llm.bind(temperature=2, seed=1, max_tokens=TOKENS, grammar="root ::= [0-9]{9}")
    node = TreeSearchNode(
        model, lambda path: int(path[-1].text), n=N, beam_width=WIDTH, depth=DEPTH
    )
    rounds = Rounds(engine)
    await call(node, {"messages": root}, {"callbacks": [rounds]}, asynchronous=asynchronous)
    assert len(rounds.prompts) == N + 2 * WIDTH * N
    first, *later = [b - a for a, b in zip(rounds.prefilled, rounds.prefilled[1:], strict=False)]
    length = len(prompt_tokens(engine, root))
    # the last token of a prompt is always computed: its logits are what a text begins with
    assert first == length + N - 1
    # "Go on." and the frame around it; the last token of an answer was never decoded
    answered = len(prompt_tokens(engine, rounds.prompts[N])) - length
    said = answered - TOKENS + 1
    assert later == [WIDTH * (said + N - 1)] * (DEPTH - 1)


async def test_a_model_that_judges_forks_what_it_judges(llm, engine, excerpt):
    def judgement(path):
        return [*path, HumanMessage("Is this good? Answer with a digit.")]

    digits = llm.bind(grammar="root ::= [0-9]", temperature=0)
    judge = RunnableLambda(judgement) | digits | (lambda answer: float(answer.text))
    model = llm.bind(temperature=1, seed=1, max_tokens=TOKENS, ignore_eos=True)
    node = TreeSearchNode(model, judge, n=N, depth=1, beam_width=N)
    with ForkReport() as report:
        root = [*excerpt, HumanMessage("Write a story about a fox.")]
        paths = (await node.ainvoke({"messages": root}))["paths"]
    assert [path["score"] for path in paths] == sorted((p["score"] for p in paths), reverse=True)
    answers, judgements = report.calls[:N], report.calls[N:]
    assert {c.parent_id for c in judgements} == {c.branch_id for c in answers}
