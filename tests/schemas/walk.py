"""Answers of a model with random weights: walks through a grammar, with a vocabulary only.

Run as a program, it counts, over JSON Schema's own test suite, which schemas a grammar holds:
`python tests/schemas/walk.py`.
"""

import collections
import ctypes
import functools
import json
import math
import random
import sys
import warnings
from pathlib import Path

from langgraph_kvfork import InvalidRequestError
from langgraph_kvfork.chat.structured_output import json_schema
from langgraph_kvfork.engine.chat_template import ChatTemplate
from langgraph_kvfork.native import abi
from langgraph_kvfork.schema.check import parse_json, schema_check
from langgraph_kvfork.schema.held import held_answer, joined_rules

VOCABULARY = Path(__file__).parents[2] / "build/llama.cpp/models/ggml-vocab-qwen2.gguf"
# of draft 2020-12: the schemas that have valid instances, and these; see LICENSE beside it
SUITE = json.loads(Path(__file__).with_name("suite.json").read_text(encoding="utf-8"))
CHARACTERS = [chr(code) for code in range(0x20, 0x7F)] + ["\n", "é", "π", "ß"]
# brackets and quotes often, so that most walks end
WEIGHTS = {'"': 12.0, "}": 12.0, "]": 12.0, " ": 0.3, "\n": 0.3, "\\": 0.3, "": 60.0}
MOST = 300


@functools.cache
def native():
    return abi.native()


@functools.cache
def model():
    llama = native().llama
    llama.llama_backend_init()
    native().kvf.kvf_set_log_level(0)
    params = llama.llama_model_default_params()
    params.vocab_only = True
    loaded = llama.llama_model_load_from_file(str(VOCABULARY).encode(), params)
    assert loaded
    return loaded


@functools.cache
def tokens():
    """Tokens of one character each, and the one that ends an answer, as \"\"."""
    llama = native().llama
    vocab = llama.llama_model_get_vocab(model())
    found = {llama.llama_vocab_eos(vocab): ""}
    for character in CHARACTERS:
        data = character.encode()
        room = (llama.llama_token * 8)()
        count = llama.llama_tokenize(vocab, data, len(data), room, 8, False, False)
        if count == 1:
            found[room[0]] = character
    return found


@functools.cache
def template():
    return ChatTemplate(native(), model(), "chatml")


class Grammar:
    """A grammar, and how far a text has come in it."""

    def __init__(self, text):
        self._llama = native().llama
        vocab = self._llama.llama_model_get_vocab(model())
        self._sampler = self._llama.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        if not self._sampler:
            raise InvalidRequestError("the grammar does not parse")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._llama.llama_sampler_free(self._sampler)

    def allowed(self):
        llama = self._llama
        candidates = [llama.llama_token_data(token, 0.0, 0.0) for token in tokens()]
        array = (llama.llama_token_data * len(candidates))(*candidates)
        data = llama.llama_token_data_array(array, len(candidates), -1, False)
        llama.llama_sampler_apply(self._sampler, ctypes.byref(data))
        return [candidate.id for candidate in array if candidate.logit != -math.inf]

    def accept(self, token):
        self._llama.llama_sampler_accept(self._sampler, token)


def walked(grammar, dice):
    """Return a text that follows a grammar, and whether it has come to its end."""
    text = ""
    with Grammar(grammar) as walk:
        while len(text) < MOST:
            allowed = walk.allowed()
            if not allowed:
                return text, False
            names = [tokens()[token] for token in allowed]
            token = dice.choices(allowed, [WEIGHTS.get(name, 1.0) for name in names])[0]
            if not tokens()[token]:
                return text, True
            walk.accept(token)
            text += tokens()[token]
    return text, False


def answers(rendered, count, seed):
    """Return what is whole of `count` answers."""
    start = json.loads(rendered.answer_format)["generation_prompt"]
    dice = random.Random(seed)
    # the grammar begins with the end of the prompt, which is written at once
    walks = (walked(rendered.grammar, dice) for _ in range(count))
    return [text.removeprefix(start) for text, whole in walks if whole]


def held(schema):
    """Return what is rendered for a schema, and what its grammar does not hold."""
    converted = json_schema(schema) if schema else {"title": "answer"}
    parts = held_answer(converted)
    rules = joined_rules([parts])
    options = {"rules": rules} if rules else {}
    return render(parts.schemas[0], **options), parts.dropped


def render(schema, **options):
    messages = [{"role": "user", "content": "x"}]
    return template().render(messages, json_schema=schema, **options)


def is_valid(text, schema):
    try:
        value = parse_json(text)
    except ValueError:
        return False
    return schema_check(schema)(value) is None


def counted(find, count=20):
    """Return how many schemas are held by construction, left to the check, and refused.

    Args:
        find: Returns what is rendered for a schema, and what of it is not held; None: unknown.
        count: How many answers to give for each.
    """
    kinds = collections.Counter()
    for case in SUITE:
        try:
            rendered, dropped = find(case["schema"])
            texts = answers(rendered, count, case["name"])
            good = sum(is_valid(text, case["schema"]) for text in texts)
        except InvalidRequestError:
            kinds["refused"] += 1
            continue
        if dropped is not None:
            kinds["left to the check" if dropped else "held by construction"] += 1
        kinds["all answers valid" if good == len(texts) else "some answers not"] += 1
        kinds["wrong"] += dropped == () and good < len(texts)
    return dict(kinds)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(f"{len(SUITE)} schemas", file=sys.stderr)
    print("here:", counted(held))
    print("llama.cpp's converter:", counted(lambda schema: (render(schema), None)))
