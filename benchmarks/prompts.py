"""The prompts: one document of a given length, and a question of its own for every branch."""

from __future__ import annotations

from bisect import bisect_right
from itertools import cycle, islice, product
from pathlib import Path

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from langgraph_kvfork import Engine
from langgraph_kvfork.cli.demo import QUESTIONS
from langgraph_kvfork.convert.messages import to_openai
from langgraph_kvfork.engine.params import EngineParams

TEXT = Path(__file__).parents[1] / "LICENSE"

_FORMS = (
    "",
    "Be brief. ",
    "In one word: ",
    "Quote the text. ",
    "For a child: ",
    "As a lawyer: ",
    "With an example: ",
    "In plain words: ",
)


def questions(count: int, *, skip: int = 0) -> list[str]:
    """Return `count` questions from number `skip` on; the first 64 are all different."""
    every = (form + question for form, question in product(_FORMS, QUESTIONS.values()))
    return list(islice(cycle(every), skip, skip + count))


def messages(document: str, question: str) -> list[BaseMessage]:
    """Return one branch's prompt."""
    return [SystemMessage(f"Answer in one sentence.\n\n{document}"), HumanMessage(question)]


class Prompts:
    """A model's prompts, measured and cut to length by its own tokenizer and chat template."""

    def __init__(self, model_path: str) -> None:
        # the smallest context: nothing is computed here
        self._engine = Engine(EngineParams(model_path, n_ctx=64, n_seq_max=1, n_threads=1))

    def close(self) -> None:
        self._engine.close()

    def tokens(self, document: str, question: str) -> list[int]:
        prompt = self._engine.render(to_openai(messages(document, question)))
        return self._engine.tokenize(prompt)

    def shared(self, document: str) -> int:
        """Count the tokens that all prompts about a document have in common."""
        first, second = self.tokens(document, "Yes."), self.tokens(document, "No.")
        pairs = enumerate(zip(first, second, strict=False))
        return next(i for i, (a, b) in pairs if a != b)

    def document(self, n_tokens: int) -> str:
        """Return the longest document whose prompts have up to `n_tokens` tokens in common."""
        words = list(islice(cycle(TEXT.read_text("utf-8").split()), n_tokens))

        def shared(count: int) -> int:
            return self.shared(" ".join(words[:count]))

        return " ".join(words[: bisect_right(range(n_tokens), n_tokens, key=shared) - 1])
